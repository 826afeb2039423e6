//! Writing one file: without a name, hashed as it is written, named when all of it is right.
//!
//! A restore that is killed so leaves nothing half behind. Where the file system has no files without a name, a temporary
//! beside the final name takes its place.

use std::fs::File;
use std::io;
use std::os::fd::{AsRawFd, OwnedFd};
use std::os::unix::fs::FileExt;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use rustix::fs::{AtFlags, CWD, Mode, OFlags, RenameFlags};
use rustix::io::Errno;

use super::TargetError;
use super::metadata::{MetadataPolicy, apply_to_fd};
use crate::crypto::hash::StreamHasher;
use crate::model::entry::Metadata;
use crate::model::finding::Finding;
use crate::model::ids::ObjectHash;
use crate::model::path::EntryPath;

/// How temporaries of a restore begin, where there must be one; a leftover of one that was killed may be removed by hand.
pub const TEMPORARY_PREFIX: &str = ".farkeep-";
/// Nobody else reads a file before its own mode is set.
const TEMPORARY_MODE: Mode = Mode::from_raw_mode(0o600);

/// What is hashed and written at a time, in stretches that begin at a multiple of it: BLAKE3 takes longer for what begins
/// anywhere. For larger ones the kernel takes larger pages, which where it is itself a guest can cost more than all the rest.
const STEP_BYTES: u64 = 32 * 1024;

static NEXT: AtomicU64 = AtomicU64::new(0);

/// Whether a file may take the place of another.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Placing {
    /// Only a free name.
    New,
    /// The name of another file or link; what it was is gone after that, so the new one is made durable first.
    Replace,
}

/// What a file must be.
#[derive(Debug, Clone)]
pub struct FileGoal {
    /// Its path below the root.
    pub path: EntryPath,
    /// Logical length.
    pub size: u64,
    /// BLAKE3 of the whole logical content.
    pub hash: ObjectHash,
    /// Data extents; none when all of it is data.
    pub extents: Option<Vec<(u64, u64)>>,
    /// Metadata.
    pub meta: Metadata,
    /// Its attributes.
    pub xattrs: Vec<(Vec<u8>, Vec<u8>)>,
    /// Whether it may take another's place.
    pub placing: Placing,
}

/// A file being written.
pub struct FileSink {
    goal: FileGoal,
    parent: Arc<OwnedFd>,
    /// What it is called until it is in place, if it must have a name.
    temporary: String,
    nameless: bool,
    file: Option<File>,
    hasher: StreamHasher,
    /// Where the next byte of data belongs.
    position: u64,
    /// The extent that `position` stands in, and how much of it is left.
    extent: usize,
    extent_left: u64,
}

impl FileSink {
    /// Begins a file in the directory `parent`.
    ///
    /// # Errors
    /// When it cannot be made.
    pub fn create(goal: FileGoal, parent: Arc<OwnedFd>) -> Result<Self, TargetError> {
        let number = NEXT.fetch_add(1, Ordering::Relaxed);
        let temporary = format!("{TEMPORARY_PREFIX}{:x}-{number:x}.tmp", std::process::id());
        let flags = OFlags::WRONLY | OFlags::TMPFILE | OFlags::CLOEXEC;
        let (fd, nameless) = match rustix::fs::openat(&*parent, ".", flags, TEMPORARY_MODE) {
            Ok(fd) => (Ok(fd), true),
            // Not on this file system.
            Err(Errno::OPNOTSUPP | Errno::ISDIR | Errno::INVAL | Errno::NOENT) => (create_named(&parent, &temporary), false),
            Err(e) => (Err(e), true),
        };
        let fd = fd.map_err(|e| TargetError::io(&goal.path, e.into()))?;
        let extent_left = goal.extents.as_ref().map_or(goal.size, |_| 0);
        let (file, hasher) = (Some(File::from(fd)), StreamHasher::new());
        let sink = Self { goal, parent, temporary, nameless, file, hasher, position: 0, extent: 0, extent_left };
        if let (Some(_), Some(file)) = (&sink.goal.extents, &sink.file) {
            // Now, since a hole that the file system cannot hold would be hashed for hours before that shows.
            file.set_len(sink.goal.size).map_err(|e| TargetError::io(&sink.goal.path, e))?;
        }
        Ok(sink)
    }

    /// Takes the next bytes of data.
    ///
    /// # Errors
    /// When they cannot be written, or are more than the file has room for.
    pub fn write(&mut self, mut bytes: &[u8]) -> Result<(), TargetError> {
        while !bytes.is_empty() {
            if self.extent_left == 0 && !self.next_extent() {
                return Err(self.wrong("there is more data than its size says"));
            }
            let step = STEP_BYTES - self.position % STEP_BYTES;
            let count = usize::try_from(self.extent_left.min(step)).unwrap_or(usize::MAX).min(bytes.len());
            let (now, later) = bytes.split_at(count);
            self.hasher.update(now);
            let Some(file) = &self.file else { return Err(self.wrong("is closed")) };
            file.write_all_at(now, self.position).map_err(|e| TargetError::io(&self.goal.path, e))?;
            self.position += count as u64;
            self.extent_left -= count as u64;
            bytes = later;
        }
        Ok(())
    }

    /// Passes over the hole before the next extent.
    fn next_extent(&mut self) -> bool {
        let next = self.goal.extents.as_ref().and_then(|list| list.get(self.extent)).copied();
        let Some((start, length)) = next else { return false };
        self.hasher.update_zeros(start - self.position);
        (self.position, self.extent_left) = (start, length);
        self.extent += 1;
        true
    }

    fn wrong(&self, why: &str) -> TargetError {
        TargetError::Content { path: self.goal.path.to_string(), why: why.to_owned() }
    }

    /// Ends the file: sets its length, checks its hash, sets its metadata, gives it its name.
    ///
    /// # Errors
    /// When content is missing or wrong; then the file is not put in place.
    pub fn finish(mut self, policy: &MetadataPolicy) -> Result<Vec<Finding>, TargetError> {
        let extents = self.goal.extents.as_ref().map_or(0, Vec::len);
        if self.extent_left > 0 || self.extent < extents {
            return Err(self.wrong("content is missing"));
        }
        self.hasher.update_zeros(self.goal.size - self.position);
        if self.hasher.finish() != self.goal.hash {
            return Err(self.wrong("its content is not what was backed up (BLAKE3 differs)"));
        }
        let Some(file) = self.file.take() else { return Err(self.wrong("is closed")) };
        let io = |e: io::Error| TargetError::io(&self.goal.path, e);
        let findings = apply_to_fd(&file, &self.goal.path, &self.goal.meta, &self.goal.xattrs, policy);
        if self.goal.placing == Placing::Replace {
            file.sync_all().map_err(io)?;
        }
        self.put_in_place(&file).map_err(|e| TargetError::io(&self.goal.path, e.into()))?;
        Ok(findings)
    }

    fn put_in_place(&self, file: &File) -> Result<(), Errno> {
        let name = self.goal.path.name();
        if self.nameless {
            // The link in /proc leads to the inode itself. Where nothing is mounted there, only root can do without.
            let open = format!("/proc/self/fd/{}", file.as_raw_fd());
            let link = |to: &[u8]| match rustix::fs::linkat(CWD, &open, &*self.parent, to, AtFlags::SYMLINK_FOLLOW) {
                Err(Errno::NOENT) => rustix::fs::linkat(file, "", &*self.parent, to, AtFlags::EMPTY_PATH),
                outcome => outcome,
            };
            match self.goal.placing {
                Placing::New => return link(name),
                Placing::Replace => retry_past_leftover(&self.parent, &self.temporary, || link(self.temporary.as_bytes()))?,
            }
        }
        match self.goal.placing {
            Placing::Replace => rustix::fs::renameat(&*self.parent, &self.temporary, &*self.parent, name),
            Placing::New => {
                let renamed =
                    rustix::fs::renameat_with(&*self.parent, &self.temporary, &*self.parent, name, RenameFlags::NOREPLACE);
                match renamed {
                    // No such rename on this file system: a look before, which loses a race at worst against oneself.
                    Err(Errno::INVAL | Errno::NOSYS) => {
                        if rustix::fs::statat(&*self.parent, name, AtFlags::SYMLINK_NOFOLLOW).is_ok() {
                            return Err(Errno::EXIST);
                        }
                        rustix::fs::renameat(&*self.parent, &self.temporary, &*self.parent, name)
                    }
                    other => other,
                }
            }
        }
    }
}

impl Drop for FileSink {
    fn drop(&mut self) {
        // After a rename nothing has this name any more.
        if !self.nameless || self.goal.placing == Placing::Replace {
            let _ = rustix::fs::unlinkat(&*self.parent, &self.temporary, AtFlags::empty());
        }
    }
}

fn create_named(parent: &OwnedFd, name: &str) -> Result<OwnedFd, Errno> {
    let flags = OFlags::WRONLY | OFlags::CREATE | OFlags::EXCL | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    retry_past_leftover(parent, name, || rustix::fs::openat(parent, name, flags, TEMPORARY_MODE))
}

/// Makes `name`, which a process of the same number may have left behind.
fn retry_past_leftover<T>(parent: &OwnedFd, name: &str, make: impl Fn() -> Result<T, Errno>) -> Result<T, Errno> {
    match make() {
        Err(Errno::EXIST) => rustix::fs::unlinkat(parent, name, AtFlags::empty()).and_then(|()| make()),
        other => other,
    }
}
