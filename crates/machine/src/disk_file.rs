//! Names of the files of machines' disks.

use std::fmt;

use serde::{Deserialize, Serialize};

const PREFIX: &str = "disk-";
const SUFFIX: &str = ".qcow2";

/// Name of a file in a bundle: the disk that the machine writes to, or a layer of it, which does
/// not change any more. It is unique among all machines, because clones share layers, and is never
/// given to another file, because an engine opens its files again by their names.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct DiskFile(String);

/// The text is not the name of a disk's file.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("invalid name of a disk's file: {0:?}")]
pub struct InvalidDiskFileName(String);

impl DiskFile {
    /// Returns a new name.
    pub fn random() -> DiskFile {
        let random = uuid::Uuid::new_v4().simple();
        DiskFile(format!("{PREFIX}{random}{SUFFIX}"))
    }

    /// Returns the name as text.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl TryFrom<String> for DiskFile {
    type Error = InvalidDiskFileName;

    fn try_from(text: String) -> Result<DiskFile, InvalidDiskFileName> {
        let random = text
            .strip_prefix(PREFIX)
            .and_then(|rest| rest.strip_suffix(SUFFIX));
        let is_valid = random.is_some_and(|random| {
            !random.is_empty() && random.bytes().all(|byte| byte.is_ascii_hexdigit())
        });
        if is_valid {
            Ok(DiskFile(text))
        } else {
            Err(InvalidDiskFileName(text))
        }
    }
}

impl From<DiskFile> for String {
    fn from(name: DiskFile) -> String {
        name.0
    }
}

impl fmt::Display for DiskFile {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(&self.0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn other_files_are_not_of_a_disk() {
        let name = DiskFile::random();
        assert_eq!(DiskFile::try_from(name.to_string()), Ok(name));
        for other in ["disk.qcow2", "disk-.qcow2", "disk-../a.qcow2", "disk-0a"] {
            assert!(DiskFile::try_from(other.to_owned()).is_err(), "{other}");
        }
    }
}
