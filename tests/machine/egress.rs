//! Egress rules: what a machine may connect to, tried from inside.

use std::{
    fs::{self, File},
    io::{Read, Write},
    net::{Ipv4Addr, SocketAddr, TcpListener, TcpStream, UdpSocket},
    os::fd::AsFd,
    process::{Child, Command, Stdio},
    sync::{Arc, Mutex},
    thread,
};

use end_to_end::{Authority, Lab, Outcome, World, eventually};
use rustix::thread::{LinkNameSpaceType, move_into_link_name_space};

crate::declare::tests![a_machine_reaches_only_what_its_rules_allow];

/// Public and private addresses that lead to the servers of the test.
const SHARED: &str = "11.0.0.5";
const OTHER: &str = "11.0.0.9";
const PRIVATE: &str = "10.9.0.1";

/// Addresses of names, as the host's name server answers.
const NAMES: [(&str, &str); 5] = [
    ("a.test", SHARED),
    ("b.test", SHARED),
    ("deep.wild.test", SHARED),
    ("other.test", OTHER),
    ("nas.test", PRIVATE),
];

/// A host with another network and another resolver than ours, to which all of 11/8 and 10.9/16
/// leads. They are no addresses of its interfaces.
struct Host(Child);

impl Host {
    fn start(world: &World) -> Host {
        let resolver = world.path("resolv.conf");
        fs::write(&resolver, "nameserver 127.0.0.1\n").unwrap();
        let line = format!(
            "busybox ip link set lo up && \
             busybox ip route add local 11.0.0.0/8 dev lo table local && \
             busybox ip route add local 10.9.0.0/16 dev lo table local && \
             mount --bind {} /etc/resolv.conf && echo ready && exec sleep infinity",
            resolver.display()
        );
        let mut separate = Command::new("unshare");
        separate.args(["--mount", "--net", "sh", "-c", &line]);
        let mut host = separate.stdout(Stdio::piped()).spawn().unwrap();
        let mut ready = [0; 6];
        host.stdout
            .as_mut()
            .unwrap()
            .read_exact(&mut ready)
            .unwrap();
        Host(host)
    }

    /// Returns the command as one of this host.
    fn command(&self, inner: &Command) -> Command {
        let mut command = Command::new("nsenter");
        command
            .args(["--mount", "--net", "--target", &self.0.id().to_string()])
            .arg(inner.get_program())
            .args(inner.get_args())
            .env_clear()
            .envs(
                inner
                    .get_envs()
                    .filter_map(|(name, value)| Some((name, value?))),
            )
            .stdin(Stdio::null());
        command
    }

    /// Runs `container machine`, which must succeed.
    fn machine(&self, world: &World, arguments: &[&str]) -> String {
        let run = self.command(&world.machine(arguments)).output().unwrap();
        let outcome = Outcome::from(run);
        assert_eq!(outcome.code, Some(0), "{arguments:?}: {outcome:?}");
        outcome.stdout
    }

    /// Opens a socket in this host's network.
    fn open<T: Send + 'static>(&self, open: impl FnOnce() -> T + Send + 'static) -> T {
        let network = File::open(format!("/proc/{}/ns/net", self.0.id())).unwrap();
        let opening = thread::spawn(move || {
            let kind = Some(LinkNameSpaceType::Network);
            move_into_link_name_space(network.as_fd(), kind).unwrap();
            open()
        });
        opening.join().unwrap()
    }
}

impl Drop for Host {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// A name server of the host, which notes all names that it is asked for.
fn serve_names(host: &Host) -> Arc<Mutex<Vec<String>>> {
    let socket = host.open(|| UdpSocket::bind("127.0.0.1:53").unwrap());
    let asked = Arc::new(Mutex::new(Vec::new()));
    let noted = Arc::clone(&asked);
    thread::spawn(move || {
        let mut query = [0; 1500];
        while let Ok((length, from)) = socket.recv_from(&mut query) {
            let (mut labels, mut at) = (Vec::new(), 12);
            while query[at] != 0 {
                let end = at + 1 + usize::from(query[at]);
                labels.push(String::from_utf8_lossy(&query[at + 1..end]).into_owned());
                at = end;
            }
            let name = labels.join(".");
            let is_for_ipv4 = query[at + 1..at + 3] == [0, 1];
            let address = NAMES.iter().find(|(known, _)| *known == name);
            let address = address.map(|(_, address)| address.parse::<Ipv4Addr>().unwrap());
            // The question again, and at most one answer; without additional records.
            let code = if address.is_some() { 0 } else { 3 };
            let address = address.filter(|_| is_for_ipv4);
            let mut reply = query[..at + 5].to_vec();
            reply[2..4].copy_from_slice(&[0x81, 0x80 | code]);
            reply[6..12].copy_from_slice(&[0, u8::from(address.is_some()), 0, 0, 0, 0]);
            if let Some(address) = address {
                reply.extend([0xc0, 12, 0, 1, 0, 1, 0, 0, 0, 60, 0, 4]);
                reply.extend(address.octets());
            }
            assert!(length >= at + 5);
            noted.lock().unwrap().push(name);
            socket.send_to(&reply, from).unwrap();
        }
    });
    asked
}

/// A server that echoes what it receives.
fn serve_echoes(host: &Host, port: u16) {
    let listener = host.open(move || TcpListener::bind(("0.0.0.0", port)).unwrap());
    thread::spawn(move || {
        for stream in listener.incoming() {
            thread::spawn(move || {
                let mut stream = stream.unwrap();
                let mut reader = stream.try_clone().unwrap();
                // Fails if the connection is reset.
                let _ = std::io::copy(&mut reader, &mut stream);
            });
        }
    });
}

/// A TLS server for every name, with OpenSSL.
fn serve_tls(host: &Host, authority: &Authority) -> Child {
    let certified = authority.certify("server", "DNS:a.test,DNS:b.test");
    let mut server = Command::new("openssl");
    server.args([
        "s_server",
        "-accept",
        "0.0.0.0:443",
        "-www",
        "-quiet",
        "-cert",
    ]);
    server.arg(&certified.certificate);
    server.arg("-key").arg(&certified.key);
    server.env("PATH", std::env::var("PATH").unwrap());
    let mut server = host.command(&server);
    let server = server.stdout(Stdio::null()).stderr(Stdio::null()).spawn();
    eventually("the TLS server listens", || {
        host.open(|| TcpStream::connect("127.0.0.1:443").is_ok())
    });
    server.unwrap()
}

/// The machine `dev`, from inside.
struct Dev<'a>(&'a World);

impl Dev<'_> {
    fn run(&self, line: &str) -> Outcome {
        self.0.run(&["run", "-n", "dev", line])
    }

    /// Connects to an echo server. Returns whether it has answered; else the connection is refused.
    fn reaches(&self, server: &str) -> bool {
        let (host, port) = server.rsplit_once(':').unwrap();
        let line = format!("exec 3<>/dev/tcp/{host}/{port} && echo hello >&3 && head -1 <&3");
        let outcome = self.run(&line);
        match outcome.code {
            Some(0) => assert_eq!(outcome.stdout, "hello\n", "{server}"),
            _ => assert!(outcome.stderr.contains("refused"), "{server}: {outcome:?}"),
        }
        outcome.code == Some(0)
    }

    /// Completes a TLS handshake at the shared address, with these arguments of OpenSSL.
    fn shakes_hands(&self, arguments: &str) -> bool {
        let line = format!("openssl s_client -connect {SHARED}:443 {arguments} </dev/null 2>&1");
        let outcome = self.run(&line);
        let has_certificate = outcome.stdout.contains("BEGIN CERTIFICATE");
        assert_eq!(outcome.code == Some(0), has_certificate, "{outcome:?}");
        has_certificate
    }

    fn resolves(&self, name: &str) -> bool {
        let outcome = self.run(&format!("getent ahostsv4 {name}"));
        assert!([Some(0), Some(2)].contains(&outcome.code), "{outcome:?}");
        outcome.code == Some(0)
    }

    fn set(&self, settings: &[&str]) {
        let outcome = self.0.run(&[&["set", "-n", "dev"], settings].concat());
        assert_eq!((outcome.code, &outcome.stderr[..]), (Some(0), ""));
    }

    fn blocked(&self) -> String {
        let format = "{{ destination }} {{ kind }}";
        self.0
            .stdout(&["port", "dev", "--blocked", "--format", format])
    }
}

fn a_machine_reaches_only_what_its_rules_allow(lab: &Lab) {
    let world = World::for_root();
    let rules = [
        "--no-boot",
        "--egress",
        "none",
        "--allow",
        "a.test:443",
        "--allow",
        "*.wild.test",
    ];
    world.create(&lab.image("debian-systemd:12"), "dev", &rules);
    world.create(&lab.image("busybox:1"), "db", &["--no-boot"]);
    let inspected = world.inspect("dev");
    assert_eq!(inspected["egress"], "none");
    assert_eq!(inspected["allow"][1], "*.wild.test");
    // The next service is one of the other host.
    world.processes("service").iter().for_each(|it| it.kill());
    let host = Host::start(&world);
    let asked = serve_names(&host);
    let authority = Authority::create();
    let mut tls = serve_tls(&host, &authority);
    serve_echoes(&host, 80);
    host.machine(&world, &["start", "dev", "db"]);
    let dev = Dev(&world);

    names_are_walls(&dev, &asked);
    changes_apply_at_once(&dev, &host);
    machines_are_walls(&dev, &host);

    // The rules are in force after the next boot, and after a suspension.
    dev.set(&["egress=none", "allow=deep.wild.test:80"]);
    for again in ["stop", "suspend"] {
        host.machine(&world, &[again, "dev"]);
        host.machine(&world, &["start", "dev"]);
        assert!(!dev.reaches(&format!("{SHARED}:80")), "after {again}");
        assert!(dev.reaches("deep.wild.test:80"), "after {again}");
        assert!(!dev.reaches(&format!("{OTHER}:80")), "after {again}");
        assert!(dev.blocked().contains(&format!("{OTHER}:80 tcp")));
    }
    let log = fs::read_to_string(world.bundle("dev", "runtime.log")).unwrap();
    assert!(
        log.contains("blocked by the machine's egress rules"),
        "{log}"
    );
    tls.kill().unwrap();
    tls.wait().unwrap();
}

/// With `egress=none`, and rules for names.
fn names_are_walls(dev: &Dev<'_>, asked: &Mutex<Vec<String>>) {
    // Before the name was looked up, its address is as good as any other.
    assert!(!dev.shakes_hands("-servername a.test"));
    assert!(dev.resolves("a.test") && dev.resolves("deep.wild.test"));
    for name in ["b.test", "wild.test", "secret.evil.test", "db.machine"] {
        assert!(!dev.resolves(name), "{name}");
    }
    let known = ["a.test", "deep.wild.test"];
    let asked = asked.lock().unwrap();
    assert!(
        asked.iter().all(|name| known.contains(&&name[..])),
        "{asked:?}"
    );

    assert!(dev.shakes_hands("-servername a.test"));
    assert!(dev.shakes_hands("-servername A.TEST"));
    assert!(dev.shakes_hands("-servername deep.wild.test"));
    assert!(dev.shakes_hands("-noservername"));
    for name in ["b.test", "x.wild.test", "a.test.evil.test"] {
        assert!(!dev.shakes_hands(&format!("-servername {name}")), "{name}");
    }
    for server in [OTHER, PRIVATE, "198.19.0.1"] {
        assert!(!dev.reaches(&format!("{server}:80")), "{server}");
    }
    let http3 = format!(
        "perl -MIO::Socket::INET -e '$s = IO::Socket::INET->new(PeerAddr => \"{SHARED}:443\", \
         Proto => \"udp\"); for (1..300) {{ defined $s->send(\"x\") or die \"$!\\n\"; \
         select undef, undef, undef, 0.1 }}'"
    );
    let outcome = dev.run(&http3);
    assert!(outcome.stderr.contains("No route to host"), "{outcome:?}");
    let blocked = dev.blocked();
    for expected in [
        "b.test:443 tcp",
        "11.0.0.9:80 tcp",
        "198.19.0.1:80 tcp",
        "10.9.0.1:80 tcp",
        "test:443 udp",
        "secret.evil.test dns",
    ] {
        assert!(blocked.contains(expected), "{expected}: {blocked}");
    }
    let shown = dev.0.stdout(&["port", "dev"]);
    assert!(shown.contains("blocked: "), "{shown}");
}

/// Rules of a running machine are changed, and its connections end.
fn changes_apply_at_once(dev: &Dev<'_>, host: &Host) {
    dev.set(&["egress=public"]);
    assert!(dev.reaches(&format!("{OTHER}:80")) && dev.reaches("other.test:80"));
    assert!(!dev.reaches(&format!("{PRIVATE}:80")));
    assert!(dev.resolves("nas.test"));
    assert!(!dev.reaches("nas.test:80"));
    dev.set(&["allow+=nas.test:80"]);
    assert!(dev.reaches("nas.test:80"));
    dev.set(&["allow-=nas.test:80", "allow+=10.9.0.0/16"]);
    assert!(dev.reaches(&format!("{PRIVATE}:80")));
    let error = dev.0.error(&["set", "-n", "dev", "allow-=nas.test"]);
    assert!(error.contains("no such rule"), "{error}");
    let error = dev.0.error(&["set", "-n", "dev", "egress=some"]);
    assert!(error.contains("all, public or none"), "{error}");

    // An idle connection ends, and another continues.
    let listener = host.open(|| TcpListener::bind("0.0.0.0:81").unwrap());
    let connections: Vec<(Child, TcpStream)> = [OTHER, PRIVATE]
        .map(|server| {
            let line = format!("exec 3<>/dev/tcp/{server}/81; cat <&3; echo ended >&2");
            let mut client = dev.0.machine(&["run", "-n", "dev", &line]);
            client.stdout(Stdio::piped()).stderr(Stdio::piped());
            let client = client.spawn().unwrap();
            (client, listener.accept().unwrap().0)
        })
        .into();
    dev.set(&["egress=none"]);
    let [(mut ended, mut at_server), (kept, mut keeps)] = <[_; 2]>::try_from(connections).unwrap();
    eventually("the client has ended", || {
        ended.try_wait().unwrap().is_some()
    });
    assert!(at_server.read(&mut [0]).is_err(), "it is reset");
    keeps.write_all(b"still here\n").unwrap();
    drop(keeps);
    let kept = Outcome::from(kept.wait_with_output().unwrap());
    assert_eq!(kept.stdout, "still here\n", "{kept:?}");
}

/// With `egress=none`: the user's other machines.
fn machines_are_walls(dev: &Dev<'_>, host: &Host) {
    let world = dev.0;
    let echo = "exec nc -ll -p 8080 -e cat";
    world.stdout(&["run", "-d", "-n", "db", echo]);
    let inspected = world.inspect("db");
    let own: Ipv4Addr = inspected["ipAddress"].as_str().unwrap().parse().unwrap();
    let server = SocketAddr::from((own, 8080));
    eventually("it listens", || {
        host.open(move || TcpStream::connect(server).is_ok())
    });
    let [.., high, low] = own.octets();
    assert!(!dev.resolves("db"));
    assert!(!dev.reaches(&format!("198.19.{high}.{low}:8080")));
    dev.set(&["allow+=db.machine:8080"]);
    assert!(dev.reaches("db.machine:8080"));
    assert!(dev.reaches(&format!("198.19.{high}.{low}:8080")));
    dev.set(&["allow-=db.machine:8080"]);
    assert!(!dev.reaches(&format!("198.19.{high}.{low}:8080")));

    // What the other machine begins is answered.
    let answer = "perl -MIO::Socket::INET -e '$l = IO::Socket::INET->new(LocalPort => 7007, \
                  Listen => 5, ReuseAddr => 1); while ($c = $l->accept) { print $c \"answer\\n\"; \
                  close $c }'";
    world.stdout(&["run", "-d", "-n", "dev", answer]);
    let ask = "nc dev 7007 </dev/null";
    eventually("the other machine is answered", || {
        world.run(&["run", "-n", "db", ask]).stdout == "answer\n"
    });
}
