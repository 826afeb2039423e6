//! What a backup left out goes back to its place once the rest is swapped in: of that there is no other copy.

use std::path::Path;

use rustix::fs::{AtFlags, Dir, OFlags, Timespec, Timestamps, UTIME_OMIT};
use rustix::io::Errno;

use super::held::Partial;
use crate::model::path::EntryPath;
use crate::target::TargetRoot;

/// Directories that a plan names; the rest is counted.
const NAMED_MAX: usize = 5;
const NANOS: i128 = 1_000_000_000;

/// Moves from `aside` to `place` what the snapshot does not hold of the directories in `partial`, all of them at or below
/// `root`. What has its name there already has been brought back from the snapshot, and stays aside. Gives how many names
/// went back. Can be done again after it broke off.
pub fn put_back(root: &EntryPath, partial: &[Partial], aside: &Path, place: &Path) -> std::io::Result<u64> {
    let open = |path: &Path| TargetRoot::open(path).map_err(std::io::Error::other);
    if partial.is_empty() || !aside.exists() {
        return Ok(0);
    }
    let (aside, place) = (open(aside)?, open(place)?);
    let mut moved = 0;
    for dir in partial {
        let below = dir.path.below(root);
        let opened = |base: &TargetRoot| match &below {
            Some(below) => base.open_entry(below, OFlags::RDONLY | OFlags::DIRECTORY),
            None => Ok(base.fd().try_clone()?),
        };
        // Nothing was there before, or something else: a file, a link.
        let Ok(from) = opened(&aside) else { continue };
        let to = opened(&place)?;
        let mut moved_here = 0;
        for name in names(&from)? {
            match rustix::fs::statat(&to, name.as_slice(), AtFlags::SYMLINK_NOFOLLOW) {
                Err(Errno::NOENT) => rustix::fs::renameat(&from, name.as_slice(), &to, name.as_slice())?,
                Err(e) => return Err(e.into()),
                Ok(_) => continue,
            }
            moved_here += 1;
        }
        // The root's own time is set with the rest of what it is.
        if moved_here > 0 && below.is_some() {
            set_time(&to, dir.mtime_ns)?;
        }
        moved += moved_here;
    }
    Ok(moved)
}

fn names(dir: &std::os::fd::OwnedFd) -> std::io::Result<Vec<Vec<u8>>> {
    let mut names = Vec::new();
    for entry in Dir::read_from(dir)? {
        let name = entry?.file_name().to_bytes().to_vec();
        if name != b"." && name != b".." {
            names.push(name);
        }
    }
    Ok(names)
}

fn set_time(dir: &std::os::fd::OwnedFd, nanos: i128) -> std::io::Result<()> {
    let (secs, rest) = (nanos.div_euclid(NANOS), nanos.rem_euclid(NANOS));
    let time = Timespec { tv_sec: secs.try_into().unwrap_or_default(), tv_nsec: rest.try_into().unwrap_or_default() };
    let unchanged = Timespec { tv_sec: 0, tv_nsec: UTIME_OMIT };
    Ok(rustix::fs::futimens(dir, &Timestamps { last_access: unchanged, last_modification: time })?)
}

/// What a plan says of these directories; none when the snapshot holds all of each.
pub fn note(root: &EntryPath, partial: &[Partial], place: &Path) -> Option<String> {
    let at = |dir: &Partial| match dir.path.below(root) {
        Some(below) => place.join(below.as_path()).display().to_string(),
        None => place.display().to_string(),
    };
    let named: Vec<String> = partial.iter().take(NAMED_MAX).map(at).collect();
    let more = match partial.len() - named.len() {
        0 => String::new(),
        more => format!(" and {more} more"),
    };
    let named = named.join(", ");
    (!partial.is_empty())
        .then(|| format!("the backup left something out in {named}{more}: what lies there and is not in the snapshot stays"))
}
