//! Measures what machines cost while they run, and how long the verbs take that do not boot one.
//!
//! `cargo bench --bench costs` prints two tables. The environment variable `ROUNDS` is the number
//! of rounds (5).
#![allow(clippy::unwrap_used, clippy::panic, clippy::print_stdout)]

mod usage;

use std::{
    fs,
    process::{Command, Stdio},
    thread::sleep,
    time::{Duration, Instant},
};

use container_benches::{Row, bare_engine, host, kernels, rounds, run, time};
use container_kernel::Initramfs;
use end_to_end::{Lab, World};
use usage::{cpu_time, memory_besides_guest, memory_of_guest};

/// Machines in the list.
const MACHINES: usize = 100;

/// Machines of them that run.
const RUNNING: usize = 5;

/// Time over which the processor time of an idle machine is measured.
const IDLE: Duration = Duration::from_secs(60);

/// Commands over which the processor time of one is measured.
const COMMANDS: usize = 100;

/// An init that sleeps.
const ASLEEP: &str = "#!/bin/busybox sh\n/bin/busybox echo up\n/bin/busybox sleep 100000\n";

fn main() {
    let lab = Lab::default();
    let image = lab.image("busybox:1");
    println!("{}\n", host());
    durations(&lab, &image);
    println!();
    idle_machine(&image);
}

/// Prints the durations of the verbs that do not boot a machine.
fn durations(lab: &Lab, image: &str) {
    let world = World::for_root();
    for index in 0..MACHINES {
        world.create(image, &format!("m{index}"), &["--no-boot"]);
    }
    for index in 0..RUNNING {
        world.inside(&format!("m{index}"), "true");
    }
    // On a disk of its own, so that it is no clone of an empty one.
    let fill = "dd if=/dev/urandom of=/large bs=1M count=1024 2>/dev/null; sync";
    world.create(image, "large", &[]);
    world.stdout(&["run", "-n", "large", "-u", "root", fill]);
    world.stdout(&["stop", "large"]);
    world.create(image, "small", &[]);
    world.stdout(&["stop", "small"]);
    let container = podman_container(lab);
    let mut rows = vec![
        Row {
            name: "`run true`, running machine",
            take: Box::new(|| time(|| drop(world.inside("m0", "true")))),
        },
        Row {
            name: "`ls`, 100 machines, 5 running",
            take: Box::new(|| time(|| drop(world.stdout(&["ls"])))),
        },
        Row {
            name: "`create --no-boot`",
            take: Box::new(|| made(&world, "new", &["create", image, "--no-boot", "-n", "new"])),
        },
        Row {
            name: "`clone`, disk of 5 MB",
            take: Box::new(|| made(&world, "new", &["clone", "small", "new"])),
        },
        Row {
            name: "`clone`, disk of 1 GB",
            take: Box::new(|| made(&world, "new", &["clone", "large", "new"])),
        },
        Row {
            name: "`snapshot create`, disk of 5 MB",
            take: Box::new(|| snapshot(&world, "small")),
        },
        Row {
            name: "`snapshot create`, disk of 1 GB",
            take: Box::new(|| snapshot(&world, "large")),
        },
        Row {
            name: "`stop`, idle machine, busybox image",
            take: Box::new(|| {
                world.inside("small", "true");
                time(|| drop(world.stdout(&["stop", "small"])))
            }),
        },
    ];
    if let Some(container) = &container {
        let exec = podman(&["exec", container, "true"]);
        rows.insert(0, exec_row(exec));
    }
    run(&mut rows, rounds());
    drop(rows);
    let before = cpu_of_commands(&world);
    (0..COMMANDS).for_each(|_| drop(world.inside("m0", "true")));
    let children = cpu_of_commands(&world) - before;
    let each = children.as_secs_f64() * 1e3 / COMMANDS as f64;
    println!("\nProcessor time of a `run true`, QEMU left out: {each:.1} ms");
    if let Some(container) = container {
        let removed = podman(&["rm", "-f", &container]).status();
        assert!(removed.unwrap().success());
    }
}

/// Returns the row of a command in a container.
fn exec_row<'a>(mut exec: Command) -> Row<'a> {
    Row {
        name: "`podman exec true`, running container",
        take: Box::new(move || time(|| assert!(exec.status().unwrap().success()))),
    }
}

/// Returns the duration of a verb that makes a machine, which is deleted afterwards.
fn made(world: &World, machine: &str, arguments: &[&str]) -> Duration {
    let taken = time(|| drop(world.stdout(arguments)));
    world.stdout(&["rm", machine]);
    taken
}

fn snapshot(world: &World, machine: &str) -> Duration {
    let taken = time(|| drop(world.stdout(&["snapshot", "create", "-n", machine, "new"])));
    world.stdout(&["snapshot", "rm", "-n", machine, "new"]);
    taken
}

/// Returns the processor time of the runtime, the file share and the service, and of the clients
/// that have ended.
fn cpu_of_commands(world: &World) -> Duration {
    let roles = ["service", "runtime", "file-share"];
    let ours = roles.iter().flat_map(|role| world.processes(role));
    ours.map(|process| cpu_time(process.pid)).sum::<Duration>() + usage::cpu_time_of_children()
}

fn podman(arguments: &[&str]) -> Command {
    let mut podman = Command::new("podman");
    podman.args(arguments).stdout(Stdio::null());
    podman
}

/// Starts a container of the same image with podman, and returns its name; absent where podman
/// cannot run one.
fn podman_container(lab: &Lab) -> Option<String> {
    let image = lab.image("busybox:1");
    let pulled = podman(&["pull", "-q", "--tls-verify=false", &image]).status();
    assert!(pulled.unwrap().success());
    let name = "container-benches".to_owned();
    let run = [
        "run",
        "-d",
        "--replace",
        "--network",
        "none",
        // podman's defaults can be more than the caller may set.
        "--ulimit",
        "nofile=1024:4096",
        "--ulimit",
        "nproc=1000:1000",
        "--name",
        &name,
        &image,
    ];
    // crun, the default, refuses some set-ups of cgroups.
    [&[][..], &["--runtime", "runc"]]
        .iter()
        .any(|runtime| {
            let started = podman(&[runtime, &run[..], &["sleep", "100000"]].concat()).status();
            started.unwrap().success()
        })
        .then_some(name)
}

/// Prints what an idle machine takes of the host, beside a bare QEMU with the same kernel.
fn idle_machine(image: &str) {
    let world = World::for_root();
    world.stdout(&[
        "create",
        image,
        "--name",
        "idle",
        "--no-boot",
        "--memory",
        "8G",
    ]);
    world.inside("idle", "true");
    let [own_kernel, _] = kernels();
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("initramfs");
    let mut initramfs = Initramfs::default();
    initramfs.directory("dev");
    initramfs.character_device("dev/console", 5, 1);
    initramfs.directory("bin");
    initramfs.file("bin/busybox", 0o755, fs::read("/bin/busybox").unwrap());
    initramfs.file("init", 0o755, ASLEEP.as_bytes().to_vec());
    initramfs.write(&path).unwrap();
    let mut bare = bare_engine("q35", &own_kernel, &path)
        .stdout(Stdio::null())
        .spawn()
        .unwrap();
    // Both boot, and the kernels finish their work.
    sleep(Duration::from_secs(30));
    let ours: Vec<i32> = ["runtime", "file-share"]
        .iter()
        .flat_map(|role| world.processes(role))
        .chain(world.engines())
        .map(|process| process.pid)
        .collect();
    let engines: Vec<i32> = world.engines().iter().map(|process| process.pid).collect();
    let bare_pid = i32::try_from(bare.id()).unwrap();
    let all = |pids: &[i32]| pids.iter().map(|pid| cpu_time(*pid)).sum::<Duration>();
    let (before, bare_before, began) = (all(&ours), cpu_time(bare_pid), Instant::now());
    sleep(IDLE);
    let elapsed = began.elapsed().as_secs_f64();
    let percent = |time: Duration| time.as_secs_f64() * 100.0 / elapsed;
    let machine = percent(all(&ours) - before);
    let floor = percent(cpu_time(bare_pid) - bare_before);
    bare.kill().unwrap();
    bare.wait().unwrap();
    let mebibytes = |bytes: u64| bytes as f64 / f64::from(1 << 20);
    let besides: u64 = ours.iter().map(|pid| memory_besides_guest(*pid)).sum();
    let guest: u64 = engines.iter().map(|pid| memory_of_guest(*pid)).sum();
    println!("| idle machine of 8 GiB, busybox image | |");
    println!("|---|---:|");
    println!("| processor, QEMU included | {machine:.2} % of a core |");
    println!("| processor, bare QEMU, same kernel, busybox asleep | {floor:.2} % of a core |");
    println!("| ratio | {:.2} |", machine / floor);
    println!("| memory of the guest | {:.1} MiB |", mebibytes(guest));
    println!(
        "| memory besides, QEMU included | {:.1} MiB |",
        mebibytes(besides)
    );
}
