//! Making base images: ext4 file systems with an image's files, which are the backing files of
//! machines' disks.
//!
//! A base is made once for each manifest, platform and size, and named after the three. Layers are
//! streamed from their blobs into the file system: nothing is mounted, no privilege is needed, and
//! no path in a layer is used as a path on the host. A base gets its name when it is complete and
//! synced and the archives of all layers had the digests in the image's configuration.
//!
//! | module | responsibility |
//! |---|---|
//! | `decompress` | decompressing and hashing a layer on threads of their own |
//! | `layer` | applying a layer's members to the file system |
//! | `limits` | limits on bytes and members |

mod decompress;
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
pub use limits::{LimitExceeded, Limits};

use crate::{
    Image, ImageError, ImageStore, Listener, Progress, Step,
    image::Layer,
    progress::Meter,
    store::{Arrivals, ArrivingBlob, StoreError, sync_directory},
};

/// Version of the way in which bases are made, a part of their names. Increment it when the same
/// image would give another file system, so that old bases are not used any more.
const FORMAT: u32 = 3;

/// Interval at which written data is synced. Without it, the whole base would be written back by
/// the final sync, while nothing else can be done.
const WRITEBACK: Duration = Duration::from_millis(150);

impl ImageStore {
    /// Returns the image's base of this size in bytes, and makes it if it is missing. The file is
    /// read-only, since the overlays of machines depend on every byte. If several callers, in any
    /// process, need the same base, one makes it and the others wait.
    ///
    /// # Errors
    /// [`ImageError::Unpack`]. No file is left then, nor when the future is dropped.
    pub(crate) async fn ensure_base(
        &self,
        image: &Image,
        size: u64,
        listener: Listener<'_>,
    ) -> Result<PathBuf, ImageError> {
        let arrivals = self.arrivals(image.blobs());
        // No download is running, so a missing layer is an error and not awaited.
        arrivals.cancel();
        self.ensure_base_while_fetching(image, size, &arrivals, listener)
            .await
    }

    /// Like [`ensure_base`](ImageStore::ensure_base), but while the layers are being fetched.
    pub(crate) async fn ensure_base_while_fetching(
        &self,
        image: &Image,
        size: u64,
        arrivals: &Arrivals,
        listener: Listener<'_>,
    ) -> Result<PathBuf, ImageError> {
        let made = self.make_base(image, size, arrivals, listener).await;
        made.map_err(|cause| ImageError::Unpack {
            reference: image.reference.to_string(),
            cause: Box::new(cause),
        })
    }

    async fn make_base(
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
        let (reports, mut progress) = mpsc::unbounded_channel();
        let (done, outcome) = oneshot::channel();
        let job = Job {
            store: self.clone(),
            image: image.clone(),
            size,
            arrivals: arrivals.clone(),
            path: path.clone(),
            reports,
        };
        // A thread of its own, as it works for minutes, which would block tokio's threads. It holds
        // the lock until it has ended, even if the future is dropped.
        let unpacker = thread::Builder::new().name("unpack".to_owned());
        unpacker
            .spawn(move || {
                let made = job.run();
                drop(lock);
                let _ = done.send(made);
            })
            .map_err(UnpackError::Thread)?;
        while let Some(progress) = progress.recv().await {
            listener(progress);
        }
        let made = outcome.await.map_err(|_| UnpackError::NoResult)?;
        made.map(|()| path)
    }
}

fn base_name(image: &Image, size: u64) -> String {
    let platform = image.config.platform.to_string().replace('/', "-");
    let digest = image.manifest.digest.hex();
    format!("{digest}-{platform}-{size}-v{FORMAT}")
}

/// Work of the unpacking thread.
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
        let file = file.map_err(StoreError::io("create a file in", &directory))?;
        thread::scope(|threads| {
            let (writing, written) = std_mpsc::channel::<()>();
            let early = file.as_file();
            threads.spawn(move || {
                while written.recv_timeout(WRITEBACK) == Err(RecvTimeoutError::Timeout) {
                    // The kernel reports write errors to the writer's descriptor as well.
                    let _ = early.sync_data();
                }
            });
            let made = self.write(file.path());
            drop(writing);
            made
        })?;
        let failed = || StoreError::io("write", &self.path);
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
            // Fails when the future was dropped. `ProgressReader` then cancels the next read.
            let _ = self.reports.send(progress);
        };
        let sizes = self.image.blobs().map(|blob| blob.size);
        let meter = Meter::new(&report, Step::Unpacking, sizes);
        let layers = self.image.layers.len();
        let mut budget = Budget::new(self.store.limits());
        for (index, layer) in self.image.layers.iter().enumerate() {
            let unpacked = self.unpack(&mut disk, layer, &mut budget, &meter);
            unpacked.map_err(|error| self.explain(error, layer, index + 1, layers))?;
            meter.layer_done();
        }
        Ok(disk.finish()?)
    }

    fn options(&self) -> Options {
        Options {
            size: self.size,
            // Derived from the manifest, so that the same image gives the same file system.
            uuid: Uuid::from_bytes(self.image.manifest.digest.first_half()),
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
        let arrival = self.arrivals.get(&layer.blob.digest);
        let blob = ProgressReader {
            blob: ArrivingBlob::new(&arrival, &path, layer.blob.size),
            meter,
            is_cancelled: &|| self.reports.is_closed(),
        };
        let found = decompress::decompress(blob, layer.compression, |archive| {
            layer::apply(disk, archive, budget)
        });
        if self.reports.is_closed() {
            return Err(UnpackError::Cancelled);
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
        // The blob's digest is only known when it is complete. If it was wrong, the fetching side
        // reports that, instead of an error that the wrong bytes caused here.
        arrival.wait()?;
        checked
    }

    /// Adds the layer's number to an error, and finds out whether its blob was damaged on disk.
    fn explain(
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
            cause: Box::new(error),
        }
    }
}

/// Reader that reports progress, and fails when unpacking was cancelled.
struct ProgressReader<'a> {
    blob: ArrivingBlob<'a>,
    meter: &'a Meter<'a>,
    is_cancelled: &'a (dyn Fn() -> bool + Sync),
}

impl Read for ProgressReader<'_> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        if (self.is_cancelled)() {
            return Err(io::Error::other(UnpackError::Cancelled));
        }
        let count = self.blob.read(buffer)?;
        self.meter.add(count as u64);
        Ok(count)
    }
}

#[cfg(test)]
mod tests;
