//! The root's chain grows: stations and custodians are enrolled and retired, new epochs are sealed to other operators.

use std::ffi::OsString;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use crate::world::tools::must;
use crate::world::{Machine, Run, World, args, assert_same, files_below, flip, needs};

/// Two copies with one snapshot.
fn two_copies() -> World {
    let world = World::with_stores(&["a", "b"]);
    world.tree("data").ordinary(10, 1).noise("file", 200_000, 1);
    world.push(world.path("data"));
    world
}

/// `farkeep keys ...` on the agent, with the root key of the world.
fn keys(world: &World, what: Vec<OsString>) -> Run {
    world.run([args!["keys"], what, args!["--root", world.identity.with_extension("root")]].concat())
}

/// The public half of the identity in a file.
fn recipient(identity: &Path) -> String {
    let text = fs::read_to_string(identity).unwrap();
    let line = text.lines().find(|line| line.contains("age1")).unwrap();
    line[line.find("age1").unwrap()..].trim().to_owned()
}

/// A key pair made by hand.
fn key_pair(world: &World, name: &str) -> PathBuf {
    let key = world.path(name);
    must(Command::new("ssh-keygen").args(["-q", "-t", "ed25519", "-N", "", "-f"]).arg(&key));
    key
}

fn trust_records(world: &World, store: &str) -> usize {
    files_below(&world.path(store).join("trust")).len()
}

/// A machine with the agent's configuration and a state of its own.
fn colleague(world: &World, name: &str) -> Machine {
    let machine = world.machine(name);
    machine.configure(&fs::read_to_string(&world.agent.config).unwrap());
    machine
}

#[test]
fn a_station_is_enrolled_by_what_the_ledger_calls_it_and_its_restores_count() {
    let world = two_copies();
    let station = colleague(&world, "station");
    let restore = |into: &str| args!["restore", "latest", "--into", world.path(into), "--identity", &world.identity];
    station.run(restore("one")).ok();
    let shown = world.run(args!["ledger", "verify", "--from", "a"]).ok().says("not enrolled");
    let fingerprint = &shown.out[shown.out.find("SHA256:").unwrap()..][..50];
    station.run(args!["keys", "print"]).ok().says(fingerprint).says("not enrolled");

    keys(&world, args!["enrol", "station", fingerprint, "--name", "the desk"]).ok().says("the desk");
    for store in ["a", "b"] {
        assert_eq!(trust_records(&world, store), 2);
        world.run(args!["ledger", "verify", "--from", store]).ok().never_says("not enrolled");
    }
    station.run(restore("two")).ok();
    let shown = world.run(args!["ledger", "show", "--from", "a", "--kind", "restore", "--json"]).ok().json();
    let records = shown["records"].as_array().unwrap();
    assert_eq!(records.len(), 4);
    assert!(records.iter().all(|r| r["standing"] == "trusted" && r["writer"] == "the desk"), "{shown:#}");
    keys(&world, args!["enrol", "station", fingerprint]).exits(2).says("is enrolled already");
    // What it found in a directory that it called so is over with it: nobody else could say that it is right again.
    let pack = files_below(&world.path("a/packs")).remove(0);
    flip(&pack, 100);
    station.run(args!["verify", "--from", "a"]).exits(4);
    flip(&pack, 100);
    world.run(args!["status", "--check"]).exits(4).says("the desk");
    keys(&world, args!["retire", "the desk"]).ok();
    assert_ne!(world.run(args!["status", "--check"]).code, 4);
    let before = files_below(&world.path("a/ledger"));
    station.run(args!["verify", "--from", "a"]).ok().says("not on record").says("was retired");
    assert_eq!(files_below(&world.path("a/ledger")), before, "what a retired key signs would be an alarm to everybody");
    // Whoever had not heard of it goes on as before.
    world.push(world.path("data"));
    for store in ["a", "b"] {
        world.run(args!["verify", "--from", store, "--depth", "sealed"]).ok();
    }
}

#[test]
fn a_vault_gets_a_custodian_afterwards_here_or_elsewhere_and_loses_it_again() {
    let world = World::bare();
    let first = key_pair(&world, "first");
    world.agent.configure(&format!("[store.main]\nurl = \"{}\"\n", world.vault.display()));
    world.init(&args!["--custodian", first.with_extension("pub")]);
    let tree = world.tree("data");
    for night in 0..3 {
        tree.noise("file", 100_000, night);
        world.push(&tree.root);
    }
    let hold = args!["hold", "latest", "--until", "2099-01-01"];
    world.run(hold.clone()).exits(1).says("farkeep init");
    keys(&world, args!["enrol", "custodian"]).ok().says("may sign prune-plan");
    world.run(hold.clone()).ok();

    // Another machine, with a key that was made by hand.
    let second = key_pair(&world, "second");
    let caretaker = colleague(&world, "caretaker");
    let plan = args!["prune", "plan", "--keep-last", "1", "--key", &second];
    // A dry run leaves no key behind; else it is said where it stays.
    caretaker.run([plan.clone(), args!["--dry-run"]].concat()).ok().never_says("is kept");
    let kept = || files_below(&caretaker.state).into_iter().find(|path| path.ends_with("custodian-writer"));
    assert_eq!(kept(), None);
    let told = caretaker.run(plan.clone()).exits(1).says("does not trust").says("is kept on this machine");
    told.says(&kept().unwrap().parent().unwrap().display().to_string());
    keys(&world, args!["enrol", "custodian", second.with_extension("pub"), "--name", "night watch"]).ok();
    caretaker.run(plan.clone()).ok().says("2 snapshots to drop").never_says("is kept");
    caretaker.run(args!["prune", "apply", "--now", "--key", &second]).ok().says("2 snapshots dropped");
    caretaker.run(args!["hold", "latest", "--until", "30d", "--key", &second]).ok();
    caretaker.run(args!["hold", "latest", "--until", "30d", "--key", &first]).exits(2).says("another custodian's key");

    keys(&world, args!["retire", "nobody"]).exits(2).says("night watch");
    keys(&world, args!["retire", "night watch"]).ok().says("is retired");
    caretaker.run(hold.clone()).exits(1).says("does not trust");
    keys(&world, args!["enrol", "custodian", second.with_extension("pub")]).exits(2).says("was retired");
    // What it did counts, and nobody alarms.
    assert_eq!(world.snapshots().len(), 1);
    world.run(args!["ledger", "verify"]).ok();
    world.push(&tree.root);
    world.verify("opened");
    world.run(args!["keys", "print"]).ok().says("night watch").says("retired after its record");
}

#[test]
fn what_one_custodian_drops_from_one_copy_is_not_dropped_from_another() {
    let world = two_copies();
    let night = |night: u64| {
        world.tree("data").noise("file", 100_000, night);
        world.push(world.path("data"));
    };
    (2..5).for_each(night);
    let second = key_pair(&world, "second");
    keys(&world, args!["enrol", "custodian", second.with_extension("pub")]).ok();
    let caretaker = colleague(&world, "caretaker");

    // The first word of each: what tells the copies apart must not be the same.
    world.run(args!["prune", "plan", "--store", "b", "--keep-last", "2"]).ok();
    caretaker.run(args!["prune", "plan", "--store", "a", "--keep-last", "2", "--key", &second]).ok();
    caretaker.run(args!["prune", "apply", "--store", "a", "--now", "--key", &second]).ok().says("2 snapshots dropped");
    (5..8).for_each(night);
    let listed = world.run(args!["snapshots", "--from", "b"]).ok();
    assert!(!listed.out.contains("dropped"), "{}", listed.out);
    for store in ["a", "b"] {
        world.run(args!["verify", "--from", store, "--depth", "sealed"]).ok();
    }
}

#[test]
fn after_a_new_epoch_the_old_identity_opens_what_was_and_the_new_one_what_comes() {
    needs!("rsync");
    let (world, other) = (two_copies(), World::new());
    let third = world.path("third");
    let sync = args!["sync", &third, "--from", "a", "--plain-directory"];
    world.run(sync.clone()).ok();
    let (old, new) = (&world.identity, &other.identity);
    let kept = world.path("kept");
    must(Command::new("cp").arg("-a").arg(world.path("data")).arg(&kept));
    let epoch = args!["new-epoch", "--recipient", recipient(new)];
    // What comes is built on what was: whoever opens the one must open the other.
    keys(&world, epoch.clone()).exits(2).says("--identity").says(&recipient(old));
    assert_eq!(trust_records(&world, "a"), 1);
    keys(&world, [epoch, args!["--identity", old]].concat()).ok().says("epoch 2").says(&recipient(new));

    let tree = world.tree("data");
    tree.noise("further", 100_000, 9);
    world.push(&tree.root);
    world.run(sync).ok();
    let ids: Vec<String> = world.snapshots().iter().map(|snapshot| snapshot["id"].as_str().unwrap().to_owned()).collect();
    let mut number = 0;
    let mut restore = |store: &Path, id: &str, identity: &Path, source: Option<&Path>| {
        number += 1;
        let into = world.path(&format!("back{number}"));
        let run = world.run(args!["restore", id, "--from", store, "--into", &into, "--identity", identity]);
        if let Some(source) = source {
            run.ok();
            return assert_same(source, &tree.below(&into));
        }
        run.exits(1).says("epoch 2").says(&recipient(new));
        assert!(!into.exists());
    };
    for store in [world.path("a"), world.path("b"), third] {
        restore(&store, &ids[0], old, Some(&kept));
        restore(&store, &ids[0], new, Some(&kept));
        restore(&store, &ids[1], new, Some(&tree.root));
        restore(&store, &ids[1], old, None);
        let verify = |identity| args!["verify", "--from", &store, "--depth", "opened", "--identity", identity];
        world.run(verify(new)).ok();
        world.run(verify(old)).exits(3).says("was not opened").says("epoch 2");
    }
    world.run(args!["keys", "print"]).ok().says("epoch 2 opens for").says(&recipient(old));
}

#[test]
fn only_the_vaults_own_root_changes_anything_and_every_copy_must_hear_of_it() {
    let (world, other) = (two_copies(), World::new());
    let stranger = other.identity.with_extension("root");
    let key = key_pair(&world, "key").with_extension("pub");
    let enrol = args!["keys", "enrol", "station", &key, "--root"];
    world.run([enrol.clone(), args![&stranger]].concat()).exits(2).says("no root key of this vault");
    world.run([enrol.clone(), args![&key]].concat()).exits(2).says("--root");
    let epoch = args!["keys", "new-epoch", "--recipient", recipient(&other.identity), "--identity", &world.identity];
    world.run([epoch, args!["--root", &stranger]].concat()).exits(2).says("no root key");

    fs::rename(world.path("b"), world.path("away")).unwrap();
    world.run([enrol.clone(), args![world.identity.with_extension("root")]].concat()).exits(5);
    fs::rename(world.path("away"), world.path("b")).unwrap();
    for store in ["a", "b"] {
        assert_eq!(trust_records(&world, store), 1, "{store}: something was signed");
    }
    keys(&world, args!["retire", "agent@"]).exits(2);
    world.push(world.path("data"));
}

#[test]
fn a_root_key_with_a_passphrase_is_opened_for_the_moment() {
    let world = World::bare();
    let (right, wrong) = (world.path("right"), world.path("wrong"));
    fs::write(&right, "correct horse\n").unwrap();
    fs::write(&wrong, "battery staple\n").unwrap();
    let init =
        args!["init", "--store", &world.vault, "--identity-out", &world.identity, "--yes", "--passphrase-file", &right];
    world.run(init).ok();
    let key = key_pair(&world, "key").with_extension("pub");
    let enrol = |more: Vec<OsString>| keys(&world, [args!["enrol", "station", &key], more].concat());
    enrol(args![]).exits(2).says("--passphrase-fd");
    enrol(args!["--passphrase-file", &wrong]).exits(1).says("wrong passphrase");
    enrol(args!["--passphrase-file", &right]).ok();
    for file in files_below(&world.agent.state) {
        let text = fs::read(&file).unwrap();
        let root = fs::read_to_string(world.root_key()).unwrap();
        let blob = root.split_whitespace().nth(1).unwrap();
        let is_record = file.to_string_lossy().contains("/ratchet/");
        assert!(is_record || !String::from_utf8_lossy(&text).contains(blob), "{} holds the root's key", file.display());
    }
}
