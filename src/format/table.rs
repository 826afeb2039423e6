//! The table of a pack: every block's length, every chunk's id and length, and what patch blocks lie on.
//!
//! It stands first in the pack and again in an index object; both must agree. FORMAT.md, "Table", gives the bytes.

use crate::format::FormatError;
use crate::format::cursor::Cursor;
use crate::model::ids::{ChunkId, ObjectHash};
use crate::model::limits::{
    BLOCK_RAW_MAX_BYTES, CHUNK_MAX_BYTES, PACK_BLOCKS_MAX, PACK_CLASS_BYTES, PACK_TABLE_MAX_BYTES, PATCH_BASES_MAX,
    PATCH_DEPTH_MAX,
};
use crate::model::name::Sealed;

const WHAT: &str = "pack table";
const MAGIC: &[u8; 8] = b"FKTABLE1";
/// Bytes before the base packs.
const FIXED_BYTES: usize = 16;
/// Bytes of one base pack.
pub const BASE_PACK_BYTES: usize = 40;
/// Bytes of one block without its bases.
const BLOCK_BYTES: usize = 16;
/// Bytes of one base of a block.
pub const BASE_BYTES: usize = 8;
/// Bytes of one chunk.
pub const CHUNK_BYTES: usize = ChunkId::BYTES + 4;

/// What a pack holds.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum PackKind {
    /// Ordinary blocks of content.
    Data,
    /// Ordinary blocks of catalogues and list streams.
    Catalogue,
    /// Patch blocks of content.
    Patch,
}

impl PackKind {
    const fn code(self) -> u8 {
        match self {
            Self::Data => 0,
            Self::Catalogue => 1,
            Self::Patch => 2,
        }
    }

    fn from_code(code: u8) -> Result<Self, FormatError> {
        match code {
            0 => Ok(Self::Data),
            1 => Ok(Self::Catalogue),
            2 => Ok(Self::Patch),
            _ => Err(FormatError::Newer { what: "pack kind", found: u64::from(code), known: 2 }),
        }
    }
}

/// A base of a patch block: a block by its place.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct BasePlace {
    /// Which of the table's base packs.
    pub pack: u32,
    /// Which block of that pack.
    pub block: u32,
}

/// One chunk of a block.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct TableChunk {
    /// Its id.
    pub id: ChunkId,
    /// Its length in bytes.
    pub bytes: u32,
}

/// One block of a pack.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TableBlock {
    /// Length of its zstd frame.
    pub stored_bytes: u32,
    /// Length of its plaintext: the sum of its chunks.
    pub raw_bytes: u32,
    /// 0 for an ordinary block, else 1 + the depth of the deepest base.
    pub depth: u8,
    /// The blocks whose plaintext, one after another, is the frame's prefix; none for an ordinary block.
    pub bases: Vec<BasePlace>,
    /// Its chunks in order.
    pub chunks: Vec<TableChunk>,
}

/// The table of one pack.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Table {
    /// What the pack holds.
    pub kind: PackKind,
    /// The packs that patch blocks refer to.
    pub base_packs: Vec<Sealed>,
    /// The blocks in order.
    pub blocks: Vec<TableBlock>,
}

impl Table {
    /// An empty table.
    #[must_use]
    pub const fn new(kind: PackKind) -> Self {
        Self { kind, base_packs: Vec::new(), blocks: Vec::new() }
    }

    /// Length of the encoded table.
    #[must_use]
    pub fn encoded_bytes(&self) -> usize {
        let blocks: usize =
            self.blocks.iter().map(|b| BLOCK_BYTES + b.bases.len() * BASE_BYTES + b.chunks.len() * CHUNK_BYTES).sum();
        FIXED_BYTES + self.base_packs.len() * BASE_PACK_BYTES + blocks
    }

    /// The table as bytes.
    ///
    /// # Errors
    /// When it breaks a limit of the format: the paired assertion of [`Table::decode`].
    pub fn encode(&self) -> Result<Vec<u8>, FormatError> {
        self.check()?;
        let count = |n: usize| u32::try_from(n).map_err(|_| FormatError::Length { what: WHAT });
        let mut bytes = Vec::with_capacity(self.encoded_bytes());
        bytes.extend_from_slice(MAGIC);
        bytes.extend_from_slice(&[self.kind.code(), 0]);
        let base_packs = u16::try_from(self.base_packs.len()).map_err(|_| FormatError::Length { what: WHAT })?;
        bytes.extend_from_slice(&base_packs.to_le_bytes());
        bytes.extend_from_slice(&count(self.blocks.len())?.to_le_bytes());
        for pack in &self.base_packs {
            bytes.extend_from_slice(&pack.hash.0);
            bytes.extend_from_slice(&pack.bytes.to_le_bytes());
        }
        for block in &self.blocks {
            bytes.extend_from_slice(&block.stored_bytes.to_le_bytes());
            bytes.extend_from_slice(&block.raw_bytes.to_le_bytes());
            bytes.extend_from_slice(&count(block.chunks.len())?.to_le_bytes());
            let bases = u8::try_from(block.bases.len()).map_err(|_| FormatError::Length { what: WHAT })?;
            bytes.extend_from_slice(&[block.depth, bases, 0, 0]);
            for base in &block.bases {
                bytes.extend_from_slice(&base.pack.to_le_bytes());
                bytes.extend_from_slice(&base.block.to_le_bytes());
            }
        }
        for chunk in self.blocks.iter().flat_map(|b| &b.chunks) {
            bytes.extend_from_slice(&chunk.id.0);
            bytes.extend_from_slice(&chunk.bytes.to_le_bytes());
        }
        if bytes.len() as u64 > PACK_TABLE_MAX_BYTES {
            return Err(FormatError::Limit { what: WHAT, limit: PACK_TABLE_MAX_BYTES });
        }
        Ok(bytes)
    }

    /// Reads a table.
    ///
    /// # Errors
    /// When the bytes are not a table within the limits of the format.
    pub fn decode(bytes: &[u8]) -> Result<Self, FormatError> {
        if bytes.len() as u64 > PACK_TABLE_MAX_BYTES {
            return Err(FormatError::Limit { what: WHAT, limit: PACK_TABLE_MAX_BYTES });
        }
        let mut cursor = Cursor::new(bytes, WHAT);
        if cursor.array()? != *MAGIC {
            return Err(FormatError::invalid(WHAT, "unknown mark: damaged, or written by a newer farkeep"));
        }
        let kind = PackKind::from_code(cursor.u8()?)?;
        if cursor.u8()? != 0 {
            return Err(FormatError::invalid(WHAT, "reserved byte is set"));
        }
        let base_pack_count = usize::from(cursor.u16()?);
        let block_count = cursor.u32()? as usize;
        if block_count > PACK_BLOCKS_MAX {
            return Err(FormatError::Limit { what: "blocks of a pack", limit: PACK_BLOCKS_MAX as u64 });
        }
        // Nothing is allocated by a count before the bytes that back it are known to be there.
        if base_pack_count * BASE_PACK_BYTES + block_count * BLOCK_BYTES > cursor.left() {
            return Err(FormatError::Length { what: WHAT });
        }
        let mut base_packs = Vec::with_capacity(base_pack_count);
        for _ in 0..base_pack_count {
            base_packs.push(Sealed { hash: ObjectHash(cursor.array()?), bytes: cursor.u64()? });
        }
        let mut blocks = Vec::with_capacity(block_count);
        let mut chunk_counts = Vec::with_capacity(block_count);
        for _ in 0..block_count {
            let (block, chunks) = decode_block(&mut cursor)?;
            blocks.push(block);
            chunk_counts.push(chunks);
        }
        if chunk_counts.iter().map(|n| n * CHUNK_BYTES).sum::<usize>() != cursor.left() {
            return Err(FormatError::Length { what: WHAT });
        }
        for (block, count) in blocks.iter_mut().zip(chunk_counts) {
            block.chunks.reserve_exact(count);
            for _ in 0..count {
                block.chunks.push(TableChunk { id: ChunkId(cursor.array()?), bytes: cursor.u32()? });
            }
        }
        cursor.finish()?;
        let table = Self { kind, base_packs, blocks };
        table.check()?;
        Ok(table)
    }

    fn check(&self) -> Result<(), FormatError> {
        if self.blocks.len() > PACK_BLOCKS_MAX {
            return Err(FormatError::Limit { what: "blocks of a pack", limit: PACK_BLOCKS_MAX as u64 });
        }
        let mut stored = 0_u64;
        for block in &self.blocks {
            self.check_block(block)?;
            stored += u64::from(block.stored_bytes);
        }
        if stored > PACK_CLASS_BYTES {
            return Err(FormatError::Limit { what: "frames of a pack", limit: PACK_CLASS_BYTES });
        }
        if self.kind != PackKind::Patch && !self.base_packs.is_empty() {
            return Err(FormatError::invalid(WHAT, "base packs outside a patch pack"));
        }
        Ok(())
    }

    fn check_block(&self, block: &TableBlock) -> Result<(), FormatError> {
        if u64::from(block.raw_bytes) > BLOCK_RAW_MAX_BYTES || block.raw_bytes == 0 {
            return Err(FormatError::Limit { what: "block", limit: BLOCK_RAW_MAX_BYTES });
        }
        let mut sum = 0_u64;
        for chunk in &block.chunks {
            if u64::from(chunk.bytes) > CHUNK_MAX_BYTES || chunk.bytes == 0 {
                return Err(FormatError::Limit { what: "chunk", limit: CHUNK_MAX_BYTES });
            }
            sum += u64::from(chunk.bytes);
        }
        if sum != u64::from(block.raw_bytes) {
            return Err(FormatError::invalid(WHAT, "chunks do not add up to their block"));
        }
        let patch = self.kind == PackKind::Patch;
        if patch == block.bases.is_empty() || patch == (block.depth == 0) {
            return Err(FormatError::invalid(WHAT, "a patch block without bases, or an ordinary one with"));
        }
        if block.depth > PATCH_DEPTH_MAX {
            return Err(FormatError::Limit { what: "patch depth", limit: u64::from(PATCH_DEPTH_MAX) });
        }
        if block.bases.len() > PATCH_BASES_MAX {
            return Err(FormatError::Limit { what: "bases of a patch block", limit: PATCH_BASES_MAX as u64 });
        }
        if block
            .bases
            .iter()
            .any(|base| base.pack as usize >= self.base_packs.len() || base.block as usize >= PACK_BLOCKS_MAX)
        {
            return Err(FormatError::invalid(WHAT, "a base that is not in the list of packs"));
        }
        Ok(())
    }
}

fn decode_block(cursor: &mut Cursor<'_>) -> Result<(TableBlock, usize), FormatError> {
    let (stored_bytes, raw_bytes) = (cursor.u32()?, cursor.u32()?);
    let chunks = cursor.u32()? as usize;
    if chunks > PACK_TABLE_MAX_BYTES as usize / CHUNK_BYTES {
        return Err(FormatError::Limit { what: WHAT, limit: PACK_TABLE_MAX_BYTES });
    }
    let (depth, base_count) = (cursor.u8()?, usize::from(cursor.u8()?));
    if cursor.u16()? != 0 {
        return Err(FormatError::invalid(WHAT, "reserved bytes are set"));
    }
    let mut bases = Vec::with_capacity(base_count);
    for _ in 0..base_count {
        bases.push(BasePlace { pack: cursor.u32()?, block: cursor.u32()? });
    }
    Ok((TableBlock { stored_bytes, raw_bytes, depth, bases, chunks: Vec::new() }, chunks))
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    pub(crate) fn patch_table() -> Table {
        let chunk = |n: u8| TableChunk { id: ChunkId([n; 24]), bytes: 1000 + u32::from(n) };
        let base = Sealed { hash: ObjectHash([9; 32]), bytes: 1 << 24 };
        let block = |n| TableBlock {
            stored_bytes: 77,
            raw_bytes: 2001 + 2 * n as u32,
            depth: 2,
            bases: vec![BasePlace { pack: 0, block: 3 }],
            chunks: vec![chunk(n), chunk(n + 1)],
        };
        Table { kind: PackKind::Patch, base_packs: vec![base], blocks: vec![block(1), block(4)] }
    }

    #[test]
    fn a_table_comes_back_as_it_was() {
        let table = patch_table();
        let bytes = table.encode().unwrap_or_else(|e| panic!("{e}"));
        assert_eq!(bytes.len(), table.encoded_bytes());
        assert_eq!(Table::decode(&bytes), Ok(table));
    }

    #[test]
    fn every_cut_and_any_appended_byte_is_refused() {
        let bytes = patch_table().encode().unwrap_or_else(|e| panic!("{e}"));
        for end in 0..bytes.len() {
            assert!(Table::decode(&bytes[..end]).is_err(), "cut at {end}");
        }
        assert!(Table::decode(&[&bytes[..], &[0]].concat()).is_err());
    }

    #[test]
    fn tables_outside_the_limits_are_refused() {
        let broken: [fn(&mut Table); 6] = [
            |t| t.blocks[0].depth = PATCH_DEPTH_MAX + 1,
            |t| t.blocks[0].bases = vec![BasePlace { pack: 0, block: 0 }; 9],
            |t| t.blocks[0].bases[0].pack = 1,
            |t| t.blocks[0].raw_bytes += 1,
            |t| t.blocks[0].bases.clear(),
            |t| t.kind = PackKind::Data,
        ];
        for change in broken {
            let mut table = patch_table();
            change(&mut table);
            assert!(table.encode().is_err());
        }
    }

    proptest! {
        #[test]
        fn hostile_bytes_never_panic_and_decode_is_the_inverse(
            mut bytes in proptest::collection::vec(any::<u8>(), 0..200), like_a_table in any::<bool>()
        ) {
            if like_a_table && bytes.len() >= 16 {
                bytes[..8].copy_from_slice(MAGIC);
                bytes[8] %= 3;
                bytes[9..16].fill(0);
            }
            if let Ok(table) = Table::decode(&bytes) {
                prop_assert_eq!(table.encode(), Ok(bytes));
            }
        }
    }
}
