//! The kernel's list of mounted file systems (proc(5), `/proc/self/mountinfo`).

use std::ffi::OsString;
use std::os::unix::ffi::OsStringExt;
use std::path::{Path, PathBuf};

/// One mounted file system.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Mount {
    /// Where it is mounted.
    pub point: PathBuf,
    /// Its device number; major 0 has none of its own, as with FUSE.
    pub device: (u32, u32),
    /// ext4, fuseblk, ...
    pub fs_type: String,
    /// What was mounted: most often a block device.
    pub source: PathBuf,
}

/// Reads the list; what cannot be read is left out.
#[must_use]
pub fn read(mountinfo: &Path) -> Vec<Mount> {
    let text = std::fs::read(mountinfo).unwrap_or_default();
    text.split(|byte| *byte == b'\n').filter_map(parse).collect()
}

/// The file system that is mounted at exactly `point`: the last one, which hides those below.
#[must_use]
pub fn at(mounts: &[Mount], point: &Path) -> Option<Mount> {
    mounts.iter().rev().find(|mount| mount.point == point).cloned()
}

fn parse(line: &[u8]) -> Option<Mount> {
    let fields: Vec<&[u8]> = line.split(|byte| *byte == b' ').collect();
    let separator = fields.iter().position(|field| *field == b"-")?;
    let device = std::str::from_utf8(fields.get(2)?).ok()?;
    let (major, minor) = device.split_once(':')?;
    Some(Mount {
        point: unescape(fields.get(4)?),
        device: (major.parse().ok()?, minor.parse().ok()?),
        fs_type: String::from_utf8_lossy(fields.get(separator + 1)?).into_owned(),
        source: unescape(fields.get(separator + 2)?),
    })
}

/// Spaces, tabs, newlines and backslashes stand there as three octal digits.
fn unescape(field: &[u8]) -> PathBuf {
    let mut bytes = Vec::with_capacity(field.len());
    let mut rest = field;
    while let Some((first, after)) = rest.split_first() {
        let octal = after.get(..3).filter(|_| *first == b'\\').and_then(|digits| std::str::from_utf8(digits).ok());
        match octal.and_then(|digits| u8::from_str_radix(digits, 8).ok()) {
            Some(byte) => {
                bytes.push(byte);
                rest = &after[3..];
            }
            None => {
                bytes.push(*first);
                rest = after;
            }
        }
    }
    OsString::from_vec(bytes).into()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_are_read_with_their_escapes() {
        let dir = tempfile::tempdir().unwrap_or_else(|e| panic!("{e}"));
        let file = dir.path().join("mountinfo");
        let text = "27 1 254:0 / / rw - ext4 /dev/vda rw\n\
                    45 27 0:44 / /media/my\\040drive rw,nosuid shared:9 master:1 - fuseblk /dev/sdb1 rw\n\
                    nonsense\n";
        std::fs::write(&file, text).unwrap_or_else(|e| panic!("{e}"));
        let mounts = read(&file);
        assert_eq!(mounts.len(), 2);
        let drive = at(&mounts, Path::new("/media/my drive"));
        assert_eq!(drive.map(|m| (m.device, m.fs_type, m.source)), Some(((0, 44), "fuseblk".into(), "/dev/sdb1".into())));
        assert_eq!(at(&mounts, Path::new("/media")), None);
    }
}
