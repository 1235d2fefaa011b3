//! The picture of a session in the README: recorded from a real one, so that it is true.

use std::{env, fs, process::Command};

use anyhow::{Context, Result};

use crate::{
    checkout, command,
    registry::{self, Guard, Registry},
    say, target,
};

/// Pauses are cut to so many seconds, and what takes long on a slow host with them.
const LONGEST_PAUSE: &str = "3";

/// Records `xtask/demo/session` in a world of its own: `docs/demo.cast` is the recording
/// (asciicast v2), `docs/demo.svg` the picture of it.
pub fn record() -> Result<()> {
    let _registry = Registry::start_on(
        ([127, 0, 0, 1], 5000).into(),
        &registry::storage(),
        &Guard::default(),
    )?;
    let world = tempfile::tempdir()?;
    let home = env::home_dir().context("finding your home directory")?;
    let project = home.join("project");
    let is_ours = fs::create_dir(&project).is_ok();
    let programs = format!("{}:/usr/bin:/bin", target().join("release").display());
    let in_world = |program: &str| {
        let mut command = Command::new(program);
        command
            .current_dir(&project)
            .env("PATH", &programs)
            .env("HOME", &home)
            .env("XDG_DATA_HOME", world.path().join("data"))
            .env("XDG_CONFIG_HOME", world.path().join("config"))
            .env("XDG_RUNTIME_DIR", world.path().join("run"))
            .env("TERM", "xterm-256color");
        command
    };
    let (cast, picture) = (
        checkout().join("docs/demo.cast"),
        checkout().join("docs/demo.svg"),
    );
    let session = checkout().join("xtask/demo/session");
    say("Recording the session");
    let recorded = command::run(
        in_world("asciinema")
            .args([
                "rec",
                "--quiet",
                "--overwrite",
                "--cols",
                "100",
                "--rows",
                "24",
            ])
            .args([
                "--env",
                "TERM",
                "--idle-time-limit",
                LONGEST_PAUSE,
                "--command",
            ])
            .arg(&session)
            .arg(&cast),
    );
    // The machine is removed whatever came of it.
    let removed = command::run(in_world("container").args(["machine", "rm", "dev"]));
    if is_ours {
        fs::remove_dir(&project)?;
    }
    recorded.and(removed)?;
    command::run(
        Command::new("termtosvg")
            .arg("render")
            .args([&cast, &picture])
            .args(["--template", "window_frame", "--loop-delay", "4000"]),
    )
}
