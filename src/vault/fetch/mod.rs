//! Reading chunks in the order in which they are wanted, with everything ahead under way at once.
//!
//! ```text
//! planner            fetchers                 decoders              the caller
//! orders chunks  ->  one read of a pack's  -> decrypt, decompress -> takes chunks and
//! by block           needed stretches         check chunk ids        marks in order
//! ```
//!
//! The planner looks ahead as far as memory allows. Blocks that are wanted again soon are kept; each stretch of a pack is
//! fetched once while it is near. Nothing comes out whose chunk id was not checked, but to a caller who checks more
//! ([`Check`]). A block that cannot be had is reported where its chunk was wanted, after every other place of the chunk was
//! tried; the rest goes on.

use std::collections::{BTreeMap, HashMap, VecDeque};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

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
mod window;

pub use listed::Listed;
use pack::{DecodeJob, FetchJob, PackReader, TableMap};
pub use slot::Check;
use slot::{Slot, SlotGuard};
use window::{Weight, Window};

/// How far a stream looks ahead.
#[derive(Debug, Clone, Copy)]
pub struct Ahead {
    /// What is ordered and not yet taken: its stored bytes; and, of that, what is decoded.
    window: Weight,
    /// What is ordered together, so that one read of a pack serves many blocks: a little more than one or the other.
    batch: Weight,
    /// A block that is wanted again within so many bytes of plaintext is decoded once.
    kept_bytes: u64,
}

impl Ahead {
    /// For content. What is stored covers 1 Gbit/s over 100 ms four times; a batch costs two round trips.
    pub const CONTENT: Self = Self {
        window: Weight { stored_bytes: 48 * MIB, plain_bytes: 64 * MIB },
        batch: Weight { stored_bytes: 4 * MIB, plain_bytes: 16 * MIB },
        kept_bytes: 64 * MIB,
    };
    /// For a catalogue, beside content.
    pub const CATALOGUE: Self = Self {
        window: Weight { stored_bytes: 8 * MIB, plain_bytes: 16 * MIB },
        batch: Weight { stored_bytes: MIB, plain_bytes: 4 * MIB },
        kept_bytes: 16 * MIB,
    };
}

/// Orders of one batch at most, so that a run of marks ends too.
const BATCH_ORDERS: usize = 16 * 1024;
/// What a mark counts for beside blocks: most are a file with its metadata. Without it the marks of files of a few bytes
/// would pass the bound by themselves.
const MARK_BYTES: u64 = 1024;
/// Batches on their way to the caller. It bounds how far ahead the plan is of content that compresses twenty times and more.
const BATCHES_MAX: usize = 64;
/// Tables of packs that the planner keeps taken apart.
const MAPS_KEPT: usize = 32;

/// What is wanted next.
pub enum Order<T> {
    /// Something of the caller's, handed back in its place, and how many bytes it holds beyond a thousand.
    Mark(T, u64),
    /// A chunk.
    Chunk(ChunkId),
}

/// What comes.
pub enum Got<T> {
    /// What the caller ordered.
    Mark(T),
    /// A chunk, or several that follow one another.
    Data(Piece),
    /// A chunk that cannot be had from anywhere.
    Lost(VaultError),
}

/// The bytes of chunks that were ordered one after the other and lie so: a stretch of a block.
#[derive(Debug, Clone)]
pub struct Piece {
    block: Arc<Vec<u8>>,
    start: usize,
    length: usize,
}

impl Piece {
    /// Takes in the piece that follows, if it lies behind this one in the same block.
    ///
    /// # Errors
    /// It is given back if it does not.
    fn extend(&mut self, next: Self) -> Result<(), Self> {
        if !Arc::ptr_eq(&self.block, &next.block) || self.start + self.length != next.start {
            return Err(next);
        }
        self.length += next.length;
        Ok(())
    }
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

type BlockKey = (PackNumber, u32);

enum Planned<T> {
    Mark(T),
    Chunk { slot: Arc<Slot>, start: usize, length: usize, id: ChunkId, pack: PackNumber },
    Unknown(ChunkId),
}

type Batch<T> = Vec<Planned<T>>;

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

    /// Takes orders from `orders` until it gives none, and hands what they name, checked as `check` says, to `each`, in order.
    ///
    /// # Errors
    /// The first error of `orders` or `each`.
    pub fn stream<T: Send>(
        &self,
        ahead: Ahead,
        check: Check,
        mut orders: impl FnMut() -> Result<Option<Order<T>>, VaultError> + Send,
        mut each: impl FnMut(Got<T>) -> Result<(), VaultError>,
    ) -> Result<(), VaultError> {
        let stop = AtomicBool::new(false);
        let window = Window::new(ahead.window);
        std::thread::scope(|scope| {
            let _closing = Closing { window: &window, stop: &stop, on_panic_only: false };
            let (batch_sender, batches) = bounded::<Result<Batch<T>, VaultError>>(BATCHES_MAX);
            let (fetch_sender, fetches) = unbounded::<FetchJob>();
            let (window, stop) = (&window, &stop);
            for _ in 0..self.packs.parallel() {
                let (fetches, fetcher) = (fetches.clone(), window.fetcher());
                scope.spawn(move || {
                    for job in fetches {
                        if !stop.load(Ordering::Relaxed) {
                            self.packs.fetch(job, &fetcher);
                        }
                    }
                });
            }
            drop(fetches);
            for _ in 0..self.decoders {
                scope.spawn(move || {
                    let _closing = Closing { window, stop, on_panic_only: true };
                    self.packs.decode_all(window, stop);
                });
            }
            scope.spawn(move || {
                let mut planner = Planner::new(self, ahead, check, &batch_sender, &fetch_sender, window, stop);
                if let Err(error) = planner.run(&mut orders) {
                    let _ = batch_sender.send(Err(error));
                }
            });
            self.take(&batches, window, &mut each)
        })
    }

    fn take<T>(
        &self,
        batches: &crossbeam_channel::Receiver<Result<Batch<T>, VaultError>>,
        window: &Window<DecodeJob>,
        each: &mut dyn FnMut(Got<T>) -> Result<(), VaultError>,
    ) -> Result<(), VaultError> {
        for batch in batches {
            // Chunks that lie together go together: whoever hashes and writes them is faster.
            let mut piece: Option<Piece> = None;
            for item in batch? {
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
                let got = match (got, &mut piece) {
                    (Got::Data(next), Some(piece)) => match piece.extend(next) {
                        Ok(()) => continue,
                        Err(next) => Got::Data(next),
                    },
                    (got, _) => got,
                };
                if let Some(piece) = piece.take() {
                    each(Got::Data(piece))?;
                }
                match got {
                    Got::Data(next) => piece = Some(next),
                    other => each(other)?,
                }
            }
            if let Some(piece) = piece {
                each(Got::Data(piece))?;
            }
            window.leave();
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

/// Lets everybody go when nobody takes any more: when the caller is done, or fails; or when one who decodes fails.
struct Closing<'a> {
    window: &'a Window<DecodeJob>,
    stop: &'a AtomicBool,
    on_panic_only: bool,
}

impl Drop for Closing<'_> {
    fn drop(&mut self) {
        if !self.on_panic_only || std::thread::panicking() {
            self.stop.store(true, Ordering::Relaxed);
            self.window.close();
        }
    }
}

/// Turns orders into batches and reads of packs.
struct Planner<'a, T> {
    reader: &'a ChunkReader,
    ahead: Ahead,
    check: Check,
    batches: &'a Sender<Result<Batch<T>, VaultError>>,
    fetches: &'a Sender<FetchJob>,
    window: &'a Window<DecodeJob>,
    stop: &'a AtomicBool,
    listed: Listed,
    maps: VecDeque<(PackNumber, Arc<TableMap>)>,
    /// Blocks that were ordered of late, by place; and in the order in which they were.
    known: HashMap<BlockKey, Arc<Slot>>,
    kept: VecDeque<BlockKey>,
    kept_bytes: u64,
    items: Batch<T>,
    weight: Weight,
    /// By pack: the blocks of this batch.
    wanted: BTreeMap<PackNumber, Vec<(u32, SlotGuard)>>,
}

impl<'a, T> Planner<'a, T> {
    fn new(
        reader: &'a ChunkReader,
        ahead: Ahead,
        check: Check,
        batches: &'a Sender<Result<Batch<T>, VaultError>>,
        fetches: &'a Sender<FetchJob>,
        window: &'a Window<DecodeJob>,
        stop: &'a AtomicBool,
    ) -> Self {
        Self {
            reader,
            ahead,
            check,
            batches,
            fetches,
            window,
            stop,
            listed: Listed::default(),
            maps: VecDeque::new(),
            known: HashMap::new(),
            kept: VecDeque::new(),
            kept_bytes: 0,
            items: Vec::new(),
            weight: Weight::default(),
            wanted: BTreeMap::new(),
        }
    }

    fn run(&mut self, orders: &mut dyn FnMut() -> Result<Option<Order<T>>, VaultError>) -> Result<(), VaultError> {
        while !self.stop.load(Ordering::Relaxed) {
            match orders()? {
                Some(Order::Mark(mark, bytes)) => {
                    self.items.push(Planned::Mark(mark));
                    self.weight.stored_bytes += MARK_BYTES + bytes;
                    self.weight.plain_bytes += MARK_BYTES + bytes;
                }
                Some(Order::Chunk(id)) => self.order(id)?,
                None => {
                    self.send();
                    return Ok(());
                }
            }
            let Weight { stored_bytes, plain_bytes } = self.ahead.batch;
            if self.weight.stored_bytes >= stored_bytes
                || self.weight.plain_bytes >= plain_bytes
                || self.items.len() >= BATCH_ORDERS
            {
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
        let slot = self.slot(place, block, &map, self.check)?;
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
    fn slot(&mut self, place: Place, block: u32, map: &TableMap, check: Check) -> Result<Arc<Slot>, VaultError> {
        let key = (place.pack, block);
        if let Some(slot) = self.known.get(&key)
            && slot.want(check)
        {
            return Ok(Arc::clone(slot));
        }
        // What this batch orders is ordered once, however much it orders in between.
        let ordered = self.wanted.get(&place.pack).and_then(|blocks| blocks.iter().find(|(number, _)| *number == block));
        if let Some((_, guard)) = ordered
            && guard.slot().want(check)
        {
            return Ok(Arc::clone(guard.slot()));
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
            bases.push(self.slot(Place { pack, ordinal: 0 }, base.block, &base_map, Check::Whole)?);
        }
        let raw_bytes = u64::from(described.raw_bytes);
        let slot = Slot::new(raw_bytes, bases, check);
        self.wanted.entry(place.pack).or_default().push((block, SlotGuard::new(&slot)));
        self.weight.stored_bytes += u64::from(described.stored_bytes);
        self.weight.plain_bytes += raw_bytes;
        self.keep(key, &slot);
        Ok(slot)
    }

    fn keep(&mut self, key: BlockKey, slot: &Arc<Slot>) {
        // One that was decoded unchecked is ordered again: the newer one takes its place.
        if let Some(older) = self.known.insert(key, Arc::clone(slot)) {
            self.kept.retain(|kept| *kept != key);
            self.kept_bytes -= older.raw_bytes();
        }
        self.kept.push_back(key);
        self.kept_bytes += slot.raw_bytes();
        while self.kept_bytes > self.ahead.kept_bytes
            && let Some(oldest) = self.kept.pop_front().and_then(|key| self.known.remove(&key))
        {
            self.kept_bytes -= oldest.raw_bytes();
        }
    }

    /// Sends the batch to the caller and its reads to the fetchers.
    fn send(&mut self) {
        if self.items.is_empty() {
            return;
        }
        let (items, weight) = (std::mem::take(&mut self.items), std::mem::take(&mut self.weight));
        let wanted = std::mem::take(&mut self.wanted);
        let Some(batch) = self.window.enter(weight) else { return };
        if self.batches.send(Ok(items)).is_err() {
            return;
        }
        let mut jobs: Vec<FetchJob> = wanted.into_iter().map(|(pack, blocks)| FetchJob { batch, pack, blocks }).collect();
        // What is wanted first is fetched first.
        jobs.sort_by_key(FetchJob::first_wanted);
        for job in jobs {
            if self.fetches.send(job).is_err() {
                return;
            }
        }
    }
}
