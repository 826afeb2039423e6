//! stub
pub mod codec;
pub mod crypto;
pub mod format;
pub mod model;
pub mod store;
