//! InfluxDB 1.6, Debian's: backups of shards, what is missing from them, restores.

use std::fs;

use farkeep::source::engine::{Engine, Fetched};
use farkeep::source::http::HttpConfig;
use farkeep::source::influxdb::InfluxConfig;
use ureq::http::Method;

use crate::rehearsal::Rehearsal;
use crate::search::call;
use crate::service::{Service, needs_service};

pub fn query(service: &Service, statement: &str) -> String {
    let escaped: String = statement.bytes().map(|b| format!("%{b:02X}")).collect();
    let (status, answer) = call(service, Method::POST, &format!("/query?q={escaped}"), "");
    assert_eq!(status, 200, "{statement}: {answer}");
    answer.to_string()
}

/// Points of six weeks: as many shards.
pub fn fill(service: &Service, database: &str, points: u64) {
    query(service, &format!("CREATE DATABASE {database}"));
    let mut lines = String::new();
    for n in 0..points {
        let time = 1_600_000_000 + n * (6 * 7 * 86_400 / points);
        lines += &format!("birth_reg,district=d{} weight={}i,note=\"Änn {n}\" {time}000000000\n", n % 7, 2000 + n);
        lines += &format!("login,role=r{} count=1i {time}000000000\n", n % 3);
    }
    let (status, answer) = call(service, Method::POST, &format!("/write?db={database}"), &lines);
    assert_eq!(status, 204, "{answer}");
}

/// How many births are on record.
pub fn births(service: &Service, database: &str) -> u64 {
    let escaped = "SELECT%20count(weight)%20FROM%20birth_reg";
    let (_, answer) = call(service, Method::GET, &format!("/query?db={database}&q={escaped}"), "");
    answer["results"][0]["series"][0]["values"][0][1].as_u64().unwrap_or(0)
}

fn engine(service: &Service, database: &str) -> InfluxConfig {
    InfluxConfig {
        name: "metrics".into(),
        http: HttpConfig { url: format!("http://127.0.0.1:{}", service.port), user: None, password: None, ca_file: None },
        backup_address: format!("127.0.0.1:{}", service.port + 1),
        database: database.into(),
        influxd: "influxd".into(),
    }
}

fn shards(fetched: &Fetched) -> Vec<(String, Vec<u8>)> {
    let shards = fetched.parts.iter().filter(|part| part.name.starts_with("shards/"));
    shards.map(|part| (part.name.clone(), fs::read(&part.path).unwrap())).collect()
}

#[test]
fn points_come_back_and_a_missing_shard_removes_nothing() {
    needs_service!("influxdb");
    let (service, rehearsal) = (Service::start("influxdb"), Rehearsal::new());
    fill(&service, "ocrvs", 900);
    fill(&service, "other", 10);
    let engine = engine(&service, "ocrvs");
    let monday = rehearsal.back_up(&engine, "monday").unwrap();
    let tuesday = rehearsal.back_up(&engine, "tuesday").unwrap();
    assert!(shards(&monday).len() >= 6 && shards(&monday) == shards(&tuesday), "unchanged shards are the same bytes");
    assert_eq!(monday.account.proof["points of autogen.birth_reg"], "note 900, weight 900");

    query(&service, "DROP DATABASE ocrvs");
    fill(&service, "ocrvs", 30);
    rehearsal.bring_back_all(&engine, &monday);
    assert_eq!((births(&service, "ocrvs"), births(&service, "other")), (900, 10));

    // What belongs to a database and is in no backup outlives the restore.
    query(
        &service,
        "CREATE CONTINUOUS QUERY \"per day\" ON ocrvs BEGIN SELECT sum(weight) INTO daily FROM birth_reg \
         GROUP BY time(1d) END",
    );
    query(&service, "CREATE USER \"o'x\" WITH PASSWORD 'secret'");
    query(&service, "GRANT READ ON ocrvs TO \"o'x\"");
    query(&service, "GRANT ALL ON other TO \"o'x\"");
    let attached = || {
        let grants = query(&service, "SHOW GRANTS FOR \"o'x\"");
        assert!(grants.contains("[\"ocrvs\",\"READ\"]") && grants.contains("other"), "{grants}");
        query(&service, "SHOW CONTINUOUS QUERIES")
    };
    let before = attached();
    assert!(before.contains("per day"), "{before}");
    let notes = engine.survey(&monday.account, &rehearsal.work("plan")).unwrap().notes.join("; ");
    assert!(notes.contains("again afterwards: CREATE CONTINUOUS QUERY") && notes.contains("GRANT READ ON"), "{notes}");
    rehearsal.bring_back_all(&engine, &monday);
    assert_eq!(attached(), before);

    fill(&service, "ocrvs", 901);
    let now = births(&service, "ocrvs");
    let mut without = monday.clone();
    without.parts.remove(4);
    let error = rehearsal.bring_back(&engine, &without).unwrap_err().to_string();
    assert!(error.contains("is missing"), "{error}");
    let short = monday.parts[4].path.clone();
    let bytes = fs::read(&short).unwrap();
    fs::write(&short, &bytes[..bytes.len() / 2]).unwrap();
    let mut cut = monday.clone();
    cut.parts[4].bytes = bytes.len() as u64 / 2;
    assert!(rehearsal.bring_back(&engine, &cut).is_err());
    // Of the right length, and no tar: influxd gives up in the middle, in a database that nobody uses.
    fs::write(&short, vec![b'x'; bytes.len()]).unwrap();
    let error = rehearsal.bring_back(&engine, &monday).unwrap_err().to_string();
    assert!(error.contains("nothing was removed"), "{error}");
    assert_eq!(births(&service, "ocrvs"), now);
    assert!(!query(&service, "SHOW DATABASES").contains("trial"), "the trial's database is gone");
}

#[test]
fn a_database_that_is_not_there_or_a_server_that_is_down_is_no_backup() {
    needs_service!("influxdb");
    let (service, rehearsal) = (Service::start("influxdb"), Rehearsal::new());
    fill(&service, "ocrvs", 10);
    let misspelt = rehearsal.back_up(&engine(&service, "ocrv"), "night").unwrap_err().to_string();
    assert!(misspelt.contains("no such database") && misspelt.contains("ocrvs"), "{misspelt}");
    service.stop();
    let begun = std::time::Instant::now();
    engine(&service, "ocrvs").open(&rehearsal.work("down")).err().unwrap();
    assert!(begun.elapsed().as_secs() < 60, "influxd alone would try for four minutes");
}

#[test]
fn a_database_without_a_point_comes_back_empty() {
    needs_service!("influxdb");
    let (service, rehearsal) = (Service::start("influxdb"), Rehearsal::new());
    fill(&service, "ocrvs", 10);
    query(&service, "CREATE DATABASE nothing WITH DURATION 3000d NAME long");
    query(&service, "CREATE RETENTION POLICY \"for ever\" ON nothing DURATION INF REPLICATION 1 SHARD DURATION 90d");
    let engine = engine(&service, "nothing");
    let night = rehearsal.back_up(&engine, "night").unwrap();
    let told = night.account.findings.iter().map(ToString::to_string).collect::<String>();
    assert!(told.contains("is backed up as an empty one"), "{told}");
    let before = query(&service, "SHOW RETENTION POLICIES ON nothing");
    query(&service, "DROP RETENTION POLICY \"for ever\" ON nothing");
    fill(&service, "nothing", 5);
    for _ in 0..2 {
        rehearsal.bring_back_all(&engine, &night);
        assert_eq!(query(&service, "SHOW RETENTION POLICIES ON nothing"), before);
        assert_eq!(births(&service, "nothing"), 0);
        assert_eq!(births(&service, "ocrvs"), 10);
        query(&service, "DROP DATABASE nothing");
    }
    // Shards that are there and in no backup are another matter.
    fill(&service, "nothing", 5);
    let mut other = rehearsal.back_up(&engine, "other").unwrap();
    other.account.proof = night.account.proof;
    assert!(engine.check(&other, &rehearsal.work("check")).is_err());
}
