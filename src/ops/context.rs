//! What most operations begin with: the state of a vault on this machine, its copies, who writes here.

use std::collections::BTreeMap;
use std::sync::Arc;

use super::Env;
use crate::crypto::sign::SigningKey;
use crate::format::record::Head;
use crate::ledger::scribe::Context as RecordContext;
use crate::ledger::{RootPin, Scribe, Trust};
use crate::model::ids::{VaultId, WriterId};
use crate::state::keys::{KeyDir, Role};
use crate::state::ratchet::Ratchet;
use crate::state::{StateDir, StateLock};
use crate::store::WriteOnceStore;
use crate::vault::VaultError;
use crate::vault::copy::Copy;
use crate::vault::snapshots::{RecordReader, Records};

/// A store with the name that the configuration gives it.
#[derive(Clone)]
pub struct NamedStore {
    /// The name in the configuration, or the location.
    pub name: String,
    /// The store.
    pub store: Arc<dyn WriteOnceStore>,
}

/// Which vault is meant, and whom to trust about it.
#[derive(Debug, Clone)]
pub struct VaultPin {
    /// The vault, where it is known beforehand.
    pub vault: Option<VaultId>,
    /// The root.
    pub root: RootPin,
}

/// A vault as seen from this machine.
pub struct Context {
    /// Its state here.
    pub state: StateDir,
    /// What was seen before.
    pub ratchet: Ratchet,
    /// Held against a second farkeep.
    _lock: Option<StateLock>,
}

/// Whether a second farkeep may work with the same state meanwhile.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Locking {
    /// It must not.
    Exclusive,
    /// It may: nothing here is written that another could not write too.
    Shared,
}

impl Context {
    /// Opens the state of `vault` on this machine.
    ///
    /// # Errors
    /// When it cannot be used, or another farkeep is at work with it.
    pub fn open(env: &Env<'_>, vault: VaultId, locking: Locking) -> Result<Self, VaultError> {
        let state = StateDir::open(env.state_root, vault)?;
        let lock = if locking == Locking::Exclusive { Some(state.lock()?) } else { None };
        let ratchet = Ratchet::open(&state)?;
        Ok(Self { state, ratchet, _lock: lock })
    }

    /// Opens a copy of this vault and holds it against what was seen before.
    ///
    /// # Errors
    /// When there is none, it is another vault, or it went back in time.
    pub fn open_copy(&self, store: Arc<dyn WriteOnceStore>, pin: &VaultPin) -> Result<Copy, VaultError> {
        let copy = open_pinned(store, pin, Some(&self.state))?;
        copy.check_ratchet(&self.ratchet)?;
        Ok(copy)
    }

    /// Reads all records of a copy and moves the ratchet forward to them. What turned out to be no record does not count as
    /// lying there.
    ///
    /// # Errors
    /// When the store is out of reach or the state cannot be written.
    pub fn read_records(&mut self, copy: &mut Copy) -> Result<Records, VaultError> {
        let records = RecordReader::new(Some(&self.state.cache())).read_all(copy)?;
        records.unfit.iter().for_each(|name| copy.book.forget(name));
        copy.advance_ratchet(&mut self.ratchet, &self.state, &records.seen())?;
        Ok(records)
    }

    /// As [`read_records`](Self::read_records), every byte from the copy itself: what was read before proves nothing about
    /// what lies there now.
    ///
    /// # Errors
    /// As [`read_records`](Self::read_records).
    pub fn read_stored_records(&mut self, copy: &mut Copy) -> Result<Records, VaultError> {
        let records = RecordReader::afresh(&self.state.cache()).read_all(copy)?;
        records.unfit.iter().for_each(|name| copy.book.forget(name));
        copy.advance_ratchet(&mut self.ratchet, &self.state, &records.seen())?;
        Ok(records)
    }

    /// Who signs records on this machine in a role. A station's key is made when there is none yet; an agent's never, since
    /// the root must have enrolled it.
    ///
    /// # Errors
    /// When the state cannot be read or written, or this machine is not the agent.
    pub fn scribe(&self, role: Role, env: &Env<'_>, vault: VaultId) -> Result<Scribe, VaultError> {
        let keys = KeyDir::of(&self.state);
        let key = match (keys.writer(role)?, role) {
            (Some(key), _) => key,
            (None, Role::Station) => {
                let key = SigningKey::generate(&format!("{}@{}", env.user, env.host)).map_err(VaultError::internal)?;
                keys.keep_writer(role, &key)?;
                key
            }
            (None, Role::Agent) => return Err(VaultError::NoVault("this machine is not the agent of the vault".into())),
            (None, Role::Custodian) => {
                let why = "this machine holds no custodian's key of the vault: snapshots are held and pruned where one is \
                           (`farkeep init` makes one where it runs, or takes another machine's with --custodian; `farkeep keys \
                           enrol custodian` makes one here)";
                return Err(VaultError::NoVault(why.into()));
            }
        };
        Ok(Scribe::open(&self.state, vault, key)?)
    }

    /// Who signs restores and what is done with drives on this machine. A key that was retired gives way to a new one: what it
    /// signed would reach no copy.
    ///
    /// # Errors
    /// When the state cannot be read or written.
    pub fn station(&self, env: &Env<'_>, trust: &Trust) -> Result<Scribe, VaultError> {
        let keys = KeyDir::of(&self.state);
        if let Some(key) = keys.writer(Role::Station)?
            && trust.has_retired(&key.verifier().writer())
        {
            return self.new_station(env, trust.vault());
        }
        self.scribe(Role::Station, env, trust.vault())
    }

    /// The same with a new key; the one before is put aside.
    ///
    /// # Errors
    /// As [`station`](Self::station).
    pub fn new_station(&self, env: &Env<'_>, vault: VaultId) -> Result<Scribe, VaultError> {
        KeyDir::of(&self.state).put_station_aside()?;
        self.scribe(Role::Station, env, vault)
    }

    /// The keys of everyone who signs on this machine, or did as its station.
    ///
    /// # Errors
    /// When the state cannot be read.
    pub fn signers(&self) -> Result<Vec<SigningKey>, VaultError> {
        let keys = KeyDir::of(&self.state);
        let mut signers = keys.former_stations()?;
        for role in [Role::Agent, Role::Station, Role::Custodian] {
            signers.extend(keys.writer(role)?);
        }
        Ok(signers)
    }

    /// Everyone who signs on this machine, or did as its station.
    ///
    /// # Errors
    /// When the state cannot be read.
    pub fn scribes(&self, vault: VaultId) -> Result<Vec<Scribe>, VaultError> {
        let signers = self.signers()?.into_iter();
        Ok(signers.map(|key| Scribe::open(&self.state, vault, key)).collect::<Result<_, _>>()?)
    }

    /// What a record of now carries.
    #[must_use]
    pub fn record_context(&self, env: &Env<'_>, trust: Head, heads: BTreeMap<WriterId, Head>) -> RecordContext {
        RecordContext { time: env.clock.now(), trust, heads }
    }
}

/// Opens a copy of the pinned vault.
///
/// # Errors
/// When there is none, or it is another vault.
pub fn open_pinned(store: Arc<dyn WriteOnceStore>, pin: &VaultPin, state: Option<&StateDir>) -> Result<Copy, VaultError> {
    let copy = Copy::open(store, &pin.root, state)?;
    match pin.vault {
        Some(expected) if expected != copy.vault() => {
            Err(VaultError::NoVault(format!("{}: holds vault {}, expected is {expected}", copy.name(), copy.vault())))
        }
        _ => Ok(copy),
    }
}
