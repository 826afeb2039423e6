//! `kind = "mongodb"`

use super::secret;
use crate::cli::config::section::Section;
use crate::source::mongodb::MongoConfig;

/// Reads its keys.
pub fn read(section: &Section<'_>, name: &str) -> Option<MongoConfig> {
    let uri = secret(section, "uri");
    if uri.is_none() {
        section.wrong("uri_file is missing: a file whose first line is mongodb://USER:PASSWORD@HOST:PORT/");
    }
    let database = section.text("database");
    if database.is_none() {
        section.wrong("database is missing");
    }
    let hosts = section.text("hosts");
    Some(MongoConfig { name: name.to_owned(), uri: uri?, hosts, database: database? })
}
