//! What `stat` tells of a path, in a compact form.

use std::io;

use rustix::fs::{AtFlags, FileType};

use crate::model::path::EntryPath;
use crate::state::file_cache::StatKey;

/// The kind of a path.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    File,
    Directory,
    Symlink,
    Fifo,
    CharDevice,
    BlockDevice,
    Socket,
}

/// A path's inode.
#[derive(Debug, Clone, Copy)]
pub struct Stat {
    pub mode: u32,
    pub uid: u32,
    pub gid: u32,
    pub links: u32,
    pub device: u64,
    pub inode: u64,
    pub bytes: u64,
    /// 512-byte blocks that are stored.
    pub blocks: u64,
    pub rdev: u64,
    mtime: (i64, u32),
    ctime: (i64, u32),
}

impl Stat {
    /// Takes over what the system tells.
    pub fn new(stat: &rustix::fs::Stat) -> Self {
        Self {
            mode: stat.st_mode,
            uid: stat.st_uid,
            gid: stat.st_gid,
            links: u32::try_from(stat.st_nlink).unwrap_or(u32::MAX),
            device: stat.st_dev,
            inode: stat.st_ino,
            bytes: u64::try_from(stat.st_size).unwrap_or(0),
            blocks: u64::try_from(stat.st_blocks).unwrap_or(0),
            rdev: stat.st_rdev,
            mtime: (stat.st_mtime, stat.st_mtime_nsec as u32),
            ctime: (stat.st_ctime, stat.st_ctime_nsec as u32),
        }
    }

    pub fn kind(&self) -> Kind {
        match FileType::from_raw_mode(self.mode) {
            FileType::Directory => Kind::Directory,
            FileType::Symlink => Kind::Symlink,
            FileType::Fifo => Kind::Fifo,
            FileType::CharacterDevice => Kind::CharDevice,
            FileType::BlockDevice => Kind::BlockDevice,
            FileType::Socket => Kind::Socket,
            FileType::RegularFile | FileType::Unknown => Kind::File,
        }
    }

    /// What tells one inode from all others.
    pub const fn identity(&self) -> (u64, u64) {
        (self.device, self.inode)
    }

    pub fn mtime_ns(&self) -> i128 {
        nanoseconds(self.mtime)
    }

    /// The same at the beginning of time.
    pub const fn without_times(mut self) -> Self {
        self.mtime = (0, 0);
        self.ctime = (0, 0);
        self
    }

    /// What tells a later change of the file; none where its times are left out.
    pub fn change_key(&self) -> Option<StatKey> {
        (self.ctime != (0, 0)).then(|| self.key())
    }

    pub fn key(&self) -> StatKey {
        StatKey {
            device: self.device,
            inode: self.inode,
            bytes: self.bytes,
            mtime_ns: self.mtime_ns(),
            ctime_ns: nanoseconds(self.ctime),
        }
    }

    /// Whether fewer bytes are stored than the file is long.
    pub fn is_sparse(&self) -> bool {
        self.kind() == Kind::File && self.blocks.saturating_mul(512) < self.bytes
    }
}

fn nanoseconds((secs, nanos): (i64, u32)) -> i128 {
    i128::from(secs) * 1_000_000_000 + i128::from(nanos)
}

/// The inode that `/path` leads to, links followed: for directories above a root.
pub fn follow(path: &EntryPath) -> io::Result<Stat> {
    let absolute = std::path::Path::new("/").join(path.as_path());
    let stat = rustix::fs::statat(rustix::fs::CWD, &absolute, AtFlags::empty())?;
    Ok(Stat::new(&stat))
}
