//! An index object: the tables of many packs, so that a chunk's place is found without opening the packs.

use std::io::Read;

use crate::format::FormatError;
use crate::format::table::Table;
use crate::model::ids::ObjectHash;
use crate::model::limits::{AGE_HEADER_MAX_BYTES, INDEX_RAW_MAX_BYTES, PACK_MAX_BYTES, PACK_TABLE_MAX_BYTES};
use crate::model::name::Sealed;

const WHAT: &str = "index object";
const MAGIC: &[u8; 8] = b"FKINDEX1";
/// Mark and count at the start.
pub const FIXED_BYTES: usize = 12;
/// What stands before each table.
pub const PACK_FIXED_BYTES: usize = 32 + 8 + 4 + 32 + 4;

/// What an index knows of one pack.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct IndexedPack {
    /// The pack's hash and size: its name.
    pub pack: Sealed,
    /// Length of its age header, nonce included.
    pub header_bytes: u32,
    /// BLAKE3 of that header: a range read checks it before anything parses it.
    pub header_hash: ObjectHash,
    /// The pack's table.
    pub table: Table,
}

impl IndexedPack {
    /// Length of this pack's part of an index.
    #[must_use]
    pub fn encoded_bytes(&self) -> usize {
        PACK_FIXED_BYTES + self.table.encoded_bytes()
    }

    /// Appends this pack's part to `bytes`.
    ///
    /// # Errors
    /// When the table breaks a limit.
    pub fn encode_into(&self, bytes: &mut Vec<u8>) -> Result<(), FormatError> {
        let table = self.table.encode()?;
        bytes.extend_from_slice(&self.pack.hash.0);
        bytes.extend_from_slice(&self.pack.bytes.to_le_bytes());
        bytes.extend_from_slice(&self.header_bytes.to_le_bytes());
        bytes.extend_from_slice(&self.header_hash.0);
        let length = u32::try_from(table.len()).map_err(|_| FormatError::Length { what: WHAT })?;
        bytes.extend_from_slice(&length.to_le_bytes());
        bytes.extend_from_slice(&table);
        Ok(())
    }
}

/// The start of an index object that lists `packs` packs.
///
/// # Errors
/// When there are 2^32 packs or more.
pub fn encode_start(packs: usize) -> Result<[u8; FIXED_BYTES], FormatError> {
    let mut bytes = [0; FIXED_BYTES];
    bytes[..8].copy_from_slice(MAGIC);
    let count = u32::try_from(packs).map_err(|_| FormatError::Length { what: WHAT })?;
    bytes[8..].copy_from_slice(&count.to_le_bytes());
    Ok(bytes)
}

/// Reads an index object pack by pack, in memory of one table.
#[derive(Debug)]
pub struct IndexReader<R> {
    input: R,
    packs_left: u32,
    bytes_left: u64,
}

/// Why an index could not be read.
#[derive(Debug, thiserror::Error)]
pub enum IndexError {
    /// The bytes are not an index.
    #[error(transparent)]
    Format(#[from] FormatError),
    /// They could not be had.
    #[error("index object: {0}")]
    Read(#[from] std::io::Error),
}

impl<R: Read> IndexReader<R> {
    /// Begins to read the decompressed index.
    ///
    /// # Errors
    /// When it does not start as an index does.
    pub fn new(mut input: R) -> Result<Self, IndexError> {
        let mut start = [0; FIXED_BYTES];
        input.read_exact(&mut start)?;
        if &start[..8] != MAGIC {
            return Err(FormatError::invalid(WHAT, "unknown mark: damaged, or written by a newer farkeep").into());
        }
        let packs_left = u32::from_le_bytes([start[8], start[9], start[10], start[11]]);
        Ok(Self { input, packs_left, bytes_left: INDEX_RAW_MAX_BYTES - FIXED_BYTES as u64 })
    }

    /// The next pack; none at the end, where nothing may follow.
    ///
    /// # Errors
    /// When the bytes are cut, go on too long, or break a limit.
    pub fn next_pack(&mut self) -> Result<Option<IndexedPack>, IndexError> {
        if self.packs_left == 0 {
            let mut end = [0; 1];
            return match self.input.read(&mut end)? {
                0 => Ok(None),
                _ => Err(FormatError::Length { what: WHAT }.into()),
            };
        }
        self.packs_left -= 1;
        let mut fixed = [0; PACK_FIXED_BYTES];
        self.input.read_exact(&mut fixed)?;
        let mut cursor = crate::format::cursor::Cursor::new(&fixed, WHAT);
        let pack = Sealed { hash: ObjectHash(cursor.array()?), bytes: cursor.u64()? };
        let (header_bytes, header_hash) = (cursor.u32()?, ObjectHash(cursor.array()?));
        let table_bytes = cursor.u32()?;
        let limits = [
            (u64::from(table_bytes), PACK_TABLE_MAX_BYTES, "pack table"),
            (u64::from(header_bytes), AGE_HEADER_MAX_BYTES + 16, "age header"),
            (pack.bytes, PACK_MAX_BYTES, "pack"),
            (u64::from(table_bytes) + PACK_FIXED_BYTES as u64, self.bytes_left, WHAT),
        ];
        for (value, limit, what) in limits {
            if value > limit {
                return Err(FormatError::Limit { what, limit }.into());
            }
        }
        self.bytes_left -= u64::from(table_bytes) + PACK_FIXED_BYTES as u64;
        let mut table = vec![0; table_bytes as usize];
        self.input.read_exact(&mut table)?;
        Ok(Some(IndexedPack { pack, header_bytes, header_hash, table: Table::decode(&table)? }))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::format::table::{PackKind, TableBlock, TableChunk};
    use crate::model::ids::ChunkId;

    fn pack(n: u8) -> IndexedPack {
        let chunk = TableChunk { id: ChunkId([n; 24]), bytes: 5 };
        let block = TableBlock { stored_bytes: 20, raw_bytes: 5, depth: 0, bases: vec![], chunks: vec![chunk] };
        IndexedPack {
            pack: Sealed { hash: ObjectHash([n; 32]), bytes: 1000 },
            header_bytes: 200,
            header_hash: ObjectHash([n + 1; 32]),
            table: Table { kind: PackKind::Data, base_packs: vec![], blocks: vec![block] },
        }
    }

    #[test]
    fn an_index_comes_back_and_cuts_are_refused() {
        let packs = [pack(1), pack(7)];
        let mut bytes = encode_start(2).unwrap_or_else(|e| panic!("{e}")).to_vec();
        for pack in &packs {
            pack.encode_into(&mut bytes).unwrap_or_else(|e| panic!("{e}"));
        }
        let read = |bytes: &[u8]| -> Result<Vec<IndexedPack>, IndexError> {
            let mut reader = IndexReader::new(bytes)?;
            let mut found = Vec::new();
            while let Some(pack) = reader.next_pack()? {
                found.push(pack);
            }
            Ok(found)
        };
        assert_eq!(read(&bytes).unwrap_or_else(|e| panic!("{e}")), packs);
        for end in 0..bytes.len() {
            assert!(read(&bytes[..end]).is_err(), "cut at {end}");
        }
        bytes.push(0);
        assert!(read(&bytes).is_err());
    }
}
