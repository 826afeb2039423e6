//! `keep_local`: archives that were pushed go from this machine when they are too many, and none is ever the only copy.

use std::fs;
use std::path::PathBuf;

use serde_json::Value;

use crate::world::{Run, World, args, files_below, flip, skipped};
use crate::{gzip, job, missing_faketime, push_at, source};

const DAYS: [&str; 5] = ["2026-11-16", "2026-11-17", "2026-11-18", "2026-11-19", "2026-11-20"];

fn path(world: &World, day: &str) -> PathBuf {
    world.path("backups").join(format!("hearth-{day}.gz"))
}

/// A job that adopts the archive of the day.
fn configure(world: &World, more: &str) {
    let glob = world.path("backups/hearth-{date}.gz");
    job(world, &source("mongo", "spool", &format!("glob = \"{}\"\nquiet = \"1s\"\nwait = \"1s\"\n{more}", glob.display())));
}

/// The script of that day, and the push after it.
fn night(world: &World, day: &str) -> Run {
    gzip(&path(world, day), format!("documents of {day}").repeat(500).as_bytes(), Some(&format!("{day} 02:00")));
    push_at(&world.agent, &format!("{day} 02:30:00"))
}

fn receipt(run: Run) -> Value {
    run.json()["jobs"][0].clone()
}

/// The days whose archives lie here.
fn here(world: &World) -> Vec<String> {
    let name = |path: &PathBuf| path.file_stem().unwrap().to_str().unwrap().trim_start_matches("hearth-").to_owned();
    files_below(&world.path("backups")).iter().map(name).collect()
}

fn removed(receipt: &Value) -> usize {
    receipt["local"][0]["removed"].as_array().unwrap().len()
}

#[test]
fn the_oldest_archives_that_were_pushed_go_and_the_push_names_them() {
    if let Some(why) = missing_faketime() {
        return skipped(&why);
    }
    let world = World::new();
    configure(&world, "");
    // Not of this job, and one that nobody pushed: both stay for ever.
    gzip(&path(&world, "2026-11-01"), b"before farkeep", Some("2026-11-01 02:00"));
    fs::write(world.path("backups/other"), "x").unwrap();
    for day in &DAYS[..3] {
        assert_eq!(receipt(night(&world, day).ok())["local"].as_array().map(Vec::len), Some(0), "nothing is said of limits");
    }
    configure(&world, "keep_local = { files = 2 }");
    let fourth = receipt(night(&world, DAYS[3]).ok());
    assert_eq!(removed(&fourth), 2, "{fourth}");
    assert!(fourth["local"][0]["removed"][0].as_str().unwrap().contains(DAYS[0]), "the oldest first: {fourth}");
    assert_eq!((&fourth["local"][0]["files"], &fourth["local"][0]["over"]), (&2.into(), &0.into()));
    assert_eq!(here(&world), ["2026-11-01", DAYS[2], DAYS[3], "other"]);
    // What was removed comes back from the vault.
    let back = world.path("back");
    world.restore(DAYS[0], &back);
    assert!(files_below(&back).iter().any(|path| path.to_string_lossy().contains(DAYS[0])));

    // By bytes and by age; and the text says it.
    configure(&world, "keep_local = { bytes = \"1 B\" }");
    gzip(&path(&world, DAYS[4]), b"small", Some(&format!("{} 02:00", DAYS[4])));
    let said = crate::at(&world.agent, &format!("{} 02:30:00", DAYS[4]), args!["push", "nightly"]).ok();
    said.says("2 archives removed from this machine (keep_local)").says(&format!("hearth-{}.gz", DAYS[2])).says("1 stay");
    configure(&world, "keep_local = { age = \"1h\" }");
    let later = receipt(night(&world, "2026-11-21").ok());
    assert_eq!(removed(&later), 1);
    assert_eq!(here(&world), ["2026-11-01", "2026-11-21", "other"]);
    configure(&world, "keep_local = {}");
    world.run(args!["push", "nightly"]).exits(2).says("says nothing of what may stay");
}

#[test]
fn an_archive_that_was_changed_since_it_was_pushed_stays() {
    if let Some(why) = missing_faketime() {
        return skipped(&why);
    }
    let world = World::new();
    configure(&world, "keep_local = { files = 1 }");
    night(&world, DAYS[0]).ok();
    fs::write(path(&world, DAYS[0]), "another one").unwrap();
    assert_eq!(removed(&receipt(night(&world, DAYS[1]).ok())), 0);
    // Nor is a link followed that was put in its place.
    let outside = world.path("outside");
    fs::rename(path(&world, DAYS[1]), &outside).unwrap();
    std::os::unix::fs::symlink(&outside, path(&world, DAYS[1])).unwrap();
    assert_eq!(removed(&receipt(night(&world, DAYS[2]).ok())), 0);
    assert!(outside.exists() && path(&world, DAYS[1]).exists());
}

#[test]
fn a_push_whose_note_of_archives_cannot_be_written_stands_and_removes_nothing() {
    if let Some(why) = missing_faketime() {
        return skipped(&why);
    }
    let world = World::new();
    configure(&world, "keep_local = { files = 1 }");
    night(&world, DAYS[0]).ok();
    let is_note = |path: &PathBuf| path.file_name().unwrap().to_str().unwrap().starts_with("shipped-");
    let note = files_below(&world.agent.state).into_iter().find(is_note).unwrap();
    fs::remove_file(&note).unwrap();
    fs::create_dir(&note).unwrap();
    fs::write(note.join("in the way"), "").unwrap();
    let second = receipt(night(&world, DAYS[1]).says("nothing more is removed from this machine").ok());
    assert!(second["snapshot"].is_string(), "{second}");
    assert_eq!(here(&world), [DAYS[0], DAYS[1]]);
}

#[test]
fn what_is_not_for_certain_in_every_store_stays() {
    if let Some(why) = missing_faketime() {
        return skipped(&why);
    }
    let world = World::with_stores(&["a", "b"]);
    configure(&world, "keep_local = { files = 1 }");
    night(&world, DAYS[0]).ok();
    // A store that is away tonight.
    let (b, away) = (world.path("b"), world.path("away"));
    fs::rename(&b, &away).unwrap();
    let second = night(&world, DAYS[1]).exits(3);
    assert_eq!(removed(&receipt(second)), 0);
    fs::rename(&away, &b).unwrap();
    assert_eq!(here(&world), DAYS[..2]);
    // A store of two that was named on the command line.
    gzip(&path(&world, DAYS[2]), b"third", Some(&format!("{} 02:00", DAYS[2])));
    let only_a = crate::at(&world.agent, &format!("{} 02:30:00", DAYS[2]), args!["push", "nightly", "--to", "a", "--json"]);
    assert_eq!(receipt(only_a.ok())["local"].as_array().map(Vec::len), Some(0));

    // One copy is damaged, and a verification has said so: nothing goes until it is healed.
    let pack = files_below(&b.join("packs"))[0].clone();
    flip(&pack, 200);
    world.run(args!["verify", "--from", "b", "--depth", "sealed"]).exits(4);
    let damaged = night(&world, DAYS[3]);
    let damaged = receipt(damaged);
    assert_eq!(removed(&damaged), 0, "{damaged}");
    let said = damaged["findings"].as_array().unwrap().iter().any(|one| {
        let message = one["message"].as_str().unwrap();
        message.contains("archives over keep_local stay") && message.contains("verification")
    });
    assert!(said, "{damaged:#}");
    flip(&pack, 200);
    world.run(args!["verify", "--from", "b", "--depth", "sealed"]).ok();
    let healed = receipt(night(&world, DAYS[4]));
    assert!(removed(&healed) >= 3, "{healed:#}");
    assert!(here(&world).contains(&DAYS[4].to_owned()));
}

#[test]
fn an_archive_whose_snapshot_was_pruned_or_is_about_to_be_stays() {
    if let Some(why) = missing_faketime() {
        return skipped(&why);
    }
    let world = World::new();
    configure(&world, "");
    for day in &DAYS[..3] {
        night(&world, day).ok();
    }
    world.run(args!["prune", "plan", "--keep-last", "2"]).ok().says("1 snapshot to drop");
    configure(&world, "keep_local = { files = 1 }");
    let planned = receipt(night(&world, DAYS[3]).ok());
    assert_eq!(removed(&planned), 2, "{planned:#}");
    assert_eq!(planned["local"][0]["over"], 1);
    assert_eq!(here(&world), [DAYS[0], DAYS[3]], "the one whose snapshot a plan names stays");
    world.run(args!["prune", "apply", "--now"]).ok();
    let pruned = receipt(night(&world, DAYS[4]).ok());
    assert_eq!(here(&world), [DAYS[0], DAYS[4]], "{pruned:#}");
}
