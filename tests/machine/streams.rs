//! Standard streams pass unchanged, whatever their size and whichever end closes first.

use std::{
    fs::File,
    io::{BufRead, BufReader, Read, Write},
    process::{Child, Command, Stdio},
};

use end_to_end::{Lab, World};

crate::declare::tests![
    bytes_pass_unchanged_in_both_directions_at_once,
    stdout_and_stderr_are_separate,
    closed_output_ends_the_command,
    command_may_close_its_input,
    background_process_does_not_delay_the_end,
    open_input_does_not_delay_the_end,
    many_commands_run_at_once,
];

const BYTES: u64 = 256 << 20;

/// Limit on the memory of each process in KiB. It is half of the data that passes through.
const MAX_MEMORY: u64 = 128 << 10;

fn bytes_pass_unchanged_in_both_directions_at_once(lab: &Lab) {
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
        most = most.max(peak_memory(world));
        std::thread::sleep(std::time::Duration::from_millis(100));
    };
    assert!(status.success());
    assert!(most < MAX_MEMORY, "one process grew to {most} KiB");
    let hash = hash(&sent);
    assert_eq!(self::hash(&received), hash);
    assert_eq!(self::hash(&errors), hash);
    for file in [sent, received, errors] {
        std::fs::remove_file(file).unwrap();
    }
}

/// Returns the peak memory of this world's largest process in KiB.
fn peak_memory(world: &World) -> u64 {
    let processes = end_to_end::Process::find(&world.program().display().to_string());
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

fn stdout_and_stderr_are_separate(lab: &Lab) {
    let outcome = lab
        .root()
        .run(&["run", "-n", "dev", "echo out; echo err >&2"]);
    assert_eq!(
        (outcome.stdout.as_str(), outcome.stderr.as_str()),
        ("out\n", "err\n")
    );
}

fn closed_output_ends_the_command(lab: &Lab) {
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
    end_to_end::eventually("yes has ended", || {
        world.run(&["run", "-n", "dev", "pgrep -x yes"]).code == Some(1)
    });
}

fn command_may_close_its_input(lab: &Lab) {
    let mut run = lab
        .root()
        .machine(&["run", "-n", "dev", "exec <&-; sleep 0.5; echo done"]);
    let output = run
        .stdin(File::open("/dev/zero").unwrap())
        .output()
        .unwrap();
    assert_eq!(output.stdout, b"done\n");
}

fn background_process_does_not_delay_the_end(lab: &Lab) {
    let world = lab.root();
    let outcome = world.run(&["run", "-n", "dev", "sleep 98763 & echo started"]);
    assert_eq!(outcome.stdout, "started\n");
    let survives = world.run(&["run", "-n", "dev", "pkill -x -f 'sleep 98763'"]);
    assert_eq!(
        survives.code,
        Some(0),
        "the background process keeps running"
    );
}

fn open_input_does_not_delay_the_end(lab: &Lab) {
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

/// Each command has four streams.
fn many_commands_run_at_once(lab: &Lab) {
    let world = lab.root();
    let start = |_| {
        let mut cat = world.machine(&["run", "-n", "dev", "cat"]);
        let cat = cat.stdin(Stdio::piped()).stdout(Stdio::piped());
        cat.spawn().unwrap()
    };
    let mut commands: Vec<Child> = (0..150).map(start).collect();
    for (number, command) in commands.iter_mut().enumerate() {
        writeln!(command.stdin.as_mut().unwrap(), "{number}").unwrap();
        let mut line = String::new();
        let mut output = BufReader::new(command.stdout.as_mut().unwrap());
        output.read_line(&mut line).unwrap();
        assert_eq!(line, format!("{number}\n"));
    }
    for command in &mut commands {
        drop(command.stdin.take());
        assert!(command.wait().unwrap().success());
    }
}
