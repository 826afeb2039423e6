//! Which paths are names of the same file: the first one holds the content, the others point at it.

use std::collections::HashMap;

use super::stat::Stat;
use crate::model::path::EntryPath;

/// Groups of names that are followed at once. A tree with more unfinished groups stores the rest as files of their own,
/// which costs no space, since their content is the same.
const GROUPS_MAX: usize = 200_000;

/// Names seen so far of files with several.
#[derive(Debug, Default)]
pub struct HardLinks {
    groups: HashMap<(u64, u64), (EntryPath, u32)>,
}

impl HardLinks {
    /// Notes a path of a file with several names; gives the first path of its group, if this is not it.
    pub fn seen(&mut self, path: &EntryPath, stat: &Stat) -> Option<EntryPath> {
        let key = (stat.device, stat.inode);
        if let Some((first, left)) = self.groups.get_mut(&key) {
            *left -= 1;
            let first = first.clone();
            if *left == 0 {
                self.groups.remove(&key);
            }
            return Some(first);
        }
        if self.groups.len() < GROUPS_MAX {
            self.groups.insert(key, (path.clone(), stat.links - 1));
        }
        None
    }
}
