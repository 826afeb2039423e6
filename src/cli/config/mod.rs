//! The one configuration file: read as a whole, every mistake named with its line.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::rc::Rc;

use toml::de::DeTable;

use crate::codec::Compression;
use crate::ledger::RootPin;
use crate::model::drive::DriveName;
use crate::model::ids::{Token, VaultId};
use crate::model::limits::{KIB, MIB, PARITY_MAX_PERMILLE};
use crate::model::rate::Pace;
use crate::ops::hooks::Hooks;
use crate::source::SourceConfig;
use crate::source::limits::Limits;
use crate::store::Location;

mod keep;
mod kinds;
mod member;
mod section;

pub use keep::KeepConfig;
pub use member::Choices;

use keep::read_keep;
use member::{add_service, read_hooks, read_limits, read_restore_hooks, read_vars};
use section::{Mistakes, Section};

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

/// What a custodian, who knows no names, keeps of a series.
#[derive(Debug, Clone)]
pub struct SeriesConfig {
    /// The rules.
    pub keep: Option<KeepConfig>,
    /// IANA name of the zone in which its days begin.
    pub timezone: Option<String>,
}

/// A source of a job as configured.
#[derive(Debug, Clone)]
pub struct JobSource {
    /// The source.
    pub source: SourceConfig,
    /// Average chunk in bytes.
    pub chunk_bytes: usize,
    /// What the member must be.
    pub limits: Limits,
    /// Around its backup.
    pub hooks: Hooks,
    /// Around its restore.
    pub restore_hooks: Hooks,
    /// Whether the target that was chosen says where it goes; true for the place that it comes from.
    pub has_target: bool,
    /// Whether changed places of its large files may be stored as patches on what earlier pushes stored.
    pub patch: bool,
}

impl JobSource {
    /// A source with nothing said about it.
    #[must_use]
    pub fn plain(source: SourceConfig) -> Self {
        let (limits, hooks, restore_hooks) = (Limits::default(), Hooks::default(), Hooks::default());
        Self { source, chunk_bytes: DEFAULT_CHUNK_BYTES, limits, hooks, restore_hooks, has_target: true, patch: true }
    }
}

/// A job as configured.
#[derive(Debug, Clone, Default)]
pub struct JobConfig {
    /// Names of its stores; none means all.
    pub stores: Vec<String>,
    /// IANA name of the zone in which its dates are read.
    pub timezone: Option<String>,
    /// Tags of its snapshots.
    pub tags: Vec<String>,
    /// Seconds between two pushes, for `status` and for the plain record of when the next is due.
    pub every_secs: Option<u64>,
    /// How hard to compress.
    pub compression: Option<Compression>,
    /// What every copy keeps of it that has no rules of its own.
    pub keep: Option<KeepConfig>,
    /// Its sources.
    pub sources: Vec<JobSource>,
    /// Around its pushes.
    pub hooks: Hooks,
    /// Around its restores.
    pub restore_hooks: Hooks,
    /// Its variables, by what they stand for now.
    pub vars: BTreeMap<String, String>,
    /// The further targets that it can be restored to.
    pub targets: Vec<String>,
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

fn read_store(section: Section<'_>) -> StoreConfig {
    if section.value("url").is_none() {
        section.wrong("url is missing");
    }
    let store = StoreConfig {
        location: section.parsed("url", location),
        host_keys: section.texts("host_key"),
        ssh_key: section.text("ssh_key").map(PathBuf::from),
        connections: section.number("connections", 1..=16).and_then(|n| usize::try_from(n).ok()),
        pace: read_pace(&section),
        timeout_secs: section.duration_secs("timeout"),
        plain_directory: section.flag("plain_directory").unwrap_or(false),
        keep: read_keep(&section),
    };
    if matches!(store.location, Some(Location::Directory(_))) && !store.pace.is_free() {
        section.wrong("limit and window are for sftp:// stores; a drive is written as fast as it takes");
    }
    for key in &store.host_keys {
        if !key.starts_with("SHA256:") {
            section.wrong(format!("host_key {key:?}: must be a fingerprint SHA256:... (ssh-keygen -lf prints it)"));
        }
    }
    section.finish();
    store
}

fn read_drive(section: Section<'_>) -> DriveConfig {
    let drive = DriveConfig {
        path: section.text("path").map(PathBuf::from),
        every_secs: section.duration_secs("every"),
        holders: section.texts("holders"),
        unmount: section.flag("unmount").unwrap_or(false),
        parity_permille: section.parsed("parity", parse_permille).unwrap_or(0),
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
    let texts = |key: &str| section.texts(key);
    let mut pace = Pace { zone: section.parsed("timezone", jiff::tz::TimeZone::get), ..Pace::default() };
    for text in texts("limit") {
        match text.parse() {
            Ok(rule) => pace.rules.push(rule),
            Err(error) => section.wrong_key("limit", error),
        }
    }
    for text in texts("window") {
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

fn read_job(name: &str, section: Section<'_>, stores: &BTreeMap<String, StoreConfig>, choices: &Choices) -> JobConfig {
    if name == ADHOC_JOB {
        section.wrong("this name belongs to pushes of paths on the command line");
    }
    check_name(&section, name, "job");
    let mut job = JobConfig {
        stores: section.texts("stores"),
        timezone: section.parsed("timezone", check_timezone),
        tags: section.texts("tags"),
        every_secs: section.duration_secs("every"),
        compression: read_compression(&section),
        keep: read_keep(&section),
        ..JobConfig::default()
    };
    let vars = read_vars(&section, choices);
    let filled = section.filled(None, &vars);
    (job.hooks, job.restore_hooks) = (read_hooks(&filled), read_restore_hooks(&filled));
    let targets = read_targets(&filled, choices, &mut job);
    job.targets = targets.keys().cloned().collect();
    job.vars = vars.as_ref().clone();
    for store in &job.stores {
        if !stores.contains_key(store) {
            section.wrong(format!("stores: there is no [store.{store}]"));
        }
    }
    for source in section.list_of_tables("source") {
        let of_source =
            |sources: &BTreeMap<String, Section<'_>>| source.peek("name").is_some_and(|n| sources.contains_key(&n));
        let mut read = read_source(source.filled(None, &vars));
        for (target, sources) in targets.iter().filter(|(_, sources)| of_source(sources)) {
            let over = source.peek("name").and_then(|name| sources.get(&name));
            let mut there = read_source(source.filled(over, &vars));
            if choices.target.as_ref() == Some(target) {
                // Hooks of this place belong to this place: another target has its own or none.
                let mut restore_hooks = over.map(read_restore_hooks).unwrap_or_default();
                over.into_iter().for_each(|over| add_service(over, &mut Hooks::default(), &mut restore_hooks));
                there.iter_mut().for_each(|there| there.restore_hooks = restore_hooks.clone());
                read = there;
            }
        }
        let chosen = choices.target.as_ref().and_then(|target| targets.get(target));
        job.sources.extend(
            read.map(|read| JobSource { has_target: choices.target.is_none() || chosen.is_some_and(of_source), ..read }),
        );
    }
    if job.sources.is_empty() {
        section.wrong("no [[source]] that can be used: there is nothing to back up");
    }
    check_members(&section, &job.sources);
    section.finish();
    job
}

fn read_series(section: Section<'_>) -> SeriesConfig {
    let series = SeriesConfig { keep: read_keep(&section), timezone: section.parsed("timezone", check_timezone) };
    section.finish();
    series
}

fn check_timezone(text: &str) -> Result<String, String> {
    jiff::tz::TimeZone::get(text).map(|_| text.to_owned()).map_err(|e| e.to_string())
}

/// `"auto"` or a zstd level.
fn read_compression(section: &Section<'_>) -> Option<Compression> {
    if section.value("compression")?.get_ref().as_str() == Some("auto") {
        return Some(Compression::Auto);
    }
    let level = section.number("compression", 1..=19).and_then(|n| i32::try_from(n).ok());
    level.map(Compression::Level)
}

/// Names stand in file names and on command lines.
fn check_name(section: &Section<'_>, name: &str, what: &str) {
    let plain = |c: char| c.is_ascii_alphanumeric() || c == '-' || c == '_';
    let starts_well = name.starts_with(|c: char| c.is_ascii_alphanumeric());
    if !name.chars().all(plain) || !starts_well || name.len() > 64 {
        section.wrong(format!("{what} name {name:?}: letters, digits, - and _ only, at most 64, a letter or digit first"));
    }
}

/// Members have different names, and no two walk over the same files.
fn check_members(section: &Section<'_>, sources: &[JobSource]) {
    let mut seen = Vec::new();
    for source in sources {
        let name = source.source.name();
        if seen.contains(&name) {
            section.wrong(format!("two sources are called {name:?}"));
        }
        seen.push(name);
    }
    let roots: Vec<(&str, &PathBuf)> = sources
        .iter()
        .filter_map(|s| if let SourceConfig::Files(files) = &s.source { Some(files) } else { None })
        .flat_map(|files| files.roots.iter().map(|root| (files.name.as_str(), root)))
        .collect();
    for (index, (name, root)) in roots.iter().enumerate() {
        for (other, above) in roots.iter().enumerate().filter(|(n, _)| *n != index).map(|(_, pair)| pair) {
            if name != other && root.starts_with(above) && (root != above || name < other) {
                section.wrong(format!("sources {name:?} and {other:?} both cover {}", root.display()));
            }
        }
    }
}

/// Further targets by name: for each source that can go there, the keys that differ.
fn read_targets<'a>(
    section: &Section<'a>,
    choices: &Choices,
    job: &mut JobConfig,
) -> BTreeMap<String, BTreeMap<String, Section<'a>>> {
    let mut targets = BTreeMap::new();
    for (name, target) in section.table("target").map(|targets| targets.sections()).unwrap_or_default() {
        let restore_hooks = read_restore_hooks(&target);
        let sources = target.named_tables("source");
        target.finish();
        if choices.target.as_ref() == Some(&name) {
            job.restore_hooks = restore_hooks;
        }
        targets.insert(name, sources.into_iter().collect());
    }
    targets
}

fn read_source(section: Section<'_>) -> Option<JobSource> {
    let name = section.required_text("name");
    let kind = section.required_text("kind");
    if let Some(name) = &name {
        check_name(&section, name, "source");
    }
    let chunk_bytes = section.size("chunk_size").and_then(|bytes| match usize::try_from(bytes) {
        Ok(bytes) if (4 * KIB as usize..=2 * MIB as usize).contains(&bytes) => Some(bytes),
        _ => {
            section.wrong("chunk_size: must be from 4 KiB to 2 MiB");
            None
        }
    });
    let limits = read_limits(&section);
    let (mut hooks, mut restore_hooks) = (read_hooks(&section), read_restore_hooks(&section));
    add_service(&section, &mut hooks, &mut restore_hooks);
    let kind = kind?;
    // Without a known kind the other keys cannot be judged.
    let source = kinds::read(&kind, &section, name.as_deref().unwrap_or_default())?;
    let patch = section.flag("patch").unwrap_or(true);
    section.finish();
    let chunk_bytes = chunk_bytes.unwrap_or(DEFAULT_CHUNK_BYTES);
    name.map(|_| JobSource { source, chunk_bytes, limits, hooks, restore_hooks, has_target: true, patch })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::time::Timestamp;

    const GOOD: &str = r#"
host = "registry-1"

[vault]
id   = "000102030405060708090a0b0c0d0e0f"
root = "SHA256:AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA"

[store.server]
url      = "sftp://bk-host1@backup.example.org/vault"
host_key = ["SHA256:abc"]
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
