//! Sources: where plaintext comes from.
//!
//! A source gives its entries in the order of the catalogue, each with a loader that other threads run: so many small files
//! are read at once while the order stays. A source knows nothing of chunks, packs or stores. A failure of the source as a
//! whole is a [`SourceError`] and voids its job; what is wrong with one entry is a finding.

use std::io;
use std::sync::Arc;

use crate::model::entry::{Entry, Metadata};
use crate::model::finding::Finding;
use crate::model::local::KeepLocal;
use crate::model::path::EntryPath;
use crate::state::file_cache::StatKey;

mod beside;
pub mod command;
pub mod engine;
pub mod files;
pub mod http;
pub mod influxdb;
pub mod limits;
pub mod mongodb;
pub mod mysql;
mod patience;
pub mod postgres;
pub mod search;
pub mod secret;
pub mod spool;
pub mod sqlite;
pub mod tool;
pub mod work;

use engine::{Account, Engine, EngineSource};
use work::Work;

/// A source could not give what was asked of it: its job has no snapshot.
#[derive(Debug, thiserror::Error)]
pub enum SourceError {
    /// A root that should be backed up is not there.
    #[error("{path}: {why}; a missing root is a failure, not an empty backup")]
    MissingRoot {
        /// The root.
        path: String,
        /// Why it cannot be had.
        why: String,
    },
    /// The configuration of the source cannot work.
    #[error("{0}")]
    Configuration(String),
    /// A command did not do what it should.
    #[error("{command}: {why}")]
    Command {
        /// The program.
        command: String,
        /// What it did, its last words included.
        why: String,
    },
    /// A server refused, or is not as it must be.
    #[error("{system}: {why}")]
    System {
        /// The server, without secrets.
        system: String,
        /// What it said.
        why: String,
    },
    /// What came is not what was declared: too small, too large, wrong start.
    #[error("{what}: {why}")]
    Expectation {
        /// The member.
        what: String,
        /// What was missed.
        why: String,
    },
    /// There is nothing in it: as a backup that is a failure, for a safety copy there is nothing to be kept.
    #[error("{what}: {why}")]
    Empty {
        /// The server or file, without secrets.
        what: String,
        /// What was looked for.
        why: String,
    },
    /// The walk itself failed.
    #[error("{path}: {source}")]
    Io {
        /// The path.
        path: String,
        /// Why.
        source: io::Error,
    },
    /// The work was stopped from outside.
    #[error("interrupted")]
    Interrupted,
}

impl SourceError {
    /// What is wrong, for somebody who was told already that it is in this member.
    #[must_use]
    pub fn within(&self, member: &str) -> String {
        match self {
            Self::Expectation { what, why } | Self::Empty { what, why } if what == member => why.clone(),
            other => other.to_string(),
        }
    }
}

/// An entry that a source has found and not yet loaded.
pub struct Found {
    /// Where it lies.
    pub path: EntryPath,
    /// What tells that it is as the last push left it; none for what must always be read.
    pub key: Option<StatKey>,
    /// About how many bytes loading it will read.
    pub bytes: u64,
    /// How to load it.
    pub load: Box<dyn Load>,
}

/// Loads one entry, on another thread than the one that found it.
pub trait Load: Send {
    /// Reads its metadata and opens its content.
    ///
    /// # Errors
    /// Only what voids the whole source; an entry that cannot be read is [`Loaded::Flawed`].
    fn load(self: Box<Self>) -> Result<Loaded, SourceError>;
}

/// A loaded entry.
pub enum Loaded {
    /// A directory, link, device or pipe: all there is, and what would tell that it has changed since it was looked at.
    Whole(Entry, Option<StatKey>),
    /// A file whose content is still to be read.
    File(Metadata, Box<dyn Content>),
    /// An entry with something to report: what can be told of it stands in the entry.
    Flawed(Option<Entry>, Finding),
}

/// The next piece of a file's content.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Piece {
    /// So many bytes of data stand in the buffer.
    Data(usize),
    /// So many zeros that the file does not store.
    Hole(u64),
    /// The end.
    End,
}

/// Why content could not be read.
#[derive(Debug)]
pub enum ContentError {
    /// This entry cannot be read; the walk goes on.
    Entry(io::Error),
    /// The whole source has failed.
    Fatal(SourceError),
}

/// Whether what was read is one state of the file.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Settled {
    /// It is.
    Same,
    /// It changed in between.
    Changed,
}

/// The content of a file, read once from start to end.
pub trait Content: Send {
    /// The next piece; `buffer` is filled as far as one read does.
    ///
    /// # Errors
    /// When it cannot be read.
    fn read(&mut self, buffer: &mut [u8]) -> Result<Piece, ContentError>;

    /// After the end: whether the file stayed as it was.
    ///
    /// # Errors
    /// When that cannot be told.
    fn settle(&mut self) -> Result<Settled, ContentError>;

    /// Begins again; gives the metadata as it is now. None where reading again is impossible.
    ///
    /// # Errors
    /// When it cannot be opened.
    fn again(&mut self) -> Result<Option<Metadata>, ContentError>;

    /// Whether data lies in extents with holes between them.
    fn is_sparse(&self) -> bool;

    /// What would tell that it has changed since it was opened: not what was seen at its path before.
    fn key(&self) -> Option<StatKey> {
        None
    }
}

/// A source as it is configured.
#[derive(Debug, Clone)]
#[allow(clippy::large_enum_variant, reason = "there are as many as sources in a configuration")]
pub enum SourceConfig {
    /// Files of this machine.
    Files(files::FilesConfig),
    /// What an engine knows to back up and bring back.
    Engine(Arc<dyn Engine>),
}

impl SourceConfig {
    /// The member's name.
    #[must_use]
    pub fn name(&self) -> &str {
        match self {
            Self::Files(config) => &config.name,
            Self::Engine(engine) => engine.name(),
        }
    }

    /// How much of the files that it takes in may stay on this machine once they were pushed.
    #[must_use]
    pub fn keep_local(&self) -> Option<KeepLocal> {
        match self {
            Self::Files(_) => None,
            Self::Engine(engine) => engine.keep_local(),
        }
    }

    /// Opens the source.
    ///
    /// # Errors
    /// When it cannot be had at all.
    pub fn open(&self, work: &Work) -> Result<Box<dyn Source>, SourceError> {
        Ok(match self {
            Self::Files(config) => Box::new(files::FilesSource::open(config.clone())?),
            Self::Engine(engine) => Box::new(EngineSource::open(engine.as_ref(), work)?),
        })
    }
}

/// One source of a job.
pub trait Source: Send {
    /// Its name: the member of the job.
    fn name(&self) -> &str;

    /// Its kind, as in the configuration.
    fn kind(&self) -> &'static str;

    /// The paths that it reads from, for files.
    fn roots(&self) -> Vec<EntryPath>;

    /// What its entries depend on beside the files themselves (owner names, what is excluded): a file cache made under
    /// another context is not used. None for sources without a cache.
    fn context(&self) -> Option<String>;

    /// The next entry in the order of the catalogue; none at the end.
    ///
    /// # Errors
    /// When the source as a whole has failed.
    fn next(&mut self) -> Result<Option<Found>, SourceError>;

    /// After the last entry was loaded: the verdict on the whole, and what was noticed on the way.
    ///
    /// # Errors
    /// When the source as a whole has failed.
    fn finish(&mut self) -> Result<Vec<Finding>, SourceError>;

    /// After [`Source::finish`]: what is to be recorded of it.
    fn account(&mut self) -> Account {
        Account::default()
    }
}
