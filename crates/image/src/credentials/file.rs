//! The form that docker and podman keep credentials in (docker's `config.json`,
//! containers-auth.json(5)).

use std::{
    collections::BTreeMap,
    fs,
    io::{self, ErrorKind},
    path::{Path, PathBuf},
};

use base64::{Engine, engine::general_purpose::STANDARD};
use serde::Deserialize;

use super::{Credential, Secret};
use crate::RegistryHost;

/// Files larger than this hold something else.
const LARGEST: u64 = 4 << 20;

/// What such a file says about credentials; the rest of it is not looked at.
#[derive(Debug)]
pub(super) struct AuthFile {
    path: PathBuf,
    content: Content,
}

#[derive(Default, Deserialize)]
#[serde(default, rename_all = "camelCase")]
struct Content {
    auths: Option<BTreeMap<String, Entry>>,
    cred_helpers: Option<BTreeMap<String, String>>,
    creds_store: Option<String>,
}

// Not derived: an entry's fields are secrets.
impl std::fmt::Debug for Content {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Content")
            .field("cred_helpers", &self.cred_helpers)
            .field("creds_store", &self.creds_store)
            .finish_non_exhaustive()
    }
}

#[derive(Default, Deserialize)]
#[serde(default)]
struct Entry {
    auth: Option<String>,
    username: Option<String>,
    password: Option<String>,
    identitytoken: Option<String>,
}

/// Where a registry's credentials are.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Kept {
    Here(Credential),
    /// With the program of this name.
    ByHelper(String),
}

/// Why a file with credentials is of no use. What it holds is not quoted.
#[derive(Debug, thiserror::Error)]
pub enum AuthFileError {
    /// It cannot be read.
    #[error("reading credentials from {path}: {source}")]
    Read {
        /// The file.
        path: PathBuf,
        /// Why not.
        source: io::Error,
    },
    /// It is not of that form.
    #[error(
        "reading credentials from {path}: line {line}, column {column}, is not what docker's config.json may hold"
    )]
    Malformed {
        /// The file.
        path: PathBuf,
        /// From 1.
        line: usize,
        /// From 1.
        column: usize,
    },
    /// An entry holds no credentials.
    #[error(
        "reading credentials from {path}: \"auth\" of {key:?} is not NAME:PASSWORD in base64; log in anew, or remove it"
    )]
    Entry {
        /// The file.
        path: PathBuf,
        /// Whose it would be.
        key: String,
    },
}

impl AuthFile {
    /// Reads a file; none where there is none.
    pub(super) fn read(path: &Path) -> Result<Option<AuthFile>, AuthFileError> {
        let Some(bytes) = read(path)? else {
            return Ok(None);
        };
        let content = match bytes.is_empty() {
            // As podman leaves one that it begins.
            true => Content::default(),
            false => serde_json::from_slice(&bytes).map_err(malformed(path))?,
        };
        Ok(Some(AuthFile {
            path: path.to_owned(),
            content,
        }))
    }

    /// What there is for a repository. A program that is named for the registry counts most, then
    /// the entry whose key says most of the repository's name, then the program for all.
    pub(super) fn look_up(
        &self,
        host: &RegistryHost,
        repository: &str,
    ) -> Result<Option<Kept>, AuthFileError> {
        if let Some(helper) = self.helper_for(host) {
            return Ok(Some(Kept::ByHelper(helper.to_owned())));
        }
        let mut wanted = format!("{host}/{repository}");
        loop {
            for (key, entry) in self.entries() {
                if normalized(key) == wanted
                    && let Some(credential) = self.credential(key, entry)?
                {
                    return Ok(Some(Kept::Here(credential)));
                }
            }
            match wanted.rsplit_once('/') {
                Some((shorter, _)) => wanted.truncate(shorter.len()),
                None => break,
            }
        }
        Ok(self.store().map(|name| Kept::ByHelper(name.to_owned())))
    }

    /// The program that is named for this registry.
    pub(super) fn helper_for(&self, host: &RegistryHost) -> Option<&str> {
        let helpers = self.content.cred_helpers.iter().flatten();
        let mut named =
            helpers.filter(|(key, name)| normalized(key) == host.as_str() && !name.is_empty());
        named.next().map(|(_, name)| name.as_str())
    }

    /// The program for all registries that nothing else is said of.
    pub(super) fn store(&self) -> Option<&str> {
        let store = self.content.creds_store.as_deref();
        store.filter(|name| !name.is_empty())
    }

    /// All registries, and parts of them, that credentials are kept for here, and whose they are.
    pub(super) fn users(&self) -> Result<Vec<(String, String)>, AuthFileError> {
        let mut users = Vec::new();
        for (key, entry) in self.entries() {
            if let Some(credential) = self.credential(key, entry)? {
                users.push((normalized(key), credential.username().to_owned()));
            }
        }
        Ok(users)
    }

    /// All registries that a program is named for, and its name.
    pub(super) fn helpers(&self) -> impl Iterator<Item = (String, &str)> {
        let helpers = self.content.cred_helpers.iter().flatten();
        helpers.map(|(key, name)| (normalized(key), name.as_str()))
    }

    fn entries(&self) -> impl Iterator<Item = (&String, &Entry)> {
        self.content.auths.iter().flatten()
    }

    /// None of an entry that only marks where a program keeps something.
    fn credential(&self, key: &str, entry: &Entry) -> Result<Option<Credential>, AuthFileError> {
        let given = |value: &Option<String>| value.clone().filter(|value| !value.is_empty());
        if let Some(token) = given(&entry.identitytoken) {
            return Ok(Some(Credential::IdentityToken(Secret::new(token))));
        }
        if let Some(auth) = given(&entry.auth) {
            let credential = decoded(&auth).ok_or_else(|| AuthFileError::Entry {
                path: self.path.clone(),
                key: key.to_owned(),
            })?;
            return Ok(Some(credential));
        }
        let (username, password) = (given(&entry.username), given(&entry.password));
        Ok(username.zip(password).map(|(username, password)| {
            let password = Secret::new(password);
            Credential::Password { username, password }
        }))
    }
}

/// The bytes of a file with credentials; none where there is none.
pub(super) fn read(path: &Path) -> Result<Option<Vec<u8>>, AuthFileError> {
    let failed = |source| AuthFileError::Read {
        path: path.to_owned(),
        source,
    };
    match fs::metadata(path) {
        Err(error) if matches!(error.kind(), ErrorKind::NotFound | ErrorKind::NotADirectory) => {
            return Ok(None);
        }
        Ok(about) if !about.is_file() => {
            return Err(failed(io::Error::other("it is no regular file")));
        }
        Ok(about) if about.len() > LARGEST => {
            return Err(failed(io::Error::other("it is larger than 4 MiB")));
        }
        about => about.map_err(failed)?,
    };
    fs::read(path).map(Some).map_err(failed)
}

/// Without what a parser would quote.
pub(super) fn malformed(path: &Path) -> impl FnOnce(serde_json::Error) -> AuthFileError {
    let path = path.to_owned();
    move |error| AuthFileError::Malformed {
        path,
        line: error.line(),
        column: error.column(),
    }
}

/// `NAME:PASSWORD` in base64. Docker pads some with zeros.
fn decoded(auth: &str) -> Option<Credential> {
    let bytes = STANDARD.decode(auth.trim()).ok()?;
    let text = String::from_utf8(bytes).ok()?;
    let (username, password) = text.trim_end_matches('\0').split_once(':')?;
    (!username.is_empty()).then(|| Credential::Password {
        username: username.to_owned(),
        password: Secret::new(password.to_owned()),
    })
}

/// `NAME:PASSWORD` in base64, as [`decoded`] reads it.
pub(super) fn encoded(username: &str, password: &Secret) -> String {
    STANDARD.encode(format!("{username}:{}", password.reveal()))
}

/// What a key means: `https://index.docker.io/v1/` is `docker.io`, `https://quay.io` is `quay.io`,
/// and `quay.io/team/app` stays.
pub(super) fn normalized(key: &str) -> String {
    let without_scheme = key.strip_prefix("https://").or(key.strip_prefix("http://"));
    let is_address = without_scheme.is_some();
    let rest = without_scheme.unwrap_or(key).trim_end_matches('/');
    let (host, path) = rest.split_once('/').unwrap_or((rest, ""));
    let host = RegistryHost::hub_or(host);
    match path {
        "" | "v1" | "v2" => host.to_owned(),
        _ if is_address => host.to_owned(),
        path => format!("{host}/{path}"),
    }
}
