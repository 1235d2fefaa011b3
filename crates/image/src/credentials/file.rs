//! Credential files of docker and podman (docker's `config.json`, containers-auth.json(5)).

use std::{
    collections::BTreeMap,
    fmt, fs,
    io::{self, ErrorKind},
    path::{Path, PathBuf},
};

use base64::{Engine, engine::general_purpose::STANDARD};
use serde::Deserialize;

use super::{Credential, Secret};
use crate::RegistryHost;

/// Size limit of a credential file.
const LARGEST_FILE: u64 = 4 << 20;

/// Credentials in a file. Other fields of it are ignored.
#[derive(Debug)]
pub(super) struct AuthFile {
    path: PathBuf,
    content: AuthFileContent,
}

#[derive(Default, Deserialize)]
#[serde(default, rename_all = "camelCase")]
struct AuthFileContent {
    auths: Option<BTreeMap<String, AuthEntry>>,
    /// Helpers by registry.
    cred_helpers: Option<BTreeMap<String, String>>,
    /// Helper for all other registries.
    creds_store: Option<String>,
}

// Not derived: `auths` contains secrets.
impl fmt::Debug for AuthFileContent {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("AuthFileContent")
            .field("cred_helpers", &self.cred_helpers)
            .field("creds_store", &self.creds_store)
            .finish_non_exhaustive()
    }
}

#[derive(Default, Deserialize)]
#[serde(default)]
struct AuthEntry {
    auth: Option<String>,
    username: Option<String>,
    password: Option<String>,
    identitytoken: Option<String>,
}

/// Form in which a file stores the credentials of a registry.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum StoredCredential {
    /// In the file itself.
    Inline(Credential),
    /// With the helper of this name.
    Helper(String),
}

/// Error of a credential file. The message never quotes the file's content.
#[derive(Debug, thiserror::Error)]
pub enum AuthFileError {
    /// The file cannot be read.
    #[error("cannot read credentials from {path}: {cause}")]
    Read {
        /// Path of the credential file.
        path: PathBuf,
        /// Error of the file system.
        cause: io::Error,
    },
    /// The file is not JSON of the expected form.
    #[error(
        "cannot read credentials from {path}: line {line}, column {column} is not valid in docker's config.json"
    )]
    InvalidJson {
        /// Path of the credential file.
        path: PathBuf,
        /// Line of the error, from 1.
        line: usize,
        /// Column of the error, from 1.
        column: usize,
    },
    /// An entry cannot be decoded.
    #[error(
        "cannot read credentials from {path}: invalid \"auth\" of {key:?}, expected NAME:PASSWORD in base64 (log in again, or remove the entry)"
    )]
    InvalidEntry {
        /// Path of the credential file.
        path: PathBuf,
        /// Key of the entry.
        key: String,
    },
}

impl AuthFile {
    /// Reads a credential file. `None` when it does not exist.
    pub(super) fn read(path: &Path) -> Result<Option<AuthFile>, AuthFileError> {
        let Some(bytes) = read(path)? else {
            return Ok(None);
        };
        let content = if bytes.is_empty() {
            // podman creates the file empty.
            AuthFileContent::default()
        } else {
            serde_json::from_slice(&bytes).map_err(invalid_json(path))?
        };
        Ok(Some(AuthFile {
            path: path.to_owned(),
            content,
        }))
    }

    /// Finds the credentials for a repository. The helper of the registry has precedence, then the
    /// entry with the longest matching key, then the default helper.
    pub(super) fn find(
        &self,
        host: &RegistryHost,
        repository: &str,
    ) -> Result<Option<StoredCredential>, AuthFileError> {
        if let Some(helper) = self.helper_for(host) {
            return Ok(Some(StoredCredential::Helper(helper.to_owned())));
        }
        let mut wanted = format!("{host}/{repository}");
        loop {
            for (key, entry) in self.entries() {
                if normalize_key(key) == wanted
                    && let Some(credential) = self.credential(key, entry)?
                {
                    return Ok(Some(StoredCredential::Inline(credential)));
                }
            }
            match wanted.rsplit_once('/') {
                Some((shorter, _)) => wanted.truncate(shorter.len()),
                None => break,
            }
        }
        let helper = self.default_helper();
        Ok(helper.map(|name| StoredCredential::Helper(name.to_owned())))
    }

    /// Returns the helper that is configured for this registry.
    pub(super) fn helper_for(&self, host: &RegistryHost) -> Option<&str> {
        let helpers = self.content.cred_helpers.iter().flatten();
        let mut matching =
            helpers.filter(|(key, name)| normalize_key(key) == host.as_str() && !name.is_empty());
        matching.next().map(|(_, name)| name.as_str())
    }

    /// Returns the helper for registries without an entry.
    pub(super) fn default_helper(&self) -> Option<&str> {
        let helper = self.content.creds_store.as_deref();
        helper.filter(|name| !name.is_empty())
    }

    /// Returns the normalized keys and user names of all entries with credentials.
    pub(super) fn users(&self) -> Result<Vec<(String, String)>, AuthFileError> {
        let mut users = Vec::new();
        for (key, entry) in self.entries() {
            if let Some(credential) = self.credential(key, entry)? {
                users.push((normalize_key(key), credential.username().to_owned()));
            }
        }
        Ok(users)
    }

    /// Returns the normalized keys and names of all helpers for single registries.
    pub(super) fn helpers(&self) -> impl Iterator<Item = (String, &str)> {
        let helpers = self.content.cred_helpers.iter().flatten();
        helpers.map(|(key, name)| (normalize_key(key), name.as_str()))
    }

    fn entries(&self) -> impl Iterator<Item = (&String, &AuthEntry)> {
        self.content.auths.iter().flatten()
    }

    /// Decodes an entry. `None` when it is empty, which marks that a helper has the credentials.
    fn credential(
        &self,
        key: &str,
        entry: &AuthEntry,
    ) -> Result<Option<Credential>, AuthFileError> {
        let non_empty = |value: &Option<String>| value.clone().filter(|value| !value.is_empty());
        if let Some(token) = non_empty(&entry.identitytoken) {
            return Ok(Some(Credential::IdentityToken(Secret::new(token))));
        }
        if let Some(auth) = non_empty(&entry.auth) {
            let credential = decode(&auth).ok_or_else(|| AuthFileError::InvalidEntry {
                path: self.path.clone(),
                key: key.to_owned(),
            })?;
            return Ok(Some(credential));
        }
        let (username, password) = (non_empty(&entry.username), non_empty(&entry.password));
        Ok(username.zip(password).map(|(username, password)| {
            let password = Secret::new(password);
            Credential::Password { username, password }
        }))
    }
}

/// Reads the bytes of a credential file. `None` when it does not exist.
pub(super) fn read(path: &Path) -> Result<Option<Vec<u8>>, AuthFileError> {
    let failed = |cause| AuthFileError::Read {
        path: path.to_owned(),
        cause,
    };
    match fs::metadata(path) {
        Err(error) if matches!(error.kind(), ErrorKind::NotFound | ErrorKind::NotADirectory) => {
            return Ok(None);
        }
        Ok(metadata) if !metadata.is_file() => {
            return Err(failed(io::Error::other("not a regular file")));
        }
        Ok(metadata) if metadata.len() > LARGEST_FILE => {
            return Err(failed(io::Error::other("it is larger than 4 MiB")));
        }
        metadata => metadata.map_err(failed)?,
    };
    fs::read(path).map(Some).map_err(failed)
}

/// Converts a parser error to one without the quotes of the parser.
pub(super) fn invalid_json(path: &Path) -> impl FnOnce(serde_json::Error) -> AuthFileError {
    let path = path.to_owned();
    move |error| AuthFileError::InvalidJson {
        path,
        line: error.line(),
        column: error.column(),
    }
}

/// Decodes `NAME:PASSWORD` from base64. Docker pads some with NUL characters.
fn decode(auth: &str) -> Option<Credential> {
    let bytes = STANDARD.decode(auth.trim()).ok()?;
    let text = String::from_utf8(bytes).ok()?;
    let (username, password) = text.trim_end_matches('\0').split_once(':')?;
    (!username.is_empty()).then(|| Credential::Password {
        username: username.to_owned(),
        password: Secret::new(password.to_owned()),
    })
}

/// Encodes `NAME:PASSWORD` in base64.
pub(super) fn encode(username: &str, password: &Secret) -> String {
    STANDARD.encode(format!("{username}:{}", password.reveal()))
}

/// Normalizes a key: `https://index.docker.io/v1/` becomes `docker.io`, `https://quay.io` becomes
/// `quay.io`, and `quay.io/team/app` is unchanged.
pub(super) fn normalize_key(key: &str) -> String {
    let without_scheme = key.strip_prefix("https://").or(key.strip_prefix("http://"));
    let is_url = without_scheme.is_some();
    let rest = without_scheme.unwrap_or(key).trim_end_matches('/');
    let (host, path) = rest.split_once('/').unwrap_or((rest, ""));
    let host = RegistryHost::normalize_alias(host);
    match path {
        "" | "v1" | "v2" => host.to_owned(),
        _ if is_url => host.to_owned(),
        path => format!("{host}/{path}"),
    }
}
