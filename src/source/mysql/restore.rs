//! A dump into a database of another name, compared there; then all tables change their names in one statement.

use std::fs::File;
use std::io::{self, BufRead, BufReader, Seek, SeekFrom};
use std::path::Path;

use super::backup::{is_mysql, programs, views};
use super::later::moved;
use super::server::{Server, identifier};
use super::{CHARSET, COLLATION, PROGRAMS, TABLES, VIEWS, series};
use crate::source::SourceError;
use crate::source::engine::PartRead;
use crate::source::engine::{Account, Fetched};
use crate::source::tool::Tool;

/// After the name of a database that is still being filled.
const NEW_SUFFIX: &str = "_farkeep_new";
/// After the name of the one that takes the old tables, for a moment.
const OLD_SUFFIX: &str = "_farkeep_old";
/// The first line of newer dumps. It forbids the client what no dump does, and older clients stumble over it.
const SANDBOX: &str = "/*M!999999\\- ";

/// Brings the parts into the database that the configuration names.
pub fn replace(server: &Server<'_>, fetched: &Fetched) -> Result<(), SourceError> {
    let database = server.config.database.clone();
    let (new, old) = (format!("{database}{NEW_SUFFIX}"), format!("{database}{OLD_SUFFIX}"));
    run(server, &format!("DROP DATABASE IF EXISTS {};", identifier(&new)))?;
    run(server, &format!("CREATE DATABASE {}{};", identifier(&new), made(&fetched.account)))?;
    let filled = load(server, &new, fetched.part(TABLES)?).and_then(|()| must_be_equal(server, &new, &fetched.account));
    if let Err(error) = filled {
        run(server, &format!("DROP DATABASE IF EXISTS {};", identifier(&new)))?;
        return Err(server.failed(format!("cannot be restored, and the database is untouched: {error}")));
    }
    swap(server, &database, &new, &old, &fetched.account)?;
    for name in [PROGRAMS, VIEWS] {
        if let Ok(path) = fetched.part(name) {
            load(server, &database, path)?;
        }
    }
    run(server, &format!("DROP DATABASE {}; DROP DATABASE {};", identifier(&old), identifier(&new)))
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
    let mut now = server.count(database)?;
    let found = now.proof.keys().filter_map(|name| name.strip_prefix("rows of ")).map(moved);
    let found: Vec<String> = found.filter(|name| then.proof.contains_key(name)).collect();
    now.proof.extend(found.into_iter().map(|name| (name, "there".into())));
    now = now.or_missing(then);
    let of = |account: &Account| account.tools.get("server").and_then(|version| series(version)).map(str::to_owned);
    if of(&now) != of(then) {
        // Another version may store a row in other bytes, and so sum it up otherwise.
        now.proof.retain(|name, value| !name.starts_with("checksum of ") || value == "missing");
    }
    Ok(now)
}

fn must_be_equal(server: &Server<'_>, new: &str, then: &Account) -> Result<(), SourceError> {
    let now = comparable(server, new, then)?;
    let counted = |name: &str| name.starts_with("rows of ") || name.starts_with("checksum of ");
    for (name, value) in then.proof.iter().filter(|(name, _)| counted(name)) {
        if let Some(is) = now.proof.get(name).filter(|is| *is != value) {
            return Err(server.failed(format!("{name}: {value} was backed up, {is} came back")));
        }
    }
    Ok(())
}

/// The old tables make room for the new ones in one statement. Triggers forbid it, so what is no table goes first and comes
/// back when it fails.
fn swap(server: &Server<'_>, database: &str, new: &str, old: &str, then: &Account) -> Result<(), SourceError> {
    let (name, into_old, from_new) = (identifier(database), identifier(old), identifier(new));
    run(server, &format!("DROP DATABASE IF EXISTS {into_old}; CREATE DATABASE {into_old};"))?;
    if !server.has(database)? {
        run(server, &format!("CREATE DATABASE {name};"))?;
    }
    let saved = save(server, database)?;
    let renamed = |from: &str, to: &str, tables: Vec<String>| -> Vec<String> {
        tables.iter().map(|table| format!("{from}.{table} TO {to}.{table}")).collect()
    };
    let names = |database: &str| -> Result<Vec<String>, SourceError> {
        Ok(server.tables(database)?.iter().map(|table| identifier(&table.name)).collect())
    };
    let mut moves = renamed(&name, &into_old, names(database)?);
    moves.extend(renamed(&from_new, &name, names(new)?));
    let swapped = drop_programs(server, database).and_then(|()| run(server, &format!("RENAME TABLE {};", moves.join(", "))));
    if let Err(error) = swapped {
        drop_programs(server, database)?;
        for script in saved {
            load(server, database, &script)?;
        }
        return Err(error);
    }
    match made(then) {
        made if made.is_empty() => Ok(()),
        made => run(server, &format!("ALTER DATABASE {name}{made};")),
    }
}

/// What is no table, as scripts in the scratch directory.
fn save(server: &Server<'_>, database: &str) -> Result<Vec<std::path::PathBuf>, SourceError> {
    let is_mysql = is_mysql(server.config, server.work)?;
    let names = server.views(database)?;
    let mut saved = vec![keep(server, "programs.sql", &programs(server, is_mysql, database))?];
    if !names.is_empty() {
        saved.push(keep(server, "views.sql", &views(server, is_mysql, database, &names))?);
    }
    Ok(saved)
}

fn keep(server: &Server<'_>, name: &str, tool: &Tool) -> Result<std::path::PathBuf, SourceError> {
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
