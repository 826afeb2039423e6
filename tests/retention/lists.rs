//! The list of a prune plan that waits gets lost or rots in one copy: the others go on, and so does that one.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use serde_json::Value;

use super::history::{History, apply, plan};
use super::world::tools::must;
use super::world::{World, args, files_below, flip};

/// The newest record of a plan in a copy, as its name and what it says.
fn newest_plan(copy: &Path) -> Value {
    let seq = |path: &PathBuf| -> u64 { path.to_str().unwrap().rsplit('-').nth(1).unwrap().parse().unwrap() };
    let records = files_below(&copy.join("ledger")).into_iter();
    let is_plan = |path: &PathBuf| fs::read_to_string(path).unwrap().contains("\"kind\":\"prune-plan\"");
    let record = fs::read_to_string(records.filter(is_plan).max_by_key(seq).unwrap()).unwrap();
    serde_json::from_str(record.lines().next().unwrap()).unwrap()
}

/// Where the root of the newest plan's list lies.
fn list_of(copy: &Path) -> PathBuf {
    copy.join(newest_plan(copy)["body"]["list"].as_str().unwrap())
}

/// What this machine remembers of pages helps it over a loss for a time.
fn forget_pages(world: &World) {
    let cached = files_below(&world.agent.state.join("cache"));
    for page in cached.iter().filter(|path| path.parent().unwrap().ends_with("inventories")) {
        fs::remove_file(page).unwrap();
    }
}

fn committed(receipt: &Value) -> Vec<bool> {
    let stores = receipt["jobs"][0]["stores"].as_array().unwrap();
    stores.iter().map(|store| store["committed"].as_bool().unwrap()).collect()
}

/// A push that names the plan and is committed everywhere; gives the bytes that it made.
#[track_caller]
fn push_in_doubt(history: &mut History) -> u64 {
    let pushed = history.world.run(args!["push", &history.data.root, "--json"]).exits(4);
    let pushed = pushed.says("list of prune plan").says("prune plan --store b");
    let receipt = pushed.json();
    assert_eq!(committed(&receipt), [true, true], "{receipt}");
    let job = &receipt["jobs"][0];
    history.remember(job["snapshot"].as_str().unwrap());
    job["new_bytes"].as_u64().unwrap()
}

#[test]
fn a_plan_whose_list_is_lost_or_rotten_stops_no_push_and_another_takes_its_place() {
    for harm in ["lost", "rotten"] {
        let mut history = History::in_world(World::with_stores(&["a", "b"]), 4);
        plan(&history.world, &["--store", "b", "--keep-last", "2"]);
        let (a, b) = (history.world.path("a"), history.world.path("b"));
        let list = list_of(&b);
        if harm == "lost" {
            fs::remove_file(&list).unwrap();
        } else {
            flip(&list, 20);
        }
        forget_pages(&history.world);
        // What snapshots that stay need is built on; what is new goes to both copies.
        let first = push_in_doubt(&mut history);
        assert!(first < 100_000, "{first} bytes were made anew");
        history.data.noise("more", 300_000, 99);
        push_in_doubt(&mut history);

        let world = &history.world;
        let name = list.file_name().unwrap().to_str().unwrap();
        let verify = |store: &str| world.run(args!["verify", "--from", store, "--depth", "sealed"]);
        verify("a").ok();
        verify("b").exits(4).says(name).says("of a prune plan");
        world.run(args!["prune", "apply", "--store", "b", "--now"]).exits(4).says("prune plan` makes another");
        plan(world, &["--store", "b", "--keep-last", "2"]);
        world.run(args!["prune", "apply", "--store", "b", "--now"]).ok().says("4 snapshots dropped");
        world.push(&history.data.root);
        for copy in [&a, &b] {
            world.run(args!["verify", "--from", copy, "--depth", "opened", "--identity", &world.identity]).ok();
        }
        history.assert_restores(0..6);
    }
}

#[test]
fn nothing_is_built_on_what_a_lost_list_may_name_if_it_comes_back() {
    let mut history = History::of_replaced(World::with_stores(&["a", "b"]));
    plan(&history.world, &["--store", "b", "--keep-last", "1"]);
    let b = history.world.path("b");
    let (list, kept) = (list_of(&b), history.world.path("list"));
    fs::rename(&list, &kept).unwrap();
    forget_pages(&history.world);
    // The file of the snapshot that goes comes back, and so does the list.
    history.data.noise("again", 300_000, 1);
    let made = push_in_doubt(&mut history);
    assert!((300_000..450_000).contains(&made), "{made}: what may go is packed again, and nothing else");
    fs::rename(&kept, &list).unwrap();
    let world = &history.world;
    world.run(args!["prune", "apply", "--store", "b", "--now"]).ok().says("1 snapshot dropped");
    world.run(args!["verify", "--from", "b", "--depth", "opened", "--identity", &world.identity]).ok();
    world.push(&history.data.root);
}

/// Where the inventory of the oldest snapshot lies.
fn oldest_inventory(copy: &Path) -> PathBuf {
    let is_oldest = |text: &String| text.contains("\"kind\":\"snapshot\"") && text.contains("\"seq\":1,");
    let mut records = files_below(&copy.join("ledger")).into_iter().map(|path| fs::read_to_string(path).unwrap());
    let record: Value = serde_json::from_str(records.find(is_oldest).unwrap().lines().next().unwrap()).unwrap();
    copy.join(record["body"]["inventory"].as_str().unwrap())
}

#[test]
fn a_plan_that_was_begun_and_lost_its_list_is_ended_and_the_next_one_names_the_rest() {
    let history = History::of(4);
    let world = &history.world;
    plan(world, &["--keep-last", "2"]);
    let (vault, state) = (world.path("vault-before"), world.path("state-before"));
    must(Command::new("cp").arg("-a").arg(&world.vault).arg(&vault));
    must(Command::new("cp").arg("-a").arg(&world.agent.state).arg(&state));
    apply(world);
    // As if it was killed with the drops signed and a page gone that belongs to one of them.
    let seq = |path: &PathBuf| -> u64 { path.to_str().unwrap().rsplit('-').nth(1).unwrap().parse().unwrap() };
    let is_done = |path: &PathBuf| fs::read_to_string(path).unwrap().contains("\"kind\":\"prune-done\"");
    let done = files_below(&world.vault.join("ledger")).into_iter().filter(is_done).min_by_key(seq).unwrap();
    let (file, bytes) = (done.file_name().unwrap().to_owned(), fs::read(&done).unwrap());
    let root = fs::read_to_string(oldest_inventory(&vault)).unwrap();
    let mut pages = root.lines().map(|line| line.split_whitespace().nth(1).unwrap());
    let page = pages.find(|page| !world.vault.join(page).exists()).unwrap().to_owned();
    for (now, before) in [(&world.vault, &vault), (&world.agent.state, &state)] {
        fs::remove_dir_all(now).unwrap();
        fs::rename(before, now).unwrap();
    }
    let own = fs::read_dir(world.agent.state.join("ledger")).unwrap().next().unwrap().unwrap().path();
    for ledger in [&world.vault.join("ledger"), &own] {
        fs::write(ledger.join(&file), &bytes).unwrap();
    }
    fs::remove_file(world.vault.join(page)).unwrap();

    fs::remove_file(list_of(&world.vault)).unwrap();
    forget_pages(world);
    world.run(args!["prune", "plan", "--keep-last", "2"]).exits(1).says("was begun and not finished");
    world.run(args!["prune", "apply", "--now"]).ok();
    forget_pages(world);
    world.run(args!["verify", "--depth", "sealed"]).ok();
    assert_eq!(world.snapshots().len(), 2);
    world.push(&history.data.root);
    // Of what is left nobody knows whether a push is still at work on it, until it is old.
    for path in ["packs", "indexes", "manifests", "inventories"].iter().flat_map(|area| world.objects(area)) {
        must(Command::new("touch").args(["-d", "4 days ago"]).arg(path));
    }
    plan(world, &["--keep-last", "2"]);
    world.run(args!["prune", "apply", "--now"]).ok();
    assert_eq!(world.objects("manifests").len(), 2);
    world.verify("opened");
    history.assert_restores(3..4);
}

#[test]
fn a_plan_that_was_never_signed_leaves_no_page_that_another_copys_plan_has() {
    let history = History::in_world(World::with_stores(&["a", "b"]), 3);
    let world = &history.world;
    world.run(args!["hold", "latest", "--from", "a", "--until", "1d"]).ok();
    world.push(&history.data.root);
    let (state, kept) = (&world.agent.state, world.path("state-before"));
    must(Command::new("cp").arg("-a").arg(state).arg(&kept));
    let records = files_below(&world.path("b/ledger"));
    plan(world, &["--store", "b", "--keep-last", "2"]);
    // As if it was killed with its list written and nothing signed.
    for record in files_below(&world.path("b/ledger")) {
        if !records.contains(&record) {
            fs::remove_file(record).unwrap();
        }
    }
    fs::remove_dir_all(state).unwrap();
    fs::rename(&kept, state).unwrap();
    plan(world, &["--store", "a", "--keep-last", "1"]);
    let page = newest_plan(&world.path("a"))["body"]["copy"].as_str().unwrap().to_owned();
    assert!(world.path("a").join(&page).exists() && !world.path("b").join(&page).exists());
    forget_pages(world);
    world.push(&history.data.root);
    world.push(&history.data.root);
    world.run(args!["prune", "apply", "--store", "b", "--now"]).ok().says("no plan is pending");
}
