//! `container completion`, and the answers to shells at completion time.
//!
//! The scripts run the program itself with [`REQUEST_VARIABLE`] set, so completions match the
//! installed build and the machines and images that exist at that moment. Completion reads files
//! only: it does not start the service, and prints no errors, which would end up in the prompt.

mod candidates;

use std::{
    env,
    ffi::OsString,
    io::{self, Write},
    path::Path,
};

use clap::{Args, Command, ValueEnum};
use clap_complete::{
    CompleteEnv,
    env::{EnvCompleter, Fish, Zsh},
};

use crate::{failure::Failure, output};

/// Environment variable in which a script names its shell when it requests completions.
const REQUEST_VARIABLE: &str = "CONTAINER_COMPLETE";

/// Print a completion script for a shell.
///
/// The script completes verbs, options, machines and images. `make install` installs it for all
/// shells; otherwise source it in the start-up file of your shell.
#[derive(Debug, Args)]
#[command(after_long_help = "\
Examples:
  source <(container completion bash)
  source <(container completion zsh)
  container completion fish | source")]
pub(crate) struct Completion {
    /// Shell to print the script for.
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
    pub(crate) fn run(self) -> Result<(), Failure> {
        let program = program(env::args_os().next().unwrap_or_default());
        let script = self
            .script(&program)
            .map_err(Failure::cannot("write the script"))?;
        output::bytes(&script).map(|_| ())
    }

    fn script(&self, program: &str) -> io::Result<Vec<u8>> {
        let mut script = Vec::new();
        match self.shell {
            Shell::Bash => script.extend_from_slice(include_bytes!("container.bash")),
            Shell::Fish => register(&Fish, program, &mut script)?,
            Shell::Zsh => {
                register(&Zsh, program, &mut script)?;
                // zsh loads the script from its function path at the first completion. That first
                // call must complete as well.
                let completer = "_clap_dynamic_completer_container";
                writeln!(
                    script,
                    "if [[ $funcstack[1] == _container ]]; then {completer} \"$@\"; fi"
                )?;
            }
        }
        Ok(script)
    }
}

/// Writes clap's script for a shell.
fn register(shell: &dyn EnvCompleter, program: &str, script: &mut Vec<u8>) -> io::Result<()> {
    shell.write_registration(REQUEST_VARIABLE, "container", "container", program, script)
}

/// Returns how the script calls the program: by name, or by absolute path if this process was
/// started by a path.
fn program(typed: OsString) -> String {
    let path = match Path::new(&typed).components().count() {
        0 | 1 => None,
        _ => std::path::absolute(&typed).ok(),
    };
    path.map_or("container".to_owned(), |path| {
        path.to_string_lossy().into_owned()
    })
}

/// Prints completions and exits if a script requests them.
pub(crate) fn complete(command: impl Fn() -> Command) {
    if env::var_os(REQUEST_VARIABLE).is_some() {
        CompleteEnv::with_factory(|| candidates::with_candidates(command()))
            .var(REQUEST_VARIABLE)
            .complete();
    }
}
