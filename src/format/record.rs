//! A record: one statement in canonical JSON on the first line, then an armored SSHSIG over that line.
//!
//! This module knows the shape alone. Who may sign what, and whether a signature is true, is the ledger's business.

use std::collections::BTreeMap;
use std::fmt;

use serde::{Deserialize, Deserializer, Serialize, Serializer};
use serde_json::Value;

use crate::format::FormatError;
use crate::format::canonical::{from_canonical, to_canonical};
use crate::model::ids::{ObjectHash, VaultId, WriterId};
use crate::model::limits::{RECORD_MAX_BYTES, SEQ_MAX};
use crate::model::time::Timestamp;

const WHAT: &str = "record";
/// Namespace of the signature of every record but the root's.
pub const RECORD_NAMESPACE: &str = "farkeep-record@v1";
/// Namespace of the signature of trust records.
pub const TRUST_NAMESPACE: &str = "farkeep-trust@v1";

/// A place in a chain: a record and the hash of its statement line.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Head {
    /// From 1.
    pub seq: u64,
    /// BLAKE3 of the statement line, newline included.
    pub hash: ObjectHash,
}

/// What a record says.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub enum RecordKind {
    /// A snapshot exists.
    Snapshot,
    /// Keys, writers and epochs: signed by the root alone.
    Trust,
    /// A copy was brought up to date.
    Export,
    /// A copy was verified.
    Verify,
    /// A restore was rehearsed.
    Drill,
    /// A restore is about to begin.
    RestoreIntent,
    /// How it ended.
    RestoreOutcome,
    /// What prune means to remove.
    PrunePlan,
    /// What it removed.
    PruneDone,
    /// A snapshot must stay.
    Hold,
    /// A second person agrees.
    Approval,
    /// A drive's register.
    Drive,
    /// The last push was then, the next is due then.
    Heartbeat,
    /// A kind of a newer farkeep: it keeps its place in the chain and means nothing here.
    Other(String),
}

impl RecordKind {
    const KNOWN: [(Self, &'static str); 13] = [
        (Self::Snapshot, "snapshot"),
        (Self::Trust, "trust"),
        (Self::Export, "export"),
        (Self::Verify, "verify"),
        (Self::Drill, "drill"),
        (Self::RestoreIntent, "restore-intent"),
        (Self::RestoreOutcome, "restore-outcome"),
        (Self::PrunePlan, "prune-plan"),
        (Self::PruneDone, "prune-done"),
        (Self::Hold, "hold"),
        (Self::Approval, "approval"),
        (Self::Drive, "drive"),
        (Self::Heartbeat, "heartbeat"),
    ];

    /// The names of all kinds that mean something here.
    pub fn known() -> impl Iterator<Item = &'static str> {
        Self::KNOWN.iter().map(|(_, name)| *name)
    }

    /// As it stands in a record.
    #[must_use]
    pub fn as_str(&self) -> &str {
        match self {
            Self::Other(text) => text,
            known => Self::KNOWN.iter().find(|(kind, _)| kind == known).map_or("", |(_, text)| text),
        }
    }
}

impl From<&str> for RecordKind {
    fn from(text: &str) -> Self {
        let known = Self::KNOWN.iter().find(|(_, name)| *name == text);
        known.map_or_else(|| Self::Other(text.to_owned()), |(kind, _)| kind.clone())
    }
}

impl fmt::Display for RecordKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

impl Serialize for RecordKind {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(self.as_str())
    }
}

impl<'de> Deserialize<'de> for RecordKind {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        Ok(Self::from(std::borrow::Cow::<str>::deserialize(deserializer)?.as_ref()))
    }
}

/// The first line of a record.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Statement {
    /// The vault it belongs to: a record means nothing in another.
    pub vault: VaultId,
    /// Who signs.
    pub writer: WriterId,
    /// Place in the writer's chain, from 1, without gaps.
    pub seq: u64,
    /// Hash of the statement before; none for the first.
    pub prev: Option<ObjectHash>,
    /// When the writer's clock says it was made.
    pub time: Timestamp,
    /// What it says.
    pub kind: RecordKind,
    /// The newest trust record that the writer knew; none in the root's own chain.
    pub trust: Option<Head>,
    /// The newest record that the writer had seen of each other writer, so that a withheld one shows.
    pub heads: BTreeMap<WriterId, Head>,
    /// What is special to the kind.
    pub body: Value,
}

impl Statement {
    /// The statement line, newline included: what is hashed and signed.
    ///
    /// # Errors
    /// When the body cannot be spelled canonically, or the line leaves no room for a signature.
    pub fn to_line(&self) -> Result<String, FormatError> {
        self.check()?;
        let mut line = to_canonical(self)?;
        line.push('\n');
        if line.len() as u64 > RECORD_MAX_BYTES - 4096 {
            return Err(FormatError::Limit { what: WHAT, limit: RECORD_MAX_BYTES - 4096 });
        }
        Ok(line)
    }

    /// Reads a statement line, newline included.
    ///
    /// # Errors
    /// When it is not the canonical spelling of a statement.
    pub fn from_line(line: &str) -> Result<Self, FormatError> {
        let json = line.strip_suffix('\n').ok_or(FormatError::Length { what: WHAT })?;
        let statement: Self = from_canonical(json)?;
        statement.check()?;
        Ok(statement)
    }

    /// The body as the type that belongs to the kind.
    ///
    /// # Errors
    /// When it does not fit.
    pub fn body_as<T: serde::de::DeserializeOwned>(&self) -> Result<T, FormatError> {
        T::deserialize(&self.body).map_err(|e| FormatError::invalid("record body", e))
    }

    fn check(&self) -> Result<(), FormatError> {
        if self.seq == 0 || self.seq > SEQ_MAX {
            return Err(FormatError::Limit { what: "sequence number", limit: SEQ_MAX });
        }
        if (self.seq == 1) != self.prev.is_none() {
            return Err(FormatError::invalid(WHAT, "only the first record of a chain has no predecessor"));
        }
        Ok(())
    }
}

/// Takes a stored record apart into the statement line, newline included, and the armored signature.
///
/// # Errors
/// When it is over 64 KiB, not UTF-8, or has no second line.
pub fn split(bytes: &[u8]) -> Result<(&str, &str), FormatError> {
    if bytes.len() as u64 > RECORD_MAX_BYTES {
        return Err(FormatError::Limit { what: WHAT, limit: RECORD_MAX_BYTES });
    }
    let text = std::str::from_utf8(bytes).map_err(|e| FormatError::invalid(WHAT, e))?;
    let end = text.find('\n').ok_or(FormatError::Length { what: WHAT })? + 1;
    Ok(text.split_at(end))
}

/// Puts a record together.
#[must_use]
pub fn join(line: &str, armor: &str) -> Vec<u8> {
    [line.as_bytes(), armor.as_bytes()].concat()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn statement() -> Statement {
        let head = Head { seq: 3, hash: ObjectHash([5; 32]) };
        Statement {
            vault: VaultId([1; 16]),
            writer: WriterId([2; 16]),
            seq: 2,
            prev: Some(ObjectHash([3; 32])),
            time: Timestamp(1_763_690_400),
            kind: RecordKind::Snapshot,
            trust: Some(head),
            heads: [(WriterId([4; 16]), head)].into(),
            body: serde_json::json!({"manifest": "x", "counts": [1, 2]}),
        }
    }

    #[test]
    fn statements_come_back_and_only_in_their_one_spelling() {
        let line = statement().to_line().unwrap_or_else(|e| panic!("{e}"));
        assert_eq!(Statement::from_line(&line), Ok(statement()));
        for wrong in [
            line.trim_end().to_owned(),
            format!(" {line}"),
            line.replace("\"seq\":2", "\"seq\":9223372036854775808"),
            line.replace("\"seq\":2", "\"seq\":0"),
            line.replace("\"seq\":2", "\"seq\":1"),
            line.replace("\"vault\"", "\"extra\":1,\"vault\""),
        ] {
            assert!(Statement::from_line(&wrong).is_err(), "{wrong}");
        }
    }

    #[test]
    fn kinds_of_the_future_keep_their_name() {
        assert_eq!(RecordKind::from("restore-intent"), RecordKind::RestoreIntent);
        assert_eq!(RecordKind::from("teleport").as_str(), "teleport");
    }
}
