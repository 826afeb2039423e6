//! What comes last: further names of files, deletions, metadata of directories from the innermost outwards.

use std::collections::HashSet;
use std::io::BufRead;

use rustix::fs::{AtFlags, Dir, FileType, OFlags};
use rustix::io::Errno;

use super::plan::{LISTED_MAX, PlanReport, PlannedAction, source_path, target_path};
use super::write::Spool;
use super::{RestorePlan, RestoreReceipt};
use crate::format::catalogue::decode_line;
use crate::model::entry::{Entry, EntryKind, Flaw};
use crate::model::finding::{Finding, FindingKind};
use crate::model::path::EntryPath;
use crate::ops::{Env, Event, OpError};
use crate::target::file::TEMPORARY_PREFIX;
use crate::target::metadata::apply_to_fd;
use crate::target::{MetadataPolicy, TargetError, TargetRoot, existing};
use crate::vault::VaultError;
use crate::vault::catalogue_reader::SnapshotReader;

/// Works through the spool.
pub fn finish(
    plan: &RestorePlan,
    reader: &SnapshotReader,
    root: &mut TargetRoot,
    spool: Spool,
    policy: &MetadataPolicy,
    env: &Env<'_>,
    receipt: &mut RestoreReceipt,
) -> Result<(), OpError> {
    let mut last = spool.into_last()?;
    let mut findings = Vec::new();
    // The directories from the root down to where the walk is: their metadata is set as the walk leaves them.
    let mut open: Vec<Entry> = Vec::new();
    if plan.delete {
        receipt.deleted = delete_extra(plan, reader, root, env, &mut findings)?;
    }
    let mut line = Vec::new();
    loop {
        env.check_cancel()?;
        line.clear();
        let read = last.lines.read_until(b'\n', &mut line);
        let count = read.map_err(|e| OpError::NotDone(format!("temporary file: {e}")))?;
        if count == 0 {
            break;
        }
        let entry = decode_line(&line).map_err(VaultError::internal)?;
        while open.last().is_some_and(|dir| !entry.path.is_at_or_below(&dir.path)) {
            leave(open.pop(), plan, reader, root, policy, &mut findings)?;
        }
        match &entry.kind {
            EntryKind::Directory => open.push(entry),
            EntryKind::HardLink(first) if last.absent.contains(first) => {
                let message = format!("not made another name of {first}, which was not restored");
                findings.push(Finding::new(FindingKind::Target, &entry.path, message));
            }
            EntryKind::HardLink(first) if !last.is_placed(first) => {
                let message = format!("not made another name of {first}, which is not in this snapshot");
                findings.push(Finding::new(FindingKind::Damage, &entry.path, message));
            }
            EntryKind::HardLink(first) => match link(root, first, &entry.path) {
                Ok(()) => {}
                Err(error) => findings.push(error.into_finding()?),
            },
            _ => {}
        }
    }
    while !open.is_empty() {
        leave(open.pop(), plan, reader, root, policy, &mut findings)?;
    }
    for finding in &findings {
        env.observer.event(Event::Finding(finding.clone()));
    }
    receipt.findings.extend(findings);
    Ok(())
}

fn leave(
    dir: Option<Entry>,
    plan: &RestorePlan,
    reader: &SnapshotReader,
    root: &mut TargetRoot,
    policy: &MetadataPolicy,
    findings: &mut Vec<Finding>,
) -> Result<(), OpError> {
    let Some(mut dir) = dir else { return Ok(()) };
    let xattrs = match reader.xattrs_of(&dir) {
        Ok(xattrs) => xattrs,
        Err(error) => {
            findings.push(Finding::new(FindingKind::Damage, &dir.path, error));
            Vec::new()
        }
    };
    match root.dir(&dir.path) {
        Ok(fd) => {
            // No time is kept of a directory above a root.
            if is_above_a_root(reader, &source_path(plan, &dir.path))
                && let Ok(stat) = rustix::fs::fstat(&*fd)
            {
                dir.meta.mtime_ns = i128::from(stat.st_mtime) * 1_000_000_000 + i128::from(stat.st_mtime_nsec);
            }
            findings.extend(apply_to_fd(&*fd, &dir.path, &dir.meta, &xattrs, policy));
        }
        Err(error) => findings.push(error.into_finding()?),
    }
    Ok(())
}

/// Makes `path` another name of the file at `first`. What is there keeps its name until the new one takes its place.
fn link(root: &mut TargetRoot, first: &EntryPath, path: &EntryPath) -> Result<(), TargetError> {
    let io = |e: Errno| TargetError::io(path, e.into());
    let from = root.open_entry(first, OFlags::PATH).map_err(|e| TargetError::io(path, e))?;
    let parent = root.parent_of(path)?;
    let wanted = rustix::fs::fstat(&from).map_err(io)?;
    let source_dir = root.parent_of(first)?;
    let name_it = |name: &[u8]| rustix::fs::linkat(&*source_dir, first.name(), &*parent, name, AtFlags::empty());
    let found = match rustix::fs::statat(&*parent, path.name(), AtFlags::SYMLINK_NOFOLLOW) {
        Err(Errno::NOENT) => return name_it(path.name()).map_err(io),
        found => found.map_err(io)?,
    };
    // A link that is there already may be the right one.
    if (found.st_dev, found.st_ino) == (wanted.st_dev, wanted.st_ino) {
        return Ok(());
    }
    if FileType::from_raw_mode(found.st_mode) == FileType::Directory {
        let why = "a directory is in its place".to_owned();
        return Err(TargetError::Entry { path: path.to_string(), why });
    }
    let temporary = format!("{TEMPORARY_PREFIX}{:x}-link.tmp", std::process::id());
    existing::remove(&parent, temporary.as_bytes()).map_err(|e| TargetError::io(path, e))?;
    name_it(temporary.as_bytes()).map_err(io)?;
    rustix::fs::renameat(&*parent, temporary.as_bytes(), &*parent, path.name()).map_err(|e| {
        let _ = rustix::fs::unlinkat(&*parent, temporary.as_bytes(), AtFlags::empty());
        io(e)
    })
}

/// What becomes of names that the snapshot does not hold.
enum Clearing<'a> {
    Remove,
    List(&'a mut PlanReport),
}

/// Removes what the snapshot does not hold from directories that were restored whole. Gives how many entries went.
fn delete_extra(
    plan: &RestorePlan,
    reader: &SnapshotReader,
    root: &TargetRoot,
    env: &Env<'_>,
    findings: &mut Vec<Finding>,
) -> Result<u64, OpError> {
    each_extra(plan, reader, root, env, &mut Clearing::Remove, findings)
}

/// Adds to `report` what a restore would remove.
///
/// # Errors
/// When the catalogue cannot be read.
pub fn plan_deletions(
    plan: &RestorePlan,
    reader: &SnapshotReader,
    root: &TargetRoot,
    env: &Env<'_>,
    report: &mut PlanReport,
    findings: &mut Vec<Finding>,
) -> Result<(), OpError> {
    each_extra(plan, reader, root, env, &mut Clearing::List(report), findings).map(|_| ())
}

/// A directory that the walk is in.
struct Open {
    path: EntryPath,
    is_root: bool,
    names: HashSet<Vec<u8>>,
    /// Why what lies here may be older than the snapshot, which then says nothing of it.
    spared: Option<Finding>,
}

fn each_extra(
    plan: &RestorePlan,
    reader: &SnapshotReader,
    root: &TargetRoot,
    env: &Env<'_>,
    clearing: &mut Clearing<'_>,
    findings: &mut Vec<Finding>,
) -> Result<u64, OpError> {
    // Names of the entries of each directory that the walk is in; catalogues come depth first, so few are open at once.
    let mut open: Vec<Open> = Vec::new();
    // The last directory whose names could not be read: of what lies below it the snapshot knows nothing for certain.
    let mut unread: Option<EntryPath> = None;
    let mut deleted = 0;
    for member in reader.manifest.members.iter().filter(|m| m.kind == "files") {
        if !plan.members.is_empty() && !plan.members.contains(&member.name) {
            continue;
        }
        reader.each_entry(member, &plan.selection, |entry| {
            env.check_cancel()?;
            let whole = plan.selection.matches(&entry.path, entry.kind == EntryKind::Directory);
            let Some(path) = target_path(plan, &entry.path) else { return Ok(()) };
            while open.last().is_some_and(|dir| !path.is_at_or_below(&dir.path)) {
                deleted += close(open.pop(), root, clearing, findings);
            }
            if let Some(dir) = open.last_mut()
                && path.parent().as_ref() == Some(&dir.path)
            {
                dir.names.insert(path.name().to_vec());
            }
            // A directory above a root holds only the way to it, and is not restored whole.
            let above_root = whole && is_above_a_root(reader, &entry.path);
            let below_unread = unread.as_ref().is_some_and(|dir| path.is_at_or_below(dir));
            if entry.kind == EntryKind::Directory && whole && !above_root && !below_unread {
                let is_root = member.roots.contains(&entry.path);
                let spared = spared(&path, entry.flaw.as_ref());
                if matches!(entry.flaw, Some(Flaw::Unreadable(_))) {
                    unread = Some(path.clone());
                }
                open.push(Open { path, is_root, names: HashSet::new(), spared });
            }
            Ok(())
        })?;
        while !open.is_empty() {
            deleted += close(open.pop(), root, clearing, findings);
        }
    }
    Ok(deleted)
}

/// Whether `path` only leads to something that was backed up.
pub fn is_above_a_root(reader: &SnapshotReader, path: &EntryPath) -> bool {
    reader.manifest.members.iter().flat_map(|m| &m.roots).any(|root| root != path && root.is_at_or_below(path))
}

/// Why nothing is removed from a directory with this flaw: some of it was there and is in no snapshot.
fn spared(path: &EntryPath, flaw: Option<&Flaw>) -> Option<Finding> {
    let (kind, why) = match flaw? {
        Flaw::LeftOut => (FindingKind::Notice, "the backup left something out here".to_owned()),
        Flaw::Unreadable(why) => (FindingKind::Target, format!("it could not be read when it was backed up ({why})")),
        Flaw::Changed => return None,
    };
    Some(Finding::new(kind, path, format!("{why}: what the snapshot does not hold of it was not removed")))
}

fn close(dir: Option<Open>, root: &TargetRoot, clearing: &mut Clearing<'_>, findings: &mut Vec<Finding>) -> u64 {
    let Some(Open { path, is_root, names, spared }) = dir else { return 0 };
    let listed = root.open_entry(&path, OFlags::RDONLY | OFlags::DIRECTORY).and_then(|fd| Ok((Dir::read_from(&fd)?, fd)));
    let (entries, fd) = match listed {
        Ok(listed) => listed,
        // A plan looks at what the restore has not made yet.
        Err(error) if error.kind() == std::io::ErrorKind::NotFound && matches!(clearing, Clearing::List(_)) => return 0,
        Err(error) => {
            findings.push(Finding::new(
                FindingKind::Target,
                &path,
                format!("not cleared of what the snapshot lacks: {error}"),
            ));
            return 0;
        }
    };
    // Sockets are in no snapshot, whenever they were made.
    let is_extra = |name: &[u8]| name != b"." && name != b".." && !names.contains(name) && !is_socket(&fd, name);
    let mut extra = entries.flatten().filter(|entry| is_extra(entry.file_name().to_bytes())).peekable();
    if extra.peek().is_none() {
        return 0;
    }
    if !is_root && is_mount_point(&fd) {
        // A snapshot that stayed on one file system holds an empty directory here: that is not to say that it was empty.
        let message = "a file system is mounted here: what the snapshot does not hold of it was not removed";
        findings.push(Finding::new(FindingKind::Target, &path, message));
        return 0;
    }
    if let Some(finding) = spared {
        findings.push(finding);
        return 0;
    }
    let mut deleted = 0;
    for entry in extra {
        let name = entry.file_name().to_bytes();
        let subject = || format!("{path}/{}", crate::model::path::escape(name));
        match clearing {
            Clearing::List(report) => {
                if report.actions.len() < LISTED_MAX {
                    report.actions.push(PlannedAction { action: "delete", path: subject(), bytes: 0 });
                }
            }
            Clearing::Remove => match remove_tree(&fd, name) {
                Ok(count) => deleted += count,
                Err(error) => findings.push(Finding::new(FindingKind::Target, subject(), format!("not removed: {error}"))),
            },
        }
    }
    deleted
}

fn is_socket(dir: &std::os::fd::OwnedFd, name: &[u8]) -> bool {
    let stat = rustix::fs::statat(dir, name, AtFlags::SYMLINK_NOFOLLOW);
    stat.is_ok_and(|stat| FileType::from_raw_mode(stat.st_mode) == FileType::Socket)
}

/// Whether the directory is on another file system than the one that it lies in.
fn is_mount_point(dir: &std::os::fd::OwnedFd) -> bool {
    let above = rustix::fs::statat(dir, "..", AtFlags::SYMLINK_NOFOLLOW);
    matches!((rustix::fs::fstat(dir), above), (Ok(here), Ok(above)) if here.st_dev != above.st_dev)
}

/// Removes a name and all below it, without following links or leaving the file system of `dir`.
fn remove_tree(dir: &std::os::fd::OwnedFd, name: &[u8]) -> Result<u64, Errno> {
    let stat = rustix::fs::statat(dir, name, AtFlags::SYMLINK_NOFOLLOW)?;
    if FileType::from_raw_mode(stat.st_mode) != FileType::Directory {
        rustix::fs::unlinkat(dir, name, AtFlags::empty())?;
        return Ok(1);
    }
    if stat.st_dev != rustix::fs::fstat(dir)?.st_dev {
        return Err(Errno::XDEV);
    }
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    let below = rustix::fs::openat(dir, name, flags, rustix::fs::Mode::empty())?;
    let mut removed = 0;
    for entry in Dir::read_from(&below)? {
        let entry = entry?;
        match entry.file_name().to_bytes() {
            b"." | b".." => {}
            child => removed += remove_tree(&below, child)?,
        }
    }
    rustix::fs::unlinkat(dir, name, AtFlags::REMOVEDIR)?;
    Ok(removed + 1)
}
