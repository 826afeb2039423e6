//! What the first bytes of a block device or image say: the file system's UUID, or that a LUKS container lies there.
//!
//! Offsets: ext2/3/4 `Documentation/filesystems/ext4/super.rst`; XFS and btrfs on-disk format documents; exFAT
//! specification section 3.1; NTFS and FAT boot sectors; LUKS2 on-disk format 1.1.1, section 2.1 (LUKS1 has its UUID at
//! the same place).

use std::fs::File;
use std::os::unix::fs::{FileExt, OpenOptionsExt};
use std::path::Path;

use crate::model::ids::to_hex;

/// Reaches to the end of btrfs's superblock fields, the farthest of all.
const HEAD_BYTES: usize = 64 * 1024 + 4096;

/// What lies on a device.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Content {
    /// A file system with this UUID or serial number.
    FileSystem(String),
    /// A LUKS container, locked or not.
    Luks {
        /// 1 or 2.
        version: u16,
        /// Its UUID.
        uuid: String,
    },
    /// Nothing that is known here.
    Unknown,
}

/// Reads the head of a block device or of an image file. None when it cannot be read, which needs root.
#[must_use]
pub fn read(device: &Path) -> Option<Content> {
    // Not to wait for a device without a medium.
    let nonblocking = rustix::fs::OFlags::NONBLOCK.bits().cast_signed();
    let file = File::options().read(true).custom_flags(nonblocking).open(device).ok()?;
    let mut head = vec![0; HEAD_BYTES];
    let mut filled = 0;
    while filled < head.len() {
        match file.read_at(&mut head[filled..], filled as u64) {
            Ok(0) => break,
            Ok(n) => filled += n,
            Err(_) => return None,
        }
    }
    head.truncate(filled);
    Some(identify(&head))
}

fn identify(head: &[u8]) -> Content {
    let at = |offset: usize, bytes: usize| head.get(offset..offset + bytes);
    let is = |offset: usize, magic: &[u8]| at(offset, magic.len()) == Some(magic);
    if is(0, b"LUKS\xba\xbe") {
        let version = at(6, 2).map_or(0, |v| u16::from_be_bytes([v[0], v[1]]));
        let uuid = at(168, 40).map(text_until_nul).unwrap_or_default();
        return Content::Luks { version, uuid };
    }
    let found = if is(1080, &[0x53, 0xef]) {
        at(1128, 16).map(uuid)
    } else if is(0, b"XFSB") {
        at(32, 16).map(uuid)
    } else if is(64 * 1024 + 64, b"_BHRfS_M") {
        at(64 * 1024 + 32, 16).map(uuid)
    } else if is(3, b"EXFAT   ") {
        at(100, 4).map(fat_serial)
    } else if is(3, b"NTFS    ") {
        at(72, 8).map(|serial| to_hex(&serial.iter().rev().copied().collect::<Vec<u8>>()).to_uppercase())
    } else if is(82, b"FAT32   ") {
        at(67, 4).map(fat_serial)
    } else if is(54, b"FAT") {
        at(39, 4).map(fat_serial)
    } else {
        None
    };
    found.map_or(Content::Unknown, Content::FileSystem)
}

fn uuid(bytes: &[u8]) -> String {
    with_dashes(&to_hex(bytes))
}

/// 32 hex digits in the groups that people know: 8-4-4-4-12.
pub(super) fn with_dashes(hex: &str) -> String {
    let ends = [8, 12, 16, 20, 32];
    let mut from = 0;
    let parts: Vec<&str> = ends.iter().map(|end| hex.get(std::mem::replace(&mut from, *end)..*end).unwrap_or("")).collect();
    parts.join("-")
}

fn fat_serial(bytes: &[u8]) -> String {
    let hex = to_hex(&bytes.iter().rev().copied().collect::<Vec<u8>>()).to_uppercase();
    format!("{}-{}", &hex[..4], &hex[4..])
}

fn text_until_nul(bytes: &[u8]) -> String {
    let end = bytes.iter().position(|b| *b == 0).unwrap_or(bytes.len());
    String::from_utf8_lossy(&bytes[..end]).into_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn heads_of_file_systems_and_containers_are_told_apart() {
        let head = |parts: &[(usize, &[u8])]| {
            let mut head = vec![0; HEAD_BYTES];
            for (at, bytes) in parts {
                head[*at..at + bytes.len()].copy_from_slice(bytes);
            }
            head
        };
        let id: Vec<u8> = (0..16).collect();
        let uuid = "00010203-0405-0607-0809-0a0b0c0d0e0f";
        for (parts, expected) in [
            (vec![(1080, &[0x53, 0xef][..]), (1128, &id)], uuid),
            (vec![(0, b"XFSB"), (32, &id)], uuid),
            (vec![(65_600, b"_BHRfS_M"), (65_568, &id)], uuid),
            (vec![(3, b"EXFAT   "), (100, &[0xc4, 0x66, 0x85, 0xfb])], "FB85-66C4"),
            (vec![(3, b"NTFS    "), (72, &[0x55, 0xf6, 0x86, 1, 0x49, 0x50, 0x59, 0x6c])], "6C5950490186F655"),
            (vec![(82, b"FAT32   "), (67, &[1, 2, 3, 4])], "0403-0201"),
        ] {
            assert_eq!(identify(&head(&parts)), Content::FileSystem(expected.into()));
        }
        let luks = head(&[(0, b"LUKS\xba\xbe\0\x02"), (168, uuid.as_bytes())]);
        assert_eq!(identify(&luks), Content::Luks { version: 2, uuid: uuid.into() });
        assert_eq!(identify(&head(&[])), Content::Unknown);
        assert_eq!(identify(b"LUKS\xba\xbe"), Content::Luks { version: 0, uuid: String::new() });
    }
}
