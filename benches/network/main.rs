//! Compares ways into a machine: this project's network, QEMU's hostfwd, passt, and the agent's
//! channel.
//!
//! `cargo bench` prints a table of medians. The environment variable `ROUNDS` is the number of
//! rounds (5).
#![allow(clippy::unwrap_used, clippy::panic, clippy::print_stdout)]

mod bare;
mod servers;

use std::{
    io::{self, Read, Write},
    net::{Ipv4Addr, Shutdown, SocketAddr, TcpListener, TcpStream},
    process::Stdio,
    thread,
    time::{Duration, Instant},
};

use bare::{Bare, Way};
use container_benches::{host, rounds};
use end_to_end::{Lab, World, eventually};
use servers::{Ports, SERVERS, SERVING};

/// Bytes of one transfer.
const BYTES: usize = 128 << 20;

/// Number of consecutive connections, and of concurrent ones.
const ONE_BY_ONE: usize = 1000;
const AT_ONCE: usize = 200;

fn main() {
    let lab = Lab::default();
    let world = World::for_root();
    world.create(&lab.image("busybox:1"), "dev", &[]);
    for line in SERVING {
        world.stdout(&["run", "-d", "-n", "dev", line]);
    }
    let own: Ipv4Addr = world.inspect("dev")["ipAddress"]
        .as_str()
        .unwrap()
        .parse()
        .unwrap();
    let ours = SERVERS.map(|port| SocketAddr::from((own, port)));
    let ports = || SERVERS.map(|_| free_port());
    let local = |ports: Ports| ports.map(|port| SocketAddr::from((Ipv4Addr::LOCALHOST, port)));
    let (of_slirp, of_passt) = (ports(), ports());
    let _slirp = Bare::boot(Way::Slirp, of_slirp);
    let _passt = Bare::boot(Way::Passt, of_passt);
    let ways = [
        ("ours", ours),
        ("QEMU's hostfwd (libslirp)", local(of_slirp)),
        ("passt", local(of_passt)),
    ];
    for (name, servers) in ways {
        eventually(&format!("{name} serves"), || {
            servers
                .iter()
                .all(|server| TcpStream::connect(server).is_ok())
        });
    }
    println!("{}\n", host());
    let mut measured = [const { Vec::new() }; 3];
    let mut channel = Vec::new();
    for round in 0..=rounds() {
        for ((_, servers), measured) in ways.iter().zip(&mut measured) {
            let one = measure(servers);
            if round > 0 {
                measured.push(one);
            }
        }
        let one = through_channel(&world);
        if round > 0 {
            channel.push(one);
        }
    }
    println!(
        "| way | into the machine | out of it | connection and a page | {ONE_BY_ONE} connections | {AT_ONCE} at once |"
    );
    println!("|---|---:|---:|---:|---:|---:|");
    for ((name, _), measured) in ways.iter().zip(measured) {
        let of = |field: fn(&Measured) -> Duration| median(measured.iter().map(field).collect());
        let lost: usize = measured.iter().map(|it| it.lost).sum();
        println!(
            "| {name} | {:.0} MB/s | {:.0} MB/s | {:.1} ms | {:.1} s | {:.2} s, {lost} lost |",
            rate(of(|it| it.inward)),
            rate(of(|it| it.outward)),
            of(|it| it.one_page).as_secs_f64() * 1000.0,
            of(|it| it.one_by_one).as_secs_f64(),
            of(|it| it.at_once).as_secs_f64(),
        );
    }
    println!(
        "| the agent's channel (`run 'cat > /dev/null'`) | {:.0} MB/s | | | | |",
        rate(median(channel))
    );
}

struct Measured {
    inward: Duration,
    outward: Duration,
    one_page: Duration,
    one_by_one: Duration,
    at_once: Duration,
    lost: usize,
}

fn measure(&[sink, source, pages]: &[SocketAddr; SERVERS.len()]) -> Measured {
    let chunk = vec![7; 1 << 20];
    let begin = Instant::now();
    let mut stream = TcpStream::connect(sink).unwrap();
    for _ in 0..BYTES / chunk.len() {
        stream.write_all(&chunk).unwrap();
    }
    stream.shutdown(Shutdown::Write).unwrap();
    assert_eq!(stream.read(&mut [0]).unwrap(), 0);
    let inward = begin.elapsed();

    let begin = Instant::now();
    let mut stream = TcpStream::connect(source).unwrap();
    let (mut buffer, mut left) = (chunk, BYTES);
    while left > 0 && left != usize::MAX {
        match stream.read(&mut buffer).unwrap() {
            // hostfwd and passt sometimes end the stream early. The transfer counts as failed.
            0 => left = usize::MAX,
            count => left = left.saturating_sub(count),
        }
    }
    drop(stream);
    let outward = match left {
        0 => begin.elapsed(),
        _ => Duration::MAX,
    };

    let begin = Instant::now();
    for _ in 0..ONE_BY_ONE {
        one_page(pages).unwrap();
    }
    let one_by_one = begin.elapsed();

    let begin = Instant::now();
    let connections: Vec<_> = (0..AT_ONCE)
        .map(|_| thread::spawn(move || one_page(pages)))
        .collect();
    let got = connections.into_iter().map(|it| it.join().unwrap());
    let lost = got.filter(Result::is_err).count();
    Measured {
        inward,
        outward,
        one_page: one_by_one / u32::try_from(ONE_BY_ONE).unwrap(),
        one_by_one,
        at_once: begin.elapsed(),
        lost,
    }
}

/// Requests a page of two bytes on a new connection.
fn one_page(server: SocketAddr) -> io::Result<()> {
    let mut stream = TcpStream::connect(server)?;
    // passt never answers on some connections.
    stream.set_read_timeout(Some(Duration::from_secs(20)))?;
    stream.write_all(b"GET / HTTP/1.0\r\n\r\n")?;
    let mut answer = String::new();
    stream.read_to_string(&mut answer)?;
    if answer.ends_with("\r\nx\n") {
        Ok(())
    } else {
        Err(io::ErrorKind::UnexpectedEof.into())
    }
}

/// Times a transfer through the channel. Sends only a part of the bytes, because it is slow.
fn through_channel(world: &World) -> Duration {
    const PART: usize = 8;
    let begin = Instant::now();
    let mut command = world.machine(&["run", "-i", "-n", "dev", "cat > /dev/null"]);
    let mut child = command.stdin(Stdio::piped()).spawn().unwrap();
    let mut stdin = child.stdin.take().unwrap();
    stdin.write_all(&vec![7; BYTES / PART]).unwrap();
    drop(stdin);
    assert!(child.wait().unwrap().success());
    begin.elapsed() * u32::try_from(PART).unwrap()
}

fn free_port() -> u16 {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    listener.local_addr().unwrap().port()
}

fn median(mut timings: Vec<Duration>) -> Duration {
    timings.sort();
    timings[timings.len() / 2]
}

/// Returns megabytes per second.
fn rate(taken: Duration) -> f64 {
    BYTES as f64 / 1e6 / taken.as_secs_f64()
}
