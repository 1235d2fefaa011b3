//! What is in an archive, each piece of content in a file of its own until it is known whether it
//! is needed.

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
    media_type::Compression,
    registry::LARGEST_MANIFEST,
    store::{StoreError, sync_directory},
    tar::{Archive, Kind, Member, TarError},
};

/// An archive of a thousand images has some ten thousand members.
const MOST_MEMBERS: usize = 65536;
/// Bytes that may stand behind an archive's end.
const MOST_BEHIND: u64 = 64 << 20;
const LONGEST_NAME: usize = 512;
/// Links that lead to links are followed this far.
const DEEPEST: usize = 16;
/// Bytes that are read at once.
const CHUNK: usize = 256 << 10;

const GZIP: &[u8] = &[0x1f, 0x8b];
const ZSTD: &[u8] = &[0x28, 0xb5, 0x2f, 0xfd];
const XZ: &[u8] = b"\xfd7zXZ\0";
const BZIP2: &[u8] = b"BZh";
/// Bytes that unpacking xz may take in memory; what its program packs takes 65 MiB at most.
const XZ_MEMORY: u64 = 80 << 20;

/// The members of an archive by their names, and their content by its digest.
pub(super) struct Members {
    store: ImageStore,
    named: HashMap<String, Named>,
    content: BTreeMap<Digest, Content>,
    /// Bytes that it may still have.
    left: u64,
    most: u64,
}

/// What a name stands for.
enum Named {
    Content(Digest),
    /// Another name.
    Link(String),
}

/// A piece of content.
struct Content {
    size: u64,
    compression: Compression,
    /// None where the store has it already.
    file: Option<TempPath>,
}

impl Members {
    /// Reads an archive of this many bytes at most to its end. `progress` hears how many bytes of it have come.
    pub(super) fn read(
        store: &ImageStore,
        source: impl Read,
        most: u64,
        progress: &dyn Fn(u64),
    ) -> Result<Members, LoadError> {
        let source = Counted {
            source,
            bytes: 0,
            progress,
        };
        let mut archive = Archive::new(decompressed(source).map_err(TarError::Read)?);
        let mut members = Members {
            store: store.clone(),
            named: HashMap::new(),
            content: BTreeMap::new(),
            left: most,
            most,
        };
        while let Some(member) = archive.next()? {
            members.add(&member, &mut archive)?;
        }
        // Whoever sends it wants to send all of it; zeroes without end are not it.
        let mut rest = archive.into_source().take(MOST_BEHIND + 1);
        let rest = io::copy(&mut rest, &mut io::sink()).map_err(TarError::Read)?;
        match rest > MOST_BEHIND {
            true => Err(TarError::Malformed("too much stands behind its end").into()),
            false => Ok(members),
        }
    }

    fn add<R: Read>(&mut self, member: &Member, archive: &mut Archive<R>) -> Result<(), LoadError> {
        let name = name(&member.path)?;
        let named = match &member.kind {
            Kind::File(size) => {
                // Holes cost an archive nothing.
                let left = self.left.checked_sub(*size);
                self.left = left.ok_or(LoadError::TooLarge(self.most))?;
                Named::Content(self.take(&name, archive.content())?)
            }
            // From where the link stands.
            Kind::Symlink(target) => Named::Link(inside(parent(&name), target)?),
            Kind::HardLink(target) => Named::Link(inside("", target)?),
            Kind::Directory | Kind::CharDevice { .. } | Kind::BlockDevice { .. } | Kind::Fifo => {
                return Ok(());
            }
        };
        self.named.insert(name, named);
        if self.named.len() > MOST_MEMBERS {
            return Err(LoadError::TooMuch {
                what: "members",
                limit: MOST_MEMBERS,
            });
        }
        Ok(())
    }

    /// Takes a member's content; where its name says which digest it has, it must have that.
    fn take(&mut self, name: &str, mut content: impl Read) -> Result<Digest, LoadError> {
        let promised = promised(name);
        let is_here = promised.is_some_and(|digest| self.store.blob_path(&digest).exists());
        let directory = self.store.incoming();
        let mut file = match is_here {
            true => None,
            false => Some(
                NamedTempFile::new_in(&directory)
                    .map_err(StoreError::io("making a file in", &directory))?,
            ),
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
                written.map_err(StoreError::io("writing", file.path()))?;
            }
        }
        let found = hasher.finish();
        if let Some(expected) = promised
            && expected != found
        {
            return Err(StoreError::WrongDigest { expected, found }.into());
        }
        self.content.entry(found).or_insert_with(|| Content {
            size,
            compression: compression(&head),
            // Closed: there may be many.
            file: file.map(NamedTempFile::into_temp_path),
        });
        Ok(found)
    }

    /// The content that this name stands for.
    pub(super) fn named(&self, name: &str) -> Option<Digest> {
        let mut name = name;
        for _ in 0..DEEPEST {
            match self.named.get(name)? {
                Named::Content(digest) => return Some(*digest),
                Named::Link(target) => name = target,
            }
        }
        None
    }

    /// Bytes and packing of this content, if it is in the archive.
    pub(super) fn about(&self, digest: &Digest) -> Option<(u64, Compression)> {
        let content = self.content.get(digest)?;
        Some((content.size, content.compression))
    }

    /// Whether there is this content of this size, in the archive or in the store already.
    pub(super) fn size(&self, descriptor: &Descriptor) -> Option<u64> {
        match self.content.get(&descriptor.digest) {
            Some(content) => Some(content.size),
            None => self.store.has(descriptor).then_some(descriptor.size),
        }
    }

    /// Content that is read whole, from the archive or the store; none if there is none, or if it
    /// is larger than what is read whole.
    pub(super) fn small(&self, digest: &Digest) -> Result<Option<Vec<u8>>, LoadError> {
        let Some(content) = self.content.get(digest) else {
            return Ok(self.store.small(digest)?);
        };
        if content.size > LARGEST_MANIFEST {
            return Ok(None);
        }
        let Some(path) = &content.file else {
            return Ok(self.store.small(digest)?);
        };
        let bytes = std::fs::read(path).map_err(StoreError::io("reading", path))?;
        Ok(Some(bytes))
    }

    /// Adds content that was made here.
    pub(super) fn make(&mut self, bytes: &[u8]) -> Result<Digest, LoadError> {
        self.take("", bytes)
    }

    /// Gives this content its place in the store.
    pub(super) fn keep(&mut self, digests: &BTreeSet<Digest>) -> Result<(), LoadError> {
        for digest in digests {
            let Some(file) = self.content.get_mut(digest).and_then(|it| it.file.take()) else {
                continue;
            };
            let target = self.store.blob_path(digest);
            if target.exists() {
                continue;
            }
            let failed = || StoreError::io("writing", &target);
            let synced = File::open(&file).and_then(|file| file.sync_all());
            synced.map_err(failed())?;
            file.persist(&target)
                .map_err(|error| failed()(error.error))?;
        }
        Ok(sync_directory(&self.store.blobs())?)
    }
}

/// The digest that a layout's blob has by its name.
fn promised(name: &str) -> Option<Digest> {
    let hex = name.strip_prefix("blobs/sha256/")?;
    format!("sha256:{hex}").parse().ok()
}

/// A member's name in normal form.
fn name(path: &[u8]) -> Result<String, LoadError> {
    inside("", path)
}

fn parent(name: &str) -> &str {
    name.rsplit_once('/').map_or("", |(parent, _)| parent)
}

/// What a path means from this directory of the archive, in normal form.
fn inside(directory: &str, path: &[u8]) -> Result<String, LoadError> {
    if path.len() + directory.len() > LONGEST_NAME {
        return Err(LoadError::TooMuch {
            what: "characters in a name",
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

/// The stream, unpacked if it is packed.
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

/// The first bytes, which stay to be read. A pipe may bring fewer than there are, but not an archive's
/// first block in pieces of one.
fn head(source: &mut impl BufRead) -> io::Result<&[u8]> {
    source.fill_buf()
}

/// A stream whose bytes are told.
struct Counted<'a, R> {
    source: R,
    bytes: u64,
    progress: &'a dyn Fn(u64),
}

impl<R: Read> Read for Counted<'_, R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let count = self.source.read(buffer)?;
        self.bytes += count as u64;
        (self.progress)(self.bytes);
        Ok(count)
    }
}
