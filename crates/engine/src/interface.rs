//! The traits that an engine implements, and their errors.

use std::{
    fmt, io,
    path::{Path, PathBuf},
    sync::Arc,
    time::Duration,
};

use futures::future::BoxFuture;

use crate::{
    accelerator::AcceleratorError,
    virtual_machine::{AttachedShare, SharePort, VirtualMachine},
};

/// A program that runs virtual machines.
pub trait Engine {
    /// Checks that the engine's programs are installed.
    ///
    /// # Errors
    /// [`EngineError::NoProgram`] for the first one that is missing.
    fn check(&self) -> Result<(), EngineError>;

    /// Returns the engine's program and version.
    ///
    /// # Errors
    /// If it is not installed or cannot be started.
    fn about(&self) -> Result<AboutEngine, EngineError>;

    /// Returns what the installed program lacks and machines need, each as a noun phrase.
    ///
    /// # Errors
    /// If it is not installed or cannot be started.
    fn missing_features(&self) -> Result<Vec<String>, EngineError>;

    /// Decides how the machine is started.
    ///
    /// # Errors
    /// If a program is missing, or the configured accelerator cannot be used.
    fn prepare(&self, machine: VirtualMachine) -> Result<Box<dyn Prepared>, EngineError>;
}

/// A virtual machine that can be started.
///
/// Call its functions on the process's main thread: the machine ends with the thread that started
/// it, so no machine outlives its runtime.
pub trait Prepared {
    /// Returns what a saved machine must have in common with this one to be restored in its place,
    /// apart from the contents of kernel and initramfs: program, accelerator and processor of the
    /// host, and all devices, but not the files and connections behind them.
    fn fingerprint(&self) -> String;

    /// Returns the [fingerprint](Self::fingerprint), and the kernel's parameters about the host's
    /// clocks. A kernel that has booted with others has a clock that is too fast or too slow.
    fn template_fingerprint(&self) -> String;

    /// Starts a machine that boots its kernel. It is paused until [`Running::resume`].
    fn start(self: Box<Self>) -> BoxFuture<'static, Result<Box<dyn Running>, EngineError>>;

    /// Restores a machine that [`Running::save`] has written to a file, with this one's files and
    /// connections behind its devices. `attached` are the shares that were
    /// [attached](Running::attach) to it. It is paused until [`Running::resume`]. The file is only
    /// read, and not needed any more afterwards.
    fn restore(
        self: Box<Self>,
        saved: PathBuf,
        attached: Vec<AttachedShare>,
    ) -> BoxFuture<'static, Result<Box<dyn Running>, EngineError>>;
}

/// Program and version of an engine.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct AboutEngine {
    /// Path of the program.
    pub program: PathBuf,
    /// First line of the program's version output.
    pub version: String,
}

/// A running virtual machine. Dropping it kills the machine.
pub trait Running: Send {
    /// Waits for the machine's end. Cancel safe, and may be called again after the end.
    fn wait(&mut self) -> BoxFuture<'_, EngineExit>;

    /// Pauses the machine until [`resume`](Self::resume).
    fn pause(&mut self) -> BoxFuture<'_, Result<(), SaveError>>;

    /// Pauses the machine and writes its memory and devices to a sparse file. Everything that the
    /// guest has written to its disk is on the host's disk then. The machine stays paused, also if
    /// this fails or is cancelled.
    fn save<'a>(&'a mut self, file: &'a Path) -> BoxFuture<'a, Result<(), SaveError>>;

    /// Continues a machine that is paused.
    fn resume(&mut self) -> BoxFuture<'_, Result<(), ResumeError>>;

    /// Attaches a file share to a port that is free. The guest may be running or paused.
    fn attach(&mut self, share: AttachedShare) -> BoxFuture<'_, Result<(), ShareError>>;

    /// Detaches the file share at a port. The guest must be running, and not use it any more.
    fn detach(&mut self, port: SharePort) -> BoxFuture<'_, Result<(), ShareError>>;

    /// Ends the machine without asking the guest, after the disk's writes have been handed to the
    /// host. Returns when the machine has ended.
    fn terminate(&mut self) -> BoxFuture<'_, ()>;

    /// Returns the processor time that the machine has used; absent if it is not known.
    fn processor_time(&self) -> Option<Duration>;

    /// Returns the machine's disk; absent after [`terminate`](Self::terminate).
    fn disk(&self) -> Option<Arc<dyn LiveDisk>>;
}

/// The disk of a running machine.
pub trait LiveDisk: fmt::Debug + Send + Sync {
    /// Writes to `overlay` from now on: a disk that was
    /// [created on a layer](crate::disk::create_on_layer). The file that was written to until now
    /// becomes that layer, and does not change any more.
    fn put_overlay<'a>(&'a self, overlay: &'a Path) -> BoxFuture<'a, Result<(), LiveDiskError>>;

    /// Returns why the machine is paused if its disk cannot be written, such as "No space left on
    /// device". The engine tries again until that succeeds, and the guest notices nothing.
    fn pause_reason(&self) -> Option<String>;
}

/// The disk of a running machine cannot be changed.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum LiveDiskError {
    /// The disk is as before.
    #[error("the engine cannot write to another file: {0}")]
    Refused(String),
    /// The engine did not answer, and may still change the disk.
    #[error("the engine does not answer: {0}")]
    Unknown(String),
}

/// End of an engine's process.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum EngineExit {
    /// The guest powered off, rebooted or panicked, or [`Running::terminate`] was called.
    Orderly,
    /// The engine failed or was killed; a message with its status and output.
    Failed(String),
    /// An engine that emulates the processor aborted by a fault of its own, such as a failed
    /// assertion; a message as for `Failed`.
    Crashed(String),
}

/// Error of saving a machine.
#[derive(Debug, thiserror::Error)]
pub enum SaveError {
    /// The engine is too old.
    #[error("this version of the engine cannot save machines: {0}")]
    Unsupported(String),
    /// The engine failed.
    #[error("cannot save the machine: {0}")]
    Failed(String),
}

/// A file share cannot be attached or detached.
#[derive(Debug, thiserror::Error)]
pub enum ShareError {
    /// The engine refused it, or has ended.
    #[error("the engine cannot change its devices: {0}")]
    Engine(String),
    /// The guest has not released the device.
    #[error("timed out waiting for the guest to release the device")]
    InUse,
}

/// Error of continuing a machine that is paused.
#[derive(Debug, thiserror::Error)]
#[error("the engine cannot continue the machine: {0}")]
pub struct ResumeError(pub String);

/// A program of the engine is not installed.
#[derive(Debug, thiserror::Error)]
#[error(
    "{program} not found, and machines run in it: on Debian 12, `apt install -t \
     bookworm-backports qemu-system-x86 qemu-utils`, or name another program in config.toml, \
     section [engine]"
)]
pub struct MissingProgram {
    /// Name or path of the program.
    pub program: String,
}

/// Error of an engine.
#[derive(Debug, thiserror::Error)]
pub enum EngineError {
    /// A program of the engine is not installed.
    #[error(transparent)]
    NoProgram(#[from] MissingProgram),
    /// The program could not be started.
    #[error("cannot start {program}: {cause}")]
    Start {
        /// Path of the program.
        program: String,
        /// Error of the start.
        cause: io::Error,
    },
    /// The program ended before the machine ran, or refused its options.
    #[error("{program} did not start the machine: {message}")]
    Refused {
        /// Path of the program.
        program: String,
        /// The program's output, or what it failed to do.
        message: String,
    },
    /// The saved machine could not be restored.
    #[error("{program} did not restore the saved machine: {message}")]
    Restore {
        /// Path of the program.
        program: String,
        /// The program's output, or what it failed to do.
        message: String,
    },
    /// The configured accelerator cannot be used.
    #[error(transparent)]
    Accelerator(#[from] AcceleratorError),
}
