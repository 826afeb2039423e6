//! The machine that pushed is lost: another becomes the agent of the same vault and goes on, and the lost one does not.

use std::ffi::OsString;
use std::fs;

use serde_json::Value;

use crate::world::clock::{at, missing_faketime};
use crate::world::{Machine, Tree, World, args, assert_same, needs, skipped};

/// A registry's machine with two nights in its vault, of content that does not compress.
fn two_nights() -> (World, Tree) {
    let world = World::bare();
    world.agent.configure("host = \"registry-1\"");
    world.init(&args!["--store", &world.vault]);
    let tree = world.tree("data");
    tree.noise("births", 3_000_000, 1);
    tree.ordinary(40, 1);
    world.push(&tree.root);
    tree.noise("deaths", 400_000, 2);
    world.push(&tree.root);
    (world, tree)
}

fn adopting(world: &World) -> Vec<OsString> {
    let root = world.identity.with_extension("root");
    args!["init", "--adopt", "--store", &world.vault, "--root", root, "--identity", &world.identity]
}

fn adopt(world: &World, machine: &Machine) -> Value {
    machine.run([adopting(world), args!["--json"]].concat()).ok().json()
}

fn push(machine: &Machine, tree: &Tree) -> Value {
    machine.run(args!["push", &tree.root, "--json"]).ok().json()["jobs"][0].clone()
}

fn new_bytes(receipt: &Value) -> u64 {
    receipt["new_bytes"].as_u64().unwrap()
}

#[test]
fn another_machine_goes_on_where_the_lost_one_stopped() {
    needs!("rsync", "python3", "b3sum", "age", "zstd");
    let (world, tree) = two_nights();
    let lost = world.agent.state.with_extension("lost");
    fs::rename(&world.agent.state, &lost).unwrap();

    let new = world.machine("new");
    let receipt = adopt(&world, &new);
    assert_eq!(receipt["before"][0]["until"], 2, "{receipt}");
    assert_eq!(receipt["series"][0]["host"], "registry-1", "{receipt}");
    assert!(fs::read_to_string(&new.config).unwrap().starts_with("host = \"registry-1\"\n"));
    tree.noise("marriages", 50_000, 3);
    let third = push(&new, &tree);
    assert!(new_bytes(&third) < 200_000, "what the vault holds was sent again: {third}");
    // The packs of the lost machine are listed for this one now: nothing hangs on what it remembers.
    fs::remove_dir_all(new.state.join("cache")).unwrap();
    tree.noise("divorces", 50_000, 4);
    let fourth = push(&new, &tree);
    assert!(new_bytes(&fourth) < 200_000, "what the vault holds was sent again: {fourth}");
    assert_eq!(fourth["findings"].as_array().unwrap().len(), 0, "{fourth}");

    // One series, four snapshots, one chain after the other.
    let snapshots = new.run(args!["snapshots", "--json"]).ok().json()["snapshots"].as_array().unwrap().clone();
    assert_eq!(snapshots.len(), 4);
    assert!(snapshots.iter().all(|snapshot| snapshot["host"] == "registry-1"), "{snapshots:?}");
    for depth in ["list", "sealed", "opened"] {
        new.run(args!["verify", "--depth", depth, "--identity", &world.identity]).ok();
    }
    new.run(args!["ledger", "verify"]).ok();
    new.run(args!["status"]).ok();
    let into = world.path("back");
    new.run(args!["restore", "latest", "--into", &into, "--identity", &world.identity]).ok();
    assert_same(&tree.root, &tree.below(&into));

    // Without farkeep they come in the same order.
    let mut list = std::process::Command::new("python3");
    list.args(["recover.py", "list", "--identity"]).arg(&world.identity).current_dir(&world.vault);
    let output = list.output().unwrap();
    let listed = String::from_utf8(output.stdout).unwrap() + &String::from_utf8_lossy(&output.stderr);
    let ids: Vec<&str> = listed.lines().filter_map(|line| line.split(' ').next()).collect();
    let same = snapshots.iter().zip(&ids).all(|(snapshot, id)| snapshot["id"].as_str().unwrap().starts_with(id));
    assert!(ids.len() == 4 && same, "{listed}");

    // The lost machine turns up again, and is not the agent any more.
    fs::rename(&lost, &world.agent.state).unwrap();
    world.run(args!["push", &tree.root]).exits(1).says("init --adopt");
    assert_eq!(world.run(args!["snapshots", "--json"]).ok().json()["snapshots"].as_array().unwrap().len(), 4);
    // Unless it is made so.
    adopt(&world, &world.agent);
    world.push(&tree.root);
    new.run(args!["push", &tree.root]).exits(1).says("init --adopt");
}

#[test]
fn keys_that_were_stolen_are_replaced_on_the_machine_itself() {
    let (world, tree) = two_nights();
    let thief = world.machine("thief");
    fs::create_dir_all(&thief.home).unwrap();
    let copied = std::process::Command::new("cp").arg("-a").args([&world.agent.state, &thief.state]).status().unwrap();
    assert!(copied.success());
    fs::copy(&world.agent.config, &thief.config).unwrap();

    world.run(adopting(&world)).ok().says("registry-1").says("custodian").says("take root key and identity away");
    assert_eq!(fs::read_to_string(&world.agent.config).unwrap().matches("[vault]").count(), 1);
    thief.run(args!["push", &tree.root]).exits(1);
    tree.noise("marriages", 50_000, 3);
    assert!(new_bytes(&push(&world.agent, &tree)) < 200_000);
    fs::remove_dir_all(world.agent.state.join("cache")).unwrap();
    assert!(new_bytes(&push(&world.agent, &tree)) < 200_000);
    world.verify("opened");
}

#[test]
fn what_was_taken_in_and_lost_again_is_sent_once_more_and_said() {
    let (world, tree) = two_nights();
    let new = world.machine("new");
    adopt(&world, &new);
    fs::remove_dir_all(new.state.join("cache")).unwrap();
    let third = push(&new, &tree);
    assert!(new_bytes(&third) > 3_000_000, "{third}");
    assert!(third["findings"].to_string().contains("agent before this one"), "{third}");
    let fourth = push(&new, &tree);
    assert!(new_bytes(&fourth) < 200_000 && fourth["findings"].as_array().unwrap().is_empty(), "{fourth}");
    world.verify("opened");
}

#[test]
fn without_the_right_keys_or_a_copy_everything_stays_as_it_was() {
    let (world, tree) = two_nights();
    let other = World::new();
    let before = world.objects("trust");
    let new = world.machine("new");
    let root = world.identity.with_extension("root");
    let with = |root: &std::path::Path, identity: &std::path::Path, store: &std::path::Path| {
        new.run(args!["init", "--adopt", "--store", store, "--root", root, "--identity", identity])
    };
    with(&root, &other.identity, &world.vault).exits(4);
    let bare = world.path("bare");
    let secret = |path| fs::read_to_string(path).unwrap().lines().last().unwrap().to_owned();
    fs::write(&bare, secret(&other.identity)).unwrap();
    with(&root, &bare, &world.vault).exits(1).says("does not open");
    with(&other.identity.with_extension("root"), &world.identity, &world.vault)
        .exits(2)
        .says("is no root key of this vault");
    with(&root, &world.identity, &world.path("nowhere")).exits(5);
    new.run(args!["init", "--adopt", "--store", &world.vault, "--root", &root]).exits(2).says("--identity");
    new.run(args!["init", "--store", &world.vault, "--identity", &world.identity]).exits(2);
    assert!(!new.config.exists(), "a configuration of nothing");
    assert!(!crate::world::files_below(&new.state).iter().any(|file| file.ends_with("agent-writer")));

    // On the agent itself, with one of two copies away: it still is the agent.
    let away = format!("[store.second]\nurl = \"{}\"\n", world.path("second").display());
    world.agent.configure(&away);
    let everywhere = args!["init", "--adopt", "--root", &root, "--identity", &world.identity];
    world.run(everywhere).exits(5);
    assert_eq!(world.objects("trust"), before);
    world.agent.reconfigure(|text| text.replace(&away, ""));
    world.push(&tree.root);
}

#[test]
fn what_the_new_machine_pushes_is_newer_whatever_its_clock_says() {
    if let Some(why) = missing_faketime() {
        return skipped(&why);
    }
    let (world, tree) = two_nights();
    let new = world.machine("new");
    let week_ago = "2026-11-15 02:30:00";
    at(&new, week_ago, adopting(&world)).ok();
    tree.file("register", "the new machine's");
    at(&new, week_ago, args!["push", &tree.root]).ok();
    new.run(args!["cat", "latest", tree.path("register"), "--identity", &world.identity]).ok().says("the new machine's");
    let newest = new.run(args!["snapshots", "--json"]).ok().json()["snapshots"].as_array().unwrap()[2].clone();
    // Nor does retention take it for the oldest.
    let plan = args!["prune", "plan", "--store", &world.vault, "--keep-last", "1", "--dry-run", "--json"];
    let plan = world.run(plan).ok().json();
    let kept: Vec<&Value> =
        plan["snapshots"].as_array().unwrap().iter().filter(|snapshot| snapshot["keep"] == true).collect();
    assert_eq!((kept.len(), &kept[0]["id"]), (1, &newest["id"]), "{plan:#}");
}
