//! The packs of the index: fixed records in one file, their tables in another, names in a map.
//!
//! Whatever is read is held against its checksum, records when the files are opened and each time after: what rotted must
//! never become part of a snapshot.

use std::collections::HashMap;
use std::fs::{File, OpenOptions};
use std::os::unix::fs::{FileExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex};

use super::meta::give_up;
use super::record::{OBJECT_AT, PackInfo, RECORD_BYTES, encode_object};
use crate::crypto::hash::checksum;
use crate::format::index::IndexedPack;
use crate::format::table::Table;
use crate::model::name::Sealed;
use crate::state::StateError;

/// Decoded tables that are kept: a reader walks a few packs at a time.
const TABLES_KEPT: usize = 24;

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
    pub fn open(dir: &Path, generation: u64, count: u32, table_bytes: u64) -> Result<Self, StateError> {
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
        let [packs, tables] = names(generation);
        let (packs_path, packs) = open(&packs, record_at(count))?;
        let (tables_path, tables) = open(&tables, table_bytes)?;
        let recent = Mutex::new(Vec::new());
        let mut files = Self { packs_path, tables_path, packs, tables, count, table_bytes, numbers: HashMap::new(), recent };
        files.read_numbers()?;
        Ok(files)
    }

    fn read_numbers(&mut self) -> Result<(), StateError> {
        let mut numbers = HashMap::with_capacity(self.count as usize);
        self.each(&mut |number, info| {
            if !info.is_gone() {
                numbers.insert(key(&info.pack), number);
            }
        })?;
        self.numbers = numbers;
        Ok(())
    }

    /// Hands every pack to `each`, in the order of their numbers.
    pub fn each(&self, each: &mut dyn FnMut(u32, PackInfo)) -> Result<(), StateError> {
        const STEP: u32 = 4096;
        let mut buffer = vec![0; STEP as usize * RECORD_BYTES];
        for start in (0..self.count).step_by(STEP as usize) {
            let records = STEP.min(self.count - start);
            let bytes = &mut buffer[..records as usize * RECORD_BYTES];
            self.packs.read_exact_at(bytes, record_at(start)).map_err(|e| give_up(&self.packs_path, e))?;
            for (number, record) in (start..).zip(bytes.chunks_exact(RECORD_BYTES)) {
                each(number, PackInfo::decode(record, number).map_err(|e| give_up(&self.packs_path, e))?);
            }
        }
        Ok(())
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
        let info = PackInfo {
            pack: pack.pack,
            header_bytes: pack.header_bytes,
            header_hash: pack.header_hash,
            kind: pack.table.kind,
            table_bytes: length,
            object: None,
            table_at: self.table_bytes,
            table_sum: checksum(&table),
        };
        let number = self.count;
        self.tables.write_all_at(&table, self.table_bytes).map_err(StateError::io(&self.tables_path))?;
        let written = self.packs.write_all_at(&info.encode(number), record_at(number));
        written.map_err(StateError::io(&self.packs_path))?;
        self.numbers.insert(key(&pack.pack), number);
        self.count += 1;
        self.table_bytes += u64::from(length);
        Ok(number)
    }

    /// Writes the files of another generation, without the packs that are `gone`; the others keep their numbers.
    pub fn without(&self, gone: &[bool], dir: &Path, generation: u64) -> Result<Self, StateError> {
        let mut files = Self::open(dir, generation, 0, 0)?;
        for number in 0..self.count {
            let mut info = self.info(number)?;
            if gone.get(number as usize) == Some(&true) {
                info = PackInfo::GONE;
            }
            if !info.is_gone() {
                let table = self.table_as_stored(&info)?;
                info.table_at = files.table_bytes;
                files.tables.write_all_at(&table, info.table_at).map_err(StateError::io(&files.tables_path))?;
                files.table_bytes += u64::from(info.table_bytes);
                files.numbers.insert(key(&info.pack), number);
            }
            let written = files.packs.write_all_at(&info.encode(number), record_at(number));
            written.map_err(StateError::io(&files.packs_path))?;
            files.count += 1;
        }
        files.sync()?;
        Ok(files)
    }

    pub fn info(&self, number: u32) -> Result<PackInfo, StateError> {
        if number >= self.count {
            return Err(give_up(&self.packs_path, format!("no pack {number}")));
        }
        let mut record = [0; RECORD_BYTES];
        self.packs.read_exact_at(&mut record, record_at(number)).map_err(|e| give_up(&self.packs_path, e))?;
        PackInfo::decode(&record, number).map_err(|e| give_up(&self.packs_path, e))
    }

    /// Takes index objects with this number or a higher one away from packs.
    pub fn forget_objects_from(&self, end: u32) -> Result<(), StateError> {
        let mut wrong = Vec::new();
        self.each(&mut |number, info| {
            if info.object.is_some_and(|object| object >= end) {
                wrong.push(number);
            }
        })?;
        wrong.into_iter().try_for_each(|number| self.set_object(number, None))
    }

    pub fn set_object(&self, number: u32, object: Option<u32>) -> Result<(), StateError> {
        let at = record_at(number) + OBJECT_AT as u64;
        self.packs.write_all_at(&encode_object(number, object), at).map_err(StateError::io(&self.packs_path))
    }

    /// The table of a pack as it stands in an index object.
    pub fn table_as_stored(&self, info: &PackInfo) -> Result<Vec<u8>, StateError> {
        let mut bytes = vec![0; info.table_bytes as usize];
        self.tables.read_exact_at(&mut bytes, info.table_at).map_err(|e| give_up(&self.tables_path, e))?;
        if checksum(&bytes) != info.table_sum {
            return Err(give_up(&self.tables_path, format!("the table of pack {} is damaged", info.pack)));
        }
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
        let table = Arc::new(Table::decode(&bytes).map_err(|e| give_up(&self.tables_path, e))?);
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

/// What the two files of a generation are called.
pub fn names(generation: u64) -> [String; 2] {
    ["packs", "tables"].map(|name| if generation == 0 { name.to_owned() } else { format!("{name}-{generation}") })
}

const fn record_at(number: u32) -> u64 {
    number as u64 * RECORD_BYTES as u64
}

fn key(pack: &Sealed) -> [u8; 16] {
    let mut key = [0; 16];
    key.copy_from_slice(&pack.hash.0[..16]);
    key
}
