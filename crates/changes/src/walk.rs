//! The disk, compared with the listing of its base.

use std::{
    collections::HashMap,
    ffi::CString,
    fs::File,
    io::{self, BufWriter, Read, Write},
    iter::Peekable,
    os::{
        fd::{AsFd, AsRawFd, BorrowedFd},
        unix::fs::FileExt,
    },
    vec,
};

use rustix::{
    fs::{AtFlags, Dir, FileType, Mode, OFlags, ResolveFlags, SeekFrom},
    io::Errno,
};

use crate::{
    ChangesError, Entry, Time,
    archive::Outgoing,
    listing::{read_directory, skip_directory},
    member::{BLOCK, Kind, Member, Xattr},
    own::{Treatment, is_swap, treatment},
};

/// Bytes of a file that are read at once.
const CHUNK: usize = 128 << 10;

const WHITEOUT: &[u8] = b".wh.";

/// Reads the disk whose root directory this is, and the listing of its base, and writes the
/// archive of what differs, as [`Archive`](crate::Archive) reads it. Why it fails is told there
/// too.
///
/// A file that changes while it is read has the size that it had when it was opened: what is
/// missing is filled up with zeroes.
///
/// # Errors
/// [`ChangesError`], in most cases because nobody takes the archive any more.
pub fn pack(root: BorrowedFd<'_>, listing: impl Read, to: impl Write) -> Result<(), ChangesError> {
    let mut walk = Walk {
        root,
        listing,
        to: Outgoing::new(BufWriter::with_capacity(CHUNK, to)),
        on_the_way: Vec::new(),
        links: HashMap::new(),
        buffer: vec![0; CHUNK],
    };
    match walk.run() {
        Ok(()) => walk.to.finish().map_err(ChangesError::Write),
        Err(error) => {
            // Whoever does not read the archive does not read this either.
            let _ = walk.to.fail(&error.to_string());
            Err(error)
        }
    }
}

struct Walk<'a, R, W: Write> {
    root: BorrowedFd<'a>,
    listing: R,
    to: Outgoing<BufWriter<W>>,
    /// The directories that lead to where the walk is.
    on_the_way: Vec<Directory>,
    /// The path in the archive of what has several names, by its inode.
    links: HashMap<u64, Vec<u8>>,
    buffer: Vec<u8>,
}

/// A directory that the walk is in.
struct Directory {
    path: Vec<u8>,
    about: About,
    /// Whether it is in the archive. It must be before anything in it is: whoever unpacks the
    /// layer alone would give it any attributes.
    is_told: bool,
}

/// A directory in the one that was just read.
enum Below {
    /// It is in the base, and there is nothing to be read of it any more.
    Gone,
    /// It is on the disk.
    There {
        path: Vec<u8>,
        about: About,
        is_in_base: bool,
        is_changed: bool,
    },
}

/// An entry's attributes.
#[derive(Debug, Clone)]
struct About {
    file_type: FileType,
    inode: u64,
    changed: Time,
    modified: Time,
    mode: u32,
    uid: u32,
    gid: u32,
    links: u64,
    device: u64,
    size: u64,
}

impl<R: Read, W: Write> Walk<'_, R, W> {
    fn run(&mut self) -> Result<(), ChangesError> {
        let top = self.read_listing()?;
        let root = rustix::fs::fstat(self.root).map_err(file_error(b""))?;
        let about = About::from(&root);
        let is_changed = !top.first().is_some_and(|entry| about.is(entry));
        // What is still to be walked of each directory on the way.
        let mut left = vec![self.enter(Vec::new(), about, !top.is_empty(), is_changed)?];
        while let Some(below) = left.last_mut().map(Iterator::next) {
            match below {
                Some(Below::There {
                    path,
                    about,
                    is_in_base,
                    is_changed,
                }) => left.push(self.enter(path, about, is_in_base, is_changed)?),
                Some(Below::Gone) => self.skip_listing()?,
                None => {
                    left.pop();
                    self.on_the_way.pop();
                }
            }
        }
        // Two empty blocks end an archive.
        let end = self.to.zeroes(2 * BLOCK as u64);
        end.map_err(ChangesError::Write)
    }

    /// Packs what has changed of a directory and in it. Returns the directories in it.
    fn enter(
        &mut self,
        path: Vec<u8>,
        about: About,
        is_in_base: bool,
        is_changed: bool,
    ) -> Result<vec::IntoIter<Below>, ChangesError> {
        let in_base = match is_in_base {
            true => self.read_listing()?,
            false => Vec::new(),
        };
        self.on_the_way.push(Directory {
            path: path.clone(),
            about,
            is_told: false,
        });
        if is_changed {
            self.tell_way()?;
        }
        Ok(self.compare(&path, in_base)?.into_iter())
    }

    /// Packs what has changed in a directory itself. Returns the directories in it, in the order
    /// of the listing.
    fn compare(&mut self, path: &[u8], in_base: Vec<Entry>) -> Result<Vec<Below>, ChangesError> {
        let mut below = Vec::new();
        let directory = open(self.root, path, OFlags::DIRECTORY);
        let directory = present(directory).map_err(file_error(path))?;
        let on_disk = match &directory {
            Some(directory) => entries(directory).map_err(file_error(path))?,
            None => Vec::new(),
        };
        let mut in_base = in_base.into_iter().peekable();
        let mut on_disk = on_disk.into_iter().peekable();
        while let Some((name, before, now)) = next_of_both(&mut in_base, &mut on_disk) {
            let path = joined(path, &name);
            let was_directory = before.as_ref().is_some_and(|before| before.is_directory);
            let file_type = now.as_ref().map_or(FileType::Unknown, |now| now.file_type);
            let treatment = treatment(&path, file_type);
            let is_mark = name.starts_with(WHITEOUT);
            if is_mark && now.is_some() {
                let path = shown(&path);
                let note = format!(
                    "{path} is left out: in a layer a name that begins with .wh. removes something"
                );
                self.to.note(&note).map_err(ChangesError::Write)?;
            }
            let is_left_out = is_mark || treatment == Treatment::LeftOut;
            let now = now.filter(|_| !is_left_out);
            let is_directory = now
                .as_ref()
                .is_some_and(|now| now.file_type == FileType::Directory);
            if was_directory && !is_directory {
                below.push(Below::Gone);
            }
            match (before, now) {
                (_, None) if is_left_out => {}
                (_, None) => self.white_out(&path)?,
                (before, Some(about)) if is_directory => below.push(Below::There {
                    is_changed: !before.is_some_and(|before| about.is(&before)),
                    is_in_base: was_directory,
                    path,
                    about,
                }),
                (Some(before), Some(about)) if about.is(&before) => {}
                (_, Some(about)) => {
                    if let Some(directory) = &directory {
                        let is_emptied = treatment == Treatment::Emptied;
                        self.add(directory.as_fd(), &name, &path, &about, is_emptied)?;
                    }
                }
            }
        }
        Ok(below)
    }

    /// Packs something that is no directory.
    fn add(
        &mut self,
        directory: BorrowedFd<'_>,
        name: &[u8],
        path: &[u8],
        about: &About,
        is_emptied: bool,
    ) -> Result<(), ChangesError> {
        if let Some(first) = self.links.get(&about.inode).cloned() {
            return self.tell(path, about, Kind::HardLink(&first), &[]);
        }
        let (major, minor) = (
            rustix::fs::major(about.device),
            rustix::fs::minor(about.device),
        );
        let target;
        let kind = match about.file_type {
            FileType::RegularFile if is_emptied => Kind::File { size: 0 },
            FileType::RegularFile => return self.add_file(directory, name, path),
            FileType::Symlink => {
                let read = rustix::fs::readlinkat(directory, name, Vec::new());
                let Some(read) = present(read).map_err(file_error(path))? else {
                    return Ok(());
                };
                target = read;
                Kind::Symlink(target.as_bytes())
            }
            FileType::CharacterDevice => Kind::CharDevice { major, minor },
            FileType::BlockDevice => Kind::BlockDevice { major, minor },
            FileType::Fifo => Kind::Fifo,
            _ => return Ok(()),
        };
        let xattrs = self.xattrs(directory, name, path)?;
        self.remember(path, about);
        self.tell(path, about, kind, &xattrs)
    }

    fn add_file(
        &mut self,
        directory: BorrowedFd<'_>,
        name: &[u8],
        path: &[u8],
    ) -> Result<(), ChangesError> {
        let flags = OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::NONBLOCK | OFlags::CLOEXEC;
        let opened = rustix::fs::openat(directory, name, flags, Mode::empty());
        // Where it has gone, or became something else, since it was looked at.
        let Some(file) = present(opened).map_err(file_error(path))? else {
            return Ok(());
        };
        let about = About::from(&rustix::fs::fstat(&file).map_err(file_error(path))?);
        let file = File::from(file);
        if about.file_type != FileType::RegularFile
            || is_swap(about.size, |bytes, at| {
                file.read_exact_at(bytes, at).is_ok()
            })
        {
            return Ok(());
        }
        let xattrs = self.xattrs(directory, name, path)?;
        self.remember(path, &about);
        self.tell(path, &about, Kind::File { size: about.size }, &xattrs)?;
        self.contents(&file, about.size, path)?;
        let filling = about.size.wrapping_neg() % BLOCK as u64;
        self.to.zeroes(filling).map_err(ChangesError::Write)
    }

    /// A file's bytes, as many as were promised.
    fn contents(&mut self, file: &File, size: u64, path: &[u8]) -> Result<(), ChangesError> {
        let mut at = 0;
        while at < size {
            let data = edge(file, SeekFrom::Data(at), size).map_err(file_error(path))?;
            self.to.zeroes(data - at).map_err(ChangesError::Write)?;
            let hole = edge(file, SeekFrom::Hole(data), size).map_err(file_error(path))?;
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

    /// What further names of the same are to lead to.
    fn remember(&mut self, path: &[u8], about: &About) {
        if about.links > 1 {
            self.links.insert(about.inode, path.to_vec());
        }
    }

    fn white_out(&mut self, path: &[u8]) -> Result<(), ChangesError> {
        self.tell_way()?;
        let name = path.rsplit(|byte| *byte == b'/').next().unwrap_or(path);
        let directory = &path[..path.len() - name.len()];
        let member = Member {
            path: &[directory, WHITEOUT, name].concat(),
            kind: Kind::File { size: 0 },
            mode: 0,
            uid: 0,
            gid: 0,
            modified: Time {
                seconds: 0,
                nanoseconds: 0,
            },
            xattrs: &[],
        };
        self.to.data(&member.encode()).map_err(ChangesError::Write)
    }

    /// Sees to it that all directories on the way are in the archive.
    fn tell_way(&mut self) -> Result<(), ChangesError> {
        let untold = self.on_the_way.iter().position(|it| !it.is_told);
        let Some(first) = untold else { return Ok(()) };
        for at in first..self.on_the_way.len() {
            let Directory { path, about, .. } = &self.on_the_way[at];
            let (path, about) = (path.clone(), about.clone());
            let opened = open(self.root, &path, OFlags::DIRECTORY);
            let xattrs = match present(opened).map_err(file_error(&path))? {
                Some(directory) => self.xattrs(directory.as_fd(), b".", &path)?,
                None => Vec::new(),
            };
            self.on_the_way[at].is_told = true;
            // The root itself is the directory that the archive is of.
            let slashed = match path.is_empty() {
                true => b"./".to_vec(),
                false => [path.as_slice(), b"/"].concat(),
            };
            let member = about.member(&slashed, Kind::Directory, &xattrs);
            self.to
                .data(&member.encode())
                .map_err(ChangesError::Write)?;
        }
        Ok(())
    }

    fn tell(
        &mut self,
        path: &[u8],
        about: &About,
        kind: Kind<'_>,
        xattrs: &[Xattr],
    ) -> Result<(), ChangesError> {
        self.tell_way()?;
        let member = about.member(path, kind, xattrs);
        self.to.data(&member.encode()).map_err(ChangesError::Write)
    }

    /// The attributes of an entry, links not followed.
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
                let (path, name) = (shown(path), name.escape_ascii());
                let note = format!("the attribute {name} of {path} is left out: = is in its name");
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

    fn read_listing(&mut self) -> Result<Vec<Entry>, ChangesError> {
        read_directory(&mut self.listing).map_err(ChangesError::Listing)
    }
}

impl About {
    /// Whether it is what the base has there.
    fn is(&self, before: &Entry) -> bool {
        self.inode == before.inode
            && self.changed == before.changed
            && (self.file_type == FileType::Directory) == before.is_directory
    }

    fn member<'a>(&self, path: &'a [u8], kind: Kind<'a>, xattrs: &'a [Xattr]) -> Member<'a> {
        Member {
            path,
            kind,
            mode: self.mode & 0o7777,
            uid: self.uid,
            gid: self.gid,
            modified: self.modified,
            xattrs,
        }
    }
}

impl From<&rustix::fs::Stat> for About {
    fn from(stat: &rustix::fs::Stat) -> About {
        let time = |seconds, nanoseconds: u64| Time {
            seconds,
            nanoseconds: u32::try_from(nanoseconds).unwrap_or_default(),
        };
        About {
            file_type: FileType::from_raw_mode(stat.st_mode),
            inode: stat.st_ino,
            changed: time(stat.st_ctime, stat.st_ctime_nsec),
            modified: time(stat.st_mtime, stat.st_mtime_nsec),
            mode: stat.st_mode,
            uid: stat.st_uid,
            gid: stat.st_gid,
            links: stat.st_nlink,
            device: stat.st_rdev,
            size: u64::try_from(stat.st_size).unwrap_or_default(),
        }
    }
}

/// An entry of a directory on the disk.
type Named = (Vec<u8>, About);

/// What base and disk have under one name.
type Pair = (Vec<u8>, Option<Entry>, Option<About>);

/// The next name of the two lists, and what each has under it.
fn next_of_both(
    in_base: &mut Peekable<vec::IntoIter<Entry>>,
    on_disk: &mut Peekable<vec::IntoIter<Named>>,
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
    Some((name, before, now.map(|(_, about)| about)))
}

/// A directory's entries, in the order of their names.
fn entries(directory: impl AsFd) -> rustix::io::Result<Vec<Named>> {
    let mut names: Vec<CString> = Vec::new();
    for entry in Dir::read_from(&directory)? {
        let name = entry?.file_name().to_owned();
        if !matches!(name.to_bytes(), b"." | b"..") {
            names.push(name);
        }
    }
    names.sort();
    let mut entries = Vec::with_capacity(names.len());
    for name in names {
        let stat = rustix::fs::statat(&directory, &name, AtFlags::SYMLINK_NOFOLLOW);
        if let Some(stat) = present(stat)? {
            entries.push((name.into_bytes(), About::from(&stat)));
        }
    }
    Ok(entries)
}

/// Opens an entry below the root, wherever links would lead. One descriptor for each is open at a
/// time, however deep the tree.
fn open(
    root: BorrowedFd<'_>,
    path: &[u8],
    flags: OFlags,
) -> rustix::io::Result<std::os::fd::OwnedFd> {
    let open = |from: BorrowedFd<'_>, path: &[u8]| {
        rustix::fs::openat2(
            from,
            if path.is_empty() { b"." } else { path },
            flags | OFlags::RDONLY | OFlags::CLOEXEC,
            Mode::empty(),
            ResolveFlags::BENEATH | ResolveFlags::NO_SYMLINKS,
        )
    };
    // What is longer than the kernel takes at once is gone in steps.
    let (step, mut rest) = split(path);
    let mut reached = open(root, step)?;
    while let Some(path) = rest {
        let (step, further) = split(path);
        reached = open(reached.as_fd(), step)?;
        rest = further;
    }
    Ok(reached)
}

/// The beginning of a path, as much of it as the kernel takes at once (`PATH_MAX`), and the rest.
fn split(path: &[u8]) -> (&[u8], Option<&[u8]>) {
    const MOST: usize = 4095;
    if path.len() <= MOST {
        return (path, None);
    }
    // Names have 255 bytes at most.
    let slash = path[..=MOST].iter().rposition(|byte| *byte == b'/');
    let (step, rest) = path.split_at(slash.unwrap_or(MOST));
    (step, Some(rest.get(1..).unwrap_or_default()))
}

/// None if it has gone, or has become something else, since its name was read.
fn present<T>(result: rustix::io::Result<T>) -> rustix::io::Result<Option<T>> {
    match result {
        Ok(found) => Ok(Some(found)),
        Err(Errno::NOENT | Errno::NOTDIR | Errno::LOOP | Errno::STALE) => Ok(None),
        Err(error) => Err(error),
    }
}

/// Where data or a hole begins; the end of the file where there is none any more.
fn edge(file: &File, from: SeekFrom, size: u64) -> rustix::io::Result<u64> {
    match rustix::fs::seek(file, from) {
        Ok(at) => Ok(at.min(size)),
        Err(Errno::NXIO) => Ok(size),
        Err(error) => Err(error),
    }
}

fn joined(directory: &[u8], name: &[u8]) -> Vec<u8> {
    match directory.is_empty() {
        true => name.to_vec(),
        false => [directory, b"/", name].concat(),
    }
}

fn shown(path: &[u8]) -> String {
    format!("/{}", String::from_utf8_lossy(path).escape_debug())
}

fn file_error<E: Into<io::Error>>(path: &[u8]) -> impl FnOnce(E) -> ChangesError + use<E> {
    let path = shown(path);
    move |source| ChangesError::File {
        path,
        source: source.into(),
    }
}
