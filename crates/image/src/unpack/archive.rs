//! A layer's archive, decompressed and hashed on one thread while another one uses it.

use std::{
    fs::File,
    io::{self, BufReader, Read},
    path::Path,
    sync::mpsc::{self, Receiver, SyncSender},
    thread,
};

use flate2::bufread::MultiGzDecoder;

use super::UnpackError;
use crate::{Digest, digest::Hasher, media_type::Compression, progress::Meter};

/// Bytes that are handed over at once, and how many such are on their way at most.
const CHUNK: usize = 256 << 10;
const CHUNKS: usize = 8;

/// The decompressed bytes.
pub(super) struct Archive {
    chunks: Receiver<io::Result<Vec<u8>>>,
    chunk: Vec<u8>,
    at: usize,
}

/// Lets `take` read the archive in this blob, then returns the digest of all of it.
pub(super) fn read(
    blob: &Path,
    compression: Compression,
    meter: &Meter<'_>,
    given_up: &(dyn Fn() -> bool + Sync),
    take: impl FnOnce(Archive) -> Result<(), UnpackError>,
) -> Result<Digest, UnpackError> {
    let failed = |source| UnpackError::Blob {
        path: blob.to_owned(),
        source,
    };
    let file = File::open(blob).map_err(failed)?;
    let counted = Counted {
        file,
        meter,
        given_up,
    };
    let (sender, chunks) = mpsc::sync_channel(CHUNKS);
    let archive = Archive {
        chunks,
        chunk: Vec::new(),
        at: 0,
    };
    thread::scope(|threads| {
        let producer = thread::Builder::new().name("decompress".to_owned());
        let producer = producer
            .spawn_scoped(threads, move || decompress(counted, compression, &sender))
            .map_err(UnpackError::Thread)?;
        let taken = take(archive);
        let digest = producer.join().map_err(|_| UnpackError::Lost)?;
        if given_up() {
            return Err(UnpackError::GivenUp);
        }
        taken?;
        // Without a digest the archive ended in an error that the taker was given.
        digest.ok_or(UnpackError::Lost)
    })
}

/// Sends all chunks; none if not all were sent.
fn decompress(
    blob: Counted<'_>,
    compression: Compression,
    sender: &SyncSender<io::Result<Vec<u8>>>,
) -> Option<Digest> {
    let blob = BufReader::with_capacity(CHUNK, blob);
    let mut archive: Box<dyn Read + '_> = match compression {
        Compression::None => Box::new(blob),
        Compression::Gzip => Box::new(MultiGzDecoder::new(blob)),
        Compression::Zstd => match zstd::Decoder::with_buffer(blob) {
            Ok(decoder) => Box::new(decoder),
            Err(error) => {
                let _ = sender.send(Err(error));
                return None;
            }
        },
    };
    let mut hasher = Hasher::default();
    loop {
        let mut chunk = Vec::with_capacity(CHUNK);
        match (&mut archive).take(CHUNK as u64).read_to_end(&mut chunk) {
            Ok(0) => return Some(hasher.finish()),
            Ok(_) => {
                hasher.update(&chunk);
                sender.send(Ok(chunk)).ok()?;
            }
            Err(error) => {
                let _ = sender.send(Err(error));
                return None;
            }
        }
    }
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

/// A blob whose reading is reported, and ends when nobody waits for it.
struct Counted<'a> {
    file: File,
    meter: &'a Meter<'a>,
    given_up: &'a (dyn Fn() -> bool + Sync),
}

impl Read for Counted<'_> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        if (self.given_up)() {
            return Err(io::Error::other("it was given up"));
        }
        let count = self.file.read(buffer)?;
        self.meter.add(count as u64);
        Ok(count)
    }
}
