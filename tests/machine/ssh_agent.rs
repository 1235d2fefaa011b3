//! Forwarding of the host's SSH agent.

use std::{
    io::{BufRead, BufReader, Read},
    path::PathBuf,
    process::{Child, Stdio},
};

use end_to_end::{Lab, Outcome, World, eventually};

crate::declare::tests![
    keys_of_the_caller_are_available,
    the_agent_is_available_while_its_caller_runs_a_command,
];

/// An SSH agent with one key that has `name` as its comment.
pub(crate) struct Agent {
    process: Child,
    pub(crate) socket: PathBuf,
}

impl Agent {
    pub(crate) fn start(world: &World, name: &str) -> Agent {
        let directory = world.home().join(format!("agent-{name}"));
        let socket = directory.join("socket");
        let command = |program: &str| world.command(program.as_ref());
        assert!(command("mkdir").arg(&directory).status().unwrap().success());
        let process = command("ssh-agent")
            .args(["-D", "-a"])
            .arg(&socket)
            .stdout(Stdio::null())
            .spawn()
            .unwrap();
        eventually("the agent listens", || socket.exists());
        let key = directory.join("key");
        let made = command("ssh-keygen")
            .args(["-q", "-t", "ed25519", "-N", "", "-C", name, "-f"])
            .arg(&key)
            .status();
        assert!(made.unwrap().success());
        let added = command("ssh-add")
            .arg("-q")
            .arg(&key)
            .env("SSH_AUTH_SOCK", &socket)
            .status();
        assert!(added.unwrap().success());
        Agent { process, socket }
    }

    /// Runs a shell line in the machine as a caller with this agent.
    fn run(&self, world: &World, line: &str) -> Outcome {
        let child = self.start_command(world, &[], line);
        child.wait_with_output().unwrap().into()
    }

    /// Starts a shell line in the machine as a caller with this agent.
    pub(crate) fn start_command(&self, world: &World, options: &[&str], line: &str) -> Child {
        let arguments = [&["run", "-n", "dev"], options, &[line]].concat();
        let mut command = world.machine(&arguments);
        command
            .env("SSH_AUTH_SOCK", &self.socket)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped());
        command.spawn().unwrap()
    }
}

impl Drop for Agent {
    fn drop(&mut self) {
        self.process.kill().unwrap();
        self.process.wait().unwrap();
    }
}

/// Shell line that stays connected to the forwarded agent until the agent's end closes the
/// connection.
const CONNECT: &str = "perl -MSocket -e '$| = 1; socket(S, PF_UNIX, SOCK_STREAM, 0); connect(S, sockaddr_un(\"/var/host-services/ssh-auth.sock\")) or die; syswrite(S, \"\\0\\0\\0\\1\\x0b\"); sysread(S, $x, 4096) > 0 or die; print \"connected\\n\"; sysread(S, $x, 4096); print \"closed\\n\"'";

/// Shell line of a caller without an agent that uses the forwarded one.
const ASK: &str = "SSH_AUTH_SOCK=/var/host-services/ssh-auth.sock ssh-add -l";

fn keys_of_the_caller_are_available(lab: &Lab) {
    for world in [lab.user(), lab.root()] {
        let agent = Agent::start(world, "ann");
        let there = agent.run(world, "echo $SSH_AUTH_SOCK; ssh-add -l");
        assert_eq!(there.code, Some(0), "{there:?}");
        assert!(
            there
                .stdout
                .starts_with("/var/host-services/ssh-auth.sock\n"),
            "{there:?}"
        );
        assert!(there.stdout.contains(" ann (ED25519)"), "{there:?}");
        let signed = agent.run(
            world,
            "ssh-add -L > /tmp/key.pub && echo text > /tmp/text && ssh-keygen -q -Y sign -n file -f /tmp/key.pub /tmp/text && head -1 /tmp/text.sig && rm /tmp/text*",
        );
        assert_eq!(
            signed.stdout, "-----BEGIN SSH SIGNATURE-----\n",
            "{signed:?}"
        );
        let without = world.inside("dev", "echo ${SSH_AUTH_SOCK-unset}");
        assert_eq!(without, "unset\n");
    }
}

fn the_agent_is_available_while_its_caller_runs_a_command(lab: &Lab) {
    let world = World::for_user();
    world.create(&lab.image("debian-systemd:12"), "dev", &[]);
    let asked = || world.run(&["run", "-n", "dev", ASK]);
    assert_eq!(asked().code, Some(1), "no caller had an agent");
    let ann = Agent::start(&world, "ann");
    let mut long = ann.start_command(&world, &[], "ssh-add -l; cat");
    let mut line = String::new();
    let output = long.stdout.as_mut().unwrap();
    BufReader::new(output).read_line(&mut line).unwrap();
    assert!(line.contains(" ann "), "{line}");
    // Root of the machine may use it too, and a client of it that stays connected.
    assert!(world.inside("dev", ASK).contains(" ann "));
    let kept = world
        .machine(&["run", "-n", "dev", CONNECT])
        .stdout(Stdio::piped())
        .spawn();
    let mut kept = kept.unwrap();
    let mut connected = String::new();
    let mut output = BufReader::new(kept.stdout.take().unwrap());
    output.read_line(&mut connected).unwrap();
    assert_eq!(connected, "connected\n");
    drop(long.stdin.take());
    assert!(long.wait().unwrap().success());
    let mut rest = String::new();
    output.read_to_string(&mut rest).unwrap();
    assert_eq!(rest, "closed\n");
    kept.wait().unwrap();
    assert_eq!(asked().code, Some(1), "the caller's command has ended");
    let refused = ann.start_command(&world, &["--no-ssh-agent"], "echo ${SSH_AUTH_SOCK-unset}");
    assert_eq!(text(refused), "unset\n");

    world.configure("[machine]\nssh-agent = \"sometimes\"\n");
    let noted = ann.run(&world, "echo ${SSH_AUTH_SOCK-unset}");
    assert_eq!(noted.stdout, "unset\n");
    let note = "gets your SSH agent only with --ssh-agent: invalid value";
    assert!(noted.stderr.contains(note), "{noted:?}");
    let requested = ann.start_command(&world, &["--ssh-agent"], "ssh-add -l");
    assert!(text(requested).contains(" ann "));

    world.configure("[machine]\nssh-agent = \"never\"\n");
    let refused = ann.start_command(&world, &[], "echo ${SSH_AUTH_SOCK-unset}");
    assert_eq!(text(refused), "unset\n");
    let requested = ann.start_command(&world, &["--ssh-agent"], "ssh-add -l");
    assert!(text(requested).contains(" ann "));
    assert_eq!(asked().code, Some(1), "the caller's command has ended");

    world.configure("[machine]\nssh-agent = \"always\"\n");
    ann.run(&world, "true");
    assert!(world.inside("dev", ASK).contains(" ann "));
    let bob = Agent::start(&world, "bob");
    bob.run(&world, "true");
    assert!(world.inside("dev", ASK).contains(" bob "));
    drop(bob);
    assert_ne!(asked().code, Some(0));
    assert!(
        ann.run(&world, ASK).stdout.contains(" ann "),
        "the machine uses the next caller's agent"
    );
    world.stdout(&["restart", "dev"]);
    assert_ne!(asked().code, Some(0), "the machine has stopped since");
    world.stdout(&["stop", "dev"]);
    world.check_disk("dev");
}

fn text(child: Child) -> String {
    let outcome = Outcome::from(child.wait_with_output().unwrap());
    assert_eq!(outcome.code, Some(0), "{outcome:?}");
    outcome.stdout
}
