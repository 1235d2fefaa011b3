//! Starts the QEMU process: inherited descriptors, signals, and its end with its parent.
#![allow(unsafe_code)]

use std::{
    io::{self, PipeWriter},
    os::{
        fd::{OwnedFd, RawFd},
        unix::process::CommandExt,
    },
    path::Path,
    process::{Command, Stdio},
};

use command_fds::{CommandFdExt, FdMapping};
use landlock::RulesetCreated;
use nix::sys::{
    prctl::set_pdeathsig,
    signal::{SigSet, SigmaskHow, Signal, sigprocmask},
};
use tokio::process::Child;

/// Descriptors that QEMU inherits, numbered in the order of their addition.
#[derive(Debug, Default)]
pub(super) struct Inherited {
    descriptors: Vec<OwnedFd>,
}

impl Inherited {
    /// Adds a descriptor, and returns its number in the QEMU process.
    pub(super) fn add(&mut self, descriptor: OwnedFd) -> RawFd {
        self.descriptors.push(descriptor);
        Self::number(self.descriptors.len() - 1)
    }

    fn number(position: usize) -> RawFd {
        // After the three standard streams. A machine has a handful of descriptors.
        3 + RawFd::try_from(position).unwrap_or(RawFd::MAX - 3)
    }
}

/// Starts `program`, restricted by `rules`, with both its outputs in the pipe `output`. It is
/// killed when the calling thread ends.
pub(super) fn spawn(
    program: &Path,
    arguments: &[String],
    mut rules: Option<RulesetCreated>,
    inherited: Inherited,
    output: PipeWriter,
) -> io::Result<Child> {
    let mut command = Command::new(program);
    command
        .args(arguments)
        .stdin(Stdio::null())
        .stdout(output.try_clone()?)
        .stderr(output);
    let restrict = move || match rules.take() {
        Some(rules) => rules.restrict_self().map(drop).map_err(io::Error::other),
        None => Ok(()),
    };
    // SAFETY: unless it fails, the closure makes two system calls and closes a descriptor, and
    // neither allocates nor takes a lock.
    unsafe {
        command.pre_exec(restrict);
    }
    // The rules are a descriptor, whose number may be that of an inherited one, so these follow.
    let mappings = inherited.descriptors.into_iter().enumerate();
    let mappings = mappings.map(|(position, parent_fd)| FdMapping {
        child_fd: Inherited::number(position),
        parent_fd,
    });
    command
        .fd_mappings(mappings.collect())
        .map_err(io::Error::other)?;
    let parent = nix::unistd::getpid();
    let mut ignored = SigSet::empty();
    for signal in [Signal::SIGTERM, Signal::SIGINT, Signal::SIGHUP] {
        ignored.add(signal);
    }
    let die_with_parent = move || {
        set_pdeathsig(Signal::SIGKILL)?;
        // A host that shuts down sends SIGTERM to all processes, and QEMU would end at once. The
        // runtime gets the signal too, and shuts the machine down.
        sigprocmask(SigmaskHow::SIG_BLOCK, Some(&ignored), None)?;
        // The parent may have ended before prctl(2) took effect; then no signal comes.
        if nix::unistd::getppid() == parent {
            Ok(())
        } else {
            Err(io::Error::from(io::ErrorKind::BrokenPipe))
        }
    };
    // SAFETY: the closure makes three system calls, and neither allocates nor takes a lock.
    unsafe {
        command.pre_exec(die_with_parent);
    }
    let mut command = tokio::process::Command::from(command);
    command.kill_on_drop(true);
    command.spawn()
}
