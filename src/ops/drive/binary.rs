//! The program itself, on the drive beside the vault, so that a bare machine can restore from the drive alone.

use std::fs::File;
use std::io::{Read, Write};
use std::os::fd::OwnedFd;
use std::path::Path;

use rustix::fs::{Mode, OFlags};

use crate::crypto::hash::hash;
use crate::model::finding::{Finding, FindingKind};
use crate::model::ids::ObjectHash;
use crate::ops::OpError;

/// Its name on the drive.
const NAME: &str = "farkeep";
const TEMPORARY: &str = "tmp-farkeep";
/// What a program that needs shared libraries names in its first page.
const LOADER: &[u8] = b"/ld-";

/// Room that the program takes beside what lies on the drive already.
#[must_use]
pub fn room_bytes(root: &OwnedFd, binary: &Path) -> u64 {
    let wanted = std::fs::metadata(binary).map_or(0, |meta| meta.len());
    let there = rustix::fs::statat(root, NAME, rustix::fs::AtFlags::SYMLINK_NOFOLLOW).ok();
    // One of the same length is most likely this one.
    if there.is_some_and(|there| u64::try_from(there.st_size) == Ok(wanted)) { 0 } else { wanted }
}

/// Puts the program at `binary` on the drive, if this very one does not lie there.
///
/// # Errors
/// When it cannot be read or written.
pub fn carry(root: &OwnedFd, binary: &Path) -> Result<(ObjectHash, Option<Finding>), OpError> {
    let io = |what: &dyn std::fmt::Display, error: &dyn std::fmt::Display| OpError::NotDone(format!("{what}: {error}"));
    let program = std::fs::read(binary).map_err(|e| io(&binary.display(), &e))?;
    let hashed = hash(&program);
    let dynamic = program[..program.len().min(4096)].windows(LOADER.len()).any(|window| window == LOADER);
    let note = dynamic.then(|| {
        let message = "the program on the drive needs the C library of the machine that runs it; a static build does not";
        Finding::new(FindingKind::Notice, NAME, message)
    });
    let open = |name: &str, flags, mode| rustix::fs::openat(root, name, flags | OFlags::NOFOLLOW | OFlags::CLOEXEC, mode);
    if let Ok(fd) = open(NAME, OFlags::RDONLY, Mode::empty()) {
        let mut there = Vec::new();
        let same = File::from(fd).take(program.len() as u64 + 1).read_to_end(&mut there).is_ok() && there == program;
        if same {
            return Ok((hashed, note));
        }
    }
    let flags = OFlags::WRONLY | OFlags::CREATE | OFlags::TRUNC;
    let fd = open(TEMPORARY, flags, Mode::from_raw_mode(0o755)).map_err(|e| io(&NAME, &e))?;
    let mut file = File::from(fd);
    if let Err(error) = file.write_all(&program).and_then(|()| file.sync_all()) {
        let _ = rustix::fs::unlinkat(root, TEMPORARY, rustix::fs::AtFlags::empty());
        return Err(io(&"the program for the drive", &error));
    }
    drop(file);
    rustix::fs::renameat(root, TEMPORARY, root, NAME).map_err(|e| io(&NAME, &e))?;
    // Where a directory cannot be synced, the whole file system is, before the drive may be unplugged.
    let _ = rustix::fs::fsync(root);
    Ok((hashed, note))
}
