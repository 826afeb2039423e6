//! Reading blocks of packs: the stored stretches that hold them, decrypted, decompressed, every chunk that comes out checked.

use std::collections::VecDeque;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use super::slot::{Check, Parked, Slot, SlotGuard};
use super::window::{Fetcher, Window};
use crate::codec::Decompressor;
use crate::crypto::hash::{ChunkKey, hash};
use crate::crypto::identity::Identity;
use crate::crypto::open::Opener;
use crate::format::pack::block_offsets;
use crate::format::table::{Table, TableBlock};
use crate::model::limits::{PATCH_PREFIX_MAX_BYTES, SUFFIX_MAX};
use crate::model::name::ObjectName;
use crate::state::StateError;
use crate::state::index::{ChunkIndex, PackInfo, PackNumber, Place};
use crate::store::{Store, StoreError};
use crate::vault::{MISSING, VaultError, in_object};

/// Packs whose header stays open: opening one costs a key agreement.
const OPENERS_KEPT: usize = 64;
/// Stored bytes between two needed blocks that are read along rather than asked for apart.
const GAP_BYTES: u64 = 128 * 1024;

/// A table, with the place of every chunk.
pub struct TableMap {
    pub table: Arc<Table>,
    /// By ordinal: block and offset within it.
    chunks: Vec<(u32, u32)>,
    offsets: Vec<u64>,
}

impl TableMap {
    pub fn new(table: Arc<Table>) -> Self {
        let mut chunks = Vec::new();
        for (number, block) in (0_u32..).zip(&table.blocks) {
            let mut offset = 0;
            for chunk in &block.chunks {
                chunks.push((number, offset));
                offset += chunk.bytes;
            }
        }
        let offsets = block_offsets(&table);
        Self { table, chunks, offsets }
    }

    /// Block, offset and length of a chunk.
    pub fn locate(&self, ordinal: u32) -> Result<(u32, usize, usize), VaultError> {
        let wrong = || VaultError::internal("the index names a chunk that its table does not have");
        let (block, offset) = *self.chunks.get(ordinal as usize).ok_or_else(wrong)?;
        let first = self.chunks.partition_point(|(b, _)| *b < block);
        let chunk = self.block(block)?.chunks.get(ordinal as usize - first).ok_or_else(wrong)?;
        Ok((block, offset as usize, chunk.bytes as usize))
    }

    pub fn block(&self, number: u32) -> Result<&TableBlock, VaultError> {
        let block = self.table.blocks.get(number as usize);
        block.ok_or_else(|| VaultError::damaged("pack table", format!("has no block {number}")))
    }

    /// A base must lie less deep than what is built on it: so there is no cycle and an end.
    pub fn check_depth(&self, base: u32, depth: u8) -> Result<(), VaultError> {
        if self.block(base)?.depth < depth {
            return Ok(());
        }
        Err(VaultError::damaged("pack table", "a patch block's base is not less deep than the block"))
    }
}

/// Blocks of one pack that a batch wants.
pub struct FetchJob {
    pub batch: u64,
    pub pack: PackNumber,
    pub blocks: Vec<(u32, SlotGuard)>,
}

impl FetchJob {
    /// The number of the slot that was ordered first.
    pub fn first_wanted(&self) -> u64 {
        self.blocks.iter().map(|(_, guard)| guard.slot().number()).min().unwrap_or(u64::MAX)
    }
}

/// A block whose stored bytes are here.
pub struct DecodeJob {
    fetched: Arc<Fetched>,
    block: u32,
    guard: SlotGuard,
}

/// Fails a block, and all that waited for it as a base, for the same reason.
fn fail(guard: SlotGuard, error: &VaultError) {
    for job in guard.fill(Err(same(error))) {
        fail(job.guard, error);
    }
}

/// The same error once more.
fn same(error: &VaultError) -> VaultError {
    match error {
        VaultError::Store(e) => VaultError::Store(e.clone()),
        VaultError::State(StateError::Rotten { path, why }) => {
            StateError::Rotten { path: path.clone(), why: why.clone() }.into()
        }
        VaultError::Damaged { object, why } => VaultError::damaged(object, why),
        VaultError::Crypto { object, source } => VaultError::damaged(object, source),
        other => VaultError::damaged("a block", other),
    }
}

/// Reads packs of one copy.
pub struct PackReader {
    store: Arc<dyn Store>,
    index: Arc<ChunkIndex>,
    identities: Vec<Identity>,
    key: ChunkKey,
    openers: Mutex<VecDeque<(PackNumber, u32, Arc<Opener>)>>,
}

impl PackReader {
    pub const fn new(store: Arc<dyn Store>, index: Arc<ChunkIndex>, identities: Vec<Identity>, key: ChunkKey) -> Self {
        Self { store, index, identities, key, openers: Mutex::new(VecDeque::new()) }
    }

    pub fn parallel(&self) -> usize {
        self.store.parallel().max(1)
    }

    /// Fetches what a job wants and hands it on to be decoded.
    pub fn fetch(&self, job: FetchJob, fetcher: &Fetcher<'_, DecodeJob>) {
        let FetchJob { batch, pack, mut blocks } = job;
        blocks.sort_by_key(|(number, _)| *number);
        blocks.dedup_by_key(|(number, _)| *number);
        let numbers: Vec<u32> = blocks.iter().map(|(number, _)| *number).collect();
        match self.fetch_blocks(pack, &numbers, 0) {
            Ok(fetched) => {
                let fetched = Arc::new(fetched);
                for (block, guard) in blocks {
                    let number = guard.slot().number();
                    fetcher.offer(batch, number, DecodeJob { fetched: Arc::clone(&fetched), block, guard });
                }
            }
            // One read of many blocks fails as a whole: what is damaged may be one of them.
            Err(error) if blocks.len() > 1 && matches!(error, VaultError::Damaged { .. }) && !error.is_missing() => {
                for block in blocks {
                    self.fetch(FetchJob { batch, pack, blocks: vec![block] }, fetcher);
                }
            }
            Err(error) => blocks.into_iter().for_each(|(_, guard)| fail(guard, &error)),
        }
    }

    /// Reads the stretches of a pack that hold `blocks`, ascending, from the first of its copies, `first_suffix` on, whose
    /// header is the one that the index knows.
    fn fetch_blocks(&self, pack: PackNumber, blocks: &[u32], first_suffix: u32) -> Result<Fetched, VaultError> {
        let info = self.index.pack(pack)?;
        let name = ObjectName::Pack(info.pack);
        let map = Arc::new(TableMap::new(self.index.table(pack)?));
        let mut problem: Option<String> = None;
        for suffix in first_suffix..=SUFFIX_MAX {
            match self.fetch_from(&info, &name.with_suffix(suffix), (pack, suffix), &map, blocks) {
                Ok((opener, stretches)) => return Ok(Fetched { name, map, opener, stretches, suffix }),
                Err(VaultError::Store(StoreError::NotFound(_))) => {
                    if suffix > 0 && problem.is_some() {
                        break;
                    }
                    problem.get_or_insert_with(|| MISSING.into());
                }
                Err(VaultError::Store(e)) if e.is_store_wide() => return Err(e.into()),
                Err(error @ VaultError::Crypto { .. }) => return Err(error),
                Err(VaultError::Damaged { why, .. }) => {
                    problem.get_or_insert(why);
                }
                Err(error) => {
                    problem.get_or_insert(error.to_string());
                }
            }
        }
        Err(VaultError::damaged(&name, problem.unwrap_or_else(|| MISSING.into())))
    }

    fn fetch_from(
        &self,
        info: &PackInfo,
        stored_name: &str,
        key: (PackNumber, u32),
        map: &TableMap,
        blocks: &[u32],
    ) -> Result<(Arc<Opener>, Vec<Stretch>), VaultError> {
        let known = self.known_opener(key);
        let header = u64::from(info.header_bytes);
        let ranges = stretches(map, blocks, header, info.pack.bytes);
        let mut asked: Vec<(u64, u64)> = ranges.clone();
        if known.is_none() {
            asked.insert(0, (0, header));
        }
        let mut parts = self.store.get_ranges(stored_name, &asked)?.into_iter();
        let opener = match known {
            Some(opener) => opener,
            None => {
                let bytes = parts.next().unwrap_or_default();
                if hash(&bytes) != info.header_hash {
                    return Err(VaultError::damaged(stored_name, "its header is not the one that the index knows"));
                }
                let opener = Opener::new(&bytes, info.pack.bytes, &self.identities).map_err(in_object(&stored_name))?;
                let opener = Arc::new(opener);
                self.remember(key, &opener);
                opener
            }
        };
        let mut found = Vec::with_capacity(ranges.len());
        for ((at, bytes), part) in ranges.into_iter().zip(parts) {
            if part.len() as u64 != bytes {
                return Err(VaultError::damaged(stored_name, "it is shorter than its name says"));
            }
            found.push(Stretch { at, bytes: part });
        }
        Ok((opener, found))
    }

    fn known_opener(&self, (pack, suffix): (PackNumber, u32)) -> Option<Arc<Opener>> {
        let openers = self.openers.lock().unwrap_or_else(PoisonError::into_inner);
        openers.iter().find(|(p, s, _)| (*p, *s) == (pack, suffix)).map(|(_, _, opener)| Arc::clone(opener))
    }

    fn remember(&self, (pack, suffix): (PackNumber, u32), opener: &Arc<Opener>) {
        let mut openers = self.openers.lock().unwrap_or_else(PoisonError::into_inner);
        if openers.len() >= OPENERS_KEPT {
            openers.pop_front();
        }
        openers.push_back((pack, suffix, Arc::clone(opener)));
    }

    /// What each decoding thread does.
    pub fn decode_all(&self, window: &Window<DecodeJob>, stop: &AtomicBool) {
        let mut decompressor = Decompressor::new();
        while let Some(job) = window.next() {
            let mut ready = vec![job];
            while let Some(job) = ready.pop() {
                if stop.load(Ordering::Relaxed) {
                    continue;
                }
                ready.extend(self.decode(job, &mut decompressor));
            }
        }
    }

    /// Decodes a job, unless it must wait for a base; gives the jobs that waited for what it decoded.
    fn decode(&self, mut job: DecodeJob, decompressor: &mut Decompressor) -> Vec<DecodeJob> {
        for base in job.guard.slot().bases() {
            match base.get_or_park(job) {
                Parked::Settled(back) => job = back,
                Parked::Waiting => return Vec::new(),
            }
        }
        let DecodeJob { fetched, block, guard } = job;
        if let Some(error) = guard.slot().bases().iter().find_map(|base| base.wait().err()) {
            return guard.fill(Err(error));
        }
        let outcome = self
            .open_one(&fetched, block, guard.slot(), decompressor)
            .map_err(|why| VaultError::damaged(&fetched.name, format!("block {block}: {why}")))
            // A damaged stretch may have a sound copy under a suffix.
            .or_else(|error| self.decode_other_copy(&fetched.name, block, guard.slot()).ok_or(error));
        guard.fill(outcome)
    }

    fn decode_other_copy(&self, name: &ObjectName, block: u32, slot: &Slot) -> Option<Vec<u8>> {
        let ObjectName::Pack(sealed) = name else { return None };
        let pack = self.index.number_of(sealed)?;
        let mut first_suffix = 1;
        while let Ok(fetched) = self.fetch_blocks(pack, &[block], first_suffix) {
            first_suffix = fetched.suffix + 1;
            if let Ok(plain) = self.open_one(&fetched, block, slot, &mut Decompressor::new()) {
                return Some(plain);
            }
        }
        None
    }

    fn open_one(
        &self,
        fetched: &Fetched,
        block: u32,
        slot: &Slot,
        decompressor: &mut Decompressor,
    ) -> Result<Vec<u8>, String> {
        let described = fetched.map.block(block).map_err(|e| e.to_string())?;
        let frame = fetched.open(fetched.map.offsets[block as usize], u64::from(described.stored_bytes))?;
        decode_block(described, &frame, slot, &self.key, decompressor)
    }

    /// Reads one chunk by its place, with whatever its block is built on.
    pub fn read_at(&self, place: &Place) -> Result<Vec<u8>, VaultError> {
        let map = TableMap::new(self.index.table(place.pack)?);
        let (block, start, length) = map.locate(place.ordinal)?;
        let plain = self.read_block(place.pack, block)?;
        Ok(plain[start..start + length].to_vec())
    }

    fn read_block(&self, pack: PackNumber, block: u32) -> Result<Vec<u8>, VaultError> {
        let map = TableMap::new(self.index.table(pack)?);
        let described = map.block(block)?;
        let slot = Slot::new(u64::from(described.raw_bytes), self.read_bases(&map, block)?, Check::Chunks);
        let mut first_suffix = 0;
        loop {
            let fetched = self.fetch_blocks(pack, &[block], first_suffix)?;
            match self.open_one(&fetched, block, &slot, &mut Decompressor::new()) {
                Ok(plain) => return Ok(plain),
                Err(why) => {
                    first_suffix = fetched.suffix + 1;
                    if first_suffix > SUFFIX_MAX || self.fetch_blocks(pack, &[block], first_suffix).is_err() {
                        return Err(VaultError::damaged(&fetched.name, format!("block {block}: {why}")));
                    }
                }
            }
        }
    }

    fn read_bases(&self, map: &TableMap, block: u32) -> Result<Vec<Arc<Slot>>, VaultError> {
        let described = map.block(block)?;
        let mut bases = Vec::new();
        for base in &described.bases {
            let named = map.table.base_packs.get(base.pack as usize);
            let named = named.ok_or_else(|| VaultError::damaged("pack table", "names a base pack that it does not list"))?;
            let missing = || VaultError::damaged(ObjectName::Pack(*named), "needed as a patch base, and no index lists it");
            let pack = self.index.number_of(named).ok_or_else(missing)?;
            TableMap::new(self.index.table(pack)?).check_depth(base.block, described.depth)?;
            let plain = self.read_block(pack, base.block)?;
            let slot = Slot::new(plain.len() as u64, Vec::new(), Check::Chunks);
            drop(SlotGuard::new(&slot).fill(Ok(plain)));
            bases.push(slot);
        }
        Ok(bases)
    }
}

/// Stored bytes of a pack.
struct Stretch {
    at: u64,
    bytes: Vec<u8>,
}

struct Fetched {
    name: ObjectName,
    map: Arc<TableMap>,
    opener: Arc<Opener>,
    stretches: Vec<Stretch>,
    suffix: u32,
}

/// The stored stretches that hold `blocks`: neighbours are read in one.
fn stretches(map: &TableMap, blocks: &[u32], header_bytes: u64, stored_bytes: u64) -> Vec<(u64, u64)> {
    let mut merged: Vec<(u64, u64)> = Vec::new();
    for number in blocks {
        let Some(block) = map.table.blocks.get(*number as usize) else { continue };
        let start = map.offsets[*number as usize];
        let (at, bytes) = Opener::stored_range_of(header_bytes, stored_bytes, start, u64::from(block.stored_bytes));
        match merged.last_mut() {
            Some((first, length)) if at <= *first + *length + GAP_BYTES => *length = (at + bytes - *first).max(*length),
            _ => merged.push((at, bytes)),
        }
    }
    merged
}

impl Fetched {
    /// Decrypts a stretch of the pack's plaintext.
    fn open(&self, start: u64, length: u64) -> Result<Vec<u8>, String> {
        let (at, bytes) = self.opener.stored_range(start, length);
        let stretch = self.stretches.iter().rfind(|stretch| stretch.at <= at).ok_or("not fetched")?;
        let from = usize::try_from(at - stretch.at).map_err(|_| "not fetched")?;
        let part = stretch.bytes.get(from..from + bytes as usize).ok_or("not fetched")?;
        self.opener.open_range(part, start, length).map_err(|e| e.to_string())
    }
}

/// Decompresses one block, and checks the id of every chunk in it unless it is wanted as a base alone: what is built on a
/// wrong base does not have its chunks' ids.
fn decode_block(
    block: &TableBlock,
    frame: &[u8],
    slot: &Slot,
    key: &ChunkKey,
    decompressor: &mut Decompressor,
) -> Result<Vec<u8>, String> {
    let raw_bytes = u64::from(block.raw_bytes);
    let bases = slot.bases().iter().map(|base| base.wait()).collect::<Result<Vec<_>, _>>();
    let bases = bases.map_err(|e| format!("a base cannot be had: {e}"))?;
    if bases.iter().map(|base| base.len() as u64).sum::<u64>() > PATCH_PREFIX_MAX_BYTES {
        return Err("bases over the limit".into());
    }
    let plain = match &bases[..] {
        [] => decompressor.decompress(frame, raw_bytes),
        [base] => decompressor.decompress_patch(frame, raw_bytes, base),
        many => decompressor.decompress_patch(
            frame,
            raw_bytes,
            &many.iter().flat_map(|base| base.iter().copied()).collect::<Vec<u8>>(),
        ),
    };
    let plain = plain.map_err(|e| e.to_string())?;
    if !slot.is_to_be_checked() {
        return Ok(plain);
    }
    let mut offset = 0;
    for chunk in &block.chunks {
        let end = offset + chunk.bytes as usize;
        if key.id(&plain[offset..end]) != chunk.id {
            return Err("a chunk is not what its id says".into());
        }
        offset = end;
    }
    Ok(plain)
}
