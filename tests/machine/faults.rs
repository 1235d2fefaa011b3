//! Processes are killed, the disk is full, and descriptors are short, while machines are created,
//! used and deleted. For some rounds, or for many (`make faults`).
//!
//! After each round every machine is there, unless its deletion was asked for, boots, and has its
//! settings and what was synced. After some rounds all disks are clean, and no process, layer or
//! other file is left over.

use std::{
    collections::{BTreeMap, BTreeSet},
    fs,
    path::Path,
    process::{Child, Command, Stdio},
    thread::sleep,
    time::{Duration, Instant},
};

use end_to_end::{Lab, Outcome, Process, World, eventually};
use fastrand::Rng;
use rustix::process::{Pid, Resource, Rlimit, Signal, getrlimit, kill_process, prlimit};
use serde_json::Value;

use crate::full_disk::SmallFileSystem;

crate::declare::tests![machines_survive_some_faults];

/// Slow tests, which only `make faults` runs.
pub(crate) const LONG: &[crate::declare::Test] =
    &[("faults::machines_survive_faults", machines_survive_faults)];

/// Timeout for a command. It is generous: only a command that hangs exceeds it.
const TIMEOUT: Duration = Duration::from_secs(400);

/// Rounds between two checks of everything.
const ROUNDS_PER_CHECK: usize = 10;

/// Number of machines from which on one is deleted for each that is created.
const MOST_MACHINES: usize = 4;

fn machines_survive_some_faults(lab: &Lab) {
    Campaign::new(lab, 1).run(20);
}

fn machines_survive_faults(lab: &Lab) {
    let number = |name: &str, default: u64| {
        std::env::var(name).map_or(default, |value| value.parse().unwrap())
    };
    let seed = number("SEED", Rng::new().u64(..));
    let rounds = number("ROUNDS", 1000);
    eprintln!("{rounds} rounds with SEED={seed}");
    Campaign::new(lab, seed).run(usize::try_from(rounds).unwrap());
}

/// What a round does.
#[derive(Debug, Clone, Copy)]
enum Verb {
    Create,
    Clone,
    Write,
    Set,
    Stop,
    Suspend,
    Check,
    Snapshot,
    Restore,
    RemoveSnapshot,
    Move,
    Remove,
}

const VERBS: [Verb; 12] = [
    Verb::Create,
    Verb::Clone,
    Verb::Write,
    Verb::Set,
    Verb::Stop,
    Verb::Suspend,
    Verb::Check,
    Verb::Snapshot,
    Verb::Restore,
    Verb::RemoveSnapshot,
    Verb::Move,
    Verb::Remove,
];

/// What happens meanwhile.
#[derive(Debug, Clone, Copy, PartialEq)]
enum Fault {
    /// Nothing: the command must succeed.
    Nothing,
    /// The command is killed.
    Command,
    /// One of the processes with this role is killed.
    Process(&'static str),
    /// One of the engines is killed.
    Engine,
    /// The kernel of a machine crashes.
    Guest,
    FullDisk,
    /// The service can open a few more files only.
    FewDescriptors,
}

const FAULTS: [Fault; 9] = [
    Fault::Nothing,
    Fault::Command,
    Fault::Process("service"),
    Fault::Process("runtime"),
    Fault::Process("file-share"),
    Fault::Engine,
    Fault::Guest,
    Fault::FullDisk,
    Fault::FewDescriptors,
];

/// What may be in a machine's file, of which one is there. `None` stands for no file.
type Values = BTreeSet<Option<u32>>;

/// Memory in MiB that each machine is created with.
const MEMORY: u64 = 1024;

/// What is known about a machine.
#[derive(Debug, Clone)]
struct Known {
    values: Values,
    /// Amounts of memory in MiB, of which one is set.
    memory: BTreeSet<u64>,
    /// The other settings, which never change. Absent before they were read.
    settings: Option<Value>,
    snapshots: BTreeMap<String, Values>,
    /// Snapshots whose creation or removal was interrupted.
    doubtful_snapshots: BTreeSet<String>,
}

impl Known {
    fn new(values: Values) -> Known {
        Known {
            values,
            memory: [MEMORY].into(),
            settings: None,
            snapshots: BTreeMap::new(),
            doubtful_snapshots: BTreeSet::new(),
        }
    }

    /// Returns what is known about a copy of the machine.
    fn copy(self) -> Known {
        Known {
            snapshots: BTreeMap::new(),
            doubtful_snapshots: BTreeSet::new(),
            ..self
        }
    }
}

/// Machines, and what is known about them.
struct Campaign {
    random: Rng,
    world: World,
    small: SmallFileSystem,
    image: String,
    machines: BTreeMap<String, Known>,
    /// Machines whose creation was interrupted.
    doubtful: BTreeSet<String>,
    names: u32,
    values: u32,
}

impl Campaign {
    fn new(lab: &Lab, seed: u64) -> Campaign {
        let small = SmallFileSystem::mount("3g");
        Campaign {
            random: Rng::with_seed(seed),
            world: small.world().with_templates(),
            small,
            image: lab.image("busybox:1"),
            machines: BTreeMap::new(),
            doubtful: BTreeSet::new(),
            names: 0,
            values: 0,
        }
    }

    fn run(mut self, rounds: usize) {
        for round in 1..=rounds {
            let verb = self.choose_verb();
            let fault = self.random.choice(FAULTS).unwrap();
            self.round(round, verb, fault);
            self.verify(round);
            if round % ROUNDS_PER_CHECK == 0 || round == rounds {
                self.check_all(round);
            }
        }
    }

    fn choose_verb(&mut self) -> Verb {
        if self.machines.len() < 2 {
            return Verb::Create;
        }
        loop {
            let verb = self.random.choice(VERBS).unwrap();
            let is_more = matches!(verb, Verb::Create | Verb::Clone);
            if !is_more || self.machines.len() < MOST_MACHINES {
                return verb;
            }
        }
    }

    fn new_name(&mut self) -> String {
        self.names += 1;
        format!("m{}", self.names)
    }

    /// Lets the verb and the fault happen at the same time.
    fn round(&mut self, round: usize, verb: Verb, fault: Fault) {
        let names: Vec<String> = self.machines.keys().cloned().collect();
        let machine = self.random.choice(names).unwrap_or_default();
        let before = self.machines.get(&machine).cloned();
        let before = before.unwrap_or(Known::new([None].into()));
        let snapshot = self.random.choice(before.snapshots.keys().cloned());
        eprintln!("{round}: {verb:?} of {machine:?}, {fault:?}");
        if fault == Fault::Nothing && !machine.is_empty() {
            // It may still be ending by the fault before.
            self.world.inside(&machine, "true");
        }
        match (verb, snapshot) {
            (Verb::Create, _) => {
                let new = self.new_name();
                let image = self.image.clone();
                let boot = if self.random.bool() {
                    "--no-boot"
                } else {
                    "--home-mount=rw"
                };
                let create = [
                    "create",
                    &image,
                    "--name",
                    &new,
                    "--disk-size",
                    "3G",
                    "--memory",
                    "1G",
                    boot,
                ];
                self.make(&create, &new, Known::new([None].into()), fault);
            }
            (Verb::Clone, _) => {
                let new = self.new_name();
                let known = before.copy();
                self.make(&["clone", &machine, &new], &new, known, fault);
            }
            (Verb::Write, _) => {
                self.values += 1;
                let value = self.values;
                let line = format!("echo {value} > /new && sync && mv /new /state && sync");
                let run = ["run", "-n", &machine, "-u", "root", &line];
                self.change(&machine, &run, fault, |known| {
                    known.values = [Some(value)].into()
                });
            }
            (Verb::Set, _) => {
                let memory = self.random.choice([MEMORY, 1280, 1536]).unwrap();
                let setting = format!("memory={memory}M");
                let set = ["set", "-n", &machine, &setting];
                self.change(&machine, &set, fault, |known| {
                    known.memory = [memory].into()
                });
            }
            (Verb::Stop, _) => self.change(&machine, &["stop", "--force", &machine], fault, |_| {}),
            (Verb::Suspend, _) => {
                self.world.inside(&machine, "true");
                self.change(&machine, &["suspend", &machine], fault, |_| {});
            }
            (Verb::Check, _) => {
                self.world.stdout(&["stop", "--force", &machine]);
                self.change(&machine, &["check", &machine], fault, |_| {});
            }
            (Verb::Snapshot | Verb::Restore | Verb::RemoveSnapshot, None) | (Verb::Snapshot, _) => {
                let new = self.new_name();
                let create = ["snapshot", "create", "-n", &machine, &new];
                let taken = before.values;
                self.doubt_snapshot(&machine, &new, taken.clone());
                self.change(&machine, &create, fault, |known| {
                    known.snapshots.insert(new.clone(), taken);
                    known.doubtful_snapshots.remove(&new);
                });
            }
            (Verb::Restore, Some(name)) => {
                self.world.stdout(&["stop", "--force", &machine]);
                let restore = ["snapshot", "restore", "--force", "-n", &machine, &name];
                let values = before.snapshots[&name].clone();
                self.change(&machine, &restore, fault, |known| known.values = values);
            }
            (Verb::RemoveSnapshot, Some(name)) => {
                let values = before.snapshots[&name].clone();
                self.doubt_snapshot(&machine, &name, values);
                let remove = ["snapshot", "rm", "-n", &machine, &name];
                self.change(&machine, &remove, fault, |known| {
                    known.snapshots.remove(&name);
                    known.doubtful_snapshots.remove(&name);
                });
            }
            (Verb::Move, _) => {
                let file = self.world.path("moved.machine");
                let file = file.to_str().unwrap();
                self.world.stdout(&["export", &machine, "-o", file]);
                let new = self.new_name();
                let known = before.copy();
                self.make(&["import", file, "--name", &new], &new, known, fault);
                fs::remove_file(file).unwrap();
            }
            (Verb::Remove, _) => {
                if !self.carry_out(&["rm", &machine], fault) {
                    // The service may still carry it out.
                    let again = self.world.run(&["rm", &machine]);
                    let is_gone = again.code == Some(0) || again.error().contains("not found");
                    assert!(is_gone, "{again:?}");
                }
                self.machines.remove(&machine);
            }
        }
    }

    /// Runs a command that makes a machine.
    fn make(&mut self, arguments: &[&str], new: &str, known: Known, fault: Fault) {
        self.machines.insert(new.to_owned(), known);
        self.doubtful.insert(new.to_owned());
        if self.carry_out(arguments, fault) {
            self.doubtful.remove(new);
        }
    }

    /// Runs a command that changes a machine. If it fails, the machine may be as before or after.
    fn change(
        &mut self,
        machine: &str,
        arguments: &[&str],
        fault: Fault,
        change: impl FnOnce(&mut Known),
    ) {
        let succeeded = self.carry_out(arguments, fault);
        let known = self.machines.get_mut(machine).unwrap();
        let unchanged = known.clone();
        change(known);
        if !succeeded {
            let changed = std::mem::replace(known, unchanged);
            known.values.extend(changed.values);
            known.memory.extend(changed.memory);
        }
    }

    fn doubt_snapshot(&mut self, machine: &str, snapshot: &str, values: Values) {
        let known = self.machines.get_mut(machine).unwrap();
        known.snapshots.insert(snapshot.to_owned(), values);
        known.doubtful_snapshots.insert(snapshot.to_owned());
    }

    /// Runs a command while the fault happens. Returns whether it succeeded.
    fn carry_out(&mut self, arguments: &[&str], fault: Fault) -> bool {
        let mut command = self.world.machine(arguments);
        let command = command
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped());
        let mut command = command.spawn().unwrap();
        // Most commands take less than a second, and boots a few.
        let delay = [100, 1000, 5000];
        let delay = self.random.choice(delay).unwrap();
        sleep(Duration::from_millis(self.random.u64(..delay)));
        self.strike(fault, &mut command);
        let outcome = finish(command);
        let succeeded = outcome.code == Some(0);
        assert!(
            succeeded || fault != Fault::Nothing,
            "{arguments:?}: {outcome:?}"
        );
        let is_defect = outcome.code == Some(2) || outcome.stderr.contains("panicked");
        assert!(!is_defect, "{arguments:?}: {outcome:?}");
        if !succeeded {
            eprintln!("  {:?}: {}", outcome.code, outcome.stderr.trim());
        }
        succeeded
    }

    fn strike(&mut self, fault: Fault, command: &mut Child) {
        let duration = Duration::from_millis(self.random.u64(..3000));
        match fault {
            Fault::Nothing => {}
            Fault::Command => {
                // It may have ended.
                let _ = command.kill();
            }
            Fault::Process(role) => self.kill_one_of(self.world.processes(role)),
            Fault::Engine => self.kill_one_of(self.world.engines()),
            Fault::Guest => {
                let running = self.world.run(&["ls", "-q", "--filter", "status=running"]);
                let running: Vec<&str> = running.stdout.lines().collect();
                if let Some(name) = self.random.choice(running) {
                    let crash = "echo c > /proc/sysrq-trigger";
                    self.world.run(&["run", "-n", name, "-u", "root", crash]);
                }
            }
            Fault::FullDisk => {
                let filler = self.small.fill();
                sleep(duration);
                fs::remove_file(&filler).unwrap();
            }
            Fault::FewDescriptors => {
                for service in self.world.processes("service") {
                    limit_descriptors(&service, duration, self.random.u64(2..20));
                }
            }
        }
    }

    fn kill_one_of(&mut self, processes: Vec<Process>) {
        if let Some(process) = self.random.choice(processes) {
            let pid = Pid::from_raw(process.pid).unwrap();
            // It may have ended.
            let _ = kill_process(pid, Signal::KILL);
        }
    }

    /// Checks that the machines are there and have what they should, and learns what happened.
    fn verify(&mut self, round: usize) {
        for machine in std::mem::take(&mut self.doubtful) {
            // If the command was killed, the service may still be undoing its work.
            let outcome = self.world.run(&["run", "-n", &machine, "true"]);
            if outcome.code != Some(0) {
                assert!(outcome.error().contains("not found"), "{outcome:?}");
                self.machines.remove(&machine);
            }
        }
        let listed = self.world.stdout(&["ls", "-q"]);
        let listed: BTreeSet<&str> = listed.lines().collect();
        let known: BTreeSet<&str> = self.machines.keys().map(String::as_str).collect();
        assert_eq!(listed, known, "round {round}");
        assert_eq!(
            self.world.bundles(),
            Vec::from_iter(listed),
            "round {round}"
        );
        for (machine, known) in &mut self.machines {
            let snapshots = ["snapshot", "ls", "-n", machine, "--format", "{{ name }}"];
            let snapshots = self.world.stdout(&snapshots);
            let snapshots: BTreeSet<&str> = snapshots.lines().collect();
            for name in std::mem::take(&mut known.doubtful_snapshots) {
                if !snapshots.contains(name.as_str()) {
                    known.snapshots.remove(&name);
                }
            }
            let expected: BTreeSet<&str> = known.snapshots.keys().map(String::as_str).collect();
            assert_eq!(snapshots, expected, "round {round}: {machine}");
            compare_settings(&self.world, machine, known, round);
            if known.values.len() != 1 || self.random.u8(..4) == 0 {
                read(&self.world, machine, known, round);
            }
        }
    }

    /// Checks all machines and disks, and that nothing is left over.
    fn check_all(&mut self, round: usize) {
        for (machine, known) in &mut self.machines {
            read(&self.world, machine, known, round);
        }
        let names: Vec<String> = self.machines.keys().cloned().collect();
        for name in &names {
            self.world.stdout(&["stop", "--force", name]);
        }
        eventually("no process of a machine is left", || {
            let roles = ["runtime", "file-share"].map(|role| self.world.processes(role));
            roles.iter().all(Vec::is_empty) && self.world.engines().is_empty()
        });
        for (machine, known) in &mut self.machines {
            // Nothing runs that could still set another.
            known.memory = [compare_settings(&self.world, machine, known, round)].into();
            self.world.check_disk(machine);
            check_files(&self.world, machine, round);
        }
    }
}

/// Reads a machine's file, which must be what it may be.
fn read(world: &World, machine: &str, known: &mut Known, round: usize) {
    let printed = world.inside(machine, "test -e /state || exit 0; cat /state");
    let value = match printed.trim() {
        "" => None,
        value => Some(value.parse().unwrap()),
    };
    let is_known = known.values.contains(&value);
    assert!(
        is_known,
        "round {round}: {machine} has {value:?} and not {known:?}"
    );
    known.values = [value].into();
}

/// Compares a machine's settings with those that it may have. Returns its memory in MiB.
fn compare_settings(world: &World, machine: &str, known: &mut Known, round: usize) -> u64 {
    let mut settings = read_json(&world.bundle(machine, "boot-config.json"));
    let memory = settings["memory"].take().as_u64().unwrap() >> 20;
    let may_be = known.memory.contains(&memory);
    assert!(
        may_be,
        "round {round}: {machine} has {memory} MiB and not {known:?}"
    );
    let expected = known.settings.get_or_insert_with(|| settings.clone());
    assert_eq!(&settings, expected, "round {round}: {machine}");
    memory
}

/// Checks that a machine's bundle has no files of disks, and no saved memory, but those that the
/// machine and its snapshots use. The machine must be stopped.
fn check_files(world: &World, machine: &str, round: usize) {
    // What an interrupted command has left is removed together with a snapshot.
    world.stdout(&["snapshot", "create", "-n", machine, "tidy"]);
    world.stdout(&["snapshot", "rm", "-n", machine, "tidy"]);
    let disk = fs::read_link(world.bundle(machine, "disk.qcow2")).unwrap();
    let mut used = layers(&world.bundle(machine, disk.to_str().unwrap()));
    let snapshots = read_json(&world.bundle(machine, "snapshots.json"));
    for snapshot in snapshots.as_array().unwrap() {
        let layer = snapshot["layer"].as_str().unwrap();
        used.extend(layers(&world.bundle(machine, layer)));
        used.extend(snapshot["memory"].as_str().map(str::to_owned));
    }
    let entries = fs::read_dir(world.bundle(machine, "")).unwrap();
    let mut files: BTreeSet<String> = entries
        .map(|entry| entry.unwrap().file_name().into_string().unwrap())
        .collect();
    files.retain(|name| {
        let starts = ["disk-", "memory-", ".memory-"];
        starts.iter().any(|start| name.starts_with(start))
    });
    assert_eq!(files, used, "round {round}: {machine}");
}

/// Returns the names of a file of a disk and of the layers that it is on.
fn layers(file: &Path) -> BTreeSet<String> {
    let mut command = Command::new("qemu-img");
    command.args(["info", "--backing-chain", "--output=json"]);
    let described = Outcome::from(command.arg(file).output().unwrap());
    assert_eq!(described.code, Some(0), "{described:?}");
    let chain: Value = serde_json::from_str(&described.stdout).unwrap();
    let files = chain.as_array().unwrap().iter();
    let names = files.map(|it| Path::new(it["filename"].as_str().unwrap()).file_name());
    let names = names.map(|name| name.unwrap().to_str().unwrap().to_owned());
    // The last is the base image file.
    names.filter(|name| name.starts_with("disk-")).collect()
}

fn read_json(file: &Path) -> Value {
    serde_json::from_slice(&fs::read(file).unwrap()).unwrap()
}

/// Lets a process open a few more files only, for a while.
fn limit_descriptors(process: &Process, duration: Duration, more: u64) {
    let Ok(open) = fs::read_dir(format!("/proc/{}/fd", process.pid)) else {
        return;
    };
    let pid = Pid::from_raw(process.pid);
    let before = getrlimit(Resource::Nofile);
    let few = Rlimit {
        current: Some(open.count() as u64 + more),
        maximum: before.maximum,
    };
    // It may have ended.
    if let Ok(before) = prlimit(pid, Resource::Nofile, few) {
        sleep(duration);
        let _ = prlimit(pid, Resource::Nofile, before);
    }
}

/// Waits for a command to end.
fn finish(mut command: Child) -> Outcome {
    let deadline = Instant::now() + TIMEOUT;
    while command.try_wait().unwrap().is_none() {
        assert!(Instant::now() < deadline, "a command hangs: {command:?}");
        sleep(Duration::from_millis(20));
    }
    command.wait_with_output().unwrap().into()
}
