//! Bringing one object to a store for certain: past torn uploads, names that debris has taken, and broken connections.

use std::time::Duration;

use crate::model::limits::SUFFIX_MAX;
use crate::model::name::ObjectName;
use crate::store::{Durability, StoreError, WriteOnceStore};

/// How long to go on trying.
#[derive(Debug, Clone, Copy)]
pub struct RetryPolicy {
    /// Attempts for one object, the first included.
    pub attempts: u32,
    /// Wait before the second attempt; it doubles from there.
    pub first_wait: Duration,
}

impl RetryPolicy {
    /// Six attempts over about half a minute, beyond what the store itself retries.
    pub const DEFAULT: Self = Self { attempts: 6, first_wait: Duration::from_secs(1) };
    /// One attempt.
    pub const ONCE: Self = Self { attempts: 1, first_wait: Duration::ZERO };
}

/// How an object came to be in a store.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Delivered {
    /// The suffix it lies under; 0 is its own name.
    pub suffix: u32,
    /// Whether its bytes had to be sent.
    pub sent: bool,
    /// Whether it is known to survive a power cut.
    pub durability: Durability,
}

/// Makes `name` exist in `store` with exactly `bytes`, under its own name or the first suffix that is free or already right.
///
/// # Errors
/// The last error, when the attempts are used up or all suffixes are taken.
pub fn deliver(
    store: &dyn WriteOnceStore,
    name: &ObjectName,
    bytes: &[u8],
    policy: RetryPolicy,
) -> Result<Delivered, StoreError> {
    let mut wait = policy.first_wait;
    let mut suffix = 0;
    let mut attempt = 1;
    while suffix <= SUFFIX_MAX {
        let stored = name.with_suffix(suffix);
        let error = match store.put(&stored, bytes) {
            Ok(durability) => return Ok(Delivered { suffix, sent: true, durability }),
            Err(StoreError::Exists(_)) => {
                // Ours from a try whose answer was lost, or debris: only the bytes tell.
                match holds(store, &stored, bytes) {
                    Ok(true) => return Ok(Delivered { suffix, sent: false, durability: Durability::NotConfirmed }),
                    Ok(false) => {
                        suffix += 1;
                        continue;
                    }
                    Err(e) => e,
                }
            }
            Err(e) => e,
        };
        if !error.is_transient() || attempt >= policy.attempts {
            return Err(error);
        }
        tracing::warn!(object = %stored, attempt, %error, "will try again");
        std::thread::sleep(wait);
        wait *= 2;
        attempt += 1;
    }
    Err(StoreError::Exists(format!("{name} and its {SUFFIX_MAX} suffixes, none of which fits")))
}

/// Whether the stored object is exactly `bytes`.
fn holds(store: &dyn WriteOnceStore, stored: &str, bytes: &[u8]) -> Result<bool, StoreError> {
    if store.stat(stored)? != Some(bytes.len() as u64) {
        return Ok(false);
    }
    match store.get(stored, 0, bytes.len() as u64 + 1) {
        Ok(there) => Ok(there == bytes),
        // A disk that cannot give it back holds debris.
        Err(StoreError::Io { .. }) => Ok(false),
        Err(error) => Err(error),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::ids::ObjectHash;
    use crate::model::name::Sealed;
    use crate::store::Store;
    use crate::store::memory::MemoryStore;

    #[test]
    fn debris_under_the_name_costs_a_suffix_and_equal_bytes_cost_nothing() {
        let store = MemoryStore::new();
        let name = ObjectName::Pack(Sealed { hash: ObjectHash([1; 32]), bytes: 5 });
        let go = || deliver(&store, &name, b"hello", RetryPolicy::ONCE).unwrap_or_else(|e| panic!("{e}"));
        store.tamper(|objects| objects.insert(name.to_string(), b"hel".to_vec()));
        assert_eq!((go().suffix, go().sent), (1, false));
        assert_eq!(store.get(&name.with_suffix(1), 0, 10), Ok(b"hello".to_vec()));
        assert_eq!(store.get(&name.to_string(), 0, 10), Ok(b"hel".to_vec()), "what was there stays");
    }

    #[test]
    fn a_squatter_on_every_suffix_is_an_error_that_names_the_object() {
        let store = MemoryStore::new();
        let name = ObjectName::Header;
        for suffix in 0..=SUFFIX_MAX {
            store.tamper(|objects| objects.insert(name.with_suffix(suffix), b"junk".to_vec()));
        }
        let error = deliver(&store, &name, b"hello", RetryPolicy::ONCE).err().map(|e| e.to_string()).unwrap_or_default();
        assert!(error.contains("farkeep-vault.json"), "{error}");
    }
}
