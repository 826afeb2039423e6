//! Many nights in a row: churn, faults on three nights of ten, a weekly copy, pruning, new epochs, machines that are lost and
//! replaced. In the end every snapshot that was kept comes back byte for byte, in both copies, and neither memory nor what lies
//! around has grown with the nights.
//!
//! `FARKEEP_SOAK_NIGHTS=400 cargo test --release --test retention soak -- --nocapture` is the long form.

use std::fs;
use std::path::PathBuf;
use std::process::Command;

use super::world::tools::must;
use super::world::{Random, Running, Tree, World, args, assert_same, bytes_below, files_below, needs};

/// Enough for each kind of fault, two copies, four prunes and an epoch.
const NIGHTS: u64 = 16;
/// Records stay for ever, in the ledger and in the cache: a night writes a few, of snapshots, plans, removals and checks.
const RECORDS_A_NIGHT_MAX_BYTES: u64 = 16 * 1024;
/// What the chunk index holds of packs that are gone, before it forgets them.
const NOT_FORGOTTEN_MAX_BYTES: u64 = 1024 * 1024;
/// Snapshots that stay.
const KEPT: usize = 5;
const RECORDS: u64 = 12_000;

/// What goes wrong on a night.
#[derive(Debug, Clone, Copy)]
enum Fault {
    Nothing,
    /// The push is killed at this call of this kind.
    Killed(&'static str, u64),
    /// The store is not there, and comes back.
    Away,
    /// The cache of the machine is lost.
    NoCache,
    /// One of its files rotted.
    Rot,
    /// A torn upload lies in the store.
    Torn,
}

struct Soak {
    world: World,
    data: Tree,
    random: Random,
    /// Of every snapshot that may still be there, its id and what the tree was.
    versions: Vec<(String, PathBuf)>,
    /// The most memory of each push.
    peaks: Vec<u64>,
}

/// What lies around, in bytes.
#[derive(Debug, Clone, Copy)]
struct Sizes {
    store: u64,
    /// Of the agent's state, without records.
    state: u64,
    /// Records in the agent's state.
    records: u64,
}

impl Sizes {
    fn of(world: &World) -> Self {
        let is_record = |path: &PathBuf| path.extension().is_some_and(|end| end == "rec");
        let bytes = |path: &PathBuf| fs::metadata(path).map_or(0, |meta| meta.len());
        let files = files_below(&world.agent.state);
        let records = files.iter().filter(|path| is_record(path)).map(bytes).sum();
        let state = files.iter().filter(|path| !is_record(path)).map(bytes).sum();
        Self { store: bytes_below(&world.vault), state, records }
    }
}

impl Soak {
    fn start() -> Self {
        let world = World::with_stores(&["a", "b"]);
        let data = world.tree("data");
        let source = format!("name = \"files\"\nkind = \"files\"\npaths = [\"{}\"]", data.root.display());
        let job = format!("[job.nightly]\nstores = [\"a\"]\nsuspect = false\n[[job.nightly.source]]\n{source}");
        world.agent.configure(&job);
        Self { world, data, random: Random::from_environment(), versions: Vec::new(), peaks: Vec::new() }
    }

    /// Files come, change and go, and of a dump a few records change.
    fn churn(&mut self, night: u64) {
        for _ in 0..3 {
            let name = format!("files/{}", self.random.below(20));
            let bytes = 20_000 + self.random.below(200_000) as usize;
            self.data.noise(&name, bytes, self.random.next());
        }
        let gone = format!("files/{}", self.random.below(20));
        if self.data.path(&gone).exists() {
            self.data.remove(&gone);
        }
        let mut dump = String::new();
        for number in 0..RECORDS {
            // Each record keeps its text for about fifty nights.
            let version = (night + number % 50) / 50;
            let noise = Random::new(number * 1000 + version).next();
            dump.push_str(&format!(
                "{{\"id\":{number},\"version\":{version},\"name\":\"{noise:016x}\",\"office\":\"district\"}}\n"
            ));
        }
        self.data.file("dump.json", dump.into_bytes());
    }

    fn fault(&mut self) -> Fault {
        if self.random.below(10) >= 3 {
            return Fault::Nothing;
        }
        let call = *self.random.pick(&["renameat2", "fsync", "openat"]);
        let when = 1 + self.random.below(if call == "openat" { 400 } else { 12 });
        let faults =
            [Fault::Killed(call, when), Fault::Killed(call, when), Fault::Away, Fault::NoCache, Fault::Rot, Fault::Torn];
        *self.random.pick(&faults)
    }

    fn suffer(&mut self, fault: Fault) {
        let world = &self.world;
        match fault {
            Fault::Nothing => {}
            Fault::Killed(call, when) => killed(world, args!["push", "nightly"], call, when),
            Fault::Away => {
                let away = world.path("away");
                fs::rename(&world.vault, &away).unwrap();
                world.run(args!["push", "nightly"]).exits(5);
                fs::rename(away, &world.vault).unwrap();
            }
            Fault::NoCache => fs::remove_dir_all(world.agent.state.join("cache")).unwrap(),
            Fault::Rot => {
                // A machine that was made the agent tonight has none yet.
                let mut files = files_below(&world.agent.state.join("cache"));
                files.retain(|file| fs::metadata(file).unwrap().len() > 0);
                if !files.is_empty() {
                    let file = self.random.pick(&files);
                    super::world::flip(file, self.random.below(fs::metadata(file).unwrap().len()));
                }
            }
            Fault::Torn => {
                let name = format!("packs/ab/{}-123456", "ab".repeat(32));
                fs::write(world.vault.join(name), b"cut short").unwrap();
            }
        }
    }

    /// The machine is gone with all that it knew. Another one is made the agent, which is cut off on its way, and prunes too.
    fn lose_the_machine(&mut self) {
        let when = 1 + self.random.below(12);
        let world = &self.world;
        fs::remove_dir_all(&world.agent.state).unwrap();
        let root = world.identity.with_extension("root");
        let adopt = args!["init", "--adopt", "--root", &root, "--identity", &world.identity];
        killed(world, adopt.clone(), "renameat2", when);
        world.run(adopt).ok();
        world.run(args!["keys", "enrol", "custodian", "--root", root]).ok();
    }

    /// A push that must be done, with a look at its memory. What a fault left behind may be reported.
    fn push(&mut self) {
        let mut push = Running::start(&self.world.agent, args!["push", "nightly", "--json"]);
        let mut peak = 0;
        while !push.has_ended() {
            peak = peak.max(push.peak_bytes().unwrap_or(0));
            std::thread::sleep(std::time::Duration::from_millis(1));
        }
        self.peaks.push(peak);
        let id = push.wait().ok().json()["jobs"][0]["snapshot"].as_str().unwrap()[..12].to_owned();
        let version = self.world.path(&format!("version-{id}"));
        must(Command::new("cp").arg("-a").arg(&self.data.root).arg(&version));
        self.versions.push((id, version));
    }

    /// What is no snapshot of the first copy any more need not be compared.
    fn forget(&mut self) {
        let listed = self.world.run(args!["snapshots", "--from", "a", "--json"]).ok().json();
        let listed = listed["snapshots"].as_array().unwrap();
        let here = |id: &String| listed.iter().any(|one| one["id"].as_str().unwrap().starts_with(id.as_str()));
        self.versions.retain(|(id, version)| {
            let stays = here(id);
            if !stays {
                fs::remove_dir_all(version).unwrap();
            }
            stays
        });
        // A push that was killed may have committed what nobody looked at.
        assert!(listed.len() >= KEPT && !self.versions.is_empty(), "{} are left", listed.len());
    }

    /// One round of planning and applying; on some nights it is killed on its way.
    fn prune(&mut self, store: &str) {
        let keep = KEPT.to_string();
        let world = &self.world;
        world.run(args!["prune", "plan", "--store", store, "--keep-last", &keep]).ok();
        let apply = args!["prune", "apply", "--store", store, "--now"];
        if self.random.below(3) == 0 {
            let when = 1 + self.random.below(12);
            let call = if self.random.below(2) == 0 { "unlinkat" } else { "renameat2" };
            killed(world, apply.clone(), call, when);
            world.run(args!["verify", "--from", store, "--depth", "list"]).ok();
        }
        world.run(apply).ok();
        if store == "a" {
            self.forget();
        }
    }

    fn compare(&self, store: &str) {
        let world = &self.world;
        world.run(args!["verify", "--from", store, "--depth", "opened", "--identity", &world.identity]).ok();
        for (id, version) in self.versions.iter().rev().take(KEPT) {
            let into = tempfile::tempdir_in(world.dir.path()).unwrap();
            let restore = args!["restore", id, "--from", store, "--into", into.path(), "--identity", &world.identity];
            world.run(restore).ok();
            assert_same(version, &self.data.below(into.path()));
        }
    }
}

/// Runs farkeep until it is killed at this call, or ends before it.
fn killed(world: &World, args: Vec<std::ffi::OsString>, call: &str, when: u64) {
    let mut command = Command::new("strace");
    world.agent.dress(&mut command);
    let inject = format!("inject={call}:signal=SIGKILL:when={when}");
    command.args(["-f", "-qq", "-o", "/dev/null", "-e", &format!("trace={call}"), "-e", &inject]);
    command.arg(super::world::machine::FARKEEP).args(args);
    let run = super::world::Run::of(&mut command);
    assert!([0, 137].contains(&run.code), "{run:?}");
}

#[test]
fn many_nights_with_faults_copies_prunes_and_epochs_lose_nothing_that_is_kept() {
    needs!("strace", "rsync");
    let nights = std::env::var("FARKEEP_SOAK_NIGHTS").map_or(NIGHTS, |text| text.parse().unwrap());
    let mut soak = Soak::start();
    let mut sizes = Vec::new();
    for night in 0..nights {
        soak.churn(night);
        if night % 30 == 9 {
            soak.lose_the_machine();
        }
        let fault = soak.fault();
        soak.suffer(fault);
        soak.push();
        if night % 7 == 6 {
            soak.world.run(args!["sync", "b", "--from", "a", "--plain-directory"]).ok();
        }
        if night % 4 == 3 && soak.versions.len() > KEPT {
            soak.prune("a");
        }
        if night % 28 == 13 {
            soak.prune("b");
        }
        if night > 0 && night % (nights / 4).max(10) == 0 {
            let root = soak.world.identity.with_extension("root");
            let epoch = args!["keys", "new-epoch", "--identity", &soak.world.identity, "--root", root];
            soak.world.run(epoch).ok().says("epoch");
        }
        if night % 20 == 19 {
            soak.compare("a");
            sizes.push(Sizes::of(&soak.world));
            println!("night {}: {:?}, peak {:?}", night + 1, sizes.last(), soak.peaks.last());
        }
    }
    let world = &soak.world;
    world.run(args!["sync", "b", "--from", "a", "--plain-directory"]).ok();
    soak.compare("a");
    soak.compare("b");
    world.run(args!["ledger", "verify", "--from", "a"]).ok();
    // Flat: the last nights take no more memory than the first did, nor do store and state go on growing, but for records.
    let most = |peaks: &[u64]| peaks.iter().copied().max().unwrap_or(0);
    let third = soak.peaks.len() / 3;
    let (first, last) = (most(&soak.peaks[..third]), most(&soak.peaks[soak.peaks.len() - third..]));
    assert!(last < first + first / 2 + (32 << 20), "peak memory went from {first} to {last} bytes");
    if let [early, .., late] = sizes.as_slice() {
        let state_max = early.state * 3 + NOT_FORGOTTEN_MAX_BYTES;
        assert!(late.store < early.store * 3 && late.state < state_max, "from {early:?} to {late:?}");
        assert!(late.records < nights * RECORDS_A_NIGHT_MAX_BYTES, "{late:?}");
    }
}
