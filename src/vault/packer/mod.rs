//! Chunks into blocks, blocks into packs: compressing and sealing on all cores while the order stays.
//!
//! One thread, the caller's, adds chunks and is handed finished packs; workers ([`work`]) compress blocks and seal packs. What is under
//! way is bounded: a caller who adds faster than workers compress waits in `add`, and so does one whose sealed packs are not
//! sent away.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicI32, Ordering};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use crossbeam_channel::{Receiver, Sender, unbounded};

use crate::codec::Compression;
use crate::crypto::seal::Recipient;
use crate::format::index::IndexedPack;
use crate::format::table::{PackKind, TableChunk};
use crate::model::ids::ChunkId;
use crate::model::limits::{BLOCK_CHUNKS_MAX, BLOCK_TARGET_BYTES};
use crate::vault::VaultError;
use crate::vault::courier::{Budget, Hold};
use crate::vault::open_pack::{Compressed, OpenPack, Patience};
use crate::vault::patch_plan::BlockPlan;

mod work;

use work::{Block, Job, Outcome, SealSize, work};

/// Blocks under way for each worker: one in its hands, one waiting.
const BLOCKS_PER_WORKER: usize = 2;

/// A block's number within one push, given when its first chunk is added.
pub type BlockSerial = u32;

/// How packs are made.
#[derive(Debug, Clone)]
pub struct PackerConfig {
    /// How hard blocks are compressed.
    pub compression: Compression,
    /// Threads that compress and seal.
    pub workers: usize,
    /// Who can open the packs.
    pub recipients: Vec<Recipient>,
}

/// A pack, ready to be sent.
pub struct SealedPack {
    /// What an index says of it.
    pub indexed: IndexedPack,
    /// The serials of its blocks, in order.
    pub serials: Vec<BlockSerial>,
    /// Its bytes.
    pub bytes: Arc<Vec<u8>>,
    /// The room that its bytes take; it is given back when the last holder lets go.
    pub hold: Arc<Hold>,
}

/// Whoever takes finished packs.
pub trait PackSink {
    /// Takes the next pack.
    ///
    /// # Errors
    /// When it cannot go on.
    fn take(&mut self, pack: SealedPack) -> Result<(), VaultError>;
}

/// The blocks of content or of catalogues: the open one, and those under way.
struct Lane {
    kind: PackKind,
    open: Option<Block>,
    next: u64,
    due: u64,
    ready: BTreeMap<u64, Compressed>,
}

impl Lane {
    const fn new(kind: PackKind) -> Self {
        Self { kind, open: None, next: 0, due: 0, ready: BTreeMap::new() }
    }
}

/// Makes packs.
pub struct Packer {
    jobs: Option<Sender<Job>>,
    outcomes: Receiver<Outcome>,
    threads: Vec<JoinHandle<()>>,
    lanes: [Lane; 2],
    /// The open pack of each kind.
    packs: [OpenPack; 3],
    in_flight: usize,
    in_flight_max: usize,
    sealing: usize,
    serials: BlockSerial,
    spare: Vec<Vec<u8>>,
    budget: Arc<Budget>,
    compression: Compression,
    /// The present zstd level.
    level: Arc<AtomicI32>,
    /// When the last pack was closed.
    last_closed: Instant,
}

impl Packer {
    /// Starts the workers.
    #[must_use]
    pub fn start(config: &PackerConfig, budget: Arc<Budget>) -> Self {
        let (jobs, job_queue) = unbounded();
        let (outcome_sender, outcomes) = unbounded();
        let workers = config.workers.max(1);
        let level = Arc::new(AtomicI32::new(config.compression.first_level()));
        let threads = (0..workers)
            .map(|_| {
                let (queue, outcomes) = (job_queue.clone(), outcome_sender.clone());
                let (level, recipients) = (Arc::clone(&level), config.recipients.clone());
                std::thread::spawn(move || work(&queue, &outcomes, &level, &recipients))
            })
            .collect();
        Self {
            jobs: Some(jobs),
            outcomes,
            threads,
            lanes: [Lane::new(PackKind::Data), Lane::new(PackKind::Catalogue)],
            packs: <[OpenPack; 3]>::default(),
            in_flight: 0,
            in_flight_max: workers * BLOCKS_PER_WORKER,
            sealing: 0,
            serials: 0,
            spare: Vec::new(),
            budget,
            compression: config.compression,
            level,
            last_closed: Instant::now(),
        }
    }

    /// Adds a chunk that the vault does not hold; says in which block it will lie. Chunks of one plan share a block, and no
    /// others lie in it.
    ///
    /// # Errors
    /// When a worker or the sink failed.
    pub fn add(
        &mut self,
        kind: PackKind,
        id: ChunkId,
        bytes: &[u8],
        plan: Option<&Arc<BlockPlan>>,
        sink: &mut dyn PackSink,
    ) -> Result<BlockSerial, VaultError> {
        if self.lanes[lane_of(kind)].open.as_ref().is_some_and(|block| !same_plan(block.plan.as_ref(), plan)) {
            self.close_block(lane_of(kind), sink)?;
        }
        let lane = &mut self.lanes[lane_of(kind)];
        let block = lane.open.get_or_insert_with(|| {
            let mut plain = self.spare.pop().unwrap_or_default();
            plain.clear();
            self.serials += 1;
            Block { serial: self.serials - 1, plain, chunks: Vec::new(), plan: plan.cloned() }
        });
        let serial = block.serial;
        block.plain.extend_from_slice(bytes);
        let length = u32::try_from(bytes.len()).map_err(VaultError::internal)?;
        block.chunks.push(TableChunk { id, bytes: length });
        // A block with a plan ends with its region, which whoever planned it keeps within bounds.
        let is_full = block.plain.len() >= block_target(serial) || block.chunks.len() >= BLOCK_CHUNKS_MAX;
        if is_full && block.plan.is_none() {
            self.close_block(lane_of(kind), sink)?;
        }
        Ok(serial)
    }

    /// Ends all blocks and packs and waits for them.
    ///
    /// # Errors
    /// When a worker or the sink failed.
    pub fn finish(&mut self, sink: &mut dyn PackSink) -> Result<(), VaultError> {
        for lane in 0..self.lanes.len() {
            self.close_block(lane, sink)?;
        }
        while self.in_flight > 0 {
            self.receive(sink)?;
        }
        for kind in KINDS {
            while let Some(pack) = self.packs[kind as usize].take_full(Patience::Ends)? {
                let size = SealSize::of(&pack);
                self.seal(kind, pack, size, sink)?;
            }
            let tail = std::mem::take(&mut self.packs[kind as usize]);
            if !tail.is_empty() {
                self.seal(kind, tail, SealSize::Tail, sink)?;
            }
        }
        while self.in_flight > 0 {
            self.receive(sink)?;
        }
        Ok(())
    }

    fn close_block(&mut self, lane: usize, sink: &mut dyn PackSink) -> Result<(), VaultError> {
        let lane = &mut self.lanes[lane];
        let Some(block) = lane.open.take() else { return Ok(()) };
        let job = Job::Compress(lane.kind, lane.next, block);
        lane.next += 1;
        self.submit(job)?;
        while self.in_flight >= self.in_flight_max {
            self.receive(sink)?;
        }
        Ok(())
    }

    fn submit(&mut self, job: Job) -> Result<(), VaultError> {
        self.in_flight += 1;
        let jobs = self.jobs.as_ref().ok_or_else(|| VaultError::internal("packer is closed"))?;
        jobs.send(job).map_err(|_| VaultError::internal("all packing threads have failed"))
    }

    fn receive(&mut self, sink: &mut dyn PackSink) -> Result<(), VaultError> {
        let outcome = self.outcomes.recv().map_err(|_| VaultError::internal("all packing threads have failed"))?;
        self.in_flight -= 1;
        match outcome {
            Outcome::Failed(error) => Err(error),
            Outcome::Sealed(pack) => {
                self.sealing -= 1;
                sink.take(*pack)
            }
            Outcome::Compressed(kind, number, block, plain) => {
                if self.spare.len() < self.in_flight_max {
                    self.spare.push(plain);
                }
                let lane = lane_of(kind);
                self.lanes[lane].ready.insert(number, block);
                self.place_ready(lane, sink)
            }
        }
    }

    /// Puts blocks that are next in order into the open pack of their kind. It may be entered again from within, by way of a
    /// pack that waits for room: then the block in hand is placed already.
    fn place_ready(&mut self, lane: usize, sink: &mut dyn PackSink) -> Result<(), VaultError> {
        while let Some(block) = {
            let lane = &mut self.lanes[lane];
            lane.ready.remove(&lane.due)
        } {
            let kind = if block.patch.is_some() { PackKind::Patch } else { self.lanes[lane].kind };
            self.lanes[lane].due += 1;
            self.packs[kind as usize].add(block)?;
            while let Some(pack) = self.packs[kind as usize].take_full(Patience::Waits)? {
                let size = SealSize::of(&pack);
                self.seal(kind, pack, size, sink)?;
            }
        }
        Ok(())
    }

    fn seal(&mut self, kind: PackKind, pack: OpenPack, size: SealSize, sink: &mut dyn PackSink) -> Result<(), VaultError> {
        // The frames and the sealed form stand in memory together for a moment.
        let room = 2 * pack.sealed_estimate();
        let mut waited = Duration::ZERO;
        let hold = loop {
            match self.budget.try_take(room) {
                Some(hold) => break hold,
                // Packs that are being sealed hold room until they are handed on, which only this thread does.
                None if self.sealing > 0 => self.receive(sink)?,
                // All that is left is on its way to the stores.
                None => {
                    let began = Instant::now();
                    let hold = self.budget.take(room);
                    waited = began.elapsed();
                    break hold;
                }
            }
        };
        self.adapt(waited);
        self.sealing += 1;
        self.submit(Job::Seal(kind, pack, size, hold))
    }

    /// Compresses the next pack harder or less hard, by how long the stores were waited for since the last one.
    fn adapt(&mut self, waited: Duration) {
        let took = self.last_closed.elapsed().as_micros().max(1);
        self.last_closed = Instant::now();
        let percent = u64::try_from(waited.as_micros() * 100 / took).unwrap_or(100);
        let level = self.level.load(Ordering::Relaxed);
        self.level.store(self.compression.next_level(level, percent), Ordering::Relaxed);
    }
}

/// Every kind of pack, each at its place in [`Packer::packs`].
const KINDS: [PackKind; 3] = [PackKind::Data, PackKind::Catalogue, PackKind::Patch];

/// Bytes after which a block ends: about 2 MiB on average, and of several lengths, so that packs can be filled to the brim.
#[must_use]
pub const fn block_target(serial: BlockSerial) -> usize {
    const SIXTEENTHS: [usize; 8] = [20, 16, 20, 11, 20, 14, 20, 9];
    BLOCK_TARGET_BYTES / 16 * SIXTEENTHS[serial as usize % SIXTEENTHS.len()]
}

fn same_plan(one: Option<&Arc<BlockPlan>>, other: Option<&Arc<BlockPlan>>) -> bool {
    match (one, other) {
        (None, None) => true,
        (Some(one), Some(other)) => Arc::ptr_eq(one, other),
        _ => false,
    }
}

const fn lane_of(kind: PackKind) -> usize {
    match kind {
        PackKind::Catalogue => 1,
        PackKind::Data | PackKind::Patch => 0,
    }
}

impl Drop for Packer {
    fn drop(&mut self) {
        self.jobs = None;
        for thread in self.threads.drain(..) {
            let _ = thread.join();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::codec::Decompressor;
    use crate::crypto::identity::Identity;
    use crate::crypto::open::open;
    use crate::format::pack::{block_offsets, check_plaintext};
    use crate::model::limits::{MIB, PACK_CLASS_BYTES};

    fn chunk(n: u32, bytes: usize) -> (ChunkId, Vec<u8>) {
        let mut content = vec![0; bytes];
        let mut state = u64::from(n) + 1;
        for byte in &mut content {
            state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
            *byte = (state >> 60) as u8;
        }
        let mut id = [0; 24];
        id[..4].copy_from_slice(&n.to_be_bytes());
        (ChunkId(id), content)
    }

    struct Kept(Vec<SealedPack>);

    impl PackSink for Kept {
        fn take(&mut self, mut pack: SealedPack) -> Result<(), VaultError> {
            pack.hold = Arc::new(Budget::new(1).take(0));
            self.0.push(pack);
            Ok(())
        }
    }

    #[test]
    fn chunks_of_a_few_bytes_fill_tables_and_not_packs_of_padding() {
        let identity = Identity::generate();
        let config = PackerConfig { compression: Compression::Level(3), workers: 2, recipients: vec![identity.recipient()] };
        let mut packer = Packer::start(&config, Budget::new(20 * MIB));
        let mut packs = Kept(Vec::new());
        for n in 0..100_000 {
            let (id, bytes) = chunk(n, 10);
            packer.add(PackKind::Data, id, &bytes, None, &mut packs).unwrap_or_else(|e| panic!("{e}"));
        }
        packer.finish(&mut packs).unwrap_or_else(|e| panic!("{e}"));
        let chunks: usize = packs.0.iter().flat_map(|pack| &pack.indexed.table.blocks).map(|block| block.chunks.len()).sum();
        let bytes: usize = packs.0.iter().map(|pack| pack.bytes.len()).sum();
        assert_eq!(chunks, 100_000);
        assert!(packs.0.len() >= 3 && bytes < 6 * MIB as usize, "{} packs of {bytes} bytes", packs.0.len());
    }

    #[test]
    fn what_goes_in_comes_out_nearly_in_order_in_packs_that_are_full() {
        let identity = Identity::generate();
        let config = PackerConfig { compression: Compression::Level(3), workers: 3, recipients: vec![identity.recipient()] };
        // Room for one pack at a time: nobody may wait for ever.
        let mut packer = Packer::start(&config, Budget::new(20 * MIB));
        let mut packs = Kept(Vec::new());
        let count = 1200;
        for n in 0..count {
            let (id, bytes) = chunk(n, 40 * 1024 + n as usize * 7919 % (48 * 1024));
            packer.add(PackKind::Data, id, &bytes, None, &mut packs).unwrap_or_else(|e| panic!("{e}"));
        }
        let (id, bytes) = chunk(count, 100);
        packer.add(PackKind::Catalogue, id, &bytes, None, &mut packs).unwrap_or_else(|e| panic!("{e}"));
        packer.finish(&mut packs).unwrap_or_else(|e| panic!("{e}"));
        let mut seen = Vec::new();
        for pack in packs.0 {
            let plain = open(&pack.bytes, std::slice::from_ref(&identity), 17 * MIB).unwrap_or_else(|e| panic!("{e}"));
            let table = check_plaintext(&plain).unwrap_or_else(|e| panic!("{e}"));
            assert_eq!(table, pack.indexed.table);
            assert_eq!(pack.serials.len(), table.blocks.len());
            for (block, at) in table.blocks.iter().zip(block_offsets(&table)) {
                let frame = &plain[at as usize..at as usize + block.stored_bytes as usize];
                let raw =
                    Decompressor::new().decompress(frame, u64::from(block.raw_bytes)).unwrap_or_else(|e| panic!("{e}"));
                let mut rest = &raw[..];
                for expected in &block.chunks {
                    let n = u32::from_be_bytes([expected.id.0[0], expected.id.0[1], expected.id.0[2], expected.id.0[3]]);
                    let (bytes, tail) = rest.split_at(expected.bytes as usize);
                    assert_eq!(bytes, chunk(n, bytes.len()).1);
                    rest = tail;
                    if table.kind == PackKind::Data {
                        seen.push(n);
                    }
                }
            }
            let full = plain.len() as u64 == PACK_CLASS_BYTES;
            let frames: u64 = table.blocks.iter().map(|block| u64::from(block.stored_bytes)).sum();
            assert!(!full || (frames + table.encoded_bytes() as u64) * 500 > PACK_CLASS_BYTES * 499, "{frames} of a pack");
            assert!(full || crate::model::size::padme(plain.len() as u64) == plain.len() as u64);
        }
        // A block of at most 66 chunks leaves its place only among its next ten, and mostly for one of the next four.
        for (place, n) in (0_u32..).zip(&seen) {
            assert!(place.abs_diff(*n) <= 4 * 66, "chunk {n} at place {place}");
        }
        seen.sort_unstable();
        assert!(seen.into_iter().eq(0..count));
    }
}
