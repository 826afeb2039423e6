//! The served directory: paths of clients, and the few file operations that they lead to.
//!
//! Guarantees: no path leads out of the directory and no link is followed, by the kernel's own resolution (openat2), not by
//! looking at strings. Files are made new, or opened for reading.

use std::fs::File;
use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::path::Path;

use rustix::fs::{FileType, Mode, OFlags, ResolveFlags, Stat, StatVfsMountFlags};
use rustix::io::Errno;

use crate::store::sftp::wire::{Attrs, StatVfs};

/// Files are readable by owner and group and writable by nobody, as under `internal-sftp -u 0237`.
const FILE_MODE: Mode = Mode::from_raw_mode(0o440);
/// Directories that clients make.
const DIR_MODE: Mode = Mode::from_raw_mode(0o750);

/// The directory.
#[derive(Debug)]
pub struct Root(OwnedFd);

/// A client's path in its one absolute form, without `.`, `..` and doubled slashes. Links are never followed, so `..` can be
/// taken off as text.
pub fn absolute(path: &[u8]) -> Vec<u8> {
    let mut parts: Vec<&[u8]> = Vec::new();
    for part in path.split(|b| *b == b'/') {
        match part {
            b"" | b"." => {}
            b".." => drop(parts.pop()),
            part => parts.push(part),
        }
    }
    let mut absolute = Vec::from(b"/");
    absolute.extend_from_slice(&parts.join(&b'/'));
    absolute
}

impl Root {
    pub fn open(path: &Path) -> io::Result<Self> {
        let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
        Ok(Self(rustix::fs::open(path, flags, Mode::empty())?))
    }

    /// Opens below the directory. Kernels before 5.6, and sandboxes that filter the call, get the same part by part.
    fn resolve(&self, path: &[u8], flags: OFlags, mode: Mode) -> Result<OwnedFd, Errno> {
        let absolute = absolute(path);
        let relative = if absolute.len() > 1 { &absolute[1..] } else { b"." };
        let flags = flags | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let resolve = ResolveFlags::BENEATH | ResolveFlags::NO_SYMLINKS | ResolveFlags::NO_MAGICLINKS;
        match rustix::fs::openat2(&self.0, relative, flags, mode, resolve) {
            Err(Errno::NOSYS | Errno::PERM) => {}
            done => return done,
        }
        let (parents, last) = match relative.iter().rposition(|b| *b == b'/') {
            Some(slash) => (&relative[..slash], &relative[slash + 1..]),
            None => (&b""[..], relative),
        };
        let mut dir = rustix::io::fcntl_dupfd_cloexec(&self.0, 0)?;
        for part in parents.split(|b| *b == b'/').filter(|part| !part.is_empty()) {
            let through = OFlags::PATH | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
            dir = rustix::fs::openat(&dir, part, through, Mode::empty())?;
        }
        rustix::fs::openat(&dir, last, flags, mode)
    }

    /// A file or directory for reading. Nothing else: a pipe would block, a device would do things.
    pub fn open_to_read(&self, path: &[u8]) -> Result<File, Errno> {
        let fd = self.resolve(path, OFlags::RDONLY | OFlags::NONBLOCK, Mode::empty())?;
        match FileType::from_raw_mode(rustix::fs::fstat(&fd)?.st_mode) {
            FileType::RegularFile | FileType::Directory => Ok(File::from(fd)),
            _ => Err(Errno::ACCESS),
        }
    }

    /// A file that was not there.
    pub fn create(&self, path: &[u8]) -> Result<File, Errno> {
        let flags = OFlags::WRONLY | OFlags::CREATE | OFlags::EXCL;
        self.resolve(path, flags, FILE_MODE).map(File::from)
    }

    pub fn open_dir(&self, path: &[u8]) -> Result<OwnedFd, Errno> {
        self.resolve(path, OFlags::RDONLY | OFlags::DIRECTORY, Mode::empty())
    }

    pub fn make_dir(&self, path: &[u8]) -> Result<(), Errno> {
        let absolute = absolute(path);
        let slash = absolute.iter().rposition(|b| *b == b'/').unwrap_or(0);
        let (parent, name) = (&absolute[..slash], &absolute[slash + 1..]);
        if name.is_empty() {
            return Err(Errno::EXIST);
        }
        rustix::fs::mkdirat(self.open_dir(parent)?, name, DIR_MODE)
    }

    /// Attributes; of a link, its own.
    pub fn attrs(&self, path: &[u8]) -> Result<Attrs, Errno> {
        attrs_of(self.resolve(path, OFlags::PATH, Mode::empty())?)
    }

    /// Room on the file system.
    pub fn room(&self) -> Result<StatVfs, Errno> {
        let vfs = rustix::fs::fstatvfs(&self.0)?;
        Ok(StatVfs {
            block_bytes: vfs.f_frsize,
            blocks: vfs.f_blocks,
            blocks_free: vfs.f_bavail,
            inodes: vfs.f_files,
            inodes_free: vfs.f_favail,
            read_only: vfs.f_flag.contains(StatVfsMountFlags::RDONLY),
        })
    }
}

/// Attributes of an open file.
pub fn attrs_of(fd: impl AsFd) -> Result<Attrs, Errno> {
    Ok(to_attrs(&rustix::fs::fstat(fd)?))
}

/// Attributes as SFTP carries them; its times end in 2106.
pub fn to_attrs(stat: &Stat) -> Attrs {
    let time = |secs: i64| u32::try_from(secs.max(0)).unwrap_or(u32::MAX);
    Attrs {
        bytes: Some(u64::try_from(stat.st_size).unwrap_or(0)),
        owner: Some((stat.st_uid, stat.st_gid)),
        mode: Some(stat.st_mode),
        times: Some((time(stat.st_atime), time(stat.st_mtime))),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn outside_and_inside() -> (tempfile::TempDir, Root) {
        let dir = tempfile::tempdir().unwrap_or_else(|e| panic!("{e}"));
        let make = || -> io::Result<()> {
            std::fs::create_dir_all(dir.path().join("in/sub"))?;
            std::fs::write(dir.path().join("secret"), "outside")?;
            std::fs::write(dir.path().join("in/file"), "inside")?;
            std::os::unix::fs::symlink("../secret", dir.path().join("in/link"))?;
            std::os::unix::fs::symlink("/", dir.path().join("in/sub/up"))
        };
        make().unwrap_or_else(|e| panic!("{e}"));
        let root = Root::open(&dir.path().join("in")).unwrap_or_else(|e| panic!("{e}"));
        (dir, root)
    }

    #[test]
    fn no_path_leads_out() {
        let (_dir, root) = outside_and_inside();
        assert!(root.open_to_read(b"/file").is_ok());
        assert!(root.open_to_read(b"sub/../../../file").is_ok(), "the root is its own parent");
        for path in [&b"../secret"[..], b"/../secret", b"link", b"sub/up/etc/passwd", b"sub/up", b"a\0b", b"missing"] {
            assert!(root.open_to_read(path).is_err(), "{:?}", String::from_utf8_lossy(path));
        }
        assert!(root.create(b"link").is_err() && root.create(b"sub/up/x").is_err() && root.create(b"file").is_err());
        assert!(root.make_dir(b"sub/up/x").is_err());
        assert!(root.create(b"sub/new").is_ok() && root.make_dir(b"sub/dir").is_ok());
    }

    #[test]
    fn paths_have_one_form() {
        for (path, expected) in [("", "/"), (".", "/"), ("a//b/./c/..", "/a/b"), ("/../../x", "/x"), ("/a/", "/a")] {
            assert_eq!(absolute(path.as_bytes()), expected.as_bytes(), "{path}");
        }
    }
}
