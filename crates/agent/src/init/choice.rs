//! Which program is a machine's init.

use std::{io, path::Path};

use container_protocol::InitProgram;

use crate::machine::GuestRoot;

/// Where an image has its init system.
pub const INIT: &str = "/sbin/init";

/// The image's init where it has an init system, else the built-in one.
pub fn of_image(root: &GuestRoot) -> io::Result<InitProgram> {
    let program = match root.canonical(INIT) {
        Ok(program) => program,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(InitProgram::BuiltIn),
        Err(error) => return Err(error),
    };
    if program.file_name() == Some("busybox".as_ref()) && !is_set_up(root)? {
        return Ok(InitProgram::BuiltIn);
    }
    Ok(InitProgram::OfImage(program.display().to_string()))
}

/// Whether busybox init has a system to start. Every image with busybox has that program, whether
/// or not what it should start is there: Alpine's inittab names an OpenRC that its application
/// images lack.
fn is_set_up(root: &GuestRoot) -> io::Result<bool> {
    let inittab = root.read_or_empty("/etc/inittab")?;
    if inittab.trim().is_empty() {
        // What it starts without an inittab (busybox, init/init.c, parse_inittab).
        return Ok(root.exists("/etc/init.d/rcS"));
    }
    let mut first_steps = inittab.lines().filter_map(first_step).peekable();
    let has_none = first_steps.peek().is_none();
    Ok(has_none || first_steps.any(|program| is_there(root, program)))
}

/// The program of a `sysinit` line (`id:runlevels:action:process`).
fn first_step(line: &str) -> Option<&str> {
    let line = line.trim_start();
    if line.starts_with('#') {
        return None;
    }
    let mut fields = line.splitn(4, ':').skip(2);
    let (action, process) = (fields.next()?, fields.next()?);
    let program = process.trim_start_matches('-').split_whitespace().next()?;
    (action.trim() == "sysinit").then_some(program)
}

fn is_there(root: &GuestRoot, program: &str) -> bool {
    match Path::new(program).is_absolute() {
        true => root.exists(program),
        false => ["/sbin", "/bin", "/usr/sbin", "/usr/bin"]
            .iter()
            .any(|directory| root.exists(&format!("{directory}/{program}"))),
    }
}

#[cfg(test)]
mod tests {
    use std::{fs, os::unix::fs::symlink};

    use super::*;

    /// An image with these files; `/sbin/init` leads to the first one.
    fn image(files: &[(&str, &str)]) -> InitProgram {
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
        of_image(&GuestRoot::at(directory.path()).unwrap()).unwrap()
    }

    #[test]
    fn an_image_without_one_gets_the_built_in() {
        assert_eq!(image(&[]), InitProgram::BuiltIn);
    }

    #[test]
    fn any_other_init_is_the_images_own_business() {
        assert_eq!(
            image(&[("lib/systemd/systemd", "")]),
            InitProgram::OfImage("/lib/systemd/systemd".to_owned())
        );
    }

    #[test]
    fn busybox_is_an_init_system_only_with_something_to_start() {
        let busybox = ("bin/busybox", "");
        let own = InitProgram::OfImage("/bin/busybox".to_owned());
        assert_eq!(image(&[busybox]), InitProgram::BuiltIn);
        assert_eq!(image(&[busybox, ("etc/init.d/rcS", "")]), own);
        let alpine = (
            "etc/inittab",
            "# x\n::sysinit:/sbin/openrc sysinit\n::wait:/x\n",
        );
        assert_eq!(image(&[busybox, alpine]), InitProgram::BuiltIn);
        assert_eq!(image(&[busybox, alpine, ("sbin/openrc", "")]), own);
        assert_eq!(
            image(&[busybox, ("etc/inittab", "::respawn:/bin/x\n")]),
            own
        );
        let bare = ("etc/inittab", "::sysinit:mount -a\n");
        assert_eq!(image(&[busybox, bare, ("bin/mount", "")]), own);
    }
}
