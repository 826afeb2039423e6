//! Another day: farkeep is told a time by faketime's library, which Debian has.

use std::ffi::OsString;
use std::path::PathBuf;

use super::{Machine, Run};

/// Runs farkeep when it is this time, in UTC: `2026-11-17 02:30:00`.
pub fn at(machine: &Machine, time: &str, args: Vec<OsString>) -> Run {
    let mut command = machine.command(args);
    command.env("LD_PRELOAD", faketime().unwrap()).env("FAKETIME", format!("@{time}"));
    command.env("NO_FAKE_STAT", "1").env("FAKETIME_DONT_FAKE_MONOTONIC", "1");
    Run::of(&mut command)
}

/// Where the library is that tells a program another time.
fn faketime() -> Option<PathBuf> {
    let machine = std::env::consts::ARCH;
    let places =
        [format!("/usr/lib/{machine}-linux-gnu/faketime/libfaketime.so.1"), "/usr/lib/faketime/libfaketime.so.1".into()];
    places.into_iter().map(PathBuf::from).find(|path| path.exists())
}

/// Why a test of other days cannot run here, if it cannot.
pub fn missing_faketime() -> Option<String> {
    if faketime().is_some() { None } else { Some("faketime is not installed".into()) }
}
