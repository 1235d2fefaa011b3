//! Downloads of images over faulty connections.

use std::{fs, process::Stdio};

use end_to_end::{Fault, Lab, Outcome, Process, TcpRelay, World, eventually};

crate::declare::tests![
    broken_downloads_are_resumed,
    changed_byte_is_detected,
    concurrent_creates_share_a_download,
    interrupted_create_leaves_no_partial_files,
    another_build_is_served_during_a_download,
];

/// Approximate size of the Debian test image's layer in bytes.
const LAYER_BYTES: u64 = 100 << 20;

fn image_at(relay: &TcpRelay) -> String {
    format!("{}/debian-systemd:12", relay.address())
}

fn create<'a>(image: &'a str, name: &'a str) -> [&'a str; 5] {
    ["create", image, "--name", name, "--no-boot"]
}

/// Returns the files of the image store that do not belong to a complete image.
fn partial_files(world: &World) -> Vec<String> {
    let mut found = Vec::new();
    for directory in ["incoming", "bases"] {
        let directory = world.path("data/container/images").join(directory);
        for entry in fs::read_dir(directory).unwrap() {
            found.push(entry.unwrap().file_name().into_string().unwrap());
        }
    }
    found
}

fn broken_downloads_are_resumed(lab: &Lab) {
    let world = World::for_root();
    let relay = TcpRelay::start(lab.registry(), Fault::BreakAfter(9 << 20));
    world.stdout(&create(&image_at(&relay), "dev"));
    assert!(relay.received() > LAYER_BYTES, "{}", relay.received());
    assert!(
        relay.received() < LAYER_BYTES * 3 / 2,
        "{}",
        relay.received()
    );
    world.check_disk("dev");
}

fn changed_byte_is_detected(lab: &Lab) {
    let world = World::for_root();
    let relay = TcpRelay::start(lab.registry(), Fault::FlipByteAt(20 << 20));
    let error = world.error(&create(&image_at(&relay), "dev"));
    assert!(error.contains("changed or damaged"), "{error}");
    assert_eq!(world.bundles(), [""; 0]);
    assert_eq!(partial_files(&world), [""; 0]);
    let blobs = world.path("data/container/images/blobs/sha256");
    for blob in fs::read_dir(blobs).unwrap() {
        let size = blob.unwrap().metadata().unwrap().len();
        assert!(size < 1 << 20, "a damaged layer of {size} bytes is kept");
    }
}

fn concurrent_creates_share_a_download(lab: &Lab) {
    let world = World::for_root();
    let relay = TcpRelay::start(lab.registry(), Fault::None);
    let image = image_at(&relay);
    let both = ["one", "two"].map(|name| {
        let mut command = world.machine(&create(&image, name));
        command.stdout(Stdio::piped()).stderr(Stdio::piped());
        command.spawn().unwrap()
    });
    for process in both {
        let outcome = Outcome::from(process.wait_with_output().unwrap());
        assert_eq!(outcome.code, Some(0), "{outcome:?}");
    }
    assert!(
        relay.received() < LAYER_BYTES * 3 / 2,
        "{}",
        relay.received()
    );
    assert_eq!(partial_files(&world).len(), 1);
}

fn interrupted_create_leaves_no_partial_files(lab: &Lab) {
    let world = World::for_root();
    let relay = TcpRelay::start(lab.registry(), Fault::BytesPerSecond(20 << 20));
    let mut process = world
        .machine(&create(&image_at(&relay), "dev"))
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    eventually("the download has begun", || relay.received() > 10 << 20);
    let pid = rustix::process::Pid::from_child(&process);
    rustix::process::kill_process(pid, rustix::process::Signal::INT).unwrap();
    assert!(!process.wait().unwrap().success());
    eventually("partial files are removed", || {
        partial_files(&world).is_empty()
    });
    assert_eq!(world.bundles(), [""; 0]);
}

fn another_build_is_served_during_a_download(lab: &Lab) {
    let world = World::for_root();
    world.create(&lab.image("busybox:1"), "other", &["--no-boot"]);
    let relay = TcpRelay::start(lab.registry(), Fault::BytesPerSecond(2 << 20));
    let mut process = world
        .machine(&create(&image_at(&relay), "dev"))
        .stderr(Stdio::null())
        .spawn()
        .unwrap();
    eventually("the download has begun", || relay.received() > 1 << 20);
    let updated = world.program().with_file_name("container-updated");
    // Builds differ in their paths too.
    fs::hard_link(world.program(), &updated).unwrap();
    let machine = |arguments: &[&str]| {
        let mut command = world.command(&updated);
        let outcome = command.arg("machine").args(arguments).output().unwrap();
        Outcome::from(outcome)
    };
    assert_eq!(machine(&["ls", "-q"]).stdout, "other\n");
    assert_eq!(machine(&["set", "-n", "other", "cpus=3"]).code, Some(0));
    assert_eq!(process.try_wait().unwrap(), None, "the download continues");
    process.kill().unwrap();
    process.wait().unwrap();
    eventually("the old service ends", || {
        world.processes("service").is_empty()
    });
    assert_eq!(machine(&["ls", "-q"]).stdout, "other\n");
    let services = Process::find(&format!("{} __service", updated.display()));
    assert!(!services.is_empty());
    // The world ends the service of its own program.
    services.iter().for_each(Process::kill);
}
