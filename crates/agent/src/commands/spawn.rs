//! Starting a process in the machine's namespaces.
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
use crate::{init::on_own_thread, machine::mounts::MACHINE_CGROUP};

/// The limits on open files that a login starts with: the usual soft one, and a hard one that
/// leaves room for those who ask.
const OPEN_FILES: (u64, u64) = (1024, 1 << 20);

/// What the process gets as its standard streams.
pub struct Streams {
    /// Standard input.
    pub stdin: OwnedFd,
    /// Standard output.
    pub stdout: OwnedFd,
    /// Standard error.
    pub stderr: OwnedFd,
    /// Whether standard input is to be the process's controlling terminal.
    pub controlling_terminal: bool,
}

impl Streams {
    /// No input, and output that is thrown away.
    pub fn null() -> io::Result<Streams> {
        let null = OwnedFd::from(File::options().read(true).write(true).open("/dev/null")?);
        Ok(Streams {
            stdin: null.try_clone()?,
            stdout: null.try_clone()?,
            stderr: null,
            controlling_terminal: false,
        })
    }
}

/// What the child enters between `fork` and `exec`, opened before.
struct Surroundings {
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

/// Starts `login` beside the machine's init, as a session of its own.
pub async fn in_machine(init: u32, login: Login, streams: Streams) -> io::Result<Child> {
    let namespace = |name: &str| File::open(format!("/proc/{init}/ns/{name}")).map(OwnedFd::from);
    let pid_namespace = namespace("pid")?;
    let root = rustix::fs::open(
        format!("/proc/{init}/root"),
        OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC,
        Mode::empty(),
    )?;
    let surroundings = Surroundings {
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
    let mut command = Command::new(&login.program);
    command
        .arg0(&login.arguments[0])
        .args(&login.arguments[1..])
        .env_clear()
        .envs(login.environment)
        .stdin(Stdio::from(streams.stdin))
        .stdout(Stdio::from(streams.stdout))
        .stderr(Stdio::from(streams.stderr));
    // SAFETY: `enter` makes system calls on integers and descriptors opened before the fork; it
    // neither allocates nor takes a lock.
    unsafe {
        command.pre_exec(move || enter(&surroundings));
    }
    on_own_thread(move || {
        // Children of this thread start in the machine's PID namespace.
        setns(pid_namespace, CloneFlags::CLONE_NEWPID)?;
        tokio::process::Command::from(command).spawn()
    })
    .await
}

/// The cgroup that commands share, beside what init makes for itself.
fn commands_cgroup() -> io::Result<OwnedFd> {
    let directory = format!("{MACHINE_CGROUP}/container-run");
    std::fs::create_dir_all(&directory)?;
    Ok(File::options()
        .write(true)
        .open(format!("{directory}/cgroup.procs"))?
        .into())
}

fn enter(surroundings: &Surroundings) -> io::Result<()> {
    nix::unistd::write(&surroundings.cgroup, b"0")?;
    for (namespace, kind) in &surroundings.namespaces {
        setns(namespace.as_fd(), *kind)?;
    }
    setsid()?;
    if surroundings.controlling_terminal {
        // SAFETY: descriptor 0 is open: it is the terminal that the parent put there.
        rustix::process::ioctl_tiocsctty(unsafe { BorrowedFd::borrow_raw(0) })?;
    }
    setrlimit(Resource::RLIMIT_NOFILE, OPEN_FILES.0, OPEN_FILES.1)?;
    setgroups(&surroundings.groups)?;
    setgid(surroundings.gid)?;
    setuid(surroundings.uid)?;
    match fchdir(&surroundings.directory) {
        Err(_) if !surroundings.directory_required => fchdir(&surroundings.root)?,
        other => other?,
    }
    Ok(())
}
