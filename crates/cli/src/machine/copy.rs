//! `container machine cp`

use std::{
    fs, io,
    net::Shutdown,
    os::unix::net::UnixStream,
    path::{Path, PathBuf},
    str::FromStr,
};

use clap::Args;
use container_archive::{ArchiveError, Arrival, Root, pack, unpack};
use container_client::{
    Client,
    exec::{RunningCommand, Streams},
};
use container_machine::MachineId;
use container_protocol::{
    CommandLine, CommandRequest, Copy as GuestHalf, ExitStatus, Identity, Stdio, UserReference,
    WorkingDirectory,
};

use tokio::task::spawn_blocking;

use super::{boot, one_or_default, start};
use crate::{failure::Failure, interrupt::unless_interrupted, output};

/// Copy files and directories into a machine or out of it.
///
/// One of SOURCE and DESTINATION is in a machine, written ID:PATH, or :PATH in the default machine; a
/// relative PATH starts at your home there. The other is on the host, or - for a tar stream on
/// standard input or output.
///
/// A directory is copied with all that is below it: into DESTINATION if that is a directory, else
/// under that name. SOURCE/. means the directory's contents. Symlinks in it are copied as they are.
/// The copies belong to you, or to root with --root.
#[derive(Debug, Args)]
#[command(after_long_help = "\
Examples:
  container machine cp notes.txt dev:
  container machine cp --root ./site.conf dev:/etc/nginx/conf.d/
  container machine cp dev:/var/log ./logs
  container machine cp dev:/etc - | tar -t")]
pub struct Copy {
    /// What to copy.
    #[arg(value_name = "SOURCE")]
    source: Place,

    /// Where to.
    #[arg(value_name = "DESTINATION")]
    destination: Place,

    /// Read and write as root in the machine.
    #[arg(long)]
    root: bool,
}

/// One end of a copy.
#[derive(Debug, Clone, PartialEq, Eq)]
enum Place {
    Host(HostPlace),
    Machine(MachinePlace),
}

#[derive(Debug, Clone, PartialEq, Eq)]
enum HostPlace {
    /// Standard input or output, as a tar stream.
    Stream,
    Path(PathBuf),
}

#[derive(Debug, Clone, PartialEq, Eq)]
struct MachinePlace {
    /// The default machine where it is left out.
    machine: Option<MachineId>,
    path: String,
}

impl FromStr for Place {
    type Err = String;

    fn from_str(word: &str) -> Result<Place, String> {
        match word.split_once(':') {
            Some((machine, path)) if !machine.contains('/') => {
                let id = machine.parse::<MachineId>();
                let machine = match machine {
                    "" => None,
                    _ => Some(id.map_err(|error| {
                        format!("{error}; a file of that name on the host is ./{word}")
                    })?),
                };
                let path = in_home(path).to_owned();
                Ok(Place::Machine(MachinePlace { machine, path }))
            }
            _ if word.is_empty() => Err("an empty path names nothing".to_owned()),
            _ if word == "-" => Ok(Place::Host(HostPlace::Stream)),
            _ => Ok(Place::Host(HostPlace::Path(word.into()))),
        }
    }
}

/// A path in the machine, as it is seen from the home there.
fn in_home(path: &str) -> &str {
    let path = match path {
        "~" => "",
        path => path.strip_prefix("~/").unwrap_or(path),
    };
    if path.is_empty() { "." } else { path }
}

/// The name that a copy of `path` gets in a directory; none where the contents of a directory
/// are meant.
fn name_of(path: &str) -> Option<String> {
    let is_itself = [".", ".."].contains(&path.rsplit('/').next().unwrap_or(path));
    let name = Path::new(path).file_name().filter(|_| !is_itself)?;
    Some(name.to_string_lossy().into_owned())
}

/// What goes which way.
enum Work {
    In { from: HostPlace, to: String },
    Out { from: String, to: HostPlace },
}

impl Copy {
    /// Copies, and prints nothing but what is left out. Returns the exit code.
    pub async fn carry_out(self, client: &Client) -> Result<u8, Failure> {
        let (machine, work) = match (self.source, self.destination) {
            (Place::Host(from), Place::Machine(MachinePlace { machine, path: to })) => {
                (machine, Work::In { from, to })
            }
            (
                Place::Machine(MachinePlace {
                    machine,
                    path: from,
                }),
                Place::Host(to),
            ) => (machine, Work::Out { from, to }),
            (Place::Machine(_), Place::Machine(_)) => {
                return Err(Failure::new(
                    "SOURCE or DESTINATION must be on the host: copy in two steps; a file of the host with a colon in its name is ./NAME",
                ));
            }
            (Place::Host(_), Place::Host(_)) => {
                return Err(Failure::new(
                    "SOURCE or DESTINATION must be in a machine, written ID:PATH",
                ));
            }
        };
        let guest_half = work.guest_half()?;
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
            working_directory: WorkingDirectory::Home,
            stdio: Stdio::Pipes,
        };
        let (command, streams) = start(client, &id, &mut running, &request, None).await?;
        unless_interrupted(transfer(command, streams, work)).await?
    }
}

/// Joins the guest's half and the host's. Returns the exit code.
async fn transfer(command: RunningCommand, streams: Streams, work: Work) -> Result<u8, Failure> {
    let Streams::Pipes {
        stdin,
        stdout,
        stderr,
    } = streams
    else {
        return Err(Failure::new("the copy got no streams"));
    };
    // Kept: without it the guest takes this process for gone.
    let (end, _controls) = command.into_parts();
    let complaints = spawn_blocking(move || io::copy(&mut &stderr, &mut io::stderr()));
    let is_inward = matches!(work, Work::In { .. });
    let host_half = spawn_blocking(move || work.carry_out(&stdin, &stdout));
    let status = end.wait().await?;
    // Fails where standard error is gone.
    let _ = complaints.await?;
    let is_done = status == ExitStatus::Code(0);
    if is_inward && !is_done {
        // The guest has told why, and there may be no end of what it did not take.
        return Ok(1);
    }
    match host_half.await? {
        Err(error) if error.is_broken_pipe() => {}
        done => done?,
    }
    Ok(u8::from(!is_done))
}

impl Work {
    /// What is asked of the guest. A source that is not there is told before a machine is booted.
    fn guest_half(&self) -> Result<GuestHalf, Failure> {
        Ok(match self {
            Work::In {
                from: HostPlace::Stream,
                to,
            } => GuestHalf::InTar { path: to.clone() },
            Work::In {
                from: HostPlace::Path(from),
                to,
            } => {
                fs::metadata(from).map_err(|error| {
                    Failure::new(format!("reading {}: {error}", from.display()))
                })?;
                GuestHalf::In {
                    path: to.clone(),
                    name: name_of(&from.to_string_lossy()),
                }
            }
            Work::Out { from, to } => GuestHalf::Out {
                path: from.clone(),
                named: *to == HostPlace::Stream,
            },
        })
    }

    /// The host's half.
    fn carry_out(self, stdin: &UnixStream, stdout: &UnixStream) -> Result<(), ArchiveError> {
        let mut note = |note: String| output::note(&note);
        match self {
            Work::In { from, .. } => {
                let sent = match from {
                    HostPlace::Stream => io::copy(&mut io::stdin().lock(), &mut &*stdin)
                        .map(drop)
                        .map_err(ArchiveError::Write),
                    HostPlace::Path(path) => pack(&path, Root::Itself, stdin, &mut note),
                };
                // The guest waits for the end; where it has gone that is no news.
                let _ = stdin.shutdown(Shutdown::Write);
                sent
            }
            Work::Out {
                to: HostPlace::Stream,
                ..
            } => io::copy(&mut &*stdout, &mut io::stdout().lock())
                .map(drop)
                .map_err(ArchiveError::Write),
            Work::Out {
                from,
                to: HostPlace::Path(to),
            } => {
                let name = name_of(&from).map(Into::into);
                unpack(stdout, &to, &Arrival::Copy { name }, &mut note)
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn places_are_told_apart() {
        let machine = |id: Option<&str>, path: &str| {
            Ok(Place::Machine(MachinePlace {
                machine: id.map(|id| id.parse().unwrap()),
                path: path.to_owned(),
            }))
        };
        let host = |path: &str| Ok(Place::Host(HostPlace::Path(path.into())));
        assert_eq!("dev:/etc".parse(), machine(Some("dev"), "/etc"));
        assert_eq!("dev:".parse(), machine(Some("dev"), "."));
        assert_eq!(":~/a:b".parse(), machine(None, "a:b"));
        assert_eq!("./dev:x".parse(), host("./dev:x"));
        assert_eq!("/a/dev:x".parse(), host("/a/dev:x"));
        assert_eq!("-".parse(), Ok(Place::Host(HostPlace::Stream)));
        let refused = "C:\\x".parse::<Place>().unwrap_err();
        assert!(refused.contains("./C:"), "{refused}");
        assert!("".parse::<Place>().is_err());
    }

    #[test]
    fn a_copy_has_the_sources_name_unless_contents_are_meant() {
        for path in ["a", "/x/a", "x/a/"] {
            assert_eq!(name_of(path).as_deref(), Some("a"), "{path}");
        }
        for path in ["a/.", ".", "..", "/", "a/.."] {
            assert_eq!(name_of(path), None, "{path}");
        }
    }
}
