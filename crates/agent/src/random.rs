//! The kernel's random number generator.
#![allow(unsafe_code)]

use std::{
    fs::File,
    io,
    os::fd::{AsFd, AsRawFd},
};

use nix::libc::c_int;

/// Number of bytes that one request adds.
const CHUNK: usize = 64;

/// `struct rand_pool_info` (include/uapi/linux/random.h), with the bytes.
#[repr(C)]
struct RandPoolInfo {
    entropy_count: c_int,
    buf_size: c_int,
    buf: [u8; CHUNK],
}

// RNDADDENTROPY and RNDRESEEDCRNG (include/uapi/linux/random.h). The former is declared with the
// length of the structure's first two fields.
nix::ioctl_write_ptr_bad!(
    add_entropy,
    nix::request_code_write!(b'R', 0x03, size_of::<[c_int; 2]>()),
    RandPoolInfo
);
nix::ioctl_none!(reseed_crng, b'R', 0x07);

/// Makes all random numbers from now on depend on `entropy`, those of the kernel and those of
/// `getrandom(2)` in all processes.
pub(crate) fn reseed(entropy: &[u8]) -> io::Result<()> {
    let device = File::options().write(true).open("/dev/urandom")?;
    let device = device.as_fd().as_raw_fd();
    for chunk in entropy.chunks(CHUNK) {
        let mut buf = [0; CHUNK];
        buf[..chunk.len()].copy_from_slice(chunk);
        let length = c_int::try_from(chunk.len()).unwrap_or_default();
        let info = RandPoolInfo {
            entropy_count: length * 8,
            buf_size: length,
            buf,
        };
        // SAFETY: the descriptor is open during the call. The kernel reads `buf_size` bytes of
        // `buf`, which are in the structure, and keeps no pointer.
        unsafe { add_entropy(device, &raw const info) }?;
    }
    // SAFETY: the descriptor is open during the call, which has no argument.
    unsafe { reseed_crng(device) }?;
    Ok(())
}
