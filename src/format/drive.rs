//! What records say of drives: the kinds `drive` and `export`.

use serde::{Deserialize, Serialize};

use crate::format::record::Head;
use crate::model::drive::{DriveIdentity, DriveName};
use crate::model::ids::{ObjectHash, SnapshotId};
use crate::model::time::Timestamp;

/// A drive record: something happened to a drive as a thing.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct DriveBody {
    /// The drive.
    pub drive: DriveName,
    /// Who says so: the account and the machine.
    pub operator: String,
    /// What happened.
    pub event: DriveEvent,
}

/// What can happen to a drive.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum DriveEvent {
    /// It takes part from now on. This very record is its label.
    Enrol(Enrolment),
    /// It went to somebody else.
    Handover(Handover),
    /// It takes part no more.
    Retire(Retirement),
}

/// What a drive is when it is enrolled.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Enrolment {
    /// By what it is known again.
    pub identity: DriveIdentity,
    /// Whether dm-crypt lay beneath.
    pub encrypted: bool,
    /// Its file system.
    pub fs_type: String,
    /// What that file system lacks of what others have.
    pub lacks: Vec<String>,
    /// Where it is mounted on the machine that enrolled it.
    pub path: String,
    /// How often it should take an export, in seconds.
    pub every_secs: u64,
    /// Who may hold it.
    pub holders: Vec<String>,
    /// Where it is kept.
    pub location: Option<String>,
}

/// A drive went from hand to hand.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Handover {
    /// Who held it, as far as the register knew.
    pub from: Option<String>,
    /// Who holds it now.
    pub to: String,
    /// Where it is kept now.
    pub location: Option<String>,
    /// The number of the bag or seal that it travels in.
    pub seal: Option<String>,
}

/// A drive takes part no more.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Retirement {
    /// Why.
    pub reason: Option<String>,
    /// How what lay on it was made unreadable.
    pub erased: String,
}

/// An export record: a drive's copy was brought up to date, made durable, read back and found right.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ExportBody {
    /// The drive.
    pub drive: DriveName,
    /// Its label: the record that enrolled it.
    pub label: Head,
    /// The copy that was read.
    pub from: String,
    /// Who ran it: the account and the machine.
    pub operator: String,
    /// When it began; the record's own time is when it ended.
    pub started: Timestamp,
    /// Snapshots that the drive holds now.
    pub snapshots: u64,
    /// The newest of them.
    pub newest: Option<SnapshotId>,
    /// Objects that were sent.
    pub objects: u64,
    /// Their bytes.
    pub bytes: u64,
    /// Objects that were read back and hashed.
    pub read_back: u64,
    /// Whether all of them were read past the machine's cache.
    pub past_cache: bool,
    /// Bytes that are free on the drive now.
    pub free_bytes: Option<u64>,
    /// BLAKE3 of the program that lies on the drive, where one does.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub binary: Option<ObjectHash>,
    /// How many findings there were.
    pub findings: u64,
}
