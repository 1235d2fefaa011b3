//! Root directory of the programs that the kernel itself starts.
//!
//! `modprobe` for a missing feature, the handler in `core_pattern` and `request-key` are started
//! from a kernel thread. Those share their root and working directory with PID 1's first thread
//! (the kernel creates both with `CLONE_FS`), and no execution of a program ends that. So this
//! module leaves the first thread with nothing to do but to change its root, and the agent runs on
//! another one, which keeps the initramfs as its root.
//!
//! The programs run in the machine's files, but outside of its PID namespace: `/proc` there lists
//! every process of the guest, by the number that `%P` in `core_pattern` stands for.

use std::{
    io,
    path::Path,
    process::ExitCode,
    sync::mpsc::{Receiver, Sender, channel},
    thread,
};

use nix::{
    mount::{MntFlags, MsFlags, mount, umount2},
    sched::{CloneFlags, unshare},
    unistd::{chdir, chroot, fchdir, sethostname},
};
use rustix::fs::{Mode, OFlags};
use tokio::sync::oneshot;

use crate::{kernel_log, paths::MACHINE};

/// Root directory to change to.
#[derive(Debug, Clone, Copy)]
enum Root {
    Machine,
    Initramfs,
}

/// Changes the root of the kernel's programs.
#[derive(Debug, Clone)]
pub(crate) struct HelperRoot {
    requests: Sender<(Root, oneshot::Sender<io::Result<()>>)>,
}

impl HelperRoot {
    /// Runs `agent` on a thread with a root of its own, and keeps this one, which must be the first
    /// of PID 1, for changes of the kernel's root. Returns when `agent` has.
    pub(crate) fn serve_while(
        agent: impl FnOnce(HelperRoot) -> ExitCode + Send + 'static,
    ) -> ExitCode {
        let (requests, received) = channel();
        let root = HelperRoot { requests };
        let started = thread::Builder::new().spawn(move || {
            if let Err(error) = unshare(CloneFlags::CLONE_FS) {
                kernel_log::error(&format!("cannot separate the kernel's root: {error}"));
            }
            agent(root)
        });
        match started {
            Ok(thread) => {
                serve(&received);
                thread.join().unwrap_or(ExitCode::FAILURE)
            }
            Err(error) => {
                kernel_log::error(&format!("cannot start the agent's thread: {error}"));
                ExitCode::FAILURE
            }
        }
    }

    /// Makes the machine's disk the root, and its name the host name, which the kernel's programs
    /// see. A failure is only logged.
    pub(crate) async fn enter_machine(&self, hostname: &str) {
        if let Err(error) = sethostname(hostname) {
            kernel_log::error(&format!("cannot set the host name: {error}"));
        }
        let on = Path::new(MACHINE).join("proc");
        // The machine has another one, in a mount namespace of its own.
        let mounted = mount(
            Some("proc"),
            &on,
            Some("proc"),
            MsFlags::MS_NOSUID | MsFlags::MS_NODEV | MsFlags::MS_NOEXEC,
            None::<&str>,
        );
        if let Err(error) = mounted {
            kernel_log::error(&format!("cannot mount {}: {error}", on.display()));
        }
        self.change_to(Root::Machine).await;
    }

    /// Makes the initramfs the root again, so that the machine's disk can be unmounted.
    pub(crate) async fn leave_machine(&self) {
        self.change_to(Root::Initramfs).await;
        // Fails if it is not mounted; else a later attempt has better chances.
        let _ = umount2(&Path::new(MACHINE).join("proc"), MntFlags::MNT_DETACH);
    }

    async fn change_to(&self, root: Root) {
        let (reply, changed) = oneshot::channel();
        let requested = self.requests.send((root, reply));
        let changed = match requested {
            Ok(()) => changed
                .await
                .unwrap_or_else(|error| Err(io::Error::other(error))),
            Err(error) => Err(io::Error::other(error.to_string())),
        };
        if let Err(error) = changed {
            kernel_log::error(&format!(
                "programs that the kernel starts cannot run in the machine: {error}"
            ));
        }
    }
}

/// Changes the root of this thread on request, until nobody can request it any more.
fn serve(requests: &Receiver<(Root, oneshot::Sender<io::Result<()>>)>) {
    let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
    let initramfs = rustix::fs::open("/", flags, Mode::empty());
    while let Ok((root, reply)) = requests.recv() {
        let changed = match (root, &initramfs) {
            (Root::Machine, _) => chroot(MACHINE).and_then(|()| chdir("/")),
            (Root::Initramfs, Ok(initramfs)) => fchdir(initramfs).and_then(|()| chroot(".")),
            (Root::Initramfs, Err(_)) => Err(nix::Error::EBADF),
        };
        // Fails if the agent has stopped waiting.
        let _ = reply.send(changed.map_err(io::Error::from));
    }
}
