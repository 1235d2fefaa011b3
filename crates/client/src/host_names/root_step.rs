//! Changes of the host that need root, each of them one command.

use std::{
    fmt,
    io::{self, Write},
    path::{Path, PathBuf},
    process::{Command, ExitStatus, Stdio},
};

/// One change of the host that needs root. Its `Display` describes the change, in one or more lines
/// without a final newline.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum RootStep {
    /// Replaces a file.
    Write {
        /// Absolute path of the file.
        path: PathBuf,
        /// Full content of the file.
        content: String,
        /// Part of the content that belongs to this program. Empty if the step only removes it.
        shown: String,
    },
    /// Removes a file.
    Remove {
        /// Absolute path of the file.
        path: PathBuf,
    },
    /// Runs a command: the program and its arguments.
    Run(Vec<String>),
}

/// Error of running a [`RootStep`].
#[derive(Debug, thiserror::Error)]
pub enum RootStepError {
    /// The command cannot be started, or its end cannot be awaited.
    #[error("cannot run `{command}`: {cause} (show the steps that need root with: --dry-run)")]
    Spawn {
        /// Command line, with `sudo` unless this process is root.
        command: String,
        /// Error of the system call.
        cause: io::Error,
    },
    /// The command exited unsuccessfully. It printed the reason to standard error.
    #[error("`{command}` failed with {status} (show the steps that need root with: --dry-run)")]
    Failed {
        /// Command line, with `sudo` unless this process is root.
        command: String,
        /// Exit status of the command.
        status: ExitStatus,
    },
}

impl RootStep {
    /// Runs the step, with `sudo` unless this process is root.
    pub fn run(&self) -> Result<(), RootStepError> {
        let (mut words, input) = self.command();
        if !rustix::process::geteuid().is_root() {
            words.insert(0, "sudo".to_owned());
        }
        let spawn_error = |cause| RootStepError::Spawn {
            command: words.join(" "),
            cause,
        };
        let mut child = Command::new(&words[0])
            .args(&words[1..])
            .stdin(Stdio::piped())
            .stdout(Stdio::null())
            .spawn()
            .map_err(spawn_error)?;
        if let Some(mut stdin) = child.stdin.take() {
            // A command that exits without reading fails, and its status is checked below.
            let _ = stdin.write_all(input.as_bytes());
        }
        let status = child.wait().map_err(spawn_error)?;
        if status.success() {
            Ok(())
        } else {
            Err(RootStepError::Failed {
                command: words.join(" "),
                status,
            })
        }
    }

    /// Returns the command line that runs the step, and its standard input.
    fn command(&self) -> (Vec<String>, &str) {
        let words = |words: &[&str], path: &Path| {
            let words = words.iter().map(|&word| word.to_owned());
            words.chain([path.display().to_string()]).collect()
        };
        match self {
            // An existing file is overwritten in place: it may be a bind mount, which cannot be
            // replaced by a rename, and other programs may watch it.
            RootStep::Write { path, content, .. } if path.exists() => {
                (words(&["tee"], path), content)
            }
            RootStep::Write { path, content, .. } => {
                let install = ["install", "-D", "-m", "644", "/dev/stdin"];
                (words(&install, path), content)
            }
            RootStep::Remove { path } => (words(&["rm"], path), ""),
            RootStep::Run(words) => (words.clone(), ""),
        }
    }
}

impl fmt::Display for RootStep {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            RootStep::Write { path, shown, .. } if shown.is_empty() => {
                write!(
                    formatter,
                    "remove the lines for machines from {}",
                    path.display()
                )
            }
            RootStep::Write { path, shown, .. } => {
                write!(formatter, "write to {}:", path.display())?;
                shown
                    .lines()
                    .try_for_each(|line| write!(formatter, "\n    {line}"))
            }
            RootStep::Remove { path } => write!(formatter, "remove {}", path.display()),
            RootStep::Run(words) => write!(formatter, "run {}", words.join(" ")),
        }
    }
}
