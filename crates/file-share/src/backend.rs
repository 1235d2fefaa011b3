//! The vhost-user device: takes the guest's requests from the queues of the virtual machine, and
//! returns the answers.
//!
//! One thread takes requests, in the guest's order, and passes them to a [`Pool`]. A request for a
//! lock that another holds gets a thread of its own.

use std::{
    fs::File,
    io, process,
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicBool, Ordering},
    },
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
use virtio_queue::{DescriptorChain, QueueOwnedT};
use virtiofsd::{
    descriptor_utils::{Reader, Writer},
    fuse::InHeader,
};
use vm_memory::{GuestAddressSpace, GuestMemoryAtomic, GuestMemoryLoadGuard, GuestMemoryMmap};
use vmm_sys_util::{
    epoll::EventSet,
    event::{EventConsumer, EventFlag, EventNotifier, new_event_consumer_and_notifier},
};

use crate::{
    bounded::{BoundedFileSystem, InnerFileSystem},
    pool::{self, Pool},
    requests::{Requests, Served, Urgency, WaitingRequest},
};

type Memory = GuestMemoryAtomic<GuestMemoryMmap<BitmapMmapRegion>>;
type LoadedMemory = GuestMemoryLoadGuard<GuestMemoryMmap<BitmapMmapRegion>>;

/// Maximum number of requests in a queue, which QEMU may lower.
const QUEUE_SIZE: usize = 32768;

/// One queue for urgent requests (FORGET) and one for all others.
const QUEUES: usize = 2;

/// A virtio-fs device.
pub(crate) struct Backend<F: InnerFileSystem> {
    requests: Arc<Requests<F>>,
    pool: Pool,
    /// Present once the engine has sent it.
    memory: Mutex<Option<Memory>>,
    /// Whether `VIRTIO_RING_F_EVENT_IDX` was negotiated.
    has_event_index: AtomicBool,
    /// Whether the guest has sent a request since the last reset, so that there is a state.
    is_in_use: AtomicBool,
}

/// A request of the guest, until it is answered.
struct Request {
    memory: LoadedMemory,
    chain: DescriptorChain<LoadedMemory>,
    queue: VringMutex<Memory>,
    has_event_index: bool,
}

impl<F: InnerFileSystem> Backend<F> {
    /// Creates a device that serves `file_system` with up to `threads` requests at once.
    pub(crate) fn new(file_system: BoundedFileSystem<F>, threads: usize) -> Backend<F> {
        Backend {
            requests: Arc::new(Requests::new(file_system)),
            pool: Pool::new(threads),
            memory: Mutex::new(None),
            has_event_index: AtomicBool::new(false),
            is_in_use: AtomicBool::new(false),
        }
    }

    fn memory(&self) -> MutexGuard<'_, Option<Memory>> {
        self.memory.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Takes all requests from a queue.
    fn take_requests(&self, queue: &VringMutex<Memory>) -> io::Result<()> {
        let memory = self.memory().clone();
        let memory = memory.ok_or_else(|| io::Error::other("the engine has sent no memory"))?;
        while let Some(chain) = next_chain(queue, &memory)? {
            self.is_in_use.store(true, Ordering::Relaxed);
            let request = Request {
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
            Urgency::Pooled => self.pool.run(move || serve(&requests, request)),
        }
    }
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
        self.is_in_use.store(false, Ordering::Relaxed);
    }

    /// Saves or restores the device, for a template of a machine: nothing is transferred, because a
    /// device that the guest has not mounted yet has no state. One that it uses cannot be saved.
    fn set_device_state_fd(
        &self,
        _direction: VhostTransferStateDirection,
        _phase: VhostTransferStatePhase,
        _file: File,
    ) -> io::Result<Option<File>> {
        self.check_device_state().map(|()| None)
    }

    fn check_device_state(&self) -> io::Result<()> {
        if self.is_in_use.load(Ordering::Relaxed) {
            return Err(io::Error::other("the guest uses the shared directory"));
        }
        Ok(())
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
        let queue = queues.get(usize::from(queue));
        let (Some(queue), EventSet::IN) = (queue, events) else {
            return Err(io::Error::other("unexpected event of the engine"));
        };
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
            if !queue.enable_notification().map_err(io::Error::other)? {
                return Ok(());
            }
        }
    }
}
