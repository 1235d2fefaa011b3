//! From an image in the store to an ext4 file system: a base, which machines' disks are laid
//! over.
//!
//! A base is made once for each manifest, platform and size, under a name made of the three.
//! Its layers stream from their blobs into the file system; nothing is mounted, nothing needs a
//! privilege, and no path in a layer is ever used as one on the host. It gets its name only when
//! it is whole, on the disk, and every layer's archive had the digest that the configuration
//! promises.

mod archive;
mod error;
pub(crate) mod layer;
pub(crate) mod limits;

use std::{
    io::{self, Read},
    path::{Path, PathBuf},
    sync::mpsc::{self as std_mpsc, RecvTimeoutError},
    thread,
    time::Duration,
};

use container_ext4::{Options, Writer};
use tempfile::NamedTempFile;
use tokio::sync::{mpsc, oneshot};
use uuid::Uuid;

pub use error::UnpackError;
use limits::Budget;
pub use limits::{Limits, TooMuch};

use crate::{
    Image, ImageError, ImageStore, Listener, Progress, Step,
    image::Layer,
    progress::Meter,
    store::{Arrivals, ArrivingBlob, StoreError, sync_directory},
};

/// Changes when bases are made in another way, so that old ones are not taken for new ones.
const FORMAT: u32 = 3;

/// How often what has been written is sent on to the disk, which otherwise would have it all to do
/// at the end.
const WRITEBACK: Duration = Duration::from_millis(150);

/// Bytes of a file system that nobody chose a size for. It is sparse: it takes on the host what
/// is in it.
pub const DEFAULT_SIZE: u64 = 512 << 30;

impl ImageStore {
    /// An ext4 file system of this many bytes with the image's files, made if it is not there.
    /// It is read-only: what is laid over it depends on every byte. Of several callers at once,
    /// over all processes, one makes it and the others wait.
    ///
    /// # Errors
    /// [`ImageError::Unpack`]; nothing is left then, nor when the future is dropped.
    pub async fn base_of_size(
        &self,
        image: &Image,
        size: u64,
        listener: Listener<'_>,
    ) -> Result<PathBuf, ImageError> {
        let arrivals = self.arrivals(image.blobs());
        // What is not here now will not come.
        arrivals.give_up();
        self.base_as_it_arrives(image, size, &arrivals, listener)
            .await
    }

    /// As [`base_of_size`](ImageStore::base_of_size), while the layers are still being fetched.
    pub(crate) async fn base_as_it_arrives(
        &self,
        image: &Image,
        size: u64,
        arrivals: &Arrivals,
        listener: Listener<'_>,
    ) -> Result<PathBuf, ImageError> {
        let made = self.made_base(image, size, arrivals, listener).await;
        made.map_err(|source| ImageError::Unpack {
            reference: image.reference.to_string(),
            source: Box::new(source),
        })
    }

    async fn made_base(
        &self,
        image: &Image,
        size: u64,
        arrivals: &Arrivals,
        listener: Listener<'_>,
    ) -> Result<PathBuf, UnpackError> {
        let name = base_name(image, size);
        let path = self.base_path(&name);
        if path.exists() {
            return Ok(path);
        }
        let lock = self.lock(&name).await?;
        if path.exists() {
            return Ok(path);
        }
        let (reports, mut heard) = mpsc::unbounded_channel();
        let (done, outcome) = oneshot::channel();
        let job = Job {
            store: self.clone(),
            image: image.clone(),
            size,
            arrivals: arrivals.clone(),
            path: path.clone(),
            reports,
        };
        // A thread of its own: it works for minutes. It keeps the lock until it is done, even if
        // nobody waits for it any more.
        let unpacker = thread::Builder::new().name("unpack".to_owned());
        unpacker
            .spawn(move || {
                let made = job.run();
                drop(lock);
                let _ = done.send(made);
            })
            .map_err(UnpackError::Thread)?;
        while let Some(progress) = heard.recv().await {
            listener(progress);
        }
        let made = outcome.await.map_err(|_| UnpackError::Lost)?;
        made.map(|()| path)
    }
}

fn base_name(image: &Image, size: u64) -> String {
    let platform = image.platform.to_string().replace('/', "-");
    let digest = image.manifest.digest.hex();
    format!("{digest}-{platform}-{size}-v{FORMAT}")
}

/// What the unpacking thread needs.
struct Job {
    store: ImageStore,
    image: Image,
    size: u64,
    arrivals: Arrivals,
    path: PathBuf,
    reports: mpsc::UnboundedSender<Progress>,
}

impl Job {
    fn run(&self) -> Result<(), UnpackError> {
        let directory = self.store.incoming();
        let file = NamedTempFile::new_in(&directory);
        let file = file.map_err(StoreError::io("making a file in", &directory))?;
        thread::scope(|threads| {
            let (writing, written) = std_mpsc::channel::<()>();
            let early = file.as_file();
            threads.spawn(move || {
                while written.recv_timeout(WRITEBACK) == Err(RecvTimeoutError::Timeout) {
                    // What goes wrong is told to the writer's descriptor as well.
                    let _ = early.sync_data();
                }
            });
            let made = self.write(file.path());
            drop(writing);
            made
        })?;
        let failed = || StoreError::io("writing", &self.path);
        let persisted = file.persist(&self.path);
        let file = persisted.map_err(|error| failed()(error.error))?;
        let mut permissions = file.metadata().map_err(failed())?.permissions();
        permissions.set_readonly(true);
        file.set_permissions(permissions).map_err(failed())?;
        file.sync_all().map_err(failed())?;
        Ok(sync_directory(&self.store.bases())?)
    }

    fn write(&self, path: &Path) -> Result<(), UnpackError> {
        let mut disk = Writer::create(path, &self.options())?;
        let report = |progress| {
            // Nobody may be listening any more; then the next bytes are not read.
            let _ = self.reports.send(progress);
        };
        let sizes = self.image.blobs().map(|blob| blob.size);
        let meter = Meter::new(&report, Step::Unpacking, sizes);
        let layers = self.image.layers.len();
        let mut budget = Budget::new(self.store.limits());
        for (index, layer) in self.image.layers.iter().enumerate() {
            let unpacked = self.unpack(&mut disk, layer, &mut budget, &meter);
            unpacked.map_err(|error| self.explained(error, layer, index + 1, layers))?;
            meter.layer_done();
        }
        Ok(disk.finish()?)
    }

    fn options(&self) -> Options {
        Options {
            size: self.size,
            // The same image gives the same file system.
            uuid: Uuid::from_bytes(self.image.manifest.digest.half()),
            ..Options::default()
        }
    }

    fn unpack(
        &self,
        disk: &mut Writer,
        layer: &Layer,
        budget: &mut Budget,
        meter: &Meter<'_>,
    ) -> Result<(), UnpackError> {
        let path = self.store.blob_path(&layer.blob.digest);
        let arrival = self.arrivals.of(&layer.blob.digest);
        let blob = Counted {
            blob: ArrivingBlob::new(&arrival, &path, layer.blob.size),
            meter,
            given_up: &|| self.reports.is_closed(),
        };
        let found = archive::read(blob, layer.compression, |archive| {
            layer::apply(disk, archive, budget)
        });
        if self.reports.is_closed() {
            return Err(UnpackError::GivenUp);
        }
        let checked = match found {
            Ok(found) if found == layer.diff_id => Ok(()),
            Ok(found) => Err(UnpackError::WrongArchive {
                expected: layer.diff_id,
                found,
            }),
            Err(error) if error.may_be_damage() => Err(error),
            Err(error) => return Err(error),
        };
        // Until all of it has come nobody knows whether these are the right bytes at all.
        arrival.wait()?;
        checked
    }

    /// A layer that cannot be read may have been damaged since it was fetched.
    fn explained(
        &self,
        error: UnpackError,
        layer: &Layer,
        number: usize,
        layers: usize,
    ) -> UnpackError {
        if matches!(error, UnpackError::NotArrived) {
            return error;
        }
        if error.may_be_damage() {
            match self.store.remove_if_damaged(&layer.blob.digest) {
                Ok(true) => return UnpackError::Damaged { number, layers },
                Ok(false) => {}
                Err(error) => return error.into(),
            }
        }
        UnpackError::Layer {
            number,
            layers,
            source: Box::new(error),
        }
    }
}

/// A blob whose reading is reported, and ends when nobody waits for it.
struct Counted<'a> {
    blob: ArrivingBlob<'a>,
    meter: &'a Meter<'a>,
    given_up: &'a (dyn Fn() -> bool + Sync),
}

impl Read for Counted<'_> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        if (self.given_up)() {
            return Err(io::Error::other(UnpackError::GivenUp));
        }
        let count = self.blob.read(buffer)?;
        self.meter.add(count as u64);
        Ok(count)
    }
}

#[cfg(test)]
mod tests;
