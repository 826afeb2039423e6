//! The sections `[store.NAME]` and `[drive.NAME]`: places where copies lie.

use std::path::PathBuf;

use super::keep::{KeepConfig, read_keep};
use super::section::Section;
use crate::model::limits::PARITY_MAX_PERMILLE;
use crate::model::rate::Pace;
use crate::store::Location;

/// Base64 digits of a SHA-256, as `ssh-keygen -l` prints it.
const FINGERPRINT_DIGITS: usize = 43;

/// A store as configured.
#[derive(Debug, Clone, Default)]
pub struct StoreConfig {
    /// Where it is.
    pub location: Option<Location>,
    /// Pinned host keys, `SHA256:...`; two during a rotation.
    pub host_keys: Vec<String>,
    /// Private key file.
    pub ssh_key: Option<PathBuf>,
    /// Connections at most.
    pub connections: Option<usize>,
    /// How fast and when it may be used.
    pub pace: Pace,
    /// Seconds without progress after which a connection is given up.
    pub timeout_secs: Option<u64>,
    /// A local directory that need not be a mounted drive.
    pub plain_directory: bool,
    /// What this copy keeps, of every job, in place of the jobs' own rules.
    pub keep: Option<KeepConfig>,
}

/// A drive as configured; what it is, its label says.
#[derive(Debug, Clone, Default)]
pub struct DriveConfig {
    /// Where it is mounted when it is plugged in; else where it was when it was enrolled.
    pub path: Option<PathBuf>,
    /// Seconds between two exports.
    pub every_secs: Option<u64>,
    /// Who may hold it.
    pub holders: Vec<String>,
    /// Whether an export unmounts it at the end.
    pub unmount: bool,
    /// Parity, in thousandths of what it protects.
    pub parity_permille: u32,
    /// What stays on it, of every job, in place of the jobs' own rules; else everything.
    pub keep: Option<KeepConfig>,
}

pub fn read_store(section: Section<'_>) -> StoreConfig {
    if section.value("url").is_none() {
        section.wrong("url is missing");
    }
    let store = StoreConfig {
        location: section.parsed("url", location),
        host_keys: section.some_texts("host_key", "known_hosts decides then"),
        ssh_key: section.text("ssh_key").map(PathBuf::from),
        connections: section.number("connections", 1..=16).and_then(|n| usize::try_from(n).ok()),
        pace: read_pace(&section),
        timeout_secs: section.some_secs("timeout"),
        plain_directory: section.flag("plain_directory").unwrap_or(false),
        keep: read_keep(&section),
    };
    if matches!(store.location, Some(Location::Directory(_))) && !store.pace.is_free() {
        section.wrong("limit and window are for sftp:// stores; a drive is written as fast as it takes");
    }
    for key in &store.host_keys {
        let digits = key.strip_prefix("SHA256:").unwrap_or_default();
        if digits.len() != FINGERPRINT_DIGITS || !digits.bytes().all(|b| b.is_ascii_alphanumeric() || b"+/".contains(&b)) {
            section.wrong(format!("host_key {key:?}: must be a fingerprint SHA256:... (ssh-keygen -lf prints it)"));
        }
    }
    section.finish();
    store
}

pub fn read_drive(section: Section<'_>) -> DriveConfig {
    let drive = DriveConfig {
        path: section.text("path").map(PathBuf::from),
        every_secs: section.some_secs("every"),
        holders: section.texts("holders"),
        unmount: section.flag("unmount").unwrap_or(false),
        parity_permille: section.parsed("parity", parse_permille).unwrap_or(0),
        keep: read_keep(&section),
    };
    if drive.path.as_ref().is_some_and(|path| !path.is_absolute()) {
        section.wrong("path: must be absolute");
    }
    section.finish();
    drive
}

/// A share such as `5%` or `2.5%`, in thousandths.
fn parse_permille(text: &str) -> Result<u32, String> {
    let percent = text.trim().strip_suffix('%').and_then(|number| number.trim().parse::<f64>().ok());
    let permille = percent.map(|percent| (percent * 10.0).round());
    match permille {
        Some(permille) if (1.0..=f64::from(PARITY_MAX_PERMILLE)).contains(&permille) => Ok(permille as u32),
        _ => Err(format!("not a share: {text:?} (write a percentage from 0.1% to {}%)", PARITY_MAX_PERMILLE / 10)),
    }
}

/// How fast and when a store may be used.
fn read_pace(section: &Section<'_>) -> Pace {
    let mut pace = Pace { zone: section.parsed("timezone", jiff::tz::TimeZone::get), ..Pace::default() };
    for text in section.texts("limit") {
        match text.parse() {
            Ok(rule) => pace.rules.push(rule),
            Err(error) => section.wrong_key("limit", error),
        }
    }
    for text in section.some_texts("window", "it is always open then") {
        match text.parse() {
            Ok(hours) => pace.windows.push(hours),
            Err(error) => section.wrong_key("window", error),
        }
    }
    pace
}

/// An address that means the same wherever the program is started.
fn location(text: &str) -> Result<Location, String> {
    if !text.contains("://") && !text.starts_with('/') {
        return Err(format!(
            "{text:?} is a relative path; write sftp://user@host[:port]/path, file:///path, or a path from /"
        ));
    }
    text.parse().map_err(|e: crate::store::location::LocationError| e.to_string())
}
