//! `farkeep push`

use std::fmt::Write as _;
use std::io::IsTerminal;
use std::path::PathBuf;

use crate::cli::config::{ADHOC_JOB, DEFAULT_BASE_CACHE_BYTES, DEFAULT_OUTBOX_BYTES, JobConfig, JobSource};
use crate::cli::render;
use crate::cli::wire::{Opened, Opening, configured_pin, open_stores};
use crate::cli::{Outcome, Session};
use crate::codec::Compression;
use crate::model::size::human_size;
use crate::ops::push::{PlannedSource, PushPlan, PushReceipt, push};
use crate::ops::{Exit, OpError};
use crate::source::SourceConfig;
use crate::source::files::{ExcludeRules, FilesConfig};
use crate::state::StateError;
use crate::vault::VaultError;

/// Arguments of `farkeep push`.
#[derive(Debug, clap::Args)]
pub struct Args {
    /// Jobs of the configuration, or paths: an argument with a / or a leading . is a path [default: all jobs]
    #[arg(value_name = "JOB|PATH")]
    what: Vec<String>,
    /// Push to these stores only
    #[arg(long, value_name = "STORE")]
    to: Vec<String>,
    /// Tag the snapshot
    #[arg(long, value_name = "TAG")]
    tag: Vec<String>,
    /// With paths: leave out what this pattern matches (gitignore syntax)
    #[arg(long, value_name = "PATTERN")]
    exclude: Vec<String>,
    /// Take this member's size as it is, however it compares with the last good snapshot
    #[arg(long, value_name = "MEMBER")]
    accept_size: Vec<String>,
    /// Read every file, also those that look unchanged
    #[arg(long)]
    reread: bool,
}

/// Runs it.
pub fn run(args: &Args, session: &Session) -> Result<Outcome, OpError> {
    let jobs = jobs(args, session)?;
    let sources: Vec<&str> = jobs.iter().flat_map(|(_, job)| &job.sources).map(|source| source.source.name()).collect();
    if let Some(unknown) = args.accept_size.iter().find(|name| !sources.contains(&name.as_str())) {
        let known = sources.join(", ");
        return Err(OpError::Usage(format!("--accept-size {unknown}: no source is called so (there are: {known})")));
    }
    let mut text = String::new();
    let mut receipts = Vec::new();
    let mut exit = Exit::Done;
    let mut failed = None;
    for (name, job) in jobs {
        match push_job(args, session, &name, &job) {
            Ok(receipt) => {
                exit = exit.worst(receipt.exit());
                describe(&mut text, &receipt);
                receipts.push(serde_json::to_value(&receipt).unwrap_or_default());
            }
            Err(error @ OpError::Vault(VaultError::State(StateError::Busy(_)))) => return Err(error),
            Err(error) if matches!(error.exit(), Exit::Interrupted | Exit::Usage) => return Err(error),
            Err(error) => {
                // One job that fails does not keep the others from being backed up.
                exit = exit.worst(error.exit());
                let what = if error.exit() == Exit::Busy { "skipped" } else { "FAILED" };
                let _ = writeln!(text, "{name}: {what}: {error}");
                receipts.push(serde_json::json!({"job": name, "error": error.to_string(), "exit": error.exit() as i32}));
                failed.get_or_insert(error);
            }
        }
    }
    session.progress.clear();
    match failed {
        Some(error) if receipts.len() == 1 => Err(error),
        _ => Ok(Outcome { exit, text, value: serde_json::json!({ "jobs": receipts }) }),
    }
}

fn is_path(text: &str) -> bool {
    text.contains('/') || text.starts_with('.')
}

fn jobs(args: &Args, session: &Session) -> Result<Vec<(String, JobConfig)>, OpError> {
    let (paths, names): (Vec<&String>, Vec<&String>) = args.what.iter().partition(|text| is_path(text));
    if !paths.is_empty() {
        if let Some(name) = names.first() {
            let why = format!("{name:?} is a job and {:?} a path: push them one after the other", paths[0]);
            return Err(OpError::Usage(why));
        }
        return Ok(vec![(ADHOC_JOB.to_owned(), adhoc(args, &paths)?)]);
    }
    let configured = &session.config.jobs;
    if names.is_empty() {
        if configured.is_empty() {
            return Err(OpError::Usage("no job in the configuration and no path given: there is nothing to push".into()));
        }
        return Ok(configured.iter().map(|(name, job)| (name.clone(), job.clone())).collect());
    }
    names
        .into_iter()
        .map(|name| match configured.get(name) {
            Some(job) => Ok((name.clone(), job.clone())),
            None => {
                let known: Vec<&str> = configured.keys().map(String::as_str).collect();
                Err(OpError::Usage(format!("no job {name:?} (there are: {}); a path has a /", known.join(", "))))
            }
        })
        .collect()
}

fn adhoc(args: &Args, paths: &[&String]) -> Result<JobConfig, OpError> {
    let mut roots = Vec::new();
    for path in paths {
        let absolute = std::path::absolute(path).map_err(|e| OpError::Usage(format!("{path}: {e}")))?;
        roots.push(without_dots(&absolute));
    }
    let exclude = ExcludeRules::with_patterns(&args.exclude).map_err(|e| OpError::Usage(e.to_string()))?;
    let source = SourceConfig::Files(FilesConfig { name: "files".into(), roots, exclude });
    let sources = vec![JobSource::plain(source)];
    Ok(JobConfig { sources, ..JobConfig::default() })
}

/// Takes `..` out of an absolute path by its words, as a shell's `cd` does.
fn without_dots(path: &std::path::Path) -> PathBuf {
    let mut plain = PathBuf::new();
    for component in path.components() {
        match component {
            std::path::Component::ParentDir => {
                plain.pop();
            }
            std::path::Component::CurDir => {}
            other => plain.push(other),
        }
    }
    plain
}

fn push_job(args: &Args, session: &Session, name: &str, job: &JobConfig) -> Result<PushReceipt, OpError> {
    let pin = configured_pin(session)?;
    let vault = pin.vault.ok_or_else(|| OpError::Usage("the configuration does not name the vault's id".into()))?;
    let stores_of = |job: &JobConfig| -> Vec<String> {
        match job.stores.is_empty() {
            true => session.config.stores.keys().cloned().collect(),
            false => job.stores.clone(),
        }
    };
    let wanted = if args.to.is_empty() { stores_of(job) } else { args.to.clone() };
    if wanted.is_empty() {
        return Err(OpError::Usage("no store in the configuration; name one with --to".into()));
    }
    let is_watched = std::io::stderr().is_terminal();
    let opening = if is_watched { Opening::Existing } else { Opening::Awaited };
    let Opened { stores, missed } = open_stores(&wanted, opening, session)?;
    let sources = job.sources.iter().map(|source| PlannedSource {
        source: source.source.clone(),
        average_chunk_bytes: source.chunk_bytes,
        limits: source.limits.clone(),
        hooks: source.hooks.clone(),
        patch: source.patch,
    });
    let mut tags = job.tags.clone();
    tags.extend(args.tag.iter().cloned());
    let to_all_stores = session.config.jobs.values().chain([job]).flat_map(stores_of).all(|store| wanted.contains(&store));
    let plan = PushPlan {
        vault,
        pin,
        stores,
        missed,
        to_all_stores,
        job: name.to_owned(),
        tags,
        sources: sources.collect(),
        compression: job.compression.unwrap_or(Compression::Auto),
        every_secs: job.every_secs,
        timezone: timezone(job),
        use_file_cache: !args.reread,
        judge_change: name != ADHOC_JOB && job.suspect.unwrap_or(true),
        accept_size: args.accept_size.clone(),
        hooks: job.hooks.clone(),
        base_cache_bytes: session.config.base_cache_bytes.unwrap_or(DEFAULT_BASE_CACHE_BYTES),
        tidy_local: args.to.is_empty(),
        outbox_bytes: session.config.outbox_bytes.unwrap_or(DEFAULT_OUTBOX_BYTES),
    };
    push(&plan, &session.env())
}

/// The zone in which a job's dates are read.
pub(super) fn timezone(job: &JobConfig) -> String {
    job.timezone.clone().unwrap_or_else(|| jiff::tz::TimeZone::system().iana_name().unwrap_or("UTC").to_owned())
}

fn describe(text: &mut String, receipt: &PushReceipt) {
    let tally = &receipt.tally;
    let secs = receipt.finished.secs_since(receipt.started).max(0);
    let _ = writeln!(
        text,
        "{}: snapshot {} committed: {}, {} in {secs} s; {} new in {}",
        receipt.job,
        receipt.snapshot.short(),
        render::count(tally.files, "file"),
        human_size(tally.source_bytes),
        human_size(receipt.new_bytes),
        render::count(receipt.new_packs, "pack"),
    );
    for store in &receipt.stores {
        let _ = match &store.error {
            None => {
                let doubt = if store.not_confirmed > 0 { ", durability not confirmed" } else { "" };
                let caught_up = match store.caught_up_objects {
                    0 => String::new(),
                    n => format!(", {} caught up", render::count(n, "object")),
                };
                writeln!(text, "  {}: {} sent{caught_up}{doubt}", store.store, human_size(store.sent_bytes))
            }
            // Why is among the findings.
            Some(_) => writeln!(text, "  {}: MISSED", store.store),
        };
    }
    for local in receipt.local.iter().filter(|local| !local.removed.is_empty()) {
        let archives = render::count(local.removed.len() as u64, "archive");
        let _ = writeln!(
            text,
            "  {}: {archives} removed from this machine (keep_local), {} freed; {} stay, {}",
            local.member,
            human_size(local.removed_bytes),
            local.files,
            human_size(local.bytes)
        );
        for path in &local.removed {
            let _ = writeln!(text, "    removed {path}");
        }
    }
    render::findings(text, &receipt.findings);
}
