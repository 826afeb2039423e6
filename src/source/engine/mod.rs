//! Engines: what farkeep knows of each kind of data system, in both directions.
//!
//! An [`Engine`] is one configured member: `kind = "postgres"` with its keys. It gives the member as **parts** (named
//! streams of plaintext) and brings it back from the same parts. It knows nothing of chunks, packs, stores, records or the
//! other members; the operations (`ops::push`, `ops::run`) call it and keep the promises:
//!
//! | who | does |
//! |---|---|
//! | [`Engine::open`] | looks at once whether the system can be had at all; dumps nothing yet |
//! | [`Backup::next`] | the next part, in ascending order of names, each opened only when its turn to be read has come |
//! | [`PartRead::read`], [`PartRead::finish`] | its bytes; whether it ended well. A part that did not voids the snapshot |
//! | [`Backup::finish`] | after the last part was read: the verdict on the whole, tools and versions, the proof (counts, hashes) |
//! | the push | size, shrink, growth, magic, footer, time limit ([`crate::source::limits::Limits`]), for every kind alike |
//! | [`Engine::survey`] | what stands at the target and would be destroyed, with its counts; changes nothing |
//! | the restore | prints the plan, asks, fetches every part of every member and compares its hash |
//! | [`Engine::check`] | looks into the fetched parts without the target: whole, well formed, as the proof says |
//! | [`Engine::keep`] | where a safety copy is wanted: what stands at the target, before it is replaced |
//! | [`Engine::replace`] | the only destructive step, begun when every member has passed `check`. May be called again after it broke off |
//! | [`Engine::prove`] | what the target holds now, to be equal to the proof that the backup recorded |
//!
//! A part `dump` of the member `events` is the entry `@events/dump`; fetched, it is the file `dump` in a private directory.
//!
//! # Errors
//!
//! Every error is a [`SourceError`] and voids the member's snapshot, or stops the restore: `Configuration` for what can never
//! work, `Command` for a tool, `System` for a server, `Expectation` for data that is not what it should be. There is no
//! half success. Messages name the thing and hold no secret and no row.
//!
//! # How to add one
//!
//! `src/source/KIND.rs` (or a directory) with the configuration and `impl Engine`; `src/cli/config/kinds/KIND.rs` that reads
//! its keys; one line in `cli/config/kinds/mod.rs`. Tools are run by [`crate::source::tool::Tool`], which knows time limit,
//! interruption and what of stderr may be shown; secrets are [`crate::source::secret::Secret`]. What came out empty is an error,
//! unless the system's own list says that nothing is there ([`Account::holding_nothing`]). In short:
//!
//! ```ignore
//! impl Engine for Sqlite {
//!     fn name(&self) -> &str { &self.name }
//!     fn kind(&self) -> &'static str { "sqlite" }
//!     fn open(&self, _: &Work) -> Result<Box<dyn Backup>, SourceError> {
//!         self.must_be_a_database()?;
//!         Ok(Box::new(Copying { engine: self.clone(), given: false }))
//!     }
//!     // survey, check, replace, prove ...
//! }
//!
//! impl Backup for Copying {
//!     fn next(&mut self, work: &Work) -> Result<Option<Part>, SourceError> {
//!         if std::mem::replace(&mut self.given, true) { return Ok(None); }
//!         let copy = work.scratch.join("copy");          // private, emptied by whoever made it
//!         self.engine.copy_pages(&copy, work)?;          // looks at work.check() between steps
//!         Ok(Some(Part::file("database", copy)))
//!     }
//!     fn finish(&mut self, _: &Work) -> Result<Account, SourceError> {
//!         Ok(Account::default().tool("sqlite", rusqlite::version()).proof("rows of birth", self.rows))
//!     }
//! }
//! ```

use std::collections::BTreeMap;
use std::fmt;
use std::path::{Path, PathBuf};

use crate::model::entry::Metadata;
use crate::model::finding::{Finding, FindingKind};
use crate::model::local::KeepLocal;
use crate::source::SourceError;
use crate::source::work::Work;
use crate::state::shipped::LocalFile;

mod adapter;
pub mod keep;
mod parts;

pub use adapter::EngineSource;

/// The line of proof of a database that its server itself lists as one without content; its value is [`NOTHING`].
pub const HOLDS: &str = "holds";
/// See [`HOLDS`].
pub const NOTHING: &str = "nothing";

/// One configured member of a kind that farkeep can back up and bring back.
pub trait Engine: Send + Sync + fmt::Debug {
    /// The member's name.
    fn name(&self) -> &str;

    /// Its kind, as in the configuration.
    fn kind(&self) -> &'static str;

    /// Whether it can bring back what was backed up as `kind`: its own, and for some what another kind adopted.
    fn restores(&self, kind: &str) -> bool {
        kind == self.kind()
    }

    /// How much of what it takes in as files of this machine may stay there once it was pushed; none where nothing is said.
    fn keep_local(&self) -> Option<KeepLocal> {
        None
    }

    /// Begins a backup: a quick look whether it can be had at all, before any other member is read.
    ///
    /// # Errors
    /// When it is plain already that there will be no backup.
    fn open(&self, work: &Work) -> Result<Box<dyn Backup>, SourceError>;

    /// What a restore would destroy at the target, and with what it would work. Changes nothing. `account` is what the backup
    /// recorded: restoring may be refused for a version in it.
    ///
    /// # Errors
    /// When the target cannot be looked at, or this member cannot be brought back there.
    fn survey(&self, account: &Account, work: &Work) -> Result<Survey, SourceError>;

    /// Looks into the fetched parts without touching the target. Their hashes are right already.
    ///
    /// # Errors
    /// When they are not a whole backup: nothing of any member has been destroyed then.
    fn check(&self, fetched: &Fetched, work: &Work) -> Result<(), SourceError>;

    /// Keeps what stands at the target in the empty directory `dir`, for somebody who wants it back after [`Engine::replace`]:
    /// as a backup of it, unless the kind knows better. What is damaged must not keep its own restore from being made, so a
    /// kind that can keep it without understanding it does.
    ///
    /// # Errors
    /// When it cannot be kept.
    fn keep(&self, fetched: &Fetched, dir: &Path, work: &Work) -> Result<Vec<Finding>, SourceError> {
        let _ = fetched;
        keep::parts(self.name(), self.open(work), dir, work)
    }

    /// Replaces what stands at the target by the parts. It may have broken off half way through an earlier call.
    ///
    /// # Errors
    /// When it is not replaced; the message says in which state the target is.
    fn replace(&self, fetched: &Fetched, work: &Work) -> Result<(), SourceError>;

    /// Counts and hashes of what the target holds now, under the names of the backup's proof. The caller compares those that
    /// stand in both, and refuses to call a difference done.
    ///
    /// # Errors
    /// When the target cannot be read, or is plainly not what was restored.
    fn prove(&self, fetched: &Fetched, work: &Work) -> Result<Account, SourceError>;
}

/// A backup under way.
pub trait Backup: Send {
    /// The next part; none at the end. Names ascend. It is asked for ahead, while earlier parts are still being read.
    ///
    /// # Errors
    /// When there is no whole backup.
    fn next(&mut self, work: &Work) -> Result<Option<Part>, SourceError>;

    /// After every part was read to its end and ended well.
    ///
    /// # Errors
    /// When what was given is no whole backup after all.
    fn finish(&mut self, work: &Work) -> Result<Account, SourceError>;
}

/// Opens a part; called on another thread than [`Backup::next`].
pub type OpenPart = Box<dyn FnOnce(&Work) -> Result<Box<dyn PartRead>, SourceError> + Send>;

/// A named stream of plaintext.
pub struct Part {
    /// Its name within the member: components with / between them, none of them empty, `.` or `..`.
    pub name: String,
    /// About how many bytes; none where nobody knows.
    pub bytes: Option<u64>,
    /// Mode, owner and times to record; none for what has none of its own.
    pub meta: Option<Metadata>,
    /// How to open it.
    pub open: OpenPart,
}

impl Part {
    /// A part that `open` opens.
    pub fn new<R: PartRead + 'static>(
        name: impl Into<String>,
        open: impl FnOnce(&Work) -> Result<R, SourceError> + Send + 'static,
    ) -> Self {
        let open: OpenPart = Box::new(|work| Ok(Box::new(open(work)?)));
        Self { name: name.into(), bytes: None, meta: None, open }
    }

    /// The content of a file that does not change any more, such as one in the scratch directory.
    pub fn file(name: impl Into<String>, path: PathBuf) -> Self {
        let bytes = std::fs::metadata(&path).ok().map(|meta| meta.len());
        Self { bytes, ..Self::new(name, move |_| parts::FilePart::open(path)) }
    }
}

/// The bytes of a part, read once.
pub trait PartRead: Send {
    /// Reads some bytes; 0 at the end.
    ///
    /// # Errors
    /// When they cannot be had: the member is void.
    fn read(&mut self, buffer: &mut [u8]) -> Result<usize, SourceError>;

    /// After the end: whether all of it came. A tool's exit status is looked at here.
    ///
    /// # Errors
    /// When it did not end well.
    fn finish(&mut self) -> Result<(), SourceError> {
        Ok(())
    }
}

/// What a backup or a restored target tells of itself: kept, sealed, in the manifest.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Account {
    /// Programs and servers with their versions.
    pub tools: BTreeMap<String, String>,
    /// Counts and hashes by name: `documents of Patient` -> `20000`. No rows, no secrets.
    pub proof: BTreeMap<String, String>,
    /// What was noticed. Anything but a notice makes the snapshot `partial`.
    pub findings: Vec<Finding>,
    /// What a tool logged, where a restore is judged by that: short, and kept sealed in the restore's record.
    pub log: Option<String>,
    /// Files of this machine that were taken in as they are. Not recorded in the vault.
    pub files: Vec<LocalFile>,
}

impl Account {
    /// Adds a program or server with its version.
    #[must_use]
    pub fn tool(mut self, name: impl Into<String>, version: impl fmt::Display) -> Self {
        self.tools.insert(name.into(), version.to_string());
        self
    }

    /// What the backup counted and is not to be found at the target counts as missing there: left out, nobody would compare it.
    #[must_use]
    pub fn or_missing(mut self, backup: &Self) -> Self {
        for name in backup.proof.keys() {
            self.proof.entry(name.clone()).or_insert_with(|| "missing".into());
        }
        self
    }

    /// Says that what was counted is known to be empty, which a dump alone could not tell from one that failed.
    #[must_use]
    pub fn holding_nothing(self) -> Self {
        self.proof(HOLDS, NOTHING)
    }

    /// Whether it is known to be empty.
    #[must_use]
    pub fn holds_nothing(&self) -> bool {
        self.proof.get(HOLDS).is_some_and(|value| value == NOTHING)
    }

    /// Tells that the member is known to be empty, if it is.
    pub fn tell_if_empty(&mut self, member: &str) {
        if self.holds_nothing() {
            let message = "the database is there and holds no data: it is backed up as an empty one";
            self.findings.push(Finding::new(FindingKind::Notice, member, message));
        }
    }

    /// Adds a line of proof.
    #[must_use]
    pub fn proof(mut self, name: impl Into<String>, value: impl fmt::Display) -> Self {
        self.proof.insert(name.into(), value.to_string());
        self
    }
}

/// What a restore would do to the target.
#[derive(Debug, Clone, Default, PartialEq, Eq, serde::Serialize)]
pub struct Survey {
    /// Where: server and database, directory, service. No secrets.
    pub target: String,
    /// Each thing that would be destroyed or replaced, with its counts: `database events: 12 tables, 20,413 rows`.
    pub destroys: Vec<String>,
    /// Programs and servers that would be used, with their versions.
    pub tools: BTreeMap<String, String>,
    /// What else the operator should know.
    pub notes: Vec<String>,
}

/// The parts of a member, fetched, decrypted and with the right hashes.
#[derive(Debug, Clone)]
pub struct Fetched {
    /// The private directory that they lie in, each under its name.
    pub dir: PathBuf,
    /// They, in ascending order of names.
    pub parts: Vec<FetchedPart>,
    /// What the backup recorded.
    pub account: Account,
}

/// A fetched part.
#[derive(Debug, Clone)]
pub struct FetchedPart {
    /// Its name.
    pub name: String,
    /// The file that holds it.
    pub path: PathBuf,
    /// Its length.
    pub bytes: u64,
    /// Mode, owner and times as they were recorded.
    pub meta: Metadata,
}

impl Fetched {
    /// The file of the part `name`.
    ///
    /// # Errors
    /// When the snapshot has no such part.
    pub fn part(&self, name: &str) -> Result<&Path, SourceError> {
        match self.parts.iter().find(|part| part.name == name) {
            Some(part) => Ok(&part.path),
            None => {
                Err(SourceError::Expectation { what: name.to_owned(), why: "the snapshot has no part of this name".into() })
            }
        }
    }
}
