//! The job's contract: whatever is wrong with one member, there is no snapshot, the exit code is 1, and the good ones stay.

use std::fs;
use std::time::{Duration, Instant};

use crate::world::background::until;
use crate::world::{Running, World, args};
use crate::{job, snapshots, source};

/// A job that was good once: a dump of 1,000,000 bytes that comes from this file, and files.
fn good() -> World {
    let world = World::new();
    world.tree("files").file("a", "attachment");
    fs::write(world.path("dump"), dump(1_000_000)).unwrap();
    configure(&world, &["cat", world.path("dump").to_str().unwrap()], "");
    world.push("nightly");
    world
}

fn dump(bytes: usize) -> Vec<u8> {
    let mut dump = b"PGDMP ".to_vec();
    dump.resize(bytes - 20, b'x');
    dump.extend(b"\n-- Dump completed\n\n");
    dump.truncate(bytes);
    dump
}

fn configure(world: &World, command: &[&str], limits: &str) {
    let files = source("files", "files", &format!("paths = [\"{}\"]", world.path("files").display()));
    job(world, &(files + &source("db", "command", &format!("command = {command:?}\n{limits}"))));
}

/// The push fails with these words, and nothing else has changed.
#[track_caller]
fn fails(world: &World, words: &str) {
    let before = snapshots(world);
    world.run(args!["push", "nightly"]).exits(1).says(words).says("db");
    assert_eq!(snapshots(world), before, "a snapshot was made of a job that failed");
    world.verify("opened");
}

#[test]
fn a_dump_that_ends_with_an_error_after_half_of_it_makes_no_snapshot() {
    let world = good();
    configure(
        &world,
        &["sh", "-c", "head -c 500000 \"$0\"; echo 'connection lost' >&2; exit 1", world.path("dump").to_str().unwrap()],
        "",
    );
    fails(&world, "connection lost");
}

#[test]
fn an_empty_dump_with_exit_code_0_makes_no_snapshot() {
    let world = good();
    configure(&world, &["true"], "");
    fails(&world, "source \"db\": gave no output");
}

#[test]
fn the_place_of_a_dump_is_a_directory_to_every_command() {
    let world = good();
    let identity = &world.identity;
    let names = |args: Vec<std::ffi::OsString>| {
        let mut all = args;
        all.extend(args!["--identity", identity]);
        world.run(all).ok().out
    };
    let dump = "/@db/stdout\n";
    assert_eq!(names(args!["ls", "latest"]), "/tmp/\n/@db/\n");
    for path in ["@db", "@db/", "/@db", "/@db/stdout"] {
        assert_eq!(names(args!["ls", "latest", path]), dump, "{path}");
        let found = names(args!["find", if path == "@db" { "/@db" } else { path }]);
        assert!(found.ends_with(dump), "{path}: {found}");
        let back = world.path("back");
        names(args!["restore", "latest", path, "--into", &back]);
        assert_eq!(fs::read(back.join("@db/stdout")).unwrap(), fs::read(world.path("dump")).unwrap());
        assert!(fs::read_dir(&back).unwrap().count() == 1, "{path}: more than the dump was restored");
        fs::remove_dir_all(back).unwrap();
    }
    world.run(args!["cat", "latest", "@db", "--identity", identity]).exits(1).says("/@db: is a dir, not a file");
    world.run(args!["ls", "latest", "@d", "--identity", identity]).exits(1).says("not in this snapshot");
}

#[test]
fn a_missing_member_makes_no_snapshot() {
    let world = good();
    fs::rename(world.path("files"), world.path("elsewhere")).unwrap();
    world.run(args!["push", "nightly"]).exits(1).says("a missing root is a failure");
    assert_eq!(snapshots(&world), 1);
}

#[test]
fn files_that_are_all_gone_make_no_snapshot_until_a_person_says_so() {
    let world = good();
    // What is left of a disk that is not mounted.
    fs::remove_file(world.path("files").join("a")).unwrap();
    world.run(args!["push", "nightly"]).exits(1).says("is a disk not mounted?").says("--accept-size files");
    assert_eq!(snapshots(&world), 1);
    world.run(args!["push", "nightly", "--accept-size", "files"]).ok();
    // They were empty before now.
    world.push("nightly");
    assert_eq!(snapshots(&world), 3);
}

#[test]
fn an_archive_below_its_least_size_makes_no_snapshot() {
    let world = good();
    // What a dump tool writes for a misspelt database: a valid archive of 112 bytes.
    fs::write(world.path("dump"), dump(112)).unwrap();
    configure(&world, &["cat", world.path("dump").to_str().unwrap()], "min_bytes = \"1 KiB\"");
    fails(&world, "at least 1024 are expected");
}

#[test]
fn a_member_that_shrank_or_grew_too_much_makes_no_snapshot_until_a_person_says_so() {
    let world = good();
    let limits = "max_shrink = \"30%\"\nmax_growth = \"100%\"";
    configure(&world, &["cat", world.path("dump").to_str().unwrap()], limits);
    fs::write(world.path("dump"), dump(600_000)).unwrap();
    fails(&world, "shrank from 977 KiB to 586 KiB");
    fs::write(world.path("dump"), dump(2_100_000)).unwrap();
    fails(&world, "by more than 100% since the last good snapshot");
    // The comparison is with the last good one, however often it failed since.
    fails(&world, "grew");
    world.run(args!["push", "nightly", "--accept-size", "db"]).ok();
    fs::write(world.path("dump"), dump(2_000_000)).unwrap();
    world.push("nightly");
}

#[test]
fn a_dump_that_is_cut_short_or_is_something_else_makes_no_snapshot() {
    let world = good();
    let limits = "magic = \"PGDMP\"\nfooter = \"-- Dump completed\"";
    configure(&world, &["cat", world.path("dump").to_str().unwrap()], limits);
    world.push("nightly");
    fs::write(world.path("dump"), &dump(1_000_000)[..700_000]).unwrap();
    fails(&world, "it was cut short");
    fs::write(world.path("dump"), b"<html>login</html>\n-- Dump completed").unwrap();
    fails(&world, "does not begin with PGDMP");
}

#[test]
fn a_dump_that_hangs_is_killed_at_its_time_limit() {
    let world = good();
    configure(&world, &["sh", "-c", "echo begun; sleep 1000 & sleep 1000"], "timeout = \"2s\"");
    let begun = Instant::now();
    fails(&world, "ran longer than its time limit of 2 s and was killed");
    assert!(begun.elapsed() < Duration::from_secs(100), "it was waited for");
}

#[test]
fn a_dump_and_what_it_started_end_with_a_farkeep_that_was_killed() {
    let world = good();
    let pids = world.path("pids");
    let script = "sleep 1000 & echo $! $$ > \"$0\".new; mv \"$0\".new \"$0\"; wait";
    configure(&world, &["sh", "-c", script, pids.to_str().unwrap()], "");
    let running = Running::start(&world.agent, args!["push", "nightly"]);
    until("the dump is being made", || pids.exists());
    let pids = fs::read_to_string(pids).unwrap();
    assert!(pids.split_whitespace().all(is_at_work));
    assert!(running.kill());
    until("both have ended", || !pids.split_whitespace().any(is_at_work));
    // Nothing is in the way of the next one.
    configure(&world, &["cat", world.path("dump").to_str().unwrap()], "");
    world.push("nightly");
}

/// Whether a process is there and has not ended: it may wait for somebody to ask how.
pub fn is_at_work(pid: &str) -> bool {
    let status = fs::read_to_string(format!("/proc/{pid}/status")).unwrap_or_default();
    status.lines().any(|line| line.starts_with("State:") && !line.contains('Z'))
}

#[test]
fn rows_and_passwords_that_a_client_prints_are_not_shown() {
    let world = good();
    let script =
        "echo dump; echo 'failed: mongodb://root:s3cret@db/' >&2; echo \"INSERT INTO person VALUES ('Amina')\" >&2; exit 1";
    configure(&world, &["sh", "-c", script], "");
    world.run(args!["push", "nightly"]).exits(1).says("mongodb://***@db/").never_says("s3cret").never_says("Amina");
    let journal = world.run(args!["push", "nightly", "-vv", "--json"]).exits(1);
    journal.never_says("s3cret").never_says("Amina");
}
