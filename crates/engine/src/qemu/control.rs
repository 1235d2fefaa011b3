//! QEMU's control socket: QMP (docs/interop/qmp-spec in QEMU's sources).

use std::{
    fmt,
    fs::File,
    future::pending,
    io::{self, ErrorKind, IoSlice},
    mem::MaybeUninit,
    os::{
        fd::{AsFd, BorrowedFd, OwnedFd},
        unix::{
            fs::{MetadataExt, OpenOptionsExt},
            net::UnixStream as StdUnixStream,
        },
    },
    path::Path,
    sync::Arc,
    time::Duration,
};

use futures::{FutureExt, future::BoxFuture};
use qapi::{
    Command, Empty, ExecuteError,
    futures::{QapiService, QmpStreamTokio},
    qmp::{
        self, MigrationCapability, MigrationCapabilityStatus, MigrationStatus, QmpCommand, RunState,
    },
};
use rustix::net::{SendAncillaryBuffer, SendAncillaryMessage, SendFlags, sendmsg};
use serde::Serialize;
use tokio::{
    io::WriteHalf,
    net::UnixStream,
    sync::{Mutex, watch},
    task::JoinHandle,
    time::{sleep, timeout},
};

use super::{
    command_line::DISK_NODE,
    passed_file::PassedFile,
    unused_memory::UnusedMemory,
    write_errors::{self, PauseReason},
};
use crate::interface::{LiveDisk, LiveDiskError};

type Writer = QmpStreamTokio<WriteHalf<UnixStream>>;

/// Timeout for the answer to one command.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(5);

/// Timeout for saving a machine, which may have a low priority, and much memory.
const SAVE_TIMEOUT: Duration = Duration::from_secs(1800);

/// Timeout for restoring a machine, without the time for reading its memory.
const RESTORE_TIMEOUT: Duration = Duration::from_secs(20);

/// Bytes that are read in a second even from a slow disk.
const SLOW_DISK: u64 = 10 << 20;

/// Intervals at which QEMU is asked whether it has saved or restored a machine.
const SAVE_INTERVAL: Duration = Duration::from_millis(100);
const RESTORE_INTERVAL: Duration = Duration::from_millis(2);

/// Interval at which memory is freed that a save has allocated: some 100 MiB.
const FREE_INTERVAL: Duration = Duration::from_millis(50);

/// The host's end of the socket, before QEMU's greeting.
#[derive(Debug)]
pub(super) struct Ungreeted {
    socket: StdUnixStream,
}

/// A QEMU that accepts commands.
pub(super) struct Control {
    service: Arc<QapiService<Writer>>,
    /// Reads the socket, answers included.
    events: JoinHandle<()>,
    pause_reason: watch::Receiver<PauseReason>,
    disk: Mutex<DiskNode>,
    /// The same socket, for descriptors. It is locked until the command that takes the descriptor
    /// is answered.
    descriptors: Mutex<StdUnixStream>,
}

/// The block node that the disk's device writes to.
struct DiskNode {
    name: String,
    /// Number of overlays that were put on the first node.
    overlays: u32,
    /// The file of the last overlay.
    overlay: Option<PassedFile>,
}

impl fmt::Debug for Control {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.debug_struct("Control").finish_non_exhaustive()
    }
}

impl Control {
    /// Creates the socket pair: the host's end, and the one that QEMU inherits.
    pub(super) fn pair() -> io::Result<(Ungreeted, OwnedFd)> {
        let (socket, qemu_socket) = StdUnixStream::pair()?;
        socket.set_nonblocking(true)?;
        Ok((Ungreeted { socket }, qemu_socket.into()))
    }

    /// Lets QEMU save machines to files in which each page has its place, and restore them. Without
    /// it the file would be a stream, which takes several times as long to restore.
    pub(super) async fn enable_files(&self) -> io::Result<()> {
        let capability = MigrationCapabilityStatus {
            capability: MigrationCapability::mapped_ram,
            state: true,
        };
        let capabilities = vec![capability];
        self.execute(qmp::migrate_set_capabilities { capabilities })
            .await
    }

    /// Pauses the machine.
    pub(super) async fn pause(&self) -> io::Result<()> {
        in_time(RESTORE_TIMEOUT, self.execute(qmp::stop {})).await
    }

    /// Pauses the machine of a QEMU process and saves it to a file.
    /// [`enable_files`](Self::enable_files) comes first.
    pub(super) async fn save(&self, file: &Path, process: Option<u32>) -> io::Result<()> {
        let mut create = File::options();
        create.write(true).create(true).truncate(true).mode(0o600);
        let file = self.pass_file(&[create.open(file)?]).await?;
        let saved = self.save_to(&file, process).await;
        let forgotten = self.forget(file).await;
        saved.and(forgotten)
    }

    async fn save_to(&self, file: &PassedFile, process: Option<u32>) -> io::Result<()> {
        self.execute(qmp::stop {}).await?;
        let unused = process.map_or_else(
            || Err(io::Error::from(ErrorKind::NotFound)),
            UnusedMemory::find,
        );
        let unused = unused
            .inspect_err(|error| {
                tracing::warn!("saving allocates all memory of the machine: {error}");
            })
            .ok();
        self.execute(qmp::migrate {
            channels: None,
            detach: None,
            resume: None,
            uri: Some(format!("file:{}", file.path())),
        })
        .await?;
        let saved = self.await_migration(SAVE_INTERVAL);
        in_time(SAVE_TIMEOUT, freeing_unused(unused, saved)).await
    }

    /// Continues a machine that is paused. A save in progress is cancelled.
    pub(super) async fn resume(&self) -> io::Result<()> {
        let continued = async {
            self.end_migration().await?;
            self.execute(qmp::cont {}).await
        };
        in_time(RESTORE_TIMEOUT, continued).await
    }

    /// Waits until no migration is in progress.
    async fn end_migration(&self) -> io::Result<()> {
        loop {
            match self.ask(qmp::query_migrate {}).await?.status {
                None
                | Some(
                    MigrationStatus::none
                    | MigrationStatus::completed
                    | MigrationStatus::failed
                    | MigrationStatus::cancelled,
                ) => return Ok(()),
                Some(_) => {
                    self.execute(qmp::migrate_cancel {}).await?;
                    sleep(SAVE_INTERVAL).await;
                }
            }
        }
    }

    /// Restores the machine from a file. It is paused then.
    pub(super) async fn restore(&self, file: &Path) -> io::Result<()> {
        self.enable_files().await?;
        let restored = async {
            self.execute(qmp::migrate_incoming {
                channels: None,
                exit_on_error: None,
                uri: Some(uri(file)?),
            })
            .await?;
            self.await_migration(RESTORE_INTERVAL).await
        };
        let size = std::fs::metadata(file)?.blocks() * 512;
        let reading = Duration::from_secs(size / SLOW_DISK);
        in_time(RESTORE_TIMEOUT + reading, restored).await
    }

    async fn await_migration(&self, interval: Duration) -> io::Result<()> {
        loop {
            let state = self.ask(qmp::query_migrate {}).await?;
            match state.status {
                Some(MigrationStatus::completed) => return Ok(()),
                Some(MigrationStatus::failed | MigrationStatus::cancelled) => {
                    let reason = state
                        .error_desc
                        .unwrap_or_else(|| "unknown error".to_owned());
                    return Err(io::Error::other(reason));
                }
                _ => sleep(interval).await,
            }
        }
    }

    /// Passes open files to QEMU: the same one, opened in each mode in which QEMU will open it.
    async fn pass_file(&self, opened: &[File]) -> io::Result<PassedFile> {
        let mut set = None;
        for file in opened {
            let add = qmp::add_fd {
                fdset_id: set,
                opaque: None,
            };
            set = Some(self.pass(file.as_fd(), add).await?.fdset_id);
        }
        let set = set.ok_or_else(|| io::Error::from(ErrorKind::InvalidInput))?;
        Ok(PassedFile { set })
    }

    /// Lets QEMU close the descriptors when it does not use them any more.
    async fn forget(&self, file: PassedFile) -> io::Result<()> {
        let remove = qmp::remove_fd {
            fdset_id: file.set,
            fd: None,
        };
        self.execute(remove).await
    }

    /// Passes a descriptor to QEMU, and executes the command that takes it.
    pub(super) async fn pass<C>(&self, descriptor: BorrowedFd<'_>, command: C) -> io::Result<C::Ok>
    where
        C: QmpCommand + Command + Send + 'static,
        C::Ok: Send + 'static,
    {
        let descriptors = [descriptor];
        let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(1))];
        let mut ancillary = SendAncillaryBuffer::new(&mut space);
        ancillary.push(SendAncillaryMessage::ScmRights(&descriptors));
        // QEMU keeps a descriptor that arrives with any byte for the next command that takes one,
        // and ignores spaces between commands.
        let space = [IoSlice::new(b" ")];
        let socket = self.descriptors.lock().await;
        sendmsg(&*socket, &space, &mut ancillary, SendFlags::empty())?;
        self.ask(command).await
    }

    pub(super) async fn execute<C>(&self, command: C) -> io::Result<()>
    where
        C: QmpCommand + Command + Send + 'static,
        C::Ok: Send + 'static,
    {
        self.ask(command).await.map(drop)
    }

    pub(super) async fn ask<C>(&self, command: C) -> io::Result<C::Ok>
    where
        C: QmpCommand + Command + Send + 'static,
        C::Ok: Send + 'static,
    {
        ask(&self.service, command).await
    }

    /// Asks QEMU to write its disks back and quit. QEMU may end before it answers.
    pub(super) async fn quit(&self) {
        let quit = self.ask(qmp::quit {});
        let _ = timeout(ANSWER_TIMEOUT, quit).await;
        self.events.abort();
    }

    /// Passes the file of an overlay. QEMU opens it for reading only when it has an overlay itself.
    async fn pass_overlay(&self, overlay: &Path) -> io::Result<PassedFile> {
        let writable = File::options().read(true).write(true).open(overlay)?;
        self.pass_file(&[writable, File::open(overlay)?]).await
    }

    async fn change_disk<C>(&self, command: C) -> Result<(), LiveDiskError>
    where
        C: QmpCommand + Command + Send + 'static,
        C::Ok: Send + 'static,
    {
        let changed = in_time(ANSWER_TIMEOUT, self.execute(command)).await;
        changed.map_err(|error| match error.kind() {
            // What `refused` returns for an answer.
            ErrorKind::Unsupported => LiveDiskError::Refused(error.to_string()),
            _ => LiveDiskError::Unknown(error.to_string()),
        })
    }
}

impl LiveDisk for Control {
    fn put_overlay<'a>(&'a self, overlay: &'a Path) -> BoxFuture<'a, Result<(), LiveDiskError>> {
        async {
            let mut disk = self.disk.lock().await;
            let name = format!("{DISK_NODE}-{}", disk.overlays + 1);
            let file = self.pass_overlay(overlay).await;
            let file = file.map_err(|error| LiveDiskError::Refused(error.to_string()))?;
            self.change_disk(AddOverlay::new(&name, &file)).await?;
            let snapshot = qmp::BlockdevSnapshot {
                node: disk.name.clone(),
                overlay: name.clone(),
            };
            if let Err(error) = self.change_disk(qmp::blockdev_snapshot(snapshot)).await {
                let node_name = name;
                // Without it the file stays open, which does no harm.
                let _ = self.change_disk(qmp::blockdev_del { node_name }).await;
                return Err(error);
            }
            disk.overlays += 1;
            disk.name = name;
            if let Some(covered) = disk.overlay.replace(file) {
                // It stays open as long as QEMU needs it.
                let _ = self.forget(covered).await;
            }
            Ok(())
        }
        .boxed()
    }

    fn pause_reason(&self) -> Option<String> {
        self.pause_reason.borrow().as_deref().map(str::to_owned)
    }
}

/// Continues a machine that was paused because of an error of its disk. One that is paused for
/// another reason, such as a save, stays paused.
async fn continue_after_error(service: &QapiService<Writer>) {
    let continued = async {
        if ask(service, qmp::query_status {}).await?.status == RunState::io_error {
            ask(service, qmp::cont {}).await?;
        }
        io::Result::Ok(())
    };
    if let Err(error) = continued.await {
        tracing::warn!("cannot continue the machine: {error}");
    }
}

/// Executes a command, and returns its answer. The command is completed also if the future is
/// dropped: the next one needs its answer to be read.
async fn ask<C>(service: &QapiService<Writer>, command: C) -> io::Result<C::Ok>
where
    C: QmpCommand + Command + Send + 'static,
    C::Ok: Send + 'static,
{
    let answer = tokio::spawn(service.execute(command)).await;
    answer.map_err(io::Error::other)?.map_err(refused)
}

/// `blockdev-add` of a qcow2 file without what it is an overlay of, which QEMU has open. The `qapi`
/// crate leaves out a `backing` of `null`.
#[derive(Debug, Serialize)]
#[serde(rename_all = "kebab-case")]
struct AddOverlay {
    driver: &'static str,
    node_name: String,
    discard: &'static str,
    detect_zeroes: &'static str,
    file: OverlayFile,
    backing: Option<&'static str>,
}

#[derive(Debug, Serialize)]
struct OverlayFile {
    driver: &'static str,
    discard: &'static str,
    filename: String,
}

impl AddOverlay {
    /// The options are those of the disk on the command line.
    fn new(node_name: &str, overlay: &PassedFile) -> AddOverlay {
        AddOverlay {
            driver: "qcow2",
            node_name: node_name.to_owned(),
            discard: "unmap",
            detect_zeroes: "unmap",
            file: OverlayFile {
                driver: "file",
                discard: "unmap",
                filename: overlay.path(),
            },
            backing: None,
        }
    }
}

impl QmpCommand for AddOverlay {}

impl Command for AddOverlay {
    type Ok = Empty;
    const NAME: &'static str = "blockdev-add";
    const ALLOW_OOB: bool = false;
}

/// Frees memory that the guest does not use until `saved` is done.
async fn freeing_unused(
    unused: Option<UnusedMemory>,
    saved: impl Future<Output = io::Result<()>>,
) -> io::Result<()> {
    let Some(unused) = unused else {
        return saved.await;
    };
    let freeing = async {
        loop {
            sleep(FREE_INTERVAL).await;
            if let Err(error) = unused.free() {
                tracing::warn!("cannot free memory that the machine does not use: {error}");
                return pending().await;
            }
        }
    };
    tokio::select! {
        saved = saved => saved,
        () = freeing => Ok(()),
    }
}

/// Returns the address of a file for a migration.
fn uri(file: &Path) -> io::Result<String> {
    let invalid = || io::Error::new(ErrorKind::InvalidFilename, "the path is not in UTF-8");
    Ok(format!("file:{}", file.to_str().ok_or_else(invalid)?))
}

fn refused(error: ExecuteError) -> io::Error {
    match error {
        ExecuteError::Io(error) => error,
        ExecuteError::Qapi(error) => io::Error::new(ErrorKind::Unsupported, error.desc),
    }
}

async fn in_time(limit: Duration, work: impl Future<Output = io::Result<()>>) -> io::Result<()> {
    let done = timeout(limit, work).await;
    done.unwrap_or_else(|_| Err(io::Error::from(ErrorKind::TimedOut)))
}

impl Ungreeted {
    /// Waits for QEMU's greeting and negotiates capabilities.
    pub(super) async fn connect(self) -> io::Result<Control> {
        let descriptors = self.socket.try_clone()?;
        let socket = UnixStream::from_std(self.socket)?;
        let stream = QmpStreamTokio::open(socket).await?.negotiate().await?;
        let (service, events) = stream.into_parts();
        // Without it the events would not end with the service.
        let _ = events.release();
        let (reason, pause_reason) = watch::channel(None);
        let events = tokio::spawn(write_errors::follow(events, reason));
        let service = Arc::new(service);
        let retrying = Arc::clone(&service);
        let retry = async move || continue_after_error(&retrying).await;
        tokio::spawn(write_errors::retry_while_paused(
            pause_reason.clone(),
            retry,
        ));
        let disk = Mutex::new(DiskNode {
            name: DISK_NODE.to_owned(),
            overlays: 0,
            overlay: None,
        });
        Ok(Control {
            service,
            events,
            pause_reason,
            disk,
            descriptors: Mutex::new(descriptors),
        })
    }
}
