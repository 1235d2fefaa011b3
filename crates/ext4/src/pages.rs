//! What has to be kept until the end, however much it is: in pages, of which a few are in memory
//! and the others in a file that has no name.

use std::{fs::File, io, marker::PhantomData, os::unix::fs::FileExt, path::PathBuf};

use crate::Error;

/// Bytes of a page.
const PAGE: usize = 4096;

/// What one table or heap may take. No honest image comes near it.
const MOST: u64 = 8 << 30;

/// Pages by number. Each has one place in memory, which it shares with others.
#[derive(Debug)]
struct Pages {
    directory: PathBuf,
    /// Made when the first page has to leave memory.
    file: Option<File>,
    places: Vec<Place>,
    /// The bytes of all places. Zeroes until they are used, they take no memory before.
    memory: Vec<u8>,
}

/// What is in a place.
#[derive(Debug, Clone, Copy, Default)]
struct Place {
    /// A page's number, if one was ever there.
    page: Option<u64>,
    is_changed: bool,
}

impl Pages {
    /// None yet; this many will be in memory, the others in this directory.
    fn new(directory: PathBuf, in_memory: usize) -> Pages {
        Pages {
            directory,
            file: None,
            places: vec![Place::default(); in_memory],
            memory: vec![0; in_memory * PAGE],
        }
    }

    /// A page; of zeroes if nothing was written to it.
    fn page(&mut self, number: u64) -> Result<&[u8], Error> {
        let place = self.bring(number)?;
        Ok(&self.memory[place * PAGE..(place + 1) * PAGE])
    }

    /// A page to be written to.
    fn page_mut(&mut self, number: u64) -> Result<&mut [u8], Error> {
        let place = self.bring(number)?;
        self.places[place].is_changed = true;
        Ok(&mut self.memory[place * PAGE..(place + 1) * PAGE])
    }

    /// Sees to it that a page is in its place, and returns that.
    fn bring(&mut self, number: u64) -> Result<usize, Error> {
        let place = (number % self.places.len() as u64) as usize;
        let Place { page, is_changed } = self.places[place];
        if page == Some(number) {
            return Ok(place);
        }
        let bytes = &mut self.memory[place * PAGE..(place + 1) * PAGE];
        if let Some(before) = page {
            if is_changed {
                let file = match &mut self.file {
                    Some(file) => file,
                    none => none.insert(tempfile::tempfile_in(&self.directory).map_err(Error::Io)?),
                };
                let written = file.write_all_at(bytes, offset(before));
                written.map_err(Error::Io)?;
            }
            let read = match &self.file {
                Some(file) => read(file, bytes, offset(number)).map_err(Error::Io)?,
                None => 0,
            };
            bytes[read..].fill(0);
        }
        self.places[place] = Place {
            page: Some(number),
            is_changed: false,
        };
        Ok(place)
    }
}

fn offset(page: u64) -> u64 {
    page * PAGE as u64
}

/// Reads up to the end of the file; returns how many bytes that were.
fn read(file: &File, page: &mut [u8], at: u64) -> io::Result<usize> {
    let mut filled = 0;
    while filled < PAGE {
        match file.read_at(&mut page[filled..], at + filled as u64) {
            Ok(0) => break,
            Ok(count) => filled += count,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
    Ok(filled)
}

/// Something of a fixed size that a [`Table`] keeps. All bytes zero is one, too.
pub trait Record: Sized {
    /// Bytes that it takes.
    const SIZE: usize;

    /// Writes it to so many bytes.
    fn write(&self, bytes: &mut [u8]);

    /// Reads what was written.
    fn read(bytes: &[u8]) -> Self;
}

impl Record for u32 {
    const SIZE: usize = 4;

    fn write(&self, bytes: &mut [u8]) {
        bytes.copy_from_slice(&self.to_le_bytes());
    }

    fn read(bytes: &[u8]) -> u32 {
        crate::bytes::get_u32(bytes, 0)
    }
}

/// Records by number.
#[derive(Debug)]
pub struct Table<R> {
    pages: Pages,
    length: u32,
    records: PhantomData<R>,
}

impl<R: Record> Table<R> {
    const IN_PAGE: u32 = (PAGE / R::SIZE) as u32;

    /// None yet; so many pages of 4 KiB will be in memory, the others in this directory.
    pub fn new(directory: PathBuf, in_memory: usize) -> Table<R> {
        Table {
            pages: Pages::new(directory, in_memory),
            length: 0,
            records: PhantomData,
        }
    }

    /// How many there are.
    pub fn length(&self) -> u32 {
        self.length
    }

    /// The record of this number, which was pushed.
    pub fn get(&mut self, number: u32) -> Result<R, Error> {
        let page = self.pages.page(u64::from(number / Self::IN_PAGE))?;
        let at = (number % Self::IN_PAGE) as usize * R::SIZE;
        Ok(R::read(&page[at..at + R::SIZE]))
    }

    /// Writes the record of this number anew.
    pub fn set(&mut self, number: u32, record: &R) -> Result<(), Error> {
        let page = self.pages.page_mut(u64::from(number / Self::IN_PAGE))?;
        let at = (number % Self::IN_PAGE) as usize * R::SIZE;
        record.write(&mut page[at..at + R::SIZE]);
        Ok(())
    }

    /// Adds one; returns its number.
    pub fn push(&mut self, record: &R) -> Result<u32, Error> {
        let number = self.length;
        if u64::from(number) * R::SIZE as u64 >= MOST {
            return Err(Error::TooManyEntries);
        }
        self.set(number, record)?;
        self.length += 1;
        Ok(number)
    }

    /// Takes back all but the first `length`.
    pub fn truncate(&mut self, length: u32) {
        self.length = self.length.min(length);
    }
}

/// Bytes in a [`Heap`].
#[derive(Debug, Clone, Copy, Default)]
pub struct Kept {
    at: u64,
    length: u16,
}

impl Kept {
    /// No bytes.
    pub const NOTHING: Kept = Kept { at: 0, length: 0 };

    /// How many there are.
    pub fn length(self) -> usize {
        usize::from(self.length)
    }
}

impl Record for Kept {
    const SIZE: usize = 8;

    fn write(&self, bytes: &mut [u8]) {
        let packed = (self.at << 16) | u64::from(self.length);
        bytes.copy_from_slice(&packed.to_le_bytes());
    }

    fn read(bytes: &[u8]) -> Kept {
        let packed = u64::from_le_bytes(std::array::from_fn(|number| bytes[number]));
        Kept {
            at: packed >> 16,
            length: (packed & 0xffff) as u16,
        }
    }
}

/// Strings of bytes, one behind the other.
#[derive(Debug)]
pub struct Heap {
    pages: Pages,
    length: u64,
}

impl Heap {
    /// None yet; so many pages of 4 KiB will be in memory, the others in this directory.
    pub fn new(directory: PathBuf, in_memory: usize) -> Heap {
        Heap {
            pages: Pages::new(directory, in_memory),
            length: 0,
        }
    }

    /// Keeps these bytes, fewer than 64 KiB.
    pub fn keep(&mut self, bytes: &[u8]) -> Result<Kept, Error> {
        let length = u16::try_from(bytes.len()).map_err(|_| Error::TooManyEntries)?;
        if self.length >= MOST {
            return Err(Error::TooManyEntries);
        }
        let at = self.length;
        for (page, within, part) in parts(at, bytes.len()) {
            self.pages.page_mut(page)?[within..within + part.len()].copy_from_slice(&bytes[part]);
        }
        self.length += u64::from(length);
        Ok(Kept { at, length })
    }

    /// The bytes that were kept.
    pub fn get(&mut self, kept: Kept) -> Result<Vec<u8>, Error> {
        let mut bytes = Vec::with_capacity(kept.length());
        for (page, within, part) in parts(kept.at, kept.length()) {
            let page = self.pages.page(page)?;
            bytes.extend_from_slice(&page[within..within + part.len()]);
        }
        Ok(bytes)
    }

    /// Whether these are the bytes that were kept.
    pub fn is(&mut self, kept: Kept, bytes: &[u8]) -> Result<bool, Error> {
        if kept.length() != bytes.len() {
            return Ok(false);
        }
        for (page, within, part) in parts(kept.at, kept.length()) {
            let page = self.pages.page(page)?;
            if page[within..within + part.len()] != bytes[part] {
                return Ok(false);
            }
        }
        Ok(true)
    }
}

/// Which pages so many bytes at `at` are on: page, place in it, and which of the bytes.
fn parts(at: u64, length: usize) -> impl Iterator<Item = (u64, usize, std::ops::Range<usize>)> {
    let mut done = 0;
    std::iter::from_fn(move || {
        let here = at + done as u64;
        let within = (here % PAGE as u64) as usize;
        let end = length.min(done + PAGE - within);
        let part = done..end;
        done = end;
        (!part.is_empty()).then_some((here / PAGE as u64, within, part))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_has_left_memory_comes_back() {
        let directory = tempfile::tempdir().unwrap();
        let mut table = Table::new(directory.path().to_owned(), 2);
        let count = 10 * PAGE as u32;
        for number in 0..count {
            assert_eq!(table.push(&(number * 3)).unwrap(), number);
        }
        for number in (0..count).rev().step_by(7) {
            table.set(number, &number).unwrap();
        }
        for number in 0..count {
            let is_new = (count - 1 - number).is_multiple_of(7);
            let expected = if is_new { number } else { number * 3 };
            assert_eq!(table.get(number).unwrap(), expected);
        }
        table.truncate(5);
        assert_eq!(table.push(&1).unwrap(), 5);
    }

    #[test]
    fn strings_lie_over_the_edges_of_pages() {
        let directory = tempfile::tempdir().unwrap();
        let mut heap = Heap::new(directory.path().to_owned(), 2);
        let strings = (0..2000usize).map(|number| vec![number as u8; number * 7 % 9001]);
        let kept: Vec<_> = strings
            .map(|string| (heap.keep(&string).unwrap(), string))
            .collect();
        for (kept, string) in &kept {
            assert_eq!(&heap.get(*kept).unwrap(), string);
            assert!(heap.is(*kept, string).unwrap());
            assert!(!heap.is(*kept, &[&string[..], b"x"].concat()).unwrap());
        }
        let (last, string) = kept.last().unwrap();
        let mut other = string.clone();
        *other.last_mut().unwrap() ^= 1;
        assert!(!heap.is(*last, &other).unwrap());
    }
}
