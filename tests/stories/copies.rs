//! Several copies of one vault, of which one is full, torn or damaged: the others go on, and it is made whole again.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use serde_json::Value;

use crate::world::tools::must;
use crate::world::{Tree, World, args, assert_same, files_below, flip, needs};

/// Two copies `a` and `b` with one snapshot, and a second that only `a` has.
fn b_missed_one() -> (World, Tree) {
    let world = World::with_stores(&["a", "b"]);
    let tree = world.tree("data");
    tree.ordinary(10, 1);
    world.push(&tree.root);
    let (b, away) = (world.path("b"), world.path("away"));
    fs::rename(&b, &away).unwrap();
    tree.noise("second", 200_000, 2);
    world.run(args!["push", &tree.root]).exits(3).says("MISSED");
    fs::rename(&away, &b).unwrap();
    (world, tree)
}

/// The newest record in a copy's ledger.
fn newest_record(copy: &Path) -> PathBuf {
    let seq = |path: &PathBuf| -> u64 { path.to_str().unwrap().rsplit('-').nth(1).unwrap().parse().unwrap() };
    files_below(&copy.join("ledger")).into_iter().max_by_key(seq).unwrap()
}

fn empty(path: &Path) {
    fs::remove_file(path).unwrap();
    fs::write(path, "").unwrap();
}

fn committed(receipt: &Value, store: &str) -> bool {
    let stores = receipt["jobs"][0]["stores"].as_array().unwrap();
    stores.iter().find(|receipt| receipt["store"] == store).unwrap()["committed"].as_bool().unwrap()
}

fn restores(world: &World, tree: &Tree, store: &str) {
    let back = world.path(&format!("back-{store}"));
    world.run(args!["restore", "latest", "--from", store, "--into", &back, "--identity", &world.identity]).ok();
    assert_same(&tree.root, &tree.below(&back));
    fs::remove_dir_all(back).unwrap();
}

#[test]
fn a_store_that_takes_no_record_keeps_nothing_from_the_others() {
    needs!(root);
    needs!("rsync");
    let (world, tree) = b_missed_one();
    // The ledger of the second copy lies on a file system without room: the record that it missed does not fit there.
    let (ledger, kept) = (world.path("b/ledger"), world.path("ledger of b"));
    must(Command::new("cp").arg("-a").arg(&ledger).arg(&kept));
    must(Command::new("mount").args(["-t", "tmpfs", "-o", "size=64k", "tmpfs"]).arg(&ledger));
    for record in files_below(&kept) {
        fs::copy(&record, ledger.join(record.file_name().unwrap())).unwrap();
    }
    // It ends when there is no room left.
    let _ = fs::write(ledger.join("fill"), vec![1; 128 << 10]);
    tree.noise("third", 200_000, 3);
    let pushed = world.run(args!["push", &tree.root, "--json"]);
    must(Command::new("umount").arg(&ledger));
    let receipt = pushed.exits(3).json();
    assert!(committed(&receipt, "a") && !committed(&receipt, "b"), "{receipt}");
    restores(&world, &tree, "a");
    // With room again it gets all that it missed.
    world.push(&tree.root);
    let verified = world.run(args!["verify", "--depth", "sealed", "--from", "b", "--json"]).ok().json();
    assert_eq!(verified["snapshots"], 4, "{verified}");
    restores(&world, &tree, "b");
}

#[test]
fn a_store_that_is_full_is_missed_and_it_is_said_why() {
    needs!(root);
    let world = World::with_stores(&["a", "b"]);
    let (tree, copy, kept) = (world.tree("data"), world.path("b"), world.path("kept"));
    must(Command::new("cp").arg("-a").arg(&copy).arg(&kept));
    must(Command::new("mount").args(["-t", "tmpfs", "-o", "size=70m", "tmpfs"]).arg(&copy));
    must(Command::new("cp").arg("-a").arg(kept.join(".")).arg(&copy));
    // Room enough to begin, and too little to end.
    tree.noise("large", 90 << 20, 1);
    let first = world.run(args!["push", &tree.root]);
    let _ = fs::write(copy.join("fill"), vec![1; 70 << 20]);
    let second = world.run(args!["push", &tree.root]);
    must(Command::new("umount").arg(&copy));
    for run in [first, second] {
        let run = run.exits(3).says("b: MISSED\n").never_says("b: b:");
        assert_eq!(run.out.matches("no room left").count(), 1, "{}", run.out);
    }
}

#[test]
fn a_record_that_is_torn_in_one_copy_is_sent_there_again() {
    let world = World::with_stores(&["a", "b"]);
    let tree = world.tree("data");
    tree.ordinary(10, 1);
    world.push(&tree.root);
    // Both copies were read, so that this machine remembers the record.
    world.push(&tree.root);
    empty(&newest_record(&world.path("b")));
    world.run(args!["status", "--json"]).says("not delivered");
    world.push(&tree.root);
    for store in ["a", "b"] {
        world.run(args!["ledger", "verify", "--from", store]).ok();
        let verified = world.run(args!["verify", "--depth", "sealed", "--from", store, "--json"]).ok().json();
        assert_eq!(verified["snapshots"], 3, "{verified}");
    }
}

#[test]
fn a_record_that_cannot_be_read_keeps_no_newer_one_from_the_drive() {
    let world = World::new();
    let tree = world.tree("data");
    tree.ordinary(10, 1);
    world.push(&tree.root);
    let copy = world.path("copy");
    let sync = args!["sync", &copy, "--from", &world.vault, "--plain-directory", "--trust", world.root_key(), "--json"];
    let custodian = world.machine("custodian");
    custodian.run(sync.clone()).ok();
    // Anybody who may write there puts files of such names in front.
    let record = newest_record(&world.vault);
    let name = record.file_name().unwrap().to_str().unwrap().to_owned();
    let (writer, rest) = name.split_once('-').unwrap();
    let hash = rest.split_once('-').unwrap().1;
    fs::write(record.with_file_name(format!("{writer}-2-{}", hash.replace('a', "b"))), "garbage").unwrap();
    fs::write(record.with_file_name(format!("{writer}-3-{}", hash.replace('c', "d"))), vec![b'x'; 100_000]).unwrap();
    tree.noise("new", 50_000, 1);
    world.run(args!["push", &tree.root, "--json"]).exits(4).says(&format!("{writer}-2-"));
    custodian.run(sync).exits(4).says(&format!("{writer}-2-"));
    let listed = custodian.run(args!["snapshots", "--from", &copy, "--trust", world.root_key(), "--json"]).ok().json();
    assert_eq!(listed["snapshots"].as_array().unwrap().len(), 2, "{listed}");
    // One that was whole when it was first seen here.
    flip(&record, 40);
    let late = world.path("late");
    let sync = args!["sync", &late, "--from", &world.vault, "--plain-directory", "--trust", world.root_key()];
    custodian.run(sync).exits(4).says(&name).never_says("safe to unplug");
    let listed = custodian.run(args!["snapshots", "--from", &late, "--trust", world.root_key(), "--json"]).ok().json();
    assert_eq!(listed["snapshots"].as_array().unwrap().len(), 1, "{listed}");
}

#[test]
fn a_pack_that_could_not_be_copied_is_no_hole_to_build_on_and_is_sent_when_it_is_whole_again() {
    needs!("rsync");
    let (world, tree) = b_missed_one();
    // A pack of the second snapshot is damaged in the only copy that has it.
    let relative = |copy: &str, path: &PathBuf| path.strip_prefix(world.path(copy)).unwrap().to_owned();
    let in_b: Vec<PathBuf> = files_below(&world.path("b/packs")).iter().map(|path| relative("b", path)).collect();
    let only_a = |path: &&PathBuf| !in_b.contains(&relative("a", path));
    let in_a = files_below(&world.path("a/packs"));
    let pack = in_a.iter().filter(only_a).max_by_key(|path| fs::metadata(path).unwrap().len()).unwrap();
    let name = relative("a", pack);
    flip(pack, 1000);
    let receipt = world.run(args!["push", &tree.root, "--json"]).exits(4).says(name.to_str().unwrap()).json();
    assert!(committed(&receipt, "a") && committed(&receipt, "b"), "{receipt}");
    for store in ["a", "b"] {
        restores(&world, &tree, store);
    }
    // The snapshot in between is not whole there, and says so; its chain of records is.
    world.run(args!["ledger", "verify", "--from", "b"]).ok();
    world.run(args!["verify", "--from", "b"]).exits(4).says("inventories/").never_says("record removed");
    // Somebody mends it.
    flip(pack, 1000);
    world.push(&tree.root);
    assert!(world.path("b").join(name).exists());
    let verified = world.run(args!["verify", "--depth", "sealed", "--from", "b", "--json"]).ok().json();
    assert_eq!(verified["snapshots"], 4, "{verified}");
}

#[test]
fn what_was_found_in_one_copy_stands_until_that_copy_was_read_again() {
    let world = World::with_stores(&["a", "b"]);
    world.tree("data").ordinary(10, 1).noise("file", 200_000, 1);
    world.push(world.path("data"));
    world.run(args!["verify", "--from", "a", "--depth", "sealed"]).ok();
    flip(&world.objects("packs")[0], 100);
    world.run(args!["verify", "--from", "a", "--depth", "sealed"]).exits(4);
    // The other is whole. That says nothing of this one, however often it is said.
    for _ in 0..2 {
        world.run(args!["verify", "--from", "b", "--depth", "sealed"]).ok();
        world.push(world.path("data"));
        let status = world.run(args!["status", "--check", "--json"]).exits(4).json();
        let alarms = status["findings"].as_array().unwrap().iter().filter(|finding| finding["kind"] == "damage");
        assert_eq!(alarms.map(|alarm| &alarm["subject"]).collect::<Vec<_>>(), ["a"], "{status}");
        assert_eq!((&status["stores"][0]["verified"][2], &status["stores"][1]["verified"][2]), (&1.into(), &0.into()));
    }
    world.run(args!["sync", "a", "--from", "b", "--plain-directory"]).ok();
    world.run(args!["status", "--check"]).exits(4).says("none since has read all of that copy");
    world.run(args!["verify", "--from", "a", "--depth", "sealed"]).ok();
    world.run(args!["status", "--check"]).ok();
    // Another machine sees whose directories they are, and what it read itself before anybody enrols it.
    let colleague = world.machine("colleague");
    colleague.configure(&fs::read_to_string(&world.agent.config).unwrap());
    colleague.run(args!["status"]).ok().says("never verified from here").says("verified sealed at");
    colleague.run(args!["verify", "--from", "b", "--depth", "sealed"]).ok();
    let status = colleague.run(args!["status", "--json"]).ok().json();
    assert_eq!(status["stores"][1]["verified"][1], "sealed", "{status}");
}

#[test]
fn a_store_without_a_copy_that_fits_keeps_nothing_from_the_others() {
    let world = World::with_stores(&["a", "b"]);
    let tree = world.tree("data");
    tree.ordinary(10, 1);
    world.push(&tree.root);
    let (b, away) = (world.path("b"), world.path("away"));
    fs::rename(&b, &away).unwrap();
    let pushed = |exit: i32, words: &str| {
        tree.noise("file", 100_000, u64::from(exit.unsigned_abs()) + words.len() as u64);
        let receipt = world.run(args!["push", &tree.root, "--json"]).exits(exit).says(words).json();
        assert!(committed(&receipt, "a") && !committed(&receipt, "b"), "{receipt}");
        restores(&world, &tree, "a");
    };
    // An exchanged disk, or one that is not mounted.
    fs::create_dir(&b).unwrap();
    pushed(4, "there is no vault");
    // Another vault.
    let other = World::new();
    fs::remove_dir(&b).unwrap();
    must(Command::new("cp").arg("-a").arg(&other.vault).arg(&b));
    pushed(4, "b");
    fs::remove_dir_all(&b).unwrap();
    // A header that rotted.
    must(Command::new("cp").arg("-a").arg(&away).arg(&b));
    flip(&b.join("farkeep-vault.json"), 10);
    pushed(4, "farkeep-vault.json");
    fs::remove_dir_all(&b).unwrap();
    // One that never had a copy is no alarm, and becomes one.
    world.agent.configure(&format!("[store.c]\nurl = \"{}\"\n", world.path("c").display()));
    fs::rename(&away, &b).unwrap();
    fs::create_dir(world.path("c")).unwrap();
    world.run(args!["push", &tree.root]).exits(3).says("farkeep sync c --from");
    world.run(args!["sync", "c", "--from", "a", "--plain-directory"]).ok();
    world.run(args!["push", &tree.root]).ok();
    for store in ["a", "b", "c"] {
        restores(&world, &tree, store);
    }
    // Where no other is left, the push ends as it would with this one alone.
    world.run(args!["push", &tree.root, "--to", "a"]).ok();
    fs::rename(world.path("a"), world.path("away")).unwrap();
    fs::create_dir(world.path("a")).unwrap();
    world.run(args!["push", &tree.root, "--to", "a"]).exits(1).says("there is no vault");
}

#[test]
fn what_a_custodian_found_is_over_when_it_has_read_that_again() {
    let world = World::with_stores(&["a", "b"]);
    world.tree("data").ordinary(10, 1).noise("file", 200_000, 1);
    world.push(world.path("data"));
    // With a memory of its own, as on the server.
    let custodian = world.machine("custodian");
    custodian.configure(&fs::read_to_string(&world.agent.config).unwrap());
    let care = || custodian.run(args!["verify", "--from", "b", "--depth", "sealed", "--within", "30d"]);
    world
        .run(args!["keys", "enrol", "station", station_of(&custodian), "--root", world.identity.with_extension("root")])
        .ok();
    care().ok();
    let pack = files_below(&world.path("b").join("packs")).remove(0);
    flip(&pack, 100);
    custodian.run(args!["verify", "--from", "b", "--depth", "sealed"]).exits(4);
    world.run(args!["status", "--check"]).exits(4);
    // A look at a part says nothing of the rest, nor while the damage is there.
    (0..3).for_each(|_| drop(care()));
    world.run(args!["status", "--check"]).exits(4);
    world.run(args!["sync", "b", "--from", "a", "--plain-directory", "--heal"]).ok();
    world.run(args!["status", "--check"]).exits(4);
    care().ok();
    world.run(args!["status", "--check"]).ok();
}

/// The public key by which a machine will sign.
fn station_of(machine: &crate::world::Machine) -> String {
    machine.run(args!["verify", "--from", "a", "--depth", "sealed"]).ok();
    let shown = machine.run(args!["keys", "print"]).ok().out;
    shown[shown.find("station").unwrap()..]
        .split_whitespace()
        .find(|word| word.starts_with("SHA256:"))
        .unwrap()
        .trim_end_matches(',')
        .to_owned()
}

/// Notes, as a push that died would leave it, that this object was sent to whichever store and never seen to arrive.
fn noted_as_unconfirmed(world: &World, object: &str) {
    let notes: Vec<PathBuf> = files_below(&world.agent.state)
        .into_iter()
        .filter(|path| path.file_name().unwrap().to_str().unwrap().starts_with("unconfirmed-"))
        .collect();
    assert!(!notes.is_empty());
    for path in notes {
        let text = fs::read_to_string(&path).unwrap();
        fs::write(path, format!("{text}sent {object}\n")).unwrap();
    }
}

#[test]
fn what_a_failed_push_left_with_the_right_size_and_wrong_bytes_is_not_built_on() {
    for stores in [&["a"][..], &["a", "b"]] {
        let world = World::with_stores(stores);
        let tree = world.tree("data");
        tree.ordinary(10, 1).noise("file", 200_000, 1);
        world.push(&tree.root);
        let last = world.path(stores[stores.len() - 1]);
        let packs = files_below(&last.join("packs"));
        let pack = packs.iter().max_by_key(|path| fs::metadata(path).unwrap().len()).unwrap();
        let name = pack.strip_prefix(&last).unwrap().to_str().unwrap().to_owned();
        flip(pack, 1000);
        // Nothing tells it from one that arrived.
        let trusting = world.push(&tree.root);
        assert!(trusting["stores"][0]["sent_bytes"].as_u64().unwrap() < 100_000, "{trusting}");

        noted_as_unconfirmed(&world, &name);
        noted_as_unconfirmed(&world, "RECOVER.md");
        tree.noise("new", 10_000, 2);
        for _ in 0..2 {
            world.push(&tree.root);
        }
        for store in stores {
            restores(&world, &tree, store);
        }
    }
}

#[test]
fn a_record_that_came_before_its_objects_is_no_alarm() {
    let world = World::with_stores(&["a", "b"]);
    let tree = world.tree("data");
    tree.ordinary(10, 1);
    world.push(&tree.root);
    tree.noise("file", 100_000, 1);
    world.run(args!["push", &tree.root, "--to", "a"]).ok();
    world.run(args!["verify", "--from", "b"]).ok();
    let record = newest_record(&world.path("a"));
    fs::copy(&record, world.path("b/ledger").join(record.file_name().unwrap())).unwrap();
    world.run(args!["verify", "--from", "b"]).exits(3).says("holds its record and not its objects").says("farkeep sync");
    assert_ne!(world.run(args!["status", "--check"]).code, 4);
    world.run(args!["sync", "b", "--from", "a", "--plain-directory"]).ok();
    world.run(args!["verify", "--from", "b"]).ok();
}

#[test]
fn a_sample_ends_no_alarm_of_an_object_that_it_did_not_find_right() {
    needs!(root);
    let world = World::new();
    let tree = world.tree("data");
    tree.ordinary(50, 1).noise("file", 300_000, 1);
    world.push(&tree.root);
    // A reader that may write nothing there, and that nobody enrolled: only its own word tells what it found.
    let shown = world.path("shown");
    fs::create_dir(&shown).unwrap();
    must(Command::new("mount").args(["--bind", "-o", "ro"]).arg(&world.vault).arg(&shown));
    let reader = world.machine("reader");
    let agent = fs::read_to_string(&world.agent.config).unwrap();
    reader.configure(&agent.replace(world.vault.to_str().unwrap(), shown.to_str().unwrap()));
    let verify = |more: &[&str]| reader.run(["verify"].iter().chain(more).collect::<Vec<_>>());
    let alarmed = || reader.run(args!["status", "--check"]).code == 4;
    for damaged in [world.objects("packs").remove(0), world.vault.join("RECOVER.md")] {
        flip(&damaged, 100);
        verify(&[]).exits(4);
        assert!(alarmed());
        for _ in 0..3 {
            verify(&["--sample", "1%"]);
            assert!(alarmed(), "{} is as it was", damaged.display());
        }
        flip(&damaged, 100);
        verify(&["--sample", "1%"]).ok();
        assert!(!alarmed(), "{} is right again", damaged.display());
    }
    must(Command::new("umount").arg(&shown));
}
