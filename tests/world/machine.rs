//! One machine: a configuration file and a state directory, and the binary that is run with them.

use std::ffi::OsString;
use std::fs;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};

use serde_json::Value;

use super::tools::is_root;

/// The program that is tested.
pub const FARKEEP: &str = env!("CARGO_BIN_EXE_farkeep");

/// A machine.
#[derive(Debug, Clone)]
pub struct Machine {
    pub config: PathBuf,
    pub state: PathBuf,
    pub home: PathBuf,
}

impl Machine {
    /// A machine without any configuration.
    pub fn new(dir: &Path, name: &str) -> Self {
        let home = dir.join(name);
        fs::create_dir_all(&home).unwrap();
        Self { config: home.join("farkeep.toml"), state: home.join("state"), home }
    }

    /// Adds lines to the configuration.
    pub fn configure(&self, text: &str) {
        let mut file = fs::File::options().create(true).append(true).open(&self.config).unwrap();
        write!(file, "\n{text}\n").unwrap();
    }

    /// The command, with nothing of the caller's environment but the search path. Standard input is empty.
    pub fn command<I: IntoIterator<Item = S>, S: Into<OsString>>(&self, args: I) -> Command {
        let mut command = Command::new(FARKEEP);
        self.dress(&mut command);
        command.args(args.into_iter().map(Into::into));
        command
    }

    /// Gives any command this machine's environment.
    pub fn dress(&self, command: &mut Command) {
        command.env_clear().stdin(Stdio::null());
        command.env("PATH", std::env::var_os("PATH").unwrap_or_default());
        command.env("HOME", &self.home).env("LC_ALL", "C.UTF-8").env("TZ", "UTC");
        command.env("FARKEEP_CONFIG", &self.config).env("FARKEEP_STATE_DIR", &self.state);
        // A panic says where, and the test shows it.
        command.env("RUST_BACKTRACE", "1");
    }

    /// farkeep as somebody to whom permissions apply, which they do not to root. Needs setpriv.
    pub fn command_without_power<I: IntoIterator<Item = S>, S: Into<OsString>>(&self, args: I) -> Command {
        let mut command = Command::new("setpriv");
        if is_root() {
            command.arg("--bounding-set=-dac_override,-dac_read_search");
        }
        self.dress(command.arg(FARKEEP).args(args.into_iter().map(Into::into)));
        command
    }

    /// Runs farkeep to its end.
    pub fn run<I: IntoIterator<Item = S>, S: Into<OsString>>(&self, args: I) -> Run {
        Run::of(&mut self.command(args))
    }

    /// Runs farkeep with a configuration text in place of what is there.
    pub fn reconfigure(&self, change: impl FnOnce(&str) -> String) {
        let text = fs::read_to_string(&self.config).unwrap();
        fs::write(&self.config, change(&text)).unwrap();
    }
}

/// A command that has ended.
#[derive(Debug)]
pub struct Run {
    /// The exit code; 128 and the signal's number when one ended it.
    pub code: i32,
    pub out: String,
    pub err: String,
    command: String,
}

impl Run {
    pub fn of(command: &mut Command) -> Self {
        let output = command.output().unwrap_or_else(|e| panic!("{command:?}: {e}"));
        Self::new(&output, command)
    }

    pub fn new(output: &Output, command: &Command) -> Self {
        use std::os::unix::process::ExitStatusExt;
        let code = output.status.code().unwrap_or_else(|| 128 + output.status.signal().unwrap_or(0));
        let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
        let words: Vec<_> = command.get_args().map(|arg| arg.to_string_lossy().into_owned()).collect();
        let run = Self { code, out: text(&output.stdout), err: text(&output.stderr), command: words.join(" ") };
        assert!(!run.err.contains("panicked at"), "farkeep {}: {}", run.command, run.err);
        run
    }

    /// It must end with this code.
    #[track_caller]
    pub fn exits(self, code: i32) -> Self {
        assert_eq!(self.code, code, "farkeep {}\n--- out\n{}\n--- err\n{}", self.command, self.out, self.err);
        self
    }

    /// It must be done.
    #[track_caller]
    pub fn ok(self) -> Self {
        self.exits(0)
    }

    /// Its output or its errors must hold this text.
    #[track_caller]
    pub fn says(self, text: &str) -> Self {
        let said = self.out.contains(text) || self.err.contains(text);
        assert!(said, "farkeep {} does not say {text:?}\n--- out\n{}\n--- err\n{}", self.command, self.out, self.err);
        self
    }

    /// Neither output nor errors may hold this text.
    #[track_caller]
    pub fn never_says(self, text: &str) -> Self {
        let said = self.out.contains(text) || self.err.contains(text);
        assert!(!said, "farkeep {} says {text:?}\n--- out\n{}\n--- err\n{}", self.command, self.out, self.err);
        self
    }

    /// The whole value that `--json` printed: exactly one line.
    #[track_caller]
    pub fn value(&self) -> Value {
        let value = serde_json::from_str(self.out.trim_end());
        assert_eq!(self.out.lines().count(), 1, "farkeep {}: one line is wanted: {}", self.command, self.out);
        value.unwrap_or_else(|e| panic!("farkeep {}: {e}: {:?}\n{}", self.command, self.out, self.err))
    }

    /// The result in it.
    #[track_caller]
    pub fn json(&self) -> Value {
        self.value()["result"].clone()
    }
}
