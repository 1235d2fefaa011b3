//! Values of extended attributes that have inodes of their own, each one once.

use std::collections::HashMap;

use crate::{bytes::crc, inode::SharedValue};

/// All such values in the order of their inodes' numbers.
#[derive(Debug)]
pub struct Values<'a> {
    /// The first one's inode.
    pub first: u32,
    /// The values and what is known of each.
    pub all: Vec<(&'a [u8], SharedValue)>,
    places: HashMap<&'a [u8], usize>,
}

impl<'a> Values<'a> {
    /// None yet; their inodes will come after this one.
    pub fn after(inode: u32) -> Values<'a> {
        Values {
            first: inode + 1,
            all: Vec::new(),
            places: HashMap::new(),
        }
    }

    /// The inode of this value for one more attribute, and the value's hash. `seed` is the file
    /// system's checksum seed.
    pub fn number(&mut self, value: &'a [u8], seed: u32) -> (u32, u32) {
        let place = *self.places.entry(value).or_insert_with(|| {
            let shared = SharedValue {
                hash: crc(seed, value),
                references: 0,
            };
            self.all.push((value, shared));
            self.all.len() - 1
        });
        let shared = &mut self.all[place].1;
        shared.references += 1;
        (self.first + place as u32, shared.hash)
    }
}
