//! The machine's disk as a tree of files, seen from outside the machine.
//!
//! The tree belongs to the machine: a symlink in it may point anywhere. Every path is resolved
//! with `openat2(2)`'s `RESOLVE_IN_ROOT`, so that `/etc/passwd -> /run/passwd` means the
//! machine's own.

use std::{
    fs::{self, File},
    io::{self, Read, Write},
    os::{
        fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd},
        unix::fs::PermissionsExt,
    },
    path::{Path, PathBuf},
};

use rustix::fs::{AtFlags, Gid, Mode, OFlags, ResolveFlags, Uid};

/// Where the machine's disk is mounted in the agent's own tree.
pub const MACHINE: &str = "/machine";

/// The root directory of the machine's disk.
#[derive(Debug)]
pub struct GuestRoot {
    directory: OwnedFd,
}

impl GuestRoot {
    /// Opens the mounted disk's root.
    pub fn open() -> io::Result<GuestRoot> {
        GuestRoot::at(Path::new(MACHINE))
    }

    /// Takes any directory as a root.
    pub fn at(directory: &Path) -> io::Result<GuestRoot> {
        let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
        Ok(GuestRoot {
            directory: rustix::fs::open(directory, flags, Mode::empty())?,
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

    /// A handle on whatever is at `path`, symlinks followed.
    pub fn locate(&self, path: &str) -> io::Result<OwnedFd> {
        self.openat(path, OFlags::PATH, 0)
    }

    /// A handle on the directory at `path`.
    pub fn directory(&self, path: &str) -> io::Result<OwnedFd> {
        self.openat(path, OFlags::PATH | OFlags::DIRECTORY, 0)
    }

    /// The path in the machine at which `path` ends up when all symlinks are followed.
    pub fn canonical(&self, path: &str) -> io::Result<PathBuf> {
        let found = fs::read_link(descriptor_path(self.locate(path)?.as_fd()))?;
        let root = fs::read_link(descriptor_path(self.directory.as_fd()))?;
        Ok(match found.strip_prefix(root) {
            Ok(inside) => Path::new("/").join(inside),
            Err(_) => found,
        })
    }

    /// Whether anything is at `path`.
    pub fn exists(&self, path: &str) -> bool {
        self.locate(path).is_ok()
    }

    /// The whole text of a file; bytes that are not UTF-8 are replaced.
    pub fn read(&self, path: &str) -> io::Result<String> {
        let mut bytes = Vec::new();
        File::from(self.openat(path, OFlags::RDONLY, 0)?).read_to_end(&mut bytes)?;
        Ok(String::from_utf8_lossy(&bytes).into_owned())
    }

    /// As [`read`](Self::read), and an empty text where there is no file.
    pub fn read_or_empty(&self, path: &str) -> io::Result<String> {
        match self.read(path) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(String::new()),
            other => other,
        }
    }

    /// Replaces a file's contents in one step, keeping an existing file's owner and mode; a new
    /// file belongs to root and has `mode`.
    pub fn write(&self, path: &str, contents: &str, mode: u32) -> io::Result<()> {
        self.write_bytes(path, contents.as_bytes(), mode)
    }

    /// As [`write`](Self::write), of any bytes.
    pub fn write_bytes(&self, path: &str, contents: &[u8], mode: u32) -> io::Result<()> {
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
            Ok(was) if rustix::fs::FileType::from_raw_mode(was.st_mode).is_file() => {
                (was.st_uid, was.st_gid, was.st_mode & 0o7777)
            }
            _ => (0, 0, mode),
        };
        let temporary = format!(".{name}.container");
        let flags = OFlags::WRONLY | OFlags::CREATE | OFlags::TRUNC | OFlags::NOFOLLOW;
        let mut file = File::from(rustix::fs::openat(
            &directory,
            &temporary,
            flags | OFlags::CLOEXEC,
            Mode::from_raw_mode(0o600),
        )?);
        file.write_all(contents)?;
        rustix::fs::fchown(&file, Some(Uid::from_raw(uid)), Some(Gid::from_raw(gid)))?;
        file.set_permissions(fs::Permissions::from_mode(mode))?;
        file.sync_all()?;
        rustix::fs::renameat(&directory, &temporary, &directory, name)?;
        Ok(())
    }

    /// Removes a file of a directory that is there.
    pub fn remove(&self, path: &str) -> io::Result<()> {
        let (directory, name) = path.rsplit_once('/').unwrap_or(("", path));
        let directory = self.directory(if directory.is_empty() { "/" } else { directory })?;
        Ok(rustix::fs::unlinkat(directory, name, AtFlags::empty())?)
    }

    /// Makes a directory and those above it (0755, root's) where they are missing. Returns
    /// whether the last one was made now.
    pub fn make_directory(&self, path: &str) -> io::Result<bool> {
        let mut made = false;
        let mut so_far = String::new();
        for part in path.split('/').filter(|part| !part.is_empty()) {
            let parent = if so_far.is_empty() { "/" } else { &so_far };
            let parent = self.directory(parent)?;
            so_far = format!("{so_far}/{part}");
            made = match rustix::fs::mkdirat(&parent, part, Mode::from_raw_mode(0o755)) {
                Ok(()) => true,
                Err(rustix::io::Errno::EXIST) => false,
                Err(error) => return Err(error.into()),
            };
        }
        self.directory(path)?;
        Ok(made)
    }
}

/// A path that leads to what `descriptor` is open on, for calls that take paths only.
pub fn descriptor_path(descriptor: BorrowedFd<'_>) -> PathBuf {
    PathBuf::from(format!("/proc/self/fd/{}", descriptor.as_raw_fd()))
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::symlink;

    use super::*;

    #[test]
    fn absolute_links_stay_inside_the_root() {
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
    fn a_replaced_file_keeps_its_mode() {
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
}
