//! PAX extended headers: records `<length> <key>=<value>\n`.

use super::{TarError, Time};

/// What extended headers say about a member. A later record counts more than an earlier one.
#[derive(Debug, Clone, Default)]
pub(super) struct Pax {
    pub(super) path: Option<Vec<u8>>,
    pub(super) link_path: Option<Vec<u8>>,
    pub(super) size: Option<u64>,
    pub(super) uid: Option<u32>,
    pub(super) gid: Option<u32>,
    pub(super) mtime: Option<Time>,
    pub(super) xattrs: Vec<(Vec<u8>, Vec<u8>)>,
    pub(super) sparse: PaxSparse,
}

/// GNU's records about holes, formats 0.0, 0.1 and 1.0.
#[derive(Debug, Clone, Default)]
pub(super) struct PaxSparse {
    pub(super) name: Option<Vec<u8>>,
    /// The size with holes.
    pub(super) size: Option<u64>,
    /// Offsets and lengths in turn: formats 0.0 and 0.1.
    pub(super) map: Vec<u64>,
    pub(super) is_0: bool,
    pub(super) major: Option<u64>,
    pub(super) minor: Option<u64>,
}

const XATTR: &[u8] = b"SCHILY.xattr.";

/// Extended attributes of one member: more than any file system keeps.
const MOST_XATTRS: usize = 1000;

impl Pax {
    /// Takes the records of one more extended header.
    pub(super) fn add(&mut self, mut records: &[u8]) -> Result<(), TarError> {
        // Some writers fill the header's last block with zeroes and count them.
        while !records.is_empty() && !records.iter().all(|byte| *byte == 0) {
            let Record { key, value, rest } = first(records)?;
            self.take(key, value)?;
            records = rest;
        }
        Ok(())
    }

    fn take(&mut self, key: &[u8], value: &[u8]) -> Result<(), TarError> {
        if let Some(name) = key.strip_prefix(XATTR) {
            self.xattrs.retain(|(taken, _)| taken != name);
            if self.xattrs.len() == MOST_XATTRS {
                return Err(TarError::Malformed(
                    "a file in it has more than a thousand extended attributes",
                ));
            }
            self.xattrs.push((name.to_vec(), value.to_vec()));
            return Ok(());
        }
        // An empty value takes back what a global header said.
        let text = (!value.is_empty()).then(|| value.to_vec());
        match key {
            b"path" => self.path = text,
            b"linkpath" => self.link_path = text,
            b"size" => self.size = filled(value, decimal)?,
            b"uid" => self.uid = filled(value, small)?,
            b"gid" => self.gid = filled(value, small)?,
            b"mtime" => self.mtime = filled(value, time)?,
            b"GNU.sparse.name" => self.sparse.name = text,
            b"GNU.sparse.realsize" | b"GNU.sparse.size" => {
                self.sparse.size = filled(value, decimal)?;
            }
            b"GNU.sparse.major" => self.sparse.major = filled(value, decimal)?,
            b"GNU.sparse.minor" => self.sparse.minor = filled(value, decimal)?,
            b"GNU.sparse.numblocks" => self.sparse.is_0 = true,
            b"GNU.sparse.offset" | b"GNU.sparse.numbytes" => {
                // They come in turn, an offset first.
                let is_offset = self.sparse.map.len().is_multiple_of(2);
                if is_offset != (key == b"GNU.sparse.offset") {
                    return Err(TarError::Malformed("a list of holes in it is out of order"));
                }
                self.sparse.map.push(decimal(value)?);
            }
            b"GNU.sparse.map" => {
                self.sparse.is_0 = true;
                let numbers = value.split(|byte| *byte == b',');
                let numbers = numbers.filter(|number| !number.is_empty());
                self.sparse.map = numbers.map(decimal).collect::<Result<_, _>>()?;
            }
            _ => {}
        }
        Ok(())
    }

    /// What a global header said goes below what a member's own says.
    pub(super) fn over(self, global: &Pax) -> Pax {
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

/// The first record, and what follows it.
fn first(records: &[u8]) -> Result<Record<'_>, TarError> {
    let parsed = || {
        let space = records.iter().take(20).position(|byte| *byte == b' ')?;
        let length = decimal(&records[..space]).ok()?;
        let length = usize::try_from(length).ok()?;
        let (record, rest) = records.split_at_checked(length)?;
        let record = record.strip_suffix(b"\n")?.get(space + 1..)?;
        let equals = record.iter().position(|byte| *byte == b'=')?;
        let (key, value) = record.split_at(equals);
        let value = &value[1..];
        (!key.is_empty()).then_some(Record { key, value, rest })
    };
    parsed().ok_or(TarError::Malformed("an extended header in it is malformed"))
}

fn filled<T>(
    value: &[u8],
    read: impl Fn(&[u8]) -> Result<T, TarError>,
) -> Result<Option<T>, TarError> {
    if value.is_empty() {
        Ok(None)
    } else {
        read(value).map(Some)
    }
}

pub(super) fn decimal(value: &[u8]) -> Result<u64, TarError> {
    let is_plain = !value.is_empty() && value.iter().all(u8::is_ascii_digit);
    let number = str::from_utf8(value).ok().filter(|_| is_plain);
    let number = number.and_then(|number| number.parse().ok());
    number.ok_or(TarError::Malformed(
        "a number in an extended header of it is none",
    ))
}

fn small(value: &[u8]) -> Result<u32, TarError> {
    u32::try_from(decimal(value)?)
        .map_err(|_| TarError::Malformed("an owner in it is out of range"))
}

/// Seconds with a fraction, such as `-12.5`.
fn time(value: &[u8]) -> Result<Time, TarError> {
    let (is_negative, digits) = match value.strip_prefix(b"-") {
        Some(digits) => (true, digits),
        None => (false, value),
    };
    let mut parts = digits.splitn(2, |byte| *byte == b'.');
    let whole = decimal(parts.next().unwrap_or_default())?;
    let fraction = parts.next().unwrap_or_default();
    if !fraction.iter().all(u8::is_ascii_digit) {
        return Err(TarError::Malformed("a time in it is none"));
    }
    let digits = fraction.iter().chain(std::iter::repeat(&b'0')).take(9);
    let nanoseconds = digits.fold(0, |sum, digit| sum * 10 + u32::from(digit - b'0'));
    let whole =
        i64::try_from(whole).map_err(|_| TarError::Malformed("a time in it is out of range"))?;
    Ok(match (is_negative, nanoseconds) {
        (false, _) => Time {
            seconds: whole,
            nanoseconds,
        },
        (true, 0) => Time {
            seconds: -whole,
            nanoseconds,
        },
        (true, _) => Time {
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
    fn records_are_as_long_as_they_say() {
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
    fn times_have_fractions_on_both_sides_of_1970() {
        let at = |text: &[u8]| {
            let Time {
                seconds,
                nanoseconds,
            } = time(text).unwrap();
            (seconds, nanoseconds)
        };
        assert_eq!(at(b"12.5"), (12, 500_000_000));
        assert_eq!(at(b"1700000000.1234567891"), (1_700_000_000, 123_456_789));
        assert_eq!(at(b"-1.25"), (-2, 750_000_000));
        assert_eq!(at(b"-3"), (-3, 0));
        assert!(time(b"1.x").is_err());
        assert!(time(b"99999999999999999999").is_err());
    }

    #[test]
    fn own_records_count_more_than_global_ones() {
        let global = read(b"11 path=ab\n9 uid=12\n").unwrap();
        let own = read(b"9 uid=34\n").unwrap().over(&global);
        assert_eq!(
            (own.uid, own.path.as_deref()),
            (Some(34), Some(b"ab".as_slice()))
        );
    }
}
