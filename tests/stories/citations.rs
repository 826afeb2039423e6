//! A record names the others that its writer had seen: where it goes they go first, and the record of a snapshot goes nowhere
//! before the snapshot.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use crate::world::background::until;
use crate::world::tools::must;
use crate::world::{Running, World, args, files_below, flip};

/// Two copies with one snapshot.
fn two_copies() -> World {
    let world = World::with_stores(&["a", "b"]);
    world.tree("data").noise("file", 50_000, 1);
    world.push(world.path("data"));
    world
}

/// A machine that has never seen the vault finds nothing wrong with the ledger of a copy.
#[track_caller]
fn assert_sound(world: &World, store: &str) {
    let reader = world.machine(&format!("reader-of-{store}"));
    let from = args!["--from", world.path(store), "--trust", world.root_key()];
    reader.run([args!["ledger", "verify"], from.clone()].concat()).ok();
    reader.run([args!["verify", "--depth", "list"], from].concat()).ok();
    fs::remove_dir_all(&reader.home).unwrap();
}

fn records_in(world: &World, store: &str) -> Vec<PathBuf> {
    files_below(&world.path(store).join("ledger"))
}

#[test]
fn what_this_machine_signed_on_one_copy_goes_to_another_before_what_cites_it() {
    let world = two_copies();
    let id = world.snapshots()[0]["id"].as_str().unwrap().to_owned();
    // The custodian's first record cites a verification that only one copy holds; its second is made on the other copy.
    world.run(args!["verify", "--from", "a", "--depth", "sealed"]).ok();
    world.run(args!["hold", &id, "--from", "a", "--until", "2099-01-01"]).ok();
    world.run(args!["hold", &id, "--from", "b", "--until", "2098-01-01"]).ok();
    assert_sound(&world, "b");
    world.run(args!["prune", "plan", "--store", "b", "--keep-last", "1"]).ok();
    // A restore's records are signed by a third key.
    world.run(args!["verify", "--from", "a", "--depth", "sealed"]).ok();
    let restore = args!["restore", "latest", "--from", "b", "--into", world.path("back"), "--identity", &world.identity];
    world.run(restore).ok();
    world.push(world.path("data"));
    assert_sound(&world, "a");
    assert_sound(&world, "b");
}

#[test]
fn what_another_machine_signed_is_carried_along_by_whoever_has_read_it() {
    let world = World::bare();
    for name in ["a", "b"] {
        world.agent.configure(&format!("[store.{name}]\nurl = \"{}\"\n", world.path(name).display()));
    }
    let key = world.path("caretaker-key");
    must(Command::new("ssh-keygen").args(["-q", "-t", "ed25519", "-N", "", "-f"]).arg(&key));
    world.init(&args!["--custodian", key.with_extension("pub")]);
    let tree = world.tree("data");
    tree.noise("file", 50_000, 1);
    world.push(&tree.root);
    let caretaker = world.machine("caretaker");
    caretaker.configure(&fs::read_to_string(&world.agent.config).unwrap());
    caretaker.run(args!["custodian", world.path("a"), "--key", &key]).ok();
    let carried = files_below(&caretaker.state);
    let signed = carried.iter().filter(|path| path.to_string_lossy().contains("/ledger/") && path.extension().is_some());
    let signed: Vec<_> = signed.map(|path| path.file_name().unwrap().to_owned()).collect();
    assert!(!signed.is_empty());

    world.run(args!["verify", "--from", "a", "--depth", "sealed"]).ok();
    fs::rename(world.path("a"), world.path("away")).unwrap();
    tree.noise("more", 1000, 2);
    world.run(args!["push", &tree.root]).exits(3);
    assert_sound(&world, "b");
    for name in &signed {
        let there = world.path("b/ledger").join(name);
        assert!(there.exists(), "{} did not go along", there.display());
    }
}

#[test]
fn a_verification_brings_a_copy_no_record_of_a_snapshot_that_it_lacks() {
    let world = two_copies();
    let tree = world.tree("data");
    fs::rename(world.path("b"), world.path("away")).unwrap();
    tree.noise("more", 50_000, 2);
    world.run(args!["push", &tree.root]).exits(3);
    fs::rename(world.path("away"), world.path("b")).unwrap();
    let before = records_in(&world, "b");
    for depth in ["sealed", "list", "sealed"] {
        world.run(args!["verify", "--from", "b", "--depth", depth]).ok().never_says("brings them");
    }
    world.run(args!["restore", "latest", "--from", "b", "--into", world.path("back"), "--identity", &world.identity]).ok();
    let snapshots = |records: &[PathBuf]| records.iter().filter(|path| is_snapshot(path)).count();
    assert_eq!(snapshots(&records_in(&world, "b")), snapshots(&before));
    assert_sound(&world, "b");

    // What was found there is known all the same: the next sync heals it unasked.
    let pack = files_below(&world.path("b/packs")).remove(0);
    flip(&pack, 300);
    world.run(args!["verify", "--from", "b", "--depth", "sealed"]).exits(4);
    let synced = world.run(args!["sync", "b", "--from", "a", "--plain-directory", "--json"]).ok().json();
    assert_eq!(synced["healed"].as_array().unwrap().len(), 1, "{synced:#}");
    world.run(args!["verify", "--from", "b", "--depth", "sealed"]).ok();
    assert_sound(&world, "b");
}

fn is_snapshot(record: &Path) -> bool {
    fs::read_to_string(record).unwrap().contains("\"kind\":\"snapshot\"")
}

#[test]
fn a_trust_record_that_a_copy_lost_is_sent_again_and_said() {
    let world = World::new();
    let tree = world.tree("data");
    tree.file("file", "content");
    world.push(&tree.root);
    let record = files_below(&world.path("vault/trust")).remove(0);
    let whole = fs::read(&record).unwrap();
    for harm in ["removed", "torn"] {
        fs::remove_file(&record).unwrap();
        if harm == "torn" {
            fs::write(&record, &whole[..whole.len() / 2]).unwrap();
        }
        let name = record.file_name().unwrap().to_str().unwrap();
        world.run(args!["push", &tree.root]).exits(3).says(name).says("is there again");
        let reader = world.machine(&format!("reader-{harm}"));
        let trust = args!["--from", &world.vault, "--trust", world.root_key()];
        reader.run([args!["verify", "--depth", "sealed"], trust].concat()).ok();
        world.push(&tree.root);
    }
}

#[test]
fn a_writer_that_nobody_enrolled_is_told_of_once() {
    let world = two_copies();
    for name in ["one", "two"] {
        let restore = args!["restore", "latest", "--from", "a", "--into", world.path(name), "--identity", &world.identity];
        world.run(restore).ok();
    }
    let shown = world.run(args!["ledger", "verify", "--from", "a"]).ok();
    assert_eq!(shown.out.matches("not enrolled").count(), 1, "{}", shown.out);
    shown.says("restore-intent, restore-outcome records (4) by a writer that is not enrolled");
}

#[test]
fn a_verification_beside_a_push_leaves_no_hole_in_the_chain_of_another_copy() {
    let world = two_copies();
    let (go, waits) = (world.path("go"), world.path("waits"));
    let script = format!("touch {}; while [ ! -e {} ]; do sleep 0.02; done; echo done", waits.display(), go.display());
    world.agent.configure(&format!(
        "[job.dump]\n[[job.dump.source]]\nname = \"dump\"\nkind = \"command\"\ncommand = [\"sh\", \"-c\", \"{script}\"]\n"
    ));
    let push = Running::start(&world.agent, args!["push", "dump"]);
    until("the source is asked", || waits.exists());
    world.run(args!["verify", "--from", "a", "--depth", "sealed"]).ok();
    fs::write(&go, "").unwrap();
    push.wait().ok();
    for store in ["a", "b"] {
        assert_sound(&world, store);
    }
    world.run(args!["verify", "--from", "b", "--depth", "sealed"]).ok();
    assert_eq!(records_in(&world, "a").len(), records_in(&world, "b").len() - 1, "but for the last verification");
}
