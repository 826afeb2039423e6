//! Running other programs: an argv, never a shell string; the exit status decides.
//!
//! Each runs in a process group of its own, which is killed as a whole at the time limit, when the work stops, or when farkeep
//! itself is killed. Its standard error is capped and redacted before anybody sees it: clients print whole rows and addresses
//! with passwords.

use std::ffi::{OsStr, OsString};
use std::fs::File;
use std::io::{self, Read, Seek};
use std::os::unix::process::CommandExt;
use std::path::PathBuf;
use std::process::{Child, ChildStdout, Command, ExitStatus, Stdio};
use std::sync::mpsc::{Receiver, sync_channel};
use std::time::Duration;

use rustix::event::{PollFd, PollFlags, poll};
use rustix::time::Timespec;

use crate::source::SourceError;
use crate::source::engine::PartRead;
use crate::source::secret::SecretText;
use crate::source::work::Work;

mod group;
mod redact;
mod watch;

use group::{Group, Then, await_end};
use redact::Kept;
pub use redact::redact;
pub use watch::Question;
use watch::{Silence, Waiting, Watch};

/// What [`Tool::run`] keeps of standard output: enough for a version or a list, too little for a dump.
const STDOUT_KEPT_BYTES: usize = 1024 * 1024;
/// How often a reader that waits for output looks whether the program was killed meanwhile.
const LOOK_INTERVAL: Timespec = Timespec { tv_sec: 0, tv_nsec: 200_000_000 };
/// How long the standard error of a program that has ended is read on: a daemon that it left behind may hold it for ever.
const LAST_WORDS_WAIT: Duration = Duration::from_secs(2);

/// A program to be run.
#[derive(Debug, Clone)]
pub struct Tool {
    argv: Vec<OsString>,
    env: Vec<(OsString, Option<OsString>)>,
    dir: Option<PathBuf>,
    user: Option<String>,
    secrets: Vec<SecretText>,
    then: Then,
    question: Option<Question>,
}

/// How a program ended.
#[derive(Debug, Clone)]
pub struct Ended {
    /// Its exit status.
    pub status: ExitStatus,
    /// The beginning of its standard output.
    pub stdout: Vec<u8>,
    /// What may be shown of its standard error, on one line.
    pub stderr: String,
}

impl Tool {
    /// A program by name or path.
    #[must_use]
    pub fn new(program: impl Into<OsString>) -> Self {
        let argv = vec![program.into()];
        Self { argv, env: Vec::new(), dir: None, user: None, secrets: Vec::new(), then: Then::Dies, question: None }
    }

    /// A whole argv.
    ///
    /// # Errors
    /// When it names no program.
    pub fn of_argv<S: AsRef<OsStr>>(argv: &[S]) -> Result<Self, SourceError> {
        match argv.split_first() {
            Some((program, args)) if !program.as_ref().is_empty() => Ok(Self::new(program).args(args)),
            _ => Err(SourceError::Configuration("a command names no program".into())),
        }
    }

    /// Adds an argument.
    #[must_use]
    pub fn arg(mut self, arg: impl Into<OsString>) -> Self {
        self.argv.push(arg.into());
        self
    }

    /// Adds arguments.
    #[must_use]
    pub fn args<S: AsRef<OsStr>>(mut self, args: impl IntoIterator<Item = S>) -> Self {
        self.argv.extend(args.into_iter().map(|arg| arg.as_ref().to_owned()));
        self
    }

    /// Sets a variable of its environment. Not for secrets, unless the tool takes them in no other way.
    #[must_use]
    pub fn env(mut self, name: impl Into<OsString>, value: impl Into<OsString>) -> Self {
        self.env.push((name.into(), Some(value.into())));
        self
    }

    /// Keeps a variable of our own environment from it.
    #[must_use]
    pub fn without_env(mut self, name: impl Into<OsString>) -> Self {
        self.env.push((name.into(), None));
        self
    }

    /// Runs it in this directory.
    #[must_use]
    pub fn in_dir(mut self, dir: impl Into<PathBuf>) -> Self {
        self.dir = Some(dir.into());
        self
    }

    /// Runs it as this user; only root can.
    #[must_use]
    pub fn as_user(mut self, user: Option<&str>) -> Self {
        self.user = user.map(str::to_owned);
        self
    }

    /// Lets it go on when farkeep is killed: it undoes something.
    #[must_use]
    pub const fn living_on(mut self) -> Self {
        self.then = Then::LivesOn;
        self
    }

    /// Has this asked when it says nothing for long.
    #[must_use]
    pub fn asking(mut self, question: Question) -> Self {
        self.question = Some(question);
        self
    }

    /// Never to be shown, wherever the program prints it.
    #[must_use]
    pub fn hiding(mut self, secret: &SecretText) -> Self {
        self.secrets.push(secret.clone());
        self
    }

    /// The program's name, for messages: arguments are not shown.
    #[must_use]
    pub fn name(&self) -> String {
        self.argv[0].to_string_lossy().into_owned()
    }

    /// Starts it and gives its standard output as a part; [`PartRead::finish`] waits for a good exit status.
    ///
    /// # Errors
    /// When it cannot be started.
    pub fn stream(&self, work: &Work) -> Result<Running, SourceError> {
        // Its output is all that it is run for: that it gives none is worth a word, whether anybody knows why or not.
        self.start(Stdio::null(), Silence::of_output(self.name(), self.question.clone()), work)
    }

    /// The same, with `input` as its standard input.
    ///
    /// # Errors
    /// When it cannot be started.
    pub fn stream_with(&self, input: File, work: &Work) -> Result<Running, SourceError> {
        self.start(Stdio::from(input), self.silence(), work)
    }

    /// Runs it to its end, with nothing on standard input. Its exit status is for the caller to judge.
    ///
    /// # Errors
    /// When it cannot be started, runs too long or is interrupted.
    pub fn run(&self, work: &Work) -> Result<Ended, SourceError> {
        self.start(Stdio::null(), self.silence(), work)?.wait()
    }

    /// Runs it to its end with `input` as its standard input.
    ///
    /// # Errors
    /// As [`Tool::run`].
    pub fn run_with(&self, input: File, work: &Work) -> Result<Ended, SourceError> {
        self.start(Stdio::from(input), self.silence(), work)?.wait()
    }

    /// Runs it to a good end and gives what it printed.
    ///
    /// # Errors
    /// As [`Tool::run`], and when its exit status is not 0.
    pub fn succeed(&self, work: &Work) -> Result<Vec<u8>, SourceError> {
        self.judge(self.run(work)?)
    }

    /// Takes an exit status of 0 and nothing else for success.
    ///
    /// # Errors
    /// When it is another.
    pub fn judge(&self, ended: Ended) -> Result<Vec<u8>, SourceError> {
        if ended.status.success() {
            return Ok(ended.stdout);
        }
        Err(failure(&self.name(), &format!("ended with {}", ended.status), &ended.stderr))
    }

    /// Runs it to its end and leaves alone what it started: a service may hold on to its pipes and live on. Its output is
    /// not kept.
    ///
    /// # Errors
    /// As [`Tool::run`].
    pub fn call(&self, work: &Work) -> Result<Ended, SourceError> {
        let failed = |e: io::Error| failure(&self.name(), &format!("cannot be started: {e}"), "");
        let mut said = tempfile::tempfile().map_err(failed)?;
        let group = Group::new(self.then).map_err(failed)?;
        let mut command = self.command(&group)?;
        command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(said.try_clone().map_err(failed)?);
        let mut child = command.spawn().map_err(failed)?;
        let mut watch = Watch::start(&group, &child, None, work);
        let ended = await_end(&child);
        let killed = watch.stop();
        let status = ended.and_then(|()| child.wait()).map_err(|e| unawaited(&self.name(), &e))?;
        let shown = said.rewind().map(|()| Kept::read(said, self.secrets.clone()).show()).unwrap_or_default();
        match killed {
            true if work.is_stopped() => Err(SourceError::Interrupted),
            true => Err(failure(&self.name(), &format!("{} and was killed", work.late_why()), &shown)),
            false => Ok(Ended { status, stdout: Vec::new(), stderr: shown }),
        }
    }

    fn command(&self, group: &Group) -> Result<Command, SourceError> {
        let mut command = Command::new(&self.argv[0]);
        command.args(&self.argv[1..]).process_group(group.id());
        for (name, value) in &self.env {
            match value {
                Some(value) => command.env(name, value),
                None => command.env_remove(name),
            };
        }
        if let Some(dir) = &self.dir {
            command.current_dir(dir);
        }
        if let Some(name) = &self.user {
            let user = uzers::get_user_by_name(name);
            let user = user.ok_or_else(|| failure(&self.name(), &format!("there is no user {name:?} to run as"), ""))?;
            command.uid(user.uid()).gid(user.primary_group_id());
        }
        Ok(command)
    }

    fn silence(&self) -> Silence {
        Silence::of_work(self.name(), self.question.clone())
    }

    fn start(&self, input: Stdio, silence: Silence, work: &Work) -> Result<Running, SourceError> {
        work.check()?;
        let failed = |why: String| failure(&self.name(), &why, "");
        let group = Group::new(self.then).map_err(|e| failed(format!("cannot be started: {e}")))?;
        let mut command = self.command(&group)?;
        command.stdin(input).stdout(Stdio::piped()).stderr(Stdio::piped());
        let mut child = command.spawn().map_err(|e| failed(format!("cannot be started: {e}")))?;
        let waiting = silence.waiting();
        let watch = Watch::start(&group, &child, Some(silence), work);
        let (Some(stdout), Some(stderr)) = (child.stdout.take(), child.stderr.take()) else {
            return Err(failed("has no pipes".into()));
        };
        let secrets = self.secrets.clone();
        let (give, said) = sync_channel(1);
        std::thread::spawn(move || _ = give.send(Kept::read(stderr, secrets)));
        let stderr = Some(said);
        Ok(Running { name: self.name(), child, group, stdout, waiting, stderr, watch, work: work.clone() })
    }
}

fn failure(command: &str, why: &str, stderr: &str) -> SourceError {
    let why = if stderr.is_empty() { why.to_owned() } else { format!("{why}: {stderr}") };
    SourceError::Command { command: command.to_owned(), why }
}

fn unawaited(command: &str, error: &io::Error) -> SourceError {
    failure(command, &format!("cannot be waited for: {error}"), "")
}

/// A running program. It is killed with its children when this is dropped before its end.
pub struct Running {
    name: String,
    child: Child,
    group: Group,
    stdout: ChildStdout,
    waiting: Waiting,
    stderr: Option<Receiver<Kept>>,
    watch: Watch,
    work: Work,
}

impl Running {
    fn wait(mut self) -> Result<Ended, SourceError> {
        let (mut stdout, mut buffer) = (Vec::new(), [0; 8192]);
        loop {
            let count = self.read(&mut buffer)?;
            if count == 0 {
                break;
            }
            stdout.extend(&buffer[..count.min(STDOUT_KEPT_BYTES - stdout.len())]);
        }
        let (status, stderr) = self.end()?;
        Ok(Ended { status, stdout, stderr })
    }

    /// Waits for its end. It may have closed its output and still be at work.
    fn end(&mut self) -> Result<(ExitStatus, String), SourceError> {
        let ended = await_end(&self.child);
        let killed = self.watch.stop();
        let status = ended.and_then(|()| self.child.wait()).map_err(|e| unawaited(&self.name, &e))?;
        // What it left running holds its pipes open, and would be waited for without end.
        self.group.kill();
        let said = self.stderr.take().and_then(|said| said.recv_timeout(LAST_WORDS_WAIT).ok());
        let stderr = said.map(Kept::show).unwrap_or_default();
        // Also one that had ended well by itself: what it left at work was killed, and its output may be cut short.
        if killed { Err(self.late(&stderr)) } else { Ok((status, stderr)) }
    }

    fn late(&self, stderr: &str) -> SourceError {
        if self.work.is_stopped() {
            return SourceError::Interrupted;
        }
        failure(&self.name, &format!("{} and was killed", self.work.late_why()), stderr)
    }

    /// Waits until there is output, or its end; what has left the group holds it open, and outlives its killing.
    fn await_output(&self) -> Result<(), SourceError> {
        loop {
            match poll(&mut [PollFd::new(&self.stdout, PollFlags::IN)], Some(&LOOK_INTERVAL)) {
                Ok(0) if self.watch.has_fired() => return Err(self.late("")),
                Ok(0) | Err(rustix::io::Errno::INTR) => {}
                // What else is wrong the reading tells.
                _ => return Ok(()),
            }
        }
    }
}

impl PartRead for Running {
    fn read(&mut self, buffer: &mut [u8]) -> Result<usize, SourceError> {
        loop {
            self.waiting.begin();
            let awaited = self.await_output();
            self.waiting.end();
            awaited?;
            match self.stdout.read(buffer) {
                Ok(count) => return Ok(count),
                Err(e) if e.kind() == io::ErrorKind::Interrupted => {}
                Err(e) => return Err(failure(&self.name, &format!("its output cannot be read: {e}"), "")),
            }
        }
    }

    fn finish(&mut self) -> Result<(), SourceError> {
        let (status, stderr) = self.end()?;
        if status.success() { Ok(()) } else { Err(failure(&self.name, &format!("ended with {status}"), &stderr)) }
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        self.watch.stop();
        if !matches!(self.child.try_wait(), Ok(Some(_))) {
            self.group.killer(&self.child)();
            let _ = self.child.wait();
        }
    }
}
