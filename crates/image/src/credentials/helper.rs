//! Programs that keep credentials: `docker-credential-NAME get|store|erase|list`
//! (docker-credential-helpers, "Development"). They are told the registry on standard input, and
//! find themselves in the environment of whoever wants the image.

use std::{
    collections::BTreeMap,
    io::{self, ErrorKind},
    process::{Output, Stdio},
    time::Duration,
};

use serde::{Deserialize, Serialize};
use tokio::{io::AsyncWriteExt, process::Command, time::timeout};

use super::{Credential, Secret};
use crate::{Environment, RegistryHost};

/// The name that stands for nobody's: what belongs to it is an identity token.
pub(super) const TOKEN: &str = "<token>";

/// How long one may take: it may ask somebody for a passphrase.
const PATIENCE: Duration = Duration::from_secs(60);

/// What these programs say when they have nothing.
const NOT_FOUND: &str = "credentials not found in native keychain";

/// Why such a program was of no use.
#[derive(Debug, thiserror::Error)]
pub enum HelperError {
    /// Its name leads elsewhere.
    #[error("{0:?} is no name of one")]
    Name(String),
    /// It cannot be started.
    #[error("docker-credential-{name} cannot be started: {source}; is it installed and on PATH?")]
    Start {
        /// Its name.
        name: String,
        /// Why not.
        source: io::Error,
    },
    /// It says no.
    #[error("`docker-credential-{name} {verb}` failed: {message}")]
    Failed {
        /// Its name.
        name: String,
        /// What it was asked for.
        verb: &'static str,
        /// Its words.
        message: String,
    },
    /// It does not end.
    #[error("`docker-credential-{name} {verb}` did not end within {} seconds", PATIENCE.as_secs())]
    Silent {
        /// Its name.
        name: String,
        /// What it was asked for.
        verb: &'static str,
    },
    /// Its answer is none. It is not quoted: it may hold a password.
    #[error("`docker-credential-{name} {verb}` answered with something else than credentials")]
    Malformed {
        /// Its name.
        name: String,
        /// What it was asked for.
        verb: &'static str,
    },
}

#[derive(Serialize, Deserialize)]
#[serde(rename_all = "PascalCase")]
struct Answer {
    #[serde(rename = "ServerURL", default)]
    server_url: String,
    username: String,
    secret: String,
}

/// The credentials that the program keeps for a registry.
pub(super) async fn get(
    name: &str,
    host: &RegistryHost,
    environment: &Environment,
) -> Result<Option<Credential>, HelperError> {
    for server in host.spellings() {
        let output = run(name, "get", server.as_bytes(), environment).await?;
        if !output.status.success() {
            if words(&output).contains(NOT_FOUND) {
                continue;
            }
            return Err(failed(name, "get", &output));
        }
        let answer: Answer =
            serde_json::from_slice(&output.stdout).map_err(|_| malformed(name, "get"))?;
        let secret = Secret::new(answer.secret);
        return Ok(Some(match answer.username.as_str() {
            TOKEN => Credential::IdentityToken(secret),
            _ => Credential::Password {
                username: answer.username,
                password: secret,
            },
        }));
    }
    Ok(None)
}

/// Has the program keep credentials for a registry.
pub(super) async fn store(
    name: &str,
    host: &RegistryHost,
    username: &str,
    password: &Secret,
    environment: &Environment,
) -> Result<(), HelperError> {
    let told = serde_json::to_vec(&Answer {
        server_url: host.spelling().to_owned(),
        username: username.to_owned(),
        secret: password.reveal().to_owned(),
    });
    let told = told.map_err(|_| malformed(name, "store"))?;
    let output = run(name, "store", &told, environment).await?;
    if output.status.success() {
        return Ok(());
    }
    Err(failed(name, "store", &output))
}

/// Has the program forget what it keeps for a registry.
pub(super) async fn erase(
    name: &str,
    host: &RegistryHost,
    environment: &Environment,
) -> Result<(), HelperError> {
    for server in host.spellings() {
        let output = run(name, "erase", server.as_bytes(), environment).await?;
        if !output.status.success() && !words(&output).contains(NOT_FOUND) {
            return Err(failed(name, "erase", &output));
        }
    }
    Ok(())
}

/// The servers that the program keeps credentials for, and whose they are.
pub(super) async fn list(
    name: &str,
    environment: &Environment,
) -> Result<BTreeMap<String, String>, HelperError> {
    let output = run(name, "list", b"", environment).await?;
    if !output.status.success() {
        return Err(failed(name, "list", &output));
    }
    serde_json::from_slice(&output.stdout).map_err(|_| malformed(name, "list"))
}

async fn run(
    name: &str,
    verb: &'static str,
    input: &[u8],
    environment: &Environment,
) -> Result<Output, HelperError> {
    if name.contains('/') {
        return Err(HelperError::Name(name.to_owned()));
    }
    let start = |source| HelperError::Start {
        name: name.to_owned(),
        source,
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
        .map_err(start)?;
    let stdin = child.stdin.take();
    let asked = async {
        if let Some(mut stdin) = stdin {
            match stdin.write_all(input).await {
                // One that reads no more may still answer.
                Err(error) if error.kind() != ErrorKind::BrokenPipe => return Err(error),
                _ => drop(stdin),
            }
        }
        child.wait_with_output().await
    };
    match timeout(PATIENCE, asked).await {
        Ok(output) => output.map_err(start),
        Err(_) => Err(HelperError::Silent {
            name: name.to_owned(),
            verb,
        }),
    }
}

fn malformed(name: &str, verb: &'static str) -> HelperError {
    HelperError::Malformed {
        name: name.to_owned(),
        verb,
    }
}

fn failed(name: &str, verb: &'static str, output: &Output) -> HelperError {
    HelperError::Failed {
        name: name.to_owned(),
        verb,
        message: words(output),
    }
}

/// What a program that failed says: on standard output by the protocol, on the other by habit.
fn words(output: &Output) -> String {
    let said = [&output.stdout, &output.stderr].map(|said| String::from_utf8_lossy(said));
    let words = said.iter().map(|said| said.trim());
    let words: Vec<&str> = words.filter(|said| !said.is_empty()).collect();
    let line: String = words
        .join(", ")
        .replace('\n', ", ")
        .chars()
        .take(300)
        .collect();
    match line.is_empty() {
        true => output.status.to_string(),
        false => line,
    }
}
