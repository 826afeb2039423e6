//! A custodian on the server with a key of its own, and an intruder on the agent who has the agent's.

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use farkeep::cli::config::Config;
use farkeep::crypto::hash::hash;
use farkeep::crypto::sign::SigningKey;
use farkeep::format::body::SnapshotBody;
use farkeep::format::record::{RECORD_NAMESPACE, RecordKind, Statement, join, split};
use farkeep::ledger::Scribe;
use farkeep::ledger::scribe::Context;
use farkeep::model::snapshot::SnapshotState;
use farkeep::model::time::{Clock, SystemClock};
use farkeep::state::StateDir;
use farkeep::state::keys::{KeyDir, Role};
use farkeep::store::deliver::{RetryPolicy, deliver};
use farkeep::store::directory::DirectoryStore;
use serde_json::Value;

use super::history::History;
use super::world::tools::must;
use super::world::{Machine, World, args, needs};

const DAY: i64 = 86_400;

/// A vault that another machine prunes, with one snapshot a night until now.
struct Guarded {
    history: History,
    custodian: Machine,
}

impl Guarded {
    fn with_nights(nights: u64) -> Self {
        let world = World::bare();
        let custodian = world.machine("custodian");
        let key = custodian.home.join("key");
        must(Command::new("ssh-keygen").args(["-q", "-t", "ed25519", "-N", "", "-f"]).arg(&key));
        world.init(&args!["--store", &world.vault, "--custodian", key.with_extension("pub")]);
        let history = History::in_world(world, nights);
        let guarded = Self { history, custodian };
        // As a server has it that received one each night.
        for (night, record) in guarded.records().iter().enumerate() {
            let ago = format!("{} days ago", nights as usize - night);
            must(Command::new("touch").args(["-d", &ago]).arg(record));
        }
        let pin = fs::read_to_string(&guarded.world().agent.config).unwrap();
        let series = guarded.world().snapshots()[0]["series"].as_str().unwrap().to_owned();
        guarded.custodian.configure(pin.split("[store").next().unwrap());
        let rules = "timezone = \"UTC\"\nkeep = { daily = 4, weekly = 3, min_snapshots = 3 }";
        guarded.custodian.configure(&format!("[series.{series}]\n{rules}\n"));
        guarded.care().ok();
        guarded
    }

    fn world(&self) -> &World {
        &self.history.world
    }

    /// The agent's records, in order.
    fn records(&self) -> Vec<PathBuf> {
        let mut records = self.world().objects("ledger");
        records.retain(|path| statement(path).kind == RecordKind::Snapshot);
        records.sort_by_key(|path| statement(path).seq);
        records
    }

    /// A night's work of the custodian; plans wait for the next.
    fn care(&self) -> super::world::Run {
        let key = self.custodian.home.join("key");
        self.custodian.run(args!["custodian", &self.world().vault, "--key", key, "--wait", "0s", "--json"])
    }

    /// What the rules keep now, by a plan that nobody signs.
    fn kept(&self) -> BTreeSet<String> {
        let plan = args!["prune", "plan", "--store", &self.world().vault, "--dry-run", "--json"];
        let plan = self.custodian.run(plan);
        assert!([0, 3].contains(&plan.code), "{plan:?}");
        let plan = plan.json();
        let kept = plan["snapshots"].as_array().unwrap().iter().filter(|one| one["keep"] == true);
        kept.map(|one| one["id"].as_str().unwrap().to_owned()).collect()
    }

    /// Signs snapshots with the agent's key, dated as the intruder likes.
    fn forge(&self, dates: impl Iterator<Item = i64>, states: &[SnapshotState]) {
        let world = self.world();
        let config = Config::load(&world.agent.config).unwrap();
        let vault = config.vault.unwrap();
        let state = StateDir::open(&world.agent.state, vault).unwrap();
        let key = KeyDir::of(&state).writer(Role::Agent).unwrap().unwrap();
        let mut scribe = Scribe::open(&state, vault, key).unwrap();
        let store = DirectoryStore::open(&world.vault).unwrap();
        let newest = statement(self.records().last().unwrap());
        let body: SnapshotBody = newest.body_as().unwrap();
        let now = SystemClock.now();
        for (number, days) in dates.enumerate() {
            let state = states[number % states.len()];
            let body = SnapshotBody { state, ..body.clone() };
            let context =
                Context { time: now.plus_secs(days * DAY), trust: newest.trust.unwrap(), heads: newest.heads.clone() };
            let signed = scribe.write(RecordKind::Snapshot, &body, context).unwrap();
            deliver(&store, &signed.name, &signed.bytes, RetryPolicy::ONCE).unwrap();
        }
    }
}

fn statement(path: &Path) -> Statement {
    let bytes = fs::read(path).unwrap();
    Statement::from_line(split(&bytes).unwrap().0).unwrap()
}

#[test]
fn a_custodian_whose_server_was_set_back_goes_on_when_the_lost_nights_are_given_up() {
    needs!("ssh-keygen");
    let mut guarded = Guarded::with_nights(3);
    let (vault, image) = (guarded.world().vault.clone(), guarded.world().path("image"));
    let set = |from: &Path, to: &Path| {
        let _ = fs::remove_dir_all(to);
        must(Command::new("cp").arg("-a").arg(from).arg(to));
    };
    set(&vault, &image);
    (3..5).for_each(|night| drop(guarded.history.night(night)));
    guarded.care().ok();
    guarded.history.night(5);
    set(&image, &vault);
    guarded.world().run(args!["verify", "--accept-rollback"]).exits(3);
    guarded.history.night(6);
    // It has counted them itself, and prunes nothing while they are missing.
    guarded.care().exits(4).says("5 snapshots were complete here");
    let planned = guarded.custodian.run(args!["prune", "plan", "--store", &vault, "--despite-damage", "--json"]).ok().json();
    assert_eq!(planned["dropped"], 3, "{planned}");
    // A night in which the plan waits does not stand in its way.
    guarded.care().exits(3).says("a plan that waits gives them up");
    let record = vault.join(planned["record"].as_str().unwrap());
    must(Command::new("touch").args(["-d", "4 days ago"]).arg(record));
    assert_eq!(guarded.care().exits(3).json()["applied"]["dropped"], 3);
    guarded.care().ok();
    guarded.world().run(args!["status", "--check"]).ok();
    guarded.world().verify("opened");

    // What it signed itself and nobody has read since, nobody else brings: it accepts the rollback too.
    set(&vault, &image);
    guarded.history.night(7);
    guarded.care().ok();
    set(&image, &vault);
    guarded.world().run(args!["verify", "--accept-rollback"]).exits(3);
    guarded.history.night(8);
    guarded.care().exits(4).says("rolled back");
    guarded.custodian.run(args!["verify", "--from", &vault, "--accept-rollback"]).exits(3);
    guarded.care().exits(3).says("gives them up");
    guarded.world().run(args!["ledger", "verify"]).ok();
}

#[test]
fn a_custodian_verifies_prunes_by_series_and_says_that_it_lives() {
    needs!("ssh-keygen");
    let mut guarded = Guarded::with_nights(12);
    let before = guarded.kept();
    assert!(before.len() < 8);
    // The first night planned, this one removes and finds nothing more to plan.
    let receipt = guarded.care().ok().json();
    assert_eq!(receipt["applied"]["dropped"], 12 - before.len());
    assert!(receipt["verified"]["objects"].as_u64().unwrap() > 0, "{receipt}");
    assert_eq!(receipt["planned"]["plan"], Value::Null);
    let held: BTreeSet<String> =
        guarded.world().snapshots().iter().map(|one| one["id"].as_str().unwrap().to_owned()).collect();
    assert_eq!(held, before);
    guarded.world().verify("opened");
    guarded.world().run(args!["ledger", "show"]).ok().says("the last push was at").says("custodian of");
    // The agent has no key to prune with, and goes on pushing.
    guarded.world().run(args!["prune", "plan", "--keep-last", "1"]).exits(1).says("custodian");
    guarded.history.night(12);
    guarded.history.assert_restores(11..13);
    guarded.care().ok();
    guarded.world().verify("opened");
}

#[test]
fn a_flood_of_snapshots_with_forged_dates_removes_no_good_one() {
    needs!("ssh-keygen");
    let guarded = Guarded::with_nights(20);
    guarded.care().ok();
    // A push of tonight, so that the flood opens no new day.
    let mut history = guarded.history;
    history.night(20);
    let guarded = Guarded { history, custodian: guarded.custodian };
    let good = guarded.kept();
    guarded.forge((-400..4000).step_by(61), &[SnapshotState::Good]);
    guarded.forge((-10..10).rev(), &[SnapshotState::Good]);
    let after = guarded.kept();
    let lost: Vec<_> = good.difference(&after).collect();
    assert!(lost.is_empty(), "{lost:?} of {good:?} would go");
    for _ in 0..3 {
        guarded.care().ok();
    }
    let held: BTreeSet<String> =
        guarded.world().snapshots().iter().map(|one| one["id"].as_str().unwrap().to_owned()).collect();
    assert!(good.is_subset(&held), "{good:?} are good, {held:?} are left");
    assert!(held.len() < good.len() + 5, "most of the flood is gone: {}", held.len());

    // Suspect ones among them freeze the series: of what was good nothing goes at all, and it is said.
    guarded.forge((-400..4000).step_by(61), &[SnapshotState::Good, SnapshotState::Suspect]);
    guarded.care().exits(3).says("is suspect");
    assert!(good.is_subset(&guarded.kept()));
    guarded.world().verify("opened");
    guarded.history.assert_restores(20..21);
}

/// What the key of a write-once account can put among the records: a file under whatever name, signed by nobody.
fn plant(world: &World, name: &str) {
    fs::write(world.vault.join("ledger").join(name), "junk\n").unwrap();
}

/// The same, a chain with a gap that a stranger truly signed.
fn plant_signed(world: &World, of: &Statement, seq: u64) {
    let key = SigningKey::generate("stranger").unwrap();
    for seq in [seq, seq + 2] {
        let prev = (seq > 1).then(|| hash(b"whatever"));
        let line = Statement { writer: key.verifier().writer(), seq, prev, ..of.clone() }.to_line().unwrap();
        let name = format!("{}-{seq}-{}.rec", key.verifier().writer(), hash(line.as_bytes()));
        let bytes = join(&line, &key.sign(RECORD_NAMESPACE, &line).unwrap());
        fs::write(world.vault.join("ledger").join(name), bytes).unwrap();
    }
}

#[test]
fn what_strangers_put_among_the_records_is_an_alarm_and_stops_no_prune() {
    needs!("ssh-keygen");
    let guarded = Guarded::with_nights(12);
    let world = guarded.world();
    let newest = guarded.records().pop().unwrap();
    plant(world, &format!("{}-1-{}.rec", "7".repeat(32), "7".repeat(64)));
    plant_signed(world, &statement(&newest), 1);
    let kept = guarded.kept().len();
    let receipt = guarded.care().exits(4).json();
    assert_eq!(receipt["applied"]["dropped"], 12 - kept, "{receipt}");
    let told = receipt["findings"].as_array().unwrap().iter().filter(|one| one["kind"] == "stranger").count();
    assert_eq!(told, 4, "three files and a chain with a gap: {receipt}");
    world.run(args!["ledger", "verify"]).exits(4).says("7777");
    world.run(args!["status", "--check"]).exits(4);
    // Nor is it in the way of another copy.
    world
        .run(args!["sync", world.path("copy"), "--from", &world.vault, "--plain-directory"])
        .exits(4)
        .says("durable, and read back");
}

#[test]
fn a_record_that_was_damaged_so_that_it_looks_like_a_strangers_stops_the_prune() {
    needs!("ssh-keygen");
    let guarded = Guarded::with_nights(12);
    let records = guarded.records();
    let stopped = |guarded: &Guarded, says: &str| {
        let run = guarded.care().exits(4).says(says).json();
        assert!(run["applied"].is_null() && run["planned"].is_null(), "{run}");
        guarded.custodian.run(args!["prune", "plan", "--store", &guarded.world().vault, "--dry-run"]).exits(4);
    };
    for record in [&records[5], &records[11]] {
        let whole = fs::read(record).unwrap();
        for junk in [b"junk\n".to_vec(), [&whole[..50], &[whole[50] ^ 1], &whole[51..]].concat()] {
            fs::write(record, junk).unwrap();
            stopped(&guarded, record.file_name().unwrap().to_str().unwrap());
        }
        // Under the name of somebody whom nobody knows.
        fs::write(record, &whole).unwrap();
        let name = record.file_name().unwrap().to_str().unwrap();
        let renamed = record.with_file_name(name.replacen(&name[..32], &"7".repeat(32), 1));
        fs::rename(record, &renamed).unwrap();
        guarded.custodian.run(args!["prune", "plan", "--store", &guarded.world().vault, "--dry-run"]).exits(4);
        fs::rename(&renamed, record).unwrap();
        let received = if record == &records[5] { "7 days ago" } else { "1 day ago" };
        must(Command::new("touch").args(["-d", received]).arg(record));
    }
    // Under a name of the agent it may have been the agent's.
    let newest = statement(&records[11]);
    plant(guarded.world(), &format!("{}-{}-{}.rec", newest.writer, newest.seq + 1, "7".repeat(64)));
    stopped(&guarded, "7777");
}
