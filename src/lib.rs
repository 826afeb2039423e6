#![doc = include_str!("ARCHITECTURE.md")]
#![forbid(unsafe_code)]

// The floors, in order: a module imports only from those above it in this list. `tests/house` holds it to that.
pub mod model;
pub mod format;
pub mod codec;
pub mod crypto;
pub mod store;
pub mod state;
pub mod source;
pub mod target;
pub mod ledger;
pub mod vault;
pub mod ops;
pub mod cli;
