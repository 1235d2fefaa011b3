//! Credentials that people ask us to keep: in a file of our own, or with the program that docker's
//! configuration names for it.

use std::{
    fmt,
    fs::{self, DirBuilder, File},
    io::{self, Write},
    os::unix::fs::DirBuilderExt,
    path::{Path, PathBuf},
};

use serde::{Deserialize, Serialize};
use serde_json::{Map, Value, json};
use tempfile::NamedTempFile;

use super::{
    AuthFile, AuthFileError, HelperError, Problem, Secret, docker_configuration, file, helper,
    places,
};
use crate::{Access, RegistryHost};

/// Where credentials are.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Place {
    /// In a file.
    File(PathBuf),
    /// With the program `docker-credential-NAME`.
    Helper(String),
}

impl fmt::Display for Place {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Place::File(path) => write!(f, "{}", path.display()),
            Place::Helper(name) => write!(f, "docker-credential-{name}"),
        }
    }
}

/// Whose credentials there are for a registry.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Login {
    /// The registry, or a part of it: `quay.io`, `quay.io/team`.
    pub server: String,
    /// The user; `<token>` for an identity token.
    pub username: String,
    /// Where they are.
    pub place: Place,
}

/// What came of logging out.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LoggedOut {
    /// Where credentials were removed.
    pub removed: Vec<Place>,
    /// Where there are others for the same registry, which are not ours to remove.
    pub left: Vec<Place>,
}

/// Why credentials cannot be kept or removed.
#[derive(Debug, thiserror::Error)]
pub enum KeepError {
    /// A file that has to be read first.
    #[error(transparent)]
    File(#[from] AuthFileError),
    /// The program.
    #[error("keeping credentials as {file} says: {source}")]
    Helper {
        /// The file that names the program.
        file: PathBuf,
        /// What went wrong.
        source: HelperError,
    },
    /// The file.
    #[error("writing credentials to {path}: {source}")]
    Write {
        /// The file.
        path: PathBuf,
        /// Why not.
        source: io::Error,
    },
}

/// Keeps a password: with the program that docker's configuration names for this registry, else in
/// our file `own`. The file then says where they are, so that they count more than others.
pub(crate) async fn keep(
    host: &RegistryHost,
    username: &str,
    password: &Secret,
    own: &Path,
    access: Access<'_>,
) -> Result<Place, KeepError> {
    let Some((file, name)) = wanted_helper(host, access)? else {
        let auth = file::encoded(username, password);
        edit(own, |content| {
            content.forget(host);
            content
                .auths
                .insert(host.to_string(), json!({ "auth": auth }));
        })?;
        return Ok(Place::File(own.to_owned()));
    };
    let stored = helper::store(&name, host, username, password, access.environment).await;
    stored.map_err(|source| KeepError::Helper { file, source })?;
    edit(own, |content| {
        content.forget(host);
        content.cred_helpers.insert(host.to_string(), json!(name));
    })?;
    Ok(Place::Helper(name))
}

/// The program that docker would use, and the file that names it.
fn wanted_helper(
    host: &RegistryHost,
    access: Access<'_>,
) -> Result<Option<(PathBuf, String)>, KeepError> {
    let Some(path) = docker_configuration(access.environment) else {
        return Ok(None);
    };
    let Some(file) = AuthFile::read(&path)? else {
        return Ok(None);
    };
    let name = file.helper_for(host).or(file.store()).map(str::to_owned);
    Ok(name.map(|name| (path, name)))
}

/// Removes what was kept for a registry in `own`, and by the program that it names.
pub(crate) async fn forget(
    host: &RegistryHost,
    own: &Path,
    access: Access<'_>,
) -> Result<LoggedOut, KeepError> {
    let mut removed = Vec::new();
    if let Some(file) = AuthFile::read(own)? {
        if let Some(name) = file.helper_for(host) {
            let erased = helper::erase(name, host, access.environment).await;
            erased.map_err(|source| KeepError::Helper {
                file: own.to_owned(),
                source,
            })?;
            removed.push(Place::Helper(name.to_owned()));
        }
        let mut was_there = false;
        edit(own, |content| was_there = content.forget(host))?;
        if was_there && removed.is_empty() {
            removed.push(Place::File(own.to_owned()));
        }
    }
    let left = super::find(host, "", access).await.found;
    Ok(LoggedOut {
        removed,
        left: left.into_iter().map(|found| found.place).collect(),
    })
}

/// All credentials that there are. Of several for the same, the ones that count.
pub async fn logins(access: Access<'_>) -> (Vec<Login>, Vec<Problem>) {
    let (mut logins, mut problems) = (Vec::<Login>::new(), Vec::new());
    for path in places(access) {
        match logins_in(&path, access).await {
            Ok(found) => {
                for login in found {
                    if !logins.iter().any(|known| known.server == login.server) {
                        logins.push(login);
                    }
                }
            }
            Err(problem) => problems.push(problem),
        }
    }
    logins.sort_by(|one, other| one.server.cmp(&other.server));
    (logins, problems)
}

async fn logins_in(path: &Path, access: Access<'_>) -> Result<Vec<Login>, Problem> {
    let Some(file) = AuthFile::read(path)? else {
        return Ok(Vec::new());
    };
    let failed = |source| Problem::Helper {
        file: path.to_owned(),
        source,
    };
    let mut logins = Vec::new();
    for (server, name) in file.helpers() {
        let Ok(host) = server.parse::<RegistryHost>() else {
            continue;
        };
        let found = helper::get(name, &host, access.environment).await;
        logins.extend(found.map_err(failed)?.map(|credential| Login {
            server,
            username: credential.username().to_owned(),
            place: Place::Helper(name.to_owned()),
        }));
    }
    logins.extend(file.users()?.into_iter().map(|(server, username)| Login {
        server,
        username,
        place: Place::File(path.to_owned()),
    }));
    if let Some(name) = file.store() {
        let kept = helper::list(name, access.environment).await;
        let kept = kept.map_err(failed)?.into_iter();
        logins.extend(kept.map(|(server, username)| Login {
            server: file::normalized(&server),
            username,
            place: Place::Helper(name.to_owned()),
        }));
    }
    Ok(logins)
}

/// Our file, as docker would write it. What else stands in it stays.
#[derive(Default, Serialize, Deserialize)]
#[serde(default, rename_all = "camelCase")]
struct Content {
    #[serde(skip_serializing_if = "Map::is_empty")]
    auths: Map<String, Value>,
    #[serde(skip_serializing_if = "Map::is_empty")]
    cred_helpers: Map<String, Value>,
    #[serde(flatten)]
    rest: Map<String, Value>,
}

impl Content {
    /// Removes a registry's entries. Says whether there were any.
    fn forget(&mut self, host: &RegistryHost) -> bool {
        let before = self.auths.len() + self.cred_helpers.len();
        for entries in [&mut self.auths, &mut self.cred_helpers] {
            entries.retain(|key, _| file::normalized(key) != host.as_str());
        }
        self.auths.len() + self.cred_helpers.len() < before
    }
}

/// Changes the file as a whole: whoever reads it sees it before or after. A link to it stays one.
fn edit(path: &Path, change: impl FnOnce(&mut Content)) -> Result<(), KeepError> {
    let path = &fs::canonicalize(path).unwrap_or_else(|_| path.to_owned());
    let failed = |source| KeepError::Write {
        path: path.to_owned(),
        source,
    };
    let directory = path.parent().unwrap_or(Path::new("."));
    let mut builder = DirBuilder::new();
    builder.recursive(true).mode(0o700);
    builder.create(directory).map_err(failed)?;
    // Of several at once, one after the other.
    let lock = File::open(directory).map_err(failed)?;
    lock.lock().map_err(failed)?;
    let mut content: Content = match file::read(path)? {
        Some(bytes) if !bytes.is_empty() => {
            serde_json::from_slice(&bytes).map_err(file::malformed(path))?
        }
        _ => Content::default(),
    };
    change(&mut content);
    let text = serde_json::to_vec_pretty(&content).map_err(|error| failed(error.into()))?;
    // Readable by its owner only from the start.
    let mut new = NamedTempFile::new_in(directory).map_err(failed)?;
    new.write_all(&text).map_err(failed)?;
    new.as_file().sync_all().map_err(failed)?;
    new.persist(path).map_err(|error| failed(error.error))?;
    Ok(())
}
