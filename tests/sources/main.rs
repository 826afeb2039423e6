//! Sources: a job is complete or it does not exist, and a restore destroys nothing before it has verified everything.
//!
//! Each story is something that happened to somebody: a misspelt database, a dump cut short, a script that wiped a registry
//! and then found that the dump was not there.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::print_stdout,
    clippy::print_stderr,
    missing_docs,
    reason = "tests"
)]

mod contract;
mod hooks;
mod local;
mod mongodump;
mod opencrvs;
mod roots;
mod run;
mod safety;
mod spool;
mod stackgraph;
#[path = "../world/mod.rs"]
mod world;

use std::fs;
use std::path::Path;
use std::process::Command;

use serde_json::Value;
use world::clock::{at, missing_faketime};
use world::tools::must;
use world::{Machine, Run, World};

/// A job with these sources, in the world's one store.
fn job(world: &World, sources: &str) {
    world.agent.reconfigure(|text| {
        let kept = text.split("\n# the job\n").next().unwrap().to_owned();
        format!("{kept}\n# the job\n[job.nightly]\ntimezone = \"UTC\"\n{sources}")
    });
}

/// The source `name` of a job: these keys.
fn source(name: &str, kind: &str, keys: &str) -> String {
    format!("\n[[job.nightly.source]]\nname = \"{name}\"\nkind = \"{kind}\"\n{keys}\n")
}

/// The same job on another machine, which has the operator's identity and no key of the agent.
fn station(world: &World, name: &str) -> Machine {
    let machine = world.machine(name);
    let text = fs::read_to_string(&world.agent.config).unwrap();
    fs::write(&machine.config, text).unwrap();
    machine
}

/// `farkeep push nightly` at this time.
fn push_at(machine: &Machine, time: &str) -> Run {
    at(machine, time, world::args!["push", "nightly", "--json"])
}

/// `farkeep restore SNAP --run` with the operator's identity.
fn restore_run(world: &World, snapshot: &str, more: &[&str]) -> Vec<std::ffi::OsString> {
    let mut args = world::args!["restore", snapshot, "--run", "--identity", &world.identity];
    args.extend(more.iter().map(std::ffi::OsString::from));
    args
}

/// Packs bytes as gzip does, into a file that was written at this time.
fn gzip(path: &Path, bytes: &[u8], time: Option<&str>) {
    let plain = path.with_extension("plain");
    fs::create_dir_all(path.parent().unwrap()).unwrap();
    fs::write(&plain, bytes).unwrap();
    let packed = world::tools::must_bytes(Command::new("gzip").args(["-c", "-n"]).arg(&plain));
    fs::write(path, packed).unwrap();
    fs::remove_file(plain).unwrap();
    written_at(path, time.unwrap_or("1 minute ago"));
}

/// Sets a file's time.
fn written_at(path: &Path, time: &str) {
    must(Command::new("touch").env("TZ", "UTC").arg("-d").arg(time).arg(path));
}

/// The content of a gzip file, as gzip reads it.
fn gunzip(path: &Path) -> Vec<u8> {
    world::tools::must_bytes(Command::new("gzip").arg("-dc").arg(path))
}

/// Today in UTC.
fn today() -> String {
    must(Command::new("date").args(["-u", "+%F"])).trim().to_owned()
}

/// How many snapshots there are.
fn snapshots(world: &World) -> usize {
    world.snapshots().len()
}

/// The member of a receipt.
fn member<'a>(receipt: &'a Value, name: &str) -> &'a Value {
    receipt["members"].as_array().unwrap().iter().find(|m| m["name"] == name).unwrap()
}
