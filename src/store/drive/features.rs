//! What a file system cannot do. None of it is needed; whoever enrols a drive is told, and its label says so.

use std::os::fd::OwnedFd;

use rustix::fs::{AtFlags, Mode, OFlags, RenameFlags};
use rustix::io::Errno;

/// What is probed: a name, and a try that says whether it works. Names of probes begin like other temporaries, so that a
/// sweep takes what a pulled drive leaves.
type Probe = (&'static str, fn(&OwnedFd) -> Result<bool, Errno>);

const PROBES: [Probe; 5] = [
    ("chmod", chmod),
    ("hard-link", |dir| made(dir, rustix::fs::linkat(dir, FIRST, dir, SECOND, AtFlags::empty()))),
    ("symlink", |dir| made(dir, rustix::fs::symlinkat(FIRST, dir, SECOND))),
    ("rename-no-replace", |dir| {
        rustix::fs::renameat_with(dir, FIRST, dir, SECOND, RenameFlags::NOREPLACE)?;
        rustix::fs::renameat(dir, SECOND, dir, FIRST).map(|()| true)
    }),
    ("directory-fsync", |dir| rustix::fs::fsync(dir).map(|()| true)),
];
const FIRST: &str = "tmp-probe-a";
const SECOND: &str = "tmp-probe-b";

/// The names of the features that the file system of the directory `dir` lacks.
///
/// # Errors
/// When not even a file can be made there.
pub fn absent(dir: &OwnedFd) -> Result<Vec<String>, Errno> {
    let flags = OFlags::WRONLY | OFlags::CREATE | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    drop(rustix::fs::openat(dir, FIRST, flags, Mode::from_raw_mode(0o600))?);
    let lacks = |(name, works): &Probe| (!works(dir).unwrap_or(false)).then(|| (*name).to_owned());
    let absent = PROBES.iter().filter_map(lacks).collect();
    rustix::fs::unlinkat(dir, FIRST, AtFlags::empty())?;
    Ok(absent)
}

fn made(dir: &OwnedFd, outcome: Result<(), Errno>) -> Result<bool, Errno> {
    outcome?;
    rustix::fs::unlinkat(dir, SECOND, AtFlags::empty()).map(|()| true)
}

/// Some file systems say yes and change nothing.
fn chmod(dir: &OwnedFd) -> Result<bool, Errno> {
    let mode = |bits| rustix::fs::chmodat(dir, FIRST, Mode::from_raw_mode(bits), AtFlags::empty());
    mode(0o400)?;
    let changed = rustix::fs::statat(dir, FIRST, AtFlags::empty())?.st_mode & 0o777 == 0o400;
    mode(0o600)?;
    Ok(changed)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_file_system_of_this_machine_lacks_nothing_and_nothing_is_left_behind() {
        let dir = tempfile::tempdir().unwrap_or_else(|e| panic!("{e}"));
        let fd = rustix::fs::open(dir.path(), OFlags::RDONLY | OFlags::DIRECTORY, Mode::empty());
        let fd = fd.unwrap_or_else(|e| panic!("{e}"));
        assert_eq!(absent(&fd), Ok(vec![]));
        assert_eq!(std::fs::read_dir(dir.path()).map(Iterator::count).ok(), Some(0));
    }
}
