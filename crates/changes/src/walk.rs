//! Compares the disk with the listing of its base, and packs the differences.

use std::{
    collections::HashMap,
    fs::File,
    io::{BufWriter, Read, Write},
    iter::Peekable,
    os::{
        fd::{AsFd, AsRawFd, BorrowedFd},
        unix::fs::FileExt,
    },
    vec,
};

use rustix::{
    fs::{FileType, Mode, OFlags, SeekFrom},
    io::Errno,
};

use crate::{
    BaseEntry, ChangesError, UnixTime,
    archive::ArchiveWriter,
    disk::{
        Attributes, DiskEntry, display, file_error, join, open, present, read_entries, seek_extent,
    },
    excluded::{MODULE_INDEX_MARKER, Treatment, is_swap, may_be_module_index, treatment},
    listing::{read_directory, skip_directory},
    member::{BLOCK, MemberHeader, MemberType, Xattr},
};

/// Read size, in bytes.
const CHUNK: usize = 128 << 10;

/// Name prefix of whiteouts (image-spec, layer.md, "Whiteouts").
const WHITEOUT: &[u8] = b".wh.";

/// Compares the disk whose root directory is `root` with the listing of its base, and writes the
/// differences as an archive for [`ArchiveReader`](crate::ArchiveReader). A failure is sent to the
/// reader too.
///
/// A file that changes while it is read keeps the size it had when it was opened; missing bytes
/// are zero.
///
/// # Errors
/// [`ChangesError`], mostly because the reader has closed the stream.
pub fn pack(root: BorrowedFd<'_>, listing: impl Read, to: impl Write) -> Result<(), ChangesError> {
    let mut walk = Walk {
        root,
        listing,
        to: ArchiveWriter::new(BufWriter::with_capacity(CHUNK, to)),
        ancestors: Vec::new(),
        links: HashMap::new(),
        buffer: vec![0; CHUNK],
    };
    match walk.run() {
        Ok(()) => walk.to.finish().map_err(ChangesError::Write),
        Err(error) => {
            // If the stream is closed, the reader cannot be notified either.
            let _ = walk.to.fail(&error.to_string());
            Err(error)
        }
    }
}

struct Walk<'a, R, W: Write> {
    root: BorrowedFd<'a>,
    listing: R,
    to: ArchiveWriter<BufWriter<W>>,
    /// The directories from the root to the current one.
    ancestors: Vec<Directory>,
    /// Archive path of the first name of each file with several hard links, by inode number.
    links: HashMap<u64, Vec<u8>>,
    buffer: Vec<u8>,
}

/// An ancestor of the current entry.
struct Directory {
    path: Vec<u8>,
    attributes: Attributes,
    /// Whether it is in the archive. Directories precede their entries, so that a tool that unpacks
    /// the layer alone gives them the right attributes.
    is_packed: bool,
}

/// A subdirectory of the directory that was just compared.
enum Subdirectory {
    /// Only in the base; its part of the listing is skipped.
    Removed,
    /// On the disk.
    Present {
        path: Vec<u8>,
        attributes: Attributes,
        is_in_base: bool,
        is_changed: bool,
    },
}

impl<R: Read, W: Write> Walk<'_, R, W> {
    fn run(&mut self) -> Result<(), ChangesError> {
        let top = self.read_listing()?;
        let root = rustix::fs::fstat(self.root).map_err(file_error(b""))?;
        let attributes = Attributes::from(&root);
        let is_changed = !top
            .first()
            .is_some_and(|entry| attributes.is_unchanged(entry));
        // The subdirectories still to be visited, per level.
        let mut levels = vec![self.enter(Vec::new(), attributes, !top.is_empty(), is_changed)?];
        while let Some(subdirectory) = levels.last_mut().map(Iterator::next) {
            match subdirectory {
                Some(Subdirectory::Present {
                    path,
                    attributes,
                    is_in_base,
                    is_changed,
                }) => levels.push(self.enter(path, attributes, is_in_base, is_changed)?),
                Some(Subdirectory::Removed) => self.skip_listing()?,
                None => {
                    levels.pop();
                    self.ancestors.pop();
                }
            }
        }
        // Two zero blocks end a tar archive.
        let end = self.to.zeroes(2 * BLOCK as u64);
        end.map_err(ChangesError::Write)
    }

    /// Packs a directory's changes. Returns its subdirectories.
    fn enter(
        &mut self,
        path: Vec<u8>,
        attributes: Attributes,
        is_in_base: bool,
        is_changed: bool,
    ) -> Result<vec::IntoIter<Subdirectory>, ChangesError> {
        let in_base = if is_in_base {
            self.read_listing()?
        } else {
            Vec::new()
        };
        self.ancestors.push(Directory {
            path: path.clone(),
            attributes,
            is_packed: false,
        });
        if is_changed {
            self.add_ancestors()?;
        }
        Ok(self.compare(&path, in_base)?.into_iter())
    }

    /// Packs the changed entries of a directory. Returns its subdirectories, in the order of the
    /// listing.
    fn compare(
        &mut self,
        path: &[u8],
        in_base: Vec<BaseEntry>,
    ) -> Result<Vec<Subdirectory>, ChangesError> {
        let mut subdirectories = Vec::new();
        let directory = open(self.root, path, OFlags::DIRECTORY);
        let directory = present(directory).map_err(file_error(path))?;
        let on_disk = match &directory {
            Some(directory) => read_entries(directory).map_err(file_error(path))?,
            None => Vec::new(),
        };
        let mut in_base = in_base.into_iter().peekable();
        let mut on_disk = on_disk.into_iter().peekable();
        while let Some((name, before, now)) = next_pair(&mut in_base, &mut on_disk) {
            let path = join(path, &name);
            let was_directory = before.as_ref().is_some_and(|before| before.is_directory);
            let file_type = now.as_ref().map_or(FileType::Unknown, |now| now.file_type);
            let treatment = treatment(&path, file_type);
            let is_whiteout_name = name.starts_with(WHITEOUT);
            if is_whiteout_name && now.is_some() {
                let path = display(&path);
                let note = format!(
                    "{path} is left out: in a layer, a name that begins with .wh. is a whiteout"
                );
                self.to.note(&note).map_err(ChangesError::Write)?;
            }
            let is_left_out = is_whiteout_name
                || treatment == Treatment::LeftOut
                || before.is_none() && self.is_module_index(&path);
            let now = now.filter(|_| !is_left_out);
            let is_directory = now
                .as_ref()
                .is_some_and(|now| now.file_type == FileType::Directory);
            if was_directory && !is_directory {
                subdirectories.push(Subdirectory::Removed);
            }
            match (before, now) {
                (_, None) if is_left_out => {}
                (_, None) => self.add_whiteout(&path)?,
                (before, Some(attributes)) if is_directory => {
                    subdirectories.push(Subdirectory::Present {
                        is_changed: !before.is_some_and(|before| attributes.is_unchanged(&before)),
                        is_in_base: was_directory,
                        path,
                        attributes,
                    })
                }
                (Some(before), Some(attributes)) if attributes.is_unchanged(&before) => {}
                (_, Some(attributes)) => {
                    if let Some(directory) = &directory {
                        let is_emptied = treatment == Treatment::Emptied;
                        self.add(directory.as_fd(), &name, &path, &attributes, is_emptied)?;
                    }
                }
            }
        }
        Ok(subdirectories)
    }

    /// Whether the agent wrote the directory at this path, and nothing was installed over it.
    fn is_module_index(&self, path: &[u8]) -> bool {
        let has = |name: &str| {
            let entry = [path, b"/", name.as_bytes()].concat();
            open(self.root, &entry, OFlags::PATH).is_ok()
        };
        may_be_module_index(path) && has(MODULE_INDEX_MARKER) && !has("kernel")
    }

    /// Packs an entry other than a directory.
    fn add(
        &mut self,
        directory: BorrowedFd<'_>,
        name: &[u8],
        path: &[u8],
        attributes: &Attributes,
        is_emptied: bool,
    ) -> Result<(), ChangesError> {
        if let Some(first) = self.links.get(&attributes.inode).cloned() {
            return self.add_member(path, attributes, MemberType::HardLink(&first), &[]);
        }
        let (major, minor) = (
            rustix::fs::major(attributes.device),
            rustix::fs::minor(attributes.device),
        );
        let target;
        let kind = match attributes.file_type {
            FileType::RegularFile if is_emptied => MemberType::File { size: 0 },
            FileType::RegularFile => return self.add_file(directory, name, path),
            FileType::Symlink => {
                let read = rustix::fs::readlinkat(directory, name, Vec::new());
                let Some(read) = present(read).map_err(file_error(path))? else {
                    return Ok(());
                };
                target = read;
                MemberType::Symlink(target.as_bytes())
            }
            FileType::CharacterDevice => MemberType::CharDevice { major, minor },
            FileType::BlockDevice => MemberType::BlockDevice { major, minor },
            FileType::Fifo => MemberType::Fifo,
            _ => return Ok(()),
        };
        let xattrs = self.xattrs(directory, name, path)?;
        self.record_link(path, attributes);
        self.add_member(path, attributes, kind, &xattrs)
    }

    fn add_file(
        &mut self,
        directory: BorrowedFd<'_>,
        name: &[u8],
        path: &[u8],
    ) -> Result<(), ChangesError> {
        let flags = OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::NONBLOCK | OFlags::CLOEXEC;
        let opened = rustix::fs::openat(directory, name, flags, Mode::empty());
        // It may have been removed or replaced since the directory was read.
        let Some(file) = present(opened).map_err(file_error(path))? else {
            return Ok(());
        };
        let attributes = Attributes::from(&rustix::fs::fstat(&file).map_err(file_error(path))?);
        let file = File::from(file);
        if attributes.file_type != FileType::RegularFile
            || is_swap(attributes.size, |bytes, at| {
                file.read_exact_at(bytes, at).is_ok()
            })
        {
            return Ok(());
        }
        let xattrs = self.xattrs(directory, name, path)?;
        self.record_link(path, &attributes);
        self.add_member(
            path,
            &attributes,
            MemberType::File {
                size: attributes.size,
            },
            &xattrs,
        )?;
        self.add_contents(&file, attributes.size, path)?;
        let padding = attributes.size.wrapping_neg() % BLOCK as u64;
        self.to.zeroes(padding).map_err(ChangesError::Write)
    }

    /// Packs a file's contents, exactly `size` bytes. Holes are not read.
    fn add_contents(&mut self, file: &File, size: u64, path: &[u8]) -> Result<(), ChangesError> {
        let mut at = 0;
        while at < size {
            let data = seek_extent(file, SeekFrom::Data(at), size).map_err(file_error(path))?;
            self.to.zeroes(data - at).map_err(ChangesError::Write)?;
            let hole = seek_extent(file, SeekFrom::Hole(data), size).map_err(file_error(path))?;
            at = data;
            while at < hole {
                let most = usize::try_from(hole - at).map_or(CHUNK, |left| left.min(CHUNK));
                let read = file.read_at(&mut self.buffer[..most], at);
                let count = read.map_err(file_error(path))?;
                if count == 0 {
                    return self.to.zeroes(size - at).map_err(ChangesError::Write);
                }
                let bytes = &self.buffer[..count];
                self.to.data(bytes).map_err(ChangesError::Write)?;
                at += count as u64;
            }
        }
        Ok(())
    }

    /// Records a file's first name, to which later hard links refer.
    fn record_link(&mut self, path: &[u8], attributes: &Attributes) {
        if attributes.links > 1 {
            self.links.insert(attributes.inode, path.to_vec());
        }
    }

    fn add_whiteout(&mut self, path: &[u8]) -> Result<(), ChangesError> {
        self.add_ancestors()?;
        let name = path.rsplit(|byte| *byte == b'/').next().unwrap_or(path);
        let directory = &path[..path.len() - name.len()];
        let member = MemberHeader {
            path: &[directory, WHITEOUT, name].concat(),
            kind: MemberType::File { size: 0 },
            mode: 0,
            uid: 0,
            gid: 0,
            modified: UnixTime {
                seconds: 0,
                nanoseconds: 0,
            },
            xattrs: &[],
        };
        self.to.data(&member.encode()).map_err(ChangesError::Write)
    }

    /// Packs those ancestors that are not in the archive yet.
    fn add_ancestors(&mut self) -> Result<(), ChangesError> {
        let missing = self.ancestors.iter().position(|it| !it.is_packed);
        let Some(first) = missing else { return Ok(()) };
        for at in first..self.ancestors.len() {
            let Directory {
                path, attributes, ..
            } = &self.ancestors[at];
            let (path, attributes) = (path.clone(), attributes.clone());
            let opened = open(self.root, &path, OFlags::DIRECTORY);
            let xattrs = match present(opened).map_err(file_error(&path))? {
                Some(directory) => self.xattrs(directory.as_fd(), b".", &path)?,
                None => Vec::new(),
            };
            self.ancestors[at].is_packed = true;
            let name = if path.is_empty() {
                b"./".to_vec()
            } else {
                [path.as_slice(), b"/"].concat()
            };
            let member = attributes.member(&name, MemberType::Directory, &xattrs);
            self.to
                .data(&member.encode())
                .map_err(ChangesError::Write)?;
        }
        Ok(())
    }

    fn add_member(
        &mut self,
        path: &[u8],
        attributes: &Attributes,
        kind: MemberType<'_>,
        xattrs: &[Xattr],
    ) -> Result<(), ChangesError> {
        self.add_ancestors()?;
        let member = attributes.member(path, kind, xattrs);
        self.to.data(&member.encode()).map_err(ChangesError::Write)
    }

    /// Reads the extended attributes of an entry; a symbolic link's own, not its target's.
    fn xattrs(
        &mut self,
        directory: BorrowedFd<'_>,
        name: &[u8],
        path: &[u8],
    ) -> Result<Vec<Xattr>, ChangesError> {
        let directory = format!("/proc/self/fd/{}/", directory.as_raw_fd());
        let entry = [directory.as_bytes(), name].concat();
        let mut names = vec![0; 64 << 10];
        let listed = rustix::fs::llistxattr(&*entry, &mut names[..]);
        let length = match present(listed) {
            Ok(length) => length.unwrap_or_default(),
            Err(Errno::NOTSUP) => 0,
            Err(error) => return Err(file_error(path)(error)),
        };
        let mut xattrs = Vec::new();
        for name in names[..length].split(|byte| *byte == 0) {
            if name.is_empty() {
                continue;
            }
            if name.contains(&b'=') {
                let (path, name) = (display(path), name.escape_ascii());
                let note = format!("attribute {name} of {path} is left out: its name contains =");
                self.to.note(&note).map_err(ChangesError::Write)?;
                continue;
            }
            let mut value = vec![0; 64 << 10];
            match rustix::fs::lgetxattr(&*entry, name, &mut value[..]) {
                Ok(length) => {
                    value.truncate(length);
                    xattrs.push((name.to_vec(), value));
                }
                Err(Errno::NODATA | Errno::NOENT) => {}
                Err(error) => return Err(file_error(path)(error)),
            }
        }
        Ok(xattrs)
    }

    fn skip_listing(&mut self) -> Result<(), ChangesError> {
        skip_directory(&mut self.listing).map_err(ChangesError::Listing)
    }

    fn read_listing(&mut self) -> Result<Vec<BaseEntry>, ChangesError> {
        read_directory(&mut self.listing).map_err(ChangesError::Listing)
    }
}

/// A name, and its entries in the base and on the disk.
type Pair = (Vec<u8>, Option<BaseEntry>, Option<Attributes>);

/// The next name of two sorted lists, with its entry in each.
fn next_pair(
    in_base: &mut Peekable<vec::IntoIter<BaseEntry>>,
    on_disk: &mut Peekable<vec::IntoIter<DiskEntry>>,
) -> Option<Pair> {
    let name = match (in_base.peek(), on_disk.peek()) {
        (Some(before), Some((now, _))) => before.name.as_slice().min(now),
        (Some(before), None) => before.name.as_slice(),
        (None, Some((now, _))) => now,
        (None, None) => return None,
    };
    let name = name.to_vec();
    let before = in_base.next_if(|before| before.name == name);
    let now = on_disk.next_if(|(now, _)| *now == name);
    Some((name, before, now.map(|(_, attributes)| attributes)))
}
