//! The guest's half of a copy: the agent's own program once more, in the machine, as the user who
//! copies.

use std::{
    io::{self, Write},
    path::Path,
    process::ExitCode,
};

use container_archive::{ArchiveError, Arrival, Root, pack, unpack};
use container_protocol::Copy;

/// The process's zeroth argument.
const NAME: &str = "container-copy";

/// The program, and its arguments, the zeroth included. In a child of the agent it is the agent's
/// own, wherever the machine's root is.
pub fn command(copy: &Copy) -> (String, Vec<String>) {
    // A path and a name are all that is in it.
    let words = serde_json::to_string(copy).unwrap_or_default();
    ("/proc/self/exe".to_owned(), vec![NAME.to_owned(), words])
}

/// What this process is to copy, if it was started with [`command`].
pub fn of_this_process() -> Option<Copy> {
    let mut arguments = std::env::args();
    if arguments.next()? != NAME {
        return None;
    }
    serde_json::from_str(&arguments.next()?).ok()
}

/// Copies. What goes wrong is told on standard error.
pub fn run(copy: &Copy) -> ExitCode {
    match carry_out(copy) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            if !error.is_broken_pipe() {
                say(&format_args!("Error: {error}"));
            }
            ExitCode::FAILURE
        }
    }
}

fn carry_out(copy: &Copy) -> Result<(), ArchiveError> {
    let mut note = |note: String| say(&note);
    match copy {
        Copy::Out { path, named } => {
            let root = if *named { Root::Named } else { Root::Itself };
            pack(Path::new(path), root, io::stdout().lock(), &mut note)
        }
        Copy::In { path, name } => {
            let arrival = Arrival::Copy {
                name: name.as_ref().map(Into::into),
            };
            unpack(io::stdin().lock(), Path::new(path), &arrival, &mut note)
        }
        Copy::InTar { path } => unpack(
            io::stdin().lock(),
            Path::new(path),
            &Arrival::Tar,
            &mut note,
        ),
    }
}

fn say(message: &dyn std::fmt::Display) {
    // Without its reader there is nobody to tell.
    let _ = writeln!(io::stderr(), "{message}");
}
