//! The whole job of an OpenCRVS registry that dumps itself, as the preset writes it: a week of nights, everything wiped, and
//! the words of the README on another machine.

use std::ffi::OsString;
use std::fs;
use std::path::{Path, PathBuf};

use ::mongodb::bson::doc;
use ureq::http::Method;

use crate::influxdb::query;
use crate::mongodb::{count, database, uri};
use crate::postgres::psql;
use crate::replica_set;
use crate::search::{call, count as documents, index};
use crate::service::{Service, needs_service};
use crate::story::secret;
use crate::world::clock::{at, missing_faketime};
use crate::world::{Machine, Run, World, args, skipped};

const DATABASES: [&str; 8] =
    ["hearth-dev", "user-mgnt", "application-config", "openhim-dev", "events", "metrics", "webhooks", "performance"];
/// Saturday to Friday.
const DATES: [&str; 7] = ["2026-11-14", "2026-11-15", "2026-11-16", "2026-11-17", "2026-11-18", "2026-11-19", "2026-11-20"];
const TUESDAY: usize = 3;
const FRIDAY: usize = 6;

/// The registry's data systems, and the machine that backs them up.
struct Registry {
    world: World,
    mongo: Service,
    elastic: Service,
    influx: Service,
    postgres: Service,
    /// A replica set of one, and one of three of which one is down.
    hosts: [String; 2],
}

impl Registry {
    fn new() -> Self {
        let mongo = Service::start("ferretdb");
        let hosts = [1, 3].map(|members| format!("rs0/{}", replica_set::start(mongo.port, members)));
        let (elastic, influx) = (Service::start("elasticsearch"), Service::start("influxdb"));
        let registry = Self { world: World::new(), mongo, elastic, influx, postgres: Service::start("postgresql"), hosts };
        psql(&registry.postgres, "postgres", "CREATE DATABASE events");
        psql(&registry.postgres, "events", "CREATE TABLE night (n int PRIMARY KEY)");
        query(&registry.influx, "CREATE DATABASE ocrvs");
        for name in DATABASES {
            let records = (0..30).map(|n| doc! { "_id": format!("record {n}"), "text": "amina ".repeat(10) });
            database(&registry.mongo, name).collection("records").insert_many(records).run().unwrap();
        }
        registry.install(&registry.world.agent);
        registry
    }

    /// The preset, with the addresses and paths of this scratch place and nothing else changed.
    fn install(&self, machine: &Machine) {
        machine.run(args!["init", "--preset", "opencrvs-direct"]).ok().says("job opencrvs-direct was added");
        let secrets = self.world.path("secrets");
        fs::create_dir_all(&secrets).unwrap();
        secret(&self.world, "secrets/mongo-uri", &uri(&self.mongo));
        secret(&self.world, "secrets/postgres", "pg-w0rd");
        secret(&self.world, "secrets/elastic", "es-w0rd");
        let http = |service: &Service| format!("http://127.0.0.1:{}", service.port);
        let changes = [
            ("/etc/farkeep/secrets", secrets.display().to_string()),
            ("\"rs0/mongo1:27017\"", format!("{:?}", self.hosts[0])),
            ("\"rs0/mongo1:27017,mongo2:27017,mongo3:27017\"", format!("{:?}", self.hosts[1])),
            ("http://influxdb:8086", http(&self.influx)),
            ("influxdb:8088", format!("127.0.0.1:{}", self.influx.port + 1)),
            ("host       = \"postgres\"", format!("host = \"127.0.0.1\"\nport = {}", self.postgres.port)),
            ("http://elasticsearch:9200", http(&self.elastic)),
            ("/data/backups/elasticsearch", self.elastic.data("repo").display().to_string()),
            ("/data/minio", self.data("minio").display().to_string()),
            ("/data/vsexport", self.data("vsexport").display().to_string()),
        ];
        machine.reconfigure(|text| {
            changes.iter().fold(text.to_owned(), |text, (from, to)| {
                assert!(text.contains(from), "the preset does not say {from}");
                text.replace(from, to)
            })
        });
    }

    fn data(&self, name: &str) -> PathBuf {
        self.world.path("data").join(name)
    }

    /// What is written before the night of this number.
    fn day(&self, night: usize) {
        let number = i32::try_from(night).unwrap();
        for name in DATABASES {
            let nights = database(&self.mongo, name).collection("nights");
            nights.insert_one(doc! { "_id": number }).run().unwrap();
        }
        index(&self.elastic, "ocrvs-births", night * 5, night * 5 + 5);
        index(&self.elastic, "events_log", night, night + 1);
        let line = format!("birth_reg,district=d1 weight={night}i {}000000000", 1_763_000_000 + night * 86_400);
        assert_eq!(call(&self.influx, Method::POST, "/write?db=ocrvs", &line).0, 204);
        psql(&self.postgres, "events", &format!("INSERT INTO night VALUES ({night})"));
        for name in ["minio", "vsexport"] {
            fs::create_dir_all(self.data(name)).unwrap();
            fs::write(self.data(name).join(format!("night-{night}")), format!("scan {night}")).unwrap();
        }
    }

    /// Nothing is left of any of it.
    fn wipe(&self) {
        for name in DATABASES {
            database(&self.mongo, name).drop().run().unwrap();
        }
        for name in ["ocrvs-births", "events_log"] {
            assert_eq!(call(&self.elastic, Method::DELETE, &format!("/{name}"), "").0, 200);
        }
        let repository = self.elastic.data("repo");
        fs::remove_dir_all(&repository).unwrap();
        fs::create_dir(&repository).unwrap();
        query(&self.influx, "DROP DATABASE ocrvs");
        psql(&self.postgres, "postgres", "DROP DATABASE events");
        fs::remove_dir_all(self.world.path("data")).unwrap();
        fs::remove_dir_all(&self.world.agent.home).unwrap();
    }

    /// Everything is as in this night, and nothing of a later one is there.
    #[track_caller]
    fn is_of(&self, night: usize) {
        let nights = night as u64 + 1;
        for name in DATABASES {
            let database = database(&self.mongo, name);
            assert_eq!((count(&database, "records"), count(&database, "nights")), (30, nights), "{name}");
        }
        assert_eq!(documents(&self.elastic, "ocrvs-births"), 5 * nights);
        assert_eq!(documents(&self.elastic, "events_log"), nights);
        assert_eq!(crate::influxdb::births(&self.influx, "ocrvs"), nights);
        assert_eq!(psql(&self.postgres, "events", "SELECT count(*), max(n) FROM night"), format!("{nights}|{night}"));
        for name in ["minio", "vsexport"] {
            assert!(self.data(name).join(format!("night-{night}")).exists(), "{name}");
            assert!(!self.data(name).join(format!("night-{}", night + 1)).exists(), "{name}");
        }
    }

    /// The README's command for an emergency, on Friday morning.
    fn restore(&self, station: &Machine, day: &str, replicas: &str, copy: &Path, more: &[&str]) -> Run {
        let replicas = format!("replicas={replicas}");
        let mut all = args!["restore", day, "--run", "--var", replicas, "--safety-copy", copy, "--reason", "case 117"];
        all.extend(args!["--identity", &self.world.identity]);
        all.extend(more.iter().map(OsString::from));
        at(station, "2026-11-20 10:00:00", all)
    }
}

#[test]
fn seven_nights_of_a_registry_that_dumps_itself_and_tuesday_comes_back_with_three_replicas() {
    needs_service!("ferretdb", "influxdb", "elasticsearch", "postgresql");
    if let Some(why) = missing_faketime() {
        return skipped(&why);
    }
    let registry = Registry::new();
    let world = &registry.world;
    for (night, date) in DATES.iter().enumerate() {
        registry.day(night);
        let push = at(&world.agent, &format!("{date} 00:00:00"), args!["push", "opencrvs-direct", "--json"]).ok();
        let pushed = push.never_says("w0rd").json();
        assert_eq!(pushed["jobs"][0]["members"].as_array().unwrap().len(), 13, "{pushed}");
        assert_eq!(pushed["jobs"][0]["state"], "good", "{pushed}");
    }
    registry.wipe();

    // Another machine: the operator's identity, the vault, and the same preset.
    let station = world.machine("station");
    registry.install(&station);
    station.configure(&format!("[store.server]\nurl = \"{}\"", world.vault.display()));
    let before = world.path("before");
    let plan = registry.restore(&station, "tuesday", "3", &before, &["--dry-run"]).ok();
    let plan = plan.says("made Tuesday 2026-11-17 00:00 (UTC), 3 d").says(&format!("with replicas = {}", registry.hosts[1]));
    plan.says("hearth (mongodb").says("destroys nothing: nothing is there").never_says("DESTROYS");
    registry.restore(&station, "tuesday", "3", &before, &["--yes-destroy", "opencrvs"]).exits(2).says("is not the target");
    let done = registry.restore(&station, "tuesday", "3", &before, &["--yes-destroy", "opencrvs-direct", "--json"]);
    let receipt = done.ok().never_says("w0rd").json();
    for member in receipt["members"].as_array().unwrap() {
        assert_eq!(member["outcome"], "restored", "{receipt}");
    }
    registry.is_of(TUESDAY);

    // Friday after all, over what stands there now, which is kept.
    let before = world.path("before-friday");
    registry.restore(&station, "friday", "1", &before, &["--yes-destroy", "opencrvs-direct"]).ok();
    registry.is_of(FRIDAY);
    for kept in ["hearth/archive", "postgres-events/database", "influxdb/manifest", "attachments/minio/night-3"] {
        assert!(before.join(kept).metadata().unwrap().len() > 0, "{kept}");
    }
    assert!(fs::read_dir(before.join("elasticsearch/repository")).unwrap().count() > 0);
}
