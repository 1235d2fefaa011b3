//! Files that belong to one machine and are not part of an image; the [crate] lists them.

use rustix::fs::FileType;

/// File in a directory below `/lib/modules` that the guest agent wrote there, and which is left out
/// as a whole, unless a package with the kernel's modules was installed over it.
pub const MODULE_INDEX_MARKER: &str = ".container-machine";

/// Treatment of an entry of the disk.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Treatment {
    /// As it is.
    Included,
    /// Not at all, neither as a file nor as a whiteout: the image keeps the base's entry.
    LeftOut,
    /// As an empty file.
    Emptied,
}

/// Treatment of the entry at this path, which is relative to the root.
pub(crate) fn treatment(path: &[u8], file_type: FileType) -> Treatment {
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
        _ => Treatment::Included,
    }
}

/// Whether the directory at this path may have a [marker](MODULE_INDEX_MARKER).
pub(crate) fn may_be_module_index(path: &[u8]) -> bool {
    let path = path.strip_prefix(b"usr/").unwrap_or(path);
    path.strip_prefix(b"lib/modules/")
        .is_some_and(|release| !release.contains(&b'/'))
}

/// Whether a file of this size is a swap file, by the signature at the end of its first page
/// (mkswap(8)).
pub(crate) fn is_swap(size: u64, read_at: impl FnOnce(&mut [u8], u64) -> bool) -> bool {
    const MAGIC: &[u8; 10] = b"SWAPSPACE2";
    const PAGE: u64 = 4096;
    let mut found = [0; MAGIC.len()];
    size >= 10 * PAGE && read_at(&mut found, PAGE - MAGIC.len() as u64) && &found == MAGIC
}
