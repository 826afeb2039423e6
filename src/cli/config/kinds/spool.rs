//! `kind = "spool"`

use crate::cli::config::section::Section;
use crate::model::local::KeepLocal;
use crate::source::spool::{SpoolConfig, SpoolPattern};

/// A little more than a day: last night's archives, even when tonight's script was slow.
const MAX_AGE_SECS: u64 = 26 * 3600;
/// How long to wait for a script that is still at work.
const WAIT_SECS: u64 = 10 * 60;
/// Scripts pause for seconds between writes, not longer.
const QUIET_SECS: u64 = 10;

/// Reads its keys.
pub fn read(section: &Section<'_>, name: &str) -> Option<SpoolConfig> {
    if section.value("glob").is_none() {
        section.wrong("glob is missing: which archives, such as \"/data/backups/mongo/*-{date}.gz\"");
    }
    let pattern = section.parsed("glob", SpoolPattern::parse);
    let min_files = section.number("min_files", 1..=1_000_000).and_then(|n| usize::try_from(n).ok());
    let (exact, max_age) = (section.flag("exact").unwrap_or(false), section.some_secs("max_age"));
    let keep_local = read_keep_local(section);
    let (wait, quiet) = (section.duration_secs("wait"), section.duration_secs("quiet"));
    Some(SpoolConfig {
        name: name.to_owned(),
        pattern: pattern?,
        exact,
        min_files: min_files.unwrap_or(1),
        max_age_secs: max_age.unwrap_or(MAX_AGE_SECS),
        wait_secs: wait.unwrap_or(WAIT_SECS),
        quiet_secs: quiet.unwrap_or(QUIET_SECS),
        keep_local,
    })
}

/// `keep_local = { files = 14, bytes = "50 GiB", age = "30d" }`
fn read_keep_local(section: &Section<'_>) -> Option<KeepLocal> {
    let table = section.table("keep_local")?;
    let files = table.number("files", 1..=1_000_000).and_then(|n| u64::try_from(n).ok());
    let keep = KeepLocal { files, bytes: table.size("bytes"), age_secs: table.duration_secs("age") };
    if keep == KeepLocal::default() {
        table.wrong("says nothing of what may stay: give files, bytes or age");
    }
    table.finish();
    Some(keep)
}
