//! Before the first byte is read: what lies in which store, what is known, what must be caught up.

use std::collections::{BTreeMap, BTreeSet};

use super::{NamedStore, PushPlan, missed_finding};
use crate::crypto::identity::Identity;
use crate::format::body::VerifyBody;
use crate::format::inventory::Line;
use crate::format::record::{Head, RecordKind};
use crate::format::table::PackKind;
use crate::ledger::{LedgerError, Scribe, Standing, Trust};
use crate::model::finding::{Finding, FindingKind};
use crate::model::ids::{Token, WriterId};
use crate::model::name::{Area, ObjectName, Sealed};
use crate::ops::context::Context;
use crate::ops::{Env, OpError};
use crate::state::index::ChunkIndex;
use crate::state::journal::Entry;
use crate::store::StoreError;
use crate::store::deliver::{RetryPolicy, deliver};
use crate::vault::VaultError;
use crate::vault::copy::Copy;
use crate::vault::courier::Courier;
use crate::vault::index_sync::import;
use crate::vault::inventory::{Inventory, PageCache, each_line};
use crate::vault::presence::Presence;
use crate::vault::replicate::{copy_objects, copy_records};
use crate::vault::snapshots::{Records, Snapshot};

/// What is listed of each copy.
const AREAS: [Area; 6] = [Area::Root, Area::Keys, Area::Packs, Area::Indexes, Area::Manifests, Area::Inventories];

/// One copy that this push writes to.
pub struct Side {
    pub named: NamedStore,
    pub copy: Copy,
    pub presence: Presence,
    pub records: Records,
    pub caught_up_objects: u64,
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

    /// The newest snapshot of each series: what a new one has most in common with.
    pub fn newest_of_each_series(&self) -> Vec<&Snapshot> {
        let mut newest: BTreeMap<Token, &Snapshot> = BTreeMap::new();
        for snapshot in &self.snapshots {
            newest.insert(snapshot.body.series, snapshot);
        }
        newest.into_values().filter(|snapshot| self.has_everywhere(&snapshot.body.inventory)).collect()
    }

    /// The inventory roots of the newest snapshots.
    pub fn inventory_roots(&self) -> Vec<Sealed> {
        let roots = self.newest_of_each_series().into_iter().map(|snapshot| snapshot.body.inventory.clone());
        roots.filter_map(|name| if let ObjectName::Inventory(sealed) = name { Some(sealed) } else { None }).collect()
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
            let now = match Presence::read(store, &AREAS) {
                Ok(now) => now,
                Err(error) => {
                    courier.give_up(number, error);
                    continue;
                }
            };
            let mut gone: Vec<ObjectName> = Vec::new();
            // The pages were kept here a moment ago, so this reads no store.
            each_line(pages, store, &root, &mut |line| {
                if !matches!(line.name, ObjectName::Trust { .. }) && !now.has(&line.name) {
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
    };
    for (name, error) in &plan.missed {
        prepared.findings.push(missed(name, error));
    }
    open_sides(plan, context, &mut prepared)?;
    let Some(newest) = prepared.sides.iter().map(|side| side.copy.trust.head()).max_by_key(|head| head.seq) else {
        let all = plan.missed.iter().chain(&prepared.missed);
        let text: Vec<String> = all.clone().map(|(name, error)| format!("{name}: {error}")).collect();
        let gravest = all.map(|(_, error)| error).find(|error| error.is_host_key());
        return Err(gravest.cloned().unwrap_or_else(|| StoreError::Unreachable(text.join("; "))).into());
    };
    for side in &mut prepared.sides {
        side.records = context.read_records(&side.copy)?;
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
    deliver_own(scribe, &mut prepared, newest)?;
    catch_up(&mut prepared, context, env)?;
    let mut snapshots: Vec<Snapshot> = prepared.sides.iter().flat_map(|side| side.records.snapshots()).collect();
    snapshots.sort_by_key(|snapshot| (snapshot.time, snapshot.head.seq, snapshot.id));
    snapshots.dedup_by_key(|snapshot| snapshot.id);
    prepared.snapshots = snapshots;
    Ok(prepared)
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
                    let copy = context.open_copy(store, &plan.pin)?;
                    let presence = Presence::read(named.store.as_ref(), &AREAS)?;
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
            Ok((copy, presence)) => {
                let (records, caught_up_objects) = (Records::default(), 0);
                prepared.sides.push(Side { named: named.clone(), copy, presence, records, caught_up_objects });
            }
            Err(VaultError::Store(error)) if error.is_store_wide() && error != StoreError::Interrupted => {
                prepared.findings.push(missed(&named.name, &error));
                prepared.missed.push((named.name.clone(), error));
            }
            Err(error) => return Err(error.into()),
        }
    }
    Ok(())
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

/// Sends own records, of a push that died between signing and sending, to copies that lack them: the same bytes.
fn deliver_own(scribe: &Scribe, prepared: &mut Prepared, _newest_trust: Head) -> Result<(), OpError> {
    for name in scribe.names()? {
        let mut bytes = None;
        for side in &mut prepared.sides {
            let ObjectName::Record { writer, seq, statement } = &name else { continue };
            let head = Head { seq: *seq, hash: *statement };
            if side.copy.book.has(writer, &head) || prepared_elsewhere(&side.records, &name) {
                continue;
            }
            let content = match &bytes {
                Some(content) => content,
                None => bytes.insert(scribe.read(&name)?),
            };
            // A copy that also lacks the objects gets them in `catch_up`; until then the record only says what should be.
            deliver(side.named.store.as_ref(), &name, content, RetryPolicy::DEFAULT)?;
            side.copy.book.add(&name.to_string());
            if let Ok(checked) = crate::ledger::check(&side.copy.trust, &name.to_string(), content) {
                side.records.checked.push(checked);
            }
        }
    }
    Ok(())
}

fn prepared_elsewhere(records: &Records, name: &ObjectName) -> bool {
    records.checked.iter().any(|record| record.name == *name)
}

/// Sends a copy that was away what other copies hold: objects of snapshots first, then records.
fn catch_up(prepared: &mut Prepared, context: &Context, env: &Env<'_>) -> Result<(), OpError> {
    if prepared.sides.len() < 2 {
        return Ok(());
    }
    let pages = PageCache::open(&context.state.cache().join("inventories"))?;
    for target in 0..prepared.sides.len() {
        for source in 0..prepared.sides.len() {
            if source == target {
                continue;
            }
            let outcome = catch_up_from(prepared, source, target, &pages, env);
            match outcome {
                Ok(sent) => prepared.sides[target].caught_up_objects += sent,
                Err(VaultError::Interrupted) => return Err(VaultError::Interrupted.into()),
                Err(error) => {
                    let name = prepared.sides[target].named.name.clone();
                    prepared.findings.push(missed_finding(&name, &error));
                }
            }
        }
    }
    Ok(())
}

fn catch_up_from(
    prepared: &mut Prepared,
    source: usize,
    target: usize,
    pages: &PageCache,
    env: &Env<'_>,
) -> Result<u64, VaultError> {
    let (from, to) = (&prepared.sides[source], &prepared.sides[target]);
    let missing_records: Vec<ObjectName> = from
        .records
        .checked
        .iter()
        .filter(|record| !to.copy.book.has(&record.statement.writer, &record.head))
        .map(|record| record.name.clone())
        .collect();
    // Snapshots whose record or whose objects the target lacks.
    let mut lines: BTreeSet<Line> = BTreeSet::new();
    for snapshot in from.records.snapshots() {
        let behind = !to.copy.book.has(&snapshot.writer, &snapshot.head) || !to.presence.has(&snapshot.body.inventory);
        if behind && from.presence.has(&snapshot.body.inventory) {
            each_line(pages, from.named.store.as_ref(), &snapshot.body.inventory, &mut |line| {
                if !matches!(line.name, ObjectName::Trust { .. })
                    && !to.presence.has(&line.name)
                    && from.presence.has(&line.name)
                {
                    lines.insert(line.clone());
                }
            })?;
        }
    }
    let missing_trust: Vec<ObjectName> =
        from.copy.trust.names().filter(|name| !to.copy.trust.names().any(|n| n == *name)).collect();
    if lines.is_empty() && missing_records.is_empty() && missing_trust.is_empty() {
        return Ok(0);
    }
    env.step(format!("bringing {} up to date from {}", to.named.name, from.named.name));
    let (from_store, to_store) = (from.named.store.as_ref(), to.named.store.as_ref());
    let count = lines.len() as u64;
    let names: Vec<ObjectName> = lines.iter().map(|line| line.name.clone()).collect();
    let (_, findings) = copy_objects(from_store, to_store, lines.into_iter().collect(), env.cancel, &|_| {})?;
    copy_records(from_store, to_store, &missing_trust)?;
    copy_records(from_store, to_store, &missing_records)?;
    prepared.findings.extend(findings);
    let to = &mut prepared.sides[target];
    to.presence.add_all(&names);
    for name in missing_records {
        to.copy.book.add(&name.to_string());
    }
    Ok(count)
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
            Entry::Pack(pack) if prepared.has_everywhere(&ObjectName::Pack(pack.pack)) => {
                index.add_pack(pack)?;
            }
            Entry::Pack(_) => {}
        }
    }
    for object in objects {
        if prepared.has_everywhere(&ObjectName::Index(object)) {
            import(index, store, &object, identities)?;
        }
    }
    index.flush()?;
    Ok(())
}

/// By pack number: present in every copy with its size, and nothing found against it.
pub fn live_packs(index: &ChunkIndex, prepared: &Prepared) -> Result<Vec<bool>, OpError> {
    let suspects = found_objects(prepared);
    let mut live = vec![false; index.pack_count() as usize];
    index.each_pack(&mut |number, info| {
        let present = prepared.sides.iter().all(|side| side.presence.has_pack(&info.pack));
        live[number as usize] = present && !suspects.contains(&info.pack);
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

/// Packs that the newest verification of a store, by anyone trusted, speaks against.
fn found_objects(prepared: &Prepared) -> BTreeSet<Sealed> {
    let mut newest: BTreeMap<(WriterId, String), (u64, VerifyBody)> = BTreeMap::new();
    for record in prepared.sides.iter().flat_map(|side| &side.records.checked) {
        if record.standing != Standing::Trusted || record.statement.kind != RecordKind::Verify {
            continue;
        }
        let Ok(body) = record.statement.body_as::<VerifyBody>() else { continue };
        // A look at names and sizes says nothing against an earlier look at content.
        if body.depth == "list" && body.objects_found.is_empty() {
            continue;
        }
        let key = (record.statement.writer, body.store.clone());
        let slot = newest.entry(key).or_insert_with(|| (record.head.seq, body.clone()));
        if slot.0 < record.head.seq {
            *slot = (record.head.seq, body);
        }
    }
    let found = newest.into_values().flat_map(|(_, body)| body.objects_found);
    found
        .filter_map(|object| match ObjectName::parse_stored(&object.object) {
            Ok((ObjectName::Pack(pack), _)) => Some(pack),
            _ => None,
        })
        .collect()
}
