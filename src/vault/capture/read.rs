//! What a reading thread does with a unit: load each entry, read its content into large buffers, cut and hash it.
//!
//! Several small files share a buffer; a large one goes through many. A buffer travels to the sequencer with the list of
//! what lies in it, and comes back empty.

use std::sync::{Mutex, PoisonError};

use crossbeam_channel::Sender;

use crate::codec::Cutter;
use crate::crypto::hash::{ChunkKey, StreamHasher};
use crate::model::entry::{Content as StoredContent, Entry, EntryKind, Extents, Flaw, Metadata, Refs};
use crate::model::finding::{Finding, FindingKind};
use crate::model::ids::ChunkId;
use crate::model::path::EntryPath;
use crate::source::{Content, ContentError, Found, Loaded, Piece, Settled, SourceError};
use crate::state::file_cache::StatKey;
use crate::vault::stream_bases::STREAM_MIN_BYTES;

/// Room for fresh bytes in a buffer, beside what is not cut yet of the file at hand.
const BUFFER_BYTES: usize = 1024 * 1024;
/// With less room than this a new buffer costs less than many small reads.
const READ_MIN_BYTES: usize = 64 * 1024;
/// Spare buffers that are kept.
const SPARE_MAX: usize = 12;

/// Empty buffers that wait for use.
#[derive(Default)]
pub struct BufferPool(Mutex<Vec<Vec<u8>>>);

impl BufferPool {
    /// A buffer of at least `room` bytes; what it holds has no meaning.
    fn get(&self, room: usize) -> Vec<u8> {
        let mut buffer = self.0.lock().unwrap_or_else(PoisonError::into_inner).pop().unwrap_or_default();
        if buffer.len() < room {
            buffer.resize(room, 0);
        }
        buffer
    }

    /// Takes a buffer back.
    pub fn put(&self, buffer: Vec<u8>) {
        let mut spare = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if spare.len() < SPARE_MAX {
            spare.push(buffer);
        }
    }
}

/// What a reader sends.
pub enum Reading {
    /// A buffer, and what happened in it.
    Events(Vec<u8>, Vec<Event>),
    /// The source has failed.
    Failed(SourceError),
    /// The unit is done.
    End,
}

/// One thing that the sequencer must know, in order.
pub enum Event {
    /// The next chunk of the file at hand lies here in the buffer.
    Chunk { start: u32, bytes: u32, id: ChunkId },
    /// A file begins that is large enough to be looked after as a stream.
    Begin(EntryPath),
    /// The file at hand is read from its beginning again: its chunks so far are forgotten.
    Again,
    /// An entry is complete; its content is the chunks since the last one.
    Done(Box<Done>),
    /// Something to report.
    Note(Finding),
}

/// A complete entry, whose content still lacks the names of its chunks.
pub struct Done {
    pub entry: Entry,
    pub key: Option<StatKey>,
    /// Bytes that were read for it.
    pub read_bytes: u64,
}

/// Why a unit is not read to its end.
pub enum Halt {
    /// The source as a whole has failed.
    Failed(SourceError),
    /// Nobody listens any more.
    Gone,
}

struct Reader<'a> {
    cutter: Cutter,
    key: &'a ChunkKey,
    pool: &'a BufferPool,
    output: &'a Sender<Reading>,
    stopped: &'a (dyn Fn() -> bool + Sync),
    buffer: Vec<u8>,
    /// Where fresh bytes go.
    fill: usize,
    /// Where what is not cut yet of the file at hand begins.
    uncut: usize,
    events: Vec<Event>,
}

/// Reads a unit and sends what it finds to `output`.
pub fn read_unit(
    found: Vec<Found>,
    cutter: Cutter,
    key: &ChunkKey,
    pool: &BufferPool,
    output: &Sender<Reading>,
    stopped: &(dyn Fn() -> bool + Sync),
) -> Result<(), Halt> {
    let buffer = pool.get(BUFFER_BYTES + cutter.max_bytes());
    let mut reader = Reader { cutter, key, pool, output, stopped, buffer, fill: 0, uncut: 0, events: Vec::new() };
    for found in found {
        let Found { path, key, load, bytes } = found;
        match load.load().map_err(Halt::Failed)? {
            Loaded::Whole(entry, seen) => reader.done(entry, key.and(seen), 0),
            Loaded::File(meta, content) => {
                if bytes >= STREAM_MIN_BYTES {
                    reader.events.push(Event::Begin(path.clone()));
                }
                reader.read_file(path, key, meta, content)?;
            }
            Loaded::Flawed(entry, finding) => {
                reader.events.push(Event::Note(finding));
                if let Some(entry) = entry {
                    // Without a key it is tried again next time.
                    reader.done(entry, None, 0);
                }
            }
        }
    }
    reader.send()?;
    pool.put(std::mem::take(&mut reader.buffer));
    Ok(())
}

/// What reading a file once gave.
struct Read {
    bytes: u64,
    read_bytes: u64,
    hasher: StreamHasher,
    extents: Vec<(u64, u64)>,
}

impl Reader<'_> {
    fn done(&mut self, entry: Entry, key: Option<StatKey>, read_bytes: u64) {
        self.events.push(Event::Done(Box::new(Done { entry, key, read_bytes })));
    }

    fn read_file(
        &mut self,
        path: EntryPath,
        key: Option<StatKey>,
        mut meta: Metadata,
        mut content: Box<dyn Content>,
    ) -> Result<(), Halt> {
        let mut flaw = None;
        let mut read = match self.read_once(content.as_mut()) {
            Ok(read) => read,
            Err(error) => return self.unreadable(path, meta, error),
        };
        match self.settle(content.as_mut(), &mut meta) {
            Ok(false) => {}
            Ok(true) => {
                self.events.push(Event::Again);
                read = match self.read_once(content.as_mut()) {
                    Ok(read) => read,
                    Err(error) => return self.unreadable(path, meta, error),
                };
                match content.settle() {
                    Ok(Settled::Same) => {}
                    Ok(Settled::Changed) => {
                        let message = "changed while it was read, twice: what is stored may be a mixture";
                        self.events.push(Event::Note(Finding::new(FindingKind::Source, format!("/{path}"), message)));
                        flaw = Some(Flaw::Changed);
                    }
                    Err(error) => return self.unreadable(path, meta, error),
                }
            }
            Err(error) => return self.unreadable(path, meta, error),
        }
        let extents = content.is_sparse().then_some(Extents::Inline(read.extents));
        let stored = StoredContent { size: read.bytes, hash: read.hasher.finish(), extents, chunks: Refs::empty() };
        let entry = Entry { path, kind: EntryKind::File(stored), meta, flaw };
        // The scan's key may be of what stood at this path then: what was read is remembered under its own.
        let key = if entry.flaw.is_none() { key.and(content.key()) } else { None };
        self.done(entry, key, read.read_bytes);
        Ok(())
    }

    /// Whether the file must be read again; then it stands at its beginning, with its metadata as it is now.
    fn settle(&self, content: &mut dyn Content, meta: &mut Metadata) -> Result<bool, ContentError> {
        match content.settle()? {
            Settled::Same => Ok(false),
            Settled::Changed => match content.again()? {
                Some(fresh) => {
                    *meta = fresh;
                    Ok(true)
                }
                None => Ok(false),
            },
        }
    }

    /// A file that could not be read to its end: metadata alone, and a finding.
    fn unreadable(&mut self, path: EntryPath, meta: Metadata, error: ContentError) -> Result<(), Halt> {
        let error = match error {
            ContentError::Fatal(SourceError::Interrupted) if !(self.stopped)() => return Err(Halt::Gone),
            ContentError::Fatal(error) => return Err(Halt::Failed(error)),
            ContentError::Entry(error) => error,
        };
        self.events.push(Event::Again);
        let subject = format!("/{path}");
        self.events.push(Event::Note(Finding::new(FindingKind::Source, subject, format!("cannot be read: {error}"))));
        let hash = crate::crypto::hash::hash(&[]);
        let kind = EntryKind::File(StoredContent { size: 0, hash, extents: None, chunks: Refs::empty() });
        let flaw = Some(Flaw::Unreadable(error.to_string()));
        self.done(Entry { path, kind, meta, flaw }, None, 0);
        Ok(())
    }

    fn read_once(&mut self, content: &mut dyn Content) -> Result<Read, ContentError> {
        let mut read = Read { bytes: 0, read_bytes: 0, hasher: StreamHasher::new(), extents: Vec::new() };
        self.uncut = self.fill;
        loop {
            if self.buffer.len() - self.fill < READ_MIN_BYTES {
                self.send().map_err(|_| ContentError::Fatal(SourceError::Interrupted))?;
            }
            match content.read(&mut self.buffer[self.fill..])? {
                Piece::Data(count) => {
                    read.hasher.update(&self.buffer[self.fill..self.fill + count]);
                    add_extent(&mut read.extents, read.bytes, count as u64);
                    read.bytes += count as u64;
                    read.read_bytes += count as u64;
                    self.fill += count;
                    self.cut(false);
                }
                Piece::Hole(count) => {
                    read.hasher.update_zeros(count);
                    read.bytes += count;
                }
                Piece::End => {
                    self.cut(true);
                    return Ok(read);
                }
            }
        }
    }

    fn cut(&mut self, at_end: bool) {
        while let Some(length) = self.cutter.next_cut(&self.buffer[self.uncut..self.fill], at_end) {
            let id = self.key.id(&self.buffer[self.uncut..self.uncut + length]);
            // Buffers are far below 4 GiB.
            self.events.push(Event::Chunk { start: self.uncut as u32, bytes: length as u32, id });
            self.uncut += length;
        }
    }

    /// Sends the buffer on, and goes on in another one that begins with what is not cut yet.
    fn send(&mut self) -> Result<(), Halt> {
        if (self.stopped)() {
            return Err(Halt::Gone);
        }
        let mut next = self.pool.get(BUFFER_BYTES + self.cutter.max_bytes());
        let rest = self.fill - self.uncut;
        next[..rest].copy_from_slice(&self.buffer[self.uncut..self.fill]);
        let full = std::mem::replace(&mut self.buffer, next);
        (self.fill, self.uncut) = (rest, 0);
        let events = std::mem::take(&mut self.events);
        self.output.send(Reading::Events(full, events)).map_err(|_| Halt::Gone)
    }
}

fn add_extent(extents: &mut Vec<(u64, u64)>, at: u64, bytes: u64) {
    match extents.last_mut() {
        Some((start, length)) if *start + *length == at => *length += bytes,
        _ => extents.push((at, bytes)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::crypto::secret::VaultSecret;
    use crate::model::entry::{Owner, Xattrs};
    use crate::source::Load;

    fn key(inode: u64) -> Option<StatKey> {
        Some(StatKey { device: 1, inode, bytes: 0, mtime_ns: 0, ctime_ns: 0 })
    }

    fn meta() -> Metadata {
        let owner = Owner { uid: 0, gid: 0, user: None, group: None };
        Metadata { mode: 0, owner, mtime_ns: 0, xattrs: Xattrs::none() }
    }

    /// An empty file, or a directory, that was another inode when it was opened.
    struct Moved {
        path: EntryPath,
        is_file: bool,
    }

    impl Load for Moved {
        fn load(self: Box<Self>) -> Result<Loaded, SourceError> {
            Ok(if self.is_file {
                Loaded::File(meta(), self)
            } else {
                let entry = Entry { path: self.path.clone(), kind: EntryKind::Directory, meta: meta(), flaw: None };
                Loaded::Whole(entry, key(2))
            })
        }
    }

    impl Content for Moved {
        fn read(&mut self, _: &mut [u8]) -> Result<Piece, ContentError> {
            Ok(Piece::End)
        }

        fn settle(&mut self) -> Result<Settled, ContentError> {
            Ok(Settled::Same)
        }

        fn again(&mut self) -> Result<Option<Metadata>, ContentError> {
            Ok(None)
        }

        fn is_sparse(&self) -> bool {
            false
        }

        fn key(&self) -> Option<StatKey> {
            key(2)
        }
    }

    #[test]
    fn an_entry_is_remembered_under_the_key_of_what_was_opened() {
        let secret = VaultSecret::generate().unwrap_or_else(|e| panic!("{e}"));
        let (output, readings) = crossbeam_channel::unbounded();
        let found = |is_file, key| {
            let path = EntryPath::from_bytes("a").unwrap_or_else(|e| panic!("{e}"));
            Found { path: path.clone(), key, bytes: 0, load: Box::new(Moved { path, is_file }) }
        };
        let units = vec![found(true, key(1)), found(false, key(1)), found(true, None), found(false, None)];
        let read =
            read_unit(units, Cutter::with_average(65_536), &secret.chunk_key(), &BufferPool::default(), &output, &|| false);
        assert!(read.is_ok());
        drop(output);
        let mut keys = Vec::new();
        for reading in readings {
            let Reading::Events(_, events) = reading else { continue };
            keys.extend(events.into_iter().filter_map(|event| match event {
                Event::Done(done) => Some(done.key),
                _ => None,
            }));
        }
        assert_eq!(keys, [key(2), key(2), None, None]);
    }
}
