//! For tests that call an operation itself and not the program: its surroundings, and a copy in a directory that does not let
//! every change happen.

use std::path::PathBuf;
use std::sync::atomic::AtomicBool;

use farkeep::model::time::SystemClock;
use farkeep::ops::{Env, Silent};
use farkeep::store::directory::DirectoryStore;
use farkeep::store::{Durability, Listed, Location, PruneStore, Store, StoreError, WriteOnceStore};

/// A machine called "test" with this state directory.
pub fn env(state_root: &PathBuf) -> Env<'_> {
    static CANCEL: AtomicBool = AtomicBool::new(false);
    Env { clock: &SystemClock, observer: &Silent, cancel: &CANCEL, host: "test", user: "test", state_root }
}

/// Says of a name that is about to be made or removed whether that happens.
pub type Meddler = Box<dyn Fn(&str) -> Result<(), StoreError> + Send + Sync>;

/// A directory of which somebody meddles with every change.
pub struct Meddled {
    inner: DirectoryStore,
    meddler: Meddler,
}

impl Meddled {
    pub fn new(inner: DirectoryStore, meddler: impl Fn(&str) -> Result<(), StoreError> + Send + Sync + 'static) -> Self {
        Self { inner, meddler: Box::new(meddler) }
    }
}

impl Store for Meddled {
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

impl WriteOnceStore for Meddled {
    fn make_dirs(&self, dirs: &[String]) -> Result<(), StoreError> {
        self.inner.make_dirs(dirs)
    }
    fn put(&self, name: &str, bytes: &[u8]) -> Result<Durability, StoreError> {
        (self.meddler)(name)?;
        self.inner.put(name, bytes)
    }
    fn sweep(&self, dirs: &[String]) -> Result<u64, StoreError> {
        self.inner.sweep(dirs)
    }
}

impl PruneStore for Meddled {
    fn remove(&self, name: &str) -> Result<(), StoreError> {
        (self.meddler)(name)?;
        self.inner.remove(name)
    }
}
