//! Local state that lies: no record ever names an object that is not there.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use farkeep::cli::config::Config;
use farkeep::state::StateDir;
use farkeep::state::ratchet::Ratchet;

use crate::rounds;
use crate::world::tools::must;
use crate::world::{Random, World, args, assert_same, files_below, flip};

fn copy(from: &Path, to: &Path) {
    let _ = fs::remove_dir_all(to);
    must(Command::new("cp").arg("-a").arg(from).arg(to));
}

/// The stored bytes of an object, under its name or a suffix.
fn stored(vault: &Path, name: &str) -> Option<Vec<u8>> {
    let names = std::iter::once(name.to_owned()).chain((1..10).map(|n| format!("{name}.{n}")));
    names.into_iter().find_map(|name| fs::read(vault.join(name)).ok())
}

/// Every object that the newest snapshot's record names, through its inventory, lies in the vault and is whole.
#[track_caller]
fn newest_is_complete(world: &World, what: &str) {
    let show = world.run(args!["ledger", "show", "--kind", "snapshot", "--json"]).json();
    let newest = show["records"].as_array().unwrap().last().unwrap().clone();
    let name = |field: &str| newest["body"][field].as_str().unwrap().to_owned();
    let root = stored(&world.vault, &name("inventory")).unwrap_or_else(|| panic!("{what}: no inventory"));
    let lines = |bytes: Vec<u8>| {
        let text = String::from_utf8(bytes).unwrap();
        text.lines()
            .map(|line| line.split_once("  ").unwrap())
            .map(|(a, b)| (a.to_owned(), b.to_owned()))
            .collect::<Vec<_>>()
    };
    let mut seen = 0;
    for (_, page) in lines(root) {
        let page = stored(&world.vault, &page).unwrap_or_else(|| panic!("{what}: page {page} is missing"));
        for (hash, name) in lines(page) {
            let bytes =
                stored(&world.vault, &name).unwrap_or_else(|| panic!("{what}: the record names {name}, which is not there"));
            assert_eq!(farkeep::crypto::hash::hash(&bytes).to_string(), hash, "{what}: {name}");
            seen += 1;
        }
    }
    assert!(stored(&world.vault, &name("manifest")).is_some() && seen > 5, "{what}: {seen} objects");
}

/// The newest snapshot restores into what was pushed.
fn newest_restores(world: &World, number: usize) {
    let back = world.path(&format!("back{number}"));
    world.run(args!["restore", "latest", "--into", &back, "--identity", &world.identity]).ok();
    assert_same(&world.path("data"), &world.tree("data").below(&back));
    fs::remove_dir_all(&back).unwrap();
}

#[test]
fn objects_that_the_vault_lost_are_sent_again() {
    let world = World::new();
    let tree = world.tree("data");
    tree.ordinary(60, 1).noise("noise", 300_000, 1);
    world.push(&tree.root);
    let mut random = Random::new(20);
    for round in 0..rounds(100) as usize {
        tree.noise(&format!("new{round}"), 20_000, round as u64);
        // From one object to all of some area: what the local index says of them is a lie now.
        let area = *random.pick(&["packs", "packs", "indexes", "manifests", "inventories"]);
        let objects = world.objects(area);
        let lost: Vec<PathBuf> = objects.iter().filter(|_| random.below(3) == 0).cloned().collect();
        lost.iter().for_each(|path| fs::remove_file(path).unwrap());
        let run = world.run(args!["push", &tree.root, "--json"]);
        assert!([0, 3].contains(&run.code), "round {round}, {} of {area} lost: {}\n{}", lost.len(), run.err, run.out);
        newest_is_complete(&world, &format!("round {round}, {} of {area} lost", lost.len()));
        newest_restores(&world, round);
    }
}

#[test]
fn one_lost_object_of_a_page_that_is_needed_otherwise_does_not_end_all_pushes() {
    let world = World::new();
    let tree = world.tree("data");
    // Each night adds a pack that stays needed, until a page lists many of them.
    for night in 0..45 {
        tree.noise(&format!("night{night}"), 30_000, night);
        world.push(&tree.root);
    }
    let oldest_first = |area: &str| {
        let mut objects = world.objects(area);
        objects.sort_by_key(|path| fs::metadata(path).unwrap().modified().unwrap());
        objects
    };
    for (number, area) in ["packs", "inventories"].into_iter().enumerate() {
        fs::remove_file(&oldest_first(area)[number * 60]).unwrap();
        tree.file("changed", format!("{number}"));
        world.push(&tree.root);
        newest_is_complete(&world, area);
        newest_restores(&world, number);
    }
}

#[test]
fn a_lost_recovery_page_and_key_come_back_and_a_key_lost_for_good_ends_no_push() {
    let world = World::new();
    let tree = world.tree("data");
    tree.noise("file", 50_000, 1);
    world.push(&tree.root);
    let plain = ["RECOVER.md", "recover.py"].map(|name| world.vault.join(name));
    let before = plain.each_ref().map(|path| fs::read(path).unwrap());
    plain.iter().for_each(|path| fs::remove_file(path).unwrap());
    world.push(&tree.root);
    assert_eq!(plain.each_ref().map(|path| fs::read(path).unwrap()), before);
    let key = world.objects("keys").remove(0);
    let name = key.file_name().unwrap().to_str().unwrap().to_owned();
    let kept = fs::read(&key).unwrap();
    fs::remove_file(&key).unwrap();
    world.run(args!["push", &tree.root]).exits(3).says(&name).says("is there again");
    assert_eq!(fs::read(&key).unwrap(), kept);
    // What this machine lost too nobody here can bring.
    let ours = crate::world::files_below(&world.agent.state).into_iter();
    ours.filter(|path| path.to_string_lossy().ends_with(&name)).for_each(|path| fs::remove_file(path).unwrap());
    fs::remove_file(&key).unwrap();
    tree.noise("file", 50_000, 2);
    world.run(args!["push", &tree.root]).exits(4).says(&name).says("sync");
    fs::write(&key, kept).unwrap();
    world.push(&tree.root);
    newest_restores(&world, 0);
    assert_eq!(world.snapshots().len(), 5);
}

#[test]
fn torn_objects_are_not_believed_either() {
    let world = World::new();
    let tree = world.tree("data");
    tree.ordinary(40, 1).noise("noise", 300_000, 1);
    world.push(&tree.root);
    for (round, area) in ["packs", "indexes", "packs"].into_iter().enumerate() {
        for path in world.objects(area) {
            let bytes = fs::metadata(&path).unwrap().len();
            fs::File::options().write(true).open(&path).unwrap().set_len(bytes / 2).unwrap();
        }
        tree.noise(&format!("new{round}"), 20_000, round as u64);
        let run = world.run(args!["push", &tree.root, "--json"]);
        assert!([0, 3].contains(&run.code), "{area}: {}\n{}", run.err, run.out);
        newest_restores(&world, round);
    }
}

#[test]
fn caches_can_be_deleted_at_any_time() {
    let (world, tree) = World::pushed(60);
    for round in 0..3 {
        let cache = world.agent.state.join("cache");
        let files = files_below(&cache);
        match round {
            0 => fs::remove_dir_all(&cache).unwrap(),
            1 => files.iter().step_by(2).for_each(|path| fs::remove_file(path).unwrap()),
            _ => files.iter().for_each(|path| fs::write(path, Random::new(3).bytes(500)).unwrap()),
        }
        let again = world.push(&tree.root);
        assert_eq!(again["new_packs"], 0, "round {round}: what the vault holds was sent again: {again}");
        newest_is_complete(&world, &format!("round {round}"));
        newest_restores(&world, round);
    }
}

#[test]
fn state_from_an_old_backup_goes_on_where_the_vault_is() {
    let (world, tree) = World::pushed(40);
    let old = world.path("old state");
    copy(&world.agent.state, &old);
    for night in 0..3 {
        tree.noise(&format!("night{night}"), 50_000, night);
        world.push(&tree.root);
    }
    tree.remove("night1").noise("later", 50_000, 9);
    copy(&old, &world.agent.state);
    let pushed = world.push(&tree.root);
    assert_eq!(pushed["seq"], 5, "the chain goes on");
    newest_is_complete(&world, "old state");
    newest_restores(&world, 0);
    world.verify("opened");
    world.run(args!["ledger", "verify"]).ok();
    assert_eq!(world.snapshots().len(), 5);
}

#[test]
fn an_old_state_and_a_vault_that_lost_objects_together() {
    let (world, tree) = World::pushed(40);
    let old = world.path("old state");
    copy(&world.agent.state, &old);
    tree.noise("second", 100_000, 1);
    world.push(&tree.root);
    copy(&old, &world.agent.state);
    for path in world.objects("packs") {
        fs::remove_file(path).unwrap();
    }
    let run = world.run(args!["push", &tree.root, "--json"]);
    assert!([0, 3].contains(&run.code), "{}\n{}", run.err, run.out);
    newest_is_complete(&world, "old state, no pack");
    newest_restores(&world, 0);
}

#[test]
fn a_machine_that_lost_its_state_says_what_it_lacks() {
    let (world, tree) = World::pushed(10);
    fs::remove_dir_all(&world.agent.state).unwrap();
    let before = files_below(&world.vault);
    world.run(args!["push", &tree.root]).exits(1).says("agent");
    assert_eq!(files_below(&world.vault), before);
    // Reading needs nothing of it.
    world.verify("sealed");
    newest_restores(&world, 0);
}

#[test]
fn a_reader_that_overlaps_a_push_does_not_set_back_what_was_seen() {
    let world = World::new();
    let tree = world.tree("data");
    tree.file("a", "one");
    world.push(&tree.root);
    let vault = Config::load(&world.agent.config).unwrap().vault.unwrap();
    let state = StateDir::open(&world.agent.state, vault).unwrap();
    let before = copy_of(&world.vault, &world.path("before"));
    // The reader has read what was seen; then somebody pushes; then the reader writes down what it has seen itself.
    let mut reader = Ratchet::open(&state).unwrap();
    let seen = reader.seen().clone();
    tree.file("a", "two");
    world.push(&tree.root);
    let pushed = Ratchet::open(&state).unwrap().seen().clone();
    assert!(pushed.heads.values().all(|head| head.seq == 2) && seen.heads.values().all(|head| head.seq == 1));
    reader.advance(seen.trust, "another copy", &seen.heads).unwrap();
    let after = Ratchet::open(&state).unwrap().seen().clone();
    assert_eq!((after.trust, &after.heads), (pushed.trust, &pushed.heads));
    assert_eq!(after.stores.len(), pushed.stores.len() + 1);
    // So a vault that is set back is still refused.
    copy(&before, &world.vault);
    world.run(args!["push", &tree.root]).exits(4).says("rolled back");
}

fn copy_of(from: &Path, to: &Path) -> PathBuf {
    copy(from, to);
    to.to_owned()
}

#[test]
fn a_trust_record_that_rotted_here_is_read_from_the_copy() {
    let world = World::new();
    let tree = world.tree("data");
    tree.noise("file", 50_000, 1);
    world.push(&tree.root);
    let root = world.identity.with_extension("root");
    for epoch in 1..=2 {
        let all = files_below(&world.agent.state);
        let remembered = all.iter().filter(|path| path.file_name().unwrap().to_string_lossy().starts_with("trust-"));
        let remembered: Vec<&PathBuf> = remembered.collect();
        assert_eq!(remembered.len(), epoch, "{remembered:?}");
        for path in &remembered {
            let whole = fs::read(path).unwrap();
            // The signature stands behind the statement, which is a line.
            let line = whole.iter().position(|byte| *byte == b'\n').unwrap();
            let mut flipped = whole.clone();
            flipped[line + 200] ^= 1;
            for damaged in [&flipped, &whole[..line + 100]] {
                fs::write(path, damaged).unwrap();
                newest_restores(&world, epoch);
                world.push(&tree.root);
                world.run(args!["verify", "--depth", "list"]).ok();
            }
            fs::write(path, &whole).unwrap();
        }
        if epoch == 1 {
            world.run(args!["keys", "new-epoch", "--root", &root, "--identity", &world.identity]).ok();
            world.push(&tree.root);
        }
    }
}

#[test]
fn a_record_that_rotted_is_told_with_its_place_and_the_others_are_judged_by_themselves() {
    let world = World::with_stores(&["a", "b"]);
    let data = world.tree("data");
    data.file("a", "1");
    for _ in 0..2 {
        world.push(&data.root);
    }
    let first = |dir: &Path| files_below(dir).into_iter().find(|path| path.to_string_lossy().contains("-1-")).unwrap();
    let judged = |said: &str, findings: usize| {
        let status = world.run(args!["status", "--check", "--json"]).exits(4).json();
        let stores = status["stores"].as_array().unwrap();
        for store in stores {
            assert!(store["error"].is_null() && store["series"].as_array().unwrap().len() == 1, "{status}");
        }
        assert!(stores.len() == 2 && status["findings"].as_array().unwrap().len() == findings, "{status}");
        world.run(args!["status", "--check"]).exits(4).says(said).never_says("NOT REACHED");
    };

    // In the state of this machine: that is told once, and both stores are well.
    let own = first(&world.agent.state.join("ledger"));
    flip(&own, 100);
    judged(&format!("{}: damaged on this machine", own.display()), 1);
    judged("a store that holds it whole (a, b)", 1);
    world.push(&data.root);
    fs::copy(first(&world.path("a").join("ledger")), &own).unwrap();
    world.run(args!["status", "--check"]).ok();

    // In one copy: that copy is named, and lacks the record now.
    let stored = first(&world.path("b").join("ledger"));
    fs::remove_file(&stored).unwrap();
    fs::write(&stored, "cut short").unwrap();
    judged(&format!("b: ledger/{}", stored.file_name().unwrap().to_str().unwrap()), 2);

    // Two of one number: the state of this machine is forked, and the stores are not.
    fs::remove_file(&stored).unwrap();
    fs::copy(&own, &stored).unwrap();
    let number = own.file_name().unwrap().to_str().unwrap();
    let forked = own.with_file_name(format!("{}{}.rec", &number[..number.len() - 68], "0".repeat(64)));
    fs::copy(&own, forked).unwrap();
    judged("signed two different records with number 1", 1);
}
