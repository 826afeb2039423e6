//! What is said of a drive is true of that drive: by its name, in its status, whatever the clock says, and when it takes no more.

use std::fs;
use std::process::Command;

use serde_json::Value;

use crate::world::drive::{Drive, FileSystem};
use crate::world::machine::FARKEEP;
use crate::world::tools::must;
use crate::world::{Run, World, args, assert_same, files_below, needs, skipped};
use crate::{enrol, enrolled};

fn status(world: &World, drive: usize) -> Value {
    world.run(args!["drive", "status", "--json"]).ok().json()["drives"][drive].clone()
}

#[test]
fn a_drive_is_called_by_its_name_and_only_a_whole_reading_of_it_is_on_its_record() {
    if let Some(why) = FileSystem::Ext4.missing() {
        return skipped(&why);
    }
    let (world, a) = enrolled(FileSystem::Ext4);
    let b = Drive::new(world.dir.path(), "drive-b", 96);
    b.plug_in();
    enrol(&world.agent, "b", &b);
    for name in ["a", "b"] {
        world.run(args!["drive", "export", name, "--again"]).ok();
    }
    world.run(args!["verify", "--from", "a"]).ok().says("all right");
    // Names and sizes, a sample, another copy, and the files of the drive in a directory are no reading of it.
    world.run(args!["verify", "--from", "b", "--depth", "list"]).ok();
    world.run(args!["verify", "--from", "b", "--sample", "5%"]).ok();
    world.run(args!["verify"]).ok();
    let copied = world.path("copied");
    must(Command::new("cp").arg("-r").arg(&b.mount).arg(&copied));
    world.run(args!["verify", "--from", copied.join("vault")]).ok();
    assert!(status(&world, 0)["verified"].is_i64() && status(&world, 1)["verified"].is_null());
    world.run(args!["verify", "--from", "b"]).ok();
    assert!(status(&world, 1)["verified"].is_i64());

    // The name stands for the copy wherever a store does.
    let (tree, back) = (world.tree("data"), world.path("back"));
    world.run(args!["restore", "latest", "--from", "b", "--into", &back, "--identity", &world.identity]).ok();
    assert_same(&tree.root, &tree.below(&back));
    world.run(args!["sync", "a", "--from", "b"]).ok().says("safe to unplug");
    a.unplug();
    world.run(args!["verify", "--from", "a"]).exits(2).says("no drive of that name is plugged in");
    world.agent.configure("[drive.a]\nevery = \"7d\"\n");
    world.run(args!["verify", "--from", "a"]).exits(75).says("drive a is not present");
    // What was found on it is nobody's alarm once it is retired.
    a.plug_in();
    let pack = files_below(&a.vault().join("packs")).remove(0);
    crate::world::flip(&pack, 100);
    world.run(args!["verify", "--from", "a"]).exits(4);
    world.run(args!["status", "--check"]).exits(4);
    crate::world::flip(&pack, 100);
    a.unplug();
    // Enrolled anew under its name: what was read of the old one says nothing of the new one.
    world.run(args!["drive", "retire", "a", "--erased", "shredded"]).ok();
    assert_ne!(world.run(args!["status", "--check"]).code, 4);
    let new = Drive::new(world.dir.path(), "new", 96);
    new.plug_in();
    enrol(&world.agent, "a", &new);
    world.run(args!["drive", "export", "a"]).ok();
    new.unplug();
    a.plug_in();
    world.run(args!["verify", "--from", "a"]).ok();
    assert!(status(&world, 0)["verified"].is_null());
    new.plug_in();
    world.run(args!["verify", "--from", "a"]).exits(4).says("both say that they are drive a");
}

#[test]
fn a_wrong_clock_makes_no_drive_look_fresh_and_the_next_export_puts_it_right() {
    if let Some(why) = FileSystem::Ext4.missing() {
        return skipped(&why);
    }
    needs!("faketime");
    let (world, _drive) = enrolled(FileSystem::Ext4);
    world.run(args!["drive", "export", "a"]).ok();
    let at = |time: &str| {
        let mut command = Command::new("faketime");
        world.agent.dress(&mut command);
        Run::of(command.args([time, FARKEEP, "drive", "export", "a"])).ok().says("safe to unplug");
    };
    at("2009-02-01 00:00:00");
    world.run(args!["drive", "status", "--check"]).exits(3).says("late");
    at("2099-01-01 00:00:00");
    let told = world.run(args!["drive", "status", "--check"]).exits(3);
    told.says("claims a time that has not come yet").says("due is drive a");
    world.run(args!["drive", "export", "a"]).ok();
    world.run(args!["drive", "status", "--check"]).ok().says("due next is drive a");
}

#[test]
fn a_drive_that_takes_no_more_is_said_to_and_goes_on_later() {
    if let Some(why) = FileSystem::Ext4.missing() {
        return skipped(&why);
    }
    needs!("strace");
    let (world, drive) = enrolled(FileSystem::Ext4);
    let remount = |how: &str| must(Command::new("mount").args(["-o", how]).arg(&drive.mount));
    remount("remount,ro");
    world.run(args!["drive", "export", "a"]).exits(1).says("ead-only").never_says("safe to unplug");
    remount("remount,rw");

    // Room was there when it was counted, and somebody else took it.
    let mut command = Command::new("strace");
    world.agent.dress(&mut command);
    command.args(["-f", "-qq", "-o", "/dev/null", "-e", "trace=fsync", "-e", "inject=fsync:error=ENOSPC:when=3+"]);
    command.arg(FARKEEP).args(args!["drive", "export", "a"]);
    Run::of(&mut command).exits(1).says("no room left").never_says("safe to unplug");
    let debris = || files_below(&drive.vault()).iter().any(|path| path.to_string_lossy().contains("tmp-"));
    assert!(!debris());
    world.run(args!["drive", "export", "a"]).ok().says("safe to unplug");
    assert!(fs::read_dir(drive.vault().join("ledger")).unwrap().count() > 0);
    world.run(args!["verify", "--from", "a"]).ok();
}
