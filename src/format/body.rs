//! What each kind of record says.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use crate::format::record::{Head, RecordKind};
use crate::model::drive::DriveName;
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
    /// What a restore of data systems found at each of them, sealed to the epoch in base64.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub sealed_report: Option<String>,
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
    /// Whether, where not everything was read, all that was spoken against here was read again and is right or gone.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub again: bool,
    /// The drive, where it is an enrolled one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub drive: Option<DriveName>,
    /// Its label then: the record that enrolled it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub label: Option<Head>,
    /// Where the copy was rolled back, and somebody who knows why took it as it is: the newest records that were seen there and
    /// are gone.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub rolled_back: BTreeMap<WriterId, Head>,
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

/// A snapshot must stay, or need not any more. Of each writer the newest one about a snapshot counts, and a snapshot is held
/// while any writer's says so: nobody can release what another holds.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct HoldBody {
    /// The snapshot.
    pub snapshot: SnapshotId,
    /// Until when it must stay; none releases it.
    pub until: Option<Timestamp>,
    /// Why, in the operator's words.
    pub reason: Option<String>,
    /// A person has looked at this suspect snapshot, and it counts as good, with those before it in its chain and series.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub cleared: bool,
}

/// A stretch of a writer's chain: every snapshot record in it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct SnapshotRange {
    /// The writer.
    pub writer: WriterId,
    /// The first number.
    pub first: u64,
    /// The last number.
    pub last: u64,
}

impl SnapshotRange {
    /// Whether a snapshot record of this place is meant.
    #[must_use]
    pub fn contains(&self, writer: &WriterId, seq: u64) -> bool {
        self.writer == *writer && (self.first..=self.last).contains(&seq)
    }
}

/// When the last push arrived and the next is due, as somebody saw it who looked.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct HeartbeatBody {
    /// What the writer calls the copy.
    pub store: String,
    /// The newest snapshot's time.
    pub last: Option<Timestamp>,
    /// When the next is due, where that is known.
    pub due: Option<Timestamp>,
}

/// What prune means to remove from one copy, and not before a time of waiting.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct PrunePlanBody {
    /// What the planner calls the copy.
    pub store: String,
    /// The snapshots that go.
    pub drops: Vec<SnapshotRange>,
    /// How many they are.
    pub snapshots: u64,
    /// How many stay.
    pub kept: u64,
    /// An inventory page of one line, which no other plan has. It lies in this copy alone and stays there: so it says which
    /// copy is meant, whatever its address is.
    pub copy: ObjectName,
    /// An inventory root whose pages list every object to be removed, `copy` among them. It goes when all of them are gone.
    pub list: ObjectName,
    /// How many objects those are.
    pub objects: u64,
    /// Their bytes.
    pub bytes: u64,
    /// How long to wait, in seconds, by the store's own clock.
    pub wait_secs: u64,
}

/// What prune drops: signed before the first object goes, and once more when all are gone.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct PruneDoneBody {
    /// Who planned it.
    pub planner: WriterId,
    /// The plan's record.
    pub plan: Head,
    /// What the remover calls the copy.
    pub store: String,
    /// As in the plan: which copy is meant.
    pub copy: ObjectName,
    /// The snapshots that are dropped.
    pub drops: Vec<SnapshotRange>,
    /// How many they are.
    pub snapshots: u64,
    /// Objects of the plan that stay, because something needs them now.
    pub spared: u64,
    /// False before the first removal, true after the last.
    pub finished: bool,
    /// Objects that were removed.
    pub objects: u64,
    /// Their bytes.
    pub bytes: u64,
    /// The drive, where the copy lies on an enrolled one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub drive: Option<DriveName>,
}
