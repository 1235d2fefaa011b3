//! Passes each request to the part that serves it: those that the `virtiofsd` crate does not
//! implement, about locks and files without a name, and those that repeat changes of the host, to
//! our own code, and all others to that crate.

use std::{
    ffi::CStr,
    fs::File,
    io::{self, Read, Write},
    mem::size_of,
    sync::{Mutex, MutexGuard, PoisonError, mpsc},
    time::Duration,
};

use virtiofsd::{
    descriptor_utils::{Reader, Writer},
    filesystem::{Context, FileSystem},
    fuse::{CreateIn, EntryOut, InHeader, LkIn, LkOut, Opcode, OpenOut, OutHeader, ReleaseIn},
    server::Server,
};
use vm_memory::ByteValued;

use crate::{
    bounded::{BoundedFileSystem, InnerFileSystem},
    listing::while_listing,
    locks::request::LockRequest,
    pool,
    session::repeat_init,
    state::SavedState,
    table::{GuestInode, Location},
};

/// Timeout for synchronizing a file system that is mounted below the shared directory.
const SYNC_TIMEOUT: Duration = Duration::from_secs(5);

/// Number of bytes of a request without contents of files.
const MAX_SMALL_REQUEST: usize = 16 << 10;

/// How a request is to be served.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Urgency {
    /// At once: it does not wait for the host's file systems.
    Immediate,
    /// On a thread of the pool.
    Pooled,
    /// On a thread of the pool, for a file on a mount below the shared directory, which may not
    /// answer.
    OnMount(u64),
    /// On a thread of the pool, for the root of such a mount. It has a timeout, so it does not wait
    /// for those of [`OnMount`](Self::OnMount), which have none.
    MountPoint(u64),
}

/// Result of serving a request.
#[derive(Debug)]
pub(crate) enum Served {
    /// The number of bytes of the answer.
    Answered(usize),
    /// The lock cannot be had yet.
    MustWait(WaitingRequest),
}

/// A request for a lock that another holds.
#[derive(Debug, Clone, Copy)]
pub(crate) struct WaitingRequest {
    header: InHeader,
    request: LockRequest,
}

/// Serves requests with a file system.
pub(crate) struct Requests<F: InnerFileSystem> {
    pub file_system: BoundedFileSystem<F>,
    server: Server<BoundedFileSystem<F>>,
    /// The request with which the guest has begun its session; absent without a session.
    init: Mutex<Option<Vec<u8>>>,
}

impl<F: InnerFileSystem> Requests<F> {
    pub(crate) fn new(file_system: BoundedFileSystem<F>) -> Requests<F> {
        let server = Server::new(file_system.clone());
        Requests {
            file_system,
            server,
            init: Mutex::default(),
        }
    }

    fn init(&self) -> MutexGuard<'_, Option<Vec<u8>>> {
        self.init.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Saves the state of the guest's session; nothing without a session.
    pub(crate) fn save(&self, stream: File) -> io::Result<()> {
        let init = self.init().clone();
        init.map_or(Ok(()), |init| self.file_system.save(init, stream))
    }

    /// Restores the state of a session. Returns the paths of open files that could not be found
    /// again.
    pub(crate) fn restore(&self, stream: File) -> io::Result<Vec<String>> {
        let Some(saved) = SavedState::read(&stream)? else {
            return Ok(Vec::new());
        };
        repeat_init(&self.server, &saved.init).map_err(io::Error::other)?;
        self.file_system.begin_session(&saved.init);
        *self.init() = Some(saved.init.clone());
        self.file_system.restore(saved, stream)
    }

    /// Notes what depends on the order of the guest's requests. Must be called in that order.
    pub(crate) fn receive(&self, mut reader: Reader<'_>) -> Urgency {
        // An invalid request is refused when it is served.
        let Ok(header) = reader.read_obj::<InHeader>() else {
            return Urgency::Pooled;
        };
        let guest_inode = GuestInode(header.nodeid);
        match Opcode::try_from(header.opcode) {
            Ok(Opcode::Forget | Opcode::BatchForget) => return Urgency::Immediate,
            Ok(Opcode::Init) => {
                let body = rest(header, &mut reader).unwrap_or_default();
                let init = [header.as_slice(), &body].concat();
                self.file_system.begin_session(&init);
                *self.init() = Some(init);
            }
            Ok(Opcode::Destroy) => *self.init() = None,
            Ok(Opcode::Release) => {
                if let Ok(release) = reader.read_obj::<ReleaseIn>() {
                    let locks = &self.file_system.locks;
                    locks.release_begins(header.nodeid, release.fh);
                }
            }
            Ok(
                Opcode::Getattr
                | Opcode::Access
                | Opcode::Statfs
                | Opcode::Getxattr
                | Opcode::Listxattr
                | Opcode::Opendir,
            ) => {
                let mount = self.file_system.table().mounted_as(guest_inode);
                if let Some(mount) = mount {
                    return Urgency::MountPoint(mount);
                }
            }
            // The kernel looks up a name that it does not know once at a time.
            Ok(Opcode::Lookup) => {
                let name = rest(header, &mut reader).unwrap_or_default();
                let mount = CStr::from_bytes_until_nul(&name).ok().and_then(|name| {
                    let table = self.file_system.table();
                    let location = Location {
                        directory: guest_inode,
                        name: name.into(),
                    };
                    table.mounted_as(table.by_location(&location)?)
                });
                if let Some(mount) = mount {
                    return Urgency::MountPoint(mount);
                }
            }
            _ => {}
        }
        let mount = self.file_system.table().mount_below(guest_inode);
        mount.map_or(Urgency::Pooled, Urgency::OnMount)
    }

    /// Serves a request, except for waiting for a lock.
    pub(crate) fn serve(
        &self,
        header: Option<InHeader>,
        mut reader: Reader<'_>,
        writer: Writer<'_>,
    ) -> Result<Served, virtiofsd::Error> {
        let opcode = header.and_then(|header| Opcode::try_from(header.opcode).ok());
        if let (Some(header), Some(opcode)) = (header, opcode)
            && self.file_system.replay.is_replaying(header.pid)
        {
            let body = body(header, reader.clone())?;
            let answer = self.file_system.answer_replay(opcode, header, &body);
            if let Some(answer) = answer {
                return reply(header, answer, writer).map(Served::Answered);
            }
        }
        if let (Some(header), Some(Opcode::TmpFile)) = (header, opcode) {
            return self
                .create_anonymous(header, reader, writer)
                .map(Served::Answered);
        }
        if let (Some(header), Some(Opcode::Syncfs)) = (header, opcode)
            && self
                .file_system
                .is_below_mount(Context::from(header), GuestInode(header.nodeid))
        {
            let synced = self.sync_in_time(header).map(|()| Vec::new());
            return reply(header, synced, writer).map(Served::Answered);
        }
        let (Some(header), Some(Opcode::Getlk | Opcode::Setlk | Opcode::Setlkw)) = (header, opcode)
        else {
            let answer = || self.server.handle_message(reader, writer, None::<&mut ()>);
            let answer = match opcode {
                Some(Opcode::Readdirplus) => while_listing(answer),
                _ => answer(),
            };
            return answer.map(Served::Answered);
        };
        let decode = virtiofsd::Error::DecodeMessage;
        reader.read_obj::<InHeader>().map_err(decode)?;
        let request: LkIn = reader.read_obj().map_err(decode)?;
        let request = match LockRequest::parse(header.nodeid, &request) {
            Ok(request) => request,
            Err(error) => return reply(header, Err(error), writer).map(Served::Answered),
        };
        let context = Context::from(header);
        let result = if opcode_is(header, Opcode::Getlk) {
            let conflict = self.file_system.test_lock(context, &request);
            conflict.map(|lk| LkOut { lk }.as_slice().to_vec())
        } else {
            self.file_system
                .set_lock(context, &request)
                .map(|()| Vec::new())
        };
        if would_block(&result) && opcode_is(header, Opcode::Setlkw) {
            return Ok(Served::MustWait(WaitingRequest { header, request }));
        }
        reply(header, result, writer).map(Served::Answered)
    }

    /// Synchronizes a file system that is mounted below the shared directory. It may not answer,
    /// and the guest synchronizes all of them before it shuts down.
    fn sync_in_time(&self, header: InHeader) -> io::Result<()> {
        let (done, is_done) = mpsc::channel();
        let file_system = self.file_system.clone();
        pool::spawn("file-share-sync", move || {
            let synced = file_system.syncfs(Context::from(header), header.nodeid);
            // Fails if the guest has its answer.
            let _ = done.send(synced);
        })?;
        match is_done.recv_timeout(SYNC_TIMEOUT) {
            Ok(synced) => synced,
            Err(_) => Err(io::Error::from_raw_os_error(libc::ETIMEDOUT)),
        }
    }

    fn create_anonymous(
        &self,
        header: InHeader,
        mut reader: Reader<'_>,
        writer: Writer<'_>,
    ) -> Result<usize, virtiofsd::Error> {
        let decode = virtiofsd::Error::DecodeMessage;
        reader.read_obj::<InHeader>().map_err(decode)?;
        let request: CreateIn = reader.read_obj().map_err(decode)?;
        let context = Context::from(header);
        let created = self
            .file_system
            .create_anonymous(context, header.nodeid, &request);
        let created = created.map(|(entry, fh)| {
            let opened = OpenOut {
                fh,
                ..OpenOut::default()
            };
            [EntryOut::from(entry).as_slice(), opened.as_slice()].concat()
        });
        reply(header, created, writer)
    }

    /// Serves a request for a lock when it can be had. Returns the number of bytes of the answer.
    pub(crate) fn serve_waiting(
        &self,
        request: &WaitingRequest,
        writer: Writer<'_>,
    ) -> Result<usize, virtiofsd::Error> {
        let WaitingRequest { header, request } = request;
        let context = Context::from(*header);
        let waiting = self.file_system.waiters().enter(header.pid);
        let result =
            waiting.and_then(|waiting| self.file_system.wait_for_lock(context, request, &waiting));
        reply(*header, result.map(|()| Vec::new()), writer)
    }

    /// Answers a request for a lock that nothing can wait for.
    pub(crate) fn refuse_waiting(
        request: &WaitingRequest,
        writer: Writer<'_>,
    ) -> Result<usize, virtiofsd::Error> {
        let no_locks = io::Error::from_raw_os_error(libc::ENOLCK);
        reply(request.header, Err(no_locks), writer)
    }

    /// Ends the guest's session, as its DESTROY does.
    pub(crate) fn reset(&self) {
        *self.init() = None;
        self.server.destroy();
    }
}

fn opcode_is(header: InHeader, opcode: Opcode) -> bool {
    header.opcode == opcode as u32
}

fn would_block<T>(result: &io::Result<T>) -> bool {
    matches!(result, Err(error) if error.kind() == io::ErrorKind::WouldBlock)
}

/// Returns a request without its header.
fn body(header: InHeader, mut reader: Reader<'_>) -> Result<Vec<u8>, virtiofsd::Error> {
    let decode = virtiofsd::Error::DecodeMessage;
    reader.read_obj::<InHeader>().map_err(decode)?;
    rest(header, &mut reader).map_err(decode)
}

/// Returns what follows the header, which was read.
fn rest(header: InHeader, reader: &mut Reader<'_>) -> io::Result<Vec<u8>> {
    let length = header.len as usize;
    let length = length
        .min(MAX_SMALL_REQUEST)
        .saturating_sub(size_of::<InHeader>());
    let mut body = vec![0; length];
    reader.read_exact(&mut body)?;
    Ok(body)
}

/// Writes the answer to a request. Returns its length in bytes.
fn reply(
    header: InHeader,
    result: io::Result<Vec<u8>>,
    mut writer: Writer<'_>,
) -> Result<usize, virtiofsd::Error> {
    let (error, body) = match result {
        Ok(body) => (0, body),
        Err(error) => (-error.raw_os_error().unwrap_or(libc::EIO), Vec::new()),
    };
    let length = size_of::<OutHeader>() + body.len();
    let answer = OutHeader {
        len: u32::try_from(length).unwrap_or(u32::MAX),
        error,
        unique: header.unique,
    };
    let encode = virtiofsd::Error::EncodeMessage;
    writer.write_all(answer.as_slice()).map_err(encode)?;
    writer.write_all(&body).map_err(encode)?;
    Ok(length)
}
