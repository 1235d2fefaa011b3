//! Commands that meet: each ends in a defined state and says what happened.

use std::process::{Child, Command, Stdio};

use end_to_end::{Lab, Outcome, World, eventually};

crate::tests![
    two_creates_of_one_name,
    ten_runs_of_a_stopped_machine_boot_it_once,
    a_stop_while_it_boots,
    a_removal_while_a_command_runs,
    a_removal_while_it_boots,
    other_directories_for_sockets_and_for_data,
];

/// Starts a command without waiting for it.
fn begin(mut command: Command) -> Child {
    command
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap()
}

fn end(child: Child) -> Outcome {
    child.wait_with_output().unwrap().into()
}

fn stopped(lab: &Lab) -> World {
    let world = World::of_user();
    world.create(&lab.image("busybox:1"), "tiny", &["--no-boot"]);
    world
}

fn two_creates_of_one_name(lab: &Lab) {
    let world = World::of_user();
    let image = lab.image("busybox:1");
    let create = || begin(world.machine(&["create", &image, "--name", "one", "--memory", "1G"]));
    let outcomes = [create(), create()].map(end);
    let made = outcomes.iter().find(|outcome| outcome.code == Some(0));
    assert_eq!(made.unwrap().stdout, "one\n");
    let refused = outcomes.iter().find(|outcome| outcome.code == Some(1));
    let error = refused.unwrap().error();
    assert!(error.contains("one exists already"), "{error}");
    assert_eq!(world.bundles(), ["one"]);
    assert_eq!(world.inside("one", "echo well"), "well\n");
}

fn ten_runs_of_a_stopped_machine_boot_it_once(lab: &Lab) {
    let world = stopped(lab);
    let line = "cat /proc/sys/kernel/random/boot_id";
    let runs: Vec<Child> = (0..10)
        .map(|_| begin(world.machine(&["run", "-n", "tiny", line])))
        .collect();
    let mut boots: Vec<String> = runs
        .into_iter()
        .map(|run| {
            let outcome = end(run);
            assert_eq!(outcome.code, Some(0), "{outcome:?}");
            outcome.stdout
        })
        .collect();
    boots.dedup();
    assert_eq!(boots.len(), 1, "{boots:?}");
    assert_eq!(world.engines().len(), 1);
}

fn a_stop_while_it_boots(lab: &Lab) {
    let world = stopped(lab);
    let run = begin(world.machine(&["run", "-n", "tiny", "echo up"]));
    eventually("it boots", || !world.engines().is_empty());
    assert_eq!(world.stdout(&["stop", "tiny"]), "tiny\n");
    assert!(world.is_stopped("tiny"));
    let outcome = end(run);
    let error = outcome.error();
    assert!(error.contains("was stopped while it booted"), "{error}");
    assert_eq!(world.inside("tiny", "echo again"), "again\n");
}

fn a_removal_while_a_command_runs(lab: &Lab) {
    let world = stopped(lab);
    let run = begin(world.machine(&["run", "-n", "tiny", "touch /tmp/runs; sleep 1000"]));
    let runs = || world.run(&["run", "-n", "tiny", "test -e /tmp/runs"]).code == Some(0);
    eventually("the command runs", runs);
    assert_eq!(world.stdout(&["rm", "tiny"]), "tiny\n");
    assert_eq!(world.bundles(), [""; 0]);
    let outcome = end(run);
    assert_ne!(outcome.code, Some(0), "{outcome:?}");
    assert!(outcome.stderr.contains("was stopped"), "{outcome:?}");
    assert!(world.engines().is_empty());
}

fn a_removal_while_it_boots(lab: &Lab) {
    let world = stopped(lab);
    let run = begin(world.machine(&["run", "-n", "tiny", "echo up"]));
    eventually("it boots", || !world.engines().is_empty());
    assert_eq!(world.stdout(&["rm", "tiny"]), "tiny\n");
    assert_eq!(world.bundles(), [""; 0]);
    let outcome = end(run);
    assert_eq!(outcome.code, Some(1), "{outcome:?}");
    assert!(world.engines().is_empty() && world.processes("runtime").is_empty());
}

/// As from cron or after `su`, where the session's own variables are not set.
fn other_directories_for_sockets_and_for_data(lab: &Lab) {
    let world = World::of_root();
    world.create(&lab.image("busybox:1"), "tiny", &[]);
    let other = |variable: &str, arguments: &[&str]| -> Outcome {
        let directory = world.path(&format!("other-{variable}"));
        std::fs::create_dir_all(&directory).unwrap();
        let mut command = world.machine(arguments);
        command.env(variable, directory).output().unwrap().into()
    };
    let line = "cat /proc/sys/kernel/random/boot_id";
    let boot = world.inside("tiny", line);
    let found = other("XDG_RUNTIME_DIR", &["run", "-n", "tiny", line]);
    assert_eq!(
        (found.code, found.stdout),
        (Some(0), boot),
        "the same machine is found"
    );
    let renamed = other("XDG_RUNTIME_DIR", &["rename", "tiny", "new"]);
    assert!(renamed.error().contains("is running"), "{renamed:?}");
    let confused = other("XDG_DATA_HOME", &["ls"]);
    assert!(confused.error().contains("XDG_RUNTIME_DIR"), "{confused:?}");
    assert_eq!(other("XDG_RUNTIME_DIR", &["rm", "tiny"]).code, Some(0));
    assert!(world.engines().is_empty());
    assert_eq!(world.bundles(), [""; 0]);
}
