//! mongodump's archive format, as bytes: written and read without any server.
//!
//! ```text
//! archive    = magic, header, { collection }, end, { slice }
//! slice      = namespace, { document }, end             the documents of one collection, or some of them
//!            | namespace with EOF and CRC, end          no more of this collection will come
//! magic      = 6d e2 99 81          end = ff ff ff ff          everything else is one BSON document
//! ```
//!
//! The checksum of a namespace covers all its documents. `mongorestore` compares it after it has written them; this reader
//! is for looking before. A collection that is named in the beginning must have ended, and nothing may follow the last slice.

use std::io::{self, Read};

use bson::{RawDocument, RawDocumentBuf, rawdoc};

use super::crc64::Crc64;

/// The first four bytes.
pub const MAGIC: [u8; 4] = [0x6d, 0xe2, 0x99, 0x81];
/// Ends the prelude and each slice: no document has such a length.
const TERMINATOR: [u8; 4] = [0xff; 4];
/// A document as MongoDB stores it at most (16 MiB), and the 16 KiB that servers allow their own wrappers.
const DOCUMENT_MAX_BYTES: usize = (16 * 1024 + 16) * 1024;
/// The shortest document: its length and a zero.
const DOCUMENT_MIN_BYTES: usize = 5;
/// Collections that a prelude may name; databases of more are unheard of, and each costs memory.
const COLLECTIONS_MAX: usize = 100_000;
/// All metadata of a prelude together.
const PRELUDE_MAX_BYTES: usize = 64 * 1024 * 1024;
/// The layout described above; mongodump has written no other.
const VERSION: &str = "0.1";

/// Why bytes are no whole archive.
#[derive(Debug, thiserror::Error)]
pub enum ArchiveError {
    /// It is something else.
    #[error("is no mongodump archive")]
    Magic,
    /// Of a later kind.
    #[error("is an archive of version {0:?}; {VERSION} is known")]
    Version(String),
    /// It ends too early.
    #[error("is cut off: {0}")]
    Cut(String),
    /// It says what cannot be.
    #[error("is damaged: {0}")]
    Damaged(String),
    /// It cannot be read.
    #[error("cannot be read: {0}")]
    Io(io::Error),
}

/// What stands before the first document.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Prelude {
    /// The server that it came from.
    pub server_version: String,
    /// Who wrote it.
    pub tool_version: String,
    /// Its collections and views.
    pub collections: Vec<Collection>,
}

/// A collection as the prelude names it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Collection {
    /// The database.
    pub database: String,
    /// The name within it.
    pub name: String,
    /// `collection`, `view` or `timeseries`.
    pub kind: String,
    /// Options and indexes as extended JSON.
    pub metadata: String,
}

impl Collection {
    /// What its documents are filed under: a time series keeps them in a collection of its own.
    #[must_use]
    pub fn data_name(&self) -> String {
        if self.kind == "timeseries" { format!("system.buckets.{}", self.name) } else { self.name.clone() }
    }
}

/// The beginning of an archive, up to the first slice.
#[must_use]
pub fn encode_prelude(prelude: &Prelude) -> Vec<u8> {
    let header = rawdoc! {
        "concurrent_collections": 1_i32,
        "version": VERSION,
        "server_version": prelude.server_version.as_str(),
        "tool_version": prelude.tool_version.as_str(),
    };
    let mut bytes = [&MAGIC, header.as_bytes()].concat();
    for collection in &prelude.collections {
        let entry = rawdoc! {
            "db": collection.database.as_str(),
            "collection": collection.name.as_str(),
            "metadata": collection.metadata.as_str(),
            "size": 0_i32,
            "type": collection.kind.as_str(),
        };
        bytes.extend_from_slice(entry.as_bytes());
    }
    bytes.extend_from_slice(&TERMINATOR);
    bytes
}

/// What stands before the documents of a collection.
#[must_use]
pub fn encode_begin(collection: &Collection) -> Vec<u8> {
    namespace(collection, false, 0).into_bytes()
}

/// What stands after the documents of a collection.
#[must_use]
pub fn encode_end(collection: &Collection, crc: u64) -> Vec<u8> {
    [&TERMINATOR, namespace(collection, true, crc.cast_signed()).as_bytes(), &TERMINATOR].concat()
}

fn namespace(collection: &Collection, ended: bool, crc: i64) -> RawDocumentBuf {
    rawdoc! { "db": collection.database.as_str(), "collection": collection.data_name(), "EOF": ended, "CRC": crc }
}

/// What comes next in an archive.
#[derive(Debug, PartialEq, Eq)]
pub enum Item<'a> {
    /// A document of the collection with this place in the prelude.
    Document(usize, &'a [u8]),
    /// The collection has ended, and its checksum is right.
    End(usize),
}

/// Reads an archive from its start to its end.
pub struct Reader<R> {
    from: R,
    prelude: Prelude,
    states: Vec<State>,
    current: Option<usize>,
    document: Vec<u8>,
}

#[derive(Debug, Clone, Copy, Default)]
struct State {
    crc: Crc64,
    ended: bool,
}

impl<R: Read> Reader<R> {
    /// Reads up to the first slice.
    ///
    /// # Errors
    /// When it is no archive.
    pub fn open(mut from: R) -> Result<Self, ArchiveError> {
        let mut magic = [0; 4];
        if fill(&mut from, &mut magic)? < 4 || magic != MAGIC {
            return Err(ArchiveError::Magic);
        }
        let mut document = Vec::new();
        read_document(&mut from, &mut document, "the header")?.then_some(()).ok_or_else(|| damaged("it has no header"))?;
        let header = parse(&document, "the header")?;
        let version = text(header, "version")?;
        if version != VERSION {
            return Err(ArchiveError::Version(version));
        }
        let (server_version, tool_version) = (text(header, "server_version")?, text(header, "tool_version")?);
        let mut collections: Vec<Collection> = Vec::new();
        let mut names = std::collections::BTreeSet::new();
        let mut total = 0;
        while read_document(&mut from, &mut document, "the list of collections")? {
            total += document.len();
            if collections.len() == COLLECTIONS_MAX || total > PRELUDE_MAX_BYTES {
                return Err(damaged("its list of collections is too long"));
            }
            let entry = parse(&document, "the list of collections")?;
            let collection = Collection {
                database: text(entry, "db")?,
                name: text(entry, "collection")?,
                // Absent in archives of tools before views.
                kind: entry.get_str("type").ok().filter(|kind| !kind.is_empty()).unwrap_or("collection").to_owned(),
                metadata: text(entry, "metadata")?,
            };
            if !names.insert((collection.database.clone(), collection.name.clone())) {
                return Err(damaged(format!("it names the collection {:?} twice", collection.name)));
            }
            collections.push(collection);
        }
        let states = vec![State::default(); collections.len()];
        let prelude = Prelude { server_version, tool_version, collections };
        Ok(Self { from, prelude, states, current: None, document })
    }

    /// What stands before the first document.
    pub const fn prelude(&self) -> &Prelude {
        &self.prelude
    }

    /// The next document, or the end of a collection; none at the end of a whole archive.
    ///
    /// # Errors
    /// When it is cut off or damaged.
    pub fn next_item(&mut self) -> Result<Option<Item<'_>>, ArchiveError> {
        loop {
            if let Some(place) = self.current {
                if read_document(&mut self.from, &mut self.document, "documents")? {
                    self.states[place].crc.update(&self.document);
                    return Ok(Some(Item::Document(place, &self.document)));
                }
                self.current = None;
                continue;
            }
            if !self.next_slice()? {
                return Ok(None);
            }
            if let Some(place) = self.current
                && self.states[place].ended
            {
                self.current = None;
                return Ok(Some(Item::End(place)));
            }
        }
    }

    /// Reads what stands before a slice; false at the end of the archive.
    fn next_slice(&mut self) -> Result<bool, ArchiveError> {
        let mut length = [0; 4];
        match fill(&mut self.from, &mut length)? {
            0 => return self.whole().map(|()| false),
            4 => {}
            _ => return Err(ArchiveError::Cut("within the length of a document".into())),
        }
        if length == TERMINATOR {
            return Err(damaged("a slice has no namespace"));
        }
        read_rest(&mut self.from, length, &mut self.document, "a namespace")?;
        let header = parse(&self.document, "a namespace")?;
        let (database, name) = (text(header, "db")?, text(header, "collection")?);
        let ended = header.get_bool("EOF").map_err(|_| damaged("a namespace without EOF"))?;
        let crc = header.get_i64("CRC").map_err(|_| damaged("a namespace without CRC"))?.cast_unsigned();
        let place = self.prelude.collections.iter().position(|c| c.database == database && c.data_name() == name);
        let place = place.ok_or_else(|| damaged(format!("documents of {name:?}, which its beginning does not name")))?;
        let state = &mut self.states[place];
        if state.ended {
            return Err(damaged(format!("collection {name:?} goes on after its end")));
        }
        if ended {
            state.ended = true;
            if state.crc.value() != crc {
                return Err(damaged(format!("the checksum of collection {name:?} is wrong")));
            }
            if read_document(&mut self.from, &mut self.document, "an end")? {
                return Err(damaged(format!("collection {name:?} has documents after its end")));
            }
        }
        self.current = Some(place);
        Ok(true)
    }

    fn whole(&self) -> Result<(), ArchiveError> {
        match self.states.iter().position(|state| !state.ended) {
            Some(place) => {
                let name = &self.prelude.collections[place].name;
                Err(ArchiveError::Cut(format!("collection {name:?} has no end")))
            }
            None => Ok(()),
        }
    }
}

fn damaged(why: impl Into<String>) -> ArchiveError {
    ArchiveError::Damaged(why.into())
}

fn fill(from: &mut impl Read, buffer: &mut [u8]) -> Result<usize, ArchiveError> {
    let mut filled = 0;
    while filled < buffer.len() {
        match from.read(&mut buffer[filled..]) {
            Ok(0) => break,
            Ok(count) => filled += count,
            Err(e) if e.kind() == io::ErrorKind::Interrupted => {}
            // A decompressor's word for the end of its input.
            Err(e) if e.kind() == io::ErrorKind::UnexpectedEof => return Err(ArchiveError::Cut("it ends too early".into())),
            Err(e) => return Err(ArchiveError::Io(e)),
        }
    }
    Ok(filled)
}

/// Reads a document; false where an end stands in its place.
fn read_document(from: &mut impl Read, into: &mut Vec<u8>, what: &str) -> Result<bool, ArchiveError> {
    let mut length = [0; 4];
    if fill(from, &mut length)? < 4 {
        return Err(ArchiveError::Cut(format!("within {what}")));
    }
    if length == TERMINATOR {
        return Ok(false);
    }
    read_rest(from, length, into, what)?;
    Ok(true)
}

fn read_rest(from: &mut impl Read, length: [u8; 4], into: &mut Vec<u8>, what: &str) -> Result<(), ArchiveError> {
    let bytes = u32::from_le_bytes(length) as usize;
    if !(DOCUMENT_MIN_BYTES..=DOCUMENT_MAX_BYTES).contains(&bytes) {
        return Err(damaged(format!("{what}: a document of {bytes} bytes")));
    }
    into.clear();
    into.extend_from_slice(&length);
    // Memory grows with what is there, not with what is claimed.
    let read = match from.take((bytes - 4) as u64).read_to_end(into) {
        // A decompressor's word for the end of its input.
        Err(e) if e.kind() == io::ErrorKind::UnexpectedEof => 0,
        other => other.map_err(ArchiveError::Io)?,
    };
    if read != bytes - 4 {
        return Err(ArchiveError::Cut(format!("within {what}")));
    }
    if into.last() != Some(&0) {
        return Err(damaged(format!("{what}: a document that does not end with a zero")));
    }
    Ok(())
}

fn parse<'a>(bytes: &'a [u8], what: &str) -> Result<&'a RawDocument, ArchiveError> {
    RawDocument::from_bytes(bytes).map_err(|_| damaged(format!("{what}: not a document")))
}

fn text(document: &RawDocument, key: &str) -> Result<String, ArchiveError> {
    document.get_str(key).map(str::to_owned).map_err(|_| damaged(format!("a description without {key}")))
}

#[cfg(test)]
mod tests;
