//! The chunk index: where each chunk of the vault lies, on disk, in memory that does not grow with the vault.
//!
//! It is a cache of the vault's index objects and can be rebuilt from them. Chunks stand in sorted segments that are read
//! page by page; what this run adds waits in a map of bounded size until it becomes a segment. The packs and their tables
//! stand in two files that only grow, until most of it is of packs that are gone (`forget`). `index.json` says how much of each file counts; it is replaced whole, last.
//!
//! What a snapshot lists, it lists because this index says so. So every byte that is read is held against a checksum, and an
//! index in which one is wrong is given up: [`StateError::Rotten`] ends the work, and the next that opens it begins anew.

use std::collections::HashMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use crate::format::index::IndexedPack;
use crate::format::table::Table;
use crate::model::ids::{ChunkId, to_hex};
use crate::model::name::{ObjectName, Sealed};
use crate::state::{StateError, make_private_dir};

mod forget;
mod meta;
mod packs;
mod record;
mod segment;
mod shelf;

use meta::{Meta, SegmentMeta, give_up};
use packs::PackFiles;
pub use record::PackInfo;
use segment::{Record, Segment};
pub use shelf::Shelf;

/// Chunks that wait in memory before they become a segment: some 20 MiB with the map's overhead.
const PENDING_MAX: usize = 256 * 1024;
/// So many segments of like size are merged into one, so that a look-up asks few.
const MERGE_WIDTH: usize = 4;

/// The number of a pack within this index.
pub type PackNumber = u32;

/// Where a chunk lies.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Place {
    /// The pack.
    pub pack: PackNumber,
    /// Which of the pack's chunks, counted over its blocks in order.
    pub ordinal: u32,
}

/// The index.
pub struct ChunkIndex {
    dir: PathBuf,
    meta: Meta,
    packs: PackFiles,
    segments: Vec<Segment>,
    pending: HashMap<ChunkId, Place>,
    /// Older places of chunks in `pending`: a chunk whose pack was lost lies in a further one.
    pending_older: HashMap<ChunkId, Vec<Place>>,
}

impl ChunkIndex {
    /// Opens the index in `dir`, or begins an empty one when there is none or it cannot be understood: it is a cache.
    ///
    /// # Errors
    /// When the directory cannot be used.
    pub fn open(dir: &Path) -> Result<Self, StateError> {
        make_private_dir(dir)?;
        match Self::open_existing(dir) {
            Ok(Some(index)) => return Ok(index),
            Ok(None) => {}
            Err(error) => tracing::warn!(%error, "the chunk index cannot be read and is rebuilt from the vault"),
        }
        std::fs::remove_dir_all(dir).map_err(StateError::io(dir))?;
        make_private_dir(dir)?;
        let random = crate::crypto::random::<16>().map_err(|e| StateError::invalid(dir, e))?;
        let meta = Meta::new(to_hex(&random));
        let packs = PackFiles::open(dir, meta.generation, 0, 0)?;
        let index = Self {
            dir: dir.to_owned(),
            meta,
            packs,
            segments: Vec::new(),
            pending: HashMap::new(),
            pending_older: HashMap::new(),
        };
        index.meta.write(dir)?;
        Ok(index)
    }

    fn open_existing(dir: &Path) -> Result<Option<Self>, StateError> {
        let Some(meta) = Meta::read(dir)? else { return Ok(None) };
        let packs = PackFiles::open(dir, meta.generation, meta.pack_count, meta.table_bytes)?;
        // Numbers that were given and never made to last: the next object would get the same one, and be taken to list these
        // packs.
        packs.forget_objects_from(u32::try_from(meta.objects.len()).map_err(|e| StateError::invalid(dir, e))?)?;
        let segments =
            meta.segments.iter().map(|s| Segment::open(&dir.join(&s.name), s.records)).collect::<Result<Vec<_>, _>>()?;
        remove_strays(dir, &meta);
        Ok(Some(Self { dir: dir.to_owned(), meta, packs, segments, pending: HashMap::new(), pending_older: HashMap::new() }))
    }

    /// Drawn when this index was made; numbers of packs that were kept elsewhere count only while it is the same.
    #[must_use]
    pub fn id(&self) -> &str {
        &self.meta.id
    }

    /// Whether the packs of this index object are here, but for those that were gone and are forgotten.
    #[must_use]
    pub fn covers(&self, object: &Sealed) -> bool {
        self.number_of_object(object).is_some()
    }

    /// The index objects that are covered.
    pub fn objects(&self) -> impl Iterator<Item = Sealed> {
        self.meta.objects.iter().flatten().filter_map(|name| match format!("indexes/{name}").parse() {
            Ok(ObjectName::Index(sealed)) => Some(sealed),
            _ => None,
        })
    }

    fn number_of_object(&self, object: &Sealed) -> Option<u32> {
        let name = object.to_string();
        let place = self.meta.objects.iter().position(|o| o.as_ref() == Some(&name))?;
        u32::try_from(place).ok()
    }

    /// Notes that `object` lists these packs, which are all here. It counts from the next [`flush`](Self::flush).
    ///
    /// # Errors
    /// When the files cannot be written.
    pub fn set_object(&mut self, object: &Sealed, packs: &[PackNumber]) -> Result<(), StateError> {
        let number = match self.number_of_object(object) {
            Some(number) => number,
            None => {
                self.meta.objects.push(Some(object.to_string()));
                u32::try_from(self.meta.objects.len() - 1).map_err(|e| StateError::invalid(&self.dir, e))?
            }
        };
        packs.iter().try_for_each(|pack| self.packs.set_object(*pack, Some(number)))
    }

    /// The index object that lists a pack.
    ///
    /// # Errors
    /// When the files cannot be read.
    pub fn object_of(&self, pack: PackNumber) -> Result<Option<Sealed>, StateError> {
        let Some(number) = self.packs.info(pack)?.object else { return Ok(None) };
        let name = self.meta.objects.get(number as usize).and_then(Option::as_deref);
        Ok(name.and_then(|name| match format!("indexes/{name}").parse() {
            Ok(ObjectName::Index(sealed)) => Some(sealed),
            _ => None,
        }))
    }

    /// Forgets an index object that another has replaced; its packs stay known.
    pub fn retire_object(&mut self, object: &Sealed) {
        if let Some(number) = self.number_of_object(object) {
            self.meta.objects[number as usize] = None;
        }
    }

    /// Hands every pack that is not forgotten to `each`, in the order of their numbers.
    ///
    /// # Errors
    /// When the files cannot be read.
    pub fn each_pack(&self, each: &mut dyn FnMut(PackNumber, PackInfo)) -> Result<(), StateError> {
        self.packs.each(&mut |number, info| {
            if !info.is_gone() {
                each(number, info);
            }
        })
    }

    /// The table of a pack, encoded as an index object holds it.
    ///
    /// # Errors
    /// When the files cannot be read.
    pub fn table_as_stored(&self, info: &PackInfo) -> Result<Vec<u8>, StateError> {
        self.packs.table_as_stored(info)
    }

    /// Adds a pack with its chunks; one that is known already keeps its number.
    ///
    /// # Errors
    /// When the files cannot be written.
    pub fn add_pack(&mut self, pack: &IndexedPack) -> Result<PackNumber, StateError> {
        if let Some(number) = self.packs.number_of(&pack.pack) {
            return Ok(number);
        }
        let number = self.packs.append(pack)?;
        for (ordinal, chunk) in (0_u32..).zip(pack.table.blocks.iter().flat_map(|b| &b.chunks)) {
            if let Some(older) = self.pending.insert(chunk.id, Place { pack: number, ordinal }) {
                self.pending_older.entry(chunk.id).or_default().push(older);
            }
        }
        if self.pending.len() >= PENDING_MAX {
            self.flush()?;
        }
        Ok(number)
    }

    /// Gives the index up because what it says cannot be: the error to end the work with.
    #[must_use]
    pub fn contradiction(&self, why: &str) -> StateError {
        give_up(&self.dir.join("packs"), why)
    }

    /// How many packs are known.
    #[must_use]
    pub const fn pack_count(&self) -> u32 {
        self.packs.count()
    }

    /// The number of a pack.
    #[must_use]
    pub fn number_of(&self, pack: &Sealed) -> Option<PackNumber> {
        self.packs.number_of(pack)
    }

    /// What is known of a pack.
    ///
    /// # Errors
    /// When the files cannot be read.
    pub fn pack(&self, number: PackNumber) -> Result<PackInfo, StateError> {
        self.packs.info(number)
    }

    /// The table of a pack.
    ///
    /// # Errors
    /// When the files cannot be read or hold no table.
    pub fn table(&self, number: PackNumber) -> Result<Arc<Table>, StateError> {
        self.packs.table(number)
    }

    /// The first place of `id` in a pack that `live` accepts.
    ///
    /// # Errors
    /// When a segment cannot be read.
    pub fn find(&self, id: &ChunkId, live: impl Fn(PackNumber) -> bool) -> Result<Option<Place>, StateError> {
        if let Some(place) = self.pending_places(id).find(|place| live(place.pack)) {
            return Ok(Some(place));
        }
        // Newest first: a chunk that moved lies in a younger pack.
        for segment in self.segments.iter().rev() {
            let mut found = None;
            segment.each(id, &mut |place| {
                if found.is_none() && live(place.pack) {
                    found = Some(place);
                }
            })?;
            if found.is_some() {
                return Ok(found);
            }
        }
        Ok(None)
    }

    /// Every place of `id`, for when one of them turns out to be damaged.
    ///
    /// # Errors
    /// When a segment cannot be read.
    pub fn places(&self, id: &ChunkId) -> Result<Vec<Place>, StateError> {
        let mut places: Vec<Place> = self.pending_places(id).collect();
        for segment in self.segments.iter().rev() {
            segment.each(id, &mut |place| places.push(place))?;
        }
        places.dedup();
        Ok(places)
    }

    /// Places that are not in a segment yet, newest first.
    fn pending_places(&self, id: &ChunkId) -> impl Iterator<Item = Place> {
        let older = self.pending_older.get(id).into_iter().flat_map(|places| places.iter().rev());
        self.pending.get(id).into_iter().chain(older).copied()
    }

    /// Makes all that was added last beyond this process: a segment, merged with others of its size, then the meta file.
    ///
    /// # Errors
    /// When the files cannot be written. What counted before still counts then.
    pub fn flush(&mut self) -> Result<(), StateError> {
        if !self.pending.is_empty() {
            let newest = self.pending.drain();
            let older = self.pending_older.drain().flat_map(|(id, places)| places.into_iter().map(move |place| (id, place)));
            let mut records: Vec<Record> = newest.chain(older).map(|(id, place)| Record { id, place }).collect();
            records.sort_unstable_by_key(Record::order);
            let name = self.next_name();
            let segment = Segment::write(&self.dir.join(&name), records.len() as u64, records.into_iter().map(Ok))?;
            self.push_segment(name, segment);
            self.merge()?;
        }
        self.packs.sync()?;
        (self.meta.pack_count, self.meta.table_bytes) = (self.packs.count(), self.packs.table_bytes());
        self.meta.write(&self.dir)?;
        remove_strays(&self.dir, &self.meta);
        Ok(())
    }

    fn next_name(&mut self) -> String {
        self.meta.next_segment += 1;
        format!("segment-{}", self.meta.next_segment)
    }

    fn push_segment(&mut self, name: String, segment: Segment) {
        self.meta.segments.push(SegmentMeta { name, records: segment.records() });
        self.segments.push(segment);
    }

    /// Merges the youngest segments while enough of them are of like size.
    fn merge(&mut self) -> Result<(), StateError> {
        while let Some(start) = self.mergeable() {
            let name = self.next_name();
            let merged = Segment::merge(&self.dir.join(&name), &self.segments[start..], |_| true)?;
            self.segments.truncate(start);
            self.meta.segments.truncate(start);
            self.push_segment(name, merged);
        }
        Ok(())
    }

    /// Where the run of youngest segments begins that are worth merging: at least four, of which none is larger than all
    /// younger ones together by more than four times.
    fn mergeable(&self) -> Option<usize> {
        let mut start = self.segments.len();
        let mut sum = 0;
        while start > 0 && self.segments[start - 1].records() <= sum * MERGE_WIDTH as u64 + PENDING_MAX as u64 {
            start -= 1;
            sum += self.segments[start].records();
        }
        (self.segments.len() - start >= MERGE_WIDTH).then_some(start)
    }
}

/// Removes files that no longer count. A failure costs disk, nothing else.
fn remove_strays(dir: &Path, meta: &Meta) {
    let Ok(entries) = std::fs::read_dir(dir) else { return };
    let [packs, tables] = packs::names(meta.generation);
    for entry in entries.flatten() {
        let name = entry.file_name();
        let name = name.to_string_lossy();
        let stem = name.strip_suffix(".fences").unwrap_or(&name);
        let counts = match stem.split('-').next() {
            Some("segment") => meta.segments.iter().any(|s| s.name == stem),
            Some("packs" | "tables") => [packs.as_str(), &tables].contains(&stem),
            _ => true,
        };
        if !counts {
            let _ = std::fs::remove_file(entry.path());
        }
    }
}

impl std::fmt::Debug for ChunkIndex {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(
            f,
            "ChunkIndex({} packs, {} segments, {} pending)",
            self.packs.count(),
            self.segments.len(),
            self.pending.len()
        )
    }
}

#[cfg(test)]
mod tests;
