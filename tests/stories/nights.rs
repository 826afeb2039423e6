//! Nights of a dump in which a few records change everywhere: what is sent follows the changed records, every night restores,
//! and what patches are built on is never forgotten.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use crate::world::tools::must;
use crate::world::{Random, World, args, assert_same, needs};

/// A table that is dumped whole each night.
struct Dump {
    random: Random,
    records: Vec<Vec<u8>>,
    file: PathBuf,
}

impl Dump {
    fn new(world: &World, records: usize) -> Self {
        let mut random = Random::new(7);
        let words: Vec<String> =
            (0..2000).map(|n: u64| format!("{:x}", n.wrapping_mul(0x9E37_79B9_7F4A) % 0xFFF_FFFF)).collect();
        let record = |number: usize, random: &mut Random| {
            let notes: Vec<&str> = (0..30).map(|_| random.pick(&words).as_str()).collect();
            format!("{{\"id\":{number:08},\"state\":\"00000000\",\"notes\":\"{}\"}}\n", notes.join(" ")).into_bytes()
        };
        let records = (0..records).map(|number| record(number, &mut random)).collect();
        let dump = Self { random, records, file: world.tree("data").path("dump.json") };
        dump.write();
        dump
    }

    fn write(&self) {
        fs::write(&self.file, self.records.concat()).unwrap();
    }

    /// One record of fifty changes, a few go and a few come.
    fn night(&mut self) {
        for _ in 0..self.records.len() / 50 {
            let place = (self.random.part() * self.records.len() as f64) as usize;
            let state = format!("{:08x}", self.random.next() as u32);
            self.records[place][24..32].copy_from_slice(state.as_bytes());
        }
        for _ in 0..5 {
            let place = (self.random.part() * self.records.len() as f64) as usize;
            let mut more = self.records[place].clone();
            more[7..15].copy_from_slice(format!("{:08}", self.random.next() % 100_000_000).as_bytes());
            self.records.insert(place / 2, more);
            self.records.remove(place);
        }
        self.write();
    }

    fn dir(&self) -> &Path {
        self.file.parent().unwrap()
    }
}

fn sent(receipt: &serde_json::Value) -> u64 {
    receipt["stores"][0]["sent_bytes"].as_u64().unwrap()
}

fn back(world: &World, name: &str, dump: &Dump) -> PathBuf {
    world.path(name).join(dump.dir().strip_prefix("/").unwrap())
}

/// What is built on a pack that is gone fails for that reason, by name, and says nothing else.
#[test]
fn a_lost_base_is_named_by_what_is_built_on_it() {
    let world = World::new();
    let mut dump = Dump::new(&world, 15_000);
    world.push(dump.dir());
    let size = |path: &PathBuf| fs::metadata(path).unwrap().len();
    let base = world.objects("packs").into_iter().max_by_key(size).unwrap();
    dump.night();
    world.push(dump.dir());
    fs::remove_file(&base).unwrap();
    let restore = args!["restore", "latest", "--into", world.path("out"), "--identity", &world.identity];
    let base = base.file_name().unwrap().to_str().unwrap();
    world.run(restore).exits(4).says(base).never_says("reading was stopped");
    assert!(!back(&world, "out", &dump).join("dump.json").exists(), "half a dump under its name");
}

#[test]
fn bytes_follow_changed_records_and_every_night_restores() {
    needs!("rsync", "python3", "age", "zstd", "b3sum");
    let world = World::new();
    let mut dump = Dump::new(&world, 30_000);
    let full = sent(&world.push(dump.dir()));
    let mut nights = vec![fs::read(&dump.file).unwrap()];
    let mut total = 0;
    for _ in 0..9 {
        dump.night();
        nights.push(fs::read(&dump.file).unwrap());
        let bytes = sent(&world.push(dump.dir()));
        assert!(bytes * 4 < full, "a night of 2 % costs {bytes} bytes where all of it costs {full}");
        total += bytes;
    }
    assert!(total < full, "nine nights cost {total} bytes, the first {full}");
    world.verify("sealed");
    world.verify("opened");
    for (snapshot, content) in world.snapshots().iter().zip(&nights) {
        let id = snapshot["id"].as_str().unwrap();
        let at = world.path(id);
        world.restore(id, &at);
        assert!(fs::read(back(&world, id, &dump).join("dump.json")).unwrap() == *content, "{id} restores other content");
    }

    let by_hand = world.path("by-hand");
    let mut recover = Command::new("python3");
    recover.current_dir(&world.vault).args(["recover.py", "restore", "--identity"]).arg(&world.identity);
    must(recover.arg("--into").arg(&by_hand));
    assert_same(dump.dir(), &by_hand.join(dump.dir().strip_prefix("/").unwrap()));
}

#[test]
fn without_the_base_cache_blocks_are_ordinary_and_all_goes_on() {
    needs!("rsync");
    let world = World::new();
    let mut dump = Dump::new(&world, 8000);
    let full = sent(&world.push(dump.dir()));
    dump.night();
    assert!(sent(&world.push(dump.dir())) * 3 < full);
    let bases = bases(&world);
    fs::remove_dir_all(&bases).unwrap();
    dump.night();
    assert!(sent(&world.push(dump.dir())) * 2 > full, "there was nothing to build on");
    dump.night();
    assert!(sent(&world.push(dump.dir())) * 3 < full, "there is again");
    // A byte of a kept block turned over: nothing may be built on it.
    for file in crate::world::files_below(&bases) {
        if file.extension().is_none_or(|ending| ending != "ref") {
            crate::world::flip(&file, 1000);
        }
    }
    dump.night();
    world.push(dump.dir());
    world.verify("opened");
    world.restore("latest", &world.path("back"));
    assert_same(dump.dir(), &back(&world, "back", &dump));
}

#[test]
fn nothing_is_built_on_a_pack_that_went_away() {
    needs!("rsync");
    let world = World::new();
    let mut dump = Dump::new(&world, 8000);
    world.push(dump.dir());
    let first: Vec<PathBuf> = world.objects("packs");
    for _ in 0..3 {
        dump.night();
        world.push(dump.dir());
    }
    // The largest pack of the first night holds what all patches are built on.
    let base = first.iter().max_by_key(|path| fs::metadata(path).unwrap().len()).unwrap();
    fs::remove_file(base).unwrap();
    let name = base.file_name().unwrap().to_string_lossy().into_owned();
    let found = world.run(args!["verify", "--depth", "sealed"]).exits(4).says(&name);
    for snapshot in world.snapshots() {
        assert!(found.out.contains(&snapshot["id"].as_str().unwrap()[..8]), "every night needs it: {}", found.out);
    }
    dump.night();
    world.push(dump.dir());
    world.restore("latest", &world.path("back"));
    assert_same(dump.dir(), &back(&world, "back", &dump));
}

#[test]
fn a_source_may_go_without_patches() {
    let world = World::new();
    let mut dump = Dump::new(&world, 8000);
    let source = format!(
        "[[job.plain.source]]\nname = \"dump\"\nkind = \"files\"\npaths = [\"{}\"]\npatch = false",
        dump.dir().display()
    );
    world.agent.configure(&source);
    let full = sent(&world.push("plain"));
    dump.night();
    assert!(sent(&world.push("plain")) * 2 > full);
    assert_eq!(crate::world::bytes_below(&bases(&world)), 0);
}

/// Where the agent keeps what patches are built on.
fn bases(world: &World) -> PathBuf {
    let vault = fs::read_dir(world.agent.state.join("cache")).unwrap().next().unwrap().unwrap();
    vault.path().join("bases")
}
