//! `init --adopt`: this machine becomes the agent of a vault that is there: its agent is lost, or is to have new keys.
//!
//! The vault secret comes out of the vault, for an operator's identity; the signing key and the index identity are made here.
//! The next record of the root's chain puts the new key in the place of the old one, of which everything counts that lies in a
//! copy now, and nothing later. What the old agent's index objects list is taken into this machine's index while the identity
//! is at hand, so that the next push sends what has changed and not everything.

use std::collections::{BTreeMap, BTreeSet};

use serde::Serialize;

use super::change::Opened;
use super::end::{Until, end_of};
use super::{ShownWriter, TrustPlan, shown};
use crate::crypto::identity::Identity;
use crate::crypto::sign::SigningKey;
use crate::format::body::TrustedWriter;
use crate::format::record::RecordKind;
use crate::ledger::RootPin;
use crate::ledger::chain::leading_to;
use crate::model::finding::{Finding, FindingKind};
use crate::model::ids::{ObjectHash, Token};
use crate::model::name::{ObjectName, Sealed};
use crate::model::time::Timestamp;
use crate::ops::{Env, OpError};
use crate::state::StateError;
use crate::state::index::ChunkIndex;
use crate::state::journal::Journal;
use crate::state::keys::KeyDir;
use crate::vault::VaultError;
use crate::vault::catalogue_reader::read_manifest;
use crate::vault::copy::Copy;
use crate::vault::create::AGENT_KINDS;
use crate::vault::index_sync::take_over;
use crate::vault::inventory::{PageCache, page_names};
use crate::vault::snapshots::{Snapshot, sort_oldest_first};
use crate::vault::unlock::{Unlocked, shut, unlock};

/// What was pushed before, of one job on one machine.
#[derive(Debug, Clone, Serialize)]
pub struct ShownSeries {
    /// What the machine was called.
    pub host: String,
    /// The job.
    pub job: String,
    /// When its newest snapshot was made.
    pub newest: Timestamp,
}

/// What was changed.
#[derive(Debug, Clone, Serialize)]
pub struct AdoptReceipt {
    /// The vault.
    pub vault: String,
    /// The fingerprint of the root key.
    pub root: String,
    /// The new record of the root's chain.
    pub record: String,
    /// The copies that hold it.
    pub stores: Vec<String>,
    /// This machine's new key.
    pub agent: ShownWriter,
    /// The keys that it takes the place of.
    pub before: Vec<ShownWriter>,
    /// Everybody else whom the root trusts: who of them was on the machine that is lost?
    pub others: Vec<ShownWriter>,
    /// The packs that are known here now, and will not be sent again.
    pub packs: u32,
    /// What was pushed before.
    pub series: Vec<ShownSeries>,
    /// What could not be taken in.
    pub findings: Vec<Finding>,
}

/// Makes this machine the agent.
///
/// # Errors
/// When the root's key is another one, the identities do not open the vault, or a copy cannot be reached. Then everything is as
/// it was, but for what is cached here; when some copies have heard of the new key, the message says so.
pub fn adopt(
    plan: &TrustPlan,
    identities: &[Identity],
    until: Option<&Until>,
    env: &Env<'_>,
) -> Result<AdoptReceipt, OpError> {
    let mut opened = Opened::open(plan, env)?;
    let unlocked = unlock_any(&opened, identities)?;
    let is_agent = |writer: &TrustedWriter| writer.until.is_none() && writer.kinds.contains(&RecordKind::Snapshot);
    let mut ends = BTreeMap::new();
    for (id, writer) in opened.trust().body().writers.iter().filter(|(_, writer)| is_agent(writer)) {
        ends.insert(*id, end_of(&opened, id, &writer.name, until)?);
    }
    let mut findings = Vec::new();
    // What a thief may have pushed after the line, or beside it, is not built on: his tables can say what his packs do not hold.
    let records = || opened.records.iter().flat_map(|records| &records.checked);
    let counting: BTreeSet<ObjectHash> =
        ends.iter().filter_map(|(id, end)| Some(leading_to(records(), id, (*end)?))).flatten().collect();
    let mut all = all_snapshots(&opened);
    all.retain(|snapshot| !ends.contains_key(&snapshot.writer) || counting.contains(&snapshot.id));
    let newest = newest_of_each_series(&all);
    let series = newest.iter().filter_map(|snapshot| shown_series(&opened, snapshot, &unlocked, &mut findings)).collect();
    env.step("taking in what is known of the packs");
    let packs = take_in(&opened, &all, &newest, &unlocked, &mut findings, env)?;

    let key = SigningKey::generate(&format!("agent@{}", env.host)).map_err(VaultError::internal)?;
    let mut body = opened.trust().body().clone();
    let mut before = Vec::new();
    body.writers.retain(|id, writer| {
        let Some(end) = ends.get(id) else { return true };
        writer.until = *end;
        before.push(ShownWriter { until: Some(writer.until.map_or(0, |head| head.seq)), ..shown(*id, writer) });
        // One that never signed anything is as if it had never been.
        writer.until.is_some()
    });
    let others = body.writers.iter().filter(|(_, writer)| writer.until.is_none());
    let others = others.map(|(id, writer)| shown(*id, writer)).collect();
    let agent = TrustedWriter {
        key: key.verifier().to_openssh(),
        name: format!("agent@{}", env.host),
        kinds: AGENT_KINDS.to_vec(),
        from: 1,
        until: None,
    };
    let shown_agent = shown(key.verifier().writer(), &agent);
    body.writers.insert(key.verifier().writer(), agent);
    // All that this machine must hold is on its disk before anybody hears of it, beside the keys of an agent that it may be.
    let state = opened.context.state.clone();
    let keys = KeyDir::of(&state);
    for (generation, secret) in &unlocked.secrets {
        keys.keep_secret(*generation, secret)?;
    }
    keys.keep_next_agent(&key, &Identity::generate())?;
    let told = |error: &dyn std::fmt::Display, told: &BTreeSet<String>| {
        let told: Vec<&str> = told.iter().map(String::as_str).collect();
        OpError::NotDone(format!(
            "{error}; the new key is known already in {}: give the same command again, for until then no machine is the agent there",
            told.join(", ")
        ))
    };
    let receipt = match opened.extend(plan, &body, &[], env) {
        Err(error) if !opened.told.is_empty() => return Err(told(&error, &opened.told)),
        outcome => outcome?,
    };
    // What an agent before it on this machine left of a push that died is of no use to the new one.
    let taken = keys.take_next_agent().and_then(|()| Journal::open(&state)?.0.clear());
    taken.map_err(|error| told(&error, &opened.told))?;
    Ok(AdoptReceipt {
        vault: opened.trust().vault().to_string(),
        root: RootPin::of(&plan.root.verifier()).to_string(),
        record: receipt.record,
        stores: receipt.stores,
        agent: shown_agent,
        before,
        others,
        packs,
        series,
        findings,
    })
}

/// Every snapshot that lies in any copy, oldest first.
fn all_snapshots(opened: &Opened) -> Vec<Snapshot> {
    let mut all: Vec<Snapshot> = opened.records.iter().flat_map(|records| records.snapshots()).collect();
    sort_oldest_first(&mut all);
    all.dedup_by_key(|snapshot| snapshot.id);
    all
}

fn newest_of_each_series(all: &[Snapshot]) -> Vec<&Snapshot> {
    let newest: BTreeMap<Token, &Snapshot> = all.iter().map(|snapshot| (snapshot.body.series, snapshot)).collect();
    newest.into_values().collect()
}

/// What the identities open, by the key files of whichever copy has those of the present epoch undamaged.
fn unlock_any(opened: &Opened, identities: &[Identity]) -> Result<Unlocked, OpError> {
    let epoch = opened.trust().epoch();
    let newest_first = std::iter::once(&opened.copies[opened.newest]).chain(&opened.copies);
    let mut failed = None;
    for copy in newest_first {
        match unlock(copy, identities) {
            Ok(unlocked) if unlocked.by_epoch.contains_key(&epoch.n) && unlocked.secrets.contains_key(&epoch.generation) => {
                return Ok(unlocked);
            }
            Ok(unlocked) => failed = failed.or_else(|| Some(unlocked.why_shut(copy, epoch.n))),
            Err(error @ VaultError::Store(_)) => return Err(error.into()),
            Err(error) => failed = failed.or(Some(error)),
        }
    }
    Err(failed.unwrap_or_else(|| shut(&opened.copies[opened.newest], epoch.n)).into())
}

/// Host and job as the manifest has them.
fn shown_series(
    opened: &Opened,
    snapshot: &Snapshot,
    unlocked: &Unlocked,
    findings: &mut Vec<Finding>,
) -> Option<ShownSeries> {
    let read = |copy: &Copy| read_manifest(copy.store.as_ref(), &snapshot.body.manifest, &unlocked.epochs);
    match first_that_works(opened, read).and_then(|outcome| outcome) {
        Ok(manifest) => Some(ShownSeries { host: manifest.host, job: manifest.job, newest: snapshot.time }),
        Err(error) => {
            findings.push(Finding::new(FindingKind::Damage, format!("snapshot {}", snapshot.id.short()), error));
            None
        }
    }
}

/// Makes the index anew from the index objects of all snapshots: the last one may be of a night on which everything was lost. One
/// that no copy can give is left out: its packs are sent again.
fn take_in(
    opened: &Opened,
    all: &[Snapshot],
    newest: &[&Snapshot],
    unlocked: &Unlocked,
    findings: &mut Vec<Finding>,
    env: &Env<'_>,
) -> Result<u32, OpError> {
    let cache = opened.context.state.cache();
    let dir = cache.join("index");
    // What an index of this machine lists for its old index identity must be listed again for the new one.
    match std::fs::remove_dir_all(&dir) {
        Err(error) if error.kind() != std::io::ErrorKind::NotFound => return Err(StateError::io(&dir)(error).into()),
        _ => {}
    }
    let mut index = ChunkIndex::open(&dir)?;
    let pages = PageCache::open(&cache.join("inventories"))?;
    let mut listed: BTreeSet<Sealed> = BTreeSet::new();
    // One by one they would cost a round trip each.
    let roots = all.iter().map(|snapshot| &snapshot.body.inventory);
    pages.read_ahead(opened.copies[opened.newest].store.as_ref(), roots);
    for snapshot in all {
        env.check_cancel()?;
        match first_that_works(opened, |copy| page_names(&pages, copy.store.as_ref(), &snapshot.body.inventory))? {
            Ok(names) => listed.extend(names),
            Err(error) if newest.iter().any(|one| one.id == snapshot.id) => {
                findings.push(Finding::new(FindingKind::Damage, &snapshot.body.inventory, error));
            }
            // It was dropped, or is found by whoever verifies.
            Err(_) => {}
        }
    }
    let mut objects: BTreeSet<Sealed> = BTreeSet::new();
    for page in listed {
        match first_that_works(opened, |copy| pages.read(copy.store.as_ref(), &page))? {
            Ok(lines) => objects.extend(lines.iter().filter_map(|line| match line.name {
                ObjectName::Index(object) => Some(object),
                _ => None,
            })),
            Err(error) => findings.push(Finding::new(FindingKind::Damage, ObjectName::Inventory(page), error)),
        }
    }
    for object in objects {
        env.check_cancel()?;
        let taken = first_that_works(opened, |copy| take_over(&mut index, copy.store.as_ref(), &object, &unlocked.epochs))?;
        match taken {
            Err(error) if !error.is_missing() => {
                findings.push(Finding::new(FindingKind::Damage, ObjectName::Index(object), error));
            }
            // Pages that are shared list what snapshots that were dropped needed.
            _ => {}
        }
    }
    index.flush()?;
    Ok(index.pack_count())
}

/// Does something with one copy after another until one has what is needed, undamaged; else gives the last one's damage.
fn first_that_works<T>(
    opened: &Opened,
    mut work: impl FnMut(&Copy) -> Result<T, VaultError>,
) -> Result<Result<T, VaultError>, VaultError> {
    let mut damage = VaultError::internal("no copy");
    for copy in &opened.copies {
        match work(copy) {
            Ok(done) => return Ok(Ok(done)),
            Err(error @ VaultError::Damaged { .. }) => damage = error,
            Err(error) => return Err(error),
        }
    }
    Ok(Err(damage))
}
