//! Another user of the host tries every file, socket, process and port of a user with machines.

use std::{
    fs,
    io::Write,
    os::unix::fs::MetadataExt,
    path::{Path, PathBuf},
    process::Stdio,
};

use end_to_end::{Lab, Outcome, World, eventually};

crate::declare::tests![another_user_reaches_nothing];

const INTRUDER: &str = include_str!("intruder.py");

fn another_user_reaches_nothing(lab: &Lab) {
    let (world, stranger) = (World::for_user().with_templates(), World::for_user());
    // Files that the test and useradd have created are no part of it.
    let before = paths_of(&world);
    world.configure("[network]\nsame-user-only = true\n");
    let image = lab.image("busybox:1");
    let published = xtask::ports::unused_address().unwrap().to_string();
    let publish = format!("{published}:8080");
    let options = ["--publish", &publish, "--socket", "/tmp/page.sock"];
    world.create(&image, "web", &options);
    world.create(&image, "asleep", &[]);
    world.stdout(&["snapshot", "create", "-n", "web", "before"]);
    world.stdout(&["suspend", "asleep"]);
    world.stdout(&["ssh-config", "--install"]);
    let serve = "echo page > /tmp/index.html; exec httpd -f -p 8080 -h /tmp";
    world.stdout(&["run", "-d", "-n", "web", serve]);
    let url = format!("http://{published}/");
    let fetch = |world: &World| {
        let mut wget = world.command("busybox".as_ref());
        wget.args(["wget", "-q", "-O", "-", &url])
            .env_remove("http_proxy");
        Outcome::from(wget.output().unwrap()).stdout
    };
    eventually("the user is served", || fetch(&world) == "page\n");

    let paths = paths_of(&world)
        .into_iter()
        .filter(|path| !before.contains(path));
    let names: Vec<String> = paths.map(|path| path.display().to_string()).collect();
    let sockets = names.iter().filter(|name| name.ends_with(".sock")).count();
    assert!(sockets >= 3, "{names:?}");
    let mut intruder = stranger.command("python3".as_ref());
    let uid = world.user().unwrap().uid.to_string();
    let port = published.rsplit(':').next().unwrap();
    intruder.args(["-c", INTRUDER, &uid, port]);
    let pipes = intruder
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped());
    let mut running = pipes.spawn().unwrap();
    let mut stdin = running.stdin.take().unwrap();
    stdin.write_all(names.join("\0").as_bytes()).unwrap();
    drop(stdin);
    let outcome = Outcome::from(running.wait_with_output().unwrap());
    assert_eq!(outcome.code, Some(0), "{outcome:?}");
    assert!(!outcome.stderr.contains(": 0"), "{}", outcome.stderr);
    // The name server is for the host's resolver, which is another user (docs/security.md).
    let is_reached = |line: &&str| !line.starts_with("udp port 127.19.0.1 ");
    let reached: Vec<&str> = outcome.stdout.lines().filter(is_reached).collect();
    assert_eq!(reached, [""; 0], "{}", outcome.stderr);
    // The machines have noticed nothing.
    assert_eq!(fetch(&world), "page\n");
    assert_eq!(world.inside("asleep", "echo awake"), "awake\n");
}

/// Returns the paths of the world's user, except for the program and its files, which the test has
/// installed for all users.
fn paths_of(world: &World) -> Vec<PathBuf> {
    let directories = ["data", "config", "runtime"].map(|name| world.path(name));
    let shared = ["/tmp", "/run", "/dev/shm", "/var/tmp"].map(PathBuf::from);
    let mut paths = Vec::new();
    for directory in directories.iter().chain(&shared).chain([&world.home()]) {
        list(directory, world.user().unwrap().uid, &mut paths);
    }
    paths
}

/// Adds the paths below a directory that belong to a user. Mounts and links are not followed.
fn list(directory: &Path, uid: u32, paths: &mut Vec<PathBuf>) {
    let Ok(entries) = fs::read_dir(directory) else {
        return;
    };
    for entry in entries.flatten() {
        let Ok(about) = entry.metadata() else {
            continue;
        };
        if about.uid() == uid {
            paths.push(entry.path());
        }
        if about.is_dir() {
            list(&entry.path(), uid, paths);
        }
    }
}
