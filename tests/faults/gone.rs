//! What is gone is missed, also when that which would tell of it is gone too.

use std::fs;
use std::path::Path;
use std::process::Command;

use crate::world::tools::must;
use crate::world::{Tree, World, args, files_below, flip};

/// Three nights, and what lists the objects of the first: its inventory root and its manifest.
fn three_nights() -> (World, Tree, Vec<std::path::PathBuf>) {
    let world = World::new();
    let tree = world.tree("data");
    tree.noise("large", 300_000, 1);
    world.push(&tree.root);
    let mut lists = world.objects("inventories");
    lists.extend(world.objects("manifests"));
    for night in 2..4 {
        tree.noise("large", 300_000, night);
        world.push(&tree.root);
    }
    (world, tree, lists)
}

fn remove(files: &[std::path::PathBuf]) {
    files.iter().for_each(|file| fs::remove_file(file).unwrap());
}

#[test]
fn snapshots_that_lost_all_that_lists_them_are_missed_and_no_alarm_is_taken_back() {
    let (world, _, _) = three_nights();
    flip(&world.objects("packs")[0], 100);
    world.run(args!["verify"]).exits(4);
    remove(&world.objects("inventories"));
    remove(&world.objects("manifests"));
    let verify = world.run(args!["verify"]).exits(4);
    verify.says("3 snapshots were complete here").says("inventories/");
    world.run(args!["status", "--check"]).exits(4).says("holds the records of 3 snapshots");
    world.run(args!["verify", "--depth", "list"]).exits(4);
    world.run(args!["prune", "plan", "--keep-last", "1"]).exits(4);
}

#[test]
fn a_snapshot_that_lost_its_lists_is_missed_however_many_were_dropped_and_made() {
    let (world, tree, mut lists) = three_nights();
    let push = |night: u64| {
        let before = [world.objects("inventories"), world.objects("manifests")].concat();
        tree.noise("large", 300_000, night);
        world.push(&tree.root);
        let after = [world.objects("inventories"), world.objects("manifests")].concat();
        after.into_iter().filter(|object| !before.contains(object)).collect::<Vec<_>>()
    };
    for night in 4..8 {
        lists = push(night);
    }
    world.run(args!["prune", "plan", "--keep-last", "2"]).ok();
    world.run(args!["prune", "apply", "--now"]).ok();
    world.run(args!["verify"]).ok();
    push(8);
    remove(&lists);
    world.run(args!["verify"]).exits(4).says("2 snapshots were complete here");
    push(9);
    world.run(args!["verify"]).exits(4).says("2 snapshots were complete here");
}

#[test]
fn a_snapshot_that_never_came_is_behind_and_no_damage() {
    let (world, tree, lists) = three_nights();
    // Nobody has ever looked: it may never have arrived.
    remove(&lists);
    world.run(args!["verify"]).exits(3).says("this copy holds its record and not its objects");
    world.run(args!["status", "--check"]).exits(3).says("holds the records of 1 snapshot");
    let first = world.snapshots()[0]["id"].as_str().unwrap()[..8].to_owned();
    world.run(args!["ls", first, "--identity", &world.identity]).exits(4).says("holds its record alone");
    drop(tree);
}

#[test]
fn what_may_belong_to_a_snapshot_whose_lists_are_gone_is_not_pruned() {
    let (world, _, lists) = three_nights();
    remove(&lists);
    for area in ["packs", "indexes", "inventories", "manifests"] {
        let touch = ["-type", "f", "-exec", "touch", "-d", "10 days ago", "{}", "+"];
        must(Command::new("find").arg(world.vault.join(area)).args(touch));
    }
    let packs = world.objects("packs");
    let plan = |more: &[std::ffi::OsString]| {
        let mut plan = args!["prune", "plan", "--keep-last", "20"];
        plan.extend_from_slice(more);
        world.run(plan)
    };
    plan(&[]).exits(3).says("nothing goes that may belong to them");
    world.run(args!["prune", "apply", "--now"]);
    assert_eq!(world.objects("packs"), packs);
    plan(&args!["--despite-damage"]).says("objects");
    world.run(args!["prune", "apply", "--now"]).ok();
    assert!(world.objects("packs").len() < packs.len(), "given up");
}

#[test]
fn a_part_that_was_read_names_the_damage_that_opening_found() {
    let (world, tree, _) = three_nights();
    tree.noise("other", 400_000, 9);
    world.push(&tree.root);
    let size = |path: &Path| fs::metadata(path).unwrap().len();
    let largest = world.objects("packs").into_iter().max_by_key(|pack| size(pack)).unwrap();
    flip(&largest, 1000);
    let name = largest.file_name().unwrap().to_string_lossy().into_owned();
    let sampled = args!["verify", "--depth", "opened", "--sample", "1%", "--identity", &world.identity];
    world.run(sampled).exits(4).says(&name).says("data/other");
    // The next push does not build on it.
    let pushed = world.push(&tree.root);
    assert!(pushed["stores"][0]["sent_bytes"].as_u64().unwrap() > 400_000, "{pushed}");
    world.restore("latest", &world.path("back"));
    assert!(!files_below(&world.path("back")).is_empty());
}

#[test]
fn what_lies_there_twice_is_no_fork() {
    let (world, tree, _) = three_nights();
    // The root's chain has two records.
    let root = world.identity.with_extension("root");
    world.run(args!["keys", "enrol", "station", "--root", root]).ok();
    for path in files_below(&world.vault) {
        let name = path.file_name().unwrap().to_string_lossy();
        // Anybody who may add a file can do this.
        fs::copy(&path, path.with_file_name(format!("{name}.1"))).unwrap();
    }
    world.push(&tree.root);
    world.verify("opened");
    world.run(args!["status", "--check"]).ok();
    let fresh = world.machine("fresh");
    let trust = world.root_key();
    fresh.run(args!["verify", "--from", &world.vault, "--trust", trust]).ok();
}

#[test]
fn a_key_that_signs_nothing_any_more_stops_nobody_when_it_rots() {
    let (world, tree, _) = three_nights();
    let agent =
        files_below(&world.agent.state.join("keys")).into_iter().find(|path| path.ends_with("agent-writer")).unwrap();
    fs::write(agent.with_file_name("station-writer.former-2"), "rotten").unwrap();
    tree.file("new", "x");
    world.push(&tree.root);
    world.run(args!["status", "--check"]).ok();
    world.verify("sealed");
}

#[test]
fn files_that_are_named_like_parity_are_nobodys_damage_and_hide_none() {
    let (world, _, _) = three_nights();
    let parity = world.vault.join("parity");
    fs::create_dir_all(&parity).unwrap();
    for bytes in ["18446744073709551615", "1125899906842624", "5"] {
        fs::write(parity.join(format!("{}-{bytes}", "ab".repeat(32))), "x").unwrap();
    }
    world.run(args!["verify"]).ok().says("nothing needs it");
    world.run(args!["verify", "--sample", "50%"]).ok();
    flip(&world.objects("packs")[0], 100);
    world.run(args!["verify"]).exits(4).says("packs/");
}

#[test]
fn a_copy_without_the_roots_chain_is_not_up_to_date() {
    let world = World::with_stores(&["a", "b"]);
    let tree = world.tree("data");
    tree.file("a", "1");
    world.push(&tree.root);
    let lacks = |code: i32| {
        let status = world.run(args!["status", "--check"]).exits(code);
        status.says("b: lacks 1 record of the root's chain, trust/").never_says("a: lacks");
    };
    fs::remove_dir_all(world.path("b").join("trust")).unwrap();
    lacks(4);
    world.run(args!["push", &tree.root]).exits(4).says("farkeep init --layout");
    world.run(args!["init", "--layout", world.path("b")]).ok();
    lacks(4);
    world.run(args!["push", &tree.root]).exits(3).says("is there again");
    world.run(args!["status", "--check"]).ok();
    // One that was away when the chain grew is behind.
    let (b, away) = (world.path("b"), world.path("away"));
    fs::rename(&b, &away).unwrap();
    let root = world.identity.with_extension("root");
    world.run(args!["keys", "enrol", "station", "--root", root, "--store", "a"]);
    fs::rename(&away, &b).unwrap();
    lacks(3);
    world.run(args!["push", &tree.root]).exits(3).says("is there again");
    world.run(args!["status", "--check"]).ok();
}
