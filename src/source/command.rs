//! A command's output as one entry: an argv, never a shell string; its exit status decides.
//!
//! The command runs in a process group of its own, which is killed as a whole at the time limit or when the push stops. Its
//! standard error is kept short and shown when it fails. Nothing of it becomes a snapshot before it has ended well.

use std::collections::VecDeque;
use std::io::{self, Read};
use std::os::unix::process::CommandExt;
use std::process::{Child, ChildStdout, Command, Stdio};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Condvar, Mutex, PoisonError};
use std::thread::JoinHandle;
use std::time::Duration;

use rustix::process::{Pid, Signal};

use crate::model::entry::{Metadata, Owner, Xattrs};
use crate::model::finding::Finding;
use crate::model::path::EntryPath;
use crate::model::time::Timestamp;
use crate::source::{Content, ContentError, Found, Load, Loaded, Piece, Settled, Source, SourceError};

/// The end of standard error that is kept: enough for a cause, too little for a table of rows.
const STDERR_KEPT_BYTES: usize = 4096;
/// Lines of it that are shown.
const STDERR_SHOWN_LINES: usize = 6;

/// A command whose output is backed up.
#[derive(Debug, Clone)]
pub struct CommandConfig {
    /// The member's name.
    pub name: String,
    /// Program and arguments.
    pub argv: Vec<String>,
    /// What the output is called; it lies at `@<name>/<filename>`.
    pub filename: String,
    /// Killed after so many seconds.
    pub timeout_secs: Option<u64>,
    /// Less output is a failure. Empty output always is.
    pub min_bytes: u64,
    /// The time that its entry shows.
    pub now: Timestamp,
}

/// A command to be run.
pub struct CommandSource {
    config: CommandConfig,
    given: bool,
    outcome: Arc<Mutex<Option<u64>>>,
}

impl CommandSource {
    /// Makes ready to run it.
    ///
    /// # Errors
    /// When no program is named.
    pub fn new(config: CommandConfig) -> Result<Self, SourceError> {
        if config.argv.first().is_none_or(String::is_empty) {
            return Err(SourceError::Configuration(format!("source {:?} names no command", config.name)));
        }
        Ok(Self { config, given: false, outcome: Arc::default() })
    }
}

impl Source for CommandSource {
    fn name(&self) -> &str {
        &self.config.name
    }

    fn kind(&self) -> &'static str {
        "command"
    }

    fn roots(&self) -> Vec<EntryPath> {
        Vec::new()
    }

    fn context(&self) -> Option<String> {
        None
    }

    fn next(&mut self) -> Result<Option<Found>, SourceError> {
        if std::mem::replace(&mut self.given, true) {
            return Ok(None);
        }
        let text = format!("@{}/{}", self.config.name, self.config.filename);
        let path = EntryPath::from_bytes(text.clone()).map_err(|e| SourceError::Configuration(format!("{text}: {e}")))?;
        let load = Box::new(CommandLoad { config: self.config.clone(), outcome: Arc::clone(&self.outcome) });
        // Unknown length: it is read by one thread, as a large file is.
        Ok(Some(Found { path, key: None, bytes: u64::MAX, load }))
    }

    fn finish(&mut self) -> Result<Vec<Finding>, SourceError> {
        let bytes = self.outcome.lock().unwrap_or_else(PoisonError::into_inner).take();
        let command = self.config.argv[0].clone();
        let bytes = bytes.ok_or_else(|| SourceError::Command { command, why: "did not end well".into() })?;
        let what = self.config.name.clone();
        if bytes == 0 {
            return Err(SourceError::Expectation { what, why: "the command gave no output".into() });
        }
        if bytes < self.config.min_bytes {
            let why = format!("the command gave {bytes} bytes, at least {} are expected", self.config.min_bytes);
            return Err(SourceError::Expectation { what, why });
        }
        Ok(Vec::new())
    }
}

struct CommandLoad {
    config: CommandConfig,
    outcome: Arc<Mutex<Option<u64>>>,
}

impl Load for CommandLoad {
    fn load(self: Box<Self>) -> Result<Loaded, SourceError> {
        let owner = Owner { uid: 0, gid: 0, user: None, group: None };
        let mtime_ns = i128::from(self.config.now.0) * 1_000_000_000;
        let meta = Metadata { mode: 0o600, owner, mtime_ns, xattrs: Xattrs::none() };
        Ok(Loaded::File(meta, Box::new(Running::start(&self.config, self.outcome)?)))
    }
}

/// A running command.
struct Running {
    command: String,
    child: Child,
    stdout: ChildStdout,
    stderr: Option<JoinHandle<VecDeque<u8>>>,
    watchdog: Watchdog,
    bytes: u64,
    outcome: Arc<Mutex<Option<u64>>>,
}

impl Running {
    fn start(config: &CommandConfig, outcome: Arc<Mutex<Option<u64>>>) -> Result<Self, SourceError> {
        let command = config.argv[0].clone();
        let failed = |why: String| SourceError::Command { command: command.clone(), why };
        let mut child = Command::new(&config.argv[0])
            .args(&config.argv[1..])
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .process_group(0)
            .spawn()
            .map_err(|e| failed(format!("cannot be started: {e}")))?;
        let (Some(stdout), Some(stderr)) = (child.stdout.take(), child.stderr.take()) else {
            return Err(failed("has no pipes".into()));
        };
        let stderr = Some(std::thread::spawn(move || keep_end(stderr)));
        let watchdog = Watchdog::start(&child, config.timeout_secs);
        Ok(Self { command, child, stdout, stderr, watchdog, bytes: 0, outcome })
    }

    fn failed(&mut self, why: &str) -> ContentError {
        kill_group(&self.child);
        let _ = self.child.wait();
        let kept = self.stderr.take().and_then(|thread| thread.join().ok()).unwrap_or_default();
        let bytes: Vec<u8> = kept.into_iter().collect();
        let lines: Vec<String> =
            bytes.split(|b| *b == b'\n').filter(|l| !l.is_empty()).map(crate::model::path::escape).collect();
        let last = lines[lines.len().saturating_sub(STDERR_SHOWN_LINES)..].join("; ");
        let why = if last.is_empty() { why.to_owned() } else { format!("{why}: {last}") };
        ContentError::Fatal(SourceError::Command { command: self.command.clone(), why })
    }
}

impl Content for Running {
    fn read(&mut self, buffer: &mut [u8]) -> Result<Piece, ContentError> {
        loop {
            match self.stdout.read(buffer) {
                Ok(0) => return Ok(Piece::End),
                Ok(count) => {
                    self.bytes += count as u64;
                    return Ok(Piece::Data(count));
                }
                Err(e) if e.kind() == io::ErrorKind::Interrupted => {}
                Err(e) => return Err(self.failed(&format!("its output cannot be read: {e}"))),
            }
        }
    }

    fn settle(&mut self) -> Result<Settled, ContentError> {
        // It may have closed its output and still be at work: its status is waited for, within its time.
        let status = self.child.wait();
        let late = self.watchdog.stop();
        match status {
            Ok(_) if late => Err(self.failed("ran longer than its time limit and was killed")),
            Ok(status) if status.success() => {
                *self.outcome.lock().unwrap_or_else(PoisonError::into_inner) = Some(self.bytes);
                Ok(Settled::Same)
            }
            Ok(status) => Err(self.failed(&format!("ended with {status}"))),
            Err(e) => Err(self.failed(&format!("cannot be waited for: {e}"))),
        }
    }

    fn again(&mut self) -> Result<Option<Metadata>, ContentError> {
        Ok(None)
    }

    fn is_sparse(&self) -> bool {
        false
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        self.watchdog.stop();
        if !matches!(self.child.try_wait(), Ok(Some(_))) {
            kill_group(&self.child);
            let _ = self.child.wait();
        }
    }
}

fn keep_end(mut stderr: impl Read) -> VecDeque<u8> {
    let mut kept = VecDeque::new();
    let mut buffer = [0; 4096];
    while let Ok(count @ 1..) = stderr.read(&mut buffer) {
        kept.extend(&buffer[..count]);
        let excess = kept.len().saturating_sub(STDERR_KEPT_BYTES);
        kept.drain(..excess);
    }
    kept
}

fn group_of(child: &Child) -> Option<Pid> {
    i32::try_from(child.id()).ok().and_then(Pid::from_raw)
}

fn kill_group(child: &Child) {
    if let Some(group) = group_of(child) {
        // Gone already: nothing to kill.
        let _ = rustix::process::kill_process_group(group, Signal::KILL);
    }
}

/// Kills a process group at its time limit.
struct Watchdog {
    signal: Arc<(Mutex<bool>, Condvar)>,
    fired: Arc<AtomicBool>,
    thread: Option<JoinHandle<()>>,
}

impl Watchdog {
    fn start(child: &Child, timeout_secs: Option<u64>) -> Self {
        let signal = Arc::new((Mutex::new(false), Condvar::new()));
        let fired = Arc::new(AtomicBool::new(false));
        let thread = match (timeout_secs, group_of(child)) {
            (Some(secs), Some(group)) => {
                let (signal, fired) = (Arc::clone(&signal), Arc::clone(&fired));
                Some(std::thread::spawn(move || {
                    let (done, changed) = &*signal;
                    let guard = done.lock().unwrap_or_else(PoisonError::into_inner);
                    let waited = changed.wait_timeout_while(guard, Duration::from_secs(secs), |done| !*done);
                    if waited.is_ok_and(|(_, timeout)| timeout.timed_out()) {
                        fired.store(true, Ordering::Release);
                        let _ = rustix::process::kill_process_group(group, Signal::KILL);
                    }
                }))
            }
            _ => None,
        };
        Self { signal, fired, thread }
    }

    /// Ends the watch; tells whether the time was up.
    fn stop(&mut self) -> bool {
        *self.signal.0.lock().unwrap_or_else(PoisonError::into_inner) = true;
        self.signal.1.notify_all();
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
        self.fired.load(Ordering::Acquire)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn run(argv: &[&str], timeout_secs: Option<u64>, min_bytes: u64) -> Result<u64, String> {
        let config = CommandConfig {
            name: "dump".into(),
            argv: argv.iter().map(|a| (*a).to_owned()).collect(),
            filename: "out".into(),
            timeout_secs,
            min_bytes,
            now: Timestamp(0),
        };
        let mut source = CommandSource::new(config).map_err(|e| e.to_string())?;
        let found = source.next().map_err(|e| e.to_string())?.ok_or("no entry")?;
        assert_eq!(found.path.to_string(), "@dump/out");
        let Loaded::File(_, mut content) = found.load.load().map_err(|e| e.to_string())? else {
            return Err("no file".into());
        };
        let text = |e: ContentError| match e {
            ContentError::Fatal(e) => e.to_string(),
            ContentError::Entry(e) => panic!("a command's failure must never be a finding: {e}"),
        };
        let (mut bytes, mut buffer) = (0, vec![0; 1000]);
        while let Piece::Data(count) = content.read(&mut buffer).map_err(text)? {
            bytes += count as u64;
        }
        content.settle().map_err(text)?;
        source.finish().map(|_| bytes).map_err(|e| e.to_string())
    }

    #[test]
    fn output_counts_only_when_the_command_ends_well() {
        assert_eq!(run(&["printf", "hello"], None, 5), Ok(5));
        let failed = run(&["sh", "-c", "echo partial; echo 'disk on fire' >&2; exit 3"], None, 0).unwrap_err();
        assert!(failed.contains("exit status: 3") && failed.contains("disk on fire"), "{failed}");
        assert!(run(&["true"], None, 0).unwrap_err().contains("no output"));
        assert!(run(&["printf", "hello"], None, 6).unwrap_err().contains("at least 6"));
        assert!(run(&["/nonexistent/dump"], None, 0).unwrap_err().contains("cannot be started"));
    }

    #[test]
    fn a_command_that_hangs_is_killed_with_its_children() {
        let begun = std::time::Instant::now();
        let hung = run(&["sh", "-c", "echo x; sleep 600 & sleep 600"], Some(1), 0).unwrap_err();
        assert!(hung.contains("time limit"), "{hung}");
        assert!(begun.elapsed() < Duration::from_secs(30));
    }
}
