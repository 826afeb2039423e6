//! A directory of this machine or of a mounted drive.
//!
//! Write protocol: a temporary under a lock, write, fsync, rename that refuses to replace, fsync of the directory. Where
//! the file system has no such rename (exFAT, some FUSE), the object is made at its final name with O_EXCL, as over SFTP.
//! Links are never followed inside the store: a planted one cannot lead a read or a write elsewhere.
//!
//! Written by root, an object belongs to the owner and group of the directory that it lies in, readable as its neighbours:
//! the account that pushes must be able to read what a custodian, a prune or a sync has put beside its own.

use std::fs::File;
use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::fs::FileExt;
use std::path::Path;
use std::sync::atomic::{AtomicU64, Ordering};

use rustix::fs::{AtFlags, Dir, FileType, FlockOperation, Mode, OFlags, RenameFlags, ResolveFlags};
use rustix::io::Errno;

use crate::crypto::hash::hash;
use crate::model::limits::{LISTING_MAX_NAMES, RECORD_MAX_BYTES};
use crate::model::name::ObjectName;
use crate::model::time::Timestamp;
use crate::store::direct::{errno, read_aligned, write_past_cache};
use crate::store::drive::LABEL_FILE;
use crate::store::{Durability, Listed, Location, PruneStore, Store, StoreError, WriteOnceStore};

/// How temporaries begin; no object's name does.
const TEMPORARY_PREFIX: &str = "tmp-";
/// Objects are readable by their owner and group, and writable by nobody once they are there.
const OBJECT_MODE: Mode = Mode::from_raw_mode(0o440);
/// Directories of a vault.
const DIR_MODE: Mode = Mode::from_raw_mode(0o750);
/// Transfers at once: enough to overlap one object's fsync with the next one's writing.
const PARALLEL: usize = 2;
/// What FUSE calls itself (statfs(2)).
const FUSE_MAGIC: rustix::fs::FsWord = 0x6573_5546;

/// Temporaries of this process so far.
static TEMPORARIES: AtomicU64 = AtomicU64::new(0);

/// Objects in files.
#[derive(Debug)]
pub struct DirectoryStore {
    location: Location,
    root: OwnedFd,
    /// The label of the drive that this directory lies on, hashed.
    label: Option<String>,
}

impl DirectoryStore {
    /// Opens the store in an existing directory.
    ///
    /// # Errors
    /// When there is no such directory: a store that is not there is unreachable.
    pub fn open(path: &Path) -> Result<Self, StoreError> {
        let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
        let root = rustix::fs::open(path, flags, Mode::empty())
            .map_err(|e| StoreError::Unreachable(format!("{}: {e}", path.display())))?;
        Ok(Self::of_open(root, path))
    }

    /// Opens the directory `name` right below the open directory `parent`, whose path is `path`, and makes it when `create`
    /// says so. Whatever is mounted or unmounted at that path meanwhile: nothing is written anywhere else.
    ///
    /// # Errors
    /// When it cannot be opened or made.
    pub fn beneath(parent: &OwnedFd, path: &Path, name: &str, create: bool) -> Result<Self, StoreError> {
        if create {
            match rustix::fs::mkdirat(parent, name, DIR_MODE) {
                Ok(()) | Err(Errno::EXIST) => {}
                Err(e) => return Err(error(name, e)),
            }
        }
        let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let root = rustix::fs::openat(parent, name, flags, Mode::empty()).map_err(|e| error(name, e))?;
        Ok(Self::of_open(root, &path.join(name)))
    }

    /// The store in a directory that is open already.
    #[must_use]
    pub fn of_open(root: OwnedFd, path: &Path) -> Self {
        let label = label_of(&root);
        Self { location: Location::Directory(path.to_owned()), root, label }
    }

    /// Makes the directory, with its parents, and opens it.
    ///
    /// # Errors
    /// When it cannot be made.
    pub fn create(path: &Path) -> Result<Self, StoreError> {
        std::fs::create_dir_all(path)
            .map_err(|e| StoreError::Io { name: path.display().to_string(), why: e.to_string() })?;
        Self::open(path)
    }

    fn open_dir(&self, dir: &str) -> Result<Option<OwnedFd>, StoreError> {
        let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
        match self.open_beneath(dir, flags, Mode::empty()) {
            Ok(fd) => Ok(Some(fd)),
            Err(Errno::NOENT) => Ok(None),
            Err(e) => Err(self.unread(dir, e)),
        }
    }

    /// Opens `path` below the root without following any link. Kernels before 5.6, and sandboxes that filter the call, get
    /// the same component by component.
    fn open_beneath(&self, path: &str, flags: OFlags, mode: Mode) -> Result<OwnedFd, Errno> {
        let path = if path.is_empty() { "." } else { path };
        let resolve = ResolveFlags::BENEATH | ResolveFlags::NO_SYMLINKS | ResolveFlags::NO_MAGICLINKS;
        match rustix::fs::openat2(&self.root, path, flags | OFlags::NOFOLLOW, mode, resolve) {
            Err(Errno::NOSYS | Errno::PERM) => {}
            done => return done,
        }
        let (parents, last) = path.rsplit_once('/').map_or(("", path), |(p, l)| (p, l));
        let mut dir = rustix::io::fcntl_dupfd_cloexec(&self.root, 0)?;
        for part in parents.split('/').filter(|p| !p.is_empty()) {
            let through = OFlags::PATH | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
            dir = rustix::fs::openat(&dir, part, through, Mode::empty())?;
        }
        rustix::fs::openat(&dir, last, flags | OFlags::NOFOLLOW, mode)
    }

    fn open_object(&self, name: &str) -> Result<File, StoreError> {
        self.open_object_with(name, OFlags::empty())
    }

    /// What failed to be read. A sector that cannot be read says something about one object; a drive that was pulled says
    /// nothing about any, and must not look like damage.
    fn unread(&self, name: &str, e: Errno) -> StoreError {
        if e == Errno::IO && !self.answers() {
            return StoreError::Unreachable(format!("{}: does not answer any more: {e}: unplugged?", self.location));
        }
        error(name, e)
    }

    /// Whether a program stands between the kernel and the device: past the kernel's cache it may answer out of its own.
    fn is_fuse(&self) -> bool {
        rustix::fs::fstatfs(&self.root).is_ok_and(|stat| stat.f_type == FUSE_MAGIC)
    }

    /// Whether any of the files that each vault has can be read, from the device where that is possible.
    fn answers(&self) -> bool {
        let fixed =
            [ObjectName::Header, ObjectName::RecoverPage(1), ObjectName::RecoverScript(1)].map(|name| name.to_string());
        let opened = |name: &str, more| {
            let flags = OFlags::RDONLY | OFlags::NONBLOCK | OFlags::CLOEXEC | more;
            self.open_beneath(name, flags, Mode::empty()).map(File::from)
        };
        let looked = fixed.iter().map(|name| match opened(name, OFlags::DIRECT) {
            Ok(file) => read_aligned(&file, u64::MAX).map_err(|e| errno(&e)).map(drop),
            Err(Errno::INVAL) => opened(name, OFlags::empty()).map(drop),
            Err(e) => Err(e),
        });
        let looked: Vec<Result<(), Errno>> = looked.collect();
        looked.iter().any(|read| *read != Err(Errno::IO))
    }

    fn open_object_with(&self, name: &str, more: OFlags) -> Result<File, StoreError> {
        let flags = OFlags::RDONLY | OFlags::NONBLOCK | OFlags::CLOEXEC | more;
        let fd = self.open_beneath(name, flags, Mode::empty()).map_err(|e| self.unread(name, e))?;
        let stat = rustix::fs::fstat(&fd).map_err(|e| self.unread(name, e))?;
        if FileType::from_raw_mode(stat.st_mode) != FileType::RegularFile {
            return Err(StoreError::Io { name: name.to_owned(), why: "not a regular file".into() });
        }
        Ok(File::from(fd))
    }

    /// A directory that was just made belongs to whom its parent belongs, and its files to the same group.
    fn give_dir_to_owner(&self, dir: &str) -> Result<(), StoreError> {
        let (Some(parent), Some(made)) = (self.open_dir(split(dir).0)?, self.open_dir(dir)?) else { return Ok(()) };
        give_to_owner(&parent, &made, DIR_MODE | Mode::SGID, dir).map_err(|e| error(dir, e))
    }

    /// Writes a temporary and renames it to `file` in `dir`. None where the file system has no rename that refuses to
    /// replace.
    fn put_by_rename(&self, dir: &OwnedFd, file: &str, bytes: &[u8]) -> Result<Option<()>, Errno> {
        // Two threads may put the same name at once: each writes a temporary of its own, and one rename wins.
        let number = TEMPORARIES.fetch_add(1, Ordering::Relaxed);
        let temporary = format!("{TEMPORARY_PREFIX}{:08x}-{number:x}-{file}", std::process::id());
        let flags = OFlags::WRONLY | OFlags::CREATE | OFlags::EXCL | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let fd = match rustix::fs::openat(dir, &temporary, flags, OBJECT_MODE) {
            // Left by a process of the same number that died: its lock died with it.
            Err(Errno::EXIST) => {
                rustix::fs::unlinkat(dir, &temporary, AtFlags::empty())?;
                rustix::fs::openat(dir, &temporary, flags, OBJECT_MODE)?
            }
            other => other?,
        };
        let written = give_to_owner(dir, &fd, OBJECT_MODE, file).and_then(|()| write_and_sync(fd, bytes)).and_then(|fd| {
            let renamed = rustix::fs::renameat_with(dir, &temporary, dir, file, RenameFlags::NOREPLACE);
            drop(fd);
            renamed
        });
        match written {
            Ok(()) => Ok(Some(())),
            Err(e) => {
                // Nothing depends on it: a leftover is debris that the next sweep takes.
                let _ = rustix::fs::unlinkat(dir, &temporary, AtFlags::empty());
                if matches!(e, Errno::INVAL | Errno::NOSYS | Errno::OPNOTSUPP) { Ok(None) } else { Err(e) }
            }
        }
    }
}

/// The hash of the label that lies beside a vault's directory, on the same file system.
fn label_of(root: &OwnedFd) -> Option<String> {
    let flags = OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::NONBLOCK | OFlags::CLOEXEC;
    let fd = rustix::fs::openat(root, format!("../{LABEL_FILE}"), flags, Mode::empty()).ok()?;
    let (label, here) = (rustix::fs::fstat(&fd).ok()?, rustix::fs::fstat(root).ok()?);
    if label.st_dev != here.st_dev || FileType::from_raw_mode(label.st_mode) != FileType::RegularFile {
        return None;
    }
    read_range(&File::from(fd), 0, RECORD_MAX_BYTES).ok().map(|bytes| hash(&bytes).short())
}

/// Gives what root has just made in `dir` to whom that directory belongs, with `mode` whatever root's umask is. It is done on
/// the open descriptor of what was made, so no link leads it elsewhere. A file system that keeps no owners, or keeps them
/// from root (NFS), leaves it as it is.
fn give_to_owner(dir: &OwnedFd, made: &OwnedFd, mode: Mode, name: &str) -> Result<(), Errno> {
    if !rustix::process::geteuid().is_root() {
        return Ok(());
    }
    let (of_dir, of_made) = (rustix::fs::fstat(dir)?, rustix::fs::fstat(made)?);
    if of_dir.st_uid == of_made.st_uid && of_dir.st_gid == of_made.st_gid {
        return Ok(());
    }
    let (uid, gid) = (rustix::fs::Uid::from_raw(of_dir.st_uid), rustix::fs::Gid::from_raw(of_dir.st_gid));
    let given = rustix::fs::fchown(made, Some(uid), Some(gid)).and_then(|()| rustix::fs::fchmod(made, mode));
    if let Err(error) = given {
        tracing::warn!(%name, %error, "belongs to root: the account that owns the vault may not be able to read it");
    }
    Ok(())
}

/// A failed fsync is never tried again on the same file: the kernel may have dropped the pages and would now say yes.
fn write_and_sync(fd: OwnedFd, bytes: &[u8]) -> Result<OwnedFd, Errno> {
    // The lock tells a sweep that this temporary is alive. File systems without locks lose only that.
    let _ = rustix::fs::flock(&fd, FlockOperation::NonBlockingLockExclusive);
    let file = File::from(fd);
    let written = write_past_cache(&file, bytes)?;
    file.write_all_at(&bytes[written..], written as u64).map_err(|e| errno(&e))?;
    rustix::fs::fsync(&file)?;
    Ok(OwnedFd::from(file))
}

fn error(name: &str, e: Errno) -> StoreError {
    let name = name.to_owned();
    let why = e.to_string();
    match e {
        Errno::NOENT => StoreError::NotFound(name),
        Errno::EXIST => StoreError::Exists(name),
        Errno::ACCESS | Errno::PERM | Errno::ROFS => StoreError::Denied { name, why },
        Errno::NOSPC | Errno::DQUOT | Errno::FBIG => StoreError::Full { name, why },
        Errno::NODEV | Errno::NXIO | Errno::STALE | Errno::NOTCONN | Errno::HOSTDOWN => {
            StoreError::Unreachable(format!("{name}: {why}"))
        }
        Errno::LOOP | Errno::NOTDIR => {
            StoreError::Io { name, why: "a link or file stands where a directory belongs".into() }
        }
        _ => StoreError::Io { name, why },
    }
}

fn split(name: &str) -> (&str, &str) {
    name.rsplit_once('/').unwrap_or(("", name))
}

impl Store for DirectoryStore {
    fn location(&self) -> &Location {
        &self.location
    }

    fn list(&self, dirs: &[String], each: &mut dyn FnMut(Listed)) -> Result<(), StoreError> {
        let mut seen = 0_u64;
        for dir in dirs {
            let Some(fd) = self.open_dir(dir)? else { continue };
            let entries = Dir::read_from(&fd).map_err(|e| self.unread(dir, e))?;
            for entry in entries {
                let entry = entry.map_err(|e| self.unread(dir, e))?;
                if !matches!(entry.file_type(), FileType::RegularFile | FileType::Unknown) {
                    continue;
                }
                let stat = match rustix::fs::statat(&fd, entry.file_name(), AtFlags::SYMLINK_NOFOLLOW) {
                    Ok(stat) if FileType::from_raw_mode(stat.st_mode) == FileType::RegularFile => stat,
                    Ok(_) | Err(Errno::NOENT) => continue,
                    Err(e) => return Err(self.unread(dir, e)),
                };
                seen += 1;
                if seen > LISTING_MAX_NAMES {
                    return Err(StoreError::Protocol(format!("{dir}: over {LISTING_MAX_NAMES} names")));
                }
                let file = String::from_utf8_lossy(entry.file_name().to_bytes()).into_owned();
                let name = if dir.is_empty() { file } else { format!("{dir}/{file}") };
                each(Listed { name, bytes: stat.st_size.max(0) as u64, received: Some(Timestamp(stat.st_mtime)) });
            }
        }
        Ok(())
    }

    fn stat(&self, name: &str) -> Result<Option<u64>, StoreError> {
        match self.open_beneath(name, OFlags::PATH | OFlags::CLOEXEC, Mode::empty()) {
            Ok(fd) => {
                let stat = rustix::fs::fstat(&fd).map_err(|e| self.unread(name, e))?;
                Ok((FileType::from_raw_mode(stat.st_mode) == FileType::RegularFile).then_some(stat.st_size.max(0) as u64))
            }
            Err(Errno::NOENT) => Ok(None),
            Err(e) => Err(self.unread(name, e)),
        }
    }

    fn get(&self, name: &str, offset: u64, bytes: u64) -> Result<Vec<u8>, StoreError> {
        let file = self.open_object(name)?;
        read_range(&file, offset, bytes).map_err(|e| self.unread(name, errno(&e)))
    }

    fn get_ranges(&self, name: &str, ranges: &[(u64, u64)]) -> Result<Vec<Vec<u8>>, StoreError> {
        let file = self.open_object(name)?;
        ranges.iter().map(|(at, n)| read_range(&file, *at, *n).map_err(|e| self.unread(name, errno(&e)))).collect()
    }

    fn room(&self) -> Result<Option<u64>, StoreError> {
        let stat = rustix::fs::fstatvfs(&self.root).map_err(|e| error("", e))?;
        Ok(Some(stat.f_bavail.saturating_mul(stat.f_frsize)))
    }

    fn parallel(&self) -> usize {
        PARALLEL
    }

    fn identity(&self) -> String {
        if let Some(label) = &self.label {
            return format!("{}#drive-{label}", self.location);
        }
        // Of most file systems this follows from their UUID; those of FUSE have none.
        let id = rustix::fs::fstatvfs(&self.root).map_or(0, |stat| stat.f_fsid);
        format!("{}#{id:x}", self.location)
    }

    fn get_past_cache(&self, name: &str, bytes: u64) -> Result<(Vec<u8>, bool), StoreError> {
        if let Ok(file) = self.open_object_with(name, OFlags::DIRECT)
            && let Ok(content) = read_aligned(&file, bytes)
        {
            return Ok((content, !self.is_fuse()));
        }
        let file = self.open_object(name)?;
        // Advice: where it is not taken, what is read comes from memory.
        let _ = rustix::fs::fadvise(&file, 0, None, rustix::fs::Advice::DontNeed);
        let content = read_range(&file, 0, bytes).map_err(|e| self.unread(name, errno(&e)))?;
        Ok((content, false))
    }

    fn unit_bytes(&self) -> u64 {
        rustix::fs::fstatvfs(&self.root).map_or(1, |stat| stat.f_frsize.max(1))
    }
}

fn read_range(file: &File, offset: u64, bytes: u64) -> io::Result<Vec<u8>> {
    // Bounded by what is there, so that a large `bytes` costs nothing.
    let size = file.metadata()?.len();
    let wanted = bytes.min(size.saturating_sub(offset));
    let mut content = vec![0; usize::try_from(wanted).map_err(|_| io::Error::from(io::ErrorKind::OutOfMemory))?];
    let mut filled = 0;
    while filled < content.len() {
        match file.read_at(&mut content[filled..], offset + filled as u64) {
            Ok(0) => break,
            Ok(n) => filled += n,
            Err(e) if e.kind() == io::ErrorKind::Interrupted => {}
            Err(e) => return Err(e),
        }
    }
    content.truncate(filled);
    Ok(content)
}

impl PruneStore for DirectoryStore {
    fn remove(&self, name: &str) -> Result<(), StoreError> {
        let (dir_name, file) = split(name);
        let Some(dir) = self.open_dir(dir_name)? else { return Ok(()) };
        match rustix::fs::unlinkat(&dir, file, AtFlags::empty()) {
            Ok(()) | Err(Errno::NOENT) => Ok(()),
            Err(e) => Err(error(name, e)),
        }
    }
}

impl WriteOnceStore for DirectoryStore {
    fn make_dirs(&self, dirs: &[String]) -> Result<(), StoreError> {
        for dir in dirs {
            match rustix::fs::mkdirat(&self.root, dir.as_str(), DIR_MODE) {
                Ok(()) => self.give_dir_to_owner(dir)?,
                Err(Errno::EXIST) => {}
                Err(e) => return Err(error(dir, e)),
            }
        }
        rustix::fs::syncfs(&self.root).map_err(|e| error("", e))
    }

    fn put(&self, name: &str, bytes: &[u8]) -> Result<Durability, StoreError> {
        let (dir_name, file) = split(name);
        let dir = self.open_dir(dir_name)?.ok_or_else(|| StoreError::Io {
            name: name.to_owned(),
            why: format!("directory {dir_name:?} is missing from the vault: `farkeep init --layout DIR` makes it anew"),
        })?;
        let renamed = self.put_by_rename(&dir, file, bytes).map_err(|e| error(name, e))?;
        if renamed.is_none() {
            let flags = OFlags::WRONLY | OFlags::CREATE | OFlags::EXCL | OFlags::NOFOLLOW | OFlags::CLOEXEC;
            let fd = rustix::fs::openat(&dir, file, flags, OBJECT_MODE).map_err(|e| error(name, e))?;
            give_to_owner(&dir, &fd, OBJECT_MODE, name).map_err(|e| error(name, e))?;
            write_and_sync(fd, bytes).map_err(|e| error(name, e))?;
        }
        match rustix::fs::fsync(dir.as_fd()) {
            Ok(()) => Ok(Durability::Confirmed),
            Err(Errno::INVAL | Errno::OPNOTSUPP | Errno::NOSYS) => Ok(Durability::NotConfirmed),
            Err(e) => Err(error(name, e)),
        }
    }

    /// A lock on the directory itself: it leaves nothing behind and ends with the process. Asked twice, it is had twice.
    fn prune_alone(&self) -> Result<bool, StoreError> {
        match rustix::fs::flock(&self.root, FlockOperation::NonBlockingLockExclusive) {
            Err(Errno::WOULDBLOCK) => Ok(false),
            // File systems without locks, and those over a network that want a writable descriptor.
            _ => Ok(true),
        }
    }

    fn sweep(&self, dirs: &[String]) -> Result<u64, StoreError> {
        let mut stale = Vec::new();
        self.list(dirs, &mut |listed| {
            if split(&listed.name).1.starts_with(TEMPORARY_PREFIX) {
                stale.push(listed.name);
            }
        })?;
        let mut removed = 0;
        for name in stale {
            let (dir_name, file) = split(&name);
            let Some(dir) = self.open_dir(dir_name)? else { continue };
            let flags = OFlags::RDONLY | OFlags::NONBLOCK | OFlags::NOFOLLOW | OFlags::CLOEXEC;
            let Ok(fd) = rustix::fs::openat(&dir, file, flags, Mode::empty()) else { continue };
            // Whoever still writes it holds the lock.
            if rustix::fs::flock(&fd, FlockOperation::NonBlockingLockExclusive).is_ok()
                && rustix::fs::unlinkat(&dir, file, AtFlags::empty()).is_ok()
            {
                removed += 1;
            }
        }
        Ok(removed)
    }
}
