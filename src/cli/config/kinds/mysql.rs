//! `kind = "mariadb"` and `kind = "mysql"`

use super::secret;
use crate::cli::config::section::Section;
use crate::source::mysql::MysqlConfig;

/// The port of either.
const DEFAULT_PORT: i64 = 3306;

/// Reads the keys of either.
pub fn read(section: &Section<'_>, name: &str, kind: &'static str) -> Option<MysqlConfig> {
    let database = section.required_text("database");
    if database.as_ref().is_some_and(|database| database.starts_with('-')) {
        section.wrong_key("database", "begins with -, which is no name");
    }
    let text = |key: &str, default: &str| section.text(key).unwrap_or_else(|| default.to_owned());
    let (password, run_as) = (secret(section, "password"), section.text("run_as"));
    if password.is_some() && run_as.is_some() {
        section.wrong("run_as is for servers that know an account of this machine: then there is no password_file");
    }
    let port = section.number("port", 1..=65535).unwrap_or(DEFAULT_PORT);
    Some(MysqlConfig {
        name: name.to_owned(),
        kind,
        host: text("host", "127.0.0.1"),
        port: u16::try_from(port).unwrap_or(u16::MAX),
        user: text("user", "root"),
        password,
        run_as,
        database: database?,
    })
}
