//! Whether two trees are the same in everything that a backup keeps.

use std::collections::BTreeMap;
use std::fs;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::process::Command;

/// Blocks of 512 bytes that two sparse files may differ by: the file system's own bookkeeping of extents, which depends on
/// the order in which they were written, and is a small part of a file with many of them.
const BLOCKS_APART: u64 = 32;
const PART_APART: u64 = 100;

/// What rsync would change at `restored` to make it `source`, and sparse files that take more room than before.
pub fn differences(source: &Path, restored: &Path) -> Vec<String> {
    let slash = |path: &Path| format!("{}/", path.display());
    let mut rsync = Command::new("rsync");
    // Without -c it would take equal size and time for equal content, without -@-1 it would leave out nanoseconds.
    rsync.args(["-aHAXSnc", "-@-1", "--numeric-ids", "--delete", "-i"]).arg(slash(source)).arg(slash(restored));
    let printed = super::tools::must(&mut rsync);
    let mut found: Vec<String> = printed.lines().map(str::to_owned).collect();
    let (before, after) = (sparse_files(source), sparse_files(restored));
    for (path, blocks) in before {
        let now = after
            .get(&path)
            .copied()
            .unwrap_or_else(|| fs::symlink_metadata(restored.join(&path)).map_or(0, |meta| meta.blocks()));
        if now.abs_diff(blocks) > BLOCKS_APART + blocks / PART_APART {
            found.push(format!("{}: {blocks} blocks before, {now} after", path.display()));
        }
    }
    found
}

/// The two trees must be the same.
#[track_caller]
pub fn assert_same(source: &Path, restored: &Path) {
    let found = differences(source, restored);
    let shown: Vec<&String> = found.iter().take(40).collect();
    assert!(
        found.is_empty(),
        "{} and {} differ in {} places: {shown:#?}",
        source.display(),
        restored.display(),
        found.len()
    );
}

/// Files below `root` that take less room than they are long, with their blocks of 512 bytes.
fn sparse_files(root: &Path) -> BTreeMap<PathBuf, u64> {
    let mut found = BTreeMap::new();
    let mut open = vec![root.to_owned()];
    while let Some(dir) = open.pop() {
        for entry in fs::read_dir(&dir).unwrap_or_else(|e| panic!("{}: {e}", dir.display())).flatten() {
            let meta = entry.metadata().unwrap();
            if meta.is_dir() {
                open.push(entry.path());
            } else if meta.is_file() && meta.blocks() * 512 < meta.len() {
                found.insert(entry.path().strip_prefix(root).unwrap().to_owned(), meta.blocks());
            }
        }
    }
    found
}
