//! Credentials for registries.

use std::fmt;

use serde::{Deserialize, Serialize};

use crate::CallerEnvironment;

/// A password. `Debug` does not write it.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Password(String);

impl Password {
    /// Wraps a password.
    pub fn new(password: String) -> Password {
        Password(password)
    }

    /// Returns the password.
    pub fn into_secret(self) -> String {
        self.0
    }
}

impl fmt::Debug for Password {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("…")
    }
}

/// Request to check credentials at a registry and to store them.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct LoginRequest {
    /// The registry, `HOST[:PORT]`.
    pub server: String,
    /// User name at the registry.
    pub username: String,
    /// Password of the user, or a token.
    pub password: Password,
    /// `http`, `https` or `auto` (if absent).
    pub scheme: Option<String>,
    /// The caller's environment.
    pub environment: CallerEnvironment,
}

/// Request to remove the credentials for a registry.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct LogoutRequest {
    /// The registry, `HOST[:PORT]`.
    pub server: String,
    /// The caller's environment.
    pub environment: CallerEnvironment,
}

/// Reply to a [`LogoutRequest`].
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct LoggedOut {
    /// The registry, `HOST[:PORT]`.
    pub server: String,
    /// Files with credentials of other programs for it, which were not removed.
    pub left: Vec<String>,
}

/// Request for a list of all credentials.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ListLoginsRequest {
    /// The caller's environment.
    pub environment: CallerEnvironment,
}

/// All credentials: those that this program stored, and those of other programs that it uses.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Logins {
    /// Credentials, ordered by registry.
    pub logins: Vec<Login>,
    /// A message for each file or helper that cannot be read.
    pub broken: Vec<String>,
}

/// Stored credentials for a registry, without the password: an entry of `registry ls`. The fields
/// are in alphabetical order.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Login {
    /// File or credential helper in which they are stored.
    pub kept_in: String,
    /// The registry, or a part of it: `quay.io`, `quay.io/team`.
    pub server: String,
    /// User name at the registry; `<token>` for an identity token.
    pub username: String,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_password_is_serialized_and_not_written_by_debug() {
        let password = Password::new("hush".to_owned());
        assert!(!format!("{password:?}").contains("hush"));
        let json = serde_json::to_string(&password).unwrap();
        assert_eq!(serde_json::from_str::<Password>(&json).unwrap(), password);
    }
}
