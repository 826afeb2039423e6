//! `farkeep restore --run`: the plan as text, the question, the receipt.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::path::PathBuf;

use super::restore::{CopyArgs, SnapshotArgs};
use crate::cli::config::{Choices, Config, JobConfig};
use crate::cli::passphrase::IdentityArgs;
use crate::cli::session::Session;
use crate::cli::{Outcome, can_ask, commands, render};
use crate::model::size::human_size;
use crate::ops::OpError;
use crate::ops::run::{RunJob, RunPlan, RunReceipt, RunSource, Sheet, run as restore_run};

/// Arguments of `farkeep restore --run` beside those of every restore.
#[derive(Debug, clap::Args)]
pub struct RunArgs {
    /// Bring members back into the systems that they came from, replacing what is there: prints the plan and asks
    #[arg(long, conflicts_with_all = ["paths", "strip", "on_conflict", "numeric_ids", "special"])]
    run: bool,
    /// With --run: restore to this target of the configuration, not to where the job came from
    #[arg(long, value_name = "NAME", requires = "run")]
    into_target: Option<String>,
    /// With --run: make this choice of a variable of the job
    #[arg(long, value_name = "NAME=CHOICE", requires = "run")]
    var: Vec<String>,
    /// With --run: do not ask; NAME is the target that the plan shows
    #[arg(long, value_name = "NAME", requires = "run")]
    yes_destroy: Option<String>,
    /// With --run: first keep what is at the target in this new directory
    #[arg(long, value_name = "DIR", requires = "run")]
    safety_copy: Option<PathBuf>,
    /// With --run: where fetched parts lie until they are brought back [default: in the state directory]
    #[arg(long, value_name = "DIR", requires = "run")]
    staging: Option<PathBuf>,
}

/// The arguments of every restore that matter here.
pub struct Common<'a> {
    pub snapshot: &'a SnapshotArgs,
    pub copy: &'a CopyArgs,
    pub identity: &'a IdentityArgs,
    pub members: &'a [String],
    pub dry_run: bool,
    pub reason: Option<String>,
    pub ticket: Option<String>,
}

impl RunArgs {
    /// Whether it was asked for.
    pub const fn wanted(&self) -> bool {
        self.run
    }
}

/// Runs it.
pub fn run(args: &RunArgs, common: &Common<'_>, session: &Session) -> Result<Outcome, OpError> {
    let choices = Choices { vars: choices(&args.var)?, target: args.into_target.clone() };
    let config = Config::load_with(&session.config_path, &choices).map_err(|e| OpError::Usage(e.to_string()))?;
    if let Some(name) = choices.vars.keys().find(|name| !config.jobs.values().any(|job| job.vars.contains_key(*name))) {
        return Err(OpError::Usage(format!("--var {name}: no job has such a variable: [job.NAME.var.{name}]")));
    }
    let mut query = commands::query(common.snapshot, session);
    query.whole_only = true;
    let plan = RunPlan {
        read: commands::read_plan(session, common.copy, common.identity)?,
        query,
        jobs: config.jobs.iter().map(|(name, job)| (name.clone(), run_job(job))).collect(),
        members: common.members.to_vec(),
        target: args.into_target.clone(),
        staging: args.staging.clone(),
        safety_copy: args.safety_copy.clone(),
        dry_run: common.dry_run,
        reason: common.reason.clone(),
        ticket: common.ticket.clone(),
    };
    let confirm = |sheet: &Sheet| confirm(args.yes_destroy.as_deref(), sheet, session);
    let receipt = restore_run(&plan, &confirm, &session.env())?;
    session.progress.clear();
    Ok(Outcome::new(receipt.exit(), describe(&receipt), &receipt))
}

fn choices(texts: &[String]) -> Result<BTreeMap<String, String>, OpError> {
    let pair = |text: &String| match text.split_once('=') {
        Some((name, choice)) if !name.is_empty() => Ok((name.to_owned(), choice.to_owned())),
        _ => Err(OpError::Usage(format!("--var {text}: write NAME=CHOICE"))),
    };
    texts.iter().map(pair).collect()
}

fn run_job(job: &JobConfig) -> RunJob {
    let source = |source: &crate::cli::config::JobSource| RunSource {
        source: source.source.clone(),
        timeout_secs: source.limits.timeout_secs,
        backup_hooks: source.hooks.clone(),
        hooks: source.restore_hooks.clone(),
        has_target: source.has_target,
    };
    RunJob {
        sources: job.sources.iter().map(source).collect(),
        hooks: job.restore_hooks.clone(),
        vars: job.vars.clone(),
        timezone: super::push::timezone(job),
        targets: job.targets.clone(),
    }
}

/// Shows the plan and asks for the target's name.
fn confirm(given: Option<&str>, sheet: &Sheet, session: &Session) -> Result<(), OpError> {
    session.progress.clear();
    let wrong = |name: &str| {
        OpError::Usage(format!("{name:?} is not the target of this restore, which is {:?}: nothing was done", sheet.target))
    };
    match given {
        Some(name) if name == sheet.target => {
            session.say(plan_text(sheet).trim_end());
            Ok(())
        }
        Some(name) => Err(wrong(name)),
        None if can_ask() && !session.json => {
            session.say(plan_text(sheet).trim_end());
            session.say(&format!("Type the name of the target, {}, to destroy what is listed and go on:", sheet.target));
            let mut line = String::new();
            std::io::stdin().read_line(&mut line).map_err(|e| OpError::NotDone(format!("standard input: {e}")))?;
            if line.trim() == sheet.target { Ok(()) } else { Err(wrong(line.trim())) }
        }
        None => Err(OpError::Usage(format!(
            "this replaces what is at the target; look at the plan with --dry-run, then add --yes-destroy {}",
            sheet.target
        ))),
    }
}

/// The plan as text.
fn plan_text(sheet: &Sheet) -> String {
    let mut text = String::new();
    let _ = writeln!(text, "snapshot {} of job {} on {}", sheet.snapshot.short(), sheet.job, sheet.host);
    let _ = writeln!(text, "  made {}, {} ago", sheet.local_time, sheet.age);
    if let Some(why) = &sheet.suspicion {
        let _ = writeln!(text, "  CAREFUL: this snapshot {why}");
    }
    let _ = writeln!(text, "  to   target {}", sheet.target);
    for (name, value) in &sheet.vars {
        let _ = writeln!(text, "  with {name} = {value}");
    }
    for member in &sheet.members {
        let _ = writeln!(text, "{} ({}, {})", member.name, member.kind, human_size(member.bytes));
        if let Some(done) = member.done {
            let _ = writeln!(text, "  was brought back at {done} by this restore's earlier run: left as it is");
            continue;
        }
        let _ = writeln!(text, "  into     {}", member.survey.target);
        for line in &member.survey.destroys {
            let _ = writeln!(text, "  DESTROYS {line}");
        }
        if member.survey.destroys.is_empty() {
            let _ = writeln!(text, "  destroys nothing: nothing is there");
        }
        for (tool, version) in &member.survey.tools {
            let _ = writeln!(text, "  uses     {tool} {version}");
        }
        for note in &member.survey.notes {
            let _ = writeln!(text, "  note     {note}");
        }
    }
    for line in &sheet.untouched {
        let _ = writeln!(text, "untouched: {line}");
    }
    let mut fetches = |needed: u64, free: Option<u64>, place: &str| {
        let free = free.map_or_else(String::new, |free| format!(" of {} free", human_size(free)));
        let _ = writeln!(text, "fetches {}{free} to {place} and checks all of it first", human_size(needed));
    };
    if sheet.needed_bytes > 0 || sheet.rooms.is_empty() {
        fetches(sheet.needed_bytes, sheet.free_bytes, &sheet.staging);
    }
    for room in &sheet.rooms {
        fetches(room.needed, room.free, &format!("{}, beside what it replaces,", room.place.display()));
    }
    match &sheet.safety_copy {
        Some(dir) => {
            let _ = writeln!(text, "keeps what is there now in {dir}");
        }
        None => text.push_str("keeps no copy of what is there now (--safety-copy DIR would)\n"),
    }
    text
}

fn describe(receipt: &RunReceipt) -> String {
    if receipt.dry_run {
        return plan_text(&receipt.sheet) + "nothing was done\n";
    }
    let mut text = String::new();
    for member in &receipt.members {
        let _ = writeln!(text, "{}: {}", member.name, member.outcome);
        for (what, value) in &member.proof {
            let _ = writeln!(text, "  {what}: {value}");
        }
    }
    let secs = u64::try_from(receipt.finished.secs_since(receipt.started)).unwrap_or(0);
    let took = crate::model::time::human_duration(secs);
    match &receipt.error {
        Some(error) => {
            let _ = writeln!(text, "NOT DONE after {took}: {error}");
            text.push_str("  the same command goes on with what is not restored yet\n");
        }
        None => {
            let _ = writeln!(text, "restored snapshot {} in {took}", receipt.snapshot().short());
        }
    }
    render::findings(&mut text, &receipt.findings);
    text
}
