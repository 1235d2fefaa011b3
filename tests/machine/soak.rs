//! Many machines, and many commands in one of them, which must leave nothing behind: no memory,
//! descriptors, processes or files, on either side (`make soak`).

use std::{
    collections::BTreeMap,
    fs,
    process::{Child, Stdio},
    thread::sleep,
    time::Duration,
};

use end_to_end::{Lab, Outcome, Process, World, eventually};

crate::declare::tests![short_use_leaves_nothing_behind];

/// Slow tests, which only `make soak` runs.
pub(crate) const LONG: &[crate::declare::Test] = &[(
    "soak::long_use_leaves_nothing_behind",
    long_use_leaves_nothing_behind,
)];

/// Growth of a process's memory, in KiB, that its allocator may keep.
const ALLOWED_GROWTH: u64 = 16 << 10;

/// How much the machines are used.
struct Use {
    /// Machines that run at once.
    machines: usize,
    /// Commands in one machine, one after the other.
    commands: usize,
    /// Commands in it at once.
    at_once: usize,
    /// Times that it is suspended and resumed.
    suspensions: usize,
}

fn short_use_leaves_nothing_behind(lab: &Lab) {
    soak(
        lab,
        &Use {
            machines: 2,
            commands: 50,
            at_once: 20,
            suspensions: 2,
        },
    );
}

fn long_use_leaves_nothing_behind(lab: &Lab) {
    let number =
        |name: &str, default| std::env::var(name).map_or(default, |value| value.parse().unwrap());
    soak(
        lab,
        &Use {
            machines: number("MACHINES", 20),
            commands: number("COMMANDS", 10_000),
            at_once: number("AT_ONCE", 200),
            // One for each half hour of a day.
            suspensions: number("SUSPENSIONS", 48),
        },
    );
}

fn soak(lab: &Lab, usage: &Use) {
    let world = World::for_user().with_templates();
    let names: Vec<String> = (1..=usage.machines)
        .map(|index| format!("m{index}"))
        .collect();
    for name in &names {
        world.create(&lab.image("busybox:1"), name, &["--no-boot"]);
    }
    let commands = names.iter().map(|name| start(&world, name, "true"));
    succeed(commands.collect());
    let counter = "echo $$ > /tmp/counter; while sleep 1; do echo >> /tmp/seconds; done";
    world.stdout(&["run", "-d", "-n", "m1", counter]);

    // What is started once, and caches, are there after this.
    use_machine(
        &world,
        &Use {
            commands: usage.commands / 10,
            suspensions: 1,
            ..*usage
        },
    );
    let before = Resources::settled(&world);
    use_machine(&world, usage);
    eventually("nothing is left behind", || {
        Resources::of(&world).is_like(&before)
    });
    let counting = world.inside("m1", "kill -0 $(cat /tmp/counter) && echo counting");
    assert_eq!(counting, "counting\n");

    let commands = names.iter().map(|name| start(&world, name, "echo up"));
    succeed(commands.collect());
    names
        .iter()
        .for_each(|name| drop(world.stdout(&["rm", name])));
    eventually("no process of a machine is left", || {
        let roles = ["runtime", "file-share"].map(|role| world.processes(role));
        roles.iter().all(Vec::is_empty) && world.engines().is_empty()
    });
    assert_eq!(world.bundles(), [""; 0]);
}

fn use_machine(world: &World, usage: &Use) {
    for number in 0..usage.commands {
        let line = format!("echo {number}");
        assert_eq!(world.inside("m1", &line), format!("{number}\n"));
    }
    succeed(
        (0..usage.at_once)
            .map(|_| start(world, "m1", "sleep 1"))
            .collect(),
    );
    for _ in 0..usage.suspensions {
        world.stdout(&["suspend", "m1"]);
        assert_eq!(world.inside("m1", "echo resumed"), "resumed\n");
    }
}

fn start(world: &World, machine: &str, line: &str) -> Child {
    let mut command = world.machine(&["run", "-n", machine, line]);
    let command = command
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped());
    command.spawn().unwrap()
}

fn succeed(commands: Vec<Child>) {
    for command in commands {
        let outcome = Outcome::from(command.wait_with_output().unwrap());
        assert_eq!(outcome.code, Some(0), "{outcome:?}");
    }
}

/// What a world and its first machine occupy.
#[derive(Debug)]
struct Resources {
    /// Number of processes on the host.
    processes: usize,
    /// Open descriptors of the service, the runtimes and the file shares.
    descriptors: usize,
    /// Memory in KiB of the same.
    memory: u64,
    /// Files in the data directory.
    files: BTreeMap<String, usize>,
    /// Processes in the machine.
    guest_processes: usize,
    /// Descriptors of the machine's first process, which may be the agent.
    guest_descriptors: usize,
}

impl Resources {
    fn of(world: &World) -> Resources {
        let roles = ["service", "runtime", "file-share"];
        let ours: Vec<Process> = roles
            .iter()
            .flat_map(|role| world.processes(role))
            .collect();
        let descriptors = |process: &Process| {
            fs::read_dir(format!("/proc/{}/fd", process.pid)).map_or(0, Iterator::count)
        };
        let memory = |process: &Process| {
            let field = process.status("VmRSS").unwrap_or_default();
            field.trim_end_matches(" kB").parse().unwrap_or(0)
        };
        let inside = |line: &str| {
            let printed = world.stdout(&["run", "-n", "m1", "-u", "root", line]);
            printed.trim().parse().unwrap()
        };
        Resources {
            processes: ours.len() + world.engines().len(),
            descriptors: ours.iter().map(descriptors).sum(),
            memory: ours.iter().map(memory).sum(),
            files: files(world),
            guest_processes: inside("ls -d /proc/[0-9]* | wc -l"),
            guest_descriptors: inside("ls /proc/1/fd | wc -l"),
        }
    }

    /// Waits until the template is made and what has ended is gone.
    fn settled(world: &World) -> Resources {
        eventually("no template is being made", || {
            world.processes("template").is_empty()
        });
        let mut before = Resources::of(world);
        eventually("nothing changes", || {
            sleep(Duration::from_secs(2));
            let now = Resources::of(world);
            let is_settled = before.is_like(&now) && now.is_like(&before);
            before = now;
            is_settled
        });
        before
    }

    /// Returns whether this is not more than before.
    fn is_like(&self, before: &Resources) -> bool {
        let is_like = self.processes <= before.processes
            && self.descriptors <= before.descriptors
            && self.memory <= before.memory + ALLOWED_GROWTH
            && self.files == before.files
            && self.guest_processes <= before.guest_processes
            && self.guest_descriptors <= before.guest_descriptors;
        if !is_like {
            eprintln!("before: {before:?}\nafter: {self:?}");
        }
        is_like
    }
}

/// Returns the number of files in each directory of the bundles.
fn files(world: &World) -> BTreeMap<String, usize> {
    let count = |name: String| {
        let entries = fs::read_dir(world.bundle(&name, "")).unwrap();
        (name, entries.count())
    };
    world.bundles().into_iter().map(count).collect()
}
