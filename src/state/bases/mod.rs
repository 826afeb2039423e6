//! The base cache: of each large stream, the blocks that the next push may build patches on.
//!
//! Two files a stream: a reference (the regions of the stream as the last push left it, with the blocks that each consists of)
//! and the frames of those blocks, appended push by push. The reference is replaced whole and only after a push was committed;
//! what lies in the frame file beyond it counts for nothing. Damage, or no cache at all, costs a larger upload and no more.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::SystemTime;

use crate::model::ids::ChunkId;
use crate::state::{StateError, make_private_dir, read_if_there, write_cached};

mod frames;
mod reference;

pub use frames::{FrameLog, KeptFrame};
pub use reference::{Anchor, Layer, Reference, Region};

/// What no reference exceeds: that of a stream of 64 GiB.
const REFERENCE_MAX_BYTES: u64 = 128 * 1024 * 1024;
/// A frame file is written anew when it is this large and less than half of it still counts.
const COMPACT_MIN_BYTES: u64 = 16 * 1024 * 1024;

/// The directory with all references and frames.
pub struct BaseCache {
    dir: PathBuf,
    /// Bytes that may still be added.
    room: Arc<AtomicU64>,
    limit: u64,
}

/// What is known of one stream, and where its new frames go.
pub struct StreamBases {
    /// What the last push left.
    pub old: Option<Reference>,
    /// The frames, old and new.
    pub frames: Arc<FrameLog>,
    name: String,
}

impl BaseCache {
    /// Opens the cache in `dir`, which may take `limit` bytes.
    ///
    /// # Errors
    /// When the directory cannot be used.
    pub fn open(dir: &Path, limit: u64) -> Result<Self, StateError> {
        make_private_dir(dir)?;
        let used: u64 = files(dir).map_err(StateError::io(dir))?.iter().map(|file| file.bytes).sum();
        Ok(Self { dir: dir.to_owned(), room: Arc::new(AtomicU64::new(limit.saturating_sub(used))), limit })
    }

    /// What is known of the stream with this keyed name.
    #[must_use]
    pub fn stream(&self, id: &ChunkId) -> StreamBases {
        let name = id.to_string();
        let path = self.reference_path(&name);
        let old = match read_if_there(&path, REFERENCE_MAX_BYTES) {
            Ok(Some(bytes)) => Reference::decode(&bytes)
                .inspect_err(|error| tracing::warn!(path = %path.display(), %error, "a reference is not used"))
                .ok(),
            _ => None,
        };
        let (generation, end) = old.as_ref().map_or((0, 0), |old| (old.generation, old.frames_bytes));
        let frames = FrameLog::new(self.frames_path(&name, generation), end, Arc::clone(&self.room));
        StreamBases { old, frames: Arc::new(frames), name }
    }

    /// Puts a stream's new reference in place. Nothing that goes wrong here matters beyond the size of the next push.
    pub fn save(&self, stream: &StreamBases, mut reference: Reference) {
        if reference.regions.is_empty() {
            return;
        }
        let (generation, end) = stream.old.as_ref().map_or((0, 0), |old| (old.generation, old.frames_bytes));
        (reference.generation, reference.frames_bytes) = (generation, stream.frames.end().max(end));
        let counts: u64 = reference.layers().map(|layer| u64::from(layer.stored_bytes)).sum();
        if reference.frames_bytes >= COMPACT_MIN_BYTES && counts * 2 < reference.frames_bytes {
            let path = self.frames_path(&stream.name, generation + 1);
            match stream.frames.compact(&path, &mut reference) {
                Ok(()) => reference.generation = generation + 1,
                Err(error) => tracing::warn!(path = %path.display(), %error, "old frames are not cleared away"),
            }
        }
        write_cached(&self.reference_path(&stream.name), &reference.encode());
        if reference.generation != generation {
            let _ = fs::remove_file(self.frames_path(&stream.name, generation));
        }
    }

    /// Removes the streams that were used longest ago until the rest keeps within the limit.
    ///
    /// # Errors
    /// When the directory cannot be read.
    pub fn trim(&self) -> Result<(), StateError> {
        let mut all = files(&self.dir).map_err(StateError::io(&self.dir))?;
        let mut used: u64 = all.iter().map(|file| file.bytes).sum();
        all.sort_by_key(|file| file.used);
        for file in all {
            if used <= self.limit {
                break;
            }
            if fs::remove_file(&file.path).is_ok() {
                used -= file.bytes;
            }
        }
        Ok(())
    }

    fn reference_path(&self, name: &str) -> PathBuf {
        self.dir.join(format!("{name}.ref"))
    }

    fn frames_path(&self, name: &str, generation: u32) -> PathBuf {
        self.dir.join(format!("{name}.{generation}"))
    }
}

struct CacheFile {
    path: PathBuf,
    bytes: u64,
    used: SystemTime,
}

fn files(dir: &Path) -> io::Result<Vec<CacheFile>> {
    let mut found = Vec::new();
    for entry in fs::read_dir(dir)? {
        let entry = entry?;
        let meta = entry.metadata()?;
        let used = meta.modified().unwrap_or(SystemTime::UNIX_EPOCH);
        found.push(CacheFile { path: entry.path(), bytes: meta.len(), used });
    }
    Ok(found)
}

/// Takes `bytes` of what is left, if that much is.
fn take_room(room: &AtomicU64, bytes: u64) -> bool {
    room.fetch_update(Ordering::Relaxed, Ordering::Relaxed, |left| left.checked_sub(bytes)).is_ok()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::ids::ObjectHash;
    use crate::model::name::Sealed;

    fn layer(frames: &FrameLog, serial: u32, frame: &[u8]) -> Layer {
        frames.add(serial, frame, frame.len() as u32 * 4, 0, true);
        let kept = frames.frame(serial).unwrap();
        Layer {
            pack: Sealed { hash: ObjectHash([7; 32]), bytes: 99 },
            block: serial,
            raw_bytes: kept.raw_bytes,
            stored_bytes: kept.stored_bytes,
            spent: 5,
            frame_at: kept.at.unwrap(),
            hash: kept.hash,
            bases: 0,
        }
    }

    fn region(layer: Layer) -> Region {
        Region { start: 0, bytes: 4, stagger: 9, layers: vec![layer] }
    }

    #[test]
    fn what_was_saved_is_there_and_what_was_not_is_not() {
        let dir = tempfile::tempdir().unwrap();
        let cache = BaseCache::open(dir.path(), 1 << 20).unwrap();
        let id = ChunkId([1; 24]);
        let stream = cache.stream(&id);
        assert!(stream.old.is_none());
        let layers = vec![region(layer(&stream.frames, 0, b"one")), region(layer(&stream.frames, 1, b"three"))];
        let anchors = vec![Anchor { id: 4, bytes: 5 }];
        cache.save(&stream, Reference { regions: layers.clone(), anchors: anchors.clone(), ..Reference::default() });

        let again = cache.stream(&id);
        let old = again.old.as_ref().unwrap();
        assert_eq!((&old.regions, &old.anchors, old.frames_bytes), (&layers, &anchors, 8));
        assert_eq!(again.frames.read(3, 5).unwrap(), b"three");
        // A push that is never committed appends, and the next one writes over that.
        again.frames.add(0, b"lost", 16, 0, true);
        let third = cache.stream(&id);
        third.frames.add(0, b"kept", 16, 0, true);
        assert_eq!(third.frames.read(8, 4).unwrap(), b"kept");
    }

    #[test]
    fn damage_reads_as_nothing() {
        let dir = tempfile::tempdir().unwrap();
        let cache = BaseCache::open(dir.path(), 1 << 20).unwrap();
        let id = ChunkId([1; 24]);
        let stream = cache.stream(&id);
        let regions = vec![region(layer(&stream.frames, 0, b"one"))];
        cache.save(&stream, Reference { regions, ..Reference::default() });
        let path = cache.reference_path(&id.to_string());
        let bytes = fs::read(&path).unwrap();
        for at in 0..bytes.len() {
            let mut damaged = bytes.clone();
            damaged[at] ^= 4;
            assert!(Reference::decode(&damaged).is_err(), "byte {at}");
        }
        fs::write(&path, &bytes[..bytes.len() / 2]).unwrap();
        assert!(cache.stream(&id).old.is_none());
    }

    #[test]
    fn the_limit_holds() {
        let dir = tempfile::tempdir().unwrap();
        let cache = BaseCache::open(dir.path(), 10).unwrap();
        let stream = cache.stream(&ChunkId([1; 24]));
        stream.frames.add(0, b"1234567", 28, 0, true);
        stream.frames.add(1, b"1234567", 28, 0, true);
        assert!(stream.frames.frame(0).unwrap().at.is_some());
        assert!(stream.frames.frame(1).unwrap().at.is_none(), "there was no room for it");
        let cache = BaseCache::open(dir.path(), 3).unwrap();
        cache.trim().unwrap();
        assert!(files(dir.path()).unwrap().is_empty());
    }

    #[test]
    fn frames_that_no_longer_count_are_cleared_away() {
        let dir = tempfile::tempdir().unwrap();
        let cache = BaseCache::open(dir.path(), 1 << 30).unwrap();
        let id = ChunkId([1; 24]);
        let stream = cache.stream(&id);
        let mut layers = Vec::new();
        for serial in 0..20 {
            layers.push(layer(&stream.frames, serial, &vec![serial as u8; 1 << 20]));
        }
        let regions = vec![region(layers[3].clone()), region(layers[17].clone())];
        cache.save(&stream, Reference { regions, ..Reference::default() });
        let again = cache.stream(&id);
        let old = again.old.as_ref().unwrap();
        assert_eq!(old.frames_bytes, 2 << 20);
        for (region, serial) in old.regions.iter().zip([3, 17]) {
            assert_eq!(again.frames.read(region.layers[0].frame_at, 1 << 20).unwrap(), vec![serial; 1 << 20]);
        }
        assert_eq!(files(dir.path()).unwrap().len(), 2);
    }
}
