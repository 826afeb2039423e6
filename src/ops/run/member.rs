//! One member's way back, whatever its kind.

use std::path::{Path, PathBuf};

use super::compare::compare;
use super::files::{self, FilesTask};
use super::notes::Notes;
use super::sheet::MemberSheet;
use super::{MemberReceipt, Place, RunJob, RunPlan, RunSource, in_member};
use crate::format::manifest::Member;
use crate::model::finding::{Finding, FindingKind};
use crate::model::time::Timestamp;
use crate::ops::{Env, OpError};
use crate::source::SourceConfig;
use crate::source::engine::{Account, Engine, Fetched};
use crate::source::work::Work;
use crate::vault::catalogue_reader::SnapshotReader;

/// A member to be brought back.
pub struct Task<'a> {
    /// What the snapshot holds of it.
    pub member: &'a Member,
    /// Where it goes.
    pub source: &'a RunSource,
    /// When an earlier run brought it back.
    pub done: Option<Timestamp>,
    /// Its circumstances.
    pub work: Work,
    pub(super) way: Way<'a>,
}

/// How a kind is brought back.
pub(super) enum Way<'a> {
    Engine(&'a dyn Engine, PathBuf),
    Files(FilesTask),
}

/// The members that were asked for, in the snapshot's order.
pub fn tasks<'a>(
    plan: &RunPlan,
    job: &'a RunJob,
    reader: &'a SnapshotReader,
    notes: &Notes,
    env: &Env<'_>,
) -> Result<Vec<Task<'a>>, OpError> {
    let manifest = &reader.manifest;
    if let Some(unknown) = plan.members.iter().find(|name| !manifest.members.iter().any(|m| m.name == **name)) {
        let all: Vec<&str> = manifest.members.iter().map(|m| m.name.as_str()).collect();
        return Err(OpError::Usage(format!("no member {unknown:?} in this snapshot; there are {}", all.join(", "))));
    }
    let mut tasks = Vec::new();
    for member in &manifest.members {
        let name = &member.name;
        if !plan.members.is_empty() && !plan.members.contains(name) {
            continue;
        }
        let Some(source) = job.sources.iter().find(|source| source.source.name() == name) else {
            return Err(OpError::Usage(format!(
                "member {name:?} is in the snapshot and not in [job.{}] here: add its source, or choose others with --member",
                manifest.job
            )));
        };
        if !source.has_target {
            let target = plan.target.as_deref().unwrap_or_default();
            return Err(OpError::Usage(format!(
                "member {name:?} would go where it came from, not to {target:?}: say where in \
                 [job.{}.target.{target}.source.{name}], or choose others with --member",
                manifest.job
            )));
        }
        let work = Work::new(name, notes.scratch(name)?, env.clock.now(), &job.timezone, env.cancel)
            .with_timeout(source.timeout_secs);
        let way = match &source.source {
            SourceConfig::Engine(engine) if engine.restores(&member.kind) => {
                Way::Engine(engine.as_ref(), notes.parts().join(format!("@{name}")))
            }
            SourceConfig::Files(files) if member.kind == "files" => {
                let target = plan.target.as_deref().map(|target| (target, files.roots.as_slice()));
                Way::Files(FilesTask::new(member, reader, notes, target)?)
            }
            _ => {
                let why =
                    format!("member {name:?} was backed up as kind {:?}, and is configured as another here", member.kind);
                return Err(OpError::Usage(why));
            }
        };
        tasks.push(Task { member, source, done: notes.when(name), work, way });
    }
    files::apart(tasks.iter().filter_map(|task| if let Way::Files(files) = &task.way { Some(files) } else { None }))?;
    Ok(tasks)
}

impl Task<'_> {
    /// What would be destroyed.
    pub fn sheet(&self, env: &Env<'_>) -> Result<MemberSheet, OpError> {
        env.step(format!("looking at {}", self.member.name));
        let survey = match &self.way {
            Way::Engine(engine, _) => {
                engine.survey(&self.account(), &self.work).map_err(|e| in_member(&self.member.name, e))?
            }
            Way::Files(files) => {
                if self.done.is_none() {
                    files.can_be_swapped()?;
                }
                files.survey()
            }
        };
        Ok(MemberSheet {
            name: self.member.name.clone(),
            kind: self.member.kind.clone(),
            bytes: self.member.tally.source_bytes,
            started: self.member.started,
            finished: self.member.finished,
            done: self.done,
            survey,
        })
    }

    /// The places that need room for what is fetched, and how much.
    pub fn rooms(&self, staging: &Path) -> Vec<(PathBuf, u64)> {
        match &self.way {
            _ if self.done.is_some() => Vec::new(),
            Way::Engine(_, parts) => {
                let bytes = self.member.tally.source_bytes;
                vec![(staging.to_owned(), bytes.saturating_sub(files::taken_below(parts)))]
            }
            Way::Files(files) => files.roots.iter().map(files::Root::room).collect(),
        }
    }

    fn account(&self) -> Account {
        Account { tools: self.member.tools.clone(), proof: self.member.proof.clone(), ..Account::default() }
    }

    /// What was fetched to a place outside the staging directory and is not in use.
    pub fn lying(&self) -> Vec<Finding> {
        if let Way::Files(files) = &self.way { files.lying() } else { Vec::new() }
    }

    /// Removes what lies outside the staging directory.
    pub fn forget(&self) -> Vec<Finding> {
        if let Way::Files(files) = &self.way { files.forget() } else { Vec::new() }
    }
}

impl Place<'_> {
    pub(super) fn fetch(&self, task: &Task<'_>) -> Result<(), OpError> {
        match &task.way {
            Way::Engine(_, dir) => self.fetch_parts(task, dir),
            Way::Files(files) => self.fetch_files(task, files),
        }
    }

    fn fetched(&self, task: &Task<'_>, dir: &Path) -> Result<Fetched, OpError> {
        Ok(Fetched { dir: dir.to_owned(), parts: self.parts_of(task, dir)?, account: task.account() })
    }

    pub(super) fn check(&self, task: &Task<'_>) -> Result<(), OpError> {
        match &task.way {
            Way::Engine(engine, dir) => {
                let fetched = self.fetched(task, dir)?;
                engine.check(&fetched, &task.work).map_err(|e| in_member(&task.member.name, e))
            }
            Way::Files(files) => files.check(),
        }
    }

    pub(super) fn replace(&self, task: &Task<'_>) -> Result<(), OpError> {
        task.work.start_clock();
        match &task.way {
            Way::Engine(engine, dir) => {
                let fetched = self.fetched(task, dir)?;
                engine.replace(&fetched, &task.work).map_err(|e| in_member(&task.member.name, e))
            }
            Way::Files(files) => files.swap(),
        }
    }

    /// Compares what the target holds now with what the backup counted.
    pub(super) fn prove(&self, task: &Task<'_>) -> Result<(MemberReceipt, Vec<Finding>), OpError> {
        let name = &task.member.name;
        let (engine, dir) = match &task.way {
            Way::Engine(engine, dir) => (*engine, dir),
            Way::Files(files) => return self.prove_files(task, files),
        };
        let fetched = self.fetched(task, dir)?;
        let found = engine.prove(&fetched, &task.work).map_err(|e| in_member(name, e))?;
        let mut findings = found.findings;
        let mut receipt =
            MemberReceipt { tools: found.tools, log: found.log, ..MemberReceipt::of(name.clone(), "restored") };
        for (what, expected) in &task.member.proof {
            let Some(is) = found.proof.get(what) else { continue };
            receipt.proof.insert(what.clone(), is.clone());
            if is != expected {
                receipt.outcome = "mismatch";
                let message = format!("{what}: {expected} was backed up and {is} is there after the restore");
                findings.push(Finding::new(FindingKind::Damage, name, message));
            }
        }
        if receipt.proof.is_empty() && !task.member.proof.is_empty() {
            let message = "nothing of what the backup counted could be counted at the target";
            findings.push(Finding::new(FindingKind::Notice, name, message));
        }
        Ok((receipt, findings))
    }

    fn prove_files(&self, task: &Task<'_>, files: &FilesTask) -> Result<(MemberReceipt, Vec<Finding>), OpError> {
        let found = compare(files, task.member, self.reader, self.env)?;
        let mut receipt = MemberReceipt::of(task.member.name.clone(), "restored");
        receipt.proof.insert("entries".into(), found.right.to_string());
        if found.wrong == 0 {
            return Ok((receipt, Vec::new()));
        }
        receipt.outcome = "mismatch";
        let unnamed = found.wrong.saturating_sub(found.named.len() as u64);
        let damage = |(place, why)| Finding::new(FindingKind::Damage, place, why);
        let mut findings: Vec<Finding> = found.named.into_iter().map(damage).collect();
        if unnamed > 0 {
            let message = format!("{unnamed} more entries are not what was backed up");
            findings.push(Finding::new(FindingKind::Damage, &task.member.name, message));
        }
        findings.extend(files.retire()?);
        Ok((receipt, findings))
    }

    /// Keeps what is at the target now in `dir/<member>/`. Once an earlier run of this restore has begun to replace the member,
    /// what it kept there before is the copy that counts, and stays.
    pub(super) fn save(&self, task: &Task<'_>, dir: &Path) -> Result<Vec<Finding>, OpError> {
        let name = &task.member.name;
        let dir = &std::path::absolute(dir).map_err(|e| OpError::NotDone(format!("{}: {e}", dir.display())))?;
        let (place, unfinished) = (dir.join(name), dir.join(format!(".{name}.unfinished")));
        let failed = |path: &Path| {
            let path = path.display().to_string();
            move |e: std::io::Error| OpError::NotDone(format!("{path}: {e}"))
        };
        let kept = self.notes.kept_in(name);
        let again = kept.contains(&place);
        let mut notices = Vec::new();
        if let Some(first) = kept.first().filter(|_| self.notes.has_begun(name)) {
            if again && place.exists() {
                let message = format!("the safety copy of an earlier run lies in {}; it is not made again", place.display());
                return Ok(vec![Finding::new(FindingKind::Notice, name, message)]);
            }
            let lies = if *first != place && first.exists() { "lies in" } else { "was kept, and is no more, in" };
            let first = first.display();
            let message = format!("this is a copy of what an earlier run left; what was there before {lies} {first}");
            notices.push(Finding::new(FindingKind::Notice, name, message));
        }
        // What an earlier run kept before it began to replace anything may be of something else by now: it is kept anew.
        if place.exists() && !again {
            let why = format!("{}: is there already, and a safety copy is never written over", place.display());
            return Err(OpError::NotDone(why));
        }
        match std::fs::remove_dir_all(&unfinished) {
            Err(e) if e.kind() != std::io::ErrorKind::NotFound => return Err(failed(&unfinished)(e)),
            _ => crate::state::make_private_dir(&unfinished)?,
        }
        let findings = self.copy_of(task, &unfinished)?;
        notices.extend(findings);
        self.notes.kept(name, &place)?;
        if again && place.exists() {
            std::fs::remove_dir_all(&place).map_err(failed(&place))?;
        }
        // Noted as complete first: a copy that has its name and is not noted would be somebody else's.
        std::fs::rename(&unfinished, &place).map_err(failed(&place))?;
        std::fs::File::open(dir).and_then(|dir| dir.sync_all()).map_err(failed(dir))?;
        Ok(notices)
    }

    fn copy_of(&self, task: &Task<'_>, dir: &Path) -> Result<Vec<Finding>, OpError> {
        let name = &task.member.name;
        let (engine, parts) = match &task.way {
            Way::Engine(engine, parts) => (*engine, parts),
            Way::Files(files) => return files.save(dir, &task.work).map(|()| Vec::new()).map_err(|e| in_member(name, e)),
        };
        let fetched = self.fetched(task, parts)?;
        let there = engine.survey(&fetched.account, &task.work).map_err(|e| in_member(name, e))?;
        if there.destroys.is_empty() {
            return Ok(Vec::new());
        }
        let entered =
            task.source.backup_hooks.enter(&format!("safety copy of {name}"), &self.opened.context.state, self.env)?;
        let kept = engine.keep(&fetched, dir, &task.work.anew());
        let mut findings = entered.leave(kept.is_ok());
        findings.extend(kept.map_err(|e| in_member(name, e))?);
        Ok(findings)
    }
}
