//! The command line: what it prints for programs and for people, how it refuses, and with which exit codes.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::print_stdout,
    clippy::print_stderr,
    missing_docs,
    reason = "tests"
)]

mod configuration;
mod json;
mod keys;
mod manual;
mod schema;
mod usage;
#[path = "../world/mod.rs"]
mod world;
