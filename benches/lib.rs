//! What benchmarks share: timings taken in turn, and the table that they are told in.
#![allow(clippy::print_stdout, clippy::unwrap_used)]

use std::{
    path::{Path, PathBuf},
    process::{Command, Stdio},
    time::{Duration, Instant},
};

/// How long `work` takes.
pub fn time(work: impl FnOnce()) -> Duration {
    let begin = Instant::now();
    work();
    begin.elapsed()
}

/// One thing that is timed, and its timings so far.
pub struct Row<'a> {
    /// What is timed.
    pub name: &'a str,
    /// Times it once.
    pub take: Box<dyn FnMut() -> Duration + 'a>,
}

/// Times all rows in turn, `rounds` times after one round that does not count, and prints
/// medians, extremes, and each median as a multiple of the first row's.
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

/// How often each is timed: `ROUNDS`, 5 where nothing is said.
pub fn rounds() -> usize {
    std::env::var("ROUNDS").map_or(5, |rounds| rounds.parse().unwrap())
}

/// What this is measured on.
pub fn host() -> String {
    let cpuinfo = std::fs::read_to_string("/proc/cpuinfo").unwrap();
    let model = cpuinfo
        .lines()
        .find_map(|line| line.strip_prefix("model name\t: "));
    let cores = std::thread::available_parallelism().unwrap();
    format!("{cores} × {}", model.unwrap_or("unknown processor"))
}

/// The kernel for machines (`make kernel` builds it) and Debian's, each a directory.
pub fn kernels() -> [PathBuf; 2] {
    let kernels = xtask::guest::kernels().unwrap();
    kernels.try_into().unwrap()
}

/// QEMU with this kernel, this initial RAM file system, and nothing else but a console on standard output.
pub fn bare_engine(kernel: &Path, initramfs: &Path) -> Command {
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
            "q35",
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
