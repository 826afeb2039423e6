//! Forgetting packs that are gone.
//!
//! The index grows by some 60 bytes with each chunk that is stored, and prune takes packs away. Once in a while, when most of
//! it speaks of packs that lie nowhere any more, it is written anew without them. The packs that stay keep their numbers, so
//! what else goes by numbers stays right; a pack that comes back gets another. Whoever calls it has looked into every store
//! that any job writes to: what is forgotten by mistake is not lost, but it is imported, read and perhaps stored again.

use std::collections::BTreeSet;

use super::meta::SegmentMeta;
use super::segment::Segment;
use super::{ChunkIndex, remove_strays};
use crate::model::limits::MIB;
use crate::state::StateError;

/// Tables of gone packs below this are not worth the writing; they are some 40 bytes a chunk.
const GONE_MIN_BYTES: u64 = MIB / 4;
/// Nor are they while they take less than so many times what the others take.
const GONE_SHARE: u64 = 2;

impl ChunkIndex {
    /// Forgets the packs that are `gone`, by number, if that is worth it; returns whether it was.
    ///
    /// # Errors
    /// When the files cannot be read or written. What counted before still counts then.
    pub fn forget(&mut self, gone: &[bool]) -> Result<bool, StateError> {
        let (mut of_gone, mut of_others) = (0, 0);
        self.packs.each(&mut |number, info| {
            let sum = if gone.get(number as usize) == Some(&true) { &mut of_gone } else { &mut of_others };
            *sum += u64::from(info.table_bytes);
        })?;
        if of_gone < GONE_MIN_BYTES || of_gone < of_others * GONE_SHARE {
            return Ok(false);
        }
        self.flush()?;
        if let Err(error) = self.forget_now(gone) {
            // What was written of the new files would fill a disk that is full already.
            remove_strays(&self.dir, &self.meta);
            return Err(error);
        }
        tracing::info!(bytes = of_gone, "the chunk index forgot packs that are gone");
        Ok(true)
    }

    pub(super) fn forget_now(&mut self, gone: &[bool]) -> Result<(), StateError> {
        let mut meta = self.meta.clone();
        meta.generation += 1;
        self.forget_objects(gone, &mut meta.objects)?;
        let name = self.next_name();
        let stays = |pack: u32| gone.get(pack as usize) != Some(&true);
        let segment = Segment::merge(&self.dir.join(&name), &self.segments, |record| stays(record.place.pack))?;
        let packs = self.packs.without(gone, &self.dir, meta.generation)?;
        (meta.pack_count, meta.table_bytes, meta.next_segment) =
            (packs.count(), packs.table_bytes(), self.meta.next_segment);
        meta.segments = vec![SegmentMeta { name, records: segment.records() }];
        meta.write(&self.dir)?;
        (self.meta, self.packs, self.segments) = (meta, packs, vec![segment]);
        remove_strays(&self.dir, &self.meta);
        Ok(())
    }

    /// An index object of which every pack is forgotten does not count as imported any more. One of which some packs are still
    /// does: to import it again would bring back those that are gone.
    fn forget_objects(&self, gone: &[bool], objects: &mut [Option<String>]) -> Result<(), StateError> {
        let mut of_gone = BTreeSet::new();
        let mut of_others = BTreeSet::new();
        self.packs.each(&mut |number, info| {
            let objects = if gone.get(number as usize) == Some(&true) { &mut of_gone } else { &mut of_others };
            objects.extend(info.object);
        })?;
        for number in of_gone.difference(&of_others) {
            if let Some(object) = objects.get_mut(*number as usize) {
                *object = None;
            }
        }
        Ok(())
    }
}
