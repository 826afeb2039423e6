//! Safety copies: what stands at a target is kept whatever state it is in, or the restore says how to go on without.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use rusqlite::Connection;

use crate::world::background::until;
use crate::world::tools::must;
use crate::world::{Run, Running, World, assert_same};
use crate::{gunzip, gzip, job, restore_run, source, written_at};

fn restore(world: &World, copy: &Path) -> Run {
    world.run(restore_run(world, "latest", &["--yes-destroy", "nightly", "--safety-copy", copy.to_str().unwrap()]))
}

fn restore_without_copy(world: &World) -> Run {
    world.run(restore_run(world, "latest", &["--yes-destroy", "nightly"]))
}

/// Names in a directory, hidden ones too.
fn names(dir: &Path) -> Vec<String> {
    let mut names: Vec<String> =
        fs::read_dir(dir).unwrap().map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect();
    names.sort();
    names
}

/// A machine whose devices stand in a database of SQLite, pushed once.
fn devices() -> (World, PathBuf) {
    let world = World::new();
    let path = world.path("devices.db");
    let db = Connection::open(&path).unwrap();
    db.execute_batch("CREATE TABLE device (name TEXT); INSERT INTO device VALUES ('printer'), ('scanner')").unwrap();
    drop(db);
    job(&world, &source("devices", "sqlite", &format!("path = '{}'", path.display())));
    world.push("nightly");
    (world, path)
}

fn rows(path: &Path) -> i64 {
    Connection::open(path).unwrap().query_row("SELECT count(*) FROM device", [], |row| row.get(0)).unwrap()
}

#[test]
fn a_damaged_database_file_is_kept_as_it_is_with_its_log_and_restored() {
    let (world, path) = devices();
    let (copy, log) = (world.path("before"), world.path("devices.db-wal"));
    let mut damaged = fs::read(&path).unwrap();
    damaged[..100].fill(b'x');
    fs::write(&path, &damaged).unwrap();
    fs::write(&log, "what was written last").unwrap();
    restore(&world, &copy).ok().says("kept file by file, as it is").says("devices: restored");
    assert_eq!(rows(&path), 2);
    assert_eq!(names(&copy), ["devices"]);
    let kept = names(&copy.join("devices"));
    assert!(kept.starts_with(&["devices.db".into()]) && kept.contains(&"devices.db-wal".into()), "{kept:?}");
    assert!(fs::read(copy.join("devices/devices.db")).unwrap() == damaged);
    assert_eq!(fs::read_to_string(copy.join("devices/devices.db-wal")).unwrap(), "what was written last");
    // What is whole is kept as one file of one moment.
    let again = world.path("again");
    restore(&world, &again).ok();
    assert_eq!(names(&again.join("devices")), ["database"]);
    assert_eq!(rows(&again.join("devices/database")), 2);
    // Another restore never writes over a copy.
    restore(&world, &again).exits(1).says("never written over").says("nothing has been destroyed");
}

#[test]
fn where_nothing_is_left_there_is_nothing_to_be_kept() {
    let (world, path) = devices();
    fs::remove_file(&path).unwrap();
    restore(&world, &world.path("missing")).ok();
    assert_eq!(rows(&path), 2);
    let db = Connection::open(&path).unwrap();
    db.execute_batch("DELETE FROM device").unwrap();
    drop(db);
    restore(&world, &world.path("emptied")).ok().says("there was nothing to be kept");
    assert_eq!(rows(&path), 2);
}

/// Two files whose program can be made to fail, or to hang, by a file beside.
fn registry() -> World {
    let world = World::new();
    fs::create_dir(world.path("live")).unwrap();
    let read = "cat \"$0\"; while [ -e \"$0\".hangs ]; do touch \"$0\".begun; sleep 0.1; done; [ ! -e \"$0\".broken ]";
    let sources = ["births", "deaths"].map(|name| {
        let file = world.path("live").join(name);
        fs::write(&file, format!("{name} of the night")).unwrap();
        let keys = format!(
            "command = ['sh', '-c', '{read}', '{0}']\nrestore_command = ['sh', '-c', '[ ! -e \"$0\".refuses ] && cat > \"$0\"', '{0}']",
            file.display()
        );
        source(name, "command", &keys)
    });
    job(&world, &sources.concat());
    world.push("nightly");
    for name in ["births", "deaths"] {
        fs::write(world.path("live").join(name), format!("{name} of today")).unwrap();
    }
    world
}

fn live(world: &World, name: &str) -> String {
    fs::read_to_string(world.path("live").join(name)).unwrap()
}

#[test]
fn a_member_that_cannot_be_kept_stops_the_restore_and_the_message_names_the_way_out() {
    let world = registry();
    let copy = world.path("before");
    fs::write(world.path("live/births.broken"), "").unwrap();
    let said = restore(&world, &copy).exits(1);
    said.says("births").says("nothing has been destroyed").says("The same command without --safety-copy");
    assert_eq!((live(&world, "births"), live(&world, "deaths")), ("births of today".into(), "deaths of today".into()));
    // What could be kept is; of the other no half lies under its name.
    assert_eq!(fs::read_to_string(copy.join("deaths/stdout")).unwrap(), "deaths of today");
    assert!(!copy.join("births").exists());

    // It can be read again: the same command goes on. What changed since is not lost with what was kept before.
    fs::remove_file(world.path("live/births.broken")).unwrap();
    fs::write(world.path("live/deaths"), "deaths of this evening").unwrap();
    restore(&world, &copy).ok();
    assert_eq!(
        (live(&world, "births"), live(&world, "deaths")),
        ("births of the night".into(), "deaths of the night".into())
    );
    assert_eq!(fs::read_to_string(copy.join("births/stdout")).unwrap(), "births of today");
    assert_eq!(fs::read_to_string(copy.join("deaths/stdout")).unwrap(), "deaths of this evening");
    assert_eq!(names(&copy), ["births", "deaths"]);

    // Or it cannot, and nobody wants it.
    fs::write(world.path("live/births.broken"), "").unwrap();
    fs::write(world.path("live/births"), "damaged").unwrap();
    restore(&world, &world.path("second")).exits(1);
    restore_without_copy(&world).ok();
    assert_eq!(live(&world, "births"), "births of the night");
}

#[test]
fn what_an_earlier_run_has_moved_aside_is_kept_as_well() {
    let world = World::new();
    let tree = world.tree("live");
    tree.ordinary(30, 1).file("stuck/file", "x");
    let files = |more: &str| {
        let keys = format!("paths = ['{}']\n{more}", tree.root.display());
        job(&world, &source("files", "files", &keys));
    };
    files("");
    world.push("nightly");
    tree.ordinary(40, 2);
    let before = world.path("before");
    must(Command::new("cp").arg("-a").arg(&tree.root).arg(&before));
    // One of the names cannot step aside: some of the others have by then.
    let script = "cd \"$0\"/.farkeep-restore-* && mkdir -p replaced/stuck/x";
    files(&format!("restore = {{ before = ['sh', '-c', '{script}', '{}'] }}", tree.root.display()));
    restore_without_copy(&world).exits(1).says("stuck");
    let stage =
        fs::read_dir(&tree.root).unwrap().map(|entry| entry.unwrap().path()).find(|path| path.join("replaced").exists());
    fs::remove_dir(stage.unwrap().join("replaced/stuck/x")).unwrap();
    files("");
    let copy = world.path("copy");
    restore(&world, &copy).ok();
    // The directory's own time went when its content did.
    must(Command::new("touch").arg("-r").arg(&before).arg(copy.join("files/live")));
    must(Command::new("touch").arg("-r").arg(before.join("stuck")).arg(copy.join("files/live/stuck")));
    assert_same(&before, &copy.join("files/live"));
}

#[test]
fn of_two_places_with_one_name_both_are_kept() {
    let world = World::new();
    let places = ["one", "two"].map(|parent| world.tree(parent).path("data"));
    let write = |when: &str| {
        for place in &places {
            fs::create_dir_all(place).unwrap();
            fs::write(place.join("file"), format!("{} {when}", place.display())).unwrap();
        }
    };
    write("of the night");
    let paths = format!("paths = ['{}', '{}']", places[0].display(), places[1].display());
    job(&world, &source("files", "files", &paths));
    world.push("nightly");
    write("of today");
    let copy = world.path("copy");
    restore(&world, &copy).ok();
    for (place, kept) in places.iter().zip(["data", "data.2"]) {
        assert_eq!(fs::read_to_string(place.join("file")).unwrap(), format!("{} of the night", place.display()));
        let kept = copy.join("files").join(kept).join("file");
        assert_eq!(fs::read_to_string(kept).unwrap(), format!("{} of today", place.display()));
    }
}

#[test]
fn a_copy_that_hangs_ends_at_the_time_limit_of_its_member() {
    let world = registry();
    let timed = "name = \"deaths\"\nkind = \"command\"";
    world.agent.reconfigure(|text| text.replace(timed, &format!("{timed}\ntimeout = \"1s\"")));
    fs::write(world.path("live/deaths.hangs"), "").unwrap();
    let said = restore(&world, &world.path("before")).exits(1);
    said.says("deaths").says("time limit").says("nothing has been destroyed");
    assert_eq!(live(&world, "births"), "births of today");
}

#[test]
fn a_restore_that_was_killed_while_it_kept_a_copy_begins_that_copy_anew() {
    let world = registry();
    let copy = world.path("before");
    fs::write(world.path("live/deaths.hangs"), "").unwrap();
    let more = ["--yes-destroy", "nightly", "--safety-copy", copy.to_str().unwrap()];
    let running = Running::start(&world.agent, restore_run(&world, "latest", &more));
    until("the second copy is half made", || world.path("live/deaths.begun").exists());
    running.kill();
    fs::remove_file(world.path("live/deaths.hangs")).unwrap();
    assert_eq!(live(&world, "births"), "births of today");
    assert!(!copy.join("deaths").exists());
    restore(&world, &copy).ok();
    assert_eq!(names(&copy), ["births", "deaths"]);
    for name in ["births", "deaths"] {
        assert_eq!(live(&world, name), format!("{name} of the night"));
        assert_eq!(fs::read_to_string(copy.join(name).join("stdout")).unwrap(), format!("{name} of today"));
    }
}

#[test]
fn a_restore_that_began_and_failed_keeps_what_is_there_in_another_place_if_asked() {
    let world = registry();
    let (first, second) = (world.path("first"), world.path("second"));
    fs::write(world.path("live/deaths.refuses"), "").unwrap();
    restore(&world, &first).exits(1);
    assert_eq!((live(&world, "births"), live(&world, "deaths")), ("births of the night".into(), "deaths of today".into()));
    fs::write(world.path("live/deaths"), "deaths, half replaced").unwrap();
    // Where it was kept before it began, it stays as it was kept.
    restore(&world, &first).exits(1).says("it is not made again");
    assert_eq!(fs::read_to_string(first.join("deaths/stdout")).unwrap(), "deaths of today");
    fs::remove_file(world.path("live/deaths.refuses")).unwrap();
    restore(&world, &second).ok().says("what was there before lies in");
    assert_eq!(fs::read_to_string(second.join("deaths/stdout")).unwrap(), "deaths, half replaced");
    assert_eq!(fs::read_to_string(first.join("deaths/stdout")).unwrap(), "deaths of today");
    assert_eq!(live(&world, "deaths"), "deaths of the night");
}

#[test]
fn archives_that_are_written_over_are_kept_and_not_those_of_today() {
    let world = World::new();
    let spool = world.path("spool");
    let archive = |name: &str| spool.join("mongo").join(name);
    gzip(&archive("hearth.gz"), b"hearth of the night", None);
    gzip(&archive("users.gz"), b"users of the night", None);
    let glob = format!("glob = '{}/**'\nquiet = '1s'\nwait = '0s'", spool.display());
    job(&world, &source("archives", "spool", &glob));
    world.push("nightly");
    // One was damaged long ago, one is gone; neither would be a backup of today.
    fs::write(archive("hearth.gz"), "damaged").unwrap();
    written_at(&archive("hearth.gz"), "3 weeks ago");
    fs::remove_file(archive("users.gz")).unwrap();
    let copy = world.path("before");
    restore(&world, &copy).ok();
    assert_eq!(gunzip(&archive("hearth.gz")), b"hearth of the night");
    assert_eq!(gunzip(&archive("users.gz")), b"users of the night");
    assert_eq!(fs::read_to_string(copy.join("archives/mongo/hearth.gz")).unwrap(), "damaged");
    assert_eq!(names(&copy.join("archives/mongo")), ["hearth.gz"]);
}
