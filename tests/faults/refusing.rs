//! A copy in a directory that does not take everything.

use std::path::Path;
use std::sync::Arc;

use farkeep::ops::context::NamedStore;
use farkeep::store::StoreError;
use farkeep::store::directory::DirectoryStore;

use crate::world::inside::Meddled;

/// Which names it does not take.
pub type Refuses = fn(&str) -> bool;

pub const NOTHING: Refuses = |_| false;
pub const TRUST: Refuses = |name| name.starts_with("trust/");

/// The directory `at`, made where it is missing.
pub fn refusing(name: &str, at: &Path, refuses: Refuses) -> NamedStore {
    let store = Meddled::new(DirectoryStore::create(at).unwrap(), move |name| match refuses(name) {
        true => Err(StoreError::Io { name: name.into(), why: "disk on fire".into() }),
        false => Ok(()),
    });
    NamedStore { name: name.into(), store: Arc::new(store) }
}
