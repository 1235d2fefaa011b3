//! A layer's archive, decompressed on one thread and hashed on another while a third one uses it.

use std::{
    collections::VecDeque,
    io::{self, BufReader, ErrorKind, Read},
    sync::{
        Arc,
        mpsc::{self, Receiver, SyncSender},
    },
    thread,
};

use flate2::bufread::MultiGzDecoder;

use super::UnpackError;
use crate::{Digest, digest::Hasher, media_type::Compression};

/// Bytes that are handed over at once, and how many such are on their way at most.
const CHUNK: usize = 1 << 20;
const CHUNKS: usize = 4;

/// Bytes of the blob that are read at once.
const READ: usize = 256 << 10;

/// Decompressed bytes, shared by those who use and those who hash them.
type Chunk = Arc<Vec<u8>>;

/// The decompressed bytes.
pub(super) struct Archive {
    chunks: Receiver<io::Result<Chunk>>,
    chunk: Chunk,
    at: usize,
}

/// Lets `take` read the archive in this blob, then returns the digest of all of it.
pub(super) fn read(
    blob: impl Read + Send,
    compression: Compression,
    take: impl FnOnce(Archive) -> Result<(), UnpackError>,
) -> Result<Digest, UnpackError> {
    let (to_taker, taken) = mpsc::sync_channel(CHUNKS);
    let (to_hasher, hashed) = mpsc::sync_channel(CHUNKS);
    let archive = Archive {
        chunks: taken,
        chunk: Chunk::default(),
        at: 0,
    };
    thread::scope(|threads| {
        let begin = |name: &str| thread::Builder::new().name(name.to_owned());
        let producer = begin("decompress")
            .spawn_scoped(threads, move || {
                decompress(blob, compression, &to_taker, &to_hasher)
            })
            .map_err(UnpackError::Thread)?;
        let hasher = begin("hash")
            .spawn_scoped(threads, move || hash(hashed))
            .map_err(UnpackError::Thread)?;
        let taken = take(archive);
        let is_whole = producer.join().map_err(|_| UnpackError::Lost)?;
        let digest = hasher.join().map_err(|_| UnpackError::Lost)?;
        taken?;
        // An archive that is not whole ended in an error that the taker was given.
        is_whole.then_some(digest).ok_or(UnpackError::Lost)
    })
}

/// Sends all chunks to both. Says whether all were sent.
fn decompress(
    blob: impl Read,
    compression: Compression,
    to_taker: &SyncSender<io::Result<Chunk>>,
    to_hasher: &SyncSender<Chunk>,
) -> bool {
    let blob = BufReader::with_capacity(READ, blob);
    let mut archive: Box<dyn Read + '_> = match compression {
        Compression::None => Box::new(blob),
        Compression::Gzip => Box::new(MultiGzDecoder::new(blob)),
        Compression::Zstd => match zstd::Decoder::with_buffer(blob) {
            Ok(decoder) => Box::new(decoder),
            Err(error) => {
                let _ = to_taker.send(Err(error));
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
                if !is_sent || to_taker.send(Ok(chunk)).is_err() {
                    return false;
                }
            }
            Err(error) => {
                let _ = to_taker.send(Err(error));
                return false;
            }
        }
    }
}

/// Chunks that were handed over. Those that nobody has any more are filled again.
#[derive(Default)]
struct Chunks(VecDeque<Chunk>);

impl Chunks {
    /// The next bytes of the archive; none at its end.
    fn fill(&mut self, archive: &mut dyn Read) -> io::Result<Option<Chunk>> {
        // The oldest is the first to be free.
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

/// Reads until the buffer is full or there is no more.
fn fill(archive: &mut dyn Read, buffer: &mut [u8]) -> io::Result<usize> {
    let mut filled = 0;
    while filled < buffer.len() {
        match archive.read(&mut buffer[filled..]) {
            Ok(0) => break,
            Ok(count) => filled += count,
            Err(error) if error.kind() == ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
    Ok(filled)
}

fn hash(chunks: Receiver<Chunk>) -> Digest {
    let mut hasher = Hasher::default();
    chunks.iter().for_each(|chunk| hasher.update(&chunk));
    hasher.finish()
}

impl Read for Archive {
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
