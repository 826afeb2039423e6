//! From an operator's identity to the keys that open snapshots.

use std::collections::BTreeMap;

use crate::crypto::CryptoError;
use crate::crypto::hash::hash;
use crate::crypto::identity::{Identity, read_identity_file};
use crate::crypto::open::open;
use crate::crypto::secret::VaultSecret;
use crate::model::ids::ObjectHash;
use crate::model::limits::SMALL_OBJECT_MAX_BYTES;
use crate::model::name::ObjectName;
use crate::store::StoreError;
use crate::vault::copy::Copy;
use crate::vault::objects::{read_hashed, stored_limit};
use crate::vault::{VaultError, in_object};

/// What an identity opens.
#[derive(Debug)]
pub struct Unlocked {
    /// The epoch identities, newest first: most packs are of the newest.
    pub epochs: Vec<Identity>,
    /// The same by the number of their epoch.
    pub by_epoch: BTreeMap<u32, Vec<Identity>>,
    /// The vault secrets by generation.
    pub secrets: BTreeMap<u32, VaultSecret>,
    /// Epochs of which a key file cannot be read here: the file, and why. Another one may have opened it.
    lost: BTreeMap<u32, (ObjectName, String)>,
}

impl Unlocked {
    /// Why an epoch is not open.
    #[must_use]
    pub fn why_shut(&self, copy: &Copy, epoch: u32) -> VaultError {
        self.lost.get(&epoch).map_or_else(|| shut(copy, epoch), |(name, why)| VaultError::damaged(name, why))
    }
}

/// Opens the epochs of a copy with an operator's identities. A key file that this copy does not have, or has damaged, shuts no
/// other epoch: an older copy lacks those of newer ones, which nothing in it needs.
///
/// # Errors
/// When none of them opens any epoch: then the message says whose identity is needed.
pub fn unlock(copy: &Copy, operators: &[Identity]) -> Result<Unlocked, VaultError> {
    let (mut by_epoch, mut lost, mut others) = (BTreeMap::new(), BTreeMap::new(), false);
    let files = &copy.trust.body().files;
    let stored = read_keys(copy, files.keys())?;
    for (name, expected) in files {
        let ObjectName::Identity { epoch, .. } = name else { continue };
        match open_file(copy, &stored, name, *expected, operators) {
            Ok(Some(text)) => {
                let opened = read_identity_file(&text, None).map_err(in_object(name))?;
                by_epoch.insert(*epoch, opened.identities);
            }
            // Sealed to others; a later file of the same epoch may be for us.
            Ok(None) => others = true,
            Err(error @ VaultError::Store(_)) => return Err(error),
            Err(error) => {
                tracing::warn!(epoch, "a key file cannot be read: {error}");
                lost.insert(*epoch, (name.clone(), why(error)));
            }
        }
    }
    if by_epoch.is_empty() {
        let newest = copy.trust.epoch().n;
        // Where whole files do not open either, the identity is the wrong one.
        let lost = lost.pop_last().filter(|_| !others).map(|(_, (name, why))| VaultError::damaged(name, why));
        return Err(lost.unwrap_or_else(|| shut(copy, newest)));
    }
    let epochs: Vec<Identity> = by_epoch.values().rev().flatten().cloned().collect();
    let mut secrets = BTreeMap::new();
    for (name, expected) in files {
        let ObjectName::Secret { generation, .. } = name else { continue };
        if secrets.contains_key(generation) {
            continue;
        }
        match open_file(copy, &stored, name, *expected, &epochs) {
            Ok(Some(text)) => {
                let text = String::from_utf8(text).map_err(|e| VaultError::damaged(name, e))?;
                secrets.insert(*generation, VaultSecret::from_text(&text).map_err(in_object(name))?);
            }
            // Each epoch has the secret sealed to itself.
            Ok(None) => {}
            Err(error @ VaultError::Store(_)) => return Err(error),
            Err(error) => tracing::warn!(generation, "a key file cannot be read: {error}"),
        }
    }
    Ok(Unlocked { epochs, by_epoch, secrets, lost })
}

/// The key files of all epochs as they lie there, asked for together: each by itself would cost a round trip or two. What
/// cannot be had is left out.
fn read_keys<'a>(
    copy: &Copy,
    files: impl Iterator<Item = &'a ObjectName>,
) -> Result<BTreeMap<&'a ObjectName, Vec<u8>>, StoreError> {
    let is_key = |name: &&ObjectName| matches!(name, ObjectName::Identity { .. } | ObjectName::Secret { .. });
    let names: Vec<&ObjectName> = files.filter(is_key).collect();
    let wanted: Vec<_> = names.iter().map(|name| (name.to_string(), stored_limit(name))).collect();
    let mut read = BTreeMap::new();
    for (name, result) in names.into_iter().zip(copy.store.get_many(&wanted)) {
        match result {
            Ok(bytes) => drop(read.insert(name, bytes)),
            Err(error) if error.is_store_wide() => return Err(error),
            Err(_) => {}
        }
    }
    Ok(read)
}

/// The content of a key file; none when it is sealed to others. What does not fit is read again, under any suffix.
fn open_file(
    copy: &Copy,
    stored: &BTreeMap<&ObjectName, Vec<u8>>,
    name: &ObjectName,
    expected: ObjectHash,
    identities: &[Identity],
) -> Result<Option<Vec<u8>>, VaultError> {
    let sealed = match stored.get(name).filter(|bytes| hash(bytes) == expected) {
        Some(bytes) => bytes.clone(),
        None => match read_hashed(copy.store.as_ref(), name, expected) {
            Err(VaultError::Store(error)) if !error.is_store_wide() => return Err(VaultError::damaged(name, error)),
            read => read?,
        },
    };
    match open(&sealed, identities, SMALL_OBJECT_MAX_BYTES) {
        Ok(text) => Ok(Some(text)),
        Err(CryptoError::NoIdentity) => Ok(None),
        Err(error) => Err(in_object(name)(error)),
    }
}

fn why(error: VaultError) -> String {
    match error {
        VaultError::Damaged { why, .. } => why,
        other => other.to_string(),
    }
}

/// An epoch that the identities at hand do not open.
#[must_use]
pub fn shut(copy: &Copy, epoch: u32) -> VaultError {
    let known = copy.trust.body().epochs.iter().find(|known| known.n == epoch);
    let needed = known.map(|known| known.sealed_to.join(" or ")).filter(|needed| !needed.is_empty());
    let needed = needed.unwrap_or_else(|| "an operator".to_owned());
    VaultError::NoVault(format!(
        "this identity does not open epoch {epoch} of the vault; needed is the identity of {needed}"
    ))
}
