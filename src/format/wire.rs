//! Small helpers for the JSON forms: base64 for bytes and chunk ids, text where bytes are UTF-8.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use serde::{Deserialize, Deserializer, Serialize, Serializer};

use crate::format::FormatError;
use crate::model::ids::ChunkId;

/// Bytes as standard base64.
#[must_use]
pub fn to_base64(bytes: &[u8]) -> String {
    STANDARD.encode(bytes)
}

/// The bytes that `text` spells.
///
/// # Errors
/// When it is no standard base64.
pub fn from_base64(text: &str) -> Result<Vec<u8>, FormatError> {
    STANDARD.decode(text).map_err(|e| FormatError::invalid("base64", e))
}

/// A chunk id as 32 characters of base64: half of what hex would cost in a catalogue.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct WireId(pub ChunkId);

impl Serialize for WireId {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let mut text = [0; 32];
        let length = STANDARD.encode_slice(self.0.0, &mut text).map_err(serde::ser::Error::custom)?;
        serializer.serialize_str(std::str::from_utf8(&text[..length]).map_err(serde::ser::Error::custom)?)
    }
}

impl<'de> Deserialize<'de> for WireId {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = std::borrow::Cow::<str>::deserialize(deserializer)?;
        // The decoder estimates room in whole groups, so it asks for a little more than the id needs.
        let mut bytes = [0; 27];
        let length = STANDARD.decode_slice(text.as_bytes(), &mut bytes).map_err(serde::de::Error::custom)?;
        let id = bytes[..length].try_into().map_err(|_| serde::de::Error::custom("a chunk id has 24 bytes"))?;
        Ok(Self(ChunkId(id)))
    }
}

/// Wraps ids for the wire.
#[must_use]
pub fn wire_ids(ids: &[ChunkId]) -> Vec<WireId> {
    ids.iter().copied().map(WireId).collect()
}

/// Unwraps ids from the wire.
#[must_use]
pub fn plain_ids(ids: Vec<WireId>) -> Vec<ChunkId> {
    ids.into_iter().map(|w| w.0).collect()
}

/// Bytes that are usually text, as the pair of fields `<name>` and `<name>_b64` of which one is set.
#[must_use]
pub fn split_text(bytes: &[u8]) -> (Option<String>, Option<String>) {
    match std::str::from_utf8(bytes) {
        Ok(text) => (Some(text.to_owned()), None),
        Err(_) => (None, Some(to_base64(bytes))),
    }
}

/// The inverse of [`split_text`].
///
/// # Errors
/// When both or neither are set, the base64 is wrong, or it spells text that should have stood in the other field.
pub fn join_text(text: Option<String>, base64: Option<String>, what: &'static str) -> Result<Vec<u8>, FormatError> {
    match (text, base64) {
        (Some(text), None) => Ok(text.into_bytes()),
        (None, Some(base64)) => {
            let bytes = from_base64(&base64)?;
            if std::str::from_utf8(&bytes).is_ok() {
                return Err(FormatError::invalid(what, "text in base64"));
            }
            Ok(bytes)
        }
        _ => Err(FormatError::invalid(what, "needs exactly one of its two spellings")),
    }
}
