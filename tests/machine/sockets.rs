//! Unix sockets that are forwarded between machine and host.

use std::{
    fs,
    os::unix::fs::{PermissionsExt, symlink},
    path::Path,
    process::Stdio,
};

use end_to_end::{Lab, Outcome, World};

use crate::ssh_agent::Agent;

crate::declare::tests![
    sockets_are_forwarded_in_both_directions,
    sockets_that_cannot_work_are_refused,
];

/// Shows the keys of the SSH agent at a socket of the host.
fn keys_on_host(world: &World, socket: &Path) -> Outcome {
    let mut command = world.command("ssh-add".as_ref());
    command.arg("-l").env("SSH_AUTH_SOCK", socket);
    command.output().unwrap().into()
}

/// Shell line that starts an SSH agent in a machine, which only answers its own user and root, and
/// gives it a key named `there`.
const START_AGENT: &str = "mkdir -m 700 /tmp/there && ssh-agent -a /tmp/there/agent.sock > /dev/null && ssh-keygen -q -t ed25519 -N '' -C there -f /tmp/there/key && SSH_AUTH_SOCK=/tmp/there/agent.sock ssh-add -q /tmp/there/key";

fn sockets_are_forwarded_in_both_directions(lab: &Lab) {
    // The settings are taken back, because other tests use the machines.
    for world in [lab.user(), lab.root()] {
        let set = |settings: &[&str]| {
            let outcome = world.run(&[&["set", "-n", "dev"], settings].concat());
            assert_eq!(outcome.code, Some(0), "{outcome:?}");
            outcome.stderr
        };
        let here = Agent::start(world, "here");
        world.inside("dev", START_AGENT);
        world.inside("dev", "sudo ssh-agent -a /run/of-root.sock > /dev/null");
        let own = world.home().join("there.sock");
        let to_host = format!(
            "socket=/tmp/there/agent.sock,/run/of-root.sock,/tmp/there/agent.sock:{}",
            own.display()
        );
        let to_machine = format!("socket=host:{}:/run/from/here.sock", here.socket.display());
        assert_eq!(set(&[&to_host, &to_machine]), "");
        let sockets = &world.inspect("dev")["sockets"];
        assert_eq!(sockets[2]["host"], own.display().to_string());
        assert_eq!(sockets[3]["source"], "host");
        let default = sockets[0]["host"].as_str().unwrap().to_owned();
        let default = Path::new(&default);
        assert!(default.starts_with(world.path("runtime")), "{default:?}");
        for (path, mode) in [
            (default, 0o600),
            (default.parent().unwrap(), 0o700),
            (own.as_path(), 0o600),
        ] {
            let found = fs::metadata(path).unwrap().permissions().mode();
            assert_eq!(found & 0o777, mode, "{path:?}");
        }
        for path in [default, &own] {
            let keys = keys_on_host(world, path);
            assert!(keys.stdout.contains(" there "), "{keys:?}");
        }
        // Root's agent has no keys, and answers only root.
        let of_root = default.with_file_name("of-root.sock");
        assert_eq!(keys_on_host(world, &of_root).code, Some(1));
        let ask = "SSH_AUTH_SOCK=/run/from/here.sock ssh-add -l";
        assert!(world.inside("dev", ask).contains(" here "));
        // A program that listens is not replaced.
        let taken = format!("socket=/tmp/there/agent.sock:{}", here.socket.display());
        let note = set(&[&taken, "socket=host:/none:/etc/passwd"]);
        assert!(note.contains("another program listens"), "{note}");
        assert!(note.contains("/etc/passwd cannot be used"), "{note}");
        assert!(keys_on_host(world, &here.socket).stdout.contains(" here "));
        for path in [default, &own] {
            assert!(!path.exists(), "{path:?}");
        }
        let removed = world.run(&["run", "-n", "dev", "ls /run/from"]);
        assert_eq!((removed.code, removed.stdout.as_str()), (Some(0), ""));
        set(&["socket="]);
        assert_eq!(world.inspect("dev")["sockets"], serde_json::json!([]));
        world.inside("dev", "sudo pkill -x ssh-agent; rm -r /tmp/there");
    }
}

fn sockets_that_cannot_work_are_refused(lab: &Lab) {
    let world = lab.unbooted();
    let file = world.home().join("file");
    fs::write(&file, "").unwrap();
    let service = world.path("runtime/container/service.sock");
    let long = "l".repeat(107);
    let link = world.home().join("link-of-sockets");
    fs::create_dir(world.home().join("realpath")).unwrap();
    symlink("realpath", &link).unwrap();
    for (socket, reason) in [
        ("docker.sock".to_owned(), "not absolute"),
        (format!("/{long}"), "Linux allows 107"),
        (
            "/a.sock:/none/a.sock".to_owned(),
            "directory does not exist",
        ),
        (format!("/a.sock:{}", file.display()), "not a socket"),
        (
            format!("host:{}:/a.sock", service.display()),
            "directory of this program",
        ),
        (
            format!("host:{}/x.sock:/a.sock", link.display()),
            "realpath/x.sock)",
        ),
        ("/a/x.sock,/b/x.sock".to_owned(), "two sockets"),
    ] {
        let error = world.error(&["set", "-n", "one", &format!("socket={socket}")]);
        assert!(error.contains(reason), "{socket}: {error}");
    }
    assert_eq!(world.inspect("one")["sockets"], serde_json::json!([]));
}

/// Uses the Podman of the machine `dev`, which has an image `local/built`, with clients on the
/// host.
pub(crate) fn clients_of_the_host_use_podman(world: &World) {
    let client = |line: &str| -> Outcome {
        let program = world.program();
        let line = format!(
            "eval \"$({} machine docker-env dev)\" && {line}",
            program.display()
        );
        let mut command = world.command("sh".as_ref());
        command.args(["-c", &line]).stderr(Stdio::piped());
        command.output().unwrap().into()
    };
    world.inside(
        "dev",
        "sudo systemctl -q disable --now podman.socket; systemctl -q --user stop podman.socket podman.service",
    );
    let none = world.error(&["docker-env", "dev"]);
    assert!(none.contains("no Docker or Podman"), "{none}");
    world.inside("dev", "systemctl -q --user enable --now podman.socket");
    let inside = world.inside("dev", "podman images -q --no-trunc local/built");
    for line in [
        "podman --remote images -q --no-trunc local/built",
        "docker images -q --no-trunc local/built",
    ] {
        let shown = client(line);
        assert_eq!(shown.stdout, inside, "{line}: {shown:?}");
    }
    // Not with --rm, with which Podman 4.3 reports no exit code to Docker's client.
    for program in ["podman --remote", "docker"] {
        let line =
            format!("echo input | {program} run -i local/built sh -c 'cat; cat /built; exit 7'");
        let ran = client(&line);
        assert_eq!(ran.stdout, "input\nmade\n", "{line}: {ran:?}");
        assert_eq!(ran.code, Some(7), "{line}: {ran:?}");
    }
    let sockets = world.inspect("dev")["sockets"].clone();
    assert_eq!(sockets.as_array().unwrap().len(), 1, "{sockets}");
}
