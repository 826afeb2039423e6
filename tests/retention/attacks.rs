//! Plans turned against a vault: of another vault, of another copy, edited, replayed, replaced, signed by nobody.

use std::fs;
use std::path::Path;
use std::process::Command;

use super::history::{History, apply, plan};
use super::world::tools::must;
use super::world::{World, args, files_below};

/// A machine without the agent's state, where an enrolled custodian's key prunes copy `b` by rules of its own.
fn caretaker(world: &World) -> (super::world::Machine, std::path::PathBuf) {
    let key = world.path("custodian");
    must(Command::new("ssh-keygen").args(["-q", "-t", "ed25519", "-N", "", "-f"]).arg(&key));
    let root = world.identity.with_extension("root");
    world.run(args!["keys", "enrol", "custodian", key.with_extension("pub"), "--root", root]).ok();
    let machine = world.machine("caretaker");
    let pin = fs::read_to_string(&world.agent.config).unwrap();
    let series = world.snapshots()[0]["series"].as_str().unwrap().to_owned();
    machine.configure(&format!("{pin}\n[series.{series}]\nkeep = {{ last = 10, min_snapshots = 1 }}\n"));
    (machine, key)
}

#[test]
fn a_custodian_drops_nothing_that_its_rules_keep_whatever_plan_is_brought_to_it() {
    super::world::needs!("ssh-keygen");
    let history = two_copies(4);
    let world = &history.world;
    let (machine, key) = caretaker(world);
    let (a, b) = (world.path("a"), world.path("b"));
    plan(world, &["--store", "a", "--keep-last", "1"]);
    replay_pages(&a, &b);
    world.run(args!["sync", "b", "--from", "a", "--plain-directory"]).ok();
    age(&b);
    for _ in 0..2 {
        machine.run(args!["custodian", &b, "--key", &key, "--wait", "0s"]).ok();
    }
    assert_eq!(files_below(&b.join("manifests")).len(), 4);
    world.run(args!["verify", "--from", "b", "--depth", "opened", "--identity", &world.identity]).ok();
}

/// The names of the files of a folder.
fn names(dir: &Path) -> Vec<std::ffi::OsString> {
    files_below(dir).iter().map(|path| path.file_name().unwrap().to_owned()).collect()
}

/// Brings into copy `to` every page that lies in copy `from` alone: what the agent's key is enough for.
fn replay_pages(from: &Path, to: &Path) {
    let there = names(&to.join("inventories"));
    let mut brought = 0;
    for page in files_below(&from.join("inventories")) {
        let name = page.file_name().unwrap();
        if !there.contains(&name.to_owned()) {
            fs::copy(&page, to.join("inventories").join(name)).unwrap();
            brought += 1;
        }
    }
    assert!(brought > 0, "nothing to replay: this tests nothing");
}

/// Nights in two copies `a` and `b`.
fn two_copies(nights: u64) -> History {
    History::in_world(World::with_stores(&["a", "b"]), nights)
}

/// Everything in a copy was received days ago.
fn age(copy: &Path) {
    for path in files_below(copy) {
        must(Command::new("touch").args(["-d", "5 days ago"]).arg(path));
    }
}

#[test]
fn what_one_copy_dropped_is_not_taken_from_another_by_whoever_brings_its_pages_there() {
    let mut history = two_copies(4);
    let (a, b) = (history.world.path("a"), history.world.path("b"));
    plan(&history.world, &["--store", "a", "--keep-last", "1"]);
    history.world.run(args!["prune", "apply", "--store", "a", "--now"]).ok().says("3 snapshots dropped");
    replay_pages(&a, &b);
    // The next push brings the records of it to both copies; days later the other copy is pruned by its own rules.
    history.night(4);
    age(&b);
    let world = &history.world;
    let listed = world.run(args!["snapshots", "--from", "b", "--json"]).ok().json();
    assert_eq!(listed["snapshots"].as_array().unwrap().len(), 5, "none of them is gone");
    plan(world, &["--store", "b", "--keep-last", "10"]);
    world.run(args!["prune", "apply", "--store", "b", "--now"]).ok();
    world.run(args!["verify", "--from", "b", "--depth", "opened", "--identity", &world.identity]).ok();
    for (id, version) in &history.versions {
        let into = tempfile::tempdir_in(world.dir.path()).unwrap();
        world.run(args!["restore", id, "--from", "b", "--into", into.path(), "--identity", &world.identity]).ok();
        super::world::assert_same(&version.root, &history.data.below(into.path()));
    }
}

#[test]
fn a_plan_for_one_copy_is_not_applied_to_another() {
    let history = two_copies(4);
    let world = &history.world;
    let file = world.path("plan");
    world.run(args!["prune", "plan", "--store", "a", "--keep-last", "1", "--out", &file]).ok();
    world.run(args!["prune", "apply", &file, "--store", "b", "--now"]).exits(2).says("no plan for this copy");
    // Its pages and its record are brought there.
    replay_pages(&world.path("a"), &world.path("b"));
    world.run(args!["sync", "b", "--from", "a", "--plain-directory"]).ok();
    world.run(args!["prune", "apply", "--store", "b", "--now"]).exits(2).says("was made for");
    assert_eq!(files_below(&world.path("b/manifests")).len(), 4);
    // Nor does it stand in the way of the copy's own.
    plan(world, &["--store", "b", "--keep-last", "3"]);
    world.run(args!["prune", "apply", "--store", "b", "--now"]).ok().says("1 snapshot dropped");
    world.run(args!["prune", "apply", "--store", "a", "--now"]).ok().says("3 snapshots dropped");
    for store in ["a", "b"] {
        world.run(args!["verify", "--from", store, "--depth", "opened", "--identity", &world.identity]).ok();
    }
}

#[test]
fn plans_that_were_edited_replaced_replayed_or_made_for_another_vault_are_refused() {
    let history = History::of(4);
    let other = History::of(2);
    let world = &history.world;
    let (first, second, foreign) = (world.path("first"), world.path("second"), world.path("foreign"));
    other.world.run(args!["prune", "plan", "--keep-last", "1", "--out", &foreign]).ok();
    let apply_file = |file: &Path| world.run(args!["prune", "apply", file, "--store", &world.vault, "--now"]);
    let refused = |file: &Path, why: &str| apply_file(file).exits(2).says(why);
    refused(&foreign, "no plan for this copy");
    // Left to itself it looks where the plan says, and finds a vault of somebody else.
    world.run(args!["prune", "apply", &foreign, "--now"]).exits(4).says("no trust record is signed by the pinned root");

    world.run(args!["prune", "plan", "--keep-last", "2", "--out", &first]).ok();
    let edited = world.path("edited");
    let text = fs::read_to_string(&first).unwrap();
    fs::write(&edited, text.replacen("\"wait_secs\":259200", "\"wait_secs\":0", 1)).unwrap();
    assert_ne!(fs::read_to_string(&edited).unwrap(), text);
    refused(&edited, "no plan for this copy");
    // In the ledger itself: a record whose signature is none puts the ledger in doubt, and nothing is pruned then.
    let line = fs::read_to_string(&edited).unwrap();
    let hash = farkeep::crypto::hash::hash(line.split_inclusive('\n').next().unwrap().as_bytes());
    let genuine = world.objects("ledger").into_iter().find(|path| fs::read_to_string(path).unwrap() == text).unwrap();
    let name = genuine.file_name().unwrap().to_str().unwrap().to_owned();
    let (before, _) = name.rsplit_once('-').unwrap();
    let forged = world.vault.join("ledger").join(format!("{before}-{hash}.rec"));
    fs::write(&forged, &line).unwrap();
    world.run(args!["prune", "apply", "--now"]).exits(4).says("in doubt");
    fs::remove_file(&forged).unwrap();

    world.run(args!["prune", "plan", "--keep-last", "3", "--out", &second]).ok();
    refused(&first, "a later plan of the same custodian has replaced it");
    world.run(args!["prune", "apply", &second, "--now"]).ok().says("1 snapshot dropped");
    world.run(args!["prune", "apply", &second, "--now"]).ok().says("0 snapshots dropped");
    world.verify("opened");
    history.assert_restores(1..4);
}

#[test]
fn a_vault_set_back_to_before_it_was_pruned_is_noticed_and_not_pruned_again() {
    let history = History::of(3);
    let world = &history.world;
    let before = world.path("before");
    plan(world, &["--keep-last", "2"]);
    must(Command::new("cp").arg("-a").arg(&world.vault).arg(&before));
    apply(world);
    fs::remove_dir_all(&world.vault).unwrap();
    fs::rename(&before, &world.vault).unwrap();
    world.run(args!["prune", "apply", "--now"]).exits(4);
    assert_eq!(world.objects("manifests").len(), 3);
}
