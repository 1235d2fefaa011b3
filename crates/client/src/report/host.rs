//! The host, as text.

use std::fs;

use rustix::{
    process::{Resource, getrlimit},
    system::uname,
};

/// Fields of the first processor in `/proc/cpuinfo`.
const PROCESSOR_FIELDS: [&str; 5] = ["vendor_id", "model name", "stepping", "microcode", "flags"];

/// Describes kernel, distribution, processor, memory and limits.
pub(super) fn describe() -> String {
    let name = uname();
    let kernel = [
        name.sysname(),
        name.release(),
        name.version(),
        name.machine(),
    ];
    let kernel: Vec<_> = kernel.iter().map(|part| part.to_string_lossy()).collect();
    let files = getrlimit(Resource::Nofile);
    format!(
        "{}\n\n{}\n{}\n{}\nopen files: {:?} (hard limit {:?})\n",
        kernel.join(" "),
        read("/etc/os-release"),
        processor(&read("/proc/cpuinfo")),
        read("/proc/meminfo"),
        files.current,
        files.maximum,
    )
}

fn read(path: &str) -> String {
    fs::read_to_string(path).unwrap_or_else(|error| format!("cannot read {path}: {error}\n"))
}

/// Returns the number of processors, and the fields of the first.
fn processor(cpuinfo: &str) -> String {
    let count = cpuinfo
        .lines()
        .filter(|line| line.starts_with("processor"))
        .count();
    let mut text = format!("processors: {count}\n");
    for field in PROCESSOR_FIELDS {
        let mut lines = cpuinfo.lines();
        if let Some(line) = lines.find(|line| line.starts_with(field)) {
            text.push_str(line);
            text.push('\n');
        }
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn processors_are_counted_and_described_once() {
        let cpuinfo = "processor\t: 0\nmodel name\t: X\nserial\t: 1\nflags\t: svm\n\n\
                       processor\t: 1\nmodel name\t: X\nserial\t: 2\nflags\t: svm\n";
        let text = processor(cpuinfo);
        assert_eq!(text, "processors: 2\nmodel name\t: X\nflags\t: svm\n");
        assert!(describe().starts_with("Linux "));
    }
}
