//! Kernel parameters that a user sets.

use std::{fmt, str::FromStr};

use serde::{Deserialize, Serialize};

/// Maximum length in bytes. The kernel's command line has 2048 (Linux, COMMAND_LINE_SIZE), of which
/// the engine's parameters take a part.
const MAX_LENGTH: usize = 1500;

/// Kernel parameters, separated by spaces (Linux, Documentation/admin-guide/kernel-parameters.rst).
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct KernelParameters(String);

/// The text cannot be kernel parameters.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("invalid kernel parameters {0:?}: use at most {MAX_LENGTH} printable ASCII characters")]
pub struct InvalidKernelParameters(String);

impl KernelParameters {
    /// Whether there are no parameters.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// Returns all parameters as one text.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl FromStr for KernelParameters {
    type Err = InvalidKernelParameters;

    fn from_str(text: &str) -> Result<KernelParameters, InvalidKernelParameters> {
        let is_printable = |byte: u8| byte == b' ' || byte.is_ascii_graphic();
        if text.len() <= MAX_LENGTH && text.bytes().all(is_printable) {
            Ok(KernelParameters(text.trim().to_owned()))
        } else {
            Err(InvalidKernelParameters(text.to_owned()))
        }
    }
}

impl TryFrom<String> for KernelParameters {
    type Error = InvalidKernelParameters;

    fn try_from(text: String) -> Result<KernelParameters, InvalidKernelParameters> {
        text.parse()
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
    fn parameters_are_one_line_of_ascii() {
        let parameters: KernelParameters = " quiet panic_on_oops=1 ".parse().unwrap();
        assert_eq!(parameters.as_str(), "quiet panic_on_oops=1");
        for invalid in ["a\nb", "ü", &"x".repeat(1501)] {
            assert!(invalid.parse::<KernelParameters>().is_err());
        }
    }
}
