//! What differs between a machine's disk and its image, read from the guest.

use std::{
    io::{self, BufReader, BufWriter, Read, Write},
    net::Shutdown,
    os::unix::net::UnixStream,
    sync::mpsc::{self, Receiver},
    thread,
};

use container_changes::Archive;
use container_protocol::{
    ChangesRequest, Port,
    frame::{self, FrameError},
    local::{self, RuntimeRequest},
};

use crate::Runtime;

/// Bytes that are read or written at once.
const CHUNK: usize = 256 << 10;

/// Why the changes cannot be read.
#[derive(Debug, thiserror::Error)]
pub enum ChangesError {
    /// The machine's runtime cannot be reached.
    #[error("reaching the machine: {0}")]
    Connect(#[source] io::Error),
    /// It does not take the request.
    #[error("asking the machine for its changes: {0}")]
    Ask(#[from] FrameError),
}

/// The archive of a machine's changes, to be read on a thread that may wait. Dropped before its
/// end, it makes the machine give up.
pub struct Changes {
    archive: Archive<BufReader<UnixStream>, Box<dyn FnMut(String) + Send>>,
    stream: UnixStream,
    /// How the listing ended; nothing while it is being sent.
    listing: Receiver<io::Result<()>>,
}

impl Runtime {
    /// Asks for the machine's changes. `write_listing` tells, on a thread of its own, what the base
    /// of its disk has; `note` hears sentences that whoever asked should read. With `pause` the
    /// machine's processes stand still until all is read.
    ///
    /// # Errors
    /// [`ChangesError`].
    pub async fn changes(
        &self,
        pause: bool,
        write_listing: impl FnOnce(&mut dyn Write) -> io::Result<()> + Send + 'static,
        note: impl FnMut(String) + Send + 'static,
    ) -> Result<Changes, ChangesError> {
        let connected = local::connect(self.socket()).await;
        let mut stream = connected.map_err(ChangesError::Connect)?;
        frame::write(&mut stream, &RuntimeRequest::Connect).await?;
        frame::write(&mut stream, &Port::Changes).await?;
        frame::write(&mut stream, &ChangesRequest { pause }).await?;
        let begin = || {
            let stream = stream.into_std()?;
            stream.set_nonblocking(false)?;
            let listing = send(stream.try_clone()?, write_listing)?;
            Ok(Changes {
                archive: Archive::new(
                    BufReader::with_capacity(CHUNK, stream.try_clone()?),
                    Box::new(note),
                ),
                stream,
                listing,
            })
        };
        begin().map_err(ChangesError::Connect)
    }
}

fn send(
    stream: UnixStream,
    write_listing: impl FnOnce(&mut dyn Write) -> io::Result<()> + Send + 'static,
) -> io::Result<Receiver<io::Result<()>>> {
    let (done, listing) = mpsc::sync_channel(1);
    let sender = thread::Builder::new().name("listing".to_owned());
    sender.spawn(move || {
        let mut to = BufWriter::with_capacity(CHUNK, &stream);
        let sent = write_listing(&mut to).and_then(|()| to.flush());
        let is_sent = sent.is_ok();
        // Told before the other side can complain. Nobody may be interested any more.
        let _ = done.send(sent);
        // With half a listing there is nothing to tell. A whole one has its own end: a stream that was
        // closed for writing could not be reset any more, and the guest would wait for a reader
        // that has gone.
        if !is_sent {
            let _ = stream.shutdown(Shutdown::Both);
        }
    })?;
    Ok(listing)
}

impl Changes {
    /// What ends the reading from another thread.
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
                // What broke first counts.
                Ok(Err(cause)) => {
                    io::Error::other(format!("telling the machine what its image has: {cause}"))
                }
                _ => error,
            })
    }
}

impl Drop for Changes {
    fn drop(&mut self) {
        // It may be closed already.
        let _ = self.stream.shutdown(Shutdown::Both);
    }
}

/// Ends the reading of [`Changes`].
#[derive(Debug)]
pub struct Stopper(UnixStream);

impl Stopper {
    /// Whoever reads gets an error.
    pub fn stop(&self) {
        // It may be closed already.
        let _ = self.0.shutdown(Shutdown::Both);
    }
}
