//! SIGKILL at any moment: nothing committed is lost, nobody unlocks anything, and what has arrived is not sent again.

use std::collections::BTreeMap;
use std::fs;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use crate::world::{Random, Running, Tree, World, args, assert_same, bytes_below, files_below, needs};

const MIB: usize = 1 << 20;
/// Packs that a push has under way at once: so many may have to be made again.
const UNDER_WAY: u64 = 3 * 16 * MIB as u64;

/// Adds 48 MiB that do not compress, in files of 1 MiB: three packs.
fn grow(tree: &Tree, round: u64) {
    for number in 0..48 {
        tree.noise(&format!("round{round:02}/file{number:03}"), MIB, round * 1000 + number);
    }
}

/// The inode of every file: a file that was written again has another one.
fn inodes(dir: &Path) -> BTreeMap<PathBuf, (u64, u64)> {
    // A push that is at work gives its temporaries their names meanwhile.
    let of = |path: PathBuf| {
        let meta = fs::symlink_metadata(&path).ok()?;
        Some((path, (meta.ino(), meta.len())))
    };
    files_below(dir).into_iter().filter_map(of).collect()
}

/// Whatever was there before is there still, untouched.
#[track_caller]
fn assert_kept(before: &BTreeMap<PathBuf, (u64, u64)>, dir: &Path) {
    let after = inodes(dir);
    for (path, was) in before {
        assert_eq!(after.get(path), Some(was), "{} was written again or removed", path.display());
    }
}

/// A moment somewhere in a run that takes so long.
fn moment(random: &mut Random, whole: Duration) -> Duration {
    whole.mul_f64(random.part() * 1.1)
}

#[test]
fn a_push_that_is_killed_at_ten_moments_loses_nothing_and_goes_on() {
    needs!("rsync");
    let mut random = Random::from_environment();
    let world = World::new();
    let tree = world.tree("data");
    grow(&tree, 0);
    let began = Instant::now();
    world.push(&tree.root);
    let whole = began.elapsed();
    let mut killed = 0;
    for round in 1..=10 {
        grow(&tree, round);
        let (before, committed) = (bytes_below(&world.vault.join("packs")), world.snapshots().len());
        let running = Running::start(&world.agent, args!["push", &tree.root]);
        std::thread::sleep(moment(&mut random, whole));
        killed += usize::from(running.kill());
        assert!(world.snapshots().len() >= committed);
        world.run(args!["verify", "--depth", "list"]).ok();
        let arrived = whole_packs(&world.vault.join("packs"));

        world.push(&tree.root);
        assert_kept(&arrived, &world.vault.join("packs"));
        let added = bytes_below(&world.vault.join("packs")) - before;
        assert!(added < 49 * MIB as u64 + UNDER_WAY, "round {round}: {added} bytes for 48 MiB");
    }
    assert!(killed >= 3, "only {killed} of 10 pushes were still running when they were killed");
    world.verify("opened");
    let snapshots = world.snapshots();
    assert!(snapshots.len() >= 11, "{}", snapshots.len());
    let last = world.path("back");
    world.restore("latest", &last);
    assert_same(&tree.root, &tree.below(&last));
    // An earlier one holds what there was then.
    let middle = world.path("middle");
    world.restore(snapshots[5].get("id").unwrap().as_str().unwrap(), &middle);
    for dir in fs::read_dir(tree.below(&middle)).unwrap().flatten() {
        assert_same(&tree.path(dir.file_name()), &dir.path());
    }
}

#[test]
fn what_a_killed_push_left_in_the_cache_goes() {
    let (world, tree) = World::pushed(2);
    let cache = fs::read_dir(world.agent.state.join("cache")).unwrap().next().unwrap().unwrap().path();
    let left = cache.join("files-adhoc-files.4242.tmp");
    let day = std::time::Duration::from_secs(25 * 3600);
    fs::File::create(&left).unwrap().set_modified(std::time::SystemTime::now() - day).unwrap();
    world.push(&tree.root);
    assert!(!left.exists());
}

#[test]
fn a_push_that_is_killed_sends_only_what_was_missing() {
    let world = World::new();
    let tree = world.tree("data");
    for number in 0..14 {
        tree.noise(&format!("file{number}"), 16 * MIB, number);
    }
    let packs = world.vault.join("packs");
    let running = Running::start(&world.agent, args!["push", &tree.root]);
    crate::world::background::until("seven packs have arrived", || whole_packs(&packs).len() >= 7);
    assert!(running.kill());
    let arrived = whole_packs(&packs);
    let pushed = world.push(&tree.root);
    assert_kept(&arrived, &packs);
    let sent = pushed["stores"][0]["sent_bytes"].as_u64().unwrap();
    assert!(sent < 7 * 17 * MIB as u64 + UNDER_WAY, "{sent} bytes were sent after 7 of 14 packs had arrived");
    world.verify("opened");
}

/// The packs without what a push that was killed left unfinished.
fn whole_packs(packs: &Path) -> BTreeMap<PathBuf, (u64, u64)> {
    let unfinished = |path: &Path| path.file_name().unwrap().to_string_lossy().starts_with("tmp-");
    inodes(packs).into_iter().filter(|(path, _)| !unfinished(path)).collect()
}

#[test]
fn a_killed_restore_goes_on_where_it_stopped() {
    needs!("rsync");
    let mut random = Random::from_environment();
    let world = World::new();
    let tree = world.tree("data");
    tree.everything();
    grow(&tree, 0);
    world.push(&tree.root);
    let back = world.path("back");
    let arguments = args!["restore", "latest", "--into", &back, "--identity", &world.identity, "--special", "--json"];
    let began = Instant::now();
    world.run(arguments.clone()).ok();
    let whole = began.elapsed();
    fs::remove_dir_all(&back).unwrap();
    for _ in 0..4 {
        let running = Running::start(&world.agent, arguments.clone());
        std::thread::sleep(moment(&mut random, whole));
        running.kill();
        let right: BTreeMap<PathBuf, (u64, u64)> = if back.exists() { finished(&tree, &back) } else { BTreeMap::new() };
        let receipt = world.run(arguments.clone()).ok().json();
        assert!(receipt["files_equal"].as_u64().unwrap() >= right.len() as u64, "{receipt}");
        assert_kept(&right, &back);
        assert_same(&tree.root, &tree.below(&back));
        fs::remove_dir_all(&back).unwrap();
    }
    // Each of them is on record, also those that were killed: these have no end.
    let ledger = world.run(args!["ledger", "show", "--kind", "restore", "--json"]).ok().json();
    let kinds = |kind: &str| ledger["records"].as_array().unwrap().iter().filter(|r| r["kind"] == kind).count();
    assert!(kinds("restore-intent") >= kinds("restore-outcome"), "{ledger}");
    world.run(args!["ledger", "verify"]).ok();
}

/// Files of the noise that lie at the target: a restore gives a file its name when all of it is right.
fn finished(tree: &Tree, back: &Path) -> BTreeMap<PathBuf, (u64, u64)> {
    let place = tree.below(back).join("round00");
    if place.exists() { inodes(&place) } else { BTreeMap::new() }
}

#[test]
fn a_killed_sync_goes_on_where_it_stopped() {
    let mut random = Random::from_environment();
    let world = World::new();
    let tree = world.tree("data");
    for round in 0..2 {
        grow(&tree, round);
        world.push(&tree.root);
    }
    let sync = |to: &Path| args!["sync", to, "--from", &world.vault, "--plain-directory", "--json"];
    let began = Instant::now();
    world.run(sync(&world.path("first"))).ok();
    let whole = began.elapsed();
    for round in 0..4 {
        // A place of its own each time: a copy that lay there whole before is missed when it is there in part.
        let second = world.path(&format!("second{round}"));
        let running = Running::start(&world.agent, sync(&second));
        std::thread::sleep(moment(&mut random, whole));
        running.kill();
        // What is there is whole, or there is no vault yet.
        let found = world.run(args!["verify", "--depth", "sealed", "--from", &second]);
        assert!(found.code != 4, "{found:?}");
        let packs = second.join("packs");
        let arrived = if packs.exists() { whole_packs(&packs) } else { BTreeMap::new() };
        let done = world.run(sync(&second)).ok().json();
        assert_kept(&arrived, &packs);
        assert_eq!((&done["snapshots"], &done["safe"]), (&2.into(), &true.into()));
        world.run(args!["verify", "--depth", "sealed", "--from", &second]).ok();
    }
}
