//! The parts of an ELF file (elf(5)) that matter for starting a kernel: its program headers, and
//! the note of its PVH entry point (Xen, "x86/HVM direct boot ABI").

use crate::image_error::InvalidKernel;

/// Length of the file header.
const HEADER_LENGTH: usize = 64;

/// Offsets and values of fields of the file header (`Elf64_Ehdr`).
const EI_CLASS: usize = 4;
const ELFCLASS64_ELFDATA2LSB: [u8; 2] = [2, 1];
const E_MACHINE: usize = 18;
const EM_X86_64: [u8; 2] = [62, 0];
const E_PHOFF: usize = 32;
const E_PHENTSIZE: usize = 54;
const E_PHNUM: usize = 56;

/// Offsets of fields of a program header (`Elf64_Phdr`), and the type of a segment with notes.
const P_TYPE: usize = 0;
const P_OFFSET: usize = 8;
const P_FILESZ: usize = 32;
const PT_NOTE: u32 = 4;

/// Name and type of the note with the PVH entry point (xen/include/public/elfnote.h,
/// `XEN_ELFNOTE_PHYS32_ENTRY`).
const NOTE_NAME: &[u8] = b"Xen\0";
const NOTE_PHYS32_ENTRY: u32 = 18;

/// Length of a note's header: the lengths of name and description, and the type.
const NOTE_HEADER_LENGTH: usize = 12;

/// A segment of the file.
struct Segment {
    kind: u32,
    /// Offset in the file.
    offset: usize,
    length: usize,
}

/// Checks that this is a complete ELF file for x86-64.
pub(crate) fn check(elf: &[u8]) -> Result<(), InvalidKernel> {
    let header = elf
        .get(..HEADER_LENGTH)
        .filter(|header| header.starts_with(b"\x7fELF"))
        .ok_or(InvalidKernel::UnknownFormat)?;
    if header[EI_CLASS..EI_CLASS + 2] != ELFCLASS64_ELFDATA2LSB
        || header[E_MACHINE..E_MACHINE + 2] != EM_X86_64
    {
        return Err(InvalidKernel::OtherArchitecture);
    }
    let is_complete = segments(elf).all(|segment| {
        let end = segment.and_then(|it| it.offset.checked_add(it.length));
        end.is_some_and(|end| end <= elf.len())
    });
    if is_complete {
        Ok(())
    } else {
        Err(InvalidKernel::Truncated)
    }
}

/// Whether the kernel has a PVH entry point (`CONFIG_PVH`), so that the engine can start it
/// directly.
pub(crate) fn has_pvh_entry(elf: &[u8]) -> bool {
    let notes = segments(elf)
        .flatten()
        .filter(|segment| segment.kind == PT_NOTE);
    notes
        .filter_map(|it| elf.get(it.offset..it.offset.checked_add(it.length)?))
        .any(|notes| has_pvh_note(notes).unwrap_or(false))
}

/// Returns `None` when a note is truncated.
fn has_pvh_note(mut notes: &[u8]) -> Option<bool> {
    while let (Some(name), Some(description), Some(kind)) =
        (u32_at(notes, 0), u32_at(notes, 4), u32_at(notes, 8))
    {
        let (name, description) = (name as usize, description as usize);
        let owner = notes.get(NOTE_HEADER_LENGTH..NOTE_HEADER_LENGTH + name)?;
        if owner == NOTE_NAME && kind == NOTE_PHYS32_ENTRY {
            return Some(true);
        }
        let length =
            NOTE_HEADER_LENGTH + name.next_multiple_of(4) + description.next_multiple_of(4);
        notes = notes.get(length..).unwrap_or_default();
    }
    Some(false)
}

/// Iterates over the program headers. An item is `None` when its header is outside of the file.
fn segments(elf: &[u8]) -> impl Iterator<Item = Option<Segment>> {
    let size = usize::from(u16_at(elf, E_PHENTSIZE).unwrap_or(0));
    let count = usize::from(u16_at(elf, E_PHNUM).unwrap_or(0));
    (0..count).map(move |index| {
        let header = offset_at(elf, E_PHOFF)?.checked_add(index * size)?;
        Some(Segment {
            kind: u32_at(elf, header.checked_add(P_TYPE)?)?,
            offset: offset_at(elf, header.checked_add(P_OFFSET)?)?,
            length: offset_at(elf, header.checked_add(P_FILESZ)?)?,
        })
    })
}

fn bytes_at<const LENGTH: usize>(bytes: &[u8], at: usize) -> Option<[u8; LENGTH]> {
    bytes.get(at..at.checked_add(LENGTH)?)?.try_into().ok()
}

fn u16_at(bytes: &[u8], at: usize) -> Option<u16> {
    bytes_at(bytes, at).map(u16::from_le_bytes)
}

/// Reads a little-endian number.
pub(crate) fn u32_at(bytes: &[u8], at: usize) -> Option<u32> {
    bytes_at(bytes, at).map(u32::from_le_bytes)
}

fn offset_at(bytes: &[u8], at: usize) -> Option<usize> {
    usize::try_from(u64::from_le_bytes(bytes_at(bytes, at)?)).ok()
}
