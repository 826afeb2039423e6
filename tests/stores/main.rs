//! Stores: one contract for every store, and what is particular to SFTP: host keys, log-in, links that
//! break, servers that lie.
//!
//! Real sshd processes run on loopback ports with throw-away keys and end with the test. Where sshd is missing, or root is
//! needed and not had, a test prints a line that begins with `SKIPPED:` and passes.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::print_stderr, missing_docs)]

mod contract;
mod embedded;
mod host_keys;
mod hostile;
mod liar;
mod links;
mod login;
mod proxy;
mod raw;
mod routes;
mod world;
