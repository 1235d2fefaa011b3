//! Measures how long people wait for a machine, compared with the floor: the boot of a bare QEMU of
//! its fastest machine type.
//!
//! `cargo bench` prints a table. The environment variable `ROUNDS` is the number of rounds (5).
#![allow(clippy::unwrap_used, clippy::panic, clippy::print_stdout)]

mod floor;

use std::{thread::sleep, time::Duration};

use container_benches::{Row, host, kernels, rounds, run, time};
use end_to_end::{Lab, World};
use floor::Floor;

const OPTIONS: [&str; 4] = ["--cpus", "2", "--memory", "1G"];

/// Occupies 300 MB of a machine's memory.
const FILL_MEMORY: &str = "mkdir -p /mnt && mount -t tmpfs none /mnt && dd if=/dev/urandom of=/mnt/file bs=1M count=300 2>/dev/null";

fn main() {
    let lab = Lab::default();
    let world = lab.root();
    let floor = Floor::new();
    let [own_kernel, debian_kernel] = kernels();
    let debian = lab.image("debian-systemd:12");
    let busybox = lab.image("busybox:1");
    world.create(&busybox, "tiny", &["--no-boot"]);
    world.create(&debian, "cold", &["--no-boot"]);
    let other = debian_kernel.join("vmlinux");
    let other = ["--no-boot", "--kernel", other.to_str().unwrap()];
    world.create(&debian, "other", &other);
    for machine in ["tiny", "cold", "other"] {
        world.inside(machine, "true");
    }
    // Templates of one kernel serve both images; the other kernel has its own.
    let templates = World::for_root().with_templates();
    templates.create(&busybox, "tiny", &["--no-boot"]);
    templates.create(&debian, "cold", &["--no-boot"]);
    templates.create(&busybox, "other", &other);
    for machine in ["tiny", "other"] {
        await_template(&templates, machine);
    }
    templates.create(&busybox, "full", &[]);
    templates.stdout(&["run", "-n", "full", "-u", "root", FILL_MEMORY]);
    let cold = |machine: &'static str| start(world, machine);
    let restored = |machine: &'static str| start(&templates, machine);
    let mut rows = [
        Row {
            name: "bare QEMU (microvm), Debian's cloud kernel, busybox init",
            // With ACPI, the guest resets at once in most boots of QEMU 10.0 without KVM.
            take: Box::new(|| floor.boot("microvm,acpi=off", &debian_kernel)),
        },
        Row {
            name: "bare QEMU (q35), Debian's cloud kernel, busybox init",
            take: Box::new(|| floor.boot("q35", &debian_kernel)),
        },
        Row {
            name: "bare QEMU (q35), our kernel, busybox init",
            take: Box::new(|| floor.boot("q35", &own_kernel)),
        },
        Row {
            name: "`run true` from a template, busybox image",
            take: Box::new(restored("tiny")),
        },
        Row {
            name: "first `run true` from a template, busybox image",
            take: Box::new(|| {
                let create = ["create", &busybox, "--name", "new", "--no-boot"];
                templates.stdout(&[&create[..], &OPTIONS].concat());
                let taken = time(|| drop(templates.inside("new", "true")));
                assert_eq!(templates.inspect("new")["boot"]["kind"], "template");
                templates.stdout(&["rm", "new"]);
                taken
            }),
        },
        Row {
            name: "`run true` from a template, Debian with systemd",
            take: Box::new(restored("cold")),
        },
        Row {
            name: "`run true` from a template, busybox image, Debian's cloud kernel",
            take: Box::new(restored("other")),
        },
        Row {
            name: "`run true`, suspended machine, 300 MB in use",
            take: Box::new(|| {
                templates.stdout(&["suspend", "full"]);
                let taken = time(|| drop(templates.inside("full", "true")));
                assert_eq!(templates.inspect("full")["boot"]["kind"], "resumed");
                taken
            }),
        },
        Row {
            name: "`run true` without a template, busybox image",
            take: Box::new(cold("tiny")),
        },
        Row {
            name: "`run true` without a template, Debian with systemd",
            take: Box::new(cold("cold")),
        },
        Row {
            name: "`run true` without a template, Debian with systemd and its kernel",
            take: Box::new(cold("other")),
        },
        Row {
            name: "`run true`, running machine",
            take: Box::new(|| time(|| drop(world.inside("dev", "true")))),
        },
        Row {
            name: "`create --no-boot`, cached Debian image",
            take: Box::new(|| {
                let create = [
                    &["create", &debian, "--name", "new", "--no-boot"],
                    &OPTIONS[..],
                ];
                let taken = time(|| drop(world.stdout(&create.concat())));
                world.stdout(&["rm", "new"]);
                taken
            }),
        },
    ];
    // The boot of the running machine must not slow down the measurements.
    world.inside("dev", "systemctl is-system-running --wait");
    println!("{}\n", host());
    run(&mut rows, rounds());
}

/// Returns the work of a row: a command in a machine that was stopped before.
fn start<'a>(world: &'a World, machine: &'a str) -> impl FnMut() -> Duration + 'a {
    move || {
        world.stdout(&["stop", machine]);
        time(|| drop(world.inside(machine, "true")))
    }
}

/// Starts a machine until it starts from a template.
fn await_template(world: &World, machine: &str) {
    world.inside(machine, "true");
    while world.inspect(machine)["boot"]["kind"] != "template" {
        sleep(Duration::from_secs(30));
        world.stdout(&["stop", machine]);
        world.inside(machine, "true");
    }
    // The others must not be slowed down.
    world.stdout(&["stop", machine]);
}
