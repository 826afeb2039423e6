//! What a snapshot is called and counted by.

use serde::{Deserialize, Serialize};

/// Whether a snapshot may stand in for a good one.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum SnapshotState {
    /// Complete.
    Good,
    /// Complete, but something about it calls for a person: an unusual change.
    Suspect,
    /// With entries that could not be read.
    Partial,
}

/// What a push counted.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct Tally {
    /// Files, hard links included.
    pub files: u64,
    /// Directories.
    pub dirs: u64,
    /// Links, devices and pipes.
    pub others: u64,
    /// Logical bytes of file content.
    pub source_bytes: u64,
}
