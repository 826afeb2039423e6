//! What an engine is given for one run: a private directory, the present, its time limit, and when to stop.

use std::fs::File;
use std::io::{self, Seek, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use std::sync::mpsc::Sender;
use std::sync::{Arc, Mutex, OnceLock, PoisonError};
use std::time::{Duration, Instant};

use crate::model::finding::Finding;
use crate::model::time::Timestamp;
use crate::source::SourceError;

/// What is logged under this name is shown without being asked for.
pub const WAITING: &str = "waiting";
/// How long undoing may take: it is one request to a server, or the removal of a directory.
const TIDYING_TIMEOUT: Duration = Duration::from_secs(60);

/// How long a question to a server may take that is asked beside the work.
const ASKING_TIMEOUT: Duration = Duration::from_secs(10);
/// A program that says nothing for so long is worth a word: no dump computes longer before its first byte, as a rule.
const SILENCE: Duration = Duration::from_secs(60);

/// The circumstances of one member's backup or restore.
#[derive(Debug, Clone)]
pub struct Work {
    /// The member, for messages.
    pub member: String,
    /// A directory of this member alone that only this account may enter; removed when the run has ended.
    pub scratch: PathBuf,
    /// When the run began.
    pub now: Timestamp,
    /// IANA name of the zone in which the job reads dates and weekdays.
    pub timezone: String,
    timeout: Option<Duration>,
    started: Arc<OnceLock<Instant>>,
    stop: &'static AtomicBool,
    noted: Arc<Mutex<Vec<Finding>>>,
    silence: Duration,
    told: Option<Sender<String>>,
}

impl Work {
    /// Circumstances without a time limit.
    #[must_use]
    pub fn new(member: &str, scratch: PathBuf, now: Timestamp, timezone: &str, stop: &'static AtomicBool) -> Self {
        let (member, timezone) = (member.to_owned(), timezone.to_owned());
        let (started, noted) = (Arc::default(), Arc::default());
        Self { member, scratch, now, timezone, timeout: None, started, stop, noted, silence: SILENCE, told: None }
    }

    /// The same with a time limit, counted from [`Work::start_clock`].
    #[must_use]
    pub fn with_timeout(mut self, secs: Option<u64>) -> Self {
        self.timeout = secs.map(Duration::from_secs);
        self
    }

    /// The same, telling here and not in the log what a program waits for that says nothing for so long.
    #[must_use]
    pub fn telling(self, silence: Duration, told: Sender<String>) -> Self {
        Self { silence, told: Some(told), ..self }
    }

    /// The same for a question beside the work.
    #[must_use]
    pub fn for_asking(&self) -> Self {
        let asking = Self { timeout: Some(ASKING_TIMEOUT), started: Arc::default(), ..self.clone() };
        asking.start_clock();
        asking
    }

    /// The same for what must be undone in any case: with a short time of its own, whatever became of the member's, and deaf
    /// to a wish to stop.
    #[must_use]
    pub fn for_tidying(&self) -> Self {
        static GO_ON: AtomicBool = AtomicBool::new(false);
        let tidying = Self { timeout: Some(TIDYING_TIMEOUT), started: Arc::default(), stop: &GO_ON, ..self.clone() };
        tidying.start_clock();
        tidying
    }

    /// A new file in the scratch directory that only this account may use, for a program that is told its path. Its name
    /// begins with `stem`: parts of a member are opened side by side, and none may find the file of another.
    ///
    /// # Errors
    /// When it cannot be made.
    pub fn new_file(&self, stem: &str) -> Result<(PathBuf, File), SourceError> {
        static COUNTER: AtomicU32 = AtomicU32::new(0);
        loop {
            let path = self.scratch.join(format!("{stem}-{}", COUNTER.fetch_add(1, Ordering::Relaxed)));
            match File::options().write(true).create_new(true).mode(0o600).open(&path) {
                Ok(file) => return Ok((path, file)),
                // Of an earlier process.
                Err(e) if e.kind() == io::ErrorKind::AlreadyExists => {}
                Err(source) => return Err(SourceError::Io { path: path.display().to_string(), source }),
            }
        }
    }

    /// A file without a name that holds these bytes, for a program's standard input.
    ///
    /// # Errors
    /// When it cannot be made.
    pub fn unnamed_file(&self, bytes: &[u8]) -> Result<File, SourceError> {
        let made = || -> io::Result<File> {
            let mut file = tempfile::tempfile_in(&self.scratch)?;
            file.write_all(bytes)?;
            file.rewind()?;
            Ok(file)
        };
        made().map_err(|source| SourceError::Io { path: self.scratch.display().to_string(), source })
    }

    /// The same with the whole time before it, which begins now.
    #[must_use]
    pub fn anew(&self) -> Self {
        let anew = Self { started: Arc::default(), ..self.clone() };
        anew.start_clock();
        anew
    }

    /// Begins the member's time. Later calls change nothing.
    pub fn start_clock(&self) {
        self.started.get_or_init(Instant::now);
    }

    /// How much time is left; none where there is no limit or the clock has not begun.
    #[must_use]
    pub fn remaining(&self) -> Option<Duration> {
        let (timeout, started) = (self.timeout?, self.started.get()?);
        Some(timeout.saturating_sub(started.elapsed()))
    }

    /// Whether the run is to stop, for whichever reason.
    #[must_use]
    pub fn is_over(&self) -> bool {
        self.is_stopped() || self.remaining().is_some_and(|left| left.is_zero())
    }

    /// Whether somebody asked to stop.
    #[must_use]
    pub fn is_stopped(&self) -> bool {
        self.stop.load(Ordering::Relaxed)
    }

    /// How long a program may say nothing.
    #[must_use]
    pub const fn silence(&self) -> Duration {
        self.silence
    }

    /// Tells at once what somebody should know who waits.
    pub fn tell(&self, what: String) {
        match &self.told {
            Some(told) => _ = told.send(what),
            None => tracing::warn!(target: WAITING, "{what}"),
        }
    }

    /// Keeps what a step noticed, for a later one to tell.
    pub fn note(&self, finding: Finding) {
        self.noted.lock().unwrap_or_else(PoisonError::into_inner).push(finding);
    }

    /// All that was noticed and not told yet.
    #[must_use]
    pub fn noted(&self) -> Vec<Finding> {
        std::mem::take(&mut self.noted.lock().unwrap_or_else(PoisonError::into_inner))
    }

    /// To be called between steps.
    ///
    /// # Errors
    /// [`SourceError::Interrupted`], or [`SourceError::Expectation`] when the time is up.
    pub fn check(&self) -> Result<(), SourceError> {
        if self.is_stopped() {
            return Err(SourceError::Interrupted);
        }
        match self.remaining() {
            Some(left) if left.is_zero() => Err(self.late()),
            _ => Ok(()),
        }
    }

    /// What to say when the time is up.
    #[must_use]
    pub fn late(&self) -> SourceError {
        SourceError::Expectation { what: self.member.clone(), why: self.late_why() }
    }

    pub(super) fn late_why(&self) -> String {
        format!("ran longer than its time limit of {} s", self.timeout.unwrap_or_default().as_secs())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn files_of_one_stem_never_meet_not_even_those_of_an_earlier_process() {
        static GO_ON: AtomicBool = AtomicBool::new(false);
        let dir = tempfile::tempdir().unwrap_or_else(|e| panic!("{e}"));
        let work = Work::new("member", dir.path().to_owned(), Timestamp(0), "UTC", &GO_ON);
        let number = |path: &PathBuf| path.extension().and_then(|n| n.to_str()?.split('-').nth(1)?.parse::<u32>().ok());
        let (first, _) = work.new_file("pass.cnf").unwrap_or_else(|e| panic!("{e}"));
        let next = number(&first).unwrap_or_default() + 1;
        std::fs::write(dir.path().join(format!("pass.cnf-{next}")), "left behind").unwrap_or_else(|e| panic!("{e}"));
        let (second, _) = work.new_file("pass.cnf").unwrap_or_else(|e| panic!("{e}"));
        assert!(number(&second) > Some(next), "{}", second.display());
    }
}
