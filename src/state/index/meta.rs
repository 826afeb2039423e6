//! `index.json`: what of the other files counts. It is replaced whole, and without it there is no index.

use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use crate::crypto::hash::{CHECKSUM_BYTES, checksum};
use crate::model::ids::{from_hex, to_hex};
use crate::state::{StateError, read_if_there, write_durably};

const NAME: &str = "index.json";
const MAX_BYTES: u64 = 64 * 1024 * 1024;
/// The form of all files of the index. One of another form is made anew.
const FORM: u32 = 2;

#[derive(Debug, Clone, Default, Serialize, Deserialize)]
pub struct Meta {
    form: u32,
    /// Drawn when the index is made: numbers of packs mean nothing in another.
    pub id: String,
    pub pack_count: u32,
    pub table_bytes: u64,
    pub segments: Vec<SegmentMeta>,
    pub next_segment: u64,
    /// How often packs were forgotten: the files of the packs are named by it.
    #[serde(default)]
    pub generation: u64,
    /// Index objects that were imported, by number: their packs are here, but for those that were gone and are forgotten; none where one has been replaced.
    pub objects: Vec<Option<String>>,
}

#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct SegmentMeta {
    pub name: String,
    pub records: u64,
}

impl Meta {
    /// That of an empty index.
    pub fn new(id: String) -> Self {
        Self { form: FORM, id, ..Self::default() }
    }

    /// Reads the one in `dir`, if there is one.
    pub fn read(dir: &Path) -> Result<Option<Self>, StateError> {
        let path = dir.join(NAME);
        let Some(bytes) = read_if_there(&path, MAX_BYTES)? else { return Ok(None) };
        let invalid = |why: &str| StateError::invalid(&path, why);
        // A line with the checksum, then the text.
        let (sum, text) = bytes.split_at_checked(CHECKSUM_BYTES * 2 + 1).ok_or_else(|| invalid("cut short"))?;
        let sum = std::str::from_utf8(sum).ok().and_then(|line| from_hex(line.trim_end()));
        if sum != Some(checksum(text)) {
            return Err(invalid("damaged, or of an older farkeep"));
        }
        let meta: Self = serde_json::from_slice(text).map_err(|e| StateError::invalid(&path, e))?;
        if meta.form == FORM { Ok(Some(meta)) } else { Err(invalid("of another farkeep")) }
    }

    /// Puts this one in place.
    pub fn write(&self, dir: &Path) -> Result<(), StateError> {
        let path = dir.join(NAME);
        let text = serde_json::to_vec(self).map_err(|e| StateError::invalid(&path, e))?;
        let sum = to_hex(&checksum(&text));
        write_durably(&path, &[sum.as_bytes(), b"\n", &text].concat())
    }
}

/// Gives up the index that the file at `path` is part of: whoever opens it next finds none and makes it anew.
pub fn give_up(path: &Path, why: impl std::fmt::Display) -> StateError {
    if let Some(dir) = path.parent() {
        let _ = std::fs::remove_file(dir.join(NAME));
    }
    StateError::Rotten { path: PathBuf::from(path), why: why.to_string() }
}
