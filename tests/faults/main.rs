//! What must not go wrong when somebody or something works against it: hostile vaults and targets, bombs, forged and rolled
//! back records, local state that lies. Counts are a tenth of a full run; FARKEEP_FULL=1 makes the full one.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::print_stdout,
    clippy::print_stderr,
    missing_docs,
    reason = "tests"
)]

mod adopt;
mod bombs;
mod canaries;
mod chains;
mod forge;
mod gone;
mod hostile;
mod init;
mod miscalled;
mod refusing;
mod rollbacks;
mod root;
mod rot;
mod standards;
mod state;
mod thief;
#[path = "../world/mod.rs"]
mod world;

/// A tenth of `full`, or all of it where that is asked for.
fn rounds(full: u64) -> u64 {
    if std::env::var_os("FARKEEP_FULL").is_some() { full } else { full.div_ceil(10) }
}
