//! Sends the host the changes between the machine's disk and its image.

use std::{
    fs,
    io::{self, Read, Write},
    os::fd::{AsFd, OwnedFd},
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::{Duration, Instant},
};

use container_protocol::{ChangesRequest, frame, mux::Stream};
use rustix::{
    fs::CWD,
    mount::{OpenTreeFlags, open_tree},
};
use tokio::{
    sync::RwLock,
    task::spawn_blocking,
    time::{sleep, timeout},
};
use tokio_util::io::SyncIoBridge;

use crate::{
    kernel_log,
    paths::{MACHINE, MACHINE_CGROUP},
};

/// Timeout for the machine's processes to pause. A process that waits for the shared home pauses
/// only after the host has answered.
const PAUSE_TIMEOUT: Duration = Duration::from_secs(5);

/// Interval at which the state of the processes is checked.
const PAUSE_POLL: Duration = Duration::from_millis(10);

/// Timeout for cancelled readers to close the disk.
const CANCEL_TIMEOUT: Duration = Duration::from_secs(5);

/// Server of the machine's changes.
#[derive(Debug, Default)]
pub(crate) struct Changes {
    is_cancelled: AtomicBool,
    /// Held shared by each reader.
    readers: RwLock<()>,
}

impl Changes {
    /// Returns a server without readers.
    pub(crate) fn new() -> Arc<Changes> {
        Arc::new(Changes::default())
    }

    /// Serves one stream that the host opened: receives the base's listing and sends the archive.
    pub(crate) async fn serve(self: Arc<Self>, mut stream: Stream) {
        let _reader = self.readers.read().await;
        let Ok(request) = frame::read::<ChangesRequest>(&mut stream).await else {
            return;
        };
        let pause = if request.pause {
            Some(Pause::start().await)
        } else {
            None
        };
        let changes = Arc::clone(&self);
        let packed = spawn_blocking(move || changes.pack(stream)).await;
        drop(pause);
        if let Err(error) = packed.unwrap_or_else(|error| Err(error.into())) {
            kernel_log::error(&format!("cannot send the machine's changes: {error}"));
        }
    }

    /// Cancels all readers, and with them every pause of the machine's processes.
    pub(crate) async fn cancel(&self) {
        self.is_cancelled.store(true, Ordering::Relaxed);
        if timeout(CANCEL_TIMEOUT, self.readers.write()).await.is_err() {
            kernel_log::error("timed out cancelling the reading of the machine's changes");
        }
    }

    fn pack(&self, stream: Stream) -> io::Result<()> {
        let (listing, archive) = tokio::io::split(stream);
        let mut listing = self.cancellable(SyncIoBridge::new(listing));
        let mut archive = self.cancellable(SyncIoBridge::new(archive));
        match clone_disk_mount() {
            Ok(disk) => container_changes::pack(disk.as_fd(), &mut listing, &mut archive)
                .map_err(io::Error::other)?,
            Err(error) => container_changes::send_failure(
                &mut archive,
                &format!("cannot open the machine's disk: {error}"),
            )?,
        }
        archive.stream.shutdown()?;
        // Dropping the stream would reset it. The host closes it after it has read everything.
        let _ = io::copy(&mut listing, &mut io::sink());
        Ok(())
    }

    fn cancellable<S>(&self, stream: S) -> CancellableStream<'_, S> {
        CancellableStream {
            stream,
            is_cancelled: &self.is_cancelled,
        }
    }
}

/// Returns a new mount of the machine's disk, on which nothing else is mounted. So the walk sees
/// the disk's own files below every mount point.
fn clone_disk_mount() -> io::Result<OwnedFd> {
    let flags = OpenTreeFlags::OPEN_TREE_CLONE | OpenTreeFlags::OPEN_TREE_CLOEXEC;
    Ok(open_tree(CWD, MACHINE, flags)?)
}

/// A stream that fails after the cancellation.
struct CancellableStream<'a, S> {
    stream: S,
    is_cancelled: &'a AtomicBool,
}

impl<S> CancellableStream<'_, S> {
    fn check(&self) -> io::Result<()> {
        if self.is_cancelled.load(Ordering::Relaxed) {
            Err(io::Error::other("the machine is shutting down"))
        } else {
            Ok(())
        }
    }
}

impl<S: Read> Read for CancellableStream<'_, S> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        self.check()?;
        self.stream.read(buffer)
    }
}

impl<S: Write> Write for CancellableStream<'_, S> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.check()?;
        self.stream.write(bytes)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.stream.flush()
    }
}

/// Pause of all of the machine's processes, until this is dropped
/// (Documentation/admin-guide/cgroup-v2.rst, "cgroup.freeze").
struct Pause;

impl Pause {
    /// Pauses the processes, at most waiting [`PAUSE_TIMEOUT`] for them.
    async fn start() -> Pause {
        set_frozen(true);
        let pause = Pause;
        let began = Instant::now();
        while !is_frozen() {
            if began.elapsed() > PAUSE_TIMEOUT {
                kernel_log::error("timed out pausing some of the machine's processes");
                break;
            }
            sleep(PAUSE_POLL).await;
        }
        pause
    }
}

impl Drop for Pause {
    fn drop(&mut self) {
        set_frozen(false);
    }
}

fn set_frozen(frozen: bool) {
    let word = if frozen { "1" } else { "0" };
    if let Err(error) = fs::write(format!("{MACHINE_CGROUP}/cgroup.freeze"), word) {
        kernel_log::error(&format!(
            "cannot pause or resume the machine's processes: {error}"
        ));
    }
}

fn is_frozen() -> bool {
    let events = fs::read_to_string(format!("{MACHINE_CGROUP}/cgroup.events"));
    events.is_ok_and(|events| events.lines().any(|line| line == "frozen 1"))
}
