//! Subordinate ids of the machine's user, for rootless containers (subuid(5), subgid(5)).

use std::io;

use super::root::GuestRoot;

/// First id that useradd gives (`SUB_UID_MIN` of login.defs), and the number of ids per user.
const FIRST: u32 = 100_000;
const COUNT: u32 = 65_536;

/// Gives the user subordinate user and group ids, unless the user has some.
pub(super) fn grant(root: &GuestRoot, name: &str, uid: u32) -> io::Result<()> {
    root.make_directory("/etc")?;
    for file in ["/etc/subuid", "/etc/subgid"] {
        let text = root.read_or_empty(file)?;
        if let Some(line) = new_entry(&text, name, uid) {
            root.write(file, &format!("{}{line}\n", ended(&text)), 0o644)?;
        }
    }
    Ok(())
}

/// Returns `text` with a newline at its end, unless it is empty.
fn ended(text: &str) -> String {
    match text.trim_end_matches('\n') {
        "" => String::new(),
        lines => format!("{lines}\n"),
    }
}

/// Returns the line for a user, or nothing if the user has one or no range is free.
fn new_entry(text: &str, name: &str, uid: u32) -> Option<String> {
    let id = uid.to_string();
    let mut taken = Vec::new();
    for line in text.lines() {
        let mut fields = line.trim().split(':');
        let owner = fields.next()?;
        if owner == name || owner == id {
            return None;
        }
        let range = (|| Some((fields.next()?.parse().ok()?, fields.next()?.parse().ok()?)))();
        taken.extend(range);
    }
    let start = first_free(taken)?;
    Some(format!("{name}:{start}:{COUNT}"))
}

/// Returns the first id from which [`COUNT`] ids are in none of the ranges (start and count).
fn first_free(mut taken: Vec<(u32, u32)>) -> Option<u32> {
    taken.sort_unstable();
    let mut start = FIRST;
    for (first, count) in taken {
        let end = first.saturating_add(count);
        if first < start.saturating_add(COUNT) && start < end {
            start = end;
        }
    }
    start.checked_add(COUNT).map(|_| start)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn range_does_not_overlap_others() {
        let entry = |text: &str| new_entry(text, "ann", 1000);
        assert_eq!(entry("").unwrap(), "ann:100000:65536");
        assert_eq!(entry("bob:100000:65536\n").unwrap(), "ann:165536:65536");
        assert_eq!(
            entry("eve:150000:9\n# comment\nbob:120000:10\n").unwrap(),
            "ann:150009:65536"
        );
        assert_eq!(entry("bob:500000:65536\n").unwrap(), "ann:100000:65536");
        assert_eq!(entry("ann:7:1\n"), None);
        assert_eq!(entry("1000:7:1\n"), None);
        assert_eq!(entry("bob:100000:4294867295\n"), None);
    }

    #[test]
    fn entries_of_others_are_kept() {
        let directory = tempfile::tempdir().unwrap();
        let root = GuestRoot::at(directory.path()).unwrap();
        root.make_directory("/etc").unwrap();
        root.write("/etc/subuid", "bob:100000:65536", 0o644)
            .unwrap();
        for _ in 0..2 {
            grant(&root, "CORP\\ann lee", 1000).unwrap();
        }
        assert_eq!(
            root.read("/etc/subuid").unwrap(),
            "bob:100000:65536\nCORP\\ann lee:165536:65536\n"
        );
        assert_eq!(
            root.read("/etc/subgid").unwrap(),
            "CORP\\ann lee:100000:65536\n"
        );
    }
}
