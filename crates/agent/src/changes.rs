//! What differs between the machine's disk and its image, for the host.

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
    machine::{MACHINE, mounts::MACHINE_CGROUP},
    power,
};

/// How long the machine's processes may take to stand still. One that waits for the shared home
/// does so only when it is answered.
const PAUSE: Duration = Duration::from_secs(5);

/// How often it is looked whether they do.
const LOOK_AGAIN: Duration = Duration::from_millis(10);

/// How long whoever reads may take to let go of the disk.
const LET_GO: Duration = Duration::from_secs(5);

/// Reads the machine's changes for whoever asks.
#[derive(Debug, Default)]
pub struct Changes {
    is_given_up: AtomicBool,
    /// Held shared while they are read.
    going_on: RwLock<()>,
}

impl Changes {
    /// Nobody reads yet.
    pub fn new() -> Arc<Changes> {
        Arc::new(Changes::default())
    }

    /// Serves one stream that the host opened.
    pub async fn serve(self: Arc<Self>, mut stream: Stream) {
        let _going_on = self.going_on.read().await;
        let Ok(request) = frame::read::<ChangesRequest>(&mut stream).await else {
            return;
        };
        let paused = match request.pause {
            true => Some(Paused::machine().await),
            false => None,
        };
        let changes = Arc::clone(&self);
        let packed = spawn_blocking(move || changes.pack(stream)).await;
        drop(paused);
        match packed {
            Ok(Ok(())) => {}
            Ok(Err(error)) => power::say(&format!("reading the machine's changes: {error}")),
            Err(error) => power::say(&format!("reading the machine's changes: {error}")),
        }
    }

    /// Ends all reading, and with it every pause.
    pub async fn give_up(&self) {
        self.is_given_up.store(true, Ordering::Relaxed);
        if timeout(LET_GO, self.going_on.write()).await.is_err() {
            power::say("the machine's changes are still being read");
        }
    }

    fn pack(&self, stream: Stream) -> io::Result<()> {
        let (listing, archive) = tokio::io::split(stream);
        let mut listing = self.while_wanted(SyncIoBridge::new(listing));
        let mut archive = self.while_wanted(SyncIoBridge::new(archive));
        match disk() {
            Ok(disk) => container_changes::pack(disk.as_fd(), &mut listing, &mut archive)
                .map_err(io::Error::other)?,
            Err(error) => container_changes::refuse(
                &mut archive,
                &format!("reaching the machine's disk: {error}"),
            )?,
        }
        archive.stream.shutdown()?;
        // The host closes the stream when it has read all; until then it must not be dropped.
        let _ = io::copy(&mut listing, &mut io::sink());
        Ok(())
    }

    fn while_wanted<S>(&self, stream: S) -> WhileWanted<'_, S> {
        WhileWanted {
            stream,
            is_given_up: &self.is_given_up,
        }
    }
}

/// The machine's disk alone: another mount of it, that nothing is mounted on.
fn disk() -> io::Result<OwnedFd> {
    let flags = OpenTreeFlags::OPEN_TREE_CLONE | OpenTreeFlags::OPEN_TREE_CLOEXEC;
    Ok(open_tree(CWD, MACHINE, flags)?)
}

/// A stream that fails once it is given up.
struct WhileWanted<'a, S> {
    stream: S,
    is_given_up: &'a AtomicBool,
}

impl<S> WhileWanted<'_, S> {
    fn check(&self) -> io::Result<()> {
        match self.is_given_up.load(Ordering::Relaxed) {
            true => Err(io::Error::other("the machine is on its way down")),
            false => Ok(()),
        }
    }
}

impl<S: Read> Read for WhileWanted<'_, S> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        self.check()?;
        self.stream.read(buffer)
    }
}

impl<S: Write> Write for WhileWanted<'_, S> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.check()?;
        self.stream.write(bytes)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.stream.flush()
    }
}

/// The machine's processes stand still until this is dropped (Documentation/admin-guide/cgroup-v2,
/// "cgroup.freeze").
struct Paused;

impl Paused {
    /// Waits until they do, but not for long.
    async fn machine() -> Paused {
        freeze("1");
        let paused = Paused;
        let began = Instant::now();
        while !is_frozen() {
            if began.elapsed() > PAUSE {
                power::say("some of the machine's processes could not be paused");
                break;
            }
            sleep(LOOK_AGAIN).await;
        }
        paused
    }
}

impl Drop for Paused {
    fn drop(&mut self) {
        freeze("0");
    }
}

fn freeze(word: &str) {
    if let Err(error) = fs::write(format!("{MACHINE_CGROUP}/cgroup.freeze"), word) {
        power::say(&format!("pausing the machine's processes: {error}"));
    }
}

fn is_frozen() -> bool {
    let events = fs::read_to_string(format!("{MACHINE_CGROUP}/cgroup.events"));
    events.is_ok_and(|events| events.lines().any(|line| line == "frozen 1"))
}
