//! Standard streams pass unchanged, whatever their size and whichever end closes first.

use std::{
    fs::File,
    io::{BufRead, BufReader, Read, Write},
    net::{IpAddr, TcpStream},
    process::{Child, Command, Stdio},
};

use end_to_end::{Lab, World, eventually};

use crate::ssh_agent::Agent;

crate::declare::tests![
    bytes_pass_unchanged_in_both_directions_at_once,
    stdout_and_stderr_are_separate,
    closed_output_ends_the_command,
    command_may_close_its_input,
    background_process_does_not_delay_the_end,
    open_input_does_not_delay_the_end,
    many_commands_run_at_once,
    connections_beyond_the_limit_wait,
    many_connections_are_relayed,
];

/// Tests that take long.
pub(crate) const LONG: &[crate::declare::Test] = &[(
    "streams::a_thousand_commands_run_at_once",
    a_thousand_commands_run_at_once,
)];

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

fn many_commands_run_at_once(lab: &Lab) {
    run_at_once(lab.root_with_tools(), 300);
}

fn a_thousand_commands_run_at_once(lab: &Lab) {
    run_at_once(lab.root_with_tools(), 1000);
}

/// Runs commands, each of which has four streams.
fn run_at_once(world: &World, number: usize) {
    let start = |_| {
        let mut cat = world.machine(&["run", "-n", "dev", "cat"]);
        let cat = cat.stdin(Stdio::piped()).stdout(Stdio::piped());
        cat.spawn().unwrap()
    };
    let mut commands: Vec<Child> = (0..number).map(start).collect();
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

/// Shell line that opens more connections to the forwarded SSH agent than there may be streams, and
/// keeps them until its input ends.
const CONNECT: &str = "ulimit -n 4096; exec perl -MSocket -e '$| = 1; for (1..1200) { socket(my $s, PF_UNIX, SOCK_STREAM, 0) or die; connect($s, sockaddr_un(\"/var/host-services/ssh-auth.sock\")) or die; push @all, $s } print \"connected\\n\"; <STDIN>'";

/// Shell line that asks the forwarded SSH agent for its keys, and prints the answer's type.
const ASK: &str = "exec perl -MSocket -e 'socket(S, PF_UNIX, SOCK_STREAM, 0); connect(S, sockaddr_un(\"/var/host-services/ssh-auth.sock\")) or die; syswrite(S, \"\\0\\0\\0\\1\\x0b\"); sysread(S, $x, 4096) > 4 or die; print ord(substr($x, 4))'";

fn connections_beyond_the_limit_wait(lab: &Lab) {
    let world = lab.root_with_tools();
    let agent = Agent::start(world, "crowd");
    let mut crowd = agent.start_command(world, &[], CONNECT);
    assert_eq!(first_line(&mut crowd), "connected\n");
    assert_eq!(world.inside("dev", "echo works"), "works\n");
    drop(crowd.stdin.take());
    assert!(crowd.wait().unwrap().success());
    let asked = agent.start_command(world, &[], ASK);
    let asked = asked.wait_with_output().unwrap();
    // SSH_AGENT_IDENTITIES_ANSWER.
    assert_eq!(String::from_utf8(asked.stdout).unwrap(), "12");
}

/// Shell line that greets all clients of a port of the machine's loopback, and keeps their
/// connections until it is killed.
const GREET: &str = "ulimit -n 4096; exec perl -MSocket -e '$| = 1; socket(L, PF_INET, SOCK_STREAM, 0); bind(L, sockaddr_in(8797, inet_aton(\"127.0.0.1\"))) or die; listen(L, 1024); print \"listens\\n\"; while (accept(my $c, L)) { syswrite($c, \"x\"); push @all, $c }'";

/// Each connection has two descriptors of the agent.
fn many_connections_are_relayed(lab: &Lab) {
    let world = lab.root_with_tools();
    let mut server = world.machine(&["run", "-n", "dev", GREET]);
    let server = server.stdin(Stdio::piped()).stdout(Stdio::piped());
    let mut server = server.spawn().unwrap();
    assert_eq!(first_line(&mut server), "listens\n");
    let address = world.inspect("dev")["ipAddress"].clone();
    let address: IpAddr = address.as_str().unwrap().parse().unwrap();
    eventually("the port is forwarded", || {
        TcpStream::connect((address, 8797)).is_ok()
    });
    let connect = |_| TcpStream::connect((address, 8797)).unwrap();
    let mut clients: Vec<TcpStream> = Vec::new();
    for _ in 0..12 {
        // A connection that a slow machine has not accepted in two minutes is reset.
        let mut more: Vec<TcpStream> = (0..50).map(connect).collect();
        for client in &mut more {
            client.read_exact(&mut [0]).unwrap();
        }
        clients.append(&mut more);
    }
    assert_eq!(world.inside("dev", "echo works"), "works\n");
    drop(clients);
    server.kill().unwrap();
    server.wait().unwrap();
}

/// Returns the first line that a command prints.
fn first_line(command: &mut Child) -> String {
    let mut line = String::new();
    let mut output = BufReader::new(command.stdout.as_mut().unwrap());
    output.read_line(&mut line).unwrap();
    line
}
