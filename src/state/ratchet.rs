//! The ratchet: the newest records that this machine has ever seen, so that no copy can quietly go back in time.

use std::collections::BTreeMap;
use std::fs::{File, OpenOptions};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};

use rustix::fs::FlockOperation;
use serde::{Deserialize, Serialize};

use crate::crypto::hash::checksum;
use crate::format::record::Head;
use crate::model::ids::{WriterId, to_hex};
use crate::state::{StateDir, StateError, read_if_there, write_durably};

const RATCHET_MAX_BYTES: u64 = 16 * 1024 * 1024;
/// Stands between what was seen and its checksum: what rots must not look like a copy that went back in time.
const SUM_LINE: &str = "\nchecksum ";

/// What was seen, of the vault as a whole and on each store.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Seen {
    /// The newest trust record.
    pub trust: Option<Head>,
    /// The newest record of each writer, on any store.
    pub heads: BTreeMap<WriterId, Head>,
    /// The newest record of each writer on each store, by the store's location.
    pub stores: BTreeMap<String, BTreeMap<WriterId, Head>>,
}

/// Keeps [`Seen`] on disk; it never goes back by itself.
#[derive(Debug)]
pub struct Ratchet {
    path: PathBuf,
    seen: Seen,
}

impl Ratchet {
    /// Reads the ratchet of `state`; an empty one when there is none yet.
    ///
    /// # Errors
    /// When the file is there but cannot be read: it is not passed over, since that is what an attacker would wish for.
    pub fn open(state: &StateDir) -> Result<Self, StateError> {
        let path = state.ratchet().join("seen.json");
        let seen = read(&path)?;
        Ok(Self { path, seen })
    }

    /// What was seen.
    #[must_use]
    pub const fn seen(&self) -> &Seen {
        &self.seen
    }

    /// Whether anything was seen before.
    #[must_use]
    pub const fn is_first_contact(&self) -> bool {
        self.seen.trust.is_none()
    }

    /// Moves forward to `trust` and to `heads` as seen on `store`; what is older than what was seen, here or by another
    /// process meanwhile, changes nothing.
    ///
    /// # Errors
    /// When the file cannot be read or written.
    pub fn advance(&mut self, trust: Option<Head>, store: &str, heads: &BTreeMap<WriterId, Head>) -> Result<(), StateError> {
        if let Some(trust) = trust {
            self.seen.advance_trust(trust);
        }
        forward(&mut self.seen.heads, heads);
        forward(self.seen.stores.entry(store.to_owned()).or_default(), heads);
        // Readers work beside a push, so others may have seen more by now. That stays in the file alone: here it would be
        // held against a list of records that was read before.
        self.rewrite(|known| known.merge(&self.seen))
    }

    /// Takes a store as it is that was set back, as somebody decided who knows why: of these records, which were seen there, none
    /// is missed there any more; `heads` lie there now, and they are. What was seen of the vault as a whole stays.
    ///
    /// # Errors
    /// When the file cannot be read or written.
    pub fn accept(
        &mut self,
        store: &str,
        gone: &BTreeMap<WriterId, Head>,
        heads: &BTreeMap<WriterId, Head>,
    ) -> Result<(), StateError> {
        self.seen.forget(store, gone);
        forward(self.seen.stores.entry(store.to_owned()).or_default(), heads);
        self.rewrite(|known| {
            known.forget(store, gone);
            known.merge(&self.seen);
        })
    }

    fn rewrite(&self, change: impl FnOnce(&mut Seen)) -> Result<(), StateError> {
        let _lock = lock(&self.path.with_extension("lock"))?;
        let known = read(&self.path)?;
        let mut changed = known.clone();
        change(&mut changed);
        if changed == known {
            return Ok(());
        }
        let mut text = serde_json::to_string_pretty(&changed).map_err(|e| StateError::invalid(&self.path, e))?;
        let sum = to_hex(&checksum(text.as_bytes()));
        text.push_str(SUM_LINE);
        text.push_str(&sum);
        text.push('\n');
        write_durably(&self.path, text.as_bytes())
    }
}

impl Seen {
    fn advance_trust(&mut self, trust: Head) {
        if self.trust.is_none_or(|old| old.seq < trust.seq) {
            self.trust = Some(trust);
        }
    }

    fn forget(&mut self, store: &str, gone: &BTreeMap<WriterId, Head>) {
        if let Some(heads) = self.stores.get_mut(store) {
            heads.retain(|writer, head| gone.get(writer) != Some(head));
        }
    }

    /// Takes over what `other` has seen further.
    fn merge(&mut self, other: &Self) {
        if let Some(trust) = other.trust {
            self.advance_trust(trust);
        }
        forward(&mut self.heads, &other.heads);
        for (store, heads) in &other.stores {
            forward(self.stores.entry(store.clone()).or_default(), heads);
        }
    }
}

fn read(path: &Path) -> Result<Seen, StateError> {
    let Some(bytes) = read_if_there(path, RATCHET_MAX_BYTES)? else { return Ok(Seen::default()) };
    let rotten = |why: &dyn std::fmt::Display| {
        let why = format!(
            "{why}: this file remembers the newest records that this machine has seen, and its bytes are not as they were written. \
             Move it away; the next run learns them anew from the stores (`farkeep ledger verify` checks those)"
        );
        StateError::invalid(path, why)
    };
    let text = String::from_utf8(bytes).map_err(|e| rotten(&e))?;
    // Without a sum it was written by an earlier version.
    let (json, sum) = text.split_once(SUM_LINE).unwrap_or((&text, ""));
    if !sum.is_empty() && sum.trim_end() != to_hex(&checksum(json.as_bytes())) {
        return Err(rotten(&"wrong checksum"));
    }
    serde_json::from_str(json).map_err(|e| rotten(&e))
}

/// Held while the file is read and written anew, which takes a moment: whoever comes meanwhile waits.
fn lock(path: &Path) -> Result<File, StateError> {
    let file = OpenOptions::new().create(true).truncate(false).write(true).mode(0o600).open(path);
    let file = file.map_err(StateError::io(path))?;
    loop {
        match rustix::fs::flock(&file, FlockOperation::LockExclusive) {
            Ok(()) => return Ok(file),
            Err(rustix::io::Errno::INTR) => {}
            Err(e) => return Err(StateError::Io { path: path.to_owned(), source: e.into() }),
        }
    }
}

fn forward(known: &mut BTreeMap<WriterId, Head>, heads: &BTreeMap<WriterId, Head>) {
    for (writer, head) in heads {
        let slot = known.entry(*writer).or_insert(*head);
        if slot.seq < head.seq {
            *slot = *head;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::ids::{ObjectHash, VaultId};

    #[test]
    fn a_ratchet_never_goes_back() {
        let dir = tempfile::tempdir().unwrap_or_else(|e| panic!("{e}"));
        let state = StateDir::open(dir.path(), VaultId([1; 16])).unwrap_or_else(|e| panic!("{e}"));
        let head = |seq| Head { seq, hash: ObjectHash([seq as u8; 32]) };
        let writer = WriterId([3; 16]);
        for seq in [5, 4, 9, 1] {
            let mut ratchet = Ratchet::open(&state).unwrap_or_else(|e| panic!("{e}"));
            ratchet.advance(Some(head(seq)), "server", &[(writer, head(seq))].into()).unwrap_or_else(|e| panic!("{e}"));
        }
        let ratchet = Ratchet::open(&state).unwrap_or_else(|e| panic!("{e}"));
        assert_eq!(ratchet.seen().trust, Some(head(9)));
        assert_eq!(ratchet.seen().stores["server"][&writer], head(9));
        assert!(!ratchet.is_first_contact());
    }

    #[test]
    fn a_ratchet_that_rotted_says_so_whichever_byte_it_is() {
        let dir = tempfile::tempdir().unwrap_or_else(|e| panic!("{e}"));
        let state = StateDir::open(dir.path(), VaultId([1; 16])).unwrap_or_else(|e| panic!("{e}"));
        let head = Head { seq: 11, hash: ObjectHash([1; 32]) };
        let mut ratchet = Ratchet::open(&state).unwrap_or_else(|e| panic!("{e}"));
        ratchet.advance(Some(head), "server", &[(WriterId([3; 16]), head)].into()).unwrap_or_else(|e| panic!("{e}"));
        let sound = std::fs::read(&ratchet.path).unwrap_or_else(|e| panic!("{e}"));
        for at in 0..sound.len() - 1 {
            let mut rotten = sound.clone();
            rotten[at] ^= 1;
            std::fs::write(&ratchet.path, &rotten).unwrap_or_else(|e| panic!("{e}"));
            let error = Ratchet::open(&state).err().map(|e| e.to_string()).unwrap_or_default();
            assert!(error.contains("Move it away"), "byte {at}: {error}");
        }
    }
}
