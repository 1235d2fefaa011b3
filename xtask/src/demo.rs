//! Records the session that the README shows.

use std::{
    env, fs,
    path::{Path, PathBuf},
    process::Command,
};

use anyhow::{Context, Result};
use tempfile::TempDir;

use crate::{
    command,
    directories::{checkout, target},
    progress,
    registry::{self, AccessControl, Registry},
};

/// Limit on pauses in the recording, in seconds. It hides how long a slow host takes.
const MAX_PAUSE: &str = "3";

/// Port of the registry in `xtask/demo/session`.
const REGISTRY_PORT: u16 = 5000;

/// Records `xtask/demo/session`. Writes the recording to `docs/demo.cast` (asciicast v2) and its
/// picture to `docs/demo.svg`.
pub fn record() -> Result<()> {
    let _registry = Registry::start_on(
        ([127, 0, 0, 1], REGISTRY_PORT).into(),
        &registry::storage(),
        &AccessControl::default(),
    )?;
    let session = Session::new()?;
    let cast = checkout().join("docs/demo.cast");
    progress::print("Recording the session");
    let recorded = session.record(&cast);
    // The machine is removed after a failed recording too.
    let removed = session.finish();
    recorded.and(removed)?;
    render(&cast, &checkout().join("docs/demo.svg"))
}

/// The directories that the recorded session uses.
struct Session {
    /// Holds the program's data, configuration and runtime directory.
    directories: TempDir,
    home: PathBuf,
    /// Working directory, with a short path for the picture.
    project: PathBuf,
    is_new_project: bool,
}

impl Session {
    fn new() -> Result<Session> {
        let home = env::home_dir().context("cannot find the home directory")?;
        let project = home.join("project");
        Ok(Session {
            directories: tempfile::tempdir()?,
            is_new_project: fs::create_dir(&project).is_ok(),
            home,
            project,
        })
    }

    /// Returns a command that runs in the session's directories, with the built program in `PATH`.
    fn command(&self, program: &str) -> Command {
        let programs = format!("{}:/usr/bin:/bin", target().join("release").display());
        let mut command = Command::new(program);
        command
            .current_dir(&self.project)
            .env("PATH", programs)
            .env("HOME", &self.home)
            .env("XDG_DATA_HOME", self.directories.path().join("data"))
            .env("XDG_CONFIG_HOME", self.directories.path().join("config"))
            .env("XDG_RUNTIME_DIR", self.directories.path().join("run"))
            .env("TERM", "xterm-256color");
        command
    }

    fn record(&self, cast: &Path) -> Result<()> {
        command::run(
            self.command("asciinema")
                .args(["rec", "--quiet", "--overwrite"])
                .args(["--cols", "100", "--rows", "24", "--env", "TERM"])
                .args(["--idle-time-limit", MAX_PAUSE, "--command"])
                .arg(checkout().join("xtask/demo/session"))
                .arg(cast),
        )
    }

    /// Removes the session's machine and working directory.
    fn finish(&self) -> Result<()> {
        let removed = command::run(self.command("container").args(["machine", "rm", "dev"]));
        if self.is_new_project {
            fs::remove_dir(&self.project)?;
        }
        removed
    }
}

/// Renders a recording as an animated picture.
fn render(cast: &Path, picture: &Path) -> Result<()> {
    command::run(
        Command::new("termtosvg")
            .arg("render")
            .args([cast, picture])
            .args(["--template", "window_frame", "--loop-delay", "4000"]),
    )
}
