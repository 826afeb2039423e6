//! Hooks: commands before and after a job or one of its sources, such as stopping a service and starting it again.
//!
//! What must be undone is on disk before a `before` hook runs. When farkeep dies in between, the next run of farkeep on this
//! machine finds the note, sees by its lock that nobody is at work any more, and runs `after.on_failure` and
//! `after.always`: a service does not stay down because a backup was killed.
//!
//! A hook is an argv, never a shell string, with a time limit of its own. A `before` hook that exits with 75 skips the job
//! softly: there is no snapshot and nothing is wrong.

use std::fs::File;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};

use rustix::fs::FlockOperation;
use serde::{Deserialize, Serialize};

use super::{Env, OpError};
use crate::model::finding::{Finding, FindingKind};
use crate::model::limits::MIB;
use crate::source::SourceError;
use crate::source::tool::{Ended, Tool};
use crate::source::work::Work;
use crate::state::{StateDir, StateError, make_private_dir, read_if_there, write_durably};
use crate::vault::VaultError;

/// A hook's time limit where none is configured.
pub const DEFAULT_TIMEOUT_SECS: u64 = 10 * 60;
/// sysexits.h EX_TEMPFAIL: not now, and nothing is wrong.
const SKIP: i32 = 75;
/// What undoes a `before` hook runs whoever asked to stop.
static NEVER: AtomicBool = AtomicBool::new(false);
static COUNTER: AtomicU32 = AtomicU32::new(0);

/// Program and arguments.
pub type Argv = Vec<String>;

/// The hooks of one place: a job, a source, their restores.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Hooks {
    /// Run first, in order; one that fails keeps the rest from being begun.
    pub before: Vec<Argv>,
    /// Run last, whatever happened, once something of `before` was begun.
    pub always: Vec<Argv>,
    /// Run when what lies between was done.
    pub on_success: Vec<Argv>,
    /// Run when it was not.
    pub on_failure: Vec<Argv>,
    /// The time limit of each; the default where there is none.
    pub timeout_secs: Option<u64>,
}

impl Hooks {
    /// Whether there are none.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        [&self.before, &self.always, &self.on_success, &self.on_failure].into_iter().all(Vec::is_empty)
    }

    /// The same with words filled in.
    #[must_use]
    pub fn filled(&self, words: &[(&str, &str)]) -> Self {
        let fill = |arg: &String| words.iter().fold(arg.clone(), |arg, (word, text)| arg.replace(word, text));
        let all = |argvs: &[Argv]| argvs.iter().map(|argv| argv.iter().map(fill).collect()).collect();
        Self {
            before: all(&self.before),
            always: all(&self.always),
            on_success: all(&self.on_success),
            on_failure: all(&self.on_failure),
            timeout_secs: self.timeout_secs,
        }
    }

    /// Runs the `before` hooks.
    ///
    /// # Errors
    /// When one fails, or asks to skip; what was begun is undone then.
    pub fn enter(&self, place: &str, state: &StateDir, env: &Env<'_>) -> Result<Entered, OpError> {
        let note = if self.is_empty() { None } else { Some(Note::write(place, self, state)?) };
        let mut entered = Entered { place: place.to_owned(), hooks: self.clone(), note, left: false };
        for argv in &self.before {
            env.step(format!("{place}: {}", argv.first().map_or("", String::as_str)));
            let ran = Tool::of_argv(argv).and_then(|tool| run(place, &tool, self.timeout_secs, env.cancel));
            let failed = match ran {
                Ok(ended) if ended.status.success() => continue,
                Ok(ended) if ended.status.code() == Some(SKIP) => {
                    // Nothing failed, so nothing that a failure runs is run.
                    entered.hooks.on_failure.clear();
                    VaultError::Absent(format!("{place}: {} asks to skip this time (exit code 75)", name(argv)))
                }
                Ok(ended) => hook_error(place, argv, &format!("ended with {}", ended.status), &ended.stderr),
                Err(SourceError::Interrupted) => VaultError::Interrupted,
                Err(error) => VaultError::Hook { place: place.to_owned(), source: error },
            };
            // What could not be undone is told with what went wrong.
            let undone = entered.leave(false);
            for finding in &undone {
                tracing::error!("{finding}");
            }
            return Err(failed.into());
        }
        Ok(entered)
    }
}

/// Between `before` and `after`. Dropping it runs what a failure runs.
pub struct Entered {
    place: String,
    hooks: Hooks,
    note: Option<Note>,
    left: bool,
}

impl Entered {
    /// Runs the hooks of the outcome, then those that always run, unless [`Entered::undo`] has. What fails is a finding.
    #[must_use]
    pub fn leave(mut self, success: bool) -> Vec<Finding> {
        self.end(success)
    }

    /// Runs those that always run at once: the outcome is not known yet, but a service need not wait for it.
    #[must_use]
    pub fn undo(&mut self) -> Vec<Finding> {
        let findings = run_all(&self.place, &std::mem::take(&mut self.hooks.always), self.hooks.timeout_secs);
        if let Some(note) = &self.note
            && let Err(error) = note.keep(&self.place, &self.hooks)
        {
            tracing::warn!(%error, "hooks that were run may be run again");
        }
        findings
    }

    fn end(&mut self, success: bool) -> Vec<Finding> {
        self.left = true;
        let hooks = if success { &self.hooks.on_success } else { &self.hooks.on_failure };
        let mut findings = run_all(&self.place, hooks, self.hooks.timeout_secs);
        findings.extend(run_all(&self.place, &self.hooks.always, self.hooks.timeout_secs));
        self.note = None;
        findings
    }
}

impl Drop for Entered {
    fn drop(&mut self) {
        if !self.left {
            for finding in self.end(false) {
                tracing::error!("{finding}");
            }
        }
    }
}

/// Undoes what runs that died have left: their notes lie here and nobody holds them.
///
/// # Errors
/// When a note cannot be read.
pub fn recover(state: &StateDir, env: &Env<'_>) -> Result<Vec<Finding>, OpError> {
    let dir = state.hooks();
    let mut left: Vec<PathBuf> = match std::fs::read_dir(&dir) {
        Ok(entries) => {
            entries.flatten().map(|entry| entry.path()).filter(|p| p.extension().is_some_and(|e| e == "json")).collect()
        }
        Err(_) => return Ok(Vec::new()),
    };
    // The last that was begun is undone first.
    left.sort();
    left.reverse();
    let mut findings = Vec::new();
    for path in left {
        let Some(_held) = hold(&path)? else { continue };
        let Some(bytes) = read_if_there(&path, MIB)? else { continue };
        let Noted { place, hooks } = serde_json::from_slice(&bytes).map_err(|e| StateError::invalid(&path, e))?;
        env.step(format!("{place}: undoing what an earlier run began"));
        let message = "an earlier run ended before its after hooks: they were run now";
        findings.push(Finding::new(FindingKind::Notice, &place, message));
        findings.extend(run_all(&place, &hooks.on_failure, hooks.timeout_secs));
        findings.extend(run_all(&place, &hooks.always, hooks.timeout_secs));
        std::fs::remove_file(&path).map_err(StateError::io(&path))?;
        std::fs::remove_file(lock_of(&path)).map_err(StateError::io(&path))?;
    }
    Ok(findings)
}

#[derive(Serialize, Deserialize)]
struct Noted {
    place: String,
    hooks: Hooks,
}

/// What is to be undone, on disk, locked for as long as this process lives.
struct Note {
    path: PathBuf,
    _held: File,
}

impl Note {
    fn write(place: &str, hooks: &Hooks, state: &StateDir) -> Result<Self, StateError> {
        let dir = state.hooks();
        make_private_dir(&dir)?;
        let number = COUNTER.fetch_add(1, Ordering::Relaxed);
        let path = dir.join(format!("{:08}-{number:04}.json", std::process::id()));
        // The lock lies beside it and is taken first: a note is never seen without its holder.
        let held = hold(&path)?.ok_or_else(|| StateError::Busy(path.clone()))?;
        let note = Self { path, _held: held };
        note.keep(place, hooks)?;
        Ok(note)
    }

    fn keep(&self, place: &str, hooks: &Hooks) -> Result<(), StateError> {
        let noted = Noted { place: place.to_owned(), hooks: hooks.clone() };
        let bytes = serde_json::to_vec(&noted).map_err(|e| StateError::invalid(&self.path, e))?;
        write_durably(&self.path, &bytes)
    }
}

impl Drop for Note {
    fn drop(&mut self) {
        for path in [self.path.clone(), lock_of(&self.path)] {
            if let Err(error) = std::fs::remove_file(&path) {
                tracing::warn!(path = %path.display(), %error, "not removed");
            }
        }
    }
}

fn lock_of(note: &Path) -> PathBuf {
    note.with_extension("lock")
}

/// Takes a note's lock; none when a living process has it.
fn hold(note: &Path) -> Result<Option<File>, StateError> {
    let path = lock_of(note);
    let file = File::options().create(true).truncate(false).write(true).open(&path).map_err(StateError::io(&path))?;
    match rustix::fs::flock(&file, FlockOperation::NonBlockingLockExclusive) {
        Ok(()) => Ok(Some(file)),
        Err(rustix::io::Errno::WOULDBLOCK) => Ok(None),
        Err(e) => Err(StateError::io(&path)(e.into())),
    }
}

fn name(argv: &[String]) -> &str {
    argv.first().map_or("", String::as_str)
}

fn hook_error(place: &str, argv: &[String], why: &str, stderr: &str) -> VaultError {
    let why = if stderr.is_empty() { why.to_owned() } else { format!("{why}: {stderr}") };
    let source = SourceError::Command { command: format!("hook {}", name(argv)), why };
    VaultError::Hook { place: place.to_owned(), source }
}

fn run(place: &str, tool: &Tool, timeout: Option<u64>, stop: &'static AtomicBool) -> Result<Ended, SourceError> {
    let now = crate::model::time::Timestamp(0);
    let work = Work::new(place, PathBuf::new(), now, "UTC", stop).with_timeout(timeout.or(Some(DEFAULT_TIMEOUT_SECS)));
    work.start_clock();
    tool.call(&work)
}

/// Runs all of them, also when one fails: each failure is a finding.
fn run_all(place: &str, hooks: &[Argv], timeout: Option<u64>) -> Vec<Finding> {
    let mut findings = Vec::new();
    for argv in hooks {
        // Should farkeep be killed now, a service is started all the same.
        let ran = Tool::of_argv(argv).and_then(|tool| run(place, &tool.living_on(), timeout, &NEVER));
        let error = match ran {
            Ok(ended) if ended.status.success() => continue,
            Ok(ended) => hook_error(place, argv, &format!("ended with {}", ended.status), &ended.stderr).to_string(),
            Err(error) => error.to_string(),
        };
        findings.push(Finding::new(FindingKind::Source, place, format!("after hook failed: {error}")));
    }
    findings
}
