//! `status`: is every job backed up where it should be, and how long ago?

use std::collections::{BTreeMap, BTreeSet};

use serde::Serialize;

use super::context::{Context, Locking, NamedStore, VaultPin};
use super::verifications::{Place, Verification};
use super::{Env, Exit, OpError};
use crate::format::record::RecordKind;
use crate::ledger::{Checked, Standing};
use crate::model::finding::{Finding, FindingKind};
use crate::model::ids::{SnapshotId, VaultId, WriterId};
use crate::model::name::{Area, ObjectName};
use crate::model::size::count;
use crate::model::snapshot::SnapshotState;
use crate::model::time::{Timestamp, human_duration};
use crate::ops::select::Names;
use crate::state::probes::{Probed, Probes};
use crate::store::{Location, StoreError};
use crate::vault::VaultError;
use crate::vault::copy::Copy;
use crate::vault::presence::Presence;
use crate::vault::pruned::Pruned;
use crate::vault::register::{Register, is_to_come};
use crate::vault::snapshots::{Records, Snapshot};

mod forks;
mod own;

use forks::Signed;
use own::Own;

/// What this machine is called beside the stores.
const HERE: &str = "this machine";
/// A job without a schedule counts as late after so many seconds: two days.
const LATE_SECS: i64 = 2 * 86_400;
/// A push may run past its time by so much of the interval before it counts as late.
const GRACE_PARTS: i64 = 4;

/// What to look at.
pub struct StatusPlan {
    /// The vault.
    pub vault: VaultId,
    /// Whom to trust.
    pub pin: VaultPin,
    /// Stores that could be opened.
    pub stores: Vec<NamedStore>,
    /// Stores that could not.
    pub missed: Vec<(String, StoreError)>,
    /// Names that are known here.
    pub names: Names,
    /// The jobs that should have snapshots.
    pub jobs: Vec<String>,
}

/// The newest snapshot of one series in one store.
#[derive(Debug, Clone, Serialize)]
pub struct SeriesStatus {
    /// The job, or the series token.
    pub job: String,
    /// The newest snapshot.
    pub snapshot: SnapshotId,
    /// When it was committed.
    pub time: Timestamp,
    /// How old it is, in seconds.
    pub age_secs: i64,
    /// When the next was due, where that is known.
    pub due: Option<Timestamp>,
    /// Whether it should have been followed by another.
    pub late: bool,
    /// Whether it is complete.
    pub state: SnapshotState,
    /// How many snapshots the series has.
    pub count: u64,
}

impl SeriesStatus {
    /// How late it is, in words.
    #[must_use]
    pub fn lateness(&self, now: Timestamp) -> String {
        if is_to_come(self.time, now) {
            return format!(
                "the newest snapshot of {} says that it was made at {}, which is not yet: a clock is or was wrong, and whether \
                 it is late cannot be told",
                self.job, self.time
            );
        }
        format!("the newest snapshot of {} is {} old", self.job, age(self.age_secs))
    }
}

/// One store.
#[derive(Debug, Clone, Serialize)]
pub struct StoreStatus {
    /// Its name.
    pub store: String,
    /// Why it could not be looked at.
    pub error: Option<String>,
    /// Its series.
    pub series: Vec<SeriesStatus>,
    /// The newest verification that read stored bytes of this copy: when, how deep, how many findings.
    pub verified: Option<(Timestamp, String, u64)>,
    /// What the last probe said; never for a directory of this machine.
    pub probed: Option<Probed>,
    /// Whether a probe would say anything.
    pub can_be_probed: bool,
    /// Own records that it lacks.
    pub undelivered: u64,
}

/// The newest verification of a copy that is none of the stores, as far as its address tells.
#[derive(Debug, Clone, Serialize)]
pub struct Elsewhere {
    /// The copy: a drive, or the address by which it was verified.
    pub copy: String,
    /// Who verified it.
    pub by: String,
    /// When.
    pub time: Timestamp,
    /// How deep.
    pub depth: String,
    /// How many findings.
    pub findings: u64,
}

/// The state of all.
#[derive(Debug, Clone, Serialize)]
pub struct StatusReceipt {
    /// The stores.
    pub stores: Vec<StoreStatus>,
    /// Other copies that somebody verified.
    pub elsewhere: Vec<Elsewhere>,
    /// What is not as it should be.
    pub findings: Vec<Finding>,
}

impl StatusReceipt {
    /// The exit code of `status --check`.
    #[must_use]
    pub fn exit(&self) -> Exit {
        let all_missed = !self.stores.is_empty() && self.stores.iter().all(|store| store.error.is_some());
        let found = Exit::of_findings(&self.findings);
        if all_missed { found.worst(Exit::Unreachable) } else { found }
    }
}

/// Looks at every store.
///
/// # Errors
/// When the state directory cannot be used, or a store went back in time.
pub fn status(plan: &StatusPlan, env: &Env<'_>) -> Result<StatusReceipt, OpError> {
    let mut context = Context::open(env, plan.vault, Locking::Shared)?;
    let mut receipt = StatusReceipt { stores: Vec::new(), elsewhere: Vec::new(), findings: Vec::new() };
    let mut seen = Seen::default();
    (seen.own, receipt.findings) = Own::read(&context, plan.vault);
    for (name, error) in &plan.missed {
        receipt.missed(name, &error.to_string(), error.is_host_key());
    }
    for named in &plan.stores {
        env.step(format!("looking at {}", named.name));
        match look(plan, &mut context, named, &mut seen, env) {
            Ok((store, findings)) => {
                receipt.stores.push(store);
                receipt.findings.extend(findings);
            }
            Err(VaultError::Interrupted) => return Err(VaultError::Interrupted.into()),
            Err(error) => {
                let alarm = !matches!(&error, VaultError::Store(e) if e.is_store_wide() && !e.is_host_key());
                receipt.missed(&named.name, &error.to_string(), alarm);
            }
        }
    }
    receipt.findings.extend(seen.own.findings().into_iter().chain(seen.signed.forks()));
    receipt.verified(&seen);
    Ok(receipt)
}

/// What all stores together say, and this machine.
#[derive(Default)]
struct Seen {
    /// What this machine has signed, as it lies here.
    own: Own,
    /// What lies where, of whom.
    signed: Signed,
    /// Verifications: their records and this machine's own, each once.
    records: BTreeMap<ObjectName, Checked>,
    /// How each store that was looked at may be named in one.
    places: Vec<(String, Vec<Place>)>,
    /// Drives that were retired: nobody can or need read them again.
    retired: BTreeSet<Place>,
    /// Verifications of directories by machines that were retired.
    over: BTreeSet<ObjectName>,
}

impl StatusReceipt {
    /// Says of each copy when it was last verified, and what was found and is not settled.
    fn verified(&mut self, seen: &Seen) {
        let mut all = Verification::all(seen.records.values());
        all.retain(|one| !seen.retired.contains(&one.place) && !seen.over.contains(&one.record.name));
        let mut newest: BTreeMap<&Place, &Verification<'_>> = BTreeMap::new();
        for one in all.iter().filter(|one| one.read_bytes()) {
            let slot = newest.entry(&one.place).or_insert(one);
            if slot.record.statement.time <= one.record.statement.time {
                *slot = one;
            }
        }
        let store_of =
            |place: &Place| seen.places.iter().find(|(_, places)| places.contains(place)).map(|(name, _)| name.as_str());
        for (place, one) in &newest {
            let (time, depth, findings) = (one.record.statement.time, one.body.depth.clone(), one.body.findings);
            match store_of(place) {
                Some(name) => {
                    for store in self.stores.iter_mut().filter(|store| store.store == name) {
                        if store.verified.as_ref().is_none_or(|(before, ..)| *before <= time) {
                            store.verified = Some((time, depth.clone(), findings));
                        }
                    }
                }
                None => {
                    let by = one.record.writer_name.clone();
                    self.elsewhere.push(Elsewhere { copy: copy_of(one), by, time, depth, findings });
                }
            }
        }
        for one in all.iter().filter(|one| one.read_bytes() && one.body.findings > 0) {
            if !all.iter().any(|later| later.settles(one)) {
                let subject = store_of(&one.place).map_or_else(|| copy_of(one), str::to_owned);
                let message = format!(
                    "a verification by {} at {} left {}, and none since has read all of that copy and \
                     found it right: verify it under that address when it is mended",
                    one.record.writer_name,
                    one.record.statement.time,
                    count(one.body.findings, "finding")
                );
                self.findings.push(Finding::new(FindingKind::Damage, subject, message));
            }
        }
    }

    fn missed(&mut self, name: &str, error: &str, alarm: bool) {
        let kind = if alarm { FindingKind::Trust } else { FindingKind::Behind };
        self.findings.push(Finding::new(kind, name, error));
        self.stores.push(StoreStatus {
            store: name.to_owned(),
            error: Some(error.to_owned()),
            series: Vec::new(),
            verified: None,
            probed: None,
            can_be_probed: false,
            undelivered: 0,
        });
    }
}

fn look(
    plan: &StatusPlan,
    context: &mut Context,
    named: &NamedStore,
    seen: &mut Seen,
    env: &Env<'_>,
) -> Result<(StoreStatus, Vec<Finding>), VaultError> {
    let mut copy = context.open_copy(std::sync::Arc::clone(&named.store), &plan.pin)?;
    let records = context.read_records(&mut copy)?;
    let alarms = records.findings.iter().filter(|finding| finding.kind.is_alarm());
    let of_store = |found: &Finding| Finding::new(found.kind, &named.name, format!("{}: {}", found.subject, found.message));
    let mut findings: Vec<Finding> = alarms.map(of_store).chain(lost_trust(&copy, &named.name)).collect();
    let now = env.clock.now();
    let mut by_series: BTreeMap<_, Vec<Snapshot>> = BTreeMap::new();
    let mut snapshots = records.snapshots();
    let presence = Presence::read(copy.store.as_ref(), &[Area::Inventories, Area::Manifests])?;
    Pruned::of(&records, &presence).take_dropped(&mut snapshots);
    // A record may lie where its objects do not: a store that was full takes them later.
    let is_whole = |snapshot: &Snapshot| presence.has(&snapshot.body.inventory) && presence.has(&snapshot.body.manifest);
    let (snapshots, behind): (Vec<_>, Vec<_>) = snapshots.into_iter().partition(is_whole);
    if let Some(newest) = behind.last() {
        let message = format!(
            "holds the records of {} and not what lists their objects: {} of {} is the newest of them; the next push or `farkeep \
             sync` brings what another copy has",
            count(behind.len() as u64, "snapshot"),
            newest.id.short(),
            newest.time
        );
        findings.push(Finding::new(FindingKind::Behind, &named.name, message));
    }
    for snapshot in snapshots {
        by_series.entry(snapshot.body.series).or_default().push(snapshot);
    }
    let here: Vec<Snapshot> = by_series.values().flatten().cloned().collect();
    findings.extend(super::prune::frozen(&records, &here, &named.name));
    let mut series = Vec::new();
    for (token, snapshots) in &by_series {
        let Some(newest) = snapshots.last() else { continue };
        let job = plan.names.of(token).map_or_else(|| token.to_string(), |(_, job)| job.to_owned());
        let status = series_status(job, newest, snapshots.len() as u64, now);
        // Pushes of paths by hand have no schedule.
        if status.late && plan.jobs.contains(&status.job) {
            let message = status.lateness(now);
            findings.push(Finding::new(FindingKind::Behind, &named.name, message));
        }
        if status.state == SnapshotState::Partial && plan.jobs.contains(&status.job) {
            let whole = snapshots.iter().rev().find(|snapshot| snapshot.body.state != SnapshotState::Partial);
            let whole = whole
                .map_or_else(|| "none is complete".to_owned(), |one| format!("the newest complete one is of {}", one.time));
            let message = format!("the newest snapshot of {} is partial, something could not be read; {whole}", status.job);
            findings.push(Finding::new(FindingKind::Source, &named.name, message));
        }
        series.push(status);
    }
    for job in &plan.jobs {
        if !series.iter().any(|status| status.job == *job) {
            findings.push(Finding::new(FindingKind::Behind, &named.name, format!("{job} has no snapshot here")));
        }
    }
    seen.read(&named.name, &copy, &records);
    seen.places.push((named.name.clone(), places(&seen.own.writers, &copy)));
    let undelivered = seen.own.undelivered(&copy);
    if undelivered > 0 {
        let message = format!("{undelivered} records of this machine are not delivered");
        findings.push(Finding::new(FindingKind::Notice, &named.name, message));
    }
    let location = named.store.location();
    let status = StoreStatus {
        store: named.name.clone(),
        error: None,
        series,
        verified: None,
        probed: Probes::open(&context.state)?.of(&location.to_string()).cloned(),
        can_be_probed: matches!(location, Location::Sftp(_)),
        undelivered,
    };
    Ok((status, findings))
}

impl Seen {
    /// Whom the vault trusts, and this machine, whose own word needs nobody's trust here.
    fn read(&mut self, store: &str, copy: &Copy, records: &Records) {
        let trusted = records.checked.iter().filter(|record| record.standing == Standing::Trusted).cloned();
        let own = self.own.checked(store, copy, records);
        self.signed.add(store, &records.checked);
        self.signed.add(HERE, &own);
        records.retired.keys().for_each(|writer| self.signed.leave_out(*writer));
        let register = Register::read(&records.checked, &self.own.writers);
        let retired = register.all().filter(|drive| drive.retired.is_some());
        self.retired.extend(retired.map(|drive| Place::Drive(drive.name.clone(), Some(drive.label.hash))));
        let verified = trusted.chain(own).filter(|record| record.statement.kind == RecordKind::Verify);
        self.records.extend(verified.map(|record| (record.name.clone(), record)));
        let over = Verification::all(self.records.values()).into_iter().filter(|one| one.is_over(&copy.trust));
        self.over.extend(over.map(|one| one.record.name.clone()));
    }
}

/// That records of the root's chain do not lie in a copy. What it holds later ones of went away; the newest may be to come.
fn lost_trust(copy: &Copy, store: &str) -> Option<Finding> {
    let lost: BTreeSet<&ObjectName> = copy.lost_trust().map(|(name, _)| name).collect();
    let (first, last) = (lost.first()?, lost.last()?);
    let held = copy.trust_records().iter().map(|(name, _)| name).filter(|name| !lost.contains(name)).max();
    let kind = if held.is_some_and(|held| held < first) { FindingKind::Behind } else { FindingKind::Damage };
    let message = format!(
        "lacks {} of the root's chain, {last} the newest of them: who has not seen the chain elsewhere trusts nobody \
         here; the next push or `farkeep sync` brings what this machine remembers",
        count(lost.len() as u64, "record")
    );
    Some(Finding::new(kind, store, message))
}

/// How a verification may name this copy.
fn places(writers: &BTreeSet<WriterId>, copy: &Copy) -> Vec<Place> {
    // Who never signed has verified no directory; a server has the same name for all.
    let nobody = BTreeSet::from([WriterId([0; 16])]);
    let writers = if writers.is_empty() { &nobody } else { writers };
    writers.iter().map(|writer| Place::of_copy(copy, *writer)).collect()
}

fn copy_of(one: &Verification<'_>) -> String {
    match &one.place {
        Place::Drive(name, _) => format!("drive {name}"),
        Place::Server(..) | Place::Directory(..) => one.body.store.clone(),
    }
}

fn series_status(job: String, newest: &Snapshot, count: u64, now: Timestamp) -> SeriesStatus {
    let age_secs = now.secs_since(newest.time).max(0);
    let late = match newest.body.due {
        _ if is_to_come(newest.time, now) => true,
        Some(due) => {
            let interval = due.secs_since(newest.body.started).max(0);
            now > due.plus_secs(interval / GRACE_PARTS)
        }
        None => age_secs > LATE_SECS,
    };
    SeriesStatus {
        job,
        snapshot: newest.id,
        time: newest.time,
        age_secs,
        due: newest.body.due,
        late,
        state: newest.body.state,
        count,
    }
}

/// An age for people.
#[must_use]
pub fn age(secs: i64) -> String {
    human_duration(u64::try_from(secs).unwrap_or(0))
}
