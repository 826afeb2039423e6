//! A damaged copy is healed from another one by hash, without any key, and nothing is removed.

use std::fs;
use std::path::{Path, PathBuf};

use crate::enrolled;
use crate::world::drive::FileSystem;
use crate::world::server::{Server, missing};
use crate::world::{Random, World, args, files_below, flip, skipped};

/// Deletes `count` files and flips a bit in as many others, drawn by `seed` from `files`.
fn damage(mut files: Vec<PathBuf>, count: usize, seed: u64) {
    let mut random = Random::new(seed);
    assert!(files.len() >= 2 * count, "{} files", files.len());
    for step in 0..2 * count {
        let path = files.swap_remove(random.below(files.len() as u64) as usize);
        if step < count {
            fs::remove_file(&path).unwrap();
        } else {
            flip(&path, random.below(fs::metadata(&path).unwrap().len()));
        }
    }
}

/// Enough objects to damage forty of.
fn many_pushes(world: &World) {
    let tree = world.tree("data");
    for push in 0..12 {
        tree.noise(&format!("noise{push}"), 100_000, push);
        world.push(&tree.root);
    }
}

fn names_below(dir: &Path) -> Vec<PathBuf> {
    files_below(dir).iter().map(|path| path.strip_prefix(dir).unwrap().to_owned()).collect()
}

#[test]
fn a_server_with_twenty_objects_gone_and_twenty_flipped_is_healed_from_the_drive() {
    if let Some(why) = missing().or_else(|| FileSystem::Ext4.missing()) {
        return skipped(&why);
    }
    let server = Server::start();
    let world = server.world();
    many_pushes(&world);
    let drive = crate::world::drive::Drive::new(world.dir.path(), "drive-a", 96);
    drive.plug_in();
    crate::enrol(&world.agent, "a", &drive);
    world.run(args!["drive", "export", "a"]).ok();
    damage(files_below(&server.vault()), 20, 7);
    world.run(args!["verify"]).exits(4);

    let before = names_below(&server.vault());
    let healed = world.run(args!["sync", "main", "--from", drive.vault(), "--json"]).ok().json();
    assert!(healed["healed"].as_array().unwrap().len() >= 15, "{healed}");
    let after = names_below(&server.vault());
    assert!(before.iter().all(|name| after.contains(name)), "something was removed");
    world.run(args!["verify"]).ok();
    world.run(args!["verify", "--depth", "opened", "--identity", &world.identity]).ok();
    world.run(args!["push", world.tree("data").root]).ok();
}

#[test]
fn a_drive_is_healed_from_the_server_and_flips_alone_are_found_when_asked_for() {
    if let Some(why) = FileSystem::Ext4.missing() {
        return skipped(&why);
    }
    let (world, drive) = enrolled(FileSystem::Ext4);
    many_pushes(&world);
    world.run(args!["drive", "export", "a"]).ok();
    for path in files_below(&drive.vault().join("packs")).iter().take(5) {
        flip(path, 100);
    }
    let sync = args!["sync", drive.vault(), "--from", &world.vault];
    // Names and sizes are as they should be.
    world.run(sync.clone()).ok();
    world.run(args!["verify", "--from", drive.vault()]).exits(4);
    world.run(sync).ok().says("5 objects damaged there and whole now");
    world.run(args!["verify", "--from", drive.vault()]).ok();

    for path in files_below(&drive.vault().join("packs")).iter().filter(|path| path.extension().is_some()) {
        flip(path, 100);
    }
    let heal = args!["sync", drive.vault(), "--from", &world.vault, "--heal", "--json"];
    assert_eq!(world.run(heal).ok().json()["healed"].as_array().unwrap().len(), 5);
    world.run(args!["verify", "--from", drive.vault()]).ok();
}

#[test]
fn header_trust_and_newest_records_come_back_too() {
    if let Some(why) = FileSystem::Ext4.missing() {
        return skipped(&why);
    }
    let (world, drive) = enrolled(FileSystem::Ext4);
    world.run(args!["drive", "export", "a"]).ok();
    flip(&world.vault.join("farkeep-vault.json"), 20);
    for area in ["trust", "ledger"] {
        for path in world.objects(area) {
            flip(&path, 200);
        }
    }
    fs::remove_file(world.objects("keys").remove(0)).unwrap();
    world.run(args!["sync", &world.vault, "--from", drive.vault(), "--plain-directory"]).ok();
    world.run(args!["verify"]).ok();
    world.run(args!["ledger", "verify"]).ok();
    world.restore("latest", &world.path("back"));

    // And when the newest records are simply gone.
    for path in world.objects("ledger") {
        fs::remove_file(path).unwrap();
    }
    world.run(args!["verify"]).exits(4);
    world.run(args!["sync", &world.vault, "--from", drive.vault(), "--plain-directory"]).ok();
    world.run(args!["verify"]).ok();
}
