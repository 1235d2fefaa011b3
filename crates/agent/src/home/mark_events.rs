//! Wake-ups when a program begins or ceases to watch a file.
//!
//! BPF programs at two functions of the kernel (kprobes) wake the event loop. They run when an
//! inotify or fanotify mark is added or removed, whatever it watches; that is rare.
#![allow(unsafe_code)]

use std::{
    ffi::CStr,
    fs, io,
    os::fd::{AsRawFd, FromRawFd, OwnedFd},
};

use nix::libc;

use crate::bpf::{self, WakeUps, instruction};

/// Functions of the kernel that add and remove a mark. Their callers hold the lock that reading
/// `/proc/PID/fdinfo` takes, so it shows the change afterwards.
const FUNCTIONS: [&CStr; 2] = [c"fsnotify_add_mark_locked", c"fsnotify_detach_mark"];

/// Type of the performance events that are kprobes.
const KPROBE_TYPE: &str = "/sys/bus/event_source/devices/kprobe/type";

// Constants of linux/bpf.h and linux/perf_event.h.
const BPF_PROG_TYPE_KPROBE: u32 = 2;
const PERF_ATTR_SIZE_VER1: u64 = 72;
const PERF_FLAG_FD_CLOEXEC: libc::c_ulong = 1 << 3;
const PERF_EVENT_IOC_ENABLE: libc::c_ulong = 0x2400;
const PERF_EVENT_IOC_SET_BPF: libc::c_ulong = 0x4004_2408;

/// Source of wake-ups.
pub(super) struct MarkEvents {
    wake_ups: WakeUps,
    _probes: Vec<OwnedFd>,
}

impl MarkEvents {
    /// Loads and attaches the programs, until this is dropped.
    ///
    /// # Errors
    /// If the kernel supports no kprobes or BPF programs, or has no such function.
    pub(super) fn attach() -> io::Result<MarkEvents> {
        let wake_ups = WakeUps::new()?;
        let kind = fs::read_to_string(KPROBE_TYPE)?;
        let kind: u32 = kind.trim().parse().map_err(io::Error::other)?;
        let mut code = wake_ups.wake().to_vec();
        code.push(instruction(0xb7, 0, 0, 0, 0)); // r0 = 0
        code.push(instruction(0x95, 0, 0, 0, 0)); // return
        let program = bpf::load(BPF_PROG_TYPE_KPROBE, 0, &code)?;
        let probes = FUNCTIONS.map(|function| attach(kind, function, &program));
        Ok(MarkEvents {
            wake_ups,
            _probes: probes.into_iter().collect::<io::Result<_>>()?,
        })
    }

    /// Waits for a wake-up. One call consumes all that are pending.
    pub(super) async fn next(&mut self) -> io::Result<()> {
        self.wake_ups.next().await
    }
}

/// Runs a program whenever the kernel calls a function, until the result is dropped.
fn attach(kind: u32, function: &CStr, program: &OwnedFd) -> io::Result<OwnedFd> {
    // `struct perf_event_attr`: type and size, config, period, sample type, read format, flags,
    // wake-up events and breakpoint type, kprobe_func, probe_offset.
    let mut attributes = [0_u64; 9];
    attributes[0] = PERF_ATTR_SIZE_VER1 << 32 | u64::from(kind);
    attributes[7] = function.as_ptr().addr() as u64;
    let (any_process, first_processor, no_group) = (-1, 0, -1);
    // SAFETY: the kernel reads the attributes, whose size is in them, and the function's name.
    let event = unsafe {
        libc::syscall(
            libc::SYS_perf_event_open,
            attributes.as_ptr(),
            any_process,
            first_processor,
            no_group,
            PERF_FLAG_FD_CLOEXEC,
        )
    };
    let event = match i32::try_from(event) {
        // SAFETY: the kernel has just created this descriptor, so nothing else owns it.
        Ok(event) if event >= 0 => unsafe { OwnedFd::from_raw_fd(event) },
        _ => return Err(io::Error::last_os_error()),
    };
    // A program of a kprobe runs on all processors, whichever the event is for.
    for (request, argument) in [
        (PERF_EVENT_IOC_SET_BPF, program.as_raw_fd()),
        (PERF_EVENT_IOC_ENABLE, 0),
    ] {
        // SAFETY: the argument is a number.
        let result = unsafe { libc::ioctl(event.as_raw_fd(), request as _, argument) };
        if result < 0 {
            return Err(io::Error::last_os_error());
        }
    }
    Ok(event)
}
