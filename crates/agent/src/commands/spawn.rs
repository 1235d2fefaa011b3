//! Starts a process in the machine's namespaces.
#![allow(unsafe_code)]

use std::{
    fs::File,
    io,
    os::{
        fd::{AsFd, BorrowedFd, OwnedFd},
        unix::process::CommandExt,
    },
    process::{Command, Stdio},
};

use nix::{
    sched::{CloneFlags, setns},
    sys::resource::{Resource, setrlimit},
    unistd::{Gid, Uid, fchdir, setgid, setgroups, setsid, setuid},
};
use rustix::fs::{Mode, OFlags};
use tokio::process::Child;

use super::login::Login;
use crate::{namespace_thread, paths::MACHINE_CGROUP};

/// Soft and hard limit on open files. 1024 is the usual soft limit, above which `select(2)` does
/// not work; programs that need more raise it up to the hard one.
const OPEN_FILES: (u64, u64) = (1024, 1 << 20);

/// Standard streams of a new process.
pub(super) struct StandardStreams {
    pub stdin: OwnedFd,
    pub stdout: OwnedFd,
    pub stderr: OwnedFd,
    /// Whether standard input becomes the process's controlling terminal.
    pub controlling_terminal: bool,
}

impl StandardStreams {
    /// Returns `/dev/null` for all three.
    pub(super) fn null() -> io::Result<StandardStreams> {
        let null = OwnedFd::from(File::options().read(true).write(true).open("/dev/null")?);
        Ok(StandardStreams {
            stdin: null.try_clone()?,
            stdout: null.try_clone()?,
            stderr: null,
            controlling_terminal: false,
        })
    }
}

/// Everything that the child enters between `fork` and `exec`, opened before the fork.
struct ChildContext {
    cgroup: OwnedFd,
    namespaces: [(OwnedFd, CloneFlags); 4],
    directory: OwnedFd,
    directory_required: bool,
    root: OwnedFd,
    uid: Uid,
    gid: Gid,
    groups: Vec<Gid>,
    controlling_terminal: bool,
}

/// Starts `login` as a new session in the namespaces of the machine's init.
pub(super) async fn in_machine(
    init_pid: u32,
    login: Login,
    streams: StandardStreams,
) -> io::Result<Child> {
    let namespace =
        |name: &str| File::open(format!("/proc/{init_pid}/ns/{name}")).map(OwnedFd::from);
    let pid_namespace = namespace("pid")?;
    let root = rustix::fs::open(
        format!("/proc/{init_pid}/root"),
        OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC,
        Mode::empty(),
    )?;
    let context = ChildContext {
        cgroup: commands_cgroup()?,
        namespaces: [
            (namespace("cgroup")?, CloneFlags::CLONE_NEWCGROUP),
            (namespace("uts")?, CloneFlags::CLONE_NEWUTS),
            (namespace("ipc")?, CloneFlags::CLONE_NEWIPC),
            (namespace("mnt")?, CloneFlags::CLONE_NEWNS),
        ],
        directory: login.directory,
        directory_required: login.directory_required,
        root,
        uid: Uid::from_raw(login.uid),
        gid: Gid::from_raw(login.gid),
        groups: login.groups.into_iter().map(Gid::from_raw).collect(),
        controlling_terminal: streams.controlling_terminal,
    };
    let (name, arguments) = login
        .arguments
        .split_first()
        .ok_or(io::ErrorKind::InvalidInput)?;
    let mut command = Command::new(&login.program);
    command
        .arg0(name)
        .args(arguments)
        .env_clear()
        .envs(login.environment)
        .stdin(Stdio::from(streams.stdin))
        .stdout(Stdio::from(streams.stdout))
        .stderr(Stdio::from(streams.stderr));
    // SAFETY: `enter` only makes system calls on integers and on descriptors that were opened
    // before the fork. It neither allocates nor takes a lock.
    unsafe {
        command.pre_exec(move || enter(&context));
    }
    namespace_thread::run(move || {
        // Later children of this thread start in the machine's PID namespace.
        setns(pid_namespace, CloneFlags::CLONE_NEWPID)?;
        tokio::process::Command::from(command).spawn()
    })
    .await
}

/// Opens the cgroup that all commands share. Init creates its own cgroups beside it.
fn commands_cgroup() -> io::Result<OwnedFd> {
    let directory = format!("{MACHINE_CGROUP}/container-run");
    std::fs::create_dir_all(&directory)?;
    Ok(File::options()
        .write(true)
        .open(format!("{directory}/cgroup.procs"))?
        .into())
}

/// Moves the child into the machine. Runs between `fork` and `exec`.
fn enter(context: &ChildContext) -> io::Result<()> {
    nix::unistd::write(&context.cgroup, b"0")?;
    for (namespace, kind) in &context.namespaces {
        setns(namespace.as_fd(), *kind)?;
    }
    setsid()?;
    if context.controlling_terminal {
        // SAFETY: descriptor 0 is open: the parent made the terminal standard input.
        rustix::process::ioctl_tiocsctty(unsafe { BorrowedFd::borrow_raw(0) })?;
    }
    setrlimit(Resource::RLIMIT_NOFILE, OPEN_FILES.0, OPEN_FILES.1)?;
    setgroups(&context.groups)?;
    setgid(context.gid)?;
    setuid(context.uid)?;
    // As the user, whose permission to enter the directory counts.
    match fchdir(&context.directory) {
        Err(_) if !context.directory_required => fchdir(&context.root)?,
        other => other?,
    }
    Ok(())
}
