//! Fills packs: blocks go in in order until room is short, and then those of the next few that fill it best.
//!
//! All full packs have one size, and what the blocks do not fill is padding. With the next block alone that would be half a
//! block a pack; with a choice among ten it is next to nothing.

use std::sync::Arc;

use crate::format::frame::SKIPPABLE_HEADER_BYTES;
use crate::format::table::{BASE_BYTES, BASE_PACK_BYTES, BasePlace, CHUNK_BYTES, TableBlock, TableChunk};
use crate::model::limits::{PACK_BLOCKS_MAX, PACK_CLASS_BYTES, PACK_TABLE_MAX_BYTES};
use crate::model::name::Sealed;
use crate::vault::VaultError;
use crate::vault::packer::BlockSerial;
use crate::vault::patch_plan::{BlockPlan, Patch};

/// Blocks to choose from.
const CANDIDATES: usize = 10;
/// About so many of them still fit when choosing begins.
const CHOICE_BLOCKS: u64 = 3;

/// Whether more blocks will come.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Patience {
    /// They will: a pack is full when there was a choice.
    Waits,
    /// They will not: what fits is the last pack.
    Ends,
}

/// A block as a frame.
pub struct Compressed {
    /// Its number within the push.
    pub serial: BlockSerial,
    /// Length of its plaintext.
    pub raw_bytes: usize,
    /// Its chunks in order.
    pub chunks: Vec<TableChunk>,
    /// The zstd frame.
    pub frame: Vec<u8>,
    /// What the frame is a patch on; none for an ordinary one.
    pub patch: Option<Arc<BlockPlan>>,
}

/// A pack that grows.
#[derive(Default)]
pub struct OpenPack {
    /// Packs that its patches are built on.
    pub base_packs: Vec<Sealed>,
    /// Its blocks.
    pub blocks: Vec<TableBlock>,
    /// Their numbers within the push.
    pub serials: Vec<BlockSerial>,
    /// Their frames.
    pub frames: Vec<Vec<u8>>,
    /// Length of all frames.
    pub frame_bytes: u64,
    table_bytes: u64,
    /// Blocks that are not placed yet.
    waiting: Vec<Compressed>,
}

impl OpenPack {
    const FIXED_BYTES: u64 = SKIPPABLE_HEADER_BYTES as u64 + 16;
    const BLOCK_BYTES: u64 = 16;

    /// What a block costs in the table at most: its bases may lie in packs that the table does not name yet.
    fn table_cost(block: &Compressed) -> u64 {
        let bases = block.bases().count() * (BASE_BYTES + BASE_PACK_BYTES);
        Self::BLOCK_BYTES + (bases + block.chunks.len() * CHUNK_BYTES) as u64
    }

    /// Takes a block that is next in order.
    pub fn add(&mut self, block: Compressed) -> Result<(), VaultError> {
        self.waiting.push(block);
        // While there is room for several more, order is worth more than the best fit.
        let largest = self.waiting.iter().map(|block| block.frame.len() as u64).max().unwrap_or(0);
        while let Some(first) = self.waiting.first()
            && self.fits([first], CHOICE_BLOCKS * largest)
        {
            let first = self.waiting.remove(0);
            self.push(first)?;
        }
        Ok(())
    }

    /// The pack, when nothing more fits into it: those of the blocks in hand that fill it best, and what was placed before.
    /// The others begin the next pack.
    pub fn take_full(&mut self, patience: Patience) -> Result<Option<Self>, VaultError> {
        let enough = self.waiting.len() >= CANDIDATES || patience == Patience::Ends;
        if self.waiting.is_empty() || !enough {
            return Ok(None);
        }
        let chosen = self.best_choice();
        let (mut rest, mut left_over) = (Vec::new(), false);
        for (number, block) in std::mem::take(&mut self.waiting).into_iter().enumerate() {
            if chosen & (1 << number) != 0 {
                self.push(block)?;
            } else {
                left_over = true;
                rest.push(block);
            }
        }
        if !left_over && patience == Patience::Ends {
            return Ok(None);
        }
        let full = std::mem::take(self);
        for block in rest {
            self.add(block)?;
        }
        Ok(Some(full))
    }

    /// Which of the waiting blocks leave the smallest gap, as bits.
    fn best_choice(&self) -> u32 {
        let count = self.waiting.len().min(CANDIDATES);
        let (mut best, mut most) = (0, 0);
        for choice in 1..1_u32 << count {
            let blocks = || (0..count).filter(|number| choice & (1 << number) != 0).map(|number| &self.waiting[number]);
            let bytes: usize = blocks().map(|block| block.frame.len()).sum();
            if bytes > most && self.fits(blocks(), 0) {
                (best, most) = (choice, bytes);
            }
        }
        best
    }

    /// Whether blocks fit into a pack of the one class and leave so much room, or no gap that padding cannot fill.
    fn fits<'a>(&self, blocks: impl IntoIterator<Item = &'a Compressed>, room: u64) -> bool {
        let (mut table, mut frames, mut count) = (self.table_bytes, self.frame_bytes, self.blocks.len());
        for block in blocks {
            table += Self::table_cost(block);
            frames += block.frame.len() as u64;
            count += 1;
        }
        let gap = PACK_CLASS_BYTES.checked_sub(Self::FIXED_BYTES + table + frames);
        gap.is_some_and(|gap| gap >= room && (gap == 0 || gap >= SKIPPABLE_HEADER_BYTES as u64))
            && table + 16 <= PACK_TABLE_MAX_BYTES
            && count <= PACK_BLOCKS_MAX
    }

    /// Whether it holds nothing.
    pub fn is_empty(&self) -> bool {
        self.blocks.is_empty() && self.waiting.is_empty()
    }

    fn push(&mut self, block: Compressed) -> Result<(), VaultError> {
        self.table_bytes += Self::table_cost(&block);
        self.frame_bytes += block.frame.len() as u64;
        let mut bases = Vec::new();
        for (pack, block) in block.bases() {
            let place = self.base_packs.iter().position(|known| *known == pack).unwrap_or_else(|| {
                self.base_packs.push(pack);
                self.base_packs.len() - 1
            });
            bases.push(BasePlace { pack: u32::try_from(place).map_err(VaultError::internal)?, block });
        }
        self.blocks.push(TableBlock {
            stored_bytes: u32::try_from(block.frame.len()).map_err(VaultError::internal)?,
            raw_bytes: u32::try_from(block.raw_bytes).map_err(VaultError::internal)?,
            depth: block.patch.as_ref().and_then(|plan| plan.patch.as_ref()).map_or(0, Patch::depth),
            bases,
            chunks: block.chunks,
        });
        self.serials.push(block.serial);
        self.frames.push(block.frame);
        Ok(())
    }

    /// About what it will be.
    pub const fn sealed_estimate(&self) -> u64 {
        Self::FIXED_BYTES + self.table_bytes + self.frame_bytes
    }
}

impl Compressed {
    /// The places of the blocks that it is a patch on.
    fn bases(&self) -> impl Iterator<Item = (Sealed, u32)> {
        self.patch.iter().filter_map(|plan| plan.patch.as_ref()).flat_map(Patch::places)
    }
}
