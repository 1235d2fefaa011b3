//! containers-storage, the image store of podman, buildah and skopeo. Its format on disk is
//! internal, so one of these programs is run to read it.

use std::path::{Path, PathBuf};

use serde_json::Value;
use tokio::process::Command;

use super::{
    LocalStoreError,
    archive::{ArchiveWriter, LocalArchive, command},
};
use crate::{Digest, Environment, Platform, Reference};

/// Program that reads the store.
#[derive(Debug, Clone, Copy)]
enum StorageTool {
    Podman,
    Buildah,
}

/// Image in the store.
#[derive(Debug)]
pub(super) struct StorageImage {
    tool: StorageTool,
    id: Digest,
}

/// Searches the store for an image, with the first of the programs that is installed: all read the
/// same store.
pub(super) async fn find(
    reference: &Reference,
    platform: &Platform,
    environment: &Environment,
) -> Option<StorageImage> {
    if !may_exist(environment) {
        return None;
    }
    for tool in [StorageTool::Buildah, StorageTool::Podman] {
        let mut is_installed = false;
        for name in reference.local_names() {
            let Ok(output) = tool.inspect(&name, environment).output().await else {
                break;
            };
            is_installed = true;
            if !output.status.success() {
                tracing::debug!(
                    "{tool:?}: {}",
                    String::from_utf8_lossy(&output.stderr).trim()
                );
                continue;
            }
            let found = serde_json::from_slice(&output.stdout).ok();
            let found = found.and_then(|inspected: Value| tool.parse(&inspected));
            if let Some((id, offered)) = found
                && platform.distance(&offered).is_some()
            {
                return Some(StorageImage { tool, id });
            }
        }
        if is_installed {
            break;
        }
    }
    None
}

/// Returns whether there may be a store: the programs create one when they are asked for an image.
/// Without settings it is in a directory of its own (containers-storage.conf(5)).
fn may_exist(environment: &Environment) -> bool {
    let of_root = rustix::process::getuid().is_root();
    let settings = [
        environment
            .path("CONTAINERS_STORAGE_CONF")
            .map(Path::to_owned),
        environment
            .config_directory()
            .map(|directory| directory.join("containers/storage.conf")),
        Some(PathBuf::from("/etc/containers/storage.conf")),
    ];
    let data = environment.path("XDG_DATA_HOME").map(Path::to_owned);
    let store = if of_root {
        Some(PathBuf::from("/var/lib/containers/storage"))
    } else {
        let data = data.or_else(|| environment.home_path(".local/share"));
        data.map(|data| data.join("containers/storage"))
    };
    settings
        .into_iter()
        .chain([store])
        .flatten()
        .any(|path| path.exists())
}

impl StorageTool {
    fn name(self) -> &'static str {
        match self {
            StorageTool::Podman => "podman",
            StorageTool::Buildah => "buildah",
        }
    }

    fn inspect(self, name: &str, environment: &Environment) -> Command {
        let mut command = command(self.name(), environment);
        match self {
            StorageTool::Podman => command.args(["image", "inspect", name]),
            StorageTool::Buildah => command.args(["inspect", "--type", "image", name]),
        };
        command
    }

    /// Parses id and platform from the output of `inspect`.
    fn parse(self, inspected: &Value) -> Option<(Digest, Platform)> {
        let (id, platform) = match self {
            StorageTool::Podman => (&inspected[0]["Id"], &inspected[0]),
            StorageTool::Buildah => (&inspected["FromImageID"], &inspected["OCIv1"]),
        };
        let field = |lower: &str, upper: &str| {
            let value = platform.get(lower).or(platform.get(upper));
            value.and_then(Value::as_str)
        };
        let variant = field("variant", "Variant");
        let (os, architecture) = (field("os", "Os")?, field("architecture", "Architecture")?);
        let id = format!("sha256:{}", id.as_str()?).parse().ok()?;
        Some((id, Platform::new(os, architecture, variant)))
    }
}

impl StorageImage {
    pub(super) fn id(&self) -> Digest {
        self.id
    }

    /// Describes the store, for messages.
    pub(super) fn store(&self) -> &'static str {
        match self.tool {
            StorageTool::Podman => "podman's store",
            StorageTool::Buildah => "buildah's store",
        }
    }

    /// Starts the program that writes the image as an archive.
    pub(super) fn open(self, environment: &Environment) -> Result<LocalArchive, LocalStoreError> {
        let mut command = command(self.tool.name(), environment);
        let id = self.id.hex();
        match self.tool {
            StorageTool::Podman => {
                command.args(["save", "--quiet", "--format", "docker-archive", &id])
            }
            StorageTool::Buildah => {
                command.args(["push", "--quiet", &id, "docker-archive:/dev/stdout"])
            }
        };
        let failed = |reason: String| LocalStoreError {
            store: self.tool.name().to_owned(),
            reason,
        };
        let mut process = command.spawn().map_err(|error| failed(error.to_string()))?;
        let (Some(bytes), Some(stderr)) = (process.stdout.take(), process.stderr.take()) else {
            return Err(failed("its output is not piped".to_owned()));
        };
        Ok(LocalArchive {
            bytes: Box::new(bytes),
            writer: Some(ArchiveWriter {
                process,
                stderr,
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
    fn a_store_with_settings_is_searched() {
        let home = tempfile::tempdir().unwrap();
        let variables = |name: &str, path: &Path| {
            let variable = (name.to_owned(), path.display().to_string());
            Environment::from(std::collections::BTreeMap::from([variable]))
        };
        let settings = home.path().join(".config/containers/storage.conf");
        std::fs::create_dir_all(settings.parent().unwrap()).unwrap();
        std::fs::write(&settings, "").unwrap();
        assert!(may_exist(&variables("HOME", home.path())));
        assert!(may_exist(&variables("CONTAINERS_STORAGE_CONF", &settings)));
    }

    #[test]
    fn output_of_both_programs_is_parsed() {
        let hex = Digest::compute(b"x").hex();
        let podman = json!([{"Id": hex, "Os": "linux", "Architecture": "arm64", "Variant": "v8"}]);
        let buildah =
            json!({"FromImageID": hex, "OCIv1": {"os": "linux", "architecture": "arm64"}});
        let expected = Some((Digest::compute(b"x"), Platform::new("linux", "arm64", None)));
        assert_eq!(StorageTool::Podman.parse(&podman), expected);
        assert_eq!(StorageTool::Buildah.parse(&buildah), expected);
        assert_eq!(StorageTool::Podman.parse(&buildah), None);
    }
}
