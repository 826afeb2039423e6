//! `prune apply`: removes what a plan names and nothing needs any more.
//!
//! Order: wait; sign which snapshots are dropped; only then look at what is needed, since what was signed is never built on
//! again; remove inventories, manifests, indexes, packs; sign that it is done. It can stop anywhere: what was signed is not
//! undone, and the next run removes the rest.

use std::collections::BTreeSet;
use std::sync::{Arc, Mutex, PoisonError};

use serde::Serialize;

use super::plan::{Rules, kept_by};
use super::{Site, record_name};
use crate::format::body::{PruneDoneBody, SnapshotRange};
use crate::format::record::{Head, RecordKind};
use crate::ledger::Scribe;
use crate::model::ids::SnapshotId;
use crate::model::name::{Area, ObjectName};
use crate::model::snapshot::SnapshotState;
use crate::model::time::Timestamp;
use crate::ops::context::{NamedStore, VaultPin};
use crate::ops::drive::drive_of;
use crate::ops::{Env, Event, Exit, OpError};
use crate::store::{PruneStore, StoreError, WriteOnceStore};
use crate::vault::VaultError;
use crate::vault::inventory::page_names;
use crate::vault::objects::read_object;
use crate::vault::pruned::{Plan, Pruned, each_planned, ranges, still_held};
use crate::vault::snapshots::Snapshot;
use crate::vault::suspects::Suspects;
use crate::vault::sweep::{SWEPT, each_listed};
use crate::vault::workers::work_through;

/// Removals at once.
const PARALLEL_MAX: usize = 8;
/// Made and removed again to read the store's clock; readers take it for debris.
const CLOCK_NAME: &str = "tmp-clock";

/// Whether to wait.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Waiting {
    /// As long as the plan says, by the store's clock.
    AsPlanned,
    /// Not at all: nobody pushes to this copy meanwhile.
    Skip,
}

/// What to apply.
pub struct ApplyRequest {
    /// Whom to trust.
    pub pin: VaultPin,
    /// What the copy is called.
    pub name: String,
    /// The copy, through an account that may remove.
    pub store: Arc<dyn PruneStore>,
    /// The beginning of the hash of the plan's record; without it the newest that is pending.
    pub plan: Option<String>,
    /// Whether to wait.
    pub waiting: Waiting,
    /// What must stay also if the plan drops it: the rules of whoever applies it by itself, night by night.
    pub rules: Option<Rules>,
}

/// What was removed.
#[derive(Debug, Clone, Serialize)]
pub struct ApplyReceipt {
    /// The copy.
    pub store: String,
    /// The plan; none when there was none to apply.
    pub plan: Option<Head>,
    /// Until when it waits, by the store's clock; then nothing was done.
    pub due: Option<Timestamp>,
    /// Snapshots that were dropped.
    pub dropped: u64,
    /// Objects that were removed now.
    pub objects: u64,
    /// Their bytes.
    pub bytes: u64,
    /// Objects of the plan that stay, because something needs them now.
    pub spared: u64,
}

impl ApplyReceipt {
    /// That there was nothing to do.
    #[must_use]
    pub const fn nothing(store: String) -> Self {
        Self { store, plan: None, due: None, dropped: 0, objects: 0, bytes: 0, spared: 0 }
    }

    /// The exit code.
    #[must_use]
    pub const fn exit(&self) -> Exit {
        if self.due.is_some() { Exit::Busy } else { Exit::Done }
    }
}

/// Applies a plan.
///
/// # Errors
/// When the copy is in doubt, the account may only add, or the plan is none of this copy or was replaced by a later one.
pub fn apply(request: &ApplyRequest, env: &Env<'_>) -> Result<ApplyReceipt, OpError> {
    let store: Arc<dyn WriteOnceStore> = Arc::clone(&request.store) as Arc<dyn WriteOnceStore>;
    let mut site = Site::open_sound(&NamedStore { name: request.name.clone(), store }, &request.pin, env)?;
    let mut receipt = ApplyReceipt::nothing(site.copy.name());
    let (wanted, unread) = (request.plan.as_deref(), site.unread()?);
    let chosen = choose(&site.pruned, &unread, wanted, request.rules.is_some(), &receipt.store)?;
    let Some(plan) = chosen else { return Ok(receipt) };
    // Whoever planned when that was known has planned despite the damage.
    let planned = site.records.checked.iter().find(|record| record.name == record_name(&plan.writer, &plan.head));
    site.check_verified(|found| planned.is_some_and(|planned| planned.knew(found)), env)?;
    receipt.plan = Some(plan.head);
    if site.pruned.is_finished(&plan) {
        return Ok(receipt);
    }
    let begun = site.pruned.done(&plan).cloned();
    let mut scribe = site.scribe(&RecordKind::PruneDone, env)?;
    let now = store_clock(request.store.as_ref())?;
    if begun.is_none() && request.waiting == Waiting::AsPlanned {
        receipt.due = due(&site, &plan, now)?;
        if receipt.due.is_some() {
            return Ok(receipt);
        }
    }
    let begun = match begun {
        Some(body) => body,
        None => begin(&site, &mut scribe, &plan, request.rules.as_ref(), env)?,
    };
    receipt.dropped = begun.snapshots;
    // Whatever was committed before the drops were signed is seen now, and whoever looks from now on sees them.
    site.copy = site.context.open_copy(Arc::clone(&site.copy.store), &request.pin)?;
    site.records = site.context.read_records(&mut site.copy)?;
    site.pruned = Pruned::read(&site.records, site.copy.store.as_ref())?;
    env.step("looking at what is needed");
    let names = match is_unread(&unread, &plan) {
        None => named_by(&site, &plan)?,
        // It was begun, and nobody can say what it names beside that: the rest goes with a later plan, when it is old.
        Some(why) => {
            env.step(format!("{why}: of this plan only the inventories of dropped snapshots go"));
            inventories_of(&site, &plan, &begun.drops)
        }
    };
    let going = going(&site, names, &begun.drops, request.rules.as_ref())?;
    receipt.spared = going.spared;
    env.step("removing objects");
    remove_all(request.store.as_ref(), &going, &mut receipt, env)?;
    let body =
        PruneDoneBody { finished: true, spared: receipt.spared, objects: receipt.objects, bytes: receipt.bytes, ..begun };
    site.sign(&mut scribe, RecordKind::PruneDone, &body, env)?;
    remove_list(request.store.as_ref(), &site, &plan);
    Ok(receipt)
}

/// Removes the list of a plan that is done. What fails here is left over until a later plan finds it old.
fn remove_list(store: &dyn PruneStore, site: &Site, plan: &Plan) {
    let Ok(pages) = page_names(&site.pages, store, &plan.body.list) else { return };
    let mut others = site.pruned.clone();
    others.plans.retain(|other| other.head != plan.head);
    let Ok(mut stay) = others.own_objects(&site.pages, store) else { return };
    stay.insert(plan.body.copy.clone());
    let list = std::iter::once(plan.body.list.clone()).chain(pages.into_iter().map(ObjectName::Inventory));
    for name in list.filter(|name| !stay.contains(name)) {
        if let Err(error) = store.remove(&name.to_string()) {
            tracing::warn!(%name, %error, "the list of a plan that is done stays");
        }
    }
}

/// What to do about a plan that was begun in the name of a custodian who was retired since.
pub(super) fn begun_by_retired(plan: &Plan) -> String {
    let (hash, seq) = (plan.head.hash.short(), plan.head.seq);
    let before = seq.saturating_sub(1);
    format!(
        "plan {hash} was begun, and its custodian was retired since. If the plan is true, `farkeep prune apply {hash}` ends it; if \
         its key was stolen by then, `farkeep keys retire` draws the line before it (--until {before}, of writer {})",
        plan.writer.short()
    )
}

/// Why the list of a plan cannot be read.
fn is_unread<'a>(unread: &'a [(Plan, String)], plan: &Plan) -> Option<&'a str> {
    let found = unread.iter().find(|(other, _)| other.writer == plan.writer && other.head == plan.head);
    found.map(|(_, why)| why.as_str())
}

/// What to do about a plan that names nobody knows what: nothing is signed about it.
fn cannot_be_read(plan: &Plan, why: &str) -> OpError {
    let hash = plan.head.hash.short();
    let why = format!("the list of plan {hash} cannot be read ({why}): `farkeep prune plan` makes another in its place");
    VaultError::Damaged { object: plan.body.list.to_string(), why }.into()
}

/// The plan that was named, else the newest that is pending. One of which the list cannot be read goes nowhere, unless it
/// was begun: then it can be ended. One that calls the copy by another name may have been brought here from another copy, to
/// which other rules apply: it is applied where it is named, or as far as own rules agree.
fn choose(
    pruned: &Pruned,
    unread: &[(Plan, String)],
    wanted: Option<&str>,
    ruled: bool,
    copy: &str,
) -> Result<Option<Plan>, OpError> {
    let Some(wanted) = wanted else {
        // One that was begun goes first.
        let fits = |plan: &&Plan| plan.body.store == copy || ruled && pruned.done(plan).is_none();
        let mut own = pruned.pending().filter(fits);
        let begun = own.clone().find(|plan| pruned.done(plan).is_some());
        // One signature of a stolen key is enough to begin a plan.
        if let Some(begun) = begun.filter(|begun| pruned.is_of_retired(begun)) {
            return Err(OpError::NotDone(begun_by_retired(begun)));
        }
        let chosen = begun.or_else(|| own.clone().rfind(|plan| is_unread(unread, plan).is_none())).cloned();
        if let (None, Some(plan), false) = (&chosen, own.next_back(), ruled) {
            return Err(cannot_be_read(plan, is_unread(unread, plan).unwrap_or_default()));
        }
        return match (chosen, pruned.pending().last()) {
            (None, Some(other)) if !ruled => {
                let (hash, store) = (other.head.hash.short(), &other.body.store);
                let why = format!("plan {hash} was made for {store}; if that is this copy: `farkeep prune apply {hash}`");
                Err(OpError::Usage(why))
            }
            (chosen, _) => Ok(chosen),
        };
    };
    let mut found = pruned.plans.iter().filter(|plan| plan.head.hash.to_string().starts_with(wanted));
    let plan = match (found.next(), found.next()) {
        (Some(plan), None) => plan,
        (Some(_), Some(_)) => return Err(OpError::Usage(format!("{wanted}: more than one plan begins so"))),
        (None, _) => return Err(OpError::Usage(format!("{wanted}: no plan for this copy, signed by a trusted custodian"))),
    };
    if pruned.is_superseded(plan) && pruned.done(plan).is_none() {
        return Err(OpError::Usage(format!("{wanted}: a later plan of the same custodian has replaced it")));
    }
    if pruned.is_of_retired(plan) && pruned.done(plan).is_none() {
        let why = "its custodian was retired since, and it was not begun: plan again (`farkeep prune plan`)";
        return Err(OpError::Usage(format!("{wanted}: {why}")));
    }
    if let Some(why) = is_unread(unread, plan).filter(|_| pruned.done(plan).is_none()) {
        return Err(cannot_be_read(plan, why));
    }
    Ok(Some(plan.clone()))
}

/// What time it is where the store is: of a file that is made, dated and removed. On an account that may only add, the first
/// step fails and leaves nothing.
fn store_clock(store: &dyn PruneStore) -> Result<Timestamp, OpError> {
    let name = format!("{}/{CLOCK_NAME}-{:x}", Area::Trust.dir(), std::process::id());
    let denied = |error: StoreError| match error {
        StoreError::Denied { why, .. } => OpError::NotDone(format!(
            "{}: this account may not remove anything ({why}); nothing was signed or removed. Prune on the server itself, on \
             the drive, or through a maintenance account",
            store.location()
        )),
        other => other.into(),
    };
    store.remove(&name).map_err(denied)?;
    store.put(&name, b"clock")?;
    let mut now = None;
    store.list(&[Area::Trust.dir().to_owned()], &mut |listed| {
        if listed.name == name {
            now = listed.received;
        }
    })?;
    store.remove(&name).map_err(denied)?;
    now.ok_or_else(|| OpError::NotDone(format!("{}: does not tell its time", store.location())))
}

/// Until when the plan waits; none when the time has come.
fn due(site: &Site, plan: &Plan, now: Timestamp) -> Result<Option<Timestamp>, OpError> {
    let name = record_name(&plan.writer, &plan.head);
    let received = site.records.received.get(&name).copied();
    let received = received.ok_or_else(|| OpError::NotDone(format!("{name}: the store does not say when it came")))?;
    let due = received.plus_secs(i64::try_from(plan.body.wait_secs).unwrap_or(i64::MAX));
    Ok((now < due).then_some(due))
}

/// Signs which snapshots are dropped: those of the plan but what somebody holds meanwhile, what a suspect one freezes, and
/// what the rules keep now.
fn begin(
    site: &Site,
    scribe: &mut Scribe,
    plan: &Plan,
    rules: Option<&Rules>,
    env: &Env<'_>,
) -> Result<PruneDoneBody, OpError> {
    let mut all = site.records.snapshots();
    site.pruned.take_gone(&mut all);
    let here = lying_here(site)?;
    let kept = kept_here(site, rules, &all, &here);
    let back = came_back(site, plan, &all, &here)?;
    let held = still_held(&site.records);
    let suspects = Suspects::read(&site.records);
    let frozen = |snapshot: &Snapshot| suspects.freezes(&snapshot.body.series).is_some();
    let is_kept = |snapshot: &Snapshot| kept.contains(&snapshot.id) || back.contains(&snapshot.id);
    let stays = |snapshot: &Snapshot| held.contains(&snapshot.id) || frozen(snapshot) || is_kept(snapshot);
    let named = |snapshot: &Snapshot| in_ranges(&plan.body.drops, snapshot);
    let (drops, stay): (Vec<&Snapshot>, Vec<&Snapshot>) = all.iter().partition(|s| named(s) && !stays(s));
    let lies_here = |s: &&&Snapshot| here.contains(&s.body.inventory) || here.contains(&s.body.manifest);
    let going: Vec<&Snapshot> = drops.iter().filter(lies_here).copied().collect();
    check_something_stays(site, &going, &stay)?;
    let body = PruneDoneBody {
        planner: plan.writer,
        plan: plan.head,
        store: site.copy.name(),
        copy: plan.body.copy.clone(),
        drops: ranges(&drops, &stay),
        snapshots: drops.len() as u64,
        spared: 0,
        finished: false,
        objects: 0,
        bytes: 0,
        drive: drive_of(&site.copy).map(|(name, _)| name),
    };
    env.step("signing what is dropped");
    site.sign(scribe, RecordKind::PruneDone, &body, env)?;
    Ok(body)
}

fn in_ranges(ranges: &[SnapshotRange], snapshot: &Snapshot) -> bool {
    ranges.iter().any(|range| range.contains(&snapshot.writer, snapshot.head.seq))
}

/// Snapshots of a plan that were not here when it was made, and are now: given up for lost, and brought since. No rule was asked
/// about them.
fn came_back(
    site: &Site,
    plan: &Plan,
    all: &[Snapshot],
    here: &BTreeSet<ObjectName>,
) -> Result<BTreeSet<SnapshotId>, OpError> {
    let mut were_here: BTreeSet<ObjectName> = BTreeSet::new();
    each_planned(&site.pages, site.copy.store.as_ref(), &plan.body.list, &mut |name| {
        if name.area() == Area::Inventories {
            were_here.insert(name.clone());
        }
    })?;
    let (named, others): (Vec<&Snapshot>, Vec<&Snapshot>) =
        all.iter().partition(|snapshot| in_ranges(&plan.body.drops, snapshot));
    // Whoever forges snapshots gives them the inventory of a true one, and a plan names none that one needs that stays.
    were_here.extend(others.into_iter().map(|snapshot| snapshot.body.inventory.clone()));
    let is_new = |one: &&Snapshot| here.contains(&one.body.inventory) && !were_here.contains(&one.body.inventory);
    let mut back = BTreeSet::new();
    for snapshot in named.into_iter().filter(is_new) {
        // Anybody who may add a file can put one there under that name.
        match read_object(site.copy.store.as_ref(), &snapshot.body.inventory) {
            Ok(_) => drop(back.insert(snapshot.id)),
            Err(VaultError::Store(error)) if error.is_store_wide() => return Err(error.into()),
            Err(_) => {}
        }
    }
    Ok(back)
}

/// No plan, whoever signed it, drops the last good snapshot of a series.
fn check_something_stays(site: &Site, drops: &[&Snapshot], stay: &[&Snapshot]) -> Result<(), OpError> {
    let suspects = Suspects::read(&site.records);
    let good = |snapshot: &&&Snapshot| suspects.state_of(snapshot) == SnapshotState::Good;
    for snapshot in drops.iter().filter(good) {
        let series = snapshot.body.series;
        let left = stay.iter().filter(good).filter(|other| other.body.series == series);
        let mut whole = false;
        for other in left {
            whole |= site.copy_has(&other.body.inventory)?;
            if whole {
                break;
            }
        }
        if !whole {
            let series = series.short();
            return Err(OpError::NotDone(format!(
                "the plan would drop the last good snapshot of series {series} here: refused"
            )));
        }
    }
    Ok(())
}

/// What may go at last.
struct Going {
    /// Sorted.
    names: Vec<ObjectName>,
    needed: Vec<bool>,
    spared: u64,
}

impl Going {
    fn contains(&self, name: &ObjectName) -> bool {
        self.names.binary_search(name).is_ok_and(|place| !self.needed[place])
    }
}

/// The objects that a plan names.
fn named_by(site: &Site, plan: &Plan) -> Result<Vec<ObjectName>, OpError> {
    let mut names = Vec::new();
    each_planned(&site.pages, site.copy.store.as_ref(), &plan.body.list, &mut |name| {
        if SWEPT.contains(&name.area()) {
            names.push(name.clone());
        }
    })?;
    Ok(names)
}

/// By what a snapshot that was dropped is known to lie here: of some only a part may be left, which nobody could restore.
fn inventories_of(site: &Site, plan: &Plan, drops: &[SnapshotRange]) -> Vec<ObjectName> {
    let dropped = |snapshot: &Snapshot| in_ranges(drops, snapshot) && in_ranges(&plan.body.drops, snapshot);
    site.records.snapshots().into_iter().filter(dropped).map(|snapshot| snapshot.body.inventory).collect()
}

/// Those of the objects that no snapshot needs but those that are dropped.
fn going(site: &Site, mut names: Vec<ObjectName>, drops: &[SnapshotRange], rules: Option<&Rules>) -> Result<Going, OpError> {
    let store = site.copy.store.as_ref();
    names.sort_unstable();
    names.dedup();
    let mut needed = vec![false; names.len()];
    let mut need = |name: &ObjectName| {
        if let Ok(place) = names.binary_search(name) {
            needed[place] = true;
        }
    };
    let stays = staying(site, drops, rules)?;
    each_listed(&site.pages, store, &stays.iter().collect::<Vec<_>>(), &mut need)?;
    site.pruned.own_objects(&site.pages, store)?.iter().for_each(&mut need);
    let spared = needed.iter().filter(|needed| **needed).count() as u64;
    Ok(Going { names, needed, spared })
}

/// Inventories and manifests that lie here, with their size: a torn one is debris.
fn lying_here(site: &Site) -> Result<BTreeSet<ObjectName>, OpError> {
    let mut here = BTreeSet::new();
    let dirs = [Area::Inventories.dir().to_owned(), Area::Manifests.dir().to_owned()];
    site.copy.store.list(&dirs, &mut |listed| {
        let name = ObjectName::parse_stored(&listed.name).ok().map(|(name, _)| name);
        here.extend(name.filter(|name| name.bytes() == Some(listed.bytes)));
    })?;
    Ok(here)
}

/// What the rules, if there are any, keep of the snapshots whose inventory lies here.
fn kept_here(site: &Site, rules: Option<&Rules>, all: &[Snapshot], here: &BTreeSet<ObjectName>) -> BTreeSet<SnapshotId> {
    let Some(rules) = rules else { return BTreeSet::new() };
    let lying: Vec<Snapshot> = all.iter().filter(|snapshot| here.contains(&snapshot.body.inventory)).cloned().collect();
    kept_by(rules, site, &lying)
}

/// Snapshots that lie here and are not dropped. What rules keep stays also when somebody has signed otherwise: its inventory
/// goes first, so as long as that lies here all of it does.
fn staying(site: &Site, drops: &[SnapshotRange], rules: Option<&Rules>) -> Result<Vec<Snapshot>, OpError> {
    let here = lying_here(site)?;
    let mut all = site.records.snapshots();
    site.pruned.take_gone(&mut all);
    let kept = kept_here(site, rules, &all, &here);
    let lies_here = |s: &Snapshot| here.contains(&s.body.inventory) || here.contains(&s.body.manifest);
    all.retain(|snapshot| lies_here(snapshot) && (kept.contains(&snapshot.id) || !in_ranges(drops, snapshot)));
    Ok(all)
}

/// Removes it, one kind after another, under every name it lies under.
fn remove_all(store: &dyn PruneStore, going: &Going, receipt: &mut ApplyReceipt, env: &Env<'_>) -> Result<(), OpError> {
    for area in SWEPT {
        let mut stored: Vec<(String, u64)> = Vec::new();
        store.list(&area.leaf_dirs(), &mut |listed| {
            if ObjectName::parse_stored(&listed.name).is_ok_and(|(name, _)| going.contains(&name)) {
                stored.push((listed.name, listed.bytes));
            }
        })?;
        env.observer.event(Event::Total { items: Some(stored.len() as u64), bytes: None });
        let done = remove_some(store, stored, env)?;
        receipt.objects += done.0;
        receipt.bytes += done.1;
    }
    Ok(())
}

fn remove_some(store: &dyn PruneStore, stored: Vec<(String, u64)>, env: &Env<'_>) -> Result<(u64, u64), OpError> {
    let done = Mutex::new((0, 0));
    work_through(stored, store.parallel().min(PARALLEL_MAX), env.cancel, &|(name, bytes): (String, u64)| {
        store.remove(&name)?;
        let mut done = done.lock().unwrap_or_else(PoisonError::into_inner);
        *done = (done.0 + 1, done.1 + bytes);
        drop(done);
        env.observer.event(Event::Advance { items: 1, bytes });
        Ok(())
    })?;
    Ok(done.into_inner().unwrap_or_else(PoisonError::into_inner))
}
