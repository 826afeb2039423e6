//! The frames of one stream: a file that grows at its end.

use std::collections::HashMap;
use std::fs::{File, OpenOptions};
use std::io;
use std::os::unix::fs::{FileExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::sync::atomic::AtomicU64;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use super::{Reference, take_room};
use crate::crypto::hash::hash;
use crate::model::ids::ObjectHash;

/// One frame that was made in this push.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct KeptFrame {
    /// Where it lies in the file; none when it is not kept.
    pub at: Option<u64>,
    /// Its length.
    pub stored_bytes: u32,
    /// Length of what it holds.
    pub raw_bytes: u32,
    /// BLAKE3 of the frame; zero where it is not kept.
    pub hash: ObjectHash,
    /// Its depth: 0 for an ordinary block.
    pub depth: u8,
}

/// The file, and what this push adds to it. No descriptor is held: there may be many streams.
pub struct FrameLog {
    path: PathBuf,
    room: Arc<AtomicU64>,
    added: Mutex<Added>,
}

struct Added {
    end: u64,
    by_serial: HashMap<u32, KeptFrame>,
}

impl FrameLog {
    pub(super) fn new(path: PathBuf, end: u64, room: Arc<AtomicU64>) -> Self {
        Self { path, room, added: Mutex::new(Added { end, by_serial: HashMap::new() }) }
    }

    fn added(&self) -> MutexGuard<'_, Added> {
        self.added.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Notes the frame of a block, and keeps it if `keep` and there is room.
    pub fn add(&self, serial: u32, frame: &[u8], raw_bytes: u32, depth: u8, keep: bool) {
        // What the vault holds is known by this hash again, and a frame opens into one thing only.
        let hash = if keep { hash(frame) } else { ObjectHash([0; 32]) };
        let mut added = self.added();
        let at = added.end;
        let kept = keep && take_room(&self.room, frame.len() as u64) && self.write(frame, at).is_ok();
        if kept {
            added.end += frame.len() as u64;
        }
        let stored_bytes = u32::try_from(frame.len()).unwrap_or(u32::MAX);
        added.by_serial.insert(serial, KeptFrame { at: kept.then_some(at), stored_bytes, raw_bytes, hash, depth });
    }

    fn write(&self, frame: &[u8], at: u64) -> io::Result<()> {
        let file = OpenOptions::new().create(true).truncate(false).write(true).mode(0o600).open(&self.path)?;
        file.write_all_at(frame, at)
    }

    /// What became of a block of this push.
    #[must_use]
    pub fn frame(&self, serial: u32) -> Option<KeptFrame> {
        self.added().by_serial.get(&serial).copied()
    }

    /// Bytes of a frame.
    ///
    /// # Errors
    /// When they are not there.
    pub fn read(&self, at: u64, bytes: usize) -> io::Result<Vec<u8>> {
        let mut frame = vec![0; bytes];
        File::open(&self.path)?.read_exact_at(&mut frame, at)?;
        Ok(frame)
    }

    /// Where the frames end.
    pub(super) fn end(&self) -> u64 {
        self.added().end
    }

    /// Copies the frames that a reference still names to a new file, and tells the reference.
    pub(super) fn compact(&self, path: &Path, reference: &mut Reference) -> io::Result<()> {
        let old = File::open(&self.path)?;
        let new = OpenOptions::new().create(true).truncate(true).write(true).mode(0o600).open(path)?;
        let mut end = 0;
        for layer in reference.regions.iter_mut().flat_map(|region| &mut region.layers) {
            let mut frame = vec![0; layer.stored_bytes as usize];
            old.read_exact_at(&mut frame, layer.frame_at)?;
            new.write_all_at(&frame, end)?;
            layer.frame_at = end;
            end += frame.len() as u64;
        }
        reference.frames_bytes = end;
        Ok(())
    }
}
