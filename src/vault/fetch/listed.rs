//! Whether an index lists all that a chunk needs, without reading a pack.

use std::collections::{HashMap, HashSet};

use crate::format::table::PackKind;
use crate::model::ids::ChunkId;
use crate::state::index::{ChunkIndex, PackNumber, Place};
use crate::vault::VaultError;

/// What was found out about packs so far.
#[derive(Debug, Default)]
pub struct Listed(HashMap<PackNumber, bool>);

impl Listed {
    /// Whether `index` says where the chunk lies, and where all packs lie that its pack is built on.
    ///
    /// # Errors
    /// When the index cannot be read.
    pub fn has(&mut self, index: &ChunkIndex, id: &ChunkId) -> Result<bool, VaultError> {
        for place in index.places(id)? {
            if self.stands(index, place.pack)? {
                return Ok(true);
            }
        }
        Ok(false)
    }

    /// Where the chunk lies: of several places, one of which all is listed that it is built on. An index object may list a patch
    /// that the snapshot does not need, and whose bases stand in an object that the snapshot does not name. Where no place is
    /// like that it is the first.
    ///
    /// # Errors
    /// When the index cannot be read.
    pub fn find(&mut self, index: &ChunkIndex, id: &ChunkId) -> Result<Option<Place>, VaultError> {
        let Some(first) = index.find(id, |_| true)? else { return Ok(None) };
        if self.stands(index, first.pack)? {
            return Ok(Some(first));
        }
        for place in index.places(id)? {
            if self.stands(index, place.pack)? {
                return Ok(Some(place));
            }
        }
        Ok(Some(first))
    }

    fn stands(&mut self, index: &ChunkIndex, pack: PackNumber) -> Result<bool, VaultError> {
        if let Some(stands) = self.0.get(&pack) {
            return Ok(*stands);
        }
        let stands = stands(index, pack)?;
        self.0.insert(pack, stands);
        Ok(stands)
    }
}

/// Whether everything beneath a pack is listed.
fn stands(index: &ChunkIndex, pack: PackNumber) -> Result<bool, VaultError> {
    // A hostile index may go in circles.
    let (mut open, mut seen) = (vec![pack], HashSet::from([pack]));
    while let Some(number) = open.pop() {
        if index.pack(number)?.kind != PackKind::Patch {
            continue;
        }
        for base in &index.table(number)?.base_packs {
            match index.number_of(base) {
                Some(base) if seen.insert(base) => open.push(base),
                Some(_) => {}
                None => return Ok(false),
            }
        }
    }
    Ok(true)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::format::index::IndexedPack;
    use crate::format::table::{BasePlace, Table, TableBlock, TableChunk};
    use crate::model::ids::ObjectHash;
    use crate::model::name::Sealed;

    fn pack(n: u8, on: Option<u8>) -> IndexedPack {
        let name = |n| Sealed { hash: ObjectHash([n; 32]), bytes: 1000 };
        let chunks = vec![TableChunk { id: ChunkId([n; 24]), bytes: 5 }];
        let bases = on.map(|_| BasePlace { pack: 0, block: 0 }).into_iter().collect();
        let block = TableBlock { stored_bytes: 20, raw_bytes: 5, depth: u8::from(on.is_some()), bases, chunks };
        let kind = if on.is_some() { PackKind::Patch } else { PackKind::Data };
        let table = Table { kind, base_packs: on.map(name).into_iter().collect(), blocks: vec![block] };
        IndexedPack { pack: name(n), header_bytes: 200, header_hash: ObjectHash([n; 32]), table }
    }

    #[test]
    fn a_chunk_is_listed_when_all_is_that_it_is_built_on() {
        let dir = tempfile::tempdir().unwrap();
        let mut index = ChunkIndex::open(&dir.path().join("index")).unwrap();
        // 2 on 1; 4 on 3 on 9, which is not there; 5 and 6 on one another.
        for (number, on) in [(1, None), (2, Some(1)), (3, Some(9)), (4, Some(3)), (5, Some(6)), (6, Some(5))] {
            index.add_pack(&pack(number, on)).unwrap();
        }
        let mut listed = Listed::default();
        let mut has = |n| listed.has(&index, &ChunkId([n; 24])).unwrap();
        assert_eq!([1, 2, 3, 4, 5, 7].map(&mut has), [true, true, false, false, true, false]);
        assert!(!has(4), "asked again");
    }

    #[test]
    fn of_two_places_the_one_that_stands_is_read() {
        let dir = tempfile::tempdir().unwrap();
        let mut index = ChunkIndex::open(&dir.path().join("index")).unwrap();
        // The same chunk in an ordinary pack, and later in a patch on a pack that nothing lists.
        index.add_pack(&pack(1, None)).unwrap();
        let mut patch = pack(2, Some(9));
        patch.table.blocks[0].chunks[0].id = ChunkId([1; 24]);
        index.add_pack(&patch).unwrap();
        index.add_pack(&pack(4, Some(9))).unwrap();
        let id = ChunkId([1; 24]);
        assert_eq!(
            index.find(&id, |_| true).unwrap().map(|place| place.pack),
            index.number_of(&patch.pack),
            "the newest first"
        );
        let found = Listed::default().find(&index, &id).unwrap().unwrap();
        assert_eq!(index.pack(found.pack).unwrap().pack, pack(1, None).pack);
        // Without any that stands, the first: whoever reads it names what is missing.
        assert!(Listed::default().find(&index, &ChunkId([4; 24])).unwrap().is_some());
        assert!(Listed::default().find(&index, &ChunkId([7; 24])).unwrap().is_none());
    }
}
