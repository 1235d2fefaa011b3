//! Little-endian numbers in a block.

/// Writes 16 bits at `offset`.
pub fn put_u16(block: &mut [u8], offset: usize, value: u16) {
    block[offset..offset + 2].copy_from_slice(&value.to_le_bytes());
}

/// Writes 32 bits at `offset`.
pub fn put_u32(block: &mut [u8], offset: usize, value: u32) {
    block[offset..offset + 4].copy_from_slice(&value.to_le_bytes());
}

/// Reads 16 bits at `offset`.
pub fn get_u16(block: &[u8], offset: usize) -> u16 {
    u16::from_le_bytes([block[offset], block[offset + 1]])
}

/// Reads 32 bits at `offset`.
pub fn get_u32(block: &[u8], offset: usize) -> u32 {
    let bytes: [u8; 4] = std::array::from_fn(|number| block[offset + number]);
    u32::from_le_bytes(bytes)
}

/// The low 32 bits.
pub fn low(value: u64) -> u32 {
    (value & 0xffff_ffff) as u32
}

/// The high 32 bits.
pub fn high(value: u64) -> u32 {
    (value >> 32) as u32
}

/// The low 16 bits.
pub fn low_half(value: u32) -> u16 {
    (value & 0xffff) as u16
}

/// The high 16 bits.
pub fn high_half(value: u32) -> u16 {
    (value >> 16) as u16
}

/// ext4's CRC-32C: continued from `seed`, and not inverted at the end
/// (Documentation/filesystems/ext4/checksums.rst).
pub fn crc(seed: u32, bytes: &[u8]) -> u32 {
    !crc32c::crc32c_append(!seed, bytes)
}
