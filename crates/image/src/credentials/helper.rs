//! Credential helpers: `docker-credential-NAME get|store|erase|list` (docker-credential-helpers,
//! "Development"). They read the registry from standard input and run in the caller's environment.

use std::{
    collections::BTreeMap,
    io::{self, ErrorKind},
    process::{Output, Stdio},
    time::Duration,
};

use serde::{Deserialize, Serialize};
use tokio::{io::AsyncWriteExt, process::Command, time::timeout};

use super::{Credential, Secret, credential::TOKEN_USERNAME};
use crate::{Environment, RegistryHost};

/// Timeout for a helper. It is long because a helper may ask the user for a passphrase.
const TIMEOUT: Duration = Duration::from_secs(60);

/// Output of a helper without credentials for the registry, which the protocol defines.
const NOT_FOUND: &str = "credentials not found in native keychain";

/// Error of a credential helper.
#[derive(Debug, thiserror::Error)]
pub enum HelperError {
    /// The name contains a slash, so it would be a path.
    #[error("invalid credential helper name {0:?}")]
    InvalidName(String),
    /// The program cannot be run.
    #[error("cannot run docker-credential-{name}: {cause} (is it installed and on PATH?)")]
    Run {
        /// Name of the helper, without `docker-credential-`.
        name: String,
        /// Error of the start.
        cause: io::Error,
    },
    /// The program reported an error.
    #[error("`docker-credential-{name} {verb}` failed: {message}")]
    Failed {
        /// Name of the helper, without `docker-credential-`.
        name: String,
        /// Argument of the helper: `get`, `store`, `erase` or `list`.
        verb: &'static str,
        /// Its output, at most 300 characters.
        message: String,
    },
    /// The program did not end in time.
    #[error("`docker-credential-{name} {verb}` timed out after {} s", TIMEOUT.as_secs())]
    TimedOut {
        /// Name of the helper, without `docker-credential-`.
        name: String,
        /// Argument of the helper.
        verb: &'static str,
    },
    /// The output cannot be parsed. The message does not quote it: it may contain a password.
    #[error("`docker-credential-{name} {verb}` printed invalid credentials")]
    InvalidOutput {
        /// Name of the helper, without `docker-credential-`.
        name: String,
        /// Argument of the helper.
        verb: &'static str,
    },
}

#[derive(Serialize, Deserialize)]
#[serde(rename_all = "PascalCase")]
struct HelperCredential {
    #[serde(rename = "ServerURL", default)]
    server_url: String,
    username: String,
    secret: String,
}

/// Gets the credentials for a registry from the helper. `None` when it has none.
pub(super) async fn get(
    name: &str,
    host: &RegistryHost,
    environment: &Environment,
) -> Result<Option<Credential>, HelperError> {
    for server in host.credential_keys() {
        let output = run(name, "get", server.as_bytes(), environment).await?;
        if !output.status.success() {
            if message(&output).contains(NOT_FOUND) {
                continue;
            }
            return Err(failed(name, "get", &output));
        }
        let credential: HelperCredential =
            serde_json::from_slice(&output.stdout).map_err(|_| invalid_output(name, "get"))?;
        let secret = Secret::new(credential.secret);
        return Ok(Some(match credential.username.as_str() {
            TOKEN_USERNAME => Credential::IdentityToken(secret),
            _ => Credential::Password {
                username: credential.username,
                password: secret,
            },
        }));
    }
    Ok(None)
}

/// Stores credentials for a registry with the helper.
pub(super) async fn store(
    name: &str,
    host: &RegistryHost,
    username: &str,
    password: &Secret,
    environment: &Environment,
) -> Result<(), HelperError> {
    let input = serde_json::to_vec(&HelperCredential {
        server_url: host.credential_key().to_owned(),
        username: username.to_owned(),
        secret: password.reveal().to_owned(),
    });
    let input = input.map_err(|_| invalid_output(name, "store"))?;
    let output = run(name, "store", &input, environment).await?;
    if output.status.success() {
        return Ok(());
    }
    Err(failed(name, "store", &output))
}

/// Removes the credentials for a registry from the helper.
pub(super) async fn erase(
    name: &str,
    host: &RegistryHost,
    environment: &Environment,
) -> Result<(), HelperError> {
    for server in host.credential_keys() {
        let output = run(name, "erase", server.as_bytes(), environment).await?;
        if !output.status.success() && !message(&output).contains(NOT_FOUND) {
            return Err(failed(name, "erase", &output));
        }
    }
    Ok(())
}

/// Lists the servers for which the helper has credentials, with their user names.
pub(super) async fn list(
    name: &str,
    environment: &Environment,
) -> Result<BTreeMap<String, String>, HelperError> {
    let output = run(name, "list", b"", environment).await?;
    if !output.status.success() {
        return Err(failed(name, "list", &output));
    }
    serde_json::from_slice(&output.stdout).map_err(|_| invalid_output(name, "list"))
}

async fn run(
    name: &str,
    verb: &'static str,
    input: &[u8],
    environment: &Environment,
) -> Result<Output, HelperError> {
    if name.contains('/') {
        return Err(HelperError::InvalidName(name.to_owned()));
    }
    let failed = |cause| HelperError::Run {
        name: name.to_owned(),
        cause,
    };
    tracing::debug!("docker-credential-{name} {verb}");
    let mut child = Command::new(format!("docker-credential-{name}"))
        .arg(verb)
        .env_clear()
        .envs(environment.variables())
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .kill_on_drop(true)
        .spawn()
        .map_err(failed)?;
    let stdin = child.stdin.take();
    let output = async {
        if let Some(mut stdin) = stdin {
            match stdin.write_all(input).await {
                // A helper that does not read its input may still print credentials.
                Err(error) if error.kind() != ErrorKind::BrokenPipe => return Err(error),
                _ => drop(stdin),
            }
        }
        child.wait_with_output().await
    };
    match timeout(TIMEOUT, output).await {
        Ok(output) => output.map_err(failed),
        Err(_) => Err(HelperError::TimedOut {
            name: name.to_owned(),
            verb,
        }),
    }
}

fn invalid_output(name: &str, verb: &'static str) -> HelperError {
    HelperError::InvalidOutput {
        name: name.to_owned(),
        verb,
    }
}

fn failed(name: &str, verb: &'static str, output: &Output) -> HelperError {
    HelperError::Failed {
        name: name.to_owned(),
        verb,
        message: message(output),
    }
}

/// Returns the output of a failed helper in one line: by the protocol it is on standard output, but
/// many programs print errors on standard error.
fn message(output: &Output) -> String {
    let outputs = [&output.stdout, &output.stderr].map(|bytes| String::from_utf8_lossy(bytes));
    let texts = outputs.iter().map(|text| text.trim());
    let texts: Vec<&str> = texts.filter(|text| !text.is_empty()).collect();
    let line: String = texts
        .join(", ")
        .replace('\n', ", ")
        .chars()
        .take(300)
        .collect();
    if line.is_empty() {
        output.status.to_string()
    } else {
        line
    }
}
