//! The manifest: the sealed description of one snapshot, from which all of it is found.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use crate::format::FormatError;
use crate::format::wire::{WireId, join_text, plain_ids, split_text, wire_ids};
use crate::model::entry::Refs;
use crate::model::finding::Finding;
use crate::model::ids::{ChunkId, VaultId};
use crate::model::limits::{FORMAT_VERSION, LIST_LEVELS_MAX, MANIFEST_MAX_BYTES};
use crate::model::name::ObjectName;
use crate::model::path::EntryPath;
use crate::model::snapshot::Tally;
use crate::model::time::Timestamp;

const WHAT: &str = "manifest";

/// One snapshot.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Manifest {
    /// The format version.
    pub format: u32,
    /// The vault.
    pub vault: VaultId,
    /// The machine that was backed up.
    pub host: String,
    /// The job.
    pub job: String,
    /// Tags in clear.
    pub tags: Vec<String>,
    /// When the push began.
    pub started: Timestamp,
    /// When its last source ended.
    pub finished: Timestamp,
    /// The zone in which the job reads dates and weekdays (IANA name).
    pub timezone: String,
    /// The program that made it.
    pub farkeep: String,
    /// The index objects that together place every chunk of the snapshot.
    pub indexes: Vec<ObjectName>,
    /// Its members, in the job's order.
    pub members: Vec<Member>,
    /// The first findings; the record says how many there were.
    pub findings: Vec<Finding>,
}

/// A source seen as a required part of its job.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Member {
    /// Its name.
    pub name: String,
    /// Its kind, as in the configuration.
    pub kind: String,
    /// The roots that it was read from, for files.
    #[serde(default, skip_serializing_if = "Vec::is_empty", with = "paths")]
    pub roots: Vec<EntryPath>,
    /// What cut its content.
    pub chunker: Chunker,
    /// When its capture began.
    pub started: Timestamp,
    /// When it ended.
    pub finished: Timestamp,
    /// What it holds.
    pub tally: Tally,
    /// Where its catalogue is.
    pub catalogue: Catalogue,
    /// Programs and servers that gave it, with their versions.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub tools: BTreeMap<String, String>,
    /// Counts and hashes by which a restored target is compared.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub proof: BTreeMap<String, String>,
}

/// Paths as text where they are UTF-8, else as `{"b64": ...}`.
mod paths {
    use super::{Deserialize, EntryPath, Serialize, join_text, split_text};
    use serde::{Deserializer, Serializer};

    #[derive(Serialize, Deserialize)]
    #[serde(untagged)]
    enum WirePath {
        Text(String),
        Bytes { b64: String },
    }

    pub fn serialize<S: Serializer>(paths: &[EntryPath], serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_seq(paths.iter().map(|path| match split_text(path.as_bytes()) {
            (Some(text), _) => WirePath::Text(text),
            (None, base64) => WirePath::Bytes { b64: base64.unwrap_or_default() },
        }))
    }

    pub fn deserialize<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Vec<EntryPath>, D::Error> {
        let wire = Vec::<WirePath>::deserialize(deserializer)?;
        wire.into_iter()
            .map(|path| {
                let (text, base64) = match path {
                    WirePath::Text(text) => (Some(text), None),
                    WirePath::Bytes { b64 } => (None, Some(b64)),
                };
                let bytes = join_text(text, base64, "path").map_err(serde::de::Error::custom)?;
                EntryPath::from_bytes(bytes).map_err(serde::de::Error::custom)
            })
            .collect()
    }
}

/// The algorithm and the bounds that cut a member's content, in bytes.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Chunker {
    /// `mincdc-hash4`: crate mincdc 0.1 with its default parameters.
    pub algorithm: String,
    /// Least length of a chunk that is not the last.
    pub min_bytes: u32,
    /// Greatest length.
    pub max_bytes: u32,
}

/// The chunks of a catalogue: each is whole lines and named with the first path in it, so that one path is found in a few
/// reads.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case", deny_unknown_fields)]
pub enum Catalogue {
    /// The chunks.
    Chunks(Vec<CatalogueChunk>),
    /// They stand, as one JSON object a line, in a stream of their own.
    Stream(WireRefs),
}

/// One chunk of a catalogue.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CatalogueChunk {
    /// The chunk.
    pub id: ChunkId,
    /// The path of its first line.
    pub first: EntryPath,
}

#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct WireCatalogueChunk {
    id: WireId,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    first: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    first_b64: Option<String>,
}

impl Serialize for CatalogueChunk {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let (first, first_b64) = split_text(self.first.as_bytes());
        WireCatalogueChunk { id: WireId(self.id), first, first_b64 }.serialize(serializer)
    }
}

impl<'de> Deserialize<'de> for CatalogueChunk {
    fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let wire = WireCatalogueChunk::deserialize(deserializer)?;
        let bytes = join_text(wire.first, wire.first_b64, "path").map_err(serde::de::Error::custom)?;
        Ok(Self { id: wire.id.0, first: EntryPath::from_bytes(bytes).map_err(serde::de::Error::custom)? })
    }
}

/// A list of chunks on the wire: `{"chunks": [...]}`, with a `level` when they hold ids themselves.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct WireRefs {
    chunks: Vec<WireId>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    level: Option<u8>,
}

impl From<&Refs> for WireRefs {
    fn from(refs: &Refs) -> Self {
        match refs {
            Refs::Inline(ids) => Self { chunks: wire_ids(ids), level: None },
            Refs::List { level, chunks } => Self { chunks: wire_ids(chunks), level: Some(*level) },
        }
    }
}

impl TryFrom<WireRefs> for Refs {
    type Error = FormatError;

    fn try_from(wire: WireRefs) -> Result<Self, FormatError> {
        let chunks = plain_ids(wire.chunks);
        match wire.level {
            None => Ok(Self::Inline(chunks)),
            Some(level @ 1..=LIST_LEVELS_MAX) => Ok(Self::List { level, chunks }),
            Some(_) => Err(FormatError::Limit { what: "levels of a list stream", limit: u64::from(LIST_LEVELS_MAX) }),
        }
    }
}

impl Manifest {
    /// The manifest's JSON.
    ///
    /// # Errors
    /// When it is over 8 MiB.
    pub fn encode(&self) -> Result<Vec<u8>, FormatError> {
        let bytes = serde_json::to_vec(self).map_err(|e| FormatError::invalid(WHAT, e))?;
        if bytes.len() as u64 > MANIFEST_MAX_BYTES {
            return Err(FormatError::Limit { what: WHAT, limit: MANIFEST_MAX_BYTES });
        }
        Ok(bytes)
    }

    /// Reads a manifest's JSON.
    ///
    /// # Errors
    /// When it is newer, too large, or no manifest.
    pub fn decode(bytes: &[u8]) -> Result<Self, FormatError> {
        #[derive(Deserialize)]
        struct Version {
            format: u32,
        }
        if bytes.len() as u64 > MANIFEST_MAX_BYTES {
            return Err(FormatError::Limit { what: WHAT, limit: MANIFEST_MAX_BYTES });
        }
        let Version { format } = serde_json::from_slice(bytes).map_err(|e| FormatError::invalid(WHAT, e))?;
        if format > FORMAT_VERSION {
            return Err(FormatError::Newer { what: WHAT, found: u64::from(format), known: u64::from(FORMAT_VERSION) });
        }
        serde_json::from_slice(bytes).map_err(|e| FormatError::invalid(WHAT, e))
    }
}
