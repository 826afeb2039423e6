//! `prune`: which snapshots go, signed; later the objects that nobody needs any more. No key that opens anything is needed.
//!
//! [`plan`] writes a list of objects and signs it. [`apply`] waits longer than any push runs, by the store's own clock, looks
//! again at what is needed, signs what it drops, and removes. Both refuse to work on a copy about which anything is doubtful:
//! what is damaged today may be healed tomorrow from what prune would remove.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use super::context::{Context, Locking, NamedStore, VaultPin, open_pinned};
use super::delivery::deliver_missing;
use super::verifications::{Place, Verification};
use super::{Env, OpError};
use crate::format::body::{FoundObject, HeartbeatBody};
use crate::format::record::{Head, RecordKind};
use crate::ledger::{Checked, Scribe, Standing};
use crate::model::finding::{Finding, FindingKind};
use crate::model::ids::{Token, WriterId};
use crate::model::name::ObjectName;
use crate::model::time::Timestamp;
use crate::state::keys::Role;
use crate::store::StoreError;
use crate::vault::VaultError;
use crate::vault::copy::Copy;
use crate::vault::inventory::{PageCache, page_names};
use crate::vault::objects::read_object;
use crate::vault::pruned::{Plan, Pruned};
use crate::vault::snapshots::{Records, Snapshot};
use crate::vault::suspects::Suspects;

pub mod apply;
pub mod hold;
pub mod plan;

use plan::Rules;

/// Seconds between a plan and its execution: longer than any push.
pub const WAIT_SECS: u64 = 72 * 3600;

/// A copy that prune looks at.
struct Site {
    context: Context,
    copy: Copy,
    records: Records,
    pruned: Pruned,
    pages: PageCache,
}

impl Site {
    /// Opens one about which nothing is doubtful, and holds the local state against a push or a second prune of this machine.
    fn open(store: &NamedStore, pin: &VaultPin, env: &Env<'_>) -> Result<Self, OpError> {
        let site = Self::open_sound(store, pin, env)?;
        site.check_verified(|_| false, env)?;
        Ok(site)
    }

    /// Opens one with a ledger that is whole; what verifications found is for the caller to look at.
    fn open_sound(store: &NamedStore, pin: &VaultPin, env: &Env<'_>) -> Result<Self, OpError> {
        let site = Self::open_in_doubt(store, pin, env)?;
        site.check_ledger()?;
        Ok(site)
    }

    fn open_in_doubt(store: &NamedStore, pin: &VaultPin, env: &Env<'_>) -> Result<Self, OpError> {
        env.step(format!("opening {}", store.name));
        be_alone(store)?;
        let vault = match pin.vault {
            Some(vault) => vault,
            None => open_pinned(Arc::clone(&store.store), pin, None)?.vault(),
        };
        let mut context = Context::open(env, vault, Locking::Exclusive)?;
        let mut copy = context.open_copy(Arc::clone(&store.store), pin)?;
        let records = context.read_records(&mut copy)?;
        let pruned = Pruned::read(&records, copy.store.as_ref())?;
        let pages = PageCache::open(&context.state.cache().join("inventories"))?;
        Ok(Self { context, copy, records, pruned, pages })
    }

    /// Whoever signs here, enrolled for this kind of record.
    fn scribe(&self, kind: &RecordKind, env: &Env<'_>) -> Result<Scribe, OpError> {
        let mut scribe = self.context.scribe(Role::Custodian, env, self.copy.vault())?;
        check_enrolled(&scribe, &self.copy, kind)?;
        super::custody::adopt_own(&mut scribe, &self.copy, &self.records)?;
        // What is signed here must arrive here: so does everything before it.
        if let Some(head) = scribe.head() {
            deliver_missing(&self.context, &self.copy, &record_name(&scribe.writer(), &head))?;
        }
        Ok(scribe)
    }

    /// A ledger with a gap, a fork or a record that was changed is no ground to remove anything on. What a stranger put there is none to
    /// keep everything for ever.
    fn check_ledger(&self) -> Result<(), OpError> {
        let found = self.records.findings.iter().cloned().chain(self.records.chain_findings(&[]));
        match found.into_iter().find(|finding| finding.kind.casts_doubt()) {
            Some(finding) => {
                let why = format!("{}; nothing is pruned while the ledger is in doubt", finding.message);
                Err(VaultError::Damaged { object: finding.subject, why }.into())
            }
            None => Ok(()),
        }
    }

    /// What verifications found, but for those that are `accepted`: the newest of this copy ends the matter. What any other
    /// found, of this copy or another, and no later one settled, is looked at here.
    fn check_verified(&self, accepted: impl Fn(&Checked) -> bool, env: &Env<'_>) -> Result<(), OpError> {
        let here = self.copy.name();
        let trusted = self.records.checked.iter().filter(|record| record.standing == Standing::Trusted);
        let mut all = Verification::all(trusted);
        all.retain(|one| !one.is_over(&self.copy.trust));
        let newest = newest_of_each(&all);
        let is_any_found = all.iter().any(|one| !one.body.objects_found.is_empty());
        let lists = if is_any_found { self.lists_of_plans()? } else { BTreeSet::new() };
        let is_object =
            |found: &&FoundObject| !ObjectName::parse_stored(&found.object).is_ok_and(|(name, _)| lists.contains(&name));
        let mut to_read: BTreeSet<ObjectName> = BTreeSet::new();
        for one in all.iter().filter(|one| !one.body.objects_found.is_empty() && !accepted(one.record)) {
            let is_newest = newest.contains(&one.record.name);
            // Drives take turns at one mount point.
            let is_here = match &one.place {
                Place::Drive(..) => one.place == Place::of_copy(&self.copy, one.record.statement.writer),
                Place::Server(..) | Place::Directory(..) => one.body.store == here,
            };
            if is_here
                && is_newest
                && let Some(found) = one.body.objects_found.iter().find(is_object)
            {
                let more = one.body.objects_found.iter().filter(is_object).count() - 1;
                let why = format!(
                    "the newest verification found it ({:?}) and {more} more objects; heal the copy (`farkeep sync`), verify \
                     it again, then prune",
                    found.kind
                );
                return Err(VaultError::damaged(&found.object, why.to_lowercase()).into());
            }
            if is_newest || !all.iter().any(|later| later.settles(one)) {
                let found = one.body.objects_found.iter().filter(is_object);
                let names = found.filter_map(|found| ObjectName::parse_stored(&found.object).ok());
                to_read.extend(names.map(|(name, _)| name));
            }
        }
        for name in to_read.into_iter().filter(|name| name.content_hash().is_some()) {
            env.check_cancel()?;
            if self.copy_has(&name)? {
                read_object(self.copy.store.as_ref(), &name)?;
            }
        }
        Ok(())
    }

    fn copy_has(&self, name: &ObjectName) -> Result<bool, StoreError> {
        Ok(self.copy.store.stat(&name.to_string())?.is_some())
    }

    /// What the lists of pending plans consist of, and no snapshot's inventory: what is wrong with it harms no snapshot, and
    /// only another plan mends it.
    fn lists_of_plans(&self) -> Result<BTreeSet<ObjectName>, OpError> {
        let store = self.copy.store.as_ref();
        let mut lists = if self.has_pending() { self.pruned.own_objects(&self.pages, store)? } else { BTreeSet::new() };
        let mut snapshots = self.records.snapshots();
        self.pruned.take_gone(&mut snapshots);
        for snapshot in &snapshots {
            lists.remove(&snapshot.body.inventory);
            for page in page_names(&self.pages, store, &snapshot.body.inventory).into_iter().flatten() {
                lists.remove(&ObjectName::Inventory(page));
            }
        }
        Ok(lists)
    }

    /// Pending plans of which the list cannot be read, and why: they can drop nothing.
    fn unread(&self) -> Result<Vec<(Plan, String)>, OpError> {
        Ok(self.pruned.unread(&self.pages, self.copy.store.as_ref())?)
    }

    /// Whether a plan waits or was begun.
    fn has_pending(&self) -> bool {
        self.pruned.pending().next().is_some()
    }

    /// Signs a record and brings it to the copy.
    fn sign(
        &self,
        scribe: &mut Scribe,
        kind: RecordKind,
        body: &impl serde::Serialize,
        env: &Env<'_>,
    ) -> Result<crate::ledger::Signed, OpError> {
        let context = self.context.record_context(env, self.copy.trust.head(), self.records.heads());
        let signed = scribe.write(kind, body, context)?;
        deliver_missing(&self.context, &self.copy, &signed.name)?;
        Ok(signed)
    }
}

/// One custodian at a time works on a copy, whatever its key and its state directory.
///
/// # Errors
/// When another one is at work there.
pub fn be_alone(store: &NamedStore) -> Result<(), OpError> {
    if store.store.prune_alone()? {
        return Ok(());
    }
    let why = format!("{}: another farkeep prunes this copy just now; try again when it has ended", store.store.location());
    Err(VaultError::Absent(why).into())
}

/// That a suspect snapshot stands in the way of retention of a series, as long as nobody has cleared it.
#[must_use]
pub fn still_frozen(records: &Records, series: &Token, store: &str) -> Option<Finding> {
    let suspects = Suspects::read(records);
    suspects.freezes(series).map(|snapshot| frozen_by(snapshot, store))
}

fn frozen_by(snapshot: &Snapshot, store: &str) -> Finding {
    let (id, time) = (snapshot.id.short(), snapshot.time);
    let message = format!(
        "snapshot {id} of {time} is suspect: nothing of its series is pruned. Look at it; if it is good, \
         `farkeep hold {id} --clear` on the machine with the custodian's key"
    );
    Finding::new(FindingKind::Suspect, store, message)
}

/// One finding for each series among `snapshots` that a suspect one freezes.
pub fn frozen<'a>(records: &Records, snapshots: impl IntoIterator<Item = &'a Snapshot>, store: &str) -> Vec<Finding> {
    let suspects = Suspects::read(records);
    let series: BTreeSet<Token> = snapshots.into_iter().map(|snapshot| snapshot.body.series).collect();
    let standing = series.iter().filter_map(|series| suspects.freezes(series));
    standing.map(|snapshot| frozen_by(snapshot, store)).collect()
}

fn check_enrolled(scribe: &Scribe, copy: &Copy, kind: &RecordKind) -> Result<(), OpError> {
    let trusted = copy.trust.writer(&scribe.writer());
    if trusted.is_some_and(|(writer, _)| writer.until.is_none() && writer.kinds.contains(kind)) {
        return Ok(());
    }
    Err(OpError::NotDone(format!("the root does not trust this machine's custodian key to sign {kind} records")))
}

/// Whether a plan of a copy waits or was begun.
///
/// # Errors
/// When the copy cannot be opened or is in doubt.
pub fn is_pending(store: &NamedStore, pin: &VaultPin, env: &Env<'_>) -> Result<bool, OpError> {
    Ok(Site::open(store, pin, env)?.has_pending())
}

/// The rules that hold for a copy, those of the drive that it lies on where it has its own; and a note on each section of the
/// configuration that speaks of nothing.
///
/// # Errors
/// When the copy cannot be opened.
pub fn rules_on(rules: &Rules, store: &NamedStore, pin: &VaultPin, env: &Env<'_>) -> Result<(Rules, Vec<Finding>), OpError> {
    if rules.drives.is_empty() && rules.sections.is_empty() {
        return Ok((rules.clone(), Vec::new()));
    }
    let site = Site::open_in_doubt(store, pin, env)?;
    Ok((rules.on(&site.copy), rules.sections.unknown(&site.context, &site.copy, &site.records)?))
}

/// The plan of a copy of which the removal was begun and not finished.
///
/// # Errors
/// When the copy cannot be opened, or its ledger is in doubt.
pub fn begun(store: &NamedStore, pin: &VaultPin, env: &Env<'_>) -> Result<Option<Head>, OpError> {
    let site = Site::open_sound(store, pin, env)?;
    Ok(site.pruned.pending().find(|plan| site.pruned.done(plan).is_some()).map(|plan| plan.head))
}

/// Says in a signed record when the last push arrived and the next is due.
///
/// # Errors
/// When the copy does not take it, or this machine may not sign it.
pub fn heartbeat(
    store: &NamedStore,
    pin: &VaultPin,
    last: Option<Timestamp>,
    due: Option<Timestamp>,
    env: &Env<'_>,
) -> Result<(), OpError> {
    let site = Site::open_in_doubt(store, pin, env)?;
    let mut scribe = site.scribe(&RecordKind::Heartbeat, env)?;
    let body = HeartbeatBody { store: site.copy.name(), last, due };
    site.sign(&mut scribe, RecordKind::Heartbeat, &body, env)?;
    Ok(())
}

/// Of each writer the newest verification of each copy that looked at anything.
fn newest_of_each<'a>(all: &'a [Verification<'_>]) -> BTreeSet<&'a ObjectName> {
    let mut newest: BTreeMap<(WriterId, &Place), &Verification<'_>> = BTreeMap::new();
    for one in all.iter().filter(|one| one.read_bytes() || !one.body.objects_found.is_empty()) {
        let slot = newest.entry((one.record.statement.writer, &one.place)).or_insert(one);
        if slot.record.head.seq < one.record.head.seq {
            *slot = one;
        }
    }
    newest.into_values().map(|one| &one.record.name).collect()
}

fn record_name(writer: &WriterId, head: &Head) -> ObjectName {
    ObjectName::Record { writer: *writer, seq: head.seq, statement: head.hash }
}
