//! Chooses the machine's init: the image's init system or the built-in one.

use std::{io, path::Path};

use container_protocol::InitProgram;

use super::inittab::{self, SYSINIT};
use crate::{machine::GuestRoot, paths::INIT};

/// Returns the image's init if the image has an init system, else the built-in one.
pub(super) fn choose(root: &GuestRoot) -> io::Result<InitProgram> {
    let program = match root.canonical(INIT) {
        Ok(program) => program,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(InitProgram::BuiltIn),
        Err(error) => return Err(error),
    };
    if program.file_name() == Some("busybox".as_ref()) && !is_busybox_set_up(root)? {
        return Ok(InitProgram::BuiltIn);
    }
    Ok(InitProgram::OfImage(program.display().to_string()))
}

/// Returns whether busybox init has a system to start.
///
/// `/sbin/init` alone does not show that: every image with busybox has it. Alpine's application
/// images even have an inittab, but it starts an OpenRC that they lack.
fn is_busybox_set_up(root: &GuestRoot) -> io::Result<bool> {
    let inittab = root.read_or_empty("/etc/inittab")?;
    if inittab.trim().is_empty() {
        // The script that busybox starts without an inittab (init/init.c, parse_inittab).
        return Ok(root.exists("/etc/init.d/rcS"));
    }
    let mut programs = inittab.lines().filter_map(sysinit_program).peekable();
    let has_none = programs.peek().is_none();
    Ok(has_none || programs.any(|program| program_exists(root, program)))
}

/// Returns the program of a `sysinit` line.
fn sysinit_program(line: &str) -> Option<&str> {
    inittab::process(line, SYSINIT)?.split_whitespace().next()
}

/// Returns whether the program exists, in busybox init's search path if the path is relative.
fn program_exists(root: &GuestRoot, program: &str) -> bool {
    if Path::new(program).is_absolute() {
        root.exists(program)
    } else {
        ["/sbin", "/bin", "/usr/sbin", "/usr/bin"]
            .iter()
            .any(|directory| root.exists(&format!("{directory}/{program}")))
    }
}

#[cfg(test)]
mod tests {
    use std::{fs, os::unix::fs::symlink};

    use super::*;

    /// Returns the choice for an image with these files. `/sbin/init` is a link to the first.
    fn choice(files: &[(&str, &str)]) -> InitProgram {
        let directory = tempfile::tempdir().unwrap();
        for (path, text) in files {
            let path = directory.path().join(path);
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            fs::write(path, text).unwrap();
        }
        if let Some((init, _)) = files.first() {
            fs::create_dir_all(directory.path().join("sbin")).unwrap();
            symlink(format!("/{init}"), directory.path().join("sbin/init")).unwrap();
        }
        choose(&GuestRoot::at(directory.path()).unwrap()).unwrap()
    }

    #[test]
    fn image_without_init_gets_built_in_init() {
        assert_eq!(choice(&[]), InitProgram::BuiltIn);
    }

    #[test]
    fn any_init_but_busybox_is_used() {
        assert_eq!(
            choice(&[("lib/systemd/systemd", "")]),
            InitProgram::OfImage("/lib/systemd/systemd".to_owned())
        );
    }

    #[test]
    fn busybox_init_is_used_only_with_something_to_start() {
        let busybox = ("bin/busybox", "");
        let own = InitProgram::OfImage("/bin/busybox".to_owned());
        assert_eq!(choice(&[busybox]), InitProgram::BuiltIn);
        assert_eq!(choice(&[busybox, ("etc/init.d/rcS", "")]), own);
        let alpine = (
            "etc/inittab",
            "# x\n::sysinit:/sbin/openrc sysinit\n::wait:/x\n",
        );
        assert_eq!(choice(&[busybox, alpine]), InitProgram::BuiltIn);
        assert_eq!(choice(&[busybox, alpine, ("sbin/openrc", "")]), own);
        assert_eq!(
            choice(&[busybox, ("etc/inittab", "::respawn:/bin/x\n")]),
            own
        );
        let bare = ("etc/inittab", "::sysinit:mount -a\n");
        assert_eq!(choice(&[busybox, bare, ("bin/mount", "")]), own);
    }
}
