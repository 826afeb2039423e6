//! PostgreSQL, Debian's: dumps with their counts, dumps that were cut, restores while somebody is connected.

use std::fs;
use std::io::Write;
use std::os::unix::fs::MetadataExt;
use std::process::{Child, ChildStdin, Command, Stdio};

use farkeep::model::finding::FindingKind;
use farkeep::source::engine::{Account, Engine, Fetched};
use farkeep::source::postgres::PostgresConfig;

use crate::rehearsal::Rehearsal;
use crate::service::{Service, needs_service};
use crate::world::background::until;
use crate::world::tools::must;
use crate::world::{Running, World, args};

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

/// What makes this database another than one that was just made, with the name left out.
fn described(service: &Service, database: &str) -> String {
    let sql = "SELECT (SELECT array_agg(a::text ORDER BY a::text) FROM unnest(datacl) a), datconnlimit, datistemplate, \
        pg_get_userbyid(datdba), \
        (SELECT string_agg(setrole::regrole || ' ' || setconfig::text, ' ' ORDER BY setrole) FROM pg_db_role_setting s \
        WHERE s.setdatabase = d.oid), datlocprovider, daticulocale, datcollate, shobj_description(oid, 'pg_database'), \
        (SELECT spcname FROM pg_tablespace t WHERE t.oid = dattablespace) FROM pg_database d \
        WHERE datname = current_database()";
    psql(service, database, sql)
}

#[test]
fn what_a_database_has_of_its_own_comes_back_for_names_in_quotes_and_under_another_name() {
    needs_service!("postgresql");
    let (service, rehearsal) = (Service::start("postgresql"), Rehearsal::new());
    psql(&service, "postgres", "CREATE ROLE \"re'ad er\" LOGIN");
    psql(&service, "postgres", "CREATE ROLE owner");
    let disk = service.dir.path().join("disk");
    fs::create_dir(&disk).unwrap();
    let owner = fs::metadata(service.data("")).unwrap();
    std::os::unix::fs::chown(&disk, Some(owner.uid()), Some(owner.gid())).unwrap();
    psql(&service, "postgres", &format!("CREATE TABLESPACE \"Disk 2\" LOCATION '{}'", disk.display()));
    // In a database of another encoding nothing is to be read in ours.
    psql(&service, "postgres", "CREATE DATABASE latin TEMPLATE template0 ENCODING 'LATIN1' LOCALE 'C'");
    psql(&service, "postgres", "COMMENT ON DATABASE latin IS 'hälth'");
    psql(&service, "latin", "CREATE TABLE public.own (name text); INSERT INTO public.own VALUES ('x')");
    let names = ["hearth-dev", "it's a \"DATABASE\" x", "plain"];
    let quoted = |name: &str| format!("\"{}\"", name.replace('"', "\"\""));
    let statements = [
        "CREATE DATABASE {} TEMPLATE template0 LOCALE_PROVIDER icu ICU_LOCALE 'sv-SE' LOCALE 'C' TABLESPACE \"Disk 2\"",
        "ALTER DATABASE {} OWNER TO owner",
        "COMMENT ON DATABASE {} IS 'of the\n''hälth'' service; \\ x'",
        "REVOKE CONNECT ON DATABASE {} FROM PUBLIC",
        "GRANT CONNECT ON DATABASE {} TO \"re'ad er\" WITH GRANT OPTION",
        "SET SESSION AUTHORIZATION \"re'ad er\"; GRANT CONNECT ON DATABASE {} TO pg_monitor",
        "ALTER DATABASE {} SET app.text = 'it''s s3cret, é; \\ DATABASE x'",
        "ALTER DATABASE {} SET search_path = a, \"B c\"",
        "ALTER ROLE \"re'ad er\" IN DATABASE {} SET app.text = 's3cret'",
        "ALTER DATABASE {} CONNECTION LIMIT 7",
        "ALTER DATABASE {} IS_TEMPLATE true",
    ];
    let mut nights = Vec::new();
    for name in names {
        for sql in statements {
            psql(&service, "postgres", &sql.replace("{}", &quoted(name)));
        }
        psql(&service, name, "CREATE TABLE public.own (name text); INSERT INTO public.own VALUES ('x')");
        let without = PostgresConfig { globals: false, ..engine(&service, name) };
        nights.push((described(&service, name), rehearsal.back_up(&without, &format!("night of {}", name.len())).unwrap()));
    }
    let brought = |name: &str, night: &Fetched| rehearsal.bring_back(&engine(&service, name), night).unwrap().findings;
    for (name, (before, night)) in names.iter().zip(&nights) {
        assert!(before.contains("s3cret") && before.contains("owner=") && before.contains("|7|t|"), "{before}");
        assert!(before.contains("|i|sv-SE|C|of the\n'hälth'") && before.ends_with("|Disk 2"), "{before}");
        for target in [name, "another \"näme"] {
            assert_eq!(brought(target, night), [], "{target}");
            assert_eq!(described(&service, target), *before, "{name} as {target}");
        }
    }
    let latin = (described(&service, "latin"), rehearsal.back_up(&engine(&service, "latin"), "latin").unwrap());
    assert_eq!(brought("latin", &latin.1), []);
    assert_eq!(described(&service, "latin"), latin.0);
    // What cannot be given back is told, without its value; all else is there.
    for name in names.iter().chain(&["another \"näme"]) {
        let name = quoted(name);
        psql(&service, "postgres", &format!("ALTER DATABASE {name} IS_TEMPLATE false"));
        psql(&service, "postgres", &format!("DROP DATABASE {name}"));
    }
    psql(&service, "postgres", "DROP ROLE \"re'ad er\"");
    psql(&service, "postgres", "DROP TABLESPACE \"Disk 2\"");
    let findings = brought("hearth-dev", &nights[0].1);
    let told: Vec<String> = findings.iter().map(ToString::to_string).collect();
    assert_eq!(told.len(), 4, "{told:?}");
    assert!(told[0].contains("tablespace Disk 2"), "{told:?}");
    for part in
        ["GRANT CONNECT ON DATABASE \"hearth-dev\" TO \"re'ad er\"", "pg_monitor", "ALTER ROLE \"re'ad er\" IN DATABASE"]
    {
        assert!(told.iter().any(|told| told.contains(part) && told.contains("does not exist")), "{part}: {told:?}");
    }
    assert!(
        findings.iter().all(|finding| finding.kind == FindingKind::Target) && !told.concat().contains("s3cret"),
        "{told:?}"
    );
    let sql = "SELECT datconnlimit, has_database_privilege('public', 'hearth-dev', 'CONNECT') FROM pg_database \
        WHERE datname = current_database()";
    assert_eq!(psql(&service, "hearth-dev", sql), "7|f");
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
    let error = long.survey(&Account::default(), &rehearsal.work("long")).unwrap_err().to_string();
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
fn a_subscription_is_told_before_anything_is_touched_and_a_leftover_after_the_restore() {
    needs_service!("postgresql");
    let (service, rehearsal) = (Service::start("postgresql"), Rehearsal::new());
    fill(&service);
    let engine = engine(&service, "events");
    let subscribe = "CREATE SUBSCRIPTION \"Follow up\" CONNECTION 'host=192.0.2.1' PUBLICATION p \
        WITH (connect = false, slot_name = f)";
    let end = "ALTER SUBSCRIPTION \"Follow up\" SET (slot_name = NONE)";
    psql(&service, "events", subscribe);
    let night = rehearsal.back_up(&engine, "night").unwrap();
    let refused = || engine.survey(&night.account, &rehearsal.work("survey")).unwrap_err().to_string();
    assert!(refused().contains("subscription \"Follow up\" in events"), "{}", refused());
    psql(&service, "events", end);
    psql(&service, "events", "DROP SUBSCRIPTION \"Follow up\"");
    // It is in the dump: a database that did not come out equal goes all the same.
    let mut other = night.clone();
    other.account = other.account.proof("rows of app.birth", 2);
    let error = rehearsal.bring_back(&engine, &other).unwrap_err().to_string();
    assert!(error.contains("untouched"), "{error}");

    // Made after the plan: the restore is whole, and tells what it could not drop.
    psql(&service, "events", subscribe);
    psql(&service, "events", "DELETE FROM app.birth");
    let work = rehearsal.work("restore");
    engine.replace(&night, &work).unwrap();
    let findings = engine.prove(&night, &work).unwrap().findings;
    assert_eq!((findings.len(), findings[0].kind), (1, FindingKind::Target));
    assert!(findings[0].message.contains("database events_farkeep_old and could not be dropped"), "{}", findings[0]);
    assert_eq!(count(&service), "3000");
    assert!(refused().contains("in events_farkeep_old"), "{}", refused());
}

#[test]
fn a_database_that_is_misspelt_or_empty_and_a_refused_login_are_no_backup() {
    needs_service!("postgresql");
    let (service, rehearsal) = (Service::start("postgresql"), Rehearsal::new());
    fill(&service);
    assert!(engine(&service, "event").open(&rehearsal.work("misspelt")).err().unwrap().to_string().contains("event"));
    psql(&service, "postgres", "CREATE DATABASE nothing");
    psql(&service, "nothing", "CREATE TABLE t (n int)");
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
    let configured = rehearsal.path("password").display().to_string();
    assert!(error.contains(&configured) && !error.contains("pgpass"), "{error}");
    rehearsal.back_up(&login("s3cret:w\\ord"), "right").unwrap();
}

#[test]
fn a_database_without_a_table_comes_back_empty() {
    needs_service!("postgresql");
    let (service, rehearsal) = (Service::start("postgresql"), Rehearsal::new());
    psql(&service, "postgres", "CREATE DATABASE nothing");
    psql(&service, "nothing", "CREATE SCHEMA mine; COMMENT ON DATABASE nothing IS 'to be filled'");
    let engine = PostgresConfig { name: "nothing".into(), ..engine(&service, "nothing") };
    let night = rehearsal.back_up(&engine, "night").unwrap();
    let told = night.account.findings.iter().map(ToString::to_string).collect::<Vec<_>>();
    assert_eq!(told, ["nothing: the database is there and holds no data: it is backed up as an empty one"]);
    assert!(night.account.findings.iter().all(|finding| finding.kind == FindingKind::Notice));
    psql(&service, "nothing", "DROP SCHEMA mine; CREATE TABLE later (n int); COMMENT ON DATABASE nothing IS NULL");
    for _ in 0..2 {
        rehearsal.bring_back_all(&engine, &night);
        let there = "SELECT nspname || ', ' || (SELECT count(*) FROM pg_tables WHERE schemaname = 'public') || ', ' || \
                     shobj_description(d.oid, 'pg_database') FROM pg_namespace, pg_database d \
                     WHERE nspname = 'mine' AND datname = 'nothing'";
        assert_eq!(psql(&service, "nothing", there), "mine, 0, to be filled");
        // And on a server that does not know it.
        psql(&service, "postgres", "DROP DATABASE nothing");
    }
}

/// A session that keeps everybody from a table until it is dropped.
fn lock(service: &Service) -> (Child, ChildStdin) {
    let port = service.port.to_string();
    let mut psql = Command::new("psql");
    psql.args(["-X", "-q", "-h", "127.0.0.1", "-p", &port, "-U", "postgres", "-d", "events"]);
    let mut psql = psql.env("PGAPPNAME", "migration").stdin(Stdio::piped()).spawn().unwrap();
    let mut statements = psql.stdin.take().unwrap();
    writeln!(statements, "BEGIN; LOCK TABLE app.birth;").unwrap();
    let held = "SELECT count(*) FROM pg_locks WHERE mode = 'AccessExclusiveLock' AND granted";
    until("the table is locked", || self::psql(service, "events", held) != "0");
    (psql, statements)
}

#[test]
fn a_backup_that_waits_for_a_lock_says_who_holds_it() {
    needs_service!("postgresql");
    let (service, rehearsal) = (Service::start("postgresql"), Rehearsal::new());
    fill(&service);
    let (mut locking, statements) = lock(&service);
    let told = rehearsal.back_up_locked(&engine(&service, "events"), || drop(statements));
    assert!(told.starts_with("locked: pg_dump has said nothing for"), "{told}");
    assert!(told.contains("held by session") && told.contains("of postgres (migration, idle in transaction, "), "{told}");
    locking.wait().unwrap();
}

#[test]
fn a_dump_that_waits_for_a_lock_ends_with_a_farkeep_that_was_killed() {
    needs_service!("postgresql");
    let (service, world) = (Service::start("postgresql"), World::new());
    fill(&service);
    world.agent.configure(&format!(
        "[[job.nightly.source]]\nname = \"events\"\nkind = \"postgres\"\nhost = \"127.0.0.1\"\nport = {}\ndatabase = \"events\"\n",
        service.port
    ));
    let (mut locking, statements) = lock(&service);
    let port = format!("\0{}\0", service.port);
    let is_of_us = |line: &String| ["pg_dump", "psql"].iter().any(|name| line.contains(name)) && line.contains(&port);
    let at_work = || {
        let processes = fs::read_dir("/proc").unwrap().flatten();
        let lines = processes.filter_map(|process| fs::read_to_string(process.path().join("cmdline")).ok());
        // The one that holds the lock is no program of farkeep.
        lines.filter(is_of_us).count() - 1
    };
    let running = Running::start(&world.agent, args!["push", "nightly"]);
    let waits = "SELECT count(*) FROM pg_stat_activity WHERE application_name = 'farkeep' AND wait_event_type = 'Lock'";
    until("the dump waits", || psql(&service, "postgres", waits) == "1");
    assert_eq!(at_work(), 2, "the dump, and the session that counts what it shows");
    assert!(running.kill());
    until("both have ended", || at_work() == 0);
    drop(statements);
    locking.wait().unwrap();
    world.push("nightly");
}
