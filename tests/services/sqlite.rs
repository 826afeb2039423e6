//! SQLite: copied while somebody writes, put back in place of a damaged file, refused while somebody has it open.

use std::fs;
use std::io::{BufRead, BufReader};
use std::os::unix::fs::{FileExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdout, Command, Stdio};

use farkeep::source::engine::Engine;
use farkeep::source::sqlite::SqliteConfig;
use rusqlite::Connection;

use crate::rehearsal::Rehearsal;
use crate::world::{World, args};

/// Writes a birth and its certificate in one transaction, for ever, and says so once.
const WRITER: &str = "
import sqlite3, sys
db = sqlite3.connect(sys.argv[1], isolation_level=None)
n = 100000
while True:
    db.execute('BEGIN')
    db.execute('INSERT INTO birth VALUES (?, hex(randomblob(200)))', (n,))
    db.execute('INSERT INTO certificate VALUES (?, ?)', (n, n))
    db.execute('COMMIT')
    n += 1
    if n % 50 == 0:
        print(n, flush=True)
";

/// A process that writes until it is killed.
struct Writer {
    child: Child,
    said: BufReader<ChildStdout>,
}

impl Writer {
    fn start(path: &Path) -> Self {
        let mut python = Command::new("python3");
        let mut child = python.args(["-c", WRITER]).arg(path).stdout(Stdio::piped()).spawn().unwrap();
        let said = BufReader::new(child.stdout.take().unwrap());
        let mut writer = Self { child, said };
        writer.wait_for_more();
        writer
    }

    /// Returns when more transactions have been committed.
    fn wait_for_more(&mut self) {
        let mut line = String::new();
        assert!(self.said.read_line(&mut line).unwrap() > 0, "the writer has ended");
    }
}

impl Drop for Writer {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn fill(path: &Path, journal: &str) -> Connection {
    let db = Connection::open(path).unwrap();
    db.pragma_update(None, "journal_mode", journal).unwrap();
    let sql = "CREATE TABLE birth (id INTEGER PRIMARY KEY, name TEXT UNIQUE);
        CREATE TABLE certificate (id INTEGER PRIMARY KEY, birth INT REFERENCES birth);
        CREATE TABLE \"odd \"\"name\" (n INT);
        CREATE VIRTUAL TABLE words USING fts5(word);
        INSERT INTO words VALUES ('amina');
        WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < 3000)
            INSERT INTO birth SELECT i, hex(randomblob(100)) || i FROM n;
        INSERT INTO certificate SELECT id, id FROM birth;";
    db.execute_batch(sql).unwrap();
    db
}

fn count(path: &Path, table: &str) -> i64 {
    let db = Connection::open(path).unwrap();
    db.query_row(&format!("SELECT count(*) FROM {table}"), [], |row| row.get(0)).unwrap()
}

fn engine(path: &Path) -> SqliteConfig {
    SqliteConfig { name: "registry".into(), path: path.to_owned() }
}

fn beside(path: &Path, suffix: &str) -> PathBuf {
    PathBuf::from(format!("{}{suffix}", path.display()))
}

/// Overwrites pages in the middle.
fn damage(path: &Path) {
    let file = fs::File::options().write(true).open(path).unwrap();
    let middle = file.metadata().unwrap().len() / 2;
    file.write_all_at(&[0xa5; 20_000], middle).unwrap();
}

#[test]
fn a_database_is_pushed_while_somebody_writes_and_comes_back_in_place_of_a_damaged_one() {
    let world = World::new();
    let dir = world.path("registry");
    fs::create_dir(&dir).unwrap();
    let path = dir.join("registry #1.db");
    drop(fill(&path, "WAL"));
    fs::set_permissions(&path, fs::Permissions::from_mode(0o640)).unwrap();
    let source = format!("[[job.nightly.source]]\nname = \"registry\"\nkind = \"sqlite\"\npath = \"{}\"\n", path.display());
    world.agent.configure(&source);
    let mut writer = Writer::start(&path);
    let receipt = world.push("nightly");
    assert_eq!(receipt["state"], "good", "{receipt}");

    let run = args!["restore", "latest", "--run", "--yes-destroy", "nightly", "--identity", &world.identity, "--json"];
    world.run(run.clone()).exits(1).says("stop the application first");
    writer.wait_for_more();
    // Killed, it leaves its log behind.
    drop(writer);
    assert!(beside(&path, "-wal").exists());
    let later = count_of_a_copy(&world, &path);
    damage(&path);

    let receipt = world.run(run).ok().json();
    let proof = &receipt["members"][0]["proof"];
    assert_eq!(proof["integrity"], "ok", "{receipt}");
    assert_eq!(proof["rows of birth"], proof["rows of certificate"], "one moment: {receipt}");
    for suffix in ["-wal", "-shm", "-journal"] {
        assert!(!beside(&path, suffix).exists(), "{suffix} of the old database");
    }
    assert_eq!(count(&path, "birth").to_string(), proof["rows of birth"].as_str().unwrap());
    assert!(count(&path, "birth") < later, "the writer went on after the copy");
    assert_eq!(count(&path, "words WHERE words MATCH 'amina'"), 1);
    assert_eq!(fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o640);
}

/// Births that stand in the database, its log included, without touching either.
fn count_of_a_copy(world: &World, path: &Path) -> i64 {
    let copy = world.path("copy.db");
    fs::copy(path, &copy).unwrap();
    fs::copy(beside(path, "-wal"), beside(&copy, "-wal")).unwrap();
    count(&copy, "birth")
}

#[test]
fn a_database_without_a_write_ahead_log_is_one_moment_as_well() {
    let rehearsal = Rehearsal::new();
    let path = rehearsal.path("registry.db");
    drop(fill(&path, "DELETE"));
    let engine = engine(&path);
    let mut writer = Writer::start(&path);
    let night = rehearsal.back_up(&engine, "night").unwrap();
    writer.wait_for_more();
    drop(writer);
    assert_eq!(night.account.proof["rows of birth"], night.account.proof["rows of certificate"]);
    assert_eq!(night.account.proof["rows of odd \"name"], "0");
    fs::remove_file(&path).unwrap();
    rehearsal.bring_back_all(&engine, &night);
    // The same data are the same bytes.
    let again = rehearsal.back_up(&engine, "again").unwrap();
    assert!(fs::read(night.part("database").unwrap()).unwrap() == fs::read(again.part("database").unwrap()).unwrap());
}

#[test]
fn a_damaged_empty_or_missing_database_is_no_backup() {
    let rehearsal = Rehearsal::new();
    let path = rehearsal.path("registry.db");
    let failure = |path: &Path| rehearsal.back_up(&engine(path), "failing").unwrap_err().to_string();
    assert!(failure(&path).contains("registry.db"));
    fs::write(&path, "").unwrap();
    assert!(failure(&path).contains("no table"));
    let empty = rehearsal.path("empty.db");
    Connection::open(&empty).unwrap().execute_batch("CREATE TABLE t (n)").unwrap();
    assert!(failure(&empty).contains("no row"));
    let text = rehearsal.path("text.db");
    fs::write(&text, "no database at all\n".repeat(1000)).unwrap();
    assert!(failure(&text).contains("not a database"));
    fs::remove_file(&path).unwrap();
    drop(fill(&path, "DELETE"));
    damage(&path);
    let damaged = failure(&path);
    assert!(damaged.contains("damaged") || damaged.contains("malformed"), "{damaged}");
}

#[test]
fn a_copy_that_was_cut_or_changed_touches_nothing() {
    let rehearsal = Rehearsal::new();
    let path = rehearsal.path("registry.db");
    let db = fill(&path, "DELETE");
    let engine = engine(&path);
    let night = rehearsal.back_up(&engine, "night").unwrap();
    db.execute_batch("DELETE FROM certificate").unwrap();
    drop(db);
    let part = night.part("database").unwrap().to_owned();
    let whole = fs::read(&part).unwrap();
    for length in [0, 4096, whole.len() / 2, whole.len() - 4096] {
        fs::write(&part, &whole[..length]).unwrap();
        assert!(engine.check(&night, &rehearsal.work("check")).is_err(), "cut to {length}");
    }
    fs::write(&part, &whole).unwrap();
    Connection::open(&part)
        .unwrap()
        .execute_batch("DELETE FROM certificate WHERE id = 7; DELETE FROM birth WHERE id = 7")
        .unwrap();
    let error = rehearsal.bring_back(&engine, &night).unwrap_err().to_string();
    assert!(error.contains("rows of birth: 3000 was backed up, 2999 is there"), "{error}");
    assert_eq!((count(&path, "certificate"), count(&path, "birth")), (0, 3000));
}

#[test]
fn a_database_whose_log_lies_beside_another_of_its_names_is_no_backup() {
    let rehearsal = Rehearsal::new();
    let (used, other) = (rehearsal.path("used.db"), rehearsal.path("other.db"));
    let tables = "CREATE TABLE birth (n INTEGER, name TEXT); CREATE TABLE certificate (n INTEGER, birth INTEGER)";
    let db = Connection::open(&used).unwrap();
    db.execute_batch(&format!("{tables}; INSERT INTO birth VALUES (1, 'a')")).unwrap();
    fs::hard_link(&used, &other).unwrap();
    let engine = SqliteConfig { name: "devices".into(), path: other.clone() };
    rehearsal.back_up(&engine, "without a log").unwrap();
    db.execute_batch("PRAGMA journal_mode = WAL").unwrap();
    drop(db);
    let writer = Writer::start(&used);
    let error = rehearsal.back_up(&engine, "without its log").unwrap_err().to_string();
    assert!(error.contains("2 names"), "{error}");
    fs::remove_file(&other).unwrap();
    let night = rehearsal.back_up(&SqliteConfig { path: used, ..engine }, "one name").unwrap();
    assert_ne!(night.account.proof["rows of birth"], "1");
    drop(writer);
}
