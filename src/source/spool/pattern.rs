//! Which archives: an absolute path with wildcards and with the day that they are of.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};

use globset::{GlobBuilder, GlobMatcher};
use jiff::civil::Date;

use super::Archive;
use crate::source::SourceError;
use crate::source::work::Work;

/// What stands for the day: today as 2026-11-17; the day before; today's name as scripts spell it.
const DATE: &str = "{date}";
const YESTERDAY: &str = "{yesterday}";
const WEEKDAY: &str = "{weekday}";
/// Directories below the spool are entered so deep.
const DEPTH_MAX: usize = 16;

/// `/data/backups/mongo/*-{date}.gz`
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SpoolPattern {
    text: String,
    /// The part before the first wildcard or day: what lies below it makes the names.
    dir: PathBuf,
}

impl SpoolPattern {
    /// Reads a pattern.
    ///
    /// # Errors
    /// When it is no absolute path, or its wildcards cannot be read.
    pub fn parse(text: &str) -> Result<Self, String> {
        let path = Path::new(text);
        if !path.is_absolute() || text.split('/').any(|part| part == "..") {
            return Err("must be an absolute path without ..".into());
        }
        let is_fixed = |part: &std::path::Component<'_>| !part.as_os_str().to_string_lossy().contains(['*', '?', '[', '{']);
        let mut dir: PathBuf = path.components().take_while(is_fixed).collect();
        if dir == path {
            dir.pop();
        }
        let pattern = Self { text: text.to_owned(), dir };
        let any_day = jiff::civil::date(2026, 11, 17);
        pattern.on(any_day).map(|_| pattern.clone())
    }

    /// The directory that all archives lie in or below.
    #[must_use]
    pub fn dir(&self) -> &Path {
        &self.dir
    }

    /// The pattern as it is written.
    #[must_use]
    pub fn text(&self) -> &str {
        &self.text
    }

    fn on(&self, day: Date) -> Result<Vec<DayPattern>, String> {
        let yesterday = day.yesterday().map_err(|e| e.to_string())?;
        let text = self.text.replace(DATE, &day.to_string()).replace(YESTERDAY, &yesterday.to_string());
        let long = day.strftime("%A").to_string();
        let short = day.strftime("%a").to_string();
        // As scripts spell it: `date +%a`, `date +%A`, and both in lower case.
        let mut spellings = vec![long.to_lowercase(), short.to_lowercase(), long, short];
        if !text.contains(WEEKDAY) {
            spellings.truncate(1);
        }
        let glob = |name: &String| {
            let text = text.replace(WEEKDAY, name);
            if text.contains(['{', '}']) {
                return Err(format!("{text:?}: only {DATE}, {YESTERDAY} and {WEEKDAY} stand in braces"));
            }
            DayPattern::new(&text)
        };
        spellings.iter().map(glob).collect()
    }

    /// The pattern of the day on which the run began.
    pub(super) fn today(&self, work: &Work) -> Result<Vec<DayPattern>, SourceError> {
        let wrong = |why: String| SourceError::Configuration(format!("{}: {why}", self.text));
        let zone = jiff::tz::TimeZone::get(&work.timezone).map_err(|e| wrong(e.to_string()))?;
        let instant = jiff::Timestamp::from_second(work.now.0).map_err(|e| wrong(e.to_string()))?;
        self.on(instant.to_zoned(zone).date()).map_err(wrong)
    }

    /// The archives that are there now, in no order, and what is wrong with one that is there by a link alone: it leads to none
    /// of these.
    pub(super) fn find(&self, today: &[DayPattern], work: &Work) -> Result<(Vec<Archive>, Option<String>), SourceError> {
        let (mut found, mut links) = (Vec::new(), Vec::new());
        let mut open = vec![(self.dir.clone(), 0)];
        while let Some((dir, depth)) = open.pop() {
            let failed = |source| SourceError::Io { path: dir.display().to_string(), source };
            let entries = match std::fs::read_dir(&dir) {
                Ok(entries) => entries,
                // The script makes it, perhaps a little later.
                Err(e) if e.kind() == std::io::ErrorKind::NotFound => continue,
                Err(e) => return Err(failed(e)),
            };
            for entry in entries {
                let entry = entry.map_err(failed)?;
                let (path, kind) = (entry.path(), entry.file_type().map_err(failed)?);
                if kind.is_symlink() {
                    links.push((path, depth + 1));
                } else if kind.is_dir() {
                    if depth < DEPTH_MAX && is_way(&ways(today, &path)) {
                        open.push((path, depth + 1));
                    }
                } else if kind.is_file() && is_wanted(today, &path) {
                    found.push(self.archive(path)?);
                }
            }
        }
        let stray = stray(&found, links, today, work)?;
        Ok((found, stray))
    }

    fn archive(&self, path: PathBuf) -> Result<Archive, SourceError> {
        let below = path.strip_prefix(&self.dir).ok().and_then(Path::to_str).map(str::to_owned);
        match below {
            Some(name) => Ok(Archive { path, name }),
            None => {
                let why = "its name is not UTF-8".to_owned();
                Err(SourceError::Expectation { what: path.display().to_string(), why })
            }
        }
    }
}

/// The pattern of a day, in one spelling.
pub(super) struct DayPattern {
    whole: GlobMatcher,
    /// Its beginnings: a directory that fits none of them holds nothing that fits the whole.
    beginnings: Vec<GlobMatcher>,
}

impl DayPattern {
    fn new(text: &str) -> Result<Self, String> {
        let glob = |text: &str| {
            let glob = GlobBuilder::new(text).literal_separator(true).build().map_err(|e| e.to_string())?;
            Ok::<_, String>(glob.compile_matcher())
        };
        let ends = text.match_indices('/').map(|(at, _)| at).filter(|at| *at > 0);
        // What ends in ** is a beginning of what lies deeper, too.
        let ends = ends.chain(text.ends_with("/**").then_some(text.len()));
        Ok(Self { whole: glob(text)?, beginnings: ends.map(|end| glob(&text[..end])).collect::<Result<_, _>>()? })
    }
}

fn is_wanted(today: &[DayPattern], path: &Path) -> bool {
    today.iter().any(|pattern| pattern.whole.is_match(path))
}

/// Which beginnings a directory fits: that alone decides which of the paths below it are wanted.
fn ways(today: &[DayPattern], dir: &Path) -> Vec<bool> {
    today.iter().flat_map(|pattern| &pattern.beginnings).map(|beginning| beginning.is_match(dir)).collect()
}

fn is_way(ways: &[bool]) -> bool {
    ways.contains(&true)
}

/// Follows links as far as wanted archives can lie behind them, to the first that was not found without.
fn stray(
    found: &[Archive],
    mut open: Vec<(PathBuf, usize)>,
    today: &[DayPattern],
    work: &Work,
) -> Result<Option<String>, SourceError> {
    let taken: BTreeSet<PathBuf> = found.iter().filter_map(|archive| archive.path.canonicalize().ok()).collect();
    let mut entered = BTreeSet::new();
    while let Some((path, depth)) = open.pop() {
        work.check()?;
        if path.is_dir() {
            let ways = ways(today, &path);
            // What cannot be looked into is none of ours, and links may lead in circles.
            if depth <= DEPTH_MAX
                && is_way(&ways)
                && path.canonicalize().is_ok_and(|real| entered.insert((real, ways)))
                && let Ok(entries) = std::fs::read_dir(&path)
            {
                open.extend(entries.flatten().map(|entry| (entry.path(), depth + 1)));
            }
        } else if is_wanted(today, &path) {
            let why = match path.canonicalize() {
                Ok(real) if taken.contains(&real) => continue,
                Ok(_) => "leads to no archive of this spool: links are not followed".to_owned(),
                Err(e) if e.kind() == std::io::ErrorKind::NotFound => "is a link that leads nowhere".to_owned(),
                Err(e) => format!("cannot be followed: {e}"),
            };
            return Ok(Some(format!("{}: {why}", path.display())));
        }
    }
    Ok(None)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn days_are_spelled_as_scripts_spell_them() {
        let matches = |pattern: &str, path: &str| {
            let pattern = SpoolPattern::parse(pattern).unwrap_or_else(|e| panic!("{e}"));
            // A Tuesday.
            let globs = pattern.on(jiff::civil::date(2026, 11, 17)).unwrap_or_else(|e| panic!("{e}"));
            is_wanted(&globs, Path::new(path))
        };
        assert!(matches("/b/*-{date}.gz", "/b/hearth-dev-2026-11-17.gz"));
        assert!(!matches("/b/*-{date}.gz", "/b/hearth-dev-2026-11-16.gz"));
        assert!(!matches("/b/*-{date}.gz", "/b/deep/hearth-dev-2026-11-17.gz"));
        assert!(matches("/b/{date}/**", "/b/2026-11-17/deep/x.tar.gz"));
        assert!(matches("/b/x-{yesterday}", "/b/x-2026-11-16"));
        for name in ["tue", "Tue", "tuesday", "Tuesday"] {
            assert!(matches("/b/x-{weekday}.gz", &format!("/b/x-{name}.gz")), "{name}");
        }
        assert!(!matches("/b/x-{weekday}.gz", "/b/x-wed.gz"));
        assert_eq!(SpoolPattern::parse("/b/c/{date}/*").map(|p| p.dir().to_owned()), Ok(PathBuf::from("/b/c")));
        assert_eq!(SpoolPattern::parse("/b/c/x.gz").map(|p| p.dir().to_owned()), Ok(PathBuf::from("/b/c")));
        for wrong in ["b/*", "/b/../c", "/b/{label}", "/b/[x"] {
            assert!(SpoolPattern::parse(wrong).is_err(), "{wrong}");
        }
    }
}
