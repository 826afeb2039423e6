//! A farkeep that runs while the test does something else: to be killed, stopped or watched.

use std::ffi::OsString;
use std::os::unix::process::ExitStatusExt;
use std::path::Path;
use std::process::{Child, Stdio};
use std::time::{Duration, Instant};

use rustix::process::{Pid, Signal, kill_process};

use super::{Machine, Run};

/// Waits longer than this mean that something hangs.
const PATIENCE: Duration = Duration::from_secs(120);

/// A running farkeep; it is killed when this is dropped.
pub struct Running {
    child: Option<Child>,
    command: std::process::Command,
}

impl Running {
    pub fn start<I: IntoIterator<Item = S>, S: Into<OsString>>(machine: &Machine, args: I) -> Self {
        let mut command = machine.command(args);
        let child = command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
        Self { child: Some(child), command }
    }

    /// As [`start`](Self::start), with the errors in a file that can be read meanwhile.
    pub fn start_writing<I: IntoIterator<Item = S>, S: Into<OsString>>(machine: &Machine, args: I, errors: &Path) -> Self {
        let mut command = machine.command(args);
        let file = std::fs::File::create(errors).unwrap();
        let child = command.stdout(Stdio::piped()).stderr(file).spawn().unwrap();
        Self { child: Some(child), command }
    }

    fn pid(&self) -> Pid {
        Pid::from_child(self.child.as_ref().unwrap())
    }

    pub fn signal(&self, signal: Signal) {
        kill_process(self.pid(), signal).unwrap();
    }

    /// Whether it has ended.
    pub fn has_ended(&mut self) -> bool {
        self.child.as_mut().unwrap().try_wait().unwrap().is_some()
    }

    /// The most memory that it has held at once so far; none once it has ended.
    pub fn peak_bytes(&self) -> Option<u64> {
        let status = std::fs::read_to_string(format!("/proc/{}/status", self.child.as_ref()?.id())).ok()?;
        let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:"))?;
        let kibibytes: u64 = line.trim().strip_suffix(" kB")?.parse().ok()?;
        Some(kibibytes * 1024)
    }

    /// SIGKILL; gives whether it was still running.
    pub fn kill(mut self) -> bool {
        let child = self.child.as_mut().unwrap();
        let _ = child.kill();
        let status = child.wait().unwrap();
        self.child = None;
        status.signal() == Some(9)
    }

    /// Waits for its end.
    pub fn wait(mut self) -> Run {
        let output = self.child.take().unwrap().wait_with_output().unwrap();
        Run::new(&output, &self.command)
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        if let Some(child) = &mut self.child {
            let _ = child.kill();
            let _ = child.wait();
        }
    }
}

/// Waits until `done`, and fails when it takes too long.
#[track_caller]
pub fn until(what: &str, mut done: impl FnMut() -> bool) {
    let end = Instant::now() + PATIENCE;
    while !done() {
        assert!(Instant::now() < end, "waited too long until {what}");
        std::thread::sleep(Duration::from_millis(2));
    }
}
