//! What a restore would do: how much, what is right already, what is in the way.

use rustix::fs::OFlags;
use serde::Serialize;

use super::orders::imperfect;
use super::{Into, OnConflict, RestorePlan};
use crate::model::entry::{Entry, EntryKind};
use crate::model::finding::{Finding, FindingKind};
use crate::model::path::EntryPath;
use crate::model::size::human_size;
use crate::ops::{Env, Event, OpError};
use crate::target::TargetRoot;
use crate::target::existing::{Existing, compare};
use crate::vault::VaultError;
use crate::vault::catalogue_reader::SnapshotReader;

/// Actions and conflicts that are listed by name; all are counted.
pub const LISTED_MAX: usize = 1000;
/// Conflicts that a refusal names.
const CONFLICTS_SHOWN: usize = 5;

/// What is to be done with one entry.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u8)]
pub enum Decision {
    /// Make it.
    Write,
    /// Its content is right already; only metadata is set.
    Equal,
    /// Something else has its place and can be replaced.
    Replace,
    /// Something has its place that cannot be replaced.
    Blocked,
}

/// A line of a printed plan.
#[derive(Debug, Clone, Serialize)]
pub struct PlannedAction {
    /// write, equal, replace, blocked, delete.
    pub action: &'static str,
    /// The path below the target.
    pub path: String,
    /// Bytes to be written.
    pub bytes: u64,
}

/// What a restore would do.
#[derive(Debug, Clone, Default, Serialize)]
pub struct PlanReport {
    /// Entries that are selected.
    pub entries: u64,
    /// Files to be written.
    pub files: u64,
    /// Bytes to be written.
    pub bytes: u64,
    /// Entries that are right already.
    pub equal: u64,
    /// Entries whose place is taken by something else.
    pub conflicts: u64,
    /// The first thousand actions but for what is equal.
    pub actions: Vec<PlannedAction>,
}

/// A plan with a decision for each selected entry, in catalogue order.
pub struct Planned {
    /// What it comes to.
    pub report: PlanReport,
    /// Entries that were asked for; the directories on the way to them are not among these.
    pub matched: u64,
    /// Whether anything that was asked for lies outside a prefix that is to be stripped.
    pub outside: bool,
    /// Entries that will be left out, or are not all that was there, as a restore says it.
    pub left_out: Vec<Finding>,
    /// What was asked for and is not in the snapshot.
    pub missing: Vec<Finding>,
    /// None: everything is written.
    decisions: Option<Vec<Decision>>,
}

impl Planned {
    /// Everything goes into an empty directory.
    pub fn everything(entries: u64, bytes: u64) -> Self {
        let report = PlanReport { entries, files: entries, bytes, ..PlanReport::default() };
        Self { report, matched: entries, outside: false, left_out: Vec::new(), missing: Vec::new(), decisions: None }
    }

    /// What is to be done with the selected entry number `ordinal`.
    pub fn decision(&self, ordinal: usize) -> Decision {
        let known = self.decisions.as_ref().and_then(|decisions| decisions.get(ordinal));
        known.copied().unwrap_or(Decision::Write)
    }

    /// Stops before the first write when something is in the way and may not be replaced.
    ///
    /// # Errors
    /// A message that names the first conflicts and the way out.
    pub fn refuse_conflicts(&self, on_conflict: OnConflict) -> Result<(), OpError> {
        if self.report.conflicts == 0 || on_conflict != OnConflict::Refuse {
            return Ok(());
        }
        let taken = self.report.actions.iter().filter(|a| a.action == "replace" || a.action == "blocked");
        let shown: Vec<&str> = taken.take(CONFLICTS_SHOWN).map(|a| a.path.as_str()).collect();
        let more = self.report.conflicts.saturating_sub(shown.len() as u64);
        let more = if more > 0 { format!(" and {more} more") } else { String::new() };
        Err(OpError::NotDone(format!(
            "something else is already there: {}{more}; nothing was written; --on-conflict skip leaves these out, \
             --on-conflict replace replaces them",
            shown.join(", ")
        )))
    }
}

/// Where an entry lands below the target; none for what is above a stripped prefix, or cannot go where it came from.
pub fn target_path(plan: &RestorePlan, path: &EntryPath) -> Option<EntryPath> {
    if plan.into == Into::InPlace && path.as_bytes().starts_with(b"@") {
        // A dump has no place that it came from.
        return None;
    }
    match &plan.strip {
        Some(prefix) => path.below(prefix),
        None => Some(path.clone()),
    }
}

/// Where an entry at `path` below the target came from: the reverse of [`target_path`].
pub fn source_path(plan: &RestorePlan, path: &EntryPath) -> EntryPath {
    plan.strip.as_ref().map_or_else(|| path.clone(), |prefix| prefix.on_top_of(path))
}

/// Looks at every selected entry and at what is at its place.
pub fn plan(plan: &RestorePlan, reader: &SnapshotReader, root: &TargetRoot, env: &Env<'_>) -> Result<Planned, OpError> {
    let mut report = PlanReport::default();
    let mut decisions = Vec::new();
    let (mut matched, mut outside, mut left_out) = (0, false, Vec::new());
    let mut missing = plan.selection.unmatched();
    for member in &reader.manifest.members {
        if !plan.members.is_empty() && !plan.members.contains(&member.name) {
            continue;
        }
        reader.each_entry(member, &plan.selection, |entry| {
            env.check_cancel()?;
            let is_wanted = plan.selection.matches(&entry.path, entry.kind == EntryKind::Directory);
            let Some(path) = target_path(plan, &entry.path) else {
                outside |= is_wanted;
                return Ok(());
            };
            matched += u64::from(is_wanted);
            missing.saw(&entry.path, entry.kind == EntryKind::Directory);
            let decision = decide(reader, root, &entry, &path, env);
            decisions.push(decision);
            count(&mut report, &entry, &path, decision);
            left_out.extend(imperfect(&entry, &path));
            Ok(())
        })?;
    }
    let missing =
        missing.spelled().map(|text| Finding::new(FindingKind::Target, text, "nothing in this snapshot matches it"));
    let missing = missing.collect();
    Ok(Planned { report, matched, outside, left_out, missing, decisions: Some(decisions) })
}

/// What is to be said when `bytes`, holes included, do not fit where the restore goes.
pub fn no_room(
    plan: &RestorePlan,
    reader: &SnapshotReader,
    root: &TargetRoot,
    bytes: u64,
) -> Result<Option<String>, VaultError> {
    let Some(room) = root.room().filter(|room| *room < bytes) else { return Ok(None) };
    let mut data = 0_u64;
    for member in &reader.manifest.members {
        if !plan.members.is_empty() && !plan.members.contains(&member.name) {
            continue;
        }
        reader.each_entry(member, &plan.selection, |entry| {
            if let EntryKind::File(content) = &entry.kind {
                data = data.saturating_add(reader.data_bytes_of(content));
            }
            Ok(())
        })?;
    }
    let needed = data.min(bytes);
    Ok((room < needed).then(|| format!("{} are needed and {} are free", human_size(needed), human_size(room))))
}

fn decide(reader: &SnapshotReader, root: &TargetRoot, entry: &Entry, path: &EntryPath, env: &Env<'_>) -> Decision {
    if root.is_fresh() {
        return Decision::Write;
    }
    let content = reader_content(reader, entry);
    match compare(root, path, &entry.kind, content.as_ref()) {
        Ok(Existing::Absent) => Decision::Write,
        Ok(Existing::Equal) if would_change_others(root, path, entry) => Decision::Replace,
        Ok(Existing::Equal) => Decision::Equal,
        Ok(Existing::Other) => Decision::Replace,
        Ok(Existing::WrongKind) => Decision::Blocked,
        Err(error) => {
            env.observer.event(Event::Finding(Finding::new(FindingKind::Target, path, error)));
            Decision::Blocked
        }
    }
}

/// Whether the file at `path` has further names, which may lie anywhere, and would take its metadata to them.
fn would_change_others(root: &TargetRoot, path: &EntryPath, entry: &Entry) -> bool {
    const PERMISSIONS: u32 = 0o777;
    let EntryKind::File(_) = entry.kind else { return false };
    let stat = root.open_entry(path, OFlags::PATH).and_then(|fd| Ok(rustix::fs::fstat(fd)?));
    stat.is_ok_and(|stat| {
        let mtime_ns = i128::from(stat.st_mtime) * 1_000_000_000 + i128::from(stat.st_mtime_nsec);
        let equal = (stat.st_mode ^ entry.meta.mode) & PERMISSIONS == 0 && mtime_ns == entry.meta.mtime_ns;
        stat.st_nlink > 1 && !equal
    })
}

/// The content that a file or a further name of one stands for.
fn reader_content(reader: &SnapshotReader, entry: &Entry) -> Option<crate::model::entry::Content> {
    match &entry.kind {
        EntryKind::File(content) => Some(content.clone()),
        EntryKind::HardLink(_) => reader.content_of(entry).ok(),
        _ => None,
    }
}

fn count(report: &mut PlanReport, entry: &Entry, path: &EntryPath, decision: Decision) {
    let bytes = if decision == Decision::Equal { 0 } else { entry.kind.size() };
    report.entries += 1;
    report.bytes += bytes;
    let action = match decision {
        Decision::Equal => {
            report.equal += 1;
            return;
        }
        Decision::Write => "write",
        Decision::Replace => "replace",
        Decision::Blocked => "blocked",
    };
    if matches!(decision, Decision::Replace | Decision::Blocked) {
        report.conflicts += 1;
    }
    if matches!(entry.kind, EntryKind::File(_)) {
        report.files += 1;
    }
    let is_conflict = action != "write";
    if report.actions.len() < LISTED_MAX || is_conflict && report.conflicts <= CONFLICTS_SHOWN as u64 {
        report.actions.push(PlannedAction { action, path: path.to_string(), bytes });
    }
}

/// An error of the vault that stops the work is told apart from one that a file alone suffers.
pub fn is_fatal(error: &VaultError) -> bool {
    match error {
        VaultError::Store(e) => e.is_store_wide(),
        VaultError::Damaged { .. } | VaultError::Crypto { .. } => false,
        _ => true,
    }
}
