//! The host's processor, as far as a saved machine depends on it.

use std::{fs, path::Path};

use crate::accelerator::Accelerator;

/// Returns the host's processor and, with hardware virtualization, its kernel, both of which decide
/// what the guest's processor can do. An emulated processor depends on neither.
pub(super) fn describe(accelerator: Accelerator) -> String {
    if accelerator == Accelerator::Tcg {
        return String::new();
    }
    let release = fs::read_to_string("/proc/sys/kernel/osrelease").unwrap_or_default();
    format!(
        "{} {}",
        processor(Path::new("/proc/cpuinfo")),
        release.trim()
    )
}

/// Returns model, microcode and features of the first processor in a `cpuinfo`.
fn processor(cpuinfo: &Path) -> String {
    let cpuinfo = fs::read_to_string(cpuinfo).unwrap_or_default();
    let first = cpuinfo.split("\n\n").next().unwrap_or_default();
    let is_fixed = |line: &&str| {
        let fields = [
            "vendor_id",
            "cpu family",
            "model",
            "stepping",
            "microcode",
            "flags",
        ];
        fields.iter().any(|field| line.starts_with(field))
    };
    let fixed: Vec<&str> = first.lines().filter(is_fixed).collect();
    fixed.join(" ")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_clock_frequency_does_not_count() {
        let file = tempfile::NamedTempFile::new().unwrap();
        let describe = |frequency: &str, flags: &str| {
            let text =
                format!("model name\t: A\ncpu MHz\t\t: {frequency}\nflags\t: {flags}\n\nmodel");
            fs::write(file.path(), text).unwrap();
            processor(file.path())
        };
        let one = describe("1", "svm");
        assert_eq!(one, describe("2", "svm"));
        assert_ne!(one, describe("1", "vmx"));
    }
}
