//! QEMU as the engine: finds, starts and ends its process.

mod child;
mod command_line;
mod confinement;
mod control;
pub mod disk;
mod features;
mod host_processor;
mod out_of_memory;
mod output;
mod passed_file;
mod processor_time;
mod program;
mod shares;
mod time_stamp_counter;
mod unused_memory;
mod write_errors;

use std::{
    io,
    os::unix::process::ExitStatusExt,
    path::{Path, PathBuf},
    process::{Command, ExitStatus},
    sync::Arc,
    time::Duration,
};

use futures::{FutureExt, future::BoxFuture};
use nix::sys::signal::Signal;
use tokio::{net::unix::pipe, process::Child, time::timeout};

use crate::{
    accelerator::Accelerator,
    interface::{
        AboutEngine, Engine, EngineError, EngineExit, LiveDisk, MissingProgram, Prepared,
        ResumeError, Running, SaveError, ShareError,
    },
    probe,
    settings::{ConfinementChoice, EngineSettings},
    virtual_machine::{AttachedShare, SharePort, VirtualMachine},
};
use child::Inherited;
use command_line::CommandLine;
use confinement::Confinement;
pub use confinement::can_confine;
use control::{Control, Ungreeted};
use out_of_memory::OutOfMemoryKills;
use output::Output;
use program::{IMAGE_TOOL, SYSTEM, find};
use time_stamp_counter::Frequency;

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

    fn missing_features(&self) -> Result<Vec<String>, EngineError> {
        let about = self.about()?;
        let devices = Command::new(&about.program)
            .args(["-device", "help"])
            .output();
        let devices = devices.map_err(|cause| start_error(&about.program, cause))?;
        let devices = String::from_utf8_lossy(&devices.stdout);
        Ok(features::missing(&about.version, &devices))
    }

    fn prepare(&self, machine: VirtualMachine) -> Result<Box<dyn Prepared>, EngineError> {
        let program = self.program()?;
        let accelerator = probe::choose(&self.settings)?;
        let (control, qemu_control) =
            Control::pair().map_err(|cause| start_error(&program, cause))?;
        let (mut inherited, log) = (Inherited::default(), machine.engine_log.clone());
        let confinement = match self.settings.confinement {
            ConfinementChoice::Landlock => {
                let kernel = &machine.kernel;
                let boot_files = [kernel.image.clone(), kernel.initramfs.clone()];
                Some(Confinement::new(&machine.disk, boot_files))
            }
            ConfinementChoice::None => None,
        };
        let counter = match accelerator {
            Accelerator::Tcg => Frequency::measure(),
            Accelerator::Kvm | Accelerator::Hvf => None,
        };
        let line = CommandLine::new(machine, accelerator, counter, qemu_control, &mut inherited);
        Ok(Box::new(PreparedQemu {
            program,
            accelerator,
            counter,
            line,
            confinement,
            inherited,
            control,
            log,
        }))
    }
}

/// A QEMU process that can be started.
struct PreparedQemu {
    program: PathBuf,
    accelerator: Accelerator,
    counter: Option<Frequency>,
    line: CommandLine,
    confinement: Option<Confinement>,
    inherited: Inherited,
    control: Ungreeted,
    log: PathBuf,
}

impl PreparedQemu {
    /// Starts QEMU, and waits for its greeting.
    async fn spawn(self) -> Result<RunningQemu, EngineError> {
        let arguments = self.line.arguments();
        let start = || {
            let log = output::open_log(&self.log)?;
            let (ours, qemus) = io::pipe()?;
            let output = pipe::Receiver::from_owned_fd(ours.into())?;
            let rules = self.confinement.map(|it| it.rules(&self.program));
            let rules = rules.transpose().map_err(io::Error::other)?;
            let child = child::spawn(&self.program, arguments, rules, self.inherited, qemus)?;
            Ok((child, Output::read(output, log)))
        };
        let (child, output) = start().map_err(|cause| start_error(&self.program, cause))?;
        let mut running = RunningQemu {
            program: self.program.display().to_string(),
            is_emulated: self.accelerator == Accelerator::Tcg,
            kills: OutOfMemoryKills::read(),
            child,
            control: None,
            output,
        };
        match timeout(START_TIMEOUT, self.control.connect()).await {
            Ok(Ok(control)) => {
                running.control = Some(Arc::new(control));
                Ok(running)
            }
            // Usually QEMU has ended, and its output says why.
            Ok(Err(error)) => Err(running.refuse(&error.to_string()).await),
            Err(_) => Err(running.refuse("timed out on its control socket").await),
        }
    }

    async fn spawn_restored(
        mut self,
        saved: PathBuf,
        attached: Vec<AttachedShare>,
    ) -> Result<RunningQemu, EngineError> {
        self.line.await_restore();
        if let Some(confinement) = &mut self.confinement {
            confinement.add_readable(&saved);
        }
        let mut running = self.spawn().await?;
        let restored = match &running.control {
            Some(control) => restore(control, &saved, attached).await,
            None => Err(io::Error::from(io::ErrorKind::NotConnected)),
        };
        if let Err(error) = restored {
            let (program, message) = running.kill(&error.to_string()).await;
            return Err(EngineError::Restore { program, message });
        }
        Ok(running)
    }
}

/// Attaches the shares, and restores the machine from the file.
async fn restore(control: &Control, saved: &Path, attached: Vec<AttachedShare>) -> io::Result<()> {
    for share in attached {
        control.attach(share).await?;
    }
    control.restore(saved).await
}

impl Prepared for PreparedQemu {
    fn fingerprint(&self) -> String {
        let program = program::identity(&self.program);
        let processor = host_processor::describe(self.accelerator);
        format!(
            "{program} {} {processor} {}",
            self.accelerator,
            self.line.shape().join(" ")
        )
    }

    fn template_fingerprint(&self) -> String {
        let counter = self.counter.map(Frequency::parameter).unwrap_or_default();
        format!("{} {counter}", self.fingerprint())
    }

    fn start(self: Box<Self>) -> BoxFuture<'static, Result<Box<dyn Running>, EngineError>> {
        async { Ok(Box::new(self.spawn().await?) as Box<dyn Running>) }.boxed()
    }

    fn restore(
        self: Box<Self>,
        saved: PathBuf,
        attached: Vec<AttachedShare>,
    ) -> BoxFuture<'static, Result<Box<dyn Running>, EngineError>> {
        async move {
            let running = self.spawn_restored(saved, attached).await?;
            Ok(Box::new(running) as Box<dyn Running>)
        }
        .boxed()
    }
}

struct RunningQemu {
    program: String,
    /// Whether QEMU emulates the processor (TCG).
    is_emulated: bool,
    /// As read at QEMU's start.
    kills: OutOfMemoryKills,
    child: Child,
    /// Absent before the greeting and after [`Running::terminate`].
    control: Option<Arc<Control>>,
    output: Output,
}

impl RunningQemu {
    fn control(&self) -> Result<&Control, SaveError> {
        let closed = || SaveError::Failed("its control socket is closed".to_owned());
        self.control.as_deref().ok_or_else(closed)
    }

    fn share_control(&self) -> Result<&Control, ShareError> {
        let closed = || ShareError::Engine("its control socket is closed".to_owned());
        self.control.as_deref().ok_or_else(closed)
    }

    /// Kills a QEMU that did not start the machine. The error quotes its output, or `fallback` if
    /// it printed nothing.
    async fn refuse(&mut self, fallback: &str) -> EngineError {
        let (program, message) = self.kill(fallback).await;
        EngineError::Refused { program, message }
    }

    /// Kills QEMU. Returns its program, and its output or `fallback` if it printed nothing.
    async fn kill(&mut self, fallback: &str) -> (String, String) {
        // Fails if it has ended already.
        let _ = self.child.start_kill();
        let _ = self.child.wait().await;
        let output = self.output.end().await;
        let message = if output.is_empty() {
            fallback.to_owned()
        } else {
            output
        };
        (self.program.clone(), message)
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
                    let output = self.output.end().await;
                    let is_killed = status.signal() == Some(Signal::SIGKILL as i32);
                    let explained = is_killed.then(|| self.kills.explain(&self.program));
                    let message = explained
                        .flatten()
                        .unwrap_or_else(|| format!("{} ended ({status}) {output}", self.program));
                    exit_of(self.is_emulated, status, message)
                }
                Err(error) => {
                    EngineExit::Failed(format!("cannot wait for {}: {error}", self.program))
                }
            }
        }
        .boxed()
    }

    fn pause(&mut self) -> BoxFuture<'_, Result<(), SaveError>> {
        async {
            let paused = self.control()?.pause().await;
            paused.map_err(|error| SaveError::Failed(error.to_string()))
        }
        .boxed()
    }

    fn save<'a>(&'a mut self, file: &'a Path) -> BoxFuture<'a, Result<(), SaveError>> {
        async {
            let control = self.control()?;
            let unsupported = |error: io::Error| SaveError::Unsupported(error.to_string());
            control.enable_files().await.map_err(unsupported)?;
            let saved = control.save(file, self.child.id()).await;
            saved.map_err(|error| SaveError::Failed(error.to_string()))
        }
        .boxed()
    }

    fn resume(&mut self) -> BoxFuture<'_, Result<(), ResumeError>> {
        async {
            let resumed = match &self.control {
                Some(control) => control.resume().await,
                None => Err(io::Error::from(io::ErrorKind::NotConnected)),
            };
            resumed.map_err(|error| ResumeError(error.to_string()))
        }
        .boxed()
    }

    fn attach(&mut self, share: AttachedShare) -> BoxFuture<'_, Result<(), ShareError>> {
        async {
            let attached = self.share_control()?.attach(share).await;
            attached.map_err(|error| ShareError::Engine(error.to_string()))
        }
        .boxed()
    }

    fn detach(&mut self, port: SharePort) -> BoxFuture<'_, Result<(), ShareError>> {
        async move { self.share_control()?.detach(port).await }.boxed()
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

    fn processor_time(&self) -> Option<Duration> {
        processor_time::read(self.child.id()?)
    }

    fn disk(&self) -> Option<Arc<dyn LiveDisk>> {
        self.control.clone().map(|it| it as Arc<dyn LiveDisk>)
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
