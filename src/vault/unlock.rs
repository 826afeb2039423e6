//! From an operator's identity to the keys that open snapshots.

use std::collections::BTreeMap;

use crate::crypto::CryptoError;
use crate::crypto::identity::{Identity, read_identity_file};
use crate::crypto::open::open;
use crate::crypto::secret::VaultSecret;
use crate::model::limits::SMALL_OBJECT_MAX_BYTES;
use crate::model::name::ObjectName;
use crate::vault::copy::Copy;
use crate::vault::objects::read_hashed;
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
}

/// Opens the epochs of a copy with an operator's identities.
///
/// # Errors
/// When none of them opens any epoch: then the message says whose identity is needed.
pub fn unlock(copy: &Copy, operators: &[Identity]) -> Result<Unlocked, VaultError> {
    let mut by_epoch = BTreeMap::new();
    let files = &copy.trust.body().files;
    for (name, expected) in files {
        let ObjectName::Identity { epoch, .. } = name else { continue };
        let sealed = read_hashed(copy.store.as_ref(), name, *expected)?;
        match open(&sealed, operators, SMALL_OBJECT_MAX_BYTES) {
            Ok(text) => {
                let opened = read_identity_file(&text, None).map_err(in_object(name))?;
                by_epoch.insert(*epoch, opened.identities);
            }
            // Sealed to others; a later file of the same epoch may be for us.
            Err(CryptoError::NoIdentity) => {}
            Err(error) => return Err(in_object(name)(error)),
        }
    }
    if by_epoch.is_empty() {
        return Err(shut(copy, copy.trust.epoch().n));
    }
    let epochs: Vec<Identity> = by_epoch.values().rev().flatten().cloned().collect();
    let mut secrets = BTreeMap::new();
    for (name, expected) in files {
        let ObjectName::Secret { generation, .. } = name else { continue };
        if secrets.contains_key(generation) {
            continue;
        }
        let sealed = read_hashed(copy.store.as_ref(), name, *expected)?;
        let text = match open(&sealed, &epochs, SMALL_OBJECT_MAX_BYTES) {
            Ok(text) => text,
            // Each epoch has the secret sealed to itself.
            Err(CryptoError::NoIdentity) => continue,
            Err(error) => return Err(in_object(name)(error)),
        };
        let text = String::from_utf8(text).map_err(|e| VaultError::damaged(name, e))?;
        secrets.insert(*generation, VaultSecret::from_text(&text).map_err(in_object(name))?);
    }
    Ok(Unlocked { epochs, by_epoch, secrets })
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
