//! The nouns of farkeep: pure values without input or output.
//!
//! Everything here is valid by construction: a value that exists has passed its checks at the door. Nothing here knows
//! files, stores, keys or the command line; every other floor may use this one, and it uses none of them.

pub mod change;
pub mod drive;
pub mod entry;
pub mod finding;
pub mod ids;
pub mod limits;
pub mod local;
pub mod name;
pub mod path;
pub mod pattern;
pub mod rate;
pub mod retention;
pub mod size;
pub mod snapshot;
pub mod time;

pub use entry::{Content, Entry, EntryKind, Metadata, Owner, Refs};
pub use finding::{Finding, FindingKind};
pub use ids::{ChunkId, ObjectHash, SnapshotId, Token, VaultId, WriterId};
pub use name::{Area, ObjectName};
pub use path::EntryPath;
pub use snapshot::{SnapshotState, Tally};
pub use time::{Clock, SystemClock, Timestamp};
