//! Error of the machine settings' content.

/// Error in the machine settings that are attached to an image.
#[derive(Debug, thiserror::Error)]
#[error("invalid machine settings: {reason}")]
pub struct InvalidSettings {
    reason: String,
}

impl InvalidSettings {
    pub(super) fn new(reason: impl ToString) -> InvalidSettings {
        InvalidSettings {
            // A parser may quote the whole document.
            reason: reason.to_string().chars().take(300).collect(),
        }
    }
}
