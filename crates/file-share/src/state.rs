//! The share's state, which is saved and restored with a suspended machine.
//!
//! All files that the guest does not have open are closed before, and found again by directory and
//! name when the guest uses them. Open files are saved by the inner file system, by their paths. A
//! file that is another one after the restore is not used: the guest gets `ESTALE`, as for any file
//! that the host has replaced.
//!
//! What could not be restored is refused before: locks, and open files without a name.

use std::{
    collections::{BTreeSet, HashMap},
    ffi::{CStr, CString},
    fs::File,
    io::{self, Read, Write},
    os::unix::ffi::OsStrExt,
    path::{Path, PathBuf},
    sync::{Arc, atomic::AtomicBool},
};

use container_protocol::OsText;
use rustix::fs::{AtFlags, StatxFlags, statx};
use serde::{Deserialize, Serialize};
use virtiofsd::filesystem::ROOT_ID;

use crate::{
    bounded::{BoundedFileSystem, InnerFileSystem},
    identity::FileIdentity,
    locks::descriptor::reopen,
    replay::own_context,
    table::{GuestInode, ROOT, SavedTable, Table},
};

/// Version of the saved form.
const VERSION: u32 = 1;

/// Number of files that a refusal names.
const NAMED_FILES: usize = 3;

/// The state of a share whose guest has begun its session. The inner file system's follows it.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) struct SavedState {
    version: u32,
    /// The request with which the guest has begun its session.
    pub init: Vec<u8>,
    table: SavedTable,
    mounts: Vec<SavedMount>,
}

/// A file system that files of the guest are on. Both numbers may be others after the host has
/// booted again.
#[derive(Debug, Serialize, Deserialize)]
struct SavedMount {
    device: u64,
    mount: u64,
    /// Path of a directory on it, in the share.
    path: OsText,
}

impl SavedState {
    /// Reads the state from the beginning of a stream. Returns nothing for a guest without a
    /// session.
    pub(crate) fn read(mut stream: &File) -> io::Result<Option<SavedState>> {
        let mut length = [0; 8];
        match stream.read_exact(&mut length) {
            Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => return Ok(None),
            read => read?,
        }
        let mut json = Vec::new();
        stream
            .take(u64::from_be_bytes(length))
            .read_to_end(&mut json)?;
        let saved: SavedState = serde_json::from_slice(&json)?;
        if saved.version != VERSION {
            return Err(io::Error::other("the saved state has another version"));
        }
        Ok(Some(saved))
    }

    fn write(&self, mut stream: &File) -> io::Result<()> {
        let json = serde_json::to_vec(self)?;
        stream.write_all(&(json.len() as u64).to_be_bytes())?;
        stream.write_all(&json)
    }
}

impl<F: InnerFileSystem> BoundedFileSystem<F> {
    /// Returns why the state could not be restored, a clause; nothing if it could.
    pub(crate) fn obstacle(&self) -> Option<String> {
        let locked: BTreeSet<u64> = self.locks.locked_files().into_iter().collect();
        if !locked.is_empty() || !self.waiters().is_empty() {
            let files = self.list(locked.into_iter().map(GuestInode));
            return Some(format!(
                "programs in the machine have locked files in the shared home{files}"
            ));
        }
        if self.anonymous.descriptors() > 0 {
            return Some(
                "programs in the machine have files without a name open in the shared home"
                    .to_owned(),
            );
        }
        let open: Vec<(u64, GuestInode)> = self.table().open_files().collect();
        let lost = open.into_iter().filter(|(handle, guest_inode)| {
            let found = self.check_open_file(*guest_inode, *handle);
            found
                .inspect_err(|error| log::info!("an open file cannot be found again: {error}"))
                .is_err()
        });
        let lost: BTreeSet<u64> = lost.map(|(_, guest_inode)| guest_inode.0).collect();
        if lost.is_empty() {
            return None;
        }
        let files = self.list(lost.into_iter().map(GuestInode));
        Some(format!(
            "programs in the machine have files open in the shared home that could not be opened \
             again, because they were removed or their mode was changed{files}"
        ))
    }

    /// Checks that an open file can be opened again by its name.
    fn check_open_file(&self, guest_inode: GuestInode, handle: u64) -> io::Result<()> {
        let context = own_context();
        let file = self.pin(context, guest_inode.0)?;
        let (location, path) = {
            let table = self.table();
            let node = table.get(guest_inode);
            (
                node.and_then(|node| node.location.clone()),
                table.path(guest_inode),
            )
        };
        if guest_inode != ROOT && location.is_none() {
            return Err(io::Error::other("it has no name"));
        }
        if path.is_none_or(|path| path.to_str().is_none()) {
            return Err(io::Error::other("its path is not in UTF-8"));
        }
        self.probe(context, file.inner_inode, handle, |file| {
            let attributes = statx(file, c"", AtFlags::EMPTY_PATH, StatxFlags::NLINK)?;
            if attributes.stx_nlink == 0 {
                return Err(io::Error::other("it was removed"));
            }
            reopen(file).map(drop)
        })
    }

    /// Returns the paths of some files in parentheses, for a message; empty without any.
    fn list(&self, files: impl Iterator<Item = GuestInode>) -> String {
        let table = self.table();
        let paths = files.filter_map(|file| table.path(file));
        let paths: Vec<String> = paths.map(|path| path.display().to_string()).collect();
        match paths.len() {
            0 => String::new(),
            count @ 1..=NAMED_FILES => format!(" ({})", paths[..count].join(", ")),
            count => format!(
                " ({} and {} more)",
                paths[..NAMED_FILES].join(", "),
                count - NAMED_FILES
            ),
        }
    }

    /// Writes the state to a stream. No request may be in progress, and there must be no
    /// [obstacle](Self::obstacle).
    pub(crate) fn save(&self, init: Vec<u8>, stream: File) -> io::Result<()> {
        self.evict_all(own_context())?;
        let (table, mounts) = {
            let table = self.table();
            (table.save(), mounts(&table))
        };
        let state = SavedState {
            version: VERSION,
            init,
            table,
            mounts,
        };
        self.inner
            .prepare_serialization(Arc::new(AtomicBool::new(false)));
        state.write(&stream)?;
        self.inner.serialize(stream)
    }

    /// Restores a state whose session has begun again, and the inner file system's, which the
    /// stream still has. Returns the paths of open files that could not be found again.
    pub(crate) fn restore(&self, mut saved: SavedState, stream: File) -> io::Result<Vec<String>> {
        self.inner.deserialize_and_apply(stream)?;
        self.follow_mounts(&mut saved);
        let nodes = saved.table.nodes.iter();
        let open = nodes.filter_map(|node| Some((node.number, node.inner?, node.identity)));
        let open: Vec<(u64, u64, FileIdentity)> = open.collect();
        let root_mount = self.mount(own_context(), ROOT);
        self.table().restore(saved.table, root_mount);
        let mut lost = Vec::new();
        for (number, inner_inode, identity) in open {
            let context = own_context();
            let found = self.with_descriptor(context, inner_inode, FileIdentity::of);
            if found.is_ok_and(|found| found == identity) {
                continue;
            }
            let mut table = self.table();
            let path = table.path(GuestInode(number));
            lost.extend(path.map(|path| path.display().to_string()));
            let closed = table.lose(GuestInode(number));
            drop(table);
            let Some((handles, inner)) = closed else {
                continue;
            };
            for handle in handles {
                self.inner
                    .release(context, inner.0, 0, handle, false, false, None)?;
            }
            self.close(context, Some(inner));
        }
        Ok(lost)
    }

    /// Replaces the numbers of devices and mounts by the current ones.
    fn follow_mounts(&self, saved: &mut SavedState) {
        let current = |mount: &SavedMount| -> Option<(u64, u64)> {
            let path = CString::new(mount.path.as_os_str().as_bytes()).ok()?;
            let identity = self.with_directory(own_context(), ROOT_ID, |root| {
                let path: &CStr = if path.is_empty() { c"." } else { &path };
                FileIdentity::read(root, path)
            });
            let identity = identity.ok()?;
            Some((identity.device, identity.mount))
        };
        let mounts = saved.mounts.iter();
        let current: HashMap<(u64, u64), (u64, u64)> = mounts
            .filter_map(|mount| Some(((mount.device, mount.mount), current(mount)?)))
            .collect();
        for node in &mut saved.table.nodes {
            let identity = &mut node.identity;
            if let Some((device, mount)) = current.get(&(identity.device, identity.mount)) {
                (identity.device, identity.mount) = (*device, *mount);
            }
        }
    }
}

/// Returns the file systems that the files of a table are on, each with the shortest path of a file
/// on it.
fn mounts(table: &Table) -> Vec<SavedMount> {
    let mut paths: HashMap<(u64, u64), PathBuf> = HashMap::new();
    for (number, node) in table.nodes() {
        let key = (node.identity.device, node.identity.mount);
        let Some(path) = table.path(number) else {
            continue;
        };
        // All files of the share's own file system are on that of their first directory.
        let shortest = paths.entry(key).or_insert_with(|| path.clone());
        if path.components().count() < shortest.components().count() {
            *shortest = path;
        }
    }
    let paths = paths.into_iter();
    paths
        .map(|((device, mount), path)| SavedMount {
            device,
            mount,
            path: Path::new(&path).as_os_str().to_owned().into(),
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use std::{fs, os::unix::fs::MetadataExt};

    use tempfile::TempDir;
    use virtiofsd::{
        filesystem::{FileSystem, FsOptions, ZeroCopyWriter},
        oslib::ReadvFlags,
        passthrough::{Config, MigrationOnError, PassthroughFs},
    };

    use super::*;
    use crate::locks::request::{ALL_BYTES, Access, LockRequest, Scope};

    type FileSystemOf = BoundedFileSystem<PassthroughFs>;

    fn file_system(home: &TempDir) -> FileSystemOf {
        let config = Config {
            root_dir: home.path().to_str().unwrap().to_owned(),
            migration_on_error: MigrationOnError::GuestError,
            ..Config::default()
        };
        let file_system = BoundedFileSystem::new(PassthroughFs::new(config).unwrap(), 1000);
        file_system.init(FsOptions::empty()).unwrap();
        file_system
    }

    fn lookup(file_system: &FileSystemOf, parent: u64, name: &CStr) -> u64 {
        let entry = file_system.lookup(own_context(), parent, name);
        entry.unwrap().inode
    }

    fn open(file_system: &FileSystemOf, inode: u64, flags: i32) -> u64 {
        let flags = flags.cast_unsigned();
        let opened = file_system.open(own_context(), inode, false, flags);
        opened.unwrap().0.unwrap()
    }

    /// What is read from a file.
    #[derive(Default)]
    struct Buffer(Vec<u8>);

    impl ZeroCopyWriter for &mut Buffer {
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

    fn read(file_system: &FileSystemOf, inode: u64, handle: u64) -> io::Result<Vec<u8>> {
        let mut buffer = Buffer::default();
        file_system.read(own_context(), inode, handle, &mut buffer, 64, 0, None, 0)?;
        Ok(buffer.0)
    }

    /// Saves a file system, and restores it in another of the same directory.
    fn restored(file_system: &FileSystemOf, home: &TempDir) -> (FileSystemOf, Vec<String>) {
        let state = tempfile::tempfile().unwrap();
        file_system
            .save(vec![1, 2], state.try_clone().unwrap())
            .unwrap();
        let file_system = self::file_system(home);
        io::Seek::rewind(&mut &state).unwrap();
        let saved = SavedState::read(&state).unwrap().unwrap();
        assert_eq!(saved.init, [1, 2]);
        let lost = file_system.restore(saved, state).unwrap();
        (file_system, lost)
    }

    #[test]
    fn open_files_and_remembered_ones_are_found_again() {
        let home = tempfile::tempdir().unwrap();
        fs::create_dir(home.path().join("directory")).unwrap();
        for name in ["directory/open", "directory/remembered", "replaced"] {
            fs::write(home.path().join(name), name).unwrap();
        }
        let before = file_system(&home);
        let directory = lookup(&before, ROOT_ID, c"directory");
        let listed = before
            .opendir(own_context(), directory, 0)
            .unwrap()
            .0
            .unwrap();
        let file = lookup(&before, directory, c"open");
        let remembered = lookup(&before, directory, c"remembered");
        let replaced = lookup(&before, ROOT_ID, c"replaced");
        let handle = open(&before, file, libc::O_RDWR);
        let replaced_handle = open(&before, replaced, libc::O_RDONLY);
        assert_eq!(before.obstacle(), None);
        let new = home.path().join("new");
        fs::write(&new, "new").unwrap();

        let state = tempfile::tempfile().unwrap();
        before.save(Vec::new(), state.try_clone().unwrap()).unwrap();
        drop(before);
        fs::rename(&new, home.path().join("replaced")).unwrap();
        io::Seek::rewind(&mut &state).unwrap();
        let after = file_system(&home);
        let saved = SavedState::read(&state).unwrap().unwrap();
        let lost = after.restore(saved, state).unwrap();
        assert_eq!(lost, ["replaced"]);

        assert_eq!(read(&after, file, handle).unwrap(), b"directory/open");
        let listed = after.readdir(own_context(), directory, listed, 4096, 0);
        assert!(listed.is_ok());
        let attributes = after.getattr(own_context(), remembered, None).unwrap().0;
        let path = home.path().join("directory/remembered");
        assert_eq!(attributes.ino, fs::metadata(path).unwrap().ino());
        let stale = read(&after, replaced, replaced_handle).unwrap_err();
        assert_eq!(stale.raw_os_error(), Some(libc::ESTALE));
        // The numbers stay those that the guest knows, and new ones differ.
        assert_eq!(lookup(&after, directory, c"remembered"), remembered);
        assert!(lookup(&after, ROOT_ID, c"replaced") > replaced);
        let other = open(&after, remembered, libc::O_RDONLY);
        assert!(other > handle && other > replaced_handle);
        after
            .release(own_context(), file, 0, handle, false, false, None)
            .unwrap();
        assert_eq!(after.obstacle(), None);
        let (again, lost) = restored(&after, &home);
        assert_eq!(lost, [""; 0]);
        assert_eq!(
            read(&again, remembered, other).unwrap(),
            b"directory/remembered"
        );
    }

    #[test]
    fn locks_and_files_without_a_name_are_obstacles() {
        let home = tempfile::tempdir().unwrap();
        let path = home.path().join("file");
        fs::write(&path, "contents").unwrap();
        let file_system = file_system(&home);
        let file = lookup(&file_system, ROOT_ID, c"file");
        let handle = open(&file_system, file, libc::O_RDWR);
        let mut request = LockRequest {
            inode: file,
            handle,
            owner: 7,
            process: 8,
            scope: Scope::Bytes(ALL_BYTES),
            access: Some(Access::Exclusive),
        };
        for scope in [Scope::Bytes(ALL_BYTES), Scope::File] {
            request.scope = scope;
            request.access = Some(Access::Exclusive);
            file_system.set_lock(own_context(), &request).unwrap();
            let obstacle = file_system.obstacle().unwrap();
            assert!(obstacle.ends_with("(file)"), "{obstacle}");
            request.access = None;
            file_system.set_lock(own_context(), &request).unwrap();
            assert_eq!(file_system.obstacle(), None);
        }
        fs::remove_file(&path).unwrap();
        let obstacle = file_system.obstacle().unwrap();
        assert!(obstacle.contains("removed"), "{obstacle}");
    }
}
