//! A blob that is read while it arrives.

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

/// How far several blobs have come, each once.
#[derive(Debug, Clone)]
pub(crate) struct Arrivals(HashMap<Digest, Arc<Arrival>>);

impl ImageStore {
    /// The arrivals of these blobs; some may be in the store already.
    pub(crate) fn arrivals<'a>(&self, blobs: impl Iterator<Item = &'a Descriptor>) -> Arrivals {
        let arrival = |blob| match self.has(blob) {
            true => Arrival::here(),
            false => Arrival::awaited(),
        };
        Arrivals(
            blobs
                .map(|blob| (blob.digest, Arc::new(arrival(blob))))
                .collect(),
        )
    }
}

impl Arrivals {
    /// One blob's arrival. A blob that nobody spoke of will not come.
    pub(crate) fn of(&self, digest: &Digest) -> Arc<Arrival> {
        let known = self.0.get(digest).cloned();
        known.unwrap_or_else(|| Arc::new(Arrival::new(State::Lost)))
    }

    /// Gives up what is not there yet.
    pub(crate) fn give_up(&self) {
        self.0.values().for_each(|arrival| arrival.give_up());
    }
}

/// How far a blob has come. Whoever fetches it tells; whoever reads it waits for that.
#[derive(Debug)]
pub(crate) struct Arrival {
    state: Mutex<State>,
    changed: Condvar,
}

#[derive(Debug)]
enum State {
    Awaited,
    /// So many bytes are in the file, and may still turn out to be the wrong ones.
    Arriving {
        file: Arc<File>,
        bytes: u64,
    },
    /// It is in the store, checked.
    Here,
    /// It will not come.
    Lost,
}

/// The blob did not come whole; whoever fetched it knows why.
#[derive(Debug, Clone, Copy, thiserror::Error)]
#[error("it did not arrive")]
pub(crate) struct NotArrived;

impl Arrival {
    /// Of a blob that is still to be fetched.
    pub(crate) fn awaited() -> Arrival {
        Arrival::new(State::Awaited)
    }

    /// Of a blob that is in the store.
    pub(crate) fn here() -> Arrival {
        Arrival::new(State::Here)
    }

    fn new(state: State) -> Arrival {
        Arrival {
            state: Mutex::new(state),
            changed: Condvar::new(),
        }
    }

    /// Whether nobody has begun to fetch it.
    pub(crate) fn is_awaited(&self) -> bool {
        matches!(*self.state(), State::Awaited)
    }

    /// It is arriving in this file.
    pub(crate) fn begin(&self, file: File) {
        self.change(State::Arriving {
            file: Arc::new(file),
            bytes: 0,
        });
    }

    /// So many bytes have come in all.
    pub(crate) fn advance(&self, to: u64) {
        if let State::Arriving { bytes, .. } = &mut *self.state() {
            *bytes = to;
        }
        self.changed.notify_all();
    }

    /// It is in the store.
    pub(crate) fn complete(&self) {
        self.change(State::Here);
    }

    /// It will not come, unless it is here already.
    pub(crate) fn give_up(&self) {
        if !matches!(*self.state(), State::Here) {
            self.change(State::Lost);
        }
    }

    /// Waits until all of it is in the store.
    pub(crate) fn wait(&self) -> Result<(), NotArrived> {
        let going_on = |state: &mut State| !matches!(state, State::Here | State::Lost);
        let state = self.changed.wait_while(self.state(), going_on);
        match *state.unwrap_or_else(PoisonError::into_inner) {
            State::Here => Ok(()),
            _ => Err(NotArrived),
        }
    }

    fn change(&self, to: State) {
        *self.state() = to;
        self.changed.notify_all();
    }

    fn state(&self) -> MutexGuard<'_, State> {
        // Every change is a single assignment: a panic elsewhere leaves a whole state.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// The bytes of an arriving blob. A read waits until there is something; [`NotArrived`] is in its
/// error if nothing more will come.
pub(crate) struct ArrivingBlob<'a> {
    arrival: &'a Arrival,
    /// Where it is once it is here.
    path: PathBuf,
    file: Option<Arc<File>>,
    position: u64,
    size: u64,
}

impl<'a> ArrivingBlob<'a> {
    /// The blob of this size that will be there.
    pub(crate) fn new(arrival: &'a Arrival, path: &Path, size: u64) -> ArrivingBlob<'a> {
        ArrivingBlob {
            arrival,
            path: path.to_owned(),
            file: None,
            position: 0,
            size,
        }
    }

    /// Waits for bytes behind the position; returns the file they are in and how many there are.
    fn next(&mut self) -> io::Result<(Arc<File>, u64)> {
        let position = self.position;
        let behind = |state: &mut State| match state {
            State::Awaited => true,
            State::Arriving { bytes, .. } => *bytes <= position,
            State::Here | State::Lost => false,
        };
        let state = self
            .arrival
            .changed
            .wait_while(self.arrival.state(), behind);
        let (file, end) = match &*state.unwrap_or_else(PoisonError::into_inner) {
            State::Arriving { file, bytes } => (Some(Arc::clone(file)), *bytes),
            State::Here => (None, self.size),
            State::Awaited | State::Lost => return Err(io::Error::other(NotArrived)),
        };
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
    fn bytes_are_read_as_they_come() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("incoming");
        let mut file = File::create(&path).unwrap();
        let arrival = Arrival::awaited();
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
            arrival.give_up();
            assert!(arrival.wait().is_ok());
        });
    }

    #[test]
    fn what_was_here_before_is_read_from_its_place() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("blob");
        fs::write(&path, "all").unwrap();
        let (arrival, mut all) = (Arrival::here(), String::new());
        let mut blob = ArrivingBlob::new(&arrival, &path, 3);
        blob.read_to_string(&mut all).unwrap();
        assert_eq!(all, "all");
    }

    #[test]
    fn whoever_waits_hears_that_nothing_more_comes() {
        let file = tempfile::tempfile().unwrap();
        let arrival = Arrival::awaited();
        thread::scope(|threads| {
            let reader = threads.spawn(|| {
                let mut blob = ArrivingBlob::new(&arrival, Path::new("/none"), 10);
                blob.read_to_end(&mut Vec::new()).unwrap_err()
            });
            arrival.begin(file);
            thread::sleep(Duration::from_millis(5));
            arrival.give_up();
            let error = reader.join().unwrap();
            assert!(error.get_ref().unwrap().is::<NotArrived>());
        });
        assert!(arrival.wait().is_err());
    }
}
