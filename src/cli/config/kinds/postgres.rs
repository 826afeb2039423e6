//! `kind = "postgres"`

use super::secret;
use crate::cli::config::section::Section;
use crate::source::postgres::PostgresConfig;

/// PostgreSQL's own port.
const DEFAULT_PORT: i64 = 5432;

/// Reads its keys.
pub fn read(section: &Section<'_>, name: &str) -> Option<PostgresConfig> {
    let database = section.required_text("database");
    let text = |key: &str, default: &str| section.text(key).unwrap_or_else(|| default.to_owned());
    let (password, run_as) = (secret(section, "password"), section.text("run_as"));
    if password.is_some() && run_as.is_some() {
        section.wrong("run_as is for servers that know an account of this machine: then there is no password_file");
    }
    let port = section.number("port", 1..=65535).unwrap_or(DEFAULT_PORT);
    Some(PostgresConfig {
        name: name.to_owned(),
        host: text("host", "127.0.0.1"),
        port: u16::try_from(port).unwrap_or(u16::MAX),
        user: text("user", "postgres"),
        password,
        run_as,
        database: database?,
        maintenance: text("maintenance_database", "postgres"),
        globals: section.flag("globals").unwrap_or(true),
    })
}
