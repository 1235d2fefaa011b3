//! Directories of the host that a machine mounts besides its home.

use std::{
    fs,
    os::unix::fs::{chown, symlink},
    path::{Path, PathBuf},
    process::{Command, Stdio},
};

use end_to_end::{Lab, Outcome, World, eventually};

crate::declare::tests![
    a_machine_of_a_user_sees_only_its_mounts,
    mounts_of_a_running_machine_change,
    mounts_that_cannot_work_are_refused,
];

/// A directory of the host that is neither in a home nor in a directory for temporary files, so
/// that a machine can mount it at the same path.
struct Project(PathBuf);

impl Project {
    /// Creates the directory for the user of a world.
    fn create(world: &World, name: &str) -> Project {
        let path = PathBuf::from(format!("/srv/{name}-{}", std::process::id()));
        fs::create_dir(&path).unwrap();
        give(world, &path);
        Project(path)
    }

    fn text(&self) -> String {
        self.0.display().to_string()
    }
}

impl Drop for Project {
    fn drop(&mut self) {
        // Fails if the test has moved it.
        let _ = fs::remove_dir_all(&self.0);
    }
}

/// Makes a file the world's user's.
fn give(world: &World, path: &Path) {
    if let Some(user) = world.user() {
        chown(path, Some(user.uid), Some(user.gid)).unwrap();
    }
}

/// Creates a directory below another with a file `name`.
fn directory(world: &World, parent: &Path, name: &str) -> PathBuf {
    let path = parent.join(name);
    fs::create_dir(&path).unwrap();
    fs::write(path.join("name"), name).unwrap();
    give(world, &path);
    give(world, &path.join("name"));
    path
}

/// Changes the settings of a machine, and returns the notes.
fn set(world: &World, machine: &str, settings: &[&str]) -> String {
    let outcome = world.run(&[&["set", "-n", machine], settings].concat());
    assert_eq!(outcome.code, Some(0), "{settings:?}: {outcome:?}");
    outcome.stderr
}

/// Runs a line in a machine from a directory of the host.
fn run_in(world: &World, directory: &Path, machine: &str, line: &str) -> Outcome {
    let mut run = world.machine(&["run", "-n", machine, line]);
    run.current_dir(directory).output().unwrap().into()
}

/// One machine for several subjects, because boots take long.
fn a_machine_of_a_user_sees_only_its_mounts(lab: &Lab) {
    let world = World::for_user();
    let project = Project::create(&world, "project");
    let sub = directory(&world, &project.0, "sub");
    let read_only = directory(&world, &world.path(""), "read-only");
    let source = format!("{}:/srv/sets:ro", read_only.display());
    let mut create = world.machine(&[
        "create",
        &lab.image("busybox:1"),
        "--name",
        "tiny",
        "--cpus",
        "2",
        "--memory",
        "1G",
        "--home-mount",
        "none",
        "--mount",
        ".",
        "--mount",
        &source,
    ]);
    let created = Outcome::from(create.current_dir(&project.0).output().unwrap());
    assert_eq!(created.code, Some(0), "{created:?}");
    let mounts = &world.inspect("tiny")["mounts"];
    assert_eq!(mounts[0]["source"], project.text());
    assert_eq!(mounts[0]["target"], project.text());
    assert_eq!(mounts[0]["mode"], "rw");
    assert_eq!(mounts[1]["target"], "/srv/sets");
    assert_eq!(mounts[1]["mode"], "ro");

    // The directory of the caller is that of the command.
    let shown = run_in(&world, &sub, "tiny", "pwd; cat name; echo made > by-guest");
    assert_eq!(shown.stdout, format!("{}\nsub", sub.display()));
    assert_eq!(shown.stderr, "");
    assert_eq!(fs::read_to_string(sub.join("by-guest")).unwrap(), "made\n");
    fs::write(sub.join("by-host"), "here").unwrap();
    let read = format!("cat {}/by-host", sub.display());
    assert_eq!(world.inside("tiny", &read), "here");
    let shown = run_in(&world, &read_only, "tiny", "pwd; cat name");
    assert_eq!(shown.stdout, "/srv/sets\nread-only");
    let refused = world.run(&["run", "-n", "tiny", "--root", "touch /srv/sets/new"]);
    assert!(refused.stderr.contains("Read-only"), "{refused:?}");
    let at_home = run_in(&world, &world.home(), "tiny", "ls -A");
    assert_eq!(at_home.stdout, "");

    mounts_survive_restarts(&world, &project, &read);
    mounts_survive_suspension(&world, &project, &read);

    // A directory that does not exist any more, and one that was replaced by a link.
    let replaced = directory(&world, &project.0, "replaced");
    let change = format!("mount+={}:/srv/replaced", replaced.display());
    assert_eq!(set(&world, "tiny", &[&change]), "");
    let other = directory(&world, &world.path(""), "other");
    fs::remove_dir_all(&replaced).unwrap();
    symlink(&other, &replaced).unwrap();
    fs::remove_dir_all(&read_only).unwrap();
    world.stdout(&["stop", "tiny"]);
    let started = world.run(&["start", "tiny"]);
    assert_eq!(started.code, Some(0), "{started:?}");
    for reason in [
        "/srv/sets is not mounted: ",
        "/srv/replaced is not mounted: ",
    ] {
        assert!(started.stderr.contains(reason), "{started:?}");
    }
    assert!(started.stderr.contains("symbolic link"), "{started:?}");
    assert_eq!(world.inside("tiny", &read), "here");
    let empty = world.inside("tiny", "ls -A /srv/sets; ! ls -d /srv/replaced/name");
    assert_eq!(empty, "");
}

fn mounts_survive_restarts(world: &World, project: &Project, read: &str) {
    world.stdout(&["restart", "tiny"]);
    assert_eq!(world.inside("tiny", read), "here");
    assert_eq!(world.inside("tiny", "cat /srv/sets/name"), "read-only");
    // What a clone of the machine sees, is its own choice.
    world.stdout(&["clone", "tiny", "other"]);
    assert_eq!(world.inspect("other")["mounts"], serde_json::json!([]));
    world.stdout(&["rm", "other"]);
    assert_eq!(world.inspect("tiny")["mounts"][0]["source"], project.text());
}

fn mounts_survive_suspension(world: &World, project: &Project, read: &str) {
    let later = directory(world, &project.0, "later");
    let gone = directory(world, &project.0, "gone");
    // A program with an open file, which it reads after the suspension.
    let wait = "exec 3</srv/sets/name; while [ ! -e /tmp/go ]; do sleep 0.1; done; \
                cat <&3 >/tmp/read";
    world.stdout(&["run", "-d", "-n", "tiny", wait]);
    eventually("the program has opened its file", || {
        let opened = "ls -l /proc/[0-9]*/fd/3 2>/dev/null | grep -q /srv/sets/name";
        world.run(&["run", "-n", "tiny", opened]).code == Some(0)
    });
    set(
        world,
        "tiny",
        &[&format!(
            "mount+={}:/srv/hot,{}:/srv/gone",
            later.display(),
            gone.display()
        )],
    );
    assert_eq!(world.inside("tiny", "cat /srv/gone/name"), "gone");
    world.stdout(&["suspend", "tiny"]);
    set(world, "tiny", &["mount-=/srv/hot"]);
    fs::remove_dir_all(&gone).unwrap();
    let added = format!("mount+={}:/srv/resumed", later.display());
    set(world, "tiny", &[&added]);
    let resumed = world.run(&["run", "-n", "tiny", read]);
    assert_eq!(resumed.stdout, "here", "{resumed:?}");
    let note = format!(
        "/srv/gone is empty in the machine, because {} cannot be read any more: No such file",
        gone.display()
    );
    assert!(resumed.stderr.contains(&note), "{resumed:?}");
    assert_eq!(world.inspect("tiny")["boot"]["kind"], "resumed");
    let empty = "ls -A /srv/gone; ! touch /srv/gone/new 2>/dev/null";
    assert_eq!(world.inside("tiny", empty), "");
    assert_eq!(world.inside("tiny", "cat /srv/resumed/name"), "later");
    let gone = world.run(&["run", "-n", "tiny", "cat /srv/hot/name"]);
    assert_ne!(gone.code, Some(0), "{gone:?}");
    world.inside("tiny", "touch /tmp/go");
    eventually("the open file is read", || {
        world.run(&["run", "-n", "tiny", "cat /tmp/read"]).stdout == "read-only"
    });
    assert_eq!(set(world, "tiny", &["mount-=/srv/resumed,/srv/gone"]), "");
}

fn mounts_of_a_running_machine_change(lab: &Lab) {
    // The settings are taken back, because other tests use the machines.
    for world in [lab.user(), lab.root()] {
        let parent = directory(world, &world.home(), "mounts-of-a-running-machine");
        let one = directory(world, &parent, "one");
        let two = directory(world, &parent, "two");
        fs::create_dir(one.join("inner")).unwrap();
        give(world, &one.join("inner"));
        let change = format!(
            "mount+={}:/srv/hot/one,{}:/srv/hot/one/inner:ro",
            one.display(),
            two.display()
        );
        assert_eq!(set(world, "dev", &[&change]), "");
        let shown = "cat /srv/hot/one/name /srv/hot/one/inner/name";
        assert_eq!(world.inside("dev", shown), "onetwo");
        world.inside("dev", "echo guest > /srv/hot/one/by-guest");
        assert_eq!(fs::read_to_string(one.join("by-guest")).unwrap(), "guest\n");
        fs::write(one.join("name"), "changed").unwrap();
        assert_eq!(world.inside("dev", "cat /srv/hot/one/name"), "changed");
        let refused = world.run(&["run", "-n", "dev", "--root", "rm /srv/hot/one/inner/name"]);
        assert!(refused.stderr.contains("Read-only"), "{refused:?}");

        mounts_may_be_on_other_file_systems(world, &parent);

        // Programs that use it keep it.
        let line = "cd /srv/hot/one/inner && echo ready && read -r line";
        let mut user = world.machine(&["run", "-n", "dev", line]);
        user.stdin(Stdio::piped()).stdout(Stdio::piped());
        let mut user = user.spawn().unwrap();
        let mut stdout = user.stdout.take().unwrap();
        std::io::Read::read_exact(&mut stdout, &mut [0; 6]).unwrap();
        let error = world.error(&["set", "-n", "dev", "mount="]);
        assert!(error.contains("programs in the machine use it"), "{error}");
        assert_eq!(world.inspect("dev")["mounts"].as_array().unwrap().len(), 2);
        assert_eq!(world.inside("dev", shown), "changedtwo");
        drop(user.stdin.take());
        user.wait().unwrap();

        // One is replaced at the same path, and the other stays in it.
        let change = format!("mount+={}:/srv/hot/one/inner", one.display());
        assert_eq!(
            set(world, "dev", &["mount-=/srv/hot/one/inner", &change]),
            ""
        );
        let shown = "cat /srv/hot/one/inner/name && touch /srv/hot/one/inner/new";
        assert_eq!(world.inside("dev", shown), "changed");
        assert_eq!(set(world, "dev", &["mount="]), "");
        let left = world.inside("dev", "ls -A /srv/hot/one; ! grep '^mount' /proc/mounts");
        assert_eq!(left, "");
        assert_eq!(world.inspect("dev")["mounts"], serde_json::json!([]));
    }
}

/// A file system that is mounted in a source, and one that is a source, which a link leads to.
fn mounts_may_be_on_other_file_systems(world: &World, parent: &Path) {
    let disk = parent.join("one/disk");
    fs::create_dir(&disk).unwrap();
    let mounted = Command::new("mount")
        .args(["-t", "tmpfs", "none"])
        .arg(&disk)
        .status();
    assert!(mounted.unwrap().success());
    fs::write(disk.join("name"), "disk").unwrap();
    symlink(&disk, parent.join("link")).unwrap();
    let change = format!("mount+={}:/srv/disk", parent.join("link").display());
    assert_eq!(set(world, "dev", &[&change]), "");
    let sources = world.inspect("dev")["mounts"].to_string();
    assert!(sources.contains(&disk.display().to_string()), "{sources}");
    let shown = "cat /srv/disk/name /srv/hot/one/disk/name; echo here > /srv/disk/by-guest; \
                 stat -c %n /srv/hot/one/disk/by-guest";
    assert_eq!(
        world.inside("dev", shown),
        "diskdisk/srv/hot/one/disk/by-guest\n"
    );
    assert_eq!(fs::read(disk.join("by-guest")).unwrap(), b"here\n");
    assert_eq!(set(world, "dev", &["mount-=/srv/disk"]), "");
    let unmounted = Command::new("umount").arg("--lazy").arg(&disk).status();
    assert!(unmounted.unwrap().success());
}

fn mounts_that_cannot_work_are_refused(lab: &Lab) {
    let world = lab.unbooted();
    let parent = directory(world, &world.home(), "mounts-that-cannot-work");
    let at = |below: &str| parent.join(below).display().to_string();
    symlink(world.path("data/container"), parent.join("link")).unwrap();
    let home = world.home().display().to_string();
    let many: Vec<String> = (0..9).map(|n| format!("{}:/m{n}", at(""))).collect();
    for (mount, reason) in [
        (format!("{}:/a", at("name")), "only directories"),
        (format!("{}:/a", at("none")), "No such file"),
        (format!("{}:/a", at("link")), "directory of this program"),
        (format!("{}:a", at("")), "not absolute"),
        (format!("{}:/", at("")), "root directory"),
        (format!("{}:/run/a", at("")), "early boot"),
        (format!("{}:/etc", at("")), "needs its own"),
        (format!("{}:/a:rwx", at("")), "neither ro nor rw"),
        (format!("{}:{home}", at("")), "would hide the home"),
        (format!("{}:{}", at(""), at("new")), "mkdir -p"),
        (many.join(","), "the limit is 8"),
    ] {
        let error = world.error(&["set", "-n", "one", &format!("mount={mount}")]);
        assert!(error.contains(reason), "{mount}: {error}");
    }
    assert_eq!(world.inspect("one")["mounts"], serde_json::json!([]));
    // Part of the home, which the machine cannot change.
    let own = format!("mount={}:{}:ro", at(""), at(""));
    assert_eq!(set(world, "one", &[&own]), "");
    assert_eq!(set(world, "one", &["mount="]), "");
}
