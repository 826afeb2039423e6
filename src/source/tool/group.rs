//! The process group that a program runs in, which ends with farkeep, however farkeep ends.
//!
//! A dump that outlives a farkeep that was killed would hold its locks, and a restore go on behind everybody's back. So a shell leads
//! the group and reads from a pipe that only we hold: when we are gone the pipe ends, and the shell kills its group. That reaches
//! whatever the program started, unless it made a group of its own, and the number of the group is never that of another one. The
//! kernel's own way (PR_SET_PDEATHSIG) reaches no grandchild and fires when the thread ends that started the program.

use std::io;
use std::os::unix::process::CommandExt;
use std::process::{Child, Command, Stdio};

use rustix::process::{Pid, Signal, WaitId, WaitIdOptions};

/// What leads a group.
const SHELL: &str = "/bin/sh";

/// What becomes of a program when farkeep ends before it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Then {
    /// It is killed, with all of its group.
    Dies,
    /// It goes on to its end.
    LivesOn,
}

/// A group, led by a shell until this is dropped. Dropping it ends nobody else.
pub struct Group {
    leader: Child,
}

impl Group {
    /// Makes one, without a program yet.
    pub fn new(then: Then) -> io::Result<Self> {
        let script = match then {
            Then::Dies => "read -r _; kill -s KILL 0",
            Then::LivesOn => "read -r _",
        };
        let mut shell = Command::new(SHELL);
        shell.args(["-c", script]).stdin(Stdio::piped()).stdout(Stdio::null()).stderr(Stdio::null());
        // Else it would be taken for an error of the program.
        let leader = shell.process_group(0).spawn().map_err(|e| io::Error::new(e.kind(), format!("{SHELL}: {e}")))?;
        Ok(Self { leader })
    }

    /// Its number, as a program that joins it needs it.
    pub fn id(&self) -> i32 {
        self.leader.id().cast_signed()
    }

    /// How to kill all of it, from another thread too, and `program` wherever it went, which must not be reaped before: with a
    /// session of its own it leads a group that has its number.
    pub fn killer(&self, program: &Child) -> impl Fn() + Send + 'static {
        let (group, program) = (Pid::from_raw(self.id()), Pid::from_child(program));
        move || {
            kill_group(group);
            kill_group(Some(program));
            let _ = rustix::process::kill_process(program, Signal::KILL);
        }
    }

    /// Kills all of it.
    pub fn kill(&self) {
        kill_group(Pid::from_raw(self.id()));
    }
}

impl Drop for Group {
    fn drop(&mut self) {
        // First this: waiting closes the pipe, and what a hook has started is to live on.
        let _ = self.leader.kill();
        let _ = self.leader.wait();
    }
}

fn kill_group(group: Option<Pid>) {
    if let Some(group) = group {
        // Gone already: nothing to kill.
        let _ = rustix::process::kill_process_group(group, Signal::KILL);
    }
}

/// Waits for a program's end and does not reap it: as long as it is watched, its number is to be nobody else's.
pub fn await_end(program: &Child) -> io::Result<()> {
    let id = WaitId::Pid(Pid::from_child(program));
    while let Err(error) = rustix::process::waitid(id.clone(), WaitIdOptions::EXITED | WaitIdOptions::NOWAIT) {
        if error != rustix::io::Errno::INTR {
            return Err(error.into());
        }
    }
    Ok(())
}
