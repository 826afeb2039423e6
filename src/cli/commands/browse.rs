//! `farkeep snapshots`, `ls`, `find`, `diff`

use std::fmt::Write as _;

use super::restore::{CopyArgs, SnapshotArgs};
use crate::cli::passphrase::IdentityArgs;
use crate::cli::{Outcome, Session, commands, render};
use crate::model::path::EntryPath;
use crate::model::pattern::Selection;
use crate::model::size::human_size;
use crate::ops::browse::{Depth, Difference, ListedEntry, ListedSnapshot, diff, find, ls, snapshots};
use crate::ops::select::SnapshotQuery;
use crate::ops::{Exit, OpError};

/// Arguments of `farkeep snapshots`.
#[derive(Debug, clap::Args)]
pub struct SnapshotsArgs {
    /// List those too that retention dropped from this copy
    #[arg(long)]
    dropped: bool,
    #[command(flatten)]
    copy: CopyArgs,
    #[command(flatten)]
    identity: IdentityArgs,
}

/// Runs `farkeep snapshots`.
pub fn run_snapshots(args: &SnapshotsArgs, session: &Session) -> Result<Outcome, OpError> {
    let plan = commands::read_plan(session, &args.copy, &args.identity)?;
    let list = snapshots(&plan, &session.env())?;
    session.progress.clear();
    let mut text = String::new();
    let dropped = list.dropped.iter().filter(|_| args.dropped).map(|snapshot| (snapshot, "dropped".to_owned()));
    let state = |snapshot: &ListedSnapshot| {
        let cleared = if snapshot.cleared { ", cleared" } else { "" };
        format!("{:?}{cleared}", snapshot.state).to_lowercase()
    };
    let here = list.snapshots.iter().map(|snapshot| (snapshot, state(snapshot)));
    for (snapshot, word) in dropped.chain(here) {
        let name = match (&snapshot.host, &snapshot.job) {
            (Some(host), Some(job)) => format!("{job} on {host}"),
            _ => format!("series {}", &snapshot.series[..8]),
        };
        let _ = writeln!(
            text,
            "{}  {}  {:24}  {:>9} files  {:>9}  {:>9} new  {word}",
            snapshot.id.short(),
            snapshot.time,
            name,
            snapshot.tally.files,
            human_size(snapshot.tally.source_bytes),
            human_size(snapshot.new_bytes),
        );
    }
    let also = if list.dropped.is_empty() { String::new() } else { format!(", {} dropped", list.dropped.len()) };
    let _ = writeln!(text, "{} in {}{also}", render::count(list.snapshots.len() as u64, "snapshot"), list.store);
    render::findings(&mut text, &list.findings);
    Ok(Outcome::new(Exit::of_findings(&list.findings), text, &list))
}

/// Arguments of `farkeep ls`.
#[derive(Debug, clap::Args)]
pub struct LsArgs {
    #[command(flatten)]
    snapshot: SnapshotArgs,
    /// What to list [default: the top]
    #[arg(value_name = "PATH")]
    path: Option<String>,
    /// List all below it
    #[arg(long, short)]
    recursive: bool,
    /// Show mode, owner, size and time
    #[arg(long, short)]
    long: bool,
    #[command(flatten)]
    copy: CopyArgs,
    #[command(flatten)]
    identity: IdentityArgs,
}

/// Runs `farkeep ls`.
pub fn run_ls(args: &LsArgs, session: &Session) -> Result<Outcome, OpError> {
    let plan = commands::read_plan(session, &args.copy, &args.identity)?;
    let path = match args.path.as_deref() {
        None | Some("/") => None,
        Some(text) => Some(commands::entry_path(text)?),
    };
    let depth = if args.recursive { Depth::All } else { Depth::Children };
    let mut entries = Vec::new();
    let query = commands::query(&args.snapshot, session);
    let id = ls(&plan, &query, path.as_ref(), depth, &session.env(), &mut |entry| entries.push(entry))?;
    session.progress.clear();
    let mut text = String::new();
    for entry in &entries {
        line(&mut text, entry, args.long);
    }
    Ok(Outcome::new(Exit::Done, text, &serde_json::json!({ "snapshot": id, "entries": entries })))
}

fn line(text: &mut String, entry: &ListedEntry, long: bool) {
    let slash = if entry.kind == "dir" { "/" } else { "" };
    let target = entry.target.as_ref().map(|target| format!(" -> {target}")).unwrap_or_default();
    if long {
        let secs = entry.mtime_ns.parse::<i128>().unwrap_or(0).div_euclid(1_000_000_000);
        let time = crate::model::time::Timestamp(i64::try_from(secs).unwrap_or(i64::MAX));
        let _ = writeln!(
            text,
            "{:8} {:04o} {:>10} {:>10} {:>12} {time} {}{slash}{target}",
            entry.kind, entry.mode, entry.user, entry.group, entry.size, entry.path
        );
    } else {
        let _ = writeln!(text, "{}{slash}{target}", entry.path);
    }
}

/// Arguments of `farkeep find`.
#[derive(Debug, clap::Args)]
pub struct FindArgs {
    /// A name or pattern in gitignore syntax, or a path with a /: passwd, *.conf, /etc/ssh
    #[arg(value_name = "PATTERN")]
    pattern: String,
    /// Search only this snapshot [default: all, newest first]
    #[arg(long, value_name = "SNAP")]
    snapshot: Option<String>,
    /// Show mode, owner, size and time
    #[arg(long, short)]
    long: bool,
    #[command(flatten)]
    copy: CopyArgs,
    #[command(flatten)]
    identity: IdentityArgs,
}

/// Runs `farkeep find`.
pub fn run_find(args: &FindArgs, session: &Session) -> Result<Outcome, OpError> {
    let plan = commands::read_plan(session, &args.copy, &args.identity)?;
    let selection = Selection::search(&args.pattern).map_err(|e| OpError::Usage(e.to_string()))?;
    let query = args.snapshot.as_ref().map(|text| SnapshotQuery { text: text.clone(), ..SnapshotQuery::default() });
    let mut entries = Vec::new();
    find(&plan, query.as_ref(), &selection, &session.env(), &mut |entry| entries.push(entry))?;
    session.progress.clear();
    let mut text = String::new();
    let mut last = None;
    for entry in &entries {
        if entry.snapshot != last {
            last = entry.snapshot;
            let _ = writeln!(text, "snapshot {}:", last.map(|id| id.short()).unwrap_or_default());
        }
        line(&mut text, entry, args.long);
    }
    let exit = if entries.is_empty() { Exit::NotDone } else { Exit::Done };
    if entries.is_empty() {
        let _ = writeln!(text, "nothing matches {}", args.pattern);
    }
    Ok(Outcome::new(exit, text, &serde_json::json!({ "entries": entries })))
}

/// Arguments of `farkeep diff`.
#[derive(Debug, clap::Args)]
pub struct DiffArgs {
    /// The earlier snapshot
    #[arg(value_name = "SNAP")]
    before: String,
    /// The later snapshot
    #[arg(value_name = "SNAP")]
    after: String,
    /// Only these paths or patterns
    #[arg(value_name = "PATH")]
    paths: Vec<String>,
    /// Only snapshots of this job
    #[arg(long, value_name = "JOB")]
    job: Option<String>,
    #[command(flatten)]
    copy: CopyArgs,
    #[command(flatten)]
    identity: IdentityArgs,
}

/// Runs `farkeep diff`.
pub fn run_diff(args: &DiffArgs, session: &Session) -> Result<Outcome, OpError> {
    let plan = commands::read_plan(session, &args.copy, &args.identity)?;
    let selection = Selection::parse(&args.paths).map_err(|e| OpError::Usage(e.to_string()))?;
    let query = |text: &String| SnapshotQuery { text: text.clone(), job: args.job.clone(), ..SnapshotQuery::default() };
    let mut differences: Vec<Difference> = Vec::new();
    let ids = diff(&plan, &query(&args.before), &query(&args.after), &selection, &session.env(), &mut |difference| {
        differences.push(difference);
    })?;
    session.progress.clear();
    let mut text = String::new();
    for difference in &differences {
        let mark = match difference.change {
            "added" => '+',
            "removed" => '-',
            "metadata" => 'm',
            _ => 'c',
        };
        let _ = writeln!(text, "{mark} {}", difference.path);
    }
    let _ = writeln!(
        text,
        "{} between {} and {}",
        render::count(differences.len() as u64, "difference"),
        ids.0.short(),
        ids.1.short()
    );
    Ok(Outcome::new(Exit::Done, text, &serde_json::json!({ "before": ids.0, "after": ids.1, "differences": differences })))
}

/// A path of the command line as an entry's.
pub fn entry_path(text: &str) -> Result<EntryPath, OpError> {
    EntryPath::from_fs(std::path::Path::new(text)).map_err(|e| OpError::Usage(format!("{text}: {e}")))
}
