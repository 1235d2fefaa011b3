//! Commands run in the machine.

pub mod copy;
mod login;
mod pipes;
mod rendezvous;
mod run;
pub mod signal;
mod spawn;
pub mod terminal;

use std::{io, sync::Arc};

use container_protocol::{
    CommandLine, CommandRequest, Identity, InitProgram, Port, Stdio, UserReference,
    WorkingDirectory, mux::Stream,
};

use crate::init::Init;
pub use login::PATH;
use rendezvous::Rendezvous;

/// All that is needed to run commands in the machine.
#[derive(Debug)]
pub struct Commands {
    init: u32,
    init_program: InitProgram,
    streams: Rendezvous,
}

impl Commands {
    /// Commands will run beside `init`, in its namespaces.
    pub fn new(init: &Init) -> Arc<Commands> {
        Arc::new(Commands {
            init: init.pid(),
            init_program: init.program().clone(),
            streams: Rendezvous::default(),
        })
    }

    /// Serves one stream that the host opened.
    pub async fn serve(&self, port: Port, stream: Stream) {
        match port {
            Port::Command(id) => run::serve(self, id, stream).await,
            Port::Stdin(_) | Port::Stdout(_) | Port::Stderr(_) | Port::Terminal(_) => {
                self.streams.bring(port, stream).await;
            }
            // The machine has one control stream, and this is another; changes are no command.
            Port::Control | Port::Changes => drop(stream),
        }
    }
}

/// Runs a shell line in the machine as root and waits for its end.
pub async fn run_as_root(init: u32, line: &str) -> io::Result<()> {
    let request = CommandRequest {
        command: CommandLine::Shell(line.to_owned()),
        identity: Identity {
            user: UserReference::Id(0),
            group: None,
            supplementary_groups: vec![],
        },
        environment: vec![],
        working_directory: WorkingDirectory::Exact("/".to_owned()),
        stdio: Stdio::Detached,
    };
    let login = login::Login::resolve(&request).map_err(io::Error::other)?;
    let mut child = spawn::in_machine(init, login, spawn::Streams::null()?).await?;
    let status = child.wait().await?;
    if status.success() {
        Ok(())
    } else {
        Err(io::Error::other(format!("{line}: {status}")))
    }
}
