//! Packs of which little is alive: they are not written anew, they are left behind.
//!
//! What the newest snapshot needs of a thin pack counts as absent for the next push of the same job, so it moves to a new
//! pack, and the old one goes with the last snapshot that needs it. A region of a stream whose patches are built on a block in
//! a thin pack is written again from there on; what lies on that block already stands as long as it is needed. Nothing is
//! read back, nothing is opened, and no key is needed. Which packs those are is a note in the cache: losing it costs room for
//! a while, nothing else.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};

use crate::model::limits::MIB;
use crate::model::name::{ObjectName, Sealed};
use crate::state::{read_if_there, write_cached};

/// A pack is thin when less of it than this is alive: ARCHITECTURE.md has the table that it was chosen by.
const LIVE_PERCENT_MIN: u64 = 40;
/// Below this a pack is not worth another one.
const DEAD_MIN_BYTES: u64 = MIB;
/// A million packs.
const NOTE_MAX_BYTES: u64 = 96 * MIB;

/// Whether a pack of `all` bytes before compression, of which `live` are needed, is thin.
#[must_use]
pub const fn is_thin(live: u64, all: u64) -> bool {
    is_below(live, all, LIVE_PERCENT_MIN)
}

/// The same with another share in percent, for whoever looks for the best one.
#[must_use]
pub const fn is_below(live: u64, all: u64, percent: u64) -> bool {
    all.saturating_sub(live) >= DEAD_MIN_BYTES && live * 100 < all * percent
}

/// The note of one job.
#[derive(Debug, Clone)]
pub struct ThinPacks {
    path: PathBuf,
}

impl ThinPacks {
    /// The note of `job` in `cache`.
    #[must_use]
    pub fn of(cache: &Path, job: &str) -> Self {
        Self { path: cache.join(format!("thin-{}", job.replace('/', "-"))) }
    }

    /// What its last push found thin.
    #[must_use]
    pub fn read(&self) -> BTreeSet<Sealed> {
        let bytes = read_if_there(&self.path, NOTE_MAX_BYTES).ok().flatten().unwrap_or_default();
        let text = String::from_utf8(bytes).unwrap_or_default();
        let name = |line: &str| match line.parse() {
            Ok(ObjectName::Pack(pack)) => Some(pack),
            _ => None,
        };
        text.lines().filter_map(name).collect()
    }

    /// Notes what this push found thin.
    pub fn write(&self, packs: &BTreeSet<Sealed>) {
        let text: String = packs.iter().map(|pack| format!("{}\n", ObjectName::Pack(*pack))).collect();
        write_cached(&self.path, text.as_bytes());
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::ids::ObjectHash;

    #[test]
    fn a_pack_is_thin_when_most_of_it_is_dead_and_that_is_worth_another() {
        for (live, all, thin) in [(0, MIB, true), (3, 8, true), (4, 10, false), (9, 10, false)] {
            let unit = if all == MIB { 1 } else { MIB };
            assert_eq!(is_thin(live * unit, all * unit), thin, "{live} of {all}");
        }
        assert!(!is_thin(10, MIB));
        assert!(!is_thin(MIB * 3, MIB), "what is needed several times counts as often");
    }

    #[test]
    fn a_note_comes_back_and_a_lost_one_is_empty() {
        let dir = tempfile::tempdir().unwrap_or_else(|e| panic!("{e}"));
        let note = ThinPacks::of(dir.path(), "nightly");
        assert_eq!(note.read(), BTreeSet::new());
        let packs: BTreeSet<Sealed> = (0..3).map(|n| Sealed { hash: ObjectHash([n; 32]), bytes: 7 }).collect();
        note.write(&packs);
        assert_eq!(note.read(), packs);
    }
}
