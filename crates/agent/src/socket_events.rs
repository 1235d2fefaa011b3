//! Wakes the agent when a socket may have begun or ceased to listen.
//!
//! BPF programs of a few instructions hang at the root of all cgroups, so that every process of
//! the machine is below them, and beside whatever its init attaches (`BPF_F_ALLOW_MULTI`). Four run
//! when a TCP socket is told to listen, when a UDP socket is bound, and when a socket is closed that is
//! connected to nobody, and write a word into a ring buffer, which can be waited for. Connections cost
//! a few instructions and wake nobody. Two more keep which UDP ports were asked for by number.
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

/// Where all cgroups are mounted for the agent.
const ROOT_CGROUP: &str = "/sys/fs/cgroup";

// linux/bpf.h
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

/// `op` in `struct bpf_sock_ops`, `protocol` and `state` in `struct bpf_sock`, `user_port` and `protocol`
/// in `struct bpf_sock_addr`: bytes from the start.
const SOCK_OPS_OP: i16 = 0;
const SOCK_PROTOCOL: i16 = 12;
const SOCK_STATE: i16 = 72;
const SOCK_ADDR_PORT: i16 = 24;
const SOCK_ADDR_PROTOCOL: i16 = 36;

/// A byte for each port.
const PORTS: u32 = 1 << 16;

/// States of a socket that is connected to nobody (net/tcp_states.h).
const TCP_CLOSE: i32 = 7;
const TCP_LISTEN: i32 = 10;

/// A program that wakes: what kind it is, where it hangs, and of what word of its context which values do.
struct Waker {
    kind: u32,
    attachment: u32,
    word: i16,
    wake: &'static [i32],
}

const WAKERS: [Waker; 4] = [
    Waker {
        kind: BPF_PROG_TYPE_SOCK_OPS,
        attachment: BPF_CGROUP_SOCK_OPS,
        word: SOCK_OPS_OP,
        wake: &[BPF_SOCK_OPS_TCP_LISTEN_CB],
    },
    Waker {
        kind: BPF_PROG_TYPE_CGROUP_SOCK,
        attachment: BPF_CGROUP_INET4_POST_BIND,
        word: SOCK_PROTOCOL,
        wake: &[libc::IPPROTO_UDP],
    },
    Waker {
        kind: BPF_PROG_TYPE_CGROUP_SOCK,
        attachment: BPF_CGROUP_INET6_POST_BIND,
        word: SOCK_PROTOCOL,
        wake: &[libc::IPPROTO_UDP],
    },
    Waker {
        kind: BPF_PROG_TYPE_CGROUP_SOCK,
        attachment: BPF_CGROUP_INET_SOCK_RELEASE,
        word: SOCK_STATE,
        wake: &[TCP_LISTEN, TCP_CLOSE],
    },
];

/// Told when the set of listening sockets may have changed.
pub struct SocketEvents {
    ring: AsyncFd<OwnedFd>,
    positions: Positions,
    asked_for: Mapped<AtomicU8>,
}

impl SocketEvents {
    /// Attaches the programs, for as long as the machine lives.
    ///
    /// # Errors
    /// If the kernel has no BPF, or lacks one of the places where the programs hang.
    pub fn attach() -> io::Result<SocketEvents> {
        let page = rustix::param::page_size();
        let size = u32::try_from(page).map_err(io::Error::other)?;
        let ring = bpf(BPF_MAP_CREATE, &[BPF_MAP_TYPE_RINGBUF, 0, 0, size])?;
        let positions = Positions::map(&ring, page)?;
        let array = [BPF_MAP_TYPE_ARRAY, 4, PORTS, 1, BPF_F_MMAPABLE];
        let ports = bpf(BPF_MAP_CREATE, &array)?;
        let asked_for = map(&ports, PORTS as usize, 0, libc::PROT_READ)?;
        let cgroup = File::open(ROOT_CGROUP)?;
        for waker in &WAKERS {
            let code = waker.instructions(ring.as_raw_fd());
            attach(&cgroup, waker.kind, waker.attachment, &code)?;
        }
        let code = keep_asked_for(ports.as_raw_fd());
        for attachment in [BPF_CGROUP_INET4_BIND, BPF_CGROUP_INET6_BIND] {
            attach(&cgroup, BPF_PROG_TYPE_CGROUP_SOCK_ADDR, attachment, &code)?;
        }
        // SAFETY: an owned descriptor stays the same, and open, until it is dropped.
        let ring = unsafe { AsyncFd::register_with_interest(ring, Interest::READABLE) }?;
        Ok(SocketEvents {
            ring,
            positions,
            asked_for,
        })
    }

    /// Whether a program has ever asked for this UDP port by its number, and not for just any.
    pub fn was_asked_for(&self, port: u16) -> bool {
        // SAFETY: one of the mapped bytes, of which there is one for each port.
        let byte = unsafe { self.asked_for.0.add(port.into()).as_ref() };
        byte.load(Ordering::Relaxed) != 0
    }

    /// Waits until something may have changed since this was last called.
    pub async fn next(&mut self) -> io::Result<()> {
        self.ring.readable().await?.clear_ready();
        self.positions.take_all();
        Ok(())
    }
}

impl Waker {
    /// `if word in wake { ring.output(0_u64) } return 1`
    fn instructions(&self, ring: RawFd) -> Vec<u64> {
        let mut code = vec![instruction(0x61, 2, 1, self.word, 0)]; // r2 = *(u32 *)(r1 + word)
        let output = [
            instruction(0x7a, 10, 0, -8, 0),  // *(u64 *)(r10 - 8) = 0
            instruction(0x18, 1, 1, 0, ring), // r1 = ring,
            0,                                // in two halves
            instruction(0xbf, 2, 10, 0, 0),   // r2 = r10
            instruction(0x07, 2, 0, 0, -8),   // r2 += -8
            instruction(0xb7, 3, 0, 0, 8),    // r3 = 8
            instruction(0xb7, 4, 0, 0, BPF_RB_FORCE_WAKEUP), // r4 = flags
            instruction(0x85, 0, 0, 0, BPF_FUNC_RINGBUF_OUTPUT), // call
        ];
        for (position, value) in self.wake.iter().enumerate() {
            let tests_left = self.wake.len() - position - 1;
            // To the output, over the tests that are left and the jump behind them.
            code.push(instruction(0x15, 2, 0, tests_left as i16 + 1, *value)); // if r2 == value
        }
        code.push(instruction(0x05, 0, 0, output.len() as i16, 0)); // goto the end
        code.extend(output);
        code.push(instruction(0xb7, 0, 0, 0, 1)); // r0 = 1: go on as if nothing were here
        code.push(instruction(0x95, 0, 0, 0, 0)); // return
        code
    }
}

/// `if protocol == UDP && port != 0 { ports[port] = 1 } return 1`
fn keep_asked_for(ports: RawFd) -> [u64; 12] {
    [
        instruction(0x61, 2, 1, SOCK_ADDR_PROTOCOL, 0), // r2 = *(u32 *)(r1 + protocol)
        instruction(0x55, 2, 0, 8, libc::IPPROTO_UDP),  // if r2 != UDP goto the end
        instruction(0x61, 2, 1, SOCK_ADDR_PORT, 0),     // r2 = *(u32 *)(r1 + port)
        instruction(0xdc, 2, 0, 0, 16),                 // r2 = be16 r2
        instruction(0x57, 2, 0, 0, 0xffff),             // r2 &= 0xffff
        instruction(0x15, 2, 0, 4, 0),                  // if r2 == 0 goto the end
        instruction(0x18, 1, 2, 0, ports),              // r1 = the value of ports,
        0,                                              // in two halves
        instruction(0x0f, 1, 2, 0, 0),                  // r1 += r2
        instruction(0x72, 1, 0, 0, 1),                  // *(u8 *)r1 = 1
        instruction(0xb7, 0, 0, 0, 1),                  // r0 = 1: go on as if nothing were here
        instruction(0x95, 0, 0, 0, 0),                  // return
    ]
}

/// One `struct bpf_insn`; the guest's processors are little-endian.
fn instruction(code: u8, to: u8, from: u8, offset: i16, value: i32) -> u64 {
    let [low, high] = offset.to_le_bytes();
    let [a, b, c, d] = value.to_le_bytes();
    u64::from_le_bytes([code, from << 4 | to, low, high, a, b, c, d])
}

fn put_address(attributes: &mut [u32], address: usize) {
    let address = address as u64;
    attributes[0] = address as u32;
    attributes[1] = (address >> 32) as u32;
}

/// A call of bpf(2) that makes a descriptor.
fn bpf(command: u32, attributes: &[u32]) -> io::Result<OwnedFd> {
    let descriptor = call(command, attributes)?;
    // SAFETY: the kernel has just made this descriptor, and nobody else has it.
    Ok(unsafe { OwnedFd::from_raw_fd(descriptor) })
}

/// Has the kernel check a program and run it. It ends when the machine does.
fn attach(cgroup: &File, kind: u32, attachment: u32, instructions: &[u64]) -> io::Result<()> {
    let license = c"Apache-2.0";
    let mut attributes = [0_u32; 18];
    attributes[0] = kind;
    attributes[1] = u32::try_from(instructions.len()).map_err(io::Error::other)?;
    put_address(&mut attributes[2..4], instructions.as_ptr().addr());
    put_address(&mut attributes[4..6], license.as_ptr().addr());
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

fn call(command: u32, attributes: &[u32]) -> io::Result<RawFd> {
    // What the kernel aligns to 8 bytes.
    let mut aligned = vec![0_u64; attributes.len().div_ceil(2)];
    for (pair, word) in attributes.chunks(2).zip(&mut aligned) {
        let high = pair.get(1).copied().unwrap_or_default();
        *word = u64::from(high) << 32 | u64::from(pair[0]);
    }
    // SAFETY: the kernel reads as many bytes as it is told, all of them there, and whatever addresses
    // are among them are those of memory that the caller holds until this returns.
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

/// How far the ring has been written and read: one page each. Nobody reads what is between.
struct Positions {
    read: Mapped<AtomicU64>,
    written: Mapped<AtomicU64>,
}

/// Bytes that are mapped for good.
struct Mapped<T>(NonNull<T>);

// SAFETY: the memory stays, and is as fit to be used from several threads as what is in it.
unsafe impl<T: Sync> Send for Mapped<T> {}

impl Positions {
    fn map(ring: &OwnedFd, page: usize) -> io::Result<Positions> {
        let writable = libc::PROT_READ | libc::PROT_WRITE;
        Ok(Positions {
            read: map(ring, page, 0, writable)?,
            written: map(ring, page, page, libc::PROT_READ)?,
        })
    }

    /// Makes room for all that is to come.
    fn take_all(&mut self) {
        // SAFETY: each points to the eight bytes at the start of a page that is mapped for good; the
        // kernel uses them as atomics too.
        let (read, written) = unsafe { (self.read.0.as_ref(), self.written.0.as_ref()) };
        read.store(written.load(Ordering::Acquire), Ordering::Release);
    }
}

/// Maps bytes of a BPF map for good.
fn map<T>(map: &OwnedFd, length: usize, offset: usize, protection: i32) -> io::Result<Mapped<T>> {
    let offset = libc::off_t::try_from(offset).map_err(io::Error::other)?;
    let map = map.as_fd().as_raw_fd();
    // SAFETY: a new mapping, at an address that the kernel chooses.
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
    fn every_jump_leads_to_the_output_or_behind_it() {
        for waker in &WAKERS {
            let code = waker.instructions(3);
            let tests = waker.wake.len();
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
