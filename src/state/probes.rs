//! What the last probe of each store said: the next push repeats it in its record, `status` shows it.

use std::collections::BTreeMap;
use std::path::PathBuf;

use serde::{Deserialize, Serialize};

use crate::model::time::Timestamp;
use crate::state::{StateDir, StateError, read_if_there, write_durably};

const PROBES_MAX_BYTES: u64 = 1024 * 1024;

/// One verdict.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Probed {
    /// When it was found.
    pub time: Timestamp,
    /// write-once, append-weak or mutable.
    pub verdict: String,
}

/// The newest verdict on each store, by its location.
#[derive(Debug)]
pub struct Probes {
    path: PathBuf,
    last: BTreeMap<String, Probed>,
}

impl Probes {
    /// Reads them; none when no store was probed yet.
    ///
    /// # Errors
    /// When the file is there but cannot be read.
    pub fn open(state: &StateDir) -> Result<Self, StateError> {
        let path = state.ratchet().join("probes.json");
        let last = match read_if_there(&path, PROBES_MAX_BYTES)? {
            Some(bytes) => serde_json::from_slice(&bytes).map_err(|e| StateError::invalid(&path, e))?,
            None => BTreeMap::new(),
        };
        Ok(Self { path, last })
    }

    /// The last verdict on a store.
    #[must_use]
    pub fn of(&self, location: &str) -> Option<&Probed> {
        self.last.get(location)
    }

    /// Keeps a verdict in place of the one before, which is given back.
    ///
    /// # Errors
    /// When it cannot be written.
    pub fn keep(&mut self, location: &str, probed: Probed) -> Result<Option<Probed>, StateError> {
        let before = self.last.insert(location.to_owned(), probed);
        let bytes = serde_json::to_vec_pretty(&self.last).map_err(|e| StateError::invalid(&self.path, e))?;
        write_durably(&self.path, &bytes)?;
        Ok(before)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::ids::VaultId;

    #[test]
    fn the_newest_verdict_of_each_store_is_kept() {
        let dir = tempfile::tempdir().unwrap_or_else(|e| panic!("{e}"));
        let state = StateDir::open(dir.path(), VaultId([1; 16])).unwrap_or_else(|e| panic!("{e}"));
        let open = || Probes::open(&state).unwrap_or_else(|e| panic!("{e}"));
        let probed = |n, verdict: &str| Probed { time: Timestamp(n), verdict: verdict.to_owned() };
        let mut probes = open();
        assert_eq!(probes.of("a"), None);
        assert_eq!(probes.keep("a", probed(1, "write-once")).ok(), Some(None));
        assert_eq!(open().keep("a", probed(2, "mutable")).ok(), Some(Some(probed(1, "write-once"))));
        assert_eq!(open().of("a"), Some(&probed(2, "mutable")));
    }
}
