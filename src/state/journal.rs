//! The journal of a push: what it has sealed and sent, so that a push that died is taken up where it stopped.
//!
//! An append-only file of entries, each with its own hash; what follows the first damaged entry is ignored. It is removed
//! when the snapshot is committed. Losing it means sending again what was sent, nothing worse.

use std::fs::{File, OpenOptions};
use std::io::{self, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::PathBuf;

use crate::crypto::hash::hash;
use crate::format::cursor::Cursor;
use crate::format::index::{FIXED_BYTES, IndexReader, IndexedPack, encode_start};
use crate::model::ids::ObjectHash;
use crate::model::limits::{INDEX_RAW_MAX_BYTES, MIB};
use crate::model::name::Sealed;
use crate::state::{StateDir, StateError, read_if_there};

/// A journal larger than this belongs to no push that could still be taken up in bounded memory.
const JOURNAL_MAX_BYTES: u64 = 64 * MIB;
const KIND_PACK: u8 = 1;
const KIND_INDEX: u8 = 2;
const HASH_BYTES: usize = 8;

/// One thing that a push did.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Entry {
    /// It sealed and delivered this pack.
    Pack(IndexedPack),
    /// It sealed and delivered this index object, which lists every pack before it in the journal that no other lists.
    Index(Sealed),
}

/// The journal of the push at work.
#[derive(Debug)]
pub struct Journal {
    path: PathBuf,
    file: Option<File>,
    bytes: u64,
}

impl Journal {
    /// Reads what an earlier push left, and makes ready to append.
    ///
    /// # Errors
    /// When the file cannot be read.
    pub fn open(state: &StateDir) -> Result<(Self, Vec<Entry>), StateError> {
        let path = state.journal().join("push");
        let bytes = match read_if_there(&path, JOURNAL_MAX_BYTES) {
            Ok(bytes) => bytes.unwrap_or_default(),
            Err(StateError::Invalid { .. }) => Vec::new(),
            Err(e) => return Err(e),
        };
        let (entries, valid) = decode(&bytes);
        if valid < bytes.len() {
            // What is appended must follow what can be read.
            let file = OpenOptions::new().write(true).open(&path).map_err(StateError::io(&path))?;
            file.set_len(valid as u64).map_err(StateError::io(&path))?;
        }
        Ok((Self { path, file: None, bytes: valid as u64 }, entries))
    }

    /// Appends an entry and syncs it. A journal at its limit takes no more: those packs would be sent again.
    ///
    /// # Errors
    /// When it cannot be written.
    pub fn append(&mut self, entry: &Entry) -> Result<(), StateError> {
        let mut payload = Vec::new();
        match entry {
            Entry::Pack(pack) => {
                payload.push(KIND_PACK);
                pack.encode_into(&mut payload).map_err(|e| StateError::invalid(&self.path, e))?;
            }
            Entry::Index(name) => {
                payload.push(KIND_INDEX);
                payload.extend_from_slice(&name.hash.0);
                payload.extend_from_slice(&name.bytes.to_le_bytes());
            }
        }
        let length = u32::try_from(payload.len()).map_err(|_| StateError::invalid(&self.path, "entry too long"))?;
        let record = [&length.to_le_bytes()[..], &hash(&payload).0[..HASH_BYTES], &payload].concat();
        if self.bytes + record.len() as u64 > JOURNAL_MAX_BYTES {
            return Ok(());
        }
        let write = |file: &mut File| -> io::Result<()> {
            file.write_all(&record)?;
            file.sync_data()
        };
        let path = self.path.clone();
        write(self.file()?).map_err(StateError::io(&path))?;
        self.bytes += record.len() as u64;
        Ok(())
    }

    fn file(&mut self) -> Result<&mut File, StateError> {
        if self.file.is_none() {
            let opened = OpenOptions::new().create(true).append(true).mode(0o600).open(&self.path);
            self.file = Some(opened.map_err(StateError::io(&self.path))?);
        }
        self.file.as_mut().ok_or_else(|| StateError::invalid(&self.path, "not open"))
    }

    /// Forgets everything: the snapshot is committed, or what was noted is of no use.
    ///
    /// # Errors
    /// When the file cannot be removed.
    pub fn clear(&mut self) -> Result<(), StateError> {
        self.file = None;
        self.bytes = 0;
        match std::fs::remove_file(&self.path) {
            Err(e) if e.kind() != io::ErrorKind::NotFound => Err(StateError::io(&self.path)(e)),
            _ => Ok(()),
        }
    }
}

/// The entries, and the length of the part that they were read from.
fn decode(bytes: &[u8]) -> (Vec<Entry>, usize) {
    let mut entries = Vec::new();
    let mut cursor = Cursor::new(bytes, "journal");
    let mut valid = 0;
    while let Some(entry) = decode_entry(&mut cursor) {
        entries.push(entry);
        valid = bytes.len() - cursor.left();
    }
    (entries, valid)
}

fn decode_entry(cursor: &mut Cursor<'_>) -> Option<Entry> {
    let length = cursor.u32().ok()? as usize;
    let expected = cursor.array::<HASH_BYTES>().ok()?;
    let payload = cursor.take(length).ok()?;
    if hash(payload).0[..HASH_BYTES] != expected {
        return None;
    }
    let (kind, rest) = payload.split_first()?;
    match *kind {
        KIND_PACK if (rest.len() + FIXED_BYTES) as u64 <= INDEX_RAW_MAX_BYTES => {
            // A pack stands here as it stands in an index object of one.
            let start = encode_start(1).ok()?;
            let mut reader = IndexReader::new(io::Read::chain(&start[..], rest)).ok()?;
            reader.next_pack().ok()?.map(Entry::Pack)
        }
        KIND_INDEX => {
            let mut cursor = Cursor::new(rest, "journal");
            let name = Sealed { hash: ObjectHash(cursor.array().ok()?), bytes: cursor.u64().ok()? };
            cursor.finish().ok()?;
            Some(Entry::Index(name))
        }
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::format::table::{PackKind, Table};
    use crate::model::ids::VaultId;

    #[test]
    fn a_journal_is_read_up_to_where_it_was_torn() {
        let dir = tempfile::tempdir().unwrap_or_else(|e| panic!("{e}"));
        let state = StateDir::open(dir.path(), VaultId([1; 16])).unwrap_or_else(|e| panic!("{e}"));
        let pack = |n: u8| {
            Entry::Pack(IndexedPack {
                pack: Sealed { hash: ObjectHash([n; 32]), bytes: 99 },
                header_bytes: 200,
                header_hash: ObjectHash([n; 32]),
                table: Table::new(PackKind::Data),
            })
        };
        let written = [pack(1), Entry::Index(Sealed { hash: ObjectHash([8; 32]), bytes: 5 }), pack(2)];
        let (mut journal, before) = Journal::open(&state).unwrap_or_else(|e| panic!("{e}"));
        assert!(before.is_empty());
        for entry in &written {
            journal.append(entry).unwrap_or_else(|e| panic!("{e}"));
        }
        let reread = || Journal::open(&state).map(|(_, entries)| entries).unwrap_or_else(|e| panic!("{e}"));
        assert_eq!(reread(), written);
        let path = state.journal().join("push");
        let bytes = std::fs::read(&path).unwrap_or_else(|e| panic!("{e}"));
        std::fs::write(&path, &bytes[..bytes.len() - 1]).unwrap_or_else(|e| panic!("{e}"));
        assert_eq!(reread(), written[..2]);
        let (mut journal, _) = Journal::open(&state).unwrap_or_else(|e| panic!("{e}"));
        journal.append(&written[2]).unwrap_or_else(|e| panic!("{e}"));
        assert_eq!(reread(), written, "what follows a torn entry can be read");
        journal.clear().unwrap_or_else(|e| panic!("{e}"));
        assert!(reread().is_empty());
    }
}
