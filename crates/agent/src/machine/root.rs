//! Access to the files of the machine's disk from outside the machine.
//!
//! The files are untrusted: a symlink may have any target. Every path is resolved with
//! `RESOLVE_IN_ROOT` (`openat2(2)`), so that `/etc/passwd -> /run/passwd` leads to the machine's
//! `/run/passwd` and never to the agent's.

use std::{
    fs::{self, File},
    io::{self, Read, Write},
    os::{
        fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd},
        unix::fs::PermissionsExt,
    },
    path::{Path, PathBuf},
};

use nix::mount::{MsFlags, mount};
use rustix::fs::{
    AtFlags, Gid, Mode, OFlags, ResolveFlags, StatxAttributes, StatxFlags, Uid, statx,
};

use crate::paths::MACHINE;

/// Directory of the files that cover others while the disk is full.
const COVERS: &str = "/run/container-files";

/// The root directory of the machine's disk.
#[derive(Debug)]
pub(crate) struct GuestRoot {
    directory: OwnedFd,
    durability: Durability,
}

/// When written files reach the disk.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Durability {
    /// Each one before it replaces another.
    Immediate,
    /// With the next [`sync`](GuestRoot::sync).
    Deferred,
}

impl GuestRoot {
    /// Opens the root directory of the mounted disk.
    pub(crate) fn open() -> io::Result<GuestRoot> {
        GuestRoot::at(Path::new(MACHINE))
    }

    /// Lets files that are written from now on reach the disk only with [`sync`](Self::sync). Until
    /// then, a crash of the machine may leave them empty.
    pub(crate) fn defer_durability(&mut self) {
        self.durability = Durability::Deferred;
    }

    /// Writes all files to the disk.
    pub(crate) fn sync(&self) -> io::Result<()> {
        // A handle (`O_PATH`) is no open file.
        let directory = File::open(descriptor_path(self.directory.as_fd()))?;
        Ok(rustix::fs::syncfs(&directory)?)
    }

    /// Opens the root directory of a process, with the file systems that are mounted in its mount
    /// namespace.
    pub(crate) fn of_process(process: u32) -> io::Result<GuestRoot> {
        GuestRoot::at(Path::new(&format!("/proc/{process}/root")))
    }

    /// Opens any directory as a root.
    pub(crate) fn at(directory: &Path) -> io::Result<GuestRoot> {
        let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
        Ok(GuestRoot {
            directory: rustix::fs::open(directory, flags, Mode::empty())?,
            durability: Durability::Immediate,
        })
    }

    fn openat(&self, path: &str, flags: OFlags, mode: u32) -> io::Result<OwnedFd> {
        Ok(rustix::fs::openat2(
            &self.directory,
            path,
            flags | OFlags::CLOEXEC,
            Mode::from_raw_mode(mode),
            ResolveFlags::IN_ROOT,
        )?)
    }

    /// Returns a handle (`O_PATH`) on the file at `path`. Follows symlinks.
    pub(crate) fn locate(&self, path: &str) -> io::Result<OwnedFd> {
        self.openat(path, OFlags::PATH, 0)
    }

    /// Returns a handle (`O_PATH`) on the directory at `path`. Follows symlinks.
    pub(crate) fn directory(&self, path: &str) -> io::Result<OwnedFd> {
        self.openat(path, OFlags::PATH | OFlags::DIRECTORY, 0)
    }

    /// Returns the path in the machine that `path` leads to after following all symlinks.
    pub(crate) fn canonical(&self, path: &str) -> io::Result<PathBuf> {
        let found = fs::read_link(descriptor_path(self.locate(path)?.as_fd()))?;
        let root = fs::read_link(descriptor_path(self.directory.as_fd()))?;
        Ok(match found.strip_prefix(root) {
            Ok(inside) => Path::new("/").join(inside),
            Err(_) => found,
        })
    }

    /// Returns whether a file of any type exists at `path`.
    pub(crate) fn exists(&self, path: &str) -> bool {
        self.locate(path).is_ok()
    }

    /// Opens a file for reading.
    pub(crate) fn open_file(&self, path: &str) -> io::Result<File> {
        // A FIFO must not block the agent.
        let flags = OFlags::RDONLY | OFlags::NONBLOCK | OFlags::NOCTTY;
        Ok(self.openat(path, flags, 0)?.into())
    }

    /// Returns the contents of a file.
    pub(crate) fn read_bytes(&self, path: &str) -> io::Result<Vec<u8>> {
        let mut bytes = Vec::new();
        self.open_file(path)?.read_to_end(&mut bytes)?;
        Ok(bytes)
    }

    /// Returns the contents of a file. Invalid UTF-8 is replaced.
    pub(crate) fn read(&self, path: &str) -> io::Result<String> {
        let bytes = self.read_bytes(path)?;
        Ok(String::from_utf8_lossy(&bytes).into_owned())
    }

    /// Makes a file have these contents, if possible without writing to the disk. On a full disk
    /// the file is covered by one in `/run` until the next boot.
    pub(crate) fn ensure(&self, path: &str, contents: &str, mode: u32) -> io::Result<()> {
        if self.read(path).is_ok_and(|old| old == contents) {
            return Ok(());
        }
        match self.write(path, contents, mode) {
            Err(error)
                if matches!(
                    error.kind(),
                    io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded
                ) =>
            {
                self.cover(path, contents, mode)
            }
            other => other,
        }
    }

    /// Mounts a file with these contents over an existing one.
    fn cover(&self, path: &str, contents: &str, mode: u32) -> io::Result<()> {
        let covered = self.locate(path)?;
        let attributes = statx(&covered, "", AtFlags::EMPTY_PATH, StatxFlags::empty())?;
        if attributes
            .stx_attributes
            .contains(StatxAttributes::IMMUTABLE)
        {
            // Its owner wants it to stay as it is, on a disk that is not full too.
            return Err(io::ErrorKind::PermissionDenied.into());
        }
        let cover = format!("{COVERS}{path}");
        let directory = cover.rsplit_once('/').map_or(COVERS, |(parent, _)| parent);
        self.make_directory(directory)?;
        self.write(&cover, contents, mode)?;
        let cover = self.locate(&cover)?;
        let paths = [cover.as_fd(), covered.as_fd()].map(descriptor_path);
        let bind = MsFlags::MS_BIND;
        Ok(mount(
            Some(&paths[0]),
            &paths[1],
            None::<&str>,
            bind,
            None::<&str>,
        )?)
    }

    /// Returns the names of the files in a directory, sorted. Those that are not UTF-8 are left
    /// out.
    pub(crate) fn entries(&self, path: &str) -> io::Result<Vec<String>> {
        let directory = self.directory(path)?;
        let entries = fs::read_dir(descriptor_path(directory.as_fd()))?;
        let mut names = entries
            .filter_map(|entry| {
                entry
                    .map(|entry| entry.file_name().into_string().ok())
                    .transpose()
            })
            .collect::<io::Result<Vec<String>>>()?;
        names.sort();
        Ok(names)
    }

    /// Returns the contents of a file as [`read`](Self::read) does, or an empty text if it does not
    /// exist.
    pub(crate) fn read_or_empty(&self, path: &str) -> io::Result<String> {
        match self.read(path) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(String::new()),
            other => other,
        }
    }

    /// Replaces the contents of a file atomically. An existing file keeps its owner and mode; a new
    /// one belongs to root and has `mode`.
    pub(crate) fn write(&self, path: &str, contents: &str, mode: u32) -> io::Result<()> {
        self.write_bytes(path, contents.as_bytes(), mode)
    }

    /// Writes any bytes in the way of [`write`](Self::write).
    pub(crate) fn write_bytes(&self, path: &str, contents: &[u8], mode: u32) -> io::Result<()> {
        let target = match self.canonical(path) {
            Ok(target) => target,
            Err(error) if error.kind() == io::ErrorKind::NotFound => PathBuf::from(path),
            Err(error) => return Err(error),
        };
        let (Some(parent), Some(name)) = (
            target.parent().and_then(Path::to_str),
            target.file_name().and_then(|name| name.to_str()),
        ) else {
            return Err(io::Error::from(io::ErrorKind::InvalidFilename));
        };
        let directory = self.directory(parent)?;
        let (uid, gid, mode) = match rustix::fs::statat(&directory, name, AtFlags::SYMLINK_NOFOLLOW)
        {
            Ok(old) if rustix::fs::FileType::from_raw_mode(old.st_mode).is_file() => {
                (old.st_uid, old.st_gid, old.st_mode & 0o7777)
            }
            _ => (0, 0, mode),
        };
        let temporary = format!(".{name}.container");
        let written =
            self.write_and_rename(&directory, &temporary, name, contents, (uid, gid, mode));
        if written.is_err() {
            // Fails if it was not created.
            let _ = rustix::fs::unlinkat(&directory, &temporary, AtFlags::empty());
        }
        written
    }

    fn write_and_rename(
        &self,
        directory: &OwnedFd,
        temporary: &str,
        name: &str,
        contents: &[u8],
        (uid, gid, mode): (u32, u32, u32),
    ) -> io::Result<()> {
        let flags = OFlags::WRONLY | OFlags::CREATE | OFlags::TRUNC | OFlags::NOFOLLOW;
        let mut file = File::from(rustix::fs::openat(
            directory,
            temporary,
            flags | OFlags::CLOEXEC,
            Mode::from_raw_mode(0o600),
        )?);
        file.write_all(contents)?;
        rustix::fs::fchown(&file, Some(Uid::from_raw(uid)), Some(Gid::from_raw(gid)))?;
        file.set_permissions(fs::Permissions::from_mode(mode))?;
        if self.durability == Durability::Immediate {
            file.sync_all()?;
        }
        rustix::fs::renameat(directory, temporary, directory, name)?;
        Ok(())
    }

    /// Removes a file. Fails if it or its directory does not exist.
    pub(crate) fn remove(&self, path: &str) -> io::Result<()> {
        let (directory, name) = path.rsplit_once('/').unwrap_or(("", path));
        let directory = self.directory(if directory.is_empty() { "/" } else { directory })?;
        Ok(rustix::fs::unlinkat(directory, name, AtFlags::empty())?)
    }

    /// Removes an empty directory.
    pub(crate) fn remove_directory(&self, path: &str) -> io::Result<()> {
        let (parent, name) = path.rsplit_once('/').unwrap_or(("", path));
        let parent = self.directory(if parent.is_empty() { "/" } else { parent })?;
        Ok(rustix::fs::unlinkat(parent, name, AtFlags::REMOVEDIR)?)
    }

    /// Creates a directory and its missing parents, with mode 0755. Returns whether the directory
    /// itself is new.
    pub(crate) fn make_directory(&self, path: &str) -> io::Result<bool> {
        let mut is_new = false;
        let mut so_far = String::new();
        for part in path.split('/').filter(|part| !part.is_empty()) {
            let parent = if so_far.is_empty() { "/" } else { &so_far };
            let parent = self.directory(parent)?;
            so_far = format!("{so_far}/{part}");
            is_new = match rustix::fs::mkdirat(&parent, part, Mode::from_raw_mode(0o755)) {
                Ok(()) => true,
                Err(rustix::io::Errno::EXIST) => false,
                Err(error) => return Err(error.into()),
            };
        }
        // Fails if an existing file at `path` is no directory.
        self.directory(path)?;
        Ok(is_new)
    }
}

/// Returns a path of the file that `descriptor` has open, for system calls without a variant that
/// takes a descriptor.
pub(crate) fn descriptor_path(descriptor: BorrowedFd<'_>) -> PathBuf {
    PathBuf::from(format!("/proc/self/fd/{}", descriptor.as_raw_fd()))
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::symlink;

    use super::*;

    #[test]
    fn absolute_symlinks_are_resolved_in_the_root() {
        let directory = tempfile::tempdir().unwrap();
        let root = GuestRoot::at(directory.path()).unwrap();
        root.make_directory("/etc").unwrap();
        root.make_directory("/run").unwrap();
        symlink("/run/passwd", directory.path().join("etc/passwd")).unwrap();
        fs::write(directory.path().join("run/passwd"), "inside").unwrap();
        assert_eq!(root.read("/etc/passwd").unwrap(), "inside");
        root.write("/etc/passwd", "new", 0o644).unwrap();
        assert_eq!(
            fs::read_to_string(directory.path().join("run/passwd")).unwrap(),
            "new"
        );
        assert_eq!(
            root.canonical("/etc/passwd").unwrap(),
            Path::new("/run/passwd")
        );
    }

    #[test]
    fn file_with_the_contents_is_not_written() {
        let directory = tempfile::tempdir().unwrap();
        let root = GuestRoot::at(directory.path()).unwrap();
        root.ensure("/file", "a", 0o644).unwrap();
        let inode = || {
            use std::os::unix::fs::MetadataExt;
            fs::metadata(directory.path().join("file")).unwrap().ino()
        };
        let before = inode();
        root.ensure("/file", "a", 0o644).unwrap();
        assert_eq!(inode(), before);
        root.ensure("/file", "b", 0o644).unwrap();
        assert_eq!(root.entries("/").unwrap(), ["file"]);
        assert_eq!(root.read("/file").unwrap(), "b");
    }

    #[test]
    fn replaced_file_keeps_its_mode() {
        let directory = tempfile::tempdir().unwrap();
        let root = GuestRoot::at(directory.path()).unwrap();
        root.write("/shadow", "a", 0o640).unwrap();
        root.write("/shadow", "b", 0o644).unwrap();
        let mode = fs::metadata(directory.path().join("shadow"))
            .unwrap()
            .permissions()
            .mode();
        assert_eq!(mode & 0o7777, 0o640);
        assert!(!root.exists("/.shadow.container"));
    }

    #[test]
    fn files_can_be_written_to_the_disk_together() {
        let directory = tempfile::tempdir().unwrap();
        let mut root = GuestRoot::at(directory.path()).unwrap();
        root.defer_durability();
        root.write("/hosts", "a", 0o644).unwrap();
        root.sync().unwrap();
        assert_eq!(root.read("/hosts").unwrap(), "a");
    }
}
