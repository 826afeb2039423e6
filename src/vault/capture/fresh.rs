//! The new content of a member: where it lies, and how much of it compression shortened.
//!
//! Blocks are compressed after their chunks were handed over, so the places are noted first and weighed when all packs are
//! sealed. What an earlier push had sent when it died is new too: no snapshot held it.

use super::known::from_cached;
use crate::format::table::{PackKind, TableBlock};
use crate::model::change::Change;
use crate::model::snapshot::Tally;
use crate::state::index::PackNumber;
use crate::vault::VaultError;
use crate::vault::packer::BlockSerial;
use crate::vault::snapshot_writer::{ChunkRef, SnapshotWriter};

/// A block whose stored form takes so many percent of its content was not compressed.
const DENSE_STORED_PERCENT: u64 = 97;

/// Where the new content of a member lies.
#[derive(Debug, Default)]
pub struct Fresh {
    /// Blocks of this push, and how many bytes of each.
    blocks: Vec<(BlockSerial, u64)>,
    /// Packs that an earlier push left, likewise.
    left: Vec<(PackNumber, u64)>,
    /// Bytes that were stored anew although a snapshot held them.
    moved_bytes: u64,
}

impl Fresh {
    /// Begins with nothing.
    pub fn begin(writer: &SnapshotWriter<'_>) -> Self {
        Self { moved_bytes: writer.stats().moved_raw_bytes, ..Self::default() }
    }

    /// Adds the content of one entry by its places, as the file cache names them.
    pub fn add(&mut self, places: &[(u32, u64)], writer: &SnapshotWriter<'_>) {
        for (place, bytes) in places {
            match from_cached(*place) {
                ChunkRef::New(serial) => add_to(&mut self.blocks, serial, *bytes),
                ChunkRef::Known(pack) if writer.was_left(pack) => add_to(&mut self.left, pack, *bytes),
                ChunkRef::Known(_) => {}
            }
        }
    }

    /// Ends with the member's last entry.
    pub fn end(self, writer: &SnapshotWriter<'_>) -> Self {
        Self { moved_bytes: writer.stats().moved_raw_bytes - self.moved_bytes, ..self }
    }

    /// How much of the member is new and how much of that is incompressible. All packs must be sealed.
    ///
    /// # Errors
    /// When the local index cannot be read.
    pub fn weigh(&self, tally: &Tally, writer: &SnapshotWriter<'_>) -> Result<Change, VaultError> {
        let mut change = Change { source_bytes: tally.source_bytes, ..Change::default() };
        for (serial, bytes) in &self.blocks {
            let Some((kind, dense)) = writer.look_at(*serial, is_dense)? else { continue };
            if kind != PackKind::Catalogue {
                change.new_bytes += bytes;
                change.dense_bytes += if dense { *bytes } else { 0 };
            }
        }
        for (pack, bytes) in &self.left {
            let (all, dense) = writer.sum_blocks(*pack, is_dense)?;
            change.new_bytes += bytes;
            change.dense_bytes +=
                u64::try_from(u128::from(*bytes) * u128::from(dense) / u128::from(all.max(1))).unwrap_or(0);
        }
        // Which of the blocks hold what only moved is not known: of both sums it takes the same share.
        let moved = self.moved_bytes.min(change.new_bytes);
        let rest = change.new_bytes - moved;
        let share = u128::from(change.dense_bytes) * u128::from(rest) / u128::from(change.new_bytes.max(1));
        Ok(Change { new_bytes: rest, dense_bytes: u64::try_from(share).unwrap_or(0), ..change })
    }
}

fn add_to(places: &mut Vec<(u32, u64)>, place: u32, bytes: u64) {
    match places.last_mut() {
        Some((last, sum)) if *last == place => *sum += bytes,
        _ => places.push((place, bytes)),
    }
}

fn is_dense(block: &TableBlock) -> bool {
    u64::from(block.stored_bytes) * 100 >= u64::from(block.raw_bytes) * DENSE_STORED_PERCENT
}
