//! The one configuration file: read as a whole, every mistake named with its line.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::rc::Rc;

use toml::de::DeTable;

use crate::ledger::RootPin;
use crate::model::drive::DriveName;
use crate::model::ids::{Token, VaultId};
use crate::model::limits::KIB;

mod job;
mod keep;
mod kinds;
mod member;
mod section;
mod store;

pub use job::{JobConfig, JobSource};
pub use keep::KeepConfig;
pub use member::Choices;
pub use store::{DriveConfig, StoreConfig};

use job::read_job;
use keep::read_keep;
use section::{Mistakes, Section};
use store::{read_drive, read_store};

/// What patch bases may take on this machine's disk where the configuration says nothing.
pub const DEFAULT_BASE_CACHE_BYTES: u64 = 4 * 1024 * 1024 * 1024;
/// Average chunk where a source names none.
pub const DEFAULT_CHUNK_BYTES: usize = 64 * KIB as usize;
/// A week: how often a drive takes an export where nothing else is said.
pub const DEFAULT_EXPORT_SECS: u64 = 7 * 86_400;
/// The job of paths on the command line.
pub const ADHOC_JOB: &str = "adhoc";

/// What cannot be used, as a list of lines.
#[derive(Debug, thiserror::Error)]
#[error("{path}: {}", problems.join("\n  "))]
pub struct ConfigError {
    /// The file.
    pub path: String,
    /// Each problem, with its line where it has one.
    pub problems: Vec<String>,
}

/// What a custodian, who knows no names, keeps of a series.
#[derive(Debug, Clone)]
pub struct SeriesConfig {
    /// The rules.
    pub keep: Option<KeepConfig>,
    /// IANA name of the zone in which its days begin.
    pub timezone: Option<String>,
}

/// The whole configuration.
#[derive(Debug, Clone, Default)]
pub struct Config {
    /// Where it was read; none when there is no file.
    pub path: Option<PathBuf>,
    /// The vault.
    pub vault: Option<VaultId>,
    /// The pinned root.
    pub root: Option<RootPin>,
    /// What this machine is called in snapshots; the host name otherwise.
    pub host: Option<String>,
    /// What the blocks that patches are made against may take on this machine's disk, in bytes.
    pub base_cache_bytes: Option<u64>,
    /// Stores by name.
    pub stores: BTreeMap<String, StoreConfig>,
    /// Jobs by name.
    pub jobs: BTreeMap<String, JobConfig>,
    /// Rules of series by their tokens.
    pub series: BTreeMap<Token, SeriesConfig>,
    /// Drives by name.
    pub drives: BTreeMap<DriveName, DriveConfig>,
}

impl Config {
    /// Reads the file at `path`; an empty configuration when there is none.
    ///
    /// # Errors
    /// Every mistake in it, with its line.
    pub fn load(path: &Path) -> Result<Self, ConfigError> {
        Self::load_with(path, &Choices::default())
    }

    /// Reads the file at `path` as it is with choices made.
    ///
    /// # Errors
    /// Every mistake in it, with its line; choices that it does not know.
    pub fn load_with(path: &Path, choices: &Choices) -> Result<Self, ConfigError> {
        let shown = path.display().to_string();
        let text = match std::fs::read_to_string(path) {
            Ok(text) => text,
            Err(e) if e.kind() == std::io::ErrorKind::NotFound => return Ok(Self::default()),
            Err(e) => return Err(ConfigError { path: shown, problems: vec![e.to_string()] }),
        };
        let mut config = Self::parse_with(&text, choices).map_err(|problems| ConfigError { path: shown, problems })?;
        config.path = Some(path.to_owned());
        Ok(config)
    }

    /// Reads a configuration.
    ///
    /// # Errors
    /// Every mistake in it, with its line.
    pub fn parse(text: &str) -> Result<Self, Vec<String>> {
        Self::parse_with(text, &Choices::default())
    }

    fn parse_with(text: &str, choices: &Choices) -> Result<Self, Vec<String>> {
        let (root, errors) = DeTable::parse_recoverable(text);
        let mistakes = Rc::new(Mistakes::default());
        for error in &errors {
            mistakes.add(error.span().map_or(0, |span| span.start), error.message());
        }
        if !errors.is_empty() {
            return Err(mistakes.report(text));
        }
        let top = Section::new("", 0, root.get_ref(), &mistakes);
        let mut config = Self { host: top.text("host"), base_cache_bytes: top.size_or_off("base_cache"), ..Self::default() };
        if let Some(vault) = top.table("vault") {
            config.vault = vault.parsed("id", str::parse::<VaultId>);
            config.root = vault.parsed("root", RootPin::parse);
            vault.finish();
        }
        for (name, section) in top.named_tables("store") {
            config.stores.insert(name, read_store(section));
        }
        for (name, section) in top.named_tables("job") {
            config.jobs.insert(name.clone(), read_job(&name, section, &config.stores, choices));
        }
        for (token, section) in top.named_tables("series") {
            match token.parse::<Token>() {
                Ok(token) => drop(config.series.insert(token, read_series(section))),
                Err(_) => section.wrong("a series is called by its token: 32 hex digits, as `farkeep init` prints them"),
            }
        }
        for (name, section) in top.named_tables("drive") {
            match name.parse::<DriveName>() {
                Ok(name) => drop(config.drives.insert(name, read_drive(section))),
                Err(error) => section.wrong(error),
            }
        }
        top.finish();
        let problems = mistakes.report(text);
        if problems.is_empty() { Ok(config) } else { Err(problems) }
    }
}

fn read_series(section: Section<'_>) -> SeriesConfig {
    let series = SeriesConfig { keep: read_keep(&section), timezone: section.parsed("timezone", check_timezone) };
    section.finish();
    series
}

fn check_timezone(text: &str) -> Result<String, String> {
    jiff::tz::TimeZone::get(text).map(|_| text.to_owned()).map_err(|e| e.to_string())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::limits::MIB;
    use crate::model::time::Timestamp;

    const GOOD: &str = r#"
host = "registry-1"

[vault]
id   = "000102030405060708090a0b0c0d0e0f"
root = "SHA256:AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA"

[store.server]
url      = "sftp://bk-host1@backup.example.org/vault"
host_key = ["SHA256:2cU9XYkhNzRrOk6XxCDUo1L2mZk1m1yCRO6zmpFBFRk"]
ssh_key  = "/etc/farkeep/ssh/id_ed25519"
limit    = "20 Mbit/s"

[job.nightly]
stores   = ["server"]
timezone = "Africa/Nairobi"
every    = "24h"
keep     = { daily = 7, weekly = 8, min_snapshots = 3 }

[[job.nightly.source]]
name    = "attachments"
kind    = "files"
paths   = ["/data/minio"]
exclude = ["*.tmp"]

[[job.nightly.source]]
name      = "db"
kind      = "command"
command   = ["pg_dump", "-Fc", "-Z0", "events"]
timeout   = "2h"
min_bytes = "1 MiB"

[drive.a]
every   = "7d"
holders = ["registrar", "deputy"]
parity  = "5%"
"#;

    #[test]
    fn a_whole_configuration_is_read() {
        let config = Config::parse(GOOD).unwrap_or_else(|e| panic!("{e:?}"));
        assert_eq!(config.host.as_deref(), Some("registry-1"));
        assert_eq!(config.stores["server"].pace.limit(Timestamp(0)), Some(2_500_000));
        let drive = config.drives.values().next().cloned().unwrap_or_default();
        assert_eq!((drive.every_secs, drive.holders.len(), drive.parity_permille), (Some(7 * 86_400), 2, 50));
        let job = &config.jobs["nightly"];
        assert_eq!((job.sources.len(), job.every_secs), (2, Some(86_400)));
        let keep = job.keep.as_ref().unwrap_or_else(|| panic!("no rules"));
        assert_eq!((keep.periods.daily, keep.periods.weekly, keep.periods.last, keep.min_snapshots), (7, 8, 0, 3));
        let limits = &job.sources[1].limits;
        assert_eq!((limits.min_bytes, limits.timeout_secs), (Some(MIB), Some(7200)));
    }

    #[test]
    fn a_store_may_be_slower_by_day_and_closed_outside_its_window() {
        let by_day = GOOD.replace(
            "\"20 Mbit/s\"",
            "[\"08:00-18:00 5 Mbit/s\", \"40 Mbit/s\"]\nwindow = \"22:00-12:00\"\ntimezone = \"UTC\"",
        );
        let config = Config::parse(&by_day).unwrap_or_else(|e| panic!("{e:?}"));
        let pace = &config.stores["server"].pace;
        let noon = Timestamp(12 * 3600);
        assert_eq!((pace.limit(noon), pace.limit(Timestamp(0))), (Some(625_000), Some(5_000_000)));
        assert!(!pace.is_open(noon) && pace.is_open(Timestamp(0)));
        let drive = by_day.replace("sftp://bk-host1@backup.example.org", "/media/drive");
        assert!(Config::parse(&drive).err().unwrap_or_default()[0].contains("sftp:// stores"));
        let wrong = by_day.replace("22:00-12:00", "at night");
        let problems = Config::parse(&wrong).err().unwrap_or_default();
        assert!(problems[0].starts_with("line 13:") && problems[0].contains("22:00-06:00"), "{problems:?}");
    }

    #[test]
    fn every_mistake_is_named_with_its_line() {
        let bad = GOOD
            .replace("limit    = \"20 Mbit/s\"", "limit    = \"fast\"")
            .replace("every    = \"24h\"", "evry     = \"24h\"")
            .replace("stores   = [\"server\"]", "stores   = [\"sever\"]")
            .replace("weekly = 8", "wekly = 8")
            .replace("timeout   = \"2h\"", "timeout   = 7200")
            .replace("paths   = [\"/data/minio\"]", "paths   = [\"data\"]");
        let problems = Config::parse(&bad).err().unwrap_or_default();
        let expect = [
            ("line 12:", "limit"),
            ("line 14:", "[store.sever]"),
            ("line 17:", "evry"),
            ("line 20:", "absolute"),
            ("line 30:", "timeout"),
            ("line 18:", "wekly"),
        ];
        assert_eq!(problems.len(), expect.len(), "{problems:#?}");
        for (line, word) in expect {
            assert!(problems.iter().any(|p| p.starts_with(line) && p.contains(word)), "{line} {word}: {problems:#?}");
        }
        assert!(Config::parse("a = ").err().unwrap_or_default()[0].starts_with("line 1:"));
    }

    #[test]
    fn two_sources_may_not_cover_the_same_files() {
        let twice = GOOD.replace("kind      = \"command\"", "kind = \"files\"\npaths = [\"/data/minio/deep\"]");
        let problems = Config::parse(&twice).err().unwrap_or_default();
        assert!(problems.iter().any(|p| p.contains("both cover")), "{problems:#?}");
    }
}
