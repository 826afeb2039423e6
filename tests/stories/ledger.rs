//! Every restore is on record: who, when, what, from where, why, how it ended; and a record that was touched is named.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use serde_json::Value;

use crate::world::tools::must;
use crate::world::{Machine, World, args, files_below, needs};

/// A world with two snapshots.
fn pushed() -> World {
    let world = World::new();
    let tree = world.tree("data");
    for seed in 0..2 {
        tree.noise(&format!("file{seed}"), 50_000, seed);
        world.push(&tree.root);
    }
    world
}

fn records(machine: &Machine, store: &Path, kind: &str, more: &[std::ffi::OsString]) -> Vec<Value> {
    let mut all = args!["ledger", "show", "--kind", kind, "--from", store, "--json"];
    all.extend_from_slice(more);
    machine.run(all).ok().json()["records"].as_array().unwrap().clone()
}

#[test]
fn each_restore_is_listed_with_who_when_what_from_where_why_and_how_it_ended() {
    let world = pushed();
    let station = world.machine("station");
    station.configure(fs::read_to_string(&world.agent.config).unwrap().as_str());
    let file = world.path("data/file0");
    let id = world.snapshots()[1]["id"].as_str().unwrap().to_owned();
    let identity = args!["--identity", &world.identity];
    let with = |arguments: Vec<std::ffi::OsString>| [arguments, identity.clone()].concat();
    let reason = args!["--reason", "the disk died", "--ticket", "T-117"];
    station.run(with([args!["restore", "latest", "--into", world.path("one")], reason].concat())).ok();
    station.run(with(args!["restore", "latest", &file, "--into", world.path("two")])).ok();
    station.run(with(args!["cat", "latest", &file])).ok();
    // Something is in the way: it fails, and that is on record too.
    fs::write(world.path("one").join(file.strip_prefix("/").unwrap()), "other").unwrap();
    station.run(with(args!["restore", "latest", "--into", world.path("one")])).exits(1);

    let shown = records(&world.agent, &world.vault, "restore", &identity);
    let kinds: Vec<&str> = shown.iter().map(|record| record["kind"].as_str().unwrap()).collect();
    assert_eq!(kinds, ["restore-intent", "restore-outcome"].repeat(4), "{shown:#?}");
    let intents: Vec<&Value> = shown.iter().step_by(2).collect();
    for intent in &intents {
        assert!(intent["body"]["operator"].as_str().unwrap().contains('@'), "{intent}");
        assert_eq!(intent["body"]["snapshot"], id.as_str());
        assert!(intent["body"]["from"].as_str().unwrap().contains("vault"), "{intent}");
        assert!(intent["time"].as_i64().unwrap() > 1_700_000_000, "{intent}");
        assert_eq!(intent["standing"], "not-enrolled");
    }
    assert_eq!(intents[0]["body"]["reason"], "the disk died");
    assert_eq!(intents[0]["body"]["ticket"], "T-117");
    assert_eq!(intents[0]["detail"]["target"], world.path("one").to_str().unwrap());
    assert_eq!(intents[1]["detail"]["selection"][0], file.to_str().unwrap());
    assert_eq!(intents[2]["body"]["purpose"], "cat");
    let outcomes: Vec<&Value> = shown.iter().skip(1).step_by(2).map(|record| &record["body"]["outcome"]).collect();
    assert_eq!(outcomes, ["done", "done", "done", "failed"]);
    assert_eq!(shown[3]["body"]["bytes"], 50_000);

    // Without the identity the names of files stay secret, the rest is plain.
    let plain = records(&world.agent, &world.vault, "restore", &[]);
    assert_eq!(plain.len(), 8);
    let text = serde_json::to_string(&plain).unwrap() + &world.run(args!["ledger", "show"]).ok().out;
    assert!(!text.contains("file0") && text.contains("the disk died") && text.contains("T-117"), "{text}");
    world.run(args!["ledger", "show"]).ok().says("not-enrolled").says("ended: done").says("ended: failed");
}

#[test]
fn an_intent_is_on_record_before_the_first_byte_of_plaintext() {
    let world = pushed();
    // A restore that cannot write its record gives nothing away: the state directory is a file.
    let station = world.machine("station");
    fs::write(&station.state, "in the way").unwrap();
    let into = world.path("back");
    let restore = args!["restore", "latest", "--from", &world.vault, "--into", &into, "--identity", &world.identity];
    station.run(restore).exits(1);
    assert!(!into.exists() || fs::read_dir(&into).unwrap().count() == 0);
    let cat = args!["cat", "latest", world.path("data/file0"), "--from", &world.vault, "--identity", &world.identity];
    assert_eq!(station.run(cat).exits(1).out, "");
    assert_eq!(records(&world.agent, &world.vault, "restore", &[]).len(), 0);
}

/// A copy of the ledger of a vault with restores, and an auditor who has never seen it.
fn audited(world: &World, name: &str) -> (PathBuf, Machine) {
    let copy = world.path(name);
    must(Command::new("cp").arg("-a").arg(&world.vault).arg(&copy));
    (copy, world.machine(&format!("auditor-{name}")))
}

fn verify_of(world: &World, copy: &Path) -> Vec<std::ffi::OsString> {
    args!["ledger", "verify", "--from", copy, "--trust", world.root_key()]
}

#[test]
fn an_edited_removed_or_reordered_record_is_named() {
    let world = pushed();
    for _ in 0..3 {
        world.run(args!["cat", "latest", world.path("data/file0"), "--identity", &world.identity]).ok();
    }
    let all = files_below(&world.vault.join("ledger"));
    assert_eq!(all.len(), 2 + 6);
    let (whole, auditor) = audited(&world, "whole");
    auditor.run(verify_of(&world, &whole)).exits(0).says("whole");
    let name = |path: &PathBuf| path.file_name().unwrap().to_str().unwrap().to_owned();

    for (number, record) in all.iter().enumerate() {
        let (copy, auditor) = audited(&world, &format!("edited{number}"));
        let path = copy.join("ledger").join(name(record));
        // Another hour: one digit of the time.
        let mut text = fs::read(&path).unwrap();
        let at = String::from_utf8_lossy(&text).find("\"time\":").unwrap();
        let digit = at + text[at..].iter().position(u8::is_ascii_digit).unwrap() + 3;
        text[digit] = if text[digit] == b'5' { b'6' } else { b'5' };
        fs::remove_file(&path).unwrap();
        fs::write(&path, text).unwrap();
        auditor.run(verify_of(&world, &copy)).exits(4).says(&name(record));
    }
    for (number, record) in all.iter().enumerate() {
        let (copy, auditor) = audited(&world, &format!("removed{number}"));
        fs::remove_file(copy.join("ledger").join(name(record))).unwrap();
        let writer_and_number = name(record).rsplit_once('-').unwrap().0.to_owned();
        let found = auditor.run(verify_of(&world, &copy));
        // The newest of a chain that nobody has seen yet could as well not have been written; who has seen it knows.
        if is_last(&all, &writer_and_number) && found.code == 0 {
            world.run(args!["ledger", "verify"]).ok();
            fs::remove_file(world.vault.join("ledger").join(name(record))).unwrap();
            let seen = world.machine("agent");
            seen.run(args!["ledger", "verify"]).exits(4);
            fs::copy(whole.join("ledger").join(name(record)), world.vault.join("ledger").join(name(record))).unwrap();
        } else {
            found.exits(4).says(&writer_and_number);
        }
    }
    // Two records that exchange their places.
    let (copy, auditor) = audited(&world, "swapped");
    let (first, second) = (copy.join("ledger").join(name(&all[0])), copy.join("ledger").join(name(&all[1])));
    fs::rename(&first, copy.join("between")).unwrap();
    fs::rename(&second, &first).unwrap();
    fs::rename(copy.join("between"), &second).unwrap();
    auditor.run(verify_of(&world, &copy)).exits(4).says(&name(&all[0])).says(&name(&all[1]));
    // A number that is given to another record.
    let (copy, auditor) = audited(&world, "renumbered");
    let (writer, rest) = all[0].file_name().unwrap().to_str().unwrap().split_once('-').unwrap();
    let renumbered = format!("{writer}-9{rest}");
    fs::rename(copy.join("ledger").join(name(&all[0])), copy.join("ledger").join(&renumbered)).unwrap();
    auditor.run(verify_of(&world, &copy)).exits(4).says(&renumbered);
}

fn is_last(all: &[PathBuf], writer_and_number: &str) -> bool {
    let (writer, number) = writer_and_number.rsplit_once('-').unwrap();
    let number: u64 = number.parse().unwrap();
    let names = all.iter().map(|path| path.file_name().unwrap().to_str().unwrap());
    let numbers = names.filter_map(|name| name.strip_prefix(writer)?.split('-').nth(1)?.parse::<u64>().ok());
    numbers.max() == Some(number)
}

#[test]
fn a_station_that_can_only_read_keeps_its_records_and_delivers_them_later() {
    needs!(root);
    let world = pushed();
    let station = world.machine("station");
    let reading = world.path("read-only");
    fs::create_dir(&reading).unwrap();
    let bind = |args: &[&str]| {
        must(Command::new("mount").args(args).arg(&world.vault).arg(&reading));
    };
    bind(&["--bind", "-o", "ro"]);
    let restore =
        args!["restore", "latest", "--from", &reading, "--into", world.path("back"), "--identity", &world.identity];
    let restored = station.run(restore);
    let show = args!["ledger", "show", "--from", &reading, "--trust", world.root_key()];
    let shown = station.run(show);
    must(Command::new("umount").arg(&reading));
    restored.ok().says("sync");
    shown.ok().says("[only here]");
    assert_eq!(records(&world.agent, &world.vault, "restore", &[]).len(), 0);
    // Its next sync takes them along to the drive.
    let drive = world.path("drive");
    let sync = args!["sync", &drive, "--from", &world.vault, "--plain-directory", "--trust", world.root_key()];
    station.run(sync).ok();
    assert_eq!(records(&world.agent, &drive, "restore", &[]).len(), 2);
}
