//! `spool`: archives that another script leaves in a directory, adopted as they come.
//!
//! The member waits until the archives that its pattern names are there, are new, and have stopped growing. A `.gz` is
//! stored unpacked: gzip changes every byte after the first change of the content, so that packed archives would be sent
//! whole each night. Its CRC and length are checked on the way, and the name and hash of the packed file are recorded; a
//! restore packs it again, with the same content in other bytes. `exact = true` keeps the bytes instead.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};

use crate::model::finding::Finding;
use crate::model::local::KeepLocal;
use crate::source::SourceError;
use crate::source::engine::{Account, Backup, Engine, Fetched, OpenPart, Part, Survey};
use crate::source::work::Work;
use crate::state::shipped::LocalFile;

mod archive;
mod pattern;
mod put_back;
mod wait;

pub use pattern::SpoolPattern;

/// Archives of another script.
#[derive(Debug, Clone)]
pub struct SpoolConfig {
    /// The member's name.
    pub name: String,
    /// Which archives.
    pub pattern: SpoolPattern,
    /// Whether `.gz` archives keep their bytes.
    pub exact: bool,
    /// At least so many archives must be there.
    pub min_files: usize,
    /// An archive that was written longer ago belongs to an earlier run of the script.
    pub max_age_secs: u64,
    /// How long to wait for archives that are missing or still grow.
    pub wait_secs: u64,
    /// An archive that did not change for so long has stopped growing.
    pub quiet_secs: u64,
    /// How much of what was pushed may stay.
    pub keep_local: Option<KeepLocal>,
}

impl Engine for SpoolConfig {
    fn name(&self) -> &str {
        &self.name
    }

    fn kind(&self) -> &'static str {
        "spool"
    }

    fn keep_local(&self) -> Option<KeepLocal> {
        self.keep_local
    }

    fn open(&self, work: &Work) -> Result<Box<dyn Backup>, SourceError> {
        self.pattern.today(work)?;
        Ok(Box::new(Adopting { config: self.clone(), found: None, proof: Arc::default() }))
    }

    fn survey(&self, account: &Account, _: &Work) -> Result<Survey, SourceError> {
        put_back::survey(self, account)
    }

    fn check(&self, fetched: &Fetched, work: &Work) -> Result<(), SourceError> {
        put_back::check(fetched, work)
    }

    /// The archives that would be written over: those of today are another matter.
    fn keep(&self, fetched: &Fetched, dir: &Path, work: &Work) -> Result<Vec<Finding>, SourceError> {
        put_back::keep(self, fetched, dir, work).map(|()| Vec::new())
    }

    fn replace(&self, fetched: &Fetched, work: &Work) -> Result<(), SourceError> {
        put_back::replace(self, fetched, work)
    }

    fn prove(&self, fetched: &Fetched, work: &Work) -> Result<Account, SourceError> {
        put_back::prove(self, fetched, work)
    }
}

/// An archive that is there.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Archive {
    path: PathBuf,
    /// Its name below the spool's directory.
    name: String,
}

/// What the proof calls the content of a part, and the file that it was.
fn content_key(part: &str) -> String {
    format!("content of {part}")
}

fn file_key(part: &str) -> String {
    format!("file of {part}")
}

/// The part that an archive becomes.
fn part_name(archive: &str, exact: bool) -> String {
    match archive.strip_suffix(".gz") {
        Some(inner) if !exact && !inner.is_empty() && !inner.ends_with('/') => inner.to_owned(),
        _ => archive.to_owned(),
    }
}

type Proof = Arc<Mutex<Taken>>;

/// What was read: hashes by name, and the files.
#[derive(Default)]
struct Taken {
    proof: BTreeMap<String, String>,
    files: Vec<LocalFile>,
}

struct Adopting {
    config: SpoolConfig,
    found: Option<std::vec::IntoIter<(String, Archive)>>,
    proof: Proof,
}

impl Adopting {
    /// Waits for the archives, in the order of the parts that they become.
    fn find(&self, work: &Work) -> Result<Vec<(String, Archive)>, SourceError> {
        let mut parts: Vec<(String, Archive)> = wait::for_archives(&self.config, work)?
            .into_iter()
            .map(|archive| (part_name(&archive.name, self.config.exact), archive))
            .collect();
        // As paths are ordered: component by component.
        parts.sort_by(|a, b| a.0.split('/').cmp(b.0.split('/')));
        match parts.windows(2).find(|pair| pair[0].0 == pair[1].0) {
            Some(pair) => Err(SourceError::Expectation {
                what: self.config.name.clone(),
                why: format!("{} and {} would be stored under one name", pair[0].1.path.display(), pair[1].1.path.display()),
            }),
            None => Ok(parts),
        }
    }
}

impl Backup for Adopting {
    fn next(&mut self, work: &Work) -> Result<Option<Part>, SourceError> {
        if self.found.is_none() {
            self.found = Some(self.find(work)?.into_iter());
        }
        let Some((name, archive)) = self.found.as_mut().and_then(Iterator::next) else { return Ok(None) };
        let meta = archive::metadata(&archive)?;
        let (proof, unpack) = (Arc::clone(&self.proof), name != archive.name);
        let part = name.clone();
        let open: OpenPart = Box::new(move |_| Ok(Box::new(archive::Adopted::open(archive, part, unpack, proof)?)));
        Ok(Some(Part { name, bytes: None, meta: Some(meta), open }))
    }

    fn finish(&mut self, _: &Work) -> Result<Account, SourceError> {
        let Taken { proof, files } = std::mem::take(&mut *self.proof.lock().unwrap_or_else(PoisonError::into_inner));
        Ok(Account { proof, files, ..Account::default() })
    }
}
