//! `restore`: brings a snapshot, or part of it, back beneath a directory.
//!
//! The intent is on record before anything is opened. What is already right at the target is left; what is in the way is
//! refused before the first write, unless it may be replaced. Content is written as it comes, metadata of directories and
//! further names of files last, deletions after that, the outcome on record at the end.

use std::path::PathBuf;

use serde::Serialize;

use super::custody::{Custody, Ending, Purpose};
use super::reading::{Opened, ReadPlan};
use super::select::SnapshotQuery;
use super::{Env, Event, Exit, OpError};
use crate::model::finding::{Finding, FindingKind};
use crate::model::ids::SnapshotId;
use crate::model::path::EntryPath;
use crate::model::pattern::Selection;
use crate::model::time::Timestamp;
use crate::target::{MetadataPolicy, TargetRoot};
use crate::vault::catalogue_reader::SnapshotReader;
use crate::vault::snapshots::Snapshot;

mod finish;
mod orders;
mod plan;
mod write;
mod writers;

pub use plan::{PlanReport, PlannedAction};

/// Where entries land.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Into {
    /// Beneath a directory, each at its absolute path without the leading slash.
    Dir(PathBuf),
    /// Where they came from.
    InPlace,
}

/// What becomes of an entry whose place is taken by something else.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum OnConflict {
    /// Nothing is written at all, and the message lists what is in the way.
    Refuse,
    /// The entry is left out.
    Skip,
    /// What is there is replaced.
    Replace,
}

/// What to restore.
pub struct RestorePlan {
    /// The copy and who opens it.
    pub read: ReadPlan,
    /// The snapshot.
    pub query: SnapshotQuery,
    /// Which entries.
    pub selection: Selection,
    /// Only these members; none means all.
    pub members: Vec<String>,
    /// Where to.
    pub into: Into,
    /// Removed from the front of each path.
    pub strip: Option<EntryPath>,
    /// What becomes of an entry whose place is taken.
    pub on_conflict: OnConflict,
    /// Remove what the snapshot does not hold from restored directories.
    pub delete: bool,
    /// Only say what would be done.
    pub dry_run: bool,
    /// Take users and groups by number.
    pub numeric_ids: bool,
    /// Set special bits, make devices.
    pub special: bool,
    /// Why.
    pub reason: Option<String>,
    /// A case number.
    pub ticket: Option<String>,
    /// restore or try.
    pub purpose: &'static str,
}

/// What was restored.
#[derive(Debug, Clone, Serialize)]
pub struct RestoreReceipt {
    /// The snapshot.
    pub snapshot: SnapshotId,
    /// When it was made.
    pub snapshot_time: Timestamp,
    /// Where it was read.
    pub from: String,
    /// Where it was written.
    pub target: PathBuf,
    /// Entries that are now at the target.
    pub entries: u64,
    /// Files whose content was written.
    pub files_written: u64,
    /// Bytes of content written.
    pub bytes_written: u64,
    /// Files that were right already.
    pub files_equal: u64,
    /// Entries left out because something else has their place.
    pub skipped: u64,
    /// Entries removed.
    pub deleted: u64,
    /// Whether nothing was written, only planned.
    pub dry_run: bool,
    /// The plan, where one was asked for.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub plan: Option<PlanReport>,
    /// What was found.
    pub findings: Vec<Finding>,
}

impl RestoreReceipt {
    /// The exit code of this restore.
    #[must_use]
    pub fn exit(&self) -> Exit {
        Exit::of_findings(&self.findings)
    }
}

/// Restores.
///
/// # Errors
/// When the snapshot cannot be found or opened, something is in the way, or the target fails.
pub fn restore(plan: &RestorePlan, env: &Env<'_>) -> Result<RestoreReceipt, OpError> {
    let opened = plan.read.open(env)?;
    plan.read.need_identity(&opened)?;
    let snapshot = plan.read.select(&opened, &plan.query, env)?;
    env.step(format!("snapshot {} of {}, {} old", snapshot.id.short(), snapshot.time, age(env.clock.now(), snapshot.time)));
    let target = match &plan.into {
        Into::Dir(dir) => dir.clone(),
        Into::InPlace => PathBuf::from("/"),
    };
    let suspicion = opened.suspicion_of(&snapshot);
    let suspicion = suspicion.map(|why| Finding::new(FindingKind::Notice, format!("snapshot {}", snapshot.id.short()), why));
    if plan.dry_run {
        let reader = opened.snapshot(&plan.read.identities, &snapshot)?;
        let mut receipt = run(plan, &opened, &reader, &snapshot, &target, env).map_err(|(_, error)| error)?;
        receipt.findings.extend(suspicion);
        return Ok(receipt);
    }
    let purpose = Purpose {
        purpose: plan.purpose,
        reason: plan.reason.clone(),
        ticket: plan.ticket.clone(),
        selection: plan.selection.spelled().to_vec(),
        target: target.display().to_string(),
    };
    let open = || opened.snapshot(&plan.read.identities, &snapshot);
    let (custody, reader) = Custody::begin_beside(&purpose, snapshot.id, &opened, env, open)?;
    let reader = reader.map_err(|error| (Progressed::default(), error));
    let outcome = reader.and_then(|reader| run(plan, &opened, &reader, &snapshot, &target, env));
    let ending = ending_of(&outcome);
    let undelivered = custody.end(&ending, env)?;
    let mut receipt = outcome.map_err(|(_, error)| error)?;
    receipt.findings.extend(undelivered);
    receipt.findings.extend(suspicion);
    Ok(receipt)
}

fn age(now: Timestamp, then: Timestamp) -> String {
    crate::model::time::human_duration(u64::try_from(now.secs_since(then)).unwrap_or(0))
}

type Failed = (Progressed, OpError);

/// How far a restore came.
#[derive(Debug, Clone, Copy, Default)]
pub struct Progressed {
    entries: u64,
    bytes: u64,
    findings: u64,
}

fn ending_of(outcome: &Result<RestoreReceipt, Failed>) -> Ending {
    match outcome {
        Ok(receipt) => Ending {
            outcome: if receipt.exit() == Exit::Done { "done" } else { "findings" },
            entries: receipt.entries,
            bytes: receipt.bytes_written,
            findings: receipt.findings.len() as u64,
            ..Ending::default()
        },
        Err((progressed, error)) => Ending {
            outcome: if error.exit() == Exit::Interrupted { "interrupted" } else { "failed" },
            entries: progressed.entries,
            bytes: progressed.bytes,
            findings: progressed.findings,
            // It may name paths, which stay secret: the kind alone is told.
            error: Some(format!("exit code {}", error.exit() as i32)),
            report: None,
        },
    }
}

fn run(
    plan: &RestorePlan,
    opened: &Opened,
    reader: &SnapshotReader,
    snapshot: &Snapshot,
    target: &std::path::Path,
    env: &Env<'_>,
) -> Result<RestoreReceipt, Failed> {
    let mut progressed = Progressed::default();
    write_out(plan, reader, &opened.copy.name(), snapshot, target, env, &mut progressed).map_err(|error| (progressed, error))
}

/// Plans and writes what is selected, without a record: whoever calls it keeps that.
pub(super) fn write_out(
    plan: &RestorePlan,
    reader: &SnapshotReader,
    from: &str,
    snapshot: &Snapshot,
    target: &std::path::Path,
    env: &Env<'_>,
    progressed: &mut Progressed,
) -> Result<RestoreReceipt, OpError> {
    if let Some(text) = plan.selection.spelled().iter().find(|text| plan.delete && text.starts_with('!')) {
        let message = format!(
            "--delete removes what the snapshot does not hold, and cannot go with {text}, which leaves out what it holds"
        );
        return Err(OpError::Usage(message));
    }
    for member in &plan.members {
        if !reader.manifest.members.iter().any(|m| m.name == *member) {
            let all: Vec<&str> = reader.manifest.members.iter().map(|m| m.name.as_str()).collect();
            return Err(OpError::Usage(format!("no member {member:?} in this snapshot; there are {}", all.join(", "))));
        }
    }
    let mut root = TargetRoot::open(target)?;
    let whole = plan.selection.is_all() && plan.members.is_empty() && plan.strip.is_none();
    // What a plan would say is known beforehand when everything goes into an empty directory.
    let planned = if whole && root.is_fresh() && !plan.dry_run && !plan.delete {
        let bytes = reader.manifest.members.iter().map(|m| m.tally.source_bytes).sum();
        let files = reader.manifest.members.iter().map(|m| m.tally.files + m.tally.dirs + m.tally.others).sum();
        plan::Planned::everything(files, bytes)
    } else {
        env.step("planning");
        plan::plan(plan, reader, &root, env)?
    };
    let mut receipt = RestoreReceipt {
        snapshot: snapshot.id,
        snapshot_time: snapshot.time,
        from: from.to_owned(),
        target: target.to_owned(),
        entries: 0,
        files_written: 0,
        bytes_written: 0,
        files_equal: planned.report.equal,
        skipped: 0,
        deleted: 0,
        dry_run: plan.dry_run,
        plan: None,
        findings: Vec::new(),
    };
    if let (0, true, Some(prefix)) = (planned.matched, planned.outside, &plan.strip) {
        return Err(OpError::NotDone(format!("--strip /{prefix}: nothing that was asked for lies below it")));
    }
    if planned.matched == 0 {
        let spelled = plan.selection.spelled().join(", ");
        return Err(OpError::NotDone(format!("nothing in this snapshot matches {spelled}")));
    }
    receipt.findings.extend(planned.missing.iter().cloned());
    let no_room = plan::no_room(plan, reader, &root, planned.report.bytes)?;
    if plan.dry_run {
        receipt.findings.extend(planned.left_out);
        receipt.findings.extend(no_room.map(|why| Finding::new(FindingKind::Target, target.display(), why)));
        let mut report = planned.report;
        if plan.delete {
            finish::plan_deletions(plan, reader, &root, env, &mut report, &mut receipt.findings)?;
        }
        receipt.plan = Some(report);
        return Ok(receipt);
    }
    planned.refuse_conflicts(plan.on_conflict)?;
    if let Some(why) = no_room {
        return Err(OpError::NotDone(format!("{}: {why}", target.display())));
    }
    env.observer.event(Event::Total { items: Some(planned.report.entries), bytes: Some(planned.report.bytes) });
    env.step("restoring");
    let policy = MetadataPolicy::new(plan.numeric_ids, plan.special);
    let spool = write::write(plan, reader, &mut root, &planned, &policy, env, &mut receipt, progressed)?;
    env.step("setting what comes last");
    finish::finish(plan, reader, &mut root, spool, &policy, env, &mut receipt)?;
    Ok(receipt)
}
