//! PAX extended headers: records `<length> <key>=<value>\n`.

use super::{MemberTime, TarError};

/// Records of a member's extended headers. A later record replaces an earlier one.
#[derive(Debug, Clone, Default)]
pub(super) struct Pax {
    pub(super) path: Option<Vec<u8>>,
    pub(super) link_path: Option<Vec<u8>>,
    pub(super) size: Option<u64>,
    pub(super) uid: Option<u32>,
    pub(super) gid: Option<u32>,
    pub(super) mtime: Option<MemberTime>,
    pub(super) xattrs: Vec<(Vec<u8>, Vec<u8>)>,
    pub(super) sparse: PaxSparse,
}

/// GNU's records for sparse files, formats 0.0, 0.1 and 1.0.
#[derive(Debug, Clone, Default)]
pub(super) struct PaxSparse {
    pub(super) name: Option<Vec<u8>>,
    /// Size in bytes, holes included.
    pub(super) size: Option<u64>,
    /// Alternating offsets and lengths of formats 0.0 and 0.1.
    pub(super) map: Vec<u64>,
    pub(super) is_0: bool,
    pub(super) major: Option<u64>,
    pub(super) minor: Option<u64>,
}

const XATTR: &[u8] = b"SCHILY.xattr.";

/// Maximum number of a member's extended attributes, more than any file system stores.
const MOST_XATTRS: usize = 1000;

impl Pax {
    /// Applies the records of an extended header.
    pub(super) fn add(&mut self, mut records: &[u8]) -> Result<(), TarError> {
        // Some writers count the zeroes that pad the header's last block.
        while !records.is_empty() && !records.iter().all(|byte| *byte == 0) {
            let Record { key, value, rest } = first(records)?;
            self.apply(key, value)?;
            records = rest;
        }
        Ok(())
    }

    fn apply(&mut self, key: &[u8], value: &[u8]) -> Result<(), TarError> {
        if let Some(name) = key.strip_prefix(XATTR) {
            self.xattrs.retain(|(taken, _)| taken != name);
            if self.xattrs.len() == MOST_XATTRS {
                return Err(TarError::Malformed(
                    "a file has more than a thousand extended attributes",
                ));
            }
            self.xattrs.push((name.to_vec(), value.to_vec()));
            return Ok(());
        }
        // An empty value unsets the record of a global header.
        let text = (!value.is_empty()).then(|| value.to_vec());
        match key {
            b"path" => self.path = text,
            b"linkpath" => self.link_path = text,
            b"size" => self.size = optional(value, parse_u64)?,
            b"uid" => self.uid = optional(value, parse_u32)?,
            b"gid" => self.gid = optional(value, parse_u32)?,
            b"mtime" => self.mtime = optional(value, parse_time)?,
            b"GNU.sparse.name" => self.sparse.name = text,
            b"GNU.sparse.realsize" | b"GNU.sparse.size" => {
                self.sparse.size = optional(value, parse_u64)?;
            }
            b"GNU.sparse.major" => self.sparse.major = optional(value, parse_u64)?,
            b"GNU.sparse.minor" => self.sparse.minor = optional(value, parse_u64)?,
            b"GNU.sparse.numblocks" => self.sparse.is_0 = true,
            b"GNU.sparse.offset" | b"GNU.sparse.numbytes" => {
                // Offsets and lengths alternate, an offset first.
                let is_offset = self.sparse.map.len().is_multiple_of(2);
                if is_offset != (key == b"GNU.sparse.offset") {
                    return Err(TarError::Malformed("a sparse map is out of order"));
                }
                self.sparse.map.push(parse_u64(value)?);
            }
            b"GNU.sparse.map" => {
                self.sparse.is_0 = true;
                let numbers = value.split(|byte| *byte == b',');
                let numbers = numbers.filter(|number| !number.is_empty());
                self.sparse.map = numbers.map(parse_u64).collect::<Result<_, _>>()?;
            }
            _ => {}
        }
        Ok(())
    }

    /// Fills absent records from a global header.
    pub(super) fn with_defaults(self, global: &Pax) -> Pax {
        Pax {
            path: self.path.or(global.path.clone()),
            link_path: self.link_path.or(global.link_path.clone()),
            size: self.size.or(global.size),
            uid: self.uid.or(global.uid),
            gid: self.gid.or(global.gid),
            mtime: self.mtime.or(global.mtime),
            xattrs: self.xattrs,
            sparse: self.sparse,
        }
    }
}

struct Record<'a> {
    key: &'a [u8],
    value: &'a [u8],
    rest: &'a [u8],
}

/// Splits off the first record.
fn first(records: &[u8]) -> Result<Record<'_>, TarError> {
    let parsed = || {
        let space = records.iter().take(20).position(|byte| *byte == b' ')?;
        let length = parse_u64(&records[..space]).ok()?;
        let length = usize::try_from(length).ok()?;
        let (record, rest) = records.split_at_checked(length)?;
        let record = record.strip_suffix(b"\n")?.get(space + 1..)?;
        let equals = record.iter().position(|byte| *byte == b'=')?;
        let (key, value) = record.split_at(equals);
        let value = &value[1..];
        (!key.is_empty()).then_some(Record { key, value, rest })
    };
    parsed().ok_or(TarError::Malformed("invalid extended header"))
}

fn optional<T>(
    value: &[u8],
    read: impl Fn(&[u8]) -> Result<T, TarError>,
) -> Result<Option<T>, TarError> {
    if value.is_empty() {
        Ok(None)
    } else {
        read(value).map(Some)
    }
}

pub(super) fn parse_u64(value: &[u8]) -> Result<u64, TarError> {
    let is_plain = !value.is_empty() && value.iter().all(u8::is_ascii_digit);
    let number = str::from_utf8(value).ok().filter(|_| is_plain);
    let number = number.and_then(|number| number.parse().ok());
    number.ok_or(TarError::Malformed("invalid number in an extended header"))
}

fn parse_u32(value: &[u8]) -> Result<u32, TarError> {
    u32::try_from(parse_u64(value)?).map_err(|_| TarError::Malformed("an owner is out of range"))
}

/// Parses seconds with an optional fraction, such as `-12.5`. Digits after the ninth are dropped.
fn parse_time(value: &[u8]) -> Result<MemberTime, TarError> {
    let (is_negative, digits) = match value.strip_prefix(b"-") {
        Some(digits) => (true, digits),
        None => (false, value),
    };
    let mut parts = digits.splitn(2, |byte| *byte == b'.');
    let whole = parse_u64(parts.next().unwrap_or_default())?;
    let fraction = parts.next().unwrap_or_default();
    if !fraction.iter().all(u8::is_ascii_digit) {
        return Err(TarError::Malformed("invalid timestamp"));
    }
    let digits = fraction.iter().chain(std::iter::repeat(&b'0')).take(9);
    let nanoseconds = digits.fold(0, |sum, digit| sum * 10 + u32::from(digit - b'0'));
    let whole =
        i64::try_from(whole).map_err(|_| TarError::Malformed("a timestamp is out of range"))?;
    Ok(match (is_negative, nanoseconds) {
        (false, _) => MemberTime {
            seconds: whole,
            nanoseconds,
        },
        (true, 0) => MemberTime {
            seconds: -whole,
            nanoseconds,
        },
        (true, _) => MemberTime {
            seconds: -whole - 1,
            nanoseconds: 1_000_000_000 - nanoseconds,
        },
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(records: &[u8]) -> Result<Pax, TarError> {
        let mut pax = Pax::default();
        pax.add(records).map(|()| pax)
    }

    #[test]
    fn records_have_the_length_they_state() {
        let pax = read(b"11 path=ab\n34 SCHILY.xattr.user.x=1\n2=3\n4567\n12 uid=4242\n").unwrap();
        assert_eq!(pax.path.as_deref(), Some(b"ab".as_slice()));
        assert_eq!(pax.xattrs, [(b"user.x".to_vec(), b"1\n2=3\n4567".to_vec())]);
        assert_eq!(pax.uid, Some(4242));
    }

    #[test]
    fn malformed_records_are_refused() {
        let huge = format!("{} path=a\n", u64::MAX);
        for records in [
            b"x".as_slice(),
            b"5 path=ab\n",
            b"99 path=ab\n",
            b"11 pathxab\n",
            b"11 path=abX",
            b"0 path=ab\n",
            b"3 \n",
            b"8 uid=-1\n",
            b"10 size=x\n",
            b"27 uid=999999999999999999\n",
            b"23 GNU.sparse.offset=\n",
            b"25 GNU.sparse.numbytes=1\n",
            huge.as_bytes(),
        ] {
            assert!(
                read(records).is_err(),
                "{}",
                String::from_utf8_lossy(records)
            );
        }
    }

    #[test]
    fn timestamps_before_and_after_1970_have_fractions() {
        let at = |text: &[u8]| {
            let MemberTime {
                seconds,
                nanoseconds,
            } = parse_time(text).unwrap();
            (seconds, nanoseconds)
        };
        assert_eq!(at(b"12.5"), (12, 500_000_000));
        assert_eq!(at(b"1700000000.1234567891"), (1_700_000_000, 123_456_789));
        assert_eq!(at(b"-1.25"), (-2, 750_000_000));
        assert_eq!(at(b"-3"), (-3, 0));
        assert!(parse_time(b"1.x").is_err());
        assert!(parse_time(b"99999999999999999999").is_err());
    }

    #[test]
    fn own_records_override_global_ones() {
        let global = read(b"11 path=ab\n9 uid=12\n").unwrap();
        let own = read(b"9 uid=34\n").unwrap().with_defaults(&global);
        assert_eq!(
            (own.uid, own.path.as_deref()),
            (Some(34), Some(b"ab".as_slice()))
        );
    }
}
