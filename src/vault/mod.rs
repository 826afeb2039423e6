//! What a vault means: opening a copy, writing a snapshot into copies, reading one out, and checking what lies there.

use crate::codec::CodecError;
use crate::crypto::CryptoError;
use crate::format::FormatError;
use crate::format::index::IndexError;
use crate::ledger::LedgerError;
use crate::ledger::scribe::ScribeError;
use crate::source::SourceError;
use crate::state::StateError;
use crate::store::StoreError;

pub mod capture;
pub mod catalogue_reader;
pub mod catalogue_writer;
pub mod copy;
pub mod courier;
pub mod destination;
pub mod create;
pub mod examine;
pub mod fetch;
pub mod index_sync;
pub mod inventory;
pub mod list_stream;
pub mod objects;
pub mod open_pack;
pub mod packer;
pub mod parity;
pub mod patch_plan;
pub mod presence;
pub mod pruned;
pub mod register;
pub mod replicate;
pub mod snapshot_writer;
pub mod snapshots;
pub mod stream_bases;
pub mod suspects;
pub mod sweep;
pub mod thin;
pub mod unlock;
pub mod verify;
pub mod workers;

/// What is wrong with an object that is not there.
pub(crate) const MISSING: &str = "it is missing";

/// Why work with a vault cannot go on.
#[derive(Debug, thiserror::Error)]
pub enum VaultError {
    /// A store failed.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// Records cannot be trusted.
    #[error(transparent)]
    Ledger(#[from] LedgerError),
    /// The local state failed.
    #[error(transparent)]
    State(#[from] StateError),
    /// A source failed: the job has no snapshot.
    #[error("source {member:?}: {}", source.within(member))]
    Source {
        /// The member.
        member: String,
        /// Why.
        source: SourceError,
    },
    /// A hook failed.
    #[error("{place}: {}", source.within(place))]
    Hook {
        /// What it belongs to: a job, a source, a restore.
        place: String,
        /// Why.
        source: SourceError,
    },
    /// An object is missing or not what its name says.
    #[error("{object}: {why}")]
    Damaged {
        /// The object's name.
        object: String,
        /// What is wrong with it.
        why: String,
    },
    /// An object cannot be opened with the identities at hand.
    #[error("{object}: {source}")]
    Crypto {
        /// The object's name.
        object: String,
        /// Why.
        source: CryptoError,
    },
    /// Something farkeep itself made is outside the format: a mistake in farkeep, never in the data.
    #[error("internal: {0}")]
    Internal(String),
    /// There is no vault.
    #[error("{0}")]
    NoVault(String),
    /// A drive is not there, or a copy is somebody else's just now.
    #[error("{0}")]
    Absent(String),
    /// No such snapshot, or more than one.
    #[error("{0}")]
    NoSnapshot(String),
    /// No such path in the snapshot.
    #[error("{0}")]
    NoEntry(String),
    /// The work was stopped from outside.
    #[error("interrupted")]
    Interrupted,
}

impl VaultError {
    /// An error about an object's bytes.
    pub fn damaged(object: impl std::fmt::Display, why: impl std::fmt::Display) -> Self {
        Self::Damaged { object: object.to_string(), why: why.to_string() }
    }

    /// Whether it is about an object that is not there at all.
    #[must_use]
    pub fn is_missing(&self) -> bool {
        matches!(self, Self::Damaged { why, .. } if why == MISSING)
    }

    pub(crate) fn internal(error: impl std::fmt::Display) -> Self {
        Self::Internal(error.to_string())
    }
}

impl From<ScribeError> for VaultError {
    fn from(error: ScribeError) -> Self {
        match error {
            ScribeError::State(e) => Self::State(e),
            ScribeError::Ledger(e) => Self::Ledger(e),
        }
    }
}

/// Turns what a decoder said of an object into an error that names it.
pub(crate) fn in_object<E: Into<ObjectFault>>(object: &impl std::fmt::Display) -> impl FnOnce(E) -> VaultError {
    let object = object.to_string();
    move |error| match error.into() {
        ObjectFault::Crypto(source @ CryptoError::NoIdentity) => VaultError::Crypto { object, source },
        ObjectFault::Crypto(e) => VaultError::Damaged { object, why: e.to_string() },
        ObjectFault::Other(why) => VaultError::Damaged { object, why },
    }
}

/// What can be wrong with an object's bytes.
pub(crate) enum ObjectFault {
    Crypto(CryptoError),
    Other(String),
}

impl From<CryptoError> for ObjectFault {
    fn from(error: CryptoError) -> Self {
        Self::Crypto(error)
    }
}

impl From<FormatError> for ObjectFault {
    fn from(error: FormatError) -> Self {
        Self::Other(error.to_string())
    }
}

impl From<CodecError> for ObjectFault {
    fn from(error: CodecError) -> Self {
        Self::Other(error.to_string())
    }
}

impl From<IndexError> for ObjectFault {
    fn from(error: IndexError) -> Self {
        Self::Other(error.to_string())
    }
}
