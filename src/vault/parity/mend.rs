//! Bringing damaged objects back from the parity beside them.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::atomic::{AtomicBool, Ordering};

use super::layout::{Member, SHARD_BYTES, Shape, Table, checksum};
use super::{Found, build, found, read_around, read_table};
use crate::codec::shards::Mender;
use crate::crypto::hash::hash;
use crate::format::inventory::Line;
use crate::model::ids::ObjectHash;
use crate::model::limits::SUFFIX_MAX;
use crate::model::name::ObjectName;
use crate::store::deliver::{RetryPolicy, deliver};
use crate::store::{Store, WriteOnceStore};
use crate::vault::VaultError;
use crate::vault::objects::read_hashed_past_cache;

/// What was mended.
#[derive(Debug, Clone, Default)]
pub struct Mended {
    /// Objects that are whole again, with how many 4-KiB shards of them were lost.
    pub objects: BTreeMap<ObjectName, u64>,
    /// Objects that are not, with why.
    pub lost: BTreeMap<ObjectName, String>,
}

impl Mended {
    /// Puts what was brought back beside what is damaged, and reads it back. For want of room or of a name it stays lost: what
    /// was found is to be told all the same.
    fn put(&mut self, store: &dyn WriteOnceStore, name: ObjectName, bytes: &[u8], shards: u64) -> Result<(), VaultError> {
        let put = deliver(store, &name, bytes, RetryPolicy::DEFAULT).map_err(VaultError::from);
        match put.and_then(|_| read_hashed_past_cache(store, &name, hash(bytes))) {
            Ok(_) => {
                self.objects.insert(name, shards);
            }
            Err(VaultError::Store(error)) if error.is_store_wide() => return Err(error.into()),
            Err(error) => {
                self.lost.insert(name, error.to_string());
            }
        }
        Ok(())
    }
}

/// Mends the objects of `damaged`, which maps their names to the hash that they must have, parity itself last. The good bytes
/// lie under a suffix where the damaged ones have the name; nothing is removed.
///
/// # Errors
/// When the store is out of reach.
pub fn mend(
    store: &dyn WriteOnceStore,
    damaged: &BTreeMap<ObjectName, ObjectHash>,
    cancel: &AtomicBool,
) -> Result<Mended, VaultError> {
    let mut mended = Mended::default();
    let is_parity = |name: &ObjectName| matches!(name, ObjectName::Parity(_));
    let parity = if damaged.keys().all(is_parity) { Vec::new() } else { found(store)? };
    for Found { stored, object, .. } in parity {
        if cancel.load(Ordering::Relaxed) {
            return Err(VaultError::Interrupted);
        }
        let object = match read_around(store, &stored, object.bytes) {
            Ok(object) => object,
            Err(error) if error.is_store_wide() => return Err(error.into()),
            Err(_) => continue,
        };
        let Ok((shape, table)) = read_table(&object) else { continue };
        let wanted: BTreeSet<ObjectName> = table
            .members
            .iter()
            .map(|member| &member.name)
            .filter(|name| damaged.contains_key(*name) && !mended.objects.contains_key(*name))
            .cloned()
            .collect();
        if wanted.is_empty() {
            continue;
        }
        match mend_group(store, &shape, &table, &object, &wanted)? {
            Ok(found) => {
                for (name, (bytes, shards)) in found {
                    match damaged.get(&name) {
                        Some(expected) if hash(&bytes) == *expected => mended.put(store, name, &bytes, shards)?,
                        _ => drop(mended.lost.insert(name, "what parity gives back is not the object".into())),
                    }
                }
            }
            Err(why) => mended.lost.extend(wanted.into_iter().map(|name| (name, why.clone()))),
        }
    }
    for name in damaged.keys().filter(|name| is_parity(name)) {
        match remake(store, name)? {
            Ok((bytes, shards)) => mended.put(store, name.clone(), &bytes, shards)?,
            Err(why) => drop(mended.lost.insert(name.clone(), why)),
        }
    }
    let uncovered = damaged.keys().filter(|name| !mended.objects.contains_key(*name)).cloned().collect::<Vec<_>>();
    for name in uncovered {
        mended.lost.entry(name).or_insert_with(|| "no parity covers it".into());
    }
    mended.lost.retain(|name, _| !mended.objects.contains_key(name));
    Ok(mended)
}

/// A parity object made anew from what it covers, with how many shards of it were damaged; or why that cannot be.
fn remake(store: &dyn Store, name: &ObjectName) -> Result<Result<(Vec<u8>, u64), String>, VaultError> {
    let mut lost = "nothing is left of its table".to_owned();
    for Found { stored, object, .. } in found(store)?.into_iter().filter(|found| ObjectName::Parity(found.object) == *name) {
        let damaged = match read_around(store, &stored, object.bytes) {
            Ok(bytes) => bytes,
            Err(error) if error.is_store_wide() => return Err(error.into()),
            Err(_) => continue,
        };
        let Ok((shape, table)) = read_table(&damaged) else { continue };
        let lines: Vec<Line> =
            table.members.into_iter().map(|member| Line { name: member.name, hash: member.hash }).collect();
        let group: Vec<&Line> = lines.iter().collect();
        match build(store, &group, &|_| shape.recovery) {
            Ok((made, bytes)) if made == *name => {
                let same = bytes.chunks(SHARD_BYTES).zip(damaged.chunks(SHARD_BYTES)).filter(|(one, other)| one == other);
                let wrong = bytes.len().div_ceil(SHARD_BYTES) - same.count();
                return Ok(Ok((bytes, wrong as u64)));
            }
            Ok(_) => lost = "what it covers gives another one".into(),
            Err(VaultError::Store(error)) if error.is_store_wide() => return Err(error.into()),
            Err(error) => lost = format!("what it covers is not whole: {error}"),
        }
    }
    Ok(Err(lost))
}

/// Objects that were brought back, with how many of their shards were lost; or why the group cannot be mended.
type Brought = Result<BTreeMap<ObjectName, (Vec<u8>, u64)>, String>;

fn mend_group(
    store: &dyn Store,
    shape: &Shape,
    table: &Table,
    object: &[u8],
    wanted: &BTreeSet<ObjectName>,
) -> Result<Brought, VaultError> {
    let mut mender = match Mender::new(shape.data, shape.recovery, SHARD_BYTES) {
        Ok(mender) => mender,
        Err(error) => return Ok(Err(error.to_string())),
    };
    let mut kept: BTreeMap<ObjectName, (usize, Vec<Option<Vec<u8>>>)> = BTreeMap::new();
    let (mut first, mut lost) = (0, 0);
    for member in &table.members {
        let sums = &table.data[first..first + member.shards()];
        let shards = right_shards(store, member, sums)?;
        for (place, shard) in shards.iter().enumerate() {
            match shard {
                Some(shard) => {
                    if let Err(error) = mender.add(first + place, shard) {
                        return Ok(Err(error.to_string()));
                    }
                }
                None => lost += 1,
            }
        }
        if wanted.contains(&member.name) {
            kept.insert(member.name.clone(), (first, shards));
        }
        first += member.shards();
    }
    let mut recoveries = 0;
    let area = object.get(shape.recovery_at()..).unwrap_or_default();
    for (index, (shard, sum)) in area.chunks_exact(SHARD_BYTES).zip(&table.recovery).enumerate() {
        if checksum(shard) == *sum {
            recoveries += 1;
            if let Err(error) = mender.add_recovery(index, shard) {
                return Ok(Err(error.to_string()));
            }
        }
    }
    if lost > recoveries {
        return Ok(Err(format!("{lost} of its group's {} shards are lost, and parity mends {recoveries}", shape.data)));
    }
    let restored = match mender.finish() {
        Ok(restored) => restored,
        Err(error) => return Ok(Err(error.to_string())),
    };
    let mut brought = BTreeMap::new();
    for member in &table.members {
        let Some((first, shards)) = kept.remove(&member.name) else { continue };
        let gone = shards.iter().filter(|shard| shard.is_none()).count() as u64;
        let whole = shards.into_iter().enumerate().flat_map(|(place, shard)| {
            shard.or_else(|| restored.get(&(first + place)).cloned()).unwrap_or_else(|| vec![0; SHARD_BYTES])
        });
        let mut bytes: Vec<u8> = whole.collect();
        bytes.truncate(member.bytes as usize);
        brought.insert(member.name.clone(), (bytes, gone));
    }
    Ok(Ok(brought))
}

/// The shards of a member that are right, in whichever of its copies.
fn right_shards(store: &dyn Store, member: &Member, sums: &[[u8; 8]]) -> Result<Vec<Option<Vec<u8>>>, VaultError> {
    let mut right: Vec<Option<Vec<u8>>> = vec![None; member.shards()];
    for suffix in 0..=SUFFIX_MAX {
        let bytes = match read_around(store, &member.name.with_suffix(suffix), member.bytes) {
            Ok(bytes) => bytes,
            Err(error) if error.is_store_wide() => return Err(error.into()),
            Err(_) => continue,
        };
        for ((shard, slot), sum) in bytes.chunks(SHARD_BYTES).zip(&mut right).zip(sums) {
            if slot.is_none() {
                let mut shard = shard.to_vec();
                shard.resize(SHARD_BYTES, 0);
                *slot = Some(shard).filter(|shard| checksum(shard) == *sum);
            }
        }
        if right.iter().all(Option::is_some) {
            break;
        }
    }
    Ok(right)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::name::Sealed;
    use crate::store::memory::MemoryStore;
    use crate::vault::parity::protect;

    /// Bytes that repeat nowhere.
    fn noise(seed: u64, bytes: usize) -> Vec<u8> {
        let mut state = seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1;
        let mut next = || {
            state ^= state << 13;
            state ^= state >> 7;
            state ^= state << 17;
            state
        };
        (0..bytes.div_ceil(8)).flat_map(|_| next().to_le_bytes()).take(bytes).collect()
    }

    fn filled(sizes: &[usize]) -> (MemoryStore, Vec<Line>) {
        let store = MemoryStore::new();
        let lines = sizes.iter().enumerate().map(|(seed, size)| {
            let content = noise(seed as u64 + 1, *size);
            let hash = hash(&content);
            let name = ObjectName::Pack(Sealed { hash, bytes: content.len() as u64 });
            store.tamper(|objects| objects.insert(name.to_string(), content));
            Line { name, hash }
        });
        let lines = lines.collect();
        (store, lines)
    }

    fn damaged(lines: &[Line]) -> BTreeMap<ObjectName, ObjectHash> {
        lines.iter().map(|line| (line.name.clone(), line.hash)).collect()
    }

    #[test]
    fn four_percent_of_random_damage_is_mended_byte_for_byte_and_twenty_is_not() {
        for (percent, whole) in [(4_u64, true), (20, false)] {
            let (store, lines) = filled(&[5_000_000, 1, 70_000, 4096, 2_000_000]);
            let never = AtomicBool::new(false);
            let made = protect(&store, &lines, 50, &BTreeSet::new(), &never, &|_| {}).unwrap_or_else(|e| panic!("{e}"));
            assert_eq!((made.objects, made.made), (5, 1));
            assert!(made.bytes < 7_100_000 / 12, "{} bytes", made.bytes);
            assert_eq!(protect(&store, &lines, 50, &BTreeSet::new(), &never, &|_| {}).map(|made| made.made).ok(), Some(0));

            // Parity is not spared.
            let mut dice = noise(percent, 8 * 4000).into_iter().step_by(2).collect::<Vec<u8>>().into_iter();
            store.tamper(|objects| {
                for content in objects.values_mut() {
                    for shard in content.chunks_mut(SHARD_BYTES) {
                        let roll = u64::from(dice.next().unwrap_or(0)) << 8 | u64::from(dice.next().unwrap_or(0));
                        if roll % 100 < percent {
                            shard[0] ^= 1;
                        }
                    }
                }
            });
            let mended = mend(&store, &damaged(&lines), &never).unwrap_or_else(|e| panic!("{e}"));
            assert_eq!(mended.lost.is_empty(), whole, "{percent} %: {:?}", mended.lost.values().next());
            for line in lines.iter().filter(|_| whole) {
                let read = crate::vault::objects::read_hashed(&store, &line.name, line.hash);
                assert!(read.is_ok(), "{}", line.name);
            }
        }
    }

    #[test]
    fn damaged_parity_is_made_anew_from_what_it_covers_and_counts_for_nothing_when_it_cannot_be() {
        let (store, lines) = filled(&[3000, 400_000]);
        let (never, nothing) = (AtomicBool::new(false), BTreeSet::new());
        let protect = |doubted: &BTreeSet<ObjectName>| protect(&store, &lines, 50, doubted, &never, &|_| {});
        let parity = || -> Vec<(String, Vec<u8>)> {
            store.tamper(|objects| objects.clone()).into_iter().filter(|(name, _)| name.starts_with("parity/")).collect()
        };
        protect(&nothing).unwrap_or_else(|e| panic!("{e}"));
        let (name, right) = parity().remove(0);
        let object = ObjectName::parse_stored(&name).map(|(object, _)| object).unwrap_or_else(|e| panic!("{e}"));
        let damaged = BTreeMap::from([(object.clone(), hash(&right))]);

        // Its last shard, then all that says what it covers.
        store.tamper(|objects| objects.get_mut(&name).and_then(|bytes| bytes.last_mut()).map(|byte| *byte ^= 1));
        let mended = mend(&store, &damaged, &never).unwrap_or_else(|e| panic!("{e}"));
        assert_eq!((mended.objects.get(&object), mended.lost.len()), (Some(&1), 0), "{:?}", mended.lost);
        assert!(parity().iter().any(|(_, bytes)| *bytes == right));
        store.tamper(|objects| {
            objects.retain(|other, _| !other.starts_with("parity/") || *other == name);
            objects.insert(name.clone(), vec![0; right.len()]);
        });
        let mended = mend(&store, &damaged, &never).unwrap_or_else(|e| panic!("{e}"));
        assert!(mended.objects.is_empty() && mended.lost[&object].contains("nothing is left"), "{mended:?}");

        // Nobody looks at the recovery shards of parity that is not in doubt.
        let mut spoilt = right.clone();
        spoilt.last_mut().into_iter().for_each(|byte| *byte ^= 1);
        store.tamper(|objects| objects.insert(name.clone(), spoilt));
        assert_eq!(protect(&nothing).map(|made| made.made).ok(), Some(0));
        assert_eq!(protect(&BTreeSet::from([object])).map(|made| made.made).ok(), Some(1));
        let now = parity();
        assert!(now.len() == 1 && now[0].1 == right, "{}", now.len());
    }

    #[test]
    fn what_this_copy_alone_holds_keeps_its_parity_when_a_neighbour_is_pruned() {
        let (store, lines) = filled(&[3000, 400_000, 50_000, 60_000]);
        let (never, nothing) = (AtomicBool::new(false), BTreeSet::new());
        let protect = |lines: &[Line]| protect(&store, lines, 50, &nothing, &never, &|_| {}).map(|made| made.objects);
        assert_eq!(protect(&lines).ok(), Some(4));
        store.tamper(|objects| objects.remove(&lines[0].name.to_string()));
        // Of the others the source still holds one.
        assert_eq!(protect(&lines[3..]).ok(), Some(3));
        store.tamper(|objects| objects.get_mut(&lines[1].name.to_string()).map(|bytes| bytes[5] ^= 1));
        let mended = mend(&store, &damaged(&lines[1..2]), &never).unwrap_or_else(|e| panic!("{e}"));
        assert!(mended.lost.is_empty() && mended.objects.contains_key(&lines[1].name), "{mended:?}");
    }

    #[test]
    fn a_table_that_lies_about_its_objects_fills_no_memory() {
        let (store, lines) = filled(&[8 << 20]);
        let group: Vec<&Line> = std::iter::repeat_n(&lines[0], 200).collect();
        let error = build(&store, &group, &|_| 2).err().map(|error| error.to_string()).unwrap_or_default();
        assert!(error.contains("larger than one can be"), "{error}");
    }

    #[test]
    fn a_missing_object_comes_back_whole() {
        let (store, lines) = filled(&[3000, 400_000, 50_000, 60_000, 2_000_000]);
        let never = AtomicBool::new(false);
        protect(&store, &lines, 50, &BTreeSet::new(), &never, &|_| {}).unwrap_or_else(|e| panic!("{e}"));
        store.tamper(|objects| objects.remove(&lines[2].name.to_string()));
        let mended = mend(&store, &damaged(&lines[2..3]), &never).unwrap_or_else(|e| panic!("{e}"));
        assert_eq!(mended.objects.into_iter().collect::<Vec<_>>(), vec![(lines[2].name.clone(), 13)]);
        let uncovered = mend(&MemoryStore::new(), &damaged(&lines[..1]), &never).unwrap_or_else(|e| panic!("{e}"));
        assert!(uncovered.lost.values().all(|why| why == "no parity covers it"));
    }
}
