//! Writes a member's catalogue: whole lines, gathered into chunks whose borders depend on paths alone.
//!
//! A change of one entry changes one chunk; an entry that comes or goes moves at most the borders around it.

use crate::format::manifest::{Catalogue, CatalogueChunk};
use crate::format::table::PackKind;
use crate::model::limits::MANIFEST_INLINE_CATALOGUE_BYTES;
use crate::model::path::EntryPath;
use crate::vault::VaultError;
use crate::vault::list_stream::{ChunkSink, METADATA_CHUNK_BYTES, StreamWriter};

/// A chunk is cut between these two sizes, where the path with the smallest hash stands (MinCDC over lines).
const MIN_BYTES: usize = METADATA_CHUNK_BYTES / 2;
const MAX_BYTES: usize = METADATA_CHUNK_BYTES * 3 / 2;
/// What a chunk costs in the manifest beside its path.
const CHUNK_JSON_BYTES: usize = 64;

/// A catalogue in the making.
#[derive(Debug, Default)]
pub struct CatalogueWriter {
    lines: Vec<u8>,
    /// The start of each pending line, its path, and the hash of that path.
    starts: Vec<(usize, EntryPath, u64)>,
    chunks: Vec<CatalogueChunk>,
    inline_bytes: usize,
    stream: Option<StreamWriter>,
}

impl CatalogueWriter {
    /// Adds the line of the entry at `path`; lines come in order.
    ///
    /// # Errors
    /// When a chunk cannot be stored.
    pub fn add(&mut self, path: &EntryPath, line: &[u8], sink: &mut dyn ChunkSink) -> Result<(), VaultError> {
        self.starts.push((self.lines.len(), path.clone(), path_hash(path)));
        self.lines.extend_from_slice(line);
        while self.lines.len() >= MAX_BYTES {
            self.cut(sink)?;
        }
        Ok(())
    }

    /// Ends one chunk at the best border among the pending lines.
    fn cut(&mut self, sink: &mut dyn ChunkSink) -> Result<(), VaultError> {
        let window = self.starts.iter().enumerate().filter(|(_, (at, _, _))| (MIN_BYTES..=MAX_BYTES).contains(at));
        let best = window.min_by_key(|(_, (_, _, hash))| *hash).map(|(n, _)| n);
        // Lines so long that none begins within the window: cut before the first that begins after it, else take all.
        let after = || self.starts.iter().position(|(at, _, _)| *at > MAX_BYTES);
        let count = best.or_else(after).unwrap_or(self.starts.len());
        self.emit(count, sink)
    }

    fn emit(&mut self, count: usize, sink: &mut dyn ChunkSink) -> Result<(), VaultError> {
        let end = self.starts.get(count).map_or(self.lines.len(), |(at, _, _)| *at);
        let Some((_, first, _)) = self.starts.first() else { return Ok(()) };
        let first = first.clone();
        let id = sink.put(PackKind::Catalogue, &self.lines[..end])?;
        self.lines.drain(..end);
        self.starts.drain(..count);
        for (at, _, _) in &mut self.starts {
            *at -= end;
        }
        self.note(CatalogueChunk { id, first }, sink)
    }

    fn note(&mut self, chunk: CatalogueChunk, sink: &mut dyn ChunkSink) -> Result<(), VaultError> {
        if let Some(stream) = &mut self.stream {
            return write_line(stream, &chunk, sink);
        }
        self.inline_bytes += CHUNK_JSON_BYTES + chunk.first.as_bytes().len();
        self.chunks.push(chunk);
        if self.inline_bytes > MANIFEST_INLINE_CATALOGUE_BYTES {
            let mut stream = StreamWriter::default();
            for chunk in self.chunks.drain(..) {
                write_line(&mut stream, &chunk, sink)?;
            }
            self.stream = Some(stream);
        }
        Ok(())
    }

    /// Ends the catalogue.
    ///
    /// # Errors
    /// When a chunk cannot be stored.
    pub fn finish(mut self, sink: &mut dyn ChunkSink) -> Result<Catalogue, VaultError> {
        while self.lines.len() >= MAX_BYTES {
            self.cut(sink)?;
        }
        self.emit(self.starts.len(), sink)?;
        match self.stream {
            Some(stream) => Ok(Catalogue::Stream((&stream.finish(sink)?).into())),
            None => Ok(Catalogue::Chunks(self.chunks)),
        }
    }
}

fn write_line(stream: &mut StreamWriter, chunk: &CatalogueChunk, sink: &mut dyn ChunkSink) -> Result<(), VaultError> {
    let mut line = serde_json::to_vec(chunk).map_err(VaultError::internal)?;
    line.push(b'\n');
    stream.write(&line, sink)
}

/// A hash that is the same on every run: the first eight bytes of BLAKE3. Borders are no format: readers find them in the
/// manifest.
fn path_hash(path: &EntryPath) -> u64 {
    let hash = crate::crypto::hash::hash(path.as_bytes());
    let mut bytes = [0; 8];
    bytes.copy_from_slice(&hash.0[..8]);
    u64::from_le_bytes(bytes)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::vault::list_stream::tests::MapSink;

    fn write(paths: &[String], line_bytes: usize) -> (Catalogue, MapSink) {
        let mut sink = MapSink::default();
        let mut writer = CatalogueWriter::default();
        for path in paths {
            let path = EntryPath::from_bytes(path.as_str()).unwrap_or_else(|e| panic!("{e}"));
            let line = format!("{path}{}\n", "x".repeat(line_bytes));
            writer.add(&path, line.as_bytes(), &mut sink).unwrap_or_else(|e| panic!("{e}"));
        }
        (writer.finish(&mut sink).unwrap_or_else(|e| panic!("{e}")), sink)
    }

    fn chunks(catalogue: &Catalogue) -> &[CatalogueChunk] {
        if let Catalogue::Chunks(chunks) = catalogue { chunks } else { panic!("a stream") }
    }

    #[test]
    fn chunks_are_whole_lines_and_an_insertion_changes_few() {
        let mut paths: Vec<String> = (0..20_000).map(|n| format!("d/{n:06}")).collect();
        let (before, sink) = write(&paths, 100);
        let before = chunks(&before).to_vec();
        for chunk in &before {
            let bytes = &sink.0[&chunk.id];
            assert!(bytes.ends_with(b"\n") && bytes.starts_with(chunk.first.as_bytes()));
            assert!(bytes.len() <= MAX_BYTES);
        }
        let all: usize = before.iter().map(|c| sink.0[&c.id].len()).sum();
        assert_eq!(all, 20_000 * 109);
        paths.insert(10_000, "d/009999a".into());
        let (after, _) = write(&paths, 100);
        let fresh = chunks(&after).iter().filter(|c| !before.contains(c)).count();
        assert!(fresh <= 4, "{fresh} of {} chunks changed", before.len());
    }

    #[test]
    fn long_lines_and_no_lines_are_chunks_too() {
        let (long, _) = write(&["a".into(), "b".into(), "c".into()], 500_000);
        assert_eq!(chunks(&long).len(), 3);
        assert!(chunks(&write(&[], 0).0).is_empty());
    }
}
