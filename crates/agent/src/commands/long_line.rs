//! Command lines that are too long for an argument of a program.

use std::{
    ffi::{OsStr, OsString},
    fs::File,
    io::{self, Write},
    os::{
        fd::{AsRawFd, OwnedFd},
        unix::ffi::OsStrExt,
    },
};

use rustix::fs::{MemfdFlags, memfd_create};

/// Maximum length of an argument in bytes, without its NUL: `MAX_ARG_STRLEN` of the kernel, 32
/// pages.
const MAX_ARGUMENT: usize = 32 * 4096 - 1;

/// Returns a file with the line if it is too long for an argument.
pub(super) fn file(line: &OsStr) -> io::Result<Option<OwnedFd>> {
    if line.len() <= MAX_ARGUMENT {
        return Ok(None);
    }
    let mut file = File::from(memfd_create("command-line", MemfdFlags::CLOEXEC)?);
    file.write_all(line.as_bytes())?;
    Ok(Some(file.into()))
}

/// Returns the line that makes a shell with this name read `file`, which keeps its number in the
/// shell.
pub(super) fn command(shell: &str, file: &OwnedFd) -> OsString {
    // Not in POSIX shells, which have only the dot.
    let read = if shell.ends_with("csh") || shell == "fish" {
        "source"
    } else {
        "."
    };
    format!("{read} /proc/self/fd/{}", file.as_raw_fd()).into()
}

#[cfg(test)]
mod tests {
    use std::{os::unix::process::CommandExt, process::Command};

    use super::*;

    #[test]
    #[allow(unsafe_code)]
    fn shells_run_a_long_line() {
        let line = format!("set -- {}; echo $#; exit 7", "word ".repeat(40_000));
        assert!(file(OsStr::new("true")).unwrap().is_none());
        let file = file(OsStr::new(&line)).unwrap().unwrap();
        for shell in ["sh", "bash"] {
            let number = file.as_raw_fd();
            let mut command = Command::new(shell);
            command.arg("-c").arg(super::command(shell, &file));
            // SAFETY: only makes a system call.
            unsafe {
                command.pre_exec(move || {
                    let file = std::os::fd::BorrowedFd::borrow_raw(number);
                    Ok(rustix::io::fcntl_setfd(file, rustix::io::FdFlags::empty())?)
                });
            }
            let output = command.output().unwrap();
            assert_eq!(output.status.code(), Some(7), "{shell}: {output:?}");
            assert_eq!(output.stdout, b"40000\n", "{shell}");
        }
    }
}
