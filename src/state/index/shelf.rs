//! Where readers keep their index: beside the agent's own, never in it.
//!
//! The agent's index belongs to pushes alone, which hold the state's lock; a reader holds none. And a reader must find chunks
//! only where its snapshot says they are: what somebody else could read it with. So readers share an index of their own, one
//! at a time, which holds exactly the packs that the snapshot's index objects list; a second reader makes one for itself.

use std::collections::BTreeSet;
use std::fs::{File, OpenOptions};
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;
use std::time::Duration;

use rustix::fs::FlockOperation;
use tempfile::TempDir;

use super::ChunkIndex;
use crate::model::name::Sealed;
use crate::state::{StateError, make_private_dir};

const SHARED: &str = "read-index";
/// Directories of readers that cannot be at work any more.
const PRIVATE: &str = "read-index-";
const PRIVATE_FOR: Duration = Duration::from_secs(7 * 24 * 3600);

/// Keeps a reader's index its own; holds on to it for as long as it is used.
#[derive(Debug)]
pub enum Shelf {
    /// The one that readers share in turn.
    Shared(File),
    /// One that goes away with its reader.
    Private(TempDir),
}

impl ChunkIndex {
    /// Opens an index for reading a snapshot with these index objects; it holds packs of none but them.
    ///
    /// # Errors
    /// When `cache` cannot be used.
    pub fn open_to_read(cache: &Path, objects: &BTreeSet<Sealed>) -> Result<(Self, Shelf), StateError> {
        make_private_dir(cache)?;
        let lock = cache.join(format!("{SHARED}.lock"));
        let file = OpenOptions::new().create(true).truncate(false).write(true).mode(0o600).open(&lock);
        let file = file.map_err(StateError::io(&lock))?;
        if rustix::fs::flock(&file, FlockOperation::NonBlockingLockExclusive).is_err() {
            let dir = tempfile::Builder::new().prefix(PRIVATE).tempdir_in(cache).map_err(StateError::io(cache))?;
            return Ok((Self::open(dir.path())?, Shelf::Private(dir)));
        }
        remove_left_behind(cache);
        let dir = cache.join(SHARED);
        let index = Self::open(&dir)?;
        if index.objects().all(|object| objects.contains(&object)) {
            return Ok((index, Shelf::Shared(file)));
        }
        drop(index);
        std::fs::remove_dir_all(&dir).map_err(StateError::io(&dir))?;
        Ok((Self::open(&dir)?, Shelf::Shared(file)))
    }
}

/// Removes what readers that were killed left behind.
fn remove_left_behind(cache: &Path) {
    let Ok(entries) = std::fs::read_dir(cache) else { return };
    for entry in entries.flatten() {
        let age = entry.metadata().and_then(|meta| meta.modified()).ok().and_then(|time| time.elapsed().ok());
        if entry.file_name().to_string_lossy().starts_with(PRIVATE) && age.is_some_and(|age| age > PRIVATE_FOR) {
            let _ = std::fs::remove_dir_all(entry.path());
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::ids::ObjectHash;

    #[test]
    fn readers_find_nothing_but_their_snapshots_objects() {
        let cache = tempfile::tempdir().unwrap();
        let object = |n| Sealed { hash: ObjectHash([n; 32]), bytes: 20_000 };
        let wanted = |numbers: &[u8]| numbers.iter().map(|n| object(*n)).collect::<BTreeSet<_>>();
        let held = |index: &ChunkIndex| index.objects().collect::<BTreeSet<_>>();

        let (mut first, shelf) = ChunkIndex::open_to_read(cache.path(), &wanted(&[1])).unwrap();
        first.set_object(&object(1), &[]).unwrap();
        first.flush().unwrap();
        // A second one at the same time has its own.
        let (second, other) = ChunkIndex::open_to_read(cache.path(), &wanted(&[1])).unwrap();
        assert!(matches!((&shelf, &other), (Shelf::Shared(_), Shelf::Private(_))));
        assert!(held(&second).is_empty());
        drop((first, shelf, second, other));

        let (again, shelf) = ChunkIndex::open_to_read(cache.path(), &wanted(&[1, 2])).unwrap();
        assert_eq!(held(&again), wanted(&[1]), "what is wanted too is kept");
        drop((again, shelf));
        let (other, _shelf) = ChunkIndex::open_to_read(cache.path(), &wanted(&[2])).unwrap();
        assert!(held(&other).is_empty(), "what is not wanted is gone");
    }
}
