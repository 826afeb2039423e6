//! A finding: something wrong in the data or in a copy, reported while the work goes on.
//!
//! An error stops the work; a finding is data. Both name the object they speak of.

use std::fmt;

use serde::{Deserialize, Serialize};

/// What kind of thing was found; the command's exit code follows from the gravest.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum FindingKind {
    /// Worth knowing, nothing is lost: a skipped socket, debris of a broken upload.
    Notice,
    /// A source entry could not be read, or changed while it was read (exit 3).
    Source,
    /// An entry could not be restored as it was: an owner, an attribute (exit 3).
    Target,
    /// A store could not be reached or lags behind (exit 3).
    Behind,
    /// The data changed as it never does: a person should look (exit 3).
    Suspect,
    /// An object was damaged and is whole again (exit 3).
    Mended,
    /// A file among the records under the name of a writer that the root does not know: it counts for nothing, and stops nothing, since
    /// whoever may add files can put any number there (exit 4).
    Stranger,
    /// An object is missing, changed, or does not fit its name (exit 4).
    Damage,
    /// A record does not belong where it lies: forged, moved, forked, rolled back (exit 4).
    Trust,
}

impl FindingKind {
    /// Whether somebody must look at once.
    #[must_use]
    pub const fn is_alarm(self) -> bool {
        matches!(self, Self::Stranger | Self::Damage | Self::Trust)
    }

    /// Whether the finding means that stored data cannot be trusted: nothing is removed while it stands.
    #[must_use]
    pub const fn casts_doubt(self) -> bool {
        matches!(self, Self::Damage | Self::Trust)
    }
}

/// Snapshots that a finding names in words; the rest is counted.
const SNAPSHOTS_SHOWN: usize = 20;

/// One thing found.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Finding {
    /// Its kind.
    pub kind: FindingKind,
    /// The path, object or store it speaks of, as printed.
    pub subject: String,
    /// What is wrong, lower case, no full stop.
    pub message: String,
    /// The snapshots that need the object, as short ids, where that is known.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub snapshots: Vec<String>,
}

impl Finding {
    /// A finding of `kind` about `subject`.
    #[must_use]
    pub fn new(kind: FindingKind, subject: impl fmt::Display, message: impl fmt::Display) -> Self {
        Self { kind, subject: subject.to_string(), message: message.to_string(), snapshots: Vec::new() }
    }
}

impl fmt::Display for Finding {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", self.subject, self.message)?;
        if self.snapshots.is_empty() {
            return Ok(());
        }
        let shown = &self.snapshots[..self.snapshots.len().min(SNAPSHOTS_SHOWN)];
        write!(f, " (needed by {}", shown.join(", "))?;
        match self.snapshots.len() - shown.len() {
            0 => write!(f, ")"),
            more => write!(f, " and {more} more)"),
        }
    }
}
