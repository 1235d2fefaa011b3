//! The guest's INIT request, which is kept to begin its session again after the machine was
//! suspended.

use vhost_user_backend::bitmap::BitmapMmapRegion;
use virtio_bindings::virtio_ring::{VRING_DESC_F_NEXT, VRING_DESC_F_WRITE};
use virtio_queue::{
    Queue, QueueOwnedT, QueueT,
    desc::{RawDescriptor, split::Descriptor},
};
use virtiofsd::{
    descriptor_utils::{Reader, Writer},
    server::Server,
};
use vm_memory::{Bytes, GuestAddress, GuestMemoryMmap, Le16};

use crate::bounded::{BoundedFileSystem, InnerFileSystem};

/// Size of the memory for one request and its answer in bytes.
const MEMORY: usize = 1 << 16;

/// Places in that memory.
const DESCRIPTORS: u32 = 0;
const AVAILABLE: u32 = 0x1000;
const USED: u32 = 0x2000;
const REQUEST: u64 = 0x4000;
const ANSWER: u64 = 0x8000;
const ANSWER_SIZE: u32 = 0x4000;

/// Number of entries of the queue.
const QUEUE_SIZE: u16 = 4;

/// Serves an INIT request of the guest again. It has its answer, so this one is dropped.
pub(crate) fn repeat_init<F: InnerFileSystem>(
    server: &Server<BoundedFileSystem<F>>,
    request: &[u8],
) -> Result<(), String> {
    let memory: GuestMemoryMmap<BitmapMmapRegion> =
        GuestMemoryMmap::from_ranges(&[(GuestAddress(0), MEMORY)])
            .map_err(|error| error.to_string())?;
    let queue = queue_with(&memory, request).map_err(|error| error.to_string())?;
    let chain = { queue }
        .iter(&memory)
        .map_err(|error| error.to_string())?
        .next()
        .ok_or("the queue is empty")?;
    let reader = Reader::new(&memory, chain.clone()).map_err(|error| error.to_string())?;
    let writer = Writer::new(&memory, chain).map_err(|error| error.to_string())?;
    server
        .handle_message(reader, writer, None::<&mut ()>)
        .map(drop)
        .map_err(|error| error.to_string())
}

/// Returns a queue in `memory` that has one request.
fn queue_with(
    memory: &GuestMemoryMmap<BitmapMmapRegion>,
    request: &[u8],
) -> Result<Queue, Box<dyn std::error::Error>> {
    memory.write_slice(request, GuestAddress(REQUEST))?;
    let length = u32::try_from(request.len())?;
    let (next, writable) = (VRING_DESC_F_NEXT as u16, VRING_DESC_F_WRITE as u16);
    let descriptors: [RawDescriptor; 2] = [
        Descriptor::new(REQUEST, length, next, 1).into(),
        Descriptor::new(ANSWER, ANSWER_SIZE, writable, 0).into(),
    ];
    for (index, descriptor) in (0..).zip(descriptors) {
        let at = u64::from(DESCRIPTORS) + index * size_of::<RawDescriptor>() as u64;
        memory.write_obj(descriptor, GuestAddress(at))?;
    }
    // The ring: flags, index, and the first entry, which is descriptor 0.
    for (offset, value) in [(0, 0), (2, 1), (4, 0)] {
        let at = GuestAddress(u64::from(AVAILABLE) + offset);
        memory.write_obj(Le16::from(value), at)?;
    }
    let mut queue = Queue::new(QUEUE_SIZE)?;
    queue.set_size(QUEUE_SIZE);
    queue.set_desc_table_address(Some(DESCRIPTORS), Some(0));
    queue.set_avail_ring_address(Some(AVAILABLE), Some(0));
    queue.set_used_ring_address(Some(USED), Some(0));
    queue.set_ready(true);
    Ok(queue)
}
