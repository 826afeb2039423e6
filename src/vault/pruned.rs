//! What was pruned from a copy, and what is about to be: the prune records that speak of this copy.
//!
//! One copy has many addresses, so a record's word for it says little. A plan leaves a small page in the copy that it is
//! about and in no other: a prune record speaks of this copy when its page lies here.
//!
//! Whoever has the agent's key can add that page to another copy, and with it what was said of one copy would be said of
//! the other. So nothing here is a ground to remove anything: what prune removes is decided by what still lies there
//! ([`Pruned::take_gone`]), and a snapshot is dropped for readers only where its inventory went with it.

use std::collections::{BTreeMap, BTreeSet};

use crate::format::body::{HoldBody, PruneDoneBody, PrunePlanBody, SnapshotBody, SnapshotRange};
use crate::format::record::{Head, RecordKind};
use crate::ledger::Standing;
use crate::model::ids::{SnapshotId, WriterId};
use crate::model::name::{Area, ObjectName, Sealed};
use crate::model::time::Timestamp;
use crate::store::{Store, StoreError};
use crate::vault::VaultError;
use crate::vault::inventory::{PageCache, page_names};
use crate::vault::presence::Presence;
use crate::vault::snapshots::{Records, Snapshot, sort_oldest_first};
use crate::vault::sweep::SWEPT;

/// Records that a store received within so much of one another may have come together, in whatever order.
const TOGETHER_SECS: i64 = 24 * 60 * 60;

/// A plan that a trusted writer signed.
#[derive(Debug, Clone)]
pub struct Plan {
    /// Who planned it.
    pub writer: WriterId,
    /// Its record.
    pub head: Head,
    /// What it says.
    pub body: PrunePlanBody,
}

/// What pending plans name.
#[derive(Debug, Default)]
pub struct Doomed {
    /// Objects that may go at any time.
    pub names: BTreeSet<ObjectName>,
    /// Plans of which a list is missing or damaged, and why: nobody can apply them as it is, but the list may come back.
    pub unread: Vec<(Plan, String)>,
}

/// The prune records that speak of one copy.
#[derive(Debug, Clone, Default)]
pub struct Pruned {
    /// Plans, each writer's in order.
    pub plans: Vec<Plan>,
    /// Planners that were retired since.
    retired: BTreeSet<WriterId>,
    done: Vec<PruneDoneBody>,
    /// Snapshots that another copy dropped and of which this one has no inventory: it never had them, or was made after.
    /// A manifest proves nothing: pages that other snapshots share list it, and it lies wherever those lie.
    absent: BTreeSet<SnapshotId>,
    /// Those of them of which this copy knew long before it heard that another one dropped them.
    missed: BTreeSet<SnapshotId>,
    /// Snapshots that were dropped and of which this copy has the inventory nevertheless: they are about to go.
    going: BTreeSet<SnapshotId>,
    /// Of those the ones that nobody is about to remove any more: they are not dropped.
    stay: BTreeSet<SnapshotId>,
}

impl Pruned {
    /// Reads the prune records among `records`. Inventories and manifests of the copy are listed when
    /// there are any.
    ///
    /// # Errors
    /// When the store cannot be listed.
    pub fn read(records: &Records, store: &dyn Store) -> Result<Self, StoreError> {
        let prune = |kind: &RecordKind| matches!(kind, RecordKind::PrunePlan | RecordKind::PruneDone);
        if !records.checked.iter().any(|record| prune(&record.statement.kind)) {
            return Ok(Self::default());
        }
        Ok(Self::of(records, &Presence::read(store, &[Area::Inventories, Area::Manifests])?))
    }

    /// The prune records among `records` whose page lies in the copy of `presence`, which has inventories and manifests.
    #[must_use]
    pub fn of(records: &Records, presence: &Presence) -> Self {
        let mut pruned = Self { retired: records.retired.keys().copied().collect(), ..Self::default() };
        let mut elsewhere: Vec<DroppedElsewhere> = Vec::new();
        for record in records.checked.iter().filter(|record| record.standing == Standing::Trusted) {
            let statement = &record.statement;
            match statement.kind {
                RecordKind::PrunePlan => {
                    let body = statement.body_as::<PrunePlanBody>().ok().filter(|body| presence.has(&body.copy));
                    pruned.plans.extend(body.map(|body| Plan { writer: statement.writer, head: record.head, body }));
                }
                RecordKind::PruneDone => {
                    let Ok(body) = statement.body_as::<PruneDoneBody>() else { continue };
                    if presence.has(&body.copy) {
                        pruned.done.push(body);
                    } else {
                        elsewhere.push((body, records.received.get(&record.name).copied()));
                    }
                }
                _ => {}
            }
        }
        pruned.plans.sort_by_key(|plan| (plan.writer, plan.head.seq));
        pruned.plans.dedup_by_key(|plan| plan.head);
        if elsewhere.is_empty() && pruned.done.is_empty() {
            return pruned;
        }
        let ended: BTreeSet<(WriterId, u64)> =
            pruned.done.iter().filter(|done| done.finished).map(|done| (done.planner, done.plan.seq)).collect();
        let snapshots = records.snapshots();
        // Whoever forges snapshots gives them the inventory of a true one: that it lies here says nothing of them.
        let shared: BTreeSet<&ObjectName> =
            snapshots.iter().filter(|one| !pruned.was_dropped(one)).map(|one| &one.body.inventory).collect();
        // What somebody holds must lie in every copy: it is missed also where it may never have been.
        let held = still_held(records);
        for snapshot in &snapshots {
            let here = presence.has(&snapshot.body.inventory);
            if here && pruned.was_dropped(snapshot) {
                let over = pruned.dropping(snapshot).all(|done| ended.contains(&(done.planner, done.plan.seq)));
                pruned.going.insert(snapshot.id);
                if over && !shared.contains(&snapshot.body.inventory) {
                    pruned.stay.insert(snapshot.id);
                }
            } else if !here && !held.contains(&snapshot.id) && is_dropped_elsewhere(snapshot, &elsewhere) {
                pruned.absent.insert(snapshot.id);
                if may_have_been_here(snapshot, &elsewhere, records) {
                    pruned.missed.insert(snapshot.id);
                }
            }
        }
        pruned
    }

    /// What was signed about this copy that drops a snapshot.
    fn dropping(&self, snapshot: &Snapshot) -> impl Iterator<Item = &PruneDoneBody> {
        let names =
            |done: &&PruneDoneBody| done.drops.iter().any(|range| range.contains(&snapshot.writer, snapshot.head.seq));
        self.done.iter().filter(names)
    }

    /// Whether it was signed that a snapshot is dropped from this copy, whatever became of it.
    #[must_use]
    pub fn was_dropped(&self, snapshot: &Snapshot) -> bool {
        self.dropping(snapshot).next().is_some()
    }

    /// Whether a snapshot that another copy dropped is missed here: this copy seems to have had it.
    #[must_use]
    pub fn is_missed(&self, snapshot: &Snapshot) -> bool {
        self.missed.contains(&snapshot.id)
    }

    /// Whether a snapshot was dropped from this very copy: it shall not come back.
    #[must_use]
    pub fn is_dropped(&self, snapshot: &Snapshot) -> bool {
        !self.stay.contains(&snapshot.id) && self.was_dropped(snapshot)
    }

    /// As [`take_dropped`](Self::take_dropped), for whoever removes: as long as the inventory of a snapshot lies here the
    /// snapshot does, whatever was signed.
    pub fn take_gone(&self, snapshots: &mut Vec<Snapshot>) {
        let mut dropped = self.take_dropped(snapshots);
        dropped.retain(|snapshot| self.going.contains(&snapshot.id));
        snapshots.append(&mut dropped);
        sort_oldest_first(snapshots);
    }

    /// Takes the snapshots that were dropped from this copy, or from another while this one never had them, out of
    /// `snapshots`, and gives them.
    pub fn take_dropped(&self, snapshots: &mut Vec<Snapshot>) -> Vec<Snapshot> {
        if self.done.is_empty() && self.absent.is_empty() {
            return Vec::new();
        }
        let gone = |snapshot: &Snapshot| self.absent.contains(&snapshot.id) || self.is_dropped(snapshot);
        let (dropped, left) = std::mem::take(snapshots).into_iter().partition(gone);
        *snapshots = left;
        dropped
    }

    /// What was signed about the removal of a plan: the last word, if there is any.
    #[must_use]
    pub fn done(&self, plan: &Plan) -> Option<&PruneDoneBody> {
        let mut about = self.done.iter().filter(|done| done.plan == plan.head && done.planner == plan.writer);
        let first = about.next()?;
        Some(about.find(|done| done.finished).unwrap_or(first))
    }

    /// Whether a plan's objects are all gone.
    #[must_use]
    pub fn is_finished(&self, plan: &Plan) -> bool {
        self.done(plan).is_some_and(|done| done.finished)
    }

    /// Whether its planner was retired: a plan of a key that was stolen is not carried out, unless that was begun before.
    #[must_use]
    pub fn is_of_retired(&self, plan: &Plan) -> bool {
        self.retired.contains(&plan.writer)
    }

    /// Whether the same writer has a later plan for this copy.
    #[must_use]
    pub fn is_superseded(&self, plan: &Plan) -> bool {
        self.plans.iter().any(|other| other.writer == plan.writer && other.head.seq > plan.head.seq)
    }

    /// Plans whose objects may go at any time: of each writer that was not retired the newest, and every one that was begun, until
    /// all is gone.
    pub fn pending(&self) -> impl DoubleEndedIterator<Item = &Plan> + Clone {
        let is_over = |plan: &Plan| self.is_superseded(plan) || self.is_of_retired(plan);
        self.plans.iter().filter(move |plan| !self.is_finished(plan) && (self.done(plan).is_some() || !is_over(plan)))
    }

    /// Every object that a pending plan names. Nothing new may be built on one.
    ///
    /// # Errors
    /// When the store is out of reach.
    pub fn doomed(&self, pages: &PageCache, store: &dyn Store) -> Result<Doomed, VaultError> {
        let mut doomed = Doomed::default();
        for plan in self.pending() {
            let read = each_planned(pages, store, &plan.body.list, &mut |name| {
                doomed.names.insert(name.clone());
            });
            if let Some(why) = unread(read)? {
                doomed.unread.push((plan.clone(), why));
            }
        }
        Ok(doomed)
    }

    /// Pending plans of which a list is missing or damaged, and why.
    ///
    /// # Errors
    /// When the store is out of reach.
    pub fn unread(&self, pages: &PageCache, store: &dyn Store) -> Result<Vec<(Plan, String)>, VaultError> {
        let mut found = Vec::new();
        for plan in self.pending() {
            if let Some(why) = unread(each_planned(pages, store, &plan.body.list, &mut |_| {}))? {
                found.push((plan.clone(), why));
            }
        }
        Ok(found)
    }

    /// What lies in a copy and a plan may name whose list cannot be read: all that is removed at all, but what snapshots
    /// need that no pending plan drops. Whoever applies one spares that, or cannot read it and removes nothing.
    ///
    /// # Errors
    /// When the store is out of reach.
    pub fn may_be_named(
        &self,
        records: &Records,
        presence: &Presence,
        pages: &PageCache,
        store: &dyn Store,
    ) -> Result<BTreeSet<ObjectName>, VaultError> {
        let mut snapshots = records.snapshots();
        self.take_dropped(&mut snapshots);
        let stays = |snapshot: &&Snapshot| {
            let goes = |range: &SnapshotRange| range.contains(&snapshot.writer, snapshot.head.seq);
            presence.has(&snapshot.body.inventory) && !self.pending().any(|plan| plan.body.drops.iter().any(goes))
        };
        let mut named: BTreeSet<ObjectName> = presence.names().filter(|name| SWEPT.contains(&name.area())).collect();
        let mut listed: BTreeSet<Sealed> = BTreeSet::new();
        for SnapshotBody { inventory, manifest, .. } in snapshots.iter().filter(stays).map(|snapshot| &snapshot.body) {
            let read = page_names(pages, store, inventory).map(|pages| listed.extend(pages));
            if unread(read)?.is_none() {
                named.remove(inventory);
                named.remove(manifest);
            }
        }
        for page in listed {
            let mut spare = |name: &ObjectName| {
                named.remove(name);
            };
            let read = pages.read(store, &page).map(|lines| lines.iter().for_each(|line| spare(&line.name)));
            if unread(read)?.is_none() {
                spare(&ObjectName::Inventory(page));
            }
        }
        Ok(named)
    }

    /// The pages that say which copy is meant, of all plans, and the lists of those that are pending: prune removes none of
    /// them. A list that cannot be read drops nothing, and of its pages nobody knows the names.
    ///
    /// # Errors
    /// When the store is out of reach.
    pub fn own_objects(&self, pages: &PageCache, store: &dyn Store) -> Result<BTreeSet<ObjectName>, VaultError> {
        let mut own: BTreeSet<ObjectName> = self.plans.iter().map(|plan| plan.body.copy.clone()).collect();
        for plan in self.pending() {
            own.insert(plan.body.list.clone());
            let named = page_names(pages, store, &plan.body.list);
            unread(named.map(|pages| own.extend(pages.into_iter().map(ObjectName::Inventory))))?;
        }
        Ok(own)
    }
}

/// Why a list could not be read, where it is the list that is wrong, and neither the way to it nor this machine.
fn unread(read: Result<(), VaultError>) -> Result<Option<String>, VaultError> {
    match read {
        Ok(()) => Ok(None),
        Err(VaultError::Store(error)) if error.is_store_wide() => Err(error.into()),
        Err(error @ (VaultError::Interrupted | VaultError::State(_) | VaultError::Internal(_))) => Err(error),
        Err(error) => Ok(Some(error.to_string())),
    }
}

/// Hands every object of a plan's list to `each`.
///
/// # Errors
/// When the list is missing or damaged.
pub fn each_planned(
    pages: &PageCache,
    store: &dyn Store,
    list: &ObjectName,
    each: &mut dyn FnMut(&ObjectName),
) -> Result<(), VaultError> {
    for page in page_names(pages, store, list)? {
        pages.read(store, &page)?.iter().for_each(|line| each(&line.name));
    }
    Ok(())
}

/// Until when a writer's own newest word holds a snapshot.
#[must_use]
pub fn held_by(records: &Records, writer: &WriterId, snapshot: &SnapshotId) -> Option<Timestamp> {
    newest_words(records).get(&(*snapshot, *writer)).and_then(|(_, until)| *until)
}

/// By snapshot and writer, the newest hold record: its number, and until when it holds.
fn newest_words(records: &Records) -> BTreeMap<(SnapshotId, WriterId), (u64, Option<Timestamp>)> {
    let mut newest: BTreeMap<(SnapshotId, WriterId), (u64, Option<Timestamp>)> = BTreeMap::new();
    for record in &records.checked {
        if record.standing != Standing::Trusted || record.statement.kind != RecordKind::Hold {
            continue;
        }
        let Ok(body) = record.statement.body_as::<HoldBody>() else { continue };
        let slot = newest.entry((body.snapshot, record.statement.writer)).or_insert((0, None));
        if slot.0 < record.head.seq {
            *slot = (record.head.seq, body.until);
        }
    }
    newest
}

/// Snapshots that are held, and until when: by their own records, and by hold records of any trusted writer.
#[must_use]
pub fn holds(records: &Records) -> BTreeMap<SnapshotId, Timestamp> {
    let by_records = newest_words(records).into_iter().filter_map(|((snapshot, _), (_, until))| Some((snapshot, until?)));
    let own = records.snapshots().into_iter().filter_map(|snapshot| Some((snapshot.id, snapshot.body.hold?)));
    let mut held: BTreeMap<SnapshotId, Timestamp> = BTreeMap::new();
    for (snapshot, until) in by_records.chain(own) {
        let slot = held.entry(snapshot).or_insert(until);
        *slot = (*slot).max(until);
    }
    held
}

type DroppedElsewhere = (PruneDoneBody, Option<Timestamp>);

fn covers(done: &PruneDoneBody, snapshot: &Snapshot) -> bool {
    done.drops.iter().any(|range| range.contains(&snapshot.writer, snapshot.head.seq))
}

fn is_dropped_elsewhere(snapshot: &Snapshot, elsewhere: &[DroppedElsewhere]) -> bool {
    elsewhere.iter().any(|(done, _)| covers(done, snapshot))
}

/// Whether this copy had the record of a snapshot long before it heard that another one dropped it, by the store's own receive
/// times. Most often it then had the snapshot too, though a record can come before its objects.
fn may_have_been_here(snapshot: &Snapshot, elsewhere: &[DroppedElsewhere], records: &Records) -> bool {
    let Some(known) = records.received.get(&snapshot.record_name()) else { return false };
    let later = |heard: &Option<Timestamp>| heard.is_some_and(|heard| known.plus_secs(TOGETHER_SECS) < heard);
    elsewhere.iter().filter(|(done, _)| covers(done, snapshot)).all(|(_, heard)| later(heard))
}

/// Snapshots that are held beyond the newest one. When that was made is not what it claims: one that is dated a year ahead
/// would end every hold.
#[must_use]
pub fn still_held(records: &Records) -> BTreeSet<SnapshotId> {
    let Some(newest) = records.believed_times().into_values().max() else { return BTreeSet::new() };
    holds(records).into_iter().filter(|(_, until)| *until >= newest).map(|(snapshot, _)| snapshot).collect()
}

/// The fewest stretches that hold every snapshot of `dropped` and none of `others`, both of any writers.
#[must_use]
pub fn ranges(dropped: &[&Snapshot], others: &[&Snapshot]) -> Vec<SnapshotRange> {
    let place = |snapshot: &&Snapshot| (snapshot.writer, snapshot.head.seq);
    let others: BTreeSet<(WriterId, u64)> = others.iter().map(place).collect();
    let sorted: BTreeSet<(WriterId, u64)> = dropped.iter().map(place).collect();
    let mut ranges: Vec<SnapshotRange> = Vec::new();
    for (writer, seq) in sorted {
        match ranges.last_mut() {
            Some(last) if last.writer == writer && others.range((writer, last.last)..(writer, seq)).next().is_none() => {
                last.last = seq;
            }
            _ => ranges.push(SnapshotRange { writer, first: seq, last: seq }),
        }
    }
    ranges
}
