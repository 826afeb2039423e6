//! Which archives of other scripts this machine has pushed, and in which snapshot each is: what `keep_local` goes by.
//!
//! Losing it loses nothing: an archive that nothing is known of stays.

use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use super::{StateDir, StateError, read_summed, write_summed};
use crate::crypto::hash::checksum;
use crate::format::wire::{from_base64, to_base64};
use crate::model::ids::{SnapshotId, to_hex};
use crate::model::limits::MIB;

/// Some 100,000 archives.
const NOTE_MAX_BYTES: u64 = 32 * MIB;

/// A file of this machine as it was when it was read.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct LocalFile {
    /// Its path, which need not be text.
    path: String,
    /// Its file system and number there.
    inode: (u64, u64),
    /// Its length.
    pub bytes: u64,
    /// When it was written, in seconds and nanoseconds.
    pub modified: (i64, i64),
}

impl LocalFile {
    /// The file at `path`, of which `meta` is known.
    #[must_use]
    pub fn of(path: &Path, meta: &std::fs::Metadata) -> Self {
        Self {
            path: to_base64(path.as_os_str().as_bytes()),
            inode: (meta.dev(), meta.ino()),
            bytes: meta.size(),
            modified: (meta.mtime(), meta.mtime_nsec()),
        }
    }

    /// Its path; empty when the note was none.
    #[must_use]
    pub fn path(&self) -> PathBuf {
        PathBuf::from(std::ffi::OsString::from_vec(from_base64(&self.path).unwrap_or_default()))
    }

    /// Whether it still lies there as it was: the same file, with the same length and time. A link in its place is not it.
    #[must_use]
    pub fn is_there(&self) -> bool {
        let path = self.path();
        std::fs::symlink_metadata(&path).is_ok_and(|meta| meta.is_file() && Self::of(&path, &meta) == *self)
    }
}

/// An archive and the snapshot that it is in.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Shipped {
    /// The file.
    pub file: LocalFile,
    /// The snapshot.
    pub snapshot: SnapshotId,
}

/// The note of one source of a job.
#[derive(Debug)]
pub struct ShippedNote {
    path: PathBuf,
}

impl ShippedNote {
    /// The note of `source` in `job`.
    #[must_use]
    pub fn of(state: &StateDir, job: &str, source: &str) -> Self {
        // Names may hold whatever could part them.
        let both = checksum(format!("{job}\0{source}").as_bytes());
        Self { path: state.ratchet().join(format!("shipped-{}", to_hex(&both))) }
    }

    /// What it holds; nothing when it is not there or rotted.
    #[must_use]
    pub fn read(&self) -> Vec<Shipped> {
        read_summed(&self.path, NOTE_MAX_BYTES).ok().flatten().unwrap_or_default()
    }

    /// Writes it.
    ///
    /// # Errors
    /// When it cannot be written.
    pub fn write(&self, shipped: &[Shipped]) -> Result<(), StateError> {
        write_summed(&self.path, &shipped)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::ids::{ObjectHash, VaultId};

    #[test]
    fn no_two_sources_share_a_note() {
        let dir = tempfile::tempdir().unwrap_or_else(|e| panic!("{e}"));
        let state = StateDir::open(dir.path(), VaultId([1; 16])).unwrap_or_else(|e| panic!("{e}"));
        assert_ne!(ShippedNote::of(&state, "a", "b-c").path, ShippedNote::of(&state, "a-b", "c").path);
    }

    #[test]
    fn a_note_comes_back_and_one_that_rotted_knows_nothing() {
        let dir = tempfile::tempdir().unwrap_or_else(|e| panic!("{e}"));
        let state = StateDir::open(dir.path(), VaultId([1; 16])).unwrap_or_else(|e| panic!("{e}"));
        let path = dir.path().join(std::ffi::OsStr::from_bytes(b"not\xfftext"));
        std::fs::write(&path, b"archive").unwrap_or_else(|e| panic!("{e}"));
        let file = LocalFile::of(&path, &std::fs::metadata(&path).unwrap_or_else(|e| panic!("{e}")));
        let shipped = vec![Shipped { file, snapshot: ObjectHash([2; 32]) }];
        let note = ShippedNote::of(&state, "nightly", "mongo");
        assert_eq!(note.read(), []);
        note.write(&shipped).unwrap_or_else(|e| panic!("{e}"));
        assert_eq!(note.read(), shipped);
        assert!(shipped[0].file.is_there() && shipped[0].file.path() == path);
        std::fs::write(&path, b"another one").unwrap_or_else(|e| panic!("{e}"));
        assert!(!shipped[0].file.is_there());
        let mut bytes = std::fs::read(&note.path).unwrap_or_else(|e| panic!("{e}"));
        bytes[3] ^= 1;
        std::fs::write(&note.path, bytes).unwrap_or_else(|e| panic!("{e}"));
        assert_eq!(note.read(), []);
    }
}
