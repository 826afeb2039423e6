//! The age plaintext of a pack: `skippable(table) | block | block | ... | skippable(padding)`.

use crate::format::FormatError;
use crate::format::frame::{SKIPPABLE_HEADER_BYTES, TABLE_MAGIC, check_padding, skippable_length};
use crate::format::table::Table;
use crate::model::limits::{PACK_CLASS_BYTES, PACK_TABLE_MAX_BYTES};

const WHAT: &str = "pack";

/// Where each block of a pack lies in its age plaintext.
#[must_use]
pub fn block_offsets(table: &Table) -> Vec<u64> {
    let mut offset = (SKIPPABLE_HEADER_BYTES + table.encoded_bytes()) as u64;
    table
        .blocks
        .iter()
        .map(|block| {
            let start = offset;
            offset += u64::from(block.stored_bytes);
            start
        })
        .collect()
}

/// Reads the table from the beginning of a pack's plaintext.
///
/// # Errors
/// When no table of the format stands there.
pub fn read_table(plaintext: &[u8]) -> Result<Table, FormatError> {
    let length = skippable_length(plaintext, TABLE_MAGIC)?;
    if length as u64 > PACK_TABLE_MAX_BYTES {
        return Err(FormatError::Limit { what: "pack table", limit: PACK_TABLE_MAX_BYTES });
    }
    let table = plaintext.get(SKIPPABLE_HEADER_BYTES..SKIPPABLE_HEADER_BYTES + length);
    Table::decode(table.ok_or(FormatError::Length { what: WHAT })?)
}

/// Checks the outer shape of a whole pack: its table, the room of its blocks, its padding.
///
/// # Errors
/// When one of them is not as the format says.
pub fn check_plaintext(plaintext: &[u8]) -> Result<Table, FormatError> {
    if plaintext.len() as u64 > PACK_CLASS_BYTES {
        return Err(FormatError::Limit { what: WHAT, limit: PACK_CLASS_BYTES });
    }
    let table = read_table(plaintext)?;
    let end = match (block_offsets(&table).last(), table.blocks.last()) {
        (Some(offset), Some(block)) => offset + u64::from(block.stored_bytes),
        _ => (SKIPPABLE_HEADER_BYTES + table.encoded_bytes()) as u64,
    };
    let end = usize::try_from(end).map_err(|_| FormatError::Length { what: WHAT })?;
    check_padding(plaintext.get(end..).ok_or(FormatError::Length { what: WHAT })?)?;
    Ok(table)
}
