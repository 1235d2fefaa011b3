//! Starting a machine's runtime process.

use std::{env, io, net::SocketAddr, path::PathBuf, process::Stdio};

use container_engine::EngineSettings;
use container_machine::{KernelParameters, MachineAddress, MachineId, UserSetup};
use container_network::Policy;
use container_protocol::PublishedPort;
use serde::{Deserialize, Serialize};
use tokio::{
    io::{AsyncBufReadExt, AsyncWriteExt, BufReader},
    process::{ChildStdout, Command},
};

use crate::{
    RUNTIME_ROLE,
    handle::{FindError, Runtime},
};

/// What a machine is booted for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum Purpose {
    /// To be the machine: its init runs, commands are served.
    Run,
    /// To have its disk read as it is: nothing of the machine's own runs, and nothing is written.
    /// It does not count as up.
    ReadDisk,
}

/// Everything that was decided for one boot.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Launch {
    /// The machine.
    pub id: MachineId,
    /// What for.
    pub purpose: Purpose,
    /// This boot's name: `<id>-<6 characters>`.
    pub container_id: String,
    /// Where the runtime keeps what lives as long as it does; made with mode 0700.
    pub runtime_directory: PathBuf,
    /// The machine's disk.
    pub disk: PathBuf,
    /// Bytes that the disk is to hold at least.
    pub disk_capacity: u64,
    /// Takes what init prints.
    pub stdio_log: PathBuf,
    /// Takes the kernel's console.
    pub boot_log: PathBuf,
    /// Locked by the runtime for as long as it lives.
    pub lock: PathBuf,
    /// Virtual CPUs.
    pub cpus: u32,
    /// Memory in bytes.
    pub memory: u64,
    /// Whether the guest may run virtual machines.
    pub virtualization: bool,
    /// The kernel's image.
    pub kernel: PathBuf,
    /// Parameters for it behind the engine's own.
    pub kernel_args: KernelParameters,
    /// The architecture of its programs, in OCI's words.
    pub architecture: String,
    /// The machine's network; none where nothing of the machine's own runs.
    pub network: Option<NetworkLaunch>,
    /// The shared home; none where the machine shares nothing.
    pub home: Option<HomeShare>,
    /// The machine's user.
    pub user: UserSetup,
    /// The user's login shell; the image's default one where none is named.
    pub shell: Option<String>,
    /// A file with the script that sets the user up; the built-in set-up where there is none.
    pub setup_script: Option<PathBuf>,
    /// Whether the user is still to be set up.
    pub first_boot: bool,
    /// The image's environment for init, `NAME=value`.
    pub init_env: Vec<String>,
    /// The image's stop signal.
    pub stop_signal: Option<String>,
    /// How to run it.
    pub engine: EngineSettings,
}

/// The network that a machine gets.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct NetworkLaunch {
    /// The machine's address.
    pub address: MachineAddress,
    /// What the machine may reach.
    pub policy: Policy,
    /// Ports of it at fixed places on the host.
    pub published: Vec<PublishedPort>,
    /// The directory in which the machines of one user find each other; made with mode 0700.
    pub segment: PathBuf,
    /// Where the host's resolver may ask for their names.
    pub name_server: SocketAddr,
}

/// A directory that the machine shares with the host.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct HomeShare {
    /// Its path, the same in the machine.
    pub path: PathBuf,
    /// Whether the machine may not write to it.
    pub read_only: bool,
}

/// What a starting runtime tells on its standard output, a JSON object a line.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(crate) enum LaunchEvent {
    /// It got this far.
    Progress(String),
    /// The machine is up.
    Up,
    /// The machine cannot be started; the runtime has cleaned up and ends.
    Failed(String),
}

/// Why a machine could not be started.
#[derive(Debug, thiserror::Error)]
pub enum LaunchError {
    /// The runtime process could not be started.
    #[error("starting the machine's runtime process: {0}")]
    Start(#[source] io::Error),
    /// The runtime says why.
    #[error("{0}")]
    Failed(String),
    /// The runtime ended without a word.
    #[error("the machine's runtime process ended while the machine was starting: see {log}")]
    Died {
        /// Its log.
        log: PathBuf,
    },
    /// It is up and does not answer.
    #[error("reaching the machine that was just started: {0}")]
    Find(#[from] FindError),
}

impl Launch {
    /// The log of the runtime process, beside the boot log.
    pub(crate) fn runtime_log(&self) -> PathBuf {
        self.boot_log.with_file_name("runtime.log")
    }

    /// The log of the process that serves the home.
    pub(crate) fn file_share_log(&self) -> PathBuf {
        self.boot_log.with_file_name("file-share.log")
    }

    /// The log of the engine, which is quoted when it refuses the machine.
    pub(crate) fn engine_log(&self) -> PathBuf {
        self.boot_log.with_file_name("engine.log")
    }
}

/// Starts the machine in a runtime process of its own, which outlives the caller, and waits
/// until it is up: set up, its init started, commands served. `progress` hears how far it is.
pub async fn launch(launch: &Launch, progress: impl Fn(String)) -> Result<Runtime, LaunchError> {
    let program = env::current_exe().map_err(LaunchError::Start)?;
    let log = std::fs::File::create(launch.runtime_log()).map_err(LaunchError::Start)?;
    let mut child = Command::new(program)
        .arg(RUNTIME_ROLE)
        // Buffers of connections that are over go back to the system, and new ones take what is used of
        // them. Without it malloc keeps them once it has seen one end (mallopt(3), M_MMAP_THRESHOLD).
        .env("MALLOC_MMAP_THRESHOLD_", "131072")
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(log)
        .current_dir("/")
        .spawn()
        .map_err(LaunchError::Start)?;
    let (stdin, stdout) = (child.stdin.take(), child.stdout.take());
    // The caller only watches over the start; the process is collected whenever it ends.
    tokio::spawn(async move { child.wait().await });
    if let Some(mut stdin) = stdin {
        let words = serde_json::to_vec(launch).map_err(|error| LaunchError::Start(error.into()))?;
        stdin.write_all(&words).await.map_err(LaunchError::Start)?;
    }
    watch(stdout, launch, progress).await?;
    match Runtime::find(&launch.runtime_directory, &launch.lock).await? {
        Some(runtime) => Ok(runtime),
        None => Err(LaunchError::Died {
            log: launch.runtime_log(),
        }),
    }
}

async fn watch(
    events: Option<ChildStdout>,
    launch: &Launch,
    progress: impl Fn(String),
) -> Result<(), LaunchError> {
    let died = || LaunchError::Died {
        log: launch.runtime_log(),
    };
    let mut lines = BufReader::new(events.ok_or_else(died)?).lines();
    while let Ok(Some(line)) = lines.next_line().await {
        match serde_json::from_str(&line) {
            Ok(LaunchEvent::Progress(step)) => progress(step),
            Ok(LaunchEvent::Up) => return Ok(()),
            Ok(LaunchEvent::Failed(message)) => return Err(LaunchError::Failed(message)),
            Err(_) => break,
        }
    }
    Err(died())
}
