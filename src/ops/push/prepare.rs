//! Before the first byte is read: what lies in which store, what is known, what must be caught up.

use std::collections::{BTreeMap, BTreeSet};

use super::catch_up::catch_up;
use super::{NamedStore, PushPlan, RECORD_ROOM_BYTES, ROOM_MIN_BYTES, mend, missed_finding};
use crate::crypto::identity::Identity;
use crate::format::inventory::Line;
use crate::format::record::{Head, RecordKind};
use crate::format::table::PackKind;
use crate::ledger::{Checked, LedgerError, Scribe, Standing, Trust};
use crate::model::finding::{Finding, FindingKind};
use crate::model::ids::{Token, WriterId};
use crate::model::name::{Area, ObjectName, Sealed};
use crate::model::size::human_size;
use crate::ops::context::Context;
use crate::ops::delivery::{Delivery, Snapshots};
use crate::ops::suspicion::suspects;
use crate::ops::{Env, OpError};
use crate::state::index::ChunkIndex;
use crate::state::journal::Entry;
use crate::store::StoreError;
use crate::store::deliver::RetryPolicy;
use crate::vault::VaultError;
use crate::vault::copy::Copy;
use crate::vault::courier::Courier;
use crate::vault::index_sync::import;
use crate::vault::inventory::{Inventory, PageCache, each_line, page_names};
use crate::vault::presence::Presence;
use crate::vault::pruned::Pruned;
use crate::vault::snapshots::{Records, Snapshot};

/// What is listed of each copy.
const AREAS: [Area; 6] = [Area::Root, Area::Keys, Area::Packs, Area::Indexes, Area::Manifests, Area::Inventories];

/// Pushes that tell how much room one takes: a week of nights.
const PUSHES_REMEMBERED: usize = 7;

/// One copy that this push writes to.
pub struct Side {
    pub named: NamedStore,
    pub copy: Copy,
    pub presence: Presence,
    pub records: Records,
    pub pruned: Pruned,
    pub caught_up_objects: u64,
    /// Plain files that were gone when this push began.
    pub lost: BTreeSet<ObjectName>,
    /// Free bytes, where the store tells.
    pub free_bytes: Option<u64>,
}

/// All copies that this push writes to.
pub struct Prepared {
    pub sides: Vec<Side>,
    pub missed: Vec<(String, StoreError)>,
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

    /// Whether a prune plan that came since this push began names an object that its snapshot needs: another push is then
    /// needed that knows of it.
    pub fn newly_doomed(
        &self,
        context: &mut Context,
        plan: &PushPlan,
        inventory: &Inventory,
        pages: &PageCache,
    ) -> Result<bool, OpError> {
        let root = ObjectName::Inventory(inventory.root.name);
        for side in &self.sides {
            // A copy that went out of reach meanwhile commits nothing.
            let Ok(mut copy) = context.open_copy(std::sync::Arc::clone(&side.named.store), &plan.pin) else { continue };
            let known = |name: &&str| match ObjectName::parse_stored(name) {
                Ok((ObjectName::Record { writer, seq, statement }, _)) => {
                    side.copy.book.has(&writer, &Head { seq, hash: statement })
                }
                _ => true,
            };
            if copy.book.names().all(|name| known(&name)) {
                continue;
            }
            let records = context.read_records(&mut copy)?;
            let mut prune = records.checked.iter().filter(|record| is_prune(&record.statement.kind));
            if prune.all(|record| self.doomed.records.contains(&record.name)) {
                continue;
            }
            let store = side.named.store.as_ref();
            let doomed = Pruned::read(&records, store)?.doomed(pages, store)?;
            let mut needed = false;
            each_line(pages, store, &root, &mut |line| needed |= doomed.contains(&line.name))?;
            if needed {
                return Ok(true);
            }
        }
        Ok(false)
    }

    /// Pages of the newest inventories of which every line lies in every copy, and nothing is found against it: only such can
    /// be used again. A page that cannot be read is made anew.
    pub fn sound_pages(&self, cache: &PageCache) -> Result<Vec<Sealed>, VaultError> {
        let store = self.sides[0].named.store.as_ref();
        let suspects = found_objects(self);
        let sound = |line: &Line| match &line.name {
            ObjectName::Pack(pack) => self.may_refer_to(&line.name) && !suspects.contains(pack),
            // They are remembered here and checked when a copy is opened.
            ObjectName::Trust { .. } => true,
            name => self.may_refer_to(name),
        };
        let mut pages = BTreeSet::new();
        for snapshot in self.newest_of_each_series() {
            match page_names(cache, store, &snapshot.body.inventory) {
                Ok(names) => pages.extend(names),
                Err(VaultError::Damaged { .. }) => {}
                Err(error) => return Err(error),
            }
        }
        let mut found = Vec::new();
        for page in pages.into_iter().filter(|page| self.may_refer_to(&ObjectName::Inventory(*page))) {
            match cache.read(store, &page) {
                Ok(lines) if lines.iter().all(sound) => found.push(page),
                Ok(_) | Err(VaultError::Damaged { .. }) => {}
                Err(error) => return Err(error),
            }
        }
        Ok(found)
    }

    /// Lists every copy again: a copy that lacks something that the snapshot needs is given up. False when none is left.
    pub fn check_arrived(
        &mut self,
        inventory: &Inventory,
        pages: &PageCache,
        courier: &Courier,
    ) -> Result<bool, VaultError> {
        let root = ObjectName::Inventory(inventory.root.name);
        let mut whole = false;
        for (number, report) in courier.reports().into_iter().enumerate() {
            if report.error.is_some() {
                continue;
            }
            let side = &self.sides[number];
            let store = side.named.store.as_ref();
            let now = match list_with_room(&side.named, RECORD_ROOM_BYTES) {
                Ok((now, _)) => now,
                Err(error) => {
                    courier.give_up(number, error);
                    continue;
                }
            };
            let mut gone: Vec<ObjectName> = Vec::new();
            // The pages were kept here a moment ago, so this reads no store.
            each_line(pages, store, &root, &mut |line| {
                let here = matches!(line.name, ObjectName::Trust { .. }) || side.lost.contains(&line.name);
                if !here && !now.has(&line.name) {
                    gone.push(line.name.clone());
                }
            })?;
            if let Some(first) = gone.first() {
                let why = format!("{first} and {} more objects went away while the push ran", gone.len() - 1);
                self.findings.push(Finding::new(FindingKind::Damage, &side.named.name, &why));
                courier.give_up(number, StoreError::Protocol(why));
            } else {
                whole = true;
            }
        }
        Ok(whole)
    }
}

/// Opens every copy, adopts own records, brings copies that were away up to date.
pub fn prepare(plan: &PushPlan, context: &mut Context, scribe: &mut Scribe, env: &Env<'_>) -> Result<Prepared, OpError> {
    let mut prepared = Prepared {
        sides: Vec::new(),
        missed: Vec::new(),
        findings: Vec::new(),
        heads: BTreeMap::new(),
        snapshots: Vec::new(),
        doomed: Doomed::default(),
    };
    for (name, error) in &plan.missed {
        prepared.findings.push(missed(name, error));
    }
    open_sides(plan, context, &mut prepared)?;
    read_records(&mut prepared, context)?;
    if prepared.sides.is_empty() {
        return Err(none_left(plan, &prepared));
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
    deliver_own(context, &mut prepared)?;
    catch_up(&mut prepared, context, env)?;
    mend::plain_files(&mut prepared);
    mend::trust_records(&mut prepared);
    if prepared.sides.is_empty() {
        return Err(none_left(plan, &prepared));
    }
    prepared.doomed = doomed(&prepared, context)?;
    let mut snapshots: Vec<Snapshot> = prepared.sides.iter().flat_map(|side| side.records.snapshots()).collect();
    snapshots.sort_by_key(|snapshot| (snapshot.time, snapshot.head.seq, snapshot.id));
    snapshots.dedup_by_key(|snapshot| snapshot.id);
    prepared.snapshots = snapshots;
    warn_of_little_room(&mut prepared);
    Ok(prepared)
}

/// What to say when no store is left to push to.
fn none_left(plan: &PushPlan, prepared: &Prepared) -> OpError {
    let all = plan.missed.iter().chain(&prepared.missed);
    let text: Vec<String> = all.clone().map(|(name, error)| format!("{name}: {error}")).collect();
    let gravest = all.clone().map(|(_, error)| error).find(|error| error.is_host_key());
    let full = all.map(|(_, error)| error).find(|error| matches!(error, StoreError::Full { .. }));
    gravest.or(full).cloned().unwrap_or_else(|| StoreError::Unreachable(text.join("; "))).into()
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

fn missed(name: &str, error: &StoreError) -> Finding {
    if error.is_host_key() { Finding::new(FindingKind::Trust, name, error) } else { missed_finding(name, error) }
}

/// Opens all copies at once; one that is out of reach is left out.
fn open_sides(plan: &PushPlan, context: &Context, prepared: &mut Prepared) -> Result<(), OpError> {
    let opened: Vec<_> = std::thread::scope(|scope| {
        let threads: Vec<_> = plan
            .stores
            .iter()
            .map(|named| {
                scope.spawn(move || {
                    let store = std::sync::Arc::clone(&named.store);
                    // Both wait for the line and not for one another.
                    let (copy, presence) = std::thread::scope(|scope| {
                        let presence = scope.spawn(|| list_with_room(named, ROOM_MIN_BYTES));
                        let copy = context.open_copy(store, &plan.pin);
                        (copy, presence.join().unwrap_or_else(|_| Err(StoreError::Protocol("a thread failed".into()))))
                    });
                    let (copy, presence) = (copy?, presence?);
                    // Nothing depends on it; a failure shows when the store is written.
                    let _ = named.store.sweep(&Area::Packs.leaf_dirs());
                    Ok::<_, VaultError>((copy, presence))
                })
            })
            .collect();
        threads.into_iter().map(|t| t.join().unwrap_or_else(|_| Err(VaultError::internal("a thread failed")))).collect()
    });
    for (named, outcome) in plan.stores.iter().zip(opened) {
        match outcome {
            Ok((copy, (presence, free_bytes))) => {
                let (records, pruned) = (Records::default(), Pruned::default());
                let (caught_up_objects, lost) = (0, BTreeSet::new());
                let named = named.clone();
                prepared.sides.push(Side { named, copy, presence, records, pruned, caught_up_objects, lost, free_bytes });
            }
            Err(VaultError::Store(error)) if stops_one_store(&error) => {
                prepared.findings.push(missed(&named.name, &error));
                prepared.missed.push((named.name.clone(), error));
            }
            Err(error) => return Err(error.into()),
        }
    }
    Ok(())
}

/// Lists a copy, and asks at the same time whether it has room for so much more.
fn list_with_room(named: &NamedStore, bytes: u64) -> Result<(Presence, Option<u64>), StoreError> {
    let store = named.store.as_ref();
    let (presence, room) = std::thread::scope(|scope| {
        let room = scope.spawn(|| store.room());
        let presence = Presence::read(store, &AREAS);
        (presence, room.join().unwrap_or(Ok(None)))
    });
    match room {
        Ok(Some(free)) if free < bytes => {
            Err(StoreError::Full { name: named.name.clone(), why: format!("{} are free", human_size(free)) })
        }
        room => Ok((presence?, room.ok().flatten())),
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

/// Takes over own records that lie in a copy beyond the local chain. Two statements with one number stop the push.
fn adopt_own(scribe: &mut Scribe, prepared: &Prepared) -> Result<(), OpError> {
    let own: BTreeMap<u64, BTreeSet<ObjectName>> =
        prepared.sides.iter().flat_map(|side| &side.records.checked).filter(|r| r.statement.writer == scribe.writer()).fold(
            BTreeMap::new(),
            |mut own, record| {
                own.entry(record.head.seq).or_insert_with(BTreeSet::new).insert(record.name.clone());
                own
            },
        );
    let local: BTreeSet<ObjectName> = scribe.names()?.into_iter().collect();
    let local_head = scribe.head().map_or(0, |head| head.seq);
    for (seq, names) in &own {
        let mut names: Vec<&ObjectName> = names.iter().collect();
        if *seq <= local_head {
            names.extend(local.iter().filter(|name| matches!(name, ObjectName::Record { seq: s, .. } if s == seq)));
            names.dedup();
        }
        let distinct: BTreeSet<&ObjectName> = names.into_iter().collect();
        if distinct.len() > 1 {
            let mut two = distinct.iter().map(ToString::to_string);
            let (first, second) = (two.next().unwrap_or_default(), two.next().unwrap_or_default());
            return Err(LedgerError::Fork { writer: scribe.writer(), seq: *seq, first, second }.into());
        }
        if *seq > local_head
            && let Some(name) = distinct.first()
        {
            let side = prepared.sides.iter().find(|side| side.records.checked.iter().any(|r| r.name == **name));
            let Some(side) = side else { continue };
            let bytes = crate::vault::replicate::read_record(side.named.store.as_ref(), name)?;
            scribe.adopt(name, &bytes)?;
        }
    }
    Ok(())
}

fn check_enrolled(scribe: &Scribe, trust: &Trust) -> Result<(), OpError> {
    let allowed = trust
        .writer(&scribe.writer())
        .is_some_and(|(writer, _)| writer.until.is_none() && writer.kinds.contains(&RecordKind::Snapshot));
    if allowed {
        return Ok(());
    }
    let why = "the root does not trust this machine to make snapshots (its key is not enrolled, or was revoked)";
    Err(OpError::NotDone(why.into()))
}

/// Sends the records of this machine to copies that lack them, of a push that died between signing and sending and of
/// whatever was signed while it looked at another copy: the same bytes. A copy that does not take them is left out; the
/// others go on.
fn deliver_own(context: &Context, prepared: &mut Prepared) -> Result<(), OpError> {
    let mut number = 0;
    while let Some(side) = prepared.sides.get_mut(number) {
        match deliver_own_to(context, side) {
            Ok(sent) => {
                // What an upload that broke off has left of them is no alarm any more.
                prepared.findings.retain(|finding| {
                    !ObjectName::parse_stored(&finding.subject)
                        .is_ok_and(|(of, _)| sent.contains(&of) && finding.kind == FindingKind::Trust)
                });
                number += 1;
            }
            Err(VaultError::Store(error)) if error != StoreError::Interrupted => drop_side(prepared, number, error),
            Err(error) => return Err(error.into()),
        }
    }
    Ok(())
}

fn deliver_own_to(context: &Context, side: &mut Side) -> Result<BTreeSet<ObjectName>, VaultError> {
    let held: BTreeSet<ObjectName> = side.records.checked.iter().map(|record| record.name.clone()).collect();
    // A copy that also lacks the objects gets them in `catch_up`; until then the record only says what should be.
    let sent = deliver_all(context, side, &|name| held.contains(name))?;
    sent.iter().for_each(|record| side.copy.book.add(&record.name.to_string()));
    let names = sent.iter().map(|record| record.name.clone()).collect();
    side.records.checked.extend(sent);
    Ok(names)
}

/// Sends a copy every record of this machine that is not `held` there, and what those cite.
pub fn deliver_all(context: &Context, side: &Side, held: &dyn Fn(&ObjectName) -> bool) -> Result<Vec<Checked>, VaultError> {
    let (trust, store) = (&side.copy.trust, side.named.store.as_ref());
    let delivery = Delivery { context, trust, store, policy: RetryPolicy::DEFAULT, snapshots: Snapshots::All };
    Ok(delivery.run(held)?.sent)
}

/// Reads the pending prune plans of every copy.
fn doomed(prepared: &Prepared, context: &Context) -> Result<Doomed, OpError> {
    let pages = PageCache::open(&context.state.cache().join("inventories"))?;
    let mut doomed = Doomed::default();
    for side in &prepared.sides {
        doomed.names.extend(side.pruned.doomed(&pages, side.named.store.as_ref())?);
        let prune = side.records.checked.iter().filter(|record| is_prune(&record.statement.kind));
        doomed.records.extend(prune.map(|record| record.name.clone()));
    }
    Ok(doomed)
}

const fn is_prune(kind: &RecordKind) -> bool {
    matches!(kind, RecordKind::PrunePlan | RecordKind::PruneDone)
}

/// Imports the index objects of the newest snapshots, and the packs that a push which died had already sent.
pub fn refresh_index(
    index: &mut ChunkIndex,
    prepared: &Prepared,
    pages: &PageCache,
    journal: &[Entry],
    identities: &[Identity],
) -> Result<(), OpError> {
    let store = prepared.sides[0].named.store.as_ref();
    let mut objects: BTreeSet<Sealed> = BTreeSet::new();
    for snapshot in prepared.newest_of_each_series() {
        each_line(pages, store, &snapshot.body.inventory, &mut |line| {
            if let ObjectName::Index(object) = &line.name {
                objects.insert(*object);
            }
        })?;
    }
    for entry in journal {
        match entry {
            Entry::Index(object) => {
                objects.insert(*object);
            }
            Entry::Pack(pack) if prepared.may_refer_to(&ObjectName::Pack(pack.pack)) => {
                index.add_pack(pack)?;
            }
            Entry::Pack(_) => {}
        }
    }
    for object in objects {
        if prepared.may_refer_to(&ObjectName::Index(object)) {
            import(index, store, &object, identities)?;
        }
    }
    index.flush()?;
    Ok(())
}

/// By pack number: present in every copy with its size, worth building on, and nothing found against it.
pub fn live_packs(index: &ChunkIndex, prepared: &Prepared, thin: &BTreeSet<Sealed>) -> Result<Vec<bool>, OpError> {
    let suspects = found_objects(prepared);
    let mut live = vec![false; index.pack_count() as usize];
    index.each_pack(&mut |number, info| {
        let present = prepared.sides.iter().all(|side| side.presence.has_pack(&info.pack));
        let goes = prepared.doomed.contains(&ObjectName::Pack(info.pack));
        live[number as usize] = present && !goes && !suspects.contains(&info.pack) && !thin.contains(&info.pack);
    })?;
    drop_what_lies_on_holes(index, &mut live)?;
    Ok(live)
}

/// A patch without its bases is no better than a pack that is gone.
fn drop_what_lies_on_holes(index: &ChunkIndex, live: &mut [bool]) -> Result<(), OpError> {
    let mut patches = Vec::new();
    index.each_pack(&mut |number, info| {
        if info.kind == PackKind::Patch && live[number as usize] {
            patches.push(number);
        }
    })?;
    loop {
        let before = patches.len();
        let mut standing = Vec::new();
        for number in patches {
            let table = index.table(number)?;
            let stands = |base| index.number_of(base).is_some_and(|base| live[base as usize]);
            live[number as usize] = table.base_packs.iter().all(stands);
            if live[number as usize] {
                standing.push(number);
            }
        }
        // What fell may have carried others; the depth is bounded, and so are the rounds.
        if standing.len() == before {
            return Ok(());
        }
        patches = standing;
    }
}

/// Packs of any copy that a verification by anyone trusted speaks against.
fn found_objects(prepared: &Prepared) -> BTreeSet<Sealed> {
    let records = prepared.sides.iter().flat_map(|side| &side.records.checked);
    let found = suspects(records, |record| record.standing == Standing::Trusted).into_values().flatten();
    found.filter_map(|name| if let ObjectName::Pack(pack) = name { Some(pack) } else { None }).collect()
}
