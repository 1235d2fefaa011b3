//! Locks of two processes of a guest and of the host.

use std::{
    ffi::CString,
    fs::{self, OpenOptions},
    path::PathBuf,
    sync::mpsc,
    thread,
};

use tempfile::TempDir;
use virtiofsd::{
    filesystem::{FileSystem, FsOptions, ROOT_ID},
    passthrough::{Config, PassthroughFs},
};

use super::*;
use crate::locks::{
    Waiters,
    descriptor::{find_conflict, unlock_all},
    request::{ALL_BYTES, Access, ByteRange},
};

const ANNA: u64 = 1;
const BERT: u64 = 2;
const FIRST: ByteRange = ByteRange { first: 0, last: 9 };
const SECOND: ByteRange = ByteRange {
    first: 10,
    last: 19,
};

struct Share {
    file_system: BoundedFileSystem<PassthroughFs>,
    directory: TempDir,
}

/// A file that a process of the guest has opened.
#[derive(Clone, Copy)]
struct OpenFile<'a> {
    share: &'a Share,
    inode: u64,
    handle: u64,
    owner: u64,
}

fn context() -> Context {
    Context {
        uid: 0.into(),
        gid: 0.into(),
        pid: 1,
    }
}

impl Share {
    fn new() -> Share {
        let directory = tempfile::tempdir().unwrap();
        let inner = PassthroughFs::new(Config {
            root_dir: directory.path().to_str().unwrap().to_owned(),
            guest_fd_limit: 100,
            ..Config::default()
        });
        let file_system = BoundedFileSystem::new(inner.unwrap(), 100);
        file_system.init(FsOptions::empty()).unwrap();
        Share {
            file_system,
            directory,
        }
    }

    fn path(&self, name: &str) -> PathBuf {
        self.directory.path().join(name)
    }

    fn open(&self, owner: u64, name: &str, flags: i32) -> OpenFile<'_> {
        if !self.path(name).exists() {
            fs::write(self.path(name), "").unwrap();
        }
        let c_name = CString::new(name).unwrap();
        let entry = self
            .file_system
            .lookup(context(), ROOT_ID, &c_name)
            .unwrap();
        let flags = u32::try_from(flags).unwrap();
        let opened = self.file_system.open(context(), entry.inode, false, flags);
        OpenFile {
            share: self,
            inode: entry.inode,
            handle: opened.unwrap().0.unwrap(),
            owner,
        }
    }

    /// Opens the file as a process of the host.
    fn open_on_host(&self, name: &str) -> File {
        let mut options = OpenOptions::new();
        options
            .read(true)
            .write(true)
            .open(self.path(name))
            .unwrap()
    }
}

impl OpenFile<'_> {
    fn request(&self, scope: Scope, access: Option<Access>) -> LockRequest {
        LockRequest {
            inode: self.inode,
            handle: self.handle,
            owner: self.owner,
            scope,
            access,
            process: u32::try_from(self.owner).unwrap(),
        }
    }

    fn set(&self, scope: Scope, access: Option<Access>) -> io::Result<()> {
        let request = self.request(scope, access);
        self.share.file_system.set_lock(context(), &request)
    }

    fn lock(&self, range: ByteRange) -> io::Result<()> {
        self.set(Scope::Bytes(range), Some(Access::Exclusive))
    }

    fn share(&self, range: ByteRange) -> io::Result<()> {
        self.set(Scope::Bytes(range), Some(Access::Shared))
    }

    fn unlock(&self, range: ByteRange) {
        self.set(Scope::Bytes(range), None).unwrap();
    }

    /// Closes one of the descriptors that a process has of the file.
    fn close_descriptor(&self) {
        let file_system = &self.share.file_system;
        file_system
            .flush(context(), self.inode, self.handle, self.owner)
            .unwrap();
    }

    fn release(&self) {
        let file_system = &self.share.file_system;
        file_system.locks.release_begins(self.inode, self.handle);
        file_system
            .release(context(), self.inode, 0, self.handle, false, false, None)
            .unwrap();
    }

    /// Waits for a lock of all bytes as a thread of the guest does.
    fn wait(&self, scope: Scope, guest_thread: u32) -> io::Result<()> {
        let file_system = &self.share.file_system;
        let request = self.request(scope, Some(Access::Exclusive));
        let waiting = file_system.waiters().enter(guest_thread).unwrap();
        file_system.wait_for_lock(context(), &request, &waiting)
    }
}

fn is_refused(result: io::Result<()>) -> bool {
    result.is_err_and(|error| error.kind() == io::ErrorKind::WouldBlock)
}

fn host_locks(file: &File, range: ByteRange) -> io::Result<()> {
    lock_bytes(file, range, Some(Access::Exclusive), Patience::Fail)
}

#[test]
fn bytes_are_locked_on_the_host_and_for_other_owners() {
    let share = Share::new();
    let anna = share.open(ANNA, "file", libc::O_RDWR);
    let bert = share.open(BERT, "file", libc::O_RDWR);
    let host = share.open_on_host("file");
    anna.lock(FIRST).unwrap();
    assert!(is_refused(bert.lock(FIRST)) && is_refused(bert.share(FIRST)));
    assert!(is_refused(host_locks(&host, FIRST)));
    bert.lock(SECOND).unwrap();
    host_locks(
        &host,
        ByteRange {
            first: 20,
            last: 20,
        },
    )
    .unwrap();
    assert!(is_refused(anna.lock(ALL_BYTES)));
    anna.unlock(FIRST);
    host_locks(&host, FIRST).unwrap();
    assert!(is_refused(anna.lock(FIRST)));
}

#[test]
fn owners_of_one_handle_lock_each_other_out() {
    // A process and its child.
    let share = Share::new();
    let anna = share.open(ANNA, "file", libc::O_RDWR);
    let bert = OpenFile {
        owner: BERT,
        ..anna
    };
    anna.lock(FIRST).unwrap();
    assert!(is_refused(bert.lock(FIRST)));
    bert.close_descriptor();
    assert!(is_refused(bert.lock(FIRST)));
    anna.close_descriptor();
    bert.lock(FIRST).unwrap();
}

#[test]
fn closing_any_descriptor_unlocks_for_the_process_only() {
    let share = Share::new();
    let anna = share.open(ANNA, "file", libc::O_RDWR);
    let again = share.open(ANNA, "file", libc::O_RDONLY);
    let other = share.open(ANNA, "other", libc::O_RDWR);
    let host = share.open_on_host("file");
    anna.lock(FIRST).unwrap();
    other.close_descriptor();
    assert!(is_refused(host_locks(&host, FIRST)));
    again.close_descriptor();
    host_locks(&host, FIRST).unwrap();
}

#[test]
fn a_released_handle_has_no_locks() {
    let share = Share::new();
    let anna = share.open(ANNA, "file", libc::O_RDWR);
    let host = share.open_on_host("file");
    anna.lock(FIRST).unwrap();
    anna.release();
    host_locks(&host, FIRST).unwrap();
    assert_eq!(share.file_system.locks.descriptors(), 0);
}

#[test]
fn an_owners_number_is_used_again_before_the_release_is_done() {
    let share = Share::new();
    let first = share.open(ANNA, "file", libc::O_RDWR);
    let second = share.open(ANNA, "file", libc::O_RDWR);
    first.lock(FIRST).unwrap();
    let locks = &share.file_system.locks;
    locks.release_begins(first.inode, first.handle);
    thread::scope(|scope| {
        // The lock of the first handle counts no more.
        let locked = scope.spawn(|| second.lock(FIRST).unwrap());
        share
            .file_system
            .release(context(), first.inode, 0, first.handle, false, false, None)
            .unwrap();
        locked.join().unwrap();
    });
    let host = share.open_on_host("file");
    assert!(is_refused(host_locks(&host, FIRST)));
}

#[test]
fn a_shared_lock_needs_no_permission_to_write() {
    let share = Share::new();
    let reader = share.open(ANNA, "file", libc::O_RDONLY);
    reader.share(FIRST).unwrap();
    let host = share.open_on_host("file");
    assert!(is_refused(host_locks(&host, FIRST)));
    // The description for the shared lock cannot lock exclusively, and another would be refused.
    let writer = share.open(ANNA, "file", libc::O_RDWR);
    let error = writer.lock(FIRST).unwrap_err();
    assert_eq!(error.raw_os_error(), Some(libc::ENOLCK));
    assert!(is_refused(host_locks(&host, FIRST)), "the lock is kept");
    writer.unlock(FIRST);
    writer.lock(FIRST).unwrap();
}

#[test]
fn a_file_that_cannot_be_opened_again_is_locked() {
    let share = Share::new();
    let anna = share.open(ANNA, "file", libc::O_RDWR);
    // Root can open it anyway; then the test shows little.
    fs::set_permissions(
        share.path("file"),
        std::os::unix::fs::PermissionsExt::from_mode(0o0),
    )
    .unwrap();
    anna.lock(FIRST).unwrap();
    let request = anna.request(Scope::Bytes(FIRST), Some(Access::Shared));
    let other = LockRequest {
        owner: BERT,
        ..request
    };
    let found = share.file_system.test_lock(context(), &other).unwrap();
    assert_eq!(found.type_, libc::F_WRLCK as u32);
}

#[test]
fn a_test_names_the_process_of_the_guest() {
    let share = Share::new();
    let anna = share.open(ANNA, "file", libc::O_RDWR);
    let bert = share.open(BERT, "file", libc::O_RDWR);
    let test = |file: &OpenFile<'_>| {
        let request = file.request(Scope::Bytes(ALL_BYTES), Some(Access::Exclusive));
        share.file_system.test_lock(context(), &request).unwrap()
    };
    assert_eq!(test(&bert).type_, libc::F_UNLCK as u32);
    anna.lock(SECOND).unwrap();
    let found = test(&bert);
    assert_eq!((found.start, found.end, found.pid), (10, 19, 1));
    assert_eq!(test(&anna).type_, libc::F_UNLCK as u32);
    anna.unlock(SECOND);
    let host = share.open_on_host("file");
    host_locks(&host, FIRST).unwrap();
    let found = test(&bert);
    assert_eq!((found.start, found.end, found.pid), (0, 9, 0));
}

#[test]
fn flock_is_that_of_the_handle() {
    let share = Share::new();
    let anna = share.open(ANNA, "file", libc::O_RDONLY);
    let bert = share.open(BERT, "file", libc::O_RDONLY);
    let host = share.open_on_host("file");
    let exclusive = Some(Access::Exclusive);
    anna.set(Scope::File, exclusive).unwrap();
    assert!(is_refused(bert.set(Scope::File, exclusive)));
    assert!(is_refused(lock_file(&host, exclusive, Patience::Fail)));
    anna.set(Scope::File, Some(Access::Shared)).unwrap();
    bert.set(Scope::File, Some(Access::Shared)).unwrap();
    bert.set(Scope::File, None).unwrap();
    anna.release();
    lock_file(&host, exclusive, Patience::Fail).unwrap();
}

#[test]
fn waiters_are_woken_by_the_host() {
    let share = Share::new();
    for scope in [Scope::File, Scope::Bytes(FIRST)] {
        let host = share.open_on_host_or_create("file");
        lock_file(&host, Some(Access::Exclusive), Patience::Fail).unwrap();
        host_locks(&host, FIRST).unwrap();
        let anna = share.open(ANNA, "file", libc::O_RDWR);
        thread::scope(|threads| {
            let waiter = threads.spawn(move || anna.wait(scope, 7));
            while share.file_system.waiters().guest_threads(Duration::ZERO) != [7] {}
            unlock_all(&host);
            lock_file(&host, None, Patience::Fail).unwrap();
            waiter.join().unwrap().unwrap();
        });
        anna.release();
    }
}

#[test]
fn waiters_can_be_interrupted() {
    Waiters::prepare_process().unwrap();
    let share = Share::new();
    for scope in [Scope::File, Scope::Bytes(FIRST)] {
        let host = share.open_on_host_or_create("file");
        lock_file(&host, Some(Access::Exclusive), Patience::Fail).unwrap();
        host_locks(&host, FIRST).unwrap();
        let anna = share.open(ANNA, "file", libc::O_RDWR);
        thread::scope(|threads| {
            let (ended, has_ended) = mpsc::channel();
            threads.spawn(move || ended.send(anna.wait(scope, 7)).unwrap());
            let waiters = share.file_system.waiters();
            let result = loop {
                waiters.interrupt(&[8]);
                waiters.interrupt(&[7]);
                if let Ok(result) = has_ended.recv_timeout(Duration::from_millis(20)) {
                    break result;
                }
            };
            assert_eq!(result.unwrap_err().raw_os_error(), Some(libc::EINTR));
        });
        anna.release();
    }
}

#[test]
fn closing_a_descriptor_does_not_end_waiting() {
    let share = Share::new();
    let anna = share.open(ANNA, "file", libc::O_RDWR);
    let host = share.open_on_host("file");
    host_locks(&host, FIRST).unwrap();
    anna.lock(SECOND).unwrap();
    thread::scope(|threads| {
        let waiter = threads.spawn(move || anna.wait(Scope::Bytes(FIRST), 7));
        while share.file_system.waiters().guest_threads(Duration::ZERO) != [7] {}
        thread::sleep(Duration::from_millis(50));
        anna.close_descriptor();
        let conflict = find_conflict(&host, SECOND, Access::Exclusive);
        assert_eq!(conflict.unwrap(), None);
        unlock_all(&host);
        waiter.join().unwrap().unwrap();
    });
    assert!(is_refused(host_locks(&host, FIRST)));
}

/// Checks the locks of a file that host and guest may not both use. `file` has it already.
fn check_one_sided(share: &Share, name: &str, range: ByteRange) {
    let anna = share.open(ANNA, name, libc::O_RDWR);
    let bert = share.open(BERT, name, libc::O_RDWR);
    let host = share.open_on_host(name);
    let seen_by_host = || find_conflict(&host, range, Access::Shared).unwrap();
    anna.lock(range).unwrap();
    assert!(is_refused(bert.share(range)));
    anna.share(range).unwrap();
    bert.share(range).unwrap();
    assert_eq!(seen_by_host().unwrap().access, Access::Exclusive);
    anna.close_descriptor();
    assert!(seen_by_host().is_some());
    bert.unlock(ALL_BYTES);
    let shared = Some(Access::Shared);
    lock_bytes(&host, range, shared, Patience::Fail).unwrap();
    assert!(is_refused(anna.share(range)));
    let request = anna.request(Scope::Bytes(range), Some(Access::Shared));
    let found = share.file_system.test_lock(context(), &request).unwrap();
    assert_eq!(found.type_, libc::F_WRLCK as u32);
    unlock_all(&host);
    bert.share(range).unwrap();
    bert.release();
    assert_eq!(seen_by_host(), None);
}

#[test]
fn only_one_side_uses_a_database_in_wal_mode() {
    let share = Share::new();
    let mut header = b"SQLite format 3\0\x10\0\x02\x02".to_vec();
    header.resize(100, 0);
    fs::write(share.path("db"), &header).unwrap();
    check_one_sided(&share, "db", DATABASE);
    check_one_sided(&share, "db-shm", INDEX);
}

#[test]
fn both_sides_read_a_database_without_a_log() {
    let share = Share::new();
    let mut header = b"SQLite format 3\0\x10\0\x01\x01".to_vec();
    header.resize(100, 0);
    fs::write(share.path("db"), &header).unwrap();
    let anna = share.open(ANNA, "db", libc::O_RDWR);
    let host = share.open_on_host("db");
    anna.share(DATABASE).unwrap();
    lock_bytes(&host, DATABASE, Some(Access::Shared), Patience::Fail).unwrap();
    // Set to WAL mode, which takes an exclusive lock; readers are then on one side.
    unlock_all(&host);
    anna.lock(DATABASE).unwrap();
    header[18..20].fill(2);
    fs::write(share.path("db"), &header).unwrap();
    anna.share(DATABASE).unwrap();
    assert!(
        find_conflict(&host, DATABASE, Access::Shared)
            .unwrap()
            .is_some()
    );
}

impl Share {
    fn open_on_host_or_create(&self, name: &str) -> File {
        if !self.path(name).exists() {
            fs::write(self.path(name), "").unwrap();
        }
        self.open_on_host(name)
    }
}
