//! Concurrent commands: each ends in a defined state and reports it.

use std::process::{Child, Command, Stdio};

use end_to_end::{Lab, Outcome, World, eventually};

crate::declare::tests![
    concurrent_creates_of_one_name_make_one_machine,
    concurrent_runs_boot_a_stopped_machine_once,
    machine_is_stopped_while_it_boots,
    machine_is_removed_while_a_command_runs,
    machine_is_removed_while_it_boots,
    commands_with_other_directories_find_the_machine,
];

/// Starts a command without waiting for it.
fn spawn(mut command: Command) -> Child {
    command
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap()
}

fn wait(child: Child) -> Outcome {
    child.wait_with_output().unwrap().into()
}

fn stopped(lab: &Lab) -> World {
    let world = World::for_user();
    world.create(&lab.image("busybox:1"), "tiny", &["--no-boot"]);
    world
}

fn concurrent_creates_of_one_name_make_one_machine(lab: &Lab) {
    let world = World::for_user();
    let image = lab.image("busybox:1");
    let create = || spawn(world.machine(&["create", &image, "--name", "one", "--memory", "1G"]));
    let outcomes = [create(), create()].map(wait);
    let made = outcomes.iter().find(|outcome| outcome.code == Some(0));
    assert_eq!(made.unwrap().stdout, "one\n");
    let refused = outcomes.iter().find(|outcome| outcome.code == Some(1));
    let error = refused.unwrap().error();
    assert!(error.contains("machine \"one\" already exists"), "{error}");
    assert_eq!(world.bundles(), ["one"]);
    assert_eq!(world.inside("one", "echo well"), "well\n");
}

fn concurrent_runs_boot_a_stopped_machine_once(lab: &Lab) {
    let world = stopped(lab);
    let line = "cat /proc/sys/kernel/random/boot_id";
    let runs: Vec<Child> = (0..10)
        .map(|_| spawn(world.machine(&["run", "-n", "tiny", line])))
        .collect();
    let mut boots: Vec<String> = runs
        .into_iter()
        .map(|run| {
            let outcome = wait(run);
            assert_eq!(outcome.code, Some(0), "{outcome:?}");
            outcome.stdout
        })
        .collect();
    boots.dedup();
    assert_eq!(boots.len(), 1, "{boots:?}");
    assert_eq!(world.engines().len(), 1);
}

fn machine_is_stopped_while_it_boots(lab: &Lab) {
    let world = stopped(lab);
    let run = spawn(world.machine(&["run", "-n", "tiny", "echo up"]));
    eventually("the machine boots", || !world.engines().is_empty());
    assert_eq!(world.stdout(&["stop", "tiny"]), "tiny\n");
    assert!(world.is_stopped("tiny"));
    let outcome = wait(run);
    let error = outcome.error();
    assert!(error.contains("was stopped during the boot"), "{error}");
    assert_eq!(world.inside("tiny", "echo again"), "again\n");
}

fn machine_is_removed_while_a_command_runs(lab: &Lab) {
    let world = stopped(lab);
    let run = spawn(world.machine(&["run", "-n", "tiny", "touch /tmp/runs; sleep 1000"]));
    let runs = || world.run(&["run", "-n", "tiny", "test -e /tmp/runs"]).code == Some(0);
    eventually("the command runs", runs);
    assert_eq!(world.stdout(&["rm", "tiny"]), "tiny\n");
    assert_eq!(world.bundles(), [""; 0]);
    let outcome = wait(run);
    assert_ne!(outcome.code, Some(0), "{outcome:?}");
    assert!(outcome.stderr.contains("stopped while"), "{outcome:?}");
    assert!(world.engines().is_empty());
}

fn machine_is_removed_while_it_boots(lab: &Lab) {
    let world = stopped(lab);
    let run = spawn(world.machine(&["run", "-n", "tiny", "echo up"]));
    eventually("the machine boots", || !world.engines().is_empty());
    assert_eq!(world.stdout(&["rm", "tiny"]), "tiny\n");
    assert_eq!(world.bundles(), [""; 0]);
    let outcome = wait(run);
    assert_eq!(outcome.code, Some(125), "{outcome:?}");
    assert!(world.engines().is_empty() && world.processes("runtime").is_empty());
}

/// In cron jobs or after `su`, the session's variables are not set.
fn commands_with_other_directories_find_the_machine(lab: &Lab) {
    let world = World::for_root();
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
        "the running machine is found"
    );
    let renamed = other("XDG_RUNTIME_DIR", &["rename", "tiny", "new"]);
    assert!(renamed.error().contains("is running"), "{renamed:?}");
    let confused = other("XDG_DATA_HOME", &["ls"]);
    assert!(confused.error().contains("XDG_RUNTIME_DIR"), "{confused:?}");
    assert_eq!(other("XDG_RUNTIME_DIR", &["rm", "tiny"]).code, Some(0));
    assert!(world.engines().is_empty());
    assert_eq!(world.bundles(), [""; 0]);
}
