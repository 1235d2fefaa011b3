//! Images over connections that are not as they should be.

use std::{fs, process::Stdio};

use end_to_end::{Fault, Lab, Outcome, Wire, World, eventually};

crate::tests![
    broken_connections_are_taken_up_where_they_broke,
    a_byte_that_changed_on_the_way_is_noticed,
    two_at_once_fetch_an_image_once,
    an_interrupted_create_leaves_nothing_half_made,
];

/// Bytes of the Debian test image's layer, roughly.
const IMAGE: u64 = 100 << 20;

fn image_over(wire: &Wire) -> String {
    format!("{}/debian-systemd:12", wire.address())
}

fn create<'a>(image: &'a str, name: &'a str) -> [&'a str; 5] {
    ["create", image, "--name", name, "--no-boot"]
}

/// What is in the image store that is not an image.
fn half_made(world: &World) -> Vec<String> {
    let mut found = Vec::new();
    for directory in ["incoming", "bases"] {
        let directory = world.path("data/container/images").join(directory);
        for entry in fs::read_dir(directory).unwrap() {
            found.push(entry.unwrap().file_name().into_string().unwrap());
        }
    }
    found
}

fn broken_connections_are_taken_up_where_they_broke(lab: &Lab) {
    let world = World::of_root();
    let wire = Wire::to(lab.registry(), Fault::Breaks(9 << 20));
    world.stdout(&create(&image_over(&wire), "dev"));
    assert!(wire.received() > IMAGE, "{}", wire.received());
    assert!(wire.received() < IMAGE * 3 / 2, "{}", wire.received());
    world.check_disk("dev");
}

fn a_byte_that_changed_on_the_way_is_noticed(lab: &Lab) {
    let world = World::of_root();
    let wire = Wire::to(lab.registry(), Fault::Flips(20 << 20));
    let error = world.error(&create(&image_over(&wire), "dev"));
    assert!(error.contains("changed or damaged on its way"), "{error}");
    assert_eq!(world.bundles(), [""; 0]);
    assert_eq!(half_made(&world), [""; 0]);
    let blobs = world.path("data/container/images/blobs/sha256");
    for blob in fs::read_dir(blobs).unwrap() {
        let size = blob.unwrap().metadata().unwrap().len();
        assert!(size < 1 << 20, "a damaged layer of {size} bytes is kept");
    }
}

fn two_at_once_fetch_an_image_once(lab: &Lab) {
    let world = World::of_root();
    let wire = Wire::to(lab.registry(), Fault::None);
    let image = image_over(&wire);
    let both = ["one", "two"].map(|name| {
        let mut command = world.machine(&create(&image, name));
        command.stdout(Stdio::piped()).stderr(Stdio::piped());
        command.spawn().unwrap()
    });
    for process in both {
        let outcome = Outcome::from(process.wait_with_output().unwrap());
        assert_eq!(outcome.code, Some(0), "{outcome:?}");
    }
    assert!(wire.received() < IMAGE * 3 / 2, "{}", wire.received());
    assert_eq!(half_made(&world).len(), 1);
}

fn an_interrupted_create_leaves_nothing_half_made(lab: &Lab) {
    let world = World::of_root();
    let wire = Wire::to(lab.registry(), Fault::Slow(20 << 20));
    let mut process = world
        .machine(&create(&image_over(&wire), "dev"))
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    eventually("bytes come", || wire.received() > 10 << 20);
    let pid = rustix::process::Pid::from_child(&process);
    rustix::process::kill_process(pid, rustix::process::Signal::INT).unwrap();
    assert!(!process.wait().unwrap().success());
    eventually("nothing is half made", || half_made(&world).is_empty());
    assert_eq!(world.bundles(), [""; 0]);
}
