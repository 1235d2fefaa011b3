//! Stopped, killed and hanging machines, and their data.

use std::{
    fs,
    io::{BufRead, BufReader},
    path::Path,
    process::{Command, Stdio},
    time::{Duration, Instant},
};

use end_to_end::{Lab, World, eventually};
use serde_json::Value;

use crate::system;

crate::declare::tests![
    stop_shuts_down_and_keeps_written_data,
    stop_right_after_the_start_shuts_down,
    machine_boots_after_its_engine_was_killed,
    crash_power_off_and_kill_are_distinguished,
    killed_runtime_ends_all_processes_of_its_machine,
    machines_keep_running_when_the_service_is_killed,
    killed_file_share_stops_its_machine,
    hanging_boot_is_retried,
    hanging_machine_is_reported,
    removed_machine_leaves_nothing,
    terminated_runtime_shuts_its_machine_down,
    machine_is_found_without_its_runtime_directory,
    command_boots_a_machine_that_is_shutting_down,
    stop_during_a_reboot_stops_the_machine,
    sigterm_during_a_reboot_stops_the_machine,
    rebooted_machine_is_not_stopping,
    machine_reboots_after_the_program_was_updated,
    broken_bundle_is_reported,
];

fn tiny(lab: &Lab) -> World {
    let world = World::for_user();
    world.create(&lab.image("busybox:1"), "tiny", &[]);
    world
}

fn stop_shuts_down_and_keeps_written_data(lab: &Lab) {
    let world = World::for_root();
    world.create(&lab.image("debian-systemd:12"), "dev", &[]);
    world.inside("dev", "echo kept > /a-file");
    system::check(&world, "dev");
    world.inside(
        "dev",
        "echo vm.overcommit_memory=0 > /etc/sysctl.d/mine.conf",
    );
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
        "the agent logged no errors: {boot_log}"
    );
    world.check_disk("dev");
    assert_eq!(
        world.stdout(&["stop", "dev"]),
        "dev\n",
        "stopping a stopped machine succeeds"
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
    let kept = world.inside("dev", "cat /a-file /proc/sys/vm/overcommit_memory");
    assert_eq!(kept, "kept\n0\n", "the machine's own kernel parameter");
    assert_ne!(world.inspect("dev")["containerId"], before);
}

fn stop_right_after_the_start_shuts_down(lab: &Lab) {
    let world = World::for_root();
    world.create(&lab.image("debian-systemd:12"), "dev", &["--no-boot"]);
    world.inside("dev", "true");
    world.stdout(&["stop", "dev"]);
    let boot_log = world.stdout(&["logs", "--boot", "dev"]);
    assert!(!boot_log.contains("is killed"), "{boot_log}");
    world.check_disk("dev");
}

fn machine_boots_after_its_engine_was_killed(lab: &Lab) {
    let world = tiny(lab);
    world.inside("tiny", "sudo true 2>/dev/null; sync");
    let [engine] = &world.engines()[..] else {
        panic!("{:?}", world.engines());
    };
    engine.kill();
    eventually("the machine is stopped", || world.is_stopped("tiny"));
    eventually("no process of the machine is left", || {
        world.processes("file-share").is_empty()
    });
    assert_eq!(world.inside("tiny", "echo again"), "again\n");
}

fn crash_power_off_and_kill_are_distinguished(lab: &Lab) {
    let world = World::for_root();
    world.create(&lab.image("busybox-plain:1"), "plain", &[]);
    let notes = || world.run(&["run", "-n", "plain", "true"]).stderr;
    let is_stopped = || eventually("the machine is stopped", || world.is_stopped("plain"));

    world.run(&["run", "-n", "plain", "echo c > /proc/sysrq-trigger"]);
    is_stopped();
    let note = notes();
    assert!(note.contains("had crashed"), "{note}");
    assert!(note.contains("logs --boot --previous plain"), "{note}");
    assert_eq!(notes(), "");
    let console = world.stdout(&["logs", "--boot", "--previous", "plain"]);
    assert!(console.contains("Kernel panic"), "{console}");

    world.run(&["run", "-n", "plain", "poweroff"]);
    is_stopped();
    let log = fs::read_to_string(world.bundle("plain", "runtime.log")).unwrap();
    assert!(!log.contains("ERROR"), "{log}");
    let note = notes();
    assert!(!note.contains("crashed"), "{note}");

    // A machine that hangs.
    world.engines()[0].pause();
    assert_eq!(world.stdout(&["kill", "plain"]), "plain\n");
    assert!(world.is_stopped("plain"));
    let note = notes();
    assert!(!note.contains("crashed"), "{note}");
    assert_eq!(world.stdout(&["stop", "--time", "0", "plain"]), "plain\n");
    world.check_disk("plain");
}

fn killed_runtime_ends_all_processes_of_its_machine(lab: &Lab) {
    let world = tiny(lab);
    world.processes("runtime")[0].kill();
    eventually("the machine is stopped", || world.is_stopped("tiny"));
    eventually("no process of the machine is left", || {
        world.engines().is_empty() && world.processes("file-share").is_empty()
    });
    assert_eq!(world.inside("tiny", "echo again"), "again\n");
}

/// Returns what `inspect` prints, without the size of the disk, which grows while the machine runs.
fn inspect_without_disk_size(world: &World) -> serde_json::Value {
    let mut machine = world.inspect("tiny");
    machine.as_object_mut().unwrap().remove("diskSize").unwrap();
    machine
}

fn machines_keep_running_when_the_service_is_killed(lab: &Lab) {
    let world = tiny(lab);
    let before = inspect_without_disk_size(&world);
    world.processes("service")[0].kill();
    assert_eq!(inspect_without_disk_size(&world), before);
    assert_eq!(world.inside("tiny", "echo still here"), "still here\n");
    world.stdout(&["stop", "tiny"]);
    assert!(world.is_stopped("tiny"));
}

fn killed_file_share_stops_its_machine(lab: &Lab) {
    let world = tiny(lab);
    world.processes("file-share")[0].kill();
    eventually("the machine is stopped", || world.is_stopped("tiny"));
    assert_eq!(world.inside("tiny", "echo again"), "again\n");
}

fn hanging_boot_is_retried(lab: &Lab) {
    let world = World::for_user();
    world.create(&lab.image("busybox:1"), "tiny", &["--no-boot"]);
    let mut run = world.machine(&["run", "-n", "tiny", "echo up"]);
    let run = run.stdout(Stdio::piped()).spawn().unwrap();
    eventually("the kernel prints", || {
        std::fs::metadata(world.bundle("tiny", "boot.log")).is_ok_and(|log| log.len() > 0)
    });
    world.engines()[0].pause();
    let output = run.wait_with_output().unwrap();
    assert_eq!(String::from_utf8(output.stdout).unwrap(), "up\n");
}

fn hanging_machine_is_reported(lab: &Lab) {
    let world = tiny(lab);
    let engine = &world.engines()[0];
    engine.pause();
    let mut run = world.machine(&["run", "-n", "tiny", "echo up"]);
    let run = run.stdout(Stdio::piped()).stderr(Stdio::piped());
    let mut run = run.spawn().unwrap();
    let mut line = String::new();
    BufReader::new(run.stderr.take().unwrap())
        .read_line(&mut line)
        .unwrap();
    assert!(line.contains("machine restart tiny"), "{line}");
    engine.resume();
    let output = run.wait_with_output().unwrap();
    assert_eq!(String::from_utf8(output.stdout).unwrap(), "up\n");
}

fn removed_machine_leaves_nothing(lab: &Lab) {
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
            .contains("machine \"tiny\" not found")
    );
}

/// A host that shuts down sends SIGTERM to all processes at once.
fn terminated_runtime_shuts_its_machine_down(lab: &Lab) {
    let world = World::for_root();
    world.create(&lab.image("busybox:1"), "tiny", &[]);
    world.inside("tiny", "echo unsynced > /root/file; echo shared > file");
    for process in [
        world.engines(),
        world.processes("file-share"),
        world.processes("runtime"),
    ] {
        process[0].terminate();
    }
    eventually("the machine is stopped", || world.is_stopped("tiny"));
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

/// The runtime directory of a session is removed at logout and created again at the next login.
fn machine_is_found_without_its_runtime_directory(lab: &Lab) {
    let world = World::for_root();
    world.create(&lab.image("busybox:1"), "tiny", &[]);
    let boot = world.inspect("tiny")["containerId"].clone();
    std::fs::remove_dir_all(world.path("runtime/container")).unwrap();
    assert_eq!(world.inspect("tiny")["containerId"], boot);
    let running = world.error(&["rename", "tiny", "other"]);
    assert!(running.contains("is running"), "{running}");
    // It also finds machines that start later, and they find it.
    world.create(&lab.image("busybox:1"), "later", &[]);
    for (from, to) in [("tiny", "later"), ("later", "tiny")] {
        let ping = format!("ping -c 1 {to}");
        let is_found = || world.run(&["run", "-n", from, &ping]).code == Some(0);
        eventually("machines find each other", is_found);
    }
    world.stdout(&["rm", "later"]);
    // The service may create a file there meanwhile.
    let remove = || std::fs::remove_dir_all(world.path("runtime/container"));
    eventually("the directory is removed", || remove().is_ok());
    assert_eq!(world.stdout(&["rm", "tiny"]), "tiny\n");
    assert!(world.engines().is_empty());
    assert_eq!(world.bundles(), [""; 0]);
}

fn command_boots_a_machine_that_is_shutting_down(lab: &Lab) {
    let world = World::for_root();
    world.create(&lab.image("busybox-plain:1"), "plain", &[]);
    for command in ["poweroff", "reboot"] {
        let file_share = world.processes("file-share");
        world.stdout(&["run", "-d", "-n", "plain", command]);
        // A command that starts before init has ended is killed with the machine.
        let early = world.run(&["run", "-n", "plain", "echo up"]);
        let is_killed = early.code.is_some_and(|code| code > 128);
        let is_lost = early.stderr.contains("before the command ended");
        assert!(is_killed || is_lost || early.stdout == "up\n", "{early:?}");
        // The guest has powered off then, and its engine is about to end or has ended.
        eventually("this boot ends", || {
            world.processes("file-share") != file_share
        });
        assert_eq!(world.inside("plain", "echo up"), "up\n", "{command}");
    }
}

/// Moments of a guest's reboot at which something else happens.
#[derive(Debug, Clone, Copy)]
enum Moment {
    /// Init has not acted on the reboot yet.
    AtOnce,
    /// The guest has announced the reboot, and its engine is about to end.
    Announced,
    /// A new engine runs.
    Booting,
}

const MOMENTS: [Moment; 3] = [Moment::AtOnce, Moment::Announced, Moment::Booting];

/// Reboots the machine from inside and waits for the moment.
fn reboot_until(world: &World, machine: &str, moment: Moment) {
    let engine = world.engines();
    world.stdout(&["run", "-d", "-n", machine, "reboot"]);
    match moment {
        Moment::AtOnce => {}
        Moment::Announced => eventually("it reboots", || {
            world.inspect(machine)["status"] == "starting"
        }),
        Moment::Booting => eventually("a new engine runs", || {
            let new = world.engines();
            !new.is_empty() && new != engine
        }),
    }
}

/// Fails if the machine runs or does not boot again.
fn check_stopped_and_boots(world: &World, machine: &str, moment: Moment) {
    assert!(world.is_stopped(machine), "{moment:?}");
    assert!(world.engines().is_empty(), "{moment:?}");
    assert!(world.processes("runtime").is_empty(), "{moment:?}");
    assert_eq!(world.inside(machine, "echo up"), "up\n", "{moment:?}");
}

fn stop_during_a_reboot_stops_the_machine(lab: &Lab) {
    let world = World::for_root();
    world.create(&lab.image("busybox-plain:1"), "plain", &[]);
    for moment in MOMENTS {
        reboot_until(&world, "plain", moment);
        let begin = Instant::now();
        assert_eq!(world.stdout(&["stop", "plain"]), "plain\n", "{moment:?}");
        // A stop that is lost returns after its timeout, 120 s.
        let taken = begin.elapsed();
        assert!(taken < Duration::from_secs(60), "{moment:?}: {taken:?}");
        check_stopped_and_boots(&world, "plain", moment);
    }
    world.stdout(&["stop", "plain"]);
    world.check_disk("plain");
}

fn sigterm_during_a_reboot_stops_the_machine(lab: &Lab) {
    let world = World::for_root();
    world.create(&lab.image("busybox-plain:1"), "plain", &[]);
    for moment in MOMENTS {
        reboot_until(&world, "plain", moment);
        world.processes("runtime")[0].terminate();
        eventually("its runtime has ended", || {
            world.processes("runtime").is_empty()
        });
        check_stopped_and_boots(&world, "plain", moment);
    }
}

fn rebooted_machine_is_not_stopping(lab: &Lab) {
    let world = World::for_root();
    world.create(&lab.image("busybox-plain:1"), "plain", &[]);
    reboot_until(&world, "plain", Moment::Booting);
    eventually("it is up again", || {
        world.inspect("plain")["status"] == "running"
    });
    let failed = world.run(&["run", "-n", "plain", "exit 3"]);
    assert_eq!((failed.code, &*failed.stderr), (Some(3), ""), "{failed:?}");
}

/// Replaces a file by an empty one as an installation does.
fn empty(path: &Path) {
    let new = path.with_extension("new");
    fs::write(&new, "").unwrap();
    fs::rename(new, path).unwrap();
}

fn machine_reboots_after_the_program_was_updated(lab: &Lab) {
    let world = World::for_root();
    world.create(&lab.image("busybox-plain:1"), "plain", &[]);
    let (program, updated) = (world.program(), world.path("usr/bin/updated"));
    // By another process: one that this forks meanwhile would have the file open for writing.
    let copied = Command::new("cp").args([&program, &updated]).status();
    assert!(copied.unwrap().success());
    fs::rename(updated, program).unwrap();
    fs::write(world.home().join("here"), "").unwrap();
    let seen = format!("ls {}", world.home().display());
    // Nothing boots with these.
    let installed = world.path("usr/lib/container");
    empty(&installed.join("initramfs.cpio"));
    for kernel in fs::read_dir(installed.join("kernels")).unwrap() {
        empty(&kernel.unwrap().path().join("vmlinux"));
    }
    for _ in 0..2 {
        reboot_until(&world, "plain", Moment::Booting);
        assert_eq!(world.inside("plain", &seen), "here\n");
    }
    // The update has no effect before the machine is stopped.
    world.stdout(&["stop", "plain"]);
    let error = world.error(&["start", "plain"]);
    assert!(error.contains("vmlinux"), "{error}");
}

fn broken_bundle_is_reported(lab: &Lab) {
    let world = World::for_user();
    world.create(&lab.image("busybox:1"), "well", &["--no-boot"]);
    // A newer version has written it.
    let file = world.bundle("well", "boot-config.json");
    let mut boot: Value = serde_json::from_slice(&fs::read(&file).unwrap()).unwrap();
    boot["newSetting"] = 7.into();
    fs::write(&file, boot.to_string()).unwrap();
    world.stdout(&["set", "-n", "well", "cpus=3"]);
    let boot: Value = serde_json::from_slice(&fs::read(&file).unwrap()).unwrap();
    assert_eq!((&boot["cpus"], &boot["newSetting"]), (&3.into(), &7.into()));
    world.create(&lab.image("busybox:1"), "broken", &["--no-boot"]);
    std::fs::write(world.bundle("broken", "boot-config.json"), "").unwrap();
    let listed = world.run(&["ls", "-q"]);
    assert_eq!((listed.code, &*listed.stdout), (Some(0), "well\n"));
    assert!(
        listed.stderr.contains("broken") && listed.stderr.contains("boot-config.json"),
        "{listed:?}"
    );
}
