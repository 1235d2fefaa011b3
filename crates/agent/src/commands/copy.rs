//! The guest's half of a copy between host and machine.
//!
//! It is the agent's own binary, started as a command in the machine: with the user's permissions,
//! and without a `tar` in the image.

use std::{
    io::{self, Write},
    path::Path,
    process::ExitCode,
};

use container_copy::{CopyError, RootName, UnpackMode, pack, unpack};
use container_protocol::{GuestCopy, OsText};

/// Zeroth argument of the process.
pub(crate) const NAME: &str = "container-copy";

/// Returns the program and its arguments, including the zeroth. The program's path is valid in any
/// root directory, but only for a child of the agent.
pub(super) fn command(copy: &GuestCopy) -> (String, Vec<String>) {
    // Serializing paths and names as JSON cannot fail.
    let json = serde_json::to_string(copy).unwrap_or_default();
    ("/proc/self/exe".to_owned(), vec![NAME.to_owned(), json])
}

/// Runs the copy that this process was [started](command) for. Prints errors on standard error.
pub(crate) fn run() -> ExitCode {
    let json = std::env::args().nth(1).unwrap_or_default();
    let copy: GuestCopy = match serde_json::from_str(&json) {
        Ok(copy) => copy,
        Err(error) => {
            print(&format_args!("Error: invalid arguments of a copy: {error}"));
            return ExitCode::FAILURE;
        }
    };
    match pack_or_unpack(&copy) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            // A broken pipe means that the host's half has failed and reports why.
            if !error.is_broken_pipe() {
                print(&format_args!("Error: {error}"));
            }
            ExitCode::FAILURE
        }
    }
}

fn pack_or_unpack(copy: &GuestCopy) -> Result<(), CopyError> {
    let mut note = |note: String| print(&note);
    match copy {
        GuestCopy::Out { path, named } => {
            let root = if *named { RootName::Own } else { RootName::Dot };
            pack(
                Path::new(path.as_os_str()),
                root,
                io::stdout().lock(),
                &mut note,
            )
        }
        GuestCopy::In { path, name } => {
            let mode = UnpackMode::Copy {
                name: name.clone().map(OsText::into_os_string),
            };
            unpack(
                io::stdin().lock(),
                Path::new(path.as_os_str()),
                &mode,
                &mut note,
            )
        }
        GuestCopy::InTar { path } => unpack(
            io::stdin().lock(),
            Path::new(path.as_os_str()),
            &UnpackMode::Tar,
            &mut note,
        ),
    }
}

fn print(message: &dyn std::fmt::Display) {
    // Fails only if standard error is closed.
    let _ = writeln!(io::stderr(), "{message}");
}
