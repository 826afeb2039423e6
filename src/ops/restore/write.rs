//! Writing entries as their content arrives: directories and links by one thread, files by several (`writers`), in the order
//! that `orders` gives.

use std::collections::HashSet;
use std::hash::{BuildHasher, RandomState};
use std::io::{Seek, SeekFrom, Write};
use std::os::fd::OwnedFd;
use std::sync::PoisonError;
use std::sync::atomic::Ordering;

use crossbeam_channel::{Sender, bounded};
use rustix::fs::{AtFlags, FileType, Mode, OFlags};

use super::finish::is_above_a_root;
use super::orders::{Mark, Orders, imperfect, read_entries};
use super::plan::{Decision, Planned, source_path};
use super::writers::{Message, Shared, write_files};
use super::{Into, OnConflict, Progressed, RestorePlan, RestoreReceipt};
use crate::format::catalogue::encode_line;
use crate::model::entry::{Entry, EntryKind, Metadata};
use crate::model::finding::{Finding, FindingKind};
use crate::model::path::EntryPath;
use crate::ops::{Env, Event, OpError};
use crate::target::file::FileGoal;
use crate::target::metadata::{apply_by_name, apply_to_fd};
use crate::target::{MetadataPolicy, TargetError, TargetRoot, existing};
use crate::vault::VaultError;
use crate::vault::catalogue_reader::SnapshotReader;
use crate::vault::fetch::{Ahead, Check, Got, Piece};

/// Threads that write files.
const WRITERS: usize = 4;
/// Messages that wait for one of them; each holds on to a block, or several.
const MESSAGES_WAITING: usize = 4;
/// Entries that the catalogue is read ahead.
const ENTRIES_AHEAD: usize = 1024;
/// Pieces of a file that travel together at most.
const PIECES_PER_MESSAGE: usize = 8;
/// With so many bytes they travel too.
const BYTES_PER_MESSAGE: usize = 256 * 1024;

/// What the last step works through: directories and further names of files, as catalogue lines with their target paths.
pub struct Spool {
    file: std::io::BufWriter<std::fs::File>,
    /// Entries that are not at their places now: whatever lies there is not what was backed up.
    absent: HashSet<EntryPath>,
    /// Where something else may lie at the target: what this restore has put there, or found to be right.
    placed: Option<Placed>,
}

/// What the last step needs.
pub struct Last {
    /// The lines, from the beginning.
    pub lines: std::io::BufReader<std::fs::File>,
    /// Entries that were not restored.
    pub absent: HashSet<EntryPath>,
    placed: Option<Placed>,
}

impl Last {
    /// Whether what lies at `path` is from this snapshot.
    pub fn is_placed(&self, path: &EntryPath) -> bool {
        self.placed.as_ref().is_none_or(|placed| placed.hashes.binary_search(&placed.state.hash_one(path)).is_ok())
    }
}

/// Paths, as eight bytes each.
#[derive(Default)]
struct Placed {
    state: RandomState,
    hashes: Vec<u64>,
}

impl Spool {
    fn create(target_is_fresh: bool) -> Result<Self, OpError> {
        let file = tempfile::tempfile().map_err(|e| OpError::NotDone(format!("temporary file: {e}")))?;
        let placed = (!target_is_fresh).then(Placed::default);
        Ok(Self { file: std::io::BufWriter::new(file), absent: HashSet::new(), placed })
    }

    fn put(&mut self, path: &EntryPath) {
        if let Some(Placed { state, hashes }) = &mut self.placed {
            hashes.push(state.hash_one(path));
        }
    }

    fn add(&mut self, entry: &Entry) -> Result<(), OpError> {
        let mut line = Vec::new();
        encode_line(entry, &mut line).map_err(VaultError::internal)?;
        self.file.write_all(&line).map_err(|e| OpError::NotDone(format!("temporary file: {e}")))
    }

    /// Ends the collecting.
    pub fn into_last(self) -> Result<Last, OpError> {
        let failed = |e: std::io::Error| OpError::NotDone(format!("temporary file: {e}"));
        let mut file = self.file.into_inner().map_err(|e| failed(e.into_error()))?;
        file.seek(SeekFrom::Start(0)).map_err(failed)?;
        let mut placed = self.placed;
        placed.iter_mut().for_each(|placed| placed.hashes.sort_unstable());
        Ok(Last { lines: std::io::BufReader::new(file), absent: self.absent, placed })
    }
}

/// Writes all selected entries but further names of files and the metadata of directories, which go into the spool.
///
/// Each file is hashed as it is written, so its chunks are not checked one by one. Only a file whose hash differs is read once
/// more so, which tells the chunk that is wrong, or finds a sound one elsewhere.
pub fn write(
    plan: &RestorePlan,
    reader: &SnapshotReader,
    root: &mut TargetRoot,
    planned: &Planned,
    policy: &MetadataPolicy,
    env: &Env<'_>,
    receipt: &mut RestoreReceipt,
    progressed: &mut Progressed,
) -> Result<Spool, OpError> {
    let shared = Shared::new();
    let mut spool = Spool::create(root.is_fresh())?;
    let pass = Pass { plan, reader, planned, policy, env, shared: &shared };
    let (mut outcome, mut counts) = pass.run(root, &mut spool, Check::Whole, None);
    let wrong = shared.take_wrong();
    if outcome.is_ok() && !wrong.is_empty() {
        env.step("reading again, chunk by chunk, what came out wrong");
        counts.entries = counts.entries.saturating_sub(wrong.len() as u64);
        let (again, restored) = pass.run(root, &mut spool, Check::Chunks, Some(wrong));
        counts.entries += restored.entries;
        outcome = again;
    }
    counts.entries = counts.entries.saturating_sub(shared.failed_files.load(Ordering::Relaxed));
    receipt.entries = counts.entries;
    receipt.files_equal = counts.equal;
    receipt.skipped = counts.skipped;
    receipt.files_written = shared.files.load(Ordering::Relaxed);
    receipt.bytes_written = shared.bytes.load(Ordering::Relaxed);
    spool.absent = shared.absent.into_inner().unwrap_or_else(PoisonError::into_inner);
    let findings = shared.findings.into_inner().unwrap_or_else(PoisonError::into_inner);
    *progressed = Progressed { entries: counts.entries, bytes: receipt.bytes_written, findings: findings.len() as u64 };
    receipt.findings.extend(findings);
    if let Some(error) = shared.error.into_inner().unwrap_or_else(PoisonError::into_inner) {
        return Err(error.into());
    }
    outcome?;
    Ok(spool)
}

/// What all passes over the entries share.
#[derive(Clone, Copy)]
struct Pass<'a> {
    plan: &'a RestorePlan,
    reader: &'a SnapshotReader,
    planned: &'a Planned,
    policy: &'a MetadataPolicy,
    env: &'a Env<'a>,
    shared: &'a Shared,
}

/// What became of the entries.
#[derive(Default)]
struct Counts {
    /// They are at their places, or will be when the spool was worked through.
    entries: u64,
    /// Files that were right already.
    equal: u64,
    /// Left out, for something else has their place.
    skipped: u64,
}

impl Pass<'_> {
    /// Goes over the selected entries; with `only`, over these files alone.
    fn run(
        &self,
        root: &mut TargetRoot,
        spool: &mut Spool,
        check: Check,
        only: Option<HashSet<EntryPath>>,
    ) -> (Result<(), VaultError>, Counts) {
        let Self { plan, reader, planned, policy, env, shared } = *self;
        std::thread::scope(|scope| {
            let (entry_sender, entries) = bounded::<Result<Entry, VaultError>>(ENTRIES_AHEAD);
            scope.spawn(move || read_entries(plan, reader, &entry_sender));
            let mut senders = Vec::new();
            for _ in 0..WRITERS {
                let (sender, messages) = bounded::<Message>(MESSAGES_WAITING);
                scope.spawn(move || write_files(&messages, policy, shared, env));
                senders.push(sender);
            }
            let mut orders = Orders::new(plan, reader, planned, entries, only);
            let mut taker = Taker { pass: self, root, senders, next: 0, file: None, spool, counts: Counts::default() };
            let outcome = reader.chunks.stream(Ahead::CONTENT, check, || orders.next(), |got| taker.take(got));
            (outcome, taker.counts)
        })
    }
}

/// Takes what the stream gives, in order.
struct Taker<'a> {
    pass: &'a Pass<'a>,
    root: &'a mut TargetRoot,
    senders: Vec<Sender<Message>>,
    next: usize,
    /// The file at hand: its path, its writer, pieces not sent yet. None within a file that could not be begun.
    file: Option<(EntryPath, usize, Vec<Piece>)>,
    spool: &'a mut Spool,
    counts: Counts,
}

impl Taker<'_> {
    fn take(&mut self, got: Got<Mark>) -> Result<(), VaultError> {
        self.pass.env.check_cancel()?;
        if self.pass.shared.failed.load(Ordering::Relaxed) {
            return Err(VaultError::Interrupted);
        }
        match got {
            Got::Data(piece) => self.data(piece),
            Got::Lost(error) | Got::Mark(Mark::Lost(error)) => self.lost(error),
            Got::Mark(Mark::Begin(goal, note)) => {
                self.pass.shared.note(note.into_iter().collect(), self.pass.env);
                self.begin(goal);
            }
            Got::Mark(Mark::End) => self.end(),
            Got::Mark(Mark::Skipped(path)) => {
                self.counts.skipped += 1;
                self.pass.shared.is_absent(path);
            }
            Got::Mark(Mark::LeftOut(path, finding)) => {
                self.pass.shared.note(vec![finding], self.pass.env);
                self.pass.shared.is_absent(path);
            }
            Got::Mark(Mark::Equal(path, meta, xattrs)) => self.equal(&path, &meta, &xattrs),
            Got::Mark(Mark::Other(entry, xattrs, decision)) => return self.other(*entry, &xattrs, decision),
        }
        Ok(())
    }

    fn begin(&mut self, goal: Box<FileGoal>) {
        let writer = self.next;
        self.next = (self.next + 1) % self.senders.len();
        match self.root.parent_of(&goal.path) {
            Ok(parent) => {
                self.spool.put(&goal.path);
                self.file = Some((goal.path.clone(), writer, Vec::new()));
                self.send(writer, Message::Begin(goal, parent));
            }
            Err(error) => {
                self.file = None;
                self.pass.shared.fail(goal.path, error, self.pass.env);
            }
        }
    }

    fn send(&self, writer: usize, message: Message) {
        // A writer that has gone has failed, which shows at the next entry.
        let _ = self.senders[writer].send(message);
    }

    fn data(&mut self, piece: Piece) {
        self.pass.env.observer.event(Event::Advance { items: 0, bytes: piece.len() as u64 });
        let Some((_, writer, pieces)) = &mut self.file else { return };
        pieces.push(piece);
        let bytes: usize = pieces.iter().map(|piece| piece.len()).sum();
        if pieces.len() >= PIECES_PER_MESSAGE || bytes >= BYTES_PER_MESSAGE {
            let (writer, pieces) = (*writer, std::mem::take(pieces));
            self.send(writer, Message::Data(pieces));
        }
    }

    fn lost(&mut self, error: VaultError) {
        let Some((path, writer, _)) = self.file.take() else { return };
        self.send(writer, Message::Drop);
        let finding = Finding::new(FindingKind::Damage, &path, format!("not restored: {error}"));
        self.pass.shared.note(vec![finding], self.pass.env);
        self.pass.shared.is_absent(path);
    }

    fn end(&mut self) {
        self.pass.env.observer.event(Event::Advance { items: 1, bytes: 0 });
        let Some((_, writer, pieces)) = self.file.take() else { return };
        self.counts.entries += 1;
        if !pieces.is_empty() {
            self.send(writer, Message::Data(pieces));
        }
        self.send(writer, Message::End);
    }

    fn equal(&mut self, path: &EntryPath, meta: &Metadata, xattrs: &[(Vec<u8>, Vec<u8>)]) {
        match self.root.open_entry(path, OFlags::RDONLY | OFlags::NONBLOCK) {
            Ok(fd) => {
                self.counts.entries += 1;
                self.counts.equal += 1;
                self.spool.put(path);
                self.pass.shared.note(apply_to_fd(&fd, path, meta, xattrs, self.pass.policy), self.pass.env);
            }
            Err(error) => self.pass.shared.fail(path.clone(), TargetError::io(path, error), self.pass.env),
        }
    }

    fn other(&mut self, entry: Entry, xattrs: &[(Vec<u8>, Vec<u8>)], decision: Decision) -> Result<(), VaultError> {
        self.pass.shared.note(imperfect(&entry, &entry.path).into_iter().collect(), self.pass.env);
        if entry.kind == EntryKind::Directory && decision == Decision::Equal && self.is_on_the_way(&entry.path) {
            self.counts.entries += 1;
            return Ok(());
        }
        let made = match &entry.kind {
            EntryKind::Directory => self.directory(&entry, decision),
            EntryKind::HardLink(_) => Ok(true),
            _ => self.node(&entry, xattrs, decision),
        };
        match made {
            Ok(true) if matches!(entry.kind, EntryKind::Directory | EntryKind::HardLink(_)) => {
                self.counts.entries += 1;
                self.spool.add(&entry).map_err(VaultError::internal)
            }
            Ok(made) => {
                self.counts.entries += u64::from(made);
                match made {
                    true => self.spool.put(&entry.path),
                    false => self.pass.shared.is_absent(entry.path),
                }
                Ok(())
            }
            Err(error) => {
                self.pass.shared.fail(entry.path, error, self.pass.env);
                Ok(())
            }
        }
    }

    /// Whether a directory that is there already only leads to what is restored where it came from: it stays as it is.
    fn is_on_the_way(&self, path: &EntryPath) -> bool {
        let plan = self.pass.plan;
        let source = source_path(plan, path);
        plan.into == Into::InPlace && (!plan.selection.matches(&source, true) || is_above_a_root(self.pass.reader, &source))
    }

    fn directory(&mut self, entry: &Entry, decision: Decision) -> Result<bool, TargetError> {
        if decision == Decision::Blocked && self.pass.plan.on_conflict == OnConflict::Replace {
            let parent = self.root.parent_of(&entry.path)?;
            let io = |e| TargetError::io(&entry.path, e);
            let found = crate::target::root::kind_at(&parent, entry.path.name()).map_err(io)?;
            if found.is_some_and(|kind| kind != FileType::Directory) {
                existing::remove(&parent, entry.path.name()).map_err(io)?;
            }
        }
        self.root.dir(&entry.path)?;
        Ok(true)
    }

    /// A link, pipe or device. It is made under another name and renamed, so that what it replaces is there until then.
    fn node(&mut self, entry: &Entry, xattrs: &[(Vec<u8>, Vec<u8>)], decision: Decision) -> Result<bool, TargetError> {
        let path = &entry.path;
        let is_device = matches!(entry.kind, EntryKind::CharDevice(..) | EntryKind::BlockDevice(..));
        if is_device && !self.pass.policy.special {
            let message = format!("a {} is made only with --special", entry.kind.word());
            self.pass.shared.note(vec![Finding::new(FindingKind::Target, path, message)], self.pass.env);
            return Ok(false);
        }
        let parent = self.root.parent_of(path)?;
        if decision != Decision::Equal {
            make_node(&parent, entry, decision == Decision::Replace).map_err(|e| TargetError::io(path, e))?;
        }
        let is_link = matches!(entry.kind, EntryKind::Symlink(_));
        let findings = apply_by_name(&parent, path, is_link, &entry.meta, xattrs, self.pass.policy);
        self.pass.shared.note(findings, self.pass.env);
        Ok(true)
    }
}

fn make_node(parent: &OwnedFd, entry: &Entry, replace: bool) -> std::io::Result<()> {
    let name = entry.path.name();
    let temporary = format!("{}{:x}-node.tmp", crate::target::file::TEMPORARY_PREFIX, std::process::id());
    let at: &[u8] = if replace { temporary.as_bytes() } else { name };
    if replace {
        existing::remove(parent, at)?;
    }
    let mode = Mode::from_raw_mode(0o600);
    match &entry.kind {
        EntryKind::Symlink(target) => rustix::fs::symlinkat(target.as_slice(), parent, at)?,
        EntryKind::Fifo => rustix::fs::mknodat(parent, at, FileType::Fifo, mode, 0)?,
        EntryKind::CharDevice(major, minor) => {
            rustix::fs::mknodat(parent, at, FileType::CharacterDevice, mode, rustix::fs::makedev(*major, *minor))?;
        }
        EntryKind::BlockDevice(major, minor) => {
            rustix::fs::mknodat(parent, at, FileType::BlockDevice, mode, rustix::fs::makedev(*major, *minor))?;
        }
        EntryKind::File(_) | EntryKind::Directory | EntryKind::HardLink(_) => return Ok(()),
    }
    if replace {
        let renamed = rustix::fs::renameat(parent, at, parent, name);
        if renamed.is_err() {
            let _ = rustix::fs::unlinkat(parent, at, AtFlags::empty());
        }
        renamed?;
    }
    Ok(())
}
