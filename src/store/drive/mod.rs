//! Is this directory on a mounted drive of its own? A bare mount point must not take one byte, or the weekly copy fills the
//! root disk and nobody notices.

use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

pub mod features;
pub mod hardware;
pub mod labels;
pub mod mounts;
pub mod superblock;

pub use hardware::{Found, System, look};

/// The label of an enrolled drive, in the root of its file system: a signed record.
pub const LABEL_FILE: &str = "farkeep-drive.rec";

/// Why a directory is no place for a drive's copy.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum DriveError {
    /// Nothing is mounted there.
    #[error("{0}: nothing is mounted here: the drive is not present; not one byte was written")]
    NotMounted(PathBuf),
    /// It lies too deep in a mounted file system to be a drive's copy.
    #[error("{path}: is neither a mount point nor directly below one (the mount point is {mount})")]
    TooDeep {
        /// The directory.
        path: PathBuf,
        /// The mount point above it.
        mount: PathBuf,
    },
    /// It is the file system that is copied from.
    #[error("{0}: is on the same file system as what it would be copied from: that is no second copy")]
    SameAsSource(PathBuf),
    /// A link stands where the drive's directory belongs, or what is mounted changed while it was looked at.
    #[error("{0}: is not what was mounted there a moment ago")]
    Changed(PathBuf),
    /// It cannot be looked at.
    #[error("{path}: {why}")]
    Io {
        /// The directory.
        path: PathBuf,
        /// Why.
        why: String,
    },
}

/// Checks that `path`, which need not exist yet, is a mount point or lies directly below one, on another file system than
/// `/` and than `source`, the local directory that is copied from.
///
/// # Errors
/// When it is not.
pub fn check_drive(path: &Path, source: Option<&Path>) -> Result<(), DriveError> {
    let path = std::path::absolute(path).map_err(|e| io(path, &e))?;
    let existing = if path.exists() { path.clone() } else { path.parent().unwrap_or(Path::new("/")).to_owned() };
    let existing = existing.canonicalize().map_err(|e| match e.kind() {
        std::io::ErrorKind::NotFound => DriveError::NotMounted(path.clone()),
        _ => io(&path, &e),
    })?;
    let device = device_of(&existing)?;
    if device == device_of(Path::new("/"))? {
        return Err(DriveError::NotMounted(path));
    }
    if let Some(source) = source
        && device_of(&source.canonicalize().map_err(|e| io(source, &e))?)? == device
    {
        return Err(DriveError::SameAsSource(path));
    }
    let mount = mount_point(&existing, device)?;
    let near = existing == mount || (path.exists() && existing.parent() == Some(&mount));
    if near { Ok(()) } else { Err(DriveError::TooDeep { path, mount }) }
}

/// The topmost directory on the way up that is still on `device`.
fn mount_point(path: &Path, device: u64) -> Result<PathBuf, DriveError> {
    let mut mount = path.to_owned();
    while let Some(parent) = mount.parent() {
        if device_of(parent)? != device {
            break;
        }
        mount = parent.to_owned();
    }
    Ok(mount)
}

fn device_of(path: &Path) -> Result<u64, DriveError> {
    std::fs::metadata(path).map(|meta| meta.dev()).map_err(|e| io(path, &e))
}

fn io(path: &Path, error: &std::io::Error) -> DriveError {
    DriveError::Io { path: path.to_owned(), why: error.to_string() }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_directory_of_the_root_disk_is_no_drive() {
        let dir = Path::new("/var/lib/farkeep-no-such-directory");
        assert!(matches!(check_drive(dir, None), Err(DriveError::NotMounted(_))));
        assert!(matches!(check_drive(Path::new("/no/such/place/at/all"), None), Err(DriveError::NotMounted(_))));
    }

    #[test]
    fn a_mount_point_is_a_drive_and_what_lies_deep_below_is_not() {
        // Every Linux has /proc and, below it, nothing mounted two levels deep.
        assert_eq!(check_drive(Path::new("/proc"), None), Ok(()));
        assert!(matches!(check_drive(Path::new("/proc/self/fdinfo"), None), Err(DriveError::TooDeep { .. })));
        assert!(matches!(check_drive(Path::new("/proc"), Some(Path::new("/proc/self"))), Err(DriveError::SameAsSource(_))));
    }
}
