//! The network: connections from the guest, and to its listeners.

use std::{
    fs,
    io::{self, ErrorKind, Read, Write},
    net::{
        IpAddr, Ipv4Addr, Shutdown, SocketAddr, TcpListener, TcpStream, ToSocketAddrs, UdpSocket,
    },
    process::Command,
    thread,
    time::{Duration, Instant},
};

use end_to_end::{Lab, World, eventually};
use sha2::{Digest, Sha256};
use xtask::ports::unused_address;

crate::declare::tests![
    guest_reaches_package_servers,
    proxy_variables_are_passed_on,
    listeners_are_forwarded_at_the_machines_address,
    tcp_streams_are_complete_in_both_directions,
    udp_datagrams_pass_in_both_directions,
    machines_resolve_each_other_and_the_host,
    resolver_follows_the_host,
    ports_are_published,
    other_users_are_refused_with_same_user_only,
    common_servers_are_reachable,
    host_is_reachable_over_ipv6,
    host_resolves_machine_names,
];

/// Uses the machine's resolver and default route.
fn guest_reaches_package_servers(lab: &Lab) {
    let world = lab.user();
    world.inside(
        "dev",
        "sudo -E apt-get update -q && apt-cache policy bash | grep -q Candidate",
    );
}

fn proxy_variables_are_passed_on(lab: &Lab) {
    let mut run = lab
        .root()
        .machine(&["run", "-n", "dev", "echo $http_proxy,$NO_PROXY"]);
    run.env("http_proxy", "http://proxy.example:3128")
        .env("NO_PROXY", "here");
    let printed = String::from_utf8(run.output().unwrap().stdout).unwrap();
    assert_eq!(printed, "http://proxy.example:3128,here\n");
}

fn address(world: &World, machine: &str) -> Ipv4Addr {
    let inspected = world.inspect(machine);
    inspected["ipAddress"].as_str().unwrap().parse().unwrap()
}

/// Starts a detached command in the machine.
fn start(world: &World, machine: &str, line: &str) {
    world.stdout(&["run", "-d", "-n", machine, line]);
}

/// Requests a path from an HTTP server and returns the body of a successful answer.
fn http_get(server: SocketAddr, path: &str) -> io::Result<Vec<u8>> {
    let mut stream = TcpStream::connect(server)?;
    write!(stream, "GET {path} HTTP/1.0\r\n\r\n")?;
    let mut answer = Vec::new();
    stream.read_to_end(&mut answer)?;
    let body = answer.windows(4).position(|four| four == b"\r\n\r\n");
    match body {
        Some(at) if answer.starts_with(b"HTTP/1.0 200") || answer.starts_with(b"HTTP/1.1 200") => {
            Ok(answer.split_off(at + 4))
        }
        _ => Err(io::Error::other(
            String::from_utf8_lossy(&answer).into_owned(),
        )),
    }
}

/// Returns whether the guest finds listeners by socket events, and not by polling.
fn has_socket_events(world: &World, machine: &str) -> bool {
    let log = world.stdout(&["logs", "--boot", machine]);
    !log.contains("does not support socket events")
}

fn is_refused(server: SocketAddr) -> bool {
    matches!(TcpStream::connect(server), Err(error) if error.kind() == ErrorKind::ConnectionRefused)
}

/// Returns the lines of `container machine port`, as `host port process problem`.
fn ports(world: &World, machine: &str) -> Vec<String> {
    let format = "{{ host }} {{ port }} {{ process }} {{ problem }}";
    let printed = world.stdout(&["port", machine, "--format", format]);
    printed
        .lines()
        .map(|line| line.trim_end().to_owned())
        .collect()
}

fn listeners_are_forwarded_at_the_machines_address(lab: &Lab) {
    let world = World::for_user();
    world.create(&lab.image("busybox:1"), "web", &[]);
    let own = address(&world, "web");
    assert_eq!(own.octets()[..2], [127, 19]);
    let at = move |port: u16| SocketAddr::from((own, port));
    assert!(is_refused(at(8080)));
    assert!(has_socket_events(&world, "web"));
    let inside = |line: &str| world.inside("web", line);
    inside("echo hello > /tmp/index.html");
    // Bound to all addresses, and to the machine's loopback only.
    start(&world, "web", "exec httpd -f -p 8080 -h /tmp");
    start(&world, "web", "exec httpd -f -p 127.0.0.1:8081 -h /tmp");
    start(&world, "web", "exec httpd -f -p [::1]:8082 -h /tmp");
    for port in [8080, 8081, 8082] {
        let message = format!("port {port} answers");
        eventually(&message, || {
            http_get(at(port), "/").is_ok_and(|it| it == b"hello\n")
        });
    }
    let listed: Vec<String> = [8080, 8081, 8082]
        .map(|port| format!("{own}:{port} {port} httpd"))
        .into();
    assert_eq!(ports(&world, "web"), listed);
    // Of many concurrent connections none is lost.
    let getting: Vec<_> = (0..200)
        .map(|_| thread::spawn(move || http_get(at(8080), "/").unwrap()))
        .collect();
    for got in getting {
        assert_eq!(got.join().unwrap(), b"hello\n");
    }
    inside("kill $(pidof httpd)");
    for port in [8080, 8081, 8082] {
        eventually("the listeners are gone", || is_refused(at(port)));
    }
    assert_eq!(ports(&world, "web"), [""; 0]);
    // A program's name may contain what a terminal obeys.
    inside("cp /bin/busybox /tmp/$(printf 'busybox\\033c')");
    start(&world, "web", "exec /tmp/busybox* nc -l -p 8080");
    let table = || world.stdout(&["port", "web"]);
    eventually("the program listens", || table().contains("busybox"));
    assert!(table().contains(r"busybox\u{1b}c"), "{}", table());
    inside("kill $(pgrep -f busybox.c); rm /tmp/busybox*");
    // A stopped machine has no address; the next boot has the same one.
    world.stdout(&["stop", "web"]);
    assert!(world.inspect("web").get("ipAddress").is_none());
    let error = world.error(&["port", "web"]);
    assert!(error.contains("is not running"), "{error}");
    world.stdout(&["start", "web"]);
    assert_eq!(address(&world, "web"), own);
    // The guest's root may use ports for which the host's user has no permission.
    let first_free = std::fs::read_to_string("/proc/sys/net/ipv4/ip_unprivileged_port_start");
    if first_free.unwrap().trim() == "1024" {
        let as_root = [
            "run",
            "-d",
            "-u",
            "root",
            "-n",
            "web",
            "exec httpd -f -p 81 -h /tmp",
        ];
        world.stdout(&as_root);
        eventually("port 81 is listed", || !ports(&world, "web").is_empty());
        let listed = ports(&world, "web").concat();
        assert!(listed.contains("ip_unprivileged_port_start"), "{listed}");
        assert!(is_refused(at(81)));
    }
    // The port is in use on the host.
    let held = TcpListener::bind(at(9000)).unwrap();
    start(&world, "web", "exec httpd -f -p 9000 -h /tmp");
    eventually("the conflict is listed", || {
        ports(&world, "web").concat().contains("another program")
    });
    drop(held);
    eventually("the port is forwarded when it is free", || {
        http_get(at(9000), "/").is_ok_and(|it| it == b"hello\n")
    });
    // A killed runtime closes its listeners.
    start(&world, "web", "exec httpd -f -p 8080 -h /tmp");
    eventually("the port is open", || TcpStream::connect(at(8080)).is_ok());
    for runtime in world.processes("runtime") {
        runtime.kill();
    }
    eventually("the port is closed", || is_refused(at(8080)));
}

/// Returns an address of the host that is not a loopback address.
fn address_of_host() -> IpAddr {
    let socket = UdpSocket::bind("0.0.0.0:0").unwrap();
    // Nothing is sent: the kernel only chooses a route.
    socket.connect("192.0.2.1:9").unwrap();
    socket.local_addr().unwrap().ip()
}

fn sha256(bytes: &[u8]) -> String {
    format!("{:x}", Sha256::digest(bytes))
}

fn random_bytes(length: usize) -> Vec<u8> {
    let mut state = 1u64;
    let mut next = || {
        state = state
            .wrapping_mul(6364136223846793005)
            .wrapping_add(1442695040888963407);
        (state >> 56) as u8
    };
    (0..length).map(|_| next()).collect()
}

fn tcp_streams_are_complete_in_both_directions(lab: &Lab) {
    let world = World::for_root();
    world.create(&lab.image("busybox:1"), "dev", &[]);
    let own = address(&world, "dev");
    let sent = random_bytes(48 << 20);

    // From the host: the guest receives the end of the stream and can still answer.
    start(&world, "dev", "exec nc -ll -p 9000 -e sha256sum");
    start(&world, "dev", "exec nc -ll -p 9001 -e cat /bin/busybox");
    let at = |port: u16| SocketAddr::from((own, port));
    eventually("the port is open", || ports(&world, "dev").len() == 2);
    let mut stream = TcpStream::connect(at(9000)).unwrap();
    stream.write_all(&sent).unwrap();
    stream.shutdown(Shutdown::Write).unwrap();
    let mut answer = String::new();
    stream.read_to_string(&mut answer).unwrap();
    assert_eq!(answer.split_whitespace().next(), Some(&sha256(&sent)[..]));
    let mut got = Vec::new();
    TcpStream::connect(at(9001))
        .unwrap()
        .read_to_end(&mut got)
        .unwrap();
    let there = world.inside("dev", "sha256sum < /bin/busybox");
    assert_eq!(there.split_whitespace().next(), Some(&sha256(&got)[..]));

    // From the guest to a server on the host, and back.
    let host = address_of_host();
    let server = TcpListener::bind((host, 0)).unwrap();
    let port = server.local_addr().unwrap().port();
    let serving = thread::spawn(move || {
        let mut stream = server.accept().unwrap().0;
        let mut heard = Vec::new();
        stream.read_to_end(&mut heard).unwrap();
        stream.write_all(&heard).unwrap();
        heard
    });
    let line = format!(
        "dd if=/dev/urandom of=/tmp/sent bs=1M count=24 2> /dev/null; nc {host} {port} < /tmp/sent > /tmp/got; cmp /tmp/sent /tmp/got && sha256sum < /tmp/sent"
    );
    let said = world.inside("dev", &line);
    let heard = serving.join().unwrap();
    assert_eq!(said.split_whitespace().next(), Some(&sha256(&heard)[..]));

    // A peer that does not read blocks the sender and takes no memory of the runtime.
    start(&world, "dev", "exec nc -ll -p 9002 -e cat /dev/zero");
    eventually("the port is open", || ports(&world, "dev").len() == 3);
    let memory = || -> u64 {
        let runtime = &world.processes("runtime")[0];
        let resident = runtime.status("VmRSS").unwrap();
        resident.split_whitespace().next().unwrap().parse().unwrap()
    };
    let before = memory();
    let readers: Vec<_> = (0..4)
        .map(|_| TcpStream::connect(at(9002)).unwrap())
        .collect();
    thread::sleep(Duration::from_secs(3));
    let taken = memory() - before;
    assert!(
        taken < 16 << 10,
        "{taken} KiB for {} readers",
        readers.len()
    );
    drop(readers);

    // Refused connections fail at once, and the host's loopback is not reachable.
    let local = TcpListener::bind("127.0.0.1:0").unwrap();
    let local_port = local.local_addr().unwrap().port();
    for closed in [
        format!("{host} 1"),
        format!("198.19.0.1 {local_port}"),
        format!("host.container.internal {local_port}"),
    ] {
        let start = Instant::now();
        let outcome = world.run(&[
            "run",
            "-n",
            "dev",
            &format!("nc -w 20 {closed} < /dev/null"),
        ]);
        assert_eq!(outcome.code, Some(1), "{closed}: {outcome:?}");
        assert!(start.elapsed() < Duration::from_secs(15), "{closed}");
        // The first refusal by the policy says which setting allows it.
        let is_first = closed.starts_with("198.19.0.1");
        let note = format!("connection to port {local_port} of the host's loopback was refused");
        let shown =
            outcome.stderr.contains(&note) && outcome.stderr.contains("host-loopback = true");
        assert_eq!(shown, is_first, "{closed}: {outcome:?}");
    }
    let log = world.stdout(&["logs", "--boot", "dev"]);
    assert_eq!(log.matches("host-loopback = true").count(), 1, "{log}");
    world.stdout(&["stop", "dev"]);
    world.configure("[network]\nhost-loopback = true\n");
    world.stdout(&["start", "dev"]);
    let serving = thread::spawn(move || local.accept().unwrap().0.write_all(b"from the host\n"));
    let line = format!("nc host.container.internal {local_port} < /dev/null");
    assert_eq!(world.inside("dev", &line), "from the host\n");
    serving.join().unwrap().unwrap();
}

fn udp_datagrams_pass_in_both_directions(lab: &Lab) {
    let world = lab.root();
    let own = address(world, "dev");
    let server = "exec perl -MIO::Socket::INET -e '$s = IO::Socket::INET->new(LocalPort => 7007, Proto => \"udp\"); while ($s->recv($d, 65536)) { $s->send(scalar reverse $d) }'";
    start(world, "dev", server);
    eventually("the port is open", || {
        ports(world, "dev").contains(&format!("{own}:7007 7007 perl"))
    });
    let ask_at = |port: u16, word: &[u8]| {
        let client = UdpSocket::bind("127.0.0.1:0").unwrap();
        client.connect((own, port)).unwrap();
        client
            .set_read_timeout(Some(Duration::from_secs(10)))
            .unwrap();
        client.send(word).unwrap();
        let mut answer = vec![0; 65536];
        let length = client.recv(&mut answer).unwrap();
        answer.truncate(length);
        answer
    };
    let ask = |word: &[u8]| ask_at(7007, word);
    // Each client gets its own answer, with short and long datagrams.
    assert_eq!(ask(b"ping"), b"gnip");
    assert_eq!(ask(b"pong"), b"gnop");
    let long = random_bytes(40_000);
    let reversed: Vec<u8> = long.iter().rev().copied().collect();
    assert_eq!(ask(&long), reversed);
    world.inside("dev", "pkill -f LocalPort");
    eventually("the listener is gone", || {
        !ports(world, "dev").concat().contains("perl")
    });

    // A server on the machine's loopback only.
    let local = server.replace("LocalPort =>", "LocalAddr => \"127.0.0.1\", LocalPort =>");
    start(world, "dev", &local);
    eventually("the port is open", || {
        ports(world, "dev").contains(&format!("{own}:7007 7007 perl"))
    });
    assert_eq!(ask(b"ping"), b"gnip");
    assert_eq!(ask(&long), reversed);
    world.inside("dev", "pkill -f LocalPort");
    eventually("the listener is gone", || {
        !ports(world, "dev").concat().contains("perl")
    });
    assert!(has_socket_events(world, "dev"));

    // A port in the ephemeral range that the program bound by number; and an IPv6-only socket.
    let by_number = server.replace("7007", "45007");
    let ipv6_only = server.replace("INET", "IP").replace(
        "LocalPort => 7007",
        "LocalHost => \"::\", V6Only => 1, LocalPort => 7008",
    );
    for (port, server) in [(45007, by_number), (7008, ipv6_only)] {
        start(world, "dev", &server);
        eventually("the port is open", || {
            ports(world, "dev").contains(&format!("{own}:{port} {port} perl"))
        });
        assert_eq!(ask_at(port, b"ping"), b"gnip");
    }
    world.inside("dev", "pkill -f LocalPort");

    let host = address_of_host();
    let server = UdpSocket::bind((host, 0)).unwrap();
    let port = server.local_addr().unwrap().port();
    thread::spawn(move || {
        let mut datagram = [0; 2048];
        while let Ok((length, from)) = server.recv_from(&mut datagram) {
            server.send_to(&datagram[..length], from).unwrap();
        }
    });
    let client = format!(
        "perl -MIO::Socket::INET -e '$s = IO::Socket::INET->new(PeerAddr => \"{host}:{port}\", Proto => \"udp\"); $s->send(\"echo\"); alarm 20; $s->recv($d, 99); print $d'"
    );
    assert_eq!(world.inside("dev", &client), "echo");
}

fn machines_resolve_each_other_and_the_host(lab: &Lab) {
    let world = lab.root();
    world.create(&lab.image("busybox:1"), "peer", &[]);
    world.inside("peer", "echo from peer > /tmp/index.html");
    start(world, "peer", "exec httpd -f -p 80 -h /tmp");
    let peer = address(world, "peer").octets();
    let [.., high, low] = peer;
    for name in ["peer", "peer.machine", &format!("198.19.{high}.{low}")] {
        let line = format!(
            "exec 3<>/dev/tcp/{name}/80 && printf 'GET / HTTP/1.0\\r\\n\\r\\n' >&3 && tail -1 <&3"
        );
        assert_eq!(world.inside("dev", &line), "from peer\n", "{name}");
    }
    for host in ["container", "docker", "containers"] {
        let line = format!("getent ahostsv4 host.{host}.internal");
        let hosts = world.inside("dev", &line);
        assert!(hosts.starts_with("198.19.0.1 "), "{hosts}");
    }
    let own = world.inside("dev", "getent ahostsv4 dev");
    let [.., high, low] = address(world, "dev").octets();
    assert!(own.starts_with(&format!("198.19.{high}.{low} ")), "{own}");
    // DNS over TCP, also over IPv6; and reverse lookups.
    for server in ["198.19.0.1", "fd7e:41c9:b35a::c613:1"] {
        let line = format!(
            "exec 3<>/dev/tcp/{server}/53; printf '\\0\\35\\1\\2\\1\\0\\0\\1\\0\\0\\0\\0\\0\\0\\3dev\\7machine\\0\\0\\1\\0\\1' >&3; head -c 47 <&3 | tail -c 4 | od -An -tu1"
        );
        let said = world.inside("dev", &line);
        let octets: Vec<&str> = said.split_whitespace().collect();
        assert_eq!(octets, ["198", "19", &high.to_string(), &low.to_string()]);
    }
    let named = world.inside("dev", &format!("getent hosts 198.19.{high}.{low}"));
    assert!(named.contains("dev"), "{named}");
    let named = world.inside(
        "dev",
        &format!("getent hosts 198.19.{}.{}", peer[2], peer[3]),
    );
    assert!(named.contains("peer.machine"), "{named}");
    // Unknown names fail at once.
    let outcome = world.run(&["run", "-n", "dev", "getent hosts nobody.machine"]);
    assert_eq!(outcome.code, Some(2), "{outcome:?}");
    world.stdout(&["stop", "peer"]);
    let outcome = world.run(&["run", "-n", "dev", "getent hosts peer.machine"]);
    assert_eq!(outcome.code, Some(2), "{outcome:?}");
    world.stdout(&["rm", "peer"]);
}

/// The service of this world sees other files than the host's.
fn resolver_follows_the_host(lab: &Lab) {
    let world = World::for_root();
    let (hosts, resolver) = (world.path("hosts"), world.path("resolv.conf"));
    fs::write(
        &hosts,
        "10.1.2.3 build01.corp.test\n10.1.2.4 build02.vpn.test\n",
    )
    .unwrap();
    fs::write(
        &resolver,
        "search corp.test\noptions ndots:2 timeout:7\nnameserver fe80::1%lo\n",
    )
    .unwrap();
    let create = world.machine(&[
        "create",
        &lab.image("debian-plain:12"),
        "--name",
        "dev",
        "--cpus",
        "2",
        "--memory",
        "1G",
    ]);
    let mount = format!(
        "mount --bind {} /etc/hosts && mount --bind {} /etc/resolv.conf && exec \"$@\"",
        hosts.display(),
        resolver.display()
    );
    let mut separate = Command::new("unshare");
    separate.args(["--mount", "sh", "-c", &mount, "sh"]);
    separate.arg(create.get_program()).args(create.get_args());
    separate.env_clear();
    separate.envs(
        create
            .get_envs()
            .filter_map(|(name, value)| Some((name, value?))),
    );
    let created = separate.output().unwrap();
    assert!(created.status.success(), "{created:?}");
    assert_eq!(
        world.inside("dev", "cat /etc/resolv.conf"),
        "nameserver 198.19.0.1\nsearch corp.test\noptions ndots:2 timeout:7\n"
    );
    let found = world.inside("dev", "getent hosts build01");
    assert_eq!(found.split_whitespace().next(), Some("10.1.2.3"), "{found}");
    // A VPN that comes up brings its domain.
    fs::write(&resolver, "search vpn.test\nnameserver 127.0.0.1\n").unwrap();
    eventually("the new domain is searched", || {
        let found = world.run(&["run", "-n", "dev", "getent hosts build02"]);
        found.stdout.starts_with("10.1.2.4")
    });
    // What another program has written is kept.
    world.inside("dev", "echo '# mine' > /etc/resolv.conf");
    fs::write(&resolver, "search corp.test\nnameserver 127.0.0.1\n").unwrap();
    thread::sleep(Duration::from_secs(7));
    assert_eq!(world.inside("dev", "cat /etc/resolv.conf"), "# mine\n");
}

fn ports_are_published(lab: &Lab) {
    let world = World::for_user();
    let (first, second) = (unused_address().unwrap(), unused_address().unwrap());
    let held = TcpListener::bind("127.0.0.1:0").unwrap();
    let held_port = held.local_addr().unwrap().port();
    let publish = format!("{}:8080", first.port());
    let image = lab.image("busybox:1");
    let taken = format!("{held_port}:8081");
    let made = world.run(&[
        "create",
        &image,
        "--name",
        "web",
        "--cpus",
        "1",
        "--memory",
        "1G",
        "--publish",
        &publish,
        "-p",
        &taken,
    ]);
    assert_eq!(made.code, Some(0), "{made:?}");
    assert!(
        made.stderr
            .contains("port 8081 is not published: address already in use: another program"),
        "{made:?}"
    );
    let inspected = world.inspect("web");
    assert_eq!(inspected["publish"][0], format!("127.0.0.1:{publish}"));
    world.inside("web", "echo hello > /tmp/index.html");
    start(&world, "web", "exec httpd -f -p 8080 -h /tmp");
    eventually("the published port answers", || {
        http_get(first, "/").is_ok_and(|it| it == b"hello\n")
    });
    // Another port, without a restart.
    let moved = world.run(&[
        "set",
        "-n",
        "web",
        &format!("publish={}:8080", second.port()),
    ]);
    assert_eq!((moved.code, &moved.stderr[..]), (Some(0), ""), "{moved:?}");
    assert_eq!(http_get(second, "/").unwrap(), b"hello\n");
    assert!(is_refused(first));
    // The port is published after a restart too.
    world.stdout(&["restart", "web"]);
    world.inside("web", "echo again > /tmp/index.html");
    start(&world, "web", "exec httpd -f -p 127.0.0.1:8080 -h /tmp");
    eventually("the published port answers", || {
        http_get(second, "/").is_ok_and(|it| it == b"again\n")
    });
    world.stdout(&["set", "-n", "web", "publish="]);
    assert!(is_refused(second));
    assert_eq!(world.inspect("web")["publish"], serde_json::json!([]));
    // A range of two ports. Another program may be using the second.
    let port = second.port();
    let range = format!("publish={port}-{}:8080-8081", port + 1);
    world.stdout(&["set", "-n", "web", &range]);
    assert_eq!(http_get(second, "/").unwrap(), b"again\n");
    assert_eq!(
        world.inspect("web")["publish"][1],
        format!("127.0.0.1:{}:8081", port + 1)
    );
    let error = world.error(&["set", "-n", "web", "publish=8080:80,8080:81"]);
    assert!(error.contains("127.0.0.1:8080"), "{error}");
    let error = world.error(&["set", "-n", "web", "publish=1-65535:1-65535"]);
    assert!(error.contains("the limit is 1024"), "{error}");
    let error = world.error(&["set", "-n", "web", "publish=80"]);
    assert!(error.contains("MACHINE_PORT"), "{error}");
}

fn other_users_are_refused_with_same_user_only(lab: &Lab) {
    let (world, stranger) = (World::for_user(), World::for_user());
    world.configure("[network]\nsame-user-only = true\n");
    world.create(&lab.image("busybox:1"), "web", &[]);
    world.inside("web", "echo hello > /tmp/index.html");
    start(&world, "web", "exec httpd -f -p 8080 -h /tmp");
    let server = SocketAddr::from((address(&world, "web"), 8080));
    eventually("root is allowed", || {
        http_get(server, "/").is_ok_and(|it| it == b"hello\n")
    });
    let get_as = |world: &World| {
        let mut wget = world.command("busybox".as_ref());
        wget.args(["wget", "-q", "-O", "-", &format!("http://{server}/")]);
        wget.env_remove("http_proxy");
        wget.output().unwrap()
    };
    assert_eq!(get_as(&world).stdout, b"hello\n");
    let refused = get_as(&stranger);
    assert!(
        !refused.status.success() && refused.stdout.is_empty(),
        "{refused:?}"
    );
}

/// nginx, Python, iperf3 and sshd in the guest; curl, iperf3 and ssh on the host.
fn common_servers_are_reachable(lab: &Lab) {
    let world = lab.user();
    let own = address(world, "dev").to_string();
    world.inside(
        "dev",
        "sudo -E apt-get update -q > /dev/null && sudo -E DEBIAN_FRONTEND=noninteractive apt-get install -q -y --no-install-recommends nginx-light iperf3 python3 > /dev/null",
    );
    let on_host = |program: &str, arguments: &[&str]| {
        let mut command = world.command(program.as_ref());
        for proxy in ["http_proxy", "https_proxy", "all_proxy"] {
            command.env_remove(proxy).env_remove(proxy.to_uppercase());
        }
        // The user may not write to the host's /tmp, where iperf3 keeps what it sends.
        command.env("TMPDIR", world.home());
        command.args(arguments).output().unwrap()
    };
    let page = |port: u16| {
        let url = format!("http://{own}:{port}/");
        on_host("curl", &["--silent", "--fail", &url]).stdout
    };
    // nginx has been started by its installation. On most hosts port 80 requires root.
    if std::fs::read_to_string("/proc/sys/net/ipv4/ip_unprivileged_port_start")
        .is_ok_and(|first| first.trim().parse().is_ok_and(|first: u16| first > 80))
    {
        eventually("nginx is listed", || {
            ports(world, "dev")
                .concat()
                .contains("ip_unprivileged_port_start")
        });
        world.inside("dev", "sudo sed -i 's/listen \\(\\[::\\]:\\)\\?80 /listen \\18080 /' /etc/nginx/sites-available/default && sudo systemctl restart nginx");
    }
    eventually("nginx answers", || {
        String::from_utf8_lossy(&page(8080)).contains("Welcome to nginx")
    });
    world.inside(
        "dev",
        "mkdir -p /tmp/served && echo served > /tmp/served/index.html",
    );
    start(
        world,
        "dev",
        "exec python3 -m http.server --directory /tmp/served --bind 127.0.0.1 8000",
    );
    eventually("python answers", || page(8000) == b"served\n");
    world.inside("dev", "pkill -f http.server");
    eventually("python has ended", || page(8000).is_empty());

    // A server needs a moment between two measurements, so each gets a server of its own.
    for direction in [&[][..], &["--reverse"]] {
        start(world, "dev", "exec iperf3 --server --one-off --port 5201");
        let is_listed = || ports(world, "dev").concat().contains("iperf3");
        eventually("iperf3 listens", is_listed);
        let mut arguments = vec!["--client", &own, "--time", "1", "--json"];
        arguments.extend(direction);
        let measured = on_host("iperf3", &arguments);
        let report: serde_json::Value = serde_json::from_slice(&measured.stdout).unwrap();
        let received = report["end"]["sum_received"]["bytes"].as_u64();
        assert!(received.is_some_and(|bytes| bytes > 1 << 20), "{report}");
        eventually("iperf3 has ended", || !is_listed());
    }

    // The guest's sshd, with a key of the user in the shared home.
    let keys = world.home().join(".ssh");
    let key = keys.join("id_test").display().to_string();
    world.inside("dev", "mkdir -p -m 700 ~/.ssh");
    let made = on_host("ssh-keygen", &["-q", "-t", "ed25519", "-N", "", "-f", &key]);
    assert!(made.status.success(), "{made:?}");
    world.inside("dev", "cp ~/.ssh/id_test.pub ~/.ssh/authorized_keys");
    start(
        world,
        "dev",
        "sudo mkdir -p /run/sshd; exec sudo /usr/sbin/sshd -D -p 2222",
    );
    eventually("sshd listens", || {
        ports(world, "dev").concat().contains(":2222 2222 sshd")
    });
    let options = [
        "-o",
        "BatchMode=yes",
        "-o",
        "StrictHostKeyChecking=no",
        "-o",
        "UserKnownHostsFile=/dev/null",
        "-i",
        &key,
        "-p",
        "2222",
    ];
    let said = on_host("ssh", &[&options[..], &[&own, "hostname; exit 7"]].concat());
    assert_eq!(said.status.code(), Some(7), "{said:?}");
    assert_eq!(said.stdout, b"dev\n", "{said:?}");
    world.inside("dev", "sudo pkill -f '[s]shd -D -p 2222'; rm -r ~/.ssh");
}

/// Returns a global IPv6 address of the host, if it has one.
fn ipv6_address_of_host() -> Option<IpAddr> {
    let socket = UdpSocket::bind("[::]:0").ok()?;
    // Nothing is sent: the kernel only chooses a route.
    socket.connect("[2001:db8::1]:9").ok()?;
    Some(socket.local_addr().ok()?.ip())
}

fn host_is_reachable_over_ipv6(lab: &Lab) {
    let world = lab.root();
    let inside = |line: &str| world.run(&["run", "-n", "dev", line]);
    let Some(host) = ipv6_address_of_host() else {
        // On a host without IPv6 connections fail at once.
        let line = "exec 3<>/dev/tcp/2001:db8::1/80";
        assert!(inside(line).stderr.contains("unreachable"));
        return;
    };
    let server = TcpListener::bind((host, 0)).unwrap();
    let port = server.local_addr().unwrap().port();
    let serving = thread::spawn(move || {
        let mut stream = server.accept().unwrap().0;
        let mut heard = String::new();
        stream.read_to_string(&mut heard).unwrap();
        heard
    });
    world.inside("dev", &format!("echo hello > /dev/tcp/{host}/{port}"));
    assert_eq!(serving.join().unwrap(), "hello\n");
    // Without a listener the connection is refused, as on the host itself.
    let refused = inside(&format!("exec 3<>/dev/tcp/{host}/{port}"));
    assert!(refused.stderr.contains("Connection refused"), "{refused:?}");
    let server = UdpSocket::bind((host, 0)).unwrap();
    let port = server.local_addr().unwrap().port();
    let serving = thread::spawn(move || {
        let mut datagram = [0; 100];
        let (length, from) = server.recv_from(&mut datagram).unwrap();
        datagram[..length].reverse();
        server.send_to(&datagram[..length], from).unwrap();
    });
    let line = format!("exec 3<>/dev/udp/{host}/{port}; printf abc >&3; timeout 20 head -c 3 <&3");
    assert_eq!(world.inside("dev", &line), "cba");
    serving.join().unwrap();
    // The host's loopback is not reachable through the gateway's IPv6 address.
    let local = TcpListener::bind("[::]:0").unwrap();
    let port = local.local_addr().unwrap().port();
    let line = format!("exec 3<>/dev/tcp/fd7e:41c9:b35a::c613:1/{port}");
    assert_ne!(inside(&line).code, Some(0));
}

fn host_resolves_machine_names(lab: &Lab) {
    let world = lab.root();
    let dns = |arguments: &[&str]| {
        let arguments = [&["system", "dns"], arguments].concat();
        world.container(&arguments).output().unwrap()
    };
    let own = address(world, "dev").to_string();
    let before = std::fs::read_to_string("/etc/hosts").unwrap();
    let shown = dns(&["create", "e2e", "--with", "hosts", "--dry-run"]);
    let shown = String::from_utf8(shown.stdout).unwrap();
    assert!(shown.contains(&format!("{own} dev.e2e")), "{shown}");
    assert_eq!(std::fs::read_to_string("/etc/hosts").unwrap(), before);
    let made = dns(&["create", "e2e", "--with", "hosts"]);
    assert!(made.status.success(), "{made:?}");
    assert_eq!(dns(&["ls"]).stdout, b"e2e\n");
    let named = ("dev.e2e", 0).to_socket_addrs().unwrap().next().unwrap();
    assert_eq!(named.ip().to_string(), own);
    let undone = dns(&["rm", "e2e"]);
    assert!(undone.status.success(), "{undone:?}");
    assert_eq!(std::fs::read_to_string("/etc/hosts").unwrap(), before);
    let again = dns(&["rm", "e2e"]);
    assert_eq!(again.status.code(), Some(1), "{again:?}");
    let wrong = dns(&["create", "No Domain"]);
    assert_eq!(wrong.status.code(), Some(2), "{wrong:?}");
}
