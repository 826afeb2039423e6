//! What a client asks. Only what a write-once store needs has a form of its own; everything else is `Other`, to be refused.

use super::attrs::Attrs;
use super::cursor::{Cursor, Malformed};
use super::{EXT_FSTATVFS, EXT_FSYNC, EXT_LIMITS, EXT_STATVFS, begin, put_bytes, seal};

/// Flags of an OPEN request.
pub mod open_flags {
    /// For reading.
    pub const READ: u32 = 0x01;
    /// For writing.
    pub const WRITE: u32 = 0x02;
    /// Each write goes to the end.
    pub const APPEND: u32 = 0x04;
    /// Make the file where there is none.
    pub const CREATE: u32 = 0x08;
    /// Empty the file.
    pub const TRUNCATE: u32 = 0x10;
    /// Refuse what is there.
    pub const EXCLUSIVE: u32 = 0x20;
}

const INIT: u8 = 1;
const OPEN: u8 = 3;
const CLOSE: u8 = 4;
const READ: u8 = 5;
const WRITE: u8 = 6;
const LSTAT: u8 = 7;
const FSTAT: u8 = 8;
const OPENDIR: u8 = 11;
const READDIR: u8 = 12;
const REMOVE: u8 = 13;
const MKDIR: u8 = 14;
const REALPATH: u8 = 16;
const STAT: u8 = 17;
const EXTENDED: u8 = 200;

/// One request, without its number. Paths and handles are raw bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Request<'a> {
    /// Opens a file, with [`open_flags`] and the mode of a new one.
    Open {
        /// Its path.
        path: &'a [u8],
        /// What for.
        flags: u32,
        /// The permissions of a file that is made.
        mode: Option<u32>,
    },
    /// Gives a handle back.
    Close(&'a [u8]),
    /// Reads.
    Read {
        /// Of which file.
        handle: &'a [u8],
        /// From where.
        offset: u64,
        /// How much at most.
        bytes: u32,
    },
    /// Writes.
    Write {
        /// To which file.
        handle: &'a [u8],
        /// Where.
        offset: u64,
        /// What.
        data: &'a [u8],
    },
    /// Attributes of a path, a link itself rather than what it points to.
    Lstat(&'a [u8]),
    /// Attributes of a path, links followed.
    Stat(&'a [u8]),
    /// Attributes of an open file.
    Fstat(&'a [u8]),
    /// Opens a directory for listing.
    OpenDir(&'a [u8]),
    /// The next names of a directory.
    ReadDir(&'a [u8]),
    /// Makes a directory with these permissions.
    MakeDir {
        /// Its path.
        path: &'a [u8],
        /// Its permissions.
        mode: Option<u32>,
    },
    /// Removes a file. Only prune sends it; a server of ours reads it as any other request that it refuses.
    Remove(&'a [u8]),
    /// The absolute form of a path.
    RealPath(&'a [u8]),
    /// Makes a file or directory durable.
    Fsync(&'a [u8]),
    /// Room and inodes of the file system of a path.
    StatVfs(&'a [u8]),
    /// The same for a handle.
    FstatVfs(&'a [u8]),
    /// What sizes and how many handles the server takes.
    Limits,
    /// Any other request, by its kind.
    Other(u8),
    /// Any other request as it is to be written: what only a probe asks.
    Raw {
        /// Its kind.
        kind: u8,
        /// All that follows its number.
        body: &'a [u8],
    },
}

impl Request<'_> {
    /// The first packet of a session, which has no number.
    #[must_use]
    pub fn init(version: u32) -> Vec<u8> {
        seal(begin(INIT, version, 0))
    }

    /// Writes the packet, length included.
    #[must_use]
    pub fn write(&self, id: u32) -> Vec<u8> {
        let mut packet;
        match *self {
            Self::Open { path, flags, mode } => {
                packet = begin(OPEN, id, path.len() + 16);
                put_bytes(&mut packet, path);
                packet.extend_from_slice(&flags.to_be_bytes());
                Attrs { mode, ..Attrs::default() }.write(&mut packet);
            }
            Self::Close(handle) => packet = with_bytes(CLOSE, id, handle),
            Self::Read { handle, offset, bytes } => {
                packet = begin(READ, id, handle.len() + 16);
                put_bytes(&mut packet, handle);
                packet.extend_from_slice(&offset.to_be_bytes());
                packet.extend_from_slice(&bytes.to_be_bytes());
            }
            Self::Write { handle, offset, data } => {
                packet = begin(WRITE, id, handle.len() + data.len() + 16);
                put_bytes(&mut packet, handle);
                packet.extend_from_slice(&offset.to_be_bytes());
                put_bytes(&mut packet, data);
            }
            Self::Lstat(path) => packet = with_bytes(LSTAT, id, path),
            Self::Stat(path) => packet = with_bytes(STAT, id, path),
            Self::Fstat(handle) => packet = with_bytes(FSTAT, id, handle),
            Self::OpenDir(path) => packet = with_bytes(OPENDIR, id, path),
            Self::ReadDir(handle) => packet = with_bytes(READDIR, id, handle),
            Self::MakeDir { path, mode } => {
                packet = with_bytes(MKDIR, id, path);
                Attrs { mode, ..Attrs::default() }.write(&mut packet);
            }
            Self::Remove(path) => packet = with_bytes(REMOVE, id, path),
            Self::RealPath(path) => packet = with_bytes(REALPATH, id, path),
            Self::Fsync(handle) => packet = extended(EXT_FSYNC, id, Some(handle)),
            Self::StatVfs(path) => packet = extended(EXT_STATVFS, id, Some(path)),
            Self::FstatVfs(handle) => packet = extended(EXT_FSTATVFS, id, Some(handle)),
            Self::Limits => packet = extended(EXT_LIMITS, id, None),
            Self::Other(kind) => packet = begin(kind, id, 0),
            Self::Raw { kind, body } => {
                packet = begin(kind, id, body.len());
                packet.extend_from_slice(body);
            }
        }
        seal(packet)
    }
}

fn with_bytes(kind: u8, id: u32, bytes: &[u8]) -> Vec<u8> {
    let mut packet = begin(kind, id, bytes.len() + 8);
    put_bytes(&mut packet, bytes);
    packet
}

fn extended(name: &str, id: u32, argument: Option<&[u8]>) -> Vec<u8> {
    let mut packet = with_bytes(EXTENDED, id, name.as_bytes());
    if let Some(argument) = argument {
        put_bytes(&mut packet, argument);
    }
    packet
}

impl<'a> Request<'a> {
    /// Reads the client's first packet, without its length: the version that it wants.
    ///
    /// # Errors
    /// When it is anything else.
    pub fn read_init(packet: &[u8]) -> Result<u32, Malformed> {
        let mut cursor = Cursor::new(packet);
        if cursor.u8()? != INIT {
            return Err(Malformed);
        }
        cursor.u32()
    }

    /// Reads a packet, without its length, into the request's number and the request.
    ///
    /// # Errors
    /// When a field is cut off.
    pub fn read(packet: &'a [u8]) -> Result<(u32, Self), Malformed> {
        let mut cursor = Cursor::new(packet);
        let kind = cursor.u8()?;
        let id = cursor.u32()?;
        let request = match kind {
            OPEN => Self::Open { path: cursor.bytes()?, flags: cursor.u32()?, mode: Attrs::read(&mut cursor)?.mode },
            CLOSE => Self::Close(cursor.bytes()?),
            READ => Self::Read { handle: cursor.bytes()?, offset: cursor.u64()?, bytes: cursor.u32()? },
            WRITE => Self::Write { handle: cursor.bytes()?, offset: cursor.u64()?, data: cursor.bytes()? },
            LSTAT => Self::Lstat(cursor.bytes()?),
            STAT => Self::Stat(cursor.bytes()?),
            FSTAT => Self::Fstat(cursor.bytes()?),
            OPENDIR => Self::OpenDir(cursor.bytes()?),
            READDIR => Self::ReadDir(cursor.bytes()?),
            MKDIR => Self::MakeDir { path: cursor.bytes()?, mode: Attrs::read(&mut cursor)?.mode },
            REALPATH => Self::RealPath(cursor.bytes()?),
            EXTENDED => {
                let name = cursor.bytes()?;
                if name == EXT_LIMITS.as_bytes() {
                    Self::Limits
                } else if name == EXT_FSYNC.as_bytes() {
                    Self::Fsync(cursor.bytes()?)
                } else if name == EXT_STATVFS.as_bytes() {
                    Self::StatVfs(cursor.bytes()?)
                } else if name == EXT_FSTATVFS.as_bytes() {
                    Self::FstatVfs(cursor.bytes()?)
                } else {
                    Self::Other(EXTENDED)
                }
            }
            other => Self::Other(other),
        };
        Ok((id, request))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn what_is_written_is_read_back() {
        let requests = [
            Request::Open { path: b"/a", flags: open_flags::CREATE, mode: Some(0o440) },
            Request::Open { path: b"/a", flags: open_flags::READ, mode: None },
            Request::Close(b"h"),
            Request::Read { handle: b"h", offset: 1 << 40, bytes: 7 },
            Request::Write { handle: b"h", offset: 3, data: b"content" },
            Request::Lstat(b"/l"),
            Request::Stat(b"/s"),
            Request::Fstat(b"h"),
            Request::OpenDir(b"/d"),
            Request::ReadDir(b"h"),
            Request::MakeDir { path: b"/d", mode: Some(0o750) },
            Request::RealPath(b"."),
            Request::Fsync(b"h"),
            Request::StatVfs(b"/"),
            Request::FstatVfs(b"h"),
            Request::Limits,
            Request::Other(18),
        ];
        for request in requests {
            let packet = request.write(9);
            assert_eq!(packet.len() - 4, u32::from_be_bytes([packet[0], packet[1], packet[2], packet[3]]) as usize);
            assert_eq!(Request::read(&packet[4..]), Ok((9, request)));
        }
        assert_eq!(Request::read_init(&Request::init(3)[4..]), Ok(3));
    }

    proptest! {
        #[test]
        fn any_bytes_are_read_or_refused(bytes in proptest::collection::vec(any::<u8>(), 0..200)) {
            let _ = Request::read(&bytes);
            let _ = Request::read_init(&bytes);
        }
    }
}
