//! Whether what was captured is so unlike the nights before that a person should look at it.
//!
//! The nights before are remembered on the agent, which cannot open manifests. Without that memory nothing is judged until
//! there are enough nights again: a verdict says that something jumped, and that takes something to compare with.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use super::PushPlan;
use super::members::{Baseline, CapturedJob};
use crate::format::manifest::Member;
use crate::model::change::{Change, NIGHTS_KEPT, Night, judge};
use crate::model::finding::{Finding, FindingKind};
use crate::model::ids::{SnapshotId, Token};
use crate::model::limits::MIB;
use crate::model::snapshot::SnapshotState;
use crate::state::{StateDir, StateError, read_summed, write_summed};
use crate::vault::VaultError;
use crate::vault::snapshot_writer::SnapshotWriter;

/// What is to be said of a snapshot.
pub struct Judged {
    /// Whether it may stand in for a good one.
    pub state: SnapshotState,
    suspicions: Vec<Finding>,
    /// With tonight; none where changes are not judged.
    nights: Option<Nights>,
}

impl Judged {
    /// Judges what was captured. All packs must be sealed.
    ///
    /// # Errors
    /// When the local state cannot be read.
    pub fn of(
        plan: &PushPlan,
        captured: &CapturedJob,
        writer: &SnapshotWriter<'_>,
        state: &StateDir,
        series: &Token,
        generation: u32,
    ) -> Result<Self, VaultError> {
        let (mut suspicions, mut nights) = (Vec::new(), None);
        if plan.judge_change {
            let changes = captured.weigh(writer)?;
            suspicions = nights.insert(Nights::read(state, series, generation)?).add(&captured.members, &changes);
        }
        let state = match (suspicions.is_empty(), captured.finding_count) {
            (false, _) => SnapshotState::Suspect,
            (true, 0) => SnapshotState::Good,
            (true, _) => SnapshotState::Partial,
        };
        Ok(Self { state, suspicions, nights })
    }

    /// Remembers a good snapshot: later ones are compared with it.
    ///
    /// # Errors
    /// When the local state cannot be written.
    pub fn keep(
        &self,
        state: &StateDir,
        series: &Token,
        snapshot: SnapshotId,
        members: &[Member],
    ) -> Result<(), StateError> {
        Baseline::keep(state, series, snapshot, self.state, members)?;
        let nights = self.nights.as_ref().filter(|_| self.state == SnapshotState::Good);
        nights.map_or(Ok(()), |nights| nights.keep(state, series))
    }

    /// Why the snapshot is suspect, and what to do about it.
    #[must_use]
    pub fn findings(&self, snapshot: &SnapshotId) -> Vec<Finding> {
        let id = snapshot.short();
        let advise = |found: &Finding| {
            let message = format!(
                "{}: the snapshot is marked suspect, and nothing of the job is pruned until somebody has looked. If all is \
                 well, `farkeep hold {id} --clear` where the custodian's key is; if not, the snapshots before it are untouched",
                found.message
            );
            Finding { message, ..found.clone() }
        };
        self.suspicions.iter().map(advise).collect()
    }
}

/// What is remembered of the good snapshots of a series.
#[derive(Debug, Default, Serialize, Deserialize)]
struct Nights {
    /// The generation of the vault secret: under another one everything is stored anew.
    generation: u32,
    /// By member, oldest first.
    members: BTreeMap<String, MemberNights>,
}

#[derive(Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
struct MemberNights {
    /// Where content is cut, likewise.
    cut: [u64; 2],
    nights: Vec<Night>,
}

impl Nights {
    /// Reads them. What is not there, rotted, or of another generation is no memory.
    ///
    /// # Errors
    /// When the file is there and cannot be read.
    fn read(state: &StateDir, series: &Token, generation: u32) -> Result<Self, StateError> {
        let nights: Option<Self> = read_summed(&path(state, series), MIB)?;
        Ok(nights.filter(|nights| nights.generation == generation).unwrap_or(Self { generation, ..Self::default() }))
    }

    /// Adds tonight's changes, and says of which members they are suspect.
    fn add(&mut self, members: &[Member], changes: &[Change]) -> Vec<Finding> {
        let mut found = Vec::new();
        let mut before = std::mem::take(&mut self.members);
        for (member, change) in members.iter().zip(changes) {
            let cut = [member.chunker.min_bytes, member.chunker.max_bytes].map(u64::from);
            let mut known = before.remove(&member.name).filter(|known| known.cut == cut).unwrap_or_default();
            let night = Night::of(change, known.nights.last());
            found.extend(judge(&night, &known.nights).map(|why| Finding::new(FindingKind::Suspect, &member.name, why)));
            known.nights.push(night);
            let excess = known.nights.len().saturating_sub(NIGHTS_KEPT);
            known.nights.drain(..excess);
            self.members.insert(member.name.clone(), MemberNights { cut, ..known });
        }
        found
    }

    /// Remembers them for the next push.
    ///
    /// # Errors
    /// When they cannot be written.
    fn keep(&self, state: &StateDir, series: &Token) -> Result<(), StateError> {
        write_summed(&path(state, series), self)
    }
}

const FILE_PREFIX: &str = "nights-";

fn path(state: &StateDir, series: &Token) -> std::path::PathBuf {
    state.ratchet().join(format!("{FILE_PREFIX}{series}"))
}

/// Forgets the nights of every series: much that the vault holds will look new to this machine.
///
/// # Errors
/// When the local state cannot be written.
pub fn forget_nights(state: &StateDir) -> Result<(), StateError> {
    let dir = state.ratchet();
    for entry in std::fs::read_dir(&dir).map_err(StateError::io(&dir))?.flatten() {
        if entry.file_name().as_encoded_bytes().starts_with(FILE_PREFIX.as_bytes()) {
            std::fs::remove_file(entry.path()).map_err(StateError::io(&entry.path()))?;
        }
    }
    Ok(())
}
