//! Between the vault's index objects and the local index: reading those that are missing here, writing those that are
//! missing there.

use std::io::{self, BufRead, BufReader, Read, Write};

use crate::crypto::identity::Identity;
use crate::crypto::open::open_reader;
use crate::crypto::seal::{Recipient, SealedBytes, seal_stream};
use crate::format::frame::{declared_size, padded_size, padding};
use crate::format::index::{FIXED_BYTES, IndexReader, PACK_FIXED_BYTES, encode_start};
use crate::model::limits::{INDEX_RAW_MAX_BYTES, MIB, SEALED_MIN_BYTES, ZSTD_WINDOW_LOG_MAX};
use crate::model::name::{ObjectName, Sealed};
use crate::state::StateError;
use crate::state::index::{ChunkIndex, PackNumber};
use crate::store::Store;
use crate::vault::objects::read_object;
use crate::vault::{VaultError, in_object};

/// An index object is begun anew when its tables reach this size: some two million chunks.
pub const OBJECT_TARGET_BYTES: u64 = 56 * MIB;
/// zstd level for tables: ids do not compress, lengths and the rest do.
const LEVEL: i32 = 3;

/// Reads the index object `name` from `store` into the local index, unless its packs are there already.
///
/// # Errors
/// When it is missing or damaged, or `identities` do not open it.
pub fn import(index: &mut ChunkIndex, store: &dyn Store, name: &Sealed, identities: &[Identity]) -> Result<(), VaultError> {
    if index.covers(name) {
        return Ok(());
    }
    let numbers = add_packs(index, store, name, identities)?;
    index.set_object(name, &numbers)?;
    Ok(())
}

/// Reads the index object of another agent, which this one's index identity does not open, with identities that do. Its packs
/// count as listed by no object: the next push that needs them lists them again, for this agent.
///
/// # Errors
/// As [`import`].
pub fn take_over(
    index: &mut ChunkIndex,
    store: &dyn Store,
    name: &Sealed,
    identities: &[Identity],
) -> Result<(), VaultError> {
    add_packs(index, store, name, identities)?;
    index.set_object(name, &[])?;
    Ok(())
}

fn add_packs(
    index: &mut ChunkIndex,
    store: &dyn Store,
    name: &Sealed,
    identities: &[Identity],
) -> Result<Vec<PackNumber>, VaultError> {
    let object = ObjectName::Index(*name);
    let bytes = read_object(store, &object)?;
    let mut numbers = Vec::new();
    read_tables(&bytes, identities, &object, &mut |pack| {
        numbers.push(index.add_pack(&pack)?);
        Ok(())
    })?;
    Ok(numbers)
}

/// Hands every pack that an index object lists to `each`.
///
/// # Errors
/// When the object is damaged or no identity opens it.
pub fn read_tables(
    bytes: &[u8],
    identities: &[Identity],
    object: &ObjectName,
    each: &mut dyn FnMut(crate::format::index::IndexedPack) -> Result<(), VaultError>,
) -> Result<(), VaultError> {
    let damaged = |e: io::Error| VaultError::damaged(object, e);
    let mut plain = BufReader::with_capacity(1 << 17, open_reader(bytes, identities).map_err(in_object(object))?);
    let declared = declared_size(plain.fill_buf().map_err(damaged)?).map_err(in_object(object))?;
    if declared > INDEX_RAW_MAX_BYTES {
        return Err(VaultError::damaged(object, "tables over the limit"));
    }
    let mut decoder = zstd::stream::read::Decoder::with_buffer(plain).map_err(damaged)?.single_frame();
    decoder.window_log_max(ZSTD_WINDOW_LOG_MAX).map_err(damaged)?;
    let mut reader = IndexReader::new(decoder.take(declared + 1)).map_err(in_object(object))?;
    while let Some(pack) = reader.next_pack().map_err(in_object(object))? {
        each(pack)?;
    }
    Ok(())
}

/// Seals an index object that lists `packs`, from what the local index knows of them.
///
/// # Errors
/// When the local index cannot be read, or sealing fails.
pub fn seal_index(index: &ChunkIndex, packs: &[PackNumber], recipients: &[Recipient]) -> Result<SealedBytes, VaultError> {
    let mut raw_bytes = FIXED_BYTES as u64;
    for pack in packs {
        raw_bytes += entry_bytes(index, *pack)?;
    }
    let mut failure = None;
    let sealed = seal_stream(recipients, &mut |output| {
        let mut counted = Counted { inner: output, bytes: 0 };
        write_tables(index, packs, raw_bytes, &mut counted).map_err(|error| {
            let text = error.to_string();
            failure = Some(error);
            io::Error::other(text)
        })?;
        let fill = padding(counted.bytes, padded_size(counted.bytes, SEALED_MIN_BYTES)).map_err(io::Error::other)?;
        counted.write_all(&fill)
    });
    match (sealed, failure) {
        (_, Some(error)) => Err(error),
        (sealed, None) => sealed.map_err(VaultError::internal),
    }
}

/// What a pack takes in an index object.
///
/// # Errors
/// When the local index cannot be read.
pub fn entry_bytes(index: &ChunkIndex, pack: PackNumber) -> Result<u64, StateError> {
    Ok(PACK_FIXED_BYTES as u64 + u64::from(index.pack(pack)?.table_bytes))
}

fn write_tables(index: &ChunkIndex, packs: &[PackNumber], raw_bytes: u64, output: &mut dyn Write) -> Result<(), VaultError> {
    let internal = |e: io::Error| VaultError::internal(e);
    let mut encoder = zstd::stream::write::Encoder::new(output, LEVEL).map_err(internal)?;
    encoder.include_checksum(true).map_err(internal)?;
    encoder.include_contentsize(true).map_err(internal)?;
    encoder.set_pledged_src_size(Some(raw_bytes)).map_err(internal)?;
    encoder.write_all(&encode_start(packs.len()).map_err(VaultError::internal)?).map_err(internal)?;
    for pack in packs {
        let info = index.pack(*pack)?;
        let table = index.table_as_stored(&info)?;
        let mut fixed = Vec::with_capacity(PACK_FIXED_BYTES);
        fixed.extend_from_slice(&info.pack.hash.0);
        fixed.extend_from_slice(&info.pack.bytes.to_le_bytes());
        fixed.extend_from_slice(&info.header_bytes.to_le_bytes());
        fixed.extend_from_slice(&info.header_hash.0);
        fixed.extend_from_slice(&info.table_bytes.to_le_bytes());
        encoder.write_all(&fixed).map_err(internal)?;
        encoder.write_all(&table).map_err(internal)?;
    }
    encoder.finish().map_err(internal)?;
    Ok(())
}

struct Counted<'a> {
    inner: &'a mut dyn Write,
    bytes: u64,
}

impl Write for Counted<'_> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let count = self.inner.write(bytes)?;
        self.bytes += count as u64;
        Ok(count)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.inner.flush()
    }
}
