//! PID 1 of the guest.
//!
//! The agent is the only program of the initramfs. A boot goes through these modules, in order:
//!
//! 1. [`machine::mounts`] mounts the agent's own file systems.
//! 2. [`kernel_modules`] loads the kernel's modules, [`interpreters`] registers interpreters for
//!    programs of other architectures.
//! 3. [`control`] opens the [`channel`] to the host. There the agent waits for a machine, and a
//!    virtual machine is saved as a [`template`]. Then it receives the machine's set-up.
//! 4. [`machine`] mounts the machine's disk and shared home and sets up its network (in the
//!    [`background`]) and user.
//! 5. [`init`] starts the image's init, or the [built-in one](built_in_init), as PID 1 of a PID
//!    namespace of its own. The process on the way there is a [`stage`].
//! 6. [`commands`], [`changes`], [`freeze`], [`home`], [`host_mounts`], [`listeners`], [`relay`],
//!    [`sockets`] and [`guest_listener`] serve the host and the machine until the host requests a
//!    stop ([`shutdown`]) or init ends. Programs that the kernel starts find the machine's files
//!    ([`helper_root`]). A machine that is suspended in between continues with another [`link`] to
//!    the host.
//! 7. [`machine::mounts`] unmounts the machine, [`power`] turns the virtual machine off.
//!
//! The kernel panics when PID 1 ends, so the agent must not: it reports errors to the host or to
//! the [kernel's log](kernel_log), and powers off.

mod background;
mod bpf;
mod built_in_init;
mod changes;
mod channel;
mod clock;
mod commands;
mod control;
mod file_system_check;
mod freeze;
mod guest_listener;
mod helper_root;
mod home;
mod host_mounts;
mod init;
mod interpreters;
mod kernel_log;
mod kernel_modules;
mod link;
mod listeners;
mod machine;
mod namespace_thread;
mod nonblocking_file;
mod open_files;
mod paths;
mod power;
mod processes;
mod pty;
mod random;
mod relay;
mod search_path;
mod shutdown;
mod signal;
mod sockets;
mod stage;
mod template;

use std::{env, ffi::OsStr, io, process::ExitCode};

use tokio::runtime;

use commands::{copy, session_leader};
use helper_root::HelperRoot;
use machine::mounts;

/// Selects the role of this process by its zeroth argument. The agent starts its own binary again
/// for work that needs a process of its own in the machine.
fn main() -> ExitCode {
    let name = env::args_os().next();
    match name.as_deref().and_then(OsStr::to_str) {
        Some(built_in_init::NAME) => built_in_init::run(),
        Some(copy::NAME) => copy::run(),
        Some(session_leader::NAME) => session_leader::run(),
        Some(stage::NAME) => stage::run(),
        _ => HelperRoot::serve_while(run_agent),
    }
}

/// Runs the virtual machine from the kernel's hand-over to its power-off.
fn run_agent(helper_root: HelperRoot) -> ExitCode {
    if let Err(error) = boot_and_serve(helper_root) {
        kernel_log::error(&error.to_string());
    }
    power::off()
}

/// Error of the agent as a whole: no machine was started, or the host can no longer be reached.
#[derive(Debug, thiserror::Error)]
enum AgentError {
    #[error("cannot mount the agent's file systems: {0}")]
    Mount(io::Error),
    #[error("cannot raise the limit of open files: {0}")]
    OpenFiles(io::Error),
    #[error("cannot load the kernel's modules: {0}")]
    Modules(kernel_modules::ModuleError),
    #[error(transparent)]
    Interpreters(#[from] interpreters::InterpreterError),
    #[error("cannot start the agent's event loop: {0}")]
    EventLoop(io::Error),
    #[error(transparent)]
    Control(#[from] control::ControlError),
}

fn boot_and_serve(helper_root: HelperRoot) -> Result<(), AgentError> {
    mounts::mount_for_agent().map_err(AgentError::Mount)?;
    open_files::raise_limit().map_err(AgentError::OpenFiles)?;
    kernel_modules::load_all().map_err(AgentError::Modules)?;
    interpreters::register_all()?;
    // One thread is enough for all commands, and small in memory: the agent only moves bytes.
    let events = runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .map_err(AgentError::EventLoop)?;
    let background = background::start().map_err(AgentError::EventLoop)?;
    Ok(events.block_on(control::serve(&helper_root, &background))?)
}
