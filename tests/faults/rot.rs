//! Bytes that turn over in this machine's cache: a push heals it or ends with an error, and never makes a snapshot that somebody
//! else could not restore.

use std::fs;
use std::path::{Path, PathBuf};

use crate::rounds;
use crate::world::{Random, World, args, assert_same, files_below, flip};

/// A dump whose changed blocks become patches, beside files that do not change.
struct Nights {
    world: World,
    random: Random,
    lines: Vec<String>,
}

impl Nights {
    fn new(seed: u64) -> Self {
        let world = World::new();
        let mut random = Random::new(seed);
        world.tree("data").ordinary(30, seed);
        let lines = (0..14_000).map(|number| line(number, &mut random)).collect();
        let nights = Self { world, random, lines };
        nights.write();
        nights
    }

    fn write(&self) {
        fs::write(self.data().join("dump"), self.lines.concat()).unwrap();
    }

    fn data(&self) -> PathBuf {
        self.world.path("data")
    }

    /// Two lines of a hundred change; now and then in one place alone.
    fn pass(&mut self) {
        let (count, first) = (self.lines.len(), self.random.below(self.lines.len() as u64) as usize);
        let spread = if self.random.below(3) == 0 { count / 8 } else { count };
        for _ in 0..count / 50 {
            let number = (first + self.random.below(spread as u64) as usize) % count;
            self.lines[number] = line(number, &mut self.random);
        }
        self.write();
    }

    fn push_and_restore_elsewhere(&self, what: &str) {
        let run = self.world.run(args!["push", self.data()]);
        assert_eq!(run.code, 0, "{what}: the push says {}\n{}", run.err, run.out);
        let (elsewhere, back) = (self.world.machine("elsewhere"), self.world.path("back"));
        let from = ["restore", "latest", "--from"].map(Into::into);
        let mut words: Vec<std::ffi::OsString> = from.to_vec();
        words.extend(args![&self.world.vault, "--into", &back, "--identity", &self.world.identity]);
        let run = elsewhere.run(words);
        assert_eq!(run.code, 0, "{what}: a restore elsewhere says {}\n{}", run.err, run.out);
        assert_same(&self.data(), &self.world.tree("data").below(&back));
        fs::remove_dir_all(&back).unwrap();
        fs::remove_dir_all(&elsewhere.home).unwrap();
    }

    /// A file of the cache, each kind as often as any other.
    fn pick(&mut self) -> PathBuf {
        let cache = self.world.agent.state.join("cache");
        let kinds =
            ["/index/packs", "/index/packs", "/index/tables", "/index/segment", "/index/", "/files-", "/bases/", "/"];
        loop {
            let kind = *self.random.pick(&kinds);
            let all: Vec<PathBuf> =
                files_below(&cache).into_iter().filter(|path| path.to_string_lossy().contains(kind)).collect();
            let file = if all.is_empty() { continue } else { self.random.pick(&all).clone() };
            if fs::metadata(&file).unwrap().len() > 0 {
                return file;
            }
        }
    }
}

fn line(number: usize, random: &mut Random) -> String {
    let (word, count) = (random.pick(&["alpha", "beta", "gamma", "delta"]), random.next());
    format!(
        "{number:08}\t{:016x}\t{word}{:04}\tuser{}@example.org\t{:012}\t{word}\n",
        random.next(),
        count % 9999,
        count % 977,
        count % 999_983
    )
}

#[test]
fn a_byte_that_turned_over_in_the_cache_costs_no_snapshot() {
    let mut nights = Nights::new(11);
    for night in 0..4 {
        nights.push_and_restore_elsewhere(&format!("night {night}"));
        nights.pass();
    }
    for round in 0..rounds(400) {
        let file = nights.pick();
        let at = nights.random.below(fs::metadata(&file).unwrap().len());
        flip(&file, at);
        nights.push_and_restore_elsewhere(&format!("round {round}, byte {at} of {}", file.display()));
        nights.pass();
    }
}

/// Turns over every hundredth byte of the files whose path holds `part`.
fn spoil(cache: &Path, part: &str) {
    for file in files_below(cache).iter().filter(|path| path.to_string_lossy().contains(part)) {
        for at in (0..fs::metadata(file).unwrap().len()).step_by(100) {
            flip(file, at);
        }
    }
}

#[test]
fn an_index_that_is_found_damaged_on_the_way_is_made_anew_at_once() {
    let mut nights = Nights::new(12);
    for night in 0..2 {
        nights.push_and_restore_elsewhere(&format!("night {night}"));
        nights.pass();
    }
    let cache = nights.world.agent.state.join("cache");
    spoil(&cache, "/index/tables");
    nights.world.run(args!["push", nights.data()]).ok().says("made anew");
    nights.pass();
    // Pages are looked at when a chunk is found in them.
    spoil(&cache, "/index/segment-");
    nights.push_and_restore_elsewhere("segments");
    nights.pass();
    nights.push_and_restore_elsewhere("the night after");
}

#[test]
fn an_index_of_a_reader_that_rotted_is_no_damage_of_the_vault() {
    let mut nights = Nights::new(13);
    for _ in 0..2 {
        nights.world.push(nights.data());
        nights.pass();
    }
    let world = &nights.world;
    world.verify("opened");
    spoil(&world.agent.state.join("cache"), "/read-index/tables");
    let verify = || world.run(args!["verify", "--depth", "opened", "--identity", &world.identity]);
    let found = verify().exits(1);
    found.says("read-index").never_says("snapshot ");
    verify().ok();
}
