//! Lists that grow too long for one line: streams of their own, cut and stored like content.

use crate::codec::Cutter;
use crate::format::table::PackKind;
use crate::model::entry::Refs;
use crate::model::ids::ChunkId;
use crate::model::limits::{CATALOGUE_INLINE_MAX, LIST_LEVELS_MAX};
use crate::vault::VaultError;

/// Average chunk of catalogues and lists.
pub const METADATA_CHUNK_BYTES: usize = 64 * 1024;

/// Whoever takes chunks and says what they are called.
pub trait ChunkSink {
    /// Stores a chunk, if the vault does not hold it yet.
    ///
    /// # Errors
    /// When storing fails.
    fn put(&mut self, kind: PackKind, bytes: &[u8]) -> Result<ChunkId, VaultError>;
}

/// Collects the chunk ids of one stream: inline while they are few, then in list streams of up to three levels. Memory stays
/// within a few chunks however long the list grows.
#[derive(Debug, Default)]
pub struct RefsBuilder {
    /// The topmost list.
    top: Vec<ChunkId>,
    /// What is not cut yet of the list streams, level 1 first.
    levels: Vec<Vec<u8>>,
}

impl RefsBuilder {
    /// Takes the next id.
    ///
    /// # Errors
    /// When a part of the list cannot be stored, or the list is longer than three levels hold.
    pub fn push(&mut self, id: ChunkId, sink: &mut dyn ChunkSink) -> Result<(), VaultError> {
        self.push_at(0, id, sink)
    }

    fn push_at(&mut self, level: usize, id: ChunkId, sink: &mut dyn ChunkSink) -> Result<(), VaultError> {
        if level < self.levels.len() {
            self.levels[level].extend_from_slice(&id.0);
            return self.cut(level, false, sink);
        }
        self.top.push(id);
        if self.top.len() > CATALOGUE_INLINE_MAX {
            if self.levels.len() >= usize::from(LIST_LEVELS_MAX) {
                return Err(VaultError::internal("a list is longer than three levels hold"));
            }
            let bytes = self.top.drain(..).flat_map(|id| id.0).collect();
            self.levels.push(bytes);
        }
        Ok(())
    }

    fn cut(&mut self, level: usize, at_end: bool, sink: &mut dyn ChunkSink) -> Result<(), VaultError> {
        let cutter = Cutter::with_average(METADATA_CHUNK_BYTES);
        while let Some(length) = cutter.next_cut(&self.levels[level], at_end) {
            let id = sink.put(PackKind::Catalogue, &self.levels[level][..length])?;
            self.levels[level].drain(..length);
            self.push_at(level + 1, id, sink)?;
        }
        Ok(())
    }

    /// The list as it stands in a catalogue line.
    ///
    /// # Errors
    /// When a part of the list cannot be stored.
    pub fn finish(mut self, sink: &mut dyn ChunkSink) -> Result<Refs, VaultError> {
        let mut level = 0;
        // Ending one level may begin the next.
        while level < self.levels.len() {
            self.cut(level, true, sink)?;
            level += 1;
        }
        let level = u8::try_from(self.levels.len()).map_err(VaultError::internal)?;
        Ok(if level == 0 { Refs::Inline(self.top) } else { Refs::List { level, chunks: self.top } })
    }

    /// Forgets what was collected: the content is read again.
    pub fn clear(&mut self) {
        *self = Self::default();
    }
}

/// Writes a stream of metadata as it comes: extents, attributes, the list of catalogue chunks.
#[derive(Debug, Default)]
pub struct StreamWriter {
    buffer: Vec<u8>,
    refs: RefsBuilder,
}

impl StreamWriter {
    /// Takes the next bytes.
    ///
    /// # Errors
    /// When a chunk cannot be stored.
    pub fn write(&mut self, bytes: &[u8], sink: &mut dyn ChunkSink) -> Result<(), VaultError> {
        self.buffer.extend_from_slice(bytes);
        self.cut(false, sink)
    }

    fn cut(&mut self, at_end: bool, sink: &mut dyn ChunkSink) -> Result<(), VaultError> {
        let cutter = Cutter::with_average(METADATA_CHUNK_BYTES);
        let mut start = 0;
        while let Some(length) = cutter.next_cut(&self.buffer[start..], at_end) {
            let id = sink.put(PackKind::Catalogue, &self.buffer[start..start + length])?;
            self.refs.push(id, sink)?;
            start += length;
        }
        self.buffer.drain(..start);
        Ok(())
    }

    /// The chunks of the stream.
    ///
    /// # Errors
    /// When a chunk cannot be stored.
    pub fn finish(mut self, sink: &mut dyn ChunkSink) -> Result<Refs, VaultError> {
        self.cut(true, sink)?;
        self.refs.finish(sink)
    }
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;
    use std::collections::HashMap;

    /// Keeps chunks in a map.
    #[derive(Default)]
    pub(crate) struct MapSink(pub HashMap<ChunkId, Vec<u8>>);

    impl ChunkSink for MapSink {
        fn put(&mut self, _: PackKind, bytes: &[u8]) -> Result<ChunkId, VaultError> {
            let mut id = [0; 24];
            id.copy_from_slice(&crate::crypto::hash::hash(bytes).0[..24]);
            self.0.insert(ChunkId(id), bytes.to_vec());
            Ok(ChunkId(id))
        }
    }

    fn resolve(refs: &Refs, sink: &MapSink) -> Vec<ChunkId> {
        let (mut ids, level) = match refs {
            Refs::Inline(ids) => (ids.clone(), 0),
            Refs::List { level, chunks } => (chunks.clone(), *level),
        };
        for _ in 0..level {
            let bytes: Vec<u8> = ids.iter().flat_map(|id| sink.0[id].clone()).collect();
            ids = bytes.as_chunks::<24>().0.iter().map(|id| ChunkId(*id)).collect();
        }
        ids
    }

    #[test]
    fn lists_of_any_length_come_back() {
        for (count, expected_level) in [(0, 0), (1, 0), (1024, 0), (1025, 1), (100_000, 1), (4_000_000, 2)] {
            let id = |n: u32| {
                let mut id = [0; 24];
                id[..4].copy_from_slice(&n.wrapping_mul(0x9E37_79B9).to_le_bytes());
                id[4..8].copy_from_slice(&n.to_le_bytes());
                ChunkId(id)
            };
            let mut sink = MapSink::default();
            let mut builder = RefsBuilder::default();
            for n in 0..count {
                builder.push(id(n), &mut sink).unwrap_or_else(|e| panic!("{e}"));
            }
            let refs = builder.finish(&mut sink).unwrap_or_else(|e| panic!("{e}"));
            let level = if let Refs::List { level, chunks } = &refs {
                assert!(chunks.len() <= CATALOGUE_INLINE_MAX);
                *level
            } else {
                0
            };
            assert_eq!(level, expected_level, "{count}");
            assert!(resolve(&refs, &sink).into_iter().eq((0..count).map(id)), "{count}");
        }
    }
}
