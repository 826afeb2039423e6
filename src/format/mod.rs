#![doc = include_str!("FORMAT.md")]

pub mod age_header;
pub mod body;
pub mod canonical;
pub mod catalogue;
pub mod cursor;
pub mod drive;
pub mod frame;
pub mod header;
pub mod index;
pub mod inventory;
pub mod manifest;
pub mod pack;
pub mod record;
pub mod table;
pub mod wire;

/// Stored bytes that are not what their place in the format says.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum FormatError {
    /// The bytes end too early, or go on too long.
    #[error("{what}: cut short or too long")]
    Length {
        /// The part of the format.
        what: &'static str,
    },
    /// A number, mark or text that the format does not allow there.
    #[error("{what}: {why}")]
    Invalid {
        /// The part of the format.
        what: &'static str,
        /// What was wrong.
        why: String,
    },
    /// More than the limit of that name in `model::limits`.
    #[error("{what}: over the limit of {limit}")]
    Limit {
        /// The part of the format.
        what: &'static str,
        /// The bound, in the unit of that part.
        limit: u64,
    },
    /// Written by a newer farkeep.
    #[error("{what}: format version {found}, this farkeep reads up to {known}; use a newer farkeep")]
    Newer {
        /// The part of the format.
        what: &'static str,
        /// What it says.
        found: u64,
        /// What this program knows.
        known: u64,
    },
}

impl FormatError {
    pub(crate) fn invalid(what: &'static str, why: impl std::fmt::Display) -> Self {
        Self::Invalid { what, why: why.to_string() }
    }
}
