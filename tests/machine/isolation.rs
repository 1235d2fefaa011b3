//! Isolated machines: everything that one of them reaches.

use std::{
    fs::{self, Permissions},
    io::{Read, Write},
    net::{Ipv4Addr, TcpListener},
    os::unix::{fs::PermissionsExt, net::UnixListener},
    thread,
};

use end_to_end::{Lab, Outcome, World};

crate::declare::tests![an_isolated_machine_reaches_only_what_is_named];

const WALK: &str = include_str!("walk.py");

/// What every machine has of its own.
const OWN: [&str; 11] = [
    "disk vda",
    "network eth0",
    "network lo",
    "variable CONTAINER_MACHINE_ID",
    "variable HOME",
    "variable LANG",
    "variable LOGNAME",
    "variable PATH",
    "variable SHELL",
    "variable USER",
    "variable XDG_RUNTIME_DIR",
];

/// Answers every request with a byte, on all addresses of the host.
fn serve() -> u16 {
    let server = TcpListener::bind((Ipv4Addr::UNSPECIFIED, 0)).unwrap();
    let port = server.local_addr().unwrap().port();
    thread::spawn(move || {
        for mut client in server.incoming().flatten() {
            // The walk's request.
            if client.read_exact(&mut [0; 18]).is_ok() {
                let _ = client.write_all(b"x");
            }
        }
    });
    port
}

/// Serves as an SSH agent does that has no keys.
fn serve_agent(world: &World) -> String {
    let path = world.home().join("agent.sock");
    let agent = UnixListener::bind(&path).unwrap();
    fs::set_permissions(&path, Permissions::from_mode(0o777)).unwrap();
    thread::spawn(move || {
        for mut client in agent.incoming().flatten() {
            let mut request = [0; 5];
            if client.read_exact(&mut request).is_ok() {
                let _ = client.write_all(b"\0\0\0\x05\x0c\0\0\0\0");
            }
        }
    });
    path.display().to_string()
}

/// Runs the walk in a machine as a caller with an agent and proxies. Returns what it has reached.
fn walk(world: &World, machine: &str, agent: &str, words: &[String]) -> Vec<String> {
    let script = world.home().join("project/walk.py").display().to_string();
    let mut run = world.machine(&["exec", "-n", machine, "--", "python3", &script]);
    run.args(words)
        .env("SSH_AUTH_SOCK", agent)
        .env("http_proxy", "http://proxy.example:3128")
        .env("LANG", "C.UTF-8")
        .env("TZ", "Asia/Tokyo");
    let outcome = Outcome::from(run.output().unwrap());
    assert_eq!(outcome.code, Some(0), "{outcome:?}");
    outcome.stdout.lines().map(str::to_owned).collect()
}

fn an_isolated_machine_reaches_only_what_is_named(lab: &Lab) {
    let world = World::for_user();
    world.configure("[machine]\nssh-agent = \"always\"\n[network]\nhost-loopback = true\n");
    let project = world.home().join("project").display().to_string();
    world.on_host(&["mkdir", &project]);
    fs::write(world.home().join("project/walk.py"), WALK).unwrap();
    let (port, agent) = (serve(), serve_agent(&world));
    world.create(&lab.image("busybox:1"), "other", &[]);
    let serving = "mkdir /srv && echo x > /srv/x && httpd -p 80 -h /srv";
    world.stdout(&["run", "-n", "other", "--root", serving]);
    let address = "ip -4 addr show eth0 | sed -n 's/.*inet \\([0-9.]*\\).*/\\1/p'";
    let other = world.inside("other", address).trim().to_owned();
    world.create(
        &lab.image("debian-tools:12"),
        "box",
        &["--isolated", "--mount", "project"],
    );
    let about = world.inspect("box");
    assert_eq!(about["isolated"], true);
    assert_eq!(
        (&about["homeMount"], &about["egress"]),
        (&"none".into(), &"none".into())
    );

    let gateway = "ip route show default | cut -d' ' -f3";
    let gateway = world.inside("box", gateway).trim().to_owned();
    let host = host_address();
    let mut words: Vec<String> = [
        "host.container.internal",
        "other",
        "other.machine",
        "example.com",
        "localhost",
    ]
    .map(str::to_owned)
    .into();
    for address in [
        &gateway,
        &host,
        &other,
        "127.0.0.1",
        "169.254.169.254",
        "10.0.0.1",
    ] {
        words.push(format!("{address}:{port}"));
    }
    words.push(format!("{other}:80"));
    let mut expected: Vec<String> = OWN.map(str::to_owned).into();
    expected.extend([format!("mount {project}"), "name localhost".to_owned()]);
    expected.sort();
    assert_eq!(walk(&world, "box", &agent, &words), expected);

    // Nothing weakens it but what names it.
    let run = ["run", "-n", "box", "--ssh-agent", "true"];
    let refused = world.machine(&run).env("SSH_AUTH_SOCK", &agent).output();
    let refused = Outcome::from(refused.unwrap());
    assert!(refused.error().contains("isolated"), "{refused:?}");
    for setting in [
        "home-mount=rw",
        "home-mount=ro",
        "egress=all",
        "egress=public",
        "virtualization=true",
    ] {
        let refused = world.error(&["set", "-n", "box", setting]);
        assert!(refused.contains("isolated=false"), "{refused}");
    }
    for (weakened, required) in [
        (&["--home-mount", "rw"][..], "home-mount=none"),
        (&["--egress", "public"], "egress=none"),
        (&["--virtualization"], "virtualization=false"),
    ] {
        let image = lab.image("busybox:1");
        let create = ["create", &image, "--name", "open", "--isolated"];
        let refused = world.error(&[&create[..], weakened].concat());
        assert!(refused.contains(required), "{refused}");
    }
    assert_eq!(walk(&world, "box", &agent, &words), expected);

    let allow = format!("allow=host.container.internal:{port}");
    world.stdout(&["set", "-n", "box", &allow]);
    words.push(format!("host.container.internal:{port}"));
    expected.push("name host.container.internal".to_owned());
    expected.push(format!("address host.container.internal:{port}"));
    expected.sort();
    let reached = walk(&world, "box", &agent, &words);
    let named = |line: &String| !line.starts_with("address ") || line.contains("internal");
    let reached: Vec<String> = reached.into_iter().filter(named).collect();
    assert_eq!(reached, expected);

    // The end of the isolation opens nothing by itself.
    world.stdout(&["set", "-n", "box", "isolated=false"]);
    world.stdout(&["restart", "box"]);
    let about = world.inspect("box");
    assert_eq!(about["isolated"], false);
    assert_eq!(
        (&about["homeMount"], &about["egress"]),
        (&"none".into(), &"none".into())
    );
    let reached = walk(&world, "box", &agent, &words);
    assert!(
        reached.contains(&"variable http_proxy".to_owned()),
        "{reached:?}"
    );
    let with_agent = |line: &String| line.starts_with("agent ");
    assert!(reached.iter().any(with_agent), "{reached:?}");

    // A saved memory must not bring a home back.
    world.stdout(&["suspend", "other"]);
    world.stdout(&["set", "-n", "other", "isolated=true"]);
    let refused = world.error(&["start", "other"]);
    assert!(refused.contains("isolated=false"), "{refused}");
    world.stdout(&["set", "-n", "other", "isolated=false"]);
    world.stdout(&["start", "other"]);

    // The network of a running machine is closed at once.
    let server = format!("address {other}:80");
    world.stdout(&["set", "-n", "box", "egress=all"]);
    assert!(walk(&world, "box", &agent, &words).contains(&server));
    world.stdout(&["set", "-n", "box", "isolated=true"]);
    assert!(!walk(&world, "box", &agent, &words).contains(&server));
}

/// Returns an address of the host that is no loopback address.
fn host_address() -> String {
    let route = std::net::UdpSocket::bind("0.0.0.0:0").unwrap();
    // Nothing is sent.
    match route.connect("192.0.2.1:9") {
        Ok(()) => route.local_addr().unwrap().ip().to_string(),
        Err(_) => "192.0.2.1".to_owned(),
    }
}
