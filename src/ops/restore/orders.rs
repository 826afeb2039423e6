//! What is to be fetched for a restore, in order: entries become marks and chunks for one stream.

use std::collections::{HashMap, HashSet};

use crossbeam_channel::{Receiver, Sender};

use super::plan::{Decision, Planned, is_fatal, target_path};
use super::{OnConflict, RestorePlan};
use crate::model::entry::{Content, Entry, EntryKind, Flaw, Metadata};
use crate::model::finding::{Finding, FindingKind};
use crate::model::path::EntryPath;
use crate::target::file::{FileGoal, Placing};
use crate::vault::VaultError;
use crate::vault::catalogue_reader::{RefStream, SnapshotReader};
use crate::vault::fetch::Order;

/// What is handed through the stream of chunks.
pub enum Mark {
    /// A file whose content follows, and what is to be said of it.
    Begin(Box<FileGoal>, Option<Finding>),
    /// Its end.
    End,
    /// Its list of chunks cannot be had: so much for this file.
    Lost(VaultError),
    /// An entry without content of its own, with its attributes.
    Other(Box<Entry>, Vec<(Vec<u8>, Vec<u8>)>, Decision),
    /// A file that is right already.
    Equal(EntryPath, Box<Metadata>, Vec<(Vec<u8>, Vec<u8>)>),
    /// An entry that is left out because its place is taken.
    Skipped(EntryPath),
    /// An entry that is left out for what the finding says.
    LeftOut(EntryPath, Finding),
}

impl Mark {
    /// What its lists take.
    fn bytes(&self) -> u64 {
        let of = |xattrs: &[(Vec<u8>, Vec<u8>)]| xattrs.iter().map(|(name, value)| name.len() + value.len()).sum::<usize>();
        let bytes = match self {
            Self::Begin(goal, _) => of(&goal.xattrs) + 16 * goal.extents.as_ref().map_or(0, Vec::len),
            Self::Other(_, xattrs, _) | Self::Equal(_, _, xattrs) => of(xattrs),
            Self::End | Self::Lost(_) | Self::Skipped(_) | Self::LeftOut(..) => 0,
        };
        bytes as u64
    }
}

/// Reads the catalogues of the selected members.
pub fn read_entries(plan: &RestorePlan, reader: &SnapshotReader, entries: &Sender<Result<Entry, VaultError>>) {
    for member in &reader.manifest.members {
        if !plan.members.is_empty() && !plan.members.contains(&member.name) {
            continue;
        }
        let mut gone = false;
        let outcome = reader.each_entry(member, &plan.selection, |entry| {
            entries.send(Ok(entry)).map_err(|_| {
                gone = true;
                VaultError::Interrupted
            })
        });
        match outcome {
            Ok(()) => {}
            Err(_) if gone => return,
            Err(error) => {
                let _ = entries.send(Err(error));
                return;
            }
        }
    }
}

/// Turns entries into orders for the stream of chunks.
pub struct Orders<'a> {
    plan: &'a RestorePlan,
    reader: &'a SnapshotReader,
    planned: &'a Planned,
    entries: Receiver<Result<Entry, VaultError>>,
    ordinal: usize,
    /// The content of the file at hand.
    content: Option<RefStream>,
    /// For further names whose first one is not selected: where the content went instead.
    substitutes: HashMap<EntryPath, EntryPath>,
    /// The files that are wanted, if not all are.
    only: Option<HashSet<EntryPath>>,
}

impl<'a> Orders<'a> {
    pub fn new(
        plan: &'a RestorePlan,
        reader: &'a SnapshotReader,
        planned: &'a Planned,
        entries: Receiver<Result<Entry, VaultError>>,
        only: Option<HashSet<EntryPath>>,
    ) -> Self {
        Self { plan, reader, planned, entries, ordinal: 0, content: None, substitutes: HashMap::new(), only }
    }

    /// The next mark or chunk; none at the end of the last catalogue.
    ///
    /// # Errors
    /// When a catalogue cannot be read.
    pub fn next(&mut self) -> Result<Option<Order<Mark>>, VaultError> {
        if let Some(content) = &mut self.content {
            let mark = match content.next(&self.reader.chunks) {
                Ok(Some(id)) => return Ok(Some(Order::Chunk(id))),
                Ok(None) => Mark::End,
                Err(error) if is_fatal(&error) => return Err(error),
                Err(error) => Mark::Lost(error),
            };
            self.content = None;
            return Ok(Some(Order::Mark(mark, 0)));
        }
        loop {
            let Ok(entry) = self.entries.recv() else { return Ok(None) };
            let mut entry = entry?;
            let Some(path) = target_path(self.plan, &entry.path) else { continue };
            let decision = self.planned.decision(self.ordinal);
            self.ordinal += 1;
            if self.only.as_ref().is_some_and(|only| !only.contains(&path)) {
                continue;
            }
            entry.path = path;
            let mark = self.order(entry, decision)?;
            let bytes = mark.bytes();
            return Ok(Some(Order::Mark(mark, bytes)));
        }
    }

    fn order(&mut self, mut entry: Entry, decision: Decision) -> Result<Mark, VaultError> {
        let taken = matches!(decision, Decision::Replace | Decision::Blocked);
        if taken && self.plan.on_conflict == OnConflict::Skip {
            return Ok(Mark::Skipped(entry.path));
        }
        if decision == Decision::Blocked && entry.kind != EntryKind::Directory {
            let message = "a directory, or a link on the way to it, is in its place; it is not replaced";
            return Ok(left_out(FindingKind::Target, entry.path, message));
        }
        if let Some(finding) = unreadable(&entry, &entry.path) {
            return Ok(Mark::LeftOut(entry.path, finding));
        }
        let xattrs = match self.reader.xattrs_of(&entry) {
            Ok(xattrs) => xattrs,
            Err(error) if is_fatal(&error) => return Err(error),
            Err(error) => return Ok(left_out(FindingKind::Damage, entry.path, error)),
        };
        if let EntryKind::HardLink(first) = &entry.kind {
            match self.substitute(&entry, first) {
                Ok(Some(kind)) => entry.kind = kind,
                Ok(None) => return Ok(Mark::Other(Box::new(self.redirect(entry)), xattrs, decision)),
                Err(error) if is_fatal(&error) => return Err(error),
                Err(error) => return Ok(left_out(FindingKind::Damage, entry.path, error)),
            }
        }
        let EntryKind::File(content) = &entry.kind else { return Ok(Mark::Other(Box::new(entry), xattrs, decision)) };
        let content = content.clone();
        if decision == Decision::Equal {
            return Ok(Mark::Equal(entry.path, Box::new(entry.meta), xattrs));
        }
        self.begin(entry, content, xattrs, decision)
    }

    fn begin(
        &mut self,
        entry: Entry,
        content: Content,
        xattrs: Vec<(Vec<u8>, Vec<u8>)>,
        decision: Decision,
    ) -> Result<Mark, VaultError> {
        let extents = match self.reader.extents_of(&content) {
            Ok(extents) => extents,
            Err(error) if is_fatal(&error) => return Err(error),
            Err(error) => return Ok(left_out(FindingKind::Damage, entry.path, error)),
        };
        self.content = Some(RefStream::of_file(&content));
        // The first pass has said it.
        let note = if self.only.is_none() { imperfect(&entry, &entry.path) } else { None };
        let placing = if decision == Decision::Replace { Placing::Replace } else { Placing::New };
        let goal = FileGoal {
            path: entry.path,
            size: content.size,
            hash: content.hash,
            extents,
            meta: entry.meta,
            xattrs,
            placing,
        };
        Ok(Mark::Begin(Box::new(goal), note))
    }

    /// For a further name of something whose first name is not restored: what it is, the first time.
    fn substitute(&mut self, entry: &Entry, first: &EntryPath) -> Result<Option<EntryKind>, VaultError> {
        let selected = self.plan.selection.matches(first, false) && target_path(self.plan, first).is_some();
        if selected || self.substitutes.contains_key(first) {
            return Ok(None);
        }
        let original = self.reader.original_of(entry)?;
        if unreadable(&original, &entry.path).is_some() {
            return Err(VaultError::damaged(format!("/{first}"), "its content could not be read when it was backed up"));
        }
        self.substitutes.insert(first.clone(), entry.path.clone());
        Ok(Some(original.kind))
    }

    /// A further name, pointed at where its first name was restored.
    fn redirect(&self, mut entry: Entry) -> Entry {
        if let EntryKind::HardLink(first) = &entry.kind {
            let target = self.substitutes.get(first).cloned().or_else(|| target_path(self.plan, first));
            if let Some(target) = target {
                entry.kind = EntryKind::HardLink(target);
            }
        }
        entry
    }
}

/// What is to be said of a file that is left out because its content could not be read when it was backed up: an empty one in
/// its place would be a lie.
pub fn unreadable(entry: &Entry, at: &EntryPath) -> Option<Finding> {
    let is_empty = matches!(entry.kind, EntryKind::File(_)) && entry.kind.size() == 0;
    let message = "not restored: its content could not be read when it was backed up";
    (entry.flaw.is_some() && is_empty).then(|| Finding::new(FindingKind::Damage, at, message))
}

/// What is to be said of an entry that is not all that was there when it was backed up.
pub fn imperfect(entry: &Entry, at: &EntryPath) -> Option<Finding> {
    let (kind, message) = match entry.flaw.as_ref()? {
        Flaw::Changed => (FindingKind::Notice, "it changed while it was backed up: its content may be a mixture".to_owned()),
        Flaw::Unreadable(why) if entry.kind == EntryKind::Directory => {
            let message = format!("what it held could not be read when it was backed up, and is not in the snapshot: {why}");
            (FindingKind::Target, message)
        }
        Flaw::Unreadable(_) => return unreadable(entry, at),
        Flaw::LeftOut => return None,
    };
    Some(Finding::new(kind, at, message))
}

fn left_out(kind: FindingKind, path: EntryPath, message: impl std::fmt::Display) -> Mark {
    let finding = Finding::new(kind, &path, message);
    Mark::LeftOut(path, finding)
}
