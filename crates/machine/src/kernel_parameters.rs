//! What a person tells a machine's kernel.

use std::{fmt, str::FromStr};

use serde::{Deserialize, Serialize};

/// Bytes that they may have: the kernel's command line takes 2048 (Linux, COMMAND_LINE_SIZE), and has
/// parameters of the engine's as well.
const LONGEST: usize = 1500;

/// Parameters for a kernel, with spaces between (Linux,
/// Documentation/admin-guide/kernel-parameters.rst).
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct KernelParameters(String);

/// A word that cannot be a kernel's parameters.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("a kernel's parameters are up to {LONGEST} printable characters of ASCII: {0:?} is not")]
pub struct InvalidKernelParameters(String);

impl KernelParameters {
    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// All of them, as they were given.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl FromStr for KernelParameters {
    type Err = InvalidKernelParameters;

    fn from_str(words: &str) -> Result<KernelParameters, InvalidKernelParameters> {
        let is_printable = |byte: u8| byte == b' ' || byte.is_ascii_graphic();
        match words.len() <= LONGEST && words.bytes().all(is_printable) {
            true => Ok(KernelParameters(words.trim().to_owned())),
            false => Err(InvalidKernelParameters(words.to_owned())),
        }
    }
}

impl TryFrom<String> for KernelParameters {
    type Error = InvalidKernelParameters;

    fn try_from(words: String) -> Result<KernelParameters, InvalidKernelParameters> {
        words.parse()
    }
}

impl From<KernelParameters> for String {
    fn from(parameters: KernelParameters) -> String {
        parameters.0
    }
}

impl fmt::Display for KernelParameters {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(&self.0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn parameters_are_one_line() {
        let parameters: KernelParameters = " quiet panic_on_oops=1 ".parse().unwrap();
        assert_eq!(parameters.as_str(), "quiet panic_on_oops=1");
        for wrong in ["a\nb", "ü", &"x".repeat(1501)] {
            assert!(wrong.parse::<KernelParameters>().is_err());
        }
    }
}
