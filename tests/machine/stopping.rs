//! The end of a machine, in order and otherwise, and what survives it.

use std::{
    io::{BufRead, BufReader},
    process::Stdio,
};

use end_to_end::{Lab, World, eventually};

crate::tests![
    a_stop_is_orderly_and_what_was_written_stays,
    a_stop_right_after_the_start_is_orderly_too,
    a_killed_engine_leaves_a_stopped_machine_that_boots_again,
    a_killed_runtime_takes_everything_with_it,
    a_killed_service_is_succeeded_and_machines_go_on,
    a_killed_file_share_stops_its_machine,
    a_boot_that_stands_still_is_begun_again,
    a_machine_that_stands_still_is_told_of,
    a_removed_machine_leaves_nothing,
    a_runtime_that_is_told_to_end_stops_its_machine_in_order,
    a_machine_is_found_again_when_its_session_is_gone,
    a_command_for_a_machine_that_goes_down_boots_it_again,
    a_broken_bundle_is_told_of,
];

fn tiny(lab: &Lab) -> World {
    let world = World::of_user();
    world.create(&lab.image("busybox:1"), "tiny", &[]);
    world
}

fn a_stop_is_orderly_and_what_was_written_stays(lab: &Lab) {
    let world = World::of_root();
    world.create(&lab.image("debian-systemd:12"), "dev", &[]);
    world.inside("dev", "echo kept > /a-file");
    let before = world.inspect("dev")["containerId"].clone();
    assert_eq!(world.stdout(&["stop", "dev"]), "dev\n");
    let stopped = world.inspect("dev");
    assert_eq!(stopped["status"], "stopped");
    for gone in ["startedDate", "containerId", "ipAddress"] {
        assert!(stopped.get(gone).is_none(), "{stopped}");
    }
    let boot_log = world.stdout(&["logs", "--boot", "dev"]);
    assert!(
        !boot_log.contains("agent:"),
        "nothing was in the way: {boot_log}"
    );
    world.check_disk("dev");
    assert_eq!(
        world.stdout(&["stop", "dev"]),
        "dev\n",
        "it is stopped already"
    );
    let state = world.run(&[
        "run",
        "-n",
        "dev",
        "systemctl",
        "is-system-running",
        "--wait",
    ]);
    assert_eq!(state.stdout, "running\n", "{state:?}");
    assert_eq!(world.inside("dev", "cat /a-file"), "kept\n");
    assert_ne!(world.inspect("dev")["containerId"], before);
}

fn a_stop_right_after_the_start_is_orderly_too(lab: &Lab) {
    let world = World::of_root();
    world.create(&lab.image("debian-systemd:12"), "dev", &["--no-boot"]);
    world.inside("dev", "true");
    world.stdout(&["stop", "dev"]);
    let boot_log = world.stdout(&["logs", "--boot", "dev"]);
    assert!(!boot_log.contains("is killed"), "{boot_log}");
    world.check_disk("dev");
}

fn a_killed_engine_leaves_a_stopped_machine_that_boots_again(lab: &Lab) {
    let world = tiny(lab);
    world.inside("tiny", "sudo true 2>/dev/null; sync");
    let [engine] = &world.engines()[..] else {
        panic!("{:?}", world.engines());
    };
    engine.kill();
    eventually("it is stopped", || world.is_stopped("tiny"));
    eventually("nothing of it runs", || {
        world.processes("file-share").is_empty()
    });
    assert_eq!(world.inside("tiny", "echo again"), "again\n");
}

fn a_killed_runtime_takes_everything_with_it(lab: &Lab) {
    let world = tiny(lab);
    world.processes("runtime")[0].kill();
    eventually("it is stopped", || world.is_stopped("tiny"));
    eventually("nothing of it runs", || {
        world.engines().is_empty() && world.processes("file-share").is_empty()
    });
    assert_eq!(world.inside("tiny", "echo again"), "again\n");
}

fn a_killed_service_is_succeeded_and_machines_go_on(lab: &Lab) {
    let world = tiny(lab);
    let before = world.inspect("tiny");
    world.processes("service")[0].kill();
    assert_eq!(world.inspect("tiny"), before);
    assert_eq!(world.inside("tiny", "echo still here"), "still here\n");
    world.stdout(&["stop", "tiny"]);
    assert!(world.is_stopped("tiny"));
}

fn a_killed_file_share_stops_its_machine(lab: &Lab) {
    let world = tiny(lab);
    world.processes("file-share")[0].kill();
    eventually("it is stopped", || world.is_stopped("tiny"));
    assert_eq!(world.inside("tiny", "echo again"), "again\n");
}

fn a_boot_that_stands_still_is_begun_again(lab: &Lab) {
    let world = World::of_user();
    world.create(&lab.image("busybox:1"), "tiny", &["--no-boot"]);
    let mut run = world.machine(&["run", "-n", "tiny", "echo up"]);
    let run = run.stdout(Stdio::piped()).spawn().unwrap();
    eventually("the kernel speaks", || {
        std::fs::metadata(world.bundle("tiny", "boot.log")).is_ok_and(|log| log.len() > 0)
    });
    world.engines()[0].stop();
    let output = run.wait_with_output().unwrap();
    assert_eq!(String::from_utf8(output.stdout).unwrap(), "up\n");
}

fn a_machine_that_stands_still_is_told_of(lab: &Lab) {
    let world = tiny(lab);
    let engine = &world.engines()[0];
    engine.stop();
    let mut run = world.machine(&["run", "-n", "tiny", "echo up"]);
    let run = run.stdout(Stdio::piped()).stderr(Stdio::piped());
    let mut run = run.spawn().unwrap();
    let mut told = String::new();
    BufReader::new(run.stderr.take().unwrap())
        .read_line(&mut told)
        .unwrap();
    assert!(told.contains("machine restart tiny"), "{told}");
    engine.go_on();
    let output = run.wait_with_output().unwrap();
    assert_eq!(String::from_utf8(output.stdout).unwrap(), "up\n");
}

fn a_removed_machine_leaves_nothing(lab: &Lab) {
    let world = tiny(lab);
    let removed = world.run(&["rm", "tiny"]);
    assert_eq!((removed.code, removed.stdout.as_str()), (Some(0), "tiny\n"));
    assert!(removed.stderr.contains("default machine"), "{removed:?}");
    assert_eq!(world.bundles(), [""; 0]);
    assert!(world.engines().is_empty());
    assert!(world.processes("runtime").is_empty());
    assert!(
        world
            .error(&["inspect", "tiny"])
            .contains("no machine tiny")
    );
}

/// As when the host shuts down, which tells all processes at once.
fn a_runtime_that_is_told_to_end_stops_its_machine_in_order(lab: &Lab) {
    let world = World::of_root();
    world.create(&lab.image("busybox:1"), "tiny", &[]);
    world.inside("tiny", "echo unsynced > /root/file; echo shared > file");
    for process in [
        world.engines(),
        world.processes("file-share"),
        world.processes("runtime"),
    ] {
        process[0].tell_to_end();
    }
    eventually("it is stopped", || world.is_stopped("tiny"));
    assert!(
        world
            .stdout(&["logs", "tiny"])
            .contains("the machine stops")
    );
    world.check_disk("tiny");
    assert_eq!(
        world.inside("tiny", "cat /root/file file"),
        "unsynced\nshared\n"
    );
}

/// A session's own directory is removed at logout, and made again at the next login.
fn a_machine_is_found_again_when_its_session_is_gone(lab: &Lab) {
    let world = World::of_root();
    world.create(&lab.image("busybox:1"), "tiny", &[]);
    let boot = world.inspect("tiny")["containerId"].clone();
    std::fs::remove_dir_all(world.path("runtime/container")).unwrap();
    assert_eq!(world.inspect("tiny")["containerId"], boot);
    let running = world.error(&["rename", "tiny", "other"]);
    assert!(running.contains("is running"), "{running}");
    std::fs::remove_dir_all(world.path("runtime/container")).unwrap();
    assert_eq!(world.stdout(&["rm", "tiny"]), "tiny\n");
    assert!(world.engines().is_empty());
    assert_eq!(world.bundles(), [""; 0]);
}

fn a_command_for_a_machine_that_goes_down_boots_it_again(lab: &Lab) {
    let world = World::of_root();
    world.create(&lab.image("busybox-plain:1"), "plain", &[]);
    for way in ["poweroff", "reboot"] {
        world.stdout(&["run", "-d", "-n", "plain", way]);
        // One that begins before init is gone ends with the machine.
        eventually("a command runs again", || {
            let outcome = world.run(&["run", "-n", "plain", "echo up"]);
            let is_killed = outcome.code.is_some_and(|code| code > 128);
            let is_lost = outcome.stderr.contains("ended before the command did");
            let is_done = outcome.code == Some(0);
            assert!(is_killed || is_lost || is_done, "{outcome:?}");
            outcome.stdout == "up\n"
        });
    }
}

fn a_broken_bundle_is_told_of(lab: &Lab) {
    let world = World::of_user();
    world.create(&lab.image("busybox:1"), "well", &["--no-boot"]);
    world.create(&lab.image("busybox:1"), "broken", &["--no-boot"]);
    std::fs::write(world.bundle("broken", "boot-config.json"), "").unwrap();
    let listed = world.run(&["ls", "-q"]);
    assert_eq!((listed.code, &*listed.stdout), (Some(0), "well\n"));
    assert!(
        listed.stderr.contains("broken") && listed.stderr.contains("boot-config.json"),
        "{listed:?}"
    );
}
