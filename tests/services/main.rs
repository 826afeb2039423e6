//! Real data systems: each is backed up, damaged or emptied, and brought back, with counts and hashes compared; and what
//! goes wrong with them in the field. `recipes/services.sh install` gets them; every server listens on loopback and keeps
//! its data in a scratch directory. `recipes/README.md` says what is real and what stands in for something else.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::print_stdout,
    clippy::print_stderr,
    missing_docs,
    reason = "tests"
)]

mod direct;
mod influxdb;
mod mongod;
mod mongodb;
mod mongorestore;
mod mysql;
mod postgres;
mod rehearsal;
mod replica_set;
mod search;
mod service;
mod sqlite;
mod story;
#[path = "../world/mod.rs"]
mod world;
