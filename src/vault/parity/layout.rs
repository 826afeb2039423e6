//! A parity object: what mends damage to a group of objects on a drive, and to itself.
//!
//! Everything lies in stretches of 4 KiB, as disks lose them: pages with the table of what the group holds, as many pages
//! that mend the table, then recovery shards that mend the objects. FORMAT.md, "Parity".

use crate::crypto::hash::hash;
use crate::format::FormatError;
use crate::format::cursor::Cursor;
use crate::model::ids::ObjectHash;
use crate::model::name::ObjectName;

/// A shard, and a page: what a disk loses at once, or a multiple of it.
pub const SHARD_BYTES: usize = 4096;
/// What a page holds of the table.
pub const PAGE_PAYLOAD_BYTES: usize = SHARD_BYTES - PAGE_HEAD_BYTES;
/// Shards of one group, data and recovery together: what the code can do.
pub const SHARDS_MAX: usize = 1 << 16;
const PAGE_HEAD_BYTES: usize = 64;
const HASH_AT: usize = 32;
const MAGIC: &[u8; 8] = b"FKPARIT1";
const WHAT: &str = "parity object";
/// Enough to tell a damaged shard from a right one; the object's own hash decides in the end.
pub type Checksum = [u8; 8];

/// The checksum of a shard.
#[must_use]
pub fn checksum(shard: &[u8]) -> Checksum {
    let mut sum = Checksum::default();
    sum.copy_from_slice(&hash(shard).0[..8]);
    sum
}

/// An object of a group.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Member {
    /// Its name.
    pub name: ObjectName,
    /// BLAKE3 of its bytes.
    pub hash: ObjectHash,
    /// Their number.
    pub bytes: u64,
}

impl Member {
    /// Shards that it fills; the last is padded with zeros.
    #[must_use]
    pub const fn shards(&self) -> usize {
        (self.bytes as usize).div_ceil(SHARD_BYTES)
    }
}

/// What a parity object says of its group.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Table {
    /// The objects, in the order of their shards.
    pub members: Vec<Member>,
    /// Of each data shard.
    pub data: Vec<Checksum>,
    /// Of each recovery shard.
    pub recovery: Vec<Checksum>,
}

/// The numbers that every page repeats.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Shape {
    /// Pages of the table; as many more mend them.
    pub pages: usize,
    /// Recovery shards behind them.
    pub recovery: usize,
    /// Data shards of the group.
    pub data: usize,
    /// Bytes of the table.
    pub table_bytes: usize,
}

impl Shape {
    /// Where the recovery shards begin.
    #[must_use]
    pub const fn recovery_at(&self) -> usize {
        2 * self.pages * SHARD_BYTES
    }
}

impl Table {
    /// The table's bytes.
    ///
    /// # Errors
    /// When a name is too long.
    pub fn encode(&self) -> Result<Vec<u8>, FormatError> {
        let mut bytes = (self.members.len() as u32).to_le_bytes().to_vec();
        for member in &self.members {
            let name = member.name.to_string();
            let length = u16::try_from(name.len()).map_err(|_| FormatError::Length { what: WHAT })?;
            bytes.extend(length.to_le_bytes());
            bytes.extend(name.as_bytes());
            bytes.extend(member.bytes.to_le_bytes());
            bytes.extend(member.hash.0);
        }
        self.data.iter().chain(&self.recovery).for_each(|sum| bytes.extend(sum));
        Ok(bytes)
    }

    /// Reads a table of a group of this shape.
    ///
    /// # Errors
    /// When it is not one.
    pub fn decode(bytes: &[u8], shape: &Shape) -> Result<Self, FormatError> {
        let mut cursor = Cursor::new(bytes, WHAT);
        let count = cursor.u32()? as usize;
        let mut table = Self::default();
        for _ in 0..count {
            let length = usize::from(cursor.u16()?);
            let name = std::str::from_utf8(cursor.take(length)?).map_err(|e| FormatError::invalid(WHAT, e))?;
            let name = name.parse().map_err(|e| FormatError::invalid(WHAT, e))?;
            let bytes = cursor.u64()?;
            table.members.push(Member { name, bytes, hash: ObjectHash(cursor.array()?) });
        }
        let limit = (SHARDS_MAX * SHARD_BYTES) as u64;
        let fits = table.members.iter().all(|member| member.bytes <= limit)
            && table.members.iter().map(Member::shards).sum::<usize>() == shape.data;
        if !fits {
            return Err(FormatError::invalid(WHAT, "its objects do not fill its shards"));
        }
        for _ in 0..shape.data {
            table.data.push(cursor.array()?);
        }
        for _ in 0..shape.recovery {
            table.recovery.push(cursor.array()?);
        }
        cursor.finish()?;
        Ok(table)
    }
}

/// Makes a page.
///
/// # Errors
/// When the payload is too long.
pub fn encode_page(index: usize, shape: &Shape, payload: &[u8]) -> Result<Vec<u8>, FormatError> {
    if payload.len() > PAGE_PAYLOAD_BYTES {
        return Err(FormatError::Length { what: WHAT });
    }
    let mut page = MAGIC.to_vec();
    for number in [index, shape.pages, shape.recovery, shape.data] {
        let number = u32::try_from(number).map_err(|_| FormatError::Length { what: WHAT })?;
        page.extend(number.to_le_bytes());
    }
    page.extend((shape.table_bytes as u64).to_le_bytes());
    page.extend([0; 32]);
    page.extend(payload);
    page.resize(SHARD_BYTES, 0);
    let sum = hash(&page);
    page[HASH_AT..HASH_AT + 32].copy_from_slice(&sum.0);
    Ok(page)
}

/// Reads a page; none when it is damaged, or no page.
#[must_use]
pub fn decode_page(page: &[u8]) -> Option<(usize, Shape, &[u8])> {
    if page.len() != SHARD_BYTES || !page.starts_with(MAGIC) {
        return None;
    }
    let mut blank = page.to_vec();
    blank[HASH_AT..HASH_AT + 32].fill(0);
    if hash(&blank).0 != page[HASH_AT..HASH_AT + 32] {
        return None;
    }
    let mut cursor = Cursor::new(&page[MAGIC.len()..], WHAT);
    let mut number = || cursor.u32().ok().map(|n| n as usize);
    let (index, pages, recovery, data) = (number()?, number()?, number()?, number()?);
    let table_bytes = usize::try_from(cursor.u64().ok()?).ok()?;
    let sound = index < 2 * pages
        && pages <= SHARDS_MAX / 2
        && data.checked_add(recovery).is_some_and(|sum| sum <= SHARDS_MAX)
        && table_bytes <= pages * PAGE_PAYLOAD_BYTES;
    sound.then(|| (index, Shape { pages, recovery, data, table_bytes }, &page[PAGE_HEAD_BYTES..]))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::name::Sealed;

    #[test]
    fn tables_and_pages_come_back_and_a_flipped_bit_is_seen() {
        let member = |n: u8, bytes| {
            let hash = ObjectHash([n; 32]);
            Member { name: ObjectName::Pack(Sealed { hash, bytes }), hash, bytes }
        };
        let members = vec![member(1, 4096), member(2, 4097), member(3, 1)];
        let table = Table { members, data: vec![[1; 8]; 4], recovery: vec![[2; 8]; 2] };
        let bytes = table.encode().unwrap_or_else(|e| panic!("{e}"));
        let shape = Shape { pages: 1, recovery: 2, data: 4, table_bytes: bytes.len() };
        assert_eq!(Table::decode(&bytes, &shape), Ok(table));
        assert!(Table::decode(&bytes, &Shape { data: 5, ..shape }).is_err());
        assert!(Table::decode(&bytes[..bytes.len() - 1], &shape).is_err());

        let page = encode_page(1, &shape, &bytes).unwrap_or_else(|e| panic!("{e}"));
        let read = decode_page(&page).map(|(index, read, payload)| (index, read, payload[..bytes.len()].to_vec()));
        assert_eq!(read, Some((1, shape, bytes)));
        for at in [0, 9, 40, 70, 4095] {
            let mut wrong = page.clone();
            wrong[at] ^= 1;
            assert_eq!(decode_page(&wrong), None, "byte {at}");
        }
    }
}
