//! One copy of a vault: its store, its verified trust, and the names of its records.

use std::collections::BTreeMap;
use std::sync::Arc;

use crate::crypto::hash::hash;
use crate::format::header::Header;
use crate::format::inventory::Line;
use crate::format::record::Head;
use crate::ledger::{Book, LedgerError, ROOTS_CHAIN, RootPin, Trust, TrustNames};
use crate::model::ids::{ObjectHash, VaultId, WriterId};
use crate::model::limits::{RECORD_MAX_BYTES, SMALL_OBJECT_MAX_BYTES};
use crate::model::name::{Area, ObjectName};
use crate::state::ratchet::Ratchet;
use crate::state::{StateDir, StateError, write_durably};
use crate::store::{Listed, Store, StoreError, WriteOnceStore};
use crate::vault::VaultError;
use crate::vault::objects::{read_fitting, read_hashed};

/// An opened copy.
pub struct Copy {
    /// Where it lies.
    pub store: Arc<dyn WriteOnceStore>,
    /// Its header.
    pub header: Header,
    /// Who may sign what.
    pub trust: Trust,
    /// The records that lie in it.
    pub book: Book,
    /// The trust records that the chain is made of, as stored.
    trust_records: Vec<(ObjectName, Vec<u8>)>,
    /// The names of all trust records that lie in it, of whatever chain.
    trust_listed: TrustNames,
    header_bytes: Vec<u8>,
}

impl Copy {
    /// Opens the copy in `store`: reads its header, verifies the root's chain against the pin, lists its records. Trust
    /// records that this machine has seen before count too, so that a copy cannot hide a newer one.
    ///
    /// # Errors
    /// When there is no vault, the pin does not fit, or the trust chain is older than what was seen.
    pub fn open(store: Arc<dyn WriteOnceStore>, pin: &RootPin, state: Option<&StateDir>) -> Result<Self, VaultError> {
        let (mut book, mut trust_listed) = (Book::default(), TrustNames::default());
        let header_bytes = std::thread::scope(|scope| {
            let header = scope.spawn(|| read_header(store.as_ref()));
            let listed = list_records(store.as_ref(), &mut |Listed { name, bytes, received }| {
                if !trust_listed.add(&name, bytes) && ObjectName::parse_stored(&name).is_ok() {
                    book.add_listed(&name, bytes, received);
                }
            });
            let header = header.join().unwrap_or_else(|_| Err(VaultError::internal("a thread failed")))?;
            listed?;
            Ok::<_, VaultError>(header)
        })?;
        let header = Header::decode(&header_bytes).map_err(super::in_object(&ObjectName::Header))?;
        let mut remembered = state.map(remembered_trust).transpose()?.unwrap_or_default();
        // What is remembered whole need not come over the line again.
        remembered.retain(|(name, bytes)| Trust::is_record(header.vault, name, bytes));
        let read = &mut |names: &[String]| read_all(store.as_ref(), names).map_err(VaultError::from);
        let (trust, trust_records) = Trust::find(header.vault, pin, remembered, &trust_listed, read)?;
        let mut copy = Self { store, header, trust, book, trust_records, trust_listed, header_bytes };
        copy.check_header()?;
        Ok(copy)
    }

    /// The header must be the one that the root vouches for.
    fn check_header(&mut self) -> Result<(), VaultError> {
        let Some(expected) = self.trust.body().files.get(&ObjectName::Header).copied() else {
            return Err(VaultError::damaged(ObjectName::Header, "the trust record does not vouch for it"));
        };
        if hash(&self.header_bytes) != expected {
            self.header_bytes = read_hashed(self.store.as_ref(), &ObjectName::Header, expected)?;
            self.header = Header::decode(&self.header_bytes).map_err(super::in_object(&ObjectName::Header))?;
        }
        Ok(())
    }

    /// The vault's id.
    #[must_use]
    pub const fn vault(&self) -> VaultId {
        self.header.vault
    }

    /// What people call this copy.
    #[must_use]
    pub fn name(&self) -> String {
        self.store.location().to_string()
    }

    /// What every snapshot needs beside its own objects: header, recovery page and script, sealed keys, trust records, with
    /// their hashes.
    #[must_use]
    pub fn plain_lines(&self) -> Vec<Line> {
        let files = self.trust.body().files.iter().map(|(name, hash)| Line { name: name.clone(), hash: *hash });
        let trust = self.trust_records.iter().map(|(name, bytes)| Line { name: name.clone(), hash: hash(bytes) });
        files.chain(trust).collect()
    }

    /// The header, as stored.
    #[must_use]
    pub fn header_bytes(&self) -> &[u8] {
        &self.header_bytes
    }

    /// The trust records of the chain, as stored.
    #[must_use]
    pub fn trust_records(&self) -> &[(ObjectName, Vec<u8>)] {
        &self.trust_records
    }

    /// The trust records of the chain that do not lie in this copy, or not with their size: this machine remembers them.
    pub fn lost_trust(&self) -> impl Iterator<Item = &(ObjectName, Vec<u8>)> {
        self.trust_records.iter().filter(|(name, bytes)| {
            let there = |head| self.trust_listed.has_with(head, bytes.len() as u64);
            !head_of(name).is_some_and(there)
        })
    }

    /// Whether a trust record of this name lay in it when it was opened, of whatever chain.
    #[must_use]
    pub fn knows_trust(&self, name: &ObjectName) -> bool {
        head_of(name).is_some_and(|head| self.trust_listed.has(head))
    }

    /// Lists its records again: those that came since it was opened are in no book yet.
    ///
    /// # Errors
    /// When the store is out of reach.
    pub fn list_records_again(&self) -> Result<Vec<Listed>, StoreError> {
        let mut names = Vec::new();
        list_records(self.store.as_ref(), &mut |listed| names.push(listed))?;
        Ok(names)
    }

    /// How many files lie among the trust records that are none of the root's chain.
    #[must_use]
    pub fn foreign_trust(&self) -> usize {
        self.trust_listed.others(|head| self.trust.contains(head))
    }

    /// Holds this copy against what was seen before: an older trust chain is refused, and so is a store whose records went
    /// away since.
    ///
    /// # Errors
    /// [`LedgerError::RolledBack`], naming the newest record that was seen.
    pub fn check_ratchet(&self, ratchet: &Ratchet) -> Result<(), LedgerError> {
        self.check_trust(ratchet)?;
        self.refuse_gone(&self.book.gone(&self.store.identity(), ratchet.seen()))
    }

    /// Refuses a store of which records that were seen there are `gone`, as they were before it was read.
    ///
    /// # Errors
    /// [`LedgerError::RolledBack`].
    pub fn refuse_gone(&self, gone: &BTreeMap<WriterId, Head>) -> Result<(), LedgerError> {
        // What a stranger once put there may be cleared away; `ledger verify` tells of that.
        match gone.iter().find(|(writer, _)| self.trust.writer(writer).is_some()) {
            Some((writer, seen)) => Err(self.book.rolled_back(writer, *seen)),
            None => Ok(()),
        }
    }

    /// Holds the root's chain against what was seen before.
    ///
    /// # Errors
    /// [`LedgerError::RolledBack`].
    pub fn check_trust(&self, ratchet: &Ratchet) -> Result<(), LedgerError> {
        if let Some(seen) = ratchet.seen().trust
            && (self.trust.head().seq < seen.seq || !self.trust.contains(&seen))
        {
            let found = format!("number {}", self.trust.head().seq);
            return Err(LedgerError::RolledBack { what: ROOTS_CHAIN.into(), seen, found });
        }
        Ok(())
    }

    /// Moves the ratchet forward to this copy's trust and to `heads`, which the caller has checked, and keeps the trust
    /// records. What was seen there and is gone stays missed, however far others with its writer's key go on beside it.
    ///
    /// # Errors
    /// When the state directory fails.
    pub fn advance_ratchet(
        &self,
        ratchet: &mut Ratchet,
        state: &StateDir,
        heads: &BTreeMap<WriterId, Head>,
    ) -> Result<(), StateError> {
        for (name, bytes) in &self.trust_records {
            let path = kept_path(state, name);
            if !path.exists() {
                write_durably(&path, bytes)?;
            }
        }
        let gone = self.book.gone(&self.store.identity(), ratchet.seen());
        let there = heads.iter().filter(|(writer, _)| !gone.contains_key(writer)).map(|(writer, head)| (*writer, *head));
        ratchet.advance(Some(self.trust.head()), &self.store.identity(), &there.collect())
    }
}

impl std::fmt::Debug for Copy {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Copy({} at {})", self.header.vault, self.name())
    }
}

fn read_header(store: &dyn Store) -> Result<Vec<u8>, VaultError> {
    let readable = |bytes: &[u8]| Header::decode(bytes).map(drop).map_err(|e| e.to_string());
    match read_fitting(store, &ObjectName::Header, readable) {
        Err(error) if error.is_missing() => {
            let location = store.location();
            Err(VaultError::NoVault(format!(
                "{location}: there is no vault, its {} is missing: is the path right? (On a drive it ends with /vault.) \
                 `farkeep init` makes a new vault, `farkeep sync` a copy of one, or heals a copy that lost this file",
                ObjectName::Header
            )))
        }
        // Whoever may not read it knows nothing of damage.
        Err(VaultError::Damaged { object, why }) => match store.get(&ObjectName::Header.to_string(), 0, 1) {
            Err(denied @ StoreError::Denied { .. }) => Err(denied.into()),
            _ => Err(VaultError::Damaged { object, why }),
        },
        other => other,
    }
}

fn list_records(store: &dyn Store, each: &mut dyn FnMut(Listed)) -> Result<(), StoreError> {
    store.list(&[Area::Trust.dir().to_owned(), Area::Ledger.dir().to_owned()], each)
}

fn head_of(name: &ObjectName) -> Option<Head> {
    let ObjectName::Trust { seq, statement } = name else { return None };
    Some(Head { seq: *seq, hash: *statement })
}

/// Reads small objects; those that cannot be had are left out, since whoever needs them will say so.
fn read_all(store: &dyn Store, names: &[String]) -> Result<Vec<(String, Vec<u8>)>, StoreError> {
    let wanted: Vec<_> = names.iter().map(|name| (name.clone(), RECORD_MAX_BYTES)).collect();
    let mut found = Vec::new();
    for (name, result) in names.iter().zip(store.get_many(&wanted)) {
        match result {
            Ok(bytes) => found.push((name.clone(), bytes)),
            Err(e) if e.is_store_wide() => return Err(e),
            Err(error) => tracing::warn!(%name, %error, "cannot be read"),
        }
    }
    Ok(found)
}

fn kept_path(state: &StateDir, name: &ObjectName) -> std::path::PathBuf {
    let text = name.to_string();
    state.ratchet().join(text.replace('/', "-"))
}

/// Keeps a sealed key file of a trust record beside it.
///
/// # Errors
/// When it cannot be written.
pub fn keep_key_file(state: &StateDir, name: &ObjectName, bytes: &[u8]) -> Result<(), StateError> {
    write_durably(&kept_path(state, name), bytes)
}

/// A key file that was kept, if its bytes are what they were.
#[must_use]
pub fn kept_key_file(state: &StateDir, name: &ObjectName, expected: ObjectHash) -> Option<Vec<u8>> {
    let bytes = crate::state::read_if_there(&kept_path(state, name), SMALL_OBJECT_MAX_BYTES).ok().flatten()?;
    (hash(&bytes) == expected).then_some(bytes)
}

fn remembered_trust(state: &StateDir) -> Result<Vec<(String, Vec<u8>)>, StateError> {
    let dir = state.ratchet();
    let mut found = Vec::new();
    for entry in std::fs::read_dir(&dir).map_err(StateError::io(&dir))? {
        let entry = entry.map_err(StateError::io(&dir))?;
        let Some(name) = entry.file_name().to_str().and_then(|n| n.strip_prefix("trust-")).map(|n| format!("trust/{n}"))
        else {
            continue;
        };
        if let Some(bytes) = crate::state::read_if_there(&entry.path(), RECORD_MAX_BYTES)? {
            found.push((name, bytes));
        }
    }
    Ok(found)
}
