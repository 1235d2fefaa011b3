//! Bytes in JSON, which has none: base64 of them (RFC 4648).

use base64::{Engine as _, engine::general_purpose::STANDARD};
use serde::{Deserialize, Deserializer, Serialize, Serializer, de::Error};

/// For serde's `with`.
pub(crate) fn serialize<S: Serializer>(
    bytes: &Option<Vec<u8>>,
    serializer: S,
) -> Result<S::Ok, S::Error> {
    let written = bytes.as_ref().map(|bytes| STANDARD.encode(bytes));
    written.serialize(serializer)
}

/// For serde's `with`.
pub(crate) fn deserialize<'de, D: Deserializer<'de>>(
    deserializer: D,
) -> Result<Option<Vec<u8>>, D::Error> {
    let written = Option::<String>::deserialize(deserializer)?;
    let bytes = written.map(|word| STANDARD.decode(word)).transpose();
    bytes.map_err(D::Error::custom)
}
