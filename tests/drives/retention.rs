//! A drive's own `keep`: what it lets go is dropped from that drive alone, and only after an export that arrived whole.

use std::fs;
use std::path::Path;

use serde_json::Value;

use crate::parity::spoil;
use crate::world::drive::{Drive, FileSystem};
use crate::world::{World, args, assert_same, files_below, needs, skipped};
use crate::{enrol, pushed};

/// A vault of four pushes, and a drive `a` that keeps two of them.
fn four_nights(more: &str) -> (World, Drive) {
    let world = pushed();
    for night in 0..3 {
        another_night(&world, night);
    }
    world.agent.configure(&format!("[drive.a]\nkeep = {{ last = 2, min_snapshots = 1 }}\n{more}\n"));
    let drive = Drive::new(world.dir.path(), "drive-a", 96);
    drive.plug_in();
    enrol(&world.agent, "a", &drive);
    (world, drive)
}

/// A push that brings something new and leaves out what the push before it brought.
fn another_night(world: &World, night: u64) {
    let tree = world.tree("data");
    fs::remove_file(tree.root.join("tonight")).ok();
    tree.noise("tonight", 400_000, 100 + night);
    world.push(&tree.root);
}

fn export(world: &World) -> Value {
    world.run(args!["drive", "export", "a", "--json"]).ok().json()
}

fn snapshots_in(world: &World, copy: &Path) -> u64 {
    world.run(args!["verify", "--from", copy, "--json"]).ok().json()["snapshots"].as_u64().unwrap()
}

#[test]
fn what_a_drives_keep_lets_go_is_dropped_from_that_drive_alone_and_does_not_come_back() {
    if let Some(why) = FileSystem::Ext4.missing() {
        return skipped(&why);
    }
    let (world, drive) = four_nights("");
    let before = crate::world::bytes_below(&world.vault);
    let first = world.run(args!["drive", "export", "a"]).ok();
    first.says("its keep: 2 snapshots dropped, 2 stay").says("safe to unplug");
    assert_eq!((snapshots_in(&world, &drive.vault()), snapshots_in(&world, &world.vault)), (2, 4));
    assert!(crate::world::bytes_below(&drive.vault()) + 400_000 < before);

    another_night(&world, 9);
    let second = export(&world);
    assert_eq!((&second["safe"], &second["snapshots"]), (&true.into(), &2.into()), "{second}");
    assert_eq!((&second["retained"]["dropped"], &second["retained"]["kept"]), (&1.into(), &2.into()), "{second}");
    // One night's objects, and nothing that was dropped; nor was there reason to read what lay there.
    assert!(second["bytes"].as_u64().unwrap() < 600_000, "{second}");
    assert_eq!(second["read_back"], second["objects"]);
    let third = export(&world);
    assert_eq!((&third["objects"], &third["retained"]["dropped"]), (&0.into(), &0.into()), "{third}");

    // The server keeps all, also when the drive has healed it.
    for pack in world.objects("packs") {
        crate::world::flip(&pack, 100);
    }
    world.run(args!["verify"]).exits(4);
    // What the drive let go it cannot heal, and says so.
    let sync = world.run(args!["sync", &world.vault, "--from", drive.vault(), "--plain-directory"]).exits(4);
    sync.says("objects damaged there and whole now").says("does not hold it: another copy may mend it");
    assert_eq!(world.snapshots().len(), 5);
    let (tree, back) = (world.tree("data"), world.path("back"));
    world.run(args!["restore", "latest", "--from", drive.vault(), "--into", &back, "--identity", &world.identity]).ok();
    assert_same(&tree.root, &tree.below(&back));
}

#[test]
fn an_export_that_did_not_arrive_drops_nothing() {
    if let Some(why) = FileSystem::Ext4.missing() {
        return skipped(&why);
    }
    let (world, drive) = four_nights("");
    export(&world);
    let tree = world.tree("data");
    tree.noise("large", 100 << 20, 4);
    world.push(&tree.root);
    world.agent.reconfigure(|text| text.replace("last = 2", "last = 1"));
    let before = files_below(&drive.vault());
    world.run(args!["drive", "export", "a"]).exits(1).says("nothing was sent").never_says("its keep");
    assert_eq!(files_below(&drive.vault()), before);

    // A source with damage: what is whole arrives, and nothing goes.
    let (world, drive) = four_nights("");
    export(&world);
    let before = files_below(&drive.vault());
    let known = world.objects("packs");
    another_night(&world, 9);
    let new = world.objects("packs").into_iter().find(|path| !known.contains(path)).unwrap();
    crate::world::flip(&new, 100);
    world.run(args!["drive", "export", "a"]).exits(4).says("not copied").never_says("its keep");
    assert!(before.iter().all(|path| path.exists()), "something was removed");
}

#[test]
fn where_no_custodians_key_is_the_export_stands_and_says_that_nothing_was_dropped() {
    if let Some(why) = FileSystem::Ext4.missing() {
        return skipped(&why);
    }
    let (world, drive) = four_nights("");
    // The label of a drive is believed from whoever is trusted: here the very same machine, without that one key.
    for key in files_below(&world.agent.state).into_iter().filter(|path| path.ends_with("custodian-writer")) {
        fs::remove_file(key).unwrap();
    }
    let run = world.run(args!["drive", "export", "a"]).exits(3).says("safe to unplug");
    run.says("its keep was not applied, nothing was dropped").says("no custodian's key");
    assert_eq!(snapshots_in(&world, &drive.vault()), 4);
    let told = world.run(args!["drive", "export", "a", "--json"]).exits(3).json();
    assert_eq!((&told["safe"], &told["retained"]), (&true.into(), &().into()), "{told}");
}

#[test]
fn a_removal_that_was_killed_is_finished_by_the_next_export() {
    if let Some(why) = FileSystem::Ext4.missing() {
        return skipped(&why);
    }
    needs!("strace");
    let (world, drive) = four_nights("");
    let mut command = std::process::Command::new("strace");
    world.agent.dress(&mut command);
    // The second object that goes, in whichever thread.
    let inject = "inject=unlinkat:signal=SIGKILL:when=2";
    command.args(["-f", "-qq", "-o", "/dev/null", "-e", "trace=unlinkat", "-e", inject]);
    command.arg(crate::world::machine::FARKEEP).args(args!["drive", "export", "a"]);
    crate::world::Run::of(&mut command).exits(137).never_says("safe to unplug");
    assert!(snapshots_in(&world, &drive.vault()) >= 2);
    assert_eq!(export(&world)["snapshots"], 2);
    assert_eq!(snapshots_in(&world, &drive.vault()), 2);
    let none = world.run(args!["prune", "plan", "--store", "a", "--keep-last", "2", "--dry-run", "--json"]).ok().json();
    assert_eq!((&none["dropped"], &none["objects"]), (&0.into(), &0.into()), "{none}");
}

#[test]
fn parity_is_made_anew_for_what_stays_and_the_room_that_was_freed_is_known() {
    if let Some(why) = FileSystem::Ext4.missing() {
        return skipped(&why);
    }
    let (world, drive) = four_nights("parity = \"5%\"");
    export(&world);
    let parity = files_below(&drive.vault().join("parity"));
    another_night(&world, 9);
    let exported = export(&world);
    assert!(exported["retained"]["objects"].as_u64().unwrap() > 0, "{exported}");
    // What covers pruned objects is gone, or a third of the group were lost before the first sector is.
    let now = files_below(&drive.vault().join("parity"));
    assert!(now.len() <= 2 && now.iter().all(|path| !parity.contains(path)), "{parity:?} {now:?}");
    // Elsewhere it has the room that it has here.
    let free = || world.run(args!["drive", "status", "--json"]).ok().json()["drives"][0]["free_bytes"].as_u64().unwrap();
    let there = free();
    drive.unplug();
    assert!(free().abs_diff(there) < 600_000, "{} {there}", free());
    drive.plug_in();

    assert!(spoil(&drive.vault(), 4, 8) > 20);
    world.run(args!["verify", "--from", "a"]).exits(4);
    world.run(args!["verify", "--from", "a", "--repair"]).exits(3).says("mended by parity").never_says("not mended");
    assert_eq!(snapshots_in(&world, &drive.vault()), 2);
}

#[test]
fn a_plan_for_a_drive_with_a_keep_of_its_own_is_by_that_keep_and_says_so() {
    if let Some(why) = FileSystem::Ext4.missing() {
        return skipped(&why);
    }
    let (world, drive) = four_nights("");
    world.agent.reconfigure(|text| text.replace("keep = ", "#keep = "));
    export(&world);
    // A job's rules keep all of this series; the drive keeps three.
    let source = format!("name = \"files\"\nkind = \"files\"\npaths = [\"{}\"]", world.path("data").display());
    world.agent.configure(&format!("[job.nightly]\nkeep = {{ last = 1 }}\n[[job.nightly.source]]\n{source}"));
    world.agent.reconfigure(|text| text.replace("#keep = { last = 2", "keep = { last = 3"));
    for store in [std::ffi::OsString::from("a"), drive.vault().into()] {
        let run = world.run(args!["prune", "plan", "--store", store, "--dry-run"]).ok();
        run.says("1 snapshot to drop, 3 stay").says("decided by the keep of drive a");
    }
    let server = world.run(args!["prune", "plan", "--store", &world.vault, "--dry-run"]).ok();
    server.says("decided by the keep of each job and series");
    let custodian = world.run(args!["custodian", drive.vault()]).ok();
    custodian.says("planned to drop 1 snapshot").says("by the keep of drive a");
}

#[test]
fn a_section_of_a_drive_or_series_that_nobody_knows_is_noted() {
    if let Some(why) = FileSystem::Ext4.missing() {
        return skipped(&why);
    }
    let (world, drive) = four_nights("");
    let known = world.snapshots()[0]["series"].as_str().unwrap().to_owned();
    let other = "00112233445566778899aabbccddeeff";
    for series in [&known, other] {
        world.agent.configure(&format!("[series.{series}]\nkeep = {{ last = 9 }}"));
    }
    world.agent.configure("[drive.b]\nevery = \"7d\"");
    let all = [
        args!["drive", "status", "--check"],
        args!["prune", "plan", "--dry-run", "--store", &world.vault],
        args!["custodian", &world.vault],
    ];
    for words in all {
        let run = world.run(words).ok().says("note: [drive.b]: no drive of this name is enrolled").never_says("[drive.a]");
        run.says(&format!("note: [series.{other}]: no snapshot is of this series")).never_says(&format!("[series.{known}]"));
    }
    drive.unplug();
}
