//! The first command after a start: nothing that it writes is removed or hidden by the boot.

use std::process::Stdio;

use end_to_end::{Lab, World, debian_kernel, eventually};

crate::declare::tests![
    systemd_keeps_files_of_the_first_command,
    sysvinit_keeps_files_of_the_first_command,
    busybox_init_keeps_files_of_the_first_command,
    built_in_init_keeps_files_of_the_first_command,
];

/// Directories that a boot mounts or empties.
const DIRECTORIES: &str = "/tmp /var/tmp /run /dev/shm $XDG_RUNTIME_DIR";

/// Boots a stopped machine by a command that writes files, and checks that they exist after the
/// boot. `booted` is a line that succeeds when the boot is complete.
fn assert_files_are_kept(world: &World, machine: &str, booted: &str) {
    world.stdout(&["stop", machine]);
    let written = format!(
        "for d in {DIRECTORIES}; do echo $d > $d/early; done 2> /dev/null; echo $XDG_RUNTIME_DIR"
    );
    let as_root = world.user().is_none();
    let directory = world.inside(machine, &written);
    let uid = world.user().map_or(0, |user| user.uid);
    assert_eq!(directory, format!("/run/user/{uid}\n"));
    eventually("the boot is complete", || {
        world.run(&["run", "-n", machine, booted]).code == Some(0)
    });
    let kept = world.inside(
        machine,
        &format!("for d in {DIRECTORIES}; do cat $d/early; done 2> /dev/null; true"),
    );
    let run = if as_root { "/run\n" } else { "" };
    assert_eq!(
        kept,
        format!("/tmp\n/var/tmp\n{run}/dev/shm\n/run/user/{uid}\n")
    );
    let about = world.inside(machine, "stat -c '%a %u' $XDG_RUNTIME_DIR");
    assert_eq!(about, format!("700 {uid}\n"));
}

fn systemd_keeps_files_of_the_first_command(lab: &Lab) {
    let world = World::for_user();
    world.create(&lab.image("debian-systemd:12"), "dev", &[]);
    // A unit that holds up early boot, and a file system over /tmp.
    let prepared = "sudo ln -s /usr/share/systemd/tmp.mount /etc/systemd/system/; \
                    sudo systemctl enable -q tmp.mount; \
                    printf '[Unit]\\nDefaultDependencies=no\\nBefore=sysinit.target\\n\
                    ConditionPathExists=/held\\n[Service]\\nType=oneshot\\n\
                    ExecStart=sh -c \"while test -e /held; do sleep 0.1; done\"\\n\
                    [Install]\\nWantedBy=sysinit.target\\n' \
                    | sudo tee /etc/systemd/system/hold.service > /dev/null; \
                    sudo systemctl enable -q hold";
    world.inside("dev", prepared);
    // A service that takes longer than the rest of the boot.
    let slow = "printf '[Service]\\nType=oneshot\\nExecStart=sleep 5\\n\
                ExecStart=touch /run/slow\\n[Install]\\nWantedBy=multi-user.target\\n' \
                | sudo tee /etc/systemd/system/slow.service > /dev/null; \
                sudo systemctl enable -q slow";
    world.inside("dev", slow);
    let booted = "systemctl is-system-running --wait";
    assert_files_are_kept(&world, "dev", booted);

    world.stdout(&["stop", "dev"]);
    world.stdout(&["run", "-n", "dev", "--wait-boot", "test -e /run/slow"]);
    world.inside("dev", "sudo touch /held");
    world.stdout(&["stop", "dev"]);
    let mut waiting = world.machine(&["run", "-n", "dev", "echo x > /tmp/waited; echo done"]);
    let waiting = waiting.stdout(Stdio::piped()).spawn().unwrap();
    // It enters although the boot is held up.
    let early = ["run", "-n", "dev", "--no-wait", "--root"];
    world.stdout(
        &[
            &early[..],
            &["test -e /held; test ! -e /run/container/boot-settled"],
        ]
        .concat(),
    );
    // Also with -w, which names a directory of the machine's and not one below its mounts.
    world.stdout(&[&early[..], &["rm /held"]].concat());
    let output = waiting.wait_with_output().unwrap();
    assert_eq!(output.stdout, b"done\n");
    world.inside("dev", booted);
    let in_tmp = world.stdout(&[
        "run",
        "-n",
        "dev",
        "-w",
        "/tmp",
        "findmnt -no FSTYPE -T .; ls",
    ]);
    assert!(in_tmp.starts_with("tmpfs\n"), "{in_tmp}");
    assert!(in_tmp.contains("\nwaited\n"), "{in_tmp}");
}

fn sysvinit_keeps_files_of_the_first_command(lab: &Lab) {
    let world = World::for_root();
    let image = lab.image("debian-sysvinit:12");
    world.create(&image, "classic", &["--kernel", &debian_kernel()]);
    world.inside("classic", "touch /tmp/of-last-boot /tmp/other");
    let booted = "grep -q 'init \\[2\\]' /proc/1/cmdline";
    assert_files_are_kept(&world, "classic", booted);
    world.stdout(&[
        "run",
        "-n",
        "classic",
        "--wait-boot",
        "! grep -qs 'init.d/[r]c' /proc/[0-9]*/cmdline",
    ]);
    // The boot does empty the directory.
    world.inside("classic", "test ! -e /tmp/of-last-boot");
}

fn busybox_init_keeps_files_of_the_first_command(lab: &Lab) {
    let world = World::for_user();
    world.create(&lab.image("busybox:1"), "tiny", &[]);
    let prepared = "mkdir -p /etc/init.d /var/tmp; chmod 1777 /var/tmp; \
                    printf '#!/bin/sh\\nsleep 3\\nmount -t tmpfs -o mode=1777 none /tmp\\n\
                    rm -rf /var/tmp/* /run/early\\n' > /etc/init.d/rcS; \
                    chmod 755 /etc/init.d/rcS; \
                    printf '#!/bin/sh\\nsleep 3\\ntouch /run/slow\\n' > /etc/init.d/slow; \
                    chmod 755 /etc/init.d/slow; \
                    printf '::sysinit:/bin/true\\n::sysinit:/etc/init.d/rcS\\n\
                    ::wait:/etc/init.d/slow\\n::respawn:/bin/sleep 1000000\\n' > /etc/inittab";
    world.stdout(&["run", "-n", "tiny", "--root", prepared]);
    assert_files_are_kept(&world, "tiny", "mount | grep -q 'on /tmp type tmpfs'");
    world.stdout(&["stop", "tiny"]);
    world.stdout(&["run", "-n", "tiny", "--wait-boot", "test -e /run/slow"]);
}

fn built_in_init_keeps_files_of_the_first_command(lab: &Lab) {
    let world = World::for_user();
    let image = lab.image("busybox-plain:1");
    world.create(&image, "plain", &["--kernel", &debian_kernel()]);
    let prepared = "mkdir -p /var/tmp; chmod 1777 /var/tmp";
    world.stdout(&["run", "-n", "plain", "--root", prepared]);
    assert_files_are_kept(&world, "plain", "test -d /run/lock");
}
