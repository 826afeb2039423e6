//! Lines: what the binary does over SFTP servers as they are: write-once accounts and others, links that break, processes
//! that are killed, servers that are full.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::print_stdout,
    clippy::print_stderr,
    missing_docs,
    reason = "tests"
)]

mod account;
mod broken;
mod full;
mod pace;
mod probe;
#[path = "../stores/proxy.rs"]
mod proxy;
#[path = "../stores/raw.rs"]
mod raw;
mod reading;
mod recipe;
mod served;
#[path = "../world/mod.rs"]
mod world;
