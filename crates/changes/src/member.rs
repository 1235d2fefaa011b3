//! A member's headers: ustar, and before it PAX for what does not fit (POSIX.1-2017, pax, "ustar
//! Interchange Format" and "pax Extended Header").

use crate::Time;

/// Everything in an archive is a multiple of this.
pub const BLOCK: usize = 512;

/// Bytes of a path or target in a plain header.
const LONGEST: usize = 100;
/// The highest number of seven octal digits, and of eleven.
const SEVEN_DIGITS: u64 = 0o7_777_777;
const ELEVEN_DIGITS: u64 = 0o77_777_777_777;

/// An extended attribute's name and value.
pub type Xattr = (Vec<u8>, Vec<u8>);

/// What a header says.
#[derive(Debug)]
pub struct Member<'a> {
    /// From the root, without a slash before it; a directory's with one behind it.
    pub path: &'a [u8],
    /// What it is.
    pub kind: Kind<'a>,
    /// Permission bits.
    pub mode: u32,
    /// Its owner.
    pub uid: u32,
    /// Its group.
    pub gid: u32,
    /// When its contents last changed.
    pub modified: Time,
    /// Its extended attributes.
    pub xattrs: &'a [Xattr],
}

/// What a member is.
#[derive(Debug, Clone, Copy)]
pub enum Kind<'a> {
    File { size: u64 },
    HardLink(&'a [u8]),
    Symlink(&'a [u8]),
    CharDevice { major: u32, minor: u32 },
    BlockDevice { major: u32, minor: u32 },
    Directory,
    Fifo,
}

impl Member<'_> {
    /// The headers' bytes; a file's contents follow, filled up to a block.
    pub fn encode(&self) -> Vec<u8> {
        let records = self.records();
        let mut bytes = Vec::new();
        if !records.is_empty() {
            let mut header = Header::new(b'x', b"PaxHeaders/member");
            header.number(100, 8, 0o644);
            header.number(124, 12, records.len() as u64);
            bytes.extend_from_slice(&header.finish());
            bytes.extend_from_slice(&records);
            bytes.resize(bytes.len().next_multiple_of(BLOCK), 0);
        }
        bytes.extend_from_slice(&self.header());
        bytes
    }

    fn header(&self) -> [u8; BLOCK] {
        let (letter, target, size, (major, minor)) = match self.kind {
            Kind::File { size } => (b'0', &b""[..], size, (0, 0)),
            Kind::HardLink(target) => (b'1', target, 0, (0, 0)),
            Kind::Symlink(target) => (b'2', target, 0, (0, 0)),
            Kind::CharDevice { major, minor } => (b'3', &b""[..], 0, (major, minor)),
            Kind::BlockDevice { major, minor } => (b'4', &b""[..], 0, (major, minor)),
            Kind::Directory => (b'5', &b""[..], 0, (0, 0)),
            Kind::Fifo => (b'6', &b""[..], 0, (0, 0)),
        };
        let mut header = Header::new(letter, self.path);
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

    /// What the plain header cannot say.
    fn records(&self) -> Vec<u8> {
        let mut records = Vec::new();
        let is_plain = |text: &[u8]| text.len() <= LONGEST && text.is_ascii();
        if !is_plain(self.path) {
            add(&mut records, b"path", self.path);
        }
        if let Kind::HardLink(target) | Kind::Symlink(target) = self.kind
            && !is_plain(target)
        {
            add(&mut records, b"linkpath", target);
        }
        if let Kind::File { size } = self.kind
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

fn within(number: u64, limit: u64) -> u64 {
    if number <= limit { number } else { 0 }
}

/// Seconds with a fraction. One before 1970 has its sign before both.
fn decimal(time: Time) -> String {
    let Time {
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

/// A record: `<length> <key>=<value>\n`, where the length counts its own digits.
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

struct Header([u8; BLOCK]);

impl Header {
    fn new(letter: u8, path: &[u8]) -> Header {
        let mut header = Header([0; BLOCK]);
        header.text(0, path);
        header.0[156] = letter;
        header.0[257..265].copy_from_slice(b"ustar\x0000");
        header
    }

    fn text(&mut self, at: usize, text: &[u8]) {
        let length = text.len().min(LONGEST);
        self.0[at..at + length].copy_from_slice(&text[..length]);
    }

    /// Octal digits, and a zero byte behind them.
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
    fn a_records_length_counts_itself() {
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
    fn times_have_their_sign_before_both_parts() {
        let of = |seconds, nanoseconds| {
            decimal(Time {
                seconds,
                nanoseconds,
            })
        };
        assert_eq!(of(5, 1), "5.000000001");
        assert_eq!(of(-2, 500_000_000), "-1.500000000");
        assert_eq!(of(-1, 999_999_999), "-0.000000001");
        assert_eq!(of(-7, 0), "-7");
    }
}
