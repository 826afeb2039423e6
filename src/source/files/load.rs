//! Loading one entry: all its metadata, and its content in extents.

use std::fs::File;
use std::io;
use std::os::fd::{AsRawFd, OwnedFd};
use std::sync::Arc;

use rustix::fs::{OFlags, SeekFrom};
use rustix::io::Errno;

use super::Shared;
use super::hardlinks::Link;
use super::scan::open_beneath;
use super::stat::{Kind, Stat};
use crate::model::entry::{Content as StoredContent, Entry, EntryKind, Flaw, Metadata, Refs, Xattrs};
use crate::model::finding::{Finding, FindingKind};
use crate::model::path::EntryPath;
use crate::source::{Content, ContentError, Loaded, Piece, Settled};
use crate::state::file_cache::StatKey;

/// Names and values of attributes: Linux bounds both at 64 KiB.
const XATTR_MAX_BYTES: usize = 64 * 1024;
/// The descriptors of this process, as links.
const PROC_FDS: &str = "/proc/self/fd";
const BECAME_ANOTHER: &str = "became something else while the tree was read";

/// An entry to be loaded.
pub struct FileLoad {
    pub shared: Arc<Shared>,
    pub path: EntryPath,
    pub stat: Stat,
    /// For a file with several names: its place among them.
    pub link: Option<Link>,
    /// For a directory: what was wrong when its names were read.
    pub flaw: Option<Flaw>,
}

impl FileLoad {
    /// Loads the entry as what it is, not as a further name of a file.
    pub fn load_entry(mut self) -> Loaded {
        if self.stat.kind() == Kind::File {
            return match FileContent::open(&self) {
                Ok((meta, mut content)) => {
                    content.load.link = self.link.take();
                    Loaded::File(meta, Box::new(content))
                }
                Err(error) => self.unreadable(&error),
            };
        }
        match self.look().and_then(|seen| Ok((self.kind(&seen)?, seen))) {
            Ok((kind, Look { stat, meta, bare, .. })) => {
                self.stored_from(&stat);
                let subject = format!("/{}", self.path);
                let entry = Entry { path: self.path, kind, meta, flaw: self.flaw };
                if bare {
                    let message = "kept without its attributes and ACLs: they cannot be read where /proc is not mounted";
                    return Loaded::Flawed(Some(entry), Finding::new(FindingKind::Source, subject, message));
                }
                Loaded::Whole(entry, stat.change_key())
            }
            Err(error) => self.unreadable(&error),
        }
    }

    fn kind(&self, seen: &Look) -> io::Result<EntryKind> {
        let rdev = seen.stat.rdev;
        match (seen.stat.kind(), &seen.fd) {
            (kind, _) if kind != self.stat.kind() => Err(io::Error::other(BECAME_ANOTHER)),
            (Kind::Directory, _) => Ok(EntryKind::Directory),
            (Kind::Symlink, Some(fd)) => Ok(EntryKind::Symlink(rustix::fs::readlinkat(fd, "", Vec::new())?.into_bytes())),
            (Kind::Fifo, _) => Ok(EntryKind::Fifo),
            (Kind::CharDevice, _) => Ok(EntryKind::CharDevice(rustix::fs::major(rdev), rustix::fs::minor(rdev))),
            (Kind::BlockDevice, _) => Ok(EntryKind::BlockDevice(rustix::fs::major(rdev), rustix::fs::minor(rdev))),
            (Kind::File | Kind::Socket | Kind::Symlink, _) => Err(io::Error::other("a socket")),
        }
    }

    /// Notes for further names what was stored at this path: the inode that the scan saw here, or another one.
    fn stored_from(&mut self, stat: &Stat) {
        let same = stat.identity() == self.stat.identity();
        // A name that points at an earlier one leaves that to the next.
        if let Some(link) = self.link.as_mut().filter(|_| same) {
            link.store(Some(&self.path));
        }
    }

    /// What stands in for an entry that cannot be read: its metadata as far as known, and a finding. One that is gone
    /// leaves only the finding.
    pub fn unreadable(&self, error: &io::Error) -> Loaded {
        let subject = format!("/{}", self.path);
        if error.kind() == io::ErrorKind::NotFound {
            return Loaded::Flawed(None, Finding::new(FindingKind::Source, subject, "vanished while the tree was read"));
        }
        let finding = Finding::new(FindingKind::Source, subject, format!("cannot be read: {error}"));
        let flaw = Some(Flaw::Unreadable(error.to_string()));
        let meta = self.metadata(&self.stat, Xattrs::none());
        let kind = match self.stat.kind() {
            Kind::File => {
                let hash = crate::crypto::hash::hash(&[]);
                EntryKind::File(StoredContent { size: 0, hash, extents: None, chunks: Refs::empty() })
            }
            Kind::Directory => EntryKind::Directory,
            Kind::Fifo => EntryKind::Fifo,
            _ => return Loaded::Flawed(None, finding),
        };
        Loaded::Flawed(Some(Entry { path: self.path.clone(), kind, meta, flaw }), finding)
    }

    fn metadata(&self, stat: &Stat, xattrs: Xattrs) -> Metadata {
        let owner = self.shared.owners.owner(stat.uid, stat.gid);
        Metadata { mode: stat.mode & 0o7777, owner, mtime_ns: stat.mtime_ns(), xattrs }
    }

    /// Looks at what is not opened for reading: through a descriptor that only names it.
    pub fn look(&self) -> io::Result<Look> {
        let above = self.stat.change_key().is_none();
        let fd = match open_beneath(&self.shared.slash, &self.path, OFlags::PATH) {
            Ok(fd) => Some(fd),
            // A directory above a root may be reached through a link.
            Err(Errno::LOOP) if above => None,
            Err(e) => return Err(e.into()),
        };
        let stat = match &fd {
            Some(fd) if !above => Stat::new(&rustix::fs::fstat(fd)?),
            _ => self.stat,
        };
        let xattrs = fd.as_ref().map_or_else(|| Ok(Some(Vec::new())), read_xattrs_of_path)?;
        let bare = xattrs.is_none();
        Ok(Look { meta: self.metadata(&stat, Xattrs::Inline(xattrs.unwrap_or_default())), fd, stat, bare })
    }
}

/// One look at an inode: all of it is of the same one.
pub struct Look {
    fd: Option<OwnedFd>,
    pub stat: Stat,
    pub meta: Metadata,
    /// Whether its attributes could not be asked for.
    pub bare: bool,
}

type XattrList = Vec<(Vec<u8>, Vec<u8>)>;

/// None where there is no /proc to ask through.
fn read_xattrs_of_path(fd: &OwnedFd) -> io::Result<Option<XattrList>> {
    // The link in /proc leads to the inode itself, whatever its kind.
    let link = format!("{PROC_FDS}/{}", fd.as_raw_fd());
    let list = |buffer: &mut [u8]| rustix::fs::listxattr(&*link, buffer);
    if list(&mut []) == Err(Errno::NOENT) && !std::path::Path::new(PROC_FDS).exists() {
        return Ok(None);
    }
    collect_xattrs(list, |name, buffer| rustix::fs::getxattr(&*link, name, buffer)).map(Some)
}

fn read_xattrs_of_file(file: &File) -> io::Result<XattrList> {
    collect_xattrs(|buffer| rustix::fs::flistxattr(file, buffer), |name, buffer| rustix::fs::fgetxattr(file, name, buffer))
}

fn collect_xattrs(
    list: impl Fn(&mut [u8]) -> Result<usize, Errno>,
    get: impl Fn(&[u8], &mut [u8]) -> Result<usize, Errno>,
) -> io::Result<XattrList> {
    // Most files have none, and few have more than fit here.
    let mut short = [0; 1024];
    let mut long = Vec::new();
    let names: &[u8] = match list(&mut short) {
        Ok(length) => &short[..length],
        Err(Errno::RANGE) => {
            long.resize(XATTR_MAX_BYTES, 0);
            let length = list(&mut long)?;
            &long[..length]
        }
        Err(Errno::OPNOTSUPP | Errno::NOENT | Errno::BADF) => return Ok(Vec::new()),
        Err(e) => return Err(e.into()),
    };
    if names.is_empty() {
        return Ok(Vec::new());
    }
    let mut found = Vec::new();
    let mut value = vec![0; XATTR_MAX_BYTES];
    for name in names.split(|b| *b == 0).filter(|name| !name.is_empty()) {
        match get(name, &mut value) {
            Ok(length) => found.push((name.to_vec(), value[..length].to_vec())),
            // Removed in between, or not ours to read.
            Err(Errno::NODATA | Errno::PERM | Errno::ACCESS | Errno::OPNOTSUPP) => {}
            Err(e) => return Err(e.into()),
        }
    }
    found.sort();
    Ok(found)
}

/// An open file that is read extent by extent.
struct FileContent {
    load: FileLoad,
    file: File,
    /// The inode as it was when reading began.
    before: Stat,
    sparse: bool,
    position: u64,
    /// Where the data that `position` stands in ends.
    data_end: u64,
}

impl FileContent {
    fn open(load: &FileLoad) -> io::Result<(Metadata, Self)> {
        let copy =
            FileLoad { shared: Arc::clone(&load.shared), path: load.path.clone(), stat: load.stat, link: None, flaw: None };
        let (file, before) = open_file(load)?;
        let xattrs = read_xattrs_of_file(&file)?;
        let meta = load.metadata(&before, Xattrs::Inline(xattrs));
        let content = Self { load: copy, file, sparse: before.is_sparse(), before, position: 0, data_end: 0 };
        Ok((meta, content))
    }

    /// Moves to the next data, if `position` stands in a hole; gives the length of the hole.
    fn skip_hole(&mut self) -> io::Result<u64> {
        let found = rustix::fs::seek(&self.file, SeekFrom::Data(self.position));
        let Some(start) = next_data(found, self.position, self.before.bytes)? else {
            self.sparse = false;
            return Ok(0);
        };
        let hole = start.saturating_sub(self.position);
        self.position = start.max(self.position);
        self.data_end = if self.position < self.before.bytes {
            rustix::fs::seek(&self.file, SeekFrom::Hole(self.position))?.min(self.before.bytes)
        } else {
            self.before.bytes
        };
        Ok(hole)
    }
}

/// Where data goes on in a file of so many bytes, by what the system said of `position`; none where it knows no holes.
fn next_data(found: Result<u64, Errno>, position: u64, bytes: u64) -> io::Result<Option<u64>> {
    match found {
        Ok(start) => Ok(Some(start.min(bytes))),
        // No data from here on: a hole up to the end.
        Err(Errno::NXIO) => Ok(Some(bytes)),
        // A file system without holes: all is data. Once a hole was passed, that cannot be: its zeros were not stored.
        Err(_) if position == 0 => Ok(None),
        Err(e) => Err(e.into()),
    }
}

/// Opens a file for reading without changing its access time where that is allowed.
fn open_file(load: &FileLoad) -> io::Result<(File, Stat)> {
    let flags = OFlags::RDONLY | OFlags::NONBLOCK;
    let fd = match open_beneath(&load.shared.slash, &load.path, flags | OFlags::NOATIME) {
        Err(Errno::PERM) => open_beneath(&load.shared.slash, &load.path, flags)?,
        other => other?,
    };
    let stat = Stat::new(&rustix::fs::fstat(&fd)?);
    if stat.kind() != Kind::File {
        return Err(io::Error::other(BECAME_ANOTHER));
    }
    Ok((File::from(fd), stat))
}

impl Content for FileContent {
    fn read(&mut self, buffer: &mut [u8]) -> Result<Piece, ContentError> {
        if self.position >= self.before.bytes {
            return Ok(Piece::End);
        }
        if self.sparse && self.position >= self.data_end {
            let hole = self.skip_hole().map_err(ContentError::Entry)?;
            if hole > 0 {
                return Ok(Piece::Hole(hole));
            }
        }
        // What grows while it is read is read up to where it ended: `settle` tells.
        let end = if self.sparse { self.data_end } else { self.before.bytes };
        let wanted = buffer.len().min(usize::try_from(end - self.position).unwrap_or(usize::MAX));
        loop {
            match rustix::io::pread(&self.file, &mut buffer[..wanted], self.position) {
                Ok(0) => return Ok(Piece::End),
                Ok(count) => {
                    self.position += count as u64;
                    return Ok(Piece::Data(count));
                }
                Err(Errno::INTR) => {}
                Err(e) => return Err(ContentError::Entry(e.into())),
            }
        }
    }

    fn settle(&mut self) -> Result<Settled, ContentError> {
        let after = rustix::fs::fstat(&self.file).map_err(|e| ContentError::Entry(e.into()))?;
        let same = Stat::new(&after).key() == self.before.key() && self.position == self.before.bytes;
        let before = self.before;
        self.load.stored_from(&before);
        Ok(if same { Settled::Same } else { Settled::Changed })
    }

    fn again(&mut self) -> Result<Option<Metadata>, ContentError> {
        let mut link = self.load.link.take();
        if let Some(link) = &mut link {
            link.store(None);
        }
        let (meta, mut content) = Self::open(&self.load).map_err(ContentError::Entry)?;
        content.load.link = link;
        *self = content;
        Ok(Some(meta))
    }

    fn is_sparse(&self) -> bool {
        self.before.is_sparse() && self.sparse
    }

    fn key(&self) -> Option<StatKey> {
        self.before.change_key()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_seek_that_fails_in_the_middle_is_no_file_without_holes() {
        let next = |found, position| next_data(found, position, 100).map_err(|e| e.raw_os_error());
        assert_eq!(next(Ok(0), 0), Ok(Some(0)));
        assert_eq!(next(Ok(200), 50), Ok(Some(100)));
        assert_eq!(next(Err(Errno::NXIO), 50), Ok(Some(100)));
        assert_eq!(next(Err(Errno::INVAL), 0), Ok(None));
        assert_eq!(next(Err(Errno::IO), 50), Err(Some(Errno::IO.raw_os_error())));
    }
}
