//! What stands at a target and not in a backup: it goes with the database that is replaced.

use super::TABLES_COUNTED;
use super::server::Server;
use crate::source::SourceError;
use crate::source::engine::{Account, Survey};

/// The line of proof of a table whose rows moved while it was dumped.
pub fn moved(table: &str) -> String {
    format!("table {table}")
}

/// The table whose rows, or those of the past, this line of proof counts.
pub fn counted(line: &str) -> Option<&str> {
    line.strip_prefix("rows of ").or_else(|| line.strip_prefix("history of "))
}

/// Tells of every table, view, trigger, routine and event that the backup lacks.
pub fn list(server: &Server<'_>, backup: &Account, survey: &mut Survey) -> Result<(), SourceError> {
    let database = &server.config.database;
    let lacks = |name: &str| !backup.proof.contains_key(name);
    let mut gone = Vec::new();
    if lacks(TABLES_COUNTED) {
        survey.notes.push("the backup does not say what it holds: whatever else the database holds will be gone".into());
        return Ok(());
    }
    for table in server.tables(database)? {
        if lacks(&format!("rows of {}", table.name)) && lacks(&moved(&table.name)) {
            gone.push(format!("table {}, about {} rows", table.name, table.about_rows));
        } else if table.is_versioned() && lacks(&format!("history of {}", table.name)) && lacks(&moved(&table.name)) {
            gone.push(format!("the history of table {}", table.name));
        }
    }
    for (kind, names) in server.programs(database)? {
        // A count that is not there moved while the dump was made, and nobody knows what is in it.
        if !lacks(kind) {
            gone.extend(names.into_iter().filter(|name| lacks(name)));
        }
    }
    survey.destroys.extend(gone.into_iter().map(|what| format!("{what}: not in the backup, it will be gone")));
    Ok(())
}
