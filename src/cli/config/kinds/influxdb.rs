//! `kind = "influxdb"`

use super::http;
use crate::cli::config::section::Section;
use crate::source::influxdb::InfluxConfig;

/// Where influxd listens for backups when nothing else is configured.
const DEFAULT_BACKUP_ADDRESS: &str = "127.0.0.1:8088";

/// Reads its keys.
pub fn read(section: &Section<'_>, name: &str) -> Option<InfluxConfig> {
    let http = http::read(section, "url");
    let backup_address = section.text("backup_address").unwrap_or_else(|| DEFAULT_BACKUP_ADDRESS.to_owned());
    if !backup_address.contains(':') {
        section.wrong("backup_address: must be HOST:PORT");
    }
    let database = section.required_text("database");
    let influxd = section.text("influxd").unwrap_or_else(|| "influxd".to_owned());
    Some(InfluxConfig { name: name.to_owned(), http: http?, backup_address, database: database?, influxd })
}
