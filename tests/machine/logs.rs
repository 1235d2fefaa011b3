//! Logs of init and kernel.

use std::{
    fs,
    io::{BufRead, BufReader},
    process::Stdio,
    sync::mpsc,
    thread,
    time::Duration,
};

use end_to_end::{Lab, World, eventually};

crate::declare::tests![
    logs_are_shortened_followed_and_bounded,
    machine_that_was_never_booted_has_empty_logs
];

fn logs_are_shortened_followed_and_bounded(lab: &Lab) {
    let world = World::for_root();
    world.create(&lab.image("busybox:1"), "tiny", &[]);
    let log = |words: &str| world.inside("tiny", &format!("echo {words} > /dev/console"));
    // The console is a terminal, which adds carriage returns.
    let plain = |shown: String| shown.replace('\r', "");
    let shown = |arguments: &[&str]| world.stdout(&[&["logs"], arguments, &["tiny"]].concat());
    eventually("init has started", || {
        shown(&[]).contains("the machine starts")
    });
    log("one");
    log("two");
    eventually("the lines are logged", || {
        plain(shown(&[])).ends_with("one\ntwo\n")
    });
    assert_eq!(plain(shown(&["-n", "1"])), "two\n");
    assert_eq!(shown(&["-n", "0"]), "");
    assert!(shown(&["--boot"]).contains("Linux version"));
    assert_eq!(shown(&["--boot", "-n", "2"]).lines().count(), 2);

    let mut follow = world.machine(&["logs", "-f", "-n", "1", "tiny"]);
    let mut follow = follow.stdout(Stdio::piped()).spawn().unwrap();
    let lines = BufReader::new(follow.stdout.take().unwrap()).lines();
    let (sender, receiver) = mpsc::channel();
    thread::spawn(move || lines.for_each(|line| drop(sender.send(line.unwrap()))));
    let next = || plain(receiver.recv_timeout(Duration::from_secs(60)).unwrap());
    assert_eq!(next(), "two");
    log("three");
    assert_eq!(next(), "three");
    world.stdout(&["restart", "tiny"]);
    while !next().contains("the machine starts") {}

    world.inside(
        "tiny",
        "yes 0123456789 | head -c 10000000 > /dev/console; (echo; echo last) > /dev/console",
    );
    while next() != "last" {}
    let size = |file: &str| fs::metadata(world.bundle("tiny", file)).unwrap().len();
    let (newer, older) = (size("stdio.log"), size("stdio.log.1"));
    assert!(newer + older < 18_000_000, "{newer} {older}");
    assert_eq!(plain(shown(&["-n", "1"])), "last\n");
    let all = shown(&[]);
    assert_eq!(all.len() as u64, newer + older, "both parts are shown");
    world.stdout(&["rm", "tiny"]);
    assert!(
        follow.wait().unwrap().success(),
        "following ends with the machine"
    );
}

fn machine_that_was_never_booted_has_empty_logs(lab: &Lab) {
    let world = World::for_user();
    world.create(&lab.image("busybox:1"), "tiny", &["--no-boot"]);
    for log in [&["logs", "tiny"][..], &["logs", "--boot", "tiny"]] {
        assert_eq!(world.stdout(log), "");
    }
    assert!(
        world
            .error(&["logs", "other"])
            .contains("machine \"other\" not found")
    );
}
