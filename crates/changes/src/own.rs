//! What belongs to the machine and not to an image made from it: see the [crate].

use rustix::fs::FileType;

/// What becomes of an entry.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Treatment {
    /// It is in the image as in the machine.
    Taken,
    /// It is not spoken of: the image has of it what the base has.
    LeftOut,
    /// It is a file with nothing in it.
    Emptied,
}

/// What becomes of the entry with this path, from the root without a slash before it.
pub fn treatment(path: &[u8], file_type: FileType) -> Treatment {
    match path {
        b"lost+found"
        | b"etc/hostname"
        | b"etc/hosts"
        | b"etc/resolv.conf"
        | b"var/host-services"
        | b"var/lib/systemd/random-seed"
        | b"var/lib/systemd/credential.secret" => Treatment::LeftOut,
        b"var/lib/dbus/machine-id" if file_type == FileType::RegularFile => Treatment::LeftOut,
        b"etc/machine-id" if file_type == FileType::RegularFile => Treatment::Emptied,
        _ if path.starts_with(b"var/log/journal/") => Treatment::LeftOut,
        _ => Treatment::Taken,
    }
}

/// Whether a file of that size is one for swapping, by what stands at the end of its first page
/// (mkswap(8)).
pub fn is_swap(size: u64, read_at: impl FnOnce(&mut [u8], u64) -> bool) -> bool {
    const MAGIC: &[u8; 10] = b"SWAPSPACE2";
    const PAGE: u64 = 4096;
    let mut found = [0; MAGIC.len()];
    size >= 10 * PAGE && read_at(&mut found, PAGE - MAGIC.len() as u64) && &found == MAGIC
}
