//! `container machine cp`

use std::{
    ffi::{OsStr, OsString},
    fs, io,
    net::Shutdown,
    os::unix::{ffi::OsStrExt, net::UnixStream},
    path::{Path, PathBuf},
};

use clap::{
    Args,
    builder::{OsStringValueParser, TypedValueParser},
};
use container_client::{
    Client,
    exec::{RunningCommand, Streams},
};
use container_copy::{CopyError, RootName, UnpackMode, pack, unpack};
use container_machine::MachineId;
use container_protocol::{
    CommandLine, CommandRequest, ExitStatus, GuestCopy, HandedOn, Identity, Start, Stdio,
    UserReference, WorkingDirectory,
};
use tokio::task::spawn_blocking;

use super::{
    boot::{boot, start_command},
    target::one_or_default,
};
use crate::{failure::Failure, interrupt::unless_interrupted, output, values::InvalidValue};

/// Copy files and directories between the host and a machine.
///
/// One of SOURCE and DESTINATION is in a machine: ID:PATH, or :PATH for the default machine. A
/// relative PATH is relative to your home directory there. The other one is a path on the host, or
/// a tar stream on standard input or output, written as -.
///
/// A directory is copied with its contents: into DESTINATION if that is a directory, else to that
/// name. SOURCE/. copies only the contents. Symbolic links in a directory are copied as links. The
/// copies belong to you, or to root with --root.
#[derive(Debug, Args)]
#[command(after_long_help = "\
Examples:
  container machine cp notes.txt dev:
  container machine cp --root ./site.conf dev:/etc/nginx/conf.d/
  container machine cp dev:/var/log ./logs
  container machine cp dev:/etc - | tar -t")]
pub(crate) struct Copy {
    /// File or directory to copy.
    #[arg(value_name = "SOURCE", value_parser = OsStringValueParser::new().try_map(copy_path))]
    source: CopyPath,

    /// Path or directory to copy to.
    #[arg(value_name = "DESTINATION", value_parser = OsStringValueParser::new().try_map(copy_path))]
    destination: CopyPath,

    /// Access files in the machine as root.
    #[arg(long)]
    root: bool,
}

/// Source or destination of a copy.
#[derive(Debug, Clone, PartialEq, Eq)]
enum CopyPath {
    Host(HostPath),
    Machine(GuestPath),
}

#[derive(Debug, Clone, PartialEq, Eq)]
enum HostPath {
    /// Standard input or output, as a tar stream.
    Stream,
    Path(PathBuf),
}

#[derive(Debug, Clone, PartialEq, Eq)]
struct GuestPath {
    /// Absent for the default machine.
    machine: Option<MachineId>,
    path: OsString,
}

/// Parses a source or destination, which need not be UTF-8.
fn copy_path(text: OsString) -> Result<CopyPath, InvalidValue> {
    let bytes = text.as_bytes();
    let colon = bytes.iter().position(|byte| *byte == b':');
    // A slash before the colon means a path of the host.
    if let Some(colon) = colon.filter(|colon| !bytes[..*colon].contains(&b'/')) {
        let path = relative_to_home(OsStr::from_bytes(&bytes[colon + 1..])).to_owned();
        let machine = match &bytes[..colon] {
            b"" => None,
            id => Some(
                String::from_utf8_lossy(id)
                    .parse::<MachineId>()
                    .map_err(|error| {
                        InvalidValue::new(format!(
                            "{error} (write a path of the host as: ./{})",
                            text.display()
                        ))
                    })?,
            ),
        };
        return Ok(CopyPath::Machine(GuestPath { machine, path }));
    }
    match bytes {
        b"" => Err(InvalidValue::new("the path is empty")),
        b"-" => Ok(CopyPath::Host(HostPath::Stream)),
        _ => Ok(CopyPath::Host(HostPath::Path(text.into()))),
    }
}

/// Returns the path relative to the home directory, if it begins with `~`.
fn relative_to_home(path: &OsStr) -> &OsStr {
    let path = match path.as_bytes() {
        b"~" => b"",
        path => path.strip_prefix(b"~/").unwrap_or(path),
    };
    OsStr::from_bytes(if path.is_empty() { b"." } else { path })
}

/// Returns the name that a copy of `path` gets in a directory, or nothing if only the contents of
/// `path` are copied.
fn copy_name(path: &OsStr) -> Option<OsString> {
    let last = path.as_bytes().rsplit(|byte| *byte == b'/').next();
    let is_contents = matches!(last, Some(b"." | b".."));
    let name = Path::new(path).file_name().filter(|_| !is_contents)?;
    Some(name.to_owned())
}

/// Direction of a copy, with both ends.
enum Transfer {
    In { from: HostPath, to: OsString },
    Out { from: OsString, to: HostPath },
}

impl Copy {
    /// Copies, and prints a note for each file that is skipped. Returns the exit code.
    pub(crate) async fn run(self, client: &Client) -> Result<u8, Failure> {
        let (machine, transfer) = match (self.source, self.destination) {
            (CopyPath::Host(from), CopyPath::Machine(GuestPath { machine, path: to })) => {
                (machine, Transfer::In { from, to })
            }
            (
                CopyPath::Machine(GuestPath {
                    machine,
                    path: from,
                }),
                CopyPath::Host(to),
            ) => (machine, Transfer::Out { from, to }),
            (CopyPath::Machine(_), CopyPath::Machine(_)) => {
                return Err(Failure::new(
                    "cannot copy between machines (copy to the host first; write a file on the host with a colon in its name as ./NAME)",
                ));
            }
            (CopyPath::Host(_), CopyPath::Host(_)) => {
                return Err(Failure::new(
                    "cannot copy between paths on the host (write a path in a machine as ID:PATH)",
                ));
            }
        };
        let guest_half = transfer.guest_half()?;
        let id = one_or_default(client, machine).await?;
        let mut running = boot(client, &id).await?;
        let request = CommandRequest {
            command: CommandLine::Copy(guest_half),
            identity: Identity {
                user: UserReference::Id(if self.root { 0 } else { running.user.uid }),
                group: None,
                supplementary_groups: vec![],
            },
            environment: vec![],
            handed_on: HandedOn::default(),
            working_directory: WorkingDirectory::Home,
            stdio: Stdio::Pipes,
            start: Start::Settled,
        };
        let started = start_command(client, &id, &mut running, &request, None).await?;
        unless_interrupted(connect(started.command, started.streams, transfer)).await?
    }
}

/// Runs the host's half of the copy against the guest's. Returns the exit code.
async fn connect(
    command: RunningCommand,
    streams: Streams,
    transfer: Transfer,
) -> Result<u8, Failure> {
    let Streams::Pipes {
        stdin,
        stdout,
        stderr,
    } = streams
    else {
        return Err(Failure::new(
            "invalid reply from the machine: the copy has no streams",
        ));
    };
    // Dropping the controls would send SIGHUP to the guest's half.
    let (end, _controls) = command.into_parts();
    let errors = spawn_blocking(move || output::guest_messages(&stderr));
    let is_inward = matches!(transfer, Transfer::In { .. });
    let host_half = spawn_blocking(move || transfer.run(&stdin, &stdout));
    let status = end.wait().await?;
    // Fails if standard error is closed.
    let _ = errors.await;
    let is_done = status == ExitStatus::Code(0);
    if is_inward && !is_done {
        // The guest has printed the reason. The host's half may block for ever in reading a stream
        // that the guest does not consume, so it is not awaited.
        return Ok(1);
    }
    match host_half.await.map_err(Failure::cannot("copy"))? {
        Err(error) if error.is_broken_pipe() => {}
        done => done?,
    }
    Ok(u8::from(!is_done))
}

impl Transfer {
    /// Returns the guest's half. Checks that a source on the host exists, before the machine is
    /// booted.
    fn guest_half(&self) -> Result<GuestCopy, Failure> {
        Ok(match self {
            Transfer::In {
                from: HostPath::Stream,
                to,
            } => GuestCopy::InTar {
                path: to.clone().into(),
            },
            Transfer::In {
                from: HostPath::Path(from),
                to,
            } => {
                let action = format!("read {}", from.display());
                fs::metadata(from).map_err(Failure::cannot(action))?;
                GuestCopy::In {
                    path: to.clone().into(),
                    name: copy_name(from.as_os_str()).map(Into::into),
                }
            }
            Transfer::Out { from, to } => GuestCopy::Out {
                path: from.clone().into(),
                named: *to == HostPath::Stream,
            },
        })
    }

    /// Runs the host's half.
    fn run(self, stdin: &UnixStream, stdout: &UnixStream) -> Result<(), CopyError> {
        let mut note = |note: String| output::note(&note);
        match self {
            Transfer::In { from, .. } => {
                let sent = match from {
                    HostPath::Stream => io::copy(&mut io::stdin().lock(), &mut &*stdin)
                        .map(drop)
                        .map_err(CopyError::Write),
                    HostPath::Path(path) => pack(&path, RootName::Dot, stdin, &mut note),
                };
                // Fails if the guest's half has ended, which its exit status reports.
                let _ = stdin.shutdown(Shutdown::Write);
                sent
            }
            Transfer::Out {
                to: HostPath::Stream,
                ..
            } => io::copy(&mut &*stdout, &mut io::stdout().lock())
                .map(drop)
                .map_err(CopyError::Write),
            Transfer::Out {
                from,
                to: HostPath::Path(to),
            } => {
                let name = copy_name(&from);
                unpack(stdout, &to, &UnpackMode::Copy { name }, &mut note)
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parsed(text: &[u8]) -> Result<CopyPath, InvalidValue> {
        copy_path(OsStr::from_bytes(text).to_owned())
    }

    #[test]
    fn host_and_guest_paths_are_distinguished() {
        let machine = |id: Option<&str>, path: &[u8]| {
            CopyPath::Machine(GuestPath {
                machine: id.map(|id| id.parse().unwrap()),
                path: OsStr::from_bytes(path).to_owned(),
            })
        };
        let host = |path: &[u8]| CopyPath::Host(HostPath::Path(OsStr::from_bytes(path).into()));
        let expected = [
            (&b"dev:/etc"[..], machine(Some("dev"), b"/etc")),
            (b"dev:", machine(Some("dev"), b".")),
            (b":~/a:b", machine(None, b"a:b")),
            (b"dev:~/\xff", machine(Some("dev"), b"\xff")),
            (b"./dev:x", host(b"./dev:x")),
            (b"/a/dev:x", host(b"/a/dev:x")),
            (b"\xff/dev:x", host(b"\xff/dev:x")),
            (b"-", CopyPath::Host(HostPath::Stream)),
        ];
        for (text, path) in expected {
            assert_eq!(parsed(text).unwrap(), path);
        }
        for text in [&b"C:\\x"[..], b"\xff:x"] {
            let refused = parsed(text).unwrap_err().to_string();
            assert!(refused.contains("as: ./"), "{refused}");
        }
        assert!(parsed(b"").is_err());
    }

    #[test]
    fn a_copy_keeps_its_name_unless_only_contents_are_copied() {
        let name = |path: &[u8]| copy_name(OsStr::from_bytes(path));
        for path in [&b"a\xff"[..], b"/x/a\xff", b"x/a\xff/"] {
            assert_eq!(name(path).unwrap().as_bytes(), b"a\xff");
        }
        for path in [&b"a/."[..], b".", b"..", b"/", b"a/.."] {
            assert_eq!(name(path), None);
        }
    }
}
