//! Images with other inits than systemd, and with none.

use end_to_end::{Lab, World, eventually};

crate::tests![
    busybox_init,
    sysvinit,
    no_init_in_a_debian,
    no_init_system_behind_busybox,
    power_off_and_reboot_from_inside,
];

fn busybox_init(lab: &Lab) {
    let world = World::of_user();
    let user = world.user().unwrap();
    world.create(&lab.image("busybox:1"), "tiny", &[]);
    assert_eq!(
        world.inside("tiny", "id -un; pwd"),
        format!("{}\n{}\n", user.name, world.home().display())
    );
    assert_eq!(world.inside("tiny", "cat /proc/1/comm"), "init\n");
    assert_eq!(world.inspect("tiny")["init"], "/bin/busybox");
    eventually_logged(&world, "the machine starts");
    world.stdout(&["stop", "tiny"]);
    assert!(world.inspect("tiny").get("init").is_none());
    assert!(
        world
            .stdout(&["logs", "tiny"])
            .contains("the machine stops"),
        "the stop was in order"
    );
    world.check_disk("tiny");
}

fn sysvinit(lab: &Lab) {
    let world = World::of_root();
    world.create(&lab.image("debian-sysvinit:12"), "classic", &[]);
    assert_eq!(
        world.inside("classic", "cat /proc/1/comm; id -un"),
        "init\nroot\n"
    );
    world.inside("classic", "echo kept > /kept");
    world.stdout(&["stop", "classic"]);
    let boot_log = world.stdout(&["logs", "--boot", "classic"]);
    assert!(
        !boot_log.contains("is killed"),
        "the stop was in order: {boot_log}"
    );
    world.check_disk("classic");
    assert_eq!(world.inside("classic", "cat /kept"), "kept\n");
}

/// The image of an application, as most are.
fn no_init_in_a_debian(lab: &Lab) {
    let world = World::of_user();
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
    ]);
    assert_eq!((created.code, &*created.stdout), (Some(0), "plain\n"));
    let told = created
        .stderr
        .lines()
        .filter(|line| line.contains("no init system"));
    assert_eq!(told.count(), 1, "{created:?}");
    assert_eq!(world.inspect("plain")["init"], "built-in");
    assert_eq!(world.inside("plain", "id -un"), format!("{}\n", user.name));
    assert_eq!(
        world.inside("plain", "cat /proc/1/comm"),
        "container-init\n"
    );

    world.inside("plain", "(sleep 0.2 & exec sleep 0.1) & sleep 1");
    let zombies = world.inside("plain", "ps -e -o stat= | grep -c Z || true");
    assert_eq!(zombies, "0\n", "orphans are collected");
    world.stdout(&["run", "-d", "-n", "plain", "sleep 1000"]);
    let line = "trap 'echo ended in order > ~/ended; exit' TERM; touch ~/ready; while :; do sleep 0.1; done";
    world.stdout(&["run", "-d", "-n", "plain", line]);
    eventually("it can be told to end", || {
        world.home().join("ready").exists()
    });
    let stopped = world.run(&["stop", "plain"]);
    assert_eq!(stopped.code, Some(0), "{stopped:?}");
    let ended = std::fs::read_to_string(world.home().join("ended"));
    assert_eq!(ended.unwrap(), "ended in order\n");
    let boot_log = world.stdout(&["logs", "--boot", "plain"]);
    assert!(!boot_log.contains("agent:"), "{boot_log}");
    assert!(
        world
            .stdout(&["logs", "plain"])
            .contains("the machine ends")
    );
    world.check_disk("plain");
    let again = world.run(&["run", "-n", "plain", "echo again"]);
    assert_eq!((&*again.stdout, &*again.stderr), ("again\n", ""));
}

/// As in an Alpine: `/sbin/init` is there, and what its inittab starts is not.
fn no_init_system_behind_busybox(lab: &Lab) {
    let world = World::of_root();
    world.create(&lab.image("busybox-plain:1"), "plain", &[]);
    assert_eq!(world.inspect("plain")["init"], "built-in");
    let boot = || world.inspect("plain")["containerId"].clone();
    let line = "cat /proc/sys/kernel/random/boot_id";
    let before = world.inside("plain", line);
    assert!(!boot().is_null());
    // The shell may be told to end before it has.
    world.run(&["run", "-n", "plain", "echo kept > /kept; reboot"]);
    let other = || {
        let outcome = world.run(&["run", "-n", "plain", line]);
        outcome.code == Some(0) && outcome.stdout != before
    };
    eventually("it is up again", other);
    assert_eq!(world.inside("plain", "cat /kept"), "kept\n");
    world.run(&["run", "-n", "plain", "poweroff"]);
    eventually("it is off", || world.is_stopped("plain"));
    world.check_disk("plain");
}

fn power_off_and_reboot_from_inside(lab: &Lab) {
    let world = World::of_user();
    world.create(&lab.image("debian-systemd:12"), "dev", &[]);
    let line = "cat /proc/sys/kernel/random/boot_id";
    let before = world.inside("dev", line);
    world.run(&["run", "-n", "dev", "sudo reboot"]);
    let other = || {
        let outcome = world.run(&["run", "-n", "dev", line]);
        outcome.code == Some(0) && outcome.stdout != before
    };
    eventually("it is up again", other);
    world.run(&["run", "-n", "dev", "sudo poweroff"]);
    eventually("it is off", || world.is_stopped("dev"));
    for gone in ["startedDate", "containerId", "ipAddress", "init"] {
        assert!(world.inspect("dev").get(gone).is_none(), "{gone}");
    }
    eventually("nothing of it runs", || {
        world.engines().is_empty() && world.processes("runtime").is_empty()
    });
    world.check_disk("dev");
}

fn eventually_logged(world: &World, words: &str) {
    eventually(words, || world.stdout(&["logs", "tiny"]).contains(words));
}
