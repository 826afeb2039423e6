//! Depth `opened`: every chunk that a snapshot needs is decrypted, decompressed and held against its id, every file against
//! the hash of its whole content, every further name of a file against the entry that it points at.

use std::collections::HashSet;
use std::sync::atomic::{AtomicBool, Ordering};

use super::links::Links;
use super::{FINDINGS_MAX, Looked, Watch};
use crate::crypto::hash::{StreamHasher, hash};
use crate::model::entry::{Content, Entry, EntryKind, Flaw};
use crate::model::finding::{Finding, FindingKind};
use crate::model::ids::ObjectHash;
use crate::model::path::EntryPath;
use crate::model::pattern::Selection;
use crate::vault::VaultError;
use crate::vault::catalogue_reader::{RefStream, SnapshotReader};
use crate::vault::fetch::{Ahead, Check, Got, Listed, Order};
use crate::vault::snapshots::Snapshot;

/// Files of which it is remembered that they were right, so that later snapshots need not be read whole: 16 bytes each.
const SEEN_MAX: usize = 1_000_000;
/// Entries that the catalogue is read ahead.
const ENTRIES_AHEAD: usize = 1024;

/// Contents that were read and found right: the digest of their hash and their chunks.
#[derive(Debug, Default)]
pub struct Seen(HashSet<[u8; 16]>);

impl Seen {
    fn digest(content: &Content) -> [u8; 16] {
        // Debug text of plain values: the same within one run, which is all that is asked of it.
        let whole = hash(format!("{content:?}").as_bytes());
        let mut digest = [0; 16];
        digest.copy_from_slice(&whole.0[..16]);
        digest
    }

    fn has(&self, content: &Content) -> bool {
        self.0.contains(&Self::digest(content))
    }

    fn add(&mut self, digest: [u8; 16]) {
        if self.0.len() < SEEN_MAX {
            self.0.insert(digest);
        }
    }
}

struct Begin {
    path: EntryPath,
    size: u64,
    hash: ObjectHash,
    extents: Vec<(u64, u64)>,
    digest: [u8; 16],
}

/// What comes from the catalogue.
enum Item {
    Entry(Entry),
    Finding(Finding),
}

enum Mark {
    Begin(Box<Begin>),
    End,
    /// Its list of chunks cannot be had.
    Lost(VaultError),
    Note(Finding),
}

/// Reads every file of a snapshot that was not seen before.
///
/// # Errors
/// When the store is out of reach, or the catalogue cannot be read.
pub fn check(
    reader: &SnapshotReader,
    snapshot: &Snapshot,
    seen: &mut Seen,
    cancel: &AtomicBool,
    watch: &dyn Watch,
) -> Result<Looked, VaultError> {
    let mut looked = Looked::default();
    let known = std::mem::take(seen);
    let mut fresh = Vec::new();
    let outcome = std::thread::scope(|scope| {
        let (sender, entries) = crossbeam_channel::bounded::<Result<Item, VaultError>>(ENTRIES_AHEAD);
        scope.spawn(move || {
            let send = |item| sender.send(Ok(item)).map_err(|_| VaultError::Interrupted);
            for member in &reader.manifest.members {
                let mut links = Links::default();
                let outcome = reader.each_entry(member, &Selection::all(), |entry| {
                    links.note(&entry);
                    send(Item::Entry(entry))
                });
                let checked = |()| links.check(reader, member, cancel, |finding| send(Item::Finding(finding)));
                if let Err(error) = outcome.and_then(checked) {
                    let _ = sender.send(Err(error));
                    return;
                }
            }
        });
        let mut orders = Orders { reader, entries, known: &known, listed: Listed::default(), content: None };
        let mut file: Option<File> = None;
        reader.chunks.stream(
            Ahead::CONTENT,
            Check::Chunks,
            || orders.next(),
            |got| {
                if cancel.load(Ordering::Relaxed) {
                    return Err(VaultError::Interrupted);
                }
                match got {
                    Got::Mark(Mark::Begin(begin)) => file = Some(File::new(*begin)),
                    Got::Mark(Mark::Note(finding)) => push(&mut looked.findings, for_snapshot(finding, snapshot)),
                    Got::Data(piece) => {
                        watch.looked(0, piece.len() as u64);
                        looked.bytes += piece.len() as u64;
                        if let Some(file) = &mut file {
                            file.data(&piece);
                        }
                    }
                    Got::Lost(error) | Got::Mark(Mark::Lost(error)) => {
                        if let Some(file) = file.take() {
                            let finding = Finding::new(FindingKind::Damage, format!("/{}", file.begin.path), error);
                            push(&mut looked.findings, for_snapshot(finding, snapshot));
                        }
                    }
                    Got::Mark(Mark::End) => {
                        looked.objects += 1;
                        if let Some(file) = file.take() {
                            match file.finish() {
                                Ok(digest) => fresh.push(digest),
                                Err(finding) => push(&mut looked.findings, for_snapshot(finding, snapshot)),
                            }
                        }
                    }
                }
                Ok(())
            },
        )
    });
    *seen = known;
    fresh.into_iter().for_each(|digest| seen.add(digest));
    outcome?;
    Ok(looked)
}

fn push(findings: &mut Vec<Finding>, finding: Finding) {
    if findings.len() < FINDINGS_MAX {
        findings.push(finding);
    }
}

fn for_snapshot(mut finding: Finding, snapshot: &Snapshot) -> Finding {
    finding.snapshots = vec![snapshot.id.short()];
    finding
}

struct Orders<'a> {
    reader: &'a SnapshotReader,
    entries: crossbeam_channel::Receiver<Result<Item, VaultError>>,
    known: &'a Seen,
    listed: Listed,
    content: Option<RefStream>,
}

impl Orders<'_> {
    fn next(&mut self) -> Result<Option<Order<Mark>>, VaultError> {
        if let Some(content) = &mut self.content {
            let mark = match content.next(&self.reader.chunks) {
                Ok(Some(id)) => return Ok(Some(Order::Chunk(id))),
                Ok(None) => Mark::End,
                Err(error @ (VaultError::Store(_) | VaultError::State(_) | VaultError::Interrupted)) => return Err(error),
                Err(error) => Mark::Lost(error),
            };
            self.content = None;
            return Ok(Some(Order::Mark(mark, 0)));
        }
        loop {
            let Ok(item) = self.entries.recv() else { return Ok(None) };
            let entry = match item? {
                Item::Entry(entry) => entry,
                Item::Finding(finding) => return Ok(Some(Order::Mark(Mark::Note(finding), 0))),
            };
            let EntryKind::File(content) = &entry.kind else { continue };
            if matches!(entry.flaw, Some(Flaw::Unreadable(_))) {
                continue;
            }
            if self.known.has(content) {
                match self.unlisted(&entry.path, content)? {
                    None => continue,
                    Some(finding) => return Ok(Some(Order::Mark(Mark::Note(finding), 0))),
                }
            }
            let extents = match self.reader.extents_of(content) {
                Ok(extents) => extents.unwrap_or_else(|| vec![(0, content.size)]),
                Err(error @ (VaultError::Store(_) | VaultError::State(_))) => return Err(error),
                Err(error) => {
                    let finding = Finding::new(FindingKind::Damage, format!("/{}", entry.path), error);
                    return Ok(Some(Order::Mark(Mark::Note(finding), 0)));
                }
            };
            self.content = Some(RefStream::of_file(content));
            let digest = Seen::digest(content);
            let begin = Begin { path: entry.path, size: content.size, hash: content.hash, extents, digest };
            let bytes = 16 * begin.extents.len() as u64;
            return Ok(Some(Order::Mark(Mark::Begin(Box::new(begin)), bytes)));
        }
    }
}

impl Orders<'_> {
    /// A content that was read with another snapshot is not read again; but that one found it with its own index objects, and
    /// this one's must say as well where all of it lies.
    fn unlisted(&mut self, path: &EntryPath, content: &Content) -> Result<Option<Finding>, VaultError> {
        let mut chunks = RefStream::of_file(content);
        let damage = |why: &dyn std::fmt::Display| Some(Finding::new(FindingKind::Damage, format!("/{path}"), why));
        loop {
            match chunks.next(&self.reader.chunks) {
                Ok(Some(id)) if self.reader.chunks.lists(&id, &mut self.listed)? => {}
                Ok(Some(id)) => return Ok(damage(&format!("no index of this snapshot lists all that chunk {id} needs"))),
                Ok(None) => return Ok(None),
                Err(error @ (VaultError::Store(_) | VaultError::State(_) | VaultError::Interrupted)) => return Err(error),
                Err(error) => return Ok(damage(&error)),
            }
        }
    }
}

/// The file that is being read.
struct File {
    begin: Begin,
    hasher: StreamHasher,
    position: u64,
    extent: usize,
    left: u64,
    wrong: bool,
}

impl File {
    fn new(begin: Begin) -> Self {
        Self { begin, hasher: StreamHasher::new(), position: 0, extent: 0, left: 0, wrong: false }
    }

    fn data(&mut self, mut bytes: &[u8]) {
        while !bytes.is_empty() {
            if self.left == 0 {
                let Some((start, length)) = self.begin.extents.get(self.extent).copied() else {
                    self.wrong = true;
                    return;
                };
                self.hasher.update_zeros(start - self.position);
                (self.position, self.left) = (start, length);
                self.extent += 1;
            }
            let count = usize::try_from(self.left).unwrap_or(usize::MAX).min(bytes.len());
            self.hasher.update(&bytes[..count]);
            self.position += count as u64;
            self.left -= count as u64;
            bytes = &bytes[count..];
        }
    }

    fn finish(mut self) -> Result<[u8; 16], Finding> {
        let whole = self.left == 0 && self.begin.extents[self.extent..].iter().all(|(_, length)| *length == 0);
        self.hasher.update_zeros(self.begin.size.saturating_sub(self.position));
        if self.wrong || !whole || self.hasher.finish() != self.begin.hash {
            let subject = format!("/{}", self.begin.path);
            return Err(Finding::new(
                FindingKind::Damage,
                subject,
                "its content is not what was backed up (BLAKE3 differs)",
            ));
        }
        Ok(self.begin.digest)
    }
}
