//! The text of `config.toml`, for errors that name the line of a value.

use std::{io, path::PathBuf};

use container_api::FailureKind;
use toml::de::DeTable;

use crate::failure::RequestError;

/// Path and text of the file.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct ConfigurationFile {
    pub(super) path: PathBuf,
    pub(super) text: String,
}

/// `config.toml` cannot be used.
#[derive(Debug, thiserror::Error)]
pub(crate) enum ConfigurationError {
    #[error("cannot read {path}: {cause}")]
    Read { path: PathBuf, cause: io::Error },
    #[error("invalid value in {path}, line {line} ({text}): {reason}")]
    Invalid {
        path: PathBuf,
        /// Number of the line, from 1.
        line: usize,
        /// Text of the line, without spaces around it.
        text: String,
        reason: String,
    },
}

impl RequestError for ConfigurationError {
    fn kind(&self) -> FailureKind {
        FailureKind::Failed
    }
}

impl ConfigurationFile {
    /// Returns the error for a text that is not TOML, or has an unknown key or a value of another
    /// type.
    pub(super) fn malformed(&self, error: &toml::de::Error) -> ConfigurationError {
        let position = error.span().map_or(0, |span| span.start);
        // The parser's messages have several lines.
        self.error_at(position, error.message().replace('\n', ", "))
    }

    /// Returns the error for the value of a key, given with the tables that contain it.
    pub(super) fn invalid(&self, keys: &[&str], reason: impl ToString) -> ConfigurationError {
        let position = DeTable::parse(&self.text).ok().and_then(|table| {
            let (first, below) = keys.split_first()?;
            let value = table.get_ref().get(*first)?;
            let value = below
                .iter()
                .try_fold(value, |value, key| value.get_ref().as_table()?.get(*key));
            Some(value?.span().start)
        });
        self.error_at(position.unwrap_or_default(), reason.to_string())
    }

    fn error_at(&self, position: usize, reason: String) -> ConfigurationError {
        let before = self.text.get(..position).unwrap_or_default();
        let line = before.matches('\n').count() + 1;
        let text = self.text.lines().nth(line - 1).unwrap_or_default();
        ConfigurationError::Invalid {
            path: self.path.clone(),
            line,
            text: text.trim().to_owned(),
            reason,
        }
    }
}
