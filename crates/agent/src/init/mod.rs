//! The machine's init: its choice, its start and its end.

mod choice;
mod console;

use std::{io, sync::Arc, time::Duration};

use container_protocol::{InitProgram, MachineSetup, mux::Stream};
use nix::sys::signal::Signal;
use tokio::{
    io::AsyncReadExt,
    net::unix::pipe,
    process::Child,
    time::{sleep, timeout},
};

use crate::{machine::GuestRoot, namespace_thread, paths::INIT, stage::Stage};
use console::{Console, ConsoleLog};

/// Timeout for systemd to become reachable.
const READY_TIMEOUT: Duration = Duration::from_secs(30);

/// Interval at which systemd's socket is looked for.
const READY_POLL: Duration = Duration::from_millis(50);

/// Error of starting init.
#[derive(Debug, thiserror::Error)]
pub(crate) enum InitError {
    /// The image's init could not be looked up.
    #[error("cannot look up {INIT} in the image: {0}")]
    Find(io::Error),
    /// The console's pseudo-terminal could not be set up.
    #[error("cannot prepare the machine's console: {0}")]
    Console(io::Error),
    /// The process could not be started.
    #[error("cannot start the machine's init: {0}")]
    Start(io::Error),
    /// The [stage](crate::stage) failed before it executed init. Contains its message.
    #[error("cannot start the machine's init: {0}")]
    Stage(String),
}

/// End of the machine that the host did not request.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Ending {
    /// The machine powered off, or its init exited.
    PowerOff,
    /// A process of the machine called reboot(2), as `reboot` does.
    Reboot,
}

/// Identity of the running init.
#[derive(Debug, Clone)]
pub(crate) struct InitProcess {
    /// The image's init, or the built-in one.
    pub program: InitProgram,
    /// Its process id in the agent's PID namespace.
    pub pid: u32,
    /// The image's environment, `NAME=value`.
    pub environment: Arc<[String]>,
}

impl InitProcess {
    /// Returns whether init has not begun to exit.
    ///
    /// An exiting process keeps its `/proc/PID` until it is reaped, which for init means until
    /// every process of the machine has ended. It gives up its namespaces first.
    pub(crate) fn is_running(&self) -> bool {
        std::fs::read_link(format!("/proc/{}/ns/mnt", self.pid)).is_ok()
    }
}

/// Init as a child process of the agent, with its console.
#[derive(Debug)]
pub(crate) struct Init {
    process: InitProcess,
    child: Child,
    console: ConsoleLog,
}

impl Init {
    /// Starts the image's init or the built-in one, with the image's environment. Its output goes
    /// to `log`.
    pub(crate) async fn start(setup: &MachineSetup, log: Stream) -> Result<Init, InitError> {
        let root = GuestRoot::open().map_err(InitError::Find)?;
        let program = if setup.rescue {
            InitProgram::Rescue
        } else {
            choice::choose(&root).map_err(InitError::Find)?
        };
        let console = Console::open().map_err(InitError::Console)?;
        let (reporter, report) = pipe::pipe().map_err(InitError::Start)?;
        let reporter = reporter.into_blocking_fd().map_err(InitError::Start)?;

        let mut command = Stage::Init {
            program: program.clone(),
            hostname: setup.id.clone(),
        }
        .command();
        command
            .env_clear()
            .envs(
                setup
                    .init_environment
                    .iter()
                    .filter_map(|pair| pair.split_once('=')),
            )
            .stdin(reporter)
            .stdout(console.terminal().map_err(InitError::Console)?)
            .stderr(console.terminal().map_err(InitError::Console)?);
        let child = namespace_thread::spawn_in_new_pid_namespace(command)
            .await
            .map_err(InitError::Start)?;
        wait_for_stage(report).await?;
        let console = console.copy_to(log).map_err(InitError::Console)?;
        let pid = child
            .id()
            .ok_or_else(|| InitError::Stage("it ended at once".to_owned()))?;
        Ok(Init {
            process: InitProcess {
                program,
                pid,
                environment: setup.init_environment.as_slice().into(),
            },
            child,
            console,
        })
    }

    /// Returns the program and process id.
    pub(crate) fn process(&self) -> &InitProcess {
        &self.process
    }

    /// Waits until init has ended, and with it every process of the machine. Cancel-safe.
    ///
    /// `reboot(2)` in a PID namespace ends the namespace's init by a signal: SIGHUP for a restart,
    /// SIGINT for a halt (`pid_namespaces(7)`).
    pub(crate) async fn wait(&mut self) -> Ending {
        use std::os::unix::process::ExitStatusExt;
        match self.child.wait().await {
            Ok(status) if status.signal() == Some(Signal::SIGHUP as i32) => Ending::Reboot,
            _ => Ending::PowerOff,
        }
    }

    /// Kills init, and with it every process of the machine.
    pub(crate) async fn kill(&mut self) {
        // Fails only if init has ended by itself.
        let _ = self.child.start_kill();
        self.wait().await;
    }

    /// Releases the console. Requires that init has [ended](Self::wait).
    pub(crate) async fn finish(self) {
        self.console.finish().await;
    }
}

/// Waits until systemd accepts requests, at most [`READY_TIMEOUT`]. Returns at once for any other
/// init.
pub(crate) async fn wait_until_ready(init: &InitProgram) {
    if !init.is_systemd() {
        return;
    }
    let Ok(root) = GuestRoot::open() else { return };
    // Users reach systemd over D-Bus, root also over its private socket.
    let socket = if root.exists("/usr/lib/systemd/system/dbus.socket") {
        "/run/dbus/system_bus_socket"
    } else {
        "/run/systemd/private"
    };
    // After a timeout the caller's command reports a better error than the agent could.
    let _ = timeout(READY_TIMEOUT, async {
        while !root.exists(socket) {
            sleep(READY_POLL).await;
        }
    })
    .await;
}

/// Waits until the stage has executed init, which closes the pipe. A message on it is an error.
async fn wait_for_stage(mut report: pipe::Receiver) -> Result<(), InitError> {
    let mut message = String::new();
    report
        .read_to_string(&mut message)
        .await
        .map_err(InitError::Start)?;
    if message.is_empty() {
        Ok(())
    } else {
        Err(InitError::Stage(message))
    }
}

#[cfg(test)]
mod tests {
    use std::process::{Command, Stdio};

    use super::*;

    #[test]
    fn process_that_has_exited_but_is_not_reaped_is_not_running() {
        let mut child = Command::new("cat").stdin(Stdio::piped()).spawn().unwrap();
        let init = InitProcess {
            program: InitProgram::BuiltIn,
            pid: child.id(),
            environment: [].into(),
        };
        assert!(init.is_running());
        drop(child.stdin.take());
        let stat = format!("/proc/{}/stat", child.id());
        while !std::fs::read_to_string(&stat).unwrap().contains(") Z ") {
            std::thread::yield_now();
        }
        assert!(!init.is_running());
        child.wait().unwrap();
    }
}
