//! What each kind of record says.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use crate::format::record::{Head, RecordKind};
use crate::model::finding::FindingKind;
use crate::model::ids::{ObjectHash, SnapshotId, Token, WriterId};
use crate::model::name::ObjectName;
use crate::model::snapshot::{SnapshotState, Tally};
use crate::model::time::Timestamp;

/// A snapshot record: the commit of a push, readable without any key.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct SnapshotBody {
    /// The sealed manifest.
    pub manifest: ObjectName,
    /// The inventory root: every object that the snapshot needs.
    pub inventory: ObjectName,
    /// The epochs whose identities open the snapshot's objects, ascending.
    pub epochs: Vec<u32>,
    /// The generation of the vault secret that its chunk ids are keyed with.
    pub generation: u32,
    /// What host and job are called without a key.
    pub series: Token,
    /// What its tags are called without a key.
    pub tags: Vec<Token>,
    /// Whether it may stand in for a good one.
    pub state: SnapshotState,
    /// When the push began; the record's own time is when it ended.
    pub started: Timestamp,
    /// When the next one is due, where a schedule is known.
    pub due: Option<Timestamp>,
    /// Until when it must be kept, whatever retention says.
    pub hold: Option<Timestamp>,
    /// What was captured.
    pub tally: Tally,
    /// Packs that this push made.
    pub new_packs: u64,
    /// Stored bytes of the objects that this push made.
    pub new_bytes: u64,
    /// How many findings its manifest lists.
    pub findings: u64,
    /// What the last probe called each store: write-once, append-weak or mutable.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub probes: BTreeMap<String, String>,
}

/// A trust record: who may sign what, and which keys count.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct TrustBody {
    /// Root keys in OpenSSH form; a successor stands here before it signs.
    pub roots: Vec<String>,
    /// Writers by their id.
    pub writers: BTreeMap<WriterId, TrustedWriter>,
    /// Epochs, ascending; the last is the one that is sealed to.
    pub epochs: Vec<Epoch>,
    /// BLAKE3 of every plain file and of every file in `keys/`.
    pub files: BTreeMap<ObjectName, ObjectHash>,
}

/// A writer that the root trusts.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct TrustedWriter {
    /// Its public key in OpenSSH form.
    pub key: String,
    /// What people call it.
    pub name: String,
    /// The kinds of records that it may sign.
    pub kinds: Vec<RecordKind>,
    /// The first sequence number that counts.
    pub from: u64,
    /// The last record that counts, once it was revoked.
    pub until: Option<Head>,
}

/// An age key pair that packs are sealed to for a period.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Epoch {
    /// Its number, from 1.
    pub n: u32,
    /// Its public half.
    pub recipient: String,
    /// Whose identities open its private half: public keys, so that a refusal can say whose is needed.
    pub sealed_to: Vec<String>,
    /// The generation of the vault secret used in it.
    pub generation: u32,
}

/// A restore, before its first byte of plaintext.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct RestoreIntentBody {
    /// The snapshot.
    pub snapshot: SnapshotId,
    /// The store that it is read from.
    pub from: String,
    /// Who asks: the account and the machine.
    pub operator: String,
    /// Why, in the operator's words.
    pub reason: Option<String>,
    /// A case number.
    pub ticket: Option<String>,
    /// The command: restore, cat, try.
    pub purpose: String,
    /// How many paths or patterns were named; 0 is everything.
    pub selected: u64,
    /// Paths and target, sealed to the epoch in base64: names stay secret.
    pub sealed_detail: String,
}

/// What a restore record keeps sealed.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct RestoreDetail {
    /// Paths and patterns as given.
    pub selection: Vec<String>,
    /// Where it is written to.
    pub target: String,
}

/// How a restore ended.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct RestoreOutcomeBody {
    /// The intent record.
    pub intent: Head,
    /// done, findings, failed, interrupted.
    pub outcome: String,
    /// Entries brought to the target, those that were already right included.
    pub entries: u64,
    /// Bytes of content written.
    pub bytes: u64,
    /// How many findings were reported.
    pub findings: u64,
    /// The error, where one ended it; it names objects, never content.
    pub error: Option<String>,
}

/// What a verification found.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct VerifyBody {
    /// list, sealed or opened.
    pub depth: String,
    /// The store.
    pub store: String,
    /// When it began.
    pub started: Timestamp,
    /// Snapshots looked at.
    pub snapshots: u64,
    /// Objects looked at.
    pub objects: u64,
    /// Bytes read.
    pub bytes: u64,
    /// How many findings in all.
    pub findings: u64,
    /// Objects with a finding, a few hundred in a record: the next push counts them as absent.
    pub objects_found: Vec<FoundObject>,
    /// Whether everything was read and every object with a finding is named: what was found before counts no more.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub whole: bool,
}

/// An object with something wrong.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct FoundObject {
    /// Its name as stored.
    pub object: String,
    /// What kind of finding.
    pub kind: FindingKind,
}
