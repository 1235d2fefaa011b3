//! Images that other programs on this host have, so that what was just built need not be pushed
//! anywhere first.

mod engine;
mod storage;

use std::{process::Stdio, time::Duration};

use serde::Deserialize;
use tokio::{
    io::{AsyncRead, AsyncReadExt},
    process::{Child, ChildStderr, Command},
    task::spawn_blocking,
    time::timeout,
};
use tokio_util::io::SyncIoBridge;

use crate::{
    Digest, Environment, ImageStore, Listener, LoadOptions, Platform, Reference,
    registry::FetchError,
};

/// Where images are looked for before a registry is asked.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum LocalStore {
    /// An engine with Docker's API (Docker, podman), at its socket.
    Docker,
    /// The store that podman, buildah and skopeo share, through whichever of them is installed.
    ContainersStorage,
}

/// How long a store may take to say what it has.
const PATIENCE: Duration = Duration::from_secs(10);

/// An image that is somewhere else on this host.
#[derive(Debug)]
pub(crate) struct LocalImage {
    /// Of its configuration or its manifest; the same image has the same.
    pub(crate) id: Digest,
    /// Where it is, as people call it.
    pub(crate) place: String,
    source: Source,
}

#[derive(Debug)]
enum Source {
    Engine(engine::Source),
    Storage(storage::Source),
}

/// A stream with an image in it, as `docker save` makes it.
struct LocalArchive {
    bytes: Box<dyn AsyncRead + Send + Unpin>,
    /// Who writes it, if that is a program of its own.
    program: Option<Program>,
}

/// A program that writes an archive.
struct Program {
    process: Child,
    errors: ChildStderr,
    name: &'static str,
}

/// The first of these stores' images of that name which is of use on this platform. A store that
/// is not there, or that fails, has none; of an engine that the environment names it is told.
pub(crate) async fn find(
    stores: &[LocalStore],
    reference: &Reference,
    platform: &Platform,
    environment: &Environment,
    listener: Listener<'_>,
) -> Option<LocalImage> {
    for store in stores {
        let found = match store {
            LocalStore::Docker => {
                let find = engine::find(reference, platform, environment, listener);
                timeout(PATIENCE, find).await
            }
            LocalStore::ContainersStorage => {
                timeout(PATIENCE, storage::find(reference, platform, environment)).await
            }
        };
        match found {
            Ok(Some(image)) => return Some(image),
            Ok(None) => {}
            Err(_) => {
                tracing::debug!("{store:?} does not answer");
                if let LocalStore::Docker = store {
                    let reason =
                        format!("it does not answer within {} seconds", PATIENCE.as_secs());
                    engine::tell_of(environment, &reason, listener);
                }
            }
        }
    }
    None
}

impl ImageStore {
    /// Loads another program's image under this reference.
    pub(crate) async fn take_over(
        &self,
        image: LocalImage,
        reference: &Reference,
        environment: &Environment,
    ) -> Result<(), FetchError> {
        let LocalImage { place, source, .. } = image;
        let archive = match source {
            Source::Engine(source) => source.archive(&place).await?,
            Source::Storage(source) => source.archive(environment)?,
        };
        let options = LoadOptions {
            default_registry: reference.registry().to_owned(),
            most_bytes: self.limits().most_bytes,
            called: Some(reference.clone()),
        };
        let (store, hold) = (self.clone(), self.hold().await?);
        let bytes = SyncIoBridge::new(archive.bytes);
        let loaded = spawn_blocking(move || store.load(&hold, bytes, &options, &|_| {})).await;
        // Its own words say more than what is wrong with half an archive.
        if let Some(program) = archive.program {
            program.finish().await?;
        }
        let failed = |reason: String| FetchError::Local { place, reason };
        match loaded {
            Ok(Ok(_)) => Ok(self.note_taken_over(reference)?),
            Ok(Err(error)) => Err(failed(error.to_string())),
            Err(lost) => Err(failed(lost.to_string())),
        }
    }
}

impl Program {
    /// It has to say that all went well.
    async fn finish(mut self) -> Result<(), FetchError> {
        let mut said = String::new();
        let (_, status) = tokio::join!(self.errors.read_to_string(&mut said), self.process.wait());
        match status {
            Ok(status) if status.success() => Ok(()),
            _ => Err(FetchError::Local {
                place: self.name.to_owned(),
                reason: match said.lines().last() {
                    Some(line) => line.trim_start_matches("Error: ").to_owned(),
                    None => "it ended without a word".to_owned(),
                },
            }),
        }
    }
}

/// A program of whoever asks, in their environment.
fn program(name: &str, environment: &Environment) -> Command {
    let mut command = Command::new(name);
    command
        .env_clear()
        .envs(environment.variables())
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .kill_on_drop(true);
    command
}

/// The names under which other programs may know an image: as it was typed, if it was typed
/// without a registry, for then it may have been built here; and in full.
fn names(reference: &Reference) -> impl Iterator<Item = String> {
    let full = reference.to_string();
    reference.as_typed().into_iter().chain([full])
}
