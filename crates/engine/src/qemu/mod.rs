//! QEMU as the engine: finds, starts and ends its process.

mod child;
mod command_line;
mod control;
pub mod disk;
mod program;

use std::{
    io,
    os::unix::process::ExitStatusExt,
    path::{Path, PathBuf},
    process::{Command, ExitStatus},
    time::Duration,
};

use futures::{FutureExt, future::BoxFuture};
use nix::sys::signal::Signal;
use tokio::{process::Child, time::timeout};

use crate::{
    accelerator::Accelerator,
    interface::{AboutEngine, Engine, EngineError, EngineExit, MissingProgram, Running},
    probe,
    settings::EngineSettings,
    virtual_machine::VirtualMachine,
};
use child::Inherited;
use command_line::CommandLine;
use control::Control;
use program::{IMAGE_TOOL, SYSTEM, find};

/// Timeout from QEMU's start to the greeting on its control socket.
const START_TIMEOUT: Duration = Duration::from_secs(30);

/// Timeout for QEMU to write its disk back and quit.
const QUIT_TIMEOUT: Duration = Duration::from_secs(20);

/// QEMU on this host.
#[derive(Debug)]
pub(crate) struct Qemu {
    settings: EngineSettings,
}

impl Qemu {
    /// Creates the engine with these settings.
    pub(crate) fn new(settings: &EngineSettings) -> Qemu {
        Qemu {
            settings: settings.clone(),
        }
    }

    async fn run(&self, machine: VirtualMachine) -> Result<Box<dyn Running>, EngineError> {
        let program = self.program()?;
        let accelerator = probe::choose(&self.settings)?;
        let start_failed = |cause| start_error(&program, cause);
        let (control, qemu_control) = Control::pair().map_err(start_failed)?;
        let (mut inherited, log) = (Inherited::default(), machine.engine_log.clone());
        let log_start = std::fs::metadata(&log).map_or(0, |log| log.len());
        let is_emulated = accelerator == Accelerator::Tcg;
        let line = CommandLine::new(machine, accelerator, qemu_control, &mut inherited);
        let child =
            child::spawn(&program, line.arguments(), inherited, &log).map_err(start_failed)?;
        let mut running = RunningQemu {
            program: program.display().to_string(),
            is_emulated,
            child,
            control: None,
            log,
            log_start,
        };
        match timeout(START_TIMEOUT, control.connect()).await {
            Ok(Ok(control)) => {
                running.control = Some(control);
                Ok(Box::new(running))
            }
            // Usually QEMU has ended, and its output says why.
            Ok(Err(error)) => Err(running.refuse(&error.to_string()).await),
            Err(_) => Err(running.refuse("timed out on its control socket").await),
        }
    }

    fn program(&self) -> Result<PathBuf, MissingProgram> {
        match &self.settings.program {
            Some(program) => find(&program.display().to_string()),
            None => find(SYSTEM),
        }
    }
}

fn start_error(program: &Path, cause: io::Error) -> EngineError {
    EngineError::Start {
        program: program.display().to_string(),
        cause,
    }
}

impl Engine for Qemu {
    fn check(&self) -> Result<(), EngineError> {
        self.program()?;
        find(IMAGE_TOOL)?;
        Ok(())
    }

    fn about(&self) -> Result<AboutEngine, EngineError> {
        self.check()?;
        let program = self.program()?;
        let output = Command::new(&program).arg("--version").output();
        let output = output.map_err(|cause| start_error(&program, cause))?;
        let output = String::from_utf8_lossy(&output.stdout);
        Ok(AboutEngine {
            version: output.lines().next().unwrap_or_default().to_owned(),
            program,
        })
    }

    fn start(
        &self,
        machine: VirtualMachine,
    ) -> BoxFuture<'_, Result<Box<dyn Running>, EngineError>> {
        self.run(machine).boxed()
    }
}

struct RunningQemu {
    program: String,
    /// Whether QEMU emulates the processor (TCG).
    is_emulated: bool,
    child: Child,
    /// Absent before the greeting and after [`Running::terminate`].
    control: Option<Control>,
    log: PathBuf,
    /// Length of the log before this QEMU started.
    log_start: u64,
}

impl RunningQemu {
    /// Kills a QEMU that did not start the machine. The error quotes its output, or `fallback` if
    /// it printed nothing.
    async fn refuse(&mut self, fallback: &str) -> EngineError {
        // Fails if it has ended already.
        let _ = self.child.start_kill();
        let _ = self.child.wait().await;
        let output = self.output().unwrap_or_default();
        EngineError::Refused {
            program: self.program.clone(),
            message: if output.is_empty() {
                fallback.to_owned()
            } else {
                output
            },
        }
    }

    /// Returns what this QEMU wrote to its log.
    fn output(&self) -> io::Result<String> {
        let log = std::fs::read(&self.log)?;
        let start = usize::try_from(self.log_start).unwrap_or_default();
        let output = String::from_utf8_lossy(log.get(start..).unwrap_or_default());
        Ok(output.trim().to_owned())
    }
}

/// Classifies a status other than success.
fn exit_of(is_emulated: bool, status: ExitStatus, message: String) -> EngineExit {
    let faults = [Signal::SIGABRT, Signal::SIGSEGV, Signal::SIGBUS];
    let is_fault = |signal| faults.iter().any(|fault| *fault as i32 == signal);
    if is_emulated && status.signal().is_some_and(is_fault) {
        EngineExit::Crashed(message)
    } else {
        EngineExit::Failed(message)
    }
}

impl Running for RunningQemu {
    fn wait(&mut self) -> BoxFuture<'_, EngineExit> {
        async {
            match self.child.wait().await {
                Ok(status) if status.success() => EngineExit::Orderly,
                Ok(status) => {
                    let output = self.output().unwrap_or_default();
                    exit_of(
                        self.is_emulated,
                        status,
                        format!("{} ended ({status}) {output}", self.program),
                    )
                }
                Err(error) => {
                    EngineExit::Failed(format!("cannot wait for {}: {error}", self.program))
                }
            }
        }
        .boxed()
    }

    fn terminate(&mut self) -> BoxFuture<'_, ()> {
        async {
            if let Some(control) = self.control.take() {
                control.quit().await;
            }
            if timeout(QUIT_TIMEOUT, self.child.wait()).await.is_err() {
                // Fails if it has just ended.
                let _ = self.child.start_kill();
                let _ = self.child.wait().await;
            }
        }
        .boxed()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_faults_of_the_emulator_count_as_crashes() {
        let exit = |is_emulated, wait_status| {
            exit_of(
                is_emulated,
                ExitStatus::from_raw(wait_status),
                "m".to_owned(),
            )
        };
        let failed = || EngineExit::Failed("m".to_owned());
        let (aborted, killed, exited_with_1) = (6, 9, 1 << 8);
        assert_eq!(exit(true, aborted), EngineExit::Crashed("m".to_owned()));
        assert_eq!(exit(false, aborted), failed());
        assert_eq!(exit(true, killed), failed());
        assert_eq!(exit(true, exited_with_1), failed());
    }
}
