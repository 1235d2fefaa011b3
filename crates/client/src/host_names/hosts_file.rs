//! The blocks of lines that belong to this program in `/etc/hosts`.

use std::{fmt::Display, fs, io, path::PathBuf};

use super::root_step::RootStep;

/// Path of the host's static table of names (hosts(5)).
pub(super) const HOSTS_FILE: &str = "/etc/hosts";

/// Comment lines that enclose the entries of one domain.
pub(super) struct BlockMarks {
    pub(super) begin: String,
    end: String,
}

impl BlockMarks {
    /// Returns the marks for a domain of the installation whose name server has this port.
    pub(super) fn new(port: u16, domain: impl Display) -> BlockMarks {
        BlockMarks {
            begin: format!("# container system dns {port}: {domain}"),
            end: format!("# end of container system dns {port}: {domain}"),
        }
    }
}

/// Reads `/etc/hosts`. A missing file counts as empty.
pub(super) fn read() -> io::Result<String> {
    match fs::read_to_string(HOSTS_FILE) {
        Ok(hosts) => Ok(hosts),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(String::new()),
        Err(error) => Err(error),
    }
}

/// Returns the step that replaces the marked block in `/etc/hosts` by `lines`, or removes it if
/// `lines` is empty.
pub(super) fn replace_block(hosts: &str, marks: &BlockMarks, lines: &str) -> RootStep {
    RootStep::Write {
        path: PathBuf::from(HOSTS_FILE),
        content: with_block(hosts, marks, lines),
        shown: with_block("", marks, lines),
    }
}

fn with_block(hosts: &str, marks: &BlockMarks, lines: &str) -> String {
    let BlockMarks { begin, end } = marks;
    let mut kept = String::new();
    let mut is_within = false;
    for line in hosts.lines() {
        is_within |= line == begin;
        if !is_within {
            kept.push_str(line);
            kept.push('\n');
        }
        is_within &= line != end;
    }
    if !lines.is_empty() {
        kept.push_str(&format!("{begin}\n{lines}{end}\n"));
    }
    // A file without a final newline gets back its original bytes when the block is removed.
    if !hosts.is_empty() && !hosts.ends_with('\n') {
        kept.pop();
    }
    kept
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_outside_the_block_are_kept() {
        let marks = |domain: &str| BlockMarks {
            begin: format!("# begin {domain}"),
            end: format!("# end {domain}"),
        };
        let hosts = "127.0.0.1 localhost\n# mine\n";
        let one = with_block(hosts, &marks("a"), "127.19.1.1 dev.a\n");
        assert_eq!(
            one,
            "127.0.0.1 localhost\n# mine\n# begin a\n127.19.1.1 dev.a\n# end a\n"
        );
        let two = with_block(&one, &marks("b"), "127.19.1.1 dev.b\n");
        let again = with_block(&two, &marks("a"), "127.19.1.2 new.a\n");
        assert!(again.contains("dev.b") && again.contains("new.a") && !again.contains("dev.a"));
        let none = with_block(&with_block(&again, &marks("a"), ""), &marks("b"), "");
        assert_eq!(none, hosts);
        let unended = "127.0.0.1 localhost";
        let with = with_block(unended, &marks("a"), "127.19.1.1 dev.a\n");
        assert_eq!(with_block(&with, &marks("a"), ""), unended);
    }
}
