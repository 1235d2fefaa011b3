//! Forwarding of the host's SSH agent.

use std::{
    path::PathBuf,
    process::{Child, Command, Stdio},
};

use end_to_end::{Lab, Outcome, World, eventually};

crate::declare::tests![
    keys_of_the_caller_are_available,
    agent_of_the_most_recent_caller_is_used,
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
        let mut command: Command = world.machine(&["run", "-n", "dev", line]);
        command
            .env("SSH_AUTH_SOCK", &self.socket)
            .output()
            .unwrap()
            .into()
    }
}

impl Drop for Agent {
    fn drop(&mut self) {
        self.process.kill().unwrap();
        self.process.wait().unwrap();
    }
}

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

fn agent_of_the_most_recent_caller_is_used(lab: &Lab) {
    let world = World::for_user();
    world.create(&lab.image("debian-systemd:12"), "dev", &[]);
    let none = world.run(&["run", "-n", "dev", ASK]);
    assert_eq!(none.code, Some(1), "no caller had an agent: {none:?}");
    let ann = Agent::start(&world, "ann");
    ann.run(&world, "true");
    assert!(world.inside("dev", ASK).contains(" ann "));
    let bob = Agent::start(&world, "bob");
    bob.run(&world, "true");
    assert!(world.inside("dev", ASK).contains(" bob "));
    drop(bob);
    let gone = world.run(&["run", "-n", "dev", ASK]);
    assert_ne!(gone.code, Some(0), "{gone:?}");
    assert!(
        ann.run(&world, ASK).stdout.contains(" ann "),
        "the machine uses the next caller's agent"
    );
    world.stdout(&["restart", "dev"]);
    assert!(ann.run(&world, ASK).stdout.contains(" ann "));
    world.stdout(&["stop", "dev"]);
    world.check_disk("dev");
}
