//! A dump into a database of another name, compared there; then all tables change their names in one statement.

use std::fs::File;
use std::io::{self, BufRead, BufReader, Seek, SeekFrom};
use std::path::{Path, PathBuf};

use super::backup::{is_mysql, programs, views};
use super::grants::unescaped;
use super::later::{counted as table_of, moved};
use super::server::{HASH_OF, Server, identifier};
use super::{CHARSET, COLLATION, PROGRAMS, TABLES, UNFINISHED, VIEWS, series};
use crate::source::SourceError;
use crate::source::beside::{self, NEW_SUFFIX, OLD_SUFFIX};
use crate::source::engine::PartRead;
use crate::source::engine::{Account, Fetched};
use crate::source::tool::Tool;

/// The longest name that a server gives a database.
const NAME_MAX_CHARS: usize = 64;
/// The first line of newer dumps. It forbids the client what no dump does, and older clients stumble over it.
const SANDBOX: &str = "/*M!999999\\- ";

/// Brings the parts into the database that the configuration names.
pub fn replace(server: &Server<'_>, fetched: &Fetched) -> Result<(), SourceError> {
    let database = server.config.database.clone();
    let (new, old) = (beside(&database, NEW_SUFFIX), beside(&database, OLD_SUFFIX));
    run(server, &format!("DROP DATABASE IF EXISTS {};", identifier(&new)))?;
    run(server, &format!("CREATE DATABASE {}{};", identifier(&new), made(&fetched.account)))?;
    let filled = load(server, &new, fetched.part(TABLES)?).and_then(|()| must_be_equal(server, &new, &fetched.account));
    if let Err(error) = filled {
        run(server, &format!("DROP DATABASE IF EXISTS {};", identifier(&new)))?;
        return Err(server.failed(format!("cannot be restored, and the database is untouched: {error}")));
    }
    if let Err(error) = swap(server, &database, &new, &old) {
        run(server, &format!("DROP DATABASE IF EXISTS {};", identifier(&new)))?;
        if server.tables(&old)?.is_empty() {
            run(server, &format!("DROP DATABASE IF EXISTS {};", identifier(&old)))?;
        }
        return Err(error);
    }
    let completed = || -> Result<(), SourceError> {
        match made(&fetched.account) {
            made if made.is_empty() => {}
            made => run(server, &format!("ALTER DATABASE {}{made};", identifier(&database)))?,
        }
        for name in [PROGRAMS, VIEWS] {
            if let Ok(path) = fetched.part(name) {
                load(server, &database, path)?;
            }
        }
        Ok(())
    };
    if let Err(error) = completed() {
        let why =
            "the tables are restored; triggers, routines, events and views are not, until the same restore has ended well";
        return Err(server.failed(format!("{why}; the tables of before are in the database {old}: {error}")));
    }
    let marker = format!("{}.{}", identifier(&database), identifier(UNFINISHED));
    run(server, &format!("DROP DATABASE {}; DROP DATABASE {}; DROP TABLE {marker};", identifier(&old), identifier(&new)))
}

/// The name of a database beside another one.
pub fn beside(database: &str, suffix: &str) -> String {
    beside::beside(database, suffix, NAME_MAX_CHARS, |_| 1)
}

fn run(server: &Server<'_>, sql: &str) -> Result<(), SourceError> {
    server.query(None, sql).map(|_| ())
}

/// How a database like the dumped one is made. Names of character sets are words.
fn made(account: &Account) -> String {
    let word = |line: &str| account.proof.get(line).filter(|v| v.chars().all(|c| c.is_ascii_alphanumeric() || c == '_'));
    match (word(CHARSET), word(COLLATION)) {
        (Some(charset), Some(collation)) => format!(" CHARACTER SET {charset} COLLATE {collation}"),
        _ => String::new(),
    }
}

fn load(server: &Server<'_>, database: &str, path: &Path) -> Result<(), SourceError> {
    let opened = || -> io::Result<File> {
        let mut reader = BufReader::new(File::open(path)?);
        let mut first = Vec::new();
        io::Read::take(&mut reader, 4096).read_until(b'\n', &mut first)?;
        let skipped = if first.starts_with(SANDBOX.as_bytes()) { first.len() as u64 } else { 0 };
        let mut file = reader.into_inner();
        file.seek(SeekFrom::Start(skipped))?;
        Ok(file)
    };
    let script = opened().map_err(|source| SourceError::Io { path: path.display().to_string(), source })?;
    server.load(Some(database), script).map(|_| ())
}

/// What `database` holds, with nothing in it that cannot be compared to `then`.
pub fn comparable(server: &Server<'_>, database: &str, then: &Account) -> Result<Account, SourceError> {
    let mut now = server.count(database, true)?;
    let found = now.proof.keys().filter_map(|name| name.strip_prefix("rows of ")).map(moved);
    let found: Vec<String> = found.filter(|name| then.proof.contains_key(name)).collect();
    now.proof.extend(found.into_iter().map(|name| (name, "there".into())));
    now = now.or_missing(then);
    let of = |account: &Account| account.tools.get("server").and_then(|version| series(version)).map(str::to_owned);
    if of(&now) != of(then) {
        // Another version may store a row in other bytes, and so sum it up otherwise.
        let summed = |name: &str| name.starts_with("checksum of ") || name.starts_with(HASH_OF);
        now.proof.retain(|name, value| !summed(name) || value == "missing");
    }
    // Older backups hold a checksum of all digits of a FLOAT, of which the dump has six.
    let hashed: Vec<String> = now.proof.keys().filter_map(|name| name.strip_prefix(HASH_OF)).map(str::to_owned).collect();
    for table in hashed {
        now.proof.remove(&format!("checksum of {table}"));
    }
    now.findings.clear();
    Ok(now)
}

fn must_be_equal(server: &Server<'_>, new: &str, then: &Account) -> Result<(), SourceError> {
    let now = comparable(server, new, then)?;
    let counted = |name: &str| table_of(name).is_some() || name.starts_with("checksum of ") || name.starts_with(HASH_OF);
    for (name, value) in then.proof.iter().filter(|(name, _)| counted(name)) {
        if let Some(is) = now.proof.get(name).filter(|is| *is != value) {
            return Err(server.failed(format!("{name}: {value} was backed up, {is} came back")));
        }
    }
    Ok(())
}

/// The old tables make room for the new ones in one statement. Triggers forbid it, so what is no table goes first and comes
/// back when it fails. From then on the database holds a table that says so, for backups that are made meanwhile.
fn swap(server: &Server<'_>, database: &str, new: &str, old: &str) -> Result<(), SourceError> {
    let (name, into_old, from_new) = (identifier(database), identifier(old), identifier(new));
    run(server, &format!("DROP DATABASE IF EXISTS {into_old}; CREATE DATABASE {into_old};"))?;
    if !server.has(database)? {
        run(server, &format!("CREATE DATABASE {name};"))?;
    }
    let saved = save(server, database)?;
    for name in [&name, &from_new] {
        run(server, &format!("CREATE TABLE IF NOT EXISTS {name}.{} (n INT);", identifier(UNFINISHED)))?;
    }
    let names = |database: &str| -> Result<Vec<String>, SourceError> {
        let names = server.tables(database)?.into_iter().map(|table| table.name);
        Ok(names.chain([UNFINISHED.to_owned()]).map(|name| identifier(&name)).collect())
    };
    let mut moves = Vec::new();
    for (from, to, tables) in [(&name, &into_old, names(database)?), (&from_new, &name, names(new)?)] {
        moves.extend(tables.into_iter().map(|table| format!("{from}.{table} TO {to}.{table}")));
    }
    let swapped = drop_programs(server, database).and_then(|()| run(server, &format!("RENAME TABLE {};", moves.join(", "))));
    let Err(error) = swapped else { return Ok(()) };
    drop_programs(server, database)?;
    let lost = saved.put_back(server, database)?;
    run(server, &format!("DROP TABLE {name}.{};", identifier(UNFINISHED)))?;
    match lost.join(", ") {
        lost if lost.is_empty() => Err(error),
        lost => Err(server.failed(format!("{error}; the tables are as they were, and these could not be put back: {lost}"))),
    }
}

/// What is no table. Nothing in it may keep a restore from being made: where a table is gone, the views above it cannot be
/// dumped.
#[derive(Default)]
struct Saved {
    /// Scripts in the scratch directory.
    scripts: Vec<PathBuf>,
    /// Views that stand on nothing, with the statements that made them.
    broken: Vec<(String, String)>,
    /// What could not be kept.
    lost: Vec<String>,
}

impl Saved {
    fn add(&mut self, what: &str, kept: Result<PathBuf, SourceError>) -> Result<(), SourceError> {
        match kept {
            Ok(path) => self.scripts.push(path),
            Err(SourceError::Command { why, .. }) => self.lost.push(format!("{what} ({why})")),
            Err(error) => return Err(error),
        }
        Ok(())
    }

    /// Makes all of it anew; gives what was not to be made.
    fn put_back(self, server: &Server<'_>, database: &str) -> Result<Vec<String>, SourceError> {
        let mut lost = self.lost;
        for script in self.scripts {
            load(server, database, &script)?;
        }
        for (view, statement) in self.broken {
            if server.query(Some(database), &format!("{statement};")).is_err() {
                lost.push(format!("view {view}"));
            }
        }
        Ok(lost)
    }
}

fn save(server: &Server<'_>, database: &str) -> Result<Saved, SourceError> {
    let is_mysql = is_mysql(server.config, server.work)?;
    let mut saved = Saved::default();
    let (whole, broken) = server.sort_views(database, server.views(database)?)?;
    saved.add("triggers, routines and events", keep(server, "programs.sql", &programs(server, is_mysql, database)))?;
    if !whole.is_empty() {
        saved.add(
            &format!("views {}", whole.join(", ")),
            keep(server, "views.sql", &views(server, is_mysql, database, &whole)),
        )?;
    }
    for view in broken {
        let asked = server.query(None, &format!("SHOW CREATE VIEW {}.{};", identifier(database), identifier(&view)));
        match asked.ok().and_then(|rows| rows.into_iter().next()).and_then(|row| row.into_iter().nth(1)) {
            Some(statement) => saved.broken.push((view, unescaped(&statement))),
            None => saved.lost.push(format!("view {view}")),
        }
    }
    Ok(saved)
}

fn keep(server: &Server<'_>, name: &str, tool: &Tool) -> Result<PathBuf, SourceError> {
    let path = server.work.scratch.join(name);
    let wrong = |source| SourceError::Io { path: path.display().to_string(), source };
    let mut file = File::create(&path).map_err(wrong)?;
    let mut running = tool.stream(server.work)?;
    let mut buffer = vec![0; 64 * 1024];
    loop {
        match running.read(&mut buffer)? {
            0 => break,
            count => io::Write::write_all(&mut file, &buffer[..count]).map_err(wrong)?,
        }
    }
    running.finish()?;
    Ok(path)
}

/// Takes triggers, events, routines and views away.
fn drop_programs(server: &Server<'_>, database: &str) -> Result<(), SourceError> {
    let mut sql = String::new();
    for (kind, column, table, schema) in [
        ("TRIGGER", "trigger_name", "triggers", "trigger_schema"),
        ("EVENT", "event_name", "events", "event_schema"),
        ("VIEW", "table_name", "views", "table_schema"),
    ] {
        for name in server.names(column, table, schema, database)? {
            sql += &format!("DROP {kind} {}.{};\n", identifier(database), identifier(&name));
        }
    }
    for kind in ["PROCEDURE", "FUNCTION"] {
        let schema = format!("routine_type = '{kind}' AND routine_schema");
        for name in server.names("routine_name", "routines", &schema, database)? {
            sql += &format!("DROP {kind} {}.{};\n", identifier(database), identifier(&name));
        }
    }
    if sql.is_empty() { Ok(()) } else { run(server, &sql) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_beside_a_long_one_fits_and_is_its_own() {
        assert_eq!(beside("events", NEW_SUFFIX), "events_farkeep_new");
        assert_eq!(beside(&"e".repeat(52), NEW_SUFFIX), format!("{}_farkeep_new", "e".repeat(52)));
        let (one, other) = ("ä".repeat(64), format!("{}b", "ä".repeat(63)));
        for suffix in [NEW_SUFFIX, OLD_SUFFIX] {
            assert_eq!(beside(&one, suffix).chars().count(), NAME_MAX_CHARS);
            assert_ne!(beside(&one, suffix), beside(&other, suffix));
        }
        assert_ne!(beside(&one, NEW_SUFFIX), beside(&one, OLD_SUFFIX));
    }
}
