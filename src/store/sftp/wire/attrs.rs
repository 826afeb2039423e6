//! File attributes as SFTP carries them: each may be missing.

use super::cursor::{Cursor, Malformed};

const HAS_SIZE: u32 = 1;
const HAS_OWNER: u32 = 2;
const HAS_MODE: u32 = 4;
const HAS_TIMES: u32 = 8;
const HAS_EXTENDED: u32 = 1 << 31;

/// The bits of a mode that tell the kind of file, and their value for a regular file and a directory (POSIX).
const KIND_MASK: u32 = 0o170_000;
const KIND_FILE: u32 = 0o100_000;
const KIND_DIR: u32 = 0o040_000;

/// What a server says about a file.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Attrs {
    /// Length in bytes.
    pub bytes: Option<u64>,
    /// User and group by number.
    pub owner: Option<(u32, u32)>,
    /// Kind and permissions, as in `st_mode`.
    pub mode: Option<u32>,
    /// Last access and last change of content, in seconds since 1970.
    pub times: Option<(u32, u32)>,
}

impl Attrs {
    /// Whether it is a regular file; a server that does not tell the kind is believed to list files.
    #[must_use]
    pub fn is_file(&self) -> bool {
        self.mode.is_none_or(|mode| mode & KIND_MASK == KIND_FILE || mode & KIND_MASK == 0)
    }

    /// Whether it is a directory.
    #[must_use]
    pub fn is_dir(&self) -> bool {
        self.mode.is_some_and(|mode| mode & KIND_MASK == KIND_DIR)
    }

    pub(super) fn write(&self, packet: &mut Vec<u8>) {
        let flag = |set: bool, flag: u32| if set { flag } else { 0 };
        let flags = flag(self.bytes.is_some(), HAS_SIZE)
            | flag(self.owner.is_some(), HAS_OWNER)
            | flag(self.mode.is_some(), HAS_MODE)
            | flag(self.times.is_some(), HAS_TIMES);
        packet.extend_from_slice(&flags.to_be_bytes());
        if let Some(bytes) = self.bytes {
            packet.extend_from_slice(&bytes.to_be_bytes());
        }
        if let Some((user, group)) = self.owner {
            packet.extend_from_slice(&user.to_be_bytes());
            packet.extend_from_slice(&group.to_be_bytes());
        }
        if let Some(mode) = self.mode {
            packet.extend_from_slice(&mode.to_be_bytes());
        }
        if let Some((accessed, changed)) = self.times {
            packet.extend_from_slice(&accessed.to_be_bytes());
            packet.extend_from_slice(&changed.to_be_bytes());
        }
    }

    pub(super) fn read(cursor: &mut Cursor<'_>) -> Result<Self, Malformed> {
        let flags = cursor.u32()?;
        let mut attrs = Self::default();
        if flags & HAS_SIZE != 0 {
            attrs.bytes = Some(cursor.u64()?);
        }
        if flags & HAS_OWNER != 0 {
            attrs.owner = Some((cursor.u32()?, cursor.u32()?));
        }
        if flags & HAS_MODE != 0 {
            attrs.mode = Some(cursor.u32()?);
        }
        if flags & HAS_TIMES != 0 {
            attrs.times = Some((cursor.u32()?, cursor.u32()?));
        }
        if flags & HAS_EXTENDED != 0 {
            for _ in 0..cursor.u32()? {
                cursor.bytes()?;
                cursor.bytes()?;
            }
        }
        Ok(attrs)
    }
}
