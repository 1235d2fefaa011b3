//! Access to little-endian numbers in byte slices, halves of numbers, and checksums. The accessors
//! panic if the slice ends before the number does.

/// Writes 16 bits at `offset`.
pub(crate) fn put_u16(block: &mut [u8], offset: usize, value: u16) {
    block[offset..offset + 2].copy_from_slice(&value.to_le_bytes());
}

/// Writes 32 bits at `offset`.
pub(crate) fn put_u32(block: &mut [u8], offset: usize, value: u32) {
    block[offset..offset + 4].copy_from_slice(&value.to_le_bytes());
}

/// Reads 16 bits at `offset`.
pub(crate) fn get_u16(block: &[u8], offset: usize) -> u16 {
    u16::from_le_bytes([block[offset], block[offset + 1]])
}

/// Reads 32 bits at `offset`.
pub(crate) fn get_u32(block: &[u8], offset: usize) -> u32 {
    let bytes: [u8; 4] = std::array::from_fn(|number| block[offset + number]);
    u32::from_le_bytes(bytes)
}

/// Writes 64 bits at `offset`.
pub(crate) fn put_u64(block: &mut [u8], offset: usize, value: u64) {
    block[offset..offset + 8].copy_from_slice(&value.to_le_bytes());
}

/// Reads 64 bits at `offset`.
pub(crate) fn get_u64(block: &[u8], offset: usize) -> u64 {
    let bytes: [u8; 8] = std::array::from_fn(|number| block[offset + number]);
    u64::from_le_bytes(bytes)
}

/// Returns the low 32 bits.
pub(crate) fn low(value: u64) -> u32 {
    (value & 0xffff_ffff) as u32
}

/// Returns the high 32 bits.
pub(crate) fn high(value: u64) -> u32 {
    (value >> 32) as u32
}

/// Returns the low 16 bits.
pub(crate) fn low_half(value: u32) -> u16 {
    (value & 0xffff) as u16
}

/// Returns the high 16 bits.
pub(crate) fn high_half(value: u32) -> u16 {
    (value >> 16) as u16
}

/// Computes ext4's CRC-32C (Documentation/filesystems/ext4/checksums.rst): it continues from
/// `seed`, and unlike the usual CRC-32C it inverts neither the seed nor the result.
pub(crate) fn crc(seed: u32, bytes: &[u8]) -> u32 {
    !crc32c::crc32c_append(!seed, bytes)
}
