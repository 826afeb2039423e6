//! Retention: what goes, what stays, and that neither a crash nor a race nor an intruder takes what should stay.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::print_stdout,
    clippy::print_stderr,
    missing_docs,
    reason = "tests"
)]

mod attacks;
mod copies;
mod crash;
mod history;
mod intruder;
mod lists;
mod nights;
mod pruners;
mod races;
mod scale;
mod soak;
mod stories;
mod suspicion;
#[path = "../world/mod.rs"]
mod world;
