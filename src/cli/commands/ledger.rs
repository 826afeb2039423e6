//! `farkeep ledger`

use std::fmt::Write as _;

use super::restore::CopyArgs;
use crate::cli::passphrase::IdentityArgs;
use crate::cli::{Outcome, Session, commands, render};
use crate::format::record::RecordKind;
use crate::ops::ledger::{Ledger, read};
use crate::ops::{Exit, OpError};

/// What to do with the ledger.
#[derive(Debug, clap::Subcommand)]
pub enum Args {
    /// Show what was recorded, oldest first
    Show(ShowArgs),
    /// Check every signature and chain, and name what was changed or removed
    Verify(VerifyArgs),
}

/// Arguments of `farkeep ledger show`.
#[derive(Debug, clap::Args)]
pub struct ShowArgs {
    /// Only records of these kinds: snapshot, verify, restore, ...
    #[arg(long, value_name = "KIND")]
    kind: Vec<String>,
    #[command(flatten)]
    copy: CopyArgs,
    #[command(flatten)]
    identity: IdentityArgs,
}

/// Arguments of `farkeep ledger verify`.
#[derive(Debug, clap::Args)]
pub struct VerifyArgs {
    #[command(flatten)]
    copy: CopyArgs,
}

/// Runs it.
pub fn run(args: &Args, session: &Session) -> Result<Outcome, OpError> {
    match args {
        Args::Show(args) => show(args, session),
        Args::Verify(args) => {
            let plan = commands::read_plan(session, &args.copy, &IdentityArgs::default())?;
            let ledger = read(&plan, &session.env())?;
            session.progress.clear();
            let verdict = match ledger.exit() {
                Exit::Done => "whole",
                Exit::Alarm => "NOT WHOLE",
                _ => "see below",
            };
            let mut text =
                format!("{}: {verdict}: {}\n", ledger.store, render::count(ledger.records.len() as u64, "record"));
            render::findings(&mut text, &ledger.findings);
            Ok(Outcome::new(ledger.exit(), text, &ledger))
        }
    }
}

fn show(args: &ShowArgs, session: &Session) -> Result<Outcome, OpError> {
    let is_kind =
        |kind: &str, wanted: &str| kind == wanted || kind.strip_prefix(wanted).is_some_and(|rest| rest.starts_with('-'));
    if let Some(unknown) = args.kind.iter().find(|wanted| !RecordKind::known().any(|kind| is_kind(kind, wanted))) {
        let known: Vec<&str> = RecordKind::known().collect();
        return Err(OpError::Usage(format!("--kind {unknown}: no record is of that kind; there are {}", known.join(", "))));
    }
    let plan = commands::read_plan(session, &args.copy, &args.identity)?;
    let mut ledger = read(&plan, &session.env())?;
    session.progress.clear();
    if !args.kind.is_empty() {
        let wanted = |kind: &str| args.kind.iter().any(|wanted| is_kind(kind, wanted));
        ledger.records.retain(|record| wanted(&record.kind));
    }
    Ok(Outcome::new(Exit::Done, describe(&ledger), &ledger))
}

fn describe(ledger: &Ledger) -> String {
    let mut text = String::new();
    for record in &ledger.records {
        let standing = if record.standing == "trusted" { String::new() } else { format!(" [{}]", record.standing) };
        let place = if record.in_copy { "" } else { " [only here]" };
        let _ = writeln!(text, "{}  {} #{}  {}{standing}{place}", record.time, record.writer, record.seq, record.summary);
    }
    let _ = writeln!(text, "{} in {}", render::count(ledger.records.len() as u64, "record"), ledger.store);
    text
}
