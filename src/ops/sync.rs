//! `sync`: brings one copy up to date from another, or heals it, without any decryption key, and never removes anything.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use serde::Serialize;

use super::context::{Context, Locking, NamedStore, VaultPin, open_pinned};
use super::drive::drive_of;
use super::transfer::{Looking, Transfer, Transferred};
use super::{Env, Exit, OpError};
use crate::model::finding::{Finding, FindingKind};
use crate::model::name::ObjectName;
use crate::vault::VaultError;
use crate::vault::copy::Copy;
use crate::vault::inventory::PageCache;
use crate::vault::objects::read_object;
use crate::vault::parity::{found, mend};
use crate::vault::replicate::Replicated;
use crate::vault::verify::list;

/// What to bring up to date from where.
pub struct SyncPlan {
    /// Whom to trust.
    pub pin: VaultPin,
    /// The copy that is read.
    pub from: NamedStore,
    /// The copy that is written.
    pub to: NamedStore,
    /// How much of the target is read to find damage.
    pub looking: Looking,
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
    /// Objects and records that were damaged in the target and lie there whole now.
    pub healed: Vec<String>,
    /// Records that were sent.
    pub records: u64,
    /// Snapshots that the target holds now, complete.
    pub snapshots: u64,
    /// Objects that were read in the target and are right.
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
    let transfer =
        Transfer { pin: &plan.pin, from: &from, records: &records, to: &plan.to, looking: plan.looking, more_room: &|_| 0 };
    let mut done = transfer.run(&mut context, env)?;
    let mut after = open_pinned(Arc::clone(&plan.to.store), &plan.pin, Some(&context.state))?;
    let after_records = context.read_records(&mut after)?;
    if after_records.snapshots().len() < records.snapshots().len() {
        let message = "holds fewer snapshots than the copy that it was brought up to date from";
        done.findings.push(Finding::new(FindingKind::Behind, &plan.to.name, message));
    }
    if plan.looking == Looking::All {
        let pages = PageCache::open(&context.state.cache().join("inventories"))?;
        let listed = list(&after, &after_records, &pages, env.cancel)?;
        let named: BTreeSet<String> = done.findings.iter().map(|finding| finding.subject.clone()).collect();
        let left = listed.looked.findings.into_iter().filter(|finding| finding.kind == FindingKind::Damage);
        done.findings.extend(left.filter(|finding| !named.contains(&finding.subject)).map(|mut finding| {
            finding.message += "; nothing there mends it: another copy may, or `farkeep prune plan --despite-damage` gives up \
                                the snapshots that need it";
            finding
        }));
    }
    let safe = done.is_safe() && !done.findings.iter().any(|finding| finding.kind == FindingKind::Behind);
    done.findings.append(&mut done.left_damaged);
    mend_parity(plan, &after, &mut done, env)?;
    Ok(SyncReceipt {
        from: from.name(),
        to: after.name(),
        sent: done.sent,
        healed: done.healed,
        records: done.records,
        snapshots: done.snapshots.len() as u64,
        read_back: done.read_back,
        safe,
        findings: done.findings,
    })
}

/// No other copy has the parity of a drive: what is damaged of it is made anew from what it covers, which is whole by now.
fn mend_parity(plan: &SyncPlan, after: &Copy, done: &mut Transferred, env: &Env<'_>) -> Result<(), OpError> {
    let to = plan.to.store.as_ref();
    if drive_of(after).is_none() {
        return Ok(());
    }
    let parity = match found(to) {
        Ok(parity) => parity,
        Err(error) if error.is_store_wide() => return Err(error.into()),
        // No snapshot needs any of it.
        Err(error) => {
            done.findings.push(Finding::new(FindingKind::Notice, "parity", error));
            return Ok(());
        }
    };
    let mut damaged = BTreeMap::new();
    for found in parity {
        let name = ObjectName::Parity(found.object);
        if (plan.looking == Looking::All || done.doubted.contains(&name))
            && matches!(read_object(to, &name), Err(VaultError::Damaged { .. }))
        {
            damaged.insert(name, found.object.hash);
        }
    }
    if damaged.is_empty() {
        return Ok(());
    }
    env.step("mending parity");
    let mended = mend(to, &damaged, env.cancel)?;
    done.healed.extend(mended.objects.keys().map(ToString::to_string));
    done.findings.extend(mended.lost.into_iter().map(|(name, why)| {
        let message = format!("is damaged, and not made anew: {why}; the next `drive export` replaces it");
        Finding::new(FindingKind::Behind, name, message)
    }));
    Ok(())
}
