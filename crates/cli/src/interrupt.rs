//! SIGINT and SIGTERM while a command waits.

use std::future::Future;

use tokio::signal::unix::{Signal, SignalKind, signal};

use crate::failure::Failure;

/// Listener for SIGINT and SIGTERM.
///
/// Once one of these exists, neither signal ends the process by default any more (tokio keeps its
/// handlers installed), so everything that waits afterwards must listen as well.
pub(crate) struct Interrupts {
    interrupt: Signal,
    terminate: Signal,
}

impl Interrupts {
    /// Starts listening.
    pub(crate) fn listen() -> Result<Interrupts, Failure> {
        Ok(Interrupts {
            interrupt: listen(SignalKind::interrupt())?,
            terminate: listen(SignalKind::terminate())?,
        })
    }

    /// Waits for the next signal. Returns the exit code of a process that is ended by it.
    pub(crate) async fn next(&mut self) -> i32 {
        let number = tokio::select! {
            _ = self.interrupt.recv() => libc::SIGINT,
            _ = self.terminate.recv() => libc::SIGTERM,
        };
        128 + number
    }
}

/// Starts listening for one signal.
pub(crate) fn listen(kind: SignalKind) -> Result<Signal, Failure> {
    signal(kind).map_err(Failure::cannot("listen for signals"))
}

/// Waits for `work`. SIGINT or SIGTERM ends the process meanwhile.
pub(crate) async fn unless_interrupted<T>(work: impl Future<Output = T>) -> Result<T, Failure> {
    let mut interrupts = Interrupts::listen()?;
    tokio::select! {
        done = work => Ok(done),
        code = interrupts.next() => std::process::exit(code),
    }
}
