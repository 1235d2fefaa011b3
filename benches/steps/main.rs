//! Measures where a `run` spends its time: with a boot of the kernel, with a restored template, and
//! in a running machine.
//!
//! `cargo bench --bench steps` prints a table of milliseconds. The times are those of the client's
//! `--debug` messages and of the runtime's log. `ROUNDS` is the number of rounds (5).
#![allow(clippy::unwrap_used, clippy::panic, clippy::print_stdout)]

use std::{fs, thread::sleep, time::Duration};

use container_benches::{host, rounds};
use end_to_end::{Lab, World};
use jiff::Timestamp;

/// The steps of a `run`, in their order.
const STEPS: [Step; 8] = [
    Step {
        name: "client starts, service answers",
        ends_with: Message::Client("POST /v1/machines/dev/boot"),
    },
    Step {
        name: "service prepares, runtime process starts",
        ends_with: Message::Runtime(&["runtime started"]),
    },
    Step {
        name: "file share, network and engine are prepared",
        ends_with: Message::Runtime(&["booting the kernel", "restoring the template"]),
    },
    Step {
        name: "engine starts, restores the template",
        ends_with: Message::Runtime(&["engine started"]),
    },
    Step {
        name: "kernel boots, agent answers",
        ends_with: Message::Runtime(&["agent answered"]),
    },
    Step {
        name: "agent mounts disk and home, sets network and user up",
        ends_with: Message::Runtime(&["machine booted"]),
    },
    Step {
        name: "service answers, client connects to the runtime",
        ends_with: Message::Client("run over"),
    },
    Step {
        name: "command runs, client ends",
        ends_with: Message::End,
    },
];

/// A part of a `run`, from the end of the previous step to a message.
struct Step {
    name: &'static str,
    ends_with: Message,
}

/// Where the message that ends a step is.
#[derive(Clone, Copy)]
enum Message {
    /// Among the client's `--debug` messages.
    Client(&'static str),
    /// In the runtime's log: one of these.
    Runtime(&'static [&'static str]),
    /// The end of the client's process.
    End,
}

fn main() {
    let lab = Lab::default();
    let cold = World::for_root();
    let templates = World::for_root().with_templates();
    for world in [&cold, &templates] {
        world.create(&lab.image("busybox:1"), "dev", &["--no-boot"]);
        world.inside("dev", "true");
    }
    while templates.inspect("dev")["boot"]["kind"] != "template" {
        sleep(Duration::from_secs(30));
        templates.stdout(&["stop", "dev"]);
        templates.inside("dev", "true");
    }
    let cases = ["kernel", "template", "running"];
    let mut times = vec![[const { Vec::new() }; 3]; STEPS.len() + 1];
    for _ in 0..rounds() {
        cold.stdout(&["stop", "dev"]);
        templates.stdout(&["stop", "dev"]);
        let runs = [steps(&cold), steps(&templates), steps(&templates)];
        for (case, run) in runs.iter().enumerate() {
            for (row, time) in times.iter_mut().zip(run) {
                row[case].extend(*time);
            }
        }
    }
    println!("{}\n", host());
    println!("| step | {} |", cases.join(" | "));
    println!("|---|---:|---:|---:|");
    let names = STEPS.iter().map(|step| step.name).chain(["all"]);
    for (name, row) in names.zip(&mut times) {
        let cells: Vec<String> = row.iter_mut().map(|times| median(times)).collect();
        println!("| {name} | {} |", cells.join(" | "));
    }
}

/// Runs a command, and returns the milliseconds of each step that there was, and of all.
fn steps(world: &World) -> Vec<Option<f64>> {
    let began = Timestamp::now();
    let outcome = world.run(&["--debug", "run", "-n", "dev", "true"]);
    let ended = Timestamp::now();
    assert_eq!(outcome.code, Some(0), "{outcome:?}");
    let logged = fs::read_to_string(world.bundle("dev", "runtime.log")).unwrap();
    let mut previous = began;
    let steps = STEPS.iter().map(|step| {
        let end = match step.ends_with {
            Message::Client(text) => time_of(&outcome.stderr, &[text]),
            // A machine that was already running has logged its start before.
            Message::Runtime(texts) => time_of(&logged, texts).filter(|time| *time >= began),
            Message::End => Some(ended),
        }?;
        let taken = milliseconds(previous, end);
        previous = end;
        Some(taken)
    });
    let mut steps: Vec<Option<f64>> = steps.collect();
    steps.push(Some(milliseconds(began, ended)));
    steps
}

/// Returns the time of the first line that contains one of the texts.
fn time_of(log: &str, texts: &[&str]) -> Option<Timestamp> {
    let is_meant = |line: &&str| texts.iter().any(|text| line.contains(text));
    let line = log.lines().find(is_meant)?;
    Some(line.split_whitespace().next()?.parse().unwrap())
}

fn milliseconds(from: Timestamp, to: Timestamp) -> f64 {
    (to - from).as_secs_f64() * 1e3
}

/// Returns the median, or nothing if there was no such step.
fn median(times: &mut [f64]) -> String {
    times.sort_by(f64::total_cmp);
    let median = times.get(times.len() / 2);
    median.map_or_else(String::new, |time| format!("{time:.0}"))
}
