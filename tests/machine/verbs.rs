//! The verbs that change a machine as a whole, and copies into it and out of it.

use std::{fs, io::Write, os::unix::fs::PermissionsExt, process::Stdio};

use end_to_end::{Lab, World};

crate::tests![
    start_stop_and_restart,
    set_is_applied_by_the_next_boot,
    a_rename_keeps_everything,
    the_default_machine,
    copies_in_and_out,
    copies_that_cannot_be,
];

fn start_stop_and_restart(lab: &Lab) {
    let world = World::of_user();
    let image = lab.image("busybox:1");
    world.create(&image, "one", &["--no-boot"]);
    world.create(&image, "two", &["--no-boot"]);
    assert_eq!(world.stdout(&["start"]), "one\n", "the default one");
    assert_eq!(world.stdout(&["start", "one", "two"]), "one\ntwo\n");
    assert_eq!(world.inspect("two")["status"], "running");
    let before = world.inspect("one")["containerId"].clone();
    assert_eq!(world.stdout(&["restart", "one"]), "one\n");
    assert_ne!(world.inspect("one")["containerId"], before);
    let some = world.run(&["stop", "one", "none", "two"]);
    assert_eq!((some.code, &*some.stdout), (Some(1), "one\ntwo\n"));
    assert!(some.stderr.contains("no machine none"), "{some:?}");
    assert!(world.is_stopped("one") && world.is_stopped("two"));
    assert_eq!(
        world.stdout(&["restart", "two"]),
        "two\n",
        "a stopped one is started"
    );
}

fn set_is_applied_by_the_next_boot(lab: &Lab) {
    let world = World::of_user();
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
    assert!(
        changed.stderr.contains("stopped and started"),
        "{changed:?}"
    );
    assert_eq!(world.inside("tiny", "nproc"), "2\n", "not yet");
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
    assert_eq!(quiet.stderr, "", "it is stopped");
    // Whatever is in the file is looked at again when it boots.
    fs::write(
        world.bundle("tiny", "boot-config.json"),
        file().to_string().replace("\"cpus\":2", "\"cpus\":0"),
    )
    .unwrap();
    let error = world.error(&["start", "tiny"]);
    assert!(error.contains("boot-config.json"), "{error}");
}

fn a_rename_keeps_everything(lab: &Lab) {
    let world = World::of_user();
    let image = lab.image("busybox:1");
    world.create(&image, "old", &[]);
    world.create(&image, "other", &["--no-boot"]);
    world.stdout(&["run", "-n", "old", "--root", "echo kept > /kept"]);
    let running = world.error(&["rename", "old", "new"]);
    assert!(running.contains("stop it first"), "{running}");
    world.stdout(&["stop", "old"]);
    let taken = world.error(&["rename", "old", "other"]);
    assert!(taken.contains("other exists already"), "{taken}");
    assert_eq!(world.stdout(&["rename", "old", "new"]), "new\n");
    assert_eq!(world.bundles(), ["new", "other"]);
    assert_eq!(world.inspect("new")["id"], "new");
    assert_eq!(
        world.stdout(&["run", "hostname; cat /kept"]),
        "new\nkept\n",
        "still the default"
    );
    let hosts = world.inside("new", "cat /etc/hosts");
    assert!(
        hosts.contains(" new\n") && !hosts.contains("old"),
        "{hosts}"
    );
    assert!(world.error(&["inspect", "old"]).contains("no machine old"));
}

fn the_default_machine(lab: &Lab) {
    let world = World::of_user();
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
            .contains("no machine none")
    );
    let removed = world.run(&["rm", "two"]);
    assert!(
        removed.stderr.contains("there is none now") && removed.stderr.contains("set-default"),
        "{removed:?}"
    );
    assert!(default().is_empty());
    assert_eq!(world.run(&["rm", "-f", "one"]).stderr, "");
}

fn copies_in_and_out(lab: &Lab) {
    let world = lab.user();
    let place = world.home().join("copies");
    let copy = |from: &str, to: &str| {
        let mut command = world.machine(&["cp", from, to]);
        let outcome: end_to_end::Outcome = command.current_dir(&place).output().unwrap().into();
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
    fs::write(place.join("file"), vec![7; 3_000_000]).unwrap();
    fs::write(place.join("tree/deep/a b"), "deep").unwrap();
    std::os::unix::fs::symlink("deep", place.join("tree/link")).unwrap();
    fs::write(place.join("tree/run"), "#!/bin/sh\n").unwrap();
    fs::set_permissions(place.join("tree/run"), fs::Permissions::from_mode(0o755)).unwrap();

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
        fs::read(place.join("back/deep/file")).unwrap(),
        vec![7; 3_000_000]
    );
    assert!(place.join("back/link").is_symlink());
    // A link that is named is followed.
    copy("dev:/etc/os-release", "release");
    assert!(
        fs::read_to_string(place.join("release"))
            .unwrap()
            .contains("Debian")
    );

    let root = world.run(&[
        "cp",
        "--root",
        place.join("file").to_str().unwrap(),
        "dev:/etc/a-copy",
    ]);
    assert_eq!(root.code, Some(0), "{root:?}");
    assert_eq!(
        world.inside("dev", "stat -c %U /etc/a-copy; sudo rm /etc/a-copy"),
        "root\n"
    );

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

fn copies_that_cannot_be(lab: &Lab) {
    let world = lab.user();
    let told = |arguments: &[&str], words: &str| {
        let outcome = world.run(&[&["cp"], arguments].concat());
        assert!(matches!(outcome.code, Some(1 | 2)), "{outcome:?}");
        assert!(outcome.stderr.contains(words), "{outcome:?}");
    };
    told(&["/etc/hostname", "/tmp/x"], "ID:PATH");
    told(&["dev:/etc/hostname", "dev:/x"], "two steps");
    told(&["none-such-file", "dev:"], "none-such-file");
    told(&["dev:/none", "."], "/none");
    told(&["/etc/hostname", "dev:/none/x"], "no such directory");
    told(&["/etc/hostname", "dev:/etc/x"], "Permission denied");
    told(&["/etc/hostname", "none:/x"], "no machine none");
    told(&["/etc/hostname", "dev:/tmp/none/"], "no such directory");
    told(&["/etc/hostname", "B:/x"], "./B:/x");
}
