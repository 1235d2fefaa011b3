//! Starts a machine's runtime process, and waits until the machine has booted.

use std::{
    fs::File,
    io,
    net::SocketAddr,
    path::{Path, PathBuf},
    process::Stdio,
};

use container_engine::EngineSettings;
use container_machine::{
    FreeSpace, IdleSuspend, KernelParameters, MachineAddress, MachineId, RUNTIME_MALLOC, UserSetup,
};
use container_network::Policy;
use container_protocol::{
    BootOccasion, Egress, GuestTimeZone, PublishedPort, SocketForward, local::MountShare,
};
use serde::{Deserialize, Serialize};
use tokio::{
    io::{AsyncBufReadExt, AsyncWriteExt, BufReader},
    process::{Child, ChildStdout, Command},
};

use crate::{
    handle::{FindError, Runtime, SOCKET},
    held_files::INITRAMFS,
    role::{RUNTIME_ROLE, own_program},
};

/// Purpose of a boot.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum Purpose {
    /// The machine runs: its init is started, commands are served.
    Run(Box<RunSettings>),
    /// The machine's disk is mounted read-only, and its changes can be read. Nothing of the machine
    /// is started, and it does not count as running.
    ReadDisk,
    /// The file system on the machine's disk can be checked, and is not mounted. Nothing of the
    /// machine is started, and it does not count as running.
    CheckDisk,
}

/// All settings of one boot, validated by the service.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Launch {
    /// The machine's id.
    pub id: MachineId,
    /// Purpose of the boot.
    pub purpose: Purpose,
    /// Name of this boot: `<id>-<6 characters>`.
    pub container_id: String,
    /// Directory for the socket and the files of this boot; created with mode 0700.
    pub runtime_directory: PathBuf,
    /// The machine's disk, a qcow2 overlay.
    pub disk: PathBuf,
    /// Minimum capacity of the disk in bytes; a smaller one is grown before the engine starts.
    pub disk_capacity: u64,
    /// Free space on the host's disk below which the machine's user is warned.
    #[serde(default)]
    pub least_free_space: FreeSpace,
    /// Log of init's output.
    pub stdio_log: PathBuf,
    /// Log of the kernel's console.
    pub boot_log: PathBuf,
    /// Lock file, held while the runtime process lives.
    pub lock: PathBuf,
    /// Number of virtual CPUs.
    pub cpus: u32,
    /// Memory in bytes.
    pub memory: u64,
    /// Whether the guest may run virtual machines of its own.
    pub virtualization: bool,
    /// Path of the kernel: a prepared one, or an ELF file or bzImage to prepare for this boot.
    pub kernel: PathBuf,
    /// Kernel parameters, appended to the engine's own.
    pub kernel_args: KernelParameters,
    /// Architecture of the machine's programs, an OCI architecture name.
    pub architecture: String,
    /// Settings of the engine.
    pub engine: EngineSettings,
    /// Directory of the templates; absent to boot without them.
    #[serde(default)]
    pub templates: Option<PathBuf>,
    /// Directory of the machine's saved memory, which exists while the machine is suspended.
    pub suspended: PathBuf,
    /// Runtime directory of the machine's last boot, in which a stand-in may listen.
    pub last_runtime_directory: PathBuf,
    /// Idle time after which the machine is suspended.
    #[serde(default)]
    pub idle_suspend: IdleSuspend,
}

/// Settings that only a machine that runs has.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct RunSettings {
    /// The machine's network.
    pub network: NetworkLaunch,
    /// The machine's forwarded sockets.
    #[serde(default)]
    pub sockets: Vec<SocketForward>,
    /// The shared home; absent with `--home-mount none`.
    pub home: Option<HomeShare>,
    /// Directories of the host that the machine mounts besides the home, in this order.
    #[serde(default)]
    pub mounts: Vec<MountShare>,
    /// The machine's user.
    pub user: UserSetup,
    /// The user's login shell; the image's default shell if absent.
    pub shell: Option<String>,
    /// Script that sets the user up at the first boot; the built-in set-up if absent.
    pub setup_script: Option<PathBuf>,
    /// What the boot has to set up.
    pub occasion: BootOccasion,
    /// Whether the built-in init is started in place of the image's, for a repair.
    pub rescue: bool,
    /// Whether the machine may use no SSH agent of the host, and does not learn the host's search
    /// domains.
    #[serde(default)]
    pub isolated: bool,
    /// The image's environment for init, `NAME=value`.
    pub init_env: Vec<String>,
    /// The image's stop signal.
    pub stop_signal: Option<String>,
    /// Home directory of the user in the machine; the usual one if absent.
    pub user_home: Option<PathBuf>,
    /// The time zone that the first boot sets; absent to keep the image's.
    pub time_zone: Option<GuestTimeZone>,
}

/// Settings of a machine's network.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct NetworkLaunch {
    /// The machine's address.
    pub address: MachineAddress,
    /// Destinations that any machine may connect to.
    pub policy: Policy,
    /// Destinations that this machine may connect to.
    pub egress: Egress,
    /// The machine's published ports.
    pub published: Vec<PublishedPort>,
    /// Directory of the sockets that connect one user's machines; created with mode 0700.
    pub segment: PathBuf,
    /// Address on which the host's resolver can query machine names.
    pub name_server: SocketAddr,
}

/// A host directory that the machine mounts.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct HomeShare {
    /// Its path, the same on the host and in the machine.
    pub path: PathBuf,
    /// Whether the machine mounts it read-only.
    pub read_only: bool,
    /// Directories that the machine sees as empty, relative to the path.
    #[serde(default)]
    pub hidden: Vec<PathBuf>,
    /// Directories that the machine has for itself, relative to the path.
    #[serde(default)]
    pub private: Vec<PathBuf>,
}

/// Report of a starting runtime on its standard output, one JSON object per line.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(crate) enum LaunchEvent {
    /// The machine has booted, or its disk can be read or checked.
    Up,
    /// The machine could not be booted. The runtime has cleaned up and ends.
    Failed(String),
}

/// Error of launching a runtime.
#[derive(Debug, thiserror::Error)]
pub enum LaunchError {
    /// The runtime process could not be started.
    #[error("cannot start the machine's runtime process: {0}")]
    Start(io::Error),
    /// The runtime reported why the machine did not boot.
    #[error("{0}")]
    Failed(String),
    /// The runtime process ended without a report.
    #[error("the machine's runtime process ended while the machine was booting: see {log}")]
    Died {
        /// The runtime's log.
        log: PathBuf,
    },
    /// The machine has booted, but its runtime does not answer.
    #[error("cannot reach the machine that was just started: {0}")]
    Find(FindError),
}

impl Launch {
    /// Returns the settings of a machine that runs; absent if only its disk is read or checked.
    pub(crate) fn run_settings(&self) -> Option<&RunSettings> {
        match &self.purpose {
            Purpose::Run(settings) => Some(settings),
            Purpose::ReadDisk | Purpose::CheckDisk => None,
        }
    }

    /// Returns what the boot has to set up.
    pub(crate) fn occasion(&self) -> BootOccasion {
        self.run_settings()
            .map_or(BootOccasion::Later, |settings| settings.occasion)
    }

    /// Makes the next boot a usual one. Returns whether this one is a rescue.
    pub(crate) fn end_rescue(&mut self) -> bool {
        match &mut self.purpose {
            Purpose::Run(settings) => std::mem::take(&mut settings.rescue),
            Purpose::ReadDisk | Purpose::CheckDisk => false,
        }
    }

    /// Returns the path of the runtime's socket.
    pub(crate) fn socket(&self) -> PathBuf {
        self.runtime_directory.join(SOCKET)
    }

    /// Returns the path of the initramfs.
    pub(crate) fn initramfs(&self) -> PathBuf {
        self.runtime_directory.join(INITRAMFS)
    }

    /// Returns the path of the runtime process's log.
    pub(crate) fn runtime_log(&self) -> PathBuf {
        self.boot_log.with_file_name("runtime.log")
    }

    /// Returns the path of the file share process's log.
    pub(crate) fn file_share_log(&self) -> PathBuf {
        self.boot_log.with_file_name("file-share.log")
    }

    /// Returns the path of the file that says why the machine crashed.
    pub(crate) fn crash_file(&self) -> PathBuf {
        self.boot_log.with_file_name("crashed")
    }

    /// Returns the path of the engine's log, which errors quote.
    pub(crate) fn engine_log(&self) -> PathBuf {
        self.boot_log.with_file_name("engine.log")
    }
}

/// Starts the machine in a runtime process of its own, which outlives the caller, and waits until
/// the machine is up: set up, its init started, commands served.
///
/// # Errors
/// [`LaunchError`]; the runtime process has ended then, or is about to.
pub async fn launch(launch: &Launch) -> Result<Runtime, LaunchError> {
    let mut child = spawn(&launch.runtime_log()).map_err(LaunchError::Start)?;
    let (stdin, stdout) = (child.stdin.take(), child.stdout.take());
    // Reaps the process when it ends. Its status is not used.
    tokio::spawn(async move { child.wait().await });
    if let Some(mut stdin) = stdin {
        let settings =
            serde_json::to_vec(launch).map_err(|error| LaunchError::Start(error.into()))?;
        let written = stdin.write_all(&settings).await;
        written.map_err(LaunchError::Start)?;
    }
    let died = || LaunchError::Died {
        log: launch.runtime_log(),
    };
    await_up(stdout.ok_or_else(died)?)
        .await
        .ok_or_else(died)??;
    let runtime = Runtime::find(&launch.runtime_directory, &launch.lock).await;
    runtime.map_err(LaunchError::Find)?.ok_or_else(died)
}

/// Starts this program in the runtime's role, with standard error to `log`.
fn spawn(log: &Path) -> io::Result<Child> {
    File::create(log)?;
    // Appended to: the process may live longer than this log's contents (see `stand_in`).
    let log = File::options().append(true).open(log)?;
    Command::new(own_program())
        .arg(RUNTIME_ROLE)
        .envs(RUNTIME_MALLOC)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(log)
        // Keeps no directory of the caller's busy.
        .current_dir("/")
        .spawn()
}

/// Waits for the runtime's report; absent if it ends without one.
async fn await_up(events: ChildStdout) -> Option<Result<(), LaunchError>> {
    let line = BufReader::new(events).lines().next_line().await.ok()??;
    match serde_json::from_str(&line).ok()? {
        LaunchEvent::Up => Some(Ok(())),
        LaunchEvent::Failed(message) => Some(Err(LaunchError::Failed(message))),
    }
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;

    /// Returns the launch of a machine that runs.
    pub(crate) fn example() -> Launch {
        Launch {
            id: "dev".parse().unwrap(),
            purpose: Purpose::Run(Box::new(RunSettings {
                network: NetworkLaunch {
                    address: MachineAddress::from_index(0),
                    policy: Policy::default(),
                    egress: Egress::default(),
                    published: Vec::new(),
                    segment: PathBuf::from("/nonexistent"),
                    name_server: ([127, 0, 0, 1], 53).into(),
                },
                sockets: Vec::new(),
                home: None,
                mounts: Vec::new(),
                user: UserSetup {
                    username: "ada".to_owned(),
                    uid: 1000,
                    gid: 1000,
                },
                shell: None,
                setup_script: None,
                occasion: BootOccasion::Later,
                rescue: false,
                isolated: false,
                init_env: Vec::new(),
                stop_signal: None,
                user_home: None,
                time_zone: None,
            })),
            container_id: "dev-123456".to_owned(),
            runtime_directory: PathBuf::from("/nonexistent"),
            disk: PathBuf::from("/nonexistent/disk.qcow2"),
            disk_capacity: 1 << 30,
            least_free_space: FreeSpace::default(),
            stdio_log: PathBuf::from("/nonexistent/stdio.log"),
            boot_log: PathBuf::from("/nonexistent/boot.log"),
            lock: PathBuf::from("/nonexistent/lock"),
            cpus: 1,
            memory: 1 << 30,
            virtualization: false,
            kernel: PathBuf::from("/nonexistent/vmlinux"),
            kernel_args: KernelParameters::default(),
            architecture: "amd64".to_owned(),
            engine: EngineSettings::default(),
            templates: None,
            suspended: PathBuf::from("/nonexistent/suspended"),
            last_runtime_directory: PathBuf::from("/nonexistent"),
            idle_suspend: IdleSuspend::default(),
        }
    }

    #[test]
    fn a_launch_survives_its_way_to_the_runtime() {
        let launch = example();
        let json = serde_json::to_vec(&launch).unwrap();
        assert_eq!(serde_json::from_slice::<Launch>(&json).unwrap(), launch);
    }
}
