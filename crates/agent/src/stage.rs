//! The process between the agent and the machine's init or a set-up script.
//!
//! Almost nothing is allowed between `fork` and `exec` of a process with threads. So the agent
//! starts its own binary again. That process can do what it needs (enter new namespaces, mount,
//! change its root) before it executes the program.

use std::{
    convert::Infallible,
    ffi::CString,
    fs::{self, File},
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
    built_in_init, open_files,
    paths::{INIT, INIT_CGROUP, MACHINE, MACHINE_CGROUP},
};

/// Zeroth argument of a stage's process.
pub(crate) const NAME: &str = "container-stage";

/// A stage, by the program that it executes at its end.
#[derive(Debug)]
pub(crate) enum Stage {
    /// The machine's init. Standard input is a pipe that carries the stage's error message and is
    /// closed when init is executed; standard output and error are the machine's console.
    Init {
        /// The image's init, or the built-in one.
        program: InitProgram,
        /// The machine's host name.
        hostname: String,
    },
    /// A set-up script, which runs to its end before init starts.
    SetUp {
        /// The script's path in the machine.
        program: String,
    },
}

impl Stage {
    /// Returns the command that starts the stage.
    pub(crate) fn command(&self) -> Command {
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
            Stage::Init {
                program: InitProgram::Rescue,
                hostname,
            } => command.args(["rescue", hostname]),
            Stage::SetUp { program } => command.args(["set-up", program]),
        };
        command
    }

    /// Parses the arguments that [`command`](Self::command) passes, without the zeroth.
    fn parse(mut arguments: impl Iterator<Item = String>) -> Option<Stage> {
        match (arguments.next()?.as_str(), arguments.next()?) {
            ("init", program) => Some(Stage::Init {
                program: InitProgram::OfImage(program),
                hostname: arguments.next()?,
            }),
            ("built-in-init", hostname) => Some(Stage::Init {
                program: InitProgram::BuiltIn,
                hostname,
            }),
            ("rescue", hostname) => Some(Stage::Init {
                program: InitProgram::Rescue,
                hostname,
            }),
            ("set-up", program) => Some(Stage::SetUp { program }),
            _ => None,
        }
    }
}

/// Runs the stage that this process was started as. Returns only on failure, which it reports on
/// the pipe or on standard error.
pub(crate) fn run() -> ExitCode {
    let mut report: Box<dyn Write> = Box::new(io::stderr());
    let Err(error) = match Stage::parse(std::env::args().skip(1)) {
        Some(Stage::Init { program, hostname }) => take_report_pipe().and_then(|pipe| {
            report = Box::new(pipe);
            open_files::set_limit_of_init()?;
            enter_namespaces(&hostname)?;
            if !program.is_systemd() {
                delegate_cgroups()?;
            }
            enter_machine()?;
            match program {
                // By the link and not the resolved path: busybox chooses its applet by the name.
                InitProgram::OfImage(_) => execute(INIT, &[INIT]),
                // The machine's disk has no copy of the agent's binary.
                InitProgram::BuiltIn | InitProgram::Rescue => {
                    execute("/proc/self/exe", &[built_in_init::NAME])
                }
            }
        }),
        Some(Stage::SetUp { program }) => unshare(CloneFlags::CLONE_NEWNS)
            .map_err(io::Error::from)
            .and_then(|()| open_files::set_limit_of_init())
            .and_then(|()| execute_script(&program)),
        None => Err(io::Error::other("invalid arguments of a stage")),
    };
    // Fails only if the agent has closed the other end.
    let _ = write!(report, "{error}");
    ExitCode::from(127)
}

/// Moves the report pipe from standard input to a descriptor of its own that `exec` closes, and
/// makes the console standard input.
fn take_report_pipe() -> io::Result<File> {
    let pipe: OwnedFd = rustix::io::fcntl_dupfd_cloexec(io::stdin(), 3)?;
    rustix::stdio::dup2_stdin(io::stdout())?;
    Ok(File::from(pipe))
}

fn enter_namespaces(hostname: &str) -> io::Result<()> {
    // The cgroup comes first: it becomes the root of the new cgroup namespace.
    fs::write(format!("{MACHINE_CGROUP}/cgroup.procs"), "0")?;
    unshare(
        CloneFlags::CLONE_NEWNS
            | CloneFlags::CLONE_NEWUTS
            | CloneFlags::CLONE_NEWIPC
            | CloneFlags::CLONE_NEWCGROUP,
    )?;
    sethostname(hostname)?;
    rustix::process::setsid()?;
    mount_pseudo("cgroup2", &format!("{MACHINE}/sys/fs/cgroup"))
}

/// Moves this process from the root of its cgroup namespace to a leaf, and gives all controllers to
/// the cgroups below the root. systemd does both itself, and would take the leaf for the root.
fn delegate_cgroups() -> io::Result<()> {
    fs::create_dir_all(INIT_CGROUP)?;
    fs::write(format!("{INIT_CGROUP}/cgroup.procs"), "0")?;
    for controller in
        fs::read_to_string(format!("{MACHINE_CGROUP}/cgroup.controllers"))?.split_whitespace()
    {
        // The machine runs without a controller that cannot be enabled.
        let _ = fs::write(
            format!("{MACHINE_CGROUP}/cgroup.subtree_control"),
            format!("+{controller}"),
        );
    }
    Ok(())
}

/// Executes a script in the machine as a shell would: one without `#!` is run by `/bin/sh`.
fn execute_script(script: &str) -> io::Result<Infallible> {
    enter_machine()?;
    match execute(script, &[script]) {
        Err(error) if error.raw_os_error() == Some(nix::libc::ENOEXEC) => {
            execute("/bin/sh", &["/bin/sh", script])
        }
        Err(error) => {
            let advice = match error.kind() {
                io::ErrorKind::PermissionDenied => "is it executable?",
                _ => "does the interpreter in its first line exist?",
            };
            let message = format!("cannot run {script}: {error}; {advice}");
            Err(io::Error::new(error.kind(), message))
        }
    }
}

/// Replaces this process by a program. `arguments` includes the zeroth.
fn execute(program: &str, arguments: &[&str]) -> io::Result<Infallible> {
    let arguments: Vec<CString> = arguments
        .iter()
        .map(|argument| CString::new(*argument))
        .collect::<Result<_, _>>()?;
    Ok(execv(&CString::new(program)?, &arguments)?)
}

/// Makes the machine's disk the root directory.
fn enter_machine() -> io::Result<()> {
    let private = MsFlags::MS_REC | MsFlags::MS_PRIVATE;
    mount(None::<&str>, "/", None::<&str>, private, None::<&str>)?;
    mount_pseudo("proc", &format!("{MACHINE}/proc"))?;
    // pivot_root(2) does not work on the initramfs; moving the mount onto "/" is its replacement.
    chdir(MACHINE)?;
    mount(Some("."), "/", None::<&str>, MsFlags::MS_MOVE, None::<&str>)?;
    chroot(".")?;
    chdir("/")?;
    // As systemd does on a computer, but not where it takes the machine for a container. Rootless
    // containers and the kubelet need it to see later mounts.
    let shared = MsFlags::MS_REC | MsFlags::MS_SHARED;
    Ok(mount(
        None::<&str>,
        "/",
        None::<&str>,
        shared,
        None::<&str>,
    )?)
}

fn mount_pseudo(kind: &str, on: &str) -> io::Result<()> {
    let flags = MsFlags::MS_NOSUID | MsFlags::MS_NODEV | MsFlags::MS_NOEXEC;
    Ok(mount(Some(kind), on, Some(kind), flags, None::<&str>)?)
}
