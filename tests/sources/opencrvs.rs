//! The whole job of an OpenCRVS registry, as the preset writes it, over a week.

use std::fs;
use std::path::{Path, PathBuf};

use crate::world::{Machine, Random, World, args, skipped};
use crate::{at, gunzip, gzip, missing_faketime, push_at, restore_run, written_at};

const DATABASES: [&str; 8] =
    ["hearth-dev", "user-mgnt", "application-config", "openhim-dev", "events", "metrics", "webhooks", "performance"];

/// A machine on which the registry's own script leaves its archives.
struct Registry {
    world: World,
    backups: PathBuf,
}

impl Registry {
    fn new() -> Self {
        let world = World::new();
        let registry = Self { backups: world.path("data/backups"), world };
        registry.install(&registry.world.agent);
        registry
    }

    /// The preset, with the paths of this scratch place, and no waiting for archives that never come.
    fn install(&self, machine: &Machine) {
        machine.run(args!["init", "--preset", "opencrvs"]).ok().says("job opencrvs was added");
        let hook = format!(
            "restore = {{ after = {{ on_success = ['sh', '-c', 'echo \"$@\" > \"$0\"', '{}', '--label={{date}}', '--replicas={{replicas}}'] }} }}",
            self.world.path("restored").display()
        );
        machine.reconfigure(|text| {
            let text = text.replace("/data/backups", self.backups.to_str().unwrap()).replace("\"45m\"", "\"0s\"");
            let line = text.lines().find(|line| line.starts_with("# restore ")).unwrap().to_owned();
            text.replace(&line, &hook)
        });
    }

    /// What a database held that night: most of it is what it held the night before.
    fn documents(database: &str, night: u64) -> Vec<u8> {
        let mut bytes = vec![0x6d, 0xe2, 0x99, 0x81];
        bytes.extend(Random::new(database.len() as u64).bytes(60_000));
        bytes.extend(Random::new(1000 + night).bytes(2_000));
        bytes
    }

    fn mongo(&self, database: &str, date: &str) -> PathBuf {
        self.backups.join(format!("mongo/{database}-{date}.gz"))
    }

    /// The script's nightly run.
    fn dump(&self, date: &str, night: u64) {
        let time = format!("{date} 00:05");
        let write = |path: &str, bytes: &[u8]| {
            let path = self.backups.join(path);
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            fs::write(&path, bytes).unwrap();
            written_at(&path, &time);
        };
        for database in DATABASES {
            gzip(&self.mongo(database, date), &Self::documents(database, night), Some(&time));
        }
        let packed = |path: String, bytes: &[u8]| gzip(&self.backups.join(path), bytes, Some(&time));
        packed(format!("influxdb/{date}/20261117T000500Z.s1.tar.gz"), &Random::new(5).bytes(30_000));
        write(&format!("influxdb/{date}/20261117T000500Z.manifest"), b"{\"files\":[]}");
        write(&format!("influxdb/{date}/20261117T000500Z.meta"), b"meta");
        write(&format!("postgres/events-{date}.dump"), &[b"PGDMP".as_slice(), &Random::new(night).bytes(20_000)].concat());
        packed(format!("minio/ocrvs-{date}.tar.gz"), &Random::new(6).bytes(200_000));
        packed(format!("vsexport/ocrvs-{date}.tar.gz"), b"an export");
        write("elasticsearch/index.latest", &night.to_be_bytes());
        write(&format!("elasticsearch/snap-{night}.dat"), &Random::new(night).bytes(5_000));
    }
}

fn dates() -> Vec<String> {
    // Saturday to Friday.
    (14..=20).map(|day| format!("2026-11-{day}")).collect()
}

#[test]
fn seven_nights_are_pushed_everything_is_wiped_and_tuesday_comes_back_with_three_replicas() {
    if let Some(why) = missing_faketime() {
        return skipped(&why);
    }
    let registry = Registry::new();
    let world = &registry.world;
    for (night, date) in dates().iter().enumerate() {
        registry.dump(date, night as u64);
        let pushed = at(&world.agent, &format!("{date} 00:15:00"), args!["push", "opencrvs", "--json"]).ok().json();
        assert_eq!(pushed["jobs"][0]["members"].as_array().unwrap().len(), 13);
        // A night costs what changed, though gzip has changed every byte.
        let new = pushed["jobs"][0]["new_bytes"].as_u64().unwrap();
        assert!(night == 0 || new < 400_000, "night {night} cost {new} bytes");
    }
    fs::remove_dir_all(world.path("data")).unwrap();
    fs::remove_dir_all(&world.agent.home).unwrap();

    // Another machine: the operator's identity, the vault, and the same preset.
    let station = world.machine("station");
    registry.install(&station);
    station.configure(&format!("[store.server]\nurl = \"{}\"", world.vault.display()));
    let restore = |more: &[&str]| at(&station, "2026-11-20 10:00:00", restore_run(world, "tuesday", more));
    let plan = restore(&["--var", "replicas=3", "--dry-run"]).ok();
    plan.says("made Tuesday 2026-11-17 00:15 (UTC), 3 d").says("with replicas = 3").says("hearth (spool");
    assert!(!registry.backups.exists());
    restore(&["--var", "replicas=3", "--yes-destroy", "opencrvs"]).ok().says("restored snapshot");

    for database in DATABASES {
        assert_eq!(gunzip(&registry.mongo(database, "2026-11-17")), Registry::documents(database, 3), "{database}");
    }
    assert!(!registry.mongo("hearth-dev", "2026-11-18").exists());
    let restored = |path: &str| fs::read(registry.backups.join(path)).unwrap();
    assert_eq!(restored("elasticsearch/index.latest"), 3_u64.to_be_bytes());
    assert!(!registry.backups.join("elasticsearch/snap-4.dat").exists());
    assert_eq!(restored("postgres/events-2026-11-17.dump")[5..], Random::new(3).bytes(20_000));
    assert_eq!(
        gunzip(&registry.backups.join("influxdb/2026-11-17/20261117T000500Z.s1.tar.gz")),
        Random::new(5).bytes(30_000)
    );
    // The release's own script was told which night it is and how many replicas there are.
    assert_eq!(fs::read_to_string(world.path("restored")).unwrap(), "--label=2026-11-17 --replicas=3\n");
    assert!(mode(&registry.backups) & 0o005 == 0o005, "directories above what was restored are closed to others");
}

fn mode(path: &Path) -> u32 {
    use std::os::unix::fs::PermissionsExt;
    fs::metadata(path).unwrap().permissions().mode()
}

#[test]
fn a_night_in_which_one_database_was_not_dumped_is_no_snapshot_and_tuesday_stays() {
    if let Some(why) = missing_faketime() {
        return skipped(&why);
    }
    let registry = Registry::new();
    let world = &registry.world;
    let push = |date: &str| at(&world.agent, &format!("{date} 00:15:00"), args!["push", "opencrvs"]);
    registry.dump("2026-11-17", 3);
    push("2026-11-17").ok();
    registry.dump("2026-11-18", 4);
    // Misspelt in the script: mongodump writes a valid archive of nothing, and ends with 0.
    let archive = registry.mongo("hearth-dev", "2026-11-18");
    gzip(&archive, &Registry::documents("hearth-dev", 4)[..112], Some("2026-11-18 00:05"));
    push("2026-11-18").exits(1).says("source \"hearth\"").says("at least 1024 are expected");
    fs::remove_file(&archive).unwrap();
    push("2026-11-18").exits(1).says("0 archives of the day are there");
    gzip(&archive, b"<html>not a dump, but long enough: </html>".repeat(100).as_slice(), Some("2026-11-18 00:05"));
    push("2026-11-18").exits(1).says("does not begin with");
    gzip(&archive, &Registry::documents("hearth-dev", 4)[..30_000], Some("2026-11-18 00:05"));
    push("2026-11-18").exits(1).says("shrank");
    // What the archive of the night before said would be restored is still what is there.
    let restore = restore_run(world, "wednesday", &["--dry-run"]);
    at(&world.agent, "2026-11-18 10:00:00", restore).exits(2).says("there is no such snapshot");
    let restore = restore_run(world, "latest", &["--yes-destroy", "opencrvs"]);
    at(&world.agent, "2026-11-18 10:00:00", restore).ok().says("Tuesday 2026-11-17");
    assert_eq!(gunzip(&registry.mongo("hearth-dev", "2026-11-17")), Registry::documents("hearth-dev", 3));
    push_at(&world.agent, "2026-11-18 10:00:00").exits(2);
}

#[test]
fn a_preset_is_added_to_what_is_there_and_never_twice() {
    let world = World::bare();
    world.agent.configure("[store.a]\nurl = \"/media/a\"");
    for name in ["opencrvs", "stackstate"] {
        world.run(args!["init", "--preset", name]).ok();
        world.run(args!["init", "--preset", name]).exits(2).says("already");
    }
    let text = fs::read_to_string(&world.agent.config).unwrap();
    assert!(text.contains("/media/a") && text.contains("[job.stackstate]"));
    world.run(args!["init", "--preset", "wordpress"]).exits(2).says("opencrvs");
}
