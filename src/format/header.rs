//! `farkeep-vault.json`: what this is, in plain. Its BLAKE3 stands in every trust record, so the root vouches for it.

use serde::{Deserialize, Serialize};

use crate::format::FormatError;
use crate::model::ids::VaultId;
use crate::model::limits::{FORMAT_VERSION, PACK_CLASS_BYTES, SMALL_OBJECT_MAX_BYTES};
use crate::model::time::Timestamp;

const WHAT: &str = "farkeep-vault.json";

/// The vault's header.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Header {
    /// The format version: the first thing that a reader looks at.
    pub farkeep_format: u32,
    /// The vault's id, the same in every copy.
    pub vault: VaultId,
    /// When it was made.
    pub created: Timestamp,
    /// The size of full packs, before encryption.
    pub pack_class_bytes: u64,
    /// A word to whoever finds this.
    pub about: String,
}

impl Header {
    /// A header for a new vault.
    #[must_use]
    pub fn new(vault: VaultId, created: Timestamp) -> Self {
        let about = "an encrypted backup vault; RECOVER.md beside this file says how to check it and open it".to_owned();
        Self { farkeep_format: FORMAT_VERSION, vault, created, pack_class_bytes: PACK_CLASS_BYTES, about }
    }

    /// As stored.
    ///
    /// # Errors
    /// Never in practice: the values are plain.
    pub fn encode(&self) -> Result<Vec<u8>, FormatError> {
        let mut text = serde_json::to_string_pretty(self).map_err(|e| FormatError::invalid(WHAT, e))?;
        text.push('\n');
        Ok(text.into_bytes())
    }

    /// Reads a header of a version that this program knows.
    ///
    /// # Errors
    /// When it is newer, or no header.
    pub fn decode(bytes: &[u8]) -> Result<Self, FormatError> {
        #[derive(Deserialize)]
        struct Version {
            farkeep_format: u32,
        }
        if bytes.len() as u64 > SMALL_OBJECT_MAX_BYTES {
            return Err(FormatError::Limit { what: WHAT, limit: SMALL_OBJECT_MAX_BYTES });
        }
        let Version { farkeep_format: found } = serde_json::from_slice(bytes).map_err(|e| FormatError::invalid(WHAT, e))?;
        if found > FORMAT_VERSION {
            return Err(FormatError::Newer { what: WHAT, found: u64::from(found), known: u64::from(FORMAT_VERSION) });
        }
        let header: Self = serde_json::from_slice(bytes).map_err(|e| FormatError::invalid(WHAT, e))?;
        if header.pack_class_bytes != PACK_CLASS_BYTES {
            return Err(FormatError::invalid(WHAT, "a pack size class that version 1 does not have"));
        }
        Ok(header)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_newer_format_is_refused_by_its_version() {
        let header = Header::new(VaultId([1; 16]), Timestamp(5));
        let bytes = header.encode().unwrap_or_else(|e| panic!("{e}"));
        assert_eq!(Header::decode(&bytes), Ok(header));
        let newer = br#"{"farkeep_format": 2, "everything": "else changed"}"#;
        assert!(matches!(Header::decode(newer), Err(FormatError::Newer { found: 2, .. })));
        assert!(Header::decode(b"{}").is_err());
    }
}
