//! Decompression and hashing of a layer, on one thread each, while the calling thread unpacks it.

use std::{
    collections::VecDeque,
    io::{self, BufReader, Read},
    sync::{
        Arc,
        mpsc::{self, Receiver, SyncSender},
    },
    thread,
};

use flate2::bufread::MultiGzDecoder;

use super::UnpackError;
use crate::{Digest, digest::Hasher, fill::fill, media_type::Compression};

/// Size in bytes of the chunks that are passed between threads.
const CHUNK: usize = 1 << 20;
/// Maximum number of chunks in each channel. Limits the memory for a layer to a few MiB.
const CHUNKS: usize = 4;

/// Size in bytes of one read of the blob.
const READ: usize = 256 << 10;

/// Decompressed bytes, shared by the unpacking and the hashing thread.
type Chunk = Arc<Vec<u8>>;

/// Reader of a layer's decompressed bytes.
pub(super) struct LayerStream {
    chunks: Receiver<io::Result<Chunk>>,
    chunk: Chunk,
    at: usize,
}

/// Calls `unpack` with the archive in this blob. Returns the digest of the whole archive.
pub(super) fn decompress(
    blob: impl Read + Send,
    compression: Compression,
    unpack: impl FnOnce(LayerStream) -> Result<(), UnpackError>,
) -> Result<Digest, UnpackError> {
    let (to_unpacker, chunks) = mpsc::sync_channel(CHUNKS);
    let (to_hasher, hashed) = mpsc::sync_channel(CHUNKS);
    let archive = LayerStream {
        chunks,
        chunk: Chunk::default(),
        at: 0,
    };
    thread::scope(|threads| {
        let begin = |name: &str| thread::Builder::new().name(name.to_owned());
        let producer = begin("decompress")
            .spawn_scoped(threads, move || {
                send_chunks(blob, compression, &to_unpacker, &to_hasher)
            })
            .map_err(UnpackError::Thread)?;
        let hasher = begin("hash")
            .spawn_scoped(threads, move || hash(hashed))
            .map_err(UnpackError::Thread)?;
        let unpacked = unpack(archive);
        let is_complete = producer.join().map_err(|_| UnpackError::NoResult)?;
        let digest = hasher.join().map_err(|_| UnpackError::NoResult)?;
        unpacked?;
        // If not all chunks were sent, `unpack` has received the error and returned above.
        is_complete.then_some(digest).ok_or(UnpackError::NoResult)
    })
}

/// Sends all chunks to both threads. Returns whether all were sent.
fn send_chunks(
    blob: impl Read,
    compression: Compression,
    to_unpacker: &SyncSender<io::Result<Chunk>>,
    to_hasher: &SyncSender<Chunk>,
) -> bool {
    let blob = BufReader::with_capacity(READ, blob);
    let mut archive: Box<dyn Read + '_> = match compression {
        Compression::None => Box::new(blob),
        Compression::Gzip => Box::new(MultiGzDecoder::new(blob)),
        Compression::Zstd => match zstd::Decoder::with_buffer(blob) {
            Ok(decoder) => Box::new(decoder),
            Err(error) => {
                let _ = to_unpacker.send(Err(error));
                return false;
            }
        },
    };
    let mut chunks = Chunks::default();
    loop {
        match chunks.fill(&mut archive) {
            Ok(None) => return true,
            Ok(Some(chunk)) => {
                let is_sent = to_hasher.send(Arc::clone(&chunk)).is_ok();
                if !is_sent || to_unpacker.send(Ok(chunk)).is_err() {
                    return false;
                }
            }
            Err(error) => {
                let _ = to_unpacker.send(Err(error));
                return false;
            }
        }
    }
}

/// Chunks that were sent. Those that both receivers have dropped are reused.
#[derive(Default)]
struct Chunks(VecDeque<Chunk>);

impl Chunks {
    /// Returns the next chunk of the archive; `None` at its end.
    fn fill(&mut self, archive: &mut dyn Read) -> io::Result<Option<Chunk>> {
        // Chunks are dropped in the order in which they were sent.
        let oldest = self.0.pop_front_if(|oldest| Arc::get_mut(oldest).is_some());
        let mut chunk = oldest.unwrap_or_default();
        if let Some(bytes) = Arc::get_mut(&mut chunk) {
            bytes.resize(CHUNK, 0);
            let filled = fill(archive, bytes)?;
            bytes.truncate(filled);
        }
        self.0.push_back(Arc::clone(&chunk));
        Ok(Some(chunk).filter(|chunk| !chunk.is_empty()))
    }
}

fn hash(chunks: Receiver<Chunk>) -> Digest {
    let mut hasher = Hasher::default();
    chunks.iter().for_each(|chunk| hasher.update(&chunk));
    hasher.finish()
}

impl Read for LayerStream {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        if self.at == self.chunk.len() {
            match self.chunks.recv() {
                Ok(chunk) => self.chunk = chunk?,
                Err(_) => return Ok(0),
            }
            self.at = 0;
        }
        let count = buffer.len().min(self.chunk.len() - self.at);
        buffer[..count].copy_from_slice(&self.chunk[self.at..self.at + count]);
        self.at += count;
        Ok(count)
    }
}
