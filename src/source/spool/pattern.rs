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

    fn on(&self, day: Date) -> Result<Vec<GlobMatcher>, String> {
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
            let glob = GlobBuilder::new(&text).literal_separator(true).build().map_err(|e| e.to_string())?;
            Ok(glob.compile_matcher())
        };
        spellings.iter().map(glob).collect()
    }

    /// The pattern of the day on which the run began.
    pub(super) fn today(&self, work: &Work) -> Result<Vec<GlobMatcher>, SourceError> {
        let wrong = |why: String| SourceError::Configuration(format!("{}: {why}", self.text));
        let zone = jiff::tz::TimeZone::get(&work.timezone).map_err(|e| wrong(e.to_string()))?;
        let instant = jiff::Timestamp::from_second(work.now.0).map_err(|e| wrong(e.to_string()))?;
        self.on(instant.to_zoned(zone).date()).map_err(wrong)
    }

    /// The archives that are there now, in no order, and one that is there by a link alone: it leads to none of these.
    pub(super) fn find(&self, today: &[GlobMatcher]) -> Result<(Vec<Archive>, Option<PathBuf>), SourceError> {
        let mut found = Vec::new();
        let (mut linked, mut entered) = (Vec::new(), BTreeSet::new());
        let mut open = vec![(self.dir.clone(), 0, false)];
        while let Some((dir, depth, behind)) = open.pop() {
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
                let behind = behind || kind.is_symlink();
                let is_wanted = today.iter().any(|glob| glob.is_match(&path));
                // What a link leads to, if to anything.
                let kind = if kind.is_symlink() { std::fs::metadata(&path).ok().map(|m| m.file_type()) } else { Some(kind) };
                if kind.is_some_and(|kind| kind.is_dir()) {
                    // Links may lead in circles.
                    let is_new = !behind || std::fs::canonicalize(&path).is_ok_and(|real| entered.insert(real));
                    if is_new && depth < DEPTH_MAX {
                        open.push((path, depth + 1, behind));
                    }
                } else if behind && is_wanted {
                    linked.push(path);
                } else if kind.is_some_and(|kind| kind.is_file()) && is_wanted {
                    found.push(self.archive(path)?);
                }
            }
        }
        let leads_to_none = |link: &PathBuf| {
            let real = std::fs::canonicalize(link).ok();
            !found.iter().any(|archive| real.is_some() && std::fs::canonicalize(&archive.path).ok() == real)
        };
        let stray = linked.into_iter().find(leads_to_none);
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn days_are_spelled_as_scripts_spell_them() {
        let matches = |pattern: &str, path: &str| {
            let pattern = SpoolPattern::parse(pattern).unwrap_or_else(|e| panic!("{e}"));
            // A Tuesday.
            let globs = pattern.on(jiff::civil::date(2026, 11, 17)).unwrap_or_else(|e| panic!("{e}"));
            globs.iter().any(|glob| glob.is_match(path))
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
