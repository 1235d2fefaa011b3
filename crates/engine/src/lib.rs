//! The engine that runs a virtual machine, behind one trait.
//!
//! [`VirtualMachine`] is the description of a machine, [`Engine::prepare`] decides how it is
//! started, and [`Prepared::start`] turns it into a [`Running`] one. A running machine can be saved
//! and restored, also as another machine. Nothing outside the private module `qemu` knows the
//! engine's name, its options or its control protocol.
//!
//! | module | is responsible for |
//! |---|---|
//! | `interface` | the traits, and their errors |
//! | `virtual_machine` | the description of a machine |
//! | `accelerator`, `probe` | the accelerators, and which of them this host can use |
//! | `settings` | section `[engine]` of `config.toml` |
//! | [`disk`] | a machine's disk file |
//! | `qemu` | QEMU: command line, process, control socket |
//!
//! ```no_run
//! use container_engine::{EngineExit, EngineSettings, VirtualMachine, engine};
//!
//! # async fn example(machine: VirtualMachine) -> Result<(), Box<dyn std::error::Error>> {
//! let engine = engine(&EngineSettings::default());
//! engine.check()?;
//! let mut running = engine.prepare(machine)?.start().await?;
//! running.resume().await?;
//! if let EngineExit::Failed(message) = running.wait().await {
//!     eprintln!("{message}");
//! }
//! # Ok(())
//! # }
//! ```

mod accelerator;
mod interface;
mod probe;
mod qemu;
mod settings;
mod virtual_machine;

pub use accelerator::{Accelerator, AcceleratorError};
pub use interface::{
    AboutEngine, Engine, EngineError, EngineExit, LiveDisk, LiveDiskError, MissingProgram,
    Prepared, ResumeError, Running, SaveError, ShareError,
};
pub use probe::{AcceleratorProbe, KvmObstacle, check_virtualization, choose};
pub use qemu::{can_confine, disk};
pub use settings::{ConfinementChoice, EngineSettings};
pub use virtual_machine::{
    AttachedShare, Channel, FileShare, InvalidSharePort, Kernel, NetworkCard, SHARE_PORTS,
    SharePort, VirtualMachine,
};

/// Returns the engine of this host.
pub fn engine(settings: &EngineSettings) -> Box<dyn Engine> {
    Box::new(qemu::Qemu::new(settings))
}
