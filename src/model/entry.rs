//! One captured file, directory, link, device or dump, with its metadata.

use crate::model::ids::{ChunkId, ObjectHash};
use crate::model::path::EntryPath;

/// What a snapshot knows of one path.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Entry {
    /// Where it lay.
    pub path: EntryPath,
    /// What it is.
    pub kind: EntryKind,
    /// Mode, owner, times, attributes.
    pub meta: Metadata,
    /// What went wrong while it was captured; the snapshot reports it as a finding.
    pub flaw: Option<Flaw>,
}

/// What was wrong with an entry when it was captured.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Flaw {
    /// It changed while it was read, twice: the content is a mixture.
    Changed,
    /// Its content could not be read, of a directory its names; the text says why. A file then holds metadata alone.
    Unreadable(String),
    /// A directory that holds more than the snapshot: rules left something out, or single names could not be looked at.
    LeftOut,
}

/// The kind of an entry with what is special to it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum EntryKind {
    /// A regular file, or the output of a command.
    File(Content),
    /// A directory.
    Directory,
    /// A symbolic link and where it points, as raw bytes.
    Symlink(Vec<u8>),
    /// Another name of the file at this path, which comes earlier in the catalogue and holds the content.
    HardLink(EntryPath),
    /// A named pipe.
    Fifo,
    /// A character device: major, minor.
    CharDevice(u32, u32),
    /// A block device: major, minor.
    BlockDevice(u32, u32),
}

impl EntryKind {
    /// One word for people and for the catalogue.
    #[must_use]
    pub const fn word(&self) -> &'static str {
        match self {
            Self::File(_) => "file",
            Self::Directory => "dir",
            Self::Symlink(_) => "symlink",
            Self::HardLink(_) => "hardlink",
            Self::Fifo => "fifo",
            Self::CharDevice(..) => "chardev",
            Self::BlockDevice(..) => "blockdev",
        }
    }

    /// Logical length of a file's content; 0 for all else.
    #[must_use]
    pub const fn size(&self) -> u64 {
        match self {
            Self::File(content) => content.size,
            _ => 0,
        }
    }
}

/// The content of a file.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Content {
    /// Logical length, holes included.
    pub size: u64,
    /// BLAKE3 of the whole logical content, holes as zeros.
    pub hash: ObjectHash,
    /// Where data lies in a sparse file: (offset, length), ascending, without overlap. None: all of it is data.
    pub extents: Option<Extents>,
    /// The chunks that make up the data, in order.
    pub chunks: Refs,
}

/// The data extents of a sparse file, inline or, when there are many, as a list stream of pairs of little-endian u64.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Extents {
    /// (offset, length) pairs.
    Inline(Vec<(u64, u64)>),
    /// The same pairs, 16 bytes each, as a stream.
    Stream(Refs),
}

/// An ordered list of chunks.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Refs {
    /// The ids themselves.
    Inline(Vec<ChunkId>),
    /// The ids stand in a list stream: `chunks` hold, one after another, 24-byte ids; at level 1 those of the content, at a
    /// higher level those of the list one level below.
    List {
        /// 1 to 3.
        level: u8,
        /// The chunks of the topmost list.
        chunks: Vec<ChunkId>,
    },
}

impl Refs {
    /// No chunks: an empty stream.
    #[must_use]
    pub const fn empty() -> Self {
        Self::Inline(Vec::new())
    }

    /// Whether the stream is empty.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        matches!(self, Self::Inline(ids) if ids.is_empty())
    }
}

/// Metadata of an entry.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Metadata {
    /// Permission bits with setuid, setgid and sticky: the low 12 bits of the mode.
    pub mode: u32,
    /// Owner.
    pub owner: Owner,
    /// Modification time in nanoseconds since 1970.
    pub mtime_ns: i128,
    /// Extended attributes, ACLs and capabilities among them, as (name, value), sorted by name.
    pub xattrs: Xattrs,
}

/// Extended attributes, inline or, when they are large, as a list stream of the same JSON.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Xattrs {
    /// (name, value), sorted by name.
    Inline(Vec<(Vec<u8>, Vec<u8>)>),
    /// A stream whose plaintext is the JSON array that would stand inline.
    Stream(Refs),
}

impl Xattrs {
    /// No attributes.
    #[must_use]
    pub const fn none() -> Self {
        Self::Inline(Vec::new())
    }

    /// Whether there are none.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        matches!(self, Self::Inline(list) if list.is_empty())
    }
}

/// User and group, by number and by name. Restore prefers the names where they exist.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Owner {
    /// User id.
    pub uid: u32,
    /// Group id.
    pub gid: u32,
    /// User name, where the producing machine knew one.
    pub user: Option<String>,
    /// Group name, likewise.
    pub group: Option<String>,
}
