//! The kinds of sources: one file reads the keys of one kind.

use std::sync::Arc;

use super::section::Section;
use crate::source::SourceConfig;
use crate::source::engine::Engine;
use crate::source::secret::Secret;

mod command;
mod files;
mod http;
mod influxdb;
mod mongodb;
mod mysql;
mod postgres;
mod search;
mod spool;
mod sqlite;

/// Reads the keys that belong to `kind`. None when it is not known, or lacks what it cannot do without; the section then
/// knows why.
pub fn read(kind: &str, section: &Section<'_>, name: &str) -> Option<SourceConfig> {
    match kind {
        "files" => Some(SourceConfig::Files(files::read(section, name))),
        "command" => engine(command::read(section, name)),
        "mongodb" => mongodb::read(section, name),
        "elasticsearch" => engine(search::read(section, name, "elasticsearch")),
        "opensearch" => engine(search::read(section, name, "opensearch")),
        "influxdb" => engine(influxdb::read(section, name)),
        "postgres" => engine(postgres::read(section, name)),
        "mariadb" => engine(mysql::read(section, name, "mariadb")),
        "mysql" => engine(mysql::read(section, name, "mysql")),
        "sqlite" => engine(sqlite::read(section, name)),
        "spool" => engine(spool::read(section, name)),
        "stackgraph" => engine(command::read_stackgraph(section, name)),
        other => {
            section.wrong(format!("kind {other:?} is not known; there are {}", KINDS.join(", ")));
            None
        }
    }
}

/// Every kind, for messages.
const KINDS: [&str; 12] = [
    "files",
    "command",
    "spool",
    "stackgraph",
    "mongodb",
    "elasticsearch",
    "opensearch",
    "influxdb",
    "postgres",
    "mariadb",
    "mysql",
    "sqlite",
];

fn engine(config: Option<impl Engine + 'static>) -> Option<SourceConfig> {
    config.map(|config| SourceConfig::Engine(Arc::new(config)))
}

/// A secret: `password_file`, `password_fd` or `password_credential` for the stem `password`. None when none of them is
/// there; more than one is a mistake.
pub fn secret(section: &Section<'_>, stem: &str) -> Option<Secret> {
    let file = section.text(&format!("{stem}_file")).map(|path| Secret::File(path.into()));
    let fd = section.number(&format!("{stem}_fd"), 0..=1_000_000).and_then(|fd| i32::try_from(fd).ok()).map(Secret::Fd);
    let credential = section.text(&format!("{stem}_credential")).map(Secret::Credential);
    let mut given = [file, fd, credential].into_iter().flatten();
    let secret = given.next();
    if given.next().is_some() {
        section.wrong(format!("{stem}_file, {stem}_fd and {stem}_credential: only one of them can be given"));
    }
    if section.value(stem).is_some() {
        section.wrong(format!("{stem}: a secret does not stand in the configuration; write {stem}_file = \"/path/to/it\""));
    }
    secret
}
