//! `restore --run`: brings the members of a job back into the systems that they came from, replacing what is there.
//!
//! The order is the guarantee: look at the targets, show what would be destroyed, let a person say yes; the intent on record;
//! **fetch every member, compare every hash and let every engine look into its parts**; keep a safety copy; only then hooks,
//! and member by member replace, prove, compare with what the backup counted. A member that is done is noted: the same
//! command, run again after a failure, goes on with the next one.

use std::collections::BTreeMap;
use std::path::PathBuf;

use serde::Serialize;

use super::custody::{Custody, Ending, Purpose};
use super::hooks::{self, Hooks};
use super::reading::{Opened, ReadPlan};
use super::select::SnapshotQuery;
use super::{Env, Exit, OpError};
use crate::model::finding::{Finding, FindingKind};
use crate::model::ids::SnapshotId;
use crate::model::time::Timestamp;
use crate::source::{SourceConfig, SourceError};
use crate::vault::VaultError;

mod compare;
mod fetch;
mod files;
mod ground;
mod held;
mod member;
mod notes;
mod sheet;
mod spared;

use member::Task;
use notes::Notes;
pub use sheet::{MemberSheet, Sheet};

/// A member as it is to be brought back.
#[derive(Debug, Clone)]
pub struct RunSource {
    /// Where it goes.
    pub source: SourceConfig,
    /// It must be replaced within so many seconds.
    pub timeout_secs: Option<u64>,
    /// Around its backup: around its safety copy too.
    pub backup_hooks: Hooks,
    /// Around its restore.
    pub hooks: Hooks,
    /// Whether the chosen target says where it goes.
    pub has_target: bool,
}

/// A job as it is to be brought back.
#[derive(Debug, Clone, Default)]
pub struct RunJob {
    /// Its sources.
    pub sources: Vec<RunSource>,
    /// Around the restore of all members.
    pub hooks: Hooks,
    /// What its variables stand for.
    pub vars: BTreeMap<String, String>,
    /// The zone in which its dates are read.
    pub timezone: String,
    /// Targets that it has beside the place that it comes from.
    pub targets: Vec<String>,
}

/// What to bring back.
pub struct RunPlan {
    /// The copy and who opens it.
    pub read: ReadPlan,
    /// The snapshot.
    pub query: SnapshotQuery,
    /// Jobs that are configured here.
    pub jobs: BTreeMap<String, RunJob>,
    /// Only these members; none means all.
    pub members: Vec<String>,
    /// A target other than the place that it comes from.
    pub target: Option<String>,
    /// Where fetched parts lie meanwhile; none is the state directory.
    pub staging: Option<PathBuf>,
    /// Keep what is at the target in this directory first.
    pub safety_copy: Option<PathBuf>,
    /// Only say what would be done.
    pub dry_run: bool,
    /// Why.
    pub reason: Option<String>,
    /// A case number.
    pub ticket: Option<String>,
}

/// Shown the plan, says whether it may be done.
pub type Confirm<'a> = &'a dyn Fn(&Sheet) -> Result<(), OpError>;

/// What became of one member.
#[derive(Debug, Clone, Serialize)]
pub struct MemberReceipt {
    /// Its name.
    pub name: String,
    /// restored, was restored (by an earlier run), mismatch, failed, not begun.
    pub outcome: &'static str,
    /// Counts and hashes of the target that were compared, all of them equal unless the outcome is mismatch.
    pub proof: BTreeMap<String, String>,
    /// Programs and servers that did it.
    pub tools: BTreeMap<String, String>,
    /// What a tool logged, as far as it was judged by that.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub log: Option<String>,
}

/// What was brought back.
#[derive(Debug, Clone, Serialize)]
pub struct RunReceipt {
    /// The plan.
    pub sheet: Sheet,
    /// Whether nothing was done.
    pub dry_run: bool,
    /// The members.
    pub members: Vec<MemberReceipt>,
    /// When it began.
    pub started: Timestamp,
    /// When it ended.
    pub finished: Timestamp,
    /// What went wrong with a member, when something did.
    pub error: Option<String>,
    /// What was found.
    pub findings: Vec<Finding>,
    #[serde(skip)]
    failed: Option<Exit>,
}

impl RunReceipt {
    /// The exit code.
    #[must_use]
    pub fn exit(&self) -> Exit {
        let found = Exit::of_findings(&self.findings);
        self.failed.map_or(found, |exit| exit.worst(found))
    }

    /// The snapshot.
    #[must_use]
    pub const fn snapshot(&self) -> SnapshotId {
        self.sheet.snapshot
    }
}

/// Brings members back.
///
/// # Errors
/// When anything stands against it before the first destructive step. What happens after that is in the receipt.
pub fn run(plan: &RunPlan, confirm: Confirm<'_>, env: &Env<'_>) -> Result<RunReceipt, OpError> {
    let started = env.clock.now();
    let opened = plan.read.open(env)?;
    plan.read.need_identity(&opened)?;
    // Nobody else restores here, or backs up a half-restored system.
    let _lock = opened.context.state.lock()?;
    let recovered = hooks::recover(&opened.context.state, env)?;
    let snapshot = plan.read.select(&opened, &plan.query, env)?;
    env.step(format!("reading snapshot {}", snapshot.id.short()));
    let reader = opened.snapshot(&plan.read.identities, &snapshot)?;
    let job = plan.job(&reader.manifest.job)?;
    let of = &reader.manifest.job;
    let notes = Notes::open(&plan.staging_dir(&opened), snapshot.id, of, plan.target_name(of))?;
    let tasks = member::tasks(plan, job, &reader, &notes, env)?;
    let drawn = sheet::draw(plan, job, &snapshot, &reader.manifest, &tasks, &notes, env)?;
    let sheet = Sheet { suspicion: opened.suspicion_of(&snapshot), ..drawn };
    let mut receipt = RunReceipt {
        dry_run: plan.dry_run,
        members: Vec::new(),
        started,
        finished: started,
        error: None,
        findings: recovered,
        failed: None,
        sheet,
    };
    if plan.dry_run {
        notes.forget_if_unused();
        return Ok(receipt);
    }
    receipt.sheet.must_fit()?;
    confirm(&receipt.sheet)?;
    let custody =
        Custody::begin(&plan.purpose(&receipt.sheet), snapshot.id, &opened.copy, &opened.context, &opened.records, env)?;
    let place = Place { plan, job, opened: &opened, reader: &reader, snapshot: &snapshot, notes: &notes, env };
    let left = if plan.staging.is_none() { notes.clear_others() } else { Vec::new() };
    let outcome = place.restore(&tasks, &mut receipt);
    let parts = what_lies(&notes, &outcome, &receipt.sheet);
    let lying = left.into_iter().chain(parts).chain(tasks.iter().flat_map(Task::lying));
    tell(lying, &outcome, &mut receipt);
    receipt.finished = env.clock.now();
    let ending = ending_of(&outcome, &receipt);
    let undelivered = custody.end(&ending, env)?;
    receipt.findings.extend(undelivered);
    match outcome {
        // Nothing was destroyed: an error like any other.
        Err(error) if receipt.members.is_empty() => Err(error),
        Err(error) => {
            receipt.failed = Some(error.exit());
            receipt.error = Some(error.to_string());
            Ok(receipt)
        }
        Ok(()) => Ok(receipt),
    }
}

/// Plaintext is kept only for a restore that can go on, and never without a word: of parts this one.
fn what_lies(notes: &Notes, outcome: &Result<(), OpError>, sheet: &Sheet) -> Option<Finding> {
    let parts = notes.parts();
    if !parts.exists() {
        return None;
    }
    // The hashes are right, and it is not what it should be: it was backed up so.
    let is_useless =
        matches!(outcome, Err(OpError::Vault(VaultError::Source { source: SourceError::Expectation { .. }, .. })));
    let message = if is_useless && !notes.has_begun_any() && notes.forget_parts().is_ok() {
        "nothing can be made of what was fetched: it is removed".to_owned()
    } else {
        format!(
            "what was fetched lies unencrypted in {}: the same command goes on with it, and removes it when all is done; the next \
             other restore removes it too",
            parts.display()
        )
    };
    Some(Finding::new(FindingKind::Notice, &sheet.target, message))
}

/// Says what lies about. Where nothing was destroyed, no receipt is shown.
fn tell(findings: impl Iterator<Item = Finding>, outcome: &Result<(), OpError>, receipt: &mut RunReceipt) {
    if receipt.members.is_empty() && outcome.is_err() {
        findings.for_each(|finding| tracing::error!("{finding}"));
    } else {
        receipt.findings.extend(findings);
    }
}

impl RunPlan {
    fn job(&self, name: &str) -> Result<&RunJob, OpError> {
        let Some(job) = self.jobs.get(name) else {
            let why = format!(
                "the snapshot is of job {name:?}, and the configuration here has no [job.{name}] to say where it goes; \
                 to have its parts as files: farkeep restore SNAP --into DIR"
            );
            return Err(OpError::Usage(why));
        };
        match &self.target {
            Some(target) if !job.targets.contains(target) => {
                let known = if job.targets.is_empty() { "none".to_owned() } else { job.targets.join(", ") };
                Err(OpError::Usage(format!(
                    "job {name:?} has no target {target:?} (there are: {known}): [job.{name}.target.{target}]"
                )))
            }
            _ => Ok(job),
        }
    }

    /// What is to be typed: the target's name, or the job's for the place that it comes from.
    fn target_name<'a>(&'a self, job: &'a str) -> &'a str {
        self.target.as_deref().unwrap_or(job)
    }

    fn staging_dir(&self, opened: &Opened) -> PathBuf {
        self.staging.clone().unwrap_or_else(|| opened.context.state.scratch().join("restore"))
    }

    fn purpose(&self, sheet: &Sheet) -> Purpose {
        Purpose {
            purpose: "run",
            reason: self.reason.clone(),
            ticket: self.ticket.clone(),
            selection: sheet.members.iter().map(|member| member.name.clone()).collect(),
            target: sheet.target.clone(),
        }
    }
}

fn ending_of(outcome: &Result<(), OpError>, receipt: &RunReceipt) -> Ending {
    let done = receipt.members.iter().filter(|m| m.outcome == "restored");
    let bytes_of = |name: &str| receipt.sheet.members.iter().find(|m| m.name == name).map_or(0, |m| m.bytes);
    Ending {
        outcome: match outcome {
            Err(error) if error.exit() == Exit::Interrupted => "interrupted",
            Err(_) => "failed",
            Ok(()) if receipt.findings.iter().any(|f| f.kind != FindingKind::Notice) => "findings",
            Ok(()) => "done",
        },
        entries: done.clone().count() as u64,
        bytes: done.map(|m| bytes_of(&m.name)).sum(),
        findings: receipt.findings.len() as u64,
        error: outcome.as_ref().err().map(|error| format!("exit code {}", error.exit() as i32)),
        report: serde_json::to_value(&receipt.members).ok(),
    }
}

/// Everything that the steps after the confirmation need.
struct Place<'a> {
    plan: &'a RunPlan,
    job: &'a RunJob,
    opened: &'a Opened,
    reader: &'a crate::vault::catalogue_reader::SnapshotReader,
    snapshot: &'a crate::vault::snapshots::Snapshot,
    notes: &'a Notes,
    env: &'a Env<'a>,
}

impl Place<'_> {
    fn restore(&self, tasks: &[Task<'_>], receipt: &mut RunReceipt) -> Result<(), OpError> {
        let open: Vec<&Task<'_>> = tasks.iter().filter(|task| task.done.is_none()).collect();
        for task in &open {
            self.env.step(format!("fetching {}", task.member.name));
            self.fetch(task)?;
        }
        for task in &open {
            self.env.step(format!("looking into {}", task.member.name));
            self.check(task)?;
        }
        let state = &self.opened.context.state;
        let entered =
            self.filled(&self.job.hooks).enter(&format!("restore of {}", self.reader.manifest.job), state, self.env)?;
        let outcome = self.keep_safe(&open, receipt).and_then(|()| self.replace_all(tasks, receipt));
        let success = outcome.is_ok() && receipt.members.iter().all(|member| member.outcome != "mismatch");
        receipt.findings.extend(entered.leave(success));
        if success {
            receipt.findings.extend(self.notes.finish(tasks)?);
        }
        outcome
    }

    /// Hooks that know of which day the snapshot is.
    fn filled(&self, hooks: &Hooks) -> Hooks {
        let zone = jiff::tz::TimeZone::get(&self.job.timezone).unwrap_or(jiff::tz::TimeZone::UTC);
        let instant = jiff::Timestamp::from_second(self.snapshot.time.0).unwrap_or_default();
        let date = instant.to_zoned(zone).date().to_string();
        hooks.filled(&[("{date}", &date), ("{snapshot}", &self.snapshot.id.to_string())])
    }

    /// Keeps what is at the targets, all of it before any of it is replaced.
    fn keep_safe(&self, tasks: &[&Task<'_>], receipt: &mut RunReceipt) -> Result<(), OpError> {
        let Some(dir) = &self.plan.safety_copy else { return Ok(()) };
        crate::state::make_private_dir(dir)?;
        let mut unkept = Vec::new();
        for task in tasks {
            self.env.step(format!("keeping a copy of {}", task.member.name));
            match self.save(task, dir) {
                Ok(findings) => receipt.findings.extend(findings),
                Err(error) if error.exit() == Exit::Interrupted => return Err(error),
                Err(error) => unkept.push(error.to_string()),
            }
        }
        if unkept.is_empty() {
            return Ok(());
        }
        // The others are kept all the same: whoever goes on without this copy has those.
        Err(OpError::NotDone(format!(
            "no copy can be kept of what is there now: {}; nothing has been destroyed. The same command without --safety-copy \
             restores all the same; what could be kept lies in {}",
            unkept.join("; "),
            dir.display()
        )))
    }

    fn replace_all(&self, tasks: &[Task<'_>], receipt: &mut RunReceipt) -> Result<(), OpError> {
        let mut failed = None;
        for task in tasks {
            let name = task.member.name.clone();
            if task.done.is_some() || failed.is_some() {
                let outcome = if task.done.is_some() { "was restored" } else { "not begun" };
                receipt.members.push(MemberReceipt::of(name, outcome));
                continue;
            }
            self.env.step(format!("replacing {name}"));
            match self.replace_member(task, &mut receipt.findings) {
                Ok(member) => {
                    if member.outcome == "restored" {
                        self.notes.done(&name, self.env.clock.now())?;
                    }
                    receipt.members.push(member);
                }
                Err(error) => {
                    receipt.members.push(MemberReceipt::of(name, "failed"));
                    failed = Some(error);
                }
            }
        }
        failed.map_or(Ok(()), Err)
    }

    /// Replaces one member between its hooks, and compares.
    fn replace_member(&self, task: &Task<'_>, findings: &mut Vec<Finding>) -> Result<MemberReceipt, OpError> {
        let name = &task.member.name;
        let place = format!("restore of {name}");
        let entered = self.filled(&task.source.hooks).enter(&place, &self.opened.context.state, self.env)?;
        let begun = self.notes.begin(name).map_err(OpError::from);
        if begun.is_ok() && self.plan.staging.is_none() {
            findings.extend(self.notes.supersede(name));
        }
        let outcome = begun.and_then(|()| self.replace(task)).and_then(|()| self.prove(task));
        let whole = outcome.as_ref().is_ok_and(|(member, _)| member.outcome == "restored");
        findings.extend(entered.leave(whole));
        let (member, found) = outcome?;
        findings.extend(found);
        Ok(member)
    }
}

impl MemberReceipt {
    fn of(name: String, outcome: &'static str) -> Self {
        Self { name, outcome, proof: BTreeMap::new(), tools: BTreeMap::new(), log: None }
    }
}

/// An error of a source while member `name` is brought back.
fn in_member(name: &str, source: SourceError) -> OpError {
    match source {
        SourceError::Interrupted => VaultError::Interrupted.into(),
        source => VaultError::Source { member: name.to_owned(), source }.into(),
    }
}
