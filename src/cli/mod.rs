//! The command line: the only part that speaks to people.
//!
//! Each command translates its arguments and the configuration into a plan, runs one operation, and gives an [`Outcome`]:
//! an exit code, a text for people and a value for programs. OUTPUT.md describes the values.

use std::io::{IsTerminal, Write};
use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, Ordering};

use clap::{Args, Parser, Subcommand};

use crate::model::time::SystemClock;
use crate::ops::{Env, Exit, OpError};
use crate::source::work::WAITING;

mod commands;
pub mod config;
mod passphrase;
mod presets;
mod progress;
mod render;
mod session;
mod wire;

pub use session::Session;

/// Version of the JSON that `--json` prints: raised when a value changes its meaning or goes away.
pub const JSON_SCHEMA: u32 = 1;

/// Set by signals; every operation looks at it.
static CANCEL: AtomicBool = AtomicBool::new(false);

/// Encrypted offsite replication: copies that prove themselves whole without a key, and open without farkeep.
#[derive(Debug, Parser)]
#[command(name = "farkeep", version, about, max_term_width = 100, disable_help_subcommand = true)]
pub struct Cli {
    #[command(flatten)]
    global: Global,
    #[command(subcommand)]
    command: Command,
}

/// Options of every command.
#[derive(Debug, Clone, Args)]
pub struct Global {
    /// Configuration file [default: /etc/farkeep/farkeep.toml for root, else ~/.config/farkeep/farkeep.toml]
    #[arg(long, global = true, env = "FARKEEP_CONFIG", value_name = "FILE")]
    config: Option<PathBuf>,
    /// Directory of keys, ledger and caches [default: /var/lib/farkeep for root, else ~/.local/state/farkeep]
    #[arg(long, global = true, env = "FARKEEP_STATE_DIR", value_name = "DIR")]
    state_dir: Option<PathBuf>,
    /// Print one JSON object instead of text
    #[arg(long, global = true)]
    json: bool,
    /// Print nothing but errors and findings, to standard error
    #[arg(long, short, global = true)]
    quiet: bool,
    /// Log what happens to standard error; twice for more
    #[arg(long, short, global = true, action = clap::ArgAction::Count)]
    verbose: u8,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Try the whole job in a scratch place: push, verify, restore, compare
    Try(commands::trial::Args),
    /// Make a vault: keys, configuration, directories
    Init(commands::init::Args),
    /// Back up jobs of the configuration, or paths, now
    Push(commands::push::Args),
    /// Bring a snapshot, or part of it, back
    Restore(Box<commands::restore::Args>),
    /// Look for damage: names and sizes, stored bytes, or content
    Verify(commands::verify::Args),
    /// Bring one copy up to date from another, without any key
    Sync(commands::sync::Args),
    /// Drop snapshots that the rules no longer keep, and what nobody needs any more
    #[command(subcommand)]
    Prune(commands::prune::Args),
    /// Care for a copy without any key that opens it: verify, prune, say that it lives
    Custodian(commands::custodian::Args),
    /// Keep a snapshot whatever the rules say
    Hold(commands::prune::HoldArgs),
    /// Decide whom the root trusts and whom backups are sealed to
    #[command(subcommand)]
    Keys(commands::keys::Args),
    /// Enrol external drives, bring their copies up to date, keep their register
    #[command(subcommand)]
    Drive(commands::drive::Args),
    /// List snapshots
    Snapshots(commands::browse::SnapshotsArgs),
    /// List what lies in a snapshot
    Ls(commands::browse::LsArgs),
    /// Find files in snapshots
    Find(commands::browse::FindArgs),
    /// Write a file of a snapshot to standard output
    Cat(commands::cat::Args),
    /// Compare two snapshots
    Diff(commands::browse::DiffArgs),
    /// Show or check the record of pushes, verifications and restores
    #[command(subcommand)]
    Ledger(commands::ledger::Args),
    /// Show whether every job is backed up where it should be
    Status(commands::status::Args),
    /// Attack a store with its own key: can what was stored be changed?
    Probe(commands::probe::Args),
    /// Serve a directory over SFTP, write-once, for trials
    Serve(commands::serve::Args),
    /// Print what a backup server's administrator does for a write-once account
    SshdConfig(commands::sshd_config::Args),
    /// Print a completion script for a shell
    Completions(commands::manual::CompletionsArgs),
    /// Print the manual page
    Man(commands::manual::ManArgs),
}

/// What a command has come to.
pub struct Outcome {
    /// The exit code.
    pub exit: Exit,
    /// For people: lines on standard output.
    pub text: String,
    /// For programs.
    pub value: serde_json::Value,
}

impl Outcome {
    /// An outcome of a value that can be shown.
    pub(crate) fn new(exit: Exit, text: String, value: &impl serde::Serialize) -> Self {
        let value = serde_json::to_value(value).unwrap_or(serde_json::Value::Null);
        Self { exit, text, value }
    }
}

/// Runs the program: parses, does, prints; gives the exit code.
#[must_use]
pub fn run() -> i32 {
    let cli = match Cli::try_parse() {
        Ok(cli) => cli,
        Err(error) => {
            let _ = error.print();
            return if error.use_stderr() { Exit::Usage as i32 } else { Exit::Done as i32 };
        }
    };
    start_log(cli.global.verbose);
    let _ = ctrlc::set_handler(|| {
        if CANCEL.swap(true, Ordering::Relaxed) {
            // Asked twice: nothing is lost, whatever is under way.
            std::process::exit(Exit::Interrupted as i32);
        }
    });
    let name = command_name(&cli.command);
    let json = cli.global.json;
    let outcome = dispatch(&cli.command, &cli.global);
    match outcome {
        Ok(outcome) => print_outcome(name, &outcome, &cli.global),
        Err(error) => print_error(name, &error, json),
    }
}

fn dispatch(command: &Command, global: &Global) -> Result<Outcome, OpError> {
    // What tells how to use the program must work where the configuration does not.
    match command {
        Command::Completions(args) => return commands::manual::run_completions(args),
        Command::Man(args) => return commands::manual::run_man(args),
        _ => {}
    }
    let session = &Session::open(global)?;
    match command {
        Command::Try(args) => commands::trial::run(args, session),
        Command::Init(args) => commands::init::run(args, session),
        Command::Push(args) => commands::push::run(args, session),
        Command::Restore(args) => commands::restore::run(args, session),
        Command::Verify(args) => commands::verify::run(args, session),
        Command::Sync(args) => commands::sync::run(args, session),
        Command::Prune(args) => commands::prune::run(args, session),
        Command::Custodian(args) => commands::custodian::run(args, session),
        Command::Hold(args) => commands::prune::run_hold(args, session),
        Command::Keys(args) => commands::keys::run(args, session),
        Command::Drive(args) => commands::drive::run(args, session),
        Command::Snapshots(args) => commands::browse::run_snapshots(args, session),
        Command::Ls(args) => commands::browse::run_ls(args, session),
        Command::Find(args) => commands::browse::run_find(args, session),
        Command::Cat(args) => commands::cat::run(args, session),
        Command::Diff(args) => commands::browse::run_diff(args, session),
        Command::Ledger(args) => commands::ledger::run(args, session),
        Command::Status(args) => commands::status::run(args, session),
        Command::Probe(args) => commands::probe::run(args, session),
        Command::Serve(args) => commands::serve::run(args, session),
        Command::SshdConfig(args) => commands::sshd_config::run(args, session),
        Command::Completions(args) => commands::manual::run_completions(args),
        Command::Man(args) => commands::manual::run_man(args),
    }
}

const fn command_name(command: &Command) -> &'static str {
    match command {
        Command::Try(_) => "try",
        Command::Init(_) => "init",
        Command::Push(_) => "push",
        Command::Restore(_) => "restore",
        Command::Verify(_) => "verify",
        Command::Sync(_) => "sync",
        Command::Prune(_) => "prune",
        Command::Custodian(_) => "custodian",
        Command::Hold(_) => "hold",
        Command::Keys(_) => "keys",
        Command::Drive(_) => "drive",
        Command::Snapshots(_) => "snapshots",
        Command::Ls(_) => "ls",
        Command::Find(_) => "find",
        Command::Cat(_) => "cat",
        Command::Diff(_) => "diff",
        Command::Ledger(_) => "ledger",
        Command::Status(_) => "status",
        Command::Probe(_) => "probe",
        Command::Serve(_) => "serve",
        Command::SshdConfig(_) => "sshd-config",
        Command::Completions(_) => "completions",
        Command::Man(_) => "man",
    }
}

fn start_log(verbose: u8) {
    let default = match verbose {
        0 => format!("farkeep=error,{WAITING}=warn"),
        1 => "farkeep=info,warn".into(),
        _ => "farkeep=debug,info".into(),
    };
    let filter = tracing_subscriber::EnvFilter::try_from_env("FARKEEP_LOG").unwrap_or_else(|_| default.into());
    let _ = tracing_subscriber::fmt().with_env_filter(filter).with_writer(std::io::stderr).with_target(false).try_init();
}

fn print_outcome(name: &str, outcome: &Outcome, global: &Global) -> i32 {
    let mut stdout = std::io::stdout().lock();
    if global.json {
        let line = serde_json::json!({
            "farkeep": env!("CARGO_PKG_VERSION"),
            "schema": JSON_SCHEMA,
            "command": name,
            "exit": outcome.exit as i32,
            "result": outcome.value,
        });
        let _ = writeln!(stdout, "{line}");
    } else if !global.quiet {
        let _ = stdout.write_all(outcome.text.as_bytes());
    } else if outcome.exit != Exit::Done {
        // Whoever wants to hear of errors only wants to hear of these: cron sends nothing but what is printed.
        let _ = std::io::stderr().lock().write_all(outcome.text.as_bytes());
    }
    let _ = stdout.flush();
    outcome.exit as i32
}

fn print_error(name: &str, error: &OpError, json: bool) -> i32 {
    let exit = error.exit();
    let mut stderr = std::io::stderr().lock();
    let _ = writeln!(stderr, "farkeep: {error}");
    if let Some(advice) = render::advice(name, error) {
        let _ = writeln!(stderr, "  {advice}");
    }
    if json {
        let line = serde_json::json!({
            "farkeep": env!("CARGO_PKG_VERSION"),
            "schema": JSON_SCHEMA,
            "command": name,
            "exit": exit as i32,
            "error": error.to_string(),
        });
        let _ = writeln!(std::io::stdout().lock(), "{line}");
    }
    exit as i32
}

/// Whether a person sits at the other end of standard input.
fn can_ask() -> bool {
    std::io::stdin().is_terminal()
}

impl Session {
    /// What operations are given.
    #[must_use]
    pub fn env(&self) -> Env<'_> {
        Env {
            clock: &SystemClock,
            observer: &self.progress,
            cancel: &CANCEL,
            host: &self.host,
            user: &self.user,
            state_root: &self.state_root,
        }
    }
}
