//! Tables and byte strings that are kept until the image is finished, in bounded memory. They are
//! divided into pages; pages that exceed the limit are swapped to an unnamed temporary file. The
//! file is read and written, not mapped, because access to a mapped file on a full disk kills the
//! process.

use std::{fs::File, io, marker::PhantomData, os::unix::fs::FileExt, path::PathBuf};

use crate::{
    WriteError,
    bytes::{get_u64, put_u64},
};

/// Bytes of a page.
const PAGE_SIZE: usize = 4096;

/// Maximum size of one table or heap in bytes, against images made to exhaust the disk.
const MAX_SIZE: u64 = 8 << 30;

/// Pages by number. As in a direct-mapped cache, each page has one slot in memory, which it shares
/// with others.
#[derive(Debug)]
struct Pages {
    directory: PathBuf,
    /// Created when the first page is swapped out.
    file: Option<File>,
    slots: Vec<Slot>,
    /// Bytes of all slots. The kernel provides memory for a slot only once it is used.
    memory: Vec<u8>,
}

/// State of a slot.
#[derive(Debug, Clone, Copy, Default)]
struct Slot {
    /// Number of the page in it; absent if it was never used.
    page: Option<u64>,
    is_dirty: bool,
}

impl Pages {
    /// Creates pages with this number of slots. The temporary file is created in `directory`.
    fn new(directory: PathBuf, slots: usize) -> Pages {
        Pages {
            directory,
            file: None,
            slots: vec![Slot::default(); slots],
            memory: vec![0; slots * PAGE_SIZE],
        }
    }

    /// Returns a page; it is zero if nothing was written to it.
    fn page(&mut self, number: u64) -> Result<&[u8], WriteError> {
        let slot = self.load(number)?;
        Ok(&self.memory[slot * PAGE_SIZE..(slot + 1) * PAGE_SIZE])
    }

    /// Returns a page for writing.
    fn page_mut(&mut self, number: u64) -> Result<&mut [u8], WriteError> {
        let slot = self.load(number)?;
        self.slots[slot].is_dirty = true;
        Ok(&mut self.memory[slot * PAGE_SIZE..(slot + 1) * PAGE_SIZE])
    }

    /// Loads a page into its slot, if it is not there yet, and returns the slot's number.
    fn load(&mut self, number: u64) -> Result<usize, WriteError> {
        let slot = (number % self.slots.len() as u64) as usize;
        let Slot { page, is_dirty } = self.slots[slot];
        if page == Some(number) {
            return Ok(slot);
        }
        let bytes = &mut self.memory[slot * PAGE_SIZE..(slot + 1) * PAGE_SIZE];
        if let Some(previous) = page {
            if is_dirty {
                let file = match &mut self.file {
                    Some(file) => file,
                    none => {
                        none.insert(tempfile::tempfile_in(&self.directory).map_err(WriteError::Io)?)
                    }
                };
                let written = file.write_all_at(bytes, offset(previous));
                written.map_err(WriteError::Io)?;
            }
            let read = match &self.file {
                Some(file) => read(file, bytes, offset(number)).map_err(WriteError::Io)?,
                None => 0,
            };
            bytes[read..].fill(0);
        }
        self.slots[slot] = Slot {
            page: Some(number),
            is_dirty: false,
        };
        Ok(slot)
    }
}

fn offset(page: u64) -> u64 {
    page * PAGE_SIZE as u64
}

/// Reads a page, or less at the end of the file; returns the number of bytes.
fn read(file: &File, page: &mut [u8], at: u64) -> io::Result<usize> {
    let mut filled = 0;
    while filled < PAGE_SIZE {
        match file.read_at(&mut page[filled..], at + filled as u64) {
            Ok(0) => break,
            Ok(count) => filled += count,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
    Ok(filled)
}

/// Value of fixed size that a [`Table`] stores. Zero bytes must be a valid value, too.
pub(crate) trait Record: Sized {
    /// Size in bytes, at most that of a page.
    const SIZE: usize;

    /// Encodes the value into [`SIZE`](Self::SIZE) bytes.
    fn write(&self, bytes: &mut [u8]);

    /// Decodes the bytes that [`write`](Self::write) wrote.
    fn read(bytes: &[u8]) -> Self;
}

/// Records by number, without a gap.
#[derive(Debug)]
pub(crate) struct Table<R> {
    pages: Pages,
    length: u32,
    records: PhantomData<R>,
}

impl<R: Record> Table<R> {
    const RECORDS_IN_PAGE: u32 = (PAGE_SIZE / R::SIZE) as u32;

    /// Creates an empty one with this number of 4 KiB pages in memory. The temporary file for the
    /// others is created in `directory`.
    pub(crate) fn new(directory: PathBuf, pages_in_memory: usize) -> Table<R> {
        Table {
            pages: Pages::new(directory, pages_in_memory),
            length: 0,
            records: PhantomData,
        }
    }

    /// Returns the number of records.
    pub(crate) fn length(&self) -> u32 {
        self.length
    }

    /// Returns a record, which must have been pushed.
    pub(crate) fn get(&mut self, number: u32) -> Result<R, WriteError> {
        let page = self.pages.page(u64::from(number / Self::RECORDS_IN_PAGE))?;
        let at = (number % Self::RECORDS_IN_PAGE) as usize * R::SIZE;
        Ok(R::read(&page[at..at + R::SIZE]))
    }

    /// Replaces a record.
    pub(crate) fn set(&mut self, number: u32, record: &R) -> Result<(), WriteError> {
        let page = self
            .pages
            .page_mut(u64::from(number / Self::RECORDS_IN_PAGE))?;
        let at = (number % Self::RECORDS_IN_PAGE) as usize * R::SIZE;
        record.write(&mut page[at..at + R::SIZE]);
        Ok(())
    }

    /// Appends a record; returns its number.
    pub(crate) fn push(&mut self, record: &R) -> Result<u32, WriteError> {
        let number = self.length;
        if u64::from(number) * R::SIZE as u64 >= MAX_SIZE {
            return Err(WriteError::TooManyEntries);
        }
        self.set(number, record)?;
        self.length += 1;
        Ok(number)
    }

    /// Removes all records but the first `length`.
    pub(crate) fn truncate(&mut self, length: u32) {
        self.length = self.length.min(length);
    }
}

/// Position of a byte string in a [`Heap`].
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct HeapSlice {
    at: u64,
    length: u16,
}

impl HeapSlice {
    /// Position of an empty string.
    pub(crate) const EMPTY: HeapSlice = HeapSlice { at: 0, length: 0 };

    /// Returns the number of bytes.
    pub(crate) fn length(self) -> usize {
        usize::from(self.length)
    }
}

impl Record for HeapSlice {
    const SIZE: usize = 8;

    fn write(&self, bytes: &mut [u8]) {
        put_u64(bytes, 0, (self.at << 16) | u64::from(self.length));
    }

    fn read(bytes: &[u8]) -> HeapSlice {
        let packed = get_u64(bytes, 0);
        HeapSlice {
            at: packed >> 16,
            length: (packed & 0xffff) as u16,
        }
    }
}

/// Byte strings, one after another.
#[derive(Debug)]
pub(crate) struct Heap {
    pages: Pages,
    length: u64,
}

impl Heap {
    /// Creates an empty one with this number of 4 KiB pages in memory. The temporary file for the
    /// others is created in `directory`.
    pub(crate) fn new(directory: PathBuf, pages_in_memory: usize) -> Heap {
        Heap {
            pages: Pages::new(directory, pages_in_memory),
            length: 0,
        }
    }

    /// Appends a string of less than 64 KiB.
    pub(crate) fn push(&mut self, bytes: &[u8]) -> Result<HeapSlice, WriteError> {
        let length = u16::try_from(bytes.len()).map_err(|_| WriteError::TooManyEntries)?;
        if self.length >= MAX_SIZE {
            return Err(WriteError::TooManyEntries);
        }
        let at = self.length;
        for (page, within, part) in page_parts(at, bytes.len()) {
            self.pages.page_mut(page)?[within..within + part.len()].copy_from_slice(&bytes[part]);
        }
        self.length += u64::from(length);
        Ok(HeapSlice { at, length })
    }

    /// Returns a string.
    pub(crate) fn get(&mut self, slice: HeapSlice) -> Result<Vec<u8>, WriteError> {
        let mut bytes = Vec::with_capacity(slice.length());
        for (page, within, part) in page_parts(slice.at, slice.length()) {
            let page = self.pages.page(page)?;
            bytes.extend_from_slice(&page[within..within + part.len()]);
        }
        Ok(bytes)
    }

    /// Returns whether a string consists of these bytes.
    pub(crate) fn equals(&mut self, slice: HeapSlice, bytes: &[u8]) -> Result<bool, WriteError> {
        if slice.length() != bytes.len() {
            return Ok(false);
        }
        for (page, within, part) in page_parts(slice.at, slice.length()) {
            let page = self.pages.page(page)?;
            if page[within..within + part.len()] != bytes[part] {
                return Ok(false);
            }
        }
        Ok(true)
    }
}

/// Splits `length` bytes at position `at` by pages. Each part is the number of a page, the offset
/// in it, and the range of the bytes.
fn page_parts(
    at: u64,
    length: usize,
) -> impl Iterator<Item = (u64, usize, std::ops::Range<usize>)> {
    let mut done = 0;
    std::iter::from_fn(move || {
        let here = at + done as u64;
        let within = (here % PAGE_SIZE as u64) as usize;
        let end = length.min(done + PAGE_SIZE - within);
        let part = done..end;
        done = end;
        (!part.is_empty()).then_some((here / PAGE_SIZE as u64, within, part))
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::bytes::{get_u32, put_u32};

    impl Record for u32 {
        const SIZE: usize = 4;

        fn write(&self, bytes: &mut [u8]) {
            put_u32(bytes, 0, *self);
        }

        fn read(bytes: &[u8]) -> u32 {
            get_u32(bytes, 0)
        }
    }

    #[test]
    fn evicted_pages_are_read_back() {
        let directory = tempfile::tempdir().unwrap();
        let mut table = Table::new(directory.path().to_owned(), 2);
        let count = 10 * PAGE_SIZE as u32;
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
    fn strings_may_cross_pages() {
        let directory = tempfile::tempdir().unwrap();
        let mut heap = Heap::new(directory.path().to_owned(), 2);
        let strings = (0..2000usize).map(|number| vec![number as u8; number * 7 % 9001]);
        let stored: Vec<_> = strings
            .map(|string| (heap.push(&string).unwrap(), string))
            .collect();
        for (slice, string) in &stored {
            assert_eq!(&heap.get(*slice).unwrap(), string);
            assert!(heap.equals(*slice, string).unwrap());
            assert!(!heap.equals(*slice, &[&string[..], b"x"].concat()).unwrap());
        }
        let (last, string) = stored.last().unwrap();
        let mut other = string.clone();
        *other.last_mut().unwrap() ^= 1;
        assert!(!heap.equals(*last, &other).unwrap());
    }
}
