//! Waiting for archives: until they are all there, new, and have stopped growing.

use std::collections::BTreeMap;
use std::os::unix::fs::MetadataExt;
use std::path::PathBuf;
use std::time::{Duration, Instant};

use super::{Archive, SpoolConfig};
use crate::model::time::human_duration;
use crate::source::SourceError;
use crate::source::work::Work;

/// How often they are looked at.
const LOOK_INTERVAL: Duration = Duration::from_millis(500);

/// What shows that an archive changed.
type Look = (u64, u64, i64, i64);

/// Gives the archives once they are all as they must be.
pub fn for_archives(config: &SpoolConfig, work: &Work) -> Result<Vec<Archive>, SourceError> {
    let today = config.pattern.today(work)?;
    let began = Instant::now();
    let mut since: BTreeMap<PathBuf, (Look, Instant)> = BTreeMap::new();
    loop {
        work.check()?;
        let (found, stray) = config.pattern.find(&today, work)?;
        let wrong = if stray.is_some() { stray } else { judge(config, work, &found, &mut since)? };
        let Some(why) = wrong else { return Ok(found) };
        if began.elapsed() >= Duration::from_secs(config.wait_secs) {
            let waited = human_duration(config.wait_secs);
            return Err(SourceError::Expectation {
                what: config.name.clone(),
                why: format!("{why}, after {waited} of waiting"),
            });
        }
        std::thread::sleep(LOOK_INTERVAL);
    }
}

/// What is still wrong with them; none when nothing is.
fn judge(
    config: &SpoolConfig,
    work: &Work,
    found: &[Archive],
    since: &mut BTreeMap<PathBuf, (Look, Instant)>,
) -> Result<Option<String>, SourceError> {
    if found.len() < config.min_files {
        let (n, min) = (found.len(), config.min_files);
        let pattern = config.pattern.text();
        return Ok(Some(format!("{pattern}: {n} archives of the day are there, at least {min} are expected")));
    }
    let now = i128::from(work.now.0);
    let mut wrong = None;
    for archive in found {
        let shown = archive.path.display();
        let meta = std::fs::metadata(&archive.path).map_err(|source| SourceError::Io { path: shown.to_string(), source })?;
        let look = (meta.size(), meta.ino(), meta.mtime(), meta.mtime_nsec());
        let seen = since.entry(archive.path.clone()).or_insert((look, Instant::now()));
        if seen.0 != look {
            *seen = (look, Instant::now());
        }
        let quiet = Duration::from_secs(config.quiet_secs);
        // Its time tells as well as watching it does, unless the clock that set it is ahead.
        let old_secs = now - i128::from(meta.mtime());
        let is_quiet = seen.1.elapsed() >= quiet || old_secs >= i128::from(config.quiet_secs) && old_secs > 0;
        if old_secs > i128::from(config.max_age_secs) {
            let age = human_duration(u64::try_from(old_secs).unwrap_or(0));
            let max = human_duration(config.max_age_secs);
            wrong = Some(format!("{shown}: was written {age} ago, at most {max} are allowed: it is of an earlier run"));
        } else if meta.size() == 0 {
            wrong = Some(format!("{shown}: is empty"));
        } else if !is_quiet {
            wrong = Some(format!("{shown}: still changes"));
        }
    }
    Ok(wrong)
}
