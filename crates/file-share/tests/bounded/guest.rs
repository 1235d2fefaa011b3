//! A guest that sends requests as a kernel does, and the host's side of the directory.

use std::{
    ffi::CString,
    fs::{self, File},
    io,
    os::unix::ffi::OsStrExt,
    path::{Path, PathBuf},
};

use container_file_share::{BoundedFileSystem, Exclusions, InnerFileSystem, Restrictions};
use tempfile::TempDir;
use virtiofsd::{
    filesystem::{
        Context, DirectoryIterator, Entry, Extensions, FileSystem, FsOptions, OpenOptions, ROOT_ID,
        ZeroCopyReader, ZeroCopyWriter,
    },
    fuse::Attr,
    oslib::{ReadvFlags, WritevFlags},
    passthrough::{Config, PassthroughFs, read_only::PassthroughFsRo},
};

/// Limit of descriptors in the tests.
pub(crate) const LIMIT: u64 = 80;

pub(crate) struct Guest<F> {
    pub file_system: F,
    pub home: TempDir,
}

fn config(home: &TempDir) -> Config {
    Config {
        root_dir: home.path().to_str().unwrap().to_owned(),
        guest_fd_limit: LIMIT,
        xattr: true,
        announce_submounts: true,
        ..Config::default()
    }
}

impl Guest<BoundedFileSystem<PassthroughFs>> {
    pub(crate) fn new() -> Self {
        let home = tempfile::tempdir().unwrap();
        let inner = PassthroughFs::new(config(&home)).unwrap();
        Guest::start(BoundedFileSystem::new(inner, LIMIT), home)
    }

    pub(crate) fn excluding(home: TempDir, exclusions: &Exclusions) -> Self {
        let inner = PassthroughFs::new(config(&home)).unwrap();
        let root = File::open(home.path()).unwrap();
        let restrictions = Restrictions::default();
        let excluded = (&root, exclusions);
        let file_system = BoundedFileSystem::excluding(inner, LIMIT, restrictions, excluded);
        Guest::start(file_system, home)
    }
}

impl Guest<BoundedFileSystem<PassthroughFsRo>> {
    pub(crate) fn new_read_only(home: TempDir) -> Self {
        let inner = PassthroughFsRo::new(config(&home)).unwrap();
        Guest::start(BoundedFileSystem::new(inner, LIMIT), home)
    }
}

impl Guest<PassthroughFs> {
    pub(crate) fn without_bound() -> Self {
        let home = tempfile::tempdir().unwrap();
        let inner = PassthroughFs::new(config(&home)).unwrap();
        Guest::start(inner, home)
    }
}

impl<F: InnerFileSystem> Guest<BoundedFileSystem<F>> {
    /// Uses so many other files that all files used before are closed.
    pub(crate) fn use_many_other_files(&self) {
        let other = self.host("other");
        for number in 0..LIMIT {
            let directory = other.join(number.to_string());
            if !directory.exists() {
                fs::create_dir_all(&directory).unwrap();
                fs::write(directory.join("file"), "").unwrap();
            }
            self.find(&format!("other/{number}/file")).unwrap();
        }
        assert!(self.file_system.open_descriptors() <= LIMIT);
    }

    /// Whether this process has a file of the host open.
    pub(crate) fn holds(&self, path: &str) -> bool {
        let path = self.host(path);
        fs::read_dir("/proc/self/fd")
            .unwrap()
            .filter_map(|entry| fs::read_link(entry.ok()?.path()).ok())
            .any(|open| open == path)
    }
}

impl<F: FileSystem<Inode = u64, Handle = u64>> Guest<F> {
    fn start(file_system: F, home: TempDir) -> Self {
        file_system.init(FsOptions::SUBMOUNTS).unwrap();
        Guest { file_system, home }
    }

    /// Returns the path on the host.
    pub(crate) fn host(&self, path: &str) -> PathBuf {
        self.home.path().join(path)
    }

    /// Writes a file on the host, creating its directories.
    pub(crate) fn host_writes(&self, path: &str, contents: &str) {
        let path = self.host(path);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path, contents).unwrap();
    }

    /// Looks up a path, component by component.
    pub(crate) fn find(&self, path: &str) -> io::Result<Entry> {
        let mut entry = None;
        let mut at = ROOT_ID;
        for name in Path::new(path) {
            let found = self.look_up(at, name.to_str().unwrap())?;
            at = found.inode;
            entry = Some(found);
        }
        Ok(entry.unwrap())
    }

    pub(crate) fn inode(&self, path: &str) -> u64 {
        self.find(path).unwrap().inode
    }

    pub(crate) fn look_up(&self, directory: u64, name: &str) -> io::Result<Entry> {
        self.file_system
            .lookup(context(), directory, &c_string(name))
    }

    pub(crate) fn attributes(&self, inode: u64) -> io::Result<Attr> {
        Ok(self.file_system.getattr(context(), inode, None)?.0)
    }

    pub(crate) fn open(&self, inode: u64, flags: i32) -> io::Result<u64> {
        Ok(self.open_by(context().pid, inode, flags)?.0)
    }

    /// Opens a file as a thread of the guest.
    pub(crate) fn open_by(
        &self,
        thread: libc::pid_t,
        inode: u64,
        flags: i32,
    ) -> io::Result<(u64, OpenOptions)> {
        let flags = u32::try_from(flags).unwrap();
        let context = Context {
            pid: thread,
            ..context()
        };
        let (handle, options) = self.file_system.open(context, inode, false, flags)?;
        Ok((handle.unwrap(), options))
    }

    pub(crate) fn close(&self, inode: u64, handle: u64) {
        self.file_system
            .release(context(), inode, 0, handle, false, false, None)
            .unwrap();
    }

    pub(crate) fn read_open(&self, inode: u64, handle: u64) -> io::Result<String> {
        let mut contents = Contents::default();
        let to = &mut contents;
        self.file_system
            .read(context(), inode, handle, to, 4096, 0, None, 0)?;
        Ok(String::from_utf8(contents.0).unwrap())
    }

    pub(crate) fn read(&self, inode: u64) -> io::Result<String> {
        let handle = self.open(inode, libc::O_RDONLY)?;
        let contents = self.read_open(inode, handle);
        self.close(inode, handle);
        contents
    }

    pub(crate) fn write(&self, inode: u64, contents: &str) -> io::Result<()> {
        let handle = self.open(inode, libc::O_WRONLY)?;
        let from = &mut Contents(contents.into());
        let size = u32::try_from(contents.len()).unwrap();
        self.file_system.write(
            context(),
            inode,
            handle,
            from,
            size,
            0,
            None,
            false,
            false,
            0,
        )?;
        self.close(inode, handle);
        Ok(())
    }

    /// Creates a file and leaves it open.
    pub(crate) fn create(&self, directory: u64, name: &str) -> io::Result<(Entry, u64)> {
        let flags = u32::try_from(libc::O_RDWR).unwrap();
        let (entry, handle, _) = self.file_system.create(
            context(),
            directory,
            &c_string(name),
            0o100_644,
            false,
            flags,
            0,
            Extensions::default(),
        )?;
        Ok((entry, handle.unwrap()))
    }

    /// Returns the sorted names in a directory, without `.` and `..`.
    pub(crate) fn list(&self, inode: u64) -> io::Result<Vec<String>> {
        let (handle, _) = self.file_system.opendir(context(), inode, 0)?;
        let handle = handle.unwrap();
        let mut names = Vec::new();
        let mut offset = 0;
        loop {
            let before = offset;
            let mut entries = self
                .file_system
                .readdir(context(), inode, handle, 4096, offset)?;
            while let Some(entry) = entries.next() {
                offset = entry.offset;
                names.push(entry.name.to_str().unwrap().to_owned());
            }
            if offset == before {
                break;
            }
        }
        self.file_system.releasedir(context(), inode, 0, handle)?;
        names.retain(|name| name != "." && name != "..");
        names.sort();
        Ok(names)
    }

    pub(crate) fn rename(&self, old: (u64, &str), new: (u64, &str), flags: u32) -> io::Result<()> {
        self.file_system.rename(
            context(),
            old.0,
            &c_string(old.1),
            new.0,
            &c_string(new.1),
            flags,
        )
    }

    pub(crate) fn unlink(&self, directory: u64, name: &str) -> io::Result<()> {
        self.file_system
            .unlink(context(), directory, &c_string(name))
    }
}

pub(crate) fn context() -> Context {
    Context {
        uid: 0.into(),
        gid: 0.into(),
        pid: 1,
    }
}

pub(crate) fn c_string(text: &str) -> CString {
    CString::new(std::ffi::OsStr::new(text).as_bytes()).unwrap()
}

/// Returns the errno of an error.
pub(crate) fn errno<T>(result: io::Result<T>) -> Option<i32> {
    result.err().and_then(|error| error.raw_os_error())
}

/// A buffer in the guest's memory.
#[derive(Default)]
struct Contents(Vec<u8>);

impl ZeroCopyWriter for Contents {
    fn read_from_file_at(
        &mut self,
        file: &File,
        count: usize,
        offset: u64,
        _flags: Option<ReadvFlags>,
    ) -> io::Result<usize> {
        self.0.resize(count, 0);
        let read = std::os::unix::fs::FileExt::read_at(file, &mut self.0, offset)?;
        self.0.truncate(read);
        Ok(read)
    }
}

impl ZeroCopyReader for Contents {
    fn write_to_file_at(
        &mut self,
        file: &File,
        count: usize,
        offset: u64,
        _flags: Option<WritevFlags>,
    ) -> io::Result<usize> {
        std::os::unix::fs::FileExt::write_at(file, &self.0[..count], offset)
    }
}
