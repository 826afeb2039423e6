//! `custodian`: what a caretaker without any key that opens does for a copy each night, on the server itself.
//!
//! It verifies a part of the stored bytes, so that all are read within a time; applies the plan that has waited long enough;
//! plans anew when none waits; says in a signed record when the last push arrived. Nothing is pruned on a night on which
//! anything was found that casts doubt on what is stored.

use std::sync::Arc;

use serde::Serialize;

use super::context::{NamedStore, VaultPin};
use super::prune::apply::{ApplyReceipt, ApplyRequest, Waiting, apply};
use super::prune::plan::{Damage, PlanReceipt, PlanRequest, Rules, plan};
use super::prune::{be_alone, heartbeat, is_pending, rules_on};
use super::reading::ReadPlan;
use super::select::Names;
use super::status::{SeriesStatus, StatusPlan, status};
use super::verify::{Depth, VerifyPlan, VerifyReceipt, verify};
use super::{Env, Exit, OpError};
use crate::model::finding::{Finding, FindingKind};
use crate::store::{PruneStore, WriteOnceStore};
use crate::vault::verify::sealed::Share;

/// What to care for.
pub struct CustodianPlan {
    /// Whom to trust.
    pub pin: VaultPin,
    /// What the copy is called.
    pub name: String,
    /// The copy.
    pub store: Arc<dyn PruneStore>,
    /// What stays; without any rule nothing is pruned.
    pub rules: Rules,
    /// Within how many seconds every stored byte is read.
    pub within_secs: u64,
    /// How long a plan waits, in seconds.
    pub wait_secs: u64,
}

/// What was done.
#[derive(Debug, Clone, Serialize)]
pub struct CustodianReceipt {
    /// What was verified.
    pub verified: VerifyReceipt,
    /// What was removed, or until when that waits.
    pub applied: Option<ApplyReceipt>,
    /// What was planned.
    pub planned: Option<PlanReceipt>,
    /// The newest snapshot of each series.
    pub series: Vec<SeriesStatus>,
    /// What calls for somebody, what was verified included.
    pub findings: Vec<Finding>,
}

impl CustodianReceipt {
    /// The exit code.
    #[must_use]
    pub fn exit(&self) -> Exit {
        Exit::of_findings(&self.findings)
    }
}

/// Cares for a copy.
///
/// # Errors
/// When it cannot be reached, is not the pinned vault, or this machine's key may not sign.
pub fn custodian(care: &CustodianPlan, env: &Env<'_>) -> Result<CustodianReceipt, OpError> {
    let store: Arc<dyn WriteOnceStore> = Arc::clone(&care.store) as Arc<dyn WriteOnceStore>;
    let named = NamedStore { name: care.name.clone(), store };
    be_alone(&named)?;
    let read = ReadPlan { pin: care.pin.clone(), from: named.clone(), names: Names::default(), identities: Vec::new() };
    let verified = verify(
        &VerifyPlan {
            read,
            depth: Depth::Sealed,
            share: Share::Within(care.within_secs),
            repair: false,
            accept_rollback: false,
        },
        env,
    )?;
    let mut receipt =
        CustodianReceipt { findings: verified.findings.clone(), verified, applied: None, planned: None, series: Vec::new() };
    let (rules, notes) = rules_on(&care.rules, &named, &care.pin, env)?;
    receipt.findings.extend(notes);
    if !rules.is_empty() && !receipt.findings.iter().any(|finding| finding.kind.casts_doubt()) {
        prune(care, &rules, &named, &mut receipt, env)?;
    }
    look_at_pushes(care, &named, &mut receipt, env)?;
    Ok(receipt)
}

fn prune(
    care: &CustodianPlan,
    rules: &Rules,
    named: &NamedStore,
    receipt: &mut CustodianReceipt,
    env: &Env<'_>,
) -> Result<(), OpError> {
    if is_pending(named, &care.pin, env)? {
        let request = ApplyRequest {
            pin: care.pin.clone(),
            name: care.name.clone(),
            store: Arc::clone(&care.store),
            plan: None,
            waiting: Waiting::AsPlanned,
            rules: Some(rules.clone()),
        };
        let applied = apply(&request, env)?;
        let waits = applied.due.is_some();
        receipt.applied = Some(applied);
        if waits {
            return Ok(());
        }
    }
    let request = PlanRequest {
        pin: care.pin.clone(),
        store: named.clone(),
        rules: rules.clone(),
        names: Names::default(),
        wait_secs: care.wait_secs,
        damage: Damage::Refuse,
        dry_run: false,
    };
    receipt.planned = Some(plan(&request, env)?);
    Ok(())
}

/// Late pushes are findings; when the last one came is signed.
fn look_at_pushes(
    care: &CustodianPlan,
    named: &NamedStore,
    receipt: &mut CustodianReceipt,
    env: &Env<'_>,
) -> Result<(), OpError> {
    let Some(vault) = care.pin.vault else {
        return Err(OpError::Usage("a custodian's configuration names the vault's id".into()));
    };
    let stores = vec![named.clone()];
    let (names, pin) = (Names::default(), care.pin.clone());
    let request = StatusPlan { vault, pin, stores, missed: Vec::new(), names, jobs: Vec::new() };
    let mut looked = status(&request, env)?;
    receipt.series = looked.stores.pop().map(|store| store.series).unwrap_or_default();
    for series in receipt.series.iter().filter(|series| series.late && series.due.is_some()) {
        receipt.findings.push(Finding::new(FindingKind::Behind, &care.name, series.lateness(env.clock.now())));
    }
    receipt.findings.extend(looked.findings.into_iter().filter(|finding| finding.kind == FindingKind::Suspect));
    let newest = receipt.series.iter().max_by_key(|series| series.time);
    heartbeat(named, &care.pin, newest.map(|series| series.time), newest.and_then(|series| series.due), env)
}
