//! The file cache of one member: reading the last push's, writing this one's.
//!
//! An entry of this push may need chunks of blocks whose pack has no number yet; it names the block instead, and a table
//! beside the cache says, once all packs are sealed, which pack each block went to.

use std::path::{Path, PathBuf};

use super::CaptureConfig;
use crate::crypto::hash::{CHECKSUM_BYTES, checksum};
use crate::model::path::EntryPath;
use crate::source::Source;
use crate::state::file_cache::{CachedEntry, FileCacheReader, FileCacheWriter};
use crate::state::index::PackNumber;
use crate::state::{StateError, read_if_there, write_durably};
use crate::vault::VaultError;
use crate::vault::snapshot_writer::{ChunkRef, SnapshotWriter};

/// Set in a reference that means a block, clear in one that means a pack.
const BLOCK_BIT: u32 = 1 << 31;
/// The table of 16 TiB of new content.
const BLOCKS_MAX_BYTES: u64 = 64 * 1024 * 1024;

/// What the last push knew.
pub struct Known {
    reader: FileCacheReader,
    /// By block number: the pack.
    blocks: Vec<PackNumber>,
    /// By pack number: whether it may be referred to.
    live: Vec<bool>,
}

impl Known {
    /// The entry at `path` with real pack numbers, if there is one and all its packs may be referred to; paths are asked for
    /// in order.
    pub fn take(&mut self, path: &EntryPath) -> Option<CachedEntry> {
        let mut entry = self.reader.take(path)?;
        for (pack, _) in &mut entry.packs {
            if *pack & BLOCK_BIT != 0 {
                *pack = *self.blocks.get((*pack & !BLOCK_BIT) as usize)?;
            }
            if !self.live.get(*pack as usize).copied().unwrap_or(false) {
                return None;
            }
        }
        Some(entry)
    }
}

/// The file cache that this push writes.
pub struct FileCachePlace {
    writer: FileCacheWriter,
    blocks_path: PathBuf,
}

impl FileCachePlace {
    /// Adds an entry.
    pub fn add(&mut self, entry: &CachedEntry) -> Result<(), StateError> {
        self.writer.add(entry)
    }

    /// Puts the cache in place, with the packs that each block of the push went to.
    ///
    /// # Errors
    /// When it cannot be written; then the next push reads every file again.
    pub fn finish(self, placed: &[PackNumber]) -> Result<(), StateError> {
        let mut bytes: Vec<u8> = placed.iter().flat_map(|pack| pack.to_le_bytes()).collect();
        bytes.extend_from_slice(&checksum(&bytes));
        // Both files must belong together; in between there is no cache.
        self.writer.remove_old();
        write_durably(&self.blocks_path, &bytes)?;
        self.writer.finish()
    }
}

/// Opens what the last push knew of this member, and begins what this one will know.
pub fn open(
    source: &dyn Source,
    writer: &SnapshotWriter<'_>,
    config: &CaptureConfig<'_>,
) -> Result<Option<(Known, FileCachePlace)>, VaultError> {
    let (Some(path), Some(context)) = (&config.cache, source.context()) else { return Ok(None) };
    let cutter = config.cutter.describe();
    let context = format!("{}\n{}\n{}-{}", writer.index_id(), context, cutter.min_bytes, cutter.max_bytes);
    let blocks_path = blocks_path(path);
    let blocks = read_blocks(&blocks_path).unwrap_or_default();
    let known = Known { reader: FileCacheReader::open(path, &context), blocks, live: writer.referable() };
    let writer = FileCacheWriter::create(path, &context)?;
    Ok(Some((known, FileCachePlace { writer, blocks_path })))
}

/// The table as it was written; none when it is not there or rotted: then no entry that needs it counts.
fn read_blocks(path: &Path) -> Option<Vec<PackNumber>> {
    let bytes = read_if_there(path, BLOCKS_MAX_BYTES).ok().flatten()?;
    let (blocks, sum) = bytes.split_last_chunk::<CHECKSUM_BYTES>()?;
    let numbers = || blocks.as_chunks::<4>().0.iter().map(|bytes| PackNumber::from_le_bytes(*bytes)).collect();
    (checksum(blocks) == *sum).then(numbers)
}

fn blocks_path(path: &Path) -> PathBuf {
    path.with_extension("blocks")
}

/// The place that a number of the cache means.
pub const fn from_cached(place: u32) -> ChunkRef {
    if place & BLOCK_BIT == 0 { ChunkRef::Known(place) } else { ChunkRef::New(place & !BLOCK_BIT) }
}

/// How a chunk's place stands in the cache.
pub fn to_cached(place: ChunkRef) -> u32 {
    match place {
        ChunkRef::Known(pack) => pack,
        ChunkRef::New(block) => block | BLOCK_BIT,
    }
}
