//! What a server answers.

use bytes::Bytes;

use super::attrs::Attrs;
use super::cursor::{Cursor, Malformed};
use super::{EXT_FSTATVFS, EXT_FSYNC, EXT_LIMITS, EXT_STATVFS, VERSION, begin, put_bytes, seal};

const VERSION_KIND: u8 = 2;
const STATUS: u8 = 101;
const HANDLE: u8 = 102;
const DATA: u8 = 103;
const NAME: u8 = 104;
const ATTRS: u8 = 105;
const EXTENDED_REPLY: u8 = 201;

/// What becomes of a request. Version 3 has nine codes, and every failure that has none of its own is `Failure`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Code {
    /// Done.
    Ok,
    /// Nothing more to read.
    Eof,
    /// No such file or directory.
    NotFound,
    /// Not permitted.
    Denied,
    /// Any other failure: exists already, no room, I/O error, and all the rest.
    Failure,
    /// The request was malformed.
    BadMessage,
    /// The server does not know the operation.
    Unsupported,
    /// A code of a later version.
    Other(u32),
}

impl Code {
    const fn number(self) -> u32 {
        match self {
            Self::Ok => 0,
            Self::Eof => 1,
            Self::NotFound => 2,
            Self::Denied => 3,
            Self::Failure => 4,
            Self::BadMessage => 5,
            Self::Unsupported => 8,
            Self::Other(number) => number,
        }
    }

    const fn from_number(number: u32) -> Self {
        match number {
            0 => Self::Ok,
            1 => Self::Eof,
            2 => Self::NotFound,
            3 => Self::Denied,
            4 => Self::Failure,
            5 => Self::BadMessage,
            8 => Self::Unsupported,
            other => Self::Other(other),
        }
    }
}

/// One name of a directory.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Entry {
    /// The file's name, raw.
    pub name: Vec<u8>,
    /// The line that `ls -l` would print; only people read it.
    pub long: Vec<u8>,
    /// What it is.
    pub attrs: Attrs,
}

/// One reply, without its number.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Reply {
    /// How it went, and the server's words.
    Status(Code, String),
    /// An open file or directory.
    Handle(Bytes),
    /// Bytes of a file.
    Data(Bytes),
    /// Names of a directory.
    Names(Vec<Entry>),
    /// Attributes.
    Attrs(Attrs),
    /// The answer to an extension.
    Extended(Bytes),
}

impl Reply {
    /// A status with the usual words.
    #[must_use]
    pub fn status(code: Code) -> Self {
        let words = match code {
            Code::Ok => "success",
            Code::Eof => "end of file",
            Code::NotFound => "no such file",
            Code::Denied => "permission denied",
            Code::Failure => "failure",
            Code::BadMessage => "bad message",
            Code::Unsupported => "operation unsupported",
            Code::Other(_) => "other",
        };
        Self::Status(code, words.to_owned())
    }

    /// Writes the packet, length included.
    #[must_use]
    pub fn write(&self, id: u32) -> Vec<u8> {
        let mut packet;
        match self {
            Self::Status(code, words) => {
                packet = begin(STATUS, id, words.len() + 16);
                packet.extend_from_slice(&code.number().to_be_bytes());
                put_bytes(&mut packet, words.as_bytes());
                put_bytes(&mut packet, b"");
            }
            Self::Handle(handle) => {
                packet = begin(HANDLE, id, handle.len() + 4);
                put_bytes(&mut packet, handle);
            }
            Self::Data(data) => {
                packet = begin(DATA, id, data.len() + 4);
                put_bytes(&mut packet, data);
            }
            Self::Names(entries) => {
                packet = begin(NAME, id, 4);
                packet.extend_from_slice(&u32::try_from(entries.len()).unwrap_or(u32::MAX).to_be_bytes());
                for entry in entries {
                    put_bytes(&mut packet, &entry.name);
                    put_bytes(&mut packet, &entry.long);
                    entry.attrs.write(&mut packet);
                }
            }
            Self::Attrs(attrs) => {
                packet = begin(ATTRS, id, 32);
                attrs.write(&mut packet);
            }
            Self::Extended(content) => {
                packet = begin(EXTENDED_REPLY, id, content.len());
                packet.extend_from_slice(content);
            }
        }
        seal(packet)
    }

    /// The server's first packet: its version and extensions, with the extensions' own versions.
    #[must_use]
    pub fn version() -> Vec<u8> {
        let mut packet = begin(VERSION_KIND, VERSION, 128);
        for (name, version) in [(EXT_STATVFS, "2"), (EXT_FSTATVFS, "2"), (EXT_FSYNC, "1"), (EXT_LIMITS, "1")] {
            put_bytes(&mut packet, name.as_bytes());
            put_bytes(&mut packet, version.as_bytes());
        }
        seal(packet)
    }

    /// Reads the server's first packet, without its length: its version and the names of its extensions.
    ///
    /// # Errors
    /// When it is anything else.
    pub fn read_version(packet: &[u8]) -> Result<(u32, Vec<String>), Malformed> {
        let mut cursor = Cursor::new(packet);
        if cursor.u8()? != VERSION_KIND {
            return Err(Malformed);
        }
        let version = cursor.u32()?;
        let mut extensions = Vec::new();
        while !cursor.is_empty() {
            extensions.push(String::from_utf8_lossy(cursor.bytes()?).into_owned());
            cursor.bytes()?;
        }
        Ok((version, extensions))
    }

    /// Reads a packet, without its length, into the request's number and the reply. Data stay where they are.
    ///
    /// # Errors
    /// When a field is cut off or the kind is no reply.
    pub fn read(packet: &Bytes) -> Result<(u32, Self), Malformed> {
        let mut cursor = Cursor::new(packet);
        let kind = cursor.u8()?;
        let id = cursor.u32()?;
        let reply = match kind {
            STATUS => {
                let code = Code::from_number(cursor.u32()?);
                // Old servers send the code alone.
                let words = if cursor.is_empty() { &[] } else { cursor.bytes()? };
                Self::Status(code, crate::model::path::escape(words))
            }
            HANDLE => Self::Handle(packet.slice_ref(cursor.bytes()?)),
            DATA => Self::Data(packet.slice_ref(cursor.bytes()?)),
            NAME => {
                let mut entries = Vec::new();
                for _ in 0..cursor.u32()? {
                    let (name, long) = (cursor.bytes()?.to_vec(), cursor.bytes()?.to_vec());
                    entries.push(Entry { name, long, attrs: Attrs::read(&mut cursor)? });
                }
                Self::Names(entries)
            }
            ATTRS => Self::Attrs(Attrs::read(&mut cursor)?),
            EXTENDED_REPLY => Self::Extended(packet.slice(5..)),
            _ => return Err(Malformed),
        };
        Ok((id, reply))
    }
}

/// What `limits@openssh.com` answers; zero means no limit.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Limits {
    /// The longest packet.
    pub packet_bytes: u64,
    /// The longest READ.
    pub read_bytes: u64,
    /// The longest WRITE.
    pub write_bytes: u64,
    /// Handles that may be open at once.
    pub handles: u64,
}

impl Limits {
    /// As the content of an extended reply.
    #[must_use]
    pub fn write(&self) -> Bytes {
        [self.packet_bytes, self.read_bytes, self.write_bytes, self.handles].iter().flat_map(|n| n.to_be_bytes()).collect()
    }

    /// From the content of an extended reply.
    ///
    /// # Errors
    /// When it is cut off.
    pub fn read(content: &[u8]) -> Result<Self, Malformed> {
        let mut cursor = Cursor::new(content);
        Ok(Self {
            packet_bytes: cursor.u64()?,
            read_bytes: cursor.u64()?,
            write_bytes: cursor.u64()?,
            handles: cursor.u64()?,
        })
    }
}

/// What `statvfs@openssh.com` answers: the eleven numbers of POSIX `statvfs`, of which these matter here.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct StatVfs {
    /// Bytes of a block.
    pub block_bytes: u64,
    /// Blocks of the file system.
    pub blocks: u64,
    /// Blocks that an ordinary user may still take.
    pub blocks_free: u64,
    /// Inodes of the file system; zero where it counts none.
    pub inodes: u64,
    /// Inodes that an ordinary user may still take.
    pub inodes_free: u64,
    /// Whether nothing can be written to it.
    pub read_only: bool,
}

impl StatVfs {
    /// The flag of a file system that is mounted read-only (OpenSSH, PROTOCOL, section 4.8).
    const READ_ONLY: u64 = 1;

    /// Bytes that may still be written.
    #[must_use]
    pub const fn free_bytes(&self) -> u64 {
        self.block_bytes.saturating_mul(self.blocks_free)
    }

    /// As the content of an extended reply.
    #[must_use]
    pub fn write(&self) -> Bytes {
        let numbers = [
            self.block_bytes,
            self.block_bytes,
            self.blocks,
            self.blocks_free,
            self.blocks_free,
            self.inodes,
            self.inodes_free,
            self.inodes_free,
            0,
            if self.read_only { Self::READ_ONLY } else { 0 },
            255,
        ];
        numbers.iter().flat_map(|n| n.to_be_bytes()).collect()
    }

    /// From the content of an extended reply.
    ///
    /// # Errors
    /// When it is cut off.
    pub fn read(content: &[u8]) -> Result<Self, Malformed> {
        let mut cursor = Cursor::new(content);
        let (block, fragment, blocks) = (cursor.u64()?, cursor.u64()?, cursor.u64()?);
        let (_free, blocks_free, inodes, _inodes) = (cursor.u64()?, cursor.u64()?, cursor.u64()?, cursor.u64()?);
        let inodes_free = cursor.u64()?;
        let flags = cursor.u64().and_then(|_id| cursor.u64()).unwrap_or(0);
        let block_bytes = if fragment == 0 { block } else { fragment };
        Ok(Self { block_bytes, blocks, blocks_free, inodes, inodes_free, read_only: flags & Self::READ_ONLY != 0 })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn what_is_written_is_read_back() {
        let attrs = Attrs { bytes: Some(5), owner: Some((1, 2)), mode: Some(0o100_440), times: Some((3, 4)) };
        let bare = Attrs { mode: Some(0o040_750), ..Attrs::default() };
        let entry = |attrs| Entry { name: b"n".to_vec(), long: b"-r--r----- n".to_vec(), attrs };
        let replies = [
            Reply::status(Code::Failure),
            Reply::Handle(Bytes::from_static(b"h")),
            Reply::Data(Bytes::from_static(b"content")),
            Reply::Names(vec![entry(attrs), entry(bare)]),
            Reply::Attrs(attrs),
            Reply::Attrs(bare),
            Reply::Extended(Limits { packet_bytes: 1, read_bytes: 2, write_bytes: 3, handles: 4 }.write()),
        ];
        for reply in replies {
            assert_eq!(Reply::read(&Bytes::from(reply.write(7)).slice(4..)), Ok((7, reply)));
        }
        let vfs = StatVfs { block_bytes: 4096, blocks: 10, blocks_free: 4, inodes: 9, inodes_free: 8, read_only: true };
        assert_eq!(StatVfs::read(&vfs.write()), Ok(vfs));
        let (version, extensions) = Reply::read_version(&Reply::version()[4..]).unwrap_or_default();
        assert_eq!((version, extensions.len()), (VERSION, 4));
    }

    #[test]
    fn a_count_of_names_that_the_packet_cannot_hold_costs_nothing() {
        let mut packet = begin(NAME, 1, 4);
        packet.extend_from_slice(&u32::MAX.to_be_bytes());
        assert_eq!(Reply::read(&Bytes::from(packet).slice(4..)), Err(Malformed));
    }

    proptest! {
        #[test]
        fn any_bytes_are_read_or_refused(bytes in proptest::collection::vec(any::<u8>(), 0..200)) {
            let _ = Reply::read_version(&bytes);
            let _ = Limits::read(&bytes);
            let _ = StatVfs::read(&bytes);
            let _ = Reply::read(&Bytes::from(bytes));
        }
    }
}
