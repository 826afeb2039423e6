//! The root of a restore, and what is made beneath it.

use std::collections::VecDeque;
use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use rustix::fs::{AtFlags, FileType, Mode, OFlags, ResolveFlags};
use rustix::io::Errno;

use super::TargetError;
use crate::model::path::EntryPath;

/// Directories whose descriptor is kept: a walk goes through few at a time.
const DIRS_KEPT: usize = 32;
/// Directories are closed to others until their own mode is set, last.
const NEW_DIR_MODE: Mode = Mode::from_raw_mode(0o700);
/// The longest path that the system takes in one call.
const PATH_CALL_MAX: usize = 4000;

/// A directory that everything lands beneath.
pub struct TargetRoot {
    path: PathBuf,
    fd: OwnedFd,
    dirs: VecDeque<(EntryPath, Arc<OwnedFd>)>,
    /// Whether the root was empty when it was opened: then nothing can be in the way but what this restore made.
    fresh: bool,
}

impl TargetRoot {
    /// Opens the directory `path`, made with its parents when it is not there.
    ///
    /// # Errors
    /// When it cannot be made or is no directory.
    pub fn open(path: &Path) -> Result<Self, TargetError> {
        let unusable = |why: io::Error| TargetError::Unusable { path: path.display().to_string(), why: why.to_string() };
        std::fs::create_dir_all(path).map_err(unusable)?;
        let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
        let fd = rustix::fs::open(path, flags, Mode::empty()).map_err(|e| unusable(e.into()))?;
        let fresh = std::fs::read_dir(path).map_err(unusable)?.next().is_none();
        Ok(Self { path: path.to_owned(), fd, dirs: VecDeque::new(), fresh })
    }

    /// Where it is.
    #[must_use]
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Whether it was empty when it was opened.
    #[must_use]
    pub const fn is_fresh(&self) -> bool {
        self.fresh
    }

    /// Its descriptor.
    #[must_use]
    pub const fn fd(&self) -> &OwnedFd {
        &self.fd
    }

    /// Free bytes on its file system.
    #[must_use]
    pub fn room(&self) -> Option<u64> {
        rustix::fs::fstatvfs(&self.fd).ok().map(|stat| stat.f_bavail.saturating_mul(stat.f_frsize))
    }

    /// Opens what is at `path`, links refused on the way and at the end.
    ///
    /// # Errors
    /// When it is not there, or cannot be reached without a link.
    pub fn open_entry(&self, path: &EntryPath, flags: OFlags) -> io::Result<OwnedFd> {
        let bytes = path.as_bytes();
        let mut dir: Option<OwnedFd> = None;
        let mut rest = bytes;
        while rest.len() > PATH_CALL_MAX {
            let cut = rest[..PATH_CALL_MAX].iter().rposition(|b| *b == b'/').ok_or(Errno::NAMETOOLONG)?;
            let through = OFlags::PATH | OFlags::DIRECTORY;
            dir = Some(open_beneath(dir.as_ref().unwrap_or(&self.fd), &rest[..cut], through)?);
            rest = &rest[cut + 1..];
        }
        Ok(open_beneath(dir.as_ref().unwrap_or(&self.fd), rest, flags)?)
    }

    /// The directory that `path` lies in, made where it is missing.
    ///
    /// # Errors
    /// When something else is in its place.
    pub fn parent_of(&mut self, path: &EntryPath) -> Result<Arc<OwnedFd>, TargetError> {
        match path.parent() {
            Some(parent) => self.dir(&parent),
            None => Ok(Arc::new(self.fd.as_fd().try_clone_to_owned().map_err(|e| TargetError::io(path, e))?)),
        }
    }

    /// The directory at `path`, made where it is missing.
    ///
    /// # Errors
    /// When something else is in its place.
    pub fn dir(&mut self, path: &EntryPath) -> Result<Arc<OwnedFd>, TargetError> {
        if let Some((_, fd)) = self.dirs.iter().find(|(known, _)| known == path) {
            return Ok(Arc::clone(fd));
        }
        let flags = OFlags::RDONLY | OFlags::DIRECTORY;
        let fd = match self.open_entry(path, flags) {
            Err(e) if e.kind() == io::ErrorKind::NotFound => {
                let parent = self.parent_of(path)?;
                match rustix::fs::mkdirat(&*parent, path.name(), NEW_DIR_MODE) {
                    Ok(()) | Err(Errno::EXIST) => {}
                    Err(e) => return Err(TargetError::io(path, e.into())),
                }
                self.open_entry(path, flags)
            }
            other => other,
        };
        let fd = Arc::new(fd.map_err(|e| in_the_way(path, e))?);
        if self.dirs.len() >= DIRS_KEPT {
            self.dirs.pop_front();
        }
        self.dirs.push_back((path.clone(), Arc::clone(&fd)));
        Ok(fd)
    }

    /// Forgets the descriptor of a directory that was replaced.
    pub fn forget(&mut self, path: &EntryPath) {
        self.dirs.retain(|(known, _)| !known.is_at_or_below(path));
    }
}

fn in_the_way(path: &EntryPath, error: io::Error) -> TargetError {
    if error.raw_os_error() == Some(Errno::NOTDIR.raw_os_error()) {
        return TargetError::Entry {
            path: path.to_string(),
            why: "something that is no directory stands in the way".into(),
        };
    }
    TargetError::io(path, error)
}

fn open_beneath(dir: &OwnedFd, path: &[u8], flags: OFlags) -> Result<OwnedFd, Errno> {
    let resolve = ResolveFlags::BENEATH | ResolveFlags::NO_SYMLINKS | ResolveFlags::NO_MAGICLINKS;
    let flags = flags | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    match rustix::fs::openat2(dir, path, flags, Mode::empty(), resolve) {
        // A rename elsewhere in the tree while the path was resolved: the kernel asks to try again.
        Err(Errno::AGAIN) => rustix::fs::openat2(dir, path, flags, Mode::empty(), resolve),
        Err(Errno::NOSYS) => open_by_components(dir, path, flags),
        done => done,
    }
}

/// For kernels without openat2.
fn open_by_components(dir: &OwnedFd, path: &[u8], flags: OFlags) -> Result<OwnedFd, Errno> {
    let mut parts: Vec<&[u8]> = path.split(|b| *b == b'/').collect();
    let last = parts.pop().ok_or(Errno::INVAL)?;
    let mut dir = rustix::io::fcntl_dupfd_cloexec(dir, 0)?;
    for part in parts {
        let through = OFlags::PATH | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        dir = rustix::fs::openat(&dir, part, through, Mode::empty())?;
    }
    rustix::fs::openat(&dir, last, flags, Mode::empty())
}

/// What kind of thing has the name `name` in `dir`; none when nothing has.
///
/// # Errors
/// When it cannot be looked at.
pub fn kind_at(dir: &OwnedFd, name: &[u8]) -> io::Result<Option<FileType>> {
    match rustix::fs::statat(dir, name, AtFlags::SYMLINK_NOFOLLOW) {
        Ok(stat) => Ok(Some(FileType::from_raw_mode(stat.st_mode))),
        Err(Errno::NOENT) => Ok(None),
        Err(e) => Err(e.into()),
    }
}
