//! Timestamps as inodes store them (Documentation/filesystems/ext4/inodes.rst, "Inode Timestamps").

use crate::{
    Timestamp,
    bytes::{get_u32, put_u32},
    pages::Record,
};

/// Timestamp with 34 bits of seconds and 30 bits of nanoseconds, from 1901 to 2446.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) struct InodeTime {
    /// `i_mtime` and the like: the low 32 bits of the seconds, signed.
    pub seconds: u32,
    /// `i_mtime_extra` and the like: the nanoseconds in the upper 30 bits; in the lower 2 the
    /// number of times that 2^32 seconds are to be added.
    pub extra: u32,
}

impl InodeTime {
    /// Start of 1970, UTC.
    pub(crate) const EPOCH: InodeTime = InodeTime {
        seconds: 0,
        extra: 0,
    };
}

impl Record for InodeTime {
    const SIZE: usize = 8;

    fn write(&self, bytes: &mut [u8]) {
        put_u32(bytes, 0, self.seconds);
        put_u32(bytes, 4, self.extra);
    }

    fn read(bytes: &[u8]) -> InodeTime {
        InodeTime {
            seconds: get_u32(bytes, 0),
            extra: get_u32(bytes, 4),
        }
    }
}

impl From<Timestamp> for InodeTime {
    /// Converts a timestamp; one outside the range becomes the first or last of the range.
    fn from(time: Timestamp) -> InodeTime {
        let first = i64::from(i32::MIN);
        let last = i64::from(i32::MAX) + 3 * (1 << 32);
        let seconds = time.seconds.clamp(first, last);
        let low_bits = (seconds & 0xffff_ffff) as u32;
        let epoch = ((seconds - i64::from(low_bits.cast_signed())) >> 32) as u32 & 3;
        InodeTime {
            seconds: low_bits,
            extra: (time.nanoseconds.min(999_999_999) << 2) | epoch,
        }
    }
}

impl From<InodeTime> for Timestamp {
    fn from(time: InodeTime) -> Timestamp {
        let seconds = i64::from(time.seconds.cast_signed());
        Timestamp {
            seconds: seconds + (i64::from(time.extra & 3) << 32),
            nanoseconds: time.extra >> 2,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_before_1970_and_after_2038_are_encoded() {
        let encoded = |seconds| {
            let time = InodeTime::from(Timestamp {
                seconds,
                nanoseconds: 5,
            });
            (time.seconds, time.extra)
        };
        assert_eq!(encoded(0), (0, 5 << 2));
        assert_eq!(encoded(-1), (u32::MAX, 5 << 2));
        assert_eq!(encoded(1 << 31), (1 << 31, (5 << 2) | 1));
        assert_eq!(encoded(1 << 32), (0, (5 << 2) | 1));
        assert_eq!(encoded(i64::MAX).1 & 3, 3);
    }
}
