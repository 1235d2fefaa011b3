//! The image's init: PID 1 of the machine's own PID namespace.

pub mod built_in;
mod choice;
mod console;
mod stop;

pub use choice::INIT;
pub use console::open_terminal;

use std::{io, time::Duration};

use container_protocol::{InitProgram, MachineSetup, mux::Stream};
use nix::{
    sched::{CloneFlags, unshare},
    sys::signal::Signal,
};
use tokio::{
    io::AsyncReadExt,
    net::unix::pipe,
    process::Child,
    runtime::Handle,
    sync::oneshot,
    time::{sleep, timeout},
};

use crate::{
    machine::{GuestRoot, mounts::MountError},
    stage::Stage,
};
use console::{Console, ConsoleLog};
use stop::StopMethod;

/// How long init may take until it can be talked to.
const READY: Duration = Duration::from_secs(30);

/// How often it is looked at until then.
const LOOK_AGAIN: Duration = Duration::from_millis(50);

/// Why init could not be started.
#[derive(Debug, thiserror::Error)]
pub enum InitError {
    /// Whether the image has one could not be found out.
    #[error("looking for {INIT} in the image: {0}")]
    Find(#[source] io::Error),
    /// The machine's disk or console could not be used.
    #[error("preparing the machine's console: {0}")]
    Console(#[source] io::Error),
    /// The process could not be started.
    #[error("starting the machine's init: {0}")]
    Start(#[source] io::Error),
    /// It failed on its way to being init.
    #[error("starting the machine's init: {0}")]
    Stage(String),
}

impl From<MountError> for InitError {
    fn from(error: MountError) -> Self {
        InitError::Console(io::Error::other(error))
    }
}

/// How the machine ended by itself.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Ending {
    /// It powered off, or its init exited.
    PowerOff,
    /// It asked for a reboot.
    Reboot,
}

/// The running init.
#[derive(Debug)]
pub struct Init {
    program: InitProgram,
    pid: u32,
    child: Child,
    stop: StopMethod,
    console: ConsoleLog,
}

impl Init {
    /// Starts the image's init, or the built-in one, with the image's environment; what it prints
    /// goes to `log`.
    pub async fn start(setup: &MachineSetup, log: Stream) -> Result<Init, InitError> {
        let root = GuestRoot::open().map_err(InitError::Console)?;
        let program = choice::of_image(&root).map_err(InitError::Find)?;
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
        let child = spawn_as_first(command).await.map_err(InitError::Start)?;
        failure(report).await?;
        let console = console.copy_to(log).map_err(InitError::Console)?;
        let pid = child
            .id()
            .ok_or_else(|| InitError::Stage("it ended at once".to_owned()))?;
        Ok(Init {
            stop: StopMethod::of(&program, setup.stop_signal.as_deref()),
            program,
            pid,
            child,
            console,
        })
    }

    /// What runs as init.
    pub fn program(&self) -> &InitProgram {
        &self.program
    }

    /// Its process id, as the agent sees it.
    pub fn pid(&self) -> u32 {
        self.pid
    }

    /// Waits until init has ended, and with it every process of the machine. Safe to drop and
    /// call again.
    ///
    /// A `reboot(2)` in a PID namespace ends its init by a signal: SIGHUP for a restart, SIGINT
    /// for a halt (`pid_namespaces(7)`).
    pub async fn ended(&mut self) -> Ending {
        use std::os::unix::process::ExitStatusExt;
        match self.child.wait().await {
            Ok(status) if status.signal() == Some(Signal::SIGHUP as i32) => Ending::Reboot,
            _ => Ending::PowerOff,
        }
    }

    /// Lets go of all that init used, once it has [ended](Self::ended).
    pub async fn finish(self) {
        self.console.finish().await;
    }

    /// Asks init to stop, waits, and ends it by force if it takes longer than `grace`.
    pub async fn stop(&mut self, grace: Duration) {
        let (method, pid) = (self.stop, self.pid);
        let stopped = async {
            tokio::select! {
                biased;
                _ = self.ended() => {}
                () = async {
                    method.ask(pid).await;
                    std::future::pending().await
                } => {}
            }
        };
        if timeout(grace, stopped).await.is_err() {
            crate::power::say("init did not stop in time and is killed");
            // It may have ended in this very moment.
            let _ = self.child.start_kill();
            self.ended().await;
        }
    }
}

/// Waits until `init` can be talked to, if it is one that people talk to, but not for long.
pub async fn ready(init: &InitProgram) {
    match init {
        InitProgram::OfImage(program) if program.ends_with("/systemd") => {}
        _ => return,
    }
    // Users talk to it over the bus, root directly.
    let Ok(root) = GuestRoot::open() else { return };
    let socket = match root.exists("/usr/lib/systemd/system/dbus.socket") {
        true => "/run/dbus/system_bus_socket",
        false => "/run/systemd/private",
    };
    // What it cannot do by then it tells whoever asks.
    let _ = timeout(READY, async {
        while !root.exists(socket) {
            sleep(LOOK_AGAIN).await;
        }
    })
    .await;
}

/// Starts `command` as the first process of a new PID namespace.
async fn spawn_as_first(command: std::process::Command) -> io::Result<Child> {
    on_own_thread(move || {
        unshare(CloneFlags::CLONE_NEWPID)?;
        tokio::process::Command::from(command).spawn()
    })
    .await
}

/// Runs `work` on a thread of its own, whose namespaces it may change for its children.
pub async fn on_own_thread<T: Send + 'static>(
    work: impl FnOnce() -> io::Result<T> + Send + 'static,
) -> io::Result<T> {
    let (result, done) = oneshot::channel();
    let events = Handle::current();
    std::thread::Builder::new().spawn(move || {
        let _entered = events.enter();
        // A caller that no longer waits has no use for the result.
        let _ = result.send(work());
    })?;
    done.await
        .unwrap_or_else(|_| Err(io::Error::other("the thread ended without a result")))
}

/// Waits until the stage has turned into init; what it tells before that is its failure.
async fn failure(mut report: pipe::Receiver) -> Result<(), InitError> {
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
