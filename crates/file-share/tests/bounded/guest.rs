//! A guest that asks for files as a kernel does, and the host's side of the directory.

use std::{
    ffi::CString,
    fs::{self, File},
    io,
    os::unix::ffi::OsStrExt,
    path::{Path, PathBuf},
};

use container_file_share::Bounded;
use tempfile::TempDir;
use virtiofsd::{
    filesystem::{
        Context, DirectoryIterator, Entry, Extensions, FileSystem, FsOptions, ROOT_ID,
        ZeroCopyReader, ZeroCopyWriter,
    },
    fuse::Attr,
    oslib::{ReadvFlags, WritevFlags},
    passthrough::{Config, PassthroughFs, read_only::PassthroughFsRo},
};

/// How many descriptors the tests' file systems may hold for the guest.
pub const LIMIT: u64 = 80;

pub struct Guest<F> {
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

impl Guest<Bounded<PassthroughFs>> {
    pub fn new() -> Self {
        let home = tempfile::tempdir().unwrap();
        let below = PassthroughFs::new(config(&home)).unwrap();
        Guest::start(Bounded::new(below, LIMIT), home)
    }
}

impl Guest<Bounded<PassthroughFsRo>> {
    pub fn of_read_only(home: TempDir) -> Self {
        let below = PassthroughFsRo::new(config(&home)).unwrap();
        Guest::start(Bounded::new(below, LIMIT), home)
    }
}

impl Guest<PassthroughFs> {
    pub fn without_bound() -> Self {
        let home = tempfile::tempdir().unwrap();
        let below = PassthroughFs::new(config(&home)).unwrap();
        Guest::start(below, home)
    }
}

impl<F: FileSystem<Inode = u64, Handle = u64>> Guest<Bounded<F>> {
    /// Uses so much else that nothing of before is still held open.
    pub fn use_much_else(&self) {
        let other = self.host("much-else");
        for number in 0..LIMIT {
            let directory = other.join(number.to_string());
            if !directory.exists() {
                fs::create_dir_all(&directory).unwrap();
                fs::write(directory.join("file"), "").unwrap();
            }
            self.find(&format!("much-else/{number}/file")).unwrap();
        }
        assert!(self.file_system.held() <= LIMIT);
    }

    /// Whether a file of the host is held open.
    pub fn holds(&self, path: &str) -> bool {
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

    /// Where the host has it.
    pub fn host(&self, path: &str) -> PathBuf {
        self.home.path().join(path)
    }

    /// Writes a file on the host, with its directories.
    pub fn host_writes(&self, path: &str, contents: &str) {
        let path = self.host(path);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path, contents).unwrap();
    }

    /// Walks a path from the root.
    pub fn find(&self, path: &str) -> io::Result<Entry> {
        let mut entry = None;
        let mut at = ROOT_ID;
        for name in Path::new(path) {
            let found = self.look_up(at, name.to_str().unwrap())?;
            at = found.inode;
            entry = Some(found);
        }
        Ok(entry.unwrap())
    }

    pub fn number(&self, path: &str) -> u64 {
        self.find(path).unwrap().inode
    }

    pub fn look_up(&self, directory: u64, name: &str) -> io::Result<Entry> {
        self.file_system
            .lookup(context(), directory, &c_string(name))
    }

    pub fn about(&self, inode: u64) -> io::Result<Attr> {
        Ok(self.file_system.getattr(context(), inode, None)?.0)
    }

    pub fn open(&self, inode: u64, flags: i32) -> io::Result<u64> {
        let flags = u32::try_from(flags).unwrap();
        let (handle, _) = self.file_system.open(context(), inode, false, flags)?;
        Ok(handle.unwrap())
    }

    pub fn close(&self, inode: u64, handle: u64) {
        self.file_system
            .release(context(), inode, 0, handle, false, false, None)
            .unwrap();
    }

    pub fn read_open(&self, inode: u64, handle: u64) -> io::Result<String> {
        let mut contents = Contents::default();
        let to = &mut contents;
        self.file_system
            .read(context(), inode, handle, to, 4096, 0, None, 0)?;
        Ok(String::from_utf8(contents.0).unwrap())
    }

    pub fn read(&self, inode: u64) -> io::Result<String> {
        let handle = self.open(inode, libc::O_RDONLY)?;
        let contents = self.read_open(inode, handle);
        self.close(inode, handle);
        contents
    }

    pub fn write(&self, inode: u64, contents: &str) -> io::Result<()> {
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

    /// Makes a file and leaves it open.
    pub fn create(&self, directory: u64, name: &str) -> io::Result<(Entry, u64)> {
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

    /// The names in a directory but for `.` and `..`, sorted.
    pub fn list(&self, inode: u64) -> io::Result<Vec<String>> {
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

    pub fn rename(&self, old: (u64, &str), new: (u64, &str), flags: u32) -> io::Result<()> {
        self.file_system.rename(
            context(),
            old.0,
            &c_string(old.1),
            new.0,
            &c_string(new.1),
            flags,
        )
    }

    pub fn unlink(&self, directory: u64, name: &str) -> io::Result<()> {
        self.file_system
            .unlink(context(), directory, &c_string(name))
    }
}

pub fn context() -> Context {
    Context {
        uid: 0.into(),
        gid: 0.into(),
        pid: 1,
    }
}

pub fn c_string(text: &str) -> CString {
    CString::new(std::ffi::OsStr::new(text).as_bytes()).unwrap()
}

/// The number of an error.
pub fn errno<T>(result: io::Result<T>) -> Option<i32> {
    result.err().and_then(|error| error.raw_os_error())
}

/// What goes to and from the guest's memory.
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
