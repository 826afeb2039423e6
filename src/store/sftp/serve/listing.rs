//! The names of one directory, in portions, with the lines that `sftp`'s `ls -l` prints.

use std::os::fd::OwnedFd;

use rustix::fs::{AtFlags, Dir, FileType};
use rustix::io::Errno;

use super::root::to_attrs;
use crate::store::sftp::wire::{Attrs, Entry};

/// Names of one reply, as many as OpenSSH gives.
const PORTION: usize = 100;

/// An open directory.
pub struct Names {
    fd: OwnedFd,
    entries: Dir,
}

impl Names {
    pub fn new(fd: OwnedFd) -> Result<Self, Errno> {
        Ok(Self { entries: Dir::read_from(&fd)?, fd })
    }

    /// The next names; none at the end.
    pub fn portion(&mut self) -> Result<Vec<Entry>, Errno> {
        let mut portion = Vec::new();
        while portion.len() < PORTION
            && let Some(entry) = self.entries.next()
        {
            let entry = entry?;
            let name = entry.file_name().to_bytes();
            if matches!(name, b"." | b"..") {
                continue;
            }
            // Gone since it was listed.
            let Ok(stat) = rustix::fs::statat(&self.fd, entry.file_name(), AtFlags::SYMLINK_NOFOLLOW) else { continue };
            let attrs = to_attrs(&stat);
            portion.push(Entry { name: name.to_vec(), long: long_line(name, &attrs), attrs });
        }
        Ok(portion)
    }
}

fn long_line(name: &[u8], attrs: &Attrs) -> Vec<u8> {
    let mode = attrs.mode.unwrap_or(0);
    let kind = match FileType::from_raw_mode(mode) {
        FileType::Directory => 'd',
        FileType::Symlink => 'l',
        _ => '-',
    };
    let bits: String = (0..9).map(|bit| if mode >> (8 - bit) & 1 == 1 { ['r', 'w', 'x'][bit % 3] } else { '-' }).collect();
    let (user, group) = attrs.owner.unwrap_or_default();
    let bytes = attrs.bytes.unwrap_or(0);
    let mut line = format!("{kind}{bits}    1 {user:<8} {group:<8} {bytes:>12} ").into_bytes();
    line.extend_from_slice(name);
    line
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_look_like_those_of_ls() {
        let attrs = Attrs { bytes: Some(17), owner: Some((0, 5)), mode: Some(0o100_440), times: None };
        assert_eq!(long_line(b"x", &attrs), b"-r--r-----    1 0        5                  17 x");
    }
}
