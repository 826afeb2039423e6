//! What the packer's workers do: compress a block, seal a pack.

use std::sync::Arc;
use std::sync::atomic::{AtomicI32, Ordering};

use crossbeam_channel::{Receiver, Sender};

use super::{BlockSerial, SealedPack};
use crate::codec::{Compressor, Decompressor};
use crate::crypto::seal::{Recipient, seal_into};
use crate::format::frame::{TABLE_MAGIC, padded_size, padding, skippable_header};
use crate::format::index::IndexedPack;
use crate::format::table::{PackKind, Table, TableChunk};
use crate::model::limits::PACK_CLASS_BYTES;
use crate::vault::VaultError;
use crate::vault::courier::Hold;
use crate::vault::open_pack::{Compressed, OpenPack};
use crate::vault::patch_plan::BlockPlan;

/// A block that is full, or ended.
pub struct Block {
    pub serial: BlockSerial,
    pub plain: Vec<u8>,
    pub chunks: Vec<TableChunk>,
    pub plan: Option<Arc<BlockPlan>>,
}

/// What a worker is given; a block with its number among those of its lane.
pub enum Job {
    Compress(PackKind, u64, Block),
    Seal(PackKind, OpenPack, SealSize, Hold),
}

/// How large a pack is made.
#[derive(Clone, Copy)]
pub enum SealSize {
    /// The one size of full packs.
    Full,
    /// The next Padmé size: the last pack of its kind, or one whose table is full before it is.
    Tail,
}

/// What it gives back; a compressed block with the buffer that held its plaintext.
pub enum Outcome {
    Compressed(PackKind, u64, Compressed, Vec<u8>),
    Sealed(Box<SealedPack>),
    Failed(VaultError),
}

impl SealSize {
    /// For a pack into which nothing more fits. One that its table filled, with many small chunks, would be padding for the
    /// most part at the size of full packs.
    pub const fn of(pack: &OpenPack) -> Self {
        if pack.sealed_estimate() * 2 >= PACK_CLASS_BYTES { Self::Full } else { Self::Tail }
    }
}

/// Does what comes through `queue` until it is closed.
pub fn work(queue: &Receiver<Job>, outcomes: &Sender<Outcome>, level: &AtomicI32, recipients: &[Recipient]) {
    let mut tools = (Compressor::new(), Decompressor::new());
    for job in queue {
        let outcome = match job {
            Job::Compress(kind, number, block) => compress(&mut tools, block, level.load(Ordering::Relaxed))
                .map(|(block, plain)| Outcome::Compressed(kind, number, block, plain)),
            Job::Seal(kind, pack, size, hold) => {
                seal_pack(kind, pack, size, hold, recipients).map(|pack| Outcome::Sealed(Box::new(pack)))
            }
        };
        if outcomes.send(outcome.unwrap_or_else(Outcome::Failed)).is_err() {
            return;
        }
    }
}

fn compress(
    (compressor, opener): &mut (Compressor, Decompressor),
    block: Block,
    level: i32,
) -> Result<(Compressed, Vec<u8>), VaultError> {
    let Block { serial, plain, chunks, plan } = block;
    let (frame, patch) = match plan {
        None => (compressor.compress(&plain, level).map_err(VaultError::internal)?, None),
        Some(plan) => {
            let framed = plan.frame(serial, &plain, level, compressor, opener).map_err(VaultError::internal)?;
            (framed.frame, framed.patch.then_some(plan))
        }
    };
    Ok((Compressed { serial, raw_bytes: plain.len(), chunks, frame, patch }, plain))
}

fn seal_pack(
    kind: PackKind,
    pack: OpenPack,
    size: SealSize,
    hold: Hold,
    recipients: &[Recipient],
) -> Result<SealedPack, VaultError> {
    let table = Table { kind, base_packs: pack.base_packs, blocks: pack.blocks };
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
