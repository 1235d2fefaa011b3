//! BPF programs and maps, and waking the event loop from a program.
//!
//! Programs are assembled by hand. They are a dozen instructions long, for which a BPF compiler or
//! loader would be a large dependency of a small binary.
#![allow(unsafe_code)]

use std::{
    io,
    os::fd::{AsFd, AsRawFd, FromRawFd, OwnedFd, RawFd},
    ptr::NonNull,
    sync::atomic::{AtomicU64, Ordering},
};

use nix::libc;
use tokio::io::{Interest, unix::AsyncFd};

// Constants of linux/bpf.h.
const BPF_MAP_CREATE: u32 = 0;
const BPF_PROG_LOAD: u32 = 5;
const BPF_MAP_TYPE_RINGBUF: u32 = 27;
const BPF_RB_FORCE_WAKEUP: i32 = 2;
const BPF_FUNC_RINGBUF_OUTPUT: i32 = 130;

/// Number of instructions that wake the event loop.
pub(crate) const WAKE_LENGTH: usize = 8;

/// Wake-ups of the event loop by BPF programs: a ring buffer, whose records say nothing.
pub(crate) struct WakeUps {
    ring: AsyncFd<OwnedFd>,
    positions: RingPositions,
}

impl WakeUps {
    /// Creates the ring buffer.
    ///
    /// # Errors
    /// If the kernel does not support BPF.
    pub(crate) fn new() -> io::Result<WakeUps> {
        let page = rustix::param::page_size();
        let size = u32::try_from(page).map_err(io::Error::other)?;
        let ring = create_map(&[BPF_MAP_TYPE_RINGBUF, 0, 0, size])?;
        let positions = RingPositions::map(&ring, page)?;
        // SAFETY: an owned descriptor stays open, with the same number, until it is dropped.
        let ring = unsafe { AsyncFd::register_with_interest(ring, Interest::READABLE) }?;
        Ok(WakeUps { ring, positions })
    }

    /// Waits for a wake-up. One call consumes all that are pending.
    pub(crate) async fn next(&mut self) -> io::Result<()> {
        self.ring.readable().await?.clear_ready();
        self.positions.discard_records();
        Ok(())
    }

    /// Returns the instructions `ring.output(0_u64)`, which change registers 0 to 5.
    pub(crate) fn wake(&self) -> [u64; WAKE_LENGTH] {
        [
            instruction(0x7a, 10, 0, -8, 0), // *(u64 *)(r10 - 8) = 0
            instruction(0x18, 1, 1, 0, self.ring.get_ref().as_raw_fd()), // r1 = ring,
            0,                               // second half
            instruction(0xbf, 2, 10, 0, 0),  // r2 = r10
            instruction(0x07, 2, 0, 0, -8),  // r2 += -8
            instruction(0xb7, 3, 0, 0, 8),   // r3 = 8
            instruction(0xb7, 4, 0, 0, BPF_RB_FORCE_WAKEUP), // r4 = flags
            instruction(0x85, 0, 0, 0, BPF_FUNC_RINGBUF_OUTPUT), // call
        ]
    }
}

/// Encodes a `struct bpf_insn`, for a little-endian processor.
pub(crate) fn instruction(code: u8, destination: u8, source: u8, offset: i16, value: i32) -> u64 {
    let [low, high] = offset.to_le_bytes();
    let [a, b, c, d] = value.to_le_bytes();
    u64::from_le_bytes([code, source << 4 | destination, low, high, a, b, c, d])
}

/// Creates a map.
pub(crate) fn create_map(attributes: &[u32]) -> io::Result<OwnedFd> {
    bpf(BPF_MAP_CREATE, attributes)
}

/// Loads a program of a type, for an attach type. It is unloaded when nothing refers to it.
pub(crate) fn load(kind: u32, attachment: u32, instructions: &[u64]) -> io::Result<OwnedFd> {
    // Helpers that only GPL programs may call are not used.
    let license = c"Apache-2.0";
    let mut attributes = [0_u32; 18];
    attributes[0] = kind;
    attributes[1] = u32::try_from(instructions.len()).map_err(io::Error::other)?;
    put_address(&mut attributes[2..4], instructions.as_ptr().addr());
    put_address(&mut attributes[4..6], license.as_ptr().addr());
    // `expected_attach_type`, at byte 68 of `union bpf_attr`.
    attributes[17] = attachment;
    bpf(BPF_PROG_LOAD, &attributes)
}

/// Writes a 64-bit address into two 32-bit words.
fn put_address(attributes: &mut [u32], address: usize) {
    let address = address as u64;
    attributes[0] = address as u32;
    attributes[1] = (address >> 32) as u32;
}

/// Calls bpf(2) with a command that returns a new descriptor.
fn bpf(command: u32, attributes: &[u32]) -> io::Result<OwnedFd> {
    let descriptor = call(command, attributes)?;
    // SAFETY: the kernel has just created this descriptor, so nothing else owns it.
    Ok(unsafe { OwnedFd::from_raw_fd(descriptor) })
}

/// Calls bpf(2). `attributes` is the prefix of `union bpf_attr` that the command uses; the kernel
/// takes the rest as zero.
pub(crate) fn call(command: u32, attributes: &[u32]) -> io::Result<RawFd> {
    // `union bpf_attr` is aligned to 8 bytes.
    let mut aligned = vec![0_u64; attributes.len().div_ceil(2)];
    for (pair, word) in attributes.chunks(2).zip(&mut aligned) {
        let high = pair.get(1).copied().unwrap_or_default();
        *word = u64::from(high) << 32 | u64::from(pair[0]);
    }
    // SAFETY: the kernel reads the length that is passed, which is that of `aligned`. Addresses in
    // it are those of memory that the caller keeps until this returns.
    let answer = unsafe {
        libc::syscall(
            libc::SYS_bpf,
            libc::c_long::from(command),
            aligned.as_ptr(),
            size_of_val(aligned.as_slice()),
        )
    };
    match RawFd::try_from(answer) {
        Ok(descriptor) if descriptor >= 0 => Ok(descriptor),
        _ => Err(io::Error::last_os_error()),
    }
}

/// Consumer and producer position of the ring buffer, each mapped as a page of its own. The records
/// between them carry no information and are not mapped.
struct RingPositions {
    read: Mapped<AtomicU64>,
    written: Mapped<AtomicU64>,
}

/// Pointer to memory that is mapped until the process ends.
pub(crate) struct Mapped<T>(NonNull<T>);

// SAFETY: the memory is never unmapped, and it is accessed only through `T`, which is `Sync`.
unsafe impl<T: Sync> Send for Mapped<T> {}

impl RingPositions {
    fn map(ring: &OwnedFd, page: usize) -> io::Result<RingPositions> {
        let writable = libc::PROT_READ | libc::PROT_WRITE;
        // The kernel maps the consumer's page at offset 0 and the producer's, read-only, after it.
        Ok(RingPositions {
            read: Mapped::map(ring, page, 0, writable)?,
            written: Mapped::map(ring, page, page, libc::PROT_READ)?,
        })
    }

    /// Marks all records as read, which frees the ring buffer for new ones.
    fn discard_records(&mut self) {
        // SAFETY: each points to the first eight bytes of a page that is never unmapped. The kernel
        // accesses them atomically too.
        let (read, written) = unsafe { (self.read.0.as_ref(), self.written.0.as_ref()) };
        read.store(written.load(Ordering::Acquire), Ordering::Release);
    }
}

impl<T> Mapped<T> {
    /// Maps a BPF map into memory until the process ends.
    pub(crate) fn map(
        map: &OwnedFd,
        length: usize,
        offset: usize,
        protection: i32,
    ) -> io::Result<Mapped<T>> {
        let offset = libc::off_t::try_from(offset).map_err(io::Error::other)?;
        let map = map.as_fd().as_raw_fd();
        // SAFETY: this creates a new mapping, at an address that the kernel chooses.
        let mapped = unsafe {
            libc::mmap(
                std::ptr::null_mut(),
                length,
                protection,
                libc::MAP_SHARED,
                map,
                offset,
            )
        };
        if mapped == libc::MAP_FAILED {
            return Err(io::Error::last_os_error());
        }
        let mapped = NonNull::new(mapped.cast());
        mapped
            .map(Mapped)
            .ok_or_else(|| io::ErrorKind::OutOfMemory.into())
    }

    /// Returns an element.
    ///
    /// # Safety
    /// The mapping must be long enough for it.
    pub(crate) unsafe fn at(&self, index: usize) -> &T {
        // SAFETY: the mapping lives as long as the process; the caller ensures the rest.
        unsafe { self.0.add(index).as_ref() }
    }
}
