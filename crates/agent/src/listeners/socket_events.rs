//! Events for sockets that may have started or stopped listening.
//!
//! BPF programs are attached to the root cgroup, which contains every process of the machine. They
//! run in addition to programs that the machine's init attaches (`BPF_F_ALLOW_MULTI`).
//!
//! - Four *wakers* run at `listen` of a TCP socket, at `bind` of a UDP socket (IPv4 and IPv6), and
//!   at `close` of an unconnected socket. They write a record into a ring buffer, which the event
//!   loop waits for. A connection only costs a few instructions.
//! - Two *recorders* run before `bind` (IPv4 and IPv6) and record UDP ports that are bound by
//!   number in an array map. So a server is distinguished from a client, whose port the kernel
//!   chooses.
//!
//! The programs are assembled here. They are a dozen instructions long, for which a BPF compiler or
//! loader would be a large dependency of a small binary.
#![allow(unsafe_code)]

use std::{
    fs::File,
    io,
    os::fd::{AsFd, AsRawFd, FromRawFd, OwnedFd, RawFd},
    ptr::NonNull,
    sync::atomic::{AtomicU8, AtomicU64, Ordering},
};

use nix::libc;
use tokio::io::{Interest, unix::AsyncFd};

/// Mount point of the cgroup hierarchy in the agent's mount namespace.
const ROOT_CGROUP: &str = "/sys/fs/cgroup";

// Constants of linux/bpf.h.
const BPF_MAP_CREATE: u32 = 0;
const BPF_PROG_LOAD: u32 = 5;
const BPF_PROG_ATTACH: u32 = 8;
const BPF_MAP_TYPE_ARRAY: u32 = 2;
const BPF_MAP_TYPE_RINGBUF: u32 = 27;
const BPF_F_MMAPABLE: u32 = 1 << 10;
const BPF_PROG_TYPE_CGROUP_SOCK: u32 = 9;
const BPF_PROG_TYPE_SOCK_OPS: u32 = 13;
const BPF_PROG_TYPE_CGROUP_SOCK_ADDR: u32 = 18;
const BPF_CGROUP_SOCK_OPS: u32 = 3;
const BPF_CGROUP_INET4_BIND: u32 = 8;
const BPF_CGROUP_INET6_BIND: u32 = 9;
const BPF_CGROUP_INET4_POST_BIND: u32 = 12;
const BPF_CGROUP_INET6_POST_BIND: u32 = 13;
const BPF_CGROUP_INET_SOCK_RELEASE: u32 = 34;
const BPF_F_ALLOW_MULTI: u32 = 2;
const BPF_RB_FORCE_WAKEUP: i32 = 2;
const BPF_FUNC_RINGBUF_OUTPUT: i32 = 130;
const BPF_SOCK_OPS_TCP_LISTEN_CB: i32 = 11;

/// Byte offsets of fields: `op` of `struct bpf_sock_ops`, `protocol` and `state` of `struct
/// bpf_sock`, `user_port` and `protocol` of `struct bpf_sock_addr`.
const SOCK_OPS_OP: i16 = 0;
const SOCK_PROTOCOL: i16 = 12;
const SOCK_STATE: i16 = 72;
const SOCK_ADDR_PORT: i16 = 24;
const SOCK_ADDR_PROTOCOL: i16 = 36;

/// Length of the array map, with one byte per port.
const PORTS: u32 = 1 << 16;

/// States of an unconnected socket (net/tcp_states.h).
const TCP_CLOSE: i32 = 7;
const TCP_LISTEN: i32 = 10;

/// Description of a waker.
struct Waker {
    /// Program type, `BPF_PROG_TYPE_…`.
    kind: u32,
    /// Attach type, `BPF_CGROUP_…`.
    attachment: u32,
    /// Byte offset of a 32-bit field of the program's context.
    field: i16,
    /// Values of the field for which the program wakes the agent.
    values: &'static [i32],
}

const WAKERS: [Waker; 4] = [
    Waker {
        kind: BPF_PROG_TYPE_SOCK_OPS,
        attachment: BPF_CGROUP_SOCK_OPS,
        field: SOCK_OPS_OP,
        values: &[BPF_SOCK_OPS_TCP_LISTEN_CB],
    },
    Waker {
        kind: BPF_PROG_TYPE_CGROUP_SOCK,
        attachment: BPF_CGROUP_INET4_POST_BIND,
        field: SOCK_PROTOCOL,
        values: &[libc::IPPROTO_UDP],
    },
    Waker {
        kind: BPF_PROG_TYPE_CGROUP_SOCK,
        attachment: BPF_CGROUP_INET6_POST_BIND,
        field: SOCK_PROTOCOL,
        values: &[libc::IPPROTO_UDP],
    },
    Waker {
        kind: BPF_PROG_TYPE_CGROUP_SOCK,
        attachment: BPF_CGROUP_INET_SOCK_RELEASE,
        field: SOCK_STATE,
        values: &[TCP_LISTEN, TCP_CLOSE],
    },
];

/// Source of events for changes of the listening sockets.
pub(super) struct SocketEvents {
    ring: AsyncFd<OwnedFd>,
    positions: RingPositions,
    /// One byte per UDP port: not zero if it was requested.
    requested_ports: Mapped<AtomicU8>,
}

impl SocketEvents {
    /// Loads and attaches the programs. They stay attached until the virtual machine ends.
    ///
    /// # Errors
    /// If the kernel does not support BPF or one of the attach types.
    pub(super) fn attach() -> io::Result<SocketEvents> {
        let page = rustix::param::page_size();
        let size = u32::try_from(page).map_err(io::Error::other)?;
        let ring = bpf(BPF_MAP_CREATE, &[BPF_MAP_TYPE_RINGBUF, 0, 0, size])?;
        let positions = RingPositions::map(&ring, page)?;
        let array = [BPF_MAP_TYPE_ARRAY, 4, PORTS, 1, BPF_F_MMAPABLE];
        let ports = bpf(BPF_MAP_CREATE, &array)?;
        let requested_ports = map(&ports, PORTS as usize, 0, libc::PROT_READ)?;
        let cgroup = File::open(ROOT_CGROUP)?;
        for waker in &WAKERS {
            let code = waker.instructions(ring.as_raw_fd());
            attach(&cgroup, waker.kind, waker.attachment, &code)?;
        }
        let code = recorder_instructions(ports.as_raw_fd());
        for attachment in [BPF_CGROUP_INET4_BIND, BPF_CGROUP_INET6_BIND] {
            attach(&cgroup, BPF_PROG_TYPE_CGROUP_SOCK_ADDR, attachment, &code)?;
        }
        // SAFETY: an owned descriptor stays open, with the same number, until it is dropped.
        let ring = unsafe { AsyncFd::register_with_interest(ring, Interest::READABLE) }?;
        Ok(SocketEvents {
            ring,
            positions,
            requested_ports,
        })
    }

    /// Returns whether any program has ever bound a UDP socket to this port by its number.
    pub(super) fn was_requested(&self, port: u16) -> bool {
        // SAFETY: the mapping has one byte for each port, and lives as long as the process.
        let byte = unsafe { self.requested_ports.0.add(port.into()).as_ref() };
        byte.load(Ordering::Relaxed) != 0
    }

    /// Waits for an event. One call consumes all pending events.
    pub(super) async fn next(&mut self) -> io::Result<()> {
        self.ring.readable().await?.clear_ready();
        self.positions.discard_records();
        Ok(())
    }
}

impl Waker {
    /// Returns the program `if field in values { ring.output(0_u64) } return 1`.
    fn instructions(&self, ring: RawFd) -> Vec<u64> {
        let mut code = vec![instruction(0x61, 2, 1, self.field, 0)]; // r2 = *(u32 *)(r1 + field)
        let output = [
            instruction(0x7a, 10, 0, -8, 0),  // *(u64 *)(r10 - 8) = 0
            instruction(0x18, 1, 1, 0, ring), // r1 = ring,
            0,                                // second half
            instruction(0xbf, 2, 10, 0, 0),   // r2 = r10
            instruction(0x07, 2, 0, 0, -8),   // r2 += -8
            instruction(0xb7, 3, 0, 0, 8),    // r3 = 8
            instruction(0xb7, 4, 0, 0, BPF_RB_FORCE_WAKEUP), // r4 = flags
            instruction(0x85, 0, 0, 0, BPF_FUNC_RINGBUF_OUTPUT), // call
        ];
        for (position, value) in self.values.iter().enumerate() {
            let tests_left = self.values.len() - position - 1;
            // Jumps over the remaining tests and the jump to the end.
            code.push(instruction(0x15, 2, 0, tests_left as i16 + 1, *value)); // if r2 == value
        }
        code.push(instruction(0x05, 0, 0, output.len() as i16, 0)); // goto the end
        code.extend(output);
        code.push(instruction(0xb7, 0, 0, 0, 1)); // r0 = 1: allow the operation
        code.push(instruction(0x95, 0, 0, 0, 0)); // return
        code
    }
}

/// Returns the recorder `if protocol == UDP && port != 0 { ports[port] = 1 } return 1`.
fn recorder_instructions(ports: RawFd) -> [u64; 12] {
    [
        instruction(0x61, 2, 1, SOCK_ADDR_PROTOCOL, 0), // r2 = *(u32 *)(r1 + protocol)
        instruction(0x55, 2, 0, 8, libc::IPPROTO_UDP),  // if r2 != UDP goto the end
        instruction(0x61, 2, 1, SOCK_ADDR_PORT, 0),     // r2 = *(u32 *)(r1 + port)
        instruction(0xdc, 2, 0, 0, 16),                 // r2 = be16 r2
        instruction(0x57, 2, 0, 0, 0xffff),             // r2 &= 0xffff
        instruction(0x15, 2, 0, 4, 0),                  // if r2 == 0 goto the end
        instruction(0x18, 1, 2, 0, ports),              // r1 = address of ports' value,
        0,                                              // second half
        instruction(0x0f, 1, 2, 0, 0),                  // r1 += r2
        instruction(0x72, 1, 0, 0, 1),                  // *(u8 *)r1 = 1
        instruction(0xb7, 0, 0, 0, 1),                  // r0 = 1: allow the operation
        instruction(0x95, 0, 0, 0, 0),                  // return
    ]
}

/// Encodes a `struct bpf_insn`, for a little-endian processor.
fn instruction(code: u8, destination: u8, source: u8, offset: i16, value: i32) -> u64 {
    let [low, high] = offset.to_le_bytes();
    let [a, b, c, d] = value.to_le_bytes();
    u64::from_le_bytes([code, source << 4 | destination, low, high, a, b, c, d])
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

/// Loads a program and attaches it to a cgroup. The attachment keeps it loaded.
fn attach(cgroup: &File, kind: u32, attachment: u32, instructions: &[u64]) -> io::Result<()> {
    // Helpers that only GPL programs may call are not used.
    let license = c"Apache-2.0";
    let mut attributes = [0_u32; 18];
    attributes[0] = kind;
    attributes[1] = u32::try_from(instructions.len()).map_err(io::Error::other)?;
    put_address(&mut attributes[2..4], instructions.as_ptr().addr());
    put_address(&mut attributes[4..6], license.as_ptr().addr());
    // `expected_attach_type`, at byte 68 of `union bpf_attr`.
    attributes[17] = attachment;
    let program = bpf(BPF_PROG_LOAD, &attributes)?;
    let attributes = [
        cgroup.as_raw_fd().cast_unsigned(),
        program.as_raw_fd().cast_unsigned(),
        attachment,
        BPF_F_ALLOW_MULTI,
    ];
    call(BPF_PROG_ATTACH, &attributes).map(drop)
}

/// Calls bpf(2). `attributes` is the prefix of `union bpf_attr` that the command uses; the kernel
/// takes the rest as zero.
fn call(command: u32, attributes: &[u32]) -> io::Result<RawFd> {
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
struct Mapped<T>(NonNull<T>);

// SAFETY: the memory is never unmapped, and it is accessed only through `T`, which is `Sync`.
unsafe impl<T: Sync> Send for Mapped<T> {}

impl RingPositions {
    fn map(ring: &OwnedFd, page: usize) -> io::Result<RingPositions> {
        let writable = libc::PROT_READ | libc::PROT_WRITE;
        // The kernel maps the consumer's page at offset 0 and the producer's, read-only, after it.
        Ok(RingPositions {
            read: map(ring, page, 0, writable)?,
            written: map(ring, page, page, libc::PROT_READ)?,
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

/// Maps a BPF map into memory until the process ends.
fn map<T>(map: &OwnedFd, length: usize, offset: usize, protection: i32) -> io::Result<Mapped<T>> {
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn jumps_of_wakers_lead_to_the_output_or_after_it() {
        for waker in &WAKERS {
            let code = waker.instructions(3);
            let tests = waker.values.len();
            let offset = |at: usize| {
                i16::from_le_bytes([code[at].to_le_bytes()[2], code[at].to_le_bytes()[3]])
            };
            let target = |at: usize| at + 1 + usize::try_from(offset(at)).unwrap();
            let output = 1 + tests + 1;
            for test in 1..=tests {
                assert_eq!(target(test), output);
            }
            assert_eq!(code[output].to_le_bytes()[0], 0x7a);
            assert_eq!(target(1 + tests), code.len() - 2);
        }
    }
}
