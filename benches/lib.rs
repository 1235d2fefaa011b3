//! Support for benchmarks: takes timings and prints them as a table.
//!
//! ```no_run
//! use container_benches::{Row, rounds, run, time};
//!
//! let mut rows = [Row {
//!     name: "sleep",
//!     take: Box::new(|| time(|| std::thread::sleep(std::time::Duration::from_millis(10)))),
//! }];
//! run(&mut rows, rounds());
//! ```
#![allow(clippy::print_stdout, clippy::unwrap_used)]

use std::{
    path::{Path, PathBuf},
    process::{Command, Stdio},
    time::{Duration, Instant},
};

/// Returns the duration of `work`.
pub fn time(work: impl FnOnce()) -> Duration {
    let begin = Instant::now();
    work();
    begin.elapsed()
}

/// A row of the table.
pub struct Row<'a> {
    /// Description of the work.
    pub name: &'a str,
    /// Does the work once and returns its duration.
    pub take: Box<dyn FnMut() -> Duration + 'a>,
}

/// Times all rows in turn, `rounds` times after a warm-up round. Prints medians, extremes, and each
/// median as a multiple of the first row's, the floor.
pub fn run(rows: &mut [Row<'_>], rounds: usize) {
    let mut timings: Vec<Vec<Duration>> = rows.iter().map(|_| Vec::new()).collect();
    for round in 0..=rounds {
        for (row, timings) in rows.iter_mut().zip(&mut timings) {
            let timing = (row.take)();
            if round > 0 {
                timings.push(timing);
            }
        }
    }
    println!("| what | median | fastest | slowest | × floor |");
    println!("|---|---:|---:|---:|---:|");
    let mut floor = None;
    for (row, timings) in rows.iter().zip(&mut timings) {
        timings.sort();
        let median = timings[timings.len() / 2].as_secs_f64();
        let floor = *floor.get_or_insert(median);
        println!(
            "| {} | {median:.2} s | {:.2} s | {:.2} s | {:.2} |",
            row.name,
            timings[0].as_secs_f64(),
            timings[timings.len() - 1].as_secs_f64(),
            median / floor
        );
    }
}

/// Returns the number of rounds: the environment variable `ROUNDS`, or 5.
pub fn rounds() -> usize {
    std::env::var("ROUNDS").map_or(5, |rounds| rounds.parse().unwrap())
}

/// Returns a description of the host's processors.
pub fn host() -> String {
    let cpuinfo = std::fs::read_to_string("/proc/cpuinfo").unwrap();
    let model = cpuinfo
        .lines()
        .find_map(|line| line.strip_prefix("model name\t: "));
    let cores = std::thread::available_parallelism().unwrap();
    format!("{cores} × {}", model.unwrap_or("unknown processor"))
}

/// Returns the directories of the kernel for machines (built by `make kernel`) and of Debian's.
pub fn kernels() -> [PathBuf; 2] {
    let kernels = xtask::guest::kernels().unwrap();
    kernels.try_into().unwrap()
}

/// Returns QEMU with a machine type (`q35`, `microvm`), a kernel, an initramfs and a serial console
/// on standard output.
pub fn bare_engine(machine: &str, kernel: &Path, initramfs: &Path) -> Command {
    let mut engine = Command::new("qemu-system-x86_64");
    engine
        .args([
            "-nodefaults",
            "-no-user-config",
            "-no-reboot",
            "-display",
            "none",
        ])
        .args([
            "-accel",
            "tcg,thread=multi",
            "-cpu",
            "max",
            "-machine",
            machine,
        ])
        .args(["-smp", "2", "-m", "1G", "-serial", "stdio", "-kernel"])
        .arg(kernel.join("vmlinux"))
        .arg("-initrd")
        .arg(initramfs)
        .args(["-append", "console=ttyS0 panic=-1 quiet"])
        .stdin(Stdio::null())
        .stdout(Stdio::piped());
    engine
}
