//! Suspect snapshots: which of them a person has looked at, and which series stand still until somebody does.

use std::collections::BTreeMap;

use crate::format::body::HoldBody;
use crate::format::record::RecordKind;
use crate::ledger::Standing;
use crate::model::ids::{Token, WriterId};
use crate::model::snapshot::SnapshotState;
use crate::vault::snapshots::{Records, Snapshot};

/// What persons have said of suspect snapshots, and which nobody has spoken of.
#[derive(Debug, Clone, Default)]
pub struct Suspects {
    /// By series: the place of the newest snapshot that somebody cleared.
    cleared: BTreeMap<Token, (u64, WriterId, u64)>,
    /// By series: the newest suspect snapshot that nobody cleared.
    standing: BTreeMap<Token, Snapshot>,
}

impl Suspects {
    /// Reads the hold records of trusted writers. The agent's key signs none, so whoever has that alone clears nothing.
    #[must_use]
    pub fn read(records: &Records) -> Self {
        let snapshots = records.snapshots();
        let mut suspects = Self::default();
        for record in &records.checked {
            if record.standing != Standing::Trusted || record.statement.kind != RecordKind::Hold {
                continue;
            }
            let body = record.statement.body_as::<HoldBody>().ok().filter(|body| body.cleared);
            let Some(of) = body.and_then(|body| snapshots.iter().find(|snapshot| snapshot.id == body.snapshot)) else {
                continue;
            };
            let slot = suspects.cleared.entry(of.body.series).or_insert_with(|| of.place());
            *slot = of.place().max(*slot);
        }
        for snapshot in snapshots {
            if snapshot.body.state == SnapshotState::Suspect && !suspects.is_cleared(&snapshot) {
                suspects.standing.insert(snapshot.body.series, snapshot);
            }
        }
        suspects
    }

    /// Whether somebody has cleared this snapshot, or a later one of its series.
    #[must_use]
    pub fn is_cleared(&self, snapshot: &Snapshot) -> bool {
        self.cleared.get(&snapshot.body.series).is_some_and(|place| snapshot.place() <= *place)
    }

    /// What counts for retention.
    #[must_use]
    pub fn state_of(&self, snapshot: &Snapshot) -> SnapshotState {
        match snapshot.body.state {
            SnapshotState::Suspect if self.is_cleared(snapshot) => SnapshotState::Good,
            state => state,
        }
    }

    /// The suspect snapshot for which nothing of this series goes.
    #[must_use]
    pub fn freezes(&self, series: &Token) -> Option<&Snapshot> {
        self.standing.get(series)
    }
}
