//! Readers beside pushes: what they keep for themselves, and what they leave alone.

use std::collections::BTreeMap;
use std::fs;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::process::Command;

use crate::world::server::Server;
use crate::world::tools::must;
use crate::world::{World, args, assert_same, files_below, needs};

/// Every file below a directory, with its content and the moment of its last change.
fn snapshot_of(dir: &Path) -> BTreeMap<PathBuf, (Vec<u8>, i64, i64)> {
    let state = |path: PathBuf| {
        let meta = fs::metadata(&path).unwrap();
        (path.clone(), (fs::read(path).unwrap(), meta.ctime(), meta.ctime_nsec()))
    };
    files_below(dir).into_iter().map(state).collect()
}

#[test]
fn no_reader_touches_what_the_agent_knows() {
    needs!("rsync");
    let world = World::new();
    let tree = world.tree("data");
    tree.ordinary(300, 1);
    world.push(&tree.root);
    let cache = fs::read_dir(world.agent.state.join("cache")).unwrap().next().unwrap().unwrap().path();
    let before = snapshot_of(&cache.join("index"));
    assert!(!before.is_empty());
    let identity = &world.identity;
    for command in [
        args!["ls", "latest", "--identity", identity],
        args!["find", "*", "--identity", identity],
        args!["verify", "--depth", "opened", "--identity", identity],
        args!["verify", "--depth", "sealed"],
        args!["status"],
    ] {
        world.run(command).ok();
    }
    world.restore("latest", &world.path("back"));
    assert_same(&tree.root, &tree.below(&world.path("back")));
    assert!(snapshot_of(&cache.join("index")) == before, "a reader changed the agent's index");
}

#[test]
fn a_deep_verification_sees_what_a_stranger_would_see() {
    let world = World::new();
    let tree = world.tree("data");
    tree.ordinary(50, 1);
    world.push(&tree.root);
    tree.ordinary(60, 2);
    world.push(&tree.root);
    // The first night's index object goes: the agent knows its packs all the same, and nobody else does.
    let first =
        world.objects("indexes").into_iter().min_by_key(|path| fs::metadata(path).unwrap().modified().unwrap()).unwrap();
    fs::remove_file(first).unwrap();
    world.run(args!["verify", "--depth", "opened", "--identity", &world.identity]).exits(4);
    let first = world.snapshots()[0]["id"].as_str().unwrap().to_owned();
    world.run(args!["restore", first, "--into", world.path("back"), "--identity", &world.identity]).exits(4);
}

#[test]
fn what_others_counted_before_a_rollback_that_somebody_accepted_is_not_missed() {
    needs!(root);
    needs!(server);
    let server = Server::start();
    let world = server.world();
    let tree = world.tree("data");
    tree.file("file", "1");
    world.push(&tree.root);
    // A station that the root has enrolled; what it found lies in the vault, and whoever pushes has read it.
    let station = world.machine("station");
    station.configure(&fs::read_to_string(&world.agent.config).unwrap());
    station.run(args!["verify"]).ok();
    let printed = station.run(args!["keys", "print", "--json"]).ok().json();
    let here = printed["here"].as_array().unwrap().iter().find(|key| key["role"] == "station").unwrap();
    let root = world.identity.with_extension("root");
    world.run(args!["keys", "enrol", "station", here["fingerprint"].as_str().unwrap(), "--root", root]).ok();
    let image = world.path("image");
    let set = |from: &Path, to: &Path| {
        let _ = fs::remove_dir_all(to);
        must(Command::new("cp").arg("-a").arg(from).arg(to));
    };
    set(&world.vault, &image);
    (0..2).for_each(|_| drop(world.push(&tree.root)));
    station.run(args!["verify"]).ok().says("3 snapshots");
    world.push(&tree.root);
    set(&image, &world.vault);
    world.run(args!["verify", "--accept-rollback"]).exits(3);
    world.push(&tree.root);
    for machine in [&world.agent, &station] {
        machine.run(args!["verify"]).exits(3).says("gives them up").never_says("were complete here");
    }
}

#[test]
fn a_station_that_only_reads_accepts_a_rollback_for_itself() {
    needs!(root);
    needs!(server);
    let server = Server::start();
    let world = server.world();
    let tree = world.tree("data");
    let image = world.path("image");
    let set = |from: &Path, to: &Path| {
        let _ = fs::remove_dir_all(to);
        must(Command::new("cp").arg("-a").arg(from).arg(to));
    };
    let night = |n: u32| {
        tree.file(format!("night{n}"), format!("{n}"));
        world.push(&tree.root);
    };
    night(0);
    set(&world.vault, &image);
    let reader = server.reader(&world);
    let restore =
        |into: &str| reader.run(args!["restore", "latest", "--into", world.path(into), "--identity", &world.identity]);
    for n in 1..4 {
        night(n);
        reader.run(args!["verify"]).ok();
    }
    restore("before").ok();
    set(&image, &world.vault);
    restore("refused").exits(4).says("rolled back");
    reader.run(args!["verify", "--accept-rollback"]).exits(3);
    restore("older").ok();
    world.run(args!["verify", "--accept-rollback"]).exits(3);
    night(4);
    // The records of the machine that pushes come back. What the station has counted, and nobody else knows, it accepted.
    reader.run(args!["verify"]).exits(3).says("gives them up").never_says("were complete here");
    restore("newest").ok();
    assert_same(&tree.root, &tree.below(&world.path("newest")));
}
