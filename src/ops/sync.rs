//! `sync`: brings one copy up to date from another, without any decryption key, and never removes anything.
//!
//! Objects first, then the header, records last; what was sent is read back and hashed. So a copy that was cut off in
//! between holds no snapshot that it cannot give back, and the next sync goes on where it stopped.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use serde::Serialize;

use super::context::{Context, Locking, NamedStore, VaultPin, open_pinned};
use super::suspicion::suspects;
use super::{Env, Event, Exit, OpError};
use crate::crypto::hash::hash;
use crate::format::inventory::Line;
use crate::format::record::Head;
use crate::ledger::{Checked, Scribe, Standing};
use crate::model::finding::{Finding, FindingKind};
use crate::model::ids::WriterId;
use crate::model::name::{Area, ObjectName};
use crate::model::size::human_size;
use crate::store::deliver::{RetryPolicy, deliver};
use crate::vault::VaultError;
use crate::vault::copy::Copy;
use crate::vault::inventory::{PageCache, each_line};
use crate::vault::presence::Presence;
use crate::vault::replicate::{Replicated, copy_objects, copy_records};

/// What is listed.
const AREAS: [Area; 6] = [Area::Root, Area::Keys, Area::Packs, Area::Indexes, Area::Manifests, Area::Inventories];

/// What to bring up to date from where.
pub struct SyncPlan {
    /// Whom to trust.
    pub pin: VaultPin,
    /// The copy that is read.
    pub from: NamedStore,
    /// The copy that is written.
    pub to: NamedStore,
}

/// What was done.
#[derive(Debug, Clone, Serialize)]
pub struct SyncReceipt {
    /// The copy that was read.
    pub from: String,
    /// The copy that was written.
    pub to: String,
    /// What was sent.
    #[serde(flatten)]
    pub sent: Replicated,
    /// Records that were sent.
    pub records: u64,
    /// Snapshots that the target holds now, complete.
    pub snapshots: u64,
    /// Objects that were read back after sending.
    pub read_back: u64,
    /// Whether all is sent, durable and read back.
    pub safe: bool,
    /// What was found.
    pub findings: Vec<Finding>,
}

impl SyncReceipt {
    /// The exit code.
    #[must_use]
    pub fn exit(&self) -> Exit {
        Exit::of_findings(&self.findings)
    }
}

/// Brings `to` up to date from `from`.
///
/// # Errors
/// When either cannot be reached, they are not copies of one vault, or the target has no room.
pub fn sync(plan: &SyncPlan, env: &Env<'_>) -> Result<SyncReceipt, OpError> {
    env.step(format!("opening {}", plan.from.name));
    let vault = match plan.pin.vault {
        Some(vault) => vault,
        None => open_pinned(Arc::clone(&plan.from.store), &plan.pin, None)?.vault(),
    };
    let mut context = Context::open(env, vault, Locking::Exclusive)?;
    let mut from = context.open_copy(Arc::clone(&plan.from.store), &plan.pin)?;
    let records = context.read_records(&mut from)?;
    let pages = PageCache::open(&context.state.cache().join("inventories"))?;

    env.step(format!("looking at {}", plan.to.name));
    let mut target = open_target(plan, &context, &from)?;
    let presence = Presence::read(plan.to.store.as_ref(), &AREAS).map_err(VaultError::from)?;
    let mut findings: Vec<Finding> = records.findings.iter().filter(|f| f.kind.is_alarm()).cloned().collect();
    let wanted = wanted_objects(&from, &records, &pages, &mut findings)?;
    let suspected = suspected(target.as_mut(), &mut context)?;
    let missing: Vec<Line> =
        wanted.iter().filter(|line| !presence.has(&line.name) || suspected.contains(&line.name)).cloned().collect();
    check_room(plan, &missing)?;

    let bytes = missing.iter().filter_map(|line| line.name.bytes()).sum();
    env.observer.event(Event::Total { items: Some(missing.len() as u64), bytes: Some(bytes) });
    env.step(format!("sending to {}", plan.to.name));
    let told = |bytes| env.observer.event(Event::Advance { items: 1, bytes });
    let (from_store, to_store) = (plan.from.store.as_ref(), plan.to.store.as_ref());
    let (sent, problems) = copy_objects(from_store, to_store, missing.clone(), env.cancel, &told)?;
    let broken: BTreeSet<String> = problems.iter().map(|finding| finding.subject.clone()).collect();
    findings.extend(problems);

    env.step("reading back what was sent");
    let read_back = read_back(plan, &missing, &broken, &mut findings, env)?;
    env.step("sending records");
    let sent_records = send_records(plan, &from, target.as_ref(), &context, &mut findings)?;
    let complete = records.snapshots().len() as u64;
    let mut after = open_pinned(Arc::clone(&plan.to.store), &plan.pin, Some(&context.state))?;
    let after_records = context.read_records(&mut after)?;
    if after_records.snapshots().len() < records.snapshots().len() {
        let message = "holds fewer snapshots than the copy that it was brought up to date from";
        findings.push(Finding::new(FindingKind::Behind, &plan.to.name, message));
    }
    let safe = !findings.iter().any(|finding| finding.kind.is_alarm() || finding.kind == FindingKind::Behind);
    Ok(SyncReceipt {
        from: from.name(),
        to: after.name(),
        sent,
        records: sent_records,
        snapshots: complete,
        read_back,
        safe,
        findings,
    })
}

/// The target copy; none when there is no vault yet, for which the directories are then made.
fn open_target(plan: &SyncPlan, context: &Context, from: &Copy) -> Result<Option<Copy>, OpError> {
    match open_pinned(Arc::clone(&plan.to.store), &plan.pin, Some(&context.state)) {
        Ok(copy) if copy.vault() == from.vault() => {
            copy.check_ratchet(&context.ratchet)?;
            Ok(Some(copy))
        }
        Ok(copy) => Err(OpError::Usage(format!(
            "{}: holds vault {}, and {} holds {}: they are not copies of one another",
            plan.to.name,
            copy.vault(),
            plan.from.name,
            from.vault()
        ))),
        Err(VaultError::NoVault(_)) => {
            plan.to.store.make_dirs(&Area::layout()).map_err(VaultError::from)?;
            Ok(None)
        }
        Err(error) => Err(error.into()),
    }
}

/// Every object that a snapshot of the source needs: plain files first, the header not among them, inventories last.
fn wanted_objects(
    from: &Copy,
    records: &crate::vault::snapshots::Records,
    pages: &PageCache,
    findings: &mut Vec<Finding>,
) -> Result<Vec<Line>, OpError> {
    let mut wanted: BTreeSet<Line> = from.plain_lines().into_iter().collect();
    for snapshot in records.snapshots() {
        let collected = each_line(pages, from.store.as_ref(), &snapshot.body.inventory, &mut |line| {
            wanted.insert(line.clone());
        });
        match collected {
            Ok(()) => {}
            Err(VaultError::Store(error)) if error.is_store_wide() => return Err(error.into()),
            Err(error) => {
                let message = format!("snapshot {} cannot be copied whole: {error}", snapshot.id.short());
                findings.push(Finding::new(FindingKind::Damage, &snapshot.body.inventory, message));
            }
        }
    }
    let mut lines: Vec<Line> = wanted
        .into_iter()
        .filter(|line| !matches!(line.name, ObjectName::Trust { .. } | ObjectName::Record { .. } | ObjectName::Header))
        .collect();
    lines.sort_by_key(|line| (line.name.area(), line.name.clone()));
    Ok(lines)
}

/// Objects of the target that a verification found damaged, by somebody trusted or by this machine: they are sent again, and
/// what fits stays.
fn suspected(target: Option<&mut Copy>, context: &mut Context) -> Result<BTreeSet<ObjectName>, OpError> {
    let Some(target) = target else { return Ok(BTreeSet::new()) };
    let records = context.read_records(target)?;
    let own: Vec<WriterId> = context.scribes(target.vault())?.iter().map(Scribe::writer).collect();
    let counts = |record: &Checked| record.standing == Standing::Trusted || own.contains(&record.statement.writer);
    Ok(suspects(records.checked.iter(), counts).remove(&target.name()).unwrap_or_default())
}

fn check_room(plan: &SyncPlan, missing: &[Line]) -> Result<(), OpError> {
    let needed: u64 = missing.iter().filter_map(|line| line.name.bytes()).sum();
    match plan.to.store.room() {
        Ok(Some(room)) if room < needed => {
            let (needed, room) = (human_size(needed), human_size(room));
            Err(OpError::NotDone(format!("{}: {needed} are needed and {room} are free; nothing was sent", plan.to.name)))
        }
        _ => Ok(()),
    }
}

/// Reads what was sent from the device, not from memory, and hashes it.
fn read_back(
    plan: &SyncPlan,
    sent: &[Line],
    broken: &BTreeSet<String>,
    findings: &mut Vec<Finding>,
    env: &Env<'_>,
) -> Result<u64, OpError> {
    let store = plan.to.store.as_ref();
    let mut count = 0;
    for line in sent.iter().filter(|line| !broken.contains(&line.name.to_string())) {
        env.check_cancel()?;
        store.forget_cached(&line.name.to_string());
        match crate::vault::objects::read_hashed(store, &line.name, line.hash) {
            Ok(bytes) => {
                debug_assert_eq!(hash(&bytes), line.hash);
                count += 1;
            }
            Err(VaultError::Store(error)) if error.is_store_wide() => return Err(error.into()),
            Err(error) => {
                let message = format!("reads back wrong after it was written: {error}");
                findings.push(Finding::new(FindingKind::Damage, &line.name, message));
            }
        }
    }
    Ok(count)
}

/// Sends the header, then trust records, then every writer's records in sequence, own ones that lie only here included.
fn send_records(
    plan: &SyncPlan,
    from: &Copy,
    target: Option<&Copy>,
    context: &Context,
    findings: &mut Vec<Finding>,
) -> Result<u64, OpError> {
    let (from_store, to_store) = (plan.from.store.as_ref(), plan.to.store.as_ref());
    let has_trust = |name: &ObjectName| target.is_some_and(|copy| copy.trust.names().any(|n| n == *name));
    let trust: Vec<ObjectName> = from.trust.names().filter(|name| !has_trust(name)).collect();
    for (name, bytes) in from.trust_records() {
        if trust.contains(name) {
            deliver(to_store, name, bytes, RetryPolicy::DEFAULT).map_err(VaultError::from)?;
        }
    }
    if target.is_none() {
        deliver(to_store, &ObjectName::Header, from.header_bytes(), RetryPolicy::DEFAULT).map_err(VaultError::from)?;
    }
    let has = |writer: &_, head: &Head| target.is_some_and(|copy| copy.book.has(writer, head));
    let mut by_writer: BTreeMap<_, Vec<(u64, ObjectName)>> = BTreeMap::new();
    for stored in from.book.names() {
        if let Ok((name @ ObjectName::Record { writer, seq, statement }, _)) = ObjectName::parse_stored(stored)
            && !has(&writer, &Head { seq, hash: statement })
        {
            by_writer.entry(writer).or_default().push((seq, name));
        }
    }
    let mut count = 0;
    for mut names in by_writer.into_values() {
        names.sort();
        names.dedup();
        for (_, name) in names {
            match copy_records(from_store, to_store, std::slice::from_ref(&name)) {
                Ok(sent) => count += sent,
                // What anybody may have put there keeps no record from the drive that comes after it.
                Err(VaultError::Damaged { object, why }) => {
                    findings.push(Finding::new(FindingKind::Damage, object, format!("not copied: {why}")));
                }
                Err(error) => return Err(error.into()),
            }
        }
    }
    for scribe in context.scribes(from.vault())? {
        count += send_own(&scribe, plan, from, target)?;
    }
    Ok(count)
}

/// Own records that the target lacks and the source does not hold either: of a station that could only read.
fn send_own(scribe: &Scribe, plan: &SyncPlan, from: &Copy, target: Option<&Copy>) -> Result<u64, OpError> {
    let mut count = 0;
    for name in scribe.names()? {
        let ObjectName::Record { writer, seq, statement } = &name else { continue };
        let head = Head { seq: *seq, hash: *statement };
        if target.is_some_and(|copy| copy.book.has(writer, &head)) || from.book.has(writer, &head) {
            continue;
        }
        deliver(plan.to.store.as_ref(), &name, &scribe.read(&name)?, RetryPolicy::DEFAULT).map_err(VaultError::from)?;
        count += 1;
    }
    Ok(count)
}
