//! Runs commands in the machine for the host.

pub(crate) mod copy;
mod environment;
mod limits;
mod locale;
mod login;
mod long_line;
mod pipes;
mod rendezvous;
mod run;
mod session;
pub(crate) mod session_leader;
mod spawn;
mod ssh;
mod start;
mod terminal;
mod terminfo;
mod time_zone;

use std::{io, sync::Arc};

use container_protocol::{
    CommandLine, CommandRequest, HandedOn, Identity, Port, Start, Stdio, UserReference,
    WorkingDirectory, mux::Stream,
};

use crate::init::InitProcess;
use rendezvous::Rendezvous;
use start::Boot;

/// Server of the commands of one machine.
#[derive(Debug)]
pub(crate) struct Commands {
    boot: Boot,
    streams: Rendezvous,
}

impl Commands {
    /// Returns a server that runs commands in the namespaces of `init`. `uid` is the machine's
    /// user.
    pub(crate) fn new(init: InitProcess, uid: u32) -> Arc<Commands> {
        Arc::new(Commands {
            boot: Boot::new(init, uid),
            streams: Rendezvous::default(),
        })
    }

    /// Serves a stream that the host opened: a command's control stream or one of its data streams.
    pub(crate) async fn serve(&self, port: Port, stream: Stream) {
        match port {
            Port::Command(id) => run::serve(&self.boot, &self.streams, id, stream).await,
            Port::Stdin(_) | Port::Stdout(_) | Port::Stderr(_) | Port::Terminal(_) => {
                self.streams.offer(port, stream).await;
            }
            // Not a command. The one control stream of the machine is open already.
            Port::Control
            | Port::Changes
            | Port::Check
            | Port::Freeze
            | Port::Resolver
            | Port::HostSockets
            | Port::Mounts
            | Port::Socket => drop(stream),
        }
    }
}

/// Runs a shell line in the machine as root and waits for its end. Its output is discarded.
pub(crate) async fn run_as_root(init: &InitProcess, line: &str) -> io::Result<()> {
    let request = CommandRequest {
        command: CommandLine::Shell(line.into()),
        identity: Identity {
            user: UserReference::Id(0),
            group: None,
            supplementary_groups: vec![],
        },
        environment: vec![],
        handed_on: HandedOn::default(),
        working_directory: WorkingDirectory::Exact("/".into()),
        stdio: Stdio::Detached,
        start: Start::Immediate,
    };
    let login = login::Login::resolve(&request, init).map_err(io::Error::other)?;
    let streams = spawn::StandardStreams::null()?;
    let started = spawn::in_machine(init.pid, login, streams, None).await;
    let status = started.map_err(io::Error::other)?.child.wait().await?;
    if status.success() {
        Ok(())
    } else {
        Err(io::Error::other(format!("{line} failed: {status}")))
    }
}
