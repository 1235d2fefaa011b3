//! Archives that the kernel unpacks into its initial RAM file system: cpio, "newc" format
//! (Documentation/driver-api/early-userspace/buffer-format.rst). The same contents result in the
//! same bytes.

use std::{fs, io, io::Write, path::Path};

use cpio::{
    NewcBuilder,
    newc::{ModeFileType, trailer},
};

/// An archive for the initial RAM file system, in memory. A directory must be added before the
/// entries in it.
#[derive(Default)]
#[expect(missing_debug_implementations, reason = "the entries have none")]
pub struct Initramfs {
    entries: Vec<(NewcBuilder, Vec<u8>)>,
}

impl Initramfs {
    fn add(&mut self, path: &str, kind: ModeFileType, mode: u32, contents: Vec<u8>) {
        let number = u32::try_from(self.entries.len()).unwrap_or(u32::MAX);
        let entry = NewcBuilder::new(path)
            // Entries with the same inode number would become hard links.
            .ino(number + 1)
            .mode(mode)
            .set_mode_file_type(kind);
        self.entries.push((entry, contents));
    }

    /// Adds a directory with mode 0755.
    pub fn directory(&mut self, path: &str) {
        self.add(path, ModeFileType::Directory, 0o755, Vec::new());
    }

    /// Adds a regular file.
    pub fn file(&mut self, path: &str, mode: u32, contents: Vec<u8>) {
        self.add(path, ModeFileType::Regular, mode, contents);
    }

    /// Adds a character device with mode 0600.
    pub fn character_device(&mut self, path: &str, major: u32, minor: u32) {
        self.add(path, ModeFileType::Char, 0o600, Vec::new());
        if let Some((entry, _)) = self.entries.pop() {
            let entry = entry.rdev_major(major).rdev_minor(minor);
            self.entries.push((entry, Vec::new()));
        }
    }

    /// Writes the archive to a file, which is replaced atomically.
    ///
    /// # Errors
    /// If a file in the archive is too large for the format, or the archive cannot be written.
    pub fn write(self, to: &Path) -> io::Result<()> {
        let mut bytes = Vec::new();
        for (entry, contents) in self.entries {
            let size = u32::try_from(contents.len()).map_err(io::Error::other)?;
            let mut writer = entry.write(&mut bytes, size);
            writer.write_all(&contents)?;
            writer.finish()?;
        }
        let mut bytes = trailer(bytes)?;
        // Further archives may be appended; the padding keeps them aligned.
        bytes.resize(bytes.len().next_multiple_of(512), 0);
        let temporary = to.with_extension("new");
        fs::write(&temporary, bytes)?;
        fs::rename(&temporary, to)
    }
}
