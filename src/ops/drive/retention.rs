//! A drive's own `keep`: after an export that arrived whole, what its rules let go is dropped from it, at once.
//!
//! Nobody pushes to a drive, so nothing is waited for; all else is as with any other prune. What cannot be done here is said
//! and leaves the export as it is: more lies on the drive than should, and nothing less.

use std::sync::Arc;

use serde::Serialize;

use crate::model::finding::{Finding, FindingKind};
use crate::model::ids::ObjectHash;
use crate::ops::context::{NamedStore, VaultPin};
use crate::ops::prune::apply::{ApplyReceipt, ApplyRequest, Waiting, apply};
use crate::ops::prune::begun;
use crate::ops::prune::plan::{Damage, PlanRequest, Rules, plan};
use crate::ops::select::Names;
use crate::ops::{Env, OpError};
use crate::store::directory::DirectoryStore;
use crate::store::{PruneStore, Store, WriteOnceStore};

/// What retention did on a drive.
#[derive(Debug, Clone, Default, Serialize)]
pub struct Retained {
    /// Snapshots that were dropped.
    pub dropped: u64,
    /// Snapshots that stay.
    pub kept: u64,
    /// Objects that were removed.
    pub objects: u64,
    /// Their bytes.
    pub bytes: u64,
    /// Suspect snapshots, for which nothing of their series goes.
    #[serde(skip)]
    pub findings: Vec<Finding>,
}

impl Retained {
    fn count(&mut self, receipt: &ApplyReceipt) {
        self.dropped += receipt.dropped;
        self.objects += receipt.objects;
        self.bytes += receipt.bytes;
    }
}

/// Applies `rules` to the copy on a drive. Nobody may hold this machine's state of the vault meanwhile.
///
/// # Errors
/// When the copy is in doubt, or this machine holds no custodian's key that the root trusts.
pub fn retain(rules: &Rules, pin: &VaultPin, store: &Arc<DirectoryStore>, env: &Env<'_>) -> Result<Retained, OpError> {
    let name = store.location().to_string();
    let to_plan = || NamedStore { name: name.clone(), store: Arc::clone(store) as Arc<dyn WriteOnceStore> };
    let finish = |plan: &ObjectHash| {
        let (store, name) = (Arc::clone(store) as Arc<dyn PruneStore>, name.clone());
        let (plan, waiting) = (Some(plan.to_string()), Waiting::Skip);
        apply(&ApplyRequest { pin: pin.clone(), name, store, plan, waiting, rules: Some(rules.clone()) }, env)
    };
    let mut retained = Retained::default();
    // The plug was pulled in the middle of it.
    if let Some(plan) = begun(&to_plan(), pin, env)? {
        retained.count(&finish(&plan.hash)?);
    }
    let request = PlanRequest {
        pin: pin.clone(),
        store: to_plan(),
        rules: rules.clone(),
        names: Names::default(),
        wait_secs: 0,
        damage: Damage::Refuse,
        dry_run: false,
    };
    let planned = plan(&request, env)?;
    (retained.kept, retained.findings) = (planned.kept, planned.findings);
    if let Some(plan) = planned.plan {
        retained.count(&finish(&plan.hash)?);
    }
    Ok(retained)
}

/// That nothing was dropped, and why; the export stands.
#[must_use]
pub fn left_undone(drive: &str, error: &OpError) -> Finding {
    Finding::new(
        FindingKind::Behind,
        format!("drive {drive}"),
        format!("its keep was not applied, nothing was dropped: {error}"),
    )
}
