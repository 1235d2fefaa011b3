//! The machine's init: its choice, its start and its end.

mod choice;
mod console;
mod inittab;
mod settled;

use std::{io, sync::Arc, time::Duration};

use container_protocol::{InitProgram, MachineSetup};
use nix::sys::signal::Signal;
use tokio::{
    io::AsyncReadExt,
    net::unix::pipe,
    process::Child,
    time::{Instant, timeout, timeout_at},
};

use crate::{machine::GuestRoot, namespace_thread, paths::INIT, stage::Stage};
pub(crate) use console::StdioLog;
use console::{Console, ConsoleLog};

/// Time from the start of init after which nothing waits for the boot any more. A unit of systemd
/// has 90 s to start or fail, and a host may be slow.
const SETTLE_TIMEOUT: Duration = Duration::from_secs(120);

/// Timeout for init to start its services. systemd gives up a service that hangs after 90 s.
const SERVICES_TIMEOUT: Duration = Duration::from_secs(600);

/// Error of starting init.
#[derive(Debug, thiserror::Error)]
pub(crate) enum InitError {
    /// The image's init could not be looked up.
    #[error("cannot look up {INIT} in the image: {0}")]
    Find(io::Error),
    /// systemd's unit that marks a point of the boot could not be written.
    #[error("cannot write a unit to /run/systemd/system in the machine: {0}")]
    Prepare(io::Error),
    /// The console's pseudo-terminal could not be set up.
    #[error("cannot prepare the machine's console: {0}")]
    Console(io::Error),
    /// The process could not be started.
    #[error("cannot start the machine's init: {0}")]
    Start(io::Error),
    /// The [stage](crate::stage) failed before it executed init. Contains its message.
    #[error(
        "cannot start the machine's init: {0} (repair it with: container machine start --rescue)"
    )]
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
    /// Time from which nothing waits for the boot any more.
    pub settle_deadline: Instant,
}

/// A point of the boot was not reached in time.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum NotReached {
    /// The boot has not settled.
    Settled,
    /// Services are still being started.
    Services,
}

impl InitProcess {
    /// Returns whether init has not begun to exit.
    ///
    /// An exiting process keeps its `/proc/PID` until it is reaped, which for init means until
    /// every process of the machine has ended. It gives up its namespaces first.
    pub(crate) fn is_running(&self) -> bool {
        std::fs::read_link(format!("/proc/{}/ns/mnt", self.pid)).is_ok()
    }

    /// Returns whether this is busybox's init.
    pub(crate) fn is_busybox(&self) -> bool {
        let InitProgram::OfImage(program) = &self.program else {
            return false;
        };
        program.rsplit('/').next() == Some("busybox")
    }

    /// Waits until nothing of the boot removes or hides files that a command writes (see
    /// [`settled`]), until the deadline at most.
    pub(crate) async fn settle(&self) -> Result<(), NotReached> {
        let settled = settled::wait(&self.program, self.pid);
        let in_time = timeout_at(self.settle_deadline, settled).await;
        in_time.map_err(|_| NotReached::Settled)
    }

    /// Waits until init has started its services, for ten minutes at most.
    pub(crate) async fn start_services(&self) -> Result<(), NotReached> {
        let started = settled::wait_for_services(&self.program, self.pid);
        let in_time = timeout(SERVICES_TIMEOUT, started).await;
        in_time.map_err(|_| NotReached::Services)
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
    pub(crate) async fn start(setup: &MachineSetup, log: StdioLog) -> Result<Init, InitError> {
        let root = GuestRoot::open().map_err(InitError::Find)?;
        let program = if setup.rescue {
            InitProgram::Rescue
        } else {
            choice::choose(&root).map_err(InitError::Find)?
        };
        settled::prepare(&root, &program).map_err(InitError::Prepare)?;
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
                settle_deadline: Instant::now() + SETTLE_TIMEOUT,
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
            settle_deadline: Instant::now(),
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
