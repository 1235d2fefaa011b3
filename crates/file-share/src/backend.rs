//! The vhost-user device: takes the guest's requests from the queues of the virtual machine, and
//! returns the answers.
//!
//! One thread takes requests, in the guest's order, and passes them to a [`Pool`]. A request for a
//! lock that another holds gets a thread of its own.

use std::{
    fs::File,
    io,
    os::fd::{AsRawFd, RawFd},
    process,
    sync::{
        Arc, Condvar, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicBool, Ordering},
        mpsc::{Receiver, channel},
    },
    time::Duration,
};

use vhost::vhost_user::message::{
    VhostTransferStateDirection, VhostTransferStatePhase, VhostUserProtocolFeatures,
    VhostUserVirtioFeatures,
};
use vhost_user_backend::{VhostUserBackend, VringMutex, VringT, bitmap::BitmapMmapRegion};
use virtio_bindings::{
    virtio_config::VIRTIO_F_VERSION_1,
    virtio_ring::{VIRTIO_RING_F_EVENT_IDX, VIRTIO_RING_F_INDIRECT_DESC},
};
use virtio_queue::{DescriptorChain, QueueOwnedT, QueueT};
use virtiofsd::{
    descriptor_utils::{Reader, Writer},
    fuse::InHeader,
};
use vm_memory::{GuestAddressSpace, GuestMemoryAtomic, GuestMemoryLoadGuard, GuestMemoryMmap};
use vmm_sys_util::{
    epoll::EventSet,
    event::{EventConsumer, EventFlag, EventNotifier, new_event_consumer_and_notifier},
    eventfd::{EFD_NONBLOCK, EventFd},
};

use crate::{
    bounded::{BoundedFileSystem, InnerFileSystem},
    pool::{self, Group, Pool},
    requests::{Requests, Served, Urgency, WaitingRequest},
};

type Memory = GuestMemoryAtomic<GuestMemoryMmap<BitmapMmapRegion>>;
type LoadedMemory = GuestMemoryLoadGuard<GuestMemoryMmap<BitmapMmapRegion>>;

/// Maximum number of requests in a queue, which QEMU may lower.
const QUEUE_SIZE: usize = 32768;

/// One queue for urgent requests (FORGET) and one for all others.
const QUEUES: usize = 2;

/// Number of the event that makes the device look at its queues. Smaller ones are those of queues
/// and of the end.
pub(crate) const WAKE: u64 = QUEUES as u64 + 1;

/// Timeout for the requests in progress when the machine is suspended.
const PAUSE_TIMEOUT: Duration = Duration::from_secs(10);

/// A virtio-fs device.
pub(crate) struct Backend<F: InnerFileSystem> {
    requests: Arc<Requests<F>>,
    pool: Pool,
    /// Present once the engine has sent it.
    memory: Mutex<Option<Memory>>,
    /// Whether `VIRTIO_RING_F_EVENT_IDX` was negotiated.
    has_event_index: AtomicBool,
    gate: Arc<Gate>,
    /// Wakes the thread that takes requests, to look at all queues.
    wake: EventFd,
    /// Result of saving or restoring the state, which a thread does.
    transfer: Mutex<Option<Receiver<io::Result<()>>>>,
    /// Paths of open files that a restore did not find.
    lost: Arc<Mutex<Vec<String>>>,
}

/// Counts the requests in progress, and keeps others in their queues.
#[derive(Default)]
struct Gate {
    state: Mutex<GateState>,
    is_idle: Condvar,
}

#[derive(Default)]
struct GateState {
    is_closed: bool,
    in_progress: usize,
}

/// A request in progress, until this is dropped.
struct InProgress(Arc<Gate>);

impl Gate {
    fn state(&self) -> MutexGuard<'_, GateState> {
        lock(&self.state)
    }

    /// Begins a request, unless the gate is closed.
    fn enter(self: &Arc<Gate>) -> Option<InProgress> {
        let mut state = self.state();
        if state.is_closed {
            return None;
        }
        state.in_progress += 1;
        Some(InProgress(Arc::clone(self)))
    }

    fn is_closed(&self) -> bool {
        self.state().is_closed
    }

    fn open(&self) {
        self.state().is_closed = false;
    }

    /// Closes the gate, and waits for the requests in progress. Returns how many are left after a
    /// timeout.
    fn close(&self) -> usize {
        let mut state = self.state();
        state.is_closed = true;
        let waited = self
            .is_idle
            .wait_timeout_while(state, PAUSE_TIMEOUT, |state| state.in_progress > 0);
        waited.unwrap_or_else(PoisonError::into_inner).0.in_progress
    }
}

impl Drop for InProgress {
    fn drop(&mut self) {
        let mut state = self.0.state();
        state.in_progress = state.in_progress.saturating_sub(1);
        if state.in_progress == 0 {
            self.0.is_idle.notify_all();
        }
    }
}

/// A request of the guest, until it is answered.
struct Request {
    _in_progress: InProgress,
    memory: LoadedMemory,
    chain: DescriptorChain<LoadedMemory>,
    queue: VringMutex<Memory>,
    has_event_index: bool,
}

impl<F: InnerFileSystem> Backend<F> {
    /// Creates a device that serves `file_system` with up to `threads` requests at once.
    pub(crate) fn new(file_system: BoundedFileSystem<F>, threads: usize) -> io::Result<Backend<F>> {
        Ok(Backend {
            requests: Arc::new(Requests::new(file_system)),
            pool: Pool::new(threads),
            memory: Mutex::new(None),
            has_event_index: AtomicBool::new(false),
            gate: Arc::default(),
            wake: EventFd::new(EFD_NONBLOCK)?,
            transfer: Mutex::default(),
            lost: Arc::default(),
        })
    }

    /// Returns the descriptor whose event is [`WAKE`].
    pub(crate) fn wake_descriptor(&self) -> RawFd {
        self.wake.as_raw_fd()
    }

    /// Returns an error with the reason if the state could not be restored.
    pub(crate) fn check(&self) -> Result<(), String> {
        self.requests.file_system.obstacle().map_or(Ok(()), Err)
    }

    /// Takes no more requests, and waits for those in progress. After an error it takes requests
    /// again.
    pub(crate) fn pause(&self) -> Result<(), String> {
        let left = self.gate.close();
        let paused = match left {
            0 => self.check(),
            _ => Err(format!(
                "{left} accesses to the shared home are not complete after {} s",
                PAUSE_TIMEOUT.as_secs()
            )),
        };
        if paused.is_err() {
            self.continue_serving();
        }
        paused
    }

    /// Takes requests again, first those that are in the queues already.
    pub(crate) fn continue_serving(&self) {
        self.gate.open();
        if let Err(error) = self.wake.write(1) {
            log::error!("cannot look at the guest's requests: {error}");
        }
    }

    /// Returns the paths of open files that a restore did not find, once.
    pub(crate) fn take_lost(&self) -> Vec<String> {
        std::mem::take(&mut *lock(&self.lost))
    }

    fn memory(&self) -> MutexGuard<'_, Option<Memory>> {
        lock(&self.memory)
    }

    /// Looks at a queue that has not notified. The guest is notified too: it may not have seen the
    /// last answers.
    fn wake_queue(&self, queue: &VringMutex<Memory>) {
        if !queue.get_ref().get_queue().ready() {
            return;
        }
        if let Err(error) = self.serve_queue(queue) {
            log::error!("cannot take the guest's requests: {error}");
        }
        if let Err(error) = queue.signal_used_queue() {
            log::warn!("cannot notify the guest: {error}");
        }
    }

    /// Takes all requests from a queue, until it notifies again.
    fn serve_queue(&self, queue: &VringMutex<Memory>) -> io::Result<()> {
        if !self.has_event_index.load(Ordering::Relaxed) {
            return self.take_requests(queue);
        }
        // Requests may be added after the queue was found empty, and before the guest knows that it
        // is to notify again.
        loop {
            queue.disable_notification().map_err(io::Error::other)?;
            if let Err(error) = self.take_requests(queue) {
                log::error!("cannot take the guest's requests: {error}");
            }
            let has_more = queue.enable_notification().map_err(io::Error::other)?;
            if !has_more || self.gate.is_closed() {
                return Ok(());
            }
        }
    }

    /// Takes all requests from a queue.
    fn take_requests(&self, queue: &VringMutex<Memory>) -> io::Result<()> {
        let memory = self.memory().clone();
        let memory = memory.ok_or_else(|| io::Error::other("the engine has sent no memory"))?;
        while let Some(in_progress) = self.gate.enter()
            && let Some(chain) = next_chain(queue, &memory)?
        {
            let request = Request {
                _in_progress: in_progress,
                memory: memory.memory(),
                chain,
                queue: queue.clone(),
                has_event_index: self.has_event_index.load(Ordering::Relaxed),
            };
            self.start(request);
        }
        Ok(())
    }

    fn start(&self, request: Request) {
        let urgency = match request.reader() {
            Ok(reader) => self.requests.receive(reader),
            Err(_) => Urgency::Pooled,
        };
        let requests = Arc::clone(&self.requests);
        match urgency {
            Urgency::Immediate => serve(&requests, request),
            Urgency::Pooled => self.pool.run(None, move || serve(&requests, request)),
            Urgency::OnMount(mount) => {
                let group = Group::OnMount(mount);
                self.pool
                    .run(Some(group), move || serve(&requests, request));
            }
            Urgency::MountPoint(mount) => {
                let group = Group::MountPoint(mount);
                self.pool
                    .run(Some(group), move || serve(&requests, request));
            }
        }
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

fn next_chain(
    queue: &VringMutex<Memory>,
    memory: &Memory,
) -> io::Result<Option<DescriptorChain<LoadedMemory>>> {
    let mut queue = queue.get_mut();
    let mut chains = queue
        .get_queue_mut()
        .iter(memory.memory())
        .map_err(io::Error::other)?;
    Ok(chains.next())
}

/// Serves a request and returns the answer to the guest.
fn serve<F>(requests: &Arc<Requests<F>>, request: Request)
where
    F: InnerFileSystem,
{
    let served =
        request.read_and_answer(|header, reader, writer| requests.serve(header, reader, writer));
    match served {
        Served::Answered(length) => request.finish(length),
        Served::MustWait(waiting) => wait(requests, request, waiting),
    }
}

/// Serves a request for a lock on a thread of its own.
fn wait<F>(requests: &Arc<Requests<F>>, request: Request, waiting: WaitingRequest)
where
    F: InnerFileSystem,
{
    // Shared, because a thread that cannot be started does not return it.
    let request = Arc::new(request);
    let started = pool::spawn("file-share-lock", {
        let (requests, request) = (Arc::clone(requests), Arc::clone(&request));
        move || {
            let length =
                request.read_and_answer(|_, _, writer| requests.serve_waiting(&waiting, writer));
            request.finish(length);
        }
    });
    if started.is_err() {
        let length =
            request.read_and_answer(|_, _, writer| Requests::<F>::refuse_waiting(&waiting, writer));
        request.finish(length);
    }
}

impl Request {
    fn reader(&self) -> Result<Reader<'_>, virtiofsd::descriptor_utils::Error> {
        Reader::new(&self.memory, self.chain.clone())
    }

    /// Calls `act` with the request's header and buffers. A guest that breaks the protocol loses
    /// its file system.
    fn read_and_answer<T>(
        &self,
        act: impl FnOnce(Option<InHeader>, Reader<'_>, Writer<'_>) -> Result<T, virtiofsd::Error>,
    ) -> T {
        let header = self.reader().ok().and_then(|mut it| it.read_obj().ok());
        let buffers = self
            .reader()
            .and_then(|reader| Ok((reader, Writer::new(&self.memory, self.chain.clone())?)));
        let result = match buffers {
            Ok((reader, writer)) => act(header, reader, writer).map_err(|it| it.to_string()),
            Err(error) => Err(error.to_string()),
        };
        result.unwrap_or_else(|error| {
            log::error!("invalid request of the guest: {error}");
            process::exit(1);
        })
    }

    /// Returns the buffers to the guest, with an answer of `length` bytes.
    fn finish(&self, length: usize) {
        let mut queue = self.queue.get_mut();
        let length = u32::try_from(length).unwrap_or(u32::MAX);
        if let Err(error) = queue.add_used(self.chain.head_index(), length) {
            log::warn!("cannot return buffers to the guest: {error}");
        }
        let must_notify = !self.has_event_index || queue.needs_notification().unwrap_or(true);
        if must_notify && let Err(error) = queue.signal_used_queue() {
            log::warn!("cannot notify the guest: {error}");
        }
    }
}

impl<F> VhostUserBackend for Backend<F>
where
    F: InnerFileSystem,
{
    type Bitmap = BitmapMmapRegion;
    type Vring = VringMutex<Memory>;

    fn num_queues(&self) -> usize {
        QUEUES
    }

    fn max_queue_size(&self) -> usize {
        QUEUE_SIZE
    }

    fn features(&self) -> u64 {
        (1 << VIRTIO_F_VERSION_1)
            | (1 << VIRTIO_RING_F_INDIRECT_DESC)
            | (1 << VIRTIO_RING_F_EVENT_IDX)
            | VhostUserVirtioFeatures::PROTOCOL_FEATURES.bits()
            | VhostUserVirtioFeatures::LOG_ALL.bits()
    }

    fn protocol_features(&self) -> VhostUserProtocolFeatures {
        VhostUserProtocolFeatures::MQ
            | VhostUserProtocolFeatures::REPLY_ACK
            | VhostUserProtocolFeatures::CONFIGURE_MEM_SLOTS
            | VhostUserProtocolFeatures::RESET_DEVICE
            | VhostUserProtocolFeatures::LOG_SHMFD
            | VhostUserProtocolFeatures::DEVICE_STATE
    }

    fn reset_device(&self) {
        self.requests.reset();
    }

    /// Saves or restores the device. A thread does it, because the engine reads or writes the other
    /// end of the pipe next. The device of a template has no state: the guest has not mounted it
    /// yet.
    fn set_device_state_fd(
        &self,
        direction: VhostTransferStateDirection,
        _phase: VhostTransferStatePhase,
        file: File,
    ) -> io::Result<Option<File>> {
        let (done, is_done) = channel();
        let (requests, lost) = (Arc::clone(&self.requests), Arc::clone(&self.lost));
        pool::spawn("file-share-state", move || {
            let transferred = match direction {
                VhostTransferStateDirection::SAVE => requests.save(file),
                VhostTransferStateDirection::LOAD => requests.restore(file).map(|files| {
                    *lock(&lost) = files;
                }),
            };
            // Fails if the engine has disconnected.
            let _ = done.send(transferred);
        })?;
        *lock(&self.transfer) = Some(is_done);
        Ok(None)
    }

    fn check_device_state(&self) -> io::Result<()> {
        let Some(is_done) = lock(&self.transfer).take() else {
            return Err(io::Error::other("no state was transferred"));
        };
        let transferred = is_done.recv().map_err(io::Error::other)?;
        // The engine reports only that it has failed.
        transferred.inspect_err(|error| log::error!("cannot save or restore the share: {error}"))
    }

    fn set_event_idx(&self, enabled: bool) {
        self.has_event_index.store(enabled, Ordering::Relaxed);
    }

    fn update_memory(&self, memory: Memory) -> io::Result<()> {
        *self.memory() = Some(memory);
        Ok(())
    }

    fn exit_event(&self, _thread_index: usize) -> Option<(EventConsumer, EventNotifier)> {
        new_event_consumer_and_notifier(EventFlag::NONBLOCK).ok()
    }

    fn handle_event(
        &self,
        queue: u16,
        events: EventSet,
        queues: &[VringMutex<Memory>],
        _thread_index: usize,
    ) -> io::Result<()> {
        if u64::from(queue) == WAKE {
            // Fails if it was read already.
            let _ = self.wake.read();
            queues.iter().for_each(|queue| self.wake_queue(queue));
            return Ok(());
        }
        let queue = queues.get(usize::from(queue));
        let (Some(queue), EventSet::IN) = (queue, events) else {
            return Err(io::Error::other("unexpected event of the engine"));
        };
        self.serve_queue(queue)
    }
}
