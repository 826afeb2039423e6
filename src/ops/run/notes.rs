//! Which members an unfinished restore has already brought back, beside the parts that it has fetched.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use super::member::Task;
use crate::model::finding::{Finding, FindingKind};
use crate::model::ids::SnapshotId;
use crate::model::limits::MIB;
use crate::model::time::Timestamp;
use crate::state::{StateError, make_private_dir, read_if_there, write_durably};

const FILE: &str = "restored.json";
const PARTS: &str = "parts";
const SCRATCH: &str = "scratch";

/// The notes of one snapshot's restore to one target.
pub struct Notes {
    dir: PathBuf,
    was_there: bool,
    done: std::sync::Mutex<Done>,
}

#[derive(Default, Serialize, Deserialize)]
struct Done {
    /// Targets of two jobs may have one name.
    #[serde(default)]
    job: Option<String>,
    members: BTreeMap<String, Timestamp>,
    /// Where safety copies of a member are complete, the first one first.
    #[serde(default)]
    kept: BTreeMap<String, Vec<PathBuf>>,
    /// Members whose replacement has begun: what is there now is no more what was there before.
    #[serde(default)]
    begun: BTreeSet<String>,
}

impl Done {
    fn read(dir: &Path) -> Result<Self, StateError> {
        let path = dir.join(FILE);
        match read_if_there(&path, MIB)? {
            Some(bytes) => serde_json::from_slice(&bytes).map_err(|e| StateError::invalid(&path, e)),
            None => Ok(Self::default()),
        }
    }

    fn write(&self, dir: &Path) -> Result<(), StateError> {
        let path = dir.join(FILE);
        let bytes = serde_json::to_vec(self).map_err(|e| StateError::invalid(&path, e))?;
        write_durably(&path, &bytes)
    }
}

impl Notes {
    /// Opens the notes below `staging`; makes them when there are none.
    pub fn open(staging: &Path, snapshot: SnapshotId, job: &str, target: &str) -> Result<Self, StateError> {
        let dir = staging.join(format!("{}-{target}", snapshot.short()));
        let was_there = dir.exists();
        make_private_dir(&dir)?;
        let done = Done { job: Some(job.to_owned()), ..Done::read(&dir)? };
        Ok(Self { dir, was_there, done: std::sync::Mutex::new(done) })
    }

    /// Removes the plaintext that other restores have left beside this one: whoever takes one up fetches it again.
    pub fn clear_others(&self) -> Vec<Finding> {
        let mut findings = Vec::new();
        for other in self.others() {
            for gone in [other.join(PARTS), other.join(SCRATCH)] {
                if let Err(error) = remove(&gone) {
                    let message =
                        format!("what another restore has fetched lies there unencrypted and cannot be removed: {error}");
                    findings.push(Finding::new(FindingKind::Target, gone.display(), message));
                }
            }
            // Goes if nothing was noted.
            let _ = std::fs::remove_dir(&other);
        }
        findings
    }

    /// The replacement of a member has begun: what restores of other snapshots of the job to the same target have noted of it
    /// holds no more.
    pub fn supersede(&self, member: &str) -> Vec<Finding> {
        let target = |dir: &Path| dir.file_name()?.to_str()?.split_once('-').map(|(_, target)| target.to_owned());
        let mut findings = Vec::new();
        for other in self.others().into_iter().filter(|other| target(other) == target(&self.dir)) {
            if let Err(error) = self.supersede_in(&other, member) {
                let message = format!("says of {member} what holds no more, and cannot be changed: {error}");
                findings.push(Finding::new(FindingKind::Target, other.display(), message));
            }
        }
        findings
    }

    fn supersede_in(&self, other: &Path, member: &str) -> Result<(), StateError> {
        let mut noted = Done::read(other)?;
        if noted.job.is_some() && noted.job != self.lock().job {
            return Ok(());
        }
        noted.members.remove(member);
        noted.kept.remove(member);
        noted.begun.remove(member);
        if noted.members.is_empty() && noted.kept.is_empty() && noted.begun.is_empty() {
            return remove(other);
        }
        noted.write(other)
    }

    /// The directories of other restores beside this one.
    fn others(&self) -> Vec<PathBuf> {
        let beside = self.dir.parent().and_then(|staging| std::fs::read_dir(staging).ok());
        let paths = beside.into_iter().flatten().flatten().map(|entry| entry.path());
        paths.filter(|other| *other != self.dir && (other.join(FILE).exists() || other.join(PARTS).exists())).collect()
    }

    /// Whether an earlier run, or this one, has begun to replace anything.
    pub fn has_begun_any(&self) -> bool {
        let done = self.lock();
        !done.begun.is_empty() || !done.members.is_empty()
    }

    /// Removes what was fetched: nothing can be made of it.
    pub fn forget_parts(&self) -> Result<(), StateError> {
        remove(&self.parts())
    }

    /// Where fetched parts lie.
    pub fn parts(&self) -> PathBuf {
        self.dir.join(PARTS)
    }

    /// A directory for what a member's engine puts on disk.
    pub fn scratch(&self, member: &str) -> Result<PathBuf, StateError> {
        let dir = self.scratch_dir().join(member);
        make_private_dir(&dir)?;
        Ok(dir)
    }

    /// The file system that parts go to.
    pub fn dir(&self) -> &Path {
        &self.dir
    }

    /// When an earlier run brought this member back.
    pub fn when(&self, member: &str) -> Option<Timestamp> {
        self.lock().members.get(member).copied()
    }

    /// Notes that a member is back.
    pub fn done(&self, member: &str, at: Timestamp) -> Result<(), StateError> {
        self.change(|done| {
            done.members.insert(member.to_owned(), at);
        })
    }

    /// Where what was at a member's place is kept, the first copy first.
    pub fn kept_in(&self, member: &str) -> Vec<PathBuf> {
        self.lock().kept.get(member).cloned().unwrap_or_default()
    }

    /// Notes that what was at a member's place is kept as `place`.
    pub fn kept(&self, member: &str, place: &Path) -> Result<(), StateError> {
        self.change(|done| {
            let begun = done.begun.contains(member);
            let places = done.kept.entry(member.to_owned()).or_default();
            // Before anything is replaced only the newest copy is of what will be.
            places.retain(|other| begun && other != place);
            places.push(place.to_owned());
        })
    }

    /// Whether an earlier run has begun to replace a member.
    pub fn has_begun(&self, member: &str) -> bool {
        self.lock().begun.contains(member)
    }

    /// Notes that a member's replacement begins.
    pub fn begin(&self, member: &str) -> Result<(), StateError> {
        self.change(|done| {
            done.begun.insert(member.to_owned());
        })
    }

    fn change(&self, change: impl FnOnce(&mut Done)) -> Result<(), StateError> {
        let mut done = self.lock();
        change(&mut done);
        done.write(&self.dir)
    }

    /// Everything is back: parts and notes go, and what lies aside, of members too that an earlier run brought back.
    pub fn finish(&self, tasks: &[Task<'_>]) -> Result<Vec<Finding>, StateError> {
        let findings = tasks.iter().flat_map(Task::forget).collect();
        std::fs::remove_dir_all(&self.dir).map_err(StateError::io(&self.dir))?;
        Ok(findings)
    }

    /// Nothing was begun: leaves nothing.
    pub fn forget_if_unused(&self) {
        if !self.was_there {
            let _ = std::fs::remove_dir_all(&self.dir);
        }
    }

    fn scratch_dir(&self) -> PathBuf {
        self.dir.join(SCRATCH)
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, Done> {
        self.done.lock().unwrap_or_else(std::sync::PoisonError::into_inner)
    }
}

fn remove(dir: &Path) -> Result<(), StateError> {
    match std::fs::remove_dir_all(dir) {
        Err(e) if e.kind() != std::io::ErrorKind::NotFound => Err(StateError::io(dir)(e)),
        _ => Ok(()),
    }
}

impl Drop for Notes {
    /// What engines put on disk was for this run, passwords for their programs among it. A directory that holds nothing else
    /// goes as well.
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(self.scratch_dir());
        let _ = std::fs::remove_dir(&self.dir);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_other_restores_have_noted_holds_until_their_member_is_replaced_there() {
        let staging = tempfile::tempdir().unwrap_or_else(|e| panic!("{e}"));
        let open = |snapshot: u8, job: &str| {
            let id = crate::model::ids::ObjectHash([snapshot; 32]);
            Notes::open(staging.path(), id, job, "drill").unwrap_or_else(|e| panic!("{e}"))
        };
        let (first, other_job) = (open(1, "registry"), open(2, "portal"));
        for member in ["births", "deaths"] {
            first.done(member, Timestamp(1)).unwrap_or_else(|e| panic!("{e}"));
            other_job.done(member, Timestamp(1)).unwrap_or_else(|e| panic!("{e}"));
        }
        let second = open(3, "registry");
        assert_eq!(second.clear_others(), []);
        assert_eq!(second.supersede("deaths"), []);
        let done = |notes: Notes| (notes.when("births").is_some(), notes.when("deaths").is_some());
        assert_eq!(done(open(1, "registry")), (true, false));
        assert_eq!(done(open(2, "portal")), (true, true));
        assert_eq!(second.supersede("births"), []);
        assert_eq!(done(open(1, "registry")), (false, false));
    }
}
