//! What the index promises, and what it does when its files rot.

use super::*;
use crate::format::table::{PackKind, TableBlock, TableChunk};
use crate::model::ids::ObjectHash;

fn id(n: u64) -> ChunkId {
    let mut bytes = [0; 24];
    bytes.copy_from_slice(&crate::crypto::hash::hash(&n.to_le_bytes()).0[..24]);
    ChunkId(bytes)
}

fn pack(number: u64, ids: std::ops::Range<u64>) -> IndexedPack {
    let chunks: Vec<_> = ids.map(|n| TableChunk { id: id(n), bytes: 10 }).collect();
    let raw_bytes = 10 * chunks.len() as u32;
    let block = TableBlock { stored_bytes: 50, raw_bytes, depth: 0, bases: vec![], chunks };
    IndexedPack {
        pack: Sealed { hash: crate::crypto::hash::hash(&number.to_be_bytes()), bytes: 1000 + number },
        header_bytes: 200,
        header_hash: ObjectHash([1; 32]),
        table: Table { kind: PackKind::Data, base_packs: vec![], blocks: vec![block] },
    }
}

fn open(dir: &Path) -> ChunkIndex {
    ChunkIndex::open(dir).unwrap_or_else(|e| panic!("{e}"))
}

#[test]
fn a_number_that_was_never_made_to_last_names_no_object() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("index");
    let object = |n| Sealed { hash: ObjectHash([n; 32]), bytes: 20_000 };
    let mut index = open(&path);
    let one = index.add_pack(&pack(1, 0..10)).unwrap();
    index.set_object(&object(1), &[one]).unwrap();
    index.flush().unwrap();
    let two = index.add_pack(&pack(2, 10..20)).unwrap();
    index.flush().unwrap();
    // Killed before the flush that would have followed.
    index.set_object(&object(2), &[two]).unwrap();
    drop(index);
    let mut index = open(&path);
    let three = index.add_pack(&pack(3, 20..30)).unwrap();
    index.set_object(&object(3), &[three]).unwrap();
    index.flush().unwrap();
    assert_eq!(index.object_of(one).unwrap(), Some(object(1)));
    assert_eq!(index.object_of(two).unwrap(), None, "no object lists it");
    assert_eq!(index.object_of(three).unwrap(), Some(object(3)));
}

#[test]
fn packs_that_are_gone_are_forgotten_and_the_others_keep_their_numbers() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("index");
    let object = |n| Sealed { hash: ObjectHash([n; 32]), bytes: 20_000 };
    let mut index = open(&path);
    let numbers: Vec<u32> = (0..8).map(|n| index.add_pack(&pack(n, n * 1000..n * 1000 + 1000)).unwrap()).collect();
    for (n, packs) in (1..).zip(numbers.chunks(3)) {
        index.set_object(&object(n), packs).unwrap();
    }
    index.flush().unwrap();
    let before = std::fs::metadata(path.join("tables")).unwrap().len();
    // All of the first object, one of the second.
    let gone: Vec<bool> = numbers.iter().map(|n| *n < 4).collect();
    assert!(!index.forget(&gone).unwrap(), "so little is not worth it");
    // For want of room, say: nothing is lost, and nothing is left lying.
    std::fs::create_dir(path.join("tables-1")).unwrap();
    assert!(index.forget_now(&gone).is_err());
    std::fs::remove_dir(path.join("tables-1")).unwrap();
    assert!(index.find(&id(7), |_| true).unwrap().is_some() && index.covers(&object(1)));
    index.forget_now(&gone).unwrap();
    for index in [index, open(&path)] {
        for (n, number) in (0_u64..).zip(&numbers) {
            let place = index.find(&id(n * 1000 + 7), |_| true).unwrap();
            let expected = Place { pack: *number, ordinal: 7 };
            assert_eq!(place, (n >= 4).then_some(expected), "of pack {n}");
            assert_eq!(index.number_of(&pack(n, 0..1).pack), (n >= 4).then_some(*number));
            if n >= 4 {
                assert_eq!(index.table(*number).unwrap().blocks[0].chunks[7].id, id(n * 1000 + 7));
            }
        }
        assert!(!index.covers(&object(1)) && index.covers(&object(2)) && index.covers(&object(3)));
        assert_eq!(index.object_of(numbers[4]).unwrap(), Some(object(2)));
        let mut shown = Vec::new();
        index.each_pack(&mut |number, _| shown.push(number)).unwrap();
        assert_eq!(shown, [4, 5, 6, 7]);
    }
    let names = || std::fs::read_dir(&path).unwrap().map(|e| e.unwrap().file_name().into_string().unwrap());
    assert!(names().all(|name| name != "packs" && name != "tables"), "the old files are gone");
    assert!(std::fs::metadata(path.join("tables-1")).unwrap().len() <= before / 2);
    // One that comes back is a new one.
    let mut index = open(&path);
    let again = index.add_pack(&pack(1, 1000..2000)).unwrap();
    assert_eq!(again, 8);
    index.flush().unwrap();
    let place = open(&path).find(&id(1999), |_| true).unwrap();
    assert_eq!(place, Some(Place { pack: 8, ordinal: 999 }));
}

#[test]
fn chunks_are_found_before_and_after_they_reach_the_disk() {
    let dir = tempfile::tempdir().unwrap_or_else(|e| panic!("{e}"));
    let path = dir.path().join("index");
    for round in 0..12_u64 {
        let mut index = open(&path);
        let added = pack(round, round * 1000..round * 1000 + 1000);
        let number = index.add_pack(&added).unwrap_or_else(|e| panic!("{e}"));
        assert_eq!(index.add_pack(&added).ok(), Some(number), "a pack is added once");
        index.set_object(&added.pack, &[number]).unwrap_or_else(|e| panic!("{e}"));
        assert_eq!(index.object_of(number).ok(), Some(Some(added.pack)));
        if round % 2 == 0 {
            index.flush().unwrap_or_else(|e| panic!("{e}"));
        }
        for n in (0..=round).filter(|r| r % 2 == 0 || *r == round).flat_map(|r| [r * 1000, r * 1000 + 999]) {
            let place = index.find(&id(n), |_| true).unwrap_or_else(|e| panic!("{e}"));
            let place = place.unwrap_or_else(|| panic!("chunk {n} in round {round}"));
            assert_eq!(u64::from(place.ordinal), n % 1000);
            let table = index.table(place.pack).unwrap_or_else(|e| panic!("{e}"));
            assert_eq!(table.blocks[0].chunks[place.ordinal as usize].id, id(n));
        }
        assert_eq!(index.find(&id(999_999), |_| true).ok(), Some(None));
    }
    let index = open(&path);
    assert!(index.segments.len() < 6, "segments are merged: {}", index.segments.len());
    assert_eq!(index.find(&id(1000), |_| true).ok(), Some(None), "what was not flushed is not there");
    assert!(index.covers(&pack(0, 0..1).pack) && !index.covers(&pack(1, 0..1).pack));
}

#[test]
fn an_absent_pack_is_passed_over_for_another_place() {
    let dir = tempfile::tempdir().unwrap_or_else(|e| panic!("{e}"));
    let mut index = open(&dir.path().join("index"));
    let old = index.add_pack(&pack(1, 0..100)).unwrap_or_else(|e| panic!("{e}"));
    index.flush().unwrap_or_else(|e| panic!("{e}"));
    let young = index.add_pack(&pack(2, 0..100)).unwrap_or_else(|e| panic!("{e}"));
    index.flush().unwrap_or_else(|e| panic!("{e}"));
    let find = |live: &dyn Fn(u32) -> bool| index.find(&id(7), live).ok().flatten().map(|p| p.pack);
    assert_eq!(find(&|_| true), Some(young));
    assert_eq!(find(&|n| n != young), Some(old));
    assert_eq!(find(&|_| false), None);
    assert_eq!(index.places(&id(7)).map(|p| p.len()).ok(), Some(2));
}

#[test]
fn all_places_of_a_chunk_are_kept_when_its_packs_come_together() {
    let dir = tempfile::tempdir().unwrap_or_else(|e| panic!("{e}"));
    let mut index = open(&dir.path().join("index"));
    let mut packs = Vec::new();
    for number in 0..40 {
        packs.push(index.add_pack(&pack(number, 0..100)).unwrap_or_else(|e| panic!("{e}")));
        if number % 4 == 3 {
            assert_eq!(index.places(&id(7)).map(|p| p.len()).ok(), Some(packs.len()));
            index.flush().unwrap_or_else(|e| panic!("{e}"));
        }
    }
    // Newest first, before and after segments were merged.
    let found = index.places(&id(7)).unwrap_or_else(|e| panic!("{e}"));
    packs.reverse();
    assert_eq!(found.iter().map(|place| place.pack).collect::<Vec<_>>(), packs);
    assert_eq!(index.find(&id(7), |pack| pack == packs[39]).ok().flatten().map(|p| p.pack), Some(packs[39]));
}

#[test]
fn a_damaged_index_begins_anew() {
    let dir = tempfile::tempdir().unwrap_or_else(|e| panic!("{e}"));
    let path = dir.path().join("index");
    let mut index = open(&path);
    index.add_pack(&pack(1, 0..10)).unwrap_or_else(|e| panic!("{e}"));
    index.flush().unwrap_or_else(|e| panic!("{e}"));
    let before = index.id().to_owned();
    drop(index);
    std::fs::write(path.join("packs"), b"short").unwrap_or_else(|e| panic!("{e}"));
    let index = open(&path);
    assert_eq!(index.pack_count(), 0);
    assert_ne!(index.id(), before);
}

/// Asks an index for all it knows of the packs, and holds each answer against what was put in. None when it was given up.
fn ask(index: &ChunkIndex, packs: &[IndexedPack], object: Sealed) -> Option<()> {
    let sound = |error: StateError| assert!(matches!(error, StateError::Rotten { .. }), "{error}");
    for (number, expected) in (0..).zip(packs) {
        let info = index.pack(number).map_err(sound).ok()?;
        assert_eq!((info.pack, info.header_bytes, info.header_hash), (expected.pack, 200, ObjectHash([1; 32])));
        assert_eq!(info.kind, expected.table.kind);
        assert_eq!(index.object_of(number).map_err(sound).ok()?, Some(object));
        assert_eq!(index.table_as_stored(&info).map_err(sound).ok()?, expected.table.encode().unwrap());
        assert_eq!(*index.table(number).map_err(sound).ok()?, expected.table);
        for (ordinal, chunk) in (0..).zip(&expected.table.blocks[0].chunks) {
            // What is not found any more is stored again; what is found lies there.
            if let Some(place) = index.find(&chunk.id, |_| true).map_err(sound).ok()? {
                assert_eq!(place, Place { pack: number, ordinal });
            }
        }
    }
    Some(())
}

#[test]
fn a_byte_that_turned_over_is_noticed_or_does_not_matter() {
    let dir = tempfile::tempdir().unwrap();
    let (sound, rotten) = (dir.path().join("sound"), dir.path().join("rotten"));
    let mut index = open(&sound);
    let packs = [pack(1, 0..100), pack(2, 100..150), pack(3, 150..170)];
    let object = Sealed { hash: ObjectHash([9; 32]), bytes: 20_000 };
    for pack in &packs {
        let number = index.add_pack(pack).unwrap();
        index.set_object(&object, &[number]).unwrap();
        index.flush().unwrap();
    }
    assert_eq!(ask(&index, &packs, object), Some(()));
    let id = index.id().to_owned();
    drop(index);
    let (mut begun_anew, mut given_up) = (0, 0);
    let files: Vec<_> = std::fs::read_dir(&sound).unwrap().map(|entry| entry.unwrap().file_name()).collect();
    for file in &files {
        let bytes = std::fs::read(sound.join(file)).unwrap();
        for at in (0..bytes.len()).step_by(bytes.len().div_ceil(50)) {
            make_private_dir(&rotten).unwrap();
            for file in &files {
                std::fs::copy(sound.join(file), rotten.join(file)).unwrap();
            }
            let mut changed = bytes.clone();
            changed[at] ^= 1 << (at % 8);
            std::fs::write(rotten.join(file), changed).unwrap();
            let index = open(&rotten);
            if index.id() != id {
                assert_eq!(index.pack_count(), 0);
                begun_anew += 1;
            } else if ask(&index, &packs, object).is_none() {
                assert_ne!(open(&rotten).id(), id, "byte {at} of {file:?}: what is given up is begun anew");
                given_up += 1;
            }
        }
    }
    assert!(begun_anew > 50 && given_up > 20, "{begun_anew} begun anew, {given_up} given up");
}

#[test]
fn a_record_in_the_place_of_another_is_none() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("index");
    let mut index = open(&path);
    for number in 0..2 {
        index.add_pack(&pack(number, number * 10..number * 10 + 10)).unwrap();
    }
    index.flush().unwrap();
    let before = index.id().to_owned();
    drop(index);
    let mut records = std::fs::read(path.join("packs")).unwrap();
    let half = records.len() / 2;
    records.rotate_left(half);
    std::fs::write(path.join("packs"), records).unwrap();
    assert_ne!(open(&path).id(), before);
}

#[test]
fn rot_does_not_survive_a_merge() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("index");
    let mut index = open(&path);
    index.add_pack(&pack(0, 0..1000)).unwrap();
    index.flush().unwrap();
    let mut bytes = std::fs::read(path.join("segment-1")).unwrap();
    bytes[5000] ^= 1;
    std::fs::write(path.join("segment-1"), bytes).unwrap();
    let mut outcomes = (1..6).map(|number| {
        index.add_pack(&pack(number, number * 1000..number * 1000 + 10)).unwrap();
        index.flush()
    });
    assert!(outcomes.any(|outcome| matches!(outcome, Err(StateError::Rotten { .. }))));
}
