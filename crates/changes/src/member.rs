//! Headers of archive members: a ustar header, preceded by a pax extended header for values that do
//! not fit (POSIX.1-2017, pax, "ustar Interchange Format" and "pax Extended Header").

use crate::UnixTime;

/// Block size of a tar archive, in bytes.
pub(crate) const BLOCK: usize = 512;

/// Length of the `name` and `linkname` fields. Longer paths use a pax record, not `prefix`.
const LONGEST: usize = 100;
/// Largest value of a field with seven octal digits.
const SEVEN_DIGITS: u64 = 0o7_777_777;
/// Largest value of a field with eleven octal digits.
const ELEVEN_DIGITS: u64 = 0o77_777_777_777;

/// Name and value of an extended attribute.
pub(crate) type Xattr = (Vec<u8>, Vec<u8>);

/// The contents of a member's headers.
#[derive(Debug)]
pub(crate) struct MemberHeader<'a> {
    /// Path without a leading slash; a directory's ends in a slash.
    pub path: &'a [u8],
    pub kind: MemberType<'a>,
    /// Permission bits, including set-user-ID, set-group-ID and sticky.
    pub mode: u32,
    pub uid: u32,
    pub gid: u32,
    /// Modification time.
    pub modified: UnixTime,
    pub xattrs: &'a [Xattr],
}

/// Type of a member, with the data that only this type has.
#[derive(Debug, Clone, Copy)]
pub(crate) enum MemberType<'a> {
    File { size: u64 },
    HardLink(&'a [u8]),
    Symlink(&'a [u8]),
    CharDevice { major: u32, minor: u32 },
    BlockDevice { major: u32, minor: u32 },
    Directory,
    Fifo,
}

impl MemberHeader<'_> {
    /// Encodes the headers. A file's contents follow, padded to a whole block.
    pub(crate) fn encode(&self) -> Vec<u8> {
        let records = self.records();
        let mut bytes = Vec::new();
        if !records.is_empty() {
            let mut header = UstarBlock::new(b'x', b"PaxHeaders/member");
            header.number(100, 8, 0o644);
            header.number(124, 12, records.len() as u64);
            bytes.extend_from_slice(&header.finish());
            bytes.extend_from_slice(&records);
            bytes.resize(bytes.len().next_multiple_of(BLOCK), 0);
        }
        bytes.extend_from_slice(&self.ustar_header());
        bytes
    }

    fn ustar_header(&self) -> [u8; BLOCK] {
        let (letter, target, size, (major, minor)) = match self.kind {
            MemberType::File { size } => (b'0', &b""[..], size, (0, 0)),
            MemberType::HardLink(target) => (b'1', target, 0, (0, 0)),
            MemberType::Symlink(target) => (b'2', target, 0, (0, 0)),
            MemberType::CharDevice { major, minor } => (b'3', &b""[..], 0, (major, minor)),
            MemberType::BlockDevice { major, minor } => (b'4', &b""[..], 0, (major, minor)),
            MemberType::Directory => (b'5', &b""[..], 0, (0, 0)),
            MemberType::Fifo => (b'6', &b""[..], 0, (0, 0)),
        };
        let mut header = UstarBlock::new(letter, self.path);
        header.number(100, 8, self.mode.into());
        header.number(108, 8, within(self.uid.into(), SEVEN_DIGITS));
        header.number(116, 8, within(self.gid.into(), SEVEN_DIGITS));
        header.number(124, 12, within(size, ELEVEN_DIGITS));
        let seconds = u64::try_from(self.modified.seconds).unwrap_or_default();
        header.number(136, 12, within(seconds, ELEVEN_DIGITS));
        header.text(157, target);
        header.number(329, 8, major.into());
        header.number(337, 8, minor.into());
        header.finish()
    }

    /// The pax records for values that the ustar header cannot hold.
    fn records(&self) -> Vec<u8> {
        let mut records = Vec::new();
        let is_plain = |text: &[u8]| text.len() <= LONGEST && text.is_ascii();
        if !is_plain(self.path) {
            add(&mut records, b"path", self.path);
        }
        if let MemberType::HardLink(target) | MemberType::Symlink(target) = self.kind
            && !is_plain(target)
        {
            add(&mut records, b"linkpath", target);
        }
        if let MemberType::File { size } = self.kind
            && size > ELEVEN_DIGITS
        {
            add(&mut records, b"size", size.to_string().as_bytes());
        }
        for (key, number) in [(&b"uid"[..], self.uid), (b"gid", self.gid)] {
            if u64::from(number) > SEVEN_DIGITS {
                add(&mut records, key, number.to_string().as_bytes());
            }
        }
        let fits = u64::try_from(self.modified.seconds).is_ok_and(|it| it <= ELEVEN_DIGITS);
        if !fits || self.modified.nanoseconds != 0 {
            add(&mut records, b"mtime", decimal(self.modified).as_bytes());
        }
        for (name, value) in self.xattrs {
            add(
                &mut records,
                &[b"SCHILY.xattr.", name.as_slice()].concat(),
                value,
            );
        }
        records
    }
}

/// Zero for values that a pax record holds instead.
fn within(number: u64, limit: u64) -> u64 {
    if number <= limit { number } else { 0 }
}

/// Formats a time as decimal seconds. Before 1970 the sign applies to the fraction as well.
fn decimal(time: UnixTime) -> String {
    let UnixTime {
        seconds,
        nanoseconds,
    } = time;
    match (seconds < 0, nanoseconds) {
        (_, 0) => seconds.to_string(),
        (false, _) => format!("{seconds}.{nanoseconds:09}"),
        (true, _) => format!(
            "-{}.{:09}",
            (seconds + 1).unsigned_abs(),
            1_000_000_000 - nanoseconds
        ),
    }
}

/// Appends a record, `<length> <key>=<value>\n`. The length includes its own digits.
fn add(records: &mut Vec<u8>, key: &[u8], value: &[u8]) {
    let rest = key.len() + value.len() + 3;
    let mut length = rest + 1;
    while length != rest + length.to_string().len() {
        length = rest + length.to_string().len();
    }
    records.extend_from_slice(format!("{length} ").as_bytes());
    records.extend_from_slice(key);
    records.push(b'=');
    records.extend_from_slice(value);
    records.push(b'\n');
}

struct UstarBlock([u8; BLOCK]);

impl UstarBlock {
    fn new(letter: u8, path: &[u8]) -> UstarBlock {
        let mut header = UstarBlock([0; BLOCK]);
        header.text(0, path);
        header.0[156] = letter;
        header.0[257..265].copy_from_slice(b"ustar\x0000");
        header
    }

    fn text(&mut self, at: usize, text: &[u8]) {
        let length = text.len().min(LONGEST);
        self.0[at..at + length].copy_from_slice(&text[..length]);
    }

    /// Writes octal digits, followed by a NUL.
    fn number(&mut self, at: usize, width: usize, number: u64) {
        let digits = format!("{number:0width$o}", width = width - 1);
        self.0[at..at + width - 1].copy_from_slice(&digits.as_bytes()[..width - 1]);
    }

    fn finish(mut self) -> [u8; BLOCK] {
        self.0[148..156].fill(b' ');
        let sum: u64 = self.0.iter().map(|byte| u64::from(*byte)).sum();
        self.number(148, 7, sum);
        self.0
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_length_of_a_record_includes_itself() {
        let record = |value: &str| {
            let mut records = Vec::new();
            add(&mut records, b"a", value.as_bytes());
            String::from_utf8(records).unwrap()
        };
        assert_eq!(record(""), "5 a=\n");
        assert_eq!(record("1234"), "9 a=1234\n");
        assert_eq!(record("12345"), "11 a=12345\n");
        assert!(record(&"x".repeat(93)).starts_with("99 a="));
        assert!(record(&"x".repeat(94)).starts_with("101 a="));
    }

    #[test]
    fn the_sign_of_a_time_applies_to_its_fraction() {
        let format = |seconds, nanoseconds| {
            decimal(UnixTime {
                seconds,
                nanoseconds,
            })
        };
        assert_eq!(format(5, 1), "5.000000001");
        assert_eq!(format(-2, 500_000_000), "-1.500000000");
        assert_eq!(format(-1, 999_999_999), "-0.000000001");
        assert_eq!(format(-7, 0), "-7");
    }
}
