//! `command` and `stackgraph`: a program's output, and the program that takes it back.
//!
//! An argv, never a shell string. The output comes from standard output, or from a file that the program is told by `{out}`
//! and must make itself. The way back gets it at `{in}`, or on standard input. Exit codes decide, and where a log is named,
//! that too: a program that ends with 0 and did not log its success has failed.

use std::fs::File;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use crate::source::SourceError;
use crate::source::engine::{Account, Backup, Engine, Fetched, Part, Survey};
use crate::source::tool::Tool;
use crate::source::work::Work;

mod log;
mod room;

pub use log::LogRule;
use room::Room;

/// In an argument: the file that the program is to make, or to read.
const OUT: &str = "{out}";
const IN: &str = "{in}";
/// Where the log that a restore was judged by is kept until it is recorded.
const VERDICT: &str = "verdict";

/// A program whose output is backed up.
#[derive(Debug, Clone)]
pub struct CommandConfig {
    /// The member's name.
    pub name: String,
    /// command or stackgraph.
    pub kind: &'static str,
    /// Program and arguments.
    pub argv: Vec<String>,
    /// What the output is called.
    pub filename: String,
    /// Whom the programs run as.
    pub user: Option<String>,
    /// Where the files of `{out}` and `{in}` lie: that user must be able to get there. None is a private place.
    pub staging: Option<PathBuf>,
    /// Prints lines `NAME: VALUE`, before and after the backup: what stood still is recorded, and compared after a restore.
    pub count: Vec<String>,
    /// The way back; none where there is none.
    pub restore: Option<CommandRestore>,
}

/// The program that takes the output back.
#[derive(Debug, Clone)]
pub struct CommandRestore {
    /// Program and arguments.
    pub argv: Vec<String>,
    /// The log that tells whether it worked.
    pub log: Option<LogRule>,
}

impl Engine for CommandConfig {
    fn name(&self) -> &str {
        &self.name
    }

    fn kind(&self) -> &'static str {
        self.kind
    }

    fn open(&self, _: &Work) -> Result<Box<dyn Backup>, SourceError> {
        self.tool(&self.argv)?;
        Ok(Box::new(Exporting { config: self.clone(), made: None, before: Vec::new(), given: false }))
    }

    fn survey(&self, _: &Account, work: &Work) -> Result<Survey, SourceError> {
        let restore = self.way_back()?;
        let program = self.tool(&restore.argv)?.name();
        let mut survey = Survey { target: format!("what {program} writes to"), ..Survey::default() };
        if self.count.is_empty() {
            survey.destroys.push(format!("whatever {program} replaces: no count is configured for it"));
        } else {
            // What is to be replaced may be damaged, or gone.
            match self.counts(work) {
                Ok(counts) => survey.destroys.extend(counts.iter().map(|(name, value)| format!("{name}: {value}"))),
                Err(error) if work.check().is_ok() => {
                    survey.destroys.push(format!("whatever {program} replaces, which cannot be counted ({error})"));
                }
                Err(error) => return Err(error),
            }
        }
        if let Some(rule) = &restore.log {
            survey.notes.push(format!("judged by {}", rule.path.display()));
        }
        Ok(survey)
    }

    fn check(&self, fetched: &Fetched, _: &Work) -> Result<(), SourceError> {
        fetched.part(&self.filename).map(|_| ())
    }

    fn replace(&self, fetched: &Fetched, work: &Work) -> Result<(), SourceError> {
        let restore = self.way_back()?;
        let part = fetched.part(&self.filename)?;
        let opened = |source| SourceError::Io { path: part.display().to_string(), source };
        let watch = restore.log.as_ref().map(LogRule::begin).transpose()?;
        let ended = if mentions(&restore.argv, IN) {
            let room = Room::make(self, work)?;
            let tool = self.tool(&with_path(&restore.argv, IN, &room.take(part, &self.filename)?))?;
            tool.judge(tool.call(work)?)
        } else {
            let tool = self.tool(&restore.argv)?;
            tool.judge(tool.run_with(File::open(part).map_err(opened)?, work)?)
        };
        let verdict = watch.map(|watch| watch.judge(ended.is_ok(), work));
        if let Some(log) = verdict.as_ref().map(|verdict| &verdict.slice) {
            let path = work.scratch.join(VERDICT);
            std::fs::write(&path, log).map_err(|source| SourceError::Io { path: path.display().to_string(), source })?;
        }
        match (ended, verdict.and_then(|verdict| verdict.failure)) {
            (Ok(_), None) => Ok(()),
            (Ok(_), Some(why)) => Err(self.failed(&restore.argv, &why)),
            (Err(SourceError::Command { command, why }), Some(log)) => {
                Err(SourceError::Command { command, why: format!("{why}; {log}") })
            }
            (Err(error), _) => Err(error),
        }
    }

    fn prove(&self, _: &Fetched, work: &Work) -> Result<Account, SourceError> {
        let log = std::fs::read_to_string(work.scratch.join(VERDICT)).ok();
        Ok(Account { proof: self.counts(work)?.into_iter().collect(), log, ..Account::default() })
    }
}

impl CommandConfig {
    fn tool(&self, argv: &[String]) -> Result<Tool, SourceError> {
        Ok(Tool::of_argv(argv)?.as_user(self.user.as_deref()))
    }

    fn way_back(&self) -> Result<&CommandRestore, SourceError> {
        self.restore.as_ref().ok_or_else(|| {
            let name = &self.name;
            SourceError::Configuration(format!(
                "source {name:?} has no restore_command that brings it back; leave it out with --member"
            ))
        })
    }

    fn failed(&self, argv: &[String], why: &str) -> SourceError {
        let command = argv.first().cloned().unwrap_or_default();
        SourceError::Command { command, why: why.to_owned() }
    }

    /// Runs what counts.
    fn counts(&self, work: &Work) -> Result<Vec<(String, String)>, SourceError> {
        if self.count.is_empty() {
            return Ok(Vec::new());
        }
        let text = String::from_utf8_lossy(&self.tool(&self.count)?.succeed(work)?).into_owned();
        text.lines()
            .map(str::trim)
            .filter(|line| !line.is_empty())
            .map(|line| match line.split_once(':') {
                Some((name, value)) => Ok((name.trim().to_owned(), value.trim().to_owned())),
                None => Err(self.failed(&self.count, "prints a line that is not NAME: VALUE")),
            })
            .collect()
    }
}

fn mentions(argv: &[String], placeholder: &str) -> bool {
    argv.iter().any(|arg| arg.contains(placeholder))
}

fn with_path(argv: &[String], placeholder: &str, path: &Path) -> Vec<String> {
    argv.iter().map(|arg| arg.replace(placeholder, &path.to_string_lossy())).collect()
}

/// What shows that a file was written to or put in place of another; none where there is none.
type Look = Option<(u64, u64, i64, i64)>;

fn look(path: &Path) -> Look {
    let meta = std::fs::symlink_metadata(path).ok()?;
    Some((meta.ino(), meta.size(), meta.mtime(), meta.mtime_nsec()))
}

struct Exporting {
    config: CommandConfig,
    /// The file as the program left it, and its room: kept until the part was read.
    made: Option<(Look, PathBuf, Room)>,
    /// What was counted before.
    before: Vec<(String, String)>,
    given: bool,
}

impl Backup for Exporting {
    fn next(&mut self, work: &Work) -> Result<Option<Part>, SourceError> {
        if std::mem::replace(&mut self.given, true) {
            return Ok(None);
        }
        self.before = self.config.counts(work)?;
        let config = &self.config;
        let name = config.filename.clone();
        if !mentions(&config.argv, OUT) {
            let tool = config.tool(&config.argv)?;
            return Ok(Some(Part::new(name, move |work: &Work| tool.stream(work))));
        }
        let room = Room::make(config, work)?;
        let path = room.path(&name);
        let argv = with_path(&config.argv, OUT, &path);
        let tool = config.tool(&argv)?;
        tool.judge(tool.call(work)?)?;
        match std::fs::symlink_metadata(&path) {
            Ok(meta) if meta.is_file() && meta.len() > 0 => {}
            Ok(_) => return Err(config.failed(&argv, "ended with exit code 0 and left an empty file")),
            Err(_) => return Err(config.failed(&argv, "ended with exit code 0 and made no file")),
        }
        self.made = Some((look(&path), path.clone(), room));
        Ok(Some(Part::file(name, path)))
    }

    fn finish(&mut self, work: &Work) -> Result<Account, SourceError> {
        if let Some((then, path, _room)) = self.made.take()
            && look(&path) != then
        {
            let why = "left something running that is still at work on its output";
            return Err(self.config.failed(&self.config.argv, why));
        }
        // Of what moved meanwhile nobody knows which count the output holds.
        let stood_still = self.config.counts(work)?.into_iter().filter(|count| self.before.contains(count));
        Ok(Account { proof: stood_still.collect(), ..Account::default() })
    }
}

#[cfg(test)]
mod tests;
