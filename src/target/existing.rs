//! What is already at the target: equal, in the way, or nothing.

use std::fs::File;
use std::io;
use std::os::fd::OwnedFd;

use rustix::fs::{AtFlags, FileType, OFlags};
use rustix::io::Errno;

use super::root::TargetRoot;
use crate::crypto::hash::hash_reader;
use crate::model::entry::{Content, EntryKind};
use crate::model::path::EntryPath;

/// How an entry of the target compares with the one to be restored.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Existing {
    /// Nothing is there.
    Absent,
    /// The same kind with the same content: only metadata may differ.
    Equal,
    /// Something else that a rename can replace.
    Other,
    /// A directory where a file belongs, or the reverse.
    WrongKind,
}

/// Compares what is at `path` with `kind`. `content` is the file that a hard link stands for.
///
/// # Errors
/// When it cannot be looked at.
pub fn compare(root: &TargetRoot, path: &EntryPath, kind: &EntryKind, content: Option<&Content>) -> io::Result<Existing> {
    let fd = match root.open_entry(path, OFlags::PATH) {
        Ok(fd) => fd,
        Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(Existing::Absent),
        // A link or file on the way: whatever is behind it is not ours.
        Err(e) if is_on_the_way(&e) => return Ok(Existing::WrongKind),
        Err(e) => return Err(e),
    };
    let stat = rustix::fs::fstat(&fd)?;
    let found = FileType::from_raw_mode(stat.st_mode);
    let is_dir = found == FileType::Directory;
    if is_dir != (*kind == EntryKind::Directory) {
        return Ok(Existing::WrongKind);
    }
    let equal = match kind {
        EntryKind::Directory => true,
        EntryKind::Symlink(target) => found == FileType::Symlink && read_link(&fd)? == *target,
        EntryKind::File(_) | EntryKind::HardLink(_) => match content {
            Some(content) if found == FileType::RegularFile => {
                u64::try_from(stat.st_size) == Ok(content.size) && hash_of(root, path)? == content.hash
            }
            _ => false,
        },
        EntryKind::Fifo => found == FileType::Fifo,
        EntryKind::CharDevice(major, minor) => {
            found == FileType::CharacterDevice && stat.st_rdev == rustix::fs::makedev(*major, *minor)
        }
        EntryKind::BlockDevice(major, minor) => {
            found == FileType::BlockDevice && stat.st_rdev == rustix::fs::makedev(*major, *minor)
        }
    };
    Ok(if equal { Existing::Equal } else { Existing::Other })
}

fn is_on_the_way(error: &io::Error) -> bool {
    [Errno::LOOP, Errno::NOTDIR, Errno::XDEV].iter().any(|e| error.raw_os_error() == Some(e.raw_os_error()))
}

fn read_link(fd: &OwnedFd) -> io::Result<Vec<u8>> {
    Ok(rustix::fs::readlinkat(fd, "", Vec::new())?.into_bytes())
}

fn hash_of(root: &TargetRoot, path: &EntryPath) -> io::Result<crate::model::ids::ObjectHash> {
    let fd = root.open_entry(path, OFlags::RDONLY | OFlags::NONBLOCK)?;
    hash_reader(&mut File::from(fd))
}

/// Removes a name that is no directory.
///
/// # Errors
/// When it cannot be removed.
pub fn remove(parent: &OwnedFd, name: &[u8]) -> io::Result<()> {
    match rustix::fs::unlinkat(parent, name, AtFlags::empty()) {
        Ok(()) | Err(Errno::NOENT) => Ok(()),
        Err(e) => Err(e.into()),
    }
}
