//! `keep_local`: archives of other scripts that were pushed, and that go from this machine's disk when they are too many.
//!
//! The oldest go first, and none is ever the only copy: tonight's snapshot must be good and in every store of the job, nothing
//! may be found against any copy, and the snapshot that holds the archive must lie there, with everything it needs, in each
//! of them, and stay there. What lies under the name must be the very file that was pushed.

use std::collections::BTreeSet;
use std::os::unix::ffi::OsStrExt;

use serde::Serialize;

use super::StoreReceipt;
use super::prepare::{Prepared, Side};
use crate::model::finding::{Finding, FindingKind};
use crate::model::ids::{SnapshotId, Token};
use crate::model::local::{KeepLocal, too_many};
use crate::model::name::ObjectName;
use crate::model::path::escape;
use crate::model::snapshot::SnapshotState;
use crate::model::time::Timestamp;
use crate::state::shipped::{LocalFile, Shipped, ShippedNote};
use crate::state::{StateDir, StateError};
use crate::vault::inventory::{PageCache, each_line};
use crate::vault::snapshots::Snapshot;
use crate::vault::suspects::Suspects;

/// What a member took in as it is, and how much of that may stay.
pub struct LocalMember {
    /// Its name.
    pub name: String,
    /// Tonight's files.
    pub files: Vec<LocalFile>,
    /// What its configuration says.
    pub keep: Option<KeepLocal>,
}

/// What became of the archives of one member.
#[derive(Debug, Clone, Serialize)]
pub struct LocalReceipt {
    /// The member.
    pub member: String,
    /// Paths that were removed, oldest first.
    pub removed: Vec<String>,
    /// Their bytes.
    pub removed_bytes: u64,
    /// Archives that were pushed from here and stay.
    pub files: u64,
    /// Their bytes.
    pub bytes: u64,
    /// Of them, those that are over the limits and stay, because no other copy of them is certain.
    pub over: u64,
}

/// A committed snapshot, for whoever looks at what it stands for.
pub struct Committed<'a> {
    /// The job.
    pub job: &'a str,
    /// The snapshot.
    pub snapshot: SnapshotId,
    /// What was made of it.
    pub state: SnapshotState,
    /// Its series.
    pub series: &'a Token,
    /// What became of each store.
    pub stores: &'a [StoreReceipt],
    /// When it was committed.
    pub now: Timestamp,
}

/// Notes what was pushed, and removes what is too much. The snapshot stands, whatever becomes of the archives.
pub fn tidy(
    members: &[LocalMember],
    committed: &Committed<'_>,
    prepared: &Prepared,
    pages: &PageCache,
    state: &StateDir,
) -> (Vec<LocalReceipt>, Vec<Finding>) {
    try_tidy(members, committed, prepared, pages, state).unwrap_or_else(|error| {
        let message = format!("{error}; nothing more is removed from this machine's disk");
        (Vec::new(), vec![Finding::new(FindingKind::Notice, committed.job, message)])
    })
}

/// Fails when a note cannot be written: then nothing of that member was removed.
fn try_tidy(
    members: &[LocalMember],
    committed: &Committed<'_>,
    prepared: &Prepared,
    pages: &PageCache,
    state: &StateDir,
) -> Result<(Vec<LocalReceipt>, Vec<Finding>), StateError> {
    let (mut receipts, mut findings) = (Vec::new(), Vec::new());
    let doubt = doubt(committed, prepared);
    for member in members.iter().filter(|member| !member.files.is_empty()) {
        let note = ShippedNote::of(state, committed.job, &member.name);
        let mut shipped = note.read();
        shipped.retain(|one| one.file.is_there() && !member.files.contains(&one.file));
        shipped.sort_by_key(|one| one.file.modified);
        let old = shipped.len();
        let tonight = member.files.iter().cloned();
        shipped.extend(tonight.map(|file| Shipped { file, snapshot: committed.snapshot }));
        note.write(&shipped)?;
        let Some(keep) = &member.keep else { continue };
        let archives: Vec<(Timestamp, u64)> =
            shipped.iter().map(|one| (Timestamp(one.file.modified.0), one.file.bytes)).collect();
        let over = too_many(keep, &archives, shipped.len() - old, committed.now);
        let wanted = shipped[..over].iter().filter(|_| doubt.is_none()).map(|one| one.snapshot).collect();
        let certain = lying_everywhere(wanted, prepared, pages);
        let (receipt, why) = remove(&member.name, &shipped, over, &certain);
        if receipt.over > 0 {
            let why = why.or(doubt.clone()).unwrap_or_else(|| {
                "no good snapshot that holds them lies whole in every store of the job, to stay there".to_owned()
            });
            let message = format!("{} archives over keep_local stay on this machine: {why}", receipt.over);
            findings.push(Finding::new(FindingKind::Notice, &member.name, message));
        }
        receipts.push(receipt);
    }
    Ok((receipts, findings))
}

/// Why nothing at all may be removed tonight.
fn doubt(committed: &Committed<'_>, prepared: &Prepared) -> Option<String> {
    if committed.state != SnapshotState::Good {
        return Some("tonight's snapshot is not good".into());
    }
    if let Some(missed) = committed.stores.iter().find(|store| store.error.is_some()) {
        return Some(format!("{} did not take tonight's snapshot", missed.store));
    }
    if let Some(vague) = committed.stores.iter().find(|store| store.not_confirmed > 0) {
        return Some(format!("{} cannot say that what it took is on its disk", vague.store));
    }
    if prepared.frozen(committed.series).is_some() {
        return Some("a suspect snapshot of this job was not cleared".into());
    }
    prepared
        .is_anything_found()
        .then(|| "a verification found damage in a store, and nobody has said since that it is whole".into())
}

/// Those of the snapshots that are good, lie with all that they need in every copy, and that no plan is about to take.
fn lying_everywhere(wanted: BTreeSet<SnapshotId>, prepared: &Prepared, pages: &PageCache) -> BTreeSet<SnapshotId> {
    prepared.sides.iter().fold(wanted, |wanted, side| {
        if wanted.is_empty() {
            return wanted;
        }
        let here = side.records.snapshots().into_iter().filter(|snapshot| wanted.contains(&snapshot.id));
        here.filter(|snapshot| lies_in(snapshot, side, prepared, pages)).map(|snapshot| snapshot.id).collect()
    })
}

fn lies_in(snapshot: &Snapshot, side: &Side, prepared: &Prepared, pages: &PageCache) -> bool {
    let body = &snapshot.body;
    let is_good = Suspects::read(&side.records).state_of(snapshot) == SnapshotState::Good;
    if !is_good || side.pruned.is_dropped(snapshot) || !prepared.may_refer_to(&body.inventory) {
        return false;
    }
    let mut whole = side.presence.has(&body.manifest);
    let listed = each_line(pages, side.named.store.as_ref(), &body.inventory, &mut |line| {
        // Pages list the manifests of others too, which may have gone with them; trust was checked when the copy was opened.
        let is_own = !matches!(line.name, ObjectName::Manifest(_) | ObjectName::Trust { .. });
        whole &= !is_own || side.presence.has(&line.name);
    });
    listed.is_ok() && whole
}

/// Removes those of the oldest `over` of `shipped` whose snapshot is `certain`. Says why one could not be removed.
fn remove(member: &str, shipped: &[Shipped], over: usize, certain: &BTreeSet<SnapshotId>) -> (LocalReceipt, Option<String>) {
    let (mut removed, mut removed_bytes, mut failed) = (Vec::new(), 0, None);
    for one in &shipped[..over] {
        // A last look at the file itself: what a script has just put in its place was not pushed.
        if !certain.contains(&one.snapshot) || !one.file.is_there() {
            continue;
        }
        let path = one.file.path();
        let shown = escape(path.as_os_str().as_bytes());
        match std::fs::remove_file(&path) {
            Ok(()) => {
                removed_bytes += one.file.bytes;
                removed.push(shown);
            }
            Err(error) => failed = Some(format!("{shown}: {error}")),
        }
    }
    let bytes = shipped.iter().map(|one| one.file.bytes).sum::<u64>() - removed_bytes;
    let (files, over) = ((shipped.len() - removed.len()) as u64, (over - removed.len()) as u64);
    (LocalReceipt { member: member.to_owned(), removed, removed_bytes, files, bytes, over }, failed)
}
