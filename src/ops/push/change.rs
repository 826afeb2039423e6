//! Whether what was captured is so unlike the nights before that a person should look at it.
//!
//! The nights before are remembered on the agent, which cannot open manifests. Without that memory nothing is judged until
//! there are enough nights again: a verdict says that something jumped, and that takes something to compare with. A suspect
//! night is remembered too, and nothing is compared with it until the ledger says that a person has cleared it.

use std::collections::{BTreeMap, BTreeSet};

use serde::{Deserialize, Serialize};

use super::PushPlan;
use super::members::{Baseline, CapturedJob};
use super::prepare::Prepared;
use crate::format::manifest::Member;
use crate::model::change::{Change, NIGHTS_KEPT, Night, judge};
use crate::model::finding::{Finding, FindingKind};
use crate::model::ids::{SnapshotId, Token};
use crate::model::limits::MIB;
use crate::model::snapshot::SnapshotState;
use crate::state::{StateDir, StateError, read_summed, write_summed};
use crate::vault::VaultError;
use crate::vault::snapshot_writer::SnapshotWriter;

/// Nights of more members than any job has: 28 of each, in less than 200 bytes each.
const NIGHTS_MAX_BYTES: u64 = 8 * MIB;

/// What is to be said of a snapshot.
pub struct Judged {
    /// Whether it may stand in for a good one.
    pub state: SnapshotState,
    suspicions: Vec<Finding>,
    /// The nights before, and tonight; none where changes are not judged.
    nights: Option<(Nights, Vec<Tonight>)>,
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
        prepared: &Prepared,
    ) -> Result<Self, VaultError> {
        let (mut suspicions, mut nights) = (Vec::new(), None);
        if plan.judge_change {
            let changes = captured.weigh(writer)?;
            let mut before = Nights::read(state, series, generation)?;
            before.count_in(&prepared.cleared(series));
            let tonight: Vec<_> = captured.members.iter().zip(&changes).map(|(m, change)| before.judge(m, change)).collect();
            suspicions = tonight.iter().filter_map(|tonight| tonight.suspicion.clone()).collect();
            nights = Some((before, tonight));
        }
        let state = match (suspicions.is_empty(), captured.finding_count) {
            (false, _) => SnapshotState::Suspect,
            (true, 0) => SnapshotState::Good,
            (true, _) => SnapshotState::Partial,
        };
        Ok(Self { state, suspicions, nights })
    }

    /// Remembers a good snapshot: later ones are compared with it. And a suspect one, for the case that a person clears it.
    ///
    /// # Errors
    /// When the local state cannot be written.
    pub fn keep(
        &mut self,
        baseline: &Baseline,
        state: &StateDir,
        series: &Token,
        snapshot: SnapshotId,
        members: &[Member],
    ) -> Result<(), StateError> {
        baseline.keep(state, series, snapshot, self.state, members)?;
        let Some((mut nights, tonight)) = self.nights.take() else { return Ok(()) };
        match self.state {
            SnapshotState::Good => nights.add_good(tonight),
            SnapshotState::Suspect => nights.add_suspect(tonight, snapshot),
            SnapshotState::Partial => return Ok(()),
        }
        nights.keep(state, series)
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

/// What is remembered of the snapshots of a series.
#[derive(Debug, Default, Serialize, Deserialize)]
struct Nights {
    /// The generation of the vault secret: under another one everything is stored anew.
    generation: u32,
    /// By member.
    members: BTreeMap<String, MemberNights>,
}

#[derive(Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
struct MemberNights {
    /// Where content is cut, likewise.
    cut: [u64; 2],
    /// Oldest first. As `nights` they were written when suspect ones were not among them.
    #[serde(alias = "nights")]
    seen: Vec<Seen>,
}

/// A night, and what it counts as.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
struct Seen {
    #[serde(flatten)]
    night: Night,
    /// Its snapshot, while that is suspect: it does not count.
    #[serde(default)]
    suspect: Option<SnapshotId>,
}

/// What capturing a member came to tonight.
struct Tonight {
    member: String,
    cut: [u64; 2],
    night: Night,
    suspicion: Option<Finding>,
}

impl MemberNights {
    /// The nights that count.
    fn good(&self) -> Vec<Night> {
        self.seen.iter().filter(|seen| seen.suspect.is_none()).map(|seen| seen.night).collect()
    }

    /// Lets suspect nights count that a person has cleared. What followed is measured against them.
    fn count_in(&mut self, cleared: &BTreeSet<SnapshotId>) {
        let (mut before, mut moved): (Option<Night>, bool) = (None, false);
        for seen in &mut self.seen {
            moved |= seen.suspect.take_if(|snapshot| cleared.contains(snapshot)).is_some();
            if seen.suspect.is_none() {
                seen.night = before.filter(|_| moved).map_or(seen.night, |before| seen.night.after(&before));
                before = Some(seen.night);
            }
        }
    }

    /// Adds the newest, and forgets the oldest where too many count or too many wait.
    fn add(&mut self, night: Night, suspect: Option<SnapshotId>) {
        self.seen.push(Seen { night, suspect });
        for waits in [false, true] {
            let alike = |seen: &Seen| seen.suspect.is_some() == waits;
            let mut excess = self.seen.iter().filter(|seen| alike(seen)).count().saturating_sub(NIGHTS_KEPT);
            self.seen.retain(|seen| {
                let goes = excess > 0 && alike(seen);
                excess -= usize::from(goes);
                !goes
            });
        }
    }
}

impl Nights {
    /// Reads them. What is not there, rotted, or of another generation is no memory.
    ///
    /// # Errors
    /// When the file is there and cannot be read.
    fn read(state: &StateDir, series: &Token, generation: u32) -> Result<Self, StateError> {
        let nights: Option<Self> = read_summed(&path(state, series), NIGHTS_MAX_BYTES)?;
        Ok(nights.filter(|nights| nights.generation == generation).unwrap_or(Self { generation, ..Self::default() }))
    }

    /// Lets suspect nights count that a person has cleared.
    fn count_in(&mut self, cleared: &BTreeSet<SnapshotId>) {
        for known in self.members.values_mut() {
            known.count_in(cleared);
        }
    }

    /// Compares tonight with the good nights of the member.
    fn judge(&self, member: &Member, change: &Change) -> Tonight {
        let cut = [member.chunker.min_bytes, member.chunker.max_bytes].map(u64::from);
        let before =
            self.members.get(&member.name).filter(|known| known.cut == cut).map(MemberNights::good).unwrap_or_default();
        let night = Night::of(change, before.last());
        let suspicion = judge(&night, &before).map(|why| Finding::new(FindingKind::Suspect, &member.name, why));
        Tonight { member: member.name.clone(), cut, night: Night { was_suspect: suspicion.is_some(), ..night }, suspicion }
    }

    /// Adds a good night. What is no member any more is forgotten.
    fn add_good(&mut self, tonight: Vec<Tonight>) {
        let mut before = std::mem::take(&mut self.members);
        for Tonight { member, cut, night, .. } in tonight {
            let known = before.remove(&member).filter(|known| known.cut == cut);
            let known = self.members.entry(member).or_insert(known.unwrap_or(MemberNights { cut, seen: Vec::new() }));
            known.add(night, None);
        }
    }

    /// Adds a suspect night, which makes nothing be forgotten that nights are compared with.
    fn add_suspect(&mut self, tonight: Vec<Tonight>, snapshot: SnapshotId) {
        for Tonight { member, cut, night, .. } in tonight {
            if let Some(known) = self.members.get_mut(&member).filter(|known| known.cut == cut) {
                known.add(night, Some(snapshot));
            }
        }
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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::crypto::hash::hash;
    use crate::model::ids::VaultId;

    fn night(all: u64, new: u64) -> Night {
        Night::of(&Change { source_bytes: all * MIB, new_bytes: new * MIB, dense_bytes: 0 }, None)
    }

    #[test]
    fn cleared_nights_count_in_their_place_and_what_followed_is_measured_against_them() {
        let [first, second, third] = [1_u8, 2, 3].map(|n| hash(&[n]));
        let mut known = MemberNights::default();
        known.add(night(100, 100), None);
        known.add(night(10, 2), Some(first));
        known.add(night(10, 0), Some(second));
        known.add(night(99, 1).after(&night(100, 100)), None);
        known.add(night(8, 0), Some(third));
        let shown = |known: &MemberNights| -> Vec<_> {
            known.good().iter().map(|night| (night.source_bytes / MIB, night.gone_percent)).collect()
        };
        assert_eq!(shown(&known), [(100, 0), (99, 2)]);
        known.count_in(&BTreeSet::from([first, second]));
        assert_eq!(shown(&known), [(100, 0), (10, 92), (10, 0), (99, 0)]);
        let counted = known.seen.clone();
        known.count_in(&BTreeSet::from([first, second]));
        assert_eq!(known.seen, counted, "once is enough");
        for number in 0..100 {
            known.add(night(8, 0), (number % 3 > 0).then_some(third));
            assert!(known.good().len() <= NIGHTS_KEPT && known.seen.len() <= 2 * NIGHTS_KEPT);
        }
    }

    #[test]
    fn a_thousand_members_with_all_their_nights_are_read_again() {
        let dir = tempfile::tempdir().unwrap_or_else(|e| panic!("{e}"));
        let state = StateDir::open(dir.path(), VaultId([1; 16])).unwrap_or_else(|e| panic!("{e}"));
        let series = Token([2; 16]);
        let mut known = MemberNights::default();
        let night = Night { source_bytes: 1 << 50, new_bytes: 1 << 50, was_suspect: true, ..night(1, 1) };
        for number in 0..2 * NIGHTS_KEPT {
            known.add(night, (number % 2 == 0).then(|| hash(b"suspect")));
        }
        let member = |n: usize| (format!("{n:064}"), MemberNights { cut: known.cut, seen: known.seen.clone() });
        let nights = Nights { generation: 1, members: (0..1000).map(member).collect() };
        nights.keep(&state, &series).unwrap_or_else(|e| panic!("{e}"));
        let read = Nights::read(&state, &series, 1).unwrap_or_else(|e| panic!("{e}"));
        assert!(read.members == nights.members);
    }

    #[test]
    fn what_was_remembered_before_suspect_nights_were_is_read() {
        let text = r#"{"generation":1,"members":{"files":{"cut":[1,2],"nights":[
            {"source_bytes":1048576,"gone_percent":7,"dense_percent":null},
            {"source_bytes":2097152,"gone_percent":8,"dense_percent":9}]}}}"#;
        let read: Nights = serde_json::from_str(text).unwrap_or_else(|e| panic!("{e}"));
        let good = read.members["files"].good();
        assert_eq!(
            good.iter().map(|night| (night.gone_percent, night.dense_percent)).collect::<Vec<_>>(),
            [(7, None), (8, Some(9))]
        );
        let text = serde_json::to_string(&read).unwrap_or_default();
        let again: Nights = serde_json::from_str(&text).unwrap_or_else(|e| panic!("{e}: {text}"));
        assert_eq!(again.members, read.members);
    }
}
