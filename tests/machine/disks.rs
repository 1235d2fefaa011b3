//! How much a machine's disk holds: as asked for when it is made, and more later.

use std::{fs, process::Command};

use end_to_end::{Lab, World};
use serde_json::Value;

crate::tests![
    a_disk_is_as_large_as_was_asked_for_and_grows,
    a_disk_of_the_default_size_grows_too,
    a_growth_that_was_cut_off_is_finished_by_the_next_boot,
    a_disk_is_refused_that_cannot_be,
];

const GIB: u64 = 1 << 30;

/// GiB that the machine's root file system has, as the guest sees it.
fn room(world: &World, machine: &str) -> f64 {
    let words = world.inside(machine, "df -k / | tail -n 1");
    let kibibytes = words.split_whitespace().nth(1).unwrap();
    kibibytes.parse::<f64>().unwrap() / f64::from(1 << 20)
}

/// Fails unless the guest has what a disk of so many GiB leaves: some of it holds inodes and the
/// journal.
fn has_room(world: &World, machine: &str, gibibytes: f64) {
    let room = room(world, machine);
    assert!((gibibytes * 0.94..gibibytes).contains(&room), "{room} GiB");
}

fn capacity(world: &World, machine: &str) -> u64 {
    world.inspect(machine)["diskCapacity"].as_u64().unwrap()
}

/// What the host's file of the disk promises the guest.
fn virtual_size(world: &World, machine: &str) -> u64 {
    let told = Command::new("qemu-img")
        .args(["info", "--force-share", "--output", "json"])
        .arg(world.bundle(machine, "disk.qcow2"))
        .output()
        .unwrap();
    let told: Value = serde_json::from_slice(&told.stdout).unwrap();
    told["virtual-size"].as_u64().unwrap()
}

fn a_disk_is_as_large_as_was_asked_for_and_grows(lab: &Lab) {
    let world = World::of_root();
    world.create(&lab.image("busybox:1"), "small", &["--disk-size", "3G"]);
    assert_eq!(capacity(&world, "small"), 3 * GIB);
    has_room(&world, "small", 3.0);
    let write = "dd if=/dev/urandom of=/data bs=1M count=40 2>/dev/null; md5sum /data";
    let sum = world.inside("small", write);
    let set = world.run(&["set", "-n", "small", "disk=6G"]);
    assert!(set.stderr.contains("stopped and started"), "{set:?}");
    assert_eq!(capacity(&world, "small"), 6 * GIB);
    has_room(&world, "small", 3.0);
    world.stdout(&["restart", "small"]);
    has_room(&world, "small", 6.0);
    assert_eq!(world.inside("small", "md5sum /data"), sum);
    // The new room can be used, and the file system does not mind.
    world.inside(
        "small",
        "dd if=/dev/zero of=/more bs=1M count=3500 && rm /more",
    );
    world.stdout(&["stop", "small"]);
    world.check_disk("small");
}

fn a_disk_of_the_default_size_grows_too(lab: &Lab) {
    let world = World::of_user();
    world.create(&lab.image("busybox:1"), "large", &["--no-boot"]);
    assert_eq!(capacity(&world, "large"), 512 * GIB);
    world.stdout(&["set", "-n", "large", "disk=1T"]);
    world.stdout(&["start", "large"]);
    has_room(&world, "large", 1024.0);
    world.stdout(&["stop", "large"]);
    world.check_disk("large");
    let taken = world.inspect("large")["diskSize"].as_u64().unwrap();
    assert!(taken < GIB, "{taken} bytes for nothing");
}

fn a_growth_that_was_cut_off_is_finished_by_the_next_boot(lab: &Lab) {
    let world = World::of_root();
    let image = lab.image("busybox:1");
    world.create(&image, "tiny", &["--disk-size", "1G", "--no-boot"]);
    // As if cut off between the host's part and the guest's.
    let disk = world.bundle("tiny", "disk.qcow2");
    let resized = Command::new("qemu-img")
        .args(["resize", "-q", "-f", "qcow2"])
        .arg(&disk)
        .arg("2G")
        .status();
    assert!(resized.unwrap().success());
    world.stdout(&["start", "tiny"]);
    has_room(&world, "tiny", 2.0);
    world.stdout(&["stop", "tiny"]);
    world.check_disk("tiny");
    // And as a machine from before there was a choice: what it has stays, and it gets the rest.
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
    has_room(&world, "tiny", 3.0);
}

fn a_disk_is_refused_that_cannot_be(lab: &Lab) {
    let world = World::of_user();
    let image = lab.image("busybox:1");
    for (size, reason) in [
        ("1023M", "1G at least"),
        ("9T", "8T at most"),
        ("big", "is not a size"),
        ("-3G", "is not a size"),
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
        ("2G", "cannot be made smaller"),
        ("1023M", "1G at least"),
        ("9T", "8T at most"),
        ("big", "is not a size"),
        ("", "is not a size"),
    ] {
        let error = world.error(&["set", "-n", "tiny", "cpus=3", &format!("disk={size}")]);
        assert!(error.contains(reason), "{error}");
        assert_eq!(capacity(&world, "tiny"), 3 * GIB);
        assert_ne!(world.inspect("tiny")["cpus"], 3, "nothing is changed");
    }
    // What has not been grown yet can be taken back.
    for size in ["6T", "6G", "3G"] {
        world.stdout(&["set", "-n", "tiny", &format!("disk={size}")]);
    }
    assert_eq!(virtual_size(&world, "tiny"), 3 * GIB);
}
