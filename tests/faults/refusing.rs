//! A copy in a directory that does not take everything.

use std::path::Path;
use std::sync::Arc;

use farkeep::ops::context::NamedStore;
use farkeep::store::directory::DirectoryStore;
use farkeep::store::{Durability, Listed, Location, Store, StoreError, WriteOnceStore};

/// Which names it does not take.
pub type Refuses = fn(&str) -> bool;

pub const NOTHING: Refuses = |_| false;
pub const TRUST: Refuses = |name| name.starts_with("trust/");

/// The directory `at`, made where it is missing.
pub fn refusing(name: &str, at: &Path, refuses: Refuses) -> NamedStore {
    let inner = DirectoryStore::create(at).unwrap();
    NamedStore { name: name.into(), store: Arc::new(Refusing { inner, refuses }) }
}

struct Refusing {
    inner: DirectoryStore,
    refuses: Refuses,
}

impl Store for Refusing {
    fn location(&self) -> &Location {
        self.inner.location()
    }
    fn list(&self, dirs: &[String], each: &mut dyn FnMut(Listed)) -> Result<(), StoreError> {
        self.inner.list(dirs, each)
    }
    fn stat(&self, name: &str) -> Result<Option<u64>, StoreError> {
        self.inner.stat(name)
    }
    fn get(&self, name: &str, offset: u64, bytes: u64) -> Result<Vec<u8>, StoreError> {
        self.inner.get(name, offset, bytes)
    }
    fn room(&self) -> Result<Option<u64>, StoreError> {
        self.inner.room()
    }
    fn parallel(&self) -> usize {
        1
    }
    fn identity(&self) -> String {
        self.inner.identity()
    }
}

impl WriteOnceStore for Refusing {
    fn make_dirs(&self, dirs: &[String]) -> Result<(), StoreError> {
        self.inner.make_dirs(dirs)
    }
    fn put(&self, name: &str, bytes: &[u8]) -> Result<Durability, StoreError> {
        if (self.refuses)(name) {
            return Err(StoreError::Io { name: name.into(), why: "disk on fire".into() });
        }
        self.inner.put(name, bytes)
    }
    fn sweep(&self, dirs: &[String]) -> Result<u64, StoreError> {
        self.inner.sweep(dirs)
    }
}
