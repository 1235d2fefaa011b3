//! Layers written member by member, hostile ones included.

use tar::{Builder, EntryType, Header};

/// Writes a layer's tar archive. Unlike the crate's builder, it does not check paths.
pub(crate) struct LayerBuilder {
    archive: Builder<Vec<u8>>,
    has_distinct_times: bool,
}

impl LayerBuilder {
    pub(crate) fn new() -> LayerBuilder {
        LayerBuilder {
            archive: Builder::new(Vec::new()),
            has_distinct_times: false,
        }
    }

    /// Gives files of different sizes different timestamps, so that a comparison notices a stale
    /// one.
    pub(crate) fn distinct_times(mut self) -> LayerBuilder {
        self.has_distinct_times = true;
        self
    }

    pub(crate) fn entry(
        mut self,
        kind: EntryType,
        path: &str,
        link: &str,
        content: &[u8],
    ) -> LayerBuilder {
        let mut header = Header::new_gnu();
        header.set_entry_type(kind);
        // Written directly, because `set_path` refuses hostile paths.
        header.as_old_mut().name[..path.len()].copy_from_slice(path.as_bytes());
        header.as_old_mut().linkname[..link.len()].copy_from_slice(link.as_bytes());
        let is_directory = kind == EntryType::Directory;
        header.set_mode(if is_directory { 0o755 } else { 0o644 });
        header.set_uid(1000);
        header.set_gid(1001);
        let age = if self.has_distinct_times {
            content.len()
        } else {
            0
        };
        header.set_mtime(1_700_000_000 + age as u64);
        header.set_size(content.len() as u64);
        header.set_device_major(4).unwrap();
        header.set_device_minor(300).unwrap();
        header.set_cksum();
        self.archive.append(&header, content).unwrap();
        self
    }

    pub(crate) fn file(self, path: &str, content: &str) -> LayerBuilder {
        self.entry(EntryType::Regular, path, "", content.as_bytes())
    }

    pub(crate) fn directory(self, path: &str) -> LayerBuilder {
        self.entry(EntryType::Directory, path, "", b"")
    }

    pub(crate) fn symlink(self, path: &str, target: &str) -> LayerBuilder {
        self.entry(EntryType::Symlink, path, target, b"")
    }

    pub(crate) fn hard_link(self, path: &str, target: &str) -> LayerBuilder {
        self.entry(EntryType::Link, path, target, b"")
    }

    /// Adds a PAX record to the next member.
    pub(crate) fn pax(mut self, key: &str, value: &[u8]) -> LayerBuilder {
        self.archive.append_pax_extensions([(key, value)]).unwrap();
        self
    }

    pub(crate) fn bytes(self) -> Vec<u8> {
        self.archive.into_inner().unwrap()
    }
}
