//! Records of a fanotify group (fanotify(7)).

use std::{
    ffi::{CStr, CString},
    fs::File,
    io,
};

use rustix::fs::fstatvfs;
use virtiofsd::oslib::{CFileHandle, name_to_handle_at};

/// Length of `struct fanotify_event_metadata`.
const METADATA_LENGTH: usize = 24;

/// Length of `struct fanotify_event_info_header`.
const INFORMATION_HEADER_LENGTH: usize = 4;

/// Flag of name_to_handle_at(2) for a handle that need not be opened (since Linux 6.5). Some file
/// systems have only those.
const AT_HANDLE_FID: i32 = 0x200;

/// A file in events.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub(crate) struct EventFile {
    file_system: u64,
    handle_type: i32,
    handle: Box<[u8]>,
}

impl EventFile {
    /// Returns a file as it appears in events.
    pub(crate) fn of(file: &File) -> io::Result<EventFile> {
        let mut handle = CFileHandle::default();
        let mut mount = 0;
        let flags = libc::AT_EMPTY_PATH;
        name_to_handle_at(file, c"", &mut handle, &mut mount, flags).or_else(|_| {
            handle = CFileHandle::default();
            name_to_handle_at(file, c"", &mut handle, &mut mount, flags | AT_HANDLE_FID)
        })?;
        Ok(EventFile {
            file_system: fstatvfs(file)?.f_fsid,
            handle_type: handle.handle_type(),
            handle: handle.as_bytes().into(),
        })
    }
}

/// A name in a directory. That of the directory itself is `.`.
pub(crate) type EventEntry = (EventFile, CString);

/// An event.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Record {
    /// `FAN_…`, more than one if the kernel has merged events.
    pub mask: u64,
    /// Process that caused it; 0 for others than this one if the user may not know.
    pub process: i32,
    /// The file.
    pub file: Option<EventFile>,
    /// Its name in its directory.
    pub entry: Option<EventEntry>,
    /// Names before and after a rename. The kernel leaves that of an unwatched directory out.
    pub old_entry: Option<EventEntry>,
    pub new_entry: Option<EventEntry>,
}

/// Parses the records in a buffer that the kernel has filled.
pub(crate) fn records(mut buffer: &[u8]) -> Vec<Record> {
    let mut records = Vec::new();
    while let Some((record, rest)) = split_record(buffer) {
        records.extend(parse(record));
        buffer = rest;
    }
    records
}

fn split_record(buffer: &[u8]) -> Option<(&[u8], &[u8])> {
    let length = u32::from_ne_bytes(*buffer.first_chunk()?) as usize;
    (length >= METADATA_LENGTH).then_some(())?;
    buffer.split_at_checked(length)
}

fn parse(bytes: &[u8]) -> Option<Record> {
    let metadata_length = u16::from_ne_bytes(field(bytes, 6)?);
    let mut record = Record {
        mask: u64::from_ne_bytes(field(bytes, 8)?),
        process: i32::from_ne_bytes(field(bytes, 20)?),
        ..Record::default()
    };
    let mut information = bytes.get(usize::from(metadata_length)..)?;
    while let [kind, _, length @ ..] = information {
        let length = usize::from(u16::from_ne_bytes(*length.first_chunk()?));
        if length < INFORMATION_HEADER_LENGTH {
            return None;
        }
        let (item, rest) = information.split_at_checked(length)?;
        information = rest;
        let Some((file, name)) = parse_file(item) else {
            continue;
        };
        match *kind {
            libc::FAN_EVENT_INFO_TYPE_FID => record.file = Some(file),
            libc::FAN_EVENT_INFO_TYPE_DFID | libc::FAN_EVENT_INFO_TYPE_DFID_NAME => {
                record.entry = Some((file, name));
            }
            libc::FAN_EVENT_INFO_TYPE_OLD_DFID_NAME => record.old_entry = Some((file, name)),
            libc::FAN_EVENT_INFO_TYPE_NEW_DFID_NAME => record.new_entry = Some((file, name)),
            _ => {}
        }
    }
    Some(record)
}

/// Parses `struct fanotify_event_info_fid`, which may end in a name.
fn parse_file(bytes: &[u8]) -> Option<EventEntry> {
    let length = u32::from_ne_bytes(field(bytes, 12)?) as usize;
    let (handle, name) = bytes.get(20..)?.split_at_checked(length)?;
    let file = EventFile {
        file_system: u64::from_ne_bytes(field(bytes, 4)?),
        handle_type: i32::from_ne_bytes(field(bytes, 16)?),
        handle: handle.into(),
    };
    let name = CStr::from_bytes_until_nul(name).unwrap_or(c"");
    let name = if name.is_empty() { c"." } else { name };
    Some((file, name.to_owned()))
}

fn field<const N: usize>(bytes: &[u8], offset: usize) -> Option<[u8; N]> {
    bytes.get(offset..)?.first_chunk().copied()
}
