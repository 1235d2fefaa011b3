//! The QEMU process: what it inherits, and that it never outlives us.
#![allow(unsafe_code)]

use std::{
    fs::File,
    io,
    os::fd::{OwnedFd, RawFd},
    path::Path,
    process::{Command, Stdio},
};

use command_fds::{CommandFdExt, FdMapping};
use nix::sys::{
    prctl::set_pdeathsig,
    signal::{SigSet, SigmaskHow, Signal, sigprocmask},
};
use tokio::process::Child;

/// Descriptors that QEMU gets, each under a number of its own.
#[derive(Debug, Default)]
pub struct Inherited {
    descriptors: Vec<OwnedFd>,
}

impl Inherited {
    /// Hands a descriptor over; returns the number under which QEMU finds it.
    pub fn add(&mut self, descriptor: OwnedFd) -> RawFd {
        self.descriptors.push(descriptor);
        Self::number(self.descriptors.len() - 1)
    }

    fn number(position: usize) -> RawFd {
        // Three streams come first; a machine has a handful of descriptors.
        3 + RawFd::try_from(position).unwrap_or(RawFd::MAX - 3)
    }
}

/// Starts `program`, which dies when the calling thread does.
pub fn spawn(
    program: &Path,
    arguments: &[String],
    inherited: Inherited,
    log: &Path,
) -> io::Result<Child> {
    let log = File::options().create(true).append(true).open(log)?;
    let mut command = Command::new(program);
    command
        .args(arguments)
        .stdin(Stdio::null())
        .stdout(log.try_clone()?)
        .stderr(log);
    let mappings = inherited.descriptors.into_iter().enumerate();
    let mappings = mappings.map(|(position, parent_fd)| FdMapping {
        child_fd: Inherited::number(position),
        parent_fd,
    });
    command
        .fd_mappings(mappings.collect())
        .map_err(io::Error::other)?;
    let parent = nix::unistd::getpid();
    let mut told_to_end = SigSet::empty();
    for signal in [Signal::SIGTERM, Signal::SIGINT, Signal::SIGHUP] {
        told_to_end.add(signal);
    }
    let die_with_parent = move || {
        set_pdeathsig(Signal::SIGKILL)?;
        // QEMU ends at once when it is told to, as all are when the host shuts down; the machine is
        // stopped in order by whoever runs it.
        sigprocmask(SigmaskHow::SIG_BLOCK, Some(&told_to_end), None)?;
        // The parent may have died before the request was made.
        if nix::unistd::getppid() == parent {
            Ok(())
        } else {
            Err(io::Error::from(io::ErrorKind::BrokenPipe))
        }
    };
    use std::os::unix::process::CommandExt;
    // SAFETY: the closure makes three system calls and neither allocates nor takes a lock.
    unsafe {
        command.pre_exec(die_with_parent);
    }
    let mut command = tokio::process::Command::from(command);
    command.kill_on_drop(true);
    command.spawn()
}
