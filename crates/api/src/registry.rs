//! Registries on the wire.

use std::fmt;

use serde::{Deserialize, Serialize};

use crate::CallerEnvironment;

/// A password on its way; `Debug` does not show it.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Password(String);

impl Password {
    /// Keeps it from being shown.
    pub fn new(password: String) -> Password {
        Password(password)
    }

    /// The password itself.
    pub fn into_secret(self) -> String {
        self.0
    }
}

impl fmt::Debug for Password {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("…")
    }
}

/// Credentials to check at a registry and to keep.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct LogIn {
    /// The registry, `HOST[:PORT]`.
    pub server: String,
    /// The user.
    pub username: String,
    /// The password.
    pub password: Password,
    /// `http`, `https` or `auto`.
    pub scheme: Option<String>,
    /// What the environment of whoever asks says.
    pub environment: CallerEnvironment,
}

/// A registry whose credentials are to be forgotten.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct LogOut {
    /// The registry, `HOST[:PORT]`.
    pub server: String,
    /// What the environment of whoever asks says.
    pub environment: CallerEnvironment,
}

/// What came of logging out.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct LoggedOut {
    /// The registry.
    pub server: String,
    /// Where there are other credentials for it, which are not ours to remove.
    pub left: Vec<String>,
}

/// The question for all credentials that there are.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ListLogins {
    /// What the environment of whoever asks says.
    pub environment: CallerEnvironment,
}

/// All credentials that there are.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Logins {
    /// By server.
    pub logins: Vec<Login>,
    /// Of places that cannot be read, why: a sentence for people each.
    pub broken: Vec<String>,
}

/// Whose credentials there are for a registry. Fields stand in the order of their names.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Login {
    /// Where they are: a file, or a program.
    pub kept_in: String,
    /// The registry, or a part of it: `quay.io`, `quay.io/team`.
    pub server: String,
    /// The user; `<token>` for an identity token.
    pub username: String,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_password_travels_and_is_not_shown() {
        let password = Password::new("hush".to_owned());
        assert!(!format!("{password:?}").contains("hush"));
        let written = serde_json::to_string(&password).unwrap();
        assert_eq!(
            serde_json::from_str::<Password>(&written).unwrap(),
            password
        );
    }
}
