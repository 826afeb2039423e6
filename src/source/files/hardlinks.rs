//! Which paths are names of the same file: the first one holds the content, the others point at it.
//!
//! The scan tells by the inode which names belong together, and it runs ahead of the reading: until a name is opened it may
//! have been given to another file. So the names of a file stand in a row. Each is told by the one before it under which path
//! the file really was stored, and tells the next; where it was not, the name is stored as a file of its own.
//!
//! A name waits only for one that comes earlier in the order of the scan, and readers take entries in that order: the
//! earliest that is not done waits for nobody.

use std::collections::HashMap;
use std::sync::{Arc, OnceLock};

use super::stat::Stat;
use crate::model::path::EntryPath;

/// Groups of names that are followed at once. A tree with more unfinished groups stores the rest as files of their own,
/// which costs no space, since their content is the same.
const GROUPS_MAX: usize = 200_000;

/// What a name tells the next one, once: the path under which their file is stored, if it is.
type Word = Arc<OnceLock<Option<EntryPath>>>;

/// Names seen so far of files with several.
#[derive(Debug, Default)]
pub struct HardLinks {
    /// By device and inode: what the last name will tell, and how many names are still to come.
    groups: HashMap<(u64, u64), (Word, u32)>,
}

impl HardLinks {
    /// Notes a path of a file with several names; gives its place among them.
    pub fn seen(&mut self, path: &EntryPath, stat: &Stat) -> Option<Link> {
        let word = Word::default();
        if let Some((last, left)) = self.groups.get_mut(&stat.identity()) {
            *left -= 1;
            let before = Some(std::mem::replace(last, Arc::clone(&word)));
            if *left == 0 {
                self.groups.remove(&stat.identity());
            }
            return Some(Link { before, word, stored: None });
        }
        if self.groups.len() >= GROUPS_MAX {
            return None;
        }
        self.groups.insert(stat.identity(), (Arc::clone(&word), stat.links - 1));
        // What is never loaded is as the last push left it: stored at this path, from this inode.
        Some(Link { before: None, word, stored: Some(path.clone()) })
    }
}

/// The place of a name among those of its file. Going away, it tells the next.
#[derive(Debug)]
pub struct Link {
    before: Option<Word>,
    word: Word,
    stored: Option<EntryPath>,
}

impl Link {
    /// Whether another name comes before it.
    pub fn is_further(&self) -> bool {
        self.before.is_some()
    }

    /// Called when this name is loaded: the path under which the file is stored already. Waits for the name before.
    pub fn first(&mut self) -> Option<EntryPath> {
        self.stored = self.before.as_ref().and_then(|word| word.wait().clone());
        self.stored.clone()
    }

    /// The file was stored at `path`; with none, it was not after all.
    pub fn store(&mut self, path: Option<&EntryPath>) {
        self.stored = path.cloned();
    }
}

impl Drop for Link {
    fn drop(&mut self) {
        // Told once, by the only one who can.
        let _ = self.word.set(self.stored.take());
    }
}
