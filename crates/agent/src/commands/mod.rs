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
mod spawn;
mod terminal;
mod terminfo;
mod time_zone;

use std::{io, sync::Arc};

use container_protocol::{
    CommandLine, CommandRequest, HandedOn, Identity, Port, Stdio, UserReference, WorkingDirectory,
    mux::Stream,
};

use crate::init::InitProcess;
use rendezvous::Rendezvous;

/// Server of the commands of one machine.
#[derive(Debug)]
pub(crate) struct Commands {
    init: InitProcess,
    streams: Rendezvous,
}

impl Commands {
    /// Returns a server that runs commands in the namespaces of `init`.
    pub(crate) fn new(init: InitProcess) -> Arc<Commands> {
        Arc::new(Commands {
            init,
            streams: Rendezvous::default(),
        })
    }

    /// Serves a stream that the host opened: a command's control stream or one of its data streams.
    pub(crate) async fn serve(&self, port: Port, stream: Stream) {
        match port {
            Port::Command(id) => run::serve(&self.init, &self.streams, id, stream).await,
            Port::Stdin(_) | Port::Stdout(_) | Port::Stderr(_) | Port::Terminal(_) => {
                self.streams.offer(port, stream).await;
            }
            // Not a command. The one control stream of the machine is open already.
            Port::Control | Port::Changes | Port::Resolver => drop(stream),
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
    };
    let login = login::Login::resolve(&request, init).map_err(io::Error::other)?;
    let streams = spawn::StandardStreams::null()?;
    let started = spawn::in_machine(init.pid, login, streams).await;
    let status = started.map_err(io::Error::other)?.child.wait().await?;
    if status.success() {
        Ok(())
    } else {
        Err(io::Error::other(format!("{line} failed: {status}")))
    }
}
