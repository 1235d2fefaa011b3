//! PID 1 of the guest.
//!
//! The agent boots with nothing that is the machine's own. It loads the kernel's modules, opens
//! the channel to the host and waits to be told who it is; then it becomes that machine: mounts
//! its disk and shared home, sets up its user, and starts the image's init as PID 1 of a PID
//! namespace of its own. From then on it runs commands in the machine, until the host asks for
//! a stop or init ends by itself; it unmounts and powers off.

mod changes;
mod channel;
mod commands;
mod control;
mod init;
mod interpreters;
mod kernel_modules;
mod listeners;
mod machine;
mod power;
mod relay;
mod socket_events;
mod ssh_agent;
mod stage;
mod watched;

use std::process::ExitCode;

use tokio::runtime;

fn main() -> ExitCode {
    if std::env::args().next().as_deref() == Some(init::built_in::NAME) {
        return init::built_in::run();
    }
    if let Some(copy) = commands::copy::of_this_process() {
        return commands::copy::run(&copy);
    }
    if let Some(stage) = stage::Stage::of_this_process() {
        return stage.run();
    }
    let outcome = machine::mounts::early()
        .map_err(|error| format!("mounting the agent's own file systems: {error}"))
        .and_then(|()| {
            kernel_modules::load_all().map_err(|error| format!("loading kernel modules: {error}"))
        })
        .and_then(|()| interpreters::register_all().map_err(|error| error.to_string()))
        .and_then(|()| {
            runtime::Builder::new_current_thread()
                .enable_all()
                .build()
                .map_err(|error| format!("starting the agent's event loop: {error}"))
        })
        .and_then(|events| {
            events
                .block_on(control::serve())
                .map_err(|error| error.to_string())
        });
    if let Err(message) = outcome {
        power::say(&message);
    }
    power::off()
}
