//! Hash of names in indexed directories: half MD4 over unsigned characters
//! (Documentation/filesystems/ext4/directory.rst, "Hash Tree Directories"; `fs/ext4/hash.c`).

/// Seed that replaces one of zeroes.
const DEFAULT_SEED: [u32; 4] = [0x6745_2301, 0xefcd_ab89, 0x98ba_dcfe, 0x1032_5476];

/// Returns the major hash of a name, by which directories are sorted. Its lowest bit is always 0:
/// the index uses that bit to mark a hash that continues from the previous block.
pub(crate) fn name_hash(name: &[u8], seed: &[u32; 4]) -> u32 {
    let mut state = if *seed == [0; 4] { DEFAULT_SEED } else { *seed };
    let mut rest = name;
    loop {
        transform(&mut state, &chunk(rest));
        if rest.len() <= 32 {
            break;
        }
        rest = &rest[32..];
    }
    // EXT4_HTREE_EOF_32BIT: readdir uses this hash as the position after the last entry.
    let end_of_directory = 0x7fff_ffff << 1;
    match state[1] & !1 {
        major if major == end_of_directory => (0x7fff_ffff - 1) << 1,
        major => major,
    }
}

/// Returns the first 32 bytes as eight big-endian numbers. The rest is filled with the length of
/// what remains of the name.
fn chunk(name: &[u8]) -> [u32; 8] {
    let length = name.len() as u32;
    let half = length | (length << 8);
    let padding = half | (half << 16);
    let mut numbers = [padding; 8];
    for (number, bytes) in numbers.iter_mut().zip(name.chunks(4)) {
        let shift_in = |number: u32, byte: &u8| u32::from(*byte).wrapping_add(number << 8);
        *number = bytes.iter().fold(padding, shift_in);
    }
    numbers
}

/// Mixes eight numbers into the state: the three rounds of MD4, with half of the steps each.
fn transform(state: &mut [u32; 4], input: &[u32; 8]) {
    type Round = fn(u32, u32, u32) -> u32;
    let choose: Round = |x, y, z| z ^ (x & (y ^ z));
    let majority: Round = |x, y, z| (x & y).wrapping_add((x ^ y) & z);
    let parity: Round = |x, y, z| x ^ y ^ z;
    let rounds: [(Round, u32, [usize; 8], [u32; 4]); 3] = [
        (choose, 0, [0, 1, 2, 3, 4, 5, 6, 7], [3, 7, 11, 19]),
        (
            majority,
            0x5a82_7999,
            [1, 3, 5, 7, 0, 2, 4, 6],
            [3, 5, 9, 13],
        ),
        (
            parity,
            0x6ed9_eba1,
            [3, 7, 2, 6, 1, 5, 0, 4],
            [3, 9, 11, 15],
        ),
    ];
    let [mut a, mut b, mut c, mut d] = *state;
    for (mix, constant, order, shifts) in rounds {
        for (step, place) in order.into_iter().enumerate() {
            let sum = a
                .wrapping_add(mix(b, c, d))
                .wrapping_add(input[place])
                .wrapping_add(constant)
                .rotate_left(shifts[step % 4]);
            (a, b, c, d) = (d, sum, b, c);
        }
    }
    for (before, after) in state.iter_mut().zip([a, b, c, d]) {
        *before = before.wrapping_add(after);
    }
}
