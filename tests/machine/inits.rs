//! Images with an init other than systemd, and without any.

use end_to_end::{Lab, World, debian_kernel, eventually};

use crate::system;

crate::declare::tests![
    busybox_init_boots_and_shuts_down,
    sysvinit_boots_and_shuts_down,
    debian_without_init_gets_built_in_init,
    busybox_without_init_system_gets_built_in_init,
    guest_can_power_off_and_reboot,
];

fn busybox_init_boots_and_shuts_down(lab: &Lab) {
    let world = World::for_user();
    let user = world.user().unwrap();
    world.create(&lab.image("busybox:1"), "tiny", &[]);
    assert_eq!(
        world.inside("tiny", "id -un; pwd"),
        format!("{}\n{}\n", user.name, world.home().display())
    );
    assert_eq!(world.inside("tiny", "cat /proc/1/comm"), "init\n");
    assert_eq!(world.inspect("tiny")["init"], "/bin/busybox");
    system::check(&world, "tiny");
    wait_for_log(&world, "the machine starts");
    // Init is waited for while it runs programs.
    let action = "::shutdown:/bin/sh -c \"sleep 3; echo done > /after\"";
    let add = format!("echo '{action}' >> /etc/inittab");
    world.stdout(&["run", "-n", "tiny", "-u", "root", &add]);
    world.stdout(&["restart", "tiny"]);
    world.stdout(&["stop", "tiny"]);
    assert!(world.inspect("tiny").get("init").is_none());
    assert!(
        world
            .stdout(&["logs", "tiny"])
            .contains("the machine stops"),
        "init has shut down"
    );
    world.check_disk("tiny");
    assert_eq!(world.inside("tiny", "cat /after"), "done\n");
}

fn sysvinit_boots_and_shuts_down(lab: &Lab) {
    let world = World::for_root();
    let image = lab.image("debian-sysvinit:12");
    world.create(&image, "classic", &["--kernel", &debian_kernel()]);
    assert_eq!(
        world.inside("classic", "cat /proc/1/comm; id -un"),
        "init\nroot\n"
    );
    let limits = world.inside("classic", "ulimit -Sn; ulimit -Hn");
    assert_eq!(limits, "1024\n1048576\n");
    world.inside("classic", "echo kept > /kept");
    system::check(&world, "classic");
    // The machine's own setting wins.
    world.inside(
        "classic",
        "mkdir -p /etc/sysctl.d; echo vm.max_map_count = 300000 > /etc/sysctl.d/mine.conf",
    );
    world.stdout(&["stop", "classic"]);
    let boot_log = world.stdout(&["logs", "--boot", "classic"]);
    assert!(
        !boot_log.contains("is killed"),
        "init has shut down: {boot_log}"
    );
    world.check_disk("classic");
    assert_eq!(
        world.inside("classic", "cat /kept /proc/sys/vm/max_map_count"),
        "kept\n300000\n"
    );
}

/// Most images contain an application and no init.
fn debian_without_init_gets_built_in_init(lab: &Lab) {
    let world = World::for_user();
    let user = world.user().unwrap();
    let created = world.run(&[
        "create",
        &lab.image("debian-plain:12"),
        "--name",
        "plain",
        "--cpus",
        "2",
        "--memory",
        "1G",
        "--kernel",
        &debian_kernel(),
    ]);
    assert_eq!((created.code, &*created.stdout), (Some(0), "plain\n"));
    let notes = created
        .stderr
        .lines()
        .filter(|line| line.contains("no init system"));
    assert_eq!(notes.count(), 1, "{created:?}");
    assert_eq!(world.inspect("plain")["init"], "built-in");
    system::step_clock(&world, "plain");
    system::check(&world, "plain");
    assert_eq!(world.inside("plain", "id -un"), format!("{}\n", user.name));
    assert_eq!(
        world.inside("plain", "cat /proc/1/comm"),
        "container-init\n"
    );

    world.inside("plain", "(sleep 0.2 & exec sleep 0.1) & sleep 1");
    let zombies = world.inside("plain", "ps -e -o stat= | grep -c Z || true");
    assert_eq!(zombies, "0\n", "orphans are reaped");
    world.stdout(&["run", "-d", "-n", "plain", "sleep 1000"]);
    let line = "trap 'echo ended in order > ~/ended; exit' TERM; touch ~/ready; while :; do sleep 0.1; done";
    world.stdout(&["run", "-d", "-n", "plain", line]);
    eventually("the signal handler is installed", || {
        world.home().join("ready").exists()
    });
    system::await_clock(&world, "plain");
    let stopped = world.run(&["stop", "plain"]);
    assert_eq!(stopped.code, Some(0), "{stopped:?}");
    let ended = std::fs::read_to_string(world.home().join("ended"));
    assert_eq!(ended.unwrap(), "ended in order\n");
    let boot_log = world.stdout(&["logs", "--boot", "plain"]);
    assert!(!boot_log.contains("agent:"), "{boot_log}");
    assert!(
        world
            .stdout(&["logs", "plain"])
            .contains("the machine is shutting down")
    );
    world.check_disk("plain");
    let again = world.run(&["run", "-n", "plain", "echo again"]);
    assert_eq!((&*again.stdout, &*again.stderr), ("again\n", ""));
}

/// As in Alpine's application images: `/sbin/init` exists, but the programs of its inittab do not.
fn busybox_without_init_system_gets_built_in_init(lab: &Lab) {
    let world = World::for_root();
    world.create(&lab.image("busybox-plain:1"), "plain", &[]);
    assert_eq!(world.inspect("plain")["init"], "built-in");
    let boot = || world.inspect("plain")["containerId"].clone();
    let line = "cat /proc/sys/kernel/random/boot_id";
    let before = world.inside("plain", line);
    assert!(!boot().is_null());
    // The reboot may end the shell before it exits.
    world.run(&["run", "-n", "plain", "echo kept > /kept; reboot"]);
    let other = || {
        let outcome = world.run(&["run", "-n", "plain", line]);
        outcome.code == Some(0) && outcome.stdout != before
    };
    eventually("the machine has rebooted", other);
    assert_eq!(world.inside("plain", "cat /kept"), "kept\n");
    world.run(&["run", "-n", "plain", "poweroff"]);
    eventually("the machine is stopped", || world.is_stopped("plain"));
    world.check_disk("plain");
}

fn guest_can_power_off_and_reboot(lab: &Lab) {
    let world = World::for_user();
    world.create(&lab.image("debian-systemd:12"), "dev", &[]);
    let settings = "sudo sh -c 'mkdir -p /etc/systemd/system.conf.d; printf \"[Manager]\\nDefaultLimitNOFILE=2048:600000\\nDefaultLimitMEMLOCK=16M\\n\" > /etc/systemd/system.conf.d/limits.conf'";
    world.inside("dev", settings);
    let limits = world.inside("dev", "ulimit -Sn; ulimit -Hn; ulimit -l");
    assert_eq!(limits, "2048\n600000\n16384\n", "systemd's defaults apply");
    let line = "cat /proc/sys/kernel/random/boot_id";
    let before = world.inside("dev", line);
    world.run(&["run", "-n", "dev", "sudo reboot"]);
    let other = || {
        let outcome = world.run(&["run", "-n", "dev", line]);
        outcome.code == Some(0) && outcome.stdout != before
    };
    eventually("the machine has rebooted", other);
    world.run(&["run", "-n", "dev", "sudo poweroff"]);
    eventually("the machine is stopped", || world.is_stopped("dev"));
    for gone in ["startedDate", "containerId", "ipAddress", "init"] {
        assert!(world.inspect("dev").get(gone).is_none(), "{gone}");
    }
    eventually("no process of the machine is left", || {
        world.engines().is_empty() && world.processes("runtime").is_empty()
    });
    world.check_disk("dev");
}

fn wait_for_log(world: &World, words: &str) {
    eventually(words, || world.stdout(&["logs", "tiny"]).contains(words));
}
