//! A second event loop, on a thread of its own.
//!
//! The set-up of the network and the services that no command waits for run on it, so that a
//! machine with several processors starts sooner. Its thread exists before the virtual machine is
//! saved as a [template](crate::template).

use std::{future::pending, io, thread};

use tokio::runtime::{self, Handle};

/// Starts the event loop, which runs until the agent ends.
pub(crate) fn start() -> io::Result<Handle> {
    let events = runtime::Builder::new_current_thread()
        .enable_all()
        .build()?;
    let handle = events.handle().clone();
    thread::Builder::new().spawn(move || events.block_on(pending::<()>()))?;
    Ok(handle)
}
