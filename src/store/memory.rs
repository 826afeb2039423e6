//! A store in memory: the reference for the contract, and the ground of fast tests.

use std::collections::BTreeMap;
use std::sync::{Mutex, MutexGuard};

use crate::store::{Durability, Listed, Location, PruneStore, Store, StoreError, WriteOnceStore};

/// Objects in a map.
#[derive(Debug, Default)]
pub struct MemoryStore {
    objects: Mutex<BTreeMap<String, Vec<u8>>>,
}

impl MemoryStore {
    /// An empty store.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    fn objects(&self) -> MutexGuard<'_, BTreeMap<String, Vec<u8>>> {
        self.objects.lock().unwrap_or_else(std::sync::PoisonError::into_inner)
    }

    /// Every object: what a test compares and a test's adversary changes.
    pub fn tamper<T>(&self, change: impl FnOnce(&mut BTreeMap<String, Vec<u8>>) -> T) -> T {
        change(&mut self.objects())
    }
}

impl Store for MemoryStore {
    fn location(&self) -> &Location {
        &Location::Memory
    }

    fn list(&self, dirs: &[String], each: &mut dyn FnMut(Listed)) -> Result<(), StoreError> {
        let found: Vec<Listed> = self
            .objects()
            .iter()
            .filter(|(name, _)| dirs.iter().any(|dir| name.rsplit_once('/').map_or("", |(d, _)| d) == dir))
            .map(|(name, bytes)| Listed { name: name.clone(), bytes: bytes.len() as u64, received: None })
            .collect();
        found.into_iter().for_each(each);
        Ok(())
    }

    fn stat(&self, name: &str) -> Result<Option<u64>, StoreError> {
        Ok(self.objects().get(name).map(|bytes| bytes.len() as u64))
    }

    fn get(&self, name: &str, offset: u64, bytes: u64) -> Result<Vec<u8>, StoreError> {
        let objects = self.objects();
        let content = objects.get(name).ok_or_else(|| StoreError::NotFound(name.to_owned()))?;
        let start = usize::try_from(offset).unwrap_or(usize::MAX).min(content.len());
        let end = start.saturating_add(usize::try_from(bytes).unwrap_or(usize::MAX)).min(content.len());
        Ok(content[start..end].to_vec())
    }

    fn room(&self) -> Result<Option<u64>, StoreError> {
        Ok(None)
    }

    fn parallel(&self) -> usize {
        2
    }
}

impl WriteOnceStore for MemoryStore {
    fn make_dirs(&self, _: &[String]) -> Result<(), StoreError> {
        Ok(())
    }

    fn put(&self, name: &str, bytes: &[u8]) -> Result<Durability, StoreError> {
        match self.objects().entry(name.to_owned()) {
            std::collections::btree_map::Entry::Occupied(_) => Err(StoreError::Exists(name.to_owned())),
            std::collections::btree_map::Entry::Vacant(slot) => {
                slot.insert(bytes.to_vec());
                Ok(Durability::Confirmed)
            }
        }
    }

    fn sweep(&self, _: &[String]) -> Result<u64, StoreError> {
        Ok(0)
    }
}

impl PruneStore for MemoryStore {
    fn remove(&self, name: &str) -> Result<(), StoreError> {
        self.objects().remove(name);
        Ok(())
    }
}
