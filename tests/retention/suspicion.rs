//! Nights on which everything changes at once: what a job makes of them, and who may say that all is well.

use std::fs;
use std::process::Command;

use serde_json::Value;

use super::history::{apply, plan};
use super::world::tools::must;
use super::world::{Random, Tree, World, args, assert_same};

const MIB: usize = 1024 * 1024;

/// A job `nightly` over a tree, of which two snapshots stay.
fn job(more: &str) -> (World, Tree) {
    let world = World::new();
    let data = world.tree("data");
    let keep = "keep = { last = 2, min_snapshots = 1 }";
    let source = format!("name = \"files\"\nkind = \"files\"\npaths = [\"{}\"]", data.root.display());
    world.agent.configure(&format!("[job.nightly]\n{keep}\n{more}\n[[job.nightly.source]]\n{source}"));
    (world, data)
}

/// Text as people write it: it shrinks to a fraction.
fn text(bytes: usize, seed: u64) -> Vec<u8> {
    const WORDS: [&str; 8] = ["patient", "record", "district", "birth", "office", "clerk", "ledger", "page"];
    let mut random = Random::new(seed);
    let mut text = String::new();
    while text.len() < bytes {
        let word = WORDS[(random.part() * WORDS.len() as f64) as usize];
        text.push_str(&format!("{word} {} ", (random.part() * 10_000.0) as u32));
    }
    text.truncate(bytes);
    text.into_bytes()
}

/// Eight documents of 512 KiB; each of these nights one of them changes.
fn nights_of_documents(world: &World, data: &Tree, nights: u64) {
    for number in 0..8 {
        data.file(format!("document-{number}"), text(MIB / 2, number));
    }
    for night in 0..nights {
        data.file("journal", text(40_000, 100 + night));
        assert_eq!(world.push("nightly")["state"], "good", "night {night}");
    }
}

/// Every file becomes what nobody can read.
fn encrypt(data: &Tree) {
    encrypt_anew(data, 500);
}

/// Likewise, each time as other bytes.
fn encrypt_anew(data: &Tree, seed: u64) {
    for number in 0..8 {
        data.noise(&format!("document-{number}"), MIB / 2, seed + number);
    }
}

fn pushed(world: &World) -> Value {
    world.run(args!["push", "nightly", "--json"]).json()["jobs"][0].clone()
}

#[test]
fn files_that_were_encrypted_stop_retention_until_a_person_says_that_all_is_well() {
    let (world, data) = job("");
    nights_of_documents(&world, &data, 4);
    let good = world.path("good");
    must(Command::new("cp").arg("-a").arg(&data.root).arg(&good));
    let last_good = world.snapshots().last().unwrap()["id"].as_str().unwrap()[..12].to_owned();

    encrypt(&data);
    let push = world.run(args!["push", "nightly"]).exits(3);
    let push =
        push.says("files: 99%").says("of what the last good snapshot held is gone (usually").says("cannot be compressed");
    let suspect = world.snapshots().last().unwrap().clone();
    let id = suspect["id"].as_str().unwrap()[..12].to_owned();
    assert_eq!(suspect["state"], "suspect");
    push.says(&format!("farkeep hold {} --clear", &id[..8]));
    world
        .run(args!["status", "--check"])
        .exits(3)
        .says("SUSPECT")
        .says("nothing of its series is pruned")
        .says("with the custodian's key");

    // Nights go on; what would be old stays, and what was encrypted does not come to be the usual.
    assert_eq!(pushed(&world)["state"], "good", "nothing changed any more");
    let each_night = world.run(args!["push", "nightly"]).exits(3).says("nothing of its series is pruned");
    each_night.says(&format!("farkeep hold {} --clear", &id[..8]));
    world.run(args!["prune", "plan", "--explain"]).exits(3).says("there is nothing to prune").says("frozen: snapshot");
    // Whoever restores is told, although the last night looked good; and of the night before it there is nothing to tell.
    let restore = |snapshot: &str, into: &str| {
        world.run(args!["restore", snapshot, "--into", world.path(into), "--identity", &world.identity])
    };
    let told = restore("latest", "encrypted").ok().says(&format!("comes after {}, which is suspect", &id[..8]));
    told.says(&format!("the last good one before it is {}", &last_good[..8]));
    restore(&id, "first").ok().says("is suspect, and nobody has cleared that");
    restore(&last_good, "before").ok().never_says("suspect");
    world.restore(&last_good, &world.path("back"));
    assert_same(&good, &data.below(&world.path("back")));

    world.run(args!["snapshots"]).ok().says("suspect\n").never_says("cleared");
    world.run(args!["hold", &id, "--clear", "--reason", "we encrypted them"]).ok().says("counts as good");
    world.run(args!["snapshots"]).ok().says("suspect, cleared\n");
    world.run(args!["hold", &id, "--clear"]).exits(2).says("nothing to clear");
    world.run(args!["ledger", "show"]).ok().says("of suspicion, reason: we encrypted them");
    world.run(args!["status", "--check"]).ok();
    restore("latest", "cleared").ok().never_says("suspect");
    world.push("nightly");
    assert_eq!(plan(&world, &[])["dropped"], 6);
    assert_eq!(apply(&world)["dropped"], 6);
    world.verify("opened");
}

#[test]
fn nights_are_compared_with_what_a_person_cleared() {
    let (world, data) = job("");
    nights_of_documents(&world, &data, 4);
    // From now on the documents are encrypted anew each night: a suspect night that nobody cleared is nothing to compare with.
    for night in 0..3 {
        encrypt_anew(&data, 1000 * (night + 1));
        assert_eq!(pushed(&world)["state"], "suspect", "night {night}");
    }
    let id = world.snapshots().last().unwrap()["id"].as_str().unwrap()[..12].to_owned();
    // The agent's own key clears nothing.
    let keys = fs::read_dir(world.agent.state.join("keys")).unwrap().next().unwrap().unwrap().path();
    let (custodian, aside) = (keys.join("custodian-writer"), world.path("aside"));
    fs::rename(&custodian, &aside).unwrap();
    fs::copy(keys.join("agent-writer"), &custodian).unwrap();
    world.run(args!["hold", &id, "--clear"]).exits(1).says("custodian");
    encrypt_anew(&data, 4000);
    assert_eq!(pushed(&world)["state"], "suspect");
    fs::rename(&aside, &custodian).unwrap();
    // It is cleared with those before it, and the one after it is not.
    world.run(args!["hold", &id, "--clear"]).ok();
    encrypt_anew(&data, 5000);
    assert_eq!(pushed(&world)["state"], "good", "as the night that was cleared");
    encrypt_anew(&data, 6000);
    assert_eq!(pushed(&world)["state"], "good");
    // It comes to rest, and then the same is a jump again.
    for night in 0..4 {
        data.file("journal", text(40_000, 200 + night));
        assert_eq!(pushed(&world)["state"], "good", "quiet night {night}");
    }
    encrypt_anew(&data, 7000);
    assert_eq!(pushed(&world)["state"], "suspect");
}

#[test]
fn what_a_person_cleared_is_the_size_that_later_nights_are_held_to() {
    let (world, data) = job("");
    let small = world.tree("small");
    let small = format!("name = \"small\"\nkind = \"files\"\npaths = [\"{}\"]", small.root.display());
    world.agent.configure(&format!("max_shrink = \"30%\"\n[[job.nightly.source]]\n{small}"));
    nights_of_documents(&world, &data, 4);
    encrypt(&data);
    let fewer = || (4..8).for_each(|number| fs::remove_file(data.path(format!("document-{number}"))).unwrap());
    fewer();
    world.run(args!["push", "nightly"]).exits(1).says("files");
    world.run(args!["push", "nightly", "--accept-size", "files"]).exits(3).says("suspect");
    // Nobody cleared it: it is not what the next night is compared with.
    world.run(args!["push", "nightly"]).exits(1).says("files");
    let id = world.snapshots().last().unwrap()["id"].as_str().unwrap()[..12].to_owned();
    world.run(args!["hold", &id, "--clear"]).ok();
    world.run(args!["push", "nightly"]).ok();
    // What was cleared is held to in its turn.
    fs::remove_file(data.path("document-0")).unwrap();
    fs::remove_file(data.path("document-1")).unwrap();
    world.run(args!["push", "nightly"]).exits(1).says("files");
}

#[test]
fn a_day_with_nothing_but_a_suspect_snapshot_says_so_until_that_is_cleared() {
    let (world, data) = job("");
    nights_of_documents(&world, &data, 4);
    // The tag tells this night from the good ones of the same day, as its date does on others.
    world.agent.reconfigure(|config| config.replace("keep = {", "tags = [\"tonight\"]\nkeep = {"));
    encrypt(&data);
    assert_eq!(pushed(&world)["state"], "suspect");
    let tonight = world.snapshots().last().unwrap()["id"].as_str().unwrap()[..12].to_owned();
    let run = || world.run(args!["restore", "tag:tonight", "--run", "--dry-run", "--identity", &world.identity]);
    let told = run().exits(2).says(&tonight[..8]).says("(suspect)").says("--clear");
    told.never_says("there is no such snapshot");
    world.run(args!["hold", &tonight, "--clear"]).ok();
    run().never_says("no snapshot of it is whole").says(&tonight[..8]);
}

#[test]
fn a_plan_that_waits_when_a_suspect_snapshot_comes_drops_nothing() {
    let (world, data) = job("");
    nights_of_documents(&world, &data, 4);
    assert_eq!(plan(&world, &[])["dropped"], 2);
    encrypt(&data);
    assert_eq!(pushed(&world)["state"], "suspect");
    assert_eq!(apply(&world)["dropped"], 0);
    assert_eq!(world.snapshots().len(), 5);
    world.verify("opened");
}

#[test]
fn a_push_that_died_does_not_hide_what_it_had_sent() {
    let (world, pictures) = job("");
    let all = |seed: u64| {
        for n in 0..10 {
            pictures.noise(&format!("picture-{n}"), 5 * MIB / 2, seed + n);
        }
    };
    all(0);
    for night in 0..3 {
        pictures.noise("new", 100_000, 100 + night);
        assert_eq!(pushed(&world)["state"], "good");
    }
    all(50);
    // A pack is full and sent when the member turns out to be too small.
    let before = fs::read_to_string(&world.agent.config).unwrap();
    world.agent.reconfigure(|config| format!("{config}\nmin_bytes = \"1 GiB\"\n"));
    world.run(args!["push", "nightly"]).exits(1).says("at least");
    world.agent.reconfigure(|_| before.clone());
    world.run(args!["push", "nightly"]).exits(3).says("files: 99% of what the last good snapshot held is gone");
}

#[test]
fn nights_that_are_large_but_ordinary_are_good() {
    // Pictures never compress, and each night more of them come, in the end many at once.
    let (world, pictures) = job("");
    for night in 0..5_u64 {
        let size = if night == 4 { 5 * MIB } else { MIB + MIB / 2 };
        pictures.noise(&format!("picture-{night}"), size, night);
        assert_eq!(pushed(&world)["state"], "good", "night {night}");
    }
    // Most of the documents are written anew, and they are documents still.
    let (world, data) = job("");
    nights_of_documents(&world, &data, 4);
    for number in 0..5 {
        data.file(format!("document-{number}"), text(MIB / 2, 900 + number));
    }
    assert_eq!(pushed(&world)["state"], "good");
    // All of them move to another directory.
    data.dir("moved");
    for number in 0..8 {
        let name = format!("document-{number}");
        fs::rename(data.path(&name), data.path("moved").join(&name)).unwrap();
    }
    assert_eq!(pushed(&world)["state"], "good");
}

#[test]
fn a_job_may_say_that_such_nights_are_usual() {
    let (world, data) = job("suspect = false");
    nights_of_documents(&world, &data, 4);
    encrypt(&data);
    assert_eq!(pushed(&world)["state"], "good");
}
