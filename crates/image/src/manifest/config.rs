//! Image configurations.

use std::collections::BTreeMap;

use jiff::Timestamp;
use oci_spec::image::ImageConfiguration as OciConfig;

use super::ManifestError;
use crate::{Digest, Platform};

/// Configuration of an image: its platform, the defaults for its processes, and how it was built
/// (image-spec, config.md).
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ImageConfig {
    /// Platform that the image is built for.
    pub platform: Platform,
    /// Environment variables, `NAME=value` each.
    pub environment: Vec<String>,
    /// Program and first arguments. Empty if the image has none.
    pub entrypoint: Vec<String>,
    /// Default arguments of the entry point, or the program if there is no entry point.
    pub command: Vec<String>,
    /// Working directory of the program. None for `/`.
    pub working_directory: Option<String>,
    /// User that runs the program, `user[:group]` as names or numbers. None for root.
    pub user: Option<String>,
    /// Signal that stops the program, as a name (`SIGRTMIN+3`) or a number.
    pub stop_signal: Option<String>,
    /// Labels of the image.
    pub labels: BTreeMap<String, String>,
    /// Build time.
    pub created: Option<Timestamp>,
    /// Build steps, the first one first. Empty if the image does not record them.
    pub history: Vec<HistoryStep>,
}

/// Build step of an image (image-spec, config.md, "history").
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct HistoryStep {
    /// Time of the step.
    pub created: Option<Timestamp>,
    /// Command of the step.
    pub created_by: Option<String>,
    /// Comment of the step.
    pub comment: Option<String>,
    /// Whether the step added no layer.
    pub is_empty_layer: bool,
}

/// Configuration document: the configuration and the digests of the layers.
#[derive(Debug)]
pub(crate) struct ConfigDocument {
    pub(crate) config: ImageConfig,
    /// Digests of the decompressed layer archives, one for each layer of the manifest.
    pub(crate) diff_ids: Vec<Digest>,
}

/// Parses the configuration of an image that has `layers` layers according to its manifest.
pub(crate) fn parse_config(bytes: &[u8], layers: usize) -> Result<ConfigDocument, ManifestError> {
    const DOCUMENT: &str = "configuration";
    let document: OciConfig =
        serde_json::from_slice(bytes).map_err(ManifestError::invalid(DOCUMENT))?;
    let diff_ids = document.rootfs().diff_ids().iter().map(|id| id.parse());
    let diff_ids: Vec<Digest> = diff_ids
        .collect::<Result<_, _>>()
        .map_err(ManifestError::invalid(DOCUMENT))?;
    if diff_ids.len() != layers {
        return Err(ManifestError::invalid(DOCUMENT)(format!(
            "it has {} layers, its manifest has {layers}",
            diff_ids.len()
        )));
    }
    let process = document.config().clone().unwrap_or_default();
    // Docker writes empty strings for absent values.
    let non_empty = |word: &Option<String>| word.clone().filter(|word| !word.is_empty());
    let config = ImageConfig {
        platform: Platform::new(
            &document.os().to_string(),
            &document.architecture().to_string(),
            document.variant().as_deref(),
        ),
        environment: process.env().clone().unwrap_or_default(),
        entrypoint: process.entrypoint().clone().unwrap_or_default(),
        command: process.cmd().clone().unwrap_or_default(),
        working_directory: non_empty(process.working_dir()),
        user: non_empty(process.user()),
        stop_signal: non_empty(process.stop_signal()),
        labels: process
            .labels()
            .clone()
            .unwrap_or_default()
            .into_iter()
            .collect(),
        created: parse_time(document.created().as_deref()),
        history: history(&document),
    };
    Ok(ConfigDocument { config, diff_ids })
}

fn history(document: &OciConfig) -> Vec<HistoryStep> {
    let steps = document.history().iter().flatten();
    let steps = steps.map(|step| HistoryStep {
        created: parse_time(step.created().as_deref()),
        created_by: step.created_by().clone(),
        comment: step.comment().clone(),
        is_empty_layer: step.empty_layer().unwrap_or_default(),
    });
    steps.collect()
}

/// Parses a time. An invalid one counts as absent: it is only shown.
fn parse_time(text: Option<&str>) -> Option<Timestamp> {
    text.and_then(|text| text.parse().ok())
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn null_and_empty_fields_count_as_absent() {
        let layer = Digest::compute(b"layer").to_string();
        let document = json!({
            "architecture": "amd64", "os": "linux", "config": {
                "Env": ["PATH=/bin"], "Entrypoint": null, "Cmd": ["sh"], "Volumes": null,
                "ExposedPorts": null, "Labels": null, "WorkingDir": "", "User": "",
                "StopSignal": "SIGRTMIN+3", "OnBuild": null, "Hostname": "x",
            },
            "rootfs": {"type": "layers", "diff_ids": [layer]},
            "history": [{"created_by": "x", "empty_layer": true}],
        });
        let document = document.to_string();
        let parsed = parse_config(document.as_bytes(), 1).unwrap();
        assert_eq!(parsed.config.platform, "linux/amd64".parse().unwrap());
        assert_eq!(parsed.config.environment, ["PATH=/bin"]);
        assert_eq!(parsed.config.stop_signal.as_deref(), Some("SIGRTMIN+3"));
        assert_eq!(parsed.config.working_directory, None);
        assert_eq!(parsed.diff_ids, [Digest::compute(b"layer")]);
        assert!(parse_config(document.as_bytes(), 2).is_err());
    }
}
