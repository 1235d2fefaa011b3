//! The new image's configuration and manifest (image-spec, config.md, manifest.md), derived from
//! those of its base.

use serde_json::{Map, Value, json};

use super::{CommitError, CommitOptions, layer::NewLayer};
use crate::{
    Descriptor, Digest,
    media_type::{self, OCI_MANIFEST},
};

/// Docker's fields about the container that an image was committed from. They would be wrong now.
const CONTAINER_FIELDS: [&str; 3] = ["container", "container_config", "docker_version"];

pub(super) fn config_digest(manifest: &Value) -> Result<Digest, CommitError> {
    let digest = manifest["config"]["digest"].as_str().unwrap_or_default();
    digest
        .parse()
        .map_err(|error| CommitError::Base(format!("{error}")))
}

/// Returns the base's configuration with one more layer. Unknown fields are kept.
pub(super) fn config(
    base: Value,
    layer: &NewLayer,
    options: &CommitOptions,
    now: &str,
) -> Result<Value, CommitError> {
    let Value::Object(mut config) = base else {
        return Err(CommitError::Base(
            "its configuration is not a JSON object".to_owned(),
        ));
    };
    for key in CONTAINER_FIELDS {
        config.remove(key);
    }
    config.insert("created".to_owned(), json!(now));
    config.remove("author");
    let mut step = Map::new();
    step.insert("created".to_owned(), json!(now));
    step.insert("created_by".to_owned(), json!("container machine commit"));
    if let Some(author) = &options.author {
        config.insert("author".to_owned(), json!(author));
        step.insert("author".to_owned(), json!(author));
    }
    if let Some(message) = &options.message {
        step.insert("comment".to_owned(), json!(message));
    }
    let history = config.entry("history").or_insert(Value::Null);
    push(history, Value::Object(step));
    let layers = config.entry("rootfs").or_insert(json!({"type": "layers"}));
    push(&mut layers["diff_ids"], json!(layer.diff_id.to_string()));
    let mut own = match config.remove("config") {
        Some(Value::Object(own)) => own,
        _ => Map::new(),
    };
    for change in &options.changes {
        change.apply(&mut own);
    }
    config.insert("config".to_owned(), Value::Object(own));
    Ok(Value::Object(config))
}

/// Returns the base's manifest with one more layer and OCI's media types.
pub(super) fn manifest(
    base: &Value,
    config: &Descriptor,
    layer: &Descriptor,
) -> Result<Value, CommitError> {
    let mut layers = Vec::new();
    for written in base["layers"].as_array().into_iter().flatten() {
        let mut written = written.clone();
        let media_type = written["mediaType"].as_str().unwrap_or_default();
        let media_type = media_type::to_oci_layer_type(media_type).ok_or_else(|| {
            CommitError::Base(format!("layers of type {media_type:?} are not supported"))
        })?;
        written["mediaType"] = json!(media_type);
        layers.push(written);
    }
    layers.push(descriptor(layer));
    Ok(json!({
        "schemaVersion": 2,
        "mediaType": OCI_MANIFEST,
        "config": descriptor(config),
        "layers": layers,
    }))
}

fn descriptor(blob: &Descriptor) -> Value {
    json!({
        "mediaType": blob.media_type,
        "digest": blob.digest.to_string(),
        "size": blob.size,
    })
}

/// Appends to an array, or makes one of whatever else is there.
fn push(array: &mut Value, value: Value) {
    match array {
        Value::Array(values) => values.push(value),
        other => *other = Value::Array(vec![value]),
    }
}
