//! Chunks into blocks, blocks into packs: compressing and sealing on all cores while the order stays.
//!
//! One thread, the caller's, adds chunks and is handed finished packs; workers compress blocks and seal packs. What is under
//! way is bounded: a caller who adds faster than workers compress waits in `add`, and so does one whose sealed packs are not
//! sent away.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicI32, Ordering};
use std::thread::JoinHandle;

use crossbeam_channel::{Receiver, Sender, unbounded};

use crate::codec::Compressor;
use crate::crypto::seal::{Recipient, seal_into};
use crate::format::frame::{SKIPPABLE_HEADER_BYTES, TABLE_MAGIC, padded_size, padding, skippable_header};
use crate::format::index::IndexedPack;
use crate::format::table::{CHUNK_BYTES, PackKind, Table, TableBlock, TableChunk};
use crate::model::ids::ChunkId;
use crate::model::limits::{BLOCK_TARGET_BYTES, PACK_BLOCKS_MAX, PACK_CLASS_BYTES, PACK_TABLE_MAX_BYTES};
use crate::vault::VaultError;
use crate::vault::courier::{Budget, Hold};

/// Blocks under way for each worker: one in its hands, one waiting.
const BLOCKS_PER_WORKER: usize = 2;

/// A block's number within one push, given when its first chunk is added.
pub type BlockSerial = u32;

/// How packs are made.
#[derive(Debug, Clone)]
pub struct PackerConfig {
    /// zstd level; others may turn it while the push runs.
    pub level: Arc<AtomicI32>,
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

struct Block {
    serial: BlockSerial,
    plain: Vec<u8>,
    chunks: Vec<TableChunk>,
}

struct Compressed {
    serial: BlockSerial,
    raw_bytes: usize,
    chunks: Vec<TableChunk>,
    frame: Vec<u8>,
}

#[derive(Default)]
struct OpenPack {
    blocks: Vec<TableBlock>,
    serials: Vec<BlockSerial>,
    frames: Vec<Vec<u8>>,
    frame_bytes: u64,
    table_bytes: u64,
}

enum Job {
    Compress(PackKind, u64, Block),
    Seal(PackKind, OpenPack, SealSize, Hold),
}

#[derive(Clone, Copy)]
enum SealSize {
    /// The one size of full packs.
    Full,
    /// The next Padmé size: the last pack of its kind.
    Tail,
}

enum Outcome {
    Compressed(PackKind, u64, Compressed, Vec<u8>),
    Sealed(Box<SealedPack>),
    Failed(VaultError),
}

/// The blocks of one kind: the open one, those under way, and the open pack.
struct Lane {
    kind: PackKind,
    open: Option<Block>,
    next: u64,
    due: u64,
    ready: BTreeMap<u64, Compressed>,
    pack: OpenPack,
}

impl Lane {
    const fn new(kind: PackKind) -> Self {
        let pack = OpenPack { blocks: Vec::new(), serials: Vec::new(), frames: Vec::new(), frame_bytes: 0, table_bytes: 0 };
        Self { kind, open: None, next: 0, due: 0, ready: BTreeMap::new(), pack }
    }
}

/// Makes packs.
pub struct Packer {
    jobs: Option<Sender<Job>>,
    outcomes: Receiver<Outcome>,
    threads: Vec<JoinHandle<()>>,
    lanes: [Lane; 2],
    in_flight: usize,
    in_flight_max: usize,
    sealing: usize,
    serials: BlockSerial,
    spare: Vec<Vec<u8>>,
    budget: Arc<Budget>,
}

impl Packer {
    /// Starts the workers.
    #[must_use]
    pub fn start(config: &PackerConfig, budget: Arc<Budget>) -> Self {
        let (jobs, job_queue) = unbounded();
        let (outcome_sender, outcomes) = unbounded();
        let workers = config.workers.max(1);
        let threads = (0..workers)
            .map(|_| {
                let (queue, outcomes, config) = (job_queue.clone(), outcome_sender.clone(), config.clone());
                std::thread::spawn(move || work(&queue, &outcomes, &config))
            })
            .collect();
        Self {
            jobs: Some(jobs),
            outcomes,
            threads,
            lanes: [Lane::new(PackKind::Data), Lane::new(PackKind::Catalogue)],
            in_flight: 0,
            in_flight_max: workers * BLOCKS_PER_WORKER,
            sealing: 0,
            serials: 0,
            spare: Vec::new(),
            budget,
        }
    }

    /// Adds a chunk that the vault does not hold; says in which block it will lie.
    ///
    /// # Errors
    /// When a worker or the sink failed.
    pub fn add(
        &mut self,
        kind: PackKind,
        id: ChunkId,
        bytes: &[u8],
        sink: &mut dyn PackSink,
    ) -> Result<BlockSerial, VaultError> {
        let lane = &mut self.lanes[lane_of(kind)];
        let block = lane.open.get_or_insert_with(|| {
            let mut plain = self.spare.pop().unwrap_or_default();
            plain.clear();
            self.serials += 1;
            Block { serial: self.serials - 1, plain, chunks: Vec::new() }
        });
        let serial = block.serial;
        block.plain.extend_from_slice(bytes);
        let length = u32::try_from(bytes.len()).map_err(VaultError::internal)?;
        block.chunks.push(TableChunk { id, bytes: length });
        if block.plain.len() >= BLOCK_TARGET_BYTES {
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
        for lane in 0..self.lanes.len() {
            self.close_pack(lane, SealSize::Tail, sink)?;
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

    /// Puts blocks that are next in order into the open pack. It may be entered again from within, by way of a pack that
    /// waits for room: then the block in hand is not yet placed, so the inner call finds none that is due.
    fn place_ready(&mut self, lane: usize, sink: &mut dyn PackSink) -> Result<(), VaultError> {
        while let Some(block) = {
            let lane = &mut self.lanes[lane];
            lane.ready.remove(&lane.due)
        } {
            if !self.lanes[lane].pack.fits(&block) {
                self.close_pack(lane, SealSize::Full, sink)?;
            }
            self.lanes[lane].pack.push(block)?;
            self.lanes[lane].due += 1;
        }
        Ok(())
    }

    fn close_pack(&mut self, lane: usize, size: SealSize, sink: &mut dyn PackSink) -> Result<(), VaultError> {
        let lane = &mut self.lanes[lane];
        if lane.pack.blocks.is_empty() {
            return Ok(());
        }
        let (kind, pack) = (lane.kind, std::mem::take(&mut lane.pack));
        // The frames and the sealed form stand in memory together for a moment.
        let room = 2 * pack.sealed_estimate();
        let hold = loop {
            match self.budget.try_take(room) {
                Some(hold) => break hold,
                // Packs that are being sealed hold room until they are handed on, which only this thread does.
                None if self.sealing > 0 => self.receive(sink)?,
                None => break self.budget.take(room),
            }
        };
        self.sealing += 1;
        self.submit(Job::Seal(kind, pack, size, hold))
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

impl OpenPack {
    const FIXED_BYTES: u64 = SKIPPABLE_HEADER_BYTES as u64 + 16;
    const BLOCK_BYTES: u64 = 16;

    fn table_cost(block: &Compressed) -> u64 {
        Self::BLOCK_BYTES + (block.chunks.len() * CHUNK_BYTES) as u64
    }

    /// Whether the block fits into a pack of the one class, leaving no gap that padding cannot fill.
    fn fits(&self, block: &Compressed) -> bool {
        let table = self.table_bytes + Self::table_cost(block);
        let total = Self::FIXED_BYTES + table + self.frame_bytes + block.frame.len() as u64;
        let gap = PACK_CLASS_BYTES.checked_sub(total);
        gap.is_some_and(|gap| gap == 0 || gap >= SKIPPABLE_HEADER_BYTES as u64)
            && table + 16 <= PACK_TABLE_MAX_BYTES
            && self.blocks.len() < PACK_BLOCKS_MAX
    }

    fn push(&mut self, block: Compressed) -> Result<(), VaultError> {
        self.table_bytes += Self::table_cost(&block);
        self.frame_bytes += block.frame.len() as u64;
        self.blocks.push(TableBlock {
            stored_bytes: u32::try_from(block.frame.len()).map_err(VaultError::internal)?,
            raw_bytes: u32::try_from(block.raw_bytes).map_err(VaultError::internal)?,
            depth: 0,
            bases: Vec::new(),
            chunks: block.chunks,
        });
        self.serials.push(block.serial);
        self.frames.push(block.frame);
        Ok(())
    }

    const fn sealed_estimate(&self) -> u64 {
        Self::FIXED_BYTES + self.table_bytes + self.frame_bytes
    }
}

fn work(queue: &Receiver<Job>, outcomes: &Sender<Outcome>, config: &PackerConfig) {
    let mut compressor = Compressor::new();
    for job in queue {
        let outcome = match job {
            Job::Compress(kind, number, block) => compress(&mut compressor, block, config.level.load(Ordering::Relaxed))
                .map(|(block, plain)| Outcome::Compressed(kind, number, block, plain)),
            Job::Seal(kind, pack, size, hold) => {
                seal_pack(kind, pack, size, hold, &config.recipients).map(|pack| Outcome::Sealed(Box::new(pack)))
            }
        };
        if outcomes.send(outcome.unwrap_or_else(Outcome::Failed)).is_err() {
            return;
        }
    }
}

fn compress(compressor: &mut Compressor, block: Block, level: i32) -> Result<(Compressed, Vec<u8>), VaultError> {
    let frame = compressor.compress(&block.plain, level).map_err(VaultError::internal)?;
    let Block { serial, plain, chunks } = block;
    Ok((Compressed { serial, raw_bytes: plain.len(), chunks, frame }, plain))
}

fn seal_pack(
    kind: PackKind,
    pack: OpenPack,
    size: SealSize,
    hold: Hold,
    recipients: &[Recipient],
) -> Result<SealedPack, VaultError> {
    let table = Table { kind, base_packs: Vec::new(), blocks: pack.blocks };
    let encoded = table.encode().map_err(VaultError::internal)?;
    let header = skippable_header(TABLE_MAGIC, encoded.len());
    let length = header.len() as u64 + encoded.len() as u64 + pack.frame_bytes;
    let target = match size {
        SealSize::Full => PACK_CLASS_BYTES,
        SealSize::Tail => padded_size(length, 0).min(PACK_CLASS_BYTES),
    };
    let padding = padding(length, target).map_err(VaultError::internal)?;
    let mut pieces: Vec<&[u8]> = vec![&header, &encoded];
    pieces.extend(pack.frames.iter().map(Vec::as_slice));
    pieces.push(&padding);
    let sealed = seal_into(Vec::new(), &pieces, recipients).map_err(VaultError::internal)?;
    drop(pack.frames);
    let indexed =
        IndexedPack { pack: sealed.name, header_bytes: sealed.header_bytes, header_hash: sealed.header_hash, table };
    let hold = Arc::new(hold.shrink_to(sealed.bytes.len() as u64));
    Ok(SealedPack { indexed, serials: pack.serials, bytes: Arc::new(sealed.bytes), hold })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::codec::Decompressor;
    use crate::crypto::identity::Identity;
    use crate::crypto::open::open;
    use crate::format::pack::{block_offsets, check_plaintext};
    use crate::model::limits::MIB;

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
    fn what_goes_in_comes_out_in_order_in_packs_of_the_right_size() {
        let identity = Identity::generate();
        let config = PackerConfig { level: Arc::new(AtomicI32::new(3)), workers: 3, recipients: vec![identity.recipient()] };
        // Room for one pack at a time: nobody may wait for ever.
        let mut packer = Packer::start(&config, Budget::new(20 * MIB));
        let mut packs = Kept(Vec::new());
        let count = 1200;
        for n in 0..count {
            let (id, bytes) = chunk(n, 64 * 1024);
            packer.add(PackKind::Data, id, &bytes, &mut packs).unwrap_or_else(|e| panic!("{e}"));
        }
        let (id, bytes) = chunk(count, 100);
        packer.add(PackKind::Catalogue, id, &bytes, &mut packs).unwrap_or_else(|e| panic!("{e}"));
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
            assert!(full || crate::model::size::padme(plain.len() as u64) == plain.len() as u64);
        }
        assert!(seen.into_iter().eq(0..count));
    }
}
