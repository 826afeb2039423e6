//! Reading chunks in the order in which they are wanted, with everything ahead under way at once.
//!
//! ```text
//! planner            fetchers                 decoders              the caller
//! orders chunks  ->  one read of a pack's  -> decrypt, decompress -> takes chunks and
//! by block           needed stretches         check every chunk id   marks in order
//! ```
//!
//! The planner looks ahead as far as memory allows. Blocks that are wanted again soon are kept; each stretch of a pack is
//! fetched once while it is near. Nothing comes out whose chunk id was not checked. A block that cannot be had is reported
//! where its chunk was wanted, after every other place of the chunk was tried; the rest goes on.

use std::collections::{BTreeMap, HashMap, VecDeque};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Condvar, Mutex, PoisonError, Weak};

use crossbeam_channel::{Sender, bounded, unbounded};

use crate::crypto::hash::ChunkKey;
use crate::crypto::identity::Identity;
use crate::model::ids::ChunkId;
use crate::model::limits::MIB;
use crate::state::index::{ChunkIndex, PackNumber, Place};
use crate::store::Store;
use crate::vault::VaultError;

mod listed;
mod pack;
mod slot;

pub use listed::Listed;
use pack::{DecodeJob, FetchJob, PackReader, TableMap};
use slot::{Slot, SlotGuard};

/// How far a stream looks ahead, in bytes of plaintext.
#[derive(Debug, Clone, Copy)]
pub struct Ahead {
    /// Blocks that are ordered and not yet taken.
    pub in_flight_bytes: u64,
    /// Blocks that are ordered together, so that one read of a pack serves many.
    pub batch_bytes: u64,
    /// Blocks that are kept although they were taken: they may be wanted again.
    pub kept_bytes: u64,
}

impl Ahead {
    /// For content.
    pub const CONTENT: Self = Self { in_flight_bytes: 64 * MIB, batch_bytes: 8 * MIB, kept_bytes: 24 * MIB };
    /// For a catalogue, beside content.
    pub const CATALOGUE: Self = Self { in_flight_bytes: 16 * MIB, batch_bytes: 4 * MIB, kept_bytes: 2 * MIB };
}

/// Orders of one batch at most, so that a run of marks ends too.
const BATCH_ORDERS: usize = 16 * 1024;
/// What a mark counts for beside blocks: most are a file with its metadata. Without it the marks of files of a few bytes
/// would pass the bound by themselves.
const MARK_BYTES: u64 = 1024;
/// Tables of packs that the planner keeps taken apart.
const MAPS_KEPT: usize = 32;

/// What is wanted next.
pub enum Order<T> {
    /// Something of the caller's, handed back in its place.
    Mark(T),
    /// A chunk.
    Chunk(ChunkId),
}

/// What comes.
pub enum Got<T> {
    /// What the caller ordered.
    Mark(T),
    /// A chunk whose id was checked.
    Data(Piece),
    /// A chunk that cannot be had from anywhere.
    Lost(VaultError),
}

/// The bytes of a chunk: a stretch of a block.
#[derive(Debug, Clone)]
pub struct Piece {
    block: Arc<Vec<u8>>,
    start: usize,
    length: usize,
}

impl std::ops::Deref for Piece {
    type Target = [u8];

    fn deref(&self) -> &[u8] {
        &self.block[self.start..self.start + self.length]
    }
}

/// Reads chunks of one copy.
pub struct ChunkReader {
    packs: PackReader,
    index: Arc<ChunkIndex>,
    decoders: usize,
}

enum Planned<T> {
    Mark(T),
    Chunk { slot: Arc<Slot>, start: usize, length: usize, id: ChunkId, pack: PackNumber },
    Unknown(ChunkId),
}

struct Batch<T> {
    items: Vec<Planned<T>>,
    new_bytes: u64,
}

impl ChunkReader {
    /// Reads from `store` what `index` places, opened by `identities`, named with `key`.
    #[must_use]
    pub fn new(store: Arc<dyn Store>, index: Arc<ChunkIndex>, identities: Vec<Identity>, key: ChunkKey) -> Self {
        let decoders = std::thread::available_parallelism().map_or(2, usize::from);
        Self { packs: PackReader::new(store, Arc::clone(&index), identities, key), index, decoders }
    }

    /// Whether the index objects of the snapshot list all that a chunk needs.
    ///
    /// # Errors
    /// When the index cannot be read.
    pub fn lists(&self, id: &ChunkId, listed: &mut Listed) -> Result<bool, VaultError> {
        listed.has(&self.index, id)
    }

    /// One chunk, by itself.
    ///
    /// # Errors
    /// When it is in no pack that can be read.
    pub fn read(&self, id: &ChunkId) -> Result<Vec<u8>, VaultError> {
        let mut problem = VaultError::damaged(format!("chunk {id}"), "no index of this snapshot lists it");
        for place in self.index.places(id)? {
            match self.packs.read_at(&place) {
                Ok(bytes) => return Ok(bytes),
                Err(VaultError::Store(e)) if e.is_store_wide() => return Err(e.into()),
                Err(error @ VaultError::State(_)) => return Err(error),
                Err(error) => problem = error,
            }
        }
        Err(problem)
    }

    /// Takes orders from `orders` until it gives none, and hands what they name to `each`, in order.
    ///
    /// # Errors
    /// The first error of `orders` or `each`.
    pub fn stream<T: Send>(
        &self,
        ahead: Ahead,
        mut orders: impl FnMut() -> Result<Option<Order<T>>, VaultError> + Send,
        mut each: impl FnMut(Got<T>) -> Result<(), VaultError>,
    ) -> Result<(), VaultError> {
        let stop = AtomicBool::new(false);
        let room = Room::new(ahead.in_flight_bytes);
        std::thread::scope(|scope| {
            let (batch_sender, batches) = bounded::<Result<Batch<T>, VaultError>>(64);
            let (fetch_sender, fetches) = unbounded::<FetchJob>();
            let (decode_sender, decodes) = unbounded::<DecodeJob>();
            for _ in 0..self.packs.parallel() {
                let (fetches, decode_sender, stop) = (fetches.clone(), decode_sender.clone(), &stop);
                scope.spawn(move || {
                    for job in fetches {
                        if !stop.load(Ordering::Relaxed) {
                            self.packs.fetch(job, &decode_sender);
                        }
                    }
                });
            }
            drop((fetches, decode_sender));
            for _ in 0..self.decoders {
                let (decodes, stop) = (decodes.clone(), &stop);
                scope.spawn(move || self.packs.decode_all(&decodes, stop));
            }
            drop(decodes);
            let (room, stopped) = (&room, &stop);
            scope.spawn(move || {
                let mut planner = Planner::new(self, ahead, &batch_sender, &fetch_sender, room, stopped);
                if let Err(error) = planner.run(&mut orders) {
                    let _ = batch_sender.send(Err(error));
                }
            });
            let outcome = self.take(&batches, room, &mut each);
            stop.store(true, Ordering::Relaxed);
            room.close();
            drop(batches);
            outcome
        })
    }

    fn take<T>(
        &self,
        batches: &crossbeam_channel::Receiver<Result<Batch<T>, VaultError>>,
        room: &Room,
        each: &mut dyn FnMut(Got<T>) -> Result<(), VaultError>,
    ) -> Result<(), VaultError> {
        for batch in batches {
            let batch = batch?;
            for item in batch.items {
                let got = match item {
                    Planned::Mark(mark) => Got::Mark(mark),
                    Planned::Unknown(id) => {
                        Got::Lost(VaultError::damaged(format!("chunk {id}"), "no index of this snapshot lists it"))
                    }
                    Planned::Chunk { slot, start, length, id, pack } => match slot.wait() {
                        Ok(block) => Got::Data(Piece { block, start, length }),
                        Err(error) => self.elsewhere(&id, pack, error)?,
                    },
                };
                each(got)?;
            }
            room.give_back(batch.new_bytes);
        }
        Ok(())
    }

    /// Tries the other places of a chunk whose block could not be had.
    fn elsewhere<T>(&self, id: &ChunkId, tried: PackNumber, error: VaultError) -> Result<Got<T>, VaultError> {
        // What rotted on this machine says nothing about the vault.
        if matches!(&error, VaultError::Store(e) if e.is_store_wide()) || matches!(&error, VaultError::State(_)) {
            return Err(error);
        }
        for place in self.index.places(id)? {
            if place.pack != tried
                && let Ok(bytes) = self.packs.read_at(&place)
            {
                let length = bytes.len();
                return Ok(Got::Data(Piece { block: Arc::new(bytes), start: 0, length }));
            }
        }
        Ok(Got::Lost(error))
    }
}

/// Room for blocks that are ordered and not yet taken.
struct Room {
    limit: u64,
    used: Mutex<(u64, bool)>,
    changed: Condvar,
}

impl Room {
    const fn new(limit: u64) -> Self {
        Self { limit, used: Mutex::new((0, false)), changed: Condvar::new() }
    }

    /// Waits for room; false when nobody takes any more.
    fn take(&self, bytes: u64) -> bool {
        let mut used = self.used.lock().unwrap_or_else(PoisonError::into_inner);
        while used.0 > 0 && used.0 + bytes > self.limit && !used.1 {
            used = self.changed.wait(used).unwrap_or_else(PoisonError::into_inner);
        }
        used.0 += bytes;
        !used.1
    }

    fn give_back(&self, bytes: u64) {
        self.used.lock().unwrap_or_else(PoisonError::into_inner).0 -= bytes;
        self.changed.notify_all();
    }

    fn close(&self) {
        self.used.lock().unwrap_or_else(PoisonError::into_inner).1 = true;
        self.changed.notify_all();
    }
}

/// Turns orders into batches and reads of packs.
struct Planner<'a, T> {
    reader: &'a ChunkReader,
    ahead: Ahead,
    batches: &'a Sender<Result<Batch<T>, VaultError>>,
    fetches: &'a Sender<FetchJob>,
    room: &'a Room,
    stop: &'a AtomicBool,
    listed: Listed,
    maps: VecDeque<(PackNumber, Arc<TableMap>)>,
    known: HashMap<(PackNumber, u32), Weak<Slot>>,
    kept: VecDeque<Arc<Slot>>,
    kept_bytes: u64,
    items: Vec<Planned<T>>,
    new_bytes: u64,
    /// By pack: the blocks of this batch.
    wanted: BTreeMap<PackNumber, Vec<(u32, SlotGuard)>>,
}

impl<'a, T> Planner<'a, T> {
    fn new(
        reader: &'a ChunkReader,
        ahead: Ahead,
        batches: &'a Sender<Result<Batch<T>, VaultError>>,
        fetches: &'a Sender<FetchJob>,
        room: &'a Room,
        stop: &'a AtomicBool,
    ) -> Self {
        Self {
            reader,
            ahead,
            batches,
            fetches,
            room,
            stop,
            listed: Listed::default(),
            maps: VecDeque::new(),
            known: HashMap::new(),
            kept: VecDeque::new(),
            kept_bytes: 0,
            items: Vec::new(),
            new_bytes: 0,
            wanted: BTreeMap::new(),
        }
    }

    fn run(&mut self, orders: &mut dyn FnMut() -> Result<Option<Order<T>>, VaultError>) -> Result<(), VaultError> {
        while !self.stop.load(Ordering::Relaxed) {
            match orders()? {
                Some(Order::Mark(mark)) => {
                    self.items.push(Planned::Mark(mark));
                    self.new_bytes += MARK_BYTES;
                }
                Some(Order::Chunk(id)) => self.order(id)?,
                None => {
                    self.send();
                    return Ok(());
                }
            }
            if self.new_bytes >= self.ahead.batch_bytes || self.items.len() >= BATCH_ORDERS {
                self.send();
            }
        }
        Ok(())
    }

    fn order(&mut self, id: ChunkId) -> Result<(), VaultError> {
        let Some(place) = self.listed.find(&self.reader.index, &id)? else {
            self.items.push(Planned::Unknown(id));
            return Ok(());
        };
        let map = self.map(place.pack)?;
        let (block, start, length) = map.locate(place.ordinal)?;
        let slot = self.slot(place, block, &map)?;
        self.items.push(Planned::Chunk { slot, start, length, id, pack: place.pack });
        Ok(())
    }

    fn map(&mut self, pack: PackNumber) -> Result<Arc<TableMap>, VaultError> {
        if let Some((_, map)) = self.maps.iter().find(|(number, _)| *number == pack) {
            return Ok(Arc::clone(map));
        }
        let map = Arc::new(TableMap::new(self.reader.index.table(pack)?));
        if self.maps.len() >= MAPS_KEPT {
            self.maps.pop_front();
        }
        self.maps.push_back((pack, Arc::clone(&map)));
        Ok(map)
    }

    /// The slot of a block: one that is under way or kept, or a new one that this batch orders, after its bases.
    fn slot(&mut self, place: Place, block: u32, map: &TableMap) -> Result<Arc<Slot>, VaultError> {
        let key = (place.pack, block);
        if let Some(slot) = self.known.get(&key).and_then(Weak::upgrade) {
            return Ok(slot);
        }
        let described = map.block(block)?;
        let mut bases = Vec::with_capacity(described.bases.len());
        for base in &described.bases {
            let missing = || VaultError::damaged(format!("pack number {}", place.pack), "a base block is in no known pack");
            let named = map.table.base_packs.get(base.pack as usize).ok_or_else(missing)?;
            let pack = self.reader.index.number_of(named).ok_or_else(|| {
                VaultError::damaged(
                    crate::model::name::ObjectName::Pack(*named),
                    "needed as a patch base, and no index lists it",
                )
            })?;
            let base_map = self.map(pack)?;
            base_map.check_depth(base.block, described.depth)?;
            bases.push(self.slot(Place { pack, ordinal: 0 }, base.block, &base_map)?);
        }
        let raw_bytes = u64::from(described.raw_bytes);
        let slot = Slot::new(raw_bytes, bases);
        self.known.insert(key, Arc::downgrade(&slot));
        self.wanted.entry(place.pack).or_default().push((block, SlotGuard::new(&slot)));
        self.new_bytes += raw_bytes;
        self.keep(&slot, raw_bytes);
        Ok(slot)
    }

    fn keep(&mut self, slot: &Arc<Slot>, bytes: u64) {
        self.kept.push_back(Arc::clone(slot));
        self.kept_bytes += bytes;
        while self.kept_bytes > self.ahead.kept_bytes + self.ahead.batch_bytes {
            let Some(oldest) = self.kept.pop_front() else { break };
            self.kept_bytes -= oldest.raw_bytes();
        }
        if self.known.len() > 4096 {
            self.known.retain(|_, slot| slot.strong_count() > 0);
        }
    }

    /// Sends the batch to the caller and its reads to the fetchers.
    fn send(&mut self) {
        if self.items.is_empty() {
            return;
        }
        let batch = Batch { items: std::mem::take(&mut self.items), new_bytes: std::mem::take(&mut self.new_bytes) };
        let wanted = std::mem::take(&mut self.wanted);
        // Room is taken in order, and given back in order by one who waits for nothing else: it never locks up.
        if !self.room.take(batch.new_bytes) || self.batches.send(Ok(batch)).is_err() {
            return;
        }
        let mut jobs: Vec<FetchJob> = wanted.into_iter().map(|(pack, blocks)| FetchJob { pack, blocks }).collect();
        // What is wanted first is fetched first.
        jobs.sort_by_key(FetchJob::first_wanted);
        for job in jobs {
            if self.fetches.send(job).is_err() {
                return;
            }
        }
    }
}
