//! SQLite, one database file a member: its online backup, so that a writer may go on.
//!
//! A copy of the file alone lacks what still stands in the write-ahead log, and a copy of both may fit no moment. So SQLite
//! itself copies the pages of one moment into a file of ours, which is then looked through (`integrity_check`) and counted.
//! A restore looks through the file again beside its place, and only then lets it take the place.

use std::path::{Path, PathBuf};

use crate::model::finding::{Finding, FindingKind};
use crate::source::SourceError;
use crate::source::engine::{Account, Backup, Engine, Fetched, Part, Survey, keep};
use crate::source::work::Work;

mod database;
mod replace;

use database::Database;

/// The only part.
const DATABASE: &str = "database";

/// A database file.
#[derive(Debug, Clone)]
pub struct SqliteConfig {
    /// The member's name.
    pub name: String,
    /// The file; its write-ahead log lies beside it.
    pub path: PathBuf,
}

impl SqliteConfig {
    fn failed(&self, why: impl Into<String>) -> SourceError {
        SourceError::System { system: self.title(), why: why.into() }
    }

    fn empty(&self, why: impl Into<String>) -> SourceError {
        SourceError::Empty { what: self.title(), why: why.into() }
    }

    fn title(&self) -> String {
        format!("SQLite {}", self.path.display())
    }
}

impl Engine for SqliteConfig {
    fn name(&self) -> &str {
        &self.name
    }

    fn kind(&self) -> &'static str {
        "sqlite"
    }

    fn open(&self, work: &Work) -> Result<Box<dyn Backup>, SourceError> {
        let database = Database::in_use(&self.path, work)?;
        if database.tables(work)?.is_empty() {
            return Err(self.empty("the database holds no table"));
        }
        database.must_have_its_log(work)?;
        Ok(Box::new(Copying { config: self.clone(), given: false, account: None }))
    }

    fn survey(&self, _: &Account, work: &Work) -> Result<Survey, SourceError> {
        let mut survey = Survey { target: self.path.display().to_string(), ..Survey::default() };
        if self.path.exists() {
            // What is to be replaced may be damaged.
            let counted = Database::in_use(&self.path, work).and_then(|database| database.count(work));
            survey.destroys.push(match counted {
                Ok(rows) => format!("{}: {} tables, {} rows", self.path.display(), rows.len(), rows.values().sum::<u64>()),
                Err(error) => format!("{}, which cannot be read ({error})", self.path.display()),
            });
            survey.notes.push("whatever has the database open must be stopped before, and started again after".into());
        }
        survey.tools.insert("SQLite".into(), rusqlite::version().into());
        Ok(survey)
    }

    fn check(&self, fetched: &Fetched, work: &Work) -> Result<(), SourceError> {
        Database::at_rest(fetched.part(DATABASE)?, work)?.must_be(&fetched.account, work)
    }

    fn keep(&self, _: &Fetched, dir: &Path, work: &Work) -> Result<Vec<Finding>, SourceError> {
        let error = match keep::parts(&self.name, self.open(work), dir, work) {
            Err(error) if work.check().is_ok() => error,
            kept => return kept,
        };
        // Damaged, as it may be: whoever wants to save something of it needs its log as well.
        let _ = std::fs::remove_file(dir.join(DATABASE));
        let place = std::fs::canonicalize(&self.path).unwrap_or_else(|_| self.path.clone());
        for path in std::iter::once(place.clone()).chain(replace::beside(&place)).filter(|path| path.exists()) {
            keep::file(&path, dir, Path::new(""), work)?;
        }
        let why = format!("cannot be read ({error}): it is kept file by file, as it is");
        Ok(vec![Finding::new(FindingKind::Notice, &self.name, why)])
    }

    fn replace(&self, fetched: &Fetched, work: &Work) -> Result<(), SourceError> {
        replace::replace(self, fetched, work)
    }

    fn prove(&self, fetched: &Fetched, work: &Work) -> Result<Account, SourceError> {
        // Nobody has opened it yet, and looking at it makes no log.
        Ok(Database::at_rest(&self.path, work)?.account(work)?.or_missing(&fetched.account))
    }
}

/// A backup of a database.
struct Copying {
    config: SqliteConfig,
    given: bool,
    account: Option<Account>,
}

impl Backup for Copying {
    fn next(&mut self, work: &Work) -> Result<Option<Part>, SourceError> {
        if std::mem::replace(&mut self.given, true) {
            return Ok(None);
        }
        let copy = work.scratch.join("copy.sqlite");
        Database::in_use(&self.config.path, work)?.copy_to(&copy, work)?;
        let account = Database::at_rest(&copy, work)?.account(work)?;
        if account.proof.iter().all(|(name, count)| !name.starts_with("rows of ") || count == "0") {
            return Err(self.config.empty("the database holds no row"));
        }
        self.account = Some(account);
        let meta = database::metadata(&self.config.path)?;
        Ok(Some(Part { meta: Some(meta), ..Part::file(DATABASE, copy) }))
    }

    fn finish(&mut self, _: &Work) -> Result<Account, SourceError> {
        self.account.take().ok_or_else(|| self.config.failed("nothing was copied"))
    }
}
