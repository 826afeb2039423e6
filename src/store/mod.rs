//! Stores: they move named bytes and understand none of them.
//!
//! The contract, which one test runs against every store (`tests/stores`):
//!
//! - A name is a relative path of one or two directories and a file name, of lower-case ASCII letters, digits, `-`, `.` and
//!   `/`. Stores check nothing else about it.
//! - [`WriteOnceStore::put`] makes a file that was not there, whole and durable, or fails. It never changes a file that is
//!   there, whatever happens; a put that was cut off may leave debris under the name.
//! - [`Store::get`] gives the bytes that are there, fewer at the end of the file.
//! - Every method may be called from several threads at once; a store bounds what it does at the same time by itself.
//! - A directory that does not exist lists as empty: what should be there is then missing, which is for others to judge.

use std::fmt;

use crate::model::time::Timestamp;

pub mod deliver;
mod direct;
pub mod directory;
pub mod drive;
pub mod kept;
pub mod location;
pub mod memory;
pub mod probe;
pub mod sftp;

pub use location::Location;

/// What went wrong with a store. The object is named where there is one.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum StoreError {
    /// The object does not exist.
    #[error("{0}: not there")]
    NotFound(String),
    /// An object of that name exists already.
    #[error("{0}: exists already")]
    Exists(String),
    /// The store does not permit it.
    #[error("{name}: not permitted: {why}")]
    Denied {
        /// The object.
        name: String,
        /// What the store said.
        why: String,
    },
    /// The disk or a quota is full.
    #[error("{name}: no room left: {why}")]
    Full {
        /// The object.
        name: String,
        /// What the store said.
        why: String,
    },
    /// No connection, or it broke and could not be had again within the budget.
    #[error("store unreachable: {0}")]
    Unreachable(String),
    /// The server's host key is not the pinned one.
    #[error("{0}")]
    HostKey(String),
    /// Nothing is known here that the server's host key could be held against.
    #[error("{0}")]
    UnknownHostKey(String),
    /// The server refuses to log us in.
    #[error("log-in refused: {0}")]
    Login(String),
    /// The store does not keep to its protocol, or answers what cannot be.
    #[error("store misbehaves: {0}")]
    Protocol(String),
    /// Any other failure of one operation.
    #[error("{name}: {why}")]
    Io {
        /// The object.
        name: String,
        /// What the system said.
        why: String,
    },
    /// The work was stopped from outside.
    #[error("interrupted")]
    Interrupted,
}

impl StoreError {
    /// What is wrong, for somebody who was told already when it is that the store cannot be reached.
    #[must_use]
    pub fn reason(&self) -> String {
        match self {
            Self::Unreachable(why) => why.clone(),
            other => other.to_string(),
        }
    }

    /// Whether the same call could succeed on a new connection.
    #[must_use]
    pub const fn is_transient(&self) -> bool {
        matches!(self, Self::Unreachable(_))
    }

    /// Whether the whole store is out of reach, rather than one object.
    #[must_use]
    pub const fn is_store_wide(&self) -> bool {
        matches!(self, Self::Unreachable(_) | Self::Login(_) | Self::Interrupted) || self.is_host_key()
    }

    /// Whether the server could not be told from another machine; then not one byte was sent.
    #[must_use]
    pub const fn is_host_key(&self) -> bool {
        matches!(self, Self::HostKey(_) | Self::UnknownHostKey(_))
    }
}

/// A file as a listing shows it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Listed {
    /// Its full name, directory included.
    pub name: String,
    /// Its size.
    pub bytes: u64,
    /// When the store received it, by the store's own clock, where it says.
    pub received: Option<Timestamp>,
}

/// How sure a store is that a new object survives a power cut.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Durability {
    /// File and directory entry were synced.
    Confirmed,
    /// The store offers no way to tell.
    NotConfirmed,
}

/// A store that can be read.
pub trait Store: Send + Sync {
    /// What people call it: the URL that reaches it.
    fn location(&self) -> &Location;

    /// Hands every regular file directly in each of `dirs` (empty text: the root) to `each`, in no particular order.
    ///
    /// # Errors
    /// When the store cannot be read.
    fn list(&self, dirs: &[String], each: &mut dyn FnMut(Listed)) -> Result<(), StoreError>;

    /// The size of an object; none when it does not exist.
    ///
    /// # Errors
    /// When the store cannot be asked.
    fn stat(&self, name: &str) -> Result<Option<u64>, StoreError>;

    /// The sizes of several objects, in the order of the names; none for each that does not exist.
    ///
    /// # Errors
    /// When the store cannot be asked.
    fn sizes(&self, names: &[String]) -> Result<Vec<Option<u64>>, StoreError> {
        names.iter().map(|name| self.stat(name)).collect()
    }

    /// Up to `bytes` bytes from `offset`; fewer only at the end of the object.
    ///
    /// # Errors
    /// When the object does not exist or cannot be read.
    fn get(&self, name: &str, offset: u64, bytes: u64) -> Result<Vec<u8>, StoreError>;

    /// Several stretches of one object, as (offset, length).
    ///
    /// # Errors
    /// As [`get`](Self::get).
    fn get_ranges(&self, name: &str, ranges: &[(u64, u64)]) -> Result<Vec<Vec<u8>>, StoreError> {
        ranges.iter().map(|(offset, bytes)| self.get(name, *offset, *bytes)).collect()
    }

    /// Several whole small objects, each up to a limit in bytes; results in the order of the names. One that is longer comes
    /// back one byte over its limit.
    fn get_many(&self, names: &[(String, u64)]) -> Vec<Result<Vec<u8>, StoreError>> {
        names.iter().map(|(name, limit)| self.get(name, 0, limit + 1)).collect()
    }

    /// Free bytes, where the store tells.
    ///
    /// # Errors
    /// When the store cannot be asked.
    fn room(&self) -> Result<Option<u64>, StoreError>;

    /// How many transfers at once serve this store best.
    fn parallel(&self) -> usize;

    /// What tells this store from another at the same address: two drives take turns at one mount point.
    fn identity(&self) -> String {
        self.location().to_string()
    }

    /// Up to `bytes` bytes from the beginning of an object, from the device rather than from a cache of this machine; and
    /// whether the store could make sure of that.
    ///
    /// # Errors
    /// As [`get`](Self::get).
    fn get_past_cache(&self, name: &str, bytes: u64) -> Result<(Vec<u8>, bool), StoreError> {
        Ok((self.get(name, 0, bytes)?, false))
    }

    /// What the room that a file takes is rounded up to.
    fn unit_bytes(&self) -> u64 {
        1
    }
}

/// A store that takes new objects.
pub trait WriteOnceStore: Store {
    /// Makes the directories that do not exist yet, parents first.
    ///
    /// # Errors
    /// When one cannot be made.
    fn make_dirs(&self, dirs: &[String]) -> Result<(), StoreError>;

    /// Makes the object `name` of `bytes`, durable as far as the store can.
    ///
    /// # Errors
    /// [`StoreError::Exists`] when something has the name; anything else may leave debris there.
    fn put(&self, name: &str, bytes: &[u8]) -> Result<Durability, StoreError>;

    /// Removes temporaries that died with an earlier process, where the store has such.
    ///
    /// # Errors
    /// When the store cannot be read.
    fn sweep(&self, dirs: &[String]) -> Result<u64, StoreError>;

    /// Asks to be the only one who prunes this store, until it is closed: two who sign with the same key would write two
    /// chains. False when somebody else is at it. A store that knows no such thing says yes to everybody.
    ///
    /// # Errors
    /// When the store cannot be asked.
    fn prune_alone(&self) -> Result<bool, StoreError> {
        Ok(true)
    }

    /// Attacks files of its own making to find out whether stored objects can be changed. None where that cannot be a
    /// question: whoever may write a directory of this machine may change what lies there.
    ///
    /// # Errors
    /// When nothing can be stored to be attacked, or the store cannot be reached.
    fn probe(&self) -> Result<Option<probe::ProbeReport>, StoreError> {
        Ok(None)
    }
}

/// A store from which objects may be removed. Only prune is given one: whoever holds a [`WriteOnceStore`] cannot come by it.
pub trait PruneStore: WriteOnceStore {
    /// Removes an object; one that is not there is gone already.
    ///
    /// # Errors
    /// [`StoreError::Denied`] where this account may only add.
    fn remove(&self, name: &str) -> Result<(), StoreError>;
}

impl fmt::Debug for dyn Store {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Store({})", self.location())
    }
}

impl fmt::Debug for dyn PruneStore {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "PruneStore({})", self.location())
    }
}

impl fmt::Debug for dyn WriteOnceStore {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "WriteOnceStore({})", self.location())
    }
}
