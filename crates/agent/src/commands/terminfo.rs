//! The caller's terminal: its terminfo entry, which the image may lack.

use crate::{kernel_log, machine::GuestRoot};

/// Terminal whose entry every terminfo database has and that most terminals resemble.
pub(super) const FALLBACK: &str = "xterm-256color";

/// Directory of the entries that came from the host.
const PROVIDED: &str = "/run/container/terminfo";

/// Directories that ncurses searches in one distribution or another.
const OF_IMAGE: [&str; 5] = [
    "/etc/terminfo",
    "/lib/terminfo",
    "/usr/share/terminfo",
    "/usr/lib/terminfo",
    "/usr/local/share/terminfo",
];

/// A terminal, as far as the machine knows it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Terminal {
    /// The image or the user has its entry.
    Known,
    /// The host's entry is in the machine.
    Provided,
    Unknown,
}

/// Looks for the entry of the terminal in the machine, and writes the host's there if it is
/// missing.
pub(super) fn adapt(
    root: &GuestRoot,
    running: Option<&GuestRoot>,
    name: &str,
    home: &str,
    entry: Option<&[u8]>,
) -> Terminal {
    let Some(first) = name
        .chars()
        .next()
        .filter(|first| first.is_ascii_alphanumeric())
    else {
        return Terminal::Unknown;
    };
    if name.contains('/') {
        return Terminal::Unknown;
    }
    let own = format!("{home}/.terminfo");
    let mut directories = OF_IMAGE.iter().copied().chain([own.as_str()]);
    let is_known = |directory: &str| {
        root.exists(&format!("{directory}/{first}/{name}"))
            || root.exists(&format!("{directory}/{:x}/{name}", u32::from(first)))
    };
    if directories.any(is_known) {
        return Terminal::Known;
    }
    let (Some(entry), Some(running)) = (entry, running) else {
        return Terminal::Unknown;
    };
    let directory = format!("{PROVIDED}/{first}");
    let path = format!("{directory}/{name}");
    if running.read_bytes(&path).is_ok_and(|old| old == entry) {
        return Terminal::Provided;
    }
    let written = running
        .make_directory(&directory)
        .and_then(|_| running.write_bytes(&path, entry, 0o644));
    match written {
        Ok(()) => Terminal::Provided,
        Err(error) => {
            kernel_log::error(&format!("cannot write {path}: {error}"));
            Terminal::Unknown
        }
    }
}

/// Returns the value of `TERMINFO_DIRS` that adds the host's entries to `own`, or to the usual
/// directories.
pub(super) fn directories(own: Option<&str>) -> String {
    let usual = || OF_IMAGE.join(":");
    format!("{PROVIDED}:{}", own.map_or_else(usual, str::to_owned))
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;

    #[test]
    fn an_entry_is_provided_only_if_it_is_missing() {
        let directory = tempfile::tempdir().unwrap();
        let root = GuestRoot::at(directory.path()).unwrap();
        let look = |name, entry| adapt(&root, Some(&root), name, "/home/ada", entry);
        fs::create_dir_all(directory.path().join("usr/share/terminfo/x")).unwrap();
        fs::write(directory.path().join("usr/share/terminfo/x/xterm"), "").unwrap();
        assert_eq!(look("xterm", Some(b"entry")), Terminal::Known);
        assert_eq!(look("xterm-ghostty", None), Terminal::Unknown);
        for name in ["../x", "x/../y", "", "."] {
            assert_eq!(look(name, Some(b"entry")), Terminal::Unknown, "{name}");
        }
        assert_eq!(look("xterm-ghostty", Some(b"entry")), Terminal::Provided);
        let written = root.read("/run/container/terminfo/x/xterm-ghostty");
        assert_eq!(written.unwrap(), "entry");
        assert!(directories(Some("/opt/t")).ends_with("/terminfo:/opt/t"));
    }
}
