//! Credentials themselves.

use std::fmt;

/// User name under which helpers and docker store an identity token instead of a password.
pub(super) const TOKEN_USERNAME: &str = "<token>";

/// Password or token. `Debug` does not print it.
#[derive(Clone, PartialEq, Eq)]
pub struct Secret(String);

impl Secret {
    /// Wraps a password or token.
    pub fn new(secret: String) -> Secret {
        Secret(secret)
    }

    /// Returns the secret, to be sent or stored.
    pub(crate) fn reveal(&self) -> &str {
        &self.0
    }
}

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("…")
    }
}

/// Credentials for a registry.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Credential {
    /// User name and password.
    Password {
        /// User name at the registry.
        username: String,
        /// Password, or an access token that is used as one.
        password: Secret,
    },
    /// OAuth 2 refresh token, which a token service issued in place of a password.
    IdentityToken(Secret),
}

impl Credential {
    /// Returns the user name, `<token>` for an identity token.
    pub(crate) fn username(&self) -> &str {
        match self {
            Credential::Password { username, .. } => username,
            Credential::IdentityToken(_) => TOKEN_USERNAME,
        }
    }
}
