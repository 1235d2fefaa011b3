//! End-to-end tests with real images, a real registry and real virtual machines.
//!
//! `make test` builds the program and the images and runs them. One file of tests, with everything
//! built: `cargo test -p end-to-end -- first_use`.
#![allow(clippy::unwrap_used, clippy::panic, clippy::print_stderr)]

mod accounts;
mod archives;
mod artifact;
mod at_home;
mod commands;
mod commit;
mod confinement;
mod declare;
mod dhcp;
mod disks;
mod downloads;
mod early_commands;
mod egress;
mod environment;
mod exec;
mod faults;
mod file_events;
mod first_use;
mod foreign;
mod full_disk;
mod home_features;
mod home_stress;
mod identity;
mod idle;
mod images;
mod inits;
mod isolation;
mod kernels;
mod kvm;
mod local_stores;
mod locks;
mod logs;
mod many_files;
mod mounts;
mod network;
mod other_user;
mod output;
mod refusals;
mod registries;
mod rootless;
mod sessions;
mod snapshots;
mod soak;
mod sockets;
mod ssh;
mod ssh_agent;
mod stopping;
mod streams;
mod suspend;
mod system;
mod templates;
mod terminals;
mod together;
mod truncated_files;
mod upgrade;
mod verbs;

use std::{
    collections::BTreeMap,
    process::{ExitCode, exit},
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    thread::{sleep, spawn},
    time::{Duration, Instant},
};

use declare::Test;
use end_to_end::Lab;
use libtest_mimic::{Arguments, Trial};

/// Names of the tests that passed, and how long each took.
type Durations = Mutex<Vec<(Duration, &'static str)>>;

/// Number of tests in the list of the slowest.
const SLOWEST: usize = 25;

/// Tests that run, and when each began.
type Running = Mutex<BTreeMap<&'static str, Instant>>;

/// Timeout for a test that is not ignored. Each takes some minutes at most on a busy host, so one
/// that takes longer waits for something that does not come, and would never end.
const TIMEOUT: Duration = Duration::from_secs(1500);

/// A test that runs, until this is dropped.
struct Watched<'a> {
    running: &'a Running,
    name: &'static str,
}

impl Watched<'_> {
    fn begin<'a>(running: &'a Running, name: &'static str) -> Watched<'a> {
        lock(running).insert(name, Instant::now());
        Watched { running, name }
    }
}

impl Drop for Watched<'_> {
    fn drop(&mut self) {
        lock(self.running).remove(self.name);
    }
}

/// Ends this process when a test has run for too long.
fn watch(running: &Running) -> ! {
    loop {
        sleep(Duration::from_secs(10));
        for (name, start) in &*lock(running) {
            if start.elapsed() > TIMEOUT {
                eprintln!("test {name} timed out after {} s", TIMEOUT.as_secs());
                exit(101);
            }
        }
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

fn print_slowest(durations: &Durations) {
    let mut durations = lock(durations);
    durations.sort_unstable();
    if durations.len() > SLOWEST {
        eprintln!("Slowest tests:");
        for (duration, name) in durations.iter().rev().take(SLOWEST) {
            eprintln!("{:5} s  {name}", duration.as_secs());
        }
    }
}

fn main() -> ExitCode {
    let mut arguments = Arguments::from_args();
    // A machine often waits for something. More at once only slow each other down.
    arguments.test_threads.get_or_insert(3);
    let lab = Arc::new(Lab::default());
    let files = [
        stopping::TESTS,
        inits::TESTS,
        system::TESTS,
        templates::TESTS,
        suspend::TESTS,
        idle::TESTS,
        egress::TESTS,
        isolation::TESTS,
        early_commands::TESTS,
        sessions::TESTS,
        accounts::TESTS,
        identity::TESTS,
        together::TESTS,
        verbs::TESTS,
        truncated_files::TESTS,
        ssh_agent::TESTS,
        sockets::TESTS,
        ssh::TESTS,
        logs::TESTS,
        first_use::TESTS,
        commands::TESTS,
        exec::TESTS,
        environment::TESTS,
        snapshots::TESTS,
        commit::TESTS,
        archives::TESTS,
        images::TESTS,
        streams::TESTS,
        terminals::TESTS,
        artifact::TESTS,
        disks::TESTS,
        full_disk::TESTS,
        faults::TESTS,
        soak::TESTS,
        downloads::TESTS,
        foreign::TESTS,
        local_stores::TESTS,
        at_home::TESTS,
        locks::TESTS,
        home_features::TESTS,
        home_stress::TESTS,
        file_events::TESTS,
        many_files::TESTS,
        mounts::TESTS,
        network::TESTS,
        dhcp::TESTS,
        kernels::TESTS,
        rootless::TESTS,
        output::TESTS,
        confinement::TESTS,
        other_user::TESTS,
        refusals::TESTS,
        registries::TESTS,
    ];
    let durations = Arc::new(Durations::default());
    let running = Arc::new(Running::default());
    let trial = |&(name, test): &Test, is_long: bool| {
        let (lab, durations) = (Arc::clone(&lab), Arc::clone(&durations));
        let running = Arc::clone(&running);
        let name = name.trim_start_matches("machine::");
        let test = move || {
            let _watched = (!is_long).then(|| Watched::begin(&running, name));
            let start = Instant::now();
            test(&lab);
            lock(&durations).push((start.elapsed(), name));
            Ok(())
        };
        Trial::test(name, test).with_ignored_flag(is_long)
    };
    spawn({
        let running = Arc::clone(&running);
        move || watch(&running)
    });
    let short = files.into_iter().flatten().map(|test| trial(test, false));
    let long = [
        many_files::LONG,
        home_stress::LONG,
        faults::LONG,
        kvm::LONG,
        soak::LONG,
        streams::LONG,
        upgrade::LONG,
    ];
    let long = long.into_iter().flatten().map(|test| trial(test, true));
    let conclusion = libtest_mimic::run(&arguments, short.chain(long).collect());
    print_slowest(&durations);
    conclusion.exit_code()
}
