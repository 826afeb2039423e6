//! PostgreSQL, Debian's: dumps with their counts, dumps that were cut, restores while somebody is connected.

use std::fs;
use std::process::{Command, Stdio};

use farkeep::source::engine::Engine;
use farkeep::source::postgres::PostgresConfig;

use crate::rehearsal::Rehearsal;
use crate::service::{Service, needs_service};
use crate::world::tools::must;

pub fn psql(service: &Service, database: &str, sql: &str) -> String {
    let port = service.port.to_string();
    let words =
        ["-X", "-A", "-t", "-q", "-v", "ON_ERROR_STOP=1", "-h", "127.0.0.1", "-p", &port, "-U", "postgres", "-d", database];
    must(Command::new("psql").args(words).args(["-c", sql])).trim().to_owned()
}

pub fn fill(service: &Service) {
    psql(service, "postgres", "CREATE ROLE registrar LOGIN; ");
    psql(service, "postgres", "CREATE DATABASE events");
    let sql = "CREATE SCHEMA app AUTHORIZATION registrar;
        CREATE TABLE app.birth (id int PRIMARY KEY, name text, born timestamptz, weight float8, photo bytea, more jsonb);
        ALTER TABLE app.birth OWNER TO registrar;
        INSERT INTO app.birth SELECT n, 'Änn ' || n, now() - n * interval '1 day', n / 7.0, decode(md5(n::text), 'hex'), jsonb_build_object('n', n)
            FROM generate_series(1, 3000) n;
        CREATE TABLE app.\"Odd name\" (id int REFERENCES app.birth);
        CREATE VIEW app.named AS SELECT name FROM app.birth;
        CREATE SEQUENCE app.numbers START 500;";
    psql(service, "events", sql);
    psql(service, "postgres", "ALTER DATABASE events SET work_mem = '5MB'");
}

pub fn count(service: &Service) -> String {
    psql(service, "events", "SELECT count(*) FROM app.birth")
}

fn engine(service: &Service, database: &str) -> PostgresConfig {
    PostgresConfig {
        name: "events".into(),
        host: "127.0.0.1".into(),
        port: service.port,
        user: "postgres".into(),
        password: None,
        run_as: None,
        database: database.into(),
        maintenance: "postgres".into(),
        globals: true,
    }
}

#[test]
fn a_database_comes_back_with_its_roles_although_somebody_is_connected() {
    needs_service!("postgresql");
    let (service, rehearsal) = (Service::start("postgresql"), Rehearsal::new());
    fill(&service);
    let engine = engine(&service, "events");
    let night = rehearsal.back_up(&engine, "night").unwrap();
    assert_eq!(night.account.proof["rows of app.birth"], "3000");
    assert_eq!(night.account.proof["rows of app.\"Odd name\""], "0");

    psql(&service, "events", "DELETE FROM app.birth WHERE id > 100; CREATE TABLE app.later (); DROP VIEW app.named");
    let mut connected = Command::new("psql");
    let port = service.port.to_string();
    connected.args(["-X", "-h", "127.0.0.1", "-p", &port, "-U", "postgres", "-d", "events", "-c", "SELECT pg_sleep(600)"]);
    let mut connected = connected.stdout(Stdio::null()).stderr(Stdio::null()).spawn().unwrap();
    while psql(&service, "postgres", "SELECT count(*) FROM pg_stat_activity WHERE datname = 'events'") == "0" {
        assert!(connected.try_wait().unwrap().is_none());
    }
    let survey = engine.survey(&night.account, &rehearsal.work("survey")).unwrap();
    assert!(survey.destroys[0].starts_with("database events: 3 tables"), "{survey:?}");
    assert!(survey.notes.iter().any(|note| note.contains("will be ended")), "{survey:?}");
    // What a restore that was killed left behind makes room.
    psql(&service, "postgres", "CREATE DATABASE events_farkeep_new");
    psql(&service, "postgres", "CREATE DATABASE events_farkeep_old");
    rehearsal.bring_back_all(&engine, &night);
    connected.wait().unwrap();
    assert_eq!(psql(&service, "postgres", "SELECT count(*) FROM pg_database WHERE datname LIKE '%farkeep%'"), "0");
    assert_eq!(count(&service), "3000");
    assert_eq!(psql(&service, "events", "SELECT to_regclass('app.later') IS NULL, count(*) FROM app.named"), "t|3000");
    assert_eq!(psql(&service, "events", "SHOW work_mem"), "5MB");

    // Closed to everybody by a restore that broke off while it changed the names: the next one sees to it.
    psql(&service, "postgres", "ALTER DATABASE events ALLOW_CONNECTIONS false");
    let survey = engine.survey(&night.account, &rehearsal.work("survey")).unwrap();
    assert!(survey.destroys[0].starts_with("database events, which cannot be counted"), "{survey:?}");
    rehearsal.bring_back_all(&engine, &night);
    assert_eq!(count(&service), "3000");

    // On a server that knows neither the database nor the role.
    psql(&service, "postgres", "DROP DATABASE events");
    psql(&service, "postgres", "DROP ROLE registrar");
    rehearsal.bring_back_all(&engine, &night);
    assert_eq!(psql(&service, "events", "SELECT tableowner FROM pg_tables WHERE tablename = 'birth'"), "registrar");
}

#[test]
fn names_as_long_as_the_server_takes_come_back_and_no_other_database_goes() {
    needs_service!("postgresql");
    let (service, rehearsal) = (Service::start("postgresql"), Rehearsal::new());
    let names = [format!("{}a", "e".repeat(62)), format!("{}b", "e".repeat(62)), "e".repeat(60), "å".repeat(30)];
    for name in &names {
        psql(&service, "postgres", &format!("CREATE DATABASE \"{name}\""));
        psql(&service, name, &format!("CREATE TABLE own (name text); INSERT INTO own VALUES ('{name}')"));
    }
    let nights = names.each_ref().map(|name| rehearsal.back_up(&engine(&service, name), "night").unwrap().account);
    for (name, account) in names.iter().zip(nights) {
        let engine = engine(&service, name);
        let night = rehearsal.back_up(&engine, "night").unwrap();
        assert_eq!(night.account.proof, account.proof, "the restore of another changed {name}");
        psql(&service, name, "DELETE FROM own");
        rehearsal.bring_back_all(&engine, &night);
        // Refused after it was filled: that drops the database beside, and nothing else.
        let mut other = night.clone();
        other.account = other.account.proof("rows of public.own", 2);
        let error = rehearsal.bring_back(&engine, &other).unwrap_err().to_string();
        assert!(error.contains("untouched"), "{error}");
    }
    for name in &names {
        assert_eq!(psql(&service, name, "SELECT name FROM own"), *name);
    }
    assert_eq!(psql(&service, "postgres", "SELECT count(*) FROM pg_database"), (3 + names.len()).to_string());
    let long = engine(&service, &"e".repeat(64));
    let error = long.survey(&farkeep::source::engine::Account::default(), &rehearsal.work("long")).unwrap_err().to_string();
    assert!(error.contains("63 bytes"), "{error}");
}

#[test]
fn the_counts_are_of_the_moment_that_the_dump_shows() {
    needs_service!("postgresql");
    let (service, rehearsal) = (Service::start("postgresql"), Rehearsal::new());
    fill(&service);
    let engine = engine(&service, "events");
    let work = rehearsal.work("busy");
    let mut backup = engine.open(&work).unwrap();
    while let Some(part) = backup.next(&work).unwrap() {
        let mut read = (part.open)(&work).unwrap();
        let mut buffer = vec![0; 65536];
        while read.read(&mut buffer).unwrap() > 0 {}
        read.finish().unwrap();
        // Somebody writes while the backup goes on.
        psql(&service, "events", "DELETE FROM app.birth WHERE id > 1000");
    }
    assert_eq!(backup.finish(&work).unwrap().proof["rows of app.birth"], "3000");
}

#[test]
fn a_dump_that_was_cut_or_changed_touches_nothing() {
    needs_service!("postgresql");
    let (service, rehearsal) = (Service::start("postgresql"), Rehearsal::new());
    fill(&service);
    let engine = engine(&service, "events");
    let night = rehearsal.back_up(&engine, "night").unwrap();
    psql(&service, "events", "DELETE FROM app.birth WHERE id > 100");
    let path = night.part("database").unwrap().to_owned();
    let whole = fs::read(&path).unwrap();
    for length in [0, 100, whole.len() / 2, whole.len() - 1000] {
        fs::write(&path, &whole[..length]).unwrap();
        assert!(engine.check(&night, &rehearsal.work("check")).is_err(), "cut to {length}");
    }
    // Well formed, and not what was counted.
    let text = String::from_utf8_lossy(&whole);
    let at = text.find("Änn 2999").map(|_| whole.windows(9).position(|w| w == "Änn 2999".as_bytes()).unwrap()).unwrap();
    let mut changed = whole.clone();
    changed[at + 2] = b'm';
    fs::write(&path, &changed).unwrap();
    let error = rehearsal.bring_back(&engine, &night).unwrap_err().to_string();
    assert!(error.contains("untouched") && error.contains("app.birth"), "{error}");
    assert_eq!(count(&service), "100");
    assert!(!psql(&service, "postgres", "SELECT string_agg(datname, ' ') FROM pg_database").contains("farkeep"));
}

#[test]
fn a_database_that_is_misspelt_or_empty_and_a_refused_login_are_no_backup() {
    needs_service!("postgresql");
    let (service, rehearsal) = (Service::start("postgresql"), Rehearsal::new());
    fill(&service);
    assert!(engine(&service, "event").open(&rehearsal.work("misspelt")).err().unwrap().to_string().contains("event"));
    psql(&service, "postgres", "CREATE DATABASE nothing");
    let empty = rehearsal.back_up(&engine(&service, "nothing"), "empty").unwrap_err().to_string();
    assert!(empty.contains("no row"), "{empty}");
    let hba = fs::read_to_string(service.data("pg_hba.conf")).unwrap();
    fs::write(service.data("pg_hba.conf"), format!("host all judge all scram-sha-256\n{hba}")).unwrap();
    psql(&service, "postgres", "CREATE ROLE judge LOGIN SUPERUSER PASSWORD 's3cret:w\\ord'");
    psql(&service, "postgres", "SELECT pg_reload_conf()");
    let login = |password: &str| PostgresConfig {
        user: "judge".into(),
        password: Some(rehearsal.secret("password", password)),
        ..engine(&service, "events")
    };
    let error = rehearsal.back_up(&login("wr0ng-word"), "wrong").unwrap_err().to_string();
    assert!(!error.contains("wr0ng"), "{error}");
    rehearsal.back_up(&login("s3cret:w\\ord"), "right").unwrap();
}
