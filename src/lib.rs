//! stub
pub mod cli;
pub mod codec;
pub mod crypto;
pub mod format;
pub mod ledger;
pub mod model;
pub mod ops;
pub mod source;
pub mod state;
pub mod store;
pub mod target;
pub mod vault;
