//! MariaDB and MySQL, one database a member, dumped by their own programs.
//!
//! A client that loads half a dump has dropped the tables already, and there is no transaction around it. So a dump must end
//! with the line that the program writes last, is loaded into a database of another name and compared there, and then all
//! tables change their names in one statement. What cannot be renamed with them (triggers, routines, events, views) stands
//! in parts of its own and is made anew: in a database that is still being filled no trigger and no event may run.

use std::fs::File;
use std::io::{Read, Seek, SeekFrom};
use std::path::Path;

use crate::model::finding::Finding;
use crate::source::SourceError;
use crate::source::engine::{Account, Backup, Engine, Fetched, Survey, keep};
use crate::source::secret::Secret;
use crate::source::tool::Tool;
use crate::source::work::Work;

mod backup;
mod event;
mod grants;
mod later;
mod packet;
mod restore;
mod server;

use backup::{Dumping, Purpose};
use packet::Longest;
use server::{Server, literal};

/// The part that holds the tables.
const TABLES: &str = "database";
/// The part that holds triggers, routines and events.
const PROGRAMS: &str = "programs";
/// The part that holds the views, where there are any. They may call routines, so they come last.
const VIEWS: &str = "views";
/// Lines of proof that say how the database was made.
const CHARSET: &str = "character set";
const COLLATION: &str = "collation";
/// The table that a database holds while a restore has taken its place and is not complete. Whoever sees the database sees
/// it, which is not so for the databases beside it.
const UNFINISHED: &str = "farkeep_restore_unfinished";
/// A line of proof that says how many tables there are. Without it, the backup does not name all of them.
const TABLES_COUNTED: &str = "tables";
/// How every whole dump ends.
const TRAILER: &[u8] = b"-- Dump completed";
/// The trailer stands within so many last bytes.
const TAIL_BYTES: usize = 256;

/// A database of a MariaDB or MySQL server.
#[derive(Debug, Clone)]
pub struct MysqlConfig {
    /// The member's name.
    pub name: String,
    /// `mariadb` or `mysql`: whose programs are called.
    pub kind: &'static str,
    /// Host name, or the path of the server's socket.
    pub host: String,
    /// Port; of no meaning for a socket.
    pub port: u16,
    /// Account to log in as.
    pub user: String,
    /// Its password; none where the server knows us by other means.
    pub password: Option<Secret>,
    /// The account of this machine that the programs run as; only root can choose one.
    pub run_as: Option<String>,
    /// The database.
    pub database: String,
}

impl MysqlConfig {
    fn title(&self) -> String {
        let brand = if self.kind == "mariadb" { "MariaDB" } else { "MySQL" };
        if self.host.starts_with('/') {
            format!("{brand} {}/{}", self.host, self.database)
        } else {
            format!("{brand} {}:{}/{}", self.host, self.port, self.database)
        }
    }

    fn client(&self) -> &'static str {
        self.kind
    }

    fn dumper(&self) -> &'static str {
        if self.kind == "mariadb" { "mariadb-dump" } else { "mysqldump" }
    }
}

/// `mariadb-dump from 11.4.2-MariaDB, client ...` or `mysqldump  Ver 10.19 Distrib 10.11.19-MariaDB, for ...` -> its version.
fn version_in(said: &str) -> String {
    let words: Vec<&str> = said.split_whitespace().collect();
    let after = |word: &str| words.iter().position(|w| *w == word).and_then(|at| words.get(at + 1));
    let version = after("Distrib").or_else(|| after("from")).or_else(|| after("Ver"));
    version.map_or("unknown", |version| version.trim_end_matches(',')).to_owned()
}

fn tool_version(program: &str, work: &Work) -> Result<String, SourceError> {
    let said = Tool::new(program).arg("--version").succeed(work)?;
    Ok(version_in(&String::from_utf8_lossy(&said)))
}

/// `10.11.19-MariaDB` -> `10.11`: within these, checksums are alike.
fn series(version: &str) -> Option<&str> {
    let second = version.match_indices('.').nth(1)?.0;
    version.get(..second)
}

impl Engine for MysqlConfig {
    fn name(&self) -> &str {
        &self.name
    }

    fn kind(&self) -> &'static str {
        self.kind
    }

    fn restores(&self, kind: &str) -> bool {
        matches!(kind, "mariadb" | "mysql")
    }

    fn open(&self, work: &Work) -> Result<Box<dyn Backup>, SourceError> {
        let server = Server::new(self, work)?;
        if !server.has(&self.database)? {
            return Err(server.failed("there is no such database, or this account may not see it"));
        }
        tool_version(self.dumper(), work)?;
        Ok(Box::new(Dumping::new(&server, Purpose::Backup)?))
    }

    fn keep(&self, _: &Fetched, dir: &Path, work: &Work) -> Result<Vec<Finding>, SourceError> {
        let opened = Dumping::new(&Server::new(self, work)?, Purpose::SafetyCopy);
        keep::parts(&self.name, opened.map(|dumping| Box::new(dumping) as Box<dyn Backup>), dir, work)
    }

    fn survey(&self, account: &Account, work: &Work) -> Result<Survey, SourceError> {
        let server = Server::new(self, work)?;
        let mut survey = Survey { target: self.title(), ..Survey::default() };
        if server.has(&self.database)? {
            survey.destroys.push(match server.tables(&self.database) {
                Ok(tables) => {
                    let rows: u64 = tables.iter().map(|table| table.about_rows).sum();
                    format!("database {}: {} tables, about {rows} rows", self.database, tables.len())
                }
                Err(error) => format!("database {}, which cannot be counted ({error})", self.database),
            });
            later::list(&server, account, &mut survey)?;
        }
        let sql = format!(
            "SELECT DISTINCT table_schema FROM information_schema.key_column_usage WHERE referenced_table_schema = {0} AND table_schema <> {0};",
            literal(&self.database)
        );
        if let Some(other) = server.query(None, &sql)?.first().and_then(|row| row.first()) {
            let why = format!("tables of the database {other} refer to this one: neither can be replaced alone");
            return Err(server.failed(why));
        }
        survey.tools.insert("server".into(), server.version()?);
        survey.tools.insert(self.client().into(), tool_version(self.client(), work)?);
        survey.tools.insert(self.dumper().into(), tool_version(self.dumper(), work)?);
        survey.notes.push("the database is filled under another name first: so much room must be free".into());
        Ok(survey)
    }

    fn check(&self, fetched: &Fetched, work: &Work) -> Result<(), SourceError> {
        fetched.part(TABLES)?;
        let packet_bytes = Server::new(self, work)?.packet_bytes()?;
        for part in &fetched.parts {
            work.check()?;
            let whole = ends_well(&part.path);
            let whole = whole.map_err(|source| SourceError::Io { path: part.path.display().to_string(), source })?;
            if !whole {
                let why = "does not end as a whole dump does: it was cut short".to_owned();
                return Err(SourceError::Expectation { what: part.name.clone(), why });
            }
            let longest = Longest::of_file(&part.path, work)?;
            if let Some(why) = longest.too_long_for(packet_bytes) {
                return Err(SourceError::System { system: self.title(), why });
            }
        }
        Ok(())
    }

    fn replace(&self, fetched: &Fetched, work: &Work) -> Result<(), SourceError> {
        restore::replace(&Server::new(self, work)?, fetched)
    }

    fn prove(&self, fetched: &Fetched, work: &Work) -> Result<Account, SourceError> {
        let server = Server::new(self, work)?;
        let mut now = restore::comparable(&server, &self.database, &fetched.account)?;
        event::excuse(&server, fetched, &mut now)?;
        Ok(now)
    }
}

fn ends_well(path: &Path) -> std::io::Result<bool> {
    let mut file = File::open(path)?;
    let length = file.metadata()?.len();
    file.seek(SeekFrom::Start(length.saturating_sub(TAIL_BYTES as u64)))?;
    let mut tail = Vec::new();
    file.read_to_end(&mut tail)?;
    Ok(has_trailer(&tail))
}

/// Whether the last line of a dump is the trailer.
fn has_trailer(tail: &[u8]) -> bool {
    let text = tail.trim_ascii_end();
    let start = text.iter().rposition(|byte| *byte == b'\n').map_or(0, |at| at + 1);
    text[start..].starts_with(TRAILER)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn versions_are_found_in_what_each_program_says() {
        let debian = "mysqldump  Ver 10.19 Distrib 10.11.19-MariaDB, for debian-linux-gnu (x86_64)";
        assert_eq!(version_in(debian), "10.11.19-MariaDB");
        assert_eq!(version_in("mariadb-dump from 11.4.2-MariaDB, client 10.19 for Linux (x86_64)"), "11.4.2-MariaDB");
        assert_eq!(version_in("mysqldump  Ver 8.0.36 for Linux on x86_64 (MySQL Community Server - GPL)"), "8.0.36");
        assert_eq!(series("10.11.19-MariaDB-0+deb12u1"), Some("10.11"));
        assert_eq!(series("8.0.36"), Some("8.0"));
    }

    #[test]
    fn a_trailer_within_a_row_is_no_end() {
        assert!(has_trailer(b";\n\n-- Dump completed\n"));
        assert!(has_trailer(b"-- Dump completed on 2026-11-21  1:02:03\n"));
        assert!(!has_trailer(b"INSERT INTO t VALUES ('-- Dump completed"));
        assert!(!has_trailer(b"-- Dump completed\nINSERT"));
    }
}
