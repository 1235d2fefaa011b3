//! Exported and imported machines.

use std::{
    fs,
    os::unix::fs::PermissionsExt,
    process::{Output, Stdio},
    thread::sleep,
    time::Duration,
};

use end_to_end::{Lab, Outcome, World};

crate::declare::tests![
    exported_machine_is_imported_on_a_host_without_its_image,
    machine_moves_to_another_user,
    invalid_archives_leave_nothing,
];

const ID: &str = "cat /etc/machine-id";

fn write(world: &World, word: &str) {
    let line = format!("echo {word} > /state");
    world.stdout(&["run", "-n", "dev", "-u", "root", &line]);
}

fn exported_machine_is_imported_on_a_host_without_its_image(lab: &Lab) {
    let world = World::for_user();
    world.create(&lab.image("debian-tools:12"), "dev", &[]);
    write(&world, "one");
    world.stdout(&["snapshot", "create", "one"]);
    write(&world, "two");
    let (id, user) = (world.inside("dev", ID), world.inside("dev", "id"));
    let file = world.home().join("dev.machine");
    let file = file.to_str().unwrap();
    // The machine is running, and goes its own way at once.
    world.stdout(&["export", "dev", "--snapshots", "-o", file]);
    assert_eq!(
        fs::metadata(file).unwrap().permissions().mode() & 0o777,
        0o600
    );
    write(&world, "three");

    let error = world.error(&["import", file]);
    assert!(error.contains("--name"), "{error}");
    let import = ["import", file, "--name", "copy", "--home-mount", "none"];
    assert_eq!(world.stdout(&import), "copy\n");
    assert_eq!(world.inside("copy", "cat /state"), "two\n");
    assert_ne!(world.inside("copy", ID), id);
    assert_eq!(world.inspect("copy")["homeMount"], "none");
    world.stdout(&["rm", "dev", "copy"]);
    let pruned: Outcome = world
        .container(&["image", "prune", "--all", "--force"])
        .output()
        .unwrap()
        .into();
    assert_eq!(pruned.code, Some(0), "{pruned:?}");

    // On this host nothing of the machine and its image is left.
    assert_eq!(world.stdout(&["import", file]), "dev\n");
    assert_eq!(world.inside("dev", "cat /state"), "two\n");
    assert_eq!(world.inside("dev", "id"), user);
    assert_eq!(world.inside("dev", ID), id);
    let committed = world.stdout(&["commit", "dev", "local/again:1"]);
    assert!(committed.contains("local/again:1"), "{committed}");
    world.stdout(&["stop", "dev"]);
    world.check_disk("dev");
    world.stdout(&["snapshot", "restore", "--force", "one"]);
    assert_eq!(world.inside("dev", "cat /state"), "one\n");
    world.create("local/again:1", "from-commit", &[]);
    assert_eq!(world.inside("from-commit", "cat /state"), "two\n");
}

fn machine_moves_to_another_user(lab: &Lab) {
    let (user, root) = (World::for_user(), World::for_root());
    let mount = format!("{}:/srv/home", user.home().display());
    let options = ["--disk-size", "3G", "--mount", &mount];
    user.create(&lab.image("busybox:1"), "tiny", &options);
    assert_ne!(user.inspect("tiny")["mounts"], serde_json::json!([]));
    user.stdout(&["run", "-u", "root", "echo kept > /state; sync"]);
    user.stdout(&["stop", "tiny"]);
    let mut export = user
        .machine(&["export", "tiny"])
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let archive = export.stdout.take().unwrap();
    let import: Output = root
        .machine(&["import", "-"])
        .stdin(archive)
        .output()
        .unwrap();
    let import = Outcome::from(import);
    assert_eq!(import.code, Some(0), "{import:?}");
    assert!(export.wait().unwrap().success());
    // Directories of another host are not mounted, and a note says so.
    let note = "The machine's mounts are not those of this host";
    assert!(import.stderr.contains(note), "{import:?}");
    assert_eq!(root.inspect("tiny")["mounts"], serde_json::json!([]));
    assert_eq!(
        root.inside("tiny", "whoami; pwd; cat /state"),
        format!("root\n{}\nkept\n", root.home().display())
    );
    assert_eq!(root.inspect("tiny")["diskCapacity"], 3_u64 << 30);
    // Neither needs the other.
    assert_eq!(user.inside("tiny", "cat /state"), "kept\n");
    // The first machine is the default machine.
    assert_eq!(root.stdout(&["run", "cat /state"]), "kept\n");
}

fn invalid_archives_leave_nothing(lab: &Lab) {
    let world = World::for_root();
    let socket = ["--no-boot", "--socket", "/run/docker.sock"];
    world.create(&lab.image("busybox:1"), "tiny", &socket);
    assert_ne!(world.inspect("tiny")["sockets"], serde_json::json!([]));
    let whole = world.path("tiny.machine");
    world.stdout(&["export", "tiny", "-o", whole.to_str().unwrap()]);
    world.stdout(&["rm", "tiny"]);
    let bytes = fs::read(&whole).unwrap();
    let changed = |position: usize| {
        let mut bytes = bytes.clone();
        bytes[position] ^= 0x10;
        bytes
    };
    let cases = [
        (Vec::new(), "not an exported machine"),
        (b"no archive".to_vec(), "not an exported machine"),
        (bytes[..bytes.len() / 2].to_vec(), "cannot read the archive"),
        (bytes[..bytes.len() - 1].to_vec(), "cannot read the archive"),
        (changed(bytes.len() / 2), "archive"),
    ];
    let file = world.path("invalid.machine");
    for (bytes, expected) in cases {
        fs::write(&file, bytes).unwrap();
        let error = world.error(&["import", file.to_str().unwrap()]);
        assert!(error.contains(expected), "{expected}: {error}");
        assert_eq!(world.bundles(), [""; 0]);
    }
    let error = world.error(&["import", "/nonexistent"]);
    assert!(error.contains("/nonexistent"), "{error}");

    // A killed import leaves nothing that counts, at whatever moment.
    for round in 0..6 {
        let mut import = world
            .machine(&["import", whole.to_str().unwrap()])
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .unwrap();
        sleep(Duration::from_millis(15 * round));
        world.processes("service").iter().for_each(|it| it.kill());
        import.wait().unwrap();
        let ids = world.stdout(&["ls", "--format", "{{ id }}"]);
        if ids.is_empty() {
            assert_eq!(world.bundles(), [""; 0]);
        } else {
            assert_eq!(world.inside("tiny", "echo works"), "works\n");
            world.stdout(&["rm", "tiny"]);
        }
    }
    assert_eq!(world.stdout(&["import", whole.to_str().unwrap()]), "tiny\n");
    assert_eq!(world.inside("tiny", "echo works"), "works\n");
}
