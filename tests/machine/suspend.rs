//! Suspended machines.

use std::{
    fs::{self, File},
    io::{Read, Write},
    net::TcpStream,
    os::unix::fs::{FileExt, MetadataExt},
    path::PathBuf,
    process::{Command, Stdio},
    thread::sleep,
    time::{Duration, UNIX_EPOCH},
};

use end_to_end::{Lab, World, eventually};

crate::declare::tests![
    a_busybox_machine_of_a_user_continues,
    a_debian_machine_of_root_continues,
    what_would_be_lost_is_refused,
    a_killed_suspension_leaves_a_usable_machine,
    a_saved_memory_that_does_not_fit_is_kept,
    a_full_disk_leaves_the_machine_running,
    the_disk_of_a_suspended_machine_can_be_kept_and_copied,
];

/// A program whose state is in its memory, with files of the shared home open. It writes a number
/// that grows by one each time.
const COUNTER: &str = "exec 3>>~/written 4<~/read; i=0; \
     while :; do i=$((i+1)); echo $i >&3; echo $i >/tmp/new && mv /tmp/new /tmp/count; \
     if read -r line <&4; then echo \"$line\" >/tmp/line; fi; sleep 0.1; done";

/// Starts the counter, and waits until it counts.
fn start_counter(world: &World, machine: &str) {
    world.on_host(&["sh", "-c", "echo first >~/read; :>~/written"]);
    world.stdout(&["run", "-d", "-n", machine, COUNTER]);
    eventually("the counter counts", || count(world, machine) > 3);
}

/// Returns the number that the counter has written last.
fn count(world: &World, machine: &str) -> u64 {
    let text = world.inside(machine, "cat /tmp/count || echo 0");
    text.trim().parse().unwrap_or(0)
}

/// Returns the numbers that the counter has written to the home.
fn written(world: &World) -> Vec<u64> {
    let text = fs::read_to_string(world.home().join("written")).unwrap();
    text.lines().map(|line| line.parse().unwrap()).collect()
}

fn status(world: &World, machine: &str) -> String {
    world.inspect(machine)["status"]
        .as_str()
        .unwrap()
        .to_owned()
}

fn memory(world: &World, machine: &str) -> PathBuf {
    world.bundle(machine, "suspended/memory")
}

fn suspend(world: &World, machine: &str) {
    let suspended = world.stdout(&["suspend", machine]);
    assert_eq!(suspended, format!("{machine}\n"));
    assert_eq!(status(world, machine), "suspended");
    assert_eq!(world.engines().len(), 0, "the memory is freed");
    let mode = fs::metadata(memory(world, machine)).unwrap().mode();
    assert_eq!(mode & 0o777, 0o600, "only the user can read it");
}

/// Checks that the counter has not been started again, and continues.
fn check_counter(world: &World, machine: &str, before: u64) {
    let after = count(world, machine);
    assert!(after >= before, "{after} < {before}");
    eventually("the counter continues", || count(world, machine) > after);
    let written = written(world);
    let expected: Vec<u64> = (1..).take(written.len()).collect();
    assert_eq!(written, expected, "each number is written once");
}

fn check_clock(world: &World, machine: &str) {
    let clock: u64 = world.inside(machine, "date +%s").trim().parse().unwrap();
    let host = UNIX_EPOCH.elapsed().unwrap().as_secs();
    assert!(clock.abs_diff(host) < 30, "{clock} {host}");
}

fn continues(world: &World, machine: &str) {
    start_counter(world, machine);
    for round in 0..2 {
        let before = count(world, machine);
        suspend(world, machine);
        let shown = world.stdout(&["ls", "--filter", "status=suspended", "-q"]);
        assert_eq!(shown, format!("{machine}\n"));
        // The file that the counter reads from gets more meanwhile.
        let line = format!("round-{round}");
        world.on_host(&["sh", "-c", &format!("echo {line} >>~/read")]);
        check_counter(world, machine, before);
        let resumed = world.inspect(machine);
        assert_eq!(resumed["boot"]["kind"], "resumed", "{resumed}");
        assert!(!memory(world, machine).exists(), "it is used once");
        eventually("its disk space is freed", || {
            !world.bundle(machine, ".suspended.used").exists()
        });
        check_clock(world, machine);
        let read = || world.inside(machine, "cat /tmp/line") == format!("{line}\n");
        eventually("the open file is read", read);
    }
}

fn a_busybox_machine_of_a_user_continues(lab: &Lab) {
    let world = World::for_user();
    world.create(&lab.image("busybox:1"), "tiny", &[]);
    world.stdout(&[
        "run",
        "-d",
        "-n",
        "tiny",
        "echo served >/tmp/page; httpd -f -p 8080 -h /tmp",
    ]);
    let address = world.inspect("tiny")["ipAddress"]
        .as_str()
        .unwrap()
        .to_owned();
    let is_served = || {
        let Ok(mut connection) = TcpStream::connect((address.as_str(), 8080)) else {
            return false;
        };
        connection.write_all(b"GET /page HTTP/1.0\r\n\r\n").unwrap();
        let mut answer = String::new();
        connection.read_to_string(&mut answer).is_ok() && answer.ends_with("served\n")
    };
    eventually("the port is forwarded", is_served);
    continues(&world, "tiny");
    eventually("the port is forwarded again", is_served);
    let resolved = world.inside("tiny", "nslookup tiny 2>&1 || cat /etc/resolv.conf");
    assert!(resolved.contains("tiny"), "{resolved}");
    // A machine that has continued stops and boots like any other.
    world.stdout(&["stop", "tiny"]);
    world.check_disk("tiny");
    let processes = world.inside("tiny", "pidof httpd || echo none");
    assert_eq!(processes, "none\n");
}

fn a_debian_machine_of_root_continues(lab: &Lab) {
    let world = World::for_root();
    world.create(&lab.image("debian-systemd:12"), "deb", &[]);
    let boot_id = "cat /proc/sys/kernel/random/boot_id";
    let before = world.inside("deb", boot_id);
    continues(&world, "deb");
    assert_eq!(world.inside("deb", boot_id), before);
    let lock = "exec 3>~/locked; flock 3; echo $$ >/tmp/locker; exec sleep 3000";
    world.stdout(&["run", "-d", "-n", "deb", lock]);
    eventually("the file is locked", || {
        !world.inside("deb", "cat /tmp/locker || true").is_empty()
    });
    let error = world.error(&["suspend", "--force", "deb"]);
    assert!(error.contains("locked"), "{error}");
    let error = world.error(&["snapshot", "create", "-n", "deb", "locked"]);
    assert!(
        error.contains("locked") && error.contains("--disk-only"),
        "{error}"
    );
    world.inside("deb", "kill $(cat /tmp/locker)");
    world.inside("deb", "systemctl is-system-running --wait || true");
    // A guest that reboots after it has continued boots as usual.
    world.stdout(&["run", "-d", "-n", "deb", "reboot"]);
    eventually("it has booted again", || {
        let outcome = world.run(&["run", "-n", "deb", boot_id]);
        outcome.code == Some(0) && outcome.stdout != before
    });
}

fn what_would_be_lost_is_refused(lab: &Lab) {
    let world = World::for_user();
    world.create(&lab.image("busybox:1"), "tiny", &[]);
    let mut session = world
        .machine(&["run", "-n", "tiny", "echo $$ >/tmp/session; sleep 1000"])
        .stdin(Stdio::null())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    let exists = |file: &str| {
        let line = format!("test -s {file} || echo missing");
        world.inside("tiny", &line).is_empty()
    };
    eventually("the command runs", || exists("/tmp/session"));
    let error = world.error(&["suspend", "tiny"]);
    assert!(error.contains("--force"), "{error}");
    // Files in the shared home that could not be opened again.
    world.stdout(&[
        "run",
        "-d",
        "-n",
        "tiny",
        "exec 3>~/gone; rm ~/gone; echo $$ >/tmp/gone; exec sleep 2000",
    ]);
    eventually("the file is removed", || exists("/tmp/gone"));
    let error = world.error(&["suspend", "--force", "tiny"]);
    assert!(error.contains("shared home"), "{error}");
    world.inside("tiny", "kill $(cat /tmp/gone)");
    assert_eq!(status(&world, "tiny"), "running");
    // Everything that uses the shared home still works after a refusal.
    world.inside("tiny", "echo still >~/still && cat ~/still");
    assert!(session.try_wait().unwrap().is_none());
    world.stdout(&["suspend", "--force", "tiny"]);
    let mut message = String::new();
    session
        .stderr
        .take()
        .unwrap()
        .read_to_string(&mut message)
        .unwrap();
    assert!(!session.wait().unwrap().success());
    assert!(message.contains("suspended"), "{message}");

    let error = world.error(&["stop", "tiny"]);
    assert!(error.contains("--force"), "{error}");
    for line in [
        &["rename", "tiny", "other"][..],
        &["commit", "tiny", "other:1"],
        &["start", "--rescue", "tiny"],
        &["restart", "tiny"],
    ] {
        let error = world.error(line);
        assert!(error.contains("is suspended"), "{line:?}: {error}");
    }
    let outcome = world.run(&["set", "-n", "tiny", "cpus=1"]);
    assert!(outcome.stderr.contains("is suspended"), "{outcome:?}");
    world.stdout(&["suspend", "tiny"]);
    let cpus = world.inside("tiny", "nproc");
    assert_ne!(cpus, "1\n", "the processors are part of the memory");
    world.stdout(&["restart", "tiny"]);
    assert_eq!(world.inside("tiny", "nproc"), "1\n");
    world.stdout(&["suspend", "tiny"]);
    world.stdout(&["stop", "--force", "tiny"]);
    assert_eq!(status(&world, "tiny"), "stopped");
    let error = world.error(&["suspend", "tiny"]);
    assert!(error.contains("is stopped"), "{error}");
    world.inside("tiny", "true");
}

/// The runtime or the engine is killed at many moments of a suspension.
fn a_killed_suspension_leaves_a_usable_machine(lab: &Lab) {
    let world = World::for_root();
    world.create(&lab.image("busybox:1"), "tiny", &[]);
    world.inside("tiny", "echo kept >/kept; sync");
    for round in 0..10 {
        world.inside("tiny", "cat /kept");
        let mut suspending = world
            .machine(&["suspend", "tiny"])
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .unwrap();
        sleep(Duration::from_millis(60 * round));
        let victims = if round % 2 == 0 {
            world.engines()
        } else {
            world.processes("runtime")
        };
        victims.iter().for_each(|victim| victim.kill());
        suspending.wait().unwrap();
        assert_eq!(world.inside("tiny", "cat /kept"), "kept\n");
    }
    world.stdout(&["suspend", "tiny"]);
    // The service may be killed too; the runtime completes or cancels what it does.
    world.inside("tiny", "true");
    let mut suspending = world
        .machine(&["suspend", "tiny"])
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .spawn()
        .unwrap();
    sleep(Duration::from_millis(200));
    world.processes("service").iter().for_each(|it| it.kill());
    suspending.wait().unwrap();
    assert_eq!(world.inside("tiny", "cat /kept"), "kept\n");
    world.stdout(&["suspend", "tiny"]);
    world.stdout(&["rm", "tiny"]);
}

/// Changes a byte of a file.
fn damage(file: &PathBuf) {
    let file = File::options().read(true).write(true).open(file).unwrap();
    let mut byte = [0];
    let at = file.metadata().unwrap().len() - 1000;
    file.read_exact_at(&mut byte, at).unwrap();
    file.write_all_at(&[!byte[0]], at).unwrap();
}

fn a_saved_memory_that_does_not_fit_is_kept(lab: &Lab) {
    let world = World::for_user();
    world.create(&lab.image("busybox:1"), "tiny", &[]);
    start_counter(&world, "tiny");
    let before = count(&world, "tiny");
    suspend(&world, "tiny");
    damage(&memory(&world, "tiny"));
    let error = world.error(&["run", "-n", "tiny", "true"]);
    assert!(
        error.contains("damaged") && error.contains("stop --force"),
        "{error}"
    );
    assert_eq!(status(&world, "tiny"), "suspended");
    damage(&memory(&world, "tiny"));
    let agent = world.path("usr/lib/container/initramfs.cpio");
    let other = agent.with_extension("other");
    fs::rename(&agent, &other).unwrap();
    fs::write(&agent, "another agent").unwrap();
    let error = world.error(&["start", "tiny"]);
    assert!(
        error.contains("agent") && error.contains("stop --force"),
        "{error}"
    );
    fs::rename(&other, &agent).unwrap();
    // Nothing has used the memory yet.
    check_counter(&world, "tiny", before);
    // An update while the machine runs. Other worlds have the same file, which must not change.
    fs::copy(&agent, &other).unwrap();
    fs::rename(&other, &agent).unwrap();
    let error = world.error(&["suspend", "tiny"]);
    assert!(error.contains("updated"), "{error}");
    check_counter(&world, "tiny", before);
}

fn a_full_disk_leaves_the_machine_running(lab: &Lab) {
    let world = World::for_root();
    let data = world.path("data");
    let mounted = Command::new("mount")
        .args(["-t", "tmpfs", "-o", "size=512M", "none"])
        .arg(&data)
        .status();
    assert!(mounted.unwrap().success());
    world.create(&lab.image("busybox:1"), "tiny", &[]);
    start_counter(&world, "tiny");
    let before = count(&world, "tiny");
    let filler = data.join("filler");
    let fill = "head -c $(($(df --output=avail -B1 . | tail -1) - 8000000)) /dev/zero >filler";
    let filled = Command::new("sh")
        .args(["-c", fill])
        .current_dir(&data)
        .status();
    assert!(filled.unwrap().success());
    let error = world.error(&["suspend", "tiny"]);
    assert!(error.contains("cannot suspend"), "{error}");
    check_counter(&world, "tiny", before);
    assert!(!world.bundle("tiny", ".suspended.new").exists());
    let error = world.error(&["snapshot", "create", "full"]);
    assert!(error.contains("cannot save"), "{error}");
    check_counter(&world, "tiny", before);
    assert_eq!(
        world.stdout(&["snapshot", "ls", "-n", "tiny", "--format", "{{ name }}"]),
        ""
    );
    fs::remove_file(filler).unwrap();
    let before = count(&world, "tiny");
    suspend(&world, "tiny");
    check_counter(&world, "tiny", before);
    world.stdout(&["rm", "tiny"]);
    let unmounted = Command::new("umount").arg("--lazy").arg(&data).status();
    assert!(unmounted.unwrap().success());
}

fn the_disk_of_a_suspended_machine_can_be_kept_and_copied(lab: &Lab) {
    let world = World::for_user();
    world.create(&lab.image("busybox:1"), "tiny", &[]);
    start_counter(&world, "tiny");
    world.stdout(&["run", "-n", "tiny", "-u", "root", "echo one >/one"]);
    let before = count(&world, "tiny");
    suspend(&world, "tiny");
    world.stdout(&["snapshot", "create", "-n", "tiny", "first"]);
    world.stdout(&["clone", "tiny", "copy"]);
    world.stdout(&["snapshot", "create", "--disk-only", "-n", "tiny", "disk"]);
    // Nothing is lost by either, because the first snapshot has the memory.
    world.stdout(&["snapshot", "restore", "-n", "tiny", "disk"]);
    assert_eq!(status(&world, "tiny"), "stopped");
    world.stdout(&["snapshot", "restore", "-n", "tiny", "first"]);
    world.stdout(&["snapshot", "rm", "-n", "tiny", "disk"]);
    check_counter(&world, "tiny", before);
    assert_eq!(world.inside("copy", "cat /one"), "one\n");
    world.stdout(&["rm", "copy"]);
    world.stdout(&["snapshot", "rm", "-n", "tiny", "first"]);
    let before = count(&world, "tiny");
    suspend(&world, "tiny");
    check_counter(&world, "tiny", before);
    // After a snapshot of the running machine, it writes to another file.
    world.stdout(&["snapshot", "create", "-n", "tiny", "second"]);
    let before = count(&world, "tiny");
    suspend(&world, "tiny");
    check_counter(&world, "tiny", before);
    world.stdout(&["snapshot", "create", "-n", "tiny", "third"]);
    world.stdout(&["run", "-n", "tiny", "-u", "root", "echo two >/two; sync"]);
    let boot_id = "cat /proc/sys/kernel/random/boot_id";
    let before = world.inside("tiny", boot_id);
    world.stdout(&["run", "-d", "-n", "tiny", "-u", "root", "reboot"]);
    eventually("it has booted again", || {
        let outcome = world.run(&["run", "-n", "tiny", boot_id]);
        outcome.code == Some(0) && outcome.stdout != before
    });
    assert_eq!(world.inside("tiny", "cat /two"), "two\n");
    world.stdout(&["stop", "tiny"]);
    world.check_disk("tiny");
}
