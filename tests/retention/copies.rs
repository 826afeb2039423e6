//! Copies of a vault from which snapshots were dropped: pages of inventories are shared, so they list what others needed.

use std::collections::BTreeSet;
use std::fs;
use std::process::Command;

use serde_json::Value;

use super::history::{History, apply, plan};
use super::world::tools::must;
use super::world::{Machine, Random, World, args, files_below, flip, needs};

/// A machine that knows the root and has never seen a copy.
fn auditor(world: &World, name: &str) -> Machine {
    let machine = world.machine(name);
    let agent = fs::read_to_string(&world.agent.config).unwrap();
    machine.configure(agent.split("[store").next().unwrap());
    machine
}

/// Nights of which many change nothing, so that pages are used again.
fn quiet_nights(nights: u64, random: &mut Random) -> History {
    let mut history = History::in_world(World::new(), 1);
    for night in 1..nights {
        if random.below(3) == 0 {
            history.data.noise("changes", 200_000, night);
        }
        history.push();
    }
    history
}

#[test]
fn a_copy_made_from_a_pruned_one_is_whole() {
    let mut random = Random::from_environment();
    for round in 0..3 {
        let mut history = quiet_nights(6, &mut random);
        let world = &history.world;
        let keep = (1 + random.below(3)).to_string();
        plan(world, &["--keep-last", &keep]);
        apply(world);
        let kept = 6 - keep.parse::<usize>().unwrap();
        let copy = world.path("copy");
        let sync = args!["sync", &copy, "--from", &world.vault, "--plain-directory"];
        world.run(sync.clone()).ok();
        for (number, store) in [&world.vault, &copy].into_iter().enumerate() {
            let machine = auditor(world, &format!("auditor-{round}-{number}"));
            for depth in ["sealed", "list"] {
                machine.run(args!["verify", "--from", store, "--depth", depth]).ok();
            }
            let opened = args!["verify", "--from", store, "--depth", "opened", "--identity", &world.identity];
            machine.run(opened).ok();
        }
        history.assert_restores(kept..6);
        // And the other way round, into what a later night has made of it.
        history.data.noise("changes", 200_000, 99);
        history.push();
        let world = &history.world;
        world.run(sync).ok();
        plan(world, &["--store", copy.to_str().unwrap(), "--keep-last", "1"]);
        world.run(args!["prune", "apply", "--store", &copy, "--now"]).ok();
        world.run(args!["verify", "--from", &copy, "--depth", "sealed"]).ok();
        history.assert_restores(kept..7);
    }
}

/// Two copies with three snapshots, of which two are dropped from `a`; `before` is done to `b` first.
fn dropped_from_one(before: impl Fn(&World)) -> History {
    let history = History::in_world(World::with_stores(&["a", "b"]), 3);
    let world = &history.world;
    before(world);
    world.run(args!["prune", "plan", "--store", "a", "--keep-last", "1"]).ok();
    world.run(args!["prune", "apply", "--store", "a", "--now"]).ok().says("2 snapshots dropped");
    // The next push tells the other copy.
    world.push(&history.data.root);
    world.run(args!["verify", "--from", "b"]).ok();
    history
}

/// Takes from `b` the manifests and inventories that `a` dropped.
fn lose_what_only_b_has(world: &World) {
    let listed = |copy: &str| {
        let below = |area: &str| files_below(&world.path(copy).join(area));
        below("manifests").into_iter().chain(below("inventories"))
    };
    let in_a: BTreeSet<_> = listed("a").map(|path| path.file_name().unwrap().to_owned()).collect();
    for path in listed("b").filter(|path| !in_a.contains(path.file_name().unwrap())) {
        fs::remove_file(path).unwrap();
    }
}

#[test]
fn a_copy_that_lost_what_another_one_dropped_says_so() {
    needs!("touch");
    // Its records came days before it heard of that.
    let history = dropped_from_one(|world| {
        for record in world.path("b/ledger").read_dir().unwrap() {
            must(Command::new("touch").args(["-d", "3 days ago"]).arg(record.unwrap().path()));
        }
    });
    let world = &history.world;
    lose_what_only_b_has(world);
    let told = world.run(args!["verify", "--from", "b"]).ok().says("or it went away");
    told.says(&history.id(0)[..8]).says(&history.id(1)[..8]);
    // A copy that was made afterwards never had them.
    let copy = world.path("copy");
    world.run(args!["sync", &copy, "--from", "a", "--plain-directory"]).ok();
    world.run(args!["verify", "--from", &copy]).ok();
}

#[test]
fn a_sync_that_heals_names_what_the_other_copy_cannot_mend() {
    let history = dropped_from_one(|_| {});
    let world = &history.world;
    let in_a: BTreeSet<_> =
        files_below(&world.path("a/packs")).iter().map(|path| path.file_name().unwrap().to_owned()).collect();
    let only_b = |path: &std::path::PathBuf| !in_a.contains(path.file_name().unwrap());
    fs::remove_file(files_below(&world.path("b/packs")).into_iter().find(only_b).unwrap()).unwrap();
    let heal = args!["sync", "b", "--from", "a", "--plain-directory", "--heal"];
    world.run(heal).exits(4).says("nothing there mends it").says("--despite-damage").never_says("safe to unplug");
}

#[test]
fn a_held_snapshot_is_missed_wherever_it_is_not() {
    let history = dropped_from_one(|_| {});
    let world = &history.world;
    world.run(args!["hold", history.id(0), "--until", "2099-01-01", "--from", "b"]).ok();
    world.run(args!["verify", "--from", "b"]).ok();
    lose_what_only_b_has(world);
    // The verification before had seen it.
    let missed = world.run(args!["verify", "--from", "b"]).exits(4).says("4 snapshots were complete here");
    missed.says("not its objects").says(&history.id(0)[..8]);
}

#[test]
fn a_damaged_manifest_is_named_for_its_own_snapshot_and_for_nobody_once_that_is_dropped() {
    let mut history = History::of(1);
    for _ in 1..24 {
        history.push();
    }
    let world = &history.world;
    let statement = |version: usize| {
        let of = |path: &std::path::PathBuf| path.to_string_lossy().contains(history.id(version));
        let record = world.objects("ledger").into_iter().find(of).unwrap();
        let text = fs::read_to_string(record).unwrap();
        serde_json::from_str::<serde_json::Value>(text.lines().next().unwrap()).unwrap()
    };
    let manifest = statement(0)["body"]["manifest"].as_str().unwrap().to_owned();
    flip(&world.vault.join(&manifest), 100);
    let found = world.run(args!["verify", "--depth", "sealed", "--json"]).exits(4).json();
    let alarm = |subject: &str| {
        let findings = found["findings"].as_array().unwrap().iter();
        let mut about = findings.filter(|finding| finding["subject"] == subject);
        let first = about.next().unwrap_or_else(|| panic!("{subject}: {found:#}"))["snapshots"].clone();
        assert!(about.next().is_none(), "{subject} is told of twice: {found:#}");
        first.as_array().unwrap().iter().map(|id| id.as_str().unwrap().to_owned()).collect::<Vec<_>>()
    };
    assert_eq!(alarm(&manifest), [&history.id(0)[..8]]);

    // What all of them need is named with all of them, each once, in --json.
    flip(&world.vault.join(&manifest), 100);
    let pack = files_below(&world.vault.join("packs")).into_iter().max_by_key(|path| fs::metadata(path).unwrap().len());
    let pack = pack.unwrap();
    flip(&pack, 300);
    let found = world.run(args!["verify", "--depth", "sealed", "--json"]).exits(4).json();
    let subject = pack.strip_prefix(&world.vault).unwrap().to_str().unwrap();
    let finding = found["findings"].as_array().unwrap().iter().find(|finding| finding["subject"] == subject).unwrap();
    let named: Vec<&str> = finding["snapshots"].as_array().unwrap().iter().map(|id| id.as_str().unwrap()).collect();
    assert_eq!(named.len(), 24, "{named:?}");
    assert_eq!(named.iter().collect::<BTreeSet<_>>().len(), 24, "{named:?}");
    world.run(args!["verify", "--depth", "sealed"]).exits(4).says("and 4 more)");
    flip(&pack, 300);
    world.run(args!["verify", "--depth", "sealed"]).ok();

    // A snapshot that was dropped needs nothing, whatever shared pages list.
    plan(world, &["--keep-last", "2"]);
    apply(world);
    assert!(world.vault.join(&manifest).exists(), "no page is shared: this tests nothing");
    flip(&world.vault.join(&manifest), 100);
    world.run(args!["verify", "--depth", "sealed"]).ok();
    let copy = world.path("copy");
    world.run(args!["sync", &copy, "--from", &world.vault, "--plain-directory"]).ok();
    world.run(args!["verify", "--from", &copy, "--depth", "sealed"]).ok();
    history.assert_restores(22..24);
}

#[test]
fn what_is_planned_despite_damage_is_applied() {
    let history = History::of(3);
    let world = &history.world;
    // A pack of the first night alone.
    let others: BTreeSet<_> = {
        let second = world.path("second");
        world.run(args!["sync", &second, "--from", &world.vault, "--plain-directory"]).ok();
        plan(world, &["--store", second.to_str().unwrap(), "--keep-last", "2"]);
        world.run(args!["prune", "apply", "--store", &second, "--now"]).ok();
        files_below(&second.join("packs")).iter().map(|path| path.file_name().unwrap().to_owned()).collect()
    };
    let pack = world.objects("packs").into_iter().find(|path| !others.contains(path.file_name().unwrap())).unwrap();
    fs::remove_file(pack).unwrap();
    world.run(args!["verify", "--depth", "list"]).exits(4);
    world.run(args!["prune", "plan", "--keep-last", "2"]).exits(4);
    let planned = plan(world, &["--keep-last", "2", "--despite-damage"]);
    assert_eq!(planned["dropped"], 1, "{planned}");
    apply(world);
    history.assert_restores(1..3);
    world.verify("opened");
}

#[test]
fn what_was_given_up_for_lost_and_came_back_stays() {
    let mut history = History::in_world(World::with_stores(&["a", "b"]), 2);
    let b = history.world.path("b");
    for path in ["packs", "indexes", "manifests", "inventories", "ledger"].iter().flat_map(|area| files_below(&b.join(area)))
    {
        must(Command::new("touch").args(["-d", "10 days ago"]).arg(path));
    }
    history.night(2);
    let world = &history.world;
    // The second night's manifest and inventory, and nothing that lists its packs is left on this machine.
    let record = files_below(&b.join("ledger")).into_iter().find(|path| path.to_string_lossy().contains("-2-")).unwrap();
    let body: Value = serde_json::from_str(fs::read_to_string(record).unwrap().lines().next().unwrap()).unwrap();
    for part in ["manifest", "inventory"] {
        fs::remove_file(b.join(body["body"][part].as_str().unwrap())).unwrap();
    }
    let planned = plan(world, &["--store", "b", "--keep-last", "9", "--despite-damage"]);
    assert_eq!((&planned["dropped"], planned["objects"].as_u64().unwrap() > 0), (&Value::from(1), true), "{planned}");
    // While the plan waits, somebody brings it.
    world.run(args!["sync", "b", "--from", "a", "--plain-directory"]).ok();
    world.run(args!["prune", "apply", "--store", "b", "--now"]).ok().says("0 snapshots dropped");
    world.run(args!["verify", "--from", "b", "--depth", "opened", "--identity", &world.identity]).ok().says("3 snapshots");
}
