//! `init --adopt`: this machine becomes the agent of a vault that is there: its agent is lost, or is to have new keys.
//!
//! The vault secret comes out of the vault, for an operator's identity; the signing key and the index identity are made here.
//! The next record of the root's chain puts the new key in the place of the old one, of which everything counts that lies in a
//! copy now, and nothing later. What the old agent's index objects list is taken into this machine's index while the identity
//! is at hand, so that the next push sends what has changed and not everything.

use std::collections::{BTreeMap, BTreeSet};

use serde::Serialize;

use super::change::Opened;
use super::{ShownWriter, TrustPlan, shown};
use crate::crypto::identity::Identity;
use crate::crypto::sign::SigningKey;
use crate::format::body::TrustedWriter;
use crate::format::record::RecordKind;
use crate::ledger::RootPin;
use crate::model::ids::Token;
use crate::model::name::{ObjectName, Sealed};
use crate::model::time::Timestamp;
use crate::ops::{Env, OpError};
use crate::state::index::ChunkIndex;
use crate::state::journal::Journal;
use crate::state::keys::{KeyDir, Role};
use crate::state::{StateDir, StateError};
use crate::vault::VaultError;
use crate::vault::catalogue_reader::read_manifest;
use crate::vault::create::AGENT_KINDS;
use crate::vault::index_sync::take_over;
use crate::vault::inventory::{PageCache, each_line};
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
}

/// Makes this machine the agent.
///
/// # Errors
/// When the root's key is another one, the identities do not open the vault, or a copy cannot be reached. Then everything is as
/// it was, or the command may be given again.
pub fn adopt(plan: &TrustPlan, identities: &[Identity], env: &Env<'_>) -> Result<AdoptReceipt, OpError> {
    let mut opened = Opened::open(plan, env)?;
    let copy = &opened.copies[opened.newest];
    let unlocked = unlock(copy, identities)?;
    let epoch = opened.trust().epoch();
    if !unlocked.secrets.contains_key(&epoch.generation) {
        return Err(shut(copy, epoch.n).into());
    }
    let snapshots = newest_of_each_series(&opened);
    let series = snapshots.iter().filter_map(|snapshot| shown_series(&opened, snapshot, &unlocked)).collect();
    env.step("taking in what is known of the packs");
    let packs = take_in(&opened, &snapshots, &unlocked)?;

    let key = SigningKey::generate(&format!("agent@{}", env.host)).map_err(VaultError::internal)?;
    let mut body = opened.trust().body().clone();
    let mut before = Vec::new();
    let is_agent = |writer: &TrustedWriter| writer.until.is_none() && writer.kinds.contains(&RecordKind::Snapshot);
    body.writers.retain(|id, writer| {
        if !is_agent(writer) {
            return true;
        }
        writer.until = opened.last_of(id);
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
    let receipt = opened.extend(plan, &body, &[], env)?;
    // Not before: a machine that was the agent still is, when a copy could not be told.
    keep_keys(&opened.context.state, &key, &unlocked)?;
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
    })
}

/// The newest snapshot of each series that lies in any copy.
fn newest_of_each_series(opened: &Opened) -> Vec<Snapshot> {
    let mut all: Vec<Snapshot> = opened.records.iter().flat_map(|records| records.snapshots()).collect();
    sort_oldest_first(&mut all);
    let newest: BTreeMap<Token, Snapshot> = all.into_iter().map(|snapshot| (snapshot.body.series, snapshot)).collect();
    newest.into_values().collect()
}

/// Host and job as the manifest has them; none when no copy can give it.
fn shown_series(opened: &Opened, snapshot: &Snapshot, unlocked: &Unlocked) -> Option<ShownSeries> {
    let read = |store: &dyn crate::store::Store| read_manifest(store, &snapshot.body.manifest, &unlocked.epochs).ok();
    let manifest = opened.copies.iter().find_map(|copy| read(copy.store.as_ref()))?;
    Some(ShownSeries { host: manifest.host, job: manifest.job, newest: snapshot.time })
}

/// Makes the index anew from the index objects of these snapshots. One that no copy can give is left out: its packs are sent
/// again.
fn take_in(opened: &Opened, snapshots: &[Snapshot], unlocked: &Unlocked) -> Result<u32, OpError> {
    let cache = opened.context.state.cache();
    let dir = cache.join("index");
    // What an index of this machine lists for its old index identity must be listed again for the new one.
    match std::fs::remove_dir_all(&dir) {
        Err(error) if error.kind() != std::io::ErrorKind::NotFound => return Err(StateError::io(&dir)(error).into()),
        _ => {}
    }
    let mut index = ChunkIndex::open(&dir)?;
    let pages = PageCache::open(&cache.join("inventories"))?;
    let mut objects: BTreeSet<Sealed> = BTreeSet::new();
    for snapshot in snapshots {
        let mut note = |line: &crate::format::inventory::Line| {
            if let ObjectName::Index(object) = &line.name {
                objects.insert(*object);
            }
        };
        first_that_works(opened, |store| each_line(&pages, store, &snapshot.body.inventory, &mut note))?;
    }
    for object in objects {
        first_that_works(opened, |store| take_over(&mut index, store, &object, &unlocked.epochs))?;
    }
    index.flush()?;
    Ok(index.pack_count())
}

/// Does something with one copy after another until one has what is needed, undamaged.
fn first_that_works(
    opened: &Opened,
    mut work: impl FnMut(&dyn crate::store::Store) -> Result<(), VaultError>,
) -> Result<(), VaultError> {
    for copy in &opened.copies {
        match work(copy.store.as_ref()) {
            Ok(()) => return Ok(()),
            Err(error @ VaultError::Damaged { .. }) => tracing::warn!(copy = copy.name(), %error, "not taken in"),
            Err(error) => return Err(error),
        }
    }
    Ok(())
}

/// What an agent has. What an agent before it on this machine left of a push that died is of no use to the new one.
fn keep_keys(state: &StateDir, key: &SigningKey, unlocked: &Unlocked) -> Result<(), OpError> {
    let keys = KeyDir::of(state);
    for (generation, secret) in &unlocked.secrets {
        keys.keep_secret(*generation, secret)?;
    }
    keys.keep_index_identity(&Identity::generate())?;
    keys.keep_writer(Role::Agent, key)?;
    Journal::open(state)?.0.clear()?;
    Ok(())
}
