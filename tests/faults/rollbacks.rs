//! Copies that were set back to an older image: refused by whoever has seen more, until somebody who knows why accepts it.

use std::fs;
use std::path::PathBuf;

use serde_json::Value;

use crate::chains::{copy, nights, strangers};
use crate::world::{args, files_below};

#[test]
fn a_vault_that_was_set_back_is_refused_by_who_has_seen_more() {
    let world = nights(4);
    let station = world.machine("station");
    let from = world.vault.clone();
    let trusting = |words: Vec<std::ffi::OsString>| {
        let mut all = words;
        all.extend(args!["--from", &from, "--identity", &world.identity]);
        station.run(all)
    };
    trusting(args!["ls", "latest"]).ok();
    let newest = world.snapshots().last().unwrap()["id"].as_str().unwrap().to_owned();
    for night in 0..3 {
        copy(&world.path(&format!("vault after {night}")), &world.vault);
        let into = world.path("into");
        for run in [
            trusting(args!["ls", "latest"]),
            trusting(args!["verify", "--depth", "list"]),
            trusting(args!["restore", "latest", "--into", &into]),
            world.run(args!["verify", "--depth", "sealed"]),
            world.run(args!["push", world.path("data")]),
        ] {
            // The newest record that is known is named.
            run.exits(4).says("rolled back").says(&newest[..8]);
        }
        assert!(!into.exists() || files_below(&into).is_empty());
    }
    copy(&world.path("vault after 3"), &world.vault);
    trusting(args!["ls", "latest"]).ok();
    world.push(world.path("data"));
}

#[test]
fn a_rollback_that_somebody_accepts_is_on_record_and_the_copy_goes_on() {
    let world = nights(2);
    let image = world.path("image");
    copy(&world.vault, &image);
    let tree = world.path("data");
    for night in 2..4 {
        fs::write(tree.join(format!("night{night}")), format!("{night}")).unwrap();
        world.push(&tree);
        world.run(args!["verify"]).ok();
    }
    let station = world.machine("station");
    let read = || station.run(args!["ls", "latest", "--from", &world.vault, "--identity", &world.identity]);
    read().ok();
    let lost: Vec<String> = world.snapshots()[2..].iter().map(|one| one["id"].as_str().unwrap()[..8].to_owned()).collect();
    copy(&image, &world.vault);
    world.run(args!["push", &tree]).exits(4).says("rolled back").says("--accept-rollback");
    world.run(args!["verify", "--accept-rollback", "--depth", "list"]).exits(2);
    world.run(args!["verify", "--accept-rollback", "--sample", "5%"]).exits(2);
    world.run(args!["push", &tree]).exits(4);
    world.run(args!["verify", "--accept-rollback"]).exits(3).says("rolled back").says("2 snapshots");
    world.run(args!["ledger", "show"]).ok().says("taken as it is after it was rolled back");
    // What that machine saw, others saw too, until the records are there again.
    read().exits(4).says("rolled back");
    world.push(&tree);
    read().ok();
    assert_eq!(world.snapshots().len(), 5);
    world.run(args!["verify"]).exits(3).says(&lost[0]).says(&lost[1]);
    world.run(args!["ledger", "verify"]).ok();
    world.run(args!["restore", "latest", "--into", world.path("into"), "--identity", &world.identity]).ok();
    assert_eq!(fs::read_to_string(world.path("into").join(tree.strip_prefix("/").unwrap()).join("night3")).unwrap(), "3");
    // Nobody has them any more: they are given up, and nothing else goes.
    let plan = world.run(args!["prune", "plan", "--keep-last", "9", "--despite-damage", "--explain"]).ok();
    plan.says("2 snapshots to drop, 3 stay").says("0 objects").says("given up");
    // Nor does a torn file under the name of what is lost keep it.
    let record = world.objects("ledger").into_iter().find(|path| path.to_string_lossy().contains(&lost[0])).unwrap();
    let statement = fs::read_to_string(record).unwrap();
    let statement: Value = serde_json::from_str(statement.lines().next().unwrap()).unwrap();
    fs::write(world.vault.join(statement["body"]["inventory"].as_str().unwrap()), "torn").unwrap();
    world.run(args!["prune", "apply", "--now"]).ok().says("2 snapshots dropped");
    world.run(args!["verify"]).ok();
    // The next one is none that anybody accepted.
    copy(&image, &world.vault);
    world.run(args!["push", &tree]).exits(4).says("rolled back");
}

#[test]
fn a_copy_that_was_accepted_is_missed_again_when_it_goes_back_further() {
    let world = nights(3);
    copy(&world.path("vault after 1"), &world.vault);
    world.run(args!["verify", "--accept-rollback"]).exits(3);
    // Nothing was pushed in between.
    copy(&world.path("vault after 0"), &world.vault);
    world.run(args!["verify"]).exits(4).says("rolled back").says("number 2");
    world.run(args!["push", world.path("data")]).exits(4).says("rolled back");
}

#[test]
fn an_accepted_rollback_hides_nothing_that_was_taken_away_beside_it() {
    let world = nights(2);
    world.run(args!["verify"]).ok();
    let (image, tree) = (world.path("image"), world.path("data"));
    copy(&world.vault, &image);
    world.push(&tree);
    world.run(args!["verify"]).ok();
    copy(&image, &world.vault);
    // Whoever set it back takes away the first night as well.
    let first = world.path("vault after 0");
    let record = files_below(&first.join("ledger")).remove(0);
    let body: Value = serde_json::from_str(fs::read_to_string(record).unwrap().lines().next().unwrap()).unwrap();
    for part in ["manifest", "inventory"] {
        fs::remove_file(world.vault.join(body["body"][part].as_str().unwrap())).unwrap();
    }
    let inventory = body["body"]["inventory"].as_str().unwrap();
    world.run(args!["verify", "--accept-rollback"]).exits(4).says(inventory);
    world.push(&tree);
    // It is not forgotten with the nights that the rollback took.
    for _ in 0..2 {
        world.run(args!["verify"]).exits(4).says(inventory);
    }
    world.run(args!["prune", "plan", "--keep-last", "9", "--despite-damage"]).ok().says("2 snapshots to drop, 2 stay");
    world.run(args!["prune", "apply", "--now"]).ok();
    world.run(args!["verify"]).ok();
}

#[test]
fn a_series_of_which_a_rollback_left_nothing_can_be_given_up() {
    let world = nights(1);
    let (image, tree) = (world.path("image"), world.path("data"));
    copy(&world.vault, &image);
    let source = format!("[[job.once.source]]\nname = \"d\"\nkind = \"files\"\npaths = [{tree:?}]\n");
    world.agent.configure(&format!("[job.once]\nstores = [\"main\"]\n{source}"));
    world.push("once");
    copy(&image, &world.vault);
    world.run(args!["verify", "--accept-rollback"]).exits(3);
    world.push(&tree);
    world.run(args!["verify"]).exits(3).says("gives them up");
    world.run(args!["prune", "plan", "--keep-last", "9", "--despite-damage"]).ok().says("1 snapshot to drop, 2 stay");
    world.run(args!["verify"]).exits(3).says("a plan that waits gives them up");
    world.run(args!["prune", "apply", "--now"]).ok().says("1 snapshot dropped");
    world.run(args!["verify"]).ok();
    // Of what lies here the last good one still goes by nobody's plan.
    world.run(args!["prune", "plan", "--keep-last", "1"]).ok().says("1 snapshot to drop");
    world.run(args!["prune", "apply", "--now"]).ok();
    world.run(args!["verify"]).ok();
}

#[test]
fn a_chain_that_was_signed_anew_beyond_what_was_seen_is_refused_until_somebody_accepts_it() {
    let world = nights(2);
    let state = world.path("state after 1");
    copy(&world.agent.state, &state);
    let tree = world.path("data");
    world.push(&tree);
    let station = world.machine("station");
    let read = |command: &str| {
        let mut all = args![command, "--from", &world.vault, "--trust", world.root_key()];
        if command == "ls" {
            all.extend(args!["latest", "--identity", &world.identity]);
        }
        station.run(all)
    };
    read("verify").ok();
    // Server and machine, set back together, go on: with the numbers that the station has seen, and one more.
    copy(&world.path("vault after 1"), &world.vault);
    copy(&state, &world.agent.state);
    (0..2).for_each(|_| drop(world.push(&tree)));
    for command in ["ls", "verify", "ls", "verify"] {
        read(command).exits(4).says("rolled back").says("was seen at number 3").says("number 4, without it");
    }
    for _ in 0..2 {
        station
            .run(args!["ledger", "verify", "--from", &world.vault, "--trust", world.root_key()])
            .exits(4)
            .says("rolled back");
    }
    station.run(args!["verify", "--accept-rollback", "--from", &world.vault, "--trust", world.root_key()]).exits(3);
    read("verify").ok();
    read("ls").ok();
}

#[test]
fn a_rollback_can_be_accepted_however_many_strangers_records_went_with_it() {
    let world = nights(2);
    // Each time that the vault is read, others are the first.
    let strangers: Vec<(PathBuf, Vec<u8>)> = strangers(&world, 750).into_iter().collect();
    for some in strangers.chunks(250).rev() {
        some.iter().for_each(|(path, bytes)| fs::write(path, bytes).unwrap());
        world.run(args!["ledger", "show"]).ok();
    }
    copy(&world.path("vault after 0"), &world.vault);
    world.run(args!["verify", "--accept-rollback"]).exits(3).says("number 2");
    world.push(world.path("data"));
    world.run(args!["ledger", "verify"]).ok();
}

#[test]
fn a_rollback_is_not_accepted_in_the_name_of_a_key_that_was_retired() {
    let world = nights(1);
    let root = world.identity.with_extension("root");
    let station = world.machine("station");
    let run = |words: Vec<std::ffi::OsString>| {
        station.run([words, args!["--from", &world.vault, "--trust", world.root_key()]].concat())
    };
    run(args!["verify"]).ok();
    let notes = world.run(args!["ledger", "verify"]).ok().out;
    let fingerprint = notes.split("enrol station ").nth(1).unwrap().split_whitespace().next().unwrap().to_owned();
    world.run(args!["keys", "enrol", "station", &fingerprint, "--root", &root]).ok();
    world.run(args!["keys", "retire", &fingerprint, "--root", &root]).ok();
    copy(&world.vault, &world.path("image"));
    world.push(world.path("data"));
    run(args!["verify"]).ok();
    copy(&world.path("image"), &world.vault);
    for _ in 0..2 {
        run(args!["verify", "--accept-rollback"]).exits(1).says("not accepted").says("was retired");
    }
    run(args!["verify"]).exits(4).says("rolled back");
}

#[test]
fn an_epoch_that_began_since_comes_back_with_its_key_files() {
    let world = nights(2);
    let root = world.identity.with_extension("root");
    world.run(args!["keys", "new-epoch", "--root", &root, "--identity", &world.identity]).ok();
    let tree = world.path("data");
    world.push(&tree);
    // Everything that says so goes; only the machine that pushes remembers.
    copy(&world.path("vault after 1"), &world.vault);
    world.run(args!["verify", "--accept-rollback"]).exits(3);
    world.run(args!["push", &tree]).exits(3).says("mended");
    world.run(args!["verify", "--depth", "opened", "--identity", &world.identity]).exits(3);
    world.run(args!["restore", "latest", "--into", world.path("into"), "--identity", &world.identity]).ok();
    // A key file alone comes back as well.
    for file in world.objects("keys") {
        fs::remove_file(file).unwrap();
    }
    world.run(args!["push", &tree]).exits(3).says("mended");
    world.run(args!["cat", "latest", tree.join("night1"), "--identity", &world.identity]).ok();
}
