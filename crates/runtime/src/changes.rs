//! Reads the differences between a machine's disk and its image from the guest.

use std::{
    io::{self, BufReader, BufWriter, Read, Write},
    net::Shutdown,
    os::unix::net::UnixStream,
    sync::mpsc::{self, Receiver},
    thread,
};

use container_changes::ArchiveReader;
use container_protocol::{
    ChangesRequest, Port,
    frame::{self, FrameError},
    local::{self, RuntimeRequest},
};

use crate::handle::Runtime;

/// Size of the buffers in bytes.
const CHUNK: usize = 256 << 10;

/// Error of reading the changes.
#[derive(Debug, thiserror::Error)]
pub enum ChangesError {
    /// The machine's runtime cannot be reached.
    #[error("cannot connect to the machine: {0}")]
    Connect(io::Error),
    /// The request could not be sent.
    #[error("cannot ask the machine for its changes: {0}")]
    Request(FrameError),
}

/// The archive of a machine's changes, for blocking reads. The guest stops when this is dropped
/// before its end.
pub struct Changes {
    archive: ArchiveReader<BufReader<UnixStream>, Box<dyn FnMut(String) + Send>>,
    stream: UnixStream,
    /// Receives the result of sending the listing.
    listing: Receiver<io::Result<()>>,
}

impl Runtime {
    /// Asks for the machine's changes. `write_listing` writes the listing of the disk's base image,
    /// on a thread of its own; `note` gets messages for the user. With `pause` the machine's
    /// processes are paused until everything is read.
    ///
    /// # Errors
    /// [`ChangesError`].
    pub async fn changes(
        &self,
        pause: bool,
        write_listing: impl FnOnce(&mut dyn Write) -> io::Result<()> + Send + 'static,
        note: impl FnMut(String) + Send + 'static,
    ) -> Result<Changes, ChangesError> {
        let stream = self.request_changes(pause).await?;
        let start = || {
            let listing = send_listing(stream.try_clone()?, write_listing)?;
            Ok(Changes {
                archive: ArchiveReader::new(
                    BufReader::with_capacity(CHUNK, stream.try_clone()?),
                    Box::new(note),
                ),
                stream,
                listing,
            })
        };
        start().map_err(ChangesError::Connect)
    }

    /// Opens a stream to the agent and sends the request. Returns the stream for blocking use.
    async fn request_changes(&self, pause: bool) -> Result<UnixStream, ChangesError> {
        let connected = local::connect(self.socket()).await;
        let mut stream = connected.map_err(ChangesError::Connect)?;
        let request = async {
            frame::write(&mut stream, &RuntimeRequest::Connect).await?;
            frame::write(&mut stream, &Port::Changes).await?;
            frame::write(&mut stream, &ChangesRequest { pause }).await
        };
        request.await.map_err(ChangesError::Request)?;
        let stream = stream.into_std().map_err(ChangesError::Connect)?;
        let blocking = stream.set_nonblocking(false);
        blocking.map_err(ChangesError::Connect)?;
        Ok(stream)
    }
}

/// Starts the thread that sends the listing. Returns the receiver of its result.
fn send_listing(
    stream: UnixStream,
    write_listing: impl FnOnce(&mut dyn Write) -> io::Result<()> + Send + 'static,
) -> io::Result<Receiver<io::Result<()>>> {
    let (done, listing) = mpsc::sync_channel(1);
    let sender = thread::Builder::new().name("listing".to_owned());
    sender.spawn(move || {
        let mut writer = BufWriter::with_capacity(CHUNK, &stream);
        let sent = write_listing(&mut writer).and_then(|()| writer.flush());
        let is_sent = sent.is_ok();
        // Before the stream is closed, so that its reader finds the cause. It may be gone.
        let _ = done.send(sent);
        // An incomplete listing is useless to the guest. A complete one has an end marker, and its
        // stream stays open for writing: after a shutdown it could no longer be reset, and the
        // guest would wait for a reader that has gone.
        if !is_sent {
            let _ = stream.shutdown(Shutdown::Both);
        }
    })?;
    Ok(listing)
}

impl Changes {
    /// Returns a handle that ends the reading from another thread.
    ///
    /// # Errors
    /// If the process has no descriptors left.
    pub fn stopper(&self) -> io::Result<Stopper> {
        Ok(Stopper(self.stream.try_clone()?))
    }
}

impl Read for Changes {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        self.archive
            .read(buffer)
            .map_err(|error| match self.listing.try_recv() {
                // The failed listing is the reason why the guest closed the stream.
                Ok(Err(cause)) => io::Error::other(format!(
                    "cannot send the listing of the machine's image: {cause}"
                )),
                _ => error,
            })
    }
}

impl Drop for Changes {
    fn drop(&mut self) {
        // Fails if it is closed already.
        let _ = self.stream.shutdown(Shutdown::Both);
    }
}

/// Ends the reading of [`Changes`] from another thread.
#[derive(Debug)]
pub struct Stopper(UnixStream);

impl Stopper {
    /// Makes current and later reads fail.
    pub fn stop(&self) {
        // Fails if it is closed already.
        let _ = self.0.shutdown(Shutdown::Both);
    }
}
