//! Storing and removing credentials: in the own file, or with the helper that docker's
//! configuration names.

use std::{
    fs::{self, DirBuilder, File},
    io::{self, Write},
    os::unix::fs::DirBuilderExt,
    path::{Path, PathBuf},
};

use serde::{Deserialize, Serialize};
use serde_json::{Map, Value, json};
use tempfile::NamedTempFile;

use super::{
    AuthFileError, CredentialStore, HelperError, Secret,
    file::{self, AuthFile},
    helper,
    lookup::find,
    stores::docker_config,
};
use crate::{Access, RegistryHost};

/// Result of a logout.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LogoutOutcome {
    /// Stores from which credentials were removed. Empty if there were none.
    pub removed: Vec<CredentialStore>,
    /// Stores of other programs that still have credentials for the registry.
    pub remaining: Vec<CredentialStore>,
}

/// Error of storing or removing credentials.
#[derive(Debug, thiserror::Error)]
pub enum CredentialWriteError {
    /// A file that must be read first is unreadable.
    #[error(transparent)]
    Read(#[from] AuthFileError),
    /// The helper that a file refers to failed.
    #[error("credential helper of {file} failed: {cause}")]
    Helper {
        /// File that names the helper.
        file: PathBuf,
        /// Error of the helper.
        cause: HelperError,
    },
    /// This program's own credential file cannot be written.
    #[error("cannot write credentials to {path}: {cause}")]
    Write {
        /// Path of this program's own credential file.
        path: PathBuf,
        /// Error of the file system.
        cause: io::Error,
    },
}

/// Stores a password: with the helper that docker's configuration names for this registry,
/// otherwise in the file `own_file`. In both cases the file then has an entry for the registry,
/// which takes precedence over the files of other programs.
pub(crate) async fn store(
    host: &RegistryHost,
    username: &str,
    password: &Secret,
    own_file: &Path,
    access: Access<'_>,
) -> Result<CredentialStore, CredentialWriteError> {
    let Some((file, name)) = docker_helper(host, access)? else {
        let auth = file::encode(username, password);
        edit(own_file, |content| {
            content.remove(host);
            content
                .auths
                .insert(host.to_string(), json!({ "auth": auth }));
        })?;
        return Ok(CredentialStore::File(own_file.to_owned()));
    };
    let stored = helper::store(&name, host, username, password, access.environment).await;
    stored.map_err(|cause| CredentialWriteError::Helper { file, cause })?;
    edit(own_file, |content| {
        content.remove(host);
        content.cred_helpers.insert(host.to_string(), json!(name));
    })?;
    Ok(CredentialStore::Helper(name))
}

/// Returns the helper that docker would use, with the file that names it.
fn docker_helper(
    host: &RegistryHost,
    access: Access<'_>,
) -> Result<Option<(PathBuf, String)>, CredentialWriteError> {
    let Some(path) = docker_config(access.environment) else {
        return Ok(None);
    };
    let Some(file) = AuthFile::read(&path)? else {
        return Ok(None);
    };
    let name = file.helper_for(host).or(file.default_helper());
    Ok(name.map(|name| (path, name.to_owned())))
}

/// Removes the credentials for a registry from `own_file` and from the helper that it names.
pub(crate) async fn remove(
    host: &RegistryHost,
    own_file: &Path,
    access: Access<'_>,
) -> Result<LogoutOutcome, CredentialWriteError> {
    let mut removed = Vec::new();
    if let Some(file) = AuthFile::read(own_file)? {
        if let Some(name) = file.helper_for(host) {
            let erased = helper::erase(name, host, access.environment).await;
            erased.map_err(|cause| CredentialWriteError::Helper {
                file: own_file.to_owned(),
                cause,
            })?;
            removed.push(CredentialStore::Helper(name.to_owned()));
        }
        let mut had_entry = false;
        edit(own_file, |content| had_entry = content.remove(host))?;
        if had_entry && removed.is_empty() {
            removed.push(CredentialStore::File(own_file.to_owned()));
        }
    }
    let remaining = find(host, "", access).await.found;
    Ok(LogoutOutcome {
        removed,
        remaining: remaining.into_iter().map(|found| found.store).collect(),
    })
}

/// Content of the own file, in docker's format. Unknown fields are preserved.
#[derive(Default, Serialize, Deserialize)]
#[serde(default, rename_all = "camelCase")]
struct OwnFile {
    #[serde(skip_serializing_if = "Map::is_empty")]
    auths: Map<String, Value>,
    #[serde(skip_serializing_if = "Map::is_empty")]
    cred_helpers: Map<String, Value>,
    #[serde(flatten)]
    rest: Map<String, Value>,
}

impl OwnFile {
    /// Removes the entries of a registry. Returns whether there were any.
    fn remove(&mut self, host: &RegistryHost) -> bool {
        let before = self.auths.len() + self.cred_helpers.len();
        for entries in [&mut self.auths, &mut self.cred_helpers] {
            entries.retain(|key, _| file::normalize_key(key) != host.as_str());
        }
        self.auths.len() + self.cred_helpers.len() < before
    }
}

/// Changes the file atomically: a concurrent reader sees the old or the new content. A symbolic
/// link to the file is followed, not replaced.
fn edit(path: &Path, change: impl FnOnce(&mut OwnFile)) -> Result<(), CredentialWriteError> {
    let path = &fs::canonicalize(path).unwrap_or_else(|_| path.to_owned());
    let failed = |cause| CredentialWriteError::Write {
        path: path.to_owned(),
        cause,
    };
    let directory = path.parent().unwrap_or(Path::new("."));
    let mut builder = DirBuilder::new();
    builder.recursive(true).mode(0o700);
    builder.create(directory).map_err(failed)?;
    // The directory is locked because the file itself is replaced.
    let lock = File::open(directory).map_err(failed)?;
    lock.lock().map_err(failed)?;
    let mut content: OwnFile = match file::read(path)? {
        Some(bytes) if !bytes.is_empty() => {
            serde_json::from_slice(&bytes).map_err(file::invalid_json(path))?
        }
        _ => OwnFile::default(),
    };
    change(&mut content);
    let text = serde_json::to_vec_pretty(&content).map_err(|error| failed(error.into()))?;
    // Temporary files have mode 0600, so the passwords are never readable by other users.
    let mut new = NamedTempFile::new_in(directory).map_err(failed)?;
    new.write_all(&text).map_err(failed)?;
    new.as_file().sync_all().map_err(failed)?;
    new.persist(path).map_err(|error| failed(error.error))?;
    Ok(())
}
