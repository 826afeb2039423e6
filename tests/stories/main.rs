//! Stories: what a user does with farkeep from the first push to the last restore, with the real binary, real servers, real
//! drives. One test per story.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::print_stdout,
    clippy::print_stderr,
    missing_docs,
    reason = "tests"
)]

mod adopt;
mod citations;
mod clocks;
mod copies;
mod damage;
mod deletions;
mod drives;
mod in_place;
mod keys;
mod kills;
mod ledger;
mod memory;
mod nights;
mod pushes;
mod readers;
mod restores;
mod server;
mod trust;
#[path = "../world/mod.rs"]
mod world;
