//! Parity on a drive: what mends bad sectors without a second copy and without any key.
//!
//! Objects are taken in groups; across the 4-KiB shards of a group a Reed-Solomon code gives recovery shards, any one of
//! which stands in for any lost one. Parity is never believed: what it gives back must have the hash that the object's own
//! name or an inventory promises.

use std::collections::BTreeSet;
use std::sync::atomic::{AtomicBool, Ordering};

use crate::codec::CodecError;
use crate::codec::shards::{Mender, Protector};
use crate::crypto::hash::hash;
use crate::format::inventory::Line;
use crate::model::limits::{PACK_MAX_BYTES, PARITY_GROUP_BYTES, PARITY_MAX_BYTES};
use crate::model::name::{Area, ObjectName, Sealed};
use crate::store::deliver::{RetryPolicy, deliver};
use crate::store::{PruneStore, Store, StoreError};
use crate::vault::VaultError;
use crate::vault::objects::{read_hashed, read_hashed_past_cache};
use crate::vault::presence::Presence;
use crate::vault::sweep::SWEPT;

mod layout;
mod mend;

pub use mend::{Mended, mend};

use layout::{Member, PAGE_PAYLOAD_BYTES, SHARD_BYTES, Shape, Table, checksum, decode_page, encode_page};

/// Beyond the plain share, so many standard deviations of what chance adds to the damage of one group.
const MARGIN: f64 = 3.0;
/// What a group may come to: an object is added as long as it has room, or is the first, or hardly has a size.
const GROUP_MAX_BYTES: u64 = PARITY_GROUP_BYTES + PACK_MAX_BYTES;
/// The fewest recovery shards of a group.
const RECOVERY_MIN: usize = 2;

/// What was protected.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, serde::Serialize)]
pub struct Protected {
    /// Objects that parity covers now and did not before.
    pub objects: u64,
    /// Parity objects that were made.
    pub made: u64,
    /// Their bytes.
    pub bytes: u64,
}

/// Recovery shards for a group: the share, and a margin that weighs more in small groups, since damage falls unevenly.
fn recovery_count(data: usize, permille: u32) -> usize {
    let plain = data as f64 * f64::from(permille) / 1000.0;
    ((plain + MARGIN * plain.sqrt()).ceil() as usize).max(RECOVERY_MIN)
}

/// The most bytes that parity of `bytes` more bytes takes.
#[must_use]
pub const fn room_bytes(bytes: u64, permille: u32) -> u64 {
    // A quarter more than the share for margins, one in a hundred for tables, and the last, small group.
    bytes * permille as u64 / 800 + bytes / 100 + 16 * SHARD_BYTES as u64
}

/// Makes parity for those of `lines` that no parity object covers yet, and reads it back.
///
/// Of an object that was pruned the shards are gone for good, and weaken the parity of all others of its group. So such a
/// group counts for nothing: what is left of it gets new parity, and when that lies there the old one is removed. The same
/// becomes of parity that is damaged itself, if it is one of `doubted` or has another length: the others are not read. All of
/// `lines` must be there.
///
/// # Errors
/// When the store fails or has no room, or an object is not what its line says.
pub fn protect(
    store: &dyn PruneStore,
    lines: &[Line],
    permille: u32,
    doubted: &BTreeSet<ObjectName>,
    cancel: &AtomicBool,
    told: &dyn Fn(u64),
) -> Result<Protected, VaultError> {
    store.make_dirs(&[Area::Parity.dir().to_owned()])?;
    let Covered { objects: covered, outdated, uncovered } = covered(store, lines, doubted)?;
    // What only this copy holds: the copy that it was brought up to date from does not list it.
    let wanted: BTreeSet<&ObjectName> = lines.iter().map(|line| &line.name).collect();
    let own: Vec<Line> = whole_ones(store, uncovered.into_iter().filter(|line| !wanted.contains(&line.name)))?;
    let mut protected = Protected::default();
    let mut group: Vec<&Line> = Vec::new();
    let mut group_bytes = 0;
    let mut close = |group: &mut Vec<&Line>| -> Result<(), VaultError> {
        if group.is_empty() {
            return Ok(());
        }
        let (name, bytes) = build(store, group, &|data| recovery_count(data, permille))?;
        deliver(store, &name, &bytes, RetryPolicy::DEFAULT)?;
        read_hashed_past_cache(store, &name, hash(&bytes))?;
        protected.objects += group.len() as u64;
        protected.made += 1;
        protected.bytes += bytes.len() as u64;
        group.clear();
        told(bytes.len() as u64);
        Ok(())
    };
    for line in lines.iter().chain(&own).filter(|line| !covered.contains(&line.name)) {
        if cancel.load(Ordering::Relaxed) {
            return Err(VaultError::Interrupted);
        }
        let bytes = line.name.bytes().unwrap_or(SHARD_BYTES as u64).next_multiple_of(SHARD_BYTES as u64);
        if group_bytes + bytes > PARITY_GROUP_BYTES {
            close(&mut group)?;
            group_bytes = 0;
        }
        group.push(line);
        group_bytes += bytes;
    }
    close(&mut group)?;
    for name in outdated {
        store.remove(&name)?;
    }
    Ok(protected)
}

/// Those of `lines` that can be read and are right: parity of damage would keep the damage.
fn whole_ones(store: &dyn Store, lines: impl Iterator<Item = Line>) -> Result<Vec<Line>, VaultError> {
    let mut whole = Vec::new();
    for line in lines {
        match read_hashed(store, &line.name, line.hash) {
            Ok(_) => whole.push(line),
            Err(VaultError::Store(error)) if error.is_store_wide() => return Err(error.into()),
            Err(error) => tracing::warn!(object = %line.name, %error, "gets no parity"),
        }
    }
    Ok(whole)
}

/// A file of the area of parity.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Found {
    /// Its stored name.
    pub stored: String,
    /// The object that it should be.
    pub object: Sealed,
    /// Its length.
    pub bytes: u64,
}

/// What lies in the area of parity, whole or damaged. A name that promises more than a parity object can have is none.
///
/// # Errors
/// When the store cannot be listed.
pub fn found(store: &dyn Store) -> Result<Vec<Found>, StoreError> {
    let mut found = Vec::new();
    store.list(&[Area::Parity.dir().to_owned()], &mut |listed| match ObjectName::parse_stored(&listed.name) {
        Ok((ObjectName::Parity(object), _)) if object.bytes <= PARITY_MAX_BYTES => {
            found.push(Found { stored: listed.name, object, bytes: listed.bytes });
        }
        _ => {}
    })?;
    found.sort_by(|one, other| one.stored.cmp(&other.stored));
    Ok(found)
}

/// The first `bytes` bytes of a stored object, with zeros for sectors that cannot be read: a disk that cannot read one fails
/// the whole read.
fn read_around(store: &dyn Store, stored: &str, bytes: u64) -> Result<Vec<u8>, StoreError> {
    match store.get(stored, 0, bytes) {
        Err(StoreError::Io { .. }) => {
            let mut all = Vec::new();
            for offset in (0..bytes).step_by(SHARD_BYTES) {
                let length = (bytes - offset).min(SHARD_BYTES as u64);
                let mut piece = store.get(stored, offset, length).unwrap_or_default();
                piece.resize(length as usize, 0);
                all.extend(piece);
            }
            Ok(all)
        }
        other => other,
    }
}

/// What parity there is says.
#[derive(Default)]
struct Covered {
    /// Every object that some parity object covers.
    objects: BTreeSet<ObjectName>,
    /// Parity objects that count for nothing, by stored name: damaged, or a member of them was pruned.
    outdated: Vec<String>,
    /// What those covered and lies there still.
    uncovered: BTreeSet<Line>,
}

/// Reads the tables of all parity. One of `doubted` is read whole; of the others the length alone must be right.
fn covered(store: &dyn Store, lines: &[Line], doubted: &BTreeSet<ObjectName>) -> Result<Covered, VaultError> {
    let here = Presence::read(store, &SWEPT)?;
    let wanted: BTreeSet<&ObjectName> = lines.iter().map(|line| &line.name).collect();
    let stays =
        |member: &Member| !SWEPT.contains(&member.name.area()) || wanted.contains(&member.name) || here.has(&member.name);
    let mut covered = Covered::default();
    for Found { stored, object, bytes } in found(store)? {
        let page = read_around(store, &stored, SHARD_BYTES as u64)?;
        // With its first page damaged the whole object is read; one that says nothing covers nothing.
        let head = match decode_page(&page) {
            Some((_, shape, _)) => read_around(store, &stored, (shape.recovery_at() as u64).min(object.bytes))?,
            None => read_around(store, &stored, object.bytes)?,
        };
        let table = read_table(&head);
        let is_whole = bytes == object.bytes
            && (!doubted.contains(&ObjectName::Parity(object))
                || hash(&read_around(store, &stored, object.bytes)?) == object.hash);
        match table {
            Ok((_, table)) if is_whole && table.members.iter().all(stays) => {
                covered.objects.extend(table.members.into_iter().map(|member| member.name));
            }
            Ok((_, table)) => {
                let members = table.members.into_iter().filter(stays);
                covered.uncovered.extend(members.map(|member| Line { name: member.name, hash: member.hash }));
                covered.outdated.push(stored);
            }
            Err(_) if !is_whole => covered.outdated.push(stored),
            Err(_) => {}
        }
    }
    covered.uncovered.retain(|line| !covered.objects.contains(&line.name));
    Ok(covered)
}

/// Removes those of `doubted` that are damaged indeed: where no parity is made, nothing else takes their place.
///
/// # Errors
/// When the store fails.
pub fn drop_damaged(store: &dyn PruneStore, doubted: &BTreeSet<ObjectName>) -> Result<(), VaultError> {
    for Found { stored, object, .. } in found(store)? {
        if doubted.contains(&ObjectName::Parity(object)) && hash(&read_around(store, &stored, object.bytes)?) != object.hash
        {
            store.remove(&stored)?;
        }
    }
    Ok(())
}

/// The parity object of a group, with as many recovery shards as `recovery` says for so many of data.
fn build(
    store: &dyn Store,
    group: &[&Line],
    recovery: &dyn Fn(usize) -> usize,
) -> Result<(ObjectName, Vec<u8>), VaultError> {
    let mut table = Table::default();
    let mut shards: Vec<u8> = Vec::new();
    for line in group {
        let bytes = read_hashed(store, &line.name, line.hash)?;
        table.members.push(Member { name: line.name.clone(), hash: line.hash, bytes: bytes.len() as u64 });
        shards.extend(&bytes);
        shards.resize(shards.len().next_multiple_of(SHARD_BYTES), 0);
        if shards.len() as u64 > GROUP_MAX_BYTES {
            return Err(VaultError::damaged(&line.name, "its group of parity is larger than one can be"));
        }
    }
    let data = shards.len() / SHARD_BYTES;
    let recovery = recovery(data);
    let mut protector = Protector::new(data, recovery, SHARD_BYTES).map_err(internal)?;
    for shard in shards.chunks(SHARD_BYTES) {
        table.data.push(checksum(shard));
        protector.add(shard).map_err(internal)?;
    }
    drop(shards);
    let made = protector.finish().map_err(internal)?;
    table.recovery = made.iter().map(|shard| checksum(shard)).collect();
    let text = table.encode().map_err(VaultError::internal)?;
    let pages = text.len().div_ceil(PAGE_PAYLOAD_BYTES);
    let shape = Shape { pages, recovery, data, table_bytes: text.len() };
    let mut object = Vec::with_capacity(shape.recovery_at() + recovery * SHARD_BYTES);
    let mut of_table = Protector::new(pages, pages, PAGE_PAYLOAD_BYTES).map_err(internal)?;
    for (index, payload) in text.chunks(PAGE_PAYLOAD_BYTES).enumerate() {
        let mut payload = payload.to_vec();
        payload.resize(PAGE_PAYLOAD_BYTES, 0);
        of_table.add(&payload).map_err(internal)?;
        object.extend(encode_page(index, &shape, &payload).map_err(VaultError::internal)?);
    }
    for (index, payload) in of_table.finish().map_err(internal)?.iter().enumerate() {
        object.extend(encode_page(pages + index, &shape, payload).map_err(VaultError::internal)?);
    }
    made.iter().for_each(|shard| object.extend(shard));
    let name = ObjectName::Parity(Sealed { hash: hash(&object), bytes: object.len() as u64 });
    Ok((name, object))
}

/// The shape and table of a parity object, which may be damaged itself.
fn read_table(object: &[u8]) -> Result<(Shape, Table), String> {
    let mut pages = object.chunks(SHARD_BYTES).filter_map(decode_page);
    let Some((_, shape, _)) = pages.next() else { return Err("none of its pages is whole".into()) };
    let mut mender = Mender::new(shape.pages, shape.pages, PAGE_PAYLOAD_BYTES).map_err(|e| e.to_string())?;
    let mut whole: Vec<Option<Vec<u8>>> = vec![None; shape.pages];
    for (place, page) in object.chunks(SHARD_BYTES).take(2 * shape.pages).enumerate() {
        let Some((index, same, payload)) = decode_page(page) else { continue };
        if index != place || same != shape {
            continue;
        }
        let added = match index.checked_sub(shape.pages) {
            None => {
                whole[index] = Some(payload.to_vec());
                mender.add(index, payload)
            }
            Some(recovery) => mender.add_recovery(recovery, payload),
        };
        added.map_err(|e| e.to_string())?;
    }
    for (index, payload) in mender.finish().map_err(|e| format!("its table cannot be mended: {e}"))? {
        whole[index] = Some(payload);
    }
    let mut text: Vec<u8> = whole.into_iter().flatten().flatten().collect();
    text.truncate(shape.table_bytes);
    Table::decode(&text, &shape).map(|table| (shape, table)).map_err(|e| e.to_string())
}

fn internal(error: CodecError) -> VaultError {
    VaultError::internal(error)
}
