//! Snapshots of machines' disks, and clones.

use std::{collections::HashSet, fs, process::Stdio, thread::sleep, time::Duration};

use end_to_end::{Lab, World, eventually};
use serde_json::Value;

crate::declare::tests![
    snapshots_keep_and_restore_the_disk,
    clone_of_a_running_machine_has_its_own_identity,
    killed_service_leaves_the_state_before_or_after,
];

/// Names of a machine's snapshots.
fn names(world: &World, machine: &str) -> Vec<String> {
    let list = ["snapshot", "ls", "-n", machine, "--format", "{{ name }}"];
    world.stdout(&list).lines().map(str::to_owned).collect()
}

/// Names of the files of a machine's disk.
fn disk_files(world: &World, machine: &str) -> Vec<String> {
    let directory = world.bundle(machine, "");
    let entries = fs::read_dir(directory).unwrap();
    let files = entries.map(|entry| entry.unwrap().file_name().into_string().unwrap());
    files.filter(|name| name.starts_with("disk-")).collect()
}

fn write(world: &World, machine: &str, word: &str) {
    let line = format!("echo {word} > /state");
    world.stdout(&["run", "-n", machine, "-u", "root", &line]);
}

fn state(world: &World, machine: &str) -> String {
    world.inside(machine, "cat /state").trim().to_owned()
}

fn snapshots_keep_and_restore_the_disk(lab: &Lab) {
    let world = World::for_user();
    world.create(&lab.image("busybox:1"), "tiny", &["--disk-size", "3G"]);
    // Written to files and not to the disk yet.
    write(&world, "tiny", "one");
    let fill = "dd if=/dev/urandom of=/tmp/data bs=1M count=4 2>/dev/null";
    world.inside("tiny", fill);
    world.stdout(&["snapshot", "create", "-n", "tiny", "one"]);
    write(&world, "tiny", "two");
    // The rest of the block is copied from the layer.
    let change = "dd if=/dev/urandom of=/tmp/data bs=1k seek=1001 count=1 conv=notrunc 2>/dev/null";
    let changed = world.inside("tiny", &format!("{change}; md5sum /tmp/data"));
    world.stdout(&["stop", "tiny"]);
    world.check_disk("tiny");
    world.stdout(&["snapshot", "create", "two"]);
    write(&world, "tiny", "three");
    assert_eq!(names(&world, "tiny"), ["one", "two"]);

    let error = world.error(&["snapshot", "restore", "one"]);
    assert!(error.contains("is running"), "{error}");
    world.stdout(&["stop", "tiny"]);
    let error = world.error(&["snapshot", "restore", "one"]);
    assert!(error.contains("--force"), "{error}");
    let error = world.error(&["snapshot", "restore", "none"]);
    assert!(error.contains("snapshot ls"), "{error}");
    let error = world.error(&["snapshot", "create", "two"]);
    assert!(error.contains("already has"), "{error}");
    world.stdout(&["snapshot", "restore", "--force", "one"]);
    // Nothing is lost by another restore.
    world.stdout(&["snapshot", "restore", "two"]);
    world.stdout(&["clone", "tiny", "copy"]);
    assert_eq!(state(&world, "tiny"), "two");
    assert_eq!(state(&world, "copy"), "two");
    assert_eq!(world.inside("copy", "md5sum /tmp/data"), changed);
    write(&world, "copy", "copy");
    world.stdout(&["clone", "tiny", "past", "--snapshot", "one"]);
    world.stdout(&["stop", "tiny", "copy"]);

    // A clone needs nothing of its source, and a source nothing of its clone.
    world.stdout(&["snapshot", "restore", "--force", "one"]);
    assert_eq!(state(&world, "tiny"), "one");
    world.stdout(&["rm", "tiny"]);
    assert_eq!(state(&world, "past"), "one");
    assert_eq!(state(&world, "copy"), "copy");
    world.stdout(&["rm", "past"]);
    world.stdout(&["snapshot", "create", "-n", "copy", "later"]);
    write(&world, "copy", "latest");
    world.stdout(&["stop", "copy"]);
    let taken = disk_files(&world, "copy").len();
    assert!(taken > 2, "{taken}");
    world.stdout(&["snapshot", "rm", "-n", "copy", "later"]);
    assert_eq!(disk_files(&world, "copy").len(), 1);
    assert_eq!(state(&world, "copy"), "latest");
    world.stdout(&["stop", "copy"]);
    world.check_disk("copy");

    let expiring = [
        "snapshot", "create", "-n", "copy", "brief", "--expire", "1s",
    ];
    world.stdout(&expiring);
    eventually("the snapshot is gone", || names(&world, "copy").is_empty());
    // Without --expire a snapshot stays.
    world.stdout(&["snapshot", "create", "-n", "copy", "lasting"]);
    assert_eq!(names(&world, "copy"), ["lasting"]);
}

/// What must differ between a machine and its clone.
fn identity(world: &World, machine: &str) -> Vec<String> {
    let files = "cat /etc/machine-id /etc/hostname /sys/class/net/eth0/address";
    let inside = world.inside(machine, files);
    let mut identity: Vec<String> = inside.lines().map(str::to_owned).collect();
    identity.push(world.inspect(machine)["ipAddress"].to_string());
    identity
}

fn clone_of_a_running_machine_has_its_own_identity(lab: &Lab) {
    let world = lab.root_with_tools();
    world.inside("dev", "echo kept > /var/lib/before-clone");
    world.stdout(&["clone", "dev", "twin"]);
    let source: HashSet<String> = identity(world, "dev").into_iter().collect();
    let twin = identity(world, "twin");
    assert_eq!(twin.len(), 4, "{twin:?}");
    let same: Vec<&String> = twin.iter().filter(|line| source.contains(*line)).collect();
    assert_eq!(same, [""; 0]);
    assert_eq!(world.inside("twin", "cat /var/lib/before-clone"), "kept\n");
    assert_eq!(world.inside("twin", "id"), world.inside("dev", "id"));
    // The identity is renewed once.
    world.stdout(&["restart", "twin"]);
    let again = identity(world, "twin");
    assert_eq!(again, twin);
    world.stdout(&["rm", "twin"]);
    world.inside("dev", "rm /var/lib/before-clone && sync");
}

/// The service is killed at many moments of a snapshot and of a restore.
fn killed_service_leaves_the_state_before_or_after(lab: &Lab) {
    let world = World::for_root();
    world.create(&lab.image("busybox:1"), "tiny", &[]);
    write(&world, "tiny", "first");
    world.stdout(&["stop", "tiny"]);
    world.stdout(&["snapshot", "create", "first"]);
    write(&world, "tiny", "last");
    world.stdout(&["stop", "tiny"]);
    for round in 0..12 {
        let name = format!("round-{round}");
        let mut create = world
            .machine(&["snapshot", "create", &name])
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .unwrap();
        sleep(Duration::from_millis(8 * round));
        world.processes("service").iter().for_each(|it| it.kill());
        create.wait().unwrap();
        let files = disk_files(&world, "tiny");
        let snapshots: Value = match fs::read(world.bundle("tiny", "snapshots.json")) {
            Ok(text) => serde_json::from_slice(&text).unwrap(),
            Err(error) => panic!("{error}"),
        };
        for snapshot in snapshots.as_array().unwrap() {
            let layer = snapshot["layer"].as_str().unwrap().to_owned();
            assert!(files.contains(&layer), "{snapshot} {files:?}");
        }
    }
    assert_eq!(state(&world, "tiny"), "last");
    world.stdout(&["stop", "tiny"]);
    world.check_disk("tiny");
    for name in names(&world, "tiny") {
        world.stdout(&["snapshot", "restore", "--force", &name]);
        if name != "first" {
            world.stdout(&["snapshot", "rm", &name]);
        }
    }
    world.stdout(&["snapshot", "restore", "--force", "first"]);
    world.stdout(&["snapshot", "rm", "first"]);
    assert_eq!(disk_files(&world, "tiny").len(), 1);
    assert_eq!(state(&world, "tiny"), "first");
}
