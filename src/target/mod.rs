//! Where restored entries land: beneath one root, whole or not at all, metadata last.
//!
//! Every path is resolved by the kernel from the root's descriptor with links refused, so that nothing is ever written
//! outside, whatever lies in the tree or is swapped in while the work runs. A file is made under a temporary name and takes
//! its own only when its hash is right. What cannot be set on an entry is a finding; what stops the work is an error.

use std::io;

use crate::model::finding::{Finding, FindingKind};
use crate::model::path::EntryPath;

pub mod existing;
pub mod file;
pub mod metadata;
pub mod root;

pub use file::FileSink;
pub use metadata::MetadataPolicy;
pub use root::TargetRoot;

/// Free bytes on the file system of a path, where that can be told.
#[must_use]
pub fn free_bytes(path: &std::path::Path) -> Option<u64> {
    rustix::fs::statvfs(path).ok().map(|stat| stat.f_bavail.saturating_mul(stat.f_frsize))
}

/// Why an entry could not be restored.
#[derive(Debug, thiserror::Error)]
pub enum TargetError {
    /// The disk or a quota is full: the work stops.
    #[error("{path}: no room left: {source}")]
    Full {
        /// Where.
        path: String,
        /// What the system said.
        source: io::Error,
    },
    /// The target as a whole cannot be used: the work stops.
    #[error("{path}: {why}")]
    Unusable {
        /// Where.
        path: String,
        /// Why.
        why: String,
    },
    /// This entry cannot be restored; the work goes on.
    #[error("{path}: {why}")]
    Entry {
        /// The entry.
        path: String,
        /// Why.
        why: String,
    },
    /// What was restored of this entry is not what was backed up; it was not put in place.
    #[error("{path}: {why}")]
    Content {
        /// The entry.
        path: String,
        /// What was wrong.
        why: String,
    },
}

impl TargetError {
    /// Turns what the system said of a path into an error of the right gravity.
    pub(crate) fn io(path: &EntryPath, source: io::Error) -> Self {
        let path = path.to_string();
        match source.kind() {
            io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded => Self::Full { path, source },
            io::ErrorKind::ReadOnlyFilesystem => Self::Unusable { path, why: source.to_string() },
            _ if source.raw_os_error() == Some(rustix::io::Errno::LOOP.raw_os_error()) => {
                Self::Entry { path, why: "a symbolic link stands in the way; nothing is written through it".into() }
            }
            _ => Self::Entry { path, why: source.to_string() },
        }
    }

    /// As a finding, when the work can go on.
    ///
    /// # Errors
    /// The error itself, when it cannot.
    pub fn into_finding(self) -> Result<Finding, Self> {
        match self {
            Self::Entry { path, why } => Ok(Finding::new(FindingKind::Target, path, why)),
            Self::Content { path, why } => Ok(Finding::new(FindingKind::Damage, path, why)),
            other => Err(other),
        }
    }
}
