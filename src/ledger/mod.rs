//! The ledger: writing, chaining and checking records, and the root's chain that says who may write which.
//!
//! Everything here works on names and bytes; where they come from is not its business.

use crate::crypto::CryptoError;
use crate::format::FormatError;
use crate::format::record::Head;
use crate::model::ids::WriterId;

pub mod book;
pub mod chain;
pub mod check;
pub mod names;
pub mod scribe;
mod shelf;
pub mod trust;

pub use book::Book;
pub use check::{Checked, Standing, check};
pub use names::TrustNames;
pub use scribe::{Scribe, Signed};
pub use trust::{RootPin, Trust};

/// What the trust records are called in words.
pub const ROOTS_CHAIN: &str = "the root's chain";

/// Why records cannot be trusted or made.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum LedgerError {
    /// The bytes are no record.
    #[error("{name}: {source}")]
    Format {
        /// The record.
        name: String,
        /// What was wrong.
        source: FormatError,
    },
    /// The signature is not true.
    #[error("{name}: {source}")]
    Crypto {
        /// The record.
        name: String,
        /// What was wrong.
        source: CryptoError,
    },
    /// A record says what its name or place denies.
    #[error("{name}: {why}")]
    Misplaced {
        /// The record.
        name: String,
        /// What was wrong.
        why: String,
    },
    /// Two different statements with one number: someone else writes with this key, or a state directory was copied.
    #[error("writer {} signed two different records with number {seq}: {first} and {second}", writer.short())]
    Fork {
        /// The writer.
        writer: WriterId,
        /// The number.
        seq: u64,
        /// One of the two.
        first: String,
        /// The other.
        second: String,
    },
    /// No trust record that the pinned root signed.
    #[error("no trust record is signed by the pinned root {pin}{hint}")]
    NoTrust {
        /// The pinned fingerprint.
        pin: String,
        /// Who signed what is there, to tell a wrong pin from a wrong vault.
        hint: String,
    },
    /// Older than what was seen before.
    #[error("rolled back: {what} was seen at number {} ({}), and the copy ends at {found}", seen.seq, seen.hash.short())]
    RolledBack {
        /// Whose chain.
        what: String,
        /// The newest that was seen.
        seen: Head,
        /// Where the copy ends: a number, or nothing.
        found: String,
    },
}
