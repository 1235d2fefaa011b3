//! Verbs that change a machine as a whole, and copies.

use std::{
    ffi::OsStr,
    fs,
    io::Write,
    os::unix::{ffi::OsStrExt, fs::PermissionsExt},
    process::Stdio,
};

use end_to_end::{Lab, World};

crate::declare::tests![
    machines_are_started_stopped_and_restarted,
    set_is_applied_at_the_next_boot,
    rename_keeps_data_and_default,
    default_machine_can_be_changed,
    files_are_copied_in_both_directions,
    invalid_copies_are_refused,
];

fn machines_are_started_stopped_and_restarted(lab: &Lab) {
    let world = World::for_user();
    let image = lab.image("busybox:1");
    world.create(&image, "one", &["--no-boot"]);
    world.create(&image, "two", &["--no-boot"]);
    assert_eq!(
        world.stdout(&["start"]),
        "one\n",
        "the default machine is started"
    );
    assert_eq!(world.stdout(&["start", "one", "two"]), "one\ntwo\n");
    assert_eq!(world.inspect("two")["status"], "running");
    let before = world.inspect("one")["containerId"].clone();
    assert_eq!(world.stdout(&["restart", "one"]), "one\n");
    assert_ne!(world.inspect("one")["containerId"], before);
    let some = world.run(&["stop", "one", "none", "two"]);
    assert_eq!((some.code, &*some.stdout), (Some(1), "one\ntwo\n"));
    assert!(
        some.stderr.contains("machine \"none\" not found"),
        "{some:?}"
    );
    assert!(world.is_stopped("one") && world.is_stopped("two"));
    assert_eq!(
        world.stdout(&["restart", "two"]),
        "two\n",
        "restart starts a stopped machine"
    );
}

fn set_is_applied_at_the_next_boot(lab: &Lab) {
    let world = World::for_user();
    world.create(&lab.image("busybox:1"), "tiny", &[]);
    let file = || -> serde_json::Value {
        serde_json::from_slice(&fs::read(world.bundle("tiny", "boot-config.json")).unwrap())
            .unwrap()
    };
    let before = file();
    assert_eq!(
        (&before["cpus"], &before["homeMount"]),
        (&2.into(), &"rw".into())
    );
    for wrong in [
        "cpus=0",
        "memory=512M",
        "home-mount=x",
        "virtualization=maybe",
        "cpus=500",
        "memory=10000G",
        "color=red",
        "cpus",
        "kernel=/no/such/kernel",
    ] {
        world.error(&["set", "-n", "tiny", "cpus=3", wrong]);
        assert_eq!(file(), before, "{wrong} changes nothing");
    }
    let changed = world.run(&["set", "-n", "tiny", "cpus=1", "memory=2gb", "home-mount=ro"]);
    assert_eq!((changed.code, &*changed.stdout), (Some(0), "tiny\n"));
    assert!(changed.stderr.contains("at the next boot"), "{changed:?}");
    assert_eq!(
        world.inside("tiny", "nproc"),
        "2\n",
        "a running machine is unchanged"
    );
    world.stdout(&["restart", "tiny"]);
    assert_eq!(world.inside("tiny", "nproc"), "1\n");
    let memory: u64 = world
        .inside("tiny", "awk '/MemTotal/ { print $2 }' /proc/meminfo")
        .trim()
        .parse()
        .unwrap();
    assert!((1_800_000..2_100_000).contains(&memory), "{memory}");
    world.stdout(&["stop", "tiny"]);
    let quiet = world.run(&["set", "-n", "tiny", "cpus=2"]);
    assert_eq!(quiet.stderr, "", "a stopped machine needs no restart");
    // A boot validates the file again.
    fs::write(
        world.bundle("tiny", "boot-config.json"),
        file().to_string().replace("\"cpus\":2", "\"cpus\":0"),
    )
    .unwrap();
    let error = world.error(&["start", "tiny"]);
    assert!(error.contains("boot-config.json"), "{error}");
}

fn rename_keeps_data_and_default(lab: &Lab) {
    let world = World::for_user();
    let image = lab.image("busybox:1");
    world.create(&image, "old", &[]);
    world.create(&image, "other", &["--no-boot"]);
    world.stdout(&["run", "-n", "old", "--root", "echo kept > /kept"]);
    let running = world.error(&["rename", "old", "new"]);
    assert!(running.contains("stop it first"), "{running}");
    world.stdout(&["stop", "old"]);
    let taken = world.error(&["rename", "old", "other"]);
    assert!(
        taken.contains("machine \"other\" already exists"),
        "{taken}"
    );
    assert_eq!(world.stdout(&["rename", "old", "new"]), "new\n");
    assert_eq!(world.bundles(), ["new", "other"]);
    assert_eq!(world.inspect("new")["id"], "new");
    assert_eq!(
        world.stdout(&["run", "hostname; cat /kept"]),
        "new\nkept\n",
        "a renamed machine stays the default"
    );
    let hosts = world.inside("new", "cat /etc/hosts");
    assert!(
        hosts.contains(" new\n") && !hosts.contains("old"),
        "{hosts}"
    );
    assert!(
        world
            .error(&["inspect", "old"])
            .contains("machine \"old\" not found")
    );
}

fn default_machine_can_be_changed(lab: &Lab) {
    let world = World::for_user();
    let image = lab.image("busybox:1");
    assert!(
        world
            .error(&["run", "true"])
            .contains("container machine create")
    );
    world.create(&image, "one", &["--no-boot"]);
    world.create(&image, "two", &["--no-boot"]);
    let default = || {
        let listed: serde_json::Value =
            serde_json::from_str(&world.stdout(&["ls", "--format", "json"])).unwrap();
        let machines = listed.as_array().unwrap().iter();
        machines
            .filter(|machine| machine["default"] == true)
            .map(|machine| machine["id"].clone())
            .collect::<Vec<_>>()
    };
    assert_eq!(default(), ["one"]);
    world.create(&image, "three", &["--no-boot", "--set-default"]);
    assert_eq!(default(), ["three"]);
    assert_eq!(world.stdout(&["set-default", "two"]), "two\n");
    assert_eq!(default(), ["two"]);
    assert!(
        world
            .error(&["set-default", "none"])
            .contains("machine \"none\" not found")
    );
    let removed = world.run(&["rm", "two"]);
    assert!(
        removed.stderr.contains("there is none now") && removed.stderr.contains("set-default"),
        "{removed:?}"
    );
    assert!(default().is_empty());
    assert_eq!(world.run(&["rm", "-f", "one"]).stderr, "");
}

fn files_are_copied_in_both_directions(lab: &Lab) {
    let world = lab.user();
    let directory = world.home().join("copies");
    let copy = |from: &str, to: &str| {
        let mut command = world.machine(&["cp", from, to]);
        let outcome: end_to_end::Outcome = command.current_dir(&directory).output().unwrap().into();
        assert_eq!(
            (outcome.code, &*outcome.stdout, &*outcome.stderr),
            (Some(0), "", ""),
            "{from} {to}"
        );
    };
    world.inside(
        "dev",
        "rm -rf copies /tmp/copies && mkdir -p copies/tree/deep /tmp/copies",
    );
    fs::write(directory.join("file"), vec![7; 3_000_000]).unwrap();
    fs::write(directory.join("tree/deep/a b"), "deep").unwrap();
    std::os::unix::fs::symlink("deep", directory.join("tree/link")).unwrap();
    fs::write(directory.join("tree/run"), "#!/bin/sh\n").unwrap();
    fs::set_permissions(
        directory.join("tree/run"),
        fs::Permissions::from_mode(0o755),
    )
    .unwrap();

    copy("file", "dev:/tmp/copies/");
    copy("file", "dev:/tmp/copies/other");
    copy("tree", "dev:/tmp/copies");
    copy("tree/.", ":/tmp/copies/contents");
    let shown = world.inside("dev", "cd /tmp/copies && cmp file ~/copies/file && cmp other file && cat 'tree/link/a b' && stat -c '%a %U' contents/run tree/run");
    let name = &world.user().unwrap().name;
    assert_eq!(shown, format!("deep755 {name}\n755 {name}\n"));

    copy("dev:/tmp/copies/tree", "back");
    copy("dev:/tmp/copies/file", "back/deep/");
    assert_eq!(
        fs::read(directory.join("back/deep/file")).unwrap(),
        vec![7; 3_000_000]
    );
    assert!(directory.join("back/link").is_symlink());
    // A symlink as the source is followed.
    copy("dev:/etc/os-release", "release");
    assert!(
        fs::read_to_string(directory.join("release"))
            .unwrap()
            .contains("Debian")
    );

    let root = world.run(&[
        "cp",
        "--root",
        directory.join("file").to_str().unwrap(),
        "dev:/etc/a-copy",
    ]);
    assert_eq!(root.code, Some(0), "{root:?}");
    assert_eq!(
        world.inside("dev", "stat -c %U /etc/a-copy; sudo rm /etc/a-copy"),
        "root\n"
    );

    // A name that is not UTF-8, of the copy itself and in it.
    let odd = OsStr::from_bytes(b"odd-\xff");
    fs::create_dir(directory.join(odd)).unwrap();
    fs::write(directory.join(odd).join(odd), "odd").unwrap();
    let copy_odd = |from: &[u8], to: &[u8]| {
        let mut command = world.machine(&["cp"]);
        command.args([from, to].map(OsStr::from_bytes));
        let outcome: end_to_end::Outcome = command.current_dir(&directory).output().unwrap().into();
        assert_eq!((outcome.code, &*outcome.stderr), (Some(0), ""));
    };
    copy_odd(b"odd-\xff", b"dev:/tmp/copies");
    copy_odd(b"dev:/tmp/copies/odd-\xff", b"back/\xfe");
    copy_odd(b"dev:/tmp/copies/odd-\xff/odd-\xff", b"back");
    let back = directory.join("back");
    for file in [back.join(OsStr::from_bytes(b"\xfe")), back] {
        assert_eq!(fs::read(file.join(odd)).unwrap(), b"odd");
    }

    // A terminal does not obey names of the machine's files.
    world.inside(
        "dev",
        "mkdir /tmp/copies/odd && mkfifo \"$(printf '/tmp/copies/odd/\\033]0;x\\007\\nError: x')\"",
    );
    let noted = world.run(&[
        "cp",
        "dev:/tmp/copies/odd",
        directory.join("odd").to_str().unwrap(),
    ]);
    assert!(
        noted.stderr.contains(r"\u{1b}]0;x\u{7}\nError: x skipped"),
        "{noted:?}"
    );
    assert!(!noted.stderr.contains('\u{1b}'), "{noted:?}");

    let tar = world
        .machine(&["cp", "dev:/tmp/copies/tree", "-"])
        .output()
        .unwrap()
        .stdout;
    let names: Vec<_> = tar::Archive::new(&*tar)
        .entries()
        .unwrap()
        .map(|entry| entry.unwrap().path().unwrap().display().to_string())
        .collect();
    assert!(names.contains(&"tree/deep/a b".to_owned()), "{names:?}");
    world.inside("dev", "mkdir -p /tmp/copies/from-tar");
    let mut unpack = world.machine(&["cp", "-", "dev:/tmp/copies/from-tar"]);
    let mut unpack = unpack.stdin(Stdio::piped()).spawn().unwrap();
    unpack.stdin.take().unwrap().write_all(&tar).unwrap();
    assert!(unpack.wait().unwrap().success());
    assert_eq!(
        world.inside("dev", "cat '/tmp/copies/from-tar/tree/deep/a b'"),
        "deep"
    );
}

fn invalid_copies_are_refused(lab: &Lab) {
    let world = lab.user();
    let assert_refused = |arguments: &[&str], words: &str| {
        let outcome = world.run(&[&["cp"], arguments].concat());
        assert!(matches!(outcome.code, Some(1 | 2)), "{outcome:?}");
        assert!(outcome.stderr.contains(words), "{outcome:?}");
    };
    assert_refused(&["/etc/hostname", "/tmp/x"], "ID:PATH");
    assert_refused(&["dev:/etc/hostname", "dev:/x"], "between machines");
    assert_refused(&["none-such-file", "dev:"], "none-such-file");
    assert_refused(&["dev:/none", "."], "/none");
    assert_refused(&["/etc/hostname", "dev:/none/x"], "no such directory");
    assert_refused(&["/etc/hostname", "dev:/etc/x"], "Permission denied");
    assert_refused(&["/etc/hostname", "none:/x"], "machine \"none\" not found");
    assert_refused(&["/etc/hostname", "dev:/tmp/none/"], "no such directory");
    assert_refused(&["/etc/hostname", "B:/x"], "./B:/x");
}
