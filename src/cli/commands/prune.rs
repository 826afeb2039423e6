//! `farkeep prune`, `farkeep hold`

use std::fmt::Write as _;
use std::path::{Path, PathBuf};

use jiff::tz::TimeZone;

use super::custodian::CustodianKey;
use super::restore::{CopyArgs, SnapshotArgs};
use crate::cli::config::{KeepConfig, StoreConfig};
use crate::cli::passphrase::IdentityArgs;
use crate::cli::wire::{Opening, open_prune_store, open_store, pin, resolve};
use crate::cli::{Outcome, Session, commands, render};
use crate::format::record::split;
use crate::model::limits::RECORD_MAX_BYTES;
use crate::model::retention::Periods;
use crate::model::size::human_size;
use crate::model::time::{Timestamp, human_duration, parse_duration_secs};
use crate::ops::prune::apply::{ApplyReceipt, ApplyRequest, Waiting, apply};
use crate::ops::prune::hold::{HoldRequest, Word, hold};
use crate::ops::prune::plan::{Damage, PlanReceipt, PlanRequest, Rule, Rules, no_rules, plan};
use crate::ops::sections::Sections;
use crate::ops::select::Names;
use crate::ops::{Exit, OpError};

/// What `farkeep prune` can do.
#[derive(Debug, clap::Subcommand)]
pub enum Args {
    /// Decide which snapshots go, list what nobody needs then, and sign it
    Plan(PlanArgs),
    /// Remove what a plan names and nothing needs, after its time of waiting
    Apply(ApplyArgs),
}

/// Arguments of `farkeep prune plan`.
#[derive(Debug, clap::Args)]
pub struct PlanArgs {
    /// The copy: a store's name or address [default: the only store of the configuration]
    #[arg(long, value_name = "STORE")]
    store: Option<String>,
    /// The root to trust: a file .root.pub or its fingerprint [default: the configuration]
    #[arg(long, value_name = "ROOTKEY")]
    trust: Option<String>,
    #[command(flatten)]
    key: CustodianKey,
    /// Say of every snapshot what becomes of it, and why
    #[arg(long)]
    explain: bool,
    /// Decide and list only; sign nothing
    #[arg(long)]
    dry_run: bool,
    /// Write the signed plan to this file too
    #[arg(long, value_name = "FILE")]
    out: Option<PathBuf>,
    /// How long to wait before it is applied
    #[arg(long, value_name = "TIME", default_value = "72h")]
    wait: String,
    /// Go on although snapshots are damaged; they displace no whole one, and those of which the copy holds the record alone are
    /// given up: dropped from it
    #[arg(long)]
    despite_damage: bool,
    #[command(flatten)]
    keep: KeepArgs,
}

/// Rules on the command line: they hold for every series, in place of all that is configured.
#[derive(Debug, clap::Args)]
pub struct KeepArgs {
    /// Keep the newest N of each series
    #[arg(long, value_name = "N")]
    keep_last: Option<u32>,
    /// Keep the first of each of N days
    #[arg(long, value_name = "N")]
    keep_daily: Option<u32>,
    /// Keep the first of each of N weeks
    #[arg(long, value_name = "N")]
    keep_weekly: Option<u32>,
    /// Keep the first of each of N months
    #[arg(long, value_name = "N")]
    keep_monthly: Option<u32>,
    /// Keep the first of each of N years
    #[arg(long, value_name = "N")]
    keep_yearly: Option<u32>,
    /// Keep all that are not older than this, counted back from the newest: 14d
    #[arg(long, value_name = "TIME")]
    keep_within: Option<String>,
    /// Keep all with this tag
    #[arg(long, value_name = "TAG")]
    keep_tag: Vec<String>,
    /// Floor: keep N good ones whatever else is said
    #[arg(long, value_name = "N", default_value_t = 1)]
    min_snapshots: u32,
    /// Floor: keep what is younger than this, counted back from the newest
    #[arg(long, value_name = "TIME")]
    min_age: Option<String>,
}

impl KeepArgs {
    fn read(&self) -> Result<Option<KeepConfig>, OpError> {
        let secs = |flag: &str, text: &Option<String>| match text {
            None => Ok(None),
            Some(text) => parse_duration_secs(text).map(Some).map_err(|e| OpError::Usage(format!("{flag}: {e}"))),
        };
        let counts = [self.keep_last, self.keep_daily, self.keep_weekly, self.keep_monthly, self.keep_yearly];
        let within_secs = secs("--keep-within", &self.keep_within)?;
        if counts.iter().all(Option::is_none) && within_secs.is_none() && self.keep_tag.is_empty() {
            return Ok(None);
        }
        let [last, daily, weekly, monthly, yearly] = counts.map(Option::unwrap_or_default);
        Ok(Some(KeepConfig {
            periods: Periods { last, daily, weekly, monthly, yearly },
            within_secs,
            tags: self.keep_tag.clone(),
            min_snapshots: self.min_snapshots,
            min_age_secs: secs("--min-age", &self.min_age)?.unwrap_or(0),
        }))
    }
}

/// Arguments of `farkeep prune apply`.
#[derive(Debug, clap::Args)]
pub struct ApplyArgs {
    /// The plan: a file that `prune plan --out` wrote, or the beginning of its hash [default: the newest that is pending]
    #[arg(value_name = "PLAN")]
    plan: Option<String>,
    /// The copy, through an account that may remove [default: the one that the plan names, or the only store]
    #[arg(long, value_name = "STORE")]
    store: Option<String>,
    /// The root to trust: a file .root.pub or its fingerprint [default: the configuration]
    #[arg(long, value_name = "ROOTKEY")]
    trust: Option<String>,
    #[command(flatten)]
    key: CustodianKey,
    /// Do not wait: only where nobody pushes meanwhile
    #[arg(long)]
    now: bool,
}

/// Runs `farkeep prune`.
pub fn run(args: &Args, session: &Session) -> Result<Outcome, OpError> {
    match args {
        Args::Plan(args) => run_plan(args, session),
        Args::Apply(args) => run_apply(args, session),
    }
}

fn run_plan(args: &PlanArgs, session: &Session) -> Result<Outcome, OpError> {
    let pin = pin(session, args.trust.as_deref(), &[])?;
    args.key.keep(session, &pin, args.dry_run)?;
    let text = only_store(session, args.store.as_deref())?;
    let (name, config) = resolve(session, &text)?;
    let names = commands::known_names(session, &pin);
    let rules = match args.keep.read()? {
        Some(keep) => {
            let others = Some(rule(&keep, None, &names)?);
            Rules { others, whose: "the rules of the command line".into(), ..Rules::default() }
        }
        None => rules(session, &name, &config, &names)?,
    };
    if rules.is_empty() {
        return Err(no_rules());
    }
    let wait_secs = parse_duration_secs(&args.wait).map_err(|e| OpError::Usage(format!("--wait: {e}")))?;
    let damage = if args.despite_damage { Damage::Accept } else { Damage::Refuse };
    let store = open_store(&name, &config, Opening::Existing)?;
    let request = PlanRequest { pin, store, rules, names, wait_secs, damage, dry_run: args.dry_run };
    let receipt = plan(&request, &session.env())?;
    if let Some(path) = &args.out {
        std::fs::write(path, &receipt.bytes).map_err(|e| OpError::NotDone(format!("{}: {e}", path.display())))?;
    }
    session.progress.clear();
    Ok(Outcome::new(receipt.exit(), describe_plan(&receipt, args), &receipt))
}

/// The rules of the configuration for a copy: its store's own, else those of the drive that it lies on, else those of jobs and
/// series.
pub fn rules(session: &Session, store: &str, config: &StoreConfig, names: &Names) -> Result<Rules, OpError> {
    let sections = sections(session);
    if let Some(keep) = &config.keep {
        let own = rules_of(session, Some(keep), format!("the keep of store {store}"), names)?;
        return Ok(Rules { sections, ..own });
    }
    let all = rules_of(session, None, "the keep of each job and series".into(), names)?;
    let mut rules = Rules { sections, ..all };
    for (name, drive) in &session.config.drives {
        if let Some(keep) = &drive.keep {
            let own = rules_of(session, Some(keep), format!("the keep of drive {name}"), names)?;
            rules.drives.insert(name.clone(), own);
        }
    }
    Ok(rules)
}

/// The drives and series that the configuration has sections of.
pub fn sections(session: &Session) -> Sections {
    let (drives, series) = (session.config.drives.keys(), session.config.series.keys());
    Sections { drives: drives.cloned().collect(), series: series.copied().collect() }
}

/// The rules of the configuration, for every series the same where a copy has its own.
pub fn rules_of(session: &Session, copy: Option<&KeepConfig>, whose: String, names: &Names) -> Result<Rules, OpError> {
    let mut rules = Rules { whose, ..Rules::default() };
    for (name, job) in &session.config.jobs {
        if let Some(keep) = copy.or(job.keep.as_ref()) {
            let rule = rule(keep, job.timezone.as_deref(), names)?;
            let tokens = names.secrets.iter().map(|secret| secret.series(&session.host, name));
            rules.series.extend(tokens.map(|token| (token, rule.clone())));
        }
    }
    for (token, series) in &session.config.series {
        if let Some(keep) = copy.or(series.keep.as_ref()) {
            rules.series.insert(*token, rule(keep, series.timezone.as_deref(), names)?);
        }
    }
    rules.others = copy.map(|keep| rule(keep, None, names)).transpose()?;
    Ok(rules)
}

fn rule(keep: &KeepConfig, timezone: Option<&str>, names: &Names) -> Result<Rule, OpError> {
    let zone = match timezone {
        Some(name) => TimeZone::get(name).map_err(|e| OpError::Usage(format!("timezone {name:?}: {e}")))?,
        None => TimeZone::system(),
    };
    let keep = keep.resolve(&names.secrets).map_err(OpError::Usage)?;
    Ok(Rule { keep, zone })
}

fn only_store(session: &Session, named: Option<&str>) -> Result<String, OpError> {
    if let Some(text) = named {
        return Ok(text.to_owned());
    }
    let mut names = session.config.stores.keys();
    match (names.next(), names.next()) {
        (Some(name), None) => Ok(name.clone()),
        (Some(_), Some(_)) => Err(OpError::Usage("more than one store: name the copy with --store".into())),
        (None, _) => Err(OpError::Usage("no store: name the copy with --store".into())),
    }
}

fn describe_plan(receipt: &PlanReceipt, args: &PlanArgs) -> String {
    let mut text = String::new();
    for one in receipt.snapshots.iter().filter(|_| args.explain) {
        let word = if one.keep { "keep" } else { "drop" };
        let claimed = if one.claimed == one.time { String::new() } else { format!(" (claims {})", one.claimed) };
        let why = if one.reasons.is_empty() { "no rule keeps it".to_owned() } else { one.reasons.join(", ") };
        let _ = writeln!(text, "{word}  {}  {}{claimed}  {}: {why}", one.id.short(), one.time, one.series);
    }
    let objects = render::count(receipt.objects, "object");
    let size = human_size(receipt.bytes_freed);
    let dropped = render::count(receipt.dropped, "snapshot");
    let _ = writeln!(text, "{}: {dropped} to drop, {} stay; {objects}, {size} to remove", receipt.store, receipt.kept);
    let _ = writeln!(text, "decided by {}", receipt.rules);
    match &receipt.plan {
        Some(plan) => {
            let wait = human_duration(receipt.wait_secs);
            let hash = plan.hash.short();
            let _ = writeln!(text, "plan {hash} is signed; `farkeep prune apply {hash}` does it, after {wait} of waiting");
        }
        None if args.dry_run => text.push_str("nothing was signed\n"),
        None => text.push_str("there is nothing to prune\n"),
    }
    render::findings(&mut text, &receipt.findings);
    text
}

fn run_apply(args: &ApplyArgs, session: &Session) -> Result<Outcome, OpError> {
    let pin = pin(session, args.trust.as_deref(), &[])?;
    args.key.keep(session, &pin, false)?;
    let (wanted, planned_for) = match &args.plan {
        Some(text) if Path::new(text).is_file() => match read_plan_file(Path::new(text))? {
            Some((hash, store)) => (Some(hash), Some(store)),
            None => {
                session.progress.clear();
                let receipt = ApplyReceipt::nothing(only_store(session, args.store.as_deref())?);
                return Ok(Outcome::new(Exit::Done, "there is nothing to prune\n".to_owned(), &receipt));
            }
        },
        Some(text) => (Some(text.clone()), None),
        None => (None, None),
    };
    let text = match (&args.store, planned_for) {
        (Some(store), _) => store.clone(),
        (None, Some(store)) if resolve(session, &store).is_ok() => store,
        (None, _) => only_store(session, None)?,
    };
    let (name, config) = resolve(session, &text)?;
    let waiting = if args.now { Waiting::Skip } else { Waiting::AsPlanned };
    let request = ApplyRequest { pin, store: open_prune_store(&name, &config)?, name, plan: wanted, waiting, rules: None };
    let receipt = apply(&request, &session.env())?;
    session.progress.clear();
    Ok(Outcome::new(receipt.exit(), describe_apply(&receipt), &receipt))
}

/// The hash of the plan in a file, and what its planner calls the copy. The plan itself is read from the copy: what a file
/// says beside that is not believed. An empty file is a plan in which there was nothing to prune.
fn read_plan_file(path: &Path) -> Result<Option<(String, String)>, OpError> {
    let wrong = |e: &dyn std::fmt::Display| OpError::Usage(format!("{}: no prune plan: {e}", path.display()));
    let length = std::fs::metadata(path).map_err(|e| wrong(&e))?.len();
    if length == 0 {
        return Ok(None);
    }
    if length > RECORD_MAX_BYTES {
        return Err(wrong(&"too long"));
    }
    let bytes = std::fs::read(path).map_err(|e| wrong(&e))?;
    let (line, _) = split(&bytes).map_err(|e| wrong(&e))?;
    let value: serde_json::Value = serde_json::from_str(line).map_err(|e| wrong(&e))?;
    let store = value["body"]["store"].as_str().ok_or_else(|| wrong(&"names no store"))?;
    Ok(Some((crate::crypto::hash::hash(line.as_bytes()).to_string(), store.to_owned())))
}

/// What a removal came to, for people.
pub fn describe_apply(receipt: &ApplyReceipt) -> String {
    let Some(plan) = &receipt.plan else { return format!("{}: no plan is pending\n", receipt.store) };
    let hash = plan.hash.short();
    if let Some(due) = receipt.due {
        return format!("{}: plan {hash} waits until {due}; nothing was done\n", receipt.store);
    }
    let spared = if receipt.spared > 0 { format!("; {} are needed by now and stay", receipt.spared) } else { String::new() };
    format!(
        "{}: plan {hash}: {} dropped, {} removed, {} freed{spared}\n",
        receipt.store,
        render::count(receipt.dropped, "snapshot"),
        render::count(receipt.objects, "object"),
        human_size(receipt.bytes)
    )
}

/// Arguments of `farkeep hold`.
#[derive(Debug, clap::Args)]
#[command(group(clap::ArgGroup::new("what").required(true).args(["until", "release", "clear"])))]
pub struct HoldArgs {
    #[command(flatten)]
    snapshot: SnapshotArgs,
    /// Keep it until the end of this day, or for this time from now: 2027-06-30, 90d
    #[arg(long, value_name = "DATE")]
    until: Option<String>,
    /// Let it go, as far as this machine held it
    #[arg(long)]
    release: bool,
    /// A person has looked at this suspect snapshot, and it is good: retention goes on
    #[arg(long)]
    clear: bool,
    /// Why, for the ledger
    #[arg(long, value_name = "TEXT")]
    reason: Option<String>,
    #[command(flatten)]
    key: CustodianKey,
    #[command(flatten)]
    copy: CopyArgs,
    #[command(flatten)]
    identity: IdentityArgs,
}

/// Runs `farkeep hold`.
pub fn run_hold(args: &HoldArgs, session: &Session) -> Result<Outcome, OpError> {
    let read = commands::read_plan(session, &args.copy, &args.identity)?;
    args.key.keep(session, &read.pin, false)?;
    let snapshot = commands::query(&args.snapshot, session);
    let env = session.env();
    let word = match &args.until {
        Some(text) => {
            let now = env.clock.now();
            let end = hold_end(text, snapshot.timezone.as_deref(), now)?;
            if end <= now {
                let why = "would hold it no longer; name a day to come, or let it go with --release";
                return Err(OpError::Usage(format!("--until {text}: is over, and {why}")));
            }
            Word::Hold(end)
        }
        None if args.clear => Word::Clear,
        None => Word::Release,
    };
    let receipt = hold(&HoldRequest { read, snapshot, word, reason: args.reason.clone() }, &env)?;
    session.progress.clear();
    let id = receipt.snapshot.short();
    let text = match receipt.until {
        _ if receipt.cleared => format!("snapshot {id} is cleared: it counts as good, and retention goes on\n"),
        Some(until) => format!("snapshot {id} is held until {until}\n"),
        None => format!("snapshot {id} is let go\n"),
    };
    Ok(Outcome::new(Exit::Done, text, &receipt))
}

fn hold_end(text: &str, timezone: Option<&str>, now: Timestamp) -> Result<Timestamp, OpError> {
    if let Ok(secs) = parse_duration_secs(text) {
        return Ok(now.plus_secs(i64::try_from(secs).unwrap_or(i64::MAX)));
    }
    let wrong = || OpError::Usage(format!("--until {text}: write a date such as 2027-06-30, or a time such as 90d"));
    let date: jiff::civil::Date = text.parse().map_err(|_| wrong())?;
    let zone = match timezone {
        Some(name) => TimeZone::get(name).map_err(|_| wrong())?,
        None => TimeZone::system(),
    };
    let end = date.tomorrow().and_then(|next| next.to_zoned(zone)).map_err(|_| wrong())?;
    Ok(Timestamp(end.timestamp().as_second() - 1))
}
