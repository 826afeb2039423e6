//! Judging a program by what it logs.
//!
//! Looked at are the lines that came after the program was started. Lines to be ignored aside, one that matches the failure
//! pattern is a failure; without one that matches the success pattern there is no success, whatever the exit code was.

use std::fs::File;
use std::io::{Read, Seek, SeekFrom};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use regex::Regex;

use crate::source::SourceError;
use crate::source::tool::redact;
use crate::source::work::Work;

/// How often the log is read while the verdict is missing.
const LOOK_INTERVAL: Duration = Duration::from_millis(200);
/// Lines that are read at most: more in one run is no log of it.
const READ_MAX_BYTES: u64 = 64 * 1024 * 1024;
/// Lines around the verdict that go into the record, and their bytes: a record holds 64 KiB.
const KEPT_LINES: usize = 40;
const KEPT_BYTES: usize = 8 * 1024;

/// What a log must say.
#[derive(Debug, Clone)]
pub struct LogRule {
    /// The file.
    pub path: PathBuf,
    /// A line of success.
    pub success: Regex,
    /// A line of failure.
    pub failure: Regex,
    /// Lines that mean nothing, whatever they match.
    pub ignore: Vec<Regex>,
    /// How long to wait for a verdict after the program has ended well.
    pub wait_secs: u64,
}

/// A log that is being watched.
pub struct Watched<'a> {
    rule: &'a LogRule,
    /// Which file it was and how long, when the watch began.
    began: Option<(u64, u64)>,
}

/// What the log said.
pub struct Verdict {
    /// Why it is a failure; none is success.
    pub failure: Option<String>,
    /// The lines that it was judged by, as far as they may be shown.
    pub slice: String,
}

impl LogRule {
    /// Begins to watch at the end of what is there.
    pub(super) fn begin(&self) -> Result<Watched<'_>, SourceError> {
        let began = match std::fs::metadata(&self.path) {
            Ok(meta) => Some((meta.ino(), meta.len())),
            Err(e) if e.kind() == std::io::ErrorKind::NotFound => None,
            Err(source) => return Err(SourceError::Io { path: self.path.display().to_string(), source }),
        };
        Ok(Watched { rule: self, began })
    }
}

impl Watched<'_> {
    /// Reads the log until it says how it went. A program that failed is not waited for.
    pub fn judge(&self, ended_well: bool, work: &Work) -> Verdict {
        let end = Instant::now() + Duration::from_secs(if ended_well { self.rule.wait_secs } else { 0 });
        loop {
            let text = match self.read() {
                Ok(text) => text,
                Err(error) => {
                    let failure = Some(format!("{}: {error}", self.rule.path.display()));
                    return Verdict { failure, slice: String::new() };
                }
            };
            let lines: Vec<&str> =
                text.lines().filter(|line| !self.rule.ignore.iter().any(|ignore| ignore.is_match(line))).collect();
            let failed = lines.iter().position(|line| self.rule.failure.is_match(line));
            let succeeded = lines.iter().position(|line| self.rule.success.is_match(line));
            let failure = match (failed, succeeded) {
                (Some(at), _) => Some(format!("its log says: {}", redact(lines[at].as_bytes(), &[]))),
                (None, Some(_)) => None,
                (None, None) if Instant::now() < end && !work.is_over() => {
                    std::thread::sleep(LOOK_INTERVAL);
                    continue;
                }
                (None, None) => Some(format!("{} does not say that it was done", self.rule.path.display())),
            };
            let at = failed.or(succeeded).unwrap_or(lines.len());
            return Verdict { failure, slice: slice(&lines, at) };
        }
    }

    /// What came since the watch began. A file that was rotated meanwhile is read from its start.
    fn read(&self) -> std::io::Result<String> {
        let path: &Path = &self.rule.path;
        let mut file = match File::open(path) {
            Err(e) if e.kind() == std::io::ErrorKind::NotFound => return Ok(String::new()),
            opened => opened?,
        };
        let meta = file.metadata()?;
        let from = self.began.filter(|(ino, length)| *ino == meta.ino() && *length <= meta.len()).map_or(0, |began| began.1);
        file.seek(SeekFrom::Start(from))?;
        let mut bytes = Vec::new();
        file.take(READ_MAX_BYTES).read_to_end(&mut bytes)?;
        Ok(String::from_utf8_lossy(&bytes).into_owned())
    }
}

/// The lines up to the verdict and some after it, redacted.
fn slice(lines: &[&str], at: usize) -> String {
    let end = lines.len().min(at + KEPT_LINES / 4);
    let mut kept = Vec::new();
    let mut bytes = 0;
    for line in lines[end.saturating_sub(KEPT_LINES)..end].iter().rev() {
        let line = redact(line.as_bytes(), &[]);
        bytes += line.len() + 1;
        if bytes > KEPT_BYTES {
            break;
        }
        kept.push(line);
    }
    kept.reverse();
    kept.join("\n")
}
