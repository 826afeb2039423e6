//! Before the first byte is read: what lies in which store, what is known, what must be caught up.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use super::catch_up::catch_up;
use super::{NamedStore, PushPlan, ROOM_MIN_BYTES, mend, missed_finding};
use crate::format::inventory::Line;
use crate::format::record::{Head, RecordKind};
use crate::ledger::{Scribe, Trust};
use crate::model::finding::{Finding, FindingKind};
use crate::model::ids::{ObjectHash, SnapshotId, Token, WriterId};
use crate::model::name::{Area, ObjectName, Sealed};
use crate::model::size::human_size;
use crate::model::snapshot::SnapshotState;
use crate::ops::context::Context;
use crate::ops::prune::still_frozen;
use crate::ops::{Env, OpError};
use crate::state::remove_abandoned;
use crate::state::unconfirmed::Unconfirmed;
use crate::store::StoreError;
use crate::vault::VaultError;
use crate::vault::copy::Copy;
use crate::vault::destination::Destination;
use crate::vault::inventory::PageCache;
use crate::vault::presence::Presence;
use crate::vault::pruned::{Plan, Pruned};
use crate::vault::snapshots::{Records, Snapshot, sort_oldest_first};
use crate::vault::suspects::Suspects;

mod known;
mod own;
mod second_look;
mod unconfirmed;

pub use known::{live_packs, refresh_index};
pub use own::deliver_all;
use own::{adopt_own, check_enrolled, deliver_own};

/// What is listed of each copy.
const AREAS: [Area; 6] = [Area::Root, Area::Keys, Area::Packs, Area::Indexes, Area::Manifests, Area::Inventories];

/// Pushes that tell how much room one takes: a week of nights.
const PUSHES_REMEMBERED: usize = 7;

/// One copy that this push writes to.
pub struct Side {
    pub named: NamedStore,
    pub copy: Copy,
    pub presence: Presence,
    pub unconfirmed: Arc<Unconfirmed>,
    pub records: Records,
    pub pruned: Pruned,
    pub caught_up_objects: u64,
    /// Plain files that were gone when this push began.
    pub lost: BTreeSet<ObjectName>,
    /// Free bytes, where the store tells.
    pub free_bytes: Option<u64>,
}

impl Side {
    /// Where what is new goes.
    pub fn destination(&self) -> Destination {
        Destination { store: Arc::clone(&self.named.store), notes: Arc::clone(&self.unconfirmed) }
    }
}

/// All copies that this push writes to.
pub struct Prepared {
    pub sides: Vec<Side>,
    pub missed: Vec<(String, StoreError)>,
    /// Stores that answer, but with no copy of this vault that could be built on.
    pub unfit: Vec<(String, VaultError)>,
    pub findings: Vec<Finding>,
    /// The newest record of each writer on any copy.
    pub heads: BTreeMap<WriterId, Head>,
    /// Every snapshot on any copy, oldest first.
    pub snapshots: Vec<Snapshot>,
    /// What a pending prune plan of any copy names: it counts as absent.
    pub doomed: Doomed,
}

/// Objects that prune may remove at any time.
#[derive(Debug, Default)]
pub struct Doomed {
    names: BTreeSet<ObjectName>,
    /// The plans and removals that were seen.
    records: BTreeSet<ObjectName>,
    /// Plans of which a list cannot be read: whatever they may name is among the names.
    unread: BTreeSet<(WriterId, ObjectHash)>,
}

impl Doomed {
    /// Whether nothing may be built on this object.
    pub fn contains(&self, name: &ObjectName) -> bool {
        self.names.contains(name)
    }
}

impl Prepared {
    /// The newest trust that any copy knows.
    pub fn trust(&self) -> &Trust {
        let newest = self.sides.iter().map(|side| &side.copy.trust).max_by_key(|trust| trust.head().seq);
        // There is at least one side.
        newest.unwrap_or(&self.sides[0].copy.trust)
    }

    /// What every snapshot needs beside its own objects, as the newest trust has it.
    pub fn plain_lines(&self) -> Vec<Line> {
        let newest = self.trust().head();
        let side = self.sides.iter().find(|side| side.copy.trust.head() == newest);
        side.unwrap_or(&self.sides[0]).copy.plain_lines()
    }

    /// The suspect snapshot of a series that nobody has cleared: said each night until somebody does.
    pub fn frozen(&self, series: &Token) -> Option<Finding> {
        self.sides.iter().find_map(|side| still_frozen(&side.records, series, &side.named.name))
    }

    /// Suspect snapshots of a series that a person has cleared, by what any copy's records say.
    pub fn cleared(&self, series: &Token) -> BTreeSet<SnapshotId> {
        let mut cleared = BTreeSet::new();
        for side in &self.sides {
            let suspects = Suspects::read(&side.records);
            let of_series = self.snapshots.iter().filter(|snapshot| snapshot.body.series == *series);
            let good = of_series.filter(|snapshot| {
                snapshot.body.state == SnapshotState::Suspect && suspects.state_of(snapshot) == SnapshotState::Good
            });
            cleared.extend(good.map(|snapshot| snapshot.id));
        }
        cleared
    }

    /// Whether every copy holds the object.
    pub fn has_everywhere(&self, name: &ObjectName) -> bool {
        self.sides.iter().all(|side| side.presence.has(name))
    }

    /// Whether every copy holds the object and none is about to lose it.
    pub fn may_refer_to(&self, name: &ObjectName) -> bool {
        self.has_everywhere(name) && !self.doomed.contains(name)
    }

    /// The newest snapshot of each series that goes from no copy: what a new one has most in common with.
    pub fn newest_of_each_series(&self) -> Vec<&Snapshot> {
        let mut newest: BTreeMap<Token, &Snapshot> = BTreeMap::new();
        for snapshot in self.snapshots.iter().filter(|snapshot| !self.doomed.contains(&snapshot.body.inventory)) {
            newest.insert(snapshot.body.series, snapshot);
        }
        newest.into_values().filter(|snapshot| self.has_everywhere(&snapshot.body.inventory)).collect()
    }

    /// The inventory roots of the newest snapshots.
    pub fn inventory_roots(&self) -> Vec<Sealed> {
        let roots = self.newest_of_each_series().into_iter().map(|snapshot| snapshot.body.inventory.clone());
        roots.filter_map(|name| if let ObjectName::Inventory(sealed) = name { Some(sealed) } else { None }).collect()
    }
}

/// Opens every copy, adopts own records, brings copies that were away up to date.
pub fn prepare(plan: &PushPlan, context: &mut Context, scribe: &mut Scribe, env: &Env<'_>) -> Result<Prepared, OpError> {
    remove_abandoned(&context.state.cache());
    let mut prepared = Prepared {
        sides: Vec::new(),
        missed: Vec::new(),
        unfit: Vec::new(),
        findings: Vec::new(),
        heads: BTreeMap::new(),
        snapshots: Vec::new(),
        doomed: Doomed::default(),
    };
    for (name, error) in &plan.missed {
        prepared.findings.push(missed(name, error));
    }
    open_sides(plan, context, &mut prepared, env)?;
    read_records(&mut prepared, context)?;
    if prepared.sides.is_empty() {
        return Err(none_left(plan, prepared));
    }
    for side in &prepared.sides {
        prepared.findings.extend(side.records.findings.iter().filter(|f| f.kind.is_alarm()).cloned());
        for (writer, head) in side.records.heads() {
            let slot = prepared.heads.entry(writer).or_insert(head);
            if slot.seq < head.seq {
                *slot = head;
            }
        }
    }
    adopt_own(scribe, &prepared)?;
    check_enrolled(scribe, prepared.trust())?;
    // Before any record: where the one that enrols its writer is missing, it is a stranger's.
    mend::keep_key_files(&prepared, context)?;
    mend::plain_files(&mut prepared, context);
    mend::trust_records(&mut prepared);
    deliver_own(context, &mut prepared)?;
    catch_up(&mut prepared, context, env)?;
    prepared.doomed = doomed(&mut prepared, context)?;
    // Each may have found a store that takes nothing.
    if prepared.sides.is_empty() {
        return Err(none_left(plan, prepared));
    }
    let mut snapshots: Vec<Snapshot> = prepared.sides.iter().flat_map(|side| side.records.snapshots()).collect();
    sort_oldest_first(&mut snapshots);
    snapshots.dedup_by_key(|snapshot| snapshot.id);
    prepared.snapshots = snapshots;
    warn_of_little_room(&mut prepared);
    Ok(prepared)
}

/// What to say when no store is left to push to.
fn none_left(plan: &PushPlan, mut prepared: Prepared) -> OpError {
    let missed: Vec<&(String, StoreError)> = plan.missed.iter().chain(&prepared.missed).collect();
    let first = |of: fn(&StoreError) -> bool| missed.iter().map(|(_, error)| error).find(|error| of(error)).cloned();
    if let Some(error) = first(StoreError::is_host_key) {
        return error.into();
    }
    prepared.unfit.sort_by_key(|(_, error)| matches!(error, VaultError::NoVault(_)));
    if !prepared.unfit.is_empty() {
        return prepared.unfit.remove(0).1.into();
    }
    if let Some(error) = first(|error| matches!(error, StoreError::Full { .. })) {
        return error.into();
    }
    let text: Vec<String> = missed.iter().map(|(name, error)| format!("{name}: {}", error.reason())).collect();
    StoreError::Unreachable(text.join("; ")).into()
}

/// Goes on without a copy.
pub fn drop_side(prepared: &mut Prepared, number: usize, error: StoreError) {
    let side = prepared.sides.remove(number);
    prepared.findings.push(missed(&side.named.name, &error));
    prepared.missed.push((side.named.name, error));
}

/// Reads the records of every copy; one that went out of reach meanwhile is left out.
fn read_records(prepared: &mut Prepared, context: &mut Context) -> Result<(), OpError> {
    let mut number = 0;
    while let Some(side) = prepared.sides.get_mut(number) {
        match context.read_records(&mut side.copy) {
            Ok(records) => {
                side.pruned = Pruned::of(&records, &side.presence);
                side.records = records;
                number += 1;
            }
            Err(VaultError::Store(error)) if stops_one_store(&error) => drop_side(prepared, number, error),
            Err(error) => return Err(error.into()),
        }
    }
    Ok(())
}

/// A store that was missed, as a finding: gravest is a server that is another.
pub fn missed(name: &str, error: &StoreError) -> Finding {
    if error.is_host_key() { Finding::new(FindingKind::Trust, name, error) } else { missed_finding(name, error) }
}

/// Opens all copies at once; one that is out of reach is left out.
fn open_sides(plan: &PushPlan, context: &Context, prepared: &mut Prepared, env: &Env<'_>) -> Result<(), OpError> {
    let opened: Vec<_> = std::thread::scope(|scope| {
        let threads: Vec<_> = plan
            .stores
            .iter()
            .map(|named| {
                scope.spawn(move || {
                    let store = Arc::clone(&named.store);
                    // Both wait for the line and not for one another. Listing takes longest, so it begins here and at once.
                    let (copy, presence) = std::thread::scope(|scope| {
                        let copy = scope.spawn(|| context.open_copy(Arc::clone(&store), &plan.pin));
                        let presence = look(named);
                        (copy.join(), presence)
                    });
                    let copy = copy.map_err(|_| VaultError::internal("a thread failed"))?;
                    let (copy, (mut presence, free)) = (copy?, presence?);
                    let to = Destination::new(store, &context.state);
                    unconfirmed::settle(&to, &mut presence, env)?;
                    // Nothing depends on it; a failure shows when the store is written.
                    let _ = named.store.sweep(&Area::Packs.leaf_dirs());
                    Ok::<_, VaultError>((copy, presence, to.notes, free))
                })
            })
            .collect();
        threads.into_iter().map(|t| t.join().unwrap_or_else(|_| Err(VaultError::internal("a thread failed")))).collect()
    });
    for (named, outcome) in plan.stores.iter().zip(opened) {
        match outcome {
            Ok((copy, presence, unconfirmed, free_bytes)) => {
                let (records, pruned) = (Records::default(), Pruned::default());
                let (caught_up_objects, lost) = (0, BTreeSet::new());
                let named = named.clone();
                prepared.sides.push(Side {
                    named,
                    copy,
                    presence,
                    unconfirmed,
                    records,
                    pruned,
                    caught_up_objects,
                    lost,
                    free_bytes,
                });
            }
            Err(VaultError::Store(error)) if stops_one_store(&error) => {
                prepared.findings.push(missed(&named.name, &error));
                prepared.missed.push((named.name.clone(), error));
            }
            Err(error) if is_of_the_copy(&error) => {
                let seen_before = context.ratchet.seen().stores.contains_key(&named.store.identity());
                prepared.findings.push(unfit(named, &error, seen_before));
                prepared.unfit.push((named.name.clone(), error));
            }
            Err(error) => return Err(error.into()),
        }
    }
    Ok(())
}

/// What lies in a store, and its room.
fn look(named: &NamedStore) -> Result<(Presence, Option<u64>), VaultError> {
    let presence = Presence::read(named.store.as_ref(), &AREAS)?;
    Ok((presence, enough_room(named, named.store.room(), ROOM_MIN_BYTES)?))
}

/// Whether the copy is what is wrong, and not this machine: what is new goes to the others all the same.
const fn is_of_the_copy(error: &VaultError) -> bool {
    matches!(error, VaultError::NoVault(_) | VaultError::Damaged { .. } | VaultError::Ledger(_) | VaultError::Crypto { .. })
}

/// A store without a copy that could be built on. That it never had one is no alarm.
fn unfit(named: &NamedStore, error: &VaultError, seen_before: bool) -> Finding {
    let name = &named.name;
    let kind = match error {
        VaultError::NoVault(_) if !seen_before => FindingKind::Behind,
        VaultError::Damaged { .. } => FindingKind::Damage,
        _ => FindingKind::Trust,
    };
    let plain =
        if named.store.location().directory().is_some() { " (with --plain-directory, unless it is a drive)" } else { "" };
    let message = format!(
        "{error}; nothing was sent there, and `farkeep sync {name} --from` another store makes it a copy again{plain}"
    );
    Finding::new(kind, name, message)
}

/// The free bytes, where the store tells, if they are so many at least.
fn enough_room(named: &NamedStore, room: Result<Option<u64>, StoreError>, bytes: u64) -> Result<Option<u64>, StoreError> {
    match room {
        Ok(Some(free)) if free < bytes => {
            Err(StoreError::Full { name: named.name.clone(), why: format!("{} are free", human_size(free)) })
        }
        room => Ok(room.ok().flatten()),
    }
}

/// Says so when a store has less room than one of the last pushes took.
fn warn_of_little_room(prepared: &mut Prepared) {
    let newest = prepared.snapshots.iter().rev().take(PUSHES_REMEMBERED);
    let Some(usual) = newest.map(|snapshot| snapshot.body.new_bytes).max() else { return };
    for side in &prepared.sides {
        if let Some(free) = side.free_bytes.filter(|free| *free < usual) {
            let message = format!("{} are free, and one of the last pushes took {}", human_size(free), human_size(usual));
            prepared.findings.push(Finding::new(FindingKind::Notice, &side.named.name, message));
        }
    }
}

/// Whether the other stores go on without this one.
const fn stops_one_store(error: &StoreError) -> bool {
    match error {
        StoreError::Interrupted => false,
        StoreError::Full { .. } => true,
        error => error.is_store_wide(),
    }
}

/// Reads the pending prune plans of every copy. One that went out of reach meanwhile is left out.
fn doomed(prepared: &mut Prepared, context: &Context) -> Result<Doomed, OpError> {
    let pages = PageCache::open(&context.state.cache().join("inventories"))?;
    let mut doomed = Doomed::default();
    let mut number = 0;
    while let Some(side) = prepared.sides.get(number) {
        let (names, unread) = match doomed_in(side, &pages) {
            Ok(found) => found,
            Err(VaultError::Store(error)) if stops_one_store(&error) => {
                drop_side(prepared, number, error);
                continue;
            }
            Err(error) => return Err(error.into()),
        };
        doomed.names.extend(names);
        doomed.unread.extend(unread.iter().map(|(plan, _)| (plan.writer, plan.head.hash)));
        let prune = side.records.checked.iter().filter(|record| is_prune(&record.statement.kind));
        doomed.records.extend(prune.map(|record| record.name.clone()));
        let name = side.named.name.clone();
        prepared.findings.extend(unread.iter().map(|(plan, why)| unread_plan(&name, plan, why)));
        number += 1;
    }
    Ok(doomed)
}

/// What may go from a copy at any time, and the plans of which nobody can say what they name: then whatever they may name.
fn doomed_in(side: &Side, pages: &PageCache) -> Result<(BTreeSet<ObjectName>, Vec<(Plan, String)>), VaultError> {
    let store = side.named.store.as_ref();
    let mut doomed = side.pruned.doomed(pages, store)?;
    if !doomed.unread.is_empty() {
        doomed.names.extend(side.pruned.may_be_named(&side.records, &side.presence, pages, store)?);
    }
    Ok((doomed.names, doomed.unread))
}

/// That a plan waits of which the list cannot be read.
fn unread_plan(name: &str, plan: &Plan, why: &str) -> Finding {
    let message = format!(
        "{why}; it belongs to the list of prune plan {}, so nothing was built on what that may name, and nobody can apply \
         it: `farkeep prune plan --store {name}` on its custodian's machine makes another",
        plan.head.hash.short()
    );
    Finding::new(FindingKind::Damage, name, message)
}

const fn is_prune(kind: &RecordKind) -> bool {
    matches!(kind, RecordKind::PrunePlan | RecordKind::PruneDone)
}
