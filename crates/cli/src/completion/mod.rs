//! `container completion`, and what the shells ask at completion time.
//!
//! The scripts are small: they ask the program itself, with [`ASKED`] in its environment, so that
//! what they offer is always what this build knows, and the machines are those of the moment.
//! Nothing is started for it, and what goes wrong is not told: it would land in the prompt.

mod candidates;

use std::{env, ffi::OsString, io::Write, path::Path};

use clap::{Args, Command, ValueEnum};
use clap_complete::{
    CompleteEnv,
    env::{EnvCompleter, Fish, Zsh},
};

use crate::{failure::Failure, output};

/// The variable with which a shell asks.
const ASKED: &str = "CONTAINER_COMPLETE";

/// Print a script that teaches a shell to complete verbs, options and machine names.
///
/// `make install` installs the scripts. Otherwise source one where your shell starts.
#[derive(Debug, Args)]
#[command(after_long_help = "\
Examples:
  source <(container completion bash)
  source <(container completion zsh)
  container completion fish | source")]
pub struct Completion {
    /// The shell.
    shell: Shell,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum Shell {
    Bash,
    Zsh,
    Fish,
}

impl Completion {
    /// Prints the script.
    pub fn carry_out(self) -> Result<(), Failure> {
        let program = program(env::args_os().next().unwrap_or_default());
        let mut script = Vec::new();
        match self.shell {
            Shell::Bash => script.extend_from_slice(include_bytes!("container.bash")),
            Shell::Fish => {
                Fish.write_registration(ASKED, "container", "container", &program, &mut script)?;
            }
            Shell::Zsh => {
                Zsh.write_registration(ASKED, "container", "container", &program, &mut script)?;
                // Where zsh loads the script at the first completion, it is that completion too.
                let completer = "_clap_dynamic_completer_container";
                writeln!(
                    script,
                    "if [[ $funcstack[1] == _container ]]; then {completer} \"$@\"; fi"
                )?;
            }
        }
        output::bytes(&script).map(|_| ())
    }
}

/// The program as a script calls it: by its name, or by its path if it was run by a path.
fn program(typed: OsString) -> String {
    let path = match Path::new(&typed).components().count() {
        0 | 1 => None,
        _ => std::path::absolute(&typed).ok(),
    };
    path.map_or("container".to_owned(), |path| {
        path.to_string_lossy().into_owned()
    })
}

/// If a shell asks, answers it and ends.
pub fn answer(command: impl Fn() -> Command) {
    if env::var_os(ASKED).is_some() {
        CompleteEnv::with_factory(|| candidates::with_candidates(command()))
            .var(ASKED)
            .complete();
    }
}
