//! Whether other file systems lie below a directory: what is moved or removed with it must be its own.

use std::fs;
use std::os::unix::ffi::OsStringExt;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

const MOUNTS: &str = "/proc/self/mountinfo";

/// The first place below `dir` at which another file system begins: a mount, a bind mount, a subvolume. Mounts are found at
/// any depth and from the kernel's list; what has no mount, by the device of each directory that can be read.
pub fn foreign_below(dir: &Path) -> Option<PathBuf> {
    let device = fs::symlink_metadata(dir).ok().filter(fs::Metadata::is_dir)?.dev();
    let mounts = fs::read(MOUNTS).unwrap_or_default();
    let mounted = mount_points(&mounts).find(|mount| mount != dir && mount.starts_with(dir));
    if mounted.is_some() {
        return mounted;
    }
    let mut open = vec![dir.to_owned()];
    while let Some(dir) = open.pop() {
        let below = fs::read_dir(&dir).into_iter().flatten().flatten();
        for entry in below.filter(|entry| entry.file_type().is_ok_and(|kind| kind.is_dir())) {
            let path = entry.path();
            match fs::symlink_metadata(&path) {
                Ok(meta) if meta.dev() != device => return Some(path),
                Ok(_) => open.push(path),
                // Gone meanwhile, or a path that is too long for one call.
                Err(_) => {}
            }
        }
    }
    None
}

/// The mount points in the kernel's list: the fifth word of each line, with `\040` for a space.
fn mount_points(list: &[u8]) -> impl Iterator<Item = PathBuf> {
    let words = list.split(|b| *b == b'\n').filter_map(|line| line.split(|b| *b == b' ').nth(4));
    words.map(|word| PathBuf::from(std::ffi::OsString::from_vec(unescaped(word))))
}

fn unescaped(word: &[u8]) -> Vec<u8> {
    let mut bytes = Vec::with_capacity(word.len());
    let mut rest = word;
    while let Some((first, after)) = rest.split_first() {
        let octal = after.get(..3).and_then(|digits| std::str::from_utf8(digits).ok());
        let escaped = octal.filter(|_| *first == b'\\').and_then(|digits| u8::from_str_radix(digits, 8).ok());
        bytes.push(escaped.unwrap_or(*first));
        rest = if escaped.is_some() { &after[3..] } else { after };
    }
    bytes
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn mount_points_are_read_as_they_are_spelled() {
        let list = b"22 1 8:1 / / rw - ext4 /dev/sda1 rw\n30 22 0:5 / /srv/with\\040space\\134 rw shared:1 - tmpfs t rw\n";
        let found: Vec<PathBuf> = mount_points(list).collect();
        assert_eq!(found, [PathBuf::from("/"), PathBuf::from("/srv/with space\\")]);
    }
}
