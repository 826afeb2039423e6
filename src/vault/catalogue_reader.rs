//! Reading a snapshot: its manifest, the entries of its catalogues, the lists that entries point at.

use std::collections::{BTreeSet, VecDeque};
use std::path::Path;
use std::sync::Arc;

use crate::codec::Decompressor;
use crate::crypto::identity::Identity;
use crate::crypto::open::open;
use crate::format::catalogue::{check_extents, decode_line, decode_xattrs};
use crate::format::manifest::{Catalogue, CatalogueChunk, Manifest, Member};
use crate::model::entry::{Content, Entry, EntryKind, Extents, Flaw, Refs, Xattrs};
use crate::model::ids::ChunkId;
use crate::model::limits::{CATALOGUE_LINE_MAX_BYTES, MANIFEST_MAX_BYTES, MIB};
use crate::model::name::ObjectName;
use crate::model::path::EntryPath;
use crate::model::pattern::Selection;
use crate::state::index::{ChunkIndex, Shelf};
use crate::store::Store;
use crate::vault::copy::Copy;
use crate::vault::fetch::{Ahead, Check, ChunkReader, Got, Order};
use crate::vault::index_sync::import;
use crate::vault::objects::read_object;
use crate::vault::snapshots::Snapshot;
use crate::vault::unlock::Unlocked;
use crate::vault::{VaultError, in_object};

/// A list stream that is held in memory whole: extents or attributes of one file.
const LIST_MAX_BYTES: u64 = 64 * MIB;

/// A snapshot, opened.
pub struct SnapshotReader {
    /// What it is.
    pub manifest: Manifest,
    /// Its chunks.
    pub chunks: ChunkReader,
    _shelf: Shelf,
}

impl SnapshotReader {
    /// Opens a snapshot of a copy. `cache` keeps the index between calls; chunks are looked for only where the snapshot's own
    /// index objects say they are, as somebody else would have to.
    ///
    /// # Errors
    /// When its manifest or an index object is missing or damaged, or the identities do not open them.
    pub fn open(copy: &Copy, snapshot: &Snapshot, unlocked: &Unlocked, cache: &Path) -> Result<Self, VaultError> {
        Self::open_from(Arc::clone(&copy.store) as Arc<dyn Store>, copy, snapshot, unlocked, cache)
    }

    /// As [`open`](Self::open), with what the copy holds read through `store`.
    ///
    /// # Errors
    /// As [`open`](Self::open).
    pub fn open_from(
        store: Arc<dyn Store>,
        copy: &Copy,
        snapshot: &Snapshot,
        unlocked: &Unlocked,
        cache: &Path,
    ) -> Result<Self, VaultError> {
        // Its manifest is sealed to the newest of its epochs.
        if let Some(epoch) = snapshot.body.epochs.last().filter(|epoch| !unlocked.by_epoch.contains_key(epoch)) {
            return Err(unlocked.why_shut(copy, *epoch));
        }
        let manifest = read_manifest(store.as_ref(), &snapshot.body.manifest, &unlocked.epochs)?;
        let mut objects = BTreeSet::new();
        for name in &manifest.indexes {
            let ObjectName::Index(sealed) = name else {
                return Err(VaultError::damaged(&snapshot.body.manifest, format!("lists {name} among its indexes")));
            };
            objects.insert(*sealed);
        }
        let (mut index, shelf) = ChunkIndex::open_to_read(cache, &objects)?;
        for object in &objects {
            import(&mut index, store.as_ref(), object, &unlocked.epochs)?;
        }
        index.flush()?;
        let generation = snapshot.body.generation;
        let secret = unlocked.secrets.get(&generation).ok_or_else(|| {
            VaultError::damaged(
                &snapshot.body.manifest,
                format!("needs vault secret {generation}, which the vault does not hold"),
            )
        })?;
        let chunks = ChunkReader::new(store, Arc::new(index), unlocked.epochs.clone(), secret.chunk_key());
        Ok(Self { manifest, chunks, _shelf: shelf })
    }

    /// Hands every selected entry of a member to `each`, in order, with the directories above them.
    ///
    /// # Errors
    /// When the catalogue cannot be read, or the first error of `each`.
    pub fn each_entry(
        &self,
        member: &Member,
        selection: &Selection,
        mut each: impl FnMut(Entry) -> Result<(), VaultError>,
    ) -> Result<(), VaultError> {
        let mut chunks = self.chunks_for(&member.catalogue, selection)?.into_iter();
        let mut last: Option<EntryPath> = None;
        let mut orders = || Ok(chunks.next().map(|chunk| Order::<()>::Chunk(chunk.id)));
        self.chunks.stream(Ahead::CATALOGUE, Check::Chunks, &mut orders, |got| {
            let bytes = match got {
                Got::Data(bytes) => bytes,
                Got::Lost(error) => return Err(error),
                Got::Mark(()) => return Ok(()),
            };
            for line in bytes.split_inclusive(|b| *b == b'\n') {
                let entry = decode_line(line).map_err(in_object(&format!("catalogue of {:?}", member.name)))?;
                if last.as_ref().is_some_and(|last| *last >= entry.path) {
                    return Err(VaultError::damaged(format!("catalogue of {:?}", member.name), "entries are not in order"));
                }
                last = Some(entry.path.clone());
                if is_wanted(&entry, selection) {
                    each(entry)?;
                }
            }
            Ok(())
        })
    }

    /// The chunks of a catalogue in which selected entries can stand.
    fn chunks_for(&self, catalogue: &Catalogue, selection: &Selection) -> Result<Vec<CatalogueChunk>, VaultError> {
        let chunks = match catalogue {
            Catalogue::Chunks(chunks) => chunks.clone(),
            Catalogue::Stream(refs) => {
                let refs = Refs::try_from(refs.clone()).map_err(in_object(&"manifest"))?;
                self.read_chunk_list(&refs)?
            }
        };
        let Some(paths) = selection.only_paths() else { return Ok(chunks) };
        let mut wanted = vec![false; chunks.len()];
        for path in paths {
            let mut above = path.parent();
            while let Some(parent) = above {
                if let Some(place) = chunk_of(&chunks, &parent) {
                    wanted[place] = true;
                }
                above = parent.parent();
            }
            // What an engine made has no entry for the directory that all of it lies in: it begins below that path.
            let begins_below = || chunks.first().is_some_and(|chunk| chunk.first.is_at_or_below(path));
            let Some(first) = chunk_of(&chunks, path).or_else(|| begins_below().then_some(0)) else { continue };
            for (number, chunk) in chunks.iter().enumerate().skip(first) {
                if number > first && !chunk.first.is_at_or_below(path) {
                    break;
                }
                wanted[number] = true;
            }
        }
        let mut wanted = wanted.into_iter();
        Ok(chunks.into_iter().filter(|_| wanted.next().unwrap_or(false)).collect())
    }

    fn read_chunk_list(&self, refs: &Refs) -> Result<Vec<CatalogueChunk>, VaultError> {
        let mut stream = RefStream::new(refs);
        let (mut chunks, mut line): (Vec<CatalogueChunk>, _) = (Vec::new(), Vec::new());
        while let Some(id) = stream.next(&self.chunks)? {
            for byte in self.chunks.read(&id)? {
                if byte != b'\n' {
                    line.push(byte);
                    if line.len() > CATALOGUE_LINE_MAX_BYTES {
                        return Err(VaultError::damaged("catalogue list", "line over the limit"));
                    }
                    continue;
                }
                let chunk: CatalogueChunk =
                    serde_json::from_slice(&line).map_err(|e| VaultError::damaged("catalogue list", e))?;
                // Also what bounds it: a list that says the same again and again would unfold without end.
                if chunks.last().is_some_and(|last| last.first >= chunk.first) {
                    return Err(VaultError::damaged("catalogue list", "not in order"));
                }
                chunks.push(chunk);
                line.clear();
            }
        }
        Ok(chunks)
    }

    /// The entry at `path`, wherever it stands; directories above it are passed over.
    ///
    /// # Errors
    /// When it does not exist, or the catalogue cannot be read.
    pub fn entry(&self, path: &EntryPath) -> Result<Entry, VaultError> {
        let selection = Selection::of_path(path.clone());
        let (mut found, mut has_more_below) = (None, false);
        for member in &self.manifest.members {
            self.each_entry(member, &selection, |entry| {
                has_more_below |= entry.path != *path && entry.path.is_at_or_below(path);
                if entry.path == *path {
                    found = Some(entry);
                }
                Ok(())
            })?;
            if found.is_some() {
                break;
            }
        }
        let why = if has_more_below { "is a dir, not a file" } else { "not in this snapshot" };
        found.ok_or_else(|| VaultError::NoEntry(format!("/{path}: {why}")))
    }

    /// What an entry stands for: itself, or what a hard link is another name of.
    ///
    /// # Errors
    /// When the catalogue cannot be read, or the first name is missing.
    pub fn original_of(&self, entry: &Entry) -> Result<Entry, VaultError> {
        let EntryKind::HardLink(first) = &entry.kind else { return Ok(entry.clone()) };
        let wrong = |why| Err(VaultError::damaged(format!("/{}", entry.path), why));
        match self.entry(first) {
            Ok(original) => match original.kind {
                EntryKind::Directory | EntryKind::HardLink(_) => wrong("is a hard link of something that can have none"),
                _ => Ok(original),
            },
            Err(VaultError::NoEntry(_)) => wrong("is another name of something that is not in this snapshot"),
            Err(error) => Err(error),
        }
    }

    /// The content of the file that an entry stands for: itself, or the first name of a hard link.
    ///
    /// # Errors
    /// When it is no file, the first name is missing, or its content could not be read when it was backed up.
    pub fn content_of(&self, entry: &Entry) -> Result<Content, VaultError> {
        let original = self.original_of(entry)?;
        if let Some(Flaw::Unreadable(why)) = &original.flaw {
            let message = format!("/{}: could not be read when it was backed up: {why}", original.path);
            return Err(VaultError::NoEntry(message));
        }
        match original.kind {
            EntryKind::File(content) => Ok(content),
            other => Err(VaultError::NoEntry(format!("/{}: is a {}, not a file", entry.path, other.word()))),
        }
    }

    /// The data extents of a file; none when all of it is data.
    ///
    /// # Errors
    /// When the list cannot be read or is not ascending.
    pub fn extents_of(&self, content: &Content) -> Result<Option<Vec<(u64, u64)>>, VaultError> {
        match &content.extents {
            None => Ok(None),
            Some(Extents::Inline(list)) => Ok(Some(list.clone())),
            Some(Extents::Stream(refs)) => {
                let bytes = self.read_list(refs)?;
                let (pairs, rest) = bytes.as_chunks::<16>();
                if !rest.is_empty() {
                    return Err(VaultError::damaged("list of extents", "cut short"));
                }
                let number = |b: &[u8]| b.iter().rev().fold(0_u64, |n, byte| n << 8 | u64::from(*byte));
                let list: Vec<(u64, u64)> = pairs.iter().map(|pair| (number(&pair[..8]), number(&pair[8..]))).collect();
                check_extents(&list, content.size).map_err(in_object(&"list of extents"))?;
                Ok(Some(list))
            }
        }
    }

    /// What a file takes without its holes. Of a list of extents that cannot be read whoever restores it tells.
    #[must_use]
    pub fn data_bytes_of(&self, content: &Content) -> u64 {
        let extents = self.extents_of(content).ok().flatten();
        extents.map_or(content.size, |extents| extents.iter().map(|(_, length)| length).sum())
    }

    /// The extended attributes of an entry.
    ///
    /// # Errors
    /// When the list cannot be read.
    pub fn xattrs_of(&self, entry: &Entry) -> Result<Vec<(Vec<u8>, Vec<u8>)>, VaultError> {
        match &entry.meta.xattrs {
            Xattrs::Inline(list) => Ok(list.clone()),
            Xattrs::Stream(refs) => decode_xattrs(&self.read_list(refs)?).map_err(in_object(&"list of attributes")),
        }
    }

    fn read_list(&self, refs: &Refs) -> Result<Vec<u8>, VaultError> {
        let mut stream = RefStream::new(refs);
        let mut bytes = Vec::new();
        while let Some(id) = stream.next(&self.chunks)? {
            bytes.extend(self.chunks.read(&id)?);
            if bytes.len() as u64 > LIST_MAX_BYTES {
                return Err(VaultError::damaged("list stream", "over the limit of 64 MiB"));
            }
        }
        Ok(bytes)
    }
}

/// Reads and opens a manifest.
///
/// # Errors
/// When it is missing, damaged, or not for these identities.
pub fn read_manifest(store: &dyn Store, name: &ObjectName, identities: &[Identity]) -> Result<Manifest, VaultError> {
    let sealed = read_object(store, name)?;
    let plain = open(&sealed, identities, MANIFEST_MAX_BYTES + MIB).map_err(in_object(name))?;
    let frame = zstd::zstd_safe::find_frame_compressed_size(&plain)
        .map_err(|_| VaultError::damaged(name, "does not begin with a zstd frame"))?;
    let json = Decompressor::new().decompress_up_to(&plain[..frame], MANIFEST_MAX_BYTES).map_err(in_object(name))?;
    crate::format::frame::check_padding(&plain[frame..]).map_err(in_object(name))?;
    Manifest::decode(&json).map_err(in_object(name))
}

fn is_wanted(entry: &Entry, selection: &Selection) -> bool {
    let is_dir = entry.kind == EntryKind::Directory;
    selection.matches(&entry.path, is_dir)
        || (is_dir && selection.only_paths().is_some_and(|paths| paths.iter().any(|p| p.is_at_or_below(&entry.path))))
}

/// Which chunk `path` would stand in.
fn chunk_of(chunks: &[CatalogueChunk], path: &EntryPath) -> Option<usize> {
    chunks.partition_point(|chunk| chunk.first <= *path).checked_sub(1)
}

/// The content chunks of a list, one after another, in memory of one list chunk a level.
pub struct RefStream {
    /// What is left of the topmost list.
    top: VecDeque<ChunkId>,
    /// What was read of each list level and not used yet, level 1 first.
    levels: Vec<(Vec<u8>, usize)>,
    /// How many more chunks there may be.
    left: u64,
}

impl RefStream {
    /// Begins a list.
    #[must_use]
    pub fn new(refs: &Refs) -> Self {
        let left = u64::MAX;
        match refs {
            Refs::Inline(ids) => Self { top: ids.iter().copied().collect(), levels: Vec::new(), left },
            Refs::List { level, chunks } => {
                Self { top: chunks.iter().copied().collect(), levels: vec![(Vec::new(), 0); usize::from(*level)], left }
            }
        }
    }

    /// Begins the list of a file's chunks. Each has a byte at least: a list that unfolds into more than the file is long is
    /// refused, however it does so.
    #[must_use]
    pub fn of_file(content: &Content) -> Self {
        Self { left: content.size, ..Self::new(&content.chunks) }
    }

    /// The next content chunk; none at the end.
    ///
    /// # Errors
    /// When a part of the list cannot be read or is cut short.
    pub fn next(&mut self, reader: &ChunkReader) -> Result<Option<ChunkId>, VaultError> {
        let next = self.next_at(0, reader)?;
        if next.is_some() {
            self.left =
                self.left.checked_sub(1).ok_or_else(|| VaultError::damaged("list of chunks", "longer than its file"))?;
        }
        Ok(next)
    }

    fn next_at(&mut self, level: usize, reader: &ChunkReader) -> Result<Option<ChunkId>, VaultError> {
        if level == self.levels.len() {
            return Ok(self.top.pop_front());
        }
        loop {
            let (bytes, used) = &mut self.levels[level];
            if let Some(id) = bytes[*used..].first_chunk::<{ ChunkId::BYTES }>() {
                *used += ChunkId::BYTES;
                return Ok(Some(ChunkId(*id)));
            }
            bytes.drain(..*used);
            *used = 0;
            let Some(id) = self.next_at(level + 1, reader)? else {
                return if self.levels[level].0.is_empty() {
                    Ok(None)
                } else {
                    Err(VaultError::damaged("list stream", "ends within a chunk id"))
                };
            };
            self.levels[level].0.extend(reader.read(&id)?);
        }
    }
}
