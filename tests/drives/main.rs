//! Drives: enrolled, exported to, pulled, cloned, healed, retired. Loop devices with the file systems that people have on
//! external drives, and the real binary.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::print_stdout,
    clippy::print_stderr,
    missing_docs,
    reason = "tests"
)]

mod export;
mod healing;
mod label;
mod parity;
mod proof;
mod pulled;
mod register;
mod retention;
#[path = "../cli/schema.rs"]
mod schema;
#[path = "../world/mod.rs"]
mod world;

use world::drive::{Drive, FileSystem};
use world::{Machine, World, args};

/// A vault of one small push, and a drive `a` that is plugged in and enrolled.
fn enrolled(kind: FileSystem) -> (World, Drive) {
    // FAT32 has so many clusters at least that it cannot be small.
    enrolled_of(kind, if kind == FileSystem::Fat32 { 300 } else { 96 })
}

fn enrolled_of(kind: FileSystem, mebibytes: u64) -> (World, Drive) {
    let world = pushed();
    let drive = Drive::with(kind, world.dir.path(), "drive-a", mebibytes);
    drive.plug_in();
    enrol(&world.agent, "a", &drive);
    (world, drive)
}

/// A vault of one small push.
fn pushed() -> World {
    let world = World::new();
    let tree = world.tree("data");
    tree.ordinary(200, 1).noise("noise", 3 << 20, 2);
    world.push(&tree.root);
    world
}

fn enrol(machine: &Machine, name: &str, drive: &Drive) {
    machine.run(args!["drive", "enrol", name, &drive.mount, "--allow-plain"]).ok();
}
