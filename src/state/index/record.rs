//! What the index keeps of one pack, as bytes: a part that never changes, and the number of the index object that lists it.
//! Each has its checksum, and each says whose it is, so that a record in another's place is none.

use super::PackNumber;
use crate::crypto::hash::{CHECKSUM_BYTES, checksum};
use crate::format::FormatError;
use crate::format::cursor::Cursor;
use crate::format::table::PackKind;
use crate::model::ids::ObjectHash;
use crate::model::name::Sealed;

const WHAT: &str = "pack record";
/// Number, hash, size, header length, header hash, place and length of the table, its checksum, kind.
const FIXED_BYTES: usize = 4 + 32 + 8 + 4 + 32 + 8 + 4 + CHECKSUM_BYTES + 4;
/// Where the number of the index object stands.
pub const OBJECT_AT: usize = FIXED_BYTES + CHECKSUM_BYTES;
/// That number and its checksum.
const OBJECT_BYTES: usize = 4 + CHECKSUM_BYTES;
pub const RECORD_BYTES: usize = OBJECT_AT + OBJECT_BYTES;
/// Listed by no index object yet.
const NO_OBJECT: u32 = u32::MAX;

/// What is known of one pack.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct PackInfo {
    /// Its hash and size.
    pub pack: Sealed,
    /// Length of its age header, nonce included.
    pub header_bytes: u32,
    /// BLAKE3 of that header.
    pub header_hash: ObjectHash,
    /// What it holds.
    pub kind: PackKind,
    /// Length of its table.
    pub table_bytes: u32,
    /// The index object that lists it, by number.
    pub(super) object: Option<u32>,
    /// Where its table begins.
    pub(super) table_at: u64,
    /// Checksum of its table.
    pub(super) table_sum: [u8; CHECKSUM_BYTES],
}

impl PackInfo {
    /// What stands in the place of a pack that was forgotten. Nobody is shown it.
    pub(super) const GONE: Self = Self {
        pack: Sealed { hash: ObjectHash([0; 32]), bytes: 0 },
        header_bytes: 0,
        header_hash: ObjectHash([0; 32]),
        kind: PackKind::Data,
        table_bytes: 0,
        object: None,
        table_at: 0,
        table_sum: [0; CHECKSUM_BYTES],
    };

    /// Whether it was forgotten.
    pub(super) fn is_gone(&self) -> bool {
        self.pack == Self::GONE.pack
    }

    /// The record of the pack with this number.
    pub(super) fn encode(&self, number: PackNumber) -> Vec<u8> {
        let mut record = Vec::with_capacity(RECORD_BYTES);
        record.extend_from_slice(&number.to_le_bytes());
        record.extend_from_slice(&self.pack.hash.0);
        record.extend_from_slice(&self.pack.bytes.to_le_bytes());
        record.extend_from_slice(&self.header_bytes.to_le_bytes());
        record.extend_from_slice(&self.header_hash.0);
        record.extend_from_slice(&self.table_at.to_le_bytes());
        record.extend_from_slice(&self.table_bytes.to_le_bytes());
        record.extend_from_slice(&self.table_sum);
        record.extend_from_slice(&(self.kind as u32).to_le_bytes());
        let sum = checksum(&record);
        record.extend_from_slice(&sum);
        record.extend_from_slice(&encode_object(number, self.object));
        record
    }

    /// The inverse.
    pub(super) fn decode(record: &[u8], number: PackNumber) -> Result<Self, FormatError> {
        let damaged = || FormatError::invalid(WHAT, format!("damaged: number {number}"));
        let (fixed, rest) = record.split_at_checked(FIXED_BYTES).ok_or_else(damaged)?;
        let (sum, object) = rest.split_first_chunk::<CHECKSUM_BYTES>().ok_or_else(damaged)?;
        if checksum(fixed) != *sum {
            return Err(damaged());
        }
        let mut cursor = Cursor::new(fixed, WHAT);
        if cursor.u32()? != number {
            return Err(damaged());
        }
        let pack = Sealed { hash: ObjectHash(cursor.array()?), bytes: cursor.u64()? };
        let (header_bytes, header_hash) = (cursor.u32()?, ObjectHash(cursor.array()?));
        let (table_at, table_bytes, table_sum) = (cursor.u64()?, cursor.u32()?, cursor.array()?);
        let kind = match cursor.u32()? {
            0 => PackKind::Data,
            1 => PackKind::Catalogue,
            2 => PackKind::Patch,
            _ => return Err(damaged()),
        };
        let object = decode_object(number, object).ok_or_else(damaged)?;
        Ok(Self { pack, header_bytes, header_hash, kind, table_bytes, object, table_at, table_sum })
    }
}

/// What stands at [`OBJECT_AT`].
pub fn encode_object(number: PackNumber, object: Option<u32>) -> [u8; OBJECT_BYTES] {
    let object = object.unwrap_or(NO_OBJECT).to_le_bytes();
    let mut named = [0; 8];
    named[..4].copy_from_slice(&number.to_le_bytes());
    named[4..].copy_from_slice(&object);
    let mut bytes = [0; OBJECT_BYTES];
    bytes[..4].copy_from_slice(&object);
    bytes[4..].copy_from_slice(&checksum(&named));
    bytes
}

fn decode_object(number: PackNumber, bytes: &[u8]) -> Option<Option<u32>> {
    let object = u32::from_le_bytes(*bytes.first_chunk()?);
    let object = Some(object).filter(|object| *object != NO_OBJECT);
    (encode_object(number, object) == bytes).then_some(object)
}
