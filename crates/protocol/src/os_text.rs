//! Arguments, paths and variables, which Linux allows to be any bytes but NUL.

use std::{
    ffi::{OsStr, OsString},
    fmt,
    os::unix::ffi::{OsStrExt, OsStringExt},
};

use base64::{Engine as _, engine::general_purpose::STANDARD};
use serde::{
    Deserialize, Deserializer, Serialize, Serializer,
    de::{Error, MapAccess, Visitor, value::MapAccessDeserializer},
};

/// Text of the operating system. In JSON it is a string, or `{"base64": "…"}` if it is not UTF-8 or
/// its escapes would be longer than base64.
#[derive(Clone, Default, PartialEq, Eq, Hash)]
pub struct OsText(OsString);

impl OsText {
    /// Returns the text.
    pub fn as_os_str(&self) -> &OsStr {
        &self.0
    }

    /// Returns the text.
    pub fn into_os_string(self) -> OsString {
        self.0
    }
}

impl<T: Into<OsString>> From<T> for OsText {
    fn from(text: T) -> OsText {
        OsText(text.into())
    }
}

impl fmt::Debug for OsText {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(formatter)
    }
}

/// Serialized form of a text that JSON cannot contain.
#[derive(Serialize, Deserialize)]
struct Encoded {
    base64: String,
}

impl Serialize for OsText {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        match self.0.to_str() {
            Some(text) if escapes(text) <= text.len() / 3 => serializer.serialize_str(text),
            _ => Encoded {
                base64: STANDARD.encode(self.0.as_bytes()),
            }
            .serialize(serializer),
        }
    }
}

/// Returns the number of bytes that JSON adds to this text.
fn escapes(text: &str) -> usize {
    let added = |byte| match byte {
        b'"' | b'\\' | b'\n' | b'\r' | b'\t' | 8 | 12 => 1,
        0..0x20 => 5,
        _ => 0,
    };
    text.bytes().map(added).sum()
}

impl<'de> Deserialize<'de> for OsText {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<OsText, D::Error> {
        deserializer.deserialize_any(OsTextVisitor)
    }
}

/// Reads either form. An untagged enum would buffer every argument of a long command line.
struct OsTextVisitor;

impl<'de> Visitor<'de> for OsTextVisitor {
    type Value = OsText;

    fn expecting(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str("a string or base64")
    }

    fn visit_str<E: Error>(self, text: &str) -> Result<OsText, E> {
        Ok(OsText(text.into()))
    }

    fn visit_string<E: Error>(self, text: String) -> Result<OsText, E> {
        Ok(OsText(text.into()))
    }

    fn visit_map<A: MapAccess<'de>>(self, map: A) -> Result<OsText, A::Error> {
        let encoded = Encoded::deserialize(MapAccessDeserializer::new(map))?;
        let bytes = STANDARD.decode(encoded.base64).map_err(A::Error::custom)?;
        Ok(OsText(OsString::from_vec(bytes)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn any_bytes_pass_and_ordinary_text_stays_readable() {
        let written = |bytes: &[u8]| {
            let text = OsText(OsString::from_vec(bytes.to_vec()));
            let json = serde_json::to_string(&text).unwrap();
            assert_eq!(serde_json::from_str::<OsText>(&json).unwrap(), text);
            json
        };
        assert_eq!(written("grün".as_bytes()), "\"grün\"");
        assert_eq!(written(b"printf 'a\n'"), "\"printf 'a\\n'\"");
        assert_eq!(written(b"\xff"), r#"{"base64":"/w=="}"#);
        let control = written(&[1; 3000]);
        assert!(control.len() < 4100, "{}", control.len());
        for invalid in ["7", "null", "{}", r#"{"base64":"?"}"#] {
            assert!(
                serde_json::from_str::<OsText>(invalid).is_err(),
                "{invalid}"
            );
        }
    }
}
