//! SSH to machines, with the host's OpenSSH client and programs that use it.

use std::{
    fs,
    io::{BufRead, BufReader, Read, Write},
    net::TcpStream,
    path::PathBuf,
    process::{Child, ChildStdout, Command, Stdio},
};

use end_to_end::{Lab, Outcome, Terminal, World, eventually};
use xtask::ports::unused_address;

use crate::ssh_agent::Agent;

crate::declare::tests![
    ssh_runs_commands_like_run,
    files_are_copied_over_ssh,
    a_directory_is_mounted_with_sshfs,
    ports_and_sockets_are_forwarded,
    an_editor_installs_its_server_and_finds_it_again,
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

/// Of root's machine, because not every host's `/dev/fuse` is for everybody.
fn a_directory_is_mounted_with_sshfs(lab: &Lab) {
    let world = lab.root_with_tools();
    let mounted = world.home().join("mounted-with-sshfs");
    fs::create_dir(&mounted).unwrap();
    over_ssh(
        world,
        "mkdir -p /tmp/sshfs/sub && echo machine >/tmp/sshfs/file",
    );
    let mut sshfs = client(world, "sshfs", &["dev.machine:/tmp/sshfs"]);
    let log = world.path("sshfs.log");
    // Not pipes, which the process in the background would keep open.
    let errors = fs::File::create(&log).unwrap();
    sshfs.arg(&mounted).stdout(Stdio::null()).stderr(errors);
    let status = sshfs.status().unwrap();
    assert!(status.success(), "{:?}", fs::read_to_string(&log));

    let on_host = |line: &str| {
        let mut shell = world.command("sh".as_ref());
        succeed(shell.args(["-c", line]).current_dir(&mounted))
    };
    assert_eq!(on_host("ls; cat file"), "file\nsub\nmachine\n");
    on_host("echo host >sub/new && chmod 640 sub/new && mv sub/new moved && rm file");
    let seen = "cd /tmp/sshfs && ls && cat moved && stat -c %a moved";
    assert_eq!(over_ssh(world, seen), "moved\nsub\nhost\n640\n");
    on_host("head -c 3000000 /dev/urandom >sub/large");
    let in_machine = over_ssh(world, "md5sum </tmp/sshfs/sub/large");
    assert_eq!(on_host("md5sum <sub/large"), in_machine);

    world.on_host(&["fusermount3", "-u", "mounted-with-sshfs"]);
    assert_eq!(fs::read_dir(&mounted).unwrap().count(), 0);
    fs::remove_dir(&mounted).unwrap();
    over_ssh(world, "rm -r /tmp/sshfs");
}

/// An HTTP server of Python in the machine or on the host.
const SERVER: &str = "python3 -m http.server --bind 127.0.0.1";

fn ports_and_sockets_are_forwarded(lab: &Lab) {
    let world = lab.user_with_tools();
    let free_port = || unused_address().unwrap().port();
    let [local, socks] = [free_port(), free_port()];
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

    over_ssh(world, "pkill -f 'http.server.* 8123'");
}

/// What an editor runs in the machine (VS Code's Remote-SSH): it prints what the editor must know,
/// waits for the editor's copy of the server, and starts the server unless it runs already.
const EDITOR_SCRIPT: &str = r#"
agent=~/.vscode-server; server=$agent/bin/0123
echo "shell==$$"
echo "platform==$(uname -s) $(uname -m)"
ldd --version 2>&1 | grep -q musl && echo libc==musl || echo libc==glibc
umask 077; mkdir -p $server; cd $server
if [ ! -e server.js ]; then
    echo trigger_server_download==$server
    until [ -e server.tar.gz.done ]; do sleep 0.1; done
    tar -xzf server.tar.gz --strip-components 1 && rm server.tar.gz server.tar.gz.done
fi
if ! ps -o args= -p "$(cat $agent/.0123.pid)" | grep -q $server; then
    node $server/server.js >$agent/.0123.log 2>&1 </dev/null &
    echo $! >$agent/.0123.pid
fi 2>/dev/null
until grep -q 'listening on' $agent/.0123.log; do sleep 0.1; done
echo "listeningOn==$(sed -n 's/.*listening on //p' $agent/.0123.log)"
while true; do sleep 180; printf ' '; done
"#;

/// A server in place of the editor's: it answers with its process id, and echoes what it receives
/// over a connection that is to become a WebSocket.
const EDITOR_SERVER: &str = r"
const server = require('http').createServer((_, reply) => reply.end(`${process.pid}`));
server.on('upgrade', (_, socket) => {
    socket.write('HTTP/1.1 101 Switching Protocols\r\n\r\n');
    socket.on('error', () => {}).pipe(socket);
});
server.listen(0, '127.0.0.1', () => console.log(`listening on ${server.address().port}`));
";

/// An editor's shell in the machine, over whose connection it reaches its server.
struct EditorShell {
    client: Child,
    lines: BufReader<ChildStdout>,
    socks: u16,
}

impl EditorShell {
    /// Starts the shell with further options of ssh.
    fn start(world: &World, options: &[&str]) -> EditorShell {
        let socks = unused_address().unwrap().port();
        let mut shell = client(world, "ssh", options);
        shell.args(["-T", "-D", &socks.to_string(), "dev.machine", "bash"]);
        shell.stdin(Stdio::piped()).stdout(Stdio::piped());
        let mut client = shell.spawn().unwrap();
        // The shell continues when its input ends.
        let mut input = client.stdin.take().unwrap();
        input.write_all(EDITOR_SCRIPT.as_bytes()).unwrap();
        EditorShell {
            lines: BufReader::new(client.stdout.take().unwrap()),
            client,
            socks,
        }
    }

    /// Returns the value of a name in the next line, which must be about it.
    fn value(&mut self, name: &str) -> String {
        let mut line = String::new();
        self.lines.read_line(&mut line).unwrap();
        let value = line.trim_end().strip_prefix(name);
        let value = value.and_then(|it| it.strip_prefix("=="));
        let value = value.unwrap_or_else(|| panic!("{name}: {line:?}"));
        value.to_owned()
    }

    /// Checks the platform, and returns the process id of the shell.
    fn begin(&mut self) -> String {
        let shell = self.value("shell");
        assert_eq!(self.value("platform"), "Linux x86_64");
        assert_eq!(self.value("libc"), "glibc");
        shell
    }

    /// Fetches a page of the server over the connection (SOCKS).
    fn fetch(&self, world: &World, port: &str) -> String {
        let proxy = format!("127.0.0.1:{}", self.socks);
        let mut curl = world.command("curl".as_ref());
        curl.args(["-sS", "--noproxy", "", "--socks5-hostname", &proxy]);
        succeed(curl.arg(format!("http://127.0.0.1:{port}/")))
    }

    /// Opens a connection to the server that stays open (RFC 1928; RFC 6455, section 1.3).
    fn upgrade(&self, port: &str) -> TcpStream {
        let mut stream = TcpStream::connect(("127.0.0.1", self.socks)).unwrap();
        let port: u16 = port.parse().unwrap();
        stream.write_all(&[5, 1, 0]).unwrap();
        stream.read_exact(&mut [0; 2]).unwrap();
        let connect = [&[5, 1, 0, 1, 127, 0, 0, 1][..], &port.to_be_bytes()];
        stream.write_all(&connect.concat()).unwrap();
        stream.read_exact(&mut [0; 10]).unwrap();
        let request = "GET / HTTP/1.1\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\r\n";
        stream.write_all(request.as_bytes()).unwrap();
        let mut reply = [0; 36];
        stream.read_exact(&mut reply).unwrap();
        assert_eq!(&reply[..12], b"HTTP/1.1 101");
        stream
    }
}

fn an_editor_installs_its_server_and_finds_it_again(lab: &Lab) {
    let world = lab.user_with_tools();
    let home = world.home();
    let mut first = EditorShell::start(world, &[]);
    let shell = first.begin();
    let directory = first.value("trigger_server_download");
    // The editor has it for this platform.
    world.on_host(&["mkdir", "editor"]);
    fs::write(home.join("editor/server.js"), EDITOR_SERVER).unwrap();
    world.on_host(&["tar", "-czf", "server.tar.gz", "editor"]);
    world.on_host(&["touch", "server.tar.gz.done"]);
    for file in ["server.tar.gz", "server.tar.gz.done"] {
        let target = format!("dev.machine:{directory}/{file}");
        succeed(&mut client(world, "scp", &["-q", file, &target]));
    }
    let port = first.value("listeningOn");
    let server = first.fetch(world, &port);
    let mut stream = first.upgrade(&port);
    for message in [b"one", b"two"] {
        let mut echo = [0; 3];
        stream.write_all(message).unwrap();
        stream.read_exact(&mut echo).unwrap();
        assert_eq!(&echo, message);
    }

    // The connection breaks. The shell ends, and the server does not.
    first.client.kill().unwrap();
    first.client.wait().unwrap();
    assert!(matches!(stream.read(&mut [0]), Ok(0) | Err(_)));
    eventually("the shell has ended", || {
        let line = format!("kill -0 {shell}");
        world.run(&["run", "-n", "dev", &line]).code != Some(0)
    });
    let control = world.path("runtime/editor").display().to_string();
    let mut second = EditorShell::start(world, &["-M", "-S", &control]);
    second.begin();
    assert_eq!(second.value("listeningOn"), port);
    assert_eq!(second.fetch(world, &port), server);
    // Another way to it, through the same connection.
    let local = unused_address().unwrap().port();
    let forward = format!("{local}:127.0.0.1:{port}");
    succeed(&mut client(
        world,
        "ssh",
        &[
            "-S",
            &control,
            "-O",
            "forward",
            "-L",
            &forward,
            "dev.machine",
        ],
    ));
    let mut curl = world.command("curl".as_ref());
    curl.args(["-sS", "--noproxy", "*"]);
    let url = format!("http://127.0.0.1:{local}/");
    assert_eq!(succeed(curl.arg(url)), server);
    second.client.kill().unwrap();
    second.client.wait().unwrap();

    // It is the machine's own: another machine with this home may be of another platform.
    assert!(!home.join(".vscode-server").exists());
    over_ssh(world, &format!("kill {server} && rm -r ~/.vscode-server/*"));
    world.on_host(&["sh", "-c", "rm -r editor server.tar.gz*"]);
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
