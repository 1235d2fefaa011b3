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
#![allow(unsafe_code)]

use std::{
    fs::File,
    io,
    os::fd::{AsRawFd, RawFd},
    sync::atomic::{AtomicU8, Ordering},
};

use nix::libc;

use crate::bpf::{self, Mapped, WAKE_LENGTH, WakeUps, instruction};

/// Mount point of the cgroup hierarchy in the agent's mount namespace.
const ROOT_CGROUP: &str = "/sys/fs/cgroup";

// Constants of linux/bpf.h.
const BPF_PROG_ATTACH: u32 = 8;
const BPF_MAP_TYPE_ARRAY: u32 = 2;
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
    wake_ups: WakeUps,
    /// One byte per UDP port: not zero if it was requested.
    requested_ports: Mapped<AtomicU8>,
}

impl SocketEvents {
    /// Loads and attaches the programs. They stay attached until the virtual machine ends.
    ///
    /// # Errors
    /// If the kernel does not support BPF or one of the attach types.
    pub(super) fn attach() -> io::Result<SocketEvents> {
        let wake_ups = WakeUps::new()?;
        let array = [BPF_MAP_TYPE_ARRAY, 4, PORTS, 1, BPF_F_MMAPABLE];
        let ports = bpf::create_map(&array)?;
        let requested_ports = Mapped::map(&ports, PORTS as usize, 0, libc::PROT_READ)?;
        let cgroup = File::open(ROOT_CGROUP)?;
        for waker in &WAKERS {
            let code = waker.instructions(&wake_ups);
            attach(&cgroup, waker.kind, waker.attachment, &code)?;
        }
        let code = recorder_instructions(ports.as_raw_fd());
        for attachment in [BPF_CGROUP_INET4_BIND, BPF_CGROUP_INET6_BIND] {
            attach(&cgroup, BPF_PROG_TYPE_CGROUP_SOCK_ADDR, attachment, &code)?;
        }
        Ok(SocketEvents {
            wake_ups,
            requested_ports,
        })
    }

    /// Returns whether any program has ever bound a UDP socket to this port by its number.
    pub(super) fn was_requested(&self, port: u16) -> bool {
        // SAFETY: the mapping has one byte for each port.
        let byte = unsafe { self.requested_ports.at(port.into()) };
        byte.load(Ordering::Relaxed) != 0
    }

    /// Waits for an event. One call consumes all pending events.
    pub(super) async fn next(&mut self) -> io::Result<()> {
        self.wake_ups.next().await
    }
}

impl Waker {
    /// Returns the program `if field in values { ring.output(0_u64) } return 1`.
    fn instructions(&self, wake_ups: &WakeUps) -> Vec<u64> {
        self.around(&wake_ups.wake())
    }

    /// Returns the program with these instructions for waking the agent.
    fn around(&self, wake: &[u64; WAKE_LENGTH]) -> Vec<u64> {
        let mut code = vec![instruction(0x61, 2, 1, self.field, 0)]; // r2 = *(u32 *)(r1 + field)
        for (position, value) in self.values.iter().enumerate() {
            let tests_left = self.values.len() - position - 1;
            // Jumps over the remaining tests and the jump to the end.
            code.push(instruction(0x15, 2, 0, tests_left as i16 + 1, *value)); // if r2 == value
        }
        code.push(instruction(0x05, 0, 0, WAKE_LENGTH as i16, 0)); // goto the end
        code.extend(wake);
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

/// Loads a program and attaches it to a cgroup. The attachment keeps it loaded.
fn attach(cgroup: &File, kind: u32, attachment: u32, instructions: &[u64]) -> io::Result<()> {
    let program = bpf::load(kind, attachment, instructions)?;
    let attributes = [
        cgroup.as_raw_fd().cast_unsigned(),
        program.as_raw_fd().cast_unsigned(),
        attachment,
        BPF_F_ALLOW_MULTI,
    ];
    bpf::call(BPF_PROG_ATTACH, &attributes).map(drop)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn jumps_of_wakers_lead_to_the_output_or_after_it() {
        for waker in &WAKERS {
            let code = waker.around(&[instruction(0x7a, 10, 0, -8, 0); WAKE_LENGTH]);
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
