//! `snapshots`, `ls`, `find`, `diff`: looking without restoring.

use serde::Serialize;

use super::reading::ReadPlan;
use super::select::SnapshotQuery;
use super::{Env, OpError};
use crate::model::entry::{Entry, EntryKind};
use crate::model::finding::Finding;
use crate::model::ids::SnapshotId;
use crate::model::path::EntryPath;
use crate::model::pattern::Selection;
use crate::model::snapshot::{SnapshotState, Tally};
use crate::model::time::Timestamp;
use crate::vault::VaultError;
use crate::vault::catalogue_reader::SnapshotReader;
use crate::vault::snapshots::Snapshot;
use crate::vault::suspects::Suspects;
use crate::vault::unlock::unlock;

/// One snapshot of a list.
#[derive(Debug, Clone, Serialize)]
pub struct ListedSnapshot {
    /// Its id.
    pub id: SnapshotId,
    /// When it was committed.
    pub time: Timestamp,
    /// Its host, where that is known here.
    pub host: Option<String>,
    /// Its job, where that is known here.
    pub job: Option<String>,
    /// What its series is called without a key.
    pub series: String,
    /// Whether it may stand in for a good one.
    pub state: SnapshotState,
    /// Whether it is suspect, and a person has found that it is good.
    pub cleared: bool,
    /// What it holds.
    #[serde(flatten)]
    pub tally: Tally,
    /// Stored bytes that its push added.
    pub new_bytes: u64,
    /// Findings of its push.
    pub findings: u64,
}

/// The snapshots of a copy.
#[derive(Debug, Clone, Serialize)]
pub struct SnapshotList {
    /// The copy.
    pub store: String,
    /// Its snapshots, oldest first.
    pub snapshots: Vec<ListedSnapshot>,
    /// Snapshots that retention dropped from it, oldest first.
    pub dropped: Vec<ListedSnapshot>,
    /// What is wrong with its records.
    pub findings: Vec<Finding>,
}

/// Lists snapshots. Names are shown on the agent, and with an identity.
///
/// # Errors
/// When the copy cannot be opened.
pub fn snapshots(plan: &ReadPlan, env: &Env<'_>) -> Result<SnapshotList, OpError> {
    let opened = plan.open(env)?;
    let names = if plan.identities.is_empty() {
        plan.names.clone()
    } else {
        plan.all_names(&opened, &unlock(&opened.copy, &plan.identities)?)
    };
    let suspects = Suspects::read(&opened.records);
    let listed = |snapshot: &Snapshot| {
        let name = names.of(&snapshot.body.series);
        ListedSnapshot {
            id: snapshot.id,
            time: snapshot.time,
            host: name.map(|(host, _)| host.to_owned()),
            job: name.map(|(_, job)| job.to_owned()),
            series: snapshot.body.series.to_string(),
            state: snapshot.body.state,
            cleared: snapshot.body.state == SnapshotState::Suspect && suspects.is_cleared(snapshot),
            tally: snapshot.body.tally,
            new_bytes: snapshot.body.new_bytes,
            findings: snapshot.body.findings,
        }
    };
    Ok(SnapshotList {
        store: opened.copy.name(),
        snapshots: opened.snapshots.iter().map(listed).collect(),
        dropped: opened.dropped.iter().map(listed).collect(),
        findings: opened.records.findings,
    })
}

/// One entry of a list.
#[derive(Debug, Clone, Serialize)]
pub struct ListedEntry {
    /// Its path, printable.
    pub path: String,
    /// file, dir, symlink, hardlink, fifo, chardev, blockdev.
    pub kind: &'static str,
    /// Its permission bits.
    pub mode: u32,
    /// Its owner.
    pub user: String,
    /// Its group.
    pub group: String,
    /// Logical length of a file.
    pub size: u64,
    /// Modification time in ns since 1970.
    pub mtime_ns: String,
    /// Where a link points.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub target: Option<String>,
    /// BLAKE3 of a file's content.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub hash: Option<String>,
    /// The snapshot, where several are searched.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub snapshot: Option<SnapshotId>,
}

fn listed(entry: &Entry) -> ListedEntry {
    let owner = &entry.meta.owner;
    ListedEntry {
        path: format!("/{}", entry.path),
        kind: entry.kind.word(),
        mode: entry.meta.mode,
        user: owner.user.clone().unwrap_or_else(|| owner.uid.to_string()),
        group: owner.group.clone().unwrap_or_else(|| owner.gid.to_string()),
        size: entry.kind.size(),
        mtime_ns: entry.meta.mtime_ns.to_string(),
        target: match &entry.kind {
            EntryKind::Symlink(target) => Some(crate::model::path::escape(target)),
            EntryKind::HardLink(first) => Some(format!("/{first}")),
            _ => None,
        },
        hash: if let EntryKind::File(content) = &entry.kind { Some(content.hash.to_string()) } else { None },
        snapshot: None,
    }
}

/// How deep a list goes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Depth {
    /// What lies directly in the directory.
    Children,
    /// All below it.
    All,
}

/// Lists what lies at or below `path` (the root without one), handing each entry to `each`.
///
/// # Errors
/// When the snapshot cannot be opened, or nothing is there.
pub fn ls(
    plan: &ReadPlan,
    query: &SnapshotQuery,
    path: Option<&EntryPath>,
    depth: Depth,
    env: &Env<'_>,
    each: &mut dyn FnMut(ListedEntry),
) -> Result<SnapshotId, OpError> {
    let opened = plan.open(env)?;
    plan.need_identity(&opened)?;
    let snapshot = plan.select(&opened, query, env)?;
    let reader = opened.snapshot(&plan.identities, &snapshot)?;
    let selection = path.map_or_else(Selection::all, |path| Selection::of_path(path.clone()));
    let base = path.map_or(0, EntryPath::depth);
    let mut found = false;
    // The last directory of the wanted depth, with an entry of its own or without.
    let mut open: Option<EntryPath> = None;
    for member in &reader.manifest.members {
        reader.each_entry(member, &selection, |entry| {
            env.check_cancel()?;
            let at_path = path.is_some_and(|path| entry.path == *path);
            if path.is_some_and(|path| !entry.path.is_at_or_below(path)) {
                return Ok(());
            }
            found = true;
            // A directory is listed by what lies in it, anything else by itself.
            let is_child = entry.path.depth() == base + 1 || (at_path && entry.kind != EntryKind::Directory);
            if depth == Depth::All || is_child {
                each(listed(&entry));
            } else if let Some(child) = ancestor(&entry.path, base + 1)
                && open.as_ref() != Some(&child)
            {
                each(implied(&child));
                open = Some(child);
            }
            if is_child {
                open = Some(entry.path);
            }
            Ok(())
        })?;
    }
    match (found, path) {
        (false, Some(path)) => Err(VaultError::NoEntry(format!("/{path}: not in this snapshot")).into()),
        _ => Ok(snapshot.id),
    }
}

/// The directory that holds `path`, so many components deep; none when `path` itself is no deeper.
fn ancestor(path: &EntryPath, depth: usize) -> Option<EntryPath> {
    let mut at = path.parent()?;
    while at.depth() > depth {
        at = at.parent()?;
    }
    (at.depth() == depth).then_some(at)
}

/// A directory that has no entry: that of what an engine made. A restore makes it for its owner alone.
fn implied(path: &EntryPath) -> ListedEntry {
    ListedEntry {
        path: format!("/{path}"),
        kind: EntryKind::Directory.word(),
        mode: 0o700,
        user: "0".into(),
        group: "0".into(),
        size: 0,
        mtime_ns: "0".into(),
        target: None,
        hash: None,
        snapshot: None,
    }
}

/// Finds entries that match `selection` in one snapshot, or in all of them, newest first.
///
/// # Errors
/// When a snapshot cannot be opened.
pub fn find(
    plan: &ReadPlan,
    query: Option<&SnapshotQuery>,
    selection: &Selection,
    env: &Env<'_>,
    each: &mut dyn FnMut(ListedEntry),
) -> Result<(), OpError> {
    let opened = plan.open(env)?;
    plan.need_identity(&opened)?;
    let chosen = match query {
        Some(query) => vec![plan.select(&opened, query, env)?],
        None => opened.snapshots.iter().rev().cloned().collect(),
    };
    for snapshot in chosen {
        env.step(format!("searching {} of {}", snapshot.id.short(), snapshot.time));
        let reader = opened.snapshot(&plan.identities, &snapshot)?;
        for member in &reader.manifest.members {
            reader.each_entry(member, selection, |entry| {
                env.check_cancel()?;
                if selection.matches(&entry.path, entry.kind == EntryKind::Directory) {
                    each(ListedEntry { snapshot: Some(snapshot.id), ..listed(&entry) });
                }
                Ok(())
            })?;
        }
    }
    Ok(())
}

/// One difference between two snapshots.
#[derive(Debug, Clone, Serialize)]
pub struct Difference {
    /// added, removed, content, kind, metadata.
    pub change: &'static str,
    /// The path, printable.
    pub path: String,
    /// Size before, for files.
    pub size_before: u64,
    /// Size after, for files.
    pub size_after: u64,
}

/// Compares two snapshots, handing each difference to `each`, in order.
///
/// # Errors
/// When a snapshot cannot be opened.
pub fn diff(
    plan: &ReadPlan,
    before: &SnapshotQuery,
    after: &SnapshotQuery,
    selection: &Selection,
    env: &Env<'_>,
    each: &mut dyn FnMut(Difference),
) -> Result<(SnapshotId, SnapshotId), OpError> {
    let opened = plan.open(env)?;
    plan.need_identity(&opened)?;
    let (before, after) = (plan.select(&opened, before, env)?, plan.select(&opened, after, env)?);
    let readers = [opened.snapshot(&plan.identities, &before)?, opened.snapshot(&plan.identities, &after)?];
    let mut names: Vec<&str> = readers.iter().flat_map(|r| &r.manifest.members).map(|m| m.name.as_str()).collect();
    names.sort_unstable();
    names.dedup();
    for name in names {
        diff_member(&readers, name, selection, env, each)?;
    }
    Ok((before.id, after.id))
}

/// Compares a member of two snapshots, entry by entry in their common order.
fn diff_member(
    readers: &[SnapshotReader; 2],
    name: &str,
    selection: &Selection,
    env: &Env<'_>,
    each: &mut dyn FnMut(Difference),
) -> Result<(), OpError> {
    std::thread::scope(|scope| {
        let mut streams = readers.iter().map(|reader| {
            let (sender, receiver) = crossbeam_channel::bounded::<Result<Entry, VaultError>>(1024);
            scope.spawn(move || {
                let Some(member) = reader.manifest.members.iter().find(|member| member.name == name) else { return };
                let outcome = reader
                    .each_entry(member, selection, |entry| sender.send(Ok(entry)).map_err(|_| VaultError::Interrupted));
                if let Err(error) = outcome {
                    let _ = sender.send(Err(error));
                }
            });
            receiver
        });
        let (Some(old), Some(new)) = (streams.next(), streams.next()) else { return Ok(()) };
        let (mut left, mut right) = (old.recv().ok().transpose()?, new.recv().ok().transpose()?);
        loop {
            env.check_cancel()?;
            let order = match (&left, &right) {
                (None, None) => return Ok(()),
                (Some(_), None) => std::cmp::Ordering::Less,
                (None, Some(_)) => std::cmp::Ordering::Greater,
                (Some(l), Some(r)) => l.path.cmp(&r.path),
            };
            if let Some(difference) = difference(order, left.as_ref(), right.as_ref()) {
                each(difference);
            }
            if order.is_le() {
                left = old.recv().ok().transpose()?;
            }
            if order.is_ge() {
                right = new.recv().ok().transpose()?;
            }
        }
    })
}

fn difference(order: std::cmp::Ordering, left: Option<&Entry>, right: Option<&Entry>) -> Option<Difference> {
    let made = |change, path: &EntryPath, before, after| {
        Some(Difference { change, path: format!("/{path}"), size_before: before, size_after: after })
    };
    match (order, left, right) {
        (std::cmp::Ordering::Less, Some(left), _) => made("removed", &left.path, left.kind.size(), 0),
        (std::cmp::Ordering::Greater, _, Some(right)) => made("added", &right.path, 0, right.kind.size()),
        (std::cmp::Ordering::Equal, Some(left), Some(right)) => {
            let change = match (&left.kind, &right.kind) {
                (EntryKind::File(l), EntryKind::File(r)) if l.hash != r.hash => "content",
                (l, r) if l.word() != r.word() => "kind",
                (EntryKind::File(_), EntryKind::File(_)) if left.meta == right.meta => return None,
                (l, r) if l == r && left.meta == right.meta => return None,
                (EntryKind::Symlink(l), EntryKind::Symlink(r)) if l != r => "content",
                _ => "metadata",
            };
            made(change, &left.path, left.kind.size(), right.kind.size())
        }
        _ => None,
    }
}
