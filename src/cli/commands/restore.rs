//! `farkeep restore`

use std::fmt::Write as _;
use std::path::PathBuf;

use super::run::{Common, RunArgs};
use crate::cli::passphrase::IdentityArgs;
use crate::cli::render;
use crate::cli::session::Session;
use crate::cli::{Outcome, commands};
use crate::model::path::EntryPath;
use crate::model::pattern::Selection;
use crate::model::size::human_size;
use crate::ops::OpError;
use crate::ops::restore::{Into, OnConflict, RestorePlan, RestoreReceipt, restore};

/// Which snapshot is meant.
#[derive(Debug, Clone, clap::Args)]
pub struct SnapshotArgs {
    /// The snapshot: latest, an id prefix, 2026-11-17, a weekday, or tag:NAME
    #[arg(value_name = "SNAP")]
    pub snapshot: String,
    /// Only snapshots of this job
    #[arg(long, value_name = "JOB")]
    pub job: Option<String>,
    /// Only snapshots of this host
    #[arg(long, value_name = "HOST")]
    pub host: Option<String>,
}

/// Which copy is read, and whom to trust about it.
#[derive(Debug, Clone, clap::Args)]
pub struct CopyArgs {
    /// The copy to read: a store's name or address [default: the first store that answers]
    #[arg(long, visible_alias = "store", value_name = "STORE")]
    pub from: Option<String>,
    /// The root to trust: a file .root.pub or its fingerprint [default: the configuration, else the identity file's comment]
    #[arg(long, value_name = "ROOTKEY")]
    pub trust: Option<String>,
}

/// Arguments of `farkeep restore`.
#[derive(Debug, clap::Args)]
#[command(group(clap::ArgGroup::new("where").required(true).args(["into", "in_place", "run"])))]
pub struct Args {
    #[command(flatten)]
    snapshot: SnapshotArgs,
    /// Paths or patterns; each path selects all below it [default: everything]
    #[arg(value_name = "PATH")]
    paths: Vec<String>,
    #[command(flatten)]
    copy: CopyArgs,
    #[command(flatten)]
    identity: IdentityArgs,
    /// Put each entry at DIR/<its path without the leading slash>
    #[arg(long, value_name = "DIR")]
    into: Option<PathBuf>,
    /// Put each entry where it came from, replacing what differs
    #[arg(long)]
    in_place: bool,
    /// With --in-place: remove what the snapshot does not hold from directories that are restored whole
    #[arg(long, requires = "in_place", conflicts_with = "into")]
    delete: bool,
    /// Remove this prefix from each path
    #[arg(long, value_name = "PREFIX")]
    strip: Option<String>,
    /// What to do where something else is already there [default: refuse; replace with --in-place]
    #[arg(long, value_name = "WHAT", value_parser = ["refuse", "skip", "replace"])]
    on_conflict: Option<String>,
    /// Restore only this member of the job
    #[arg(long, value_name = "NAME")]
    member: Vec<String>,
    /// Only print what would be done
    #[arg(long)]
    dry_run: bool,
    /// Take users and groups by number, not by name
    #[arg(long)]
    numeric_ids: bool,
    /// Also set setuid and setgid bits and file capabilities, and make device nodes
    #[arg(long)]
    special: bool,
    /// Why, for the ledger
    #[arg(long, value_name = "TEXT")]
    reason: Option<String>,
    /// Case number, for the ledger
    #[arg(long, value_name = "ID")]
    ticket: Option<String>,
    #[command(flatten)]
    run: RunArgs,
}

/// Runs it.
pub fn run(args: &Args, session: &Session) -> Result<Outcome, OpError> {
    if args.run.wanted() {
        let common = Common {
            snapshot: &args.snapshot,
            copy: &args.copy,
            identity: &args.identity,
            members: &args.member,
            dry_run: args.dry_run,
            reason: args.reason.clone(),
            ticket: args.ticket.clone(),
        };
        return super::run::run(&args.run, &common, session);
    }
    let strip = match &args.strip {
        None => None,
        Some(text) => {
            let path = EntryPath::from_fs(std::path::Path::new(text));
            Some(path.map_err(|e| OpError::Usage(format!("--strip {text}: {e}")))?)
        }
    };
    let (into, default) = match &args.into {
        Some(dir) => (Into::Dir(dir.clone()), OnConflict::Refuse),
        None => (Into::InPlace, OnConflict::Replace),
    };
    let on_conflict = match args.on_conflict.as_deref() {
        Some("skip") => OnConflict::Skip,
        Some("replace") => OnConflict::Replace,
        Some(_) => OnConflict::Refuse,
        None => default,
    };
    let plan = RestorePlan {
        read: commands::read_plan(session, &args.copy, &args.identity)?,
        query: commands::query(&args.snapshot, session),
        selection: Selection::parse(&args.paths).map_err(|e| OpError::Usage(e.to_string()))?,
        members: args.member.clone(),
        into,
        strip,
        on_conflict,
        delete: args.delete,
        dry_run: args.dry_run,
        numeric_ids: args.numeric_ids,
        special: args.special,
        reason: args.reason.clone(),
        ticket: args.ticket.clone(),
        purpose: "restore",
    };
    let receipt = restore(&plan, &session.env())?;
    session.progress.clear();
    Ok(Outcome::new(receipt.exit(), describe(&receipt), &receipt))
}

fn describe(receipt: &RestoreReceipt) -> String {
    let mut text = String::new();
    if let Some(plan) = &receipt.plan {
        let _ = writeln!(text, "snapshot {} of {}", receipt.snapshot.short(), receipt.snapshot_time);
        for action in &plan.actions {
            let _ = writeln!(text, "  {:8} {:>10}  {}", action.action, human_size(action.bytes), action.path);
        }
        let _ = writeln!(
            text,
            "would write {} ({}) of {}; {} are right already, {} are in conflict; nothing was done",
            render::count(plan.files, "file"),
            human_size(plan.bytes),
            render::count(plan.entries, "entrie").replace("1 entrie", "1 entry"),
            plan.equal,
            plan.conflicts
        );
        render::findings(&mut text, &receipt.findings);
        return text;
    }
    let _ = writeln!(
        text,
        "restored snapshot {} of {} into {}: {}, {} written in {}",
        receipt.snapshot.short(),
        receipt.snapshot_time,
        receipt.target.display(),
        if receipt.entries == 1 { "1 entry".to_owned() } else { format!("{} entries", receipt.entries) },
        human_size(receipt.bytes_written),
        render::count(receipt.files_written, "file"),
    );
    for (n, what) in
        [(receipt.files_equal, "were right already"), (receipt.skipped, "left out"), (receipt.deleted, "removed")]
    {
        if n > 0 {
            let _ = writeln!(text, "  {n} {what}");
        }
    }
    render::findings(&mut text, &receipt.findings);
    text
}
