//! SSH to machines, with the host's OpenSSH client and programs that use it.

use std::{
    fs,
    io::{BufRead, BufReader, Write},
    path::PathBuf,
    process::{Command, Stdio},
};

use end_to_end::{Lab, Outcome, Terminal, World, eventually};
use xtask::ports::unused_address;

use crate::ssh_agent::Agent;

crate::declare::tests![
    ssh_runs_commands_like_run,
    files_are_copied_over_ssh,
    ports_and_sockets_are_forwarded,
    the_agent_is_forwarded_on_request,
    a_lost_client_ends_its_command,
    every_machine_has_its_own_host_key,
    installed_configuration_is_for_its_user_only,
];

/// The configuration for ssh in a file of a world's user.
fn configuration(world: &World) -> PathBuf {
    let path = world.path("ssh-config");
    if !path.exists() {
        fs::write(&path, world.stdout(&["ssh-config"])).unwrap();
    }
    path
}

/// Returns a program of the SSH client with the configuration for machines.
fn client(world: &World, program: &str, arguments: &[&str]) -> Command {
    let mut command = world.command(program.as_ref());
    command.arg("-F").arg(configuration(world)).args(arguments);
    command
}

fn ssh(world: &World, arguments: &[&str]) -> Outcome {
    let output = client(world, "ssh", arguments).output();
    output.unwrap().into()
}

/// Runs a program, which must succeed, and returns its standard output.
fn succeed(command: &mut Command) -> String {
    let outcome = Outcome::from(command.output().unwrap());
    assert_eq!(outcome.code, Some(0), "{command:?}: {outcome:?}");
    outcome.stdout
}

/// Runs a command over SSH, which must succeed, and returns its standard output.
fn over_ssh(world: &World, line: &str) -> String {
    succeed(&mut client(world, "ssh", &["dev.machine", line]))
}

/// Variables that only one of the two has, or whose value may differ.
const NOT_COMPARED: &str = "^(SSH_|MAIL=|PWD=|OLDPWD=|SHLVL=|TERM=|_=)";

fn ssh_runs_commands_like_run(lab: &Lab) {
    for world in [lab.user(), lab.root()] {
        let outcome = ssh(world, &["dev.machine", "pwd; echo lost >&2; exit 7"]);
        assert_eq!(outcome.code, Some(7), "{outcome:?}");
        assert_eq!(outcome.stdout, format!("{}\n", world.home().display()));
        assert!(outcome.stderr.ends_with("lost\n"), "{outcome:?}");
        let line = format!(
            "(env; id; ulimit -a; cat /proc/self/cgroup) | grep -Ev '{NOT_COMPARED}' | sort"
        );
        assert_eq!(over_ssh(world, &line), world.inside("dev", &line));
        let shell = client(world, "ssh", &["-t", "dev.machine"]);
        let mut terminal = Terminal::start(&shell, 31, 101);
        terminal.press("stty size; tty; echo $TERM; shopt -q login_shell && echo log''in\r");
        for words in ["31 101", "/dev/pts/", "xterm", "login"] {
            terminal.expect(words);
        }
        terminal.resize(44, 132);
        terminal.press("sleep 1; stty size; exit 5\r");
        terminal.expect("44 132");
        assert_eq!(terminal.end(), Some(5));
    }
    let world = lab.user();
    let root = ssh(world, &["root@dev.machine", "id -u; echo $HOME"]);
    assert_eq!(root.stdout, "0\n/root\n", "{root:?}");
    let unknown = ssh(world, &["nobody9@dev.machine", "true"]);
    assert_eq!(unknown.code, Some(255), "{unknown:?}");
    assert!(
        unknown.stderr.starts_with("Error: user nobody9 not found"),
        "{unknown:?}"
    );
    let mut many: Vec<_> = (0..10)
        .map(|number| {
            let line = format!("echo {number}");
            let mut command = client(world, "ssh", &["dev.machine", &line]);
            command.stdout(Stdio::piped()).spawn().unwrap()
        })
        .collect();
    for (number, one) in many.drain(..).enumerate() {
        let output = one.wait_with_output().unwrap();
        assert_eq!(output.stdout, format!("{number}\n").as_bytes());
    }
    let left = world.inside("dev", "sudo ls /run/container/ssh");
    assert_eq!(left, "", "files of connections that have ended");
}

fn files_are_copied_over_ssh(lab: &Lab) {
    for world in lab.with_tools() {
        let home = world.home();
        world.on_host(&["sh", "-c", "head -c 4000000 /dev/urandom > sent"]);
        let sent = fs::read(home.join("sent")).unwrap();
        let echo = client(world, "ssh", &["dev.machine", "cat"])
            .stdin(fs::File::open(home.join("sent")).unwrap())
            .output();
        assert!(echo.unwrap().stdout == sent, "both directions at once");
        succeed(&mut client(
            world,
            "scp",
            &["-q", "sent", "dev.machine:/tmp/sent"],
        ));
        succeed(&mut client(
            world,
            "scp",
            &["-q", "dev.machine:/tmp/sent", "back"],
        ));
        assert!(fs::read(home.join("back")).unwrap() == sent);

        fs::write(
            world.path("batch"),
            "put sent /tmp/put\nchmod 640 /tmp/put\nls -l /tmp/put\n",
        )
        .unwrap();
        let batch = world.path("batch").display().to_string();
        let listed = succeed(&mut client(
            world,
            "sftp",
            &["-q", "-b", &batch, "dev.machine"],
        ));
        assert!(listed.contains("-rw-r----- "), "{listed}");

        let shell = format!("ssh -F {}", configuration(world).display());
        let mut rsync = world.command("rsync".as_ref());
        rsync.args([
            "-a",
            "--stats",
            "-e",
            &shell,
            "sent",
            "dev.machine:/tmp/sent",
        ]);
        let statistics = succeed(&mut rsync);
        assert!(statistics.contains("Number of files: 1"), "{statistics}");

        over_ssh(
            world,
            "rm -rf /tmp/repository && git init -q /tmp/repository && cd /tmp/repository && \
             git -c user.name=a -c user.email=a@b commit -q --allow-empty -m first",
        );
        let mut git = world.command("git".as_ref());
        git.env("GIT_SSH_COMMAND", &shell).args([
            "clone",
            "-q",
            "ssh://dev.machine/tmp/repository",
            "cloned",
        ]);
        succeed(&mut git);
        assert!(home.join("cloned/.git").exists());
        for name in ["sent", "back", "cloned"] {
            world.on_host(&["rm", "-rf", name]);
        }
    }
}

/// An HTTP server of Python in the machine or on the host.
const SERVER: &str = "python3 -m http.server --bind 127.0.0.1";

fn ports_and_sockets_are_forwarded(lab: &Lab) {
    let world = lab.user_with_tools();
    let free_port = || unused_address().unwrap().port();
    let [local, socks, second] = [free_port(), free_port(), free_port()];
    let host = free_port();
    let mut server = world.command("python3".as_ref());
    server.args([
        "-m",
        "http.server",
        "--bind",
        "127.0.0.1",
        &host.to_string(),
    ]);
    let mut server = server
        .stderr(Stdio::null())
        .stdout(Stdio::null())
        .spawn()
        .unwrap();
    world.inside("dev", &format!("nohup {SERVER} 8123 >/dev/null 2>&1 &"));
    let agent = Agent::start(world, "forwarded");

    let control = world.path("runtime/control").display().to_string();
    let unix = format!("/tmp/agent.sock:{}", agent.socket.display());
    let (local_socket, remote_port) = (
        format!(
            "{}:/tmp/agent.sock",
            world.path("runtime/agent.sock").display()
        ),
        format!("8124:127.0.0.1:{host}"),
    );
    let mut master = client(world, "ssh", &["-fNM", "-S", &control]);
    master.args(["-o", "ExitOnForwardFailure=yes"]);
    master.args([
        "-L",
        &format!("{local}:127.0.0.1:8123"),
        "-L",
        &local_socket,
    ]);
    master.args(["-R", &remote_port, "-R", &unix]);
    master.args(["-D", &socks.to_string(), "dev.machine"]);
    // No pipes, which the process in the background would keep open.
    let master = master.stdout(Stdio::null()).stderr(Stdio::null()).status();
    assert!(master.unwrap().success());
    let fetch = |proxy: &[&str], url: &str| {
        let mut curl = world.command("curl".as_ref());
        curl.args(["-sS", "-o", "/dev/null", "-w", "%{http_code}"]);
        let outcome = Outcome::from(curl.args(proxy).arg(url).output().unwrap());
        (outcome.stdout == "200").then_some(()).ok_or(outcome)
    };
    eventually("the server in the machine listens", || {
        fetch(&["--noproxy", "*"], &format!("http://127.0.0.1:{local}/")).is_ok()
    });
    let proxy = format!("127.0.0.1:{socks}");
    fetch(
        &["--noproxy", "", "--socks5-hostname", &proxy],
        "http://localhost:8123/",
    )
    .unwrap();
    let python = "python3 -c 'import urllib.request as r; print(r.build_opener(r.ProxyHandler({})).open(\"http://127.0.0.1:8124/\").status)'";
    let multiplexed = succeed(&mut client(
        world,
        "ssh",
        &["-S", &control, "dev.machine", python],
    ));
    assert_eq!(multiplexed, "200\n");
    // From the host into the machine and back to the host's agent.
    let keys = world
        .command("ssh-add".as_ref())
        .arg("-l")
        .env("SSH_AUTH_SOCK", world.path("runtime/agent.sock"))
        .output();
    let keys = Outcome::from(keys.unwrap());
    assert!(keys.stdout.contains(" forwarded "), "{keys:?}");
    let ended = ssh(world, &["-S", &control, "-O", "exit", "dev.machine"]);
    assert_eq!(ended.code, Some(0), "{ended:?}");
    server.kill().unwrap();
    server.wait().unwrap();

    // What editors do: a shell without a terminal starts a server that outlives the connection, and
    // reports its port. The editor reaches it through the shell's connection.
    let mut shell = client(
        world,
        "ssh",
        &["-T", "-D", &second.to_string(), "dev.machine", "bash"],
    );
    let mut shell = shell
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let mut script = shell.stdin.take().unwrap();
    writeln!(
        script,
        "nohup {SERVER} 8125 >/dev/null 2>&1 </dev/null & echo $! >/tmp/server.pid\n\
         until (: <>/dev/tcp/127.0.0.1/8125) 2>/dev/null; do sleep 0.1; done; echo port=8125"
    )
    .unwrap();
    let mut line = String::new();
    BufReader::new(shell.stdout.take().unwrap())
        .read_line(&mut line)
        .unwrap();
    assert_eq!(line, "port=8125\n");
    let proxy = format!("127.0.0.1:{second}");
    fetch(
        &["--noproxy", "", "--socks5-hostname", &proxy],
        "http://127.0.0.1:8125/",
    )
    .unwrap();
    drop(script);
    assert!(shell.wait().unwrap().success());
    over_ssh(
        world,
        "kill $(cat /tmp/server.pid) && pkill -f 'http.server.* 8123'",
    );
}

fn the_agent_is_forwarded_on_request(lab: &Lab) {
    for world in [lab.user(), lab.root()] {
        let agent = Agent::start(world, "ssh");
        let with = |options: &[&str]| -> Outcome {
            let mut command = client(world, "ssh", options);
            command.args(["dev.machine", "echo ${SSH_AUTH_SOCK-unset}; ssh-add -l"]);
            let output = command.env("SSH_AUTH_SOCK", &agent.socket).output();
            output.unwrap().into()
        };
        let forwarded = with(&["-A"]);
        assert!(forwarded.stdout.contains(" ssh (ED25519)"), "{forwarded:?}");
        let without = with(&[]);
        assert_eq!(without.stdout, "unset\n", "{without:?}");
        let left = world.inside("dev", "ls -d /tmp/ssh-* 2>/dev/null || echo none");
        assert_eq!(left, "none\n");
    }
}

fn a_lost_client_ends_its_command(lab: &Lab) {
    let world = lab.user();
    let is_running = || world.inside("dev", "pgrep -f 'sleep 4321' | wc -l") != "1\n";
    let mut command = client(world, "ssh", &["dev.machine", "sleep 4321; sleep 4322"]);
    let mut command = command.stdin(Stdio::piped()).spawn().unwrap();
    eventually("the command runs", is_running);
    command.kill().unwrap();
    command.wait().unwrap();
    eventually("the command has ended", || !is_running());
    assert_eq!(
        world.inside("dev", "pgrep -fc 'sleep 432[2]' || true"),
        "0\n"
    );
}

fn every_machine_has_its_own_host_key(lab: &Lab) {
    let world = World::for_user();
    for machine in ["one", "two"] {
        let image = lab.image("busybox:1");
        world.create(&image, machine, &["--no-boot"]);
    }
    for machine in ["one", "two"] {
        let line = "hostname; test -e /etc/ssh || echo no server";
        let outcome = ssh(&world, &[&format!("{machine}.machine"), line]);
        assert_eq!(
            outcome.stdout,
            format!("{machine}\nno server\n"),
            "{outcome:?}"
        );
    }
    let shell = client(&world, "ssh", &["-t", "one.machine"]);
    let mut terminal = Terminal::start(&shell, 24, 80);
    terminal.press("tty; exit 3\r");
    terminal.expect("/dev/pts/");
    assert_eq!(terminal.end(), Some(3));
    let keys = world.path("data/container/ssh/known_hosts");
    let known = fs::read_to_string(&keys).unwrap();
    let key = |machine: &str| {
        let name = format!("{machine}.machine ");
        let line = known.lines().find(|line| line.starts_with(&name)).unwrap();
        line.rsplit(' ').next().unwrap().to_owned()
    };
    assert_ne!(key("one"), key("two"));

    // As if another machine answered under this name.
    let known = known.replace(&key("one"), &key("two"));
    let replaced = world.path("replaced");
    fs::write(&replaced, known).unwrap();
    let option = format!("UserKnownHostsFile={}", replaced.display());
    let refused = ssh(&world, &["-o", &option, "one.machine", "true"]);
    assert!(
        refused.stderr.contains("Host key verification failed"),
        "{refused:?}"
    );
    let other = world.home().join("other");
    world.on_host(&["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", "other"]);
    let file = configuration(&world);
    let text = fs::read_to_string(&file).unwrap();
    let own = world.path("data/container/ssh/id_ed25519");
    let text = text.replace(&*own.to_string_lossy(), &other.to_string_lossy());
    fs::write(&file, text).unwrap();
    let refused = ssh(&world, &["one.machine", "true"]);
    assert_eq!(refused.code, Some(255), "{refused:?}");
    assert!(
        refused.stderr.contains("Permission denied (publickey)"),
        "{refused:?}"
    );
    let missing = ssh(&world, &["none.machine", "true"]);
    assert!(
        missing
            .stderr
            .starts_with("Error: machine \"none\" not found"),
        "{missing:?}"
    );
}

fn installed_configuration_is_for_its_user_only(lab: &Lab) {
    let world = lab.user();
    let home = world.home();
    world.on_host(&["sh", "-c", "mkdir -p .ssh; echo 'Host x' > .ssh/config"]);
    for _ in 0..2 {
        world.stdout(&["ssh-config", "--install", "dev"]);
    }
    let text = fs::read_to_string(home.join(".ssh/config")).unwrap();
    assert_eq!(text.matches("Include").count(), 1, "{text}");
    let mut plain = world.command("ssh".as_ref());
    plain.args([
        "dev.machine",
        "echo reached; ssh -G x >/dev/null && echo harmless",
    ]);
    assert_eq!(succeed(&mut plain), "reached\nharmless\n");

    let other = World::for_user();
    let mut stranger = other.command("ssh".as_ref());
    stranger.arg("-F").arg(configuration(world));
    stranger.args(["dev.machine", "true"]);
    for (name, directory) in [
        ("XDG_DATA_HOME", "data"),
        ("XDG_CONFIG_HOME", "config"),
        ("XDG_RUNTIME_DIR", "runtime"),
    ] {
        stranger.env(name, world.path(directory));
    }
    let refused = Outcome::from(stranger.output().unwrap());
    assert_eq!(refused.code, Some(255), "{refused:?}");
    for file in [
        world.path("data/container/ssh/id_ed25519"),
        world.bundle("dev", "ssh_host_ed25519_key"),
    ] {
        let read = other.command("cat".as_ref()).arg(file).output();
        assert!(!read.unwrap().status.success());
    }
    world.stdout(&["ssh-config", "--uninstall"]);
    let text = fs::read_to_string(home.join(".ssh/config")).unwrap();
    assert_eq!(text, "Host x\n");
    world.on_host(&["rm", "-r", ".ssh"]);
}
