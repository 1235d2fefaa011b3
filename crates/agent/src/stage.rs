//! The agent's own program, run once more as the process that becomes init or a set-up script.
//!
//! Between `fork` and `exec` of a process with threads next to nothing is allowed; a process of
//! its own may do what it needs: enter new namespaces, mount, change its root, then turn into
//! the program.

use std::{
    convert::Infallible,
    ffi::CString,
    fs::File,
    io::{self, Write},
    os::{fd::OwnedFd, unix::process::CommandExt},
    process::{Command, ExitCode},
};

use nix::{
    mount::{MsFlags, mount},
    sched::{CloneFlags, unshare},
    unistd::{chdir, chroot, execv, sethostname},
};

use container_protocol::InitProgram;

use crate::{
    init::{INIT, built_in},
    machine::{MACHINE, mounts::MACHINE_CGROUP},
};

const NAME: &str = "container-stage";

/// What such a process becomes.
#[derive(Debug)]
pub enum Stage {
    /// The machine's init. Its standard input is a pipe on which a failure is told, and which
    /// closes by itself when init runs; standard output and error are the machine's console.
    Init {
        /// The program.
        program: InitProgram,
        /// The machine's host name.
        hostname: String,
    },
    /// A program that runs to its end before init starts.
    SetUp {
        /// The program, a path in the machine.
        program: String,
    },
}

impl Stage {
    /// The command that starts this process.
    pub fn command(&self) -> Command {
        let mut command = Command::new("/proc/self/exe");
        command.arg0(NAME);
        match self {
            Stage::Init {
                program: InitProgram::OfImage(program),
                hostname,
            } => command.args(["init", program, hostname]),
            Stage::Init {
                program: InitProgram::BuiltIn,
                hostname,
            } => command.args(["built-in-init", hostname]),
            Stage::SetUp { program } => command.args(["set-up", program]),
        };
        command
    }

    /// What this process is to become, if it was started by [`command`](Self::command).
    pub fn of_this_process() -> Option<Stage> {
        let mut arguments = std::env::args();
        if arguments.next()? != NAME {
            return None;
        }
        match (arguments.next()?.as_str(), arguments.next()?) {
            ("init", program) => Some(Stage::Init {
                program: InitProgram::OfImage(program),
                hostname: arguments.next()?,
            }),
            ("built-in-init", hostname) => Some(Stage::Init {
                program: InitProgram::BuiltIn,
                hostname,
            }),
            ("set-up", program) => Some(Stage::SetUp { program }),
            _ => None,
        }
    }

    /// Becomes it. Returns only on failure, which it tells.
    pub fn run(self) -> ExitCode {
        let mut report: Box<dyn Write> = Box::new(io::stderr());
        let outcome = match &self {
            Stage::Init { program, hostname } => take_report().and_then(|pipe| {
                report = Box::new(pipe);
                enter_namespaces(hostname)?;
                enter_machine()?;
                match program {
                    InitProgram::OfImage(_) => execute(INIT, &[INIT]),
                    // The agent's own binary, which is not on the machine's disk.
                    InitProgram::BuiltIn => execute("/proc/self/exe", &[built_in::NAME]),
                }
            }),
            Stage::SetUp { program } => unshare(CloneFlags::CLONE_NEWNS)
                .map_err(io::Error::from)
                .and_then(|()| become_script(program)),
        };
        let Err(error) = outcome;
        // Without its reader there is nobody to tell.
        let _ = write!(report, "{error}");
        ExitCode::from(127)
    }
}

/// Takes the reporting pipe off standard input, which becomes the console.
fn take_report() -> io::Result<File> {
    let pipe: OwnedFd = rustix::io::fcntl_dupfd_cloexec(io::stdin(), 3)?;
    rustix::stdio::dup2_stdin(io::stdout())?;
    Ok(File::from(pipe))
}

fn enter_namespaces(hostname: &str) -> io::Result<()> {
    std::fs::write(format!("{MACHINE_CGROUP}/cgroup.procs"), "0")?;
    unshare(
        CloneFlags::CLONE_NEWNS
            | CloneFlags::CLONE_NEWUTS
            | CloneFlags::CLONE_NEWIPC
            | CloneFlags::CLONE_NEWCGROUP,
    )?;
    sethostname(hostname)?;
    rustix::process::setsid()?;
    mount_own("cgroup2", &format!("{MACHINE}/sys/fs/cgroup"))
}

/// As a shell would run it: a text that does not say in its first line what runs it is for sh.
fn become_script(script: &str) -> io::Result<Infallible> {
    enter_machine()?;
    match execute(script, &[script]) {
        Err(error) if error.raw_os_error() == Some(nix::libc::ENOEXEC) => {
            execute("/bin/sh", &["/bin/sh", script])
        }
        Err(error) => {
            let advice = match error.kind() {
                io::ErrorKind::PermissionDenied => "is it executable?",
                _ => "is what its first line names there?",
            };
            let message = format!("{script} cannot be run: {error}; {advice}");
            Err(io::Error::new(error.kind(), message))
        }
    }
}

/// Turns this process into a program, with these arguments, the zeroth included.
fn execute(program: &str, arguments: &[&str]) -> io::Result<Infallible> {
    let arguments: Vec<CString> = arguments
        .iter()
        .map(|argument| CString::new(*argument))
        .collect::<Result<_, _>>()?;
    Ok(execv(&CString::new(program)?, &arguments)?)
}

/// Makes the machine's disk the root of all.
fn enter_machine() -> io::Result<()> {
    let private = MsFlags::MS_REC | MsFlags::MS_PRIVATE;
    mount(None::<&str>, "/", None::<&str>, private, None::<&str>)?;
    mount_own("proc", &format!("{MACHINE}/proc"))?;
    // The initramfs cannot be pivoted away from (pivot_root(2)); a move onto "/" is as good.
    chdir(MACHINE)?;
    mount(Some("."), "/", None::<&str>, MsFlags::MS_MOVE, None::<&str>)?;
    chroot(".")?;
    Ok(chdir("/")?)
}

fn mount_own(kind: &str, on: &str) -> io::Result<()> {
    let inert = MsFlags::MS_NOSUID | MsFlags::MS_NODEV | MsFlags::MS_NOEXEC;
    Ok(mount(Some(kind), on, Some(kind), inert, None::<&str>)?)
}
