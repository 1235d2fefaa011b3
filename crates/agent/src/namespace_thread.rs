//! Starts processes from a thread of their own.
//!
//! `setns` and `unshare` of a PID namespace affect the children that the calling thread starts
//! later. The agent must not change the namespace of its event loop's thread, so it starts such
//! children from a thread that ends afterwards.

use std::{io, process::Command};

use nix::sched::{CloneFlags, unshare};
use tokio::{process::Child, runtime::Handle, sync::oneshot};

/// Starts `command` as the first process of a new PID namespace.
pub(crate) async fn spawn_in_new_pid_namespace(command: Command) -> io::Result<Child> {
    run(move || {
        unshare(CloneFlags::CLONE_NEWPID)?;
        tokio::process::Command::from(command).spawn()
    })
    .await
}

/// Runs `work` on a new thread, which may change its own namespaces, and returns its result.
pub(crate) async fn run<T: Send + 'static>(
    work: impl FnOnce() -> io::Result<T> + Send + 'static,
) -> io::Result<T> {
    let (result, done) = oneshot::channel();
    let events = Handle::current();
    std::thread::Builder::new().spawn(move || {
        // The event loop reaps the child: starting one needs its context.
        let _entered = events.enter();
        // Fails only if the caller was cancelled.
        let _ = result.send(work());
    })?;
    done.await
        .unwrap_or_else(|_| Err(io::Error::other("the thread ended without a result")))
}
