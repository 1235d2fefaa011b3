//! Snapshots of machines, and clones.

use std::{
    collections::HashSet,
    fs,
    io::{BufRead, BufReader, Read, Write},
    net::TcpStream,
    process::{Child, Stdio},
    thread::sleep,
    time::Duration,
};

use end_to_end::{Lab, World, eventually};
use serde_json::Value;

crate::declare::tests![
    snapshots_keep_and_restore_the_disk,
    clone_of_a_running_machine_has_its_own_identity,
    killed_service_leaves_the_state_before_or_after,
    snapshots_keep_and_restore_the_memory,
];

/// Names of a machine's snapshots.
fn names(world: &World, machine: &str) -> Vec<String> {
    let list = ["snapshot", "ls", "-n", machine, "--format", "{{ name }}"];
    world.stdout(&list).lines().map(str::to_owned).collect()
}

/// Names of the files of a machine's disk.
fn disk_files(world: &World, machine: &str) -> Vec<String> {
    let directory = world.bundle(machine, "");
    let entries = fs::read_dir(directory).unwrap();
    let files = entries.map(|entry| entry.unwrap().file_name().into_string().unwrap());
    files.filter(|name| name.starts_with("disk-")).collect()
}

fn write(world: &World, machine: &str, word: &str) {
    let line = format!("echo {word} > /state");
    world.stdout(&["run", "-n", machine, "-u", "root", &line]);
}

fn state(world: &World, machine: &str) -> String {
    world.inside(machine, "cat /state").trim().to_owned()
}

fn snapshots_keep_and_restore_the_disk(lab: &Lab) {
    let world = World::for_user();
    world.create(&lab.image("busybox:1"), "tiny", &["--disk-size", "3G"]);
    // Written to files and not to the disk yet.
    write(&world, "tiny", "one");
    let fill = "dd if=/dev/urandom of=/tmp/data bs=1M count=4 2>/dev/null";
    world.inside("tiny", fill);
    world.stdout(&["snapshot", "create", "--disk-only", "-n", "tiny", "one"]);
    write(&world, "tiny", "two");
    // The rest of the block is copied from the layer.
    let change = "dd if=/dev/urandom of=/tmp/data bs=1k seek=1001 count=1 conv=notrunc 2>/dev/null";
    let changed = world.inside("tiny", &format!("{change}; md5sum /tmp/data"));
    world.stdout(&["stop", "tiny"]);
    world.check_disk("tiny");
    world.stdout(&["snapshot", "create", "two"]);
    write(&world, "tiny", "three");
    assert_eq!(names(&world, "tiny"), ["one", "two"]);

    let error = world.error(&["snapshot", "restore", "one"]);
    assert!(error.contains("is running"), "{error}");
    world.stdout(&["stop", "tiny"]);
    let error = world.error(&["snapshot", "restore", "one"]);
    assert!(error.contains("--force"), "{error}");
    let error = world.error(&["snapshot", "restore", "none"]);
    assert!(error.contains("snapshot ls"), "{error}");
    let error = world.error(&["snapshot", "create", "two"]);
    assert!(error.contains("already has"), "{error}");
    world.stdout(&["snapshot", "restore", "--force", "one"]);
    // Nothing is lost by another restore.
    world.stdout(&["snapshot", "restore", "two"]);
    world.stdout(&["clone", "tiny", "copy"]);
    assert_eq!(state(&world, "tiny"), "two");
    assert_eq!(state(&world, "copy"), "two");
    assert_eq!(world.inside("copy", "md5sum /tmp/data"), changed);
    write(&world, "copy", "copy");
    world.stdout(&["clone", "tiny", "past", "--snapshot", "one"]);
    world.stdout(&["stop", "tiny", "copy"]);

    // A clone needs nothing of its source, and a source nothing of its clone.
    world.stdout(&["snapshot", "restore", "--force", "one"]);
    assert_eq!(state(&world, "tiny"), "one");
    world.stdout(&["rm", "tiny"]);
    assert_eq!(state(&world, "past"), "one");
    assert_eq!(state(&world, "copy"), "copy");
    world.stdout(&["rm", "past"]);
    world.stdout(&["snapshot", "create", "--disk-only", "-n", "copy", "later"]);
    write(&world, "copy", "latest");
    world.stdout(&["stop", "copy"]);
    let taken = disk_files(&world, "copy").len();
    assert!(taken > 2, "{taken}");
    world.stdout(&["snapshot", "rm", "-n", "copy", "later"]);
    assert_eq!(disk_files(&world, "copy").len(), 1);
    assert_eq!(state(&world, "copy"), "latest");
    world.stdout(&["stop", "copy"]);
    world.check_disk("copy");

    let expiring = [
        "snapshot", "create", "-n", "copy", "brief", "--expire", "1s",
    ];
    world.stdout(&expiring);
    eventually("the snapshot is gone", || names(&world, "copy").is_empty());
    // Without --expire a snapshot stays.
    world.stdout(&["snapshot", "create", "-n", "copy", "lasting"]);
    assert_eq!(names(&world, "copy"), ["lasting"]);
}

/// What must differ between a machine and its clone.
fn identity(world: &World, machine: &str) -> Vec<String> {
    let files = "cat /etc/machine-id /etc/hostname /sys/class/net/eth0/address";
    let inside = world.inside(machine, files);
    let mut identity: Vec<String> = inside.lines().map(str::to_owned).collect();
    identity.push(world.inspect(machine)["ipAddress"].to_string());
    identity
}

fn clone_of_a_running_machine_has_its_own_identity(lab: &Lab) {
    let world = lab.root_with_tools();
    world.inside("dev", "echo kept > /var/lib/before-clone");
    world.stdout(&["clone", "dev", "twin"]);
    let source: HashSet<String> = identity(world, "dev").into_iter().collect();
    let twin = identity(world, "twin");
    assert_eq!(twin.len(), 4, "{twin:?}");
    let same: Vec<&String> = twin.iter().filter(|line| source.contains(*line)).collect();
    assert_eq!(same, [""; 0]);
    assert_eq!(world.inside("twin", "cat /var/lib/before-clone"), "kept\n");
    assert_eq!(world.inside("twin", "id"), world.inside("dev", "id"));
    // The identity is renewed once.
    world.stdout(&["restart", "twin"]);
    let again = identity(world, "twin");
    assert_eq!(again, twin);
    world.stdout(&["rm", "twin"]);
    world.inside("dev", "rm /var/lib/before-clone && sync");
}

/// Starts to create a snapshot that may fail.
fn start_snapshot(world: &World, name: &str) -> Child {
    let mut create = world.machine(&["snapshot", "create", name]);
    let create = create.stdout(Stdio::null()).stderr(Stdio::null());
    create.spawn().unwrap()
}

/// The service is killed at many moments of a snapshot and of a restore.
fn killed_service_leaves_the_state_before_or_after(lab: &Lab) {
    let world = World::for_root();
    world.create(&lab.image("busybox:1"), "tiny", &[]);
    write(&world, "tiny", "first");
    world.stdout(&["stop", "tiny"]);
    world.stdout(&["snapshot", "create", "first"]);
    write(&world, "tiny", "last");
    world.stdout(&["stop", "tiny"]);
    for round in 0..12 {
        let name = format!("round-{round}");
        let mut create = start_snapshot(&world, &name);
        sleep(Duration::from_millis(8 * round));
        world.processes("service").iter().for_each(|it| it.kill());
        create.wait().unwrap();
        let files = disk_files(&world, "tiny");
        let snapshots: Value = match fs::read(world.bundle("tiny", "snapshots.json")) {
            Ok(text) => serde_json::from_slice(&text).unwrap(),
            Err(error) => panic!("{error}"),
        };
        for snapshot in snapshots.as_array().unwrap() {
            let layer = snapshot["layer"].as_str().unwrap().to_owned();
            assert!(files.contains(&layer), "{snapshot} {files:?}");
        }
    }
    assert_eq!(state(&world, "tiny"), "last");
    world.stdout(&["stop", "tiny"]);
    world.check_disk("tiny");
    for name in names(&world, "tiny") {
        world.stdout(&["snapshot", "restore", "--force", &name]);
        if name != "first" {
            world.stdout(&["snapshot", "rm", &name]);
        }
    }
    world.stdout(&["snapshot", "restore", "--force", "first"]);
    world.stdout(&["snapshot", "rm", "first"]);
    assert_eq!(disk_files(&world, "tiny").len(), 1);
    assert_eq!(state(&world, "tiny"), "first");
}

/// A program whose state is in its memory, with a file of the shared home open.
const COUNTER: &str = "exec 4<~/read; i=0; \
     while :; do i=$((i+1)); echo $i >/tmp/new && mv /tmp/new /tmp/count; \
     if read -r line <&4; then echo \"$line\" >/tmp/line; fi; sleep 0.1; done";

/// Returns the number that the counter has written last.
fn count(world: &World) -> u64 {
    let text = world.inside("tiny", "cat /tmp/count 2>/dev/null || echo 0");
    text.trim().parse().unwrap_or(0)
}

fn status(world: &World) -> String {
    world.inspect("tiny")["status"].as_str().unwrap().to_owned()
}

/// Returns the size of a snapshot's memory.
fn memory_size(world: &World, snapshot: &str) -> Option<u64> {
    let list = world.stdout(&["snapshot", "ls", "-n", "tiny", "--format", "json"]);
    let list: Value = serde_json::from_str(&list).unwrap();
    let mut snapshots = list.as_array().unwrap().iter();
    let found = snapshots.find(|it| it["name"] == snapshot).unwrap();
    found["memorySize"].as_u64()
}

/// Returns the number of directories with memory in the bundle.
fn memories(world: &World) -> usize {
    let entries = fs::read_dir(world.bundle("tiny", "")).unwrap();
    let names = entries.map(|entry| entry.unwrap().file_name().into_string().unwrap());
    names.filter(|name| name.contains("memory-")).count()
}

/// Checks that the machine continues where it was when the counter was between two numbers.
fn check_restored(world: &World, boot_id: &str, (before, after): (u64, u64), line: &str) {
    assert_eq!(status(world), "suspended");
    let counted = count(world);
    assert!(counted >= before, "{counted} {before}");
    // It has counted on since, but not for as long as the machine that was saved.
    assert!(counted < after, "{counted} {after}");
    eventually("the counter continues", || count(world) > counted);
    assert_eq!(
        world.inside("tiny", "cat /proc/sys/kernel/random/boot_id"),
        boot_id
    );
    assert_eq!(world.inspect("tiny")["boot"]["kind"], "resumed");
    assert_eq!(
        world.inside("tiny", "cat /state || echo missing"),
        "missing\n"
    );
    world.on_host(&["sh", "-c", &format!("echo {line} >>~/read")]);
    let read = || world.inside("tiny", "cat /tmp/line") == format!("{line}\n");
    eventually("the open file is read", read);
    assert_eq!(world.inside("tiny", "pidof cat || echo none"), "none\n");
}

fn snapshots_keep_and_restore_the_memory(lab: &Lab) {
    let world = World::for_user();
    world.create(&lab.image("busybox:1"), "tiny", &[]);
    world.on_host(&["sh", "-c", "echo first >~/read"]);
    world.stdout(&["run", "-d", "-n", "tiny", COUNTER]);
    eventually("the counter counts", || count(&world) > 3);
    let boot_id = world.inside("tiny", "cat /proc/sys/kernel/random/boot_id");
    // A command and a connection, which continue.
    let mut command = world
        .machine(&["run", "-n", "tiny", "cat"])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let mut input = command.stdin.take().unwrap();
    let mut output = BufReader::new(command.stdout.take().unwrap());
    let mut echo = || {
        input.write_all(b"line\n").unwrap();
        let mut line = String::new();
        output.read_line(&mut line).unwrap();
        assert_eq!(line, "line\n");
    };
    world.stdout(&["run", "-d", "-n", "tiny", "nc -l -p 7000 -e tr a-z A-Z"]);
    let address = world.inspect("tiny")["ipAddress"]
        .as_str()
        .unwrap()
        .to_owned();
    let mut connection = None;
    eventually("the port is forwarded", || {
        connection = TcpStream::connect((address.as_str(), 7000)).ok();
        connection.is_some()
    });
    echo();
    let before = count(&world);
    world.stdout(&["snapshot", "create", "-n", "tiny", "live"]);
    let after = count(&world);
    echo();
    drop(input);
    assert!(command.wait().unwrap().success());
    let mut connection = connection.unwrap();
    connection.write_all(b"served\n").unwrap();
    connection.shutdown(std::net::Shutdown::Write).unwrap();
    let mut answer = String::new();
    connection.read_to_string(&mut answer).unwrap();
    assert_eq!(answer, "SERVED\n");
    eventually("the counter continues", || count(&world) > after + 20);
    assert!(memory_size(&world, "live").unwrap() > 1 << 20);

    // A refusal changes nothing, and what would be lost is not given up.
    let error = world.error(&["snapshot", "restore", "live"]);
    assert!(error.contains("is running"), "{error}");
    write(&world, "tiny", "later");
    let range = (before, count(&world));
    world.stdout(&["stop", "tiny"]);
    let error = world.error(&["snapshot", "restore", "live"]);
    assert!(error.contains("--force"), "{error}");
    world.stdout(&["snapshot", "restore", "--force", "live"]);
    check_restored(&world, &boot_id, range, "second");
    // Any number of times, also in place of another memory.
    world.stdout(&["suspend", "tiny"]);
    let error = world.error(&["snapshot", "restore", "live"]);
    assert!(error.contains("--force"), "{error}");
    world.stdout(&["snapshot", "create", "still"]);
    world.stdout(&["snapshot", "restore", "live"]);
    world.stdout(&["snapshot", "restore", "still"]);
    world.stdout(&["snapshot", "restore", "live"]);
    check_restored(&world, &boot_id, range, "third");
    assert!(memory_size(&world, "still").unwrap() > 1 << 20);

    // The disk alone.
    world.stdout(&["snapshot", "create", "--disk-only", "disk"]);
    assert_eq!(memory_size(&world, "disk"), None);
    world.stdout(&["clone", "tiny", "copy", "--snapshot", "live"]);
    assert_ne!(
        world.inside("copy", "cat /proc/sys/kernel/random/boot_id"),
        boot_id
    );
    world.stdout(&["rm", "copy"]);
    world.stdout(&["stop", "tiny"]);
    world.stdout(&["snapshot", "restore", "--force", "--disk-only", "still"]);
    assert_eq!(status(&world), "stopped");
    assert_ne!(
        world.inside("tiny", "cat /proc/sys/kernel/random/boot_id"),
        boot_id
    );
    world.stdout(&["stop", "tiny"]);
    world.stdout(&["rename", "tiny", "other"]);
    let error = world.error(&["snapshot", "restore", "--force", "-n", "other", "live"]);
    assert!(error.contains("named"), "{error}");
    world.stdout(&["rename", "other", "tiny"]);
    world.stdout(&["snapshot", "rm", "still"]);
    assert_eq!(memories(&world), 1);

    // The service or the engine is killed at many moments.
    for round in 0..4 {
        world.inside("tiny", "true");
        let name = format!("round-{round}");
        let mut create = start_snapshot(&world, &name);
        sleep(Duration::from_millis(250 * round));
        let victims = if round % 2 == 0 {
            world.processes("service")
        } else {
            world.engines()
        };
        victims.iter().for_each(|victim| victim.kill());
        create.wait().unwrap();
    }
    world.stdout(&["stop", "tiny"]);
    for name in names(&world, "tiny") {
        world.stdout(&["snapshot", "restore", "--force", &name]);
        let with_memory = memory_size(&world, &name).is_some();
        assert_eq!(status(&world) == "suspended", with_memory);
        world.inside("tiny", "true");
        world.stdout(&["stop", "tiny"]);
        world.stdout(&["snapshot", "rm", &name]);
    }
    world.check_disk("tiny");
    assert_eq!((disk_files(&world, "tiny").len(), memories(&world)), (1, 0));
}
