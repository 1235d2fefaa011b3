//! Standard input, output and error pass unchanged, whatever their size and whoever closes first.

use std::{
    fs::File,
    io::Read,
    process::{Command, Stdio},
};

use end_to_end::{Lab, World};

crate::tests![
    random_bytes_pass_both_ways_at_once,
    the_streams_are_kept_apart,
    a_reader_that_leaves_ends_the_command,
    a_command_may_close_its_input,
    what_stays_in_the_background_holds_nobody_up,
    an_input_that_never_ends_holds_nobody_up,
];

const BYTES: u64 = 256 << 20;

/// The most that any of our processes may need, in KiB: far from what passes through.
const BOUND: u64 = 128 << 10;

fn random_bytes_pass_both_ways_at_once(lab: &Lab) {
    let world = lab.root();
    let sent = world.path("sent");
    let mut random = File::open("/dev/urandom").unwrap().take(BYTES);
    std::io::copy(&mut random, &mut File::create(&sent).unwrap()).unwrap();
    let received = world.path("received");
    let mut tee = world.machine(&["run", "-n", "dev", "tee /dev/stderr"]);
    let errors = world.path("errors");
    let mut client = tee
        .stdin(File::open(&sent).unwrap())
        .stdout(File::create(&received).unwrap())
        .stderr(File::create(&errors).unwrap())
        .spawn()
        .unwrap();
    let mut most = 0;
    let status = loop {
        if let Some(status) = client.try_wait().unwrap() {
            break status;
        }
        most = most.max(largest(world));
        std::thread::sleep(std::time::Duration::from_millis(100));
    };
    assert!(status.success());
    assert!(most < BOUND, "one process grew to {most} KiB");
    let hash = hash(&sent);
    assert_eq!(self::hash(&received), hash);
    assert_eq!(self::hash(&errors), hash);
    for file in [sent, received, errors] {
        std::fs::remove_file(file).unwrap();
    }
}

/// The peak size of this world's largest process, in KiB.
fn largest(world: &World) -> u64 {
    let processes = end_to_end::Process::with(&world.program().display().to_string());
    let peaks = processes.iter().filter_map(|process| {
        let peak = process.status("VmHWM")?;
        peak.split_whitespace().next()?.parse::<u64>().ok()
    });
    peaks.max().unwrap_or_default()
}

fn hash(file: &std::path::Path) -> String {
    let output = Command::new("sha256sum")
        .stdin(File::open(file).unwrap())
        .output();
    String::from_utf8(output.unwrap().stdout).unwrap()
}

fn the_streams_are_kept_apart(lab: &Lab) {
    let outcome = lab
        .root()
        .run(&["run", "-n", "dev", "echo out; echo err >&2"]);
    assert_eq!(
        (outcome.stdout.as_str(), outcome.stderr.as_str()),
        ("out\n", "err\n")
    );
}

fn a_reader_that_leaves_ends_the_command(lab: &Lab) {
    let world = lab.root();
    let mut yes = world.machine(&["run", "-n", "dev", "yes"]);
    let mut client = yes.stdout(Stdio::piped()).spawn().unwrap();
    let mut first = [0; 2];
    client
        .stdout
        .take()
        .unwrap()
        .read_exact(&mut first)
        .unwrap();
    assert_eq!(&first, b"y\n");
    client.wait().unwrap();
    end_to_end::eventually("yes is gone", || {
        world.run(&["run", "-n", "dev", "pgrep -x yes"]).code == Some(1)
    });
}

fn a_command_may_close_its_input(lab: &Lab) {
    let mut run = lab
        .root()
        .machine(&["run", "-n", "dev", "exec <&-; sleep 0.5; echo done"]);
    let output = run
        .stdin(File::open("/dev/zero").unwrap())
        .output()
        .unwrap();
    assert_eq!(output.stdout, b"done\n");
}

fn what_stays_in_the_background_holds_nobody_up(lab: &Lab) {
    let world = lab.root();
    let outcome = world.run(&["run", "-n", "dev", "sleep 98763 & echo started"]);
    assert_eq!(outcome.stdout, "started\n");
    let survives = world.run(&["run", "-n", "dev", "pkill -x -f 'sleep 98763'"]);
    assert_eq!(
        survives.code,
        Some(0),
        "what is left in the background goes on"
    );
}

fn an_input_that_never_ends_holds_nobody_up(lab: &Lab) {
    let mut run = lab.root().machine(&["run", "-n", "dev", "head -c 3"]);
    let mut client = run
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let mut input = client.stdin.take().unwrap();
    std::io::Write::write_all(&mut input, b"abcdef").unwrap();
    let output = client.wait_with_output().unwrap();
    drop(input);
    assert_eq!(output.stdout, b"abc");
}
