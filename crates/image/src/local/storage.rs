//! containers-storage, the store of podman, buildah and skopeo. How it looks on disk is their own
//! affair, so one of them is asked.

use serde_json::Value;
use tokio::process::Command;

use super::{LocalArchive, LocalImage, Program, names, program};
use crate::{Digest, Environment, Platform, Reference, registry::FetchError};

/// A program that knows the store.
#[derive(Debug, Clone, Copy)]
enum Tool {
    Podman,
    Buildah,
}

/// An image in the store.
#[derive(Debug)]
pub(super) struct Source {
    tool: Tool,
    id: Digest,
}

pub(super) async fn find(
    reference: &Reference,
    platform: &Platform,
    environment: &Environment,
) -> Option<LocalImage> {
    // Both read the same store, so the first that is there is asked.
    for tool in [Tool::Buildah, Tool::Podman] {
        let mut is_there = false;
        for name in names(reference) {
            // It is not installed, or not for us.
            let Ok(output) = tool.inspect(&name, environment).output().await else {
                break;
            };
            is_there = true;
            if !output.status.success() {
                tracing::debug!(
                    "{tool:?}: {}",
                    String::from_utf8_lossy(&output.stderr).trim()
                );
                continue;
            }
            let found = serde_json::from_slice(&output.stdout).ok();
            let found = found.and_then(|inspected: Value| tool.read(&inspected));
            if let Some((id, offered)) = found
                && platform.distance(&offered).is_some()
            {
                return Some(LocalImage {
                    id,
                    place: tool.store().to_owned(),
                    source: super::Source::Storage(Source { tool, id }),
                });
            }
        }
        if is_there {
            break;
        }
    }
    None
}

impl Tool {
    fn name(self) -> &'static str {
        match self {
            Tool::Podman => "podman",
            Tool::Buildah => "buildah",
        }
    }

    fn store(self) -> &'static str {
        match self {
            Tool::Podman => "podman's store",
            Tool::Buildah => "buildah's store",
        }
    }

    fn inspect(self, name: &str, environment: &Environment) -> Command {
        let mut command = program(self.name(), environment);
        match self {
            Tool::Podman => command.args(["image", "inspect", name]),
            Tool::Buildah => command.args(["inspect", "--type", "image", name]),
        };
        command
    }

    /// The image's id and its platform.
    fn read(self, inspected: &Value) -> Option<(Digest, Platform)> {
        let (id, platform) = match self {
            Tool::Podman => (&inspected[0]["Id"], &inspected[0]),
            Tool::Buildah => (&inspected["FromImageID"], &inspected["OCIv1"]),
        };
        let word = |lower: &str, upper: &str| {
            let value = platform.get(lower).or(platform.get(upper));
            value.and_then(Value::as_str)
        };
        let variant = word("variant", "Variant");
        let (os, architecture) = (word("os", "Os")?, word("architecture", "Architecture")?);
        let id = format!("sha256:{}", id.as_str()?).parse().ok()?;
        Some((id, Platform::new(os, architecture, variant)))
    }
}

impl Source {
    pub(super) fn archive(self, environment: &Environment) -> Result<LocalArchive, FetchError> {
        let mut command = program(self.tool.name(), environment);
        let id = self.id.hex();
        match self.tool {
            Tool::Podman => command.args(["save", "--quiet", "--format", "docker-archive", &id]),
            Tool::Buildah => command.args(["push", "--quiet", &id, "docker-archive:/dev/stdout"]),
        };
        let failed = |reason: String| FetchError::Local {
            place: self.tool.name().to_owned(),
            reason,
        };
        let mut process = command.spawn().map_err(|error| failed(error.to_string()))?;
        let (Some(bytes), Some(errors)) = (process.stdout.take(), process.stderr.take()) else {
            return Err(failed("its output is missing".to_owned()));
        };
        Ok(LocalArchive {
            bytes: Box::new(bytes),
            program: Some(Program {
                process,
                errors,
                name: self.tool.name(),
            }),
        })
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn both_programs_say_what_they_have() {
        let hex = Digest::of(b"x").hex();
        let podman = json!([{"Id": hex, "Os": "linux", "Architecture": "arm64", "Variant": "v8"}]);
        let buildah =
            json!({"FromImageID": hex, "OCIv1": {"os": "linux", "architecture": "arm64"}});
        let expected = Some((Digest::of(b"x"), Platform::new("linux", "arm64", None)));
        assert_eq!(Tool::Podman.read(&podman), expected);
        assert_eq!(Tool::Buildah.read(&buildah), expected);
        assert_eq!(Tool::Podman.read(&buildah), None);
    }
}
