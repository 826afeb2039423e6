//! The sequencer: takes entries in order, stores their new chunks, and writes catalogue and file cache.

use super::fresh::Fresh;
use super::known::{FileCachePlace, to_cached};
use super::read::{BufferPool, Done, Event};
use super::{CaptureConfig, Findings};
use crate::format::catalogue::{encode_line, encode_xattrs};
use crate::format::manifest::Catalogue;
use crate::format::table::PackKind;
use crate::model::entry::{Content, Entry, EntryKind, Extents, Xattrs};
use crate::model::finding::Finding;
use crate::model::ids::ChunkId;
use crate::model::limits::{CATALOGUE_INLINE_MAX, XATTR_INLINE_MAX_BYTES};
use crate::model::path::EntryPath;
use crate::model::snapshot::Tally;
use crate::state::file_cache::{CachedEntry, StatKey};
use crate::vault::VaultError;
use crate::vault::catalogue_writer::CatalogueWriter;
use crate::vault::list_stream::{ChunkSink, RefsBuilder, StreamWriter};
use crate::vault::snapshot_writer::{ChunkRef, SnapshotWriter};
use crate::vault::stream_bases::{BasedStream, FinishedStream};

/// What a member has come to.
pub struct Ending {
    pub tally: Tally,
    pub catalogue: Catalogue,
    pub findings: Vec<Finding>,
    pub finding_count: u64,
    pub cache: Option<FileCachePlace>,
    pub streams: Vec<FinishedStream>,
    pub fresh: Fresh,
}

/// Writes one member.
pub struct Sequencer<'a, 'w> {
    writer: &'a mut SnapshotWriter<'w>,
    config: &'a CaptureConfig<'a>,
    pool: &'a BufferPool,
    catalogue: CatalogueWriter,
    cache: Option<FileCachePlace>,
    racy_after_ns: i128,
    tally: Tally,
    findings: Findings,
    /// The chunks of the file at hand.
    refs: RefsBuilder,
    /// Where they lie: a place and how many bytes of it, one after another.
    places: Vec<(u32, u64)>,
    /// The file at hand, when it is looked after as a stream.
    stream: Option<BasedStream>,
    finished: Vec<FinishedStream>,
    fresh: Fresh,
    line: Vec<u8>,
}

impl<'a, 'w> Sequencer<'a, 'w> {
    pub fn new(
        writer: &'a mut SnapshotWriter<'w>,
        config: &'a CaptureConfig<'a>,
        pool: &'a BufferPool,
        cache: Option<FileCachePlace>,
        racy_after_ns: i128,
    ) -> Self {
        let fresh = Fresh::begin(writer);
        Self {
            writer,
            config,
            pool,
            catalogue: CatalogueWriter::default(),
            cache,
            racy_after_ns,
            tally: Tally::default(),
            findings: Findings::default(),
            refs: RefsBuilder::default(),
            places: Vec::new(),
            stream: None,
            finished: Vec::new(),
            fresh,
            line: Vec::new(),
        }
    }

    pub fn note(&mut self, finding: Finding) {
        self.config.progress.noticed(&finding);
        self.findings.add(finding);
    }

    /// Takes what happened in one buffer.
    pub fn events(&mut self, buffer: &[u8], events: Vec<Event>) -> Result<(), VaultError> {
        for event in events {
            match event {
                Event::Chunk { start, bytes, id } => {
                    let chunk = &buffer[start as usize..(start + bytes) as usize];
                    let mut sink = Tracking { writer: self.writer, places: &mut self.places };
                    match &mut self.stream {
                        Some(stream) => {
                            let place = stream.chunk(id, chunk, sink.writer)?;
                            sink.note(place, chunk.len());
                        }
                        None => sink.store(PackKind::Data, id, chunk)?,
                    }
                    self.refs.push(id, &mut sink)?;
                }
                Event::Begin(path) => self.stream = self.begin_stream(&path)?,
                Event::Again => {
                    if let Some(stream) = &mut self.stream {
                        stream.again();
                    }
                    self.refs.clear();
                    self.places.clear();
                }
                Event::Note(finding) => self.note(finding),
                Event::Done(done) => self.done(*done)?,
            }
        }
        Ok(())
    }

    /// Gives a buffer back to the readers.
    pub fn give_back(&self, buffer: Vec<u8>) {
        self.pool.put(buffer);
    }

    fn begin_stream(&self, path: &EntryPath) -> Result<Option<BasedStream>, VaultError> {
        let Some(cache) = self.config.bases else { return Ok(None) };
        let name = [self.config.stream_prefix.as_bytes(), b"\0", path.as_bytes()].concat();
        BasedStream::begin(cache, &self.writer.key().id(&name), self.writer).map(Some)
    }

    fn done(&mut self, done: Done) -> Result<(), VaultError> {
        let Done { mut entry, key, read_bytes } = done;
        if let Some(stream) = self.stream.take()
            && entry.flaw.is_none()
        {
            stream.finish(&mut self.finished);
        }
        self.fresh.add(&self.places, self.writer);
        let mut sink = Tracking { writer: self.writer, places: &mut self.places };
        let refs = std::mem::take(&mut self.refs).finish(&mut sink)?;
        if let EntryKind::File(content) = &mut entry.kind {
            content.chunks = refs;
            shorten_extents(content, &mut sink)?;
        }
        shorten_xattrs(&mut entry, &mut sink)?;
        let tally = tally_of(&entry);
        self.line.clear();
        encode_line(&entry, &mut self.line).map_err(VaultError::internal)?;
        self.catalogue.add(&entry.path, &self.line, self.writer)?;
        let places = std::mem::take(&mut self.places);
        if let Some(key) = key {
            self.remember(&entry, key, tally, places)?;
        }
        self.count(tally, read_bytes);
        Ok(())
    }

    fn remember(&mut self, entry: &Entry, key: StatKey, tally: Tally, packs: Vec<(u32, u64)>) -> Result<(), VaultError> {
        let Some(cache) = &mut self.cache else { return Ok(()) };
        if key.ctime_ns >= self.racy_after_ns {
            return Ok(());
        }
        cache.add(&CachedEntry { path: entry.path.clone(), key, line: self.line.clone(), tally, packs })?;
        Ok(())
    }

    /// Takes an entry that is as the last push left it.
    pub fn known(&mut self, entry: CachedEntry) -> Result<(), VaultError> {
        for (pack, bytes) in &entry.packs {
            self.writer.reuse(*pack, *bytes)?;
        }
        self.catalogue.add(&entry.path, &entry.line, self.writer)?;
        if let Some(cache) = &mut self.cache {
            cache.add(&entry)?;
        }
        self.count(entry.tally, 0);
        Ok(())
    }

    fn count(&mut self, tally: Tally, read_bytes: u64) {
        self.tally.files += tally.files;
        self.tally.dirs += tally.dirs;
        self.tally.others += tally.others;
        self.tally.source_bytes += tally.source_bytes;
        self.config.progress.captured(1, tally.source_bytes, read_bytes);
    }

    /// Ends the member.
    pub fn finish(self) -> Result<Ending, VaultError> {
        let fresh = self.fresh.end(self.writer);
        let catalogue = self.catalogue.finish(self.writer)?;
        let Findings { kept, count } = self.findings;
        Ok(Ending {
            tally: self.tally,
            catalogue,
            findings: kept,
            finding_count: count,
            cache: self.cache,
            streams: self.finished,
            fresh,
        })
    }
}

/// Stores chunks for the entry at hand and notes where they lie.
struct Tracking<'t, 'w> {
    writer: &'t mut SnapshotWriter<'w>,
    places: &'t mut Vec<(u32, u64)>,
}

impl Tracking<'_, '_> {
    fn store(&mut self, kind: PackKind, id: ChunkId, bytes: &[u8]) -> Result<(), VaultError> {
        let place = self.writer.store(kind, id, bytes)?;
        self.note(place, bytes.len());
        Ok(())
    }

    fn note(&mut self, place: ChunkRef, bytes: usize) {
        let place = to_cached(place);
        match self.places.last_mut() {
            Some((last, sum)) if *last == place => *sum += bytes as u64,
            _ => self.places.push((place, bytes as u64)),
        }
    }
}

impl ChunkSink for Tracking<'_, '_> {
    fn put(&mut self, kind: PackKind, bytes: &[u8]) -> Result<ChunkId, VaultError> {
        let id = self.writer.key().id(bytes);
        self.store(kind, id, bytes)?;
        Ok(id)
    }
}

/// Moves a long list of extents into a stream.
fn shorten_extents(content: &mut Content, sink: &mut dyn ChunkSink) -> Result<(), VaultError> {
    let Some(Extents::Inline(list)) = &content.extents else { return Ok(()) };
    if list.len() <= CATALOGUE_INLINE_MAX {
        return Ok(());
    }
    let mut stream = StreamWriter::default();
    for (offset, length) in list {
        let mut pair = [0; 16];
        pair[..8].copy_from_slice(&offset.to_le_bytes());
        pair[8..].copy_from_slice(&length.to_le_bytes());
        stream.write(&pair, sink)?;
    }
    content.extents = Some(Extents::Stream(stream.finish(sink)?));
    Ok(())
}

/// Moves large attributes into a stream.
fn shorten_xattrs(entry: &mut Entry, sink: &mut dyn ChunkSink) -> Result<(), VaultError> {
    let Xattrs::Inline(list) = &entry.meta.xattrs else { return Ok(()) };
    if list.iter().map(|(name, value)| name.len() + value.len()).sum::<usize>() <= XATTR_INLINE_MAX_BYTES {
        return Ok(());
    }
    let mut stream = StreamWriter::default();
    stream.write(&encode_xattrs(list).map_err(VaultError::internal)?, sink)?;
    entry.meta.xattrs = Xattrs::Stream(stream.finish(sink)?);
    Ok(())
}

fn tally_of(entry: &Entry) -> Tally {
    let mut tally = Tally::default();
    match &entry.kind {
        EntryKind::File(content) => {
            tally.files = 1;
            tally.source_bytes = content.size;
        }
        EntryKind::HardLink(_) => tally.files = 1,
        EntryKind::Directory => tally.dirs = 1,
        _ => tally.others = 1,
    }
    tally
}
