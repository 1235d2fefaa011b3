//! Names of kernels.

use std::{fmt, str::FromStr};

/// Name of the file that records the default kernel. It is in the same directory as the kernels, so
/// no kernel can have this name.
pub(crate) const DEFAULT: &str = "default";

/// Longest name.
const MAX_LENGTH: usize = 100;

/// The name of a kernel: letters, digits, `.`, `_`, `+` and `-`, with a letter or a digit first.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct KernelName(String);

/// Error of parsing a [`KernelName`], with the invalid word.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error(
    "invalid kernel name {0:?}: a name has up to 100 letters, digits, dots, underscores, plus signs and hyphens, and begins with a letter or a digit"
)]
pub struct InvalidKernelName(String);

impl KernelName {
    /// Wraps the name of a kernel that came with the program.
    pub(crate) fn shipped(name: &str) -> KernelName {
        KernelName(name.to_owned())
    }

    pub(crate) fn as_str(&self) -> &str {
        &self.0
    }
}

impl FromStr for KernelName {
    type Err = InvalidKernelName;

    fn from_str(word: &str) -> Result<KernelName, InvalidKernelName> {
        let is_allowed = |byte: u8| byte.is_ascii_alphanumeric() || b"._+-".contains(&byte);
        // A leading dot marks temporary directories.
        let starts_well = word.starts_with(|it: char| it.is_ascii_alphanumeric());
        if starts_well
            && word.len() <= MAX_LENGTH
            && word.bytes().all(is_allowed)
            && word != DEFAULT
        {
            Ok(KernelName(word.to_owned()))
        } else {
            Err(InvalidKernelName(word.to_owned()))
        }
    }
}

impl fmt::Debug for KernelName {
    /// Writes the name in quotes, as messages do.
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Debug::fmt(&self.0, formatter)
    }
}

impl fmt::Display for KernelName {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(&self.0)
    }
}
