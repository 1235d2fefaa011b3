//! The first member of a machine archive.

use std::collections::HashSet;

use container_machine::{BootConfiguration, DiskFile, MachineConfiguration, Snapshot};
use serde::{Deserialize, Serialize};
use serde_json::Value;

/// Version of the format. Increment it when older versions cannot read what is written.
const FORMAT: u64 = 1;

/// A description cannot be used.
#[derive(Debug, thiserror::Error)]
pub(crate) enum DescriptionError {
    #[error("it has no format")]
    NoFormat,
    #[error("it has format {0}, which only a later version of this program reads")]
    Newer(u64),
    #[error(transparent)]
    Json(serde_json::Error),
    #[error("{0}")]
    Layers(&'static str),
}

/// Everything about an exported machine that is not in a member of its own.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct Description {
    format: u64,
    /// Settings that were fixed when the machine was created.
    pub(crate) machine: MachineConfiguration,
    /// Settings for its boots.
    pub(crate) boot: BootConfiguration,
    /// Whether its user was set up.
    pub(crate) is_provisioned: bool,
    /// Whether there is a set-up script.
    pub(crate) has_setup_script: bool,
    /// Whether the disk is on a base.
    pub(crate) has_base: bool,
    /// Whether the image is included.
    pub(crate) has_image: bool,
    /// Layers of the disk and of the snapshots, each after the one that it is on.
    pub(crate) layers: Vec<DiskLayer>,
    /// Layer with the contents of the disk.
    pub(crate) disk: DiskFile,
    /// Snapshots.
    pub(crate) snapshots: Vec<Snapshot>,
}

/// A file of a disk that does not change any more.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct DiskLayer {
    pub(crate) file: DiskFile,
    /// Layer that it is on; `None` if it is on the base.
    pub(crate) on: Option<DiskFile>,
}

impl Description {
    /// Returns the description of a machine without members of its own.
    pub(crate) fn new(
        machine: MachineConfiguration,
        boot: BootConfiguration,
        disk: DiskFile,
    ) -> Description {
        Description {
            format: FORMAT,
            machine,
            boot,
            is_provisioned: false,
            has_setup_script: false,
            has_base: false,
            has_image: false,
            layers: Vec::new(),
            disk,
            snapshots: Vec::new(),
        }
    }

    /// Parses and checks a description.
    pub(super) fn parse(json: &[u8]) -> Result<Description, DescriptionError> {
        let value: Value = serde_json::from_slice(json).map_err(DescriptionError::Json)?;
        // Before the fields, which may have another form in another format.
        match value.get("format").and_then(Value::as_u64) {
            Some(FORMAT) => {}
            Some(format) if format > FORMAT => return Err(DescriptionError::Newer(format)),
            _ => return Err(DescriptionError::NoFormat),
        }
        let description: Description =
            serde_json::from_value(value).map_err(DescriptionError::Json)?;
        description.check_layers()?;
        Ok(description)
    }

    fn check_layers(&self) -> Result<(), DescriptionError> {
        let mut known = HashSet::new();
        for layer in &self.layers {
            if layer.on.as_ref().is_some_and(|on| !known.contains(on)) {
                return Err(DescriptionError::Layers(
                    "a layer comes before the one that it is on",
                ));
            }
            if !known.insert(&layer.file) {
                return Err(DescriptionError::Layers("a layer is listed twice"));
            }
        }
        let snapshots = self.snapshots.iter().map(|snapshot| &snapshot.layer);
        if !snapshots
            .chain([&self.disk])
            .all(|file| known.contains(file))
        {
            return Err(DescriptionError::Layers("a layer is missing"));
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn layer(name: &str, on: Option<&str>) -> Value {
        let file = |name: &str| format!("disk-{name}.qcow2");
        json!({"file": file(name), "on": on.map(file)})
    }

    /// Returns a description with these layers, and a disk on the layer `a`.
    fn with_layers(layers: &[Value]) -> Value {
        json!({
            "format": FORMAT,
            "machine": {
                "createdDate": "2026-03-02T08:15:00Z",
                "home": "/home/me",
                "id": "dev",
                "image": {
                    "descriptor": {"digest": "sha256:00", "mediaType": "text/plain", "size": 1},
                    "reference": "registry.example/dev:1",
                },
                "initEnvironment": [],
                "platform": {"architecture": "amd64", "os": "linux"},
                "userSetup": {"username": "me", "uid": 1000, "gid": 1000},
            },
            "boot": {"cpus": 1, "diskCapacity": 1_u64 << 39, "homeMount": "rw", "memory": 1 << 30, "virtualization": false},
            "isProvisioned": true,
            "hasSetupScript": false,
            "hasBase": true,
            "hasImage": true,
            "layers": layers,
            "disk": "disk-a.qcow2",
            "snapshots": [],
        })
    }

    fn error(description: &Value) -> String {
        let parsed = Description::parse(description.to_string().as_bytes());
        parsed.unwrap_err().to_string()
    }

    #[test]
    fn layers_are_listed_once_and_after_the_ones_that_they_are_on() {
        let valid = with_layers(&[layer("b", None), layer("a", Some("b"))]);
        let parsed = Description::parse(valid.to_string().as_bytes()).unwrap();
        assert_eq!(serde_json::to_value(&parsed).unwrap(), valid);
        for (layers, expected) in [
            (vec![], "missing"),
            (vec![layer("b", None)], "missing"),
            (vec![layer("a", Some("a"))], "before"),
            (vec![layer("a", Some("b")), layer("b", None)], "before"),
            (vec![layer("a", None), layer("a", None)], "twice"),
        ] {
            let error = error(&with_layers(&layers));
            assert!(error.contains(expected), "{expected}: {error}");
        }
        let outside = json!({"file": "../disk-a.qcow2", "on": null});
        assert!(error(&with_layers(&[outside])).contains("invalid"));
    }

    #[test]
    fn a_later_format_is_named() {
        let later = json!({"format": FORMAT + 1, "machine": "of another form"});
        assert!(error(&later).contains("later version"));
        assert!(error(&json!({})).contains("no format"));
        assert!(error(&json!([])).contains("no format"));
    }
}
