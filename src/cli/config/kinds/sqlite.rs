//! `kind = "sqlite"`

use std::path::PathBuf;

use crate::cli::config::section::Section;
use crate::source::sqlite::SqliteConfig;

/// Reads its keys.
pub fn read(section: &Section<'_>, name: &str) -> Option<SqliteConfig> {
    let path = section.text("path").map(PathBuf::from);
    match &path {
        Some(path) if path.is_absolute() && path.file_name().is_some() => {}
        Some(path) => section.wrong(format!("path: {} must be the absolute path of a database file", path.display())),
        None => section.wrong("path is missing: the database file"),
    }
    Some(SqliteConfig { name: name.to_owned(), path: path? })
}
