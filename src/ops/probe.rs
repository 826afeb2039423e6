//! `probe`: can the account that pushes change what it has stored?
//!
//! The verdict is kept here, so that the record of the next push and `status` can repeat it.

use serde::Serialize;

use super::context::NamedStore;
use super::{Env, Exit, OpError};
use crate::model::ids::VaultId;
use crate::state::StateDir;
use crate::state::probes::{Probed, Probes};
use crate::store::StoreError;
use crate::store::probe::{Breach, Verdict};

/// What to probe.
pub struct ProbePlan {
    /// The vault whose state keeps the verdicts; none keeps them nowhere.
    pub vault: Option<VaultId>,
    /// Stores that could be opened.
    pub stores: Vec<NamedStore>,
    /// Stores that could not.
    pub missed: Vec<(String, StoreError)>,
}

/// What was found out about one store.
#[derive(Debug, Clone, Serialize)]
pub struct StoreProbe {
    /// Its name.
    pub store: String,
    /// The verdict; none for a directory of this machine, which is not attacked, and for a store that was not reached.
    pub verdict: Option<Verdict>,
    /// How many attacks were tried.
    pub attacks: u64,
    /// Those that got through.
    pub got_through: Vec<Breach>,
    /// Files that the probe left behind.
    pub left: Vec<String>,
    /// What the probe before said.
    pub before: Option<Probed>,
    /// Why there is no verdict.
    pub error: Option<String>,
    #[serde(skip)]
    exit: Exit,
}

/// What was found out.
#[derive(Debug, Clone, Serialize)]
pub struct ProbeReceipt {
    /// The stores.
    pub stores: Vec<StoreProbe>,
}

impl ProbeReceipt {
    /// The exit code: findings where something got through or one of several stores was missed.
    #[must_use]
    pub fn exit(&self) -> Exit {
        let missed = |probe: &StoreProbe| probe.exit == Exit::Unreachable;
        let all_missed = !self.stores.is_empty() && self.stores.iter().all(missed);
        self.stores.iter().fold(Exit::Done, |exit, probe| {
            exit.worst(if missed(probe) && !all_missed { Exit::Findings } else { probe.exit })
        })
    }
}

/// Probes every store.
///
/// # Errors
/// When the verdicts cannot be kept.
pub fn probe(plan: &ProbePlan, env: &Env<'_>) -> Result<ProbeReceipt, OpError> {
    let state = plan.vault.map(|vault| StateDir::open(env.state_root, vault)).transpose()?;
    let mut probes = state.as_ref().map(Probes::open).transpose()?;
    let mut receipt = ProbeReceipt { stores: Vec::new() };
    for (name, error) in &plan.missed {
        receipt.stores.push(failed(name, error));
    }
    for named in &plan.stores {
        env.check_cancel()?;
        env.step(format!("attacking {}", named.name));
        receipt.stores.push(match named.store.probe() {
            Err(error) => failed(&named.name, &error),
            Ok(None) => empty(&named.name),
            Ok(Some(report)) => {
                let verdict = report.verdict();
                let probed = Probed { time: env.clock.now(), verdict: verdict.word().to_owned() };
                let location = named.store.location().to_string();
                let before = probes.as_mut().map(|probes| probes.keep(&location, probed)).transpose()?.flatten();
                StoreProbe {
                    verdict: Some(verdict),
                    attacks: report.attacks,
                    got_through: report.got_through,
                    left: report.left,
                    before,
                    exit: if verdict == Verdict::WriteOnce { Exit::Done } else { Exit::Findings },
                    ..empty(&named.name)
                }
            }
        });
    }
    Ok(receipt)
}

fn empty(name: &str) -> StoreProbe {
    StoreProbe {
        store: name.to_owned(),
        verdict: None,
        attacks: 0,
        got_through: Vec::new(),
        left: Vec::new(),
        before: None,
        error: None,
        exit: Exit::Done,
    }
}

fn failed(name: &str, error: &StoreError) -> StoreProbe {
    StoreProbe { error: Some(error.to_string()), exit: OpError::from(error.clone()).exit(), ..empty(name) }
}
