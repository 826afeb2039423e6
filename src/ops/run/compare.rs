//! After the swap: whether what lies at the roots of a member of files is what the catalogue says.
//!
//! The hash of each file was compared as it was written; here it only has to lie where it belongs.

use std::io;

use rustix::fs::{AtFlags, CWD, FileType, OFlags, Stat};

use super::files::{FilesTask, Root, is_stage};
use crate::format::manifest::Member;
use crate::model::entry::{Entry, EntryKind};
use crate::model::path::EntryPath;
use crate::model::pattern::Selection;
use crate::ops::{Env, OpError};
use crate::target::TargetRoot;
use crate::vault::catalogue_reader::SnapshotReader;

/// Entries that are named; the rest is counted.
const NAMED_MAX: usize = 20;

/// What was found.
#[derive(Default)]
pub struct Compared {
    /// Entries that lie where they belong.
    pub right: u64,
    /// Entries that do not.
    pub wrong: u64,
    /// The first of these: where, and what is there.
    pub named: Vec<(String, String)>,
}

/// Looks at every entry: is it there, of its kind, of its size.
pub fn compare(files: &FilesTask, member: &Member, reader: &SnapshotReader, env: &Env<'_>) -> Result<Compared, OpError> {
    let open = |root: &Root| if root.is_dir { TargetRoot::open(&root.place).map(Some) } else { Ok(None) };
    let roots: Vec<(&Root, Option<TargetRoot>)> =
        files.roots.iter().map(|root| Ok((root, open(root)?))).collect::<Result<_, OpError>>()?;
    let mut compared = Compared::default();
    reader.each_entry(member, &Selection::all(), |entry| {
        env.check_cancel()?;
        for (root, dir) in roots.iter().filter(|(root, _)| entry.path.is_at_or_below(&root.entry)) {
            let below = entry.path.below(&root.entry);
            // A stage of another restore was backed up with the rest, and is not what was there.
            if below.as_ref().is_some_and(|below| is_stage(below.components().next().unwrap_or_default())) {
                continue;
            }
            match judge(&entry, look(root, dir.as_ref(), below.as_ref())) {
                None => compared.right += 1,
                Some(why) => {
                    compared.wrong += 1;
                    if compared.named.len() < NAMED_MAX {
                        let place = below.map_or_else(|| root.place.clone(), |below| root.place.join(below.as_path()));
                        compared.named.push((place.display().to_string(), why));
                    }
                }
            }
        }
        Ok(())
    })?;
    Ok(compared)
}

fn look(root: &Root, dir: Option<&TargetRoot>, below: Option<&EntryPath>) -> io::Result<Stat> {
    match (dir, below) {
        (Some(dir), Some(below)) => Ok(rustix::fs::fstat(dir.open_entry(below, OFlags::PATH)?)?),
        _ => Ok(rustix::fs::statat(CWD, &root.place, AtFlags::SYMLINK_NOFOLLOW)?),
    }
}

/// What is wrong with what is there; none when it is right.
fn judge(entry: &Entry, found: io::Result<Stat>) -> Option<String> {
    let stat = match found {
        Ok(stat) => stat,
        Err(e) if e.kind() == io::ErrorKind::NotFound => return Some("is not there after the restore".into()),
        Err(e) => return Some(format!("cannot be looked at after the restore: {e}")),
    };
    let found = FileType::from_raw_mode(stat.st_mode);
    let is_right = match &entry.kind {
        EntryKind::File(_) => found == FileType::RegularFile,
        // Of a file, as a rule; a symbolic link can have several names as well.
        EntryKind::HardLink(_) => found != FileType::Directory,
        EntryKind::Directory => found == FileType::Directory,
        EntryKind::Symlink(_) => found == FileType::Symlink,
        EntryKind::Fifo => found == FileType::Fifo,
        EntryKind::CharDevice(..) => found == FileType::CharacterDevice,
        EntryKind::BlockDevice(..) => found == FileType::BlockDevice,
    };
    if !is_right {
        return Some(format!("a {} was backed up, and something else is there after the restore", entry.kind.word()));
    }
    match &entry.kind {
        EntryKind::File(content) if u64::try_from(stat.st_size) != Ok(content.size) => {
            Some(format!("{} bytes were backed up and {} are there after the restore", content.size, stat.st_size))
        }
        _ => None,
    }
}
