//! Making a template: a process of its own, with a low priority, some time after a machine has
//! booted without one.

use std::{
    fs::{self, File},
    io::{self, Read},
    os::{fd::AsFd as _, unix::net::UnixDatagram},
    path::{Path, PathBuf},
    process::{ExitCode, Stdio},
    sync::Mutex,
    thread,
    time::{Duration, Instant},
};

use container_engine::{
    EngineError, EngineExit, EngineSettings, FileShare, NetworkCard, Prepared, Running,
    VirtualMachine, disk,
};
use container_kernel::Requirements;
use container_machine::{KernelParameters, ProcessLock, ProcessLockError};
use container_network::MTU;
use container_protocol::{
    ChannelEvent, ChannelRequest,
    frame::{self, FrameError},
};
use nix::sys::statvfs::statvfs;
use serde::{Deserialize, Serialize};
use tokio::{
    io::AsyncWriteExt,
    net::UnixStream,
    process::Command,
    runtime,
    time::{sleep, timeout},
};

use super::{
    clock::ClockReading,
    key::TemplateKey,
    store::{Manifest, Outcome, Templates},
};
use crate::{
    assemble::{create_channel, create_console},
    boot_error::BootError,
    checksum::Checksum,
    file_share::{FileShareProcess, TAG, open_directory},
    held_files::HeldFiles,
    kernel_files::KernelChoice,
    launch::{HomeShare, Launch},
    log::Log,
    role::{TEMPLATE_ROLE, own_program},
};

/// Time after a machine's boot at which its template is made. The machine's services start
/// meanwhile, and its user's first commands run.
const DELAY: Duration = Duration::from_secs(10);

/// Priority (nice(2)): a tenth of what a user's command gets.
const NICE: i32 = 10;

/// Timeout for the lock: others make their templates before.
const LOCK_TIMEOUT: Duration = Duration::from_secs(1800);

/// Timeout for the boot, which the priority makes slow on a busy host.
const BOOT_TIMEOUT: Duration = Duration::from_secs(600);

/// Time in which the kernel finishes its work after the boot, and reports free memory, which is
/// then not saved (`PAGE_REPORTING_DELAY` in Linux's mm/page_reporting.c is 2 s).
const SETTLE_TIME: Duration = Duration::from_secs(4);

/// Available memory and free disk space that making a template needs, in bytes. It takes some
/// 200 MiB of memory and 100 MiB of disk space; the rest is left to others.
const MIN_MEMORY: u64 = 768 << 20;
const MIN_DISK_SPACE: u64 = 2 << 30;

/// Capacity of the template's disk in bytes. It is never read.
const DISK_CAPACITY: u64 = 1 << 20;

/// MAC address of the template's network card. No machine has it.
const ADDRESS: [u8; 6] = [2, 0, 0, 0, 0, 1];

/// The part of a launch that a template depends on.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
struct Shape {
    templates: PathBuf,
    cpus: u32,
    memory: u64,
    kernel: PathBuf,
    kernel_args: KernelParameters,
    architecture: String,
    shares_home: bool,
    engine: EngineSettings,
}

/// Error of making a template.
#[derive(Debug, thiserror::Error)]
enum MakeError {
    #[error("cannot leave the caller's session: {0}")]
    Session(nix::Error),
    #[error("cannot read the template's shape from standard input: {0}")]
    Input(io::Error),
    #[error("invalid shape on standard input: {0}")]
    InvalidInput(serde_json::Error),
    #[error(transparent)]
    Lock(#[from] ProcessLockError),
    #[error("timed out waiting for another template to be made")]
    Busy,
    #[error("the host has too little free {0}")]
    Scarce(&'static str),
    #[error("cannot {action}: {cause}")]
    Io {
        action: &'static str,
        cause: io::Error,
    },
    #[error(transparent)]
    Boot(#[from] BootError),
    #[error(transparent)]
    Engine(#[from] EngineError),
    #[error("kernel or initramfs are unpacked for each boot")]
    Unpacked,
    #[error("the template's virtual machine ended: {0:?}")]
    Ended(EngineExit),
    #[error("cannot communicate with the template's agent: {0}")]
    Channel(FrameError),
    #[error("timed out waiting for the template to boot")]
    TimedOut,
    #[error("the template's clock is too fast or too slow: {first:?}, then {last:?}")]
    Clock {
        first: ClockReading,
        last: ClockReading,
    },
}

fn failed_to(action: &'static str) -> impl FnOnce(io::Error) -> MakeError {
    move |cause| MakeError::Io { action, cause }
}

/// Starts a process that makes the template for a machine that has just booted. It outlives this
/// one.
pub(crate) async fn order(launch: &Launch) -> io::Result<()> {
    let Some(templates) = launch.templates.clone() else {
        return Ok(());
    };
    let shape = Shape {
        templates,
        cpus: launch.cpus,
        memory: launch.memory,
        kernel: launch.kernel.clone(),
        kernel_args: launch.kernel_args.clone(),
        architecture: launch.architecture.clone(),
        shares_home: launch.run_settings().is_some_and(|it| it.home.is_some()),
        engine: launch.engine.clone(),
    };
    // Reaped by the event loop when it has ended, or by init.
    let mut child = Command::new(own_program())
        .arg(TEMPLATE_ROLE)
        .stdin(Stdio::piped())
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .current_dir("/")
        .spawn()?;
    if let Some(mut stdin) = child.stdin.take() {
        stdin.write_all(&serde_json::to_vec(&shape)?).await?;
    }
    Ok(())
}

/// Runs the role [`TEMPLATE_ROLE`]: makes the template that standard input describes, unless there
/// is one.
pub fn template_main() -> ExitCode {
    let Err(error) = run() else {
        return ExitCode::SUCCESS;
    };
    tracing::error!("{error}");
    ExitCode::FAILURE
}

fn run() -> Result<(), MakeError> {
    nix::unistd::setsid().map_err(MakeError::Session)?;
    let shape = read_shape()?;
    // A template that is made too fast does no harm.
    let _ = rustix::process::nice(NICE);
    thread::sleep(DELAY);
    let templates = Templates::new(&shape.templates);
    templates
        .create()
        .map_err(failed_to("create the directory of templates"))?;
    let lock = ProcessLock::acquire(&templates.lock(), LOCK_TIMEOUT)?;
    let _lock = lock.ok_or(MakeError::Busy)?;
    let log = File::create(templates.maker_log()).map_err(failed_to("create the log"))?;
    tracing_subscriber::fmt()
        .with_writer(Mutex::new(log))
        .with_ansi(false)
        .init();
    check_host(&shape.templates)?;
    let scratch = templates
        .scratch()
        .map_err(failed_to("create a scratch directory"))?;
    // One thread: the engine and the file share are killed when the thread that started them ends.
    let events = runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .map_err(failed_to("start the event loop"))?;
    let made = events.block_on(make(&shape, &templates, scratch.path()))?;
    if let Some(manifest) = made {
        tracing::info!("template {}: {:?}", manifest.key.name(), manifest.outcome);
        templates
            .publish(scratch.path(), &manifest)
            .map_err(failed_to("publish the template"))?;
    }
    templates.prune().map_err(failed_to("remove old templates"))
}

fn read_shape() -> Result<Shape, MakeError> {
    let mut json = String::new();
    io::stdin()
        .read_to_string(&mut json)
        .map_err(MakeError::Input)?;
    serde_json::from_str(&json).map_err(MakeError::InvalidInput)
}

/// Checks that the host can spare what a template needs.
fn check_host(directory: &Path) -> Result<(), MakeError> {
    let memory = fs::read_to_string("/proc/meminfo").map_err(failed_to("read /proc/meminfo"))?;
    if available_memory(&memory) < MIN_MEMORY {
        return Err(MakeError::Scarce("memory"));
    }
    let file_system = statvfs(directory).map_err(io::Error::from);
    let file_system = file_system.map_err(failed_to("read the free disk space"))?;
    if file_system.blocks_available() * file_system.fragment_size() < MIN_DISK_SPACE {
        return Err(MakeError::Scarce("disk space"));
    }
    Ok(())
}

/// Returns the available memory in bytes, from the text of `/proc/meminfo`.
fn available_memory(meminfo: &str) -> u64 {
    let line = meminfo
        .lines()
        .find_map(|line| line.strip_prefix("MemAvailable:"));
    let kibibytes = line.and_then(|line| line.split_whitespace().next()?.parse::<u64>().ok());
    kibibytes.unwrap_or_default() * 1024
}

/// Boots a virtual machine and saves it in `scratch`. Returns nothing if there is such a template.
async fn make(
    shape: &Shape,
    templates: &Templates,
    scratch: &Path,
) -> Result<Option<Manifest>, MakeError> {
    let (memory, console) = Templates::files(scratch);
    let (machine, mut host) = assemble(shape, scratch, &console)?;
    let prepared = container_engine::engine(&shape.engine).prepare(machine)?;
    let key = TemplateKey::new(prepared.template_fingerprint(), &host.sources)
        .map_err(failed_to("read the files of the kernel"))?;
    if templates.is_made(&key) {
        return Ok(None);
    }
    let outcome = match boot(prepared, &mut host).await? {
        Ok((mut running, first)) => {
            sleep(SETTLE_TIME).await;
            match prepare_agent(&mut host.channel).await? {
                Ok(last) if !last.confirms(first) => return Err(MakeError::Clock { first, last }),
                Ok(_) => {
                    let saved = running.save(&memory).await;
                    running.terminate().await;
                    saved.map_err(|error| error.to_string())
                }
                Err(message) => Err(message),
            }
        }
        Err(message) => Err(message),
    };
    let outcome = match outcome {
        Ok(()) => Outcome::Saved {
            checksum: Checksum::read(&memory).map_err(failed_to("read the template"))?,
        },
        Err(reason) => Outcome::Impossible { reason },
    };
    Ok(Some(Manifest { key, outcome }))
}

/// The maker's ends of a template's virtual machine.
struct HostEnds {
    channel: UnixStream,
    sources: Vec<PathBuf>,
    _file_share: Option<FileShareProcess>,
    /// Nothing is sent to the network card.
    _network: UnixDatagram,
}

/// Assembles a virtual machine that differs from a machine's only in what is behind its devices.
fn assemble(
    shape: &Shape,
    scratch: &Path,
    console_log: &Path,
) -> Result<(VirtualMachine, HostEnds), MakeError> {
    let choice = KernelChoice {
        kernel: &shape.kernel,
        parameters: shape.kernel_args.as_str(),
        requirements: Requirements {
            shared_home: shape.shares_home,
            virtualization: false,
        },
    };
    let mut files = HeldFiles::open(&shape.architecture)?;
    let kernel_files = choice.prepare(&mut files, scratch)?;
    let sources = kernel_files.sources.ok_or(MakeError::Unpacked)?;
    let disk = scratch.join("disk.qcow2");
    disk::create_empty(&disk, DISK_CAPACITY).map_err(BootError::from)?;
    let (file_share, engine_share) = shape
        .shares_home
        .then(|| share_nothing(scratch))
        .transpose()
        .map_err(failed_to("start the file share of the template"))?
        .unzip();
    let (network, engine_network) =
        UnixDatagram::pair().map_err(failed_to("create the network of the template"))?;
    let (channel, engine_channel) = create_channel().map_err(BootError::CreateChannel)?;
    let (console, engine_console) = create_console().map_err(BootError::CreateChannel)?;
    tokio::spawn(Log::new(console_log).write_from(console, Duration::from_millis(10)));
    let machine = VirtualMachine {
        name: "template".to_owned(),
        cpus: shape.cpus,
        memory: shape.memory,
        virtualization: false,
        kernel: kernel_files.kernel,
        disk,
        file_shares: engine_share.into_iter().collect(),
        network: Some(NetworkCard {
            connection: engine_network.into(),
            address: ADDRESS,
            mtu: MTU,
        }),
        channel: engine_channel,
        console: engine_console,
        engine_log: scratch.join("engine.log"),
    };
    let host = HostEnds {
        channel,
        sources,
        _file_share: file_share,
        _network: network,
    };
    Ok((machine, host))
}

/// Serves an empty directory, which the template does not mount.
fn share_nothing(scratch: &Path) -> io::Result<(FileShareProcess, FileShare)> {
    let path = scratch.join("home");
    fs::create_dir(&path)?;
    let home = HomeShare {
        path,
        read_only: false,
        hidden: Vec::new(),
        private: Vec::new(),
    };
    let log = Log::new(&scratch.join("file-share.log"));
    let directory = open_directory(&home.path)?;
    let (process, connections) = FileShareProcess::start(&home, directory.as_fd(), log, scratch)?;
    let share = FileShare {
        tag: TAG.to_owned(),
        connection: connections.engine,
    };
    Ok((process, share))
}

/// Boots the virtual machine until its agent is ready to be saved, and reads its clock. The inner
/// error is the agent's.
async fn boot(
    prepared: Box<dyn Prepared>,
    host: &mut HostEnds,
) -> Result<Result<(Box<dyn Running>, ClockReading), String>, MakeError> {
    let mut running = prepared.start().await?;
    running.resume().await.map_err(BootError::Resume)?;
    let ready = tokio::select! {
        exit = running.wait() => return Err(MakeError::Ended(exit)),
        ready = prepare_agent(&mut host.channel) => ready?,
    };
    Ok(ready.map(|clock| (running, clock)))
}

/// Lets the agent prepare to be saved, and reads the guest's clock. The inner error is the agent's.
async fn prepare_agent(
    channel: &mut UnixStream,
) -> Result<Result<ClockReading, String>, MakeError> {
    let asked = Instant::now();
    let exchange = async {
        frame::write(channel, &ChannelRequest::PrepareTemplate).await?;
        frame::read(channel).await
    };
    let event = timeout(BOOT_TIMEOUT, exchange).await;
    let event = event.map_err(|_| MakeError::TimedOut)?;
    match event.map_err(MakeError::Channel)? {
        ChannelEvent::TemplateReady { clock } => Ok(Ok(ClockReading {
            asked,
            answered: Instant::now(),
            guest: Duration::from_nanos(clock),
        })),
        ChannelEvent::Failed { message } => Ok(Err(message)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn available_memory_is_not_free_memory() {
        let meminfo = "MemTotal: 8 kB\nMemFree: 1 kB\nMemAvailable:    5 kB\n";
        assert_eq!(available_memory(meminfo), 5 * 1024);
        assert_eq!(available_memory(""), 0);
    }
}
