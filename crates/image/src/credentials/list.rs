//! Listing of all stored credentials.

use std::path::Path;

use super::{
    CredentialReadError, CredentialStore,
    file::{self, AuthFile},
    helper,
    stores::auth_files,
};
use crate::{Access, RegistryHost};

/// Stored credentials for a registry.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RegistryLogin {
    /// Registry, or a part of it: `quay.io`, `quay.io/team`.
    pub server: String,
    /// User name, `<token>` for an identity token.
    pub username: String,
    /// Store of the credentials.
    pub store: CredentialStore,
}

/// Lists all stored credentials, sorted by registry, and the errors of files and helpers that could
/// not be read. Of several for the same registry only those with precedence are listed.
pub async fn list_logins(access: Access<'_>) -> (Vec<RegistryLogin>, Vec<CredentialReadError>) {
    let (mut logins, mut problems) = (Vec::<RegistryLogin>::new(), Vec::new());
    for path in auth_files(access) {
        match list_file(&path, access).await {
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

async fn list_file(
    path: &Path,
    access: Access<'_>,
) -> Result<Vec<RegistryLogin>, CredentialReadError> {
    let Some(file) = AuthFile::read(path)? else {
        return Ok(Vec::new());
    };
    let failed = |cause| CredentialReadError::Helper {
        file: path.to_owned(),
        cause,
    };
    let mut logins = Vec::new();
    for (server, name) in file.helpers() {
        let Ok(host) = server.parse::<RegistryHost>() else {
            continue;
        };
        let found = helper::get(name, &host, access.environment).await;
        logins.extend(found.map_err(failed)?.map(|credential| RegistryLogin {
            server,
            username: credential.username().to_owned(),
            store: CredentialStore::Helper(name.to_owned()),
        }));
    }
    let users = file.users()?.into_iter();
    logins.extend(users.map(|(server, username)| RegistryLogin {
        server,
        username,
        store: CredentialStore::File(path.to_owned()),
    }));
    if let Some(name) = file.default_helper() {
        let stored = helper::list(name, access.environment).await;
        let stored = stored.map_err(failed)?.into_iter();
        logins.extend(stored.map(|(server, username)| RegistryLogin {
            server: file::normalize_key(&server),
            username,
            store: CredentialStore::Helper(name.to_owned()),
        }));
    }
    Ok(logins)
}
