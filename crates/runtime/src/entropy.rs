//! Random bytes for the guest.

use std::{
    fs::File,
    io::{self, Read},
};

/// Number of random bytes that the guest gets.
const ENTROPY: usize = 64;

/// Returns random bytes for the guest's generator.
pub(crate) fn read_entropy() -> io::Result<Vec<u8>> {
    read_random::<ENTROPY>().map(Vec::from)
}

/// Returns random bytes of the host.
pub(crate) fn read_random<const LENGTH: usize>() -> io::Result<[u8; LENGTH]> {
    let mut bytes = [0; LENGTH];
    File::open("/dev/urandom")?.read_exact(&mut bytes)?;
    Ok(bytes)
}
