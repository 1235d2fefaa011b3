//! Updates of the program while machines run and are suspended: from an earlier build to this one,
//! and back.

use std::{env, fs, path::Path, process::Command};

use end_to_end::{Lab, Outcome, World, eventually};

/// Slow tests, which only `make test-upgrade` runs.
pub(crate) const LONG: &[crate::declare::Test] = &[(
    "upgrade::machines_outlive_updates",
    machines_outlive_updates,
)];

/// Replaces the world's program and its files, as a package manager does.
fn install(world: &World, installation: &Path) {
    let copied = Command::new("cp")
        .args(["--archive", "--link", "--remove-destination"])
        .arg(installation.join("."))
        .arg(world.path("usr"))
        .status();
    assert!(copied.unwrap().success());
}

fn machines_outlive_updates(lab: &Lab) {
    let Some(previous) = env::var_os("PREVIOUS") else {
        panic!("PREVIOUS is not the prefix of another installation: use `make test-upgrade`");
    };
    for world in [World::for_user(), World::for_root()] {
        let this = world.path("this");
        let copied = Command::new("cp")
            .args(["--archive", "--link"])
            .args([&world.path("usr"), &this])
            .status();
        assert!(copied.unwrap().success());
        update(lab, &world, previous.as_ref(), &this);
        update(lab, &world, &this, previous.as_ref());
    }
}

/// Uses machines that were made before an update after it.
fn update(lab: &Lab, world: &World, before: &Path, after: &Path) {
    install(world, before);
    let (busybox, debian) = (lab.image("busybox:1"), lab.image("debian-systemd:12"));
    let port = xtask::ports::unused_address().unwrap().port();
    let publish = format!("{port}:8080");
    world.create(&busybox, "running", &["--publish", &publish]);
    world.create(&debian, "debian", &[]);
    world.create(&busybox, "asleep", &[]);
    world.create(&busybox, "stopped", &["--no-boot"]);
    for machine in ["running", "debian", "asleep"] {
        world.inside(machine, "echo before > ~/written-in-$(hostname)");
        world.stdout(&["run", "--root", "-n", machine, "echo before > /kept"]);
    }
    world.stdout(&["snapshot", "create", "-n", "stopped", "first"]);
    let count = "n=0; while sleep 1; do n=$((n + 1)); echo $n > /tmp/count; done";
    world.stdout(&["run", "-d", "-n", "running", count]);
    world.stdout(&["suspend", "asleep"]);
    let boot_id = |machine: &str| world.inside(machine, "cat /proc/sys/kernel/random/boot_id");
    let boots = ["running", "debian"].map(boot_id);

    install(world, after);
    // No command says that a machine is to be removed.
    let succeeds = |arguments: &[&str]| {
        let outcome: Outcome = world.run(arguments);
        assert_eq!(outcome.code, Some(0), "{arguments:?}: {outcome:?}");
        assert!(!outcome.stderr.contains("machine rm"), "{outcome:?}");
        outcome.stdout
    };
    let listed = succeeds(&["ls", "--format", "{{ id }} {{ status }}"]);
    for line in [
        "running running",
        "debian running",
        "asleep suspended",
        "stopped stopped",
    ] {
        assert!(listed.lines().any(|it| it == line), "{listed}");
    }
    assert_eq!(["running", "debian"].map(boot_id), boots);
    let counted = || -> u64 {
        let count = world.inside("running", "cat /tmp/count");
        count.trim().parse().unwrap()
    };
    let seen = counted();
    eventually("its service still runs", || counted() > seen);
    fs::write(world.path("home-made"), "from the host").unwrap();
    let file = world.path("home-made").display().to_string();
    succeeds(&["cp", &file, "debian:/tmp/copied"]);
    assert_eq!(world.inside("debian", "cat /tmp/copied"), "from the host");
    assert!(succeeds(&["logs", "--boot", "debian"]).contains("Linux version"));
    assert!(succeeds(&["port", "running"]).contains(&port.to_string()));
    succeeds(&["set", "-n", "running", "cpus=1"]);

    // The memory of another version may be refused, but is kept.
    let resumed = world.run(&["run", "-n", "asleep", "cat /kept"]);
    if resumed.code == Some(0) {
        assert_eq!(resumed.stdout, "before\n");
    } else {
        assert!(resumed.error().contains("stop --force"), "{resumed:?}");
        assert_eq!(world.inspect("asleep")["status"], "suspended");
        succeeds(&["stop", "--force", "asleep"]);
    }

    for machine in ["running", "debian"] {
        succeeds(&["restart", machine]);
    }
    assert_eq!(world.inside("running", "nproc"), "1\n");
    assert_ne!(["running", "debian"].map(boot_id), boots);
    for machine in ["running", "debian", "asleep"] {
        let kept = world.inside(machine, "cat /kept ~/written-in-$(hostname)");
        assert_eq!(kept, "before\nbefore\n", "{machine}");
    }
    assert_eq!(world.inside("stopped", "hostname"), "stopped\n");
    world.stdout(&["run", "--root", "-n", "stopped", "touch /after"]);
    succeeds(&["stop", "stopped"]);
    succeeds(&["snapshot", "restore", "-n", "stopped", "first", "--force"]);
    world.inside("stopped", "test ! -e /after");
    for machine in ["running", "debian", "asleep", "stopped"] {
        succeeds(&["rm", machine]);
    }
}
