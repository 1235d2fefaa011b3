//! The size of a machine's disk, at its creation and later.

use std::{fs, path::Path, process::Command};

use end_to_end::{Lab, World};
use serde_json::Value;

crate::declare::tests![
    disk_has_the_requested_size_and_grows,
    disk_of_default_size_grows,
    interrupted_growth_is_finished_by_the_next_boot,
    invalid_sizes_are_refused,
    errors_of_a_file_system_are_repaired,
];

const GIB: u64 = 1 << 30;

/// Returns the size of the machine's root file system in GiB, as the guest reports it.
fn file_system_size(world: &World, machine: &str) -> f64 {
    let words = world.inside(machine, "df -k / | tail -n 1");
    let kibibytes = words.split_whitespace().nth(1).unwrap();
    kibibytes.parse::<f64>().unwrap() / f64::from(1 << 20)
}

/// Fails unless the guest's file system fills a disk of this size, except for inodes and journal.
fn assert_file_system_size(world: &World, machine: &str, gibibytes: f64) {
    let file_system_size = file_system_size(world, machine);
    assert!(
        (gibibytes * 0.94..gibibytes).contains(&file_system_size),
        "{file_system_size} GiB"
    );
}

fn capacity(world: &World, machine: &str) -> u64 {
    world.inspect(machine)["diskCapacity"].as_u64().unwrap()
}

/// Returns the virtual size of the disk's qcow2 file in bytes.
fn virtual_size(world: &World, machine: &str) -> u64 {
    let output = Command::new("qemu-img")
        .args(["info", "--force-share", "--output", "json"])
        .arg(world.bundle(machine, "disk.qcow2"))
        .output()
        .unwrap();
    let information: Value = serde_json::from_slice(&output.stdout).unwrap();
    information["virtual-size"].as_u64().unwrap()
}

fn disk_has_the_requested_size_and_grows(lab: &Lab) {
    let world = World::for_root();
    world.create(&lab.image("busybox:1"), "small", &["--disk-size", "3G"]);
    assert_eq!(capacity(&world, "small"), 3 * GIB);
    assert_file_system_size(&world, "small", 3.0);
    let write = "dd if=/dev/urandom of=/data bs=1M count=40 2>/dev/null; md5sum /data";
    let sum = world.inside("small", write);
    let set = world.run(&["set", "-n", "small", "disk=6G"]);
    assert!(set.stderr.contains("at the next boot"), "{set:?}");
    assert_eq!(capacity(&world, "small"), 6 * GIB);
    assert_file_system_size(&world, "small", 3.0);
    world.stdout(&["restart", "small"]);
    assert_file_system_size(&world, "small", 6.0);
    assert_eq!(world.inside("small", "md5sum /data"), sum);
    // The added blocks can be used.
    world.inside(
        "small",
        "dd if=/dev/zero of=/more bs=1M count=3500 && rm /more",
    );
    world.stdout(&["stop", "small"]);
    world.check_disk("small");
}

fn disk_of_default_size_grows(lab: &Lab) {
    let world = World::for_user();
    world.create(&lab.image("busybox:1"), "large", &["--no-boot"]);
    assert_eq!(capacity(&world, "large"), 512 * GIB);
    world.stdout(&["set", "-n", "large", "disk=1T"]);
    world.stdout(&["start", "large"]);
    assert_file_system_size(&world, "large", 1024.0);
    world.stdout(&["stop", "large"]);
    world.check_disk("large");
    let taken = world.inspect("large")["diskSize"].as_u64().unwrap();
    assert!(taken < GIB, "{taken} bytes for an empty disk");
}

fn interrupted_growth_is_finished_by_the_next_boot(lab: &Lab) {
    let world = World::for_root();
    let image = lab.image("busybox:1");
    world.create(&image, "tiny", &["--disk-size", "1G", "--no-boot"]);
    // As after an interruption between the host's step and the guest's.
    let disk = world.bundle("tiny", "disk.qcow2");
    let resized = Command::new("qemu-img")
        .args(["resize", "-q", "-f", "qcow2"])
        .arg(&disk)
        .arg("2G")
        .status();
    assert!(resized.unwrap().success());
    world.stdout(&["start", "tiny"]);
    assert_file_system_size(&world, "tiny", 2.0);
    world.stdout(&["stop", "tiny"]);
    world.check_disk("tiny");
    // A configuration without a disk size stands for the default size.
    let file = world.bundle("tiny", "boot-config.json");
    let mut boot: Value = serde_json::from_slice(&fs::read(&file).unwrap()).unwrap();
    boot.as_object_mut()
        .unwrap()
        .remove("diskCapacity")
        .unwrap();
    fs::write(&file, boot.to_string()).unwrap();
    assert_eq!(capacity(&world, "tiny"), 512 * GIB);
    world.stdout(&["set", "-n", "tiny", "disk=3G"]);
    world.stdout(&["start", "tiny"]);
    assert_file_system_size(&world, "tiny", 3.0);
}

/// Changes the file system on a stopped machine's disk with lines for debugfs(8).
fn damage(world: &World, machine: &str, lines: &[&str]) {
    let disk = world.bundle(machine, "disk.qcow2");
    let (raw, changed) = (world.path("damaged.raw"), world.path("damaged.qcow2"));
    let convert = |format: &str, from: &Path, to: &Path| {
        let mut convert = Command::new("qemu-img");
        convert.args(["convert", "-O", format]).args([from, to]);
        assert!(convert.status().unwrap().success());
    };
    convert("raw", &disk, &raw);
    for line in lines {
        let mut change = Command::new("/sbin/debugfs");
        let changed = change.args(["-w", "-R", line]).arg(&raw).output().unwrap();
        assert!(changed.status.success(), "{changed:?}");
    }
    convert("qcow2", &raw, &changed);
    fs::copy(&changed, &disk).unwrap();
    for file in [raw, changed] {
        fs::remove_file(file).unwrap();
    }
}

fn errors_of_a_file_system_are_repaired(lab: &Lab) {
    let world = World::for_user();
    world.create(&lab.image("busybox:1"), "tiny", &["--disk-size", "1G"]);
    let files = "mkdir /kept && echo hello > /kept/a && echo hello > /kept/b";
    world.stdout(&["run", "-n", "tiny", "--root", files]);
    let refused = world.error(&["check", "tiny"]);
    assert!(refused.contains("container machine stop tiny"), "{refused}");
    world.stdout(&["stop", "tiny"]);
    assert_eq!(world.stdout(&["check", "tiny"]), "tiny: no errors\n");
    let checked = world.run(&["check", "--repair", "--progress=none", "tiny"]);
    assert_eq!(checked.stdout, "tiny: no errors\n");
    assert_eq!(checked.stderr, "");
    let snapshots = || world.stdout(&["snapshot", "ls", "-n", "tiny"]);
    assert!(!snapshots().contains("before-repair"));

    // The kernel has noted errors, of which none can lose a file.
    damage(&world, "tiny", &["ssv free_blocks_count 5", "ssv state 2"]);
    let found = world.run(&["check", "tiny"]);
    assert_eq!(found.code, Some(1), "{found:?}");
    assert!(found.stdout.contains("Free blocks count"), "{found:?}");
    assert!(found.stderr.contains("check --repair tiny"), "{found:?}");
    let ran = world.run(&["run", "-n", "tiny", "cat /kept/a"]);
    assert_eq!(ran.stdout, "hello\n", "{ran:?}");
    assert!(ran.stderr.contains("are repaired now"), "{ran:?}");
    let log = world.stdout(&["logs", "--boot", "tiny"]);
    assert!(log.contains("e2fsck:"), "{log}");
    let again = world.run(&["run", "-n", "tiny", "cat /kept/a"]);
    assert_eq!(again.stderr, "", "{again:?}");
    world.stdout(&["stop", "tiny"]);
    world.check_disk("tiny");

    // The repair removes a file.
    damage(&world, "tiny", &["sif /kept/a mode 0", "ssv state 2"]);
    let failed = world.error(&["start", "tiny"]);
    assert!(failed.contains("check --repair tiny"), "{failed}");
    let repaired = world.run(&["check", "--repair", "tiny"]);
    assert_eq!(repaired.code, Some(0), "{repaired:?}");
    assert!(
        repaired.stdout.ends_with("tiny: errors repaired\n"),
        "{repaired:?}"
    );
    assert!(repaired.stderr.contains("before-repair"), "{repaired:?}");
    assert!(snapshots().contains("before-repair"));
    assert_eq!(world.inside("tiny", "cat /kept/b"), "hello\n");
    world.stdout(&["stop", "tiny"]);
    world.check_disk("tiny");
}

fn invalid_sizes_are_refused(lab: &Lab) {
    let world = World::for_user();
    let image = lab.image("busybox:1");
    for (size, reason) in [
        ("1023M", "minimum: 1G"),
        ("9T", "maximum: 8T"),
        ("big", "invalid size"),
        ("-3G", "invalid size"),
    ] {
        let refused = world.run(&["create", &image, &format!("--disk-size={size}")]);
        assert_eq!(refused.code, Some(2), "{refused:?}");
        assert!(refused.stderr.contains(reason), "{refused:?}");
        world.configure(&format!("[machine]\ndisk-size = {size:?}\n"));
        let error = world.error(&["create", &image]);
        assert!(
            error.contains("line 2") && error.contains(reason),
            "{error}"
        );
        world.configure("");
    }
    assert_eq!(world.bundles(), [""; 0]);

    world.configure("[machine]\ndisk-size = \"3000M\"\n");
    world.create(&image, "tiny", &["--no-boot"]);
    assert_eq!(virtual_size(&world, "tiny"), 3 * GIB);
    for (size, reason) in [
        ("2G", "cannot shrink"),
        ("1023M", "minimum: 1G"),
        ("9T", "maximum: 8T"),
        ("big", "invalid size"),
        ("", "invalid size"),
    ] {
        let error = world.error(&["set", "-n", "tiny", "cpus=3", &format!("disk={size}")]);
        assert!(error.contains(reason), "{error}");
        assert_eq!(capacity(&world, "tiny"), 3 * GIB);
        assert_ne!(
            world.inspect("tiny")["cpus"],
            3,
            "a refused command changes nothing"
        );
    }
    // A larger size can be taken back before the next boot has grown the disk.
    for size in ["6T", "6G", "3G"] {
        world.stdout(&["set", "-n", "tiny", &format!("disk={size}")]);
    }
    assert_eq!(virtual_size(&world, "tiny"), 3 * GIB);
}
