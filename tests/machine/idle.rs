//! Machines that are suspended when they are idle, and resumed when they are used.

use std::{
    fs,
    io::{self, Read, Write},
    net::TcpStream,
    process::Stdio,
    thread::{self, sleep},
    time::{Duration, Instant},
};

use end_to_end::{Lab, World, eventually};
use xtask::ports::unused_address;

crate::declare::tests![
    a_use_of_an_idle_machine_resumes_it,
    a_machine_in_use_is_not_suspended,
];

/// Waits until a machine is suspended. A busy host's machine takes long to become idle.
fn await_suspended(world: &World, machine: &str) {
    let deadline = Instant::now() + Duration::from_secs(240);
    while world.inspect(machine)["status"] != "suspended" {
        assert!(Instant::now() < deadline, "{:?}", world.inspect(machine));
        sleep(Duration::from_millis(100));
    }
}

fn address(world: &World, machine: &str, port: u16) -> String {
    let address = &world.inspect(machine)["ipAddress"];
    format!("{}:{port}", address.as_str().unwrap())
}

fn fetch(address: &str) -> io::Result<String> {
    let mut connection = TcpStream::connect(address)?;
    connection.write_all(b"GET /page HTTP/1.0\r\n\r\n")?;
    let mut answer = String::new();
    connection.read_to_string(&mut answer)?;
    Ok(answer)
}

fn is_served(address: &str) -> bool {
    fetch(address).is_ok_and(|answer| answer.ends_with("served\n"))
}

fn a_use_of_an_idle_machine_resumes_it(lab: &Lab) {
    let world = World::for_user();
    world.create(&lab.image("busybox:1"), "tiny", &[]);
    world.create(&lab.image("busybox:1"), "peer", &[]);
    let serve = "echo served >/tmp/page; httpd -p 8080 -h /tmp; \
                 exec httpd -f -p 127.0.0.1:9090 -h /tmp";
    world.stdout(&["run", "-d", "-n", "tiny", serve]);
    let published = unused_address().unwrap().to_string();
    let publish = format!("publish={published}:8080");
    let outcome = world.run(&["set", "-n", "tiny", &publish, "idle-suspend=2s"]);
    assert_eq!(outcome.stderr, "", "it applies at once");
    assert_eq!(world.inspect("tiny")["idleSuspend"], "2s");
    let own = address(&world, "tiny", 8080);
    let loopback = address(&world, "tiny", 9090);
    eventually("the ports are forwarded", || {
        is_served(&own) && is_served(&loopback)
    });

    await_suspended(&world, "tiny");
    assert_eq!(world.engines().len(), 1, "the memory is freed");
    assert_eq!(address(&world, "tiny", 8080), own);
    // All of the first connections are served, and only they have resumed it.
    thread::scope(|scope| {
        for address in [&own, &loopback, &published].repeat(3) {
            scope.spawn(|| assert!(fetch(address).unwrap().ends_with("served\n")));
        }
    });
    assert_eq!(world.inspect("tiny")["boot"]["kind"], "resumed");

    await_suspended(&world, "tiny");
    let served = world.inside("peer", "wget -q -O - http://tiny:8080/page");
    assert_eq!(served, "served\n", "another machine uses it");
    world.stdout(&["rm", "peer"]);

    await_suspended(&world, "tiny");
    world.processes("service").iter().for_each(|it| it.kill());
    assert!(fetch(&own).unwrap().ends_with("served\n"));

    // Use at any moment of a suspension finds the machine.
    world.stdout(&["set", "-n", "tiny", "idle-suspend=1s"]);
    for round in 0..12 {
        sleep(Duration::from_millis(900 + 110 * round));
        if round % 2 == 0 {
            assert_eq!(world.inside("tiny", "cat /tmp/page"), "served\n");
        } else {
            let answer = fetch(&own).unwrap();
            assert!(answer.ends_with("served\n"), "{round}: {answer}");
        }
    }

    // Without its stand-in it is like a machine that a user has suspended.
    await_suspended(&world, "tiny");
    let stand_in = world.processes("runtime");
    assert_eq!(stand_in.len(), 1);
    stand_in[0].kill();
    eventually("the port is closed", || fetch(&own).is_err());
    assert_eq!(world.inside("tiny", "cat /tmp/page"), "served\n");
    assert!(is_served(&own));

    // Nor does one listen that its user has suspended, also if it was suspended already.
    await_suspended(&world, "tiny");
    world.stdout(&["suspend", "tiny"]);
    assert!(fetch(&own).is_err());
    assert_eq!(world.inspect("tiny")["status"], "suspended");
    assert_eq!(world.inside("tiny", "cat /tmp/page"), "served\n");

    await_suspended(&world, "tiny");
    world.stdout(&["stop", "--force", "tiny"]);
    assert!(fetch(&own).is_err(), "nothing listens for it");
    eventually("the stand-in ends", || {
        world.processes("runtime").is_empty()
    });
    assert!(world.is_stopped("tiny"));
}

fn a_machine_in_use_is_not_suspended(lab: &Lab) {
    let world = World::for_root();
    world.configure("[machine]\nidle-suspend = \"2s\"\n");
    world.create(&lab.image("debian-systemd:12"), "deb", &["--no-boot"]);
    assert_eq!(world.inspect("deb")["idleSuspend"], "2s");
    let lock = "exec 3>~/locked; flock 3; echo $$ >/tmp/locker; exec sleep 3000";
    world.stdout(&["run", "-d", "-n", "deb", lock]);
    let ssh = address(&world, "deb", 22);
    let banner = |mut connection: &TcpStream| {
        let mut banner = [0; 7];
        connection.read_exact(&mut banner).map(|()| banner)
    };
    let connection = || {
        let connection = TcpStream::connect(&ssh).ok()?;
        banner(&connection).ok()?;
        Some(connection)
    };
    let mut connected = None;
    eventually("the machine's server answers", || {
        connected = connection();
        connected.is_some()
    });
    // It is idle only when nothing is connected; then the lock is in the way.
    let is_refused = || {
        let log = fs::read_to_string(world.bundle("deb", "runtime.log")).unwrap();
        log.contains("cannot be suspended")
    };
    sleep(Duration::from_secs(8));
    let mut session = world
        .machine(&["run", "-n", "deb", "sleep 1000"])
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .spawn()
        .unwrap();
    drop(connected);
    sleep(Duration::from_secs(8));
    assert!(!is_refused() && world.inspect("deb")["status"] == "running");
    session.kill().unwrap();
    session.wait().unwrap();
    let deadline = Instant::now() + Duration::from_secs(240);
    while !is_refused() {
        assert!(Instant::now() < deadline, "it is never idle");
        sleep(Duration::from_millis(100));
    }
    let outcome = world.run(&["run", "-n", "deb", "kill $(cat /tmp/locker)"]);
    assert!(
        outcome.stderr.contains("locked") && outcome.code == Some(0),
        "{outcome:?}"
    );
    await_suspended(&world, "deb");
    let resumed = TcpStream::connect(&ssh).unwrap();
    assert_eq!(&banner(&resumed).unwrap(), b"SSH-2.0");
}
