//! The guest's processes that wait for a lock.
//!
//! A waiter has a thread of its own, which waits in the kernel. It is interrupted by a signal to
//! that thread.

use std::{
    collections::HashMap,
    io,
    sync::{
        Arc, Condvar, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use nix::sys::{
    pthread::{Pthread, pthread_kill, pthread_self},
    signal::{SaFlags, SigAction, SigHandler, SigSet, Signal, sigaction},
};

/// Limit of waiters. Each has a thread and a descriptor.
pub(crate) const MAX_WAITERS: usize = 256;

/// Signal that ends a system call of a waiter.
const INTERRUPT: Signal = Signal::SIGUSR1;

/// The waiters of a file system.
#[derive(Debug, Default)]
pub struct Waiters {
    list: Mutex<List>,
    changed: Condvar,
}

#[derive(Debug, Default)]
struct List {
    last_number: u64,
    waiters: HashMap<u64, Waiter>,
}

#[derive(Debug)]
struct Waiter {
    /// Id of the thread in the guest.
    guest_thread: u32,
    thread: Pthread,
    is_interrupted: Arc<AtomicBool>,
}

/// A thread that waits, until this is dropped.
#[derive(Debug)]
pub(crate) struct Waiting<'a> {
    waiters: &'a Waiters,
    number: u64,
    is_interrupted: Arc<AtomicBool>,
}

impl Waiters {
    fn list(&self) -> MutexGuard<'_, List> {
        self.list.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Prepares this process for interrupting waiters.
    pub(crate) fn prepare_process() -> io::Result<()> {
        extern "C" fn ignore(_: libc::c_int) {}
        let action = SigAction::new(
            SigHandler::Handler(ignore),
            // Without SA_RESTART, so that system calls end.
            SaFlags::empty(),
            SigSet::empty(),
        );
        #[expect(unsafe_code, reason = "a signal handler is installed")]
        // SAFETY: The handler does nothing.
        unsafe {
            sigaction(INTERRUPT, &action)?;
        }
        Ok(())
    }

    /// Registers this thread as waiting for a thread of the guest. Fails with `ENOLCK` if too many
    /// wait.
    pub(crate) fn enter(&self, guest_thread: u32) -> io::Result<Waiting<'_>> {
        let mut list = self.list();
        if list.waiters.len() >= MAX_WAITERS {
            return Err(io::Error::from_raw_os_error(libc::ENOLCK));
        }
        list.last_number += 1;
        let number = list.last_number;
        let is_interrupted = Arc::new(AtomicBool::new(false));
        let waiter = Waiter {
            guest_thread,
            thread: pthread_self(),
            is_interrupted: Arc::clone(&is_interrupted),
        };
        list.waiters.insert(number, waiter);
        self.changed.notify_all();
        Ok(Waiting {
            waiters: self,
            number,
            is_interrupted,
        })
    }

    /// Returns whether no thread waits.
    pub(crate) fn is_empty(&self) -> bool {
        self.list().waiters.is_empty()
    }

    /// Returns the guest's threads that wait. Blocks while there are none; otherwise it takes
    /// `interval`.
    pub fn guest_threads(&self, interval: Duration) -> Vec<u32> {
        let list = self.list();
        let list = self
            .changed
            .wait_while(list, |list| list.waiters.is_empty());
        let list = list.unwrap_or_else(PoisonError::into_inner);
        let list = self
            .changed
            .wait_timeout_while(list, interval, |_| true)
            .unwrap_or_else(PoisonError::into_inner)
            .0;
        let threads = list.waiters.values();
        threads.map(|waiter| waiter.guest_thread).collect()
    }

    /// Ends the waiting of some of the guest's threads with `EINTR`. It may miss one that has not
    /// begun its system call yet, and is to be called again while that thread still waits.
    pub fn interrupt(&self, guest_threads: &[u32]) {
        // A thread removes itself from the list before it ends, so all of them exist.
        for waiter in self.list().waiters.values() {
            if guest_threads.contains(&waiter.guest_thread) {
                waiter.is_interrupted.store(true, Ordering::Release);
                if let Err(error) = pthread_kill(waiter.thread, INTERRUPT) {
                    log::warn!("cannot interrupt a waiter: {error}");
                }
            }
        }
        self.changed.notify_all();
    }
}

impl Waiting<'_> {
    pub(crate) fn is_interrupted(&self) -> bool {
        self.is_interrupted.load(Ordering::Acquire)
    }

    /// Calls a blocking system call until it is done or this waiter is interrupted.
    pub(crate) fn wait(&self, mut call: impl FnMut() -> io::Result<()>) -> io::Result<()> {
        loop {
            if self.is_interrupted() {
                return Err(io::Error::from_raw_os_error(libc::EINTR));
            }
            match call() {
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                other => return other,
            }
        }
    }

    /// Waits for `interval`, or less if it is interrupted.
    pub(crate) fn sleep(&self, interval: Duration) {
        let list = self.waiters.list();
        // The result says only whether the time is over.
        let _ = self
            .waiters
            .changed
            .wait_timeout_while(list, interval, |_| !self.is_interrupted());
    }
}

impl Drop for Waiting<'_> {
    fn drop(&mut self) {
        self.waiters.list().waiters.remove(&self.number);
    }
}
