//! `prune plan`: decides by the rules, lists what may go, signs it.

use std::collections::{BTreeMap, BTreeSet};

use jiff::tz::TimeZone;
use serde::Serialize;

use super::{Site, frozen};
use crate::crypto::hash::hash;
use crate::crypto::random;
use crate::format::body::{PrunePlanBody, SnapshotRange};
use crate::format::inventory::{Line, encode};
use crate::format::record::{Head, RecordKind};
use crate::ledger::{Checked, Scribe};
use crate::model::drive::DriveName;
use crate::model::finding::{Finding, FindingKind};
use crate::model::ids::{ObjectHash, SnapshotId, Token};
use crate::model::limits::INVENTORY_PAGE_LINES;
use crate::model::name::{ObjectName, Sealed};
use crate::model::retention::{Candidate, Decision, Keep, Reason, decide};
use crate::model::size;
use crate::model::snapshot::SnapshotState;
use crate::model::time::Timestamp;
use crate::ops::context::{NamedStore, VaultPin};
use crate::ops::drive::drive_of;
use crate::ops::sections::Sections;
use crate::ops::select::Names;
use crate::ops::{Env, Exit, OpError};
use crate::store::deliver::{RetryPolicy, deliver};
use crate::vault::VaultError;
use crate::vault::copy::Copy;
use crate::vault::inventory::{NewPage, page_names};
use crate::vault::pruned::{Plan, holds, ranges, still_held};
use crate::vault::snapshots::Snapshot;
use crate::vault::suspects::Suspects;
use crate::vault::sweep::{Sweep, each_listed};

/// Stretches of chains that fit into one record with room to spare; what is beyond is left to the next plan.
const RANGES_MAX: usize = 400;

/// The rules of a series, and the zone in which its days begin.
#[derive(Debug, Clone)]
pub struct Rule {
    /// What stays.
    pub keep: Keep,
    /// Where a day begins.
    pub zone: TimeZone,
}

/// Which rules hold for which series.
#[derive(Debug, Clone, Default)]
pub struct Rules {
    /// By series.
    pub series: BTreeMap<Token, Rule>,
    /// For every other series; without it all of them stays.
    pub others: Option<Rule>,
    /// In place of all these, on a drive that has rules of its own.
    pub drives: BTreeMap<DriveName, Rules>,
    /// Whose they are, for people.
    pub whose: String,
    /// The sections of the configuration, to find those that speak of nothing.
    pub sections: Sections,
}

impl Rules {
    /// Whether nothing is said of any copy.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.series.is_empty() && self.others.is_none() && self.drives.is_empty()
    }

    /// Those that hold for a copy. Which drive it lies on is believed when label and hardware agree.
    #[must_use]
    pub fn on(&self, copy: &Copy) -> Self {
        let drive = if self.drives.is_empty() { None } else { drive_of(copy) };
        let own = drive.and_then(|(name, _)| self.drives.get(&name));
        own.cloned().unwrap_or_else(|| Self { drives: BTreeMap::new(), sections: Sections::default(), ..self.clone() })
    }

    fn of(&self, series: &Token) -> Option<&Rule> {
        self.series.get(series).or(self.others.as_ref())
    }
}

/// Whether damaged snapshots end the plan.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Damage {
    /// They do: what prune would remove may heal them.
    Refuse,
    /// They count as suspect: they displace no good one.
    Accept,
}

/// What to plan.
pub struct PlanRequest {
    /// Whom to trust.
    pub pin: VaultPin,
    /// The copy.
    pub store: NamedStore,
    /// What stays.
    pub rules: Rules,
    /// Names that are known here.
    pub names: Names,
    /// How long to wait before it is applied, in seconds.
    pub wait_secs: u64,
    /// What damaged snapshots mean.
    pub damage: Damage,
    /// Only decide; sign nothing.
    pub dry_run: bool,
}

/// What becomes of a snapshot, and why.
#[derive(Debug, Clone, Serialize)]
pub struct Explained {
    /// The snapshot.
    pub id: SnapshotId,
    /// Its job where that is known here, else its series.
    pub series: String,
    /// When it was made, as far as that can be believed.
    pub time: Timestamp,
    /// What its writer claims.
    pub claimed: Timestamp,
    /// What its push made of it.
    pub state: SnapshotState,
    /// Whether it stays.
    pub keep: bool,
    /// Why it stays, or why it goes where no rule was asked.
    pub reasons: Vec<String>,
}

/// What was planned.
#[derive(Debug, Clone, Serialize)]
pub struct PlanReceipt {
    /// The copy.
    pub store: String,
    /// Whose rules decided.
    pub rules: String,
    /// The plan's record; none when nothing was signed.
    pub plan: Option<Head>,
    /// Its name in the ledger.
    pub record: Option<String>,
    /// The record as it is stored.
    #[serde(skip)]
    pub bytes: Vec<u8>,
    /// Every snapshot, with what becomes of it.
    pub snapshots: Vec<Explained>,
    /// How many stay.
    pub kept: u64,
    /// How many go.
    pub dropped: u64,
    /// Objects that go.
    pub objects: u64,
    /// Their bytes.
    pub bytes_freed: u64,
    /// How long to wait, in seconds.
    pub wait_secs: u64,
    /// Suspect snapshots, for which nothing of their series goes.
    pub findings: Vec<Finding>,
}

impl PlanReceipt {
    /// The exit code.
    #[must_use]
    pub fn exit(&self) -> Exit {
        Exit::of_findings(&self.findings)
    }
}

/// That nothing says what may go.
#[must_use]
pub fn no_rules() -> OpError {
    OpError::Usage(
        "no rules: write keep = { daily = 7, ... } into a [job], [store], [drive] or [series] of the configuration, or give \
         --keep-last and the like"
            .into(),
    )
}

/// Plans what goes from a copy.
///
/// # Errors
/// When the copy is damaged or its ledger in doubt, an earlier plan was begun and not finished, or this machine may not plan.
pub fn plan(request: &PlanRequest, env: &Env<'_>) -> Result<PlanReceipt, OpError> {
    let site = Site::open_sound(&request.store, &request.pin, env)?;
    let rules = request.rules.on(&site.copy);
    if rules.is_empty() {
        return Err(no_rules());
    }
    if request.damage == Damage::Refuse {
        site.check_verified(|_| false, env)?;
    }
    let mut scribe = if request.dry_run { None } else { Some(site.scribe(&RecordKind::PrunePlan, env)?) };
    let here = site.copy.name();
    let unfinished = |plan: &&Plan| plan.body.store == here && site.pruned.done(plan).is_some();
    if let Some(begun) = site.pruned.pending().find(unfinished) {
        if site.pruned.is_of_retired(begun) {
            return Err(OpError::NotDone(super::apply::begun_by_retired(begun)));
        }
        let plan = begun.head.hash.short();
        return Err(OpError::NotDone(format!(
            "plan {plan} was begun and not finished: `farkeep prune apply {plan}` ends it"
        )));
    }
    env.step("listing objects");
    let store = site.copy.store.as_ref();
    let mut sweep = Sweep::read(store, old_until(&site, request.wait_secs, env))?;
    let (here, others) = snapshots_here(&site, &sweep);
    let (given_up, others) = give_up(request, &site, others);
    env.step("reading inventories");
    let broken = broken_snapshots(&site, &sweep, &here, request.damage)?;
    let mut explained = decisions(&rules, &request.names, &site, &here, &broken);
    let (mut drops, kept) = split(&here, &explained, &others);
    let stay: Vec<&Snapshot> = kept.iter().copied().chain(&others).collect();
    let all: Vec<&Snapshot> = drops.iter().copied().chain(&given_up).collect();
    if ranges(&all, &stay).len() <= RANGES_MAX {
        drops = all;
        explained.extend(given_up.iter().map(|snapshot| of_lost(snapshot, &request.names)));
    }
    let keeping: Vec<&Snapshot> = kept.clone();
    each_listed(&site.pages, store, &keeping, &mut |name| sweep.need(name))?;
    for name in site.pruned.own_objects(&site.pages, store)? {
        sweep.need(&name);
    }
    release_all(&site, &drops, &mut sweep, env)?;
    let unlisted = spare_unlisted(request, &site, &others, &mut sweep);
    let unknown = request.rules.sections.unknown(&site.context, &site.copy, &site.records)?;
    let (objects, bytes_freed) = sweep.removable().fold((0, 0), |(n, sum), (_, bytes)| (n + 1, sum + bytes));
    let mut receipt = PlanReceipt {
        store: site.copy.name(),
        rules: rules.whose,
        plan: None,
        record: None,
        bytes: Vec::new(),
        kept: kept.len() as u64,
        dropped: drops.iter().filter(|snapshot| !site.pruned.was_dropped(snapshot)).count() as u64,
        snapshots: explained,
        objects,
        bytes_freed,
        wait_secs: request.wait_secs,
        findings: [frozen(&site.records, here.iter().chain(&others), &site.copy.name()), unknown]
            .into_iter()
            .flatten()
            .chain(voided(&site))
            .chain(unlisted)
            .collect(),
    };
    if let Some(scribe) = &mut scribe
        && (objects > 0 || receipt.dropped > 0)
    {
        env.step("signing the plan");
        let copy = write_page(&site, &mut vec![drawn_line(scribe)?])?;
        let list = write_list(&site, copy.clone(), &sweep)?;
        let body = PrunePlanBody {
            store: site.copy.name(),
            drops: ranges(&drops, &stay),
            snapshots: receipt.dropped,
            kept: receipt.kept,
            copy: copy.name,
            list,
            objects,
            bytes: bytes_freed,
            wait_secs: request.wait_secs,
        };
        let signed = site.sign(scribe, RecordKind::PrunePlan, &body, env)?;
        receipt.plan = Some(signed.head);
        receipt.record = Some(signed.name.to_string());
        receipt.bytes = signed.bytes;
    }
    Ok(receipt)
}

/// Where there are snapshots of which this copy holds the record alone, nothing goes that may be theirs: nobody can say what
/// they need. Who despairs of them says so.
fn spare_unlisted(request: &PlanRequest, site: &Site, others: &[Snapshot], sweep: &mut Sweep) -> Option<Finding> {
    if others.is_empty() || request.damage != Damage::Refuse {
        return None;
    }
    sweep.spare_unlisted();
    let message = format!(
        "holds the records of {} and not the objects, or lost what lists them: nothing goes that may belong to them (`farkeep \
         sync` brings the rest, --despite-damage gives them up)",
        size::count(others.len() as u64, "snapshot")
    );
    Some(Finding::new(FindingKind::Behind, site.copy.name(), message))
}

/// Notes what the snapshots that go list, each page once: ten thousand of them share most. A page that cannot be read releases
/// nothing: what it lists goes when it is old.
fn release_all(site: &Site, drops: &[&Snapshot], sweep: &mut Sweep, env: &Env<'_>) -> Result<(), OpError> {
    let store = site.copy.store.as_ref();
    let mut pages: BTreeSet<Sealed> = BTreeSet::new();
    for snapshot in drops {
        env.check_cancel()?;
        sweep.release(&snapshot.body.inventory);
        sweep.release(&snapshot.body.manifest);
        pages.extend(page_names(&site.pages, store, &snapshot.body.inventory).into_iter().flatten());
    }
    for page in pages {
        env.check_cancel()?;
        sweep.release(&ObjectName::Inventory(page));
        site.pages.read(store, &page).into_iter().flatten().for_each(|line| sweep.release(&line.name));
    }
    Ok(())
}

/// What was received before this belongs to no push that is still at work. The newest receive time is what the store's clock
/// has reached at least; a clock of ours that runs ahead makes nothing old.
fn old_until(site: &Site, wait_secs: u64, env: &Env<'_>) -> Timestamp {
    let reached = site.records.received.values().max().copied().unwrap_or(Timestamp(0));
    let wait = i64::try_from(wait_secs.max(super::WAIT_SECS)).unwrap_or(i64::MAX);
    reached.min(env.clock.now()).plus_secs(wait.saturating_neg())
}

/// The snapshots of which the copy holds the inventory, and all others that were not dropped from it.
fn snapshots_here(site: &Site, sweep: &Sweep) -> (Vec<Snapshot>, Vec<Snapshot>) {
    let mut all = site.records.snapshots();
    site.pruned.take_gone(&mut all);
    all.into_iter().partition(|snapshot| sweep.has(&snapshot.body.inventory) || sweep.has(&snapshot.body.manifest))
}

/// Of snapshots that lie here by their records alone, those that are given up for lost: all, where somebody plans despite the
/// damage, but what is held or frozen. The others.
fn give_up(request: &PlanRequest, site: &Site, others: Vec<Snapshot>) -> (Vec<Snapshot>, Vec<Snapshot>) {
    let (held, suspects) = (still_held(&site.records), Suspects::read(&site.records));
    let stays = |snapshot: &Snapshot| held.contains(&snapshot.id) || suspects.freezes(&snapshot.body.series).is_some();
    others.into_iter().partition(|snapshot| request.damage == Damage::Accept && !stays(snapshot))
}

fn of_lost(snapshot: &Snapshot, names: &Names) -> Explained {
    let series = snapshot.body.series;
    Explained {
        id: snapshot.id,
        series: names.of(&series).map_or_else(|| series.to_string(), |(_, job)| job.to_owned()),
        time: snapshot.time,
        claimed: snapshot.time,
        state: snapshot.body.state,
        keep: false,
        reasons: vec!["its objects are not in this copy: given up".into()],
    }
}

/// Snapshots that lack something here.
fn broken_snapshots(site: &Site, sweep: &Sweep, here: &[Snapshot], damage: Damage) -> Result<BTreeSet<SnapshotId>, OpError> {
    let store = site.copy.store.as_ref();
    let mut known: BTreeMap<Sealed, Option<String>> = BTreeMap::new();
    let mut broken = BTreeSet::new();
    site.pages.read_ahead(store, here.iter().map(|snapshot| &snapshot.body.inventory));
    // Each snapshot's own manifest is looked at beside its pages; those of others may have gone with them.
    let swept =
        |name: &ObjectName| crate::vault::sweep::SWEPT.contains(&name.area()) && !matches!(name, ObjectName::Manifest(_));
    for snapshot in here {
        let mut why = [&snapshot.body.inventory, &snapshot.body.manifest]
            .into_iter()
            .find(|name| !sweep.has(name))
            .map(|name| format!("{name} is missing"));
        let pages = match page_names(&site.pages, store, &snapshot.body.inventory) {
            Ok(pages) => pages,
            Err(VaultError::Store(error)) if error.is_store_wide() => return Err(error.into()),
            Err(error) => {
                why.get_or_insert(error.to_string());
                Vec::new()
            }
        };
        for page in pages {
            if let std::collections::btree_map::Entry::Vacant(slot) = known.entry(page) {
                let found = match site.pages.read(store, &page) {
                    _ if !sweep.has(&ObjectName::Inventory(page)) => Some(format!("{page} is missing")),
                    Ok(lines) => lines
                        .iter()
                        .find(|line| swept(&line.name) && !sweep.has(&line.name))
                        .map(|line| format!("{} is missing", line.name)),
                    Err(VaultError::Store(error)) if error.is_store_wide() => return Err(error.into()),
                    Err(error) => Some(error.to_string()),
                };
                slot.insert(found);
            }
            if let (None, Some(Some(found))) = (&why, known.get(&page)) {
                why = Some(found.clone());
            }
        }
        if let Some(why) = why {
            if damage == Damage::Refuse {
                let why = format!("{why}; heal the copy (`farkeep sync`), or plan with --despite-damage");
                return Err(VaultError::damaged(format!("snapshot {}", snapshot.id.short()), why).into());
            }
            broken.insert(snapshot.id);
        }
    }
    Ok(broken)
}

/// Says that snapshots of a retired key go, which a line drawn otherwise would bring back.
fn voided(site: &Site) -> Option<Finding> {
    let is_one = |record: &&Checked| record.is_void() && record.statement.kind == RecordKind::Snapshot;
    let count = site.records.checked.iter().filter(is_one).count();
    let message = format!(
        "{} that keys signed which were retired before: objects that only those need go too, and `farkeep keys retire --until` \
         brings none back after that",
        size::count(count as u64, "snapshot")
    );
    (count > 0).then(|| Finding::new(FindingKind::Notice, "retired keys", message))
}

/// What the rules keep of the snapshots that lie in a copy about which nothing is doubtful.
pub(super) fn kept_by(rules: &Rules, site: &Site, here: &[Snapshot]) -> BTreeSet<SnapshotId> {
    let decided = decisions(rules, &Names::default(), site, here, &BTreeSet::new());
    decided.into_iter().filter(|one| one.keep).map(|one| one.id).collect()
}

/// Decides on every snapshot of `here`, oldest first, series by series.
fn decisions(rules: &Rules, names: &Names, site: &Site, here: &[Snapshot], broken: &BTreeSet<SnapshotId>) -> Vec<Explained> {
    let times = site.records.believed_times();
    let (held, suspects) = (holds(&site.records), Suspects::read(&site.records));
    let time_of = |snapshot: &Snapshot| times.get(&snapshot.id).copied().unwrap_or(snapshot.time);
    let mut by_series: BTreeMap<Token, Vec<&Snapshot>> = BTreeMap::new();
    for snapshot in here {
        by_series.entry(snapshot.body.series).or_default().push(snapshot);
    }
    let mut explained = Vec::new();
    for (series, snapshots) in by_series {
        let candidates: Vec<Candidate> = snapshots
            .iter()
            .map(|snapshot| Candidate {
                id: snapshot.id,
                time: time_of(snapshot),
                state: suspects.state_of(snapshot),
                whole: !broken.contains(&snapshot.id),
                tags: snapshot.body.tags.clone(),
                held: held.get(&snapshot.id).copied(),
            })
            .collect();
        let rule = rules.of(&series);
        let zone = rule.map_or(TimeZone::UTC, |rule| rule.zone.clone());
        let mut decided = decide(&candidates, rule.map(|rule| &rule.keep), &zone);
        if let Some(suspect) = suspects.freezes(&series) {
            decided.iter_mut().for_each(|decision| decision.reasons.push(Reason::Frozen(suspect.id)));
        }
        let name = names.of(&series).map_or_else(|| series.to_string(), |(_, job)| job.to_owned());
        explained.extend(
            snapshots
                .iter()
                .zip(&candidates)
                .zip(decided)
                .map(|((snapshot, candidate), decision)| explain(snapshot, candidate, &decision, &name)),
        );
    }
    explained
}

fn explain(snapshot: &Snapshot, candidate: &Candidate, decision: &Decision, series: &str) -> Explained {
    Explained {
        id: snapshot.id,
        series: series.to_owned(),
        time: candidate.time,
        claimed: snapshot.time,
        state: snapshot.body.state,
        keep: decision.keeps(),
        reasons: decision.reasons.iter().map(ToString::to_string).collect(),
    }
}

/// What goes and what stays, of which no more goes than one record can say.
fn split<'a>(
    here: &'a [Snapshot],
    explained: &[Explained],
    others: &'a [Snapshot],
) -> (Vec<&'a Snapshot>, Vec<&'a Snapshot>) {
    let going: BTreeSet<SnapshotId> = explained.iter().filter(|one| !one.keep).map(|one| one.id).collect();
    let (drops, kept): (Vec<&Snapshot>, Vec<&Snapshot>) = here.iter().partition(|snapshot| going.contains(&snapshot.id));
    let stay: Vec<&Snapshot> = kept.iter().copied().chain(others).collect();
    let all: Vec<SnapshotRange> = ranges(&drops, &stay);
    if all.len() <= RANGES_MAX {
        return (drops, kept);
    }
    let fits =
        |snapshot: &&Snapshot| all[..RANGES_MAX].iter().any(|range| range.contains(&snapshot.writer, snapshot.head.seq));
    let (drops, left): (Vec<&Snapshot>, Vec<&Snapshot>) = drops.into_iter().partition(fits);
    (drops, kept.into_iter().chain(left).collect())
}

/// A name that nobody else has: what tells copies apart must never be the same for two planners, nor for two attempts. One
/// that was killed before it signed has left its page in the copy of which it was to speak.
fn drawn_line(scribe: &Scribe) -> Result<Line, OpError> {
    let drawn = || random::<32>().map(ObjectHash).map_err(VaultError::internal);
    let name = ObjectName::Record { writer: scribe.writer(), seq: 1, statement: drawn()? };
    Ok(Line { name, hash: drawn()? })
}

/// Writes the list of what goes: pages first, then the root that lists them. `copy` is among them, so that no two lists are
/// one object.
fn write_list(site: &Site, copy: Line, sweep: &Sweep) -> Result<ObjectName, OpError> {
    let mut pages: Vec<Line> = vec![copy];
    let mut lines: Vec<Line> = Vec::new();
    let most = INVENTORY_PAGE_LINES * (INVENTORY_PAGE_LINES - 1);
    for (name, _) in sweep.removable().take(most) {
        let hash = name.content_hash().ok_or_else(|| VaultError::internal("a swept object without a hash"))?;
        lines.push(Line { name: name.clone(), hash });
        if lines.len() == INVENTORY_PAGE_LINES {
            pages.push(write_page(site, &mut lines)?);
        }
    }
    if !lines.is_empty() {
        pages.push(write_page(site, &mut lines)?);
    }
    Ok(write_page(site, &mut pages)?.name)
}

fn write_page(site: &Site, lines: &mut Vec<Line>) -> Result<Line, OpError> {
    let bytes = encode(lines).map_err(VaultError::internal)?;
    lines.clear();
    let hash = hash(&bytes);
    let page = NewPage { name: Sealed { hash, bytes: bytes.len() as u64 }, bytes };
    let name = ObjectName::Inventory(page.name);
    deliver(site.copy.store.as_ref(), &name, &page.bytes, RetryPolicy::DEFAULT)?;
    site.pages.keep(&page);
    Ok(Line { hash, name })
}
