//! Somebody has a copy of what a machine of the vault held, and signs with its keys: before another takes its place, and after.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use farkeep::cli::config::Config;
use farkeep::crypto::sign::SigningKey;
use farkeep::format::record::Head;
use farkeep::model::ids::ObjectHash;

use crate::adopt::{adopting, nights};
use crate::forge::{Forge, entry, file};
use crate::world::tools::must;
use crate::world::{Machine, World, args, assert_same, files_below};

/// A machine with all that the agent's has now.
fn stolen(world: &World) -> Machine {
    let thief = world.machine("thief");
    must(Command::new("cp").arg("-a").args([&world.agent.state, &thief.state]));
    fs::copy(&world.agent.config, &thief.config).unwrap();
    thief
}

/// Where a machine keeps keys or records of its vault.
fn part(machine: &Machine, name: &str) -> PathBuf {
    machine.state.join(name).join(Config::load(&machine.config).unwrap().vault.unwrap().to_string())
}

/// So many snapshots of what a thief likes.
fn sign(forge: &Forge, snapshots: usize) {
    for number in 0..snapshots {
        let content = format!("what the thief likes, {number}");
        let lines = [entry("dir", "a"), file(forge, "a/file", content.as_bytes())];
        forge.snapshot(&lines, &[content.into_bytes()]);
    }
}

/// Has the next record of a writer follow one that nobody has ever seen.
fn leap(ledger: &Path, writer: &str, after: u64) {
    fs::write(ledger.join(format!("{writer}-{after}-{}.rec", "ab".repeat(32))), b"").unwrap();
}

#[test]
fn a_key_that_was_retired_makes_nothing_that_counts() {
    let world = World::new();
    nights(&world, &world.agent, 0..3);
    let new = world.machine("new");
    new.run(adopting(&world)).ok();
    let tree = nights(&world, &new, 3..4);
    let ids = |machine: &Machine| -> Vec<String> {
        let listed: serde_json::Value = serde_json::from_str(&machine.run(args!["snapshots", "--json"]).out).unwrap();
        let listed = listed["result"]["snapshots"].as_array().unwrap();
        listed.iter().map(|one| one["id"].as_str().unwrap().to_owned()).collect()
    };
    let honest = ids(&new);
    assert_eq!(honest.len(), 4);
    // Whoever has the old keys signs what he likes with numbers that the old agent has used, and claims to have known what comes
    // only later.
    fs::remove_dir_all(world.agent.state.join("ledger")).unwrap();
    let mut forge = Forge::new(&world);
    forge.trust = Head { seq: 999, hash: ObjectHash([9; 32]) };
    sign(&forge, 3);
    assert_eq!(ids(&new), honest, "a forged one is listed, or the order is another");
    // That somebody still signs with it is said, and stops nothing.
    new.run(args!["snapshots"]).ok().says("does not count");
    new.run(args!["verify"]).ok();
    new.run(args!["ledger", "verify"]).ok().says("does not count");
    let into = world.path("back");
    new.run(args!["restore", "latest", "--into", &into, "--identity", &world.identity]).ok();
    assert_same(&tree.root, &tree.below(&into));
}

#[test]
fn a_custodians_key_that_was_stolen_too_is_replaced() {
    let world = World::new();
    let tree = nights(&world, &world.agent, 0..3);
    world.run(adopting(&world)).ok();
    let root = world.identity.with_extension("root");
    let printed = world.run(args!["keys", "print", "--json"]).ok().json();
    let is_custodian = |writer: &&serde_json::Value| writer["name"].as_str().unwrap().starts_with("custodian");
    let old = printed["writers"].as_array().unwrap().iter().find(is_custodian).unwrap()["name"].as_str().unwrap().to_owned();
    let planned = world.run(args!["prune", "plan", "--store", &world.vault, "--keep-last", "1", "--json"]).ok().json();
    world.run(args!["keys", "retire", &old, "--root", &root]).ok();
    world.run(args!["prune", "plan", "--store", &world.vault, "--keep-last", "1"]).exits(1);
    world.run(args!["keys", "enrol", "custodian", "--name", "new custodian", "--root", &root]).ok();
    // What the thief may have planned is not carried out by whoever comes after him.
    let plan = planned["record"].as_str().unwrap().rsplit('-').next().unwrap()[..8].to_owned();
    world.run(args!["prune", "apply", plan, "--store", &world.vault, "--now"]).exits(2).says("was retired since");
    world.run(args!["prune", "apply", "--store", &world.vault, "--now"]);
    assert_eq!(world.snapshots().len(), 3);
    world.run(args!["prune", "plan", "--store", &world.vault, "--keep-last", "1"]).ok();
    world.run(args!["prune", "apply", "--store", &world.vault, "--now"]).ok();
    assert_eq!(world.snapshots().len(), 1);
    world.run(args!["push", &tree.root]).ok();
    world.verify("opened");
}

/// What a thief of the agent's keys signs: so many snapshots of his own, from the first number on, or after a number of his choice.
fn steal_and_sign(world: &World, snapshots: usize, after: Option<u64>) {
    let thief = stolen(world);
    let ledger = part(&thief, "ledger");
    let own = files_below(&ledger).remove(0);
    let writer = own.file_name().unwrap().to_str().unwrap().split('-').next().unwrap().to_owned();
    fs::remove_dir_all(&ledger).unwrap();
    fs::create_dir(&ledger).unwrap();
    if let Some(after) = after {
        leap(&ledger, &writer, after);
    }
    sign(&Forge::of(&thief, &world.vault), snapshots);
    fs::remove_dir_all(&thief.home).unwrap();
}

#[test]
fn a_thief_does_not_decide_where_the_chain_of_the_agent_ends() {
    for (snapshots, after) in [(5, None), (1, Some(999_999))] {
        let world = World::new();
        nights(&world, &world.agent, 0..3);
        let last = world.snapshots()[2]["id"].as_str().unwrap()[..8].to_owned();
        steal_and_sign(&world, snapshots, after);
        let trust = world.objects("trust");
        let new = world.machine("new");
        let why = if after.is_some() { "not one chain" } else { "more than one holder of its key" };
        new.run(adopting(&world)).exits(1).says(why).says(&format!("3-{last}"));
        assert_eq!(world.objects("trust"), trust);
        new.run([adopting(&world), args!["--until", format!("3-{last}")]].concat()).ok();
        nights(&world, &new, 3..4);
        let listed = new.run(args!["snapshots", "--json"]).ok().json()["snapshots"].as_array().unwrap().clone();
        let forged = listed.iter().filter(|one| one["job"] == "forged").count();
        assert_eq!((listed.len(), forged), (4, 0), "{listed:?}");
        // He goes on, and nothing of it counts.
        steal_and_sign(&world, 5, None);
        let root = world.identity.with_extension("root");
        new.run(args!["keys", "enrol", "custodian", "--root", root]).ok();
        new.run(args!["prune", "plan", "--store", &world.vault, "--keep-last", "10"])
            .ok()
            .says("keys signed which were retired");
        new.run(args!["prune", "apply", "--store", &world.vault, "--now"]).ok();
        new.run(args!["verify", "--depth", "opened", "--identity", &world.identity]).ok();
        assert_eq!(new.run(args!["snapshots", "--json"]).ok().json()["snapshots"].as_array().unwrap().len(), 4);
        // A copy that is made now has none of it, and lacks nothing.
        let copy = world.path("copy");
        new.run(args!["sync", &copy, "--from", &world.vault, "--plain-directory"]).ok();
        new.run(args!["ledger", "verify", "--from", &copy]).ok();
        new.run(args!["verify", "--from", &copy, "--depth", "opened", "--identity", &world.identity]).ok();
    }
}

#[test]
fn a_stolen_stations_key_keeps_no_restore_from_being_made() {
    let world = World::new();
    let tree = nights(&world, &world.agent, 0..1);
    let restore = |into: &str| {
        let into = world.path(into);
        let run = world.run(args!["restore", "latest", "--into", &into, "--identity", &world.identity]);
        assert_same(&tree.root, &tree.below(&into));
        run
    };
    restore("one").ok();
    // The thief signs a record of the station with a number far ahead.
    let thief = stolen(&world);
    let (keys, ledger) = (part(&thief, "keys"), part(&thief, "ledger"));
    fs::rename(keys.join("station-writer"), keys.join("agent-writer")).unwrap();
    let key = SigningKey::from_openssh(&fs::read_to_string(keys.join("agent-writer")).unwrap()).unwrap();
    leap(&ledger, &key.verifier().writer().to_string(), 99);
    Forge::of(&thief, &world.vault).snapshot(&[entry("dir", "a")], &[]);

    let before = world.objects("ledger").len();
    restore("two").exits(4).says("a new one signs from now on");
    assert_eq!(world.objects("ledger").len(), before + 2, "intent and outcome");
    restore("three").ok();
}

#[test]
fn a_branch_as_long_as_what_was_seen_is_not_taken_for_it() {
    let world = World::new();
    nights(&world, &world.agent, 0..3);
    let honest = world.objects("ledger");
    // A custodian has signed what it saw.
    let last = world.snapshots()[2]["id"].as_str().unwrap().to_owned();
    world.run(args!["hold", last, "--until", "2099-01-01"]).ok();
    steal_and_sign(&world, 3, None);
    // And the store's administrator takes the honest records away.
    honest.iter().for_each(|record| fs::remove_file(record).unwrap());
    world.machine("new").run(adopting(&world)).exits(1).says("was seen, and does not lie on the chain");
    // The machine itself has its own.
    world.run(adopting(&world)).exits(4).says("rolled back");
}

#[test]
fn a_fork_of_the_stations_own_chain_makes_a_new_key() {
    let world = World::new();
    nights(&world, &world.agent, 0..1);
    let copy = world.path("copy");
    world.run(args!["sync", &copy, "--from", &world.vault, "--plain-directory"]).ok();
    let restore = |machine: &Machine, from: &Path, into: &str| {
        let into = world.path(into);
        let all = args!["restore", "latest", "--from", from, "--into", into, "--identity", &world.identity];
        machine.run(all)
    };
    restore(&world.agent, &world.vault, "one").ok();
    let thief = stolen(&world);
    restore(&thief, &world.vault, "two").ok();
    restore(&world.agent, &copy, "three").ok();
    restore(&world.agent, &world.vault, "four").exits(4).says("a new one signs from now on");
    restore(&world.agent, &world.vault, "five").ok();
    // What the key before had signed went there too: every restore is on record wherever one can be.
    let all = world.objects("ledger");
    let brought = |record: &PathBuf| all.iter().any(|there| there.file_name() == record.file_name());
    assert!(files_below(&copy.join("ledger")).iter().all(brought));
}
