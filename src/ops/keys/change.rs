//! The next record of the root's chain: every copy opened before it is signed, and brought to every copy after.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use super::{Candidate, Office, TrustPlan, TrustReceipt};
use crate::crypto::secret::VaultSecret;
use crate::crypto::sign::{SigningKey, VerifyingKey, signer};
use crate::format::body::TrustBody;
use crate::format::record::{Head, split};
use crate::ledger::Trust;
use crate::ledger::trust::sign_trust;
use crate::model::ids::VaultId;
use crate::model::name::ObjectName;
use crate::ops::context::{Context, Locking, open_pinned};
use crate::ops::{Env, OpError};
use crate::state::keys::{KeyDir, Role};
use crate::store::deliver::{RetryPolicy, deliver};
use crate::vault::VaultError;
use crate::vault::copy::{Copy, keep_key_file};
use crate::vault::replicate::read_record;
use crate::vault::snapshots::Records;
use crate::vault::unlock::Unlocked;

/// Every copy, opened.
pub(super) struct Opened {
    pub context: Context,
    pub copies: Vec<Copy>,
    pub records: Vec<Records>,
    /// The copy that knows the root's chain furthest.
    pub newest: usize,
    /// The copies that hold what was signed.
    pub told: BTreeSet<String>,
}

impl Opened {
    pub fn open(plan: &TrustPlan, env: &Env<'_>) -> Result<Self, OpError> {
        let Some(first) = plan.stores.first() else {
            return Err(OpError::Usage("no store: write one into the configuration, or name it with --store".into()));
        };
        let vault = match plan.pin.vault {
            Some(vault) => vault,
            None => open_pinned(Arc::clone(&first.store), &plan.pin, None)?.vault(),
        };
        let mut context = Context::open(env, vault, Locking::Exclusive)?;
        let (mut copies, mut records) = (Vec::new(), Vec::new());
        for named in &plan.stores {
            env.step(format!("opening {}", named.name));
            let mut copy = context.open_copy(Arc::clone(&named.store), &plan.pin)?;
            if copy.vault() != vault {
                return Err(OpError::Usage(format!("{}: is a copy of another vault", named.name)));
            }
            records.push(context.read_records(&mut copy)?);
            copies.push(copy);
        }
        let newest = (0..copies.len()).max_by_key(|place| copies[*place].trust.head().seq).unwrap_or(0);
        let opened = Self { context, copies, records, newest, told: BTreeSet::new() };
        let root = plan.root.verifier();
        if !opened.trust().body().roots.contains(&root.to_openssh()) {
            return Err(OpError::Usage(format!("{} is no root key of this vault: nothing was signed", root.fingerprint())));
        }
        Ok(opened)
    }

    pub fn trust(&self) -> &Trust {
        &self.copies[self.newest].trust
    }

    /// The key that is meant.
    pub fn key(&self, office: Office, who: &Candidate, env: &Env<'_>) -> Result<VerifyingKey, OpError> {
        match who {
            Candidate::Key(key) => Ok(key.clone()),
            Candidate::Here => {
                let role = if office == Office::Station { Role::Station } else { Role::Custodian };
                let keys = KeyDir::of(&self.context.state);
                // One that was retired is of no more use.
                if let Some(key) = keys.writer(role)?.filter(|key| !self.trust().has_retired(&key.verifier().writer())) {
                    return Ok(key.verifier());
                }
                let comment = format!("{}@{} {}", env.user, env.host, office.word());
                let key = SigningKey::generate(&comment).map_err(VaultError::internal)?;
                keys.keep_writer(role, &key)?;
                Ok(key.verifier())
            }
            Candidate::Fingerprint(wanted) => {
                let known = self.trust().body().writers.keys().filter_map(|id| self.trust().writer(id));
                if let Some((_, key)) = known.into_iter().find(|(_, key)| key.fingerprint() == *wanted) {
                    return Ok(key.clone());
                }
                for (copy, records) in self.copies.iter().zip(&self.records) {
                    let Some(record) = records.checked.iter().find(|record| record.writer_name == *wanted) else { continue };
                    let bytes = read_record(copy.store.as_ref(), &record.name)?;
                    let (_, armor) = split(&bytes).map_err(|e| VaultError::damaged(&record.name, e))?;
                    return signer(armor).map_err(|e| VaultError::damaged(&record.name, e).into());
                }
                Err(OpError::Usage(format!("{wanted}: no record of an unknown writer with this key lies in any copy")))
            }
        }
    }

    /// The vault secret: the agent has it, and so has whoever opens the epoch.
    pub fn secret(&self, generation: u32, unlocked: Option<&Unlocked>) -> Result<VaultSecret, OpError> {
        let here = KeyDir::of(&self.context.state).secret(generation)?;
        let opened = || unlocked.and_then(|unlocked| unlocked.secrets.get(&generation).cloned());
        here.or_else(opened).ok_or_else(|| {
            OpError::Usage(
                "the vault secret is not on this machine: begin the epoch on the agent, or give --identity".into(),
            )
        })
    }

    /// Signs the next record of the root's chain and brings it to every copy, `objects` before it.
    pub fn extend(
        &mut self,
        plan: &TrustPlan,
        body: &TrustBody,
        objects: &[(ObjectName, Vec<u8>)],
        env: &Env<'_>,
    ) -> Result<TrustReceipt, OpError> {
        let (vault, head) = (self.trust().vault(), self.trust().head());
        let signed = sign_trust(&plan.root, vault, Some(head), env.clock.now(), body)?;
        let mut chain = self.copies[self.newest].trust_records().to_vec();
        chain.push((signed.name.clone(), signed.bytes.clone()));
        check_chain(&chain, vault, plan, signed.head)?;
        env.step("sending");
        for (name, bytes) in objects {
            keep_key_file(&self.context.state, name, bytes).map_err(VaultError::from)?;
        }
        for copy in &self.copies {
            for (name, bytes) in objects {
                deliver(copy.store.as_ref(), name, bytes, RetryPolicy::DEFAULT)?;
            }
        }
        for copy in &self.copies {
            for (name, bytes) in &chain {
                deliver(copy.store.as_ref(), name, bytes, RetryPolicy::DEFAULT)?;
            }
            let after = self.context.open_copy(Arc::clone(&copy.store), &plan.pin)?;
            after.advance_ratchet(&mut self.context.ratchet, &self.context.state, &BTreeMap::new())?;
            self.told.insert(copy.name());
        }
        Ok(TrustReceipt {
            record: signed.name.to_string(),
            seq: signed.head.seq,
            stores: self.told.iter().cloned().collect(),
            writer: None,
            epoch: None,
        })
    }
}

/// What was signed is read as anybody else will read it, before it goes anywhere.
fn check_chain(chain: &[(ObjectName, Vec<u8>)], vault: VaultId, plan: &TrustPlan, head: Head) -> Result<(), OpError> {
    let stored: Vec<(String, Vec<u8>)> = chain.iter().map(|(name, bytes)| (name.to_string(), bytes.clone())).collect();
    if Trust::verify(vault, &plan.pin.root, &stored)?.head() == head {
        return Ok(());
    }
    Err(VaultError::internal("the new trust record does not follow the chain").into())
}
