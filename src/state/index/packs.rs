//! The packs of the index: fixed records in one file, their tables in another, names in a map.

use std::collections::HashMap;
use std::fs::{File, OpenOptions};
use std::os::unix::fs::{FileExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex};

use crate::format::cursor::Cursor;
use crate::format::index::IndexedPack;
use crate::format::table::{PackKind, Table};
use crate::model::ids::ObjectHash;
use crate::model::name::Sealed;
use crate::state::StateError;

/// Hash, size, header length, header hash, place and length of the table, kind, number of the index object.
const RECORD_BYTES: usize = 32 + 8 + 4 + 32 + 8 + 4 + 4 + 4;
/// Where the number of the index object stands.
const OBJECT_AT: u64 = RECORD_BYTES as u64 - 4;
/// Listed by no index object yet.
const NO_OBJECT: u32 = u32::MAX;
/// Decoded tables that are kept: a reader walks a few packs at a time.
const TABLES_KEPT: usize = 24;

/// What is known of one pack.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct PackInfo {
    /// Its hash and size.
    pub pack: Sealed,
    /// Length of its age header, nonce included.
    pub header_bytes: u32,
    /// BLAKE3 of that header.
    pub header_hash: ObjectHash,
    /// What it holds.
    pub kind: PackKind,
    /// Length of its table.
    pub table_bytes: u32,
    /// The index object that lists it, by number.
    pub(super) object: Option<u32>,
    table_at: u64,
}

/// The two files, and the numbers of the packs by the first 16 bytes of their hash.
pub struct PackFiles {
    packs_path: PathBuf,
    tables_path: PathBuf,
    packs: File,
    tables: File,
    count: u32,
    table_bytes: u64,
    numbers: HashMap<[u8; 16], u32>,
    recent: Mutex<Vec<(u32, Arc<Table>)>>,
}

impl PackFiles {
    /// Opens the files in `dir`, of which `count` packs and `table_bytes` count; what follows is cut off.
    pub fn open(dir: &Path, count: u32, table_bytes: u64) -> Result<Self, StateError> {
        let open = |name: &str, bytes: u64| -> Result<(PathBuf, File), StateError> {
            let path = dir.join(name);
            let options = OpenOptions::new().create(true).truncate(false).read(true).write(true).mode(0o600).open(&path);
            let file = options.map_err(StateError::io(&path))?;
            if file.metadata().map_err(StateError::io(&path))?.len() < bytes {
                return Err(StateError::invalid(&path, "shorter than it was"));
            }
            file.set_len(bytes).map_err(StateError::io(&path))?;
            Ok((path, file))
        };
        let (packs_path, packs) = open("packs", u64::from(count) * RECORD_BYTES as u64)?;
        let (tables_path, tables) = open("tables", table_bytes)?;
        let recent = Mutex::new(Vec::new());
        let mut files = Self { packs_path, tables_path, packs, tables, count, table_bytes, numbers: HashMap::new(), recent };
        files.read_numbers()?;
        Ok(files)
    }

    /// Hands the number and record of every pack to `each`, in order.
    fn each_record(&self, each: &mut dyn FnMut(u32, &[u8])) -> Result<(), StateError> {
        const STEP: u32 = 4096;
        let mut buffer = vec![0; STEP as usize * RECORD_BYTES];
        for start in (0..self.count).step_by(STEP as usize) {
            let records = STEP.min(self.count - start);
            let bytes = &mut buffer[..records as usize * RECORD_BYTES];
            let at = u64::from(start) * RECORD_BYTES as u64;
            self.packs.read_exact_at(bytes, at).map_err(StateError::io(&self.packs_path))?;
            for (number, record) in (start..).zip(bytes.chunks_exact(RECORD_BYTES)) {
                each(number, record);
            }
        }
        Ok(())
    }

    fn read_numbers(&mut self) -> Result<(), StateError> {
        let mut numbers = HashMap::with_capacity(self.count as usize);
        self.each_record(&mut |number, record| {
            let mut key = [0; 16];
            key.copy_from_slice(&record[..16]);
            numbers.insert(key, number);
        })?;
        self.numbers = numbers;
        Ok(())
    }

    /// Hands every pack to `each`, in the order of their numbers.
    pub fn each(&self, each: &mut dyn FnMut(u32, PackInfo)) -> Result<(), StateError> {
        let mut failed = None;
        self.each_record(&mut |number, record| match record.try_into().map(decode) {
            Ok(Ok(info)) => each(number, info),
            _ => failed = Some(number),
        })?;
        match failed {
            Some(number) => Err(StateError::invalid(&self.packs_path, format!("pack {number} cannot be read"))),
            None => Ok(()),
        }
    }

    pub const fn count(&self) -> u32 {
        self.count
    }

    pub const fn table_bytes(&self) -> u64 {
        self.table_bytes
    }

    pub fn number_of(&self, pack: &Sealed) -> Option<u32> {
        let number = *self.numbers.get(&key(pack))?;
        (self.info(number).ok()?.pack == *pack).then_some(number)
    }

    pub fn append(&mut self, pack: &IndexedPack) -> Result<u32, StateError> {
        let table = pack.table.encode().map_err(|e| StateError::invalid(&self.tables_path, e))?;
        let length = u32::try_from(table.len()).map_err(|_| StateError::invalid(&self.tables_path, "table too long"))?;
        let mut record = Vec::with_capacity(RECORD_BYTES);
        record.extend_from_slice(&pack.pack.hash.0);
        record.extend_from_slice(&pack.pack.bytes.to_le_bytes());
        record.extend_from_slice(&pack.header_bytes.to_le_bytes());
        record.extend_from_slice(&pack.header_hash.0);
        record.extend_from_slice(&self.table_bytes.to_le_bytes());
        record.extend_from_slice(&length.to_le_bytes());
        record.extend_from_slice(&(pack.table.kind as u32).to_le_bytes());
        record.extend_from_slice(&NO_OBJECT.to_le_bytes());
        self.tables.write_all_at(&table, self.table_bytes).map_err(StateError::io(&self.tables_path))?;
        let at = u64::from(self.count) * RECORD_BYTES as u64;
        self.packs.write_all_at(&record, at).map_err(StateError::io(&self.packs_path))?;
        let number = self.count;
        self.numbers.insert(key(&pack.pack), number);
        self.count += 1;
        self.table_bytes += u64::from(length);
        Ok(number)
    }

    pub fn info(&self, number: u32) -> Result<PackInfo, StateError> {
        if number >= self.count {
            return Err(StateError::invalid(&self.packs_path, format!("no pack {number}")));
        }
        let mut record = [0; RECORD_BYTES];
        let at = u64::from(number) * RECORD_BYTES as u64;
        self.packs.read_exact_at(&mut record, at).map_err(StateError::io(&self.packs_path))?;
        decode(&record).map_err(|e| StateError::invalid(&self.packs_path, e))
    }

    /// Takes index objects with this number or a higher one away from packs.
    pub fn forget_objects_from(&self, end: u32) -> Result<(), StateError> {
        let mut wrong = Vec::new();
        self.each_record(&mut |number, record| {
            if record.last_chunk::<4>().is_some_and(|bytes| (end..NO_OBJECT).contains(&u32::from_le_bytes(*bytes))) {
                wrong.push(number);
            }
        })?;
        wrong.into_iter().try_for_each(|number| self.set_object(number, NO_OBJECT))
    }

    pub fn set_object(&self, number: u32, object: u32) -> Result<(), StateError> {
        let at = u64::from(number) * RECORD_BYTES as u64 + OBJECT_AT;
        self.packs.write_all_at(&object.to_le_bytes(), at).map_err(StateError::io(&self.packs_path))
    }

    /// The table of a pack as it stands in an index object.
    pub fn table_as_stored(&self, info: &PackInfo) -> Result<Vec<u8>, StateError> {
        let mut bytes = vec![0; info.table_bytes as usize];
        self.tables.read_exact_at(&mut bytes, info.table_at).map_err(StateError::io(&self.tables_path))?;
        Ok(bytes)
    }

    pub fn table(&self, number: u32) -> Result<Arc<Table>, StateError> {
        let mut recent = self.recent.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
        if let Some(position) = recent.iter().position(|(n, _)| *n == number) {
            let hit = recent.remove(position);
            let table = Arc::clone(&hit.1);
            recent.push(hit);
            return Ok(table);
        }
        let bytes = self.table_as_stored(&self.info(number)?)?;
        let table = Arc::new(Table::decode(&bytes).map_err(|e| StateError::invalid(&self.tables_path, e))?);
        if recent.len() >= TABLES_KEPT {
            recent.remove(0);
        }
        recent.push((number, Arc::clone(&table)));
        Ok(table)
    }

    pub fn sync(&self) -> Result<(), StateError> {
        self.tables.sync_data().map_err(StateError::io(&self.tables_path))?;
        self.packs.sync_data().map_err(StateError::io(&self.packs_path))
    }
}

fn key(pack: &Sealed) -> [u8; 16] {
    let mut key = [0; 16];
    key.copy_from_slice(&pack.hash.0[..16]);
    key
}

fn decode(record: &[u8; RECORD_BYTES]) -> Result<PackInfo, crate::format::FormatError> {
    let mut cursor = Cursor::new(record, "pack record");
    let pack = Sealed { hash: ObjectHash(cursor.array()?), bytes: cursor.u64()? };
    let (header_bytes, header_hash) = (cursor.u32()?, ObjectHash(cursor.array()?));
    let (table_at, table_bytes) = (cursor.u64()?, cursor.u32()?);
    let kind = match cursor.u32()? {
        0 => PackKind::Data,
        1 => PackKind::Catalogue,
        _ => PackKind::Patch,
    };
    let object = Some(cursor.u32()?).filter(|object| *object != NO_OBJECT);
    Ok(PackInfo { pack, header_bytes, header_hash, kind, table_bytes, object, table_at })
}
