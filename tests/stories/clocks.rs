//! Pushes under a wrong clock: they are no newer than what came after them, and they hide no lateness. And times of files,
//! which do not tell everything.

use std::fs;
use std::io::{BufRead, BufReader, Write};
use std::os::unix::fs::MetadataExt;
use std::process::{Command, Stdio};
use std::time::{Duration, SystemTime};

use crate::world::clock::{at, missing_faketime};
use crate::world::tools::must;
use crate::world::{World, args, assert_same, needs, skipped};

#[test]
fn a_push_under_a_clock_of_the_future_is_neither_the_latest_for_ever_nor_in_time() {
    if let Some(why) = missing_faketime() {
        return skipped(&why);
    }
    needs!("python3");
    let world = World::new();
    let tree = world.tree("data");
    let source = format!("name = \"files\"\nkind = \"files\"\npaths = [\"{}\"]", tree.root.display());
    world.agent.configure(&format!("[job.nightly]\nevery = \"1d\"\n[[job.nightly.source]]\n{source}"));
    let night = |time: &str, version: u64| {
        tree.noise("file", 100_000, version);
        at(&world.agent, time, args!["push", "nightly"]).ok();
    };
    night("2026-11-10 02:00:00", 1);
    night("2031-01-01 02:00:00", 2);
    night("2026-11-12 02:00:00", 3);
    at(&world.agent, "2026-11-12 12:00:00", args!["status", "--check"]).ok();
    at(&world.agent, "2026-11-16 12:00:00", args!["status", "--check"]).exits(3).says("4 d 10 h old");
    let restored = world.path("restored");
    world.restore("latest", &restored);
    assert_same(&tree.root, &tree.below(&restored));
    // Whoever has no farkeep chooses the same one.
    let recovered = world.path("recovered");
    let mut script = Command::new("python3");
    script.current_dir(&world.vault).arg("recover.py").args(["restore", "--identity"]).arg(&world.identity);
    must(script.arg("--into").arg(&recovered));
    assert_same(&tree.root, &tree.below(&recovered));

    night("2031-01-02 02:00:00", 4);
    at(&world.agent, "2026-11-20 12:00:00", args!["status", "--check"]).exits(3).says("a clock is or was wrong");
}

/// Keeps a file mapped and stores each byte that it is told.
const MAPPER: &str = "
import mmap, sys
file = open(sys.argv[1], 'r+b')
mapped = mmap.mmap(file.fileno(), 0)
for line in sys.stdin:
    mapped[0] = int(line)
    print(flush=True)
";

#[test]
fn a_store_through_a_mapping_that_moves_no_time_is_not_missed_soon_after_one_that_did() {
    if let Some(why) = missing_faketime() {
        return skipped(&why);
    }
    needs!("python3", "date");
    let world = World::new();
    let tree = world.tree("data");
    let mapped = tree.noise("mapped", 8192, 1).path("mapped");
    let mut mapper = Command::new("python3");
    let mut mapper = mapper.args(["-c", MAPPER]).arg(&mapped).stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().unwrap();
    let (mut told, mut said) = (mapper.stdin.take().unwrap(), BufReader::new(mapper.stdout.take().unwrap()));
    let mut store = |byte: u8| {
        writeln!(told, "{byte}").unwrap();
        assert_eq!(said.read_line(&mut String::new()).unwrap(), 1);
        let meta = fs::metadata(&mapped).unwrap();
        ((meta.mtime(), meta.mtime_nsec()), (meta.ctime(), meta.ctime_nsec()))
    };
    // Pushes so long from now: what is stored meanwhile goes to a page that is dirty already.
    let begun = SystemTime::UNIX_EPOCH.elapsed().unwrap();
    let push = |secs: u64, more: &[&str]| {
        let time = (begun + Duration::from_secs(secs)).as_secs();
        let time = must(Command::new("date").args(["-u", "+%F %T", "-d", &format!("@{time}")]));
        let mut args = args!["push", &tree.root];
        args.extend(more.iter().map(Into::into));
        at(&world.agent, time.trim(), args).ok();
        let back = world.path(&format!("back-{secs}"));
        world.restore("latest", &back);
        fs::read(tree.below(&back).join("mapped")).unwrap()[0]
    };
    store(1);
    assert_eq!(push(30, &[]), 1);
    // Where the kernel has written the page out meanwhile, this moves the times.
    let moved = store(2);
    assert_eq!(push(40, &[]), 2, "the file is taken for unchanged");
    // After a minute a file at rest is not read again, but when that is asked for.
    assert_eq!(push(120, &[]), 2);
    if store(3) == moved {
        assert_eq!(push(130, &[]), 2, "a file at rest is read again");
    }
    assert_eq!(push(140, &["--reread"]), 3);
    drop(told);
    mapper.wait().unwrap();
}
