//! A database file: opened, looked through, counted, copied.

use std::collections::BTreeMap;
use std::fmt::Write;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::time::Duration;

use rusqlite::backup::{Backup, StepResult};
use rusqlite::{Connection, OpenFlags};

use crate::model::entry::{Metadata, Owner, Xattrs};
use crate::source::SourceError;
use crate::source::engine::Account;
use crate::source::work::Work;

/// How long somebody else's lock is waited for: a writer holds it for one transaction.
const BUSY_TIMEOUT: Duration = Duration::from_secs(30);
/// Pages that are copied between two looks at the time.
const COPY_PAGES: i32 = 1024;
/// Instructions of SQLite's machine between two looks at the time.
const LOOK_INSTRUCTIONS: i32 = 100_000;
/// The name of the line of proof that says that SQLite found nothing wrong.
const INTEGRITY: &str = "integrity";

/// An open database, never written to.
pub struct Database {
    connection: Connection,
    path: PathBuf,
}

impl Database {
    /// One that others may be writing to.
    pub fn in_use(path: &Path, work: &Work) -> Result<Self, SourceError> {
        Self::open(path, "mode=ro", work)
    }

    /// One that nobody touches: no log is looked for, none is made.
    pub fn at_rest(path: &Path, work: &Work) -> Result<Self, SourceError> {
        Self::open(path, "immutable=1", work)
    }

    fn open(path: &Path, how: &str, work: &Work) -> Result<Self, SourceError> {
        // SQLite would say no more than that it cannot open it.
        std::fs::metadata(path).map_err(|source| SourceError::Io { path: path.display().to_string(), source })?;
        let flags = OpenFlags::SQLITE_OPEN_READ_ONLY | OpenFlags::SQLITE_OPEN_URI | OpenFlags::SQLITE_OPEN_NO_MUTEX;
        let looking = work.clone();
        let opened = Connection::open_with_flags(format!("{}?{how}", uri(path)), flags).and_then(|mut connection| {
            connection.busy_timeout(BUSY_TIMEOUT)?;
            connection.progress_handler(LOOK_INSTRUCTIONS, Some(move || looking.is_over()))?;
            Ok(connection)
        });
        let connection = opened.map_err(|error| failed(path, work, &error))?;
        Ok(Self { connection, path: path.to_owned() })
    }

    fn failed(&self, work: &Work) -> impl Fn(rusqlite::Error) -> SourceError {
        let (path, work) = (self.path.clone(), work.clone());
        move |error| failed(&path, &work, &error)
    }

    /// Names of the tables that hold rows of their own; what an extension keeps stands in some of these.
    pub fn tables(&self, work: &Work) -> Result<Vec<String>, SourceError> {
        let sql = "SELECT name FROM sqlite_schema WHERE type = 'table' AND rootpage > 0 AND name NOT LIKE 'sqlite\\_%' ESCAPE '\\'";
        self.texts(sql).map_err(self.failed(work))
    }

    fn texts(&self, sql: &str) -> rusqlite::Result<Vec<String>> {
        let mut statement = self.connection.prepare(sql)?;
        let rows = statement.query_map([], |row| row.get(0))?;
        rows.collect()
    }

    /// Refuses a database of which the newest rows may stand in a log that is not to be found from here: it lies beside the name
    /// under which a file was opened, and a file may have several.
    ///
    /// # Errors
    /// When it has.
    pub fn must_have_its_log(&self, work: &Work) -> Result<(), SourceError> {
        let path = self.path.display().to_string();
        let names = std::fs::metadata(&self.path).map_err(|source| SourceError::Io { path: path.clone(), source })?.nlink();
        let modes = self.texts("PRAGMA journal_mode").map_err(self.failed(work))?;
        if names <= 1 || modes != ["wal"] {
            return Ok(());
        }
        let why =
            format!("has {names} names (hard links), and its log lies beside the one that is in use: give it one name");
        Err(SourceError::Expectation { what: path, why })
    }

    /// Rows of each table.
    pub fn count(&self, work: &Work) -> Result<BTreeMap<String, u64>, SourceError> {
        let mut counts = BTreeMap::new();
        for table in self.tables(work)? {
            let sql = format!("SELECT count(*) FROM \"{}\"", table.replace('"', "\"\""));
            let rows: i64 = self.connection.query_row(&sql, [], |row| row.get(0)).map_err(self.failed(work))?;
            counts.insert(table, u64::try_from(rows).unwrap_or_default());
        }
        Ok(counts)
    }

    /// Looks through all of it and counts.
    ///
    /// # Errors
    /// When a page, an index or a row is not as it must be.
    pub fn account(&self, work: &Work) -> Result<Account, SourceError> {
        let found = self.texts("PRAGMA integrity_check(10)").map_err(self.failed(work))?;
        if found != ["ok"] {
            let why = format!("is damaged: {}", found.join("; "));
            return Err(SourceError::Expectation { what: self.path.display().to_string(), why });
        }
        let mut account = Account::default().tool("SQLite", rusqlite::version()).proof(INTEGRITY, "ok");
        for (table, rows) in self.count(work)? {
            account = account.proof(format!("rows of {table}"), rows);
        }
        Ok(account)
    }

    /// Must be whole, with as many rows as were recorded.
    pub fn must_be(&self, then: &Account, work: &Work) -> Result<(), SourceError> {
        let now = self.account(work)?.or_missing(then);
        match then.proof.iter().find(|(name, value)| now.proof.get(*name) != Some(value)) {
            None => Ok(()),
            Some((name, value)) => {
                let is = now.proof.get(name).cloned().unwrap_or_default();
                let why = format!("{name}: {value} was backed up, {is} is there");
                Err(SourceError::Expectation { what: self.path.display().to_string(), why })
            }
        }
    }

    /// Copies the pages of one moment into a new file.
    pub fn copy_to(&self, copy: &Path, work: &Work) -> Result<(), SourceError> {
        let wrong = self.failed(work);
        // Within a transaction nothing that others commit is seen, and the copying never begins again.
        self.connection.execute_batch("BEGIN; SELECT count(*) FROM sqlite_schema;").map_err(&wrong)?;
        let mut target = Connection::open(copy).map_err(&wrong)?;
        let backup = Backup::new(&self.connection, &mut target).map_err(&wrong)?;
        loop {
            work.check()?;
            match backup.step(COPY_PAGES).map_err(&wrong)? {
                StepResult::Done => break,
                StepResult::More => {}
                _ => std::thread::sleep(Duration::from_millis(50)),
            }
        }
        drop(backup);
        target.close().map_err(|(_, error)| wrong(error))?;
        self.connection.execute_batch("COMMIT").map_err(&wrong)
    }
}

fn failed(path: &Path, work: &Work, error: &rusqlite::Error) -> SourceError {
    if error.sqlite_error_code() == Some(rusqlite::ErrorCode::OperationInterrupted) {
        return work.check().err().unwrap_or(SourceError::Interrupted);
    }
    SourceError::System { system: format!("SQLite {}", path.display()), why: error.to_string() }
}

/// `file:` and the path, with what an address cannot hold written as %XX.
pub fn uri(path: &Path) -> String {
    let mut text = String::from("file:");
    for byte in path.as_os_str().as_bytes() {
        match byte {
            b'/' | b'.' | b'-' | b'_' => text.push(char::from(*byte)),
            byte if byte.is_ascii_alphanumeric() => text.push(char::from(*byte)),
            byte => _ = write!(text, "%{byte:02x}"),
        }
    }
    text
}

/// Mode, owner and time of the file.
pub fn metadata(path: &Path) -> Result<Metadata, SourceError> {
    let meta = std::fs::metadata(path).map_err(|source| SourceError::Io { path: path.display().to_string(), source })?;
    let owner = Owner { uid: meta.uid(), gid: meta.gid(), user: None, group: None };
    let mtime_ns = i128::from(meta.mtime()) * 1_000_000_000 + i128::from(meta.mtime_nsec());
    Ok(Metadata { mode: meta.mode() & 0o7777, owner, mtime_ns, xattrs: Xattrs::none() })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_path_with_anything_in_it_becomes_an_address() {
        assert_eq!(uri(Path::new("/var/lib/a b?c#d%.db")), "file:/var/lib/a%20b%3fc%23d%25.db");
    }
}
