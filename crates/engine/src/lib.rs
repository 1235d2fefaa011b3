//! The engine that runs a virtual machine, behind one trait.
//!
//! [`VirtualMachine`] is what was decided, [`Engine::start`] turns it into a [`Running`] one.
//! Which accelerator an engine may use on this host is found out in [`accelerator`]. Nothing
//! outside the engine's own module knows its name, its options or its control protocol.

pub mod accelerator;
mod qemu;
mod settings;
mod virtual_machine;

use std::{io, path::Path, path::PathBuf};

use futures::future::BoxFuture;

pub use accelerator::{Accelerator, AcceleratorError, Host, check_virtualization, choose};
pub use settings::EngineSettings;
pub use virtual_machine::{FileShare, Kernel, NetworkCard, VirtualMachine};

/// What can run a virtual machine.
pub trait Engine {
    /// Looks whether the engine is on this host, before anything is done that needs it.
    fn check(&self) -> Result<(), EngineError>;

    /// What the engine is on this host.
    fn about(&self) -> Result<AboutEngine, EngineError>;

    /// Starts the machine. Call it on the process's main thread: the machine's life is bound to
    /// the thread that starts it, so that none outlives its runtime.
    fn start(
        &self,
        machine: VirtualMachine,
    ) -> BoxFuture<'_, Result<Box<dyn Running>, EngineError>>;

    /// Makes `overlay`, a disk that reads as the raw image `base` until it is written to.
    /// Takes the same time whatever the image's size.
    fn create_overlay(&self, base: &Path, overlay: &Path) -> Result<(), EngineError>;

    /// Makes a disk of less than `capacity` bytes one of that many, with zeroes behind what there
    /// is. Interrupted, it has the one or the other. The disk must not be in use.
    fn grow_disk(&self, disk: &Path, capacity: u64) -> Result<(), EngineError>;

    /// How many bytes this disk can hold, whether it is in use or not.
    fn capacity_of(&self, disk: &Path) -> Result<u64, EngineError>;

    /// The image that this disk lies on, whatever became of it; none if the disk is whole by
    /// itself.
    fn base_of(&self, disk: &Path) -> Result<Option<PathBuf>, EngineError>;
}

/// An engine that is on this host.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct AboutEngine {
    /// Its program.
    pub program: PathBuf,
    /// What it says of itself.
    pub version: String,
}

/// A virtual machine that runs. Dropping it ends the machine at once.
pub trait Running: Send {
    /// Waits for the machine's end. Safe to drop and call again.
    fn ended(&mut self) -> BoxFuture<'_, End>;

    /// Ends the machine without asking it, but with its disk's writes handed to the host.
    fn end(&mut self) -> BoxFuture<'_, ()>;
}

/// How a virtual machine ended.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum End {
    /// The guest powered off or rebooted, or [`Running::end`] was called.
    Orderly,
    /// The engine failed or was killed.
    Failed(String),
}

/// Why an engine cannot do what it is asked.
#[derive(Debug, thiserror::Error)]
pub enum EngineError {
    /// The program is not on this host.
    #[error(
        "{program} is not installed, and machines run in it: on Debian 12, \
         `apt install -t bookworm-backports qemu-system-x86 qemu-utils`, or name another in \
         config.toml, section [engine]"
    )]
    NoProgram {
        /// What was looked for.
        program: String,
    },
    /// The program could not be started.
    #[error("starting {program}: {source}")]
    Start {
        /// The program.
        program: String,
        /// Why not.
        source: io::Error,
    },
    /// The program ended before the machine ran, or refused its options.
    #[error("{program} did not start the machine: {message}")]
    Refused {
        /// The program.
        program: String,
        /// What it said.
        message: String,
    },
    /// The accelerator that was asked for cannot be used.
    #[error(transparent)]
    Accelerator(#[from] AcceleratorError),
    /// A disk cannot be read.
    #[error("reading the disk {path}: {message}")]
    Unreadable {
        /// The disk.
        path: PathBuf,
        /// What is wrong.
        message: String,
    },
    /// A disk could not be made or changed.
    #[error("{doing} the disk {path}: {message}")]
    Disk {
        /// What was being done.
        doing: &'static str,
        /// The disk.
        path: PathBuf,
        /// What went wrong.
        message: String,
    },
}

/// The engine of this host.
pub fn engine(settings: &EngineSettings) -> Box<dyn Engine> {
    Box::new(qemu::Qemu::new(settings))
}

/// [`Engine::create_overlay`] with this host's engine as it comes.
pub fn create_overlay(base: &Path, overlay: &Path) -> Result<(), EngineError> {
    engine(&EngineSettings::default()).create_overlay(base, overlay)
}

/// [`Engine::capacity_of`] with this host's engine as it comes.
pub fn capacity_of(disk: &Path) -> Result<u64, EngineError> {
    engine(&EngineSettings::default()).capacity_of(disk)
}

/// [`Engine::base_of`] with this host's engine as it comes.
pub fn base_of(disk: &Path) -> Result<Option<PathBuf>, EngineError> {
    engine(&EngineSettings::default()).base_of(disk)
}
