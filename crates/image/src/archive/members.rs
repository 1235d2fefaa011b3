//! The members of an archive. Each member's bytes are in a temporary file until it is known whether
//! an image needs them.

use std::{
    collections::{BTreeMap, BTreeSet, HashMap},
    fs::File,
    io::{self, BufRead, BufReader, Read, Write},
};

use bzip2::bufread::MultiBzDecoder;
use flate2::bufread::MultiGzDecoder;
use liblzma::{
    bufread::XzDecoder,
    stream::{CONCATENATED, Stream},
};
use tempfile::{NamedTempFile, TempPath};

use super::LoadError;
use crate::{
    Descriptor, Digest, ImageStore,
    digest::Hasher,
    media_type::{Compression, LARGEST_MANIFEST},
    store::{StoreError, sync_directory},
    tar::{Member, MemberKind, TarError, TarReader},
};

/// Maximum number of members; an archive of a thousand images has some ten thousand.
const MOST_MEMBERS: usize = 65536;
/// Maximum number of bytes after the archive's end marker, since writers pad differently.
const MOST_TRAILING: u64 = 64 << 20;
/// Maximum length of a member's name in bytes.
const LONGEST_NAME: usize = 512;
/// Maximum number of links that are followed for one name.
const MOST_LINKS: usize = 16;
/// Size of one read in bytes.
const CHUNK: usize = 256 << 10;

const GZIP: &[u8] = &[0x1f, 0x8b];
const ZSTD: &[u8] = &[0x28, 0xb5, 0x2f, 0xfd];
const XZ: &[u8] = b"\xfd7zXZ\0";
const BZIP2: &[u8] = b"BZh";
/// Memory limit for decompressing xz in bytes. `xz -9` needs 65 MiB; a hostile header may ask for 4
/// GiB.
const XZ_MEMORY: u64 = 80 << 20;

/// The members of an archive by name, and their blobs by digest.
pub(super) struct Members {
    store: ImageStore,
    named: HashMap<String, NameTarget>,
    blobs: BTreeMap<Digest, MemberBlob>,
    /// Remaining part of `most`.
    left: u64,
    /// Limit on the bytes of all members.
    most: u64,
}

/// Target of a member's name.
enum NameTarget {
    Blob(Digest),
    /// Another member's name, in normal form.
    Link(String),
}

/// The bytes of one or more members.
struct MemberBlob {
    size: u64,
    compression: Compression,
    /// Absent for a blob that the store already has.
    file: Option<TempPath>,
}

impl Members {
    /// Reads an archive to its end. Fails if its members have more than `most` bytes. `progress` is
    /// called with the number of bytes of the archive read so far.
    pub(super) fn read(
        store: &ImageStore,
        source: impl Read,
        most: u64,
        progress: &dyn Fn(u64),
    ) -> Result<Members, LoadError> {
        let source = CountingReader {
            source,
            bytes: 0,
            progress,
        };
        let mut archive = TarReader::new(decompressed(source).map_err(TarError::Read)?);
        let mut members = Members {
            store: store.clone(),
            named: HashMap::new(),
            blobs: BTreeMap::new(),
            left: most,
            most,
        };
        while let Some(member) = archive.next()? {
            members.add(&member, &mut archive)?;
        }
        // The sender may fail if its padding is not read; an endless stream must not be.
        let mut rest = archive.into_source().take(MOST_TRAILING + 1);
        let rest = io::copy(&mut rest, &mut io::sink()).map_err(TarError::Read)?;
        if rest > MOST_TRAILING {
            return Err(TarError::Malformed("too many bytes after its end").into());
        }
        Ok(members)
    }

    fn add<R: Read>(
        &mut self,
        member: &Member,
        archive: &mut TarReader<R>,
    ) -> Result<(), LoadError> {
        let name = resolve_path("", &member.path)?;
        let named = match &member.kind {
            MemberKind::File(size) => {
                // A sparse file has a huge size but few bytes in the archive, and is expanded here.
                let left = self.left.checked_sub(*size);
                self.left = left.ok_or(LoadError::TooLarge(self.most))?;
                NameTarget::Blob(self.store_blob(&name, archive.contents())?)
            }
            // Relative to the link's own directory; hard links are relative to the root.
            MemberKind::Symlink(target) => NameTarget::Link(resolve_path(parent(&name), target)?),
            MemberKind::HardLink(target) => NameTarget::Link(resolve_path("", target)?),
            MemberKind::Directory
            | MemberKind::CharDevice { .. }
            | MemberKind::BlockDevice { .. }
            | MemberKind::Fifo => {
                return Ok(());
            }
        };
        self.named.insert(name, named);
        if self.named.len() > MOST_MEMBERS {
            return Err(LoadError::TooMany {
                what: "members",
                limit: MOST_MEMBERS,
            });
        }
        Ok(())
    }

    /// Stores a member's bytes in a temporary file. If the member's name says its digest, checks
    /// it.
    fn store_blob(&mut self, name: &str, mut content: impl Read) -> Result<Digest, LoadError> {
        let expected = digest_in_name(name);
        let is_stored = expected.is_some_and(|digest| self.store.blob_path(&digest).exists());
        let directory = self.store.incoming();
        let mut file = if is_stored {
            None
        } else {
            let file = NamedTempFile::new_in(&directory);
            Some(file.map_err(StoreError::io("create a file in", &directory))?)
        };
        let mut hasher = Hasher::default();
        let (mut size, mut head) = (0, Vec::new());
        let mut chunk = vec![0; CHUNK];
        loop {
            let count = content.read(&mut chunk).map_err(TarError::Read)?;
            let bytes = &chunk[..count];
            if count == 0 {
                break;
            }
            if head.len() < ZSTD.len() {
                head.extend(bytes.iter().take(ZSTD.len() - head.len()));
            }
            size += count as u64;
            hasher.update(bytes);
            if let Some(file) = &mut file {
                let written = file.write_all(bytes);
                written.map_err(StoreError::io("write", file.path()))?;
            }
        }
        let found = hasher.finish();
        if let Some(expected) = expected
            && expected != found
        {
            return Err(StoreError::WrongDigest { expected, found }.into());
        }
        self.blobs.entry(found).or_insert_with(|| MemberBlob {
            size,
            compression: compression(&head),
            // Closed, as there may be more files than a process may have open.
            file: file.map(NamedTempFile::into_temp_path),
        });
        Ok(found)
    }

    /// Returns the digest of the member with this name, following links.
    pub(super) fn digest_of(&self, name: &str) -> Option<Digest> {
        let mut name = name;
        for _ in 0..MOST_LINKS {
            match self.named.get(name)? {
                NameTarget::Blob(digest) => return Some(*digest),
                NameTarget::Link(target) => name = target,
            }
        }
        None
    }

    /// Returns size and compression of a blob in the archive.
    pub(super) fn size_and_compression(&self, digest: &Digest) -> Option<(u64, Compression)> {
        let blob = self.blobs.get(digest)?;
        Some((blob.size, blob.compression))
    }

    /// Returns the size of a blob in the archive, or in the store.
    pub(super) fn size(&self, descriptor: &Descriptor) -> Option<u64> {
        match self.blobs.get(&descriptor.digest) {
            Some(blob) => Some(blob.size),
            None => self.store.has_blob(descriptor).then_some(descriptor.size),
        }
    }

    /// Reads a document from the archive or the store; `None` when it is missing or too large.
    pub(super) fn read_small(&self, digest: &Digest) -> Result<Option<Vec<u8>>, LoadError> {
        let Some(blob) = self.blobs.get(digest) else {
            return Ok(self.store.read_small(digest)?);
        };
        if blob.size > LARGEST_MANIFEST {
            return Ok(None);
        }
        let Some(path) = &blob.file else {
            return Ok(self.store.read_small(digest)?);
        };
        let bytes = std::fs::read(path).map_err(StoreError::io("read", path))?;
        Ok(Some(bytes))
    }

    /// Adds a document that is not a member of the archive.
    pub(super) fn add_document(&mut self, bytes: &[u8]) -> Result<Digest, LoadError> {
        self.store_blob("", bytes)
    }

    /// Moves these blobs into the store. All others are dropped with `self`.
    pub(super) fn move_to_store(&mut self, digests: &BTreeSet<Digest>) -> Result<(), LoadError> {
        for digest in digests {
            let Some(file) = self.blobs.get_mut(digest).and_then(|it| it.file.take()) else {
                continue;
            };
            let target = self.store.blob_path(digest);
            if target.exists() {
                continue;
            }
            let failed = || StoreError::io("write", &target);
            let synced = File::open(&file).and_then(|file| file.sync_all());
            synced.map_err(failed())?;
            file.persist(&target)
                .map_err(|error| failed()(error.error))?;
        }
        Ok(sync_directory(&self.store.blobs())?)
    }
}

/// Parses the digest in the name of a layout's blob.
fn digest_in_name(name: &str) -> Option<Digest> {
    let hex = name.strip_prefix("blobs/sha256/")?;
    format!("sha256:{hex}").parse().ok()
}

fn parent(name: &str) -> &str {
    name.rsplit_once('/').map_or("", |(parent, _)| parent)
}

/// Resolves a path relative to a directory of the archive, to a name without `.` and `..`.
fn resolve_path(directory: &str, path: &[u8]) -> Result<String, LoadError> {
    if path.len() + directory.len() > LONGEST_NAME {
        return Err(LoadError::TooMany {
            what: "bytes in a name",
            limit: LONGEST_NAME,
        });
    }
    let path = String::from_utf8_lossy(path);
    let outside = || LoadError::Outside {
        name: path.clone().into_owned(),
    };
    if path.starts_with('/') {
        return Err(outside());
    }
    let mut parts: Vec<&str> = directory
        .split('/')
        .filter(|part| !part.is_empty())
        .collect();
    for part in path.split('/') {
        match part {
            "" | "." => {}
            ".." => drop(parts.pop().ok_or_else(outside)?),
            part => parts.push(part),
        }
    }
    Ok(parts.join("/"))
}

fn compression(head: &[u8]) -> Compression {
    if head.starts_with(GZIP) {
        Compression::Gzip
    } else if head.starts_with(ZSTD) {
        Compression::Zstd
    } else {
        Compression::None
    }
}

/// Decompresses the stream, by its first bytes.
fn decompressed<'a>(source: impl Read + 'a) -> io::Result<Box<dyn Read + 'a>> {
    let mut source = BufReader::with_capacity(CHUNK, source);
    let head = head(&mut source)?;
    let (is_xz, is_bzip2) = (head.starts_with(XZ), head.starts_with(BZIP2));
    Ok(match compression(head) {
        Compression::Gzip => Box::new(MultiGzDecoder::new(source)),
        Compression::Zstd => Box::new(zstd::Decoder::with_buffer(source)?),
        Compression::None if is_xz => {
            let stream = Stream::new_stream_decoder(XZ_MEMORY, CONCATENATED)?;
            Box::new(XzDecoder::new_stream(source, stream))
        }
        Compression::None if is_bzip2 => Box::new(MultiBzDecoder::new(source)),
        Compression::None => Box::new(source),
    })
}

/// Returns the first bytes without consuming them. One read suffices: a pipe may deliver less than
/// an archive's first block, but not less than the few bytes of a signature.
fn head(source: &mut impl BufRead) -> io::Result<&[u8]> {
    source.fill_buf()
}

/// A stream that reports the number of bytes read.
struct CountingReader<'a, R> {
    source: R,
    bytes: u64,
    progress: &'a dyn Fn(u64),
}

impl<R: Read> Read for CountingReader<'_, R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let count = self.source.read(buffer)?;
        self.bytes += count as u64;
        (self.progress)(self.bytes);
        Ok(count)
    }
}
