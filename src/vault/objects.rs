//! Reading one object for certain: whichever of its copies, with or without suffix, fits its name.

use std::cell::Cell;

use crate::crypto::hash::hash;
use crate::model::ids::ObjectHash;
use crate::model::limits::{
    INDEX_MAX_BYTES, INVENTORY_MAX_BYTES, MANIFEST_MAX_BYTES, PACK_MAX_BYTES, PARITY_MAX_BYTES, RECORD_MAX_BYTES,
    SMALL_OBJECT_MAX_BYTES, SUFFIX_MAX,
};
use crate::model::name::ObjectName;
use crate::store::{Store, StoreError};
use crate::vault::{MISSING, VaultError};

/// The most bytes that an object of this kind may have as stored.
#[must_use]
pub const fn stored_limit(name: &ObjectName) -> u64 {
    match name {
        ObjectName::Pack(_) => PACK_MAX_BYTES,
        ObjectName::Index(_) => INDEX_MAX_BYTES,
        ObjectName::Manifest(_) => MANIFEST_MAX_BYTES + SMALL_OBJECT_MAX_BYTES,
        ObjectName::Inventory(_) => INVENTORY_MAX_BYTES,
        ObjectName::Parity(_) => PARITY_MAX_BYTES,
        ObjectName::Record { .. } | ObjectName::Trust { .. } => RECORD_MAX_BYTES,
        _ => SMALL_OBJECT_MAX_BYTES,
    }
}

/// The whole object `name` with the hash that its name promises.
///
/// # Errors
/// When no copy fits, or the store fails.
pub fn read_object(store: &dyn Store, name: &ObjectName) -> Result<Vec<u8>, VaultError> {
    match name.content_hash() {
        Some(expected) => read_fitting(store, name, |bytes| fits(bytes, expected)),
        None => Err(VaultError::internal(format!("{name} does not carry the hash of its content"))),
    }
}

/// The whole object `name` whose bytes have the hash `expected`.
///
/// # Errors
/// When no copy fits, or the store fails.
pub fn read_hashed(store: &dyn Store, name: &ObjectName, expected: ObjectHash) -> Result<Vec<u8>, VaultError> {
    read_fitting(store, name, |bytes| fits(bytes, expected))
}

fn fits(bytes: &[u8], expected: ObjectHash) -> Result<(), String> {
    if hash(bytes) == expected { Ok(()) } else { Err("its bytes are not what its name says (BLAKE3 differs)".into()) }
}

/// The whole object `name` with the hash `expected`, past the machine's cache; and whether the store could make sure of that.
///
/// # Errors
/// When no copy fits, or the store fails.
pub fn read_hashed_past_cache(
    store: &dyn Store,
    name: &ObjectName,
    expected: ObjectHash,
) -> Result<(Vec<u8>, bool), VaultError> {
    let past = Cell::new(true);
    let get = |stored: &str, limit: u64| {
        let (bytes, sure) = store.get_past_cache(stored, limit)?;
        past.set(past.get() && sure);
        Ok(bytes)
    };
    let bytes = first_fitting(&get, name, |bytes| fits(bytes, expected))?;
    Ok((bytes, past.get()))
}

/// The first copy of `name` that `fit` accepts.
///
/// # Errors
/// When none does, with what was wrong with the first; or when the store fails.
pub fn read_fitting(
    store: &dyn Store,
    name: &ObjectName,
    fit: impl Fn(&[u8]) -> Result<(), String>,
) -> Result<Vec<u8>, VaultError> {
    first_fitting(&|stored, limit| store.get(stored, 0, limit), name, fit)
}

fn first_fitting(
    get: &dyn Fn(&str, u64) -> Result<Vec<u8>, StoreError>,
    name: &ObjectName,
    fit: impl Fn(&[u8]) -> Result<(), String>,
) -> Result<Vec<u8>, VaultError> {
    let limit = name.bytes().unwrap_or_else(|| stored_limit(name));
    if limit > stored_limit(name) {
        return Err(VaultError::damaged(name, format!("its name promises more than {} bytes", stored_limit(name))));
    }
    let mut first_problem: Option<String> = None;
    for suffix in 0..=SUFFIX_MAX {
        match get(&name.with_suffix(suffix), limit + 1) {
            Ok(bytes) if bytes.len() as u64 > limit => {
                first_problem.get_or_insert_with(|| "it is longer than its name says".into());
            }
            Ok(bytes) => match fit(&bytes) {
                Ok(()) => return Ok(bytes),
                Err(why) => {
                    first_problem.get_or_insert(why);
                }
            },
            Err(StoreError::NotFound(_)) if suffix == 0 || first_problem.is_none() => {
                first_problem.get_or_insert_with(|| MISSING.into());
            }
            Err(StoreError::NotFound(_)) => break,
            Err(e) if e.is_store_wide() => return Err(e.into()),
            Err(e) => {
                first_problem.get_or_insert_with(|| e.to_string());
            }
        }
    }
    Err(VaultError::damaged(name, first_problem.unwrap_or_else(|| MISSING.into())))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::name::Sealed;
    use crate::store::memory::MemoryStore;

    #[test]
    fn the_copy_that_fits_is_taken_and_none_that_does_not() {
        let store = MemoryStore::new();
        let name = ObjectName::Pack(Sealed { hash: hash(b"content"), bytes: 7 });
        let put = |suffix, bytes: &[u8]| store.tamper(|o| o.insert(name.with_suffix(suffix), bytes.to_vec()));
        let error = |store| read_object(store, &name).err().map(|e| e.to_string()).unwrap_or_default();
        assert!(error(&store).contains("missing"));
        put(0, b"conten");
        assert!(error(&store).contains("BLAKE3"));
        put(1, b"contenT");
        put(2, b"content");
        assert_eq!(read_object(&store, &name).ok().as_deref(), Some(&b"content"[..]));
    }
}
