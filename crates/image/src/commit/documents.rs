//! The new image's configuration and manifest (image-spec, config.md, manifest.md), made from the
//! base's.

use serde_json::{Map, Value, json};

use super::{CommitError, CommitOptions, layer::NewLayer};
use crate::{
    Descriptor, Digest,
    media_type::{self, OCI_MANIFEST},
};

/// What Docker writes of the container that an image was made from.
const OF_THE_CONTAINER: [&str; 3] = ["container", "container_config", "docker_version"];

pub(super) fn config_digest(manifest: &Value) -> Result<Digest, CommitError> {
    let digest = manifest["config"]["digest"].as_str().unwrap_or_default();
    digest
        .parse()
        .map_err(|error| CommitError::Base(format!("{error}")))
}

/// The base's configuration with one layer more.
pub(super) fn config(
    base: Value,
    layer: &NewLayer,
    options: &CommitOptions,
    now: &str,
) -> Result<Value, CommitError> {
    let Value::Object(mut config) = base else {
        return Err(CommitError::Base("its configuration is none".to_owned()));
    };
    for key in OF_THE_CONTAINER {
        config.remove(key);
    }
    config.insert("created".to_owned(), json!(now));
    config.remove("author");
    let mut event = Map::new();
    event.insert("created".to_owned(), json!(now));
    event.insert("created_by".to_owned(), json!("container machine commit"));
    if let Some(author) = &options.author {
        config.insert("author".to_owned(), json!(author));
        event.insert("author".to_owned(), json!(author));
    }
    if let Some(message) = &options.message {
        event.insert("comment".to_owned(), json!(message));
    }
    let history = config.entry("history").or_insert(Value::Null);
    push(history, Value::Object(event));
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

/// The base's manifest with one layer more, and in OCI's words.
pub(super) fn manifest(
    base: &Value,
    config: &Descriptor,
    layer: &Descriptor,
) -> Result<Value, CommitError> {
    let mut layers = Vec::new();
    for written in base["layers"].as_array().into_iter().flatten() {
        let mut written = written.clone();
        let media_type = written["mediaType"].as_str().unwrap_or_default();
        let media_type = media_type::as_oci_layer(media_type).ok_or_else(|| {
            CommitError::Base(format!("it has a layer of the type {media_type:?}"))
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

fn descriptor(of: &Descriptor) -> Value {
    json!({
        "mediaType": of.media_type,
        "digest": of.digest.to_string(),
        "size": of.size,
    })
}

/// Adds to an array, which may be missing.
fn push(array: &mut Value, value: Value) {
    match array {
        Value::Array(values) => values.push(value),
        other => *other = Value::Array(vec![value]),
    }
}
