//! Blobs that are read while they are being fetched.
//!
//! The fetching side reports its progress to an [`Arrival`]; the unpacking side reads an
//! [`ArrivingBlob`], which blocks until more bytes have been written. So a broken connection that
//! is resumed is invisible to the reader, and unpacking starts with the first bytes.

use std::{
    collections::HashMap,
    fs::File,
    io::{self, Read},
    os::unix::fs::FileExt,
    path::{Path, PathBuf},
    sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError},
};

use super::ImageStore;
use crate::{Descriptor, Digest};

/// Arrivals of an image's blobs, by digest.
#[derive(Debug, Clone)]
pub(crate) struct Arrivals(HashMap<Digest, Arc<Arrival>>);

impl ImageStore {
    /// Returns arrivals for these blobs: completed for those in the store, else pending.
    pub(crate) fn arrivals<'a>(&self, blobs: impl Iterator<Item = &'a Descriptor>) -> Arrivals {
        let arrival = |blob| {
            if self.has_blob(blob) {
                Arrival::completed()
            } else {
                Arrival::pending()
            }
        };
        Arrivals(
            blobs
                .map(|blob| (blob.digest, Arc::new(arrival(blob))))
                .collect(),
        )
    }
}

impl Arrivals {
    /// Returns a blob's arrival; a cancelled one for an unknown digest.
    pub(crate) fn get(&self, digest: &Digest) -> Arc<Arrival> {
        let known = self.0.get(digest).cloned();
        known.unwrap_or_else(|| Arc::new(Arrival::new(State::Cancelled)))
    }

    /// Cancels all arrivals that are not complete.
    pub(crate) fn cancel(&self) {
        self.0.values().for_each(|arrival| arrival.cancel());
    }
}

/// Progress of one blob, shared by the side that fetches it and the side that reads it.
#[derive(Debug)]
pub(crate) struct Arrival {
    state: Mutex<State>,
    changed: Condvar,
}

#[derive(Debug)]
enum State {
    /// No download of it has begun.
    Pending,
    /// The first `bytes` bytes are in the file. Their digest is not known yet.
    Arriving { file: Arc<File>, bytes: u64 },
    /// It is in the store, and its digest was checked.
    Complete,
    /// Fetching failed or was cancelled.
    Cancelled,
}

/// The blob was not fetched completely. The fetching side reports the reason.
#[derive(Debug, Clone, Copy, thiserror::Error)]
#[error("the layer was not fetched")]
pub(crate) struct NotArrived;

impl Arrival {
    /// Arrival of a blob that is still to be fetched.
    pub(crate) fn pending() -> Arrival {
        Arrival::new(State::Pending)
    }

    /// Arrival of a blob that is in the store.
    pub(crate) fn completed() -> Arrival {
        Arrival::new(State::Complete)
    }

    fn new(state: State) -> Arrival {
        Arrival {
            state: Mutex::new(state),
            changed: Condvar::new(),
        }
    }

    pub(crate) fn is_pending(&self) -> bool {
        matches!(*self.state(), State::Pending)
    }

    /// Reports that the blob's bytes are being written to this file.
    pub(crate) fn begin(&self, file: File) {
        self.change(State::Arriving {
            file: Arc::new(file),
            bytes: 0,
        });
    }

    /// Reports the number of bytes in the file.
    pub(crate) fn advance(&self, to: u64) {
        if let State::Arriving { bytes, .. } = &mut *self.state() {
            *bytes = to;
        }
        self.changed.notify_all();
    }

    /// Reports that the blob is in the store.
    pub(crate) fn complete(&self) {
        self.change(State::Complete);
    }

    /// Reports that the blob will not be fetched. Has no effect on a complete one.
    pub(crate) fn cancel(&self) {
        if !matches!(*self.state(), State::Complete) {
            self.change(State::Cancelled);
        }
    }

    /// Blocks until the blob is in the store or was cancelled.
    pub(crate) fn wait(&self) -> Result<(), NotArrived> {
        let is_open = |state: &mut State| !matches!(state, State::Complete | State::Cancelled);
        let state = self.changed.wait_while(self.state(), is_open);
        match *state.unwrap_or_else(PoisonError::into_inner) {
            State::Complete => Ok(()),
            _ => Err(NotArrived),
        }
    }

    fn change(&self, to: State) {
        *self.state() = to;
        self.changed.notify_all();
    }

    fn state(&self) -> MutexGuard<'_, State> {
        // Every change is a single assignment, so a panic leaves the state consistent.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Reader of an arriving blob. A read blocks until there are bytes; its error contains
/// [`NotArrived`] if no more will come.
pub(crate) struct ArrivingBlob<'a> {
    arrival: &'a Arrival,
    /// Path of the complete blob.
    path: PathBuf,
    file: Option<Arc<File>>,
    position: u64,
    size: u64,
}

impl<'a> ArrivingBlob<'a> {
    /// Returns a reader of the blob that has or will have this path and size.
    pub(crate) fn new(arrival: &'a Arrival, path: &Path, size: u64) -> ArrivingBlob<'a> {
        ArrivingBlob {
            arrival,
            path: path.to_owned(),
            file: None,
            position: 0,
            size,
        }
    }

    /// Blocks until there are bytes after the position. Returns their file and their number.
    fn next(&mut self) -> io::Result<(Arc<File>, u64)> {
        let position = self.position;
        let is_starved = |state: &mut State| match state {
            State::Pending => true,
            State::Arriving { bytes, .. } => *bytes <= position,
            State::Complete | State::Cancelled => false,
        };
        let state = self
            .arrival
            .changed
            .wait_while(self.arrival.state(), is_starved);
        let (file, end) = match &*state.unwrap_or_else(PoisonError::into_inner) {
            State::Arriving { file, bytes } => (Some(Arc::clone(file)), *bytes),
            State::Complete => (None, self.size),
            State::Pending | State::Cancelled => return Err(io::Error::other(NotArrived)),
        };
        // A file that was opened before the blob got its name has the same bytes: no need to
        // reopen.
        let file = match file.or(self.file.take()) {
            Some(file) => file,
            None => Arc::new(File::open(&self.path)?),
        };
        self.file = Some(Arc::clone(&file));
        Ok((file, end - position))
    }
}

impl Read for ArrivingBlob<'_> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        if self.position >= self.size || buffer.is_empty() {
            return Ok(0);
        }
        let (file, available) = self.next()?;
        let wanted = usize::try_from(available).map_or(buffer.len(), |it| it.min(buffer.len()));
        let count = file.read_at(&mut buffer[..wanted], self.position)?;
        self.position += count as u64;
        Ok(count)
    }
}

#[cfg(test)]
mod tests {
    use std::{fs, io::Write, thread, time::Duration};

    use super::*;

    #[test]
    fn bytes_are_read_while_they_arrive() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("incoming");
        let mut file = File::create(&path).unwrap();
        let arrival = Arrival::pending();
        thread::scope(|threads| {
            let reader = threads.spawn(|| {
                let mut all = Vec::new();
                let mut blob = ArrivingBlob::new(&arrival, &directory.path().join("blob"), 10);
                blob.read_to_end(&mut all).map(|_| all)
            });
            thread::sleep(Duration::from_millis(5));
            arrival.begin(File::open(&path).unwrap());
            for (part, end) in [(&b"01234"[..], 5), (b"56789", 10)] {
                file.write_all(part).unwrap();
                thread::sleep(Duration::from_millis(5));
                arrival.advance(end);
            }
            assert_eq!(reader.join().unwrap().unwrap(), b"0123456789");
            arrival.complete();
            arrival.cancel();
            assert!(arrival.wait().is_ok());
        });
    }

    #[test]
    fn a_stored_blob_is_read_from_its_path() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("blob");
        fs::write(&path, "all").unwrap();
        let (arrival, mut all) = (Arrival::completed(), String::new());
        let mut blob = ArrivingBlob::new(&arrival, &path, 3);
        blob.read_to_string(&mut all).unwrap();
        assert_eq!(all, "all");
    }

    #[test]
    fn a_waiting_reader_fails_when_the_blob_is_cancelled() {
        let file = tempfile::tempfile().unwrap();
        let arrival = Arrival::pending();
        thread::scope(|threads| {
            let reader = threads.spawn(|| {
                let mut blob = ArrivingBlob::new(&arrival, Path::new("/none"), 10);
                blob.read_to_end(&mut Vec::new()).unwrap_err()
            });
            arrival.begin(file);
            thread::sleep(Duration::from_millis(5));
            arrival.cancel();
            let error = reader.join().unwrap();
            assert!(error.get_ref().unwrap().is::<NotArrived>());
        });
        assert!(arrival.wait().is_err());
    }
}
