//! The file cache: what the last push knew of each path, so that an unchanged file is neither opened nor described anew.
//!
//! Entries stand in the order of the catalogue, so that a walk and the cache are read side by side, in memory of one entry.
//! An entry holds the very catalogue line, and the packs that its chunks lie in. It counts only for the index that numbered
//! those packs. What it holds becomes part of a snapshot as it stands, so each entry has its checksum: a damaged one, and what
//! follows it, is as if it were not there.

use std::fs::{File, OpenOptions};
use std::io::{self, BufReader, BufWriter, Read, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};

use crate::crypto::hash::{CHECKSUM_BYTES, checksum};
use crate::format::cursor::Cursor;
use crate::model::limits::{CATALOGUE_LINE_MAX_BYTES, PATH_MAX_BYTES};
use crate::model::path::EntryPath;
use crate::model::snapshot::Tally;
use crate::state::StateError;
use crate::state::index::PackNumber;

const MAGIC: &[u8; 8] = b"FKFILES2";
/// What no entry reaches: a line, a path, and the packs of a very large file.
const ENTRY_MAX_BYTES: usize = CATALOGUE_LINE_MAX_BYTES + PATH_MAX_BYTES + 8 * 1024 * 1024;

/// What tells an unchanged file from a changed one.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct StatKey {
    /// The file system.
    pub device: u64,
    /// The inode.
    pub inode: u64,
    /// Size in bytes.
    pub bytes: u64,
    /// Content changed, in ns.
    pub mtime_ns: i128,
    /// Anything changed, in ns.
    pub ctime_ns: i128,
}

/// One path as the last push left it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CachedEntry {
    /// The path.
    pub path: EntryPath,
    /// What it looked like.
    pub key: StatKey,
    /// Its catalogue line, newline included.
    pub line: Vec<u8>,
    /// What it counts for.
    pub tally: Tally,
    /// The packs that its chunks lie in, and how many of their bytes, before compression, it needs.
    pub packs: Vec<(PackNumber, u64)>,
}

/// Reads a file cache in order.
pub struct FileCacheReader {
    path: PathBuf,
    input: Option<BufReader<File>>,
    next: Option<CachedEntry>,
    buffer: Vec<u8>,
}

impl FileCacheReader {
    /// Opens the cache at `path` that was written for `context` (the index, the names of owners, what was excluded). Any
    /// other, and any damage, reads as empty: it is a cache.
    #[must_use]
    pub fn open(path: &Path, context: &str) -> Self {
        let mut reader = Self { path: path.to_owned(), input: None, next: None, buffer: Vec::new() };
        reader.input = open_for(path, context);
        reader.advance();
        reader
    }

    /// The entry at `path`, if the cache has one; paths must be asked for in order.
    pub fn take(&mut self, path: &EntryPath) -> Option<CachedEntry> {
        while self.next.as_ref().is_some_and(|entry| entry.path < *path) {
            self.advance();
        }
        if self.next.as_ref().is_some_and(|entry| entry.path == *path) {
            let entry = self.next.take();
            self.advance();
            return entry;
        }
        None
    }

    fn advance(&mut self) {
        self.next = None;
        let Some(input) = &mut self.input else { return };
        match read_entry(input, &mut self.buffer) {
            Ok(next) => self.next = next,
            Err(error) => {
                tracing::warn!(path = %self.path.display(), %error, "the rest of the file cache is not used");
                self.input = None;
            }
        }
    }
}

fn open_for(path: &Path, context: &str) -> Option<BufReader<File>> {
    let mut input = BufReader::with_capacity(1 << 18, File::open(path).ok()?);
    let mut start = vec![0; MAGIC.len() + 4];
    input.read_exact(&mut start).ok()?;
    let length = u32::from_le_bytes(start[8..12].try_into().ok()?) as usize;
    if &start[..8] != MAGIC || length != context.len() {
        return None;
    }
    let mut found = vec![0; length];
    input.read_exact(&mut found).ok()?;
    (found == context.as_bytes()).then_some(input)
}

fn read_entry(input: &mut BufReader<File>, buffer: &mut Vec<u8>) -> io::Result<Option<CachedEntry>> {
    let mut length = [0; 4];
    input.read_exact(&mut length)?;
    let length = u32::from_le_bytes(length) as usize;
    if length == 0 {
        return Ok(None);
    }
    if length > ENTRY_MAX_BYTES {
        return Err(io::Error::other("entry too long"));
    }
    buffer.resize(length, 0);
    input.read_exact(buffer)?;
    let mut sum = [0; CHECKSUM_BYTES];
    input.read_exact(&mut sum)?;
    if checksum(buffer) != sum {
        return Err(io::Error::other("damaged entry"));
    }
    decode(buffer).map(Some).map_err(io::Error::other)
}

fn decode(bytes: &[u8]) -> Result<CachedEntry, crate::format::FormatError> {
    let invalid = |e: &dyn std::fmt::Display| crate::format::FormatError::invalid("file cache", e);
    let mut cursor = Cursor::new(bytes, "file cache");
    let mut number = || cursor.u64();
    let (device, inode, size) = (number()?, number()?, number()?);
    let tally = Tally { files: number()?, dirs: number()?, others: number()?, source_bytes: number()? };
    let (mtime_ns, ctime_ns) = (i128::from_le_bytes(cursor.array()?), i128::from_le_bytes(cursor.array()?));
    let (path_bytes, line_bytes, packs) = (cursor.u32()? as usize, cursor.u32()? as usize, cursor.u32()? as usize);
    let path = EntryPath::from_bytes(cursor.take(path_bytes)?).map_err(|e| invalid(&e))?;
    let line = cursor.take(line_bytes)?.to_vec();
    if packs * 12 != cursor.left() {
        return Err(invalid(&"wrong length"));
    }
    let packs = (0..packs).map(|_| Ok((cursor.u32()?, cursor.u64()?))).collect::<Result<_, crate::format::FormatError>>()?;
    Ok(CachedEntry { path, key: StatKey { device, inode, bytes: size, mtime_ns, ctime_ns }, line, tally, packs })
}

/// Writes the next file cache; it takes the old one's place only when it is finished.
pub struct FileCacheWriter {
    path: PathBuf,
    temporary: PathBuf,
    output: BufWriter<File>,
    buffer: Vec<u8>,
}

impl FileCacheWriter {
    /// Begins a cache that will stand at `path`.
    ///
    /// # Errors
    /// When it cannot be written.
    pub fn create(path: &Path, context: &str) -> Result<Self, StateError> {
        let temporary = path.with_extension(format!("{}.tmp", std::process::id()));
        let file = OpenOptions::new().create(true).truncate(true).write(true).mode(0o600).open(&temporary);
        let mut output = BufWriter::with_capacity(1 << 18, file.map_err(StateError::io(&temporary))?);
        let length = u32::try_from(context.len()).map_err(|_| StateError::invalid(path, "context too long"))?;
        let start = [&MAGIC[..], &length.to_le_bytes(), context.as_bytes()].concat();
        output.write_all(&start).map_err(StateError::io(&temporary))?;
        Ok(Self { path: path.to_owned(), temporary, output, buffer: Vec::new() })
    }

    /// Adds an entry; entries come in order.
    ///
    /// # Errors
    /// When it cannot be written.
    pub fn add(&mut self, entry: &CachedEntry) -> Result<(), StateError> {
        let count = |n: usize| u32::try_from(n).map_err(|_| StateError::invalid(&self.path, "entry too long"));
        let (key, tally) = (&entry.key, &entry.tally);
        let body = &mut self.buffer;
        body.clear();
        body.extend_from_slice(&[0; 4]);
        for number in [key.device, key.inode, key.bytes, tally.files, tally.dirs, tally.others, tally.source_bytes]
            .map(u64::to_le_bytes)
        {
            body.extend_from_slice(&number);
        }
        body.extend_from_slice(&key.mtime_ns.to_le_bytes());
        body.extend_from_slice(&key.ctime_ns.to_le_bytes());
        let path = entry.path.as_bytes();
        for length in [path.len(), entry.line.len(), entry.packs.len()] {
            body.extend_from_slice(&count(length)?.to_le_bytes());
        }
        body.extend_from_slice(path);
        body.extend_from_slice(&entry.line);
        for (pack, bytes) in &entry.packs {
            body.extend_from_slice(&pack.to_le_bytes());
            body.extend_from_slice(&bytes.to_le_bytes());
        }
        let length = count(body.len() - 4)?;
        if length as usize > ENTRY_MAX_BYTES {
            // Such a file is read again next time.
            return Ok(());
        }
        body[..4].copy_from_slice(&length.to_le_bytes());
        let sum = checksum(&body[4..]);
        body.extend_from_slice(&sum);
        self.output.write_all(body).map_err(StateError::io(&self.temporary))
    }

    /// Removes the cache that this one will replace.
    pub fn remove_old(&self) {
        let _ = std::fs::remove_file(&self.path);
    }

    /// Puts the cache in its place.
    ///
    /// # Errors
    /// When it cannot be written.
    pub fn finish(mut self) -> Result<(), StateError> {
        let mut finish = || -> io::Result<()> {
            self.output.write_all(&[0; 4])?;
            self.output.flush()?;
            std::fs::rename(&self.temporary, &self.path)
        };
        finish().map_err(StateError::io(&self.path))
    }
}

impl Drop for FileCacheWriter {
    fn drop(&mut self) {
        // After `finish` there is nothing under this name.
        let _ = std::fs::remove_file(&self.temporary);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn entry(path: &str, inode: u64) -> CachedEntry {
        CachedEntry {
            path: EntryPath::from_bytes(path).unwrap_or_else(|e| panic!("{e}")),
            key: StatKey { device: 1, inode, bytes: 5, mtime_ns: -3, ctime_ns: 1 << 70 },
            line: format!("{{\"path\":\"{path}\"}}\n").into_bytes(),
            tally: Tally { files: 1, source_bytes: 5, ..Tally::default() },
            packs: vec![(7, 100), (9, 1)],
        }
    }

    fn write(path: &Path, context: &str, entries: &[CachedEntry]) {
        let mut writer = FileCacheWriter::create(path, context).unwrap_or_else(|e| panic!("{e}"));
        for entry in entries {
            writer.add(entry).unwrap_or_else(|e| panic!("{e}"));
        }
        writer.finish().unwrap_or_else(|e| panic!("{e}"));
    }

    #[test]
    fn a_walk_finds_its_entries_in_order() {
        let dir = tempfile::tempdir().unwrap_or_else(|e| panic!("{e}"));
        let path = dir.path().join("files");
        let entries = [entry("a", 1), entry("a/b", 2), entry("a.c", 3), entry("z", 4)];
        write(&path, "index 1", &entries);
        let mut reader = FileCacheReader::open(&path, "index 1");
        for (asked, expected) in [("a", Some(0)), ("a/a", None), ("a/b", Some(1)), ("b", None), ("z", Some(3)), ("zz", None)]
        {
            let asked = EntryPath::from_bytes(asked).unwrap_or_else(|e| panic!("{e}"));
            assert_eq!(reader.take(&asked), expected.map(|n: usize| entries[n].clone()), "{asked}");
        }
    }

    #[test]
    fn another_context_and_any_damage_read_as_nothing() {
        let dir = tempfile::tempdir().unwrap_or_else(|e| panic!("{e}"));
        let path = dir.path().join("files");
        write(&path, "index 1", &[entry("a", 1)]);
        let a = EntryPath::from_bytes("a").unwrap_or_else(|e| panic!("{e}"));
        assert!(FileCacheReader::open(&path, "index 2").take(&a).is_none());
        assert!(FileCacheReader::open(&dir.path().join("none"), "index 1").take(&a).is_none());
        let bytes = std::fs::read(&path).unwrap_or_else(|e| panic!("{e}"));
        for end in 0..bytes.len() - 4 {
            std::fs::write(&path, &bytes[..end]).unwrap_or_else(|e| panic!("{e}"));
            assert!(FileCacheReader::open(&path, "index 1").take(&a).is_none(), "cut at {end}");
        }
        for at in 0..bytes.len() - 4 {
            let mut rotten = bytes.clone();
            rotten[at] ^= 1;
            std::fs::write(&path, &rotten).unwrap_or_else(|e| panic!("{e}"));
            assert!(FileCacheReader::open(&path, "index 1").take(&a).is_none(), "byte {at}");
        }
    }
}
