//! Starts a process in the machine's namespaces.
#![allow(unsafe_code)]

use std::{
    ffi::{OsStr, OsString},
    fs::File,
    io,
    os::{
        fd::{AsFd, BorrowedFd, OwnedFd},
        unix::process::CommandExt,
    },
    path::Path,
    process::{Command, Stdio},
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use nix::{
    errno::Errno,
    libc,
    sched::{CloneFlags, setns},
    unistd::{Gid, Uid, chdir, setgid, setgroups, setsid, setuid},
};
use rustix::{io::FdFlags, pipe::PipeFlags};
use tokio::{process::Child, time::timeout};

use super::login::{Login, Preference, Program, shown};
use crate::{machine::GuestRoot, namespace_thread, paths::MACHINE_CGROUP};

/// Timeout for entering the working directory and executing the program. Either may be on a file
/// system that does not answer.
const START_TIMEOUT: Duration = Duration::from_secs(60);

/// Standard streams of a new process.
pub(super) struct StandardStreams {
    pub stdin: OwnedFd,
    pub stdout: OwnedFd,
    pub stderr: OwnedFd,
    /// Whether standard input becomes the process's controlling terminal.
    pub controlling_terminal: bool,
}

impl StandardStreams {
    fn try_clone(&self) -> io::Result<StandardStreams> {
        Ok(StandardStreams {
            stdin: self.stdin.try_clone()?,
            stdout: self.stdout.try_clone()?,
            stderr: self.stderr.try_clone()?,
            controlling_terminal: self.controlling_terminal,
        })
    }

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

/// Error of starting a command.
#[derive(Debug, thiserror::Error)]
pub(super) enum SpawnError {
    /// A step before the program was executed failed.
    #[error("cannot enter the machine: {0}")]
    Enter(io::Error),
    /// The user cannot enter the required working directory.
    #[error("cannot use the working directory {path} in the machine: {cause}")]
    Directory { path: String, cause: io::Error },
    /// The working directory or the program cannot be reached.
    #[error(
        "timed out after {} s entering {path} in the machine (does a file system of the host not \
         answer?)",
        START_TIMEOUT.as_secs()
    )]
    TimedOut { path: String },
    /// The program does not exist.
    #[error("command {0:?} not found in the machine")]
    NotFound(OsString),
    /// The program cannot be executed.
    #[error("cannot start {program:?} in the machine: {cause}{}", hint(.cause))]
    Program { program: OsString, cause: io::Error },
}

impl From<io::Error> for SpawnError {
    fn from(cause: io::Error) -> SpawnError {
        SpawnError::Enter(cause)
    }
}

/// Returns what the error of execve(2) does not say.
fn hint(cause: &io::Error) -> &'static str {
    match cause.raw_os_error() {
        Some(libc::ENOENT) => " (its interpreter or loader is missing)",
        Some(libc::E2BIG) => {
            " (Linux allows 2 MiB for all arguments and variables, and 128 KiB for each)"
        }
        Some(libc::ENOEXEC) => " (a script needs #! and its interpreter in the first line)",
        _ => "",
    }
}

/// A started command.
pub(super) struct Started {
    pub child: Child,
    /// Sentences about the start that the user should read.
    pub notes: Vec<String>,
}

/// Everything that the child enters between `fork` and `exec`, opened before the fork.
struct ChildContext {
    cgroup: OwnedFd,
    namespaces: [(OwnedFd, CloneFlags); 4],
    login: Login,
    groups: Vec<Gid>,
    controlling_terminal: bool,
    /// Pipe for the [`EntryReport`].
    report: OwnedFd,
}

/// Starts `login` as a new session in the namespaces of the machine's init, and in `cgroup` or that
/// of all commands. Falls back to another shell if the login shell cannot be executed.
pub(super) async fn in_machine(
    init_pid: u32,
    login: Login,
    streams: StandardStreams,
    cgroup: Option<&Path>,
) -> Result<Started, SpawnError> {
    let namespace =
        |name: &str| File::open(format!("/proc/{init_pid}/ns/{name}")).map(OwnedFd::from);
    let pid_namespace = Arc::new(namespace("pid")?);
    let (reports, report) = rustix::pipe::pipe_with(PipeFlags::CLOEXEC | PipeFlags::NONBLOCK)
        .map_err(io::Error::from)?;
    let context = Arc::new(ChildContext {
        cgroup: match cgroup.map(open_cgroup) {
            Some(Ok(opened)) => opened,
            // A login session may have ended meanwhile.
            Some(Err(_)) | None => commands_cgroup()?,
        },
        namespaces: [
            (namespace("cgroup")?, CloneFlags::CLONE_NEWCGROUP),
            (namespace("uts")?, CloneFlags::CLONE_NEWUTS),
            (namespace("ipc")?, CloneFlags::CLONE_NEWIPC),
            (namespace("mnt")?, CloneFlags::CLONE_NEWNS),
        ],
        groups: login.groups.iter().copied().map(Gid::from_raw).collect(),
        controlling_terminal: streams.controlling_terminal,
        report,
        login,
    });
    let mut notes = Vec::new();
    let mut programs = context.login.programs.iter().peekable();
    while let Some(program) = programs.next() {
        let command = command(&context, program, streams.try_clone()?)?;
        let pid_namespace = Arc::clone(&pid_namespace);
        let is_abandoned = Arc::new(AtomicBool::new(false));
        let was_abandoned = Arc::clone(&is_abandoned);
        let spawning = namespace_thread::run(move || {
            // Later children of this thread start in the machine's PID namespace.
            setns(&*pid_namespace, CloneFlags::CLONE_NEWPID)?;
            let mut child = tokio::process::Command::from(command).spawn()?;
            if was_abandoned.load(Ordering::Acquire) {
                child.start_kill()?;
            }
            Ok(child)
        });
        let Ok(spawned) = timeout(START_TIMEOUT, spawning).await else {
            is_abandoned.store(true, Ordering::Release);
            let path = context.login.directories.first();
            return Err(SpawnError::TimedOut {
                path: path.map(shown).unwrap_or_default(),
            });
        };
        let error = match (spawned, EntryReport::read(&reports)) {
            (Ok(child), report) => {
                notes.extend(report.and_then(|report| report.note(&context.login)));
                return Ok(Started { child, notes });
            }
            (Err(error), report) => classify(error, report, program, &context.login),
        };
        match (&error, programs.peek()) {
            (SpawnError::NotFound(_) | SpawnError::Program { .. }, Some(next)) => {
                notes.push(format!("{error}; using {}.", next.path.display()));
            }
            _ => return Err(error),
        }
    }
    Err(SpawnError::Enter(io::ErrorKind::InvalidInput.into()))
}

fn command(
    context: &Arc<ChildContext>,
    program: &Program,
    streams: StandardStreams,
) -> io::Result<Command> {
    let (name, arguments) = program
        .arguments
        .split_first()
        .ok_or(io::ErrorKind::InvalidInput)?;
    let mut command = Command::new(&program.path);
    command
        .arg0(name)
        .args(arguments)
        .env_clear()
        .envs(context.login.environment.iter())
        .stdin(Stdio::from(streams.stdin))
        .stdout(Stdio::from(streams.stdout))
        .stderr(Stdio::from(streams.stderr));
    let own = context.login.programs.first();
    if program.is_shell && own.is_some_and(|own| own.path != program.path) {
        command.env("SHELL", &program.path);
    }
    let context = Arc::clone(context);
    // SAFETY: `enter` only makes system calls on integers and on descriptors that were opened
    // before the fork. It neither allocates nor takes a lock.
    unsafe {
        command.pre_exec(move || enter(&context));
    }
    Ok(command)
}

/// Returns the error of a start. An absent report means that the child did not get as far as
/// executing the program.
fn classify(
    error: io::Error,
    report: Option<EntryReport>,
    program: &Program,
    login: &Login,
) -> SpawnError {
    match report {
        None => SpawnError::Enter(error),
        Some(EntryReport { entered: None, .. }) => SpawnError::Directory {
            path: login.directories.first().map(shown).unwrap_or_default(),
            cause: error,
        },
        Some(_) if error.kind() == io::ErrorKind::NotFound && !exists(&program.path) => {
            SpawnError::NotFound(program.path.clone())
        }
        Some(_) => SpawnError::Program {
            program: program.path.clone(),
            cause: error,
        },
    }
}

/// Returns whether a program that is named by its absolute path exists, without what it needs.
fn exists(program: &OsStr) -> bool {
    let path = program.to_str().filter(|path| path.starts_with('/'));
    path.is_some_and(|path| GuestRoot::open().is_ok_and(|root| root.exists(path)))
}

/// What a child writes to its pipe before it executes the program.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct EntryReport {
    /// Position of the entered directory; absent if none could be entered.
    entered: Option<usize>,
    /// Error of the first directory; 0 if it was entered.
    first_error: i32,
}

impl EntryReport {
    fn read(pipe: &OwnedFd) -> Option<EntryReport> {
        let mut bytes = [0; 2];
        let count = rustix::io::read(pipe, &mut bytes).ok()?;
        (count == bytes.len()).then(|| EntryReport {
            entered: (bytes[0] != u8::MAX).then_some(bytes[0].into()),
            first_error: bytes[1].into(),
        })
    }

    /// Writes the report. The child has no other way to pass more than an error number on.
    fn write(self, pipe: &OwnedFd) -> io::Result<()> {
        let entered = self.entered.and_then(|index| u8::try_from(index).ok());
        let error = u8::try_from(self.first_error).unwrap_or(u8::MAX);
        rustix::io::write(pipe, &[entered.unwrap_or(u8::MAX), error])?;
        Ok(())
    }

    /// Returns a note if the command runs in another directory than the preferred one.
    fn note(self, login: &Login) -> Option<String> {
        let index = self.entered.filter(|index| *index > 0)?;
        if login.directory == Preference::None {
            return None;
        }
        let first = login.directories.first().map(shown)?;
        let entered = login.directories.get(index).map(shown)?;
        let cause = io::Error::from_raw_os_error(self.first_error);
        Some(format!(
            "cannot use the directory {first} in the machine: {cause}; the command runs in {entered}."
        ))
    }
}

/// Opens the cgroup that all commands share. Init creates its own cgroups beside it.
fn commands_cgroup() -> io::Result<OwnedFd> {
    let directory = format!("{MACHINE_CGROUP}/container-run");
    std::fs::create_dir_all(&directory)?;
    open_cgroup(Path::new(&directory))
}

/// Opens the file of a cgroup by which processes enter it.
fn open_cgroup(directory: &Path) -> io::Result<OwnedFd> {
    let processes = File::options()
        .write(true)
        .open(directory.join("cgroup.procs"))?;
    Ok(processes.into())
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
    let login = &context.login;
    login.limits.apply();
    if let Some(line) = &login.line {
        rustix::io::fcntl_setfd(line, FdFlags::empty())?;
    }
    setgroups(&context.groups)?;
    setgid(Gid::from_raw(login.gid))?;
    setuid(Uid::from_raw(login.uid))?;
    enter_directory(context)
}

/// Enters the first possible directory, and reports which. As the user, whose permissions count.
fn enter_directory(context: &ChildContext) -> io::Result<()> {
    let mut first_error = None;
    for (index, directory) in context.login.directories.iter().enumerate() {
        match chdir(directory.as_c_str()) {
            Ok(()) => {
                let report = EntryReport {
                    entered: Some(index),
                    first_error: first_error.map_or(0, |error: Errno| error as i32),
                };
                return report.write(&context.report);
            }
            Err(error) => _ = first_error.get_or_insert(error),
        }
    }
    let error = first_error.unwrap_or(Errno::ENOENT);
    let report = EntryReport {
        entered: None,
        first_error: error as i32,
    };
    report.write(&context.report)?;
    Err(error.into())
}
