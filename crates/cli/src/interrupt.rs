//! Being asked to end while something is under way.

use std::{future::Future, io};

use tokio::signal::unix::{Signal, SignalKind, signal};

/// SIGINT and SIGTERM. Once there was one of these, neither signal ends the process by itself any
/// more: whoever waits for anything after that must listen, too.
pub struct Interrupts {
    interrupt: Signal,
    terminate: Signal,
}

impl Interrupts {
    /// Listens from now on.
    pub fn listen() -> io::Result<Interrupts> {
        Ok(Interrupts {
            interrupt: signal(SignalKind::interrupt())?,
            terminate: signal(SignalKind::terminate())?,
        })
    }

    /// Waits for the next one. Returns the exit code of a process that it ends.
    pub async fn next(&mut self) -> i32 {
        let number = tokio::select! {
            _ = self.interrupt.recv() => libc::SIGINT,
            _ = self.terminate.recv() => libc::SIGTERM,
        };
        128 + number
    }
}

/// Waits for what is under way; if this process is asked to end meanwhile, it ends.
pub async fn unless_interrupted<T>(work: impl Future<Output = T>) -> io::Result<T> {
    let mut interrupts = Interrupts::listen()?;
    tokio::select! {
        done = work => Ok(done),
        code = interrupts.next() => std::process::exit(code),
    }
}
