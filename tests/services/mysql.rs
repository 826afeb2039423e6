//! MariaDB, Debian's: dumps with their checksums, dumps that were cut, restores that find triggers and views in their way.

use std::fs;
use std::io::Write;
use std::process::{Command, Stdio};

use farkeep::source::engine::{Account, Engine};
use farkeep::source::mysql::MysqlConfig;

use crate::rehearsal::Rehearsal;
use crate::service::{Service, needs_service};
use crate::world::background::until;
use crate::world::tools::must;
use crate::world::{World, args};

fn client(service: &Service) -> Command {
    client_of(service, "root")
}

fn client_of(service: &Service, user: &str) -> Command {
    let mut client = Command::new("mariadb");
    client.args(["--no-defaults", "--batch", "--skip-column-names", "--user", user]);
    client.arg(format!("--socket={}", service.data("socket").display()));
    client
}

fn sql(service: &Service, sql: &str) -> String {
    must(client(service).args(["-e", sql])).trim().to_owned()
}

fn fill(service: &Service, database: &str) {
    sql(service, &format!("CREATE DATABASE {database} CHARACTER SET utf8mb4 COLLATE utf8mb4_bin"));
    let text = "CREATE TABLE birth (id INT PRIMARY KEY, name VARCHAR(100), photo BLOB, weight DOUBLE, born DATETIME(3));
        INSERT INTO birth SELECT seq, CONCAT('Änn ', seq), UNHEX(MD5(seq)), seq / 7, '2026-01-01 00:00:00.125' + INTERVAL seq MINUTE
            FROM seq_1_to_3000;
        CREATE TABLE `Odd name` (birth INT, KEY (birth), CONSTRAINT of_birth FOREIGN KEY (birth) REFERENCES birth (id));
        CREATE TABLE log (at INT AUTO_INCREMENT PRIMARY KEY, what TEXT);
        CREATE SEQUENCE numbers START WITH 500;
        CREATE FUNCTION shout (t TEXT) RETURNS TEXT DETERMINISTIC RETURN UPPER(t);
        CREATE VIEW named AS SELECT shout(name) AS name FROM birth;
        CREATE TRIGGER kept AFTER DELETE ON birth FOR EACH ROW INSERT INTO log (what) VALUES (OLD.name);
        CREATE EVENT nightly ON SCHEDULE EVERY 1 DAY DO DELETE FROM log;";
    must(client(service).args(["-D", database, "-e", text]));
}

fn count(service: &Service, database: &str, table: &str) -> String {
    sql(service, &format!("SELECT COUNT(*) FROM {database}.{table}"))
}

fn engine(service: &Service, database: &str) -> MysqlConfig {
    MysqlConfig {
        name: "events".into(),
        kind: "mariadb",
        host: service.data("socket").display().to_string(),
        port: 3306,
        user: "root".into(),
        password: None,
        run_as: None,
        database: database.into(),
    }
}

#[test]
fn a_database_with_all_that_belongs_to_it_is_emptied_and_comes_back() {
    needs_service!("mariadb");
    let (service, world) = (Service::start("mariadb"), World::new());
    fill(&service, "events");
    world.agent.configure(&format!(
        "[[job.nightly.source]]\nname = \"events\"\nkind = \"mariadb\"\nhost = \"127.0.0.1\"\nport = {}\ndatabase = \"events\"\n",
        service.port
    ));
    let receipt = world.push("nightly");
    assert_eq!(receipt["state"], "good", "{receipt}");
    sql(&service, "DELETE FROM events.birth WHERE id > 100; CREATE TABLE events.later (n INT); DROP VIEW events.named");
    // The usual disaster: a view stands on nothing, and neither it nor what is above it can be dumped.
    sql(
        &service,
        "CREATE VIEW events.logged AS SELECT * FROM events.log; CREATE VIEW events.above AS SELECT * FROM events.logged",
    );
    sql(&service, "DROP TABLE events.log");
    let run = args!["restore", "latest", "--run", "--yes-destroy", "nightly", "--identity", &world.identity, "--json"];
    let receipt = world.run(run.clone()).ok().json();
    let proof = &receipt["members"][0]["proof"];
    assert_eq!(proof["rows of birth"], "3000", "{receipt}");
    assert!(proof["checksum of birth"].is_string(), "{receipt}");
    whole(&service, "events");
    assert_eq!(sql(&service, "SHOW DATABASES LIKE 'events%'"), "events");

    // On a server that does not know the database.
    sql(&service, "DROP DATABASE events");
    world.run(run).ok();
    whole(&service, "events");
}

/// Everything of [`fill`], in working order.
fn whole(service: &Service, database: &str) {
    assert_eq!(count(service, database, "birth"), "3000");
    assert_eq!(sql(service, &format!("SELECT name FROM {database}.named WHERE name LIKE '% 2999'")), "ÄNN 2999");
    assert_eq!(
        sql(service, &format!("SELECT COUNT(*) FROM information_schema.events WHERE event_schema = '{database}'")),
        "1"
    );
    assert_eq!(sql(service, &format!("SELECT NEXTVAL({database}.numbers)")), "500");
    let tables = sql(
        service,
        &format!(
            "SELECT GROUP_CONCAT(table_name ORDER BY 1) FROM information_schema.tables WHERE table_schema = '{database}'"
        ),
    );
    assert_eq!(tables, "birth,log,named,numbers,Odd name");
    let collation =
        format!("SELECT default_collation_name FROM information_schema.schemata WHERE schema_name = '{database}'");
    assert_eq!(sql(service, &collation), "utf8mb4_bin");
    let refused =
        client(service).args(["-e", &format!("INSERT INTO {database}.`Odd name` VALUES (77777)")]).output().unwrap();
    assert!(!refused.status.success(), "the foreign key is there");
    sql(service, &format!("DELETE FROM {database}.birth WHERE id = 3000"));
    assert_eq!(count(service, database, "log"), "1", "the trigger is there");
    sql(service, &format!("INSERT INTO {database}.birth (id) VALUES (3000); TRUNCATE {database}.log"));
}

#[test]
fn a_dump_that_was_cut_or_changed_touches_nothing() {
    needs_service!("mariadb");
    let (service, rehearsal) = (Service::start("mariadb"), Rehearsal::new());
    fill(&service, "events");
    let engine = engine(&service, "events");
    let night = rehearsal.back_up(&engine, "night").unwrap();
    let again = rehearsal.back_up(&engine, "again").unwrap();
    sql(&service, "DELETE FROM events.birth WHERE id > 100");
    for part in ["database", "programs", "views"] {
        let path = night.part(part).unwrap().to_owned();
        let bytes = fs::read(&path).unwrap();
        assert!(bytes == fs::read(again.part(part).unwrap()).unwrap(), "{part}: the same data are the same bytes");
        for length in [0, 100, bytes.len() / 2, bytes.len() - 10] {
            fs::write(&path, &bytes[..length]).unwrap();
            assert!(engine.check(&night, &rehearsal.work("check")).is_err(), "{part} cut to {length}");
        }
        fs::write(&path, &bytes).unwrap();
    }
    // What stands on nothing cannot be kept, and is no reason to keep nothing.
    sql(&service, "CREATE TABLE events.base (n INT); CREATE VIEW events.broken AS SELECT * FROM events.base");
    sql(&service, "DROP TABLE events.base");
    let copy = rehearsal.path("copy");
    fs::create_dir(&copy).unwrap();
    let kept = engine.keep(&night, &copy, &rehearsal.work("copy")).unwrap();
    assert!(kept.len() == 1 && kept[0].subject.ends_with(" broken"), "{kept:?}");
    assert!(copy.join("views").is_file());
    // The tables cannot be renamed: all the rest comes back, but for that view.
    sql(&service, "CREATE USER stiff@localhost; GRANT SUPER, SET USER ON *.* TO stiff@localhost");
    sql(&service, "GRANT SELECT ON mysql.proc TO stiff@localhost; GRANT ALL ON `events\\_farkeep%`.* TO stiff@localhost");
    let most = "SELECT, INSERT, UPDATE, DELETE, CREATE, DROP, SHOW VIEW, CREATE VIEW, TRIGGER, EVENT, EXECUTE, \
                CREATE ROUTINE, ALTER ROUTINE, LOCK TABLES";
    sql(&service, &format!("GRANT {most} ON events.* TO stiff@localhost"));
    let stiff = MysqlConfig { user: "stiff".into(), ..engine.clone() };
    let error = rehearsal.bring_back(&stiff, &night).unwrap_err().to_string();
    assert!(error.contains("ALTER") && error.ends_with("could not be put back: view broken"), "{error}");
    assert_eq!(count(&service, "events", "named"), "100", "the view is there again");
    assert_eq!(sql(&service, "SHOW TABLES IN events LIKE '%unfinished'"), "");
    // Well formed, and not what was summed up.
    let path = night.part("database").unwrap();
    let mut text = fs::read(path).unwrap();
    let at = text.windows(9).position(|w| w == "Änn 2999".as_bytes()).unwrap();
    text[at + 2] = b'm';
    fs::write(path, &text).unwrap();
    let error = rehearsal.bring_back(&engine, &night).unwrap_err().to_string();
    assert!(error.contains("untouched") && error.contains("checksum of birth"), "{error}");
    // A statement that no server understands: rows must not be in the message.
    text.splice(at - 4..at - 4, *b"'',");
    fs::write(path, &text).unwrap();
    let error = rehearsal.bring_back(&engine, &night).unwrap_err().to_string();
    assert!(error.contains("untouched") && error.contains("ERROR 1064"), "{error}");
    assert!(!error.contains("nn 1") && !error.contains("2999"), "{error}");
    assert_eq!(count(&service, "events", "birth"), "100");
    assert_eq!(count(&service, "events", "named"), "100", "the view is still there");
    assert_eq!(sql(&service, "SHOW DATABASES LIKE 'events%'"), "events");

    // Broken off behind the tables: no backup until it was repeated, not even by who sees nothing but the database.
    let programs = again.part("programs").unwrap();
    let whole_text = fs::read(programs).unwrap();
    fs::write(programs, "nonsense;\n-- Dump completed\n").unwrap();
    let error = rehearsal.bring_back(&engine, &again).unwrap_err().to_string();
    assert!(error.contains("until the same restore") && error.contains("in the database events_farkeep_old"), "{error}");
    sql(&service, "REVOKE ALL PRIVILEGES ON `events\\_farkeep%`.* FROM stiff@localhost");
    for engine in [&engine, &stiff] {
        let error = engine.open(&rehearsal.work("half")).err().unwrap().to_string();
        assert!(error.contains("farkeep_restore_unfinished") && error.contains("--run --yes-destroy"), "{error}");
    }
    fs::write(programs, whole_text).unwrap();
    rehearsal.bring_back_all(&engine, &again);
    whole(&service, "events");
    sql(&service, "CREATE DATABASE events_farkeep_new");
    let fetched = rehearsal.back_up(&engine, "after").unwrap();
    assert!(fetched.account.findings.iter().any(|f| f.message.contains("events_farkeep_new is there")));
    sql(&service, "CREATE DATABASE events_farkeep_old");
    engine.open(&rehearsal.work("old")).err().unwrap();
}

#[test]
fn a_database_that_is_misspelt_or_empty_and_a_refused_login_are_no_backup() {
    needs_service!("mariadb");
    let (service, rehearsal) = (Service::start("mariadb"), Rehearsal::new());
    fill(&service, "events");
    let misspelt = engine(&service, "event").open(&rehearsal.work("misspelt")).err().unwrap().to_string();
    assert!(misspelt.contains("no such database"), "{misspelt}");
    sql(&service, "CREATE DATABASE nothing; CREATE TABLE nothing.t (n INT)");
    let empty = rehearsal.back_up(&engine(&service, "nothing"), "empty").unwrap_err().to_string();
    assert!(empty.contains("no row"), "{empty}");
    let password = "s3cret \"w\\n#ord";
    sql(&service, &format!("CREATE USER judge@localhost IDENTIFIED BY '{}'", password.replace('\\', "\\\\")));
    sql(&service, "GRANT ALL ON *.* TO judge@localhost");
    let login = |password: &str| MysqlConfig {
        user: "judge".into(),
        password: Some(rehearsal.secret("password", password)),
        ..engine(&service, "events")
    };
    let error = rehearsal.back_up(&login("wr0ng-word"), "wrong").unwrap_err().to_string();
    assert!(error.contains("denied") && !error.contains("wr0ng"), "{error}");
    rehearsal.back_up(&login(password), "right").unwrap();

    // What an account may not see is in no list and in no dump: such a backup would agree with itself.
    let login = MysqlConfig { user: "half".into(), ..engine(&service, "events") };
    let refused = |missing: &[&str]| {
        let error = rehearsal.back_up(&login, "half").unwrap_err().to_string();
        assert!(error.contains("sees only a part") && missing.iter().all(|m| error.contains(m)), "{error}");
    };
    sql(&service, "CREATE USER half@localhost; GRANT SELECT, SHOW VIEW ON events.birth TO half@localhost");
    refused(&["GRANT SELECT, SHOW VIEW, TRIGGER, EVENT ON `events`.* TO 'half'@'localhost';"]);
    sql(&service, "GRANT SELECT, LOCK TABLES, SHOW VIEW, EVENT ON events.* TO half@localhost");
    refused(&["GRANT TRIGGER ON `events`.* TO", "GRANT SELECT ON mysql.proc TO 'half'@'localhost';"]);
    // By a role, and by a pattern that another one hides.
    sql(&service, "CREATE ROLE reader; GRANT TRIGGER ON `event_`.* TO reader; GRANT reader TO half@localhost");
    sql(&service, "GRANT SELECT ON mysql.proc TO half@localhost; GRANT EXECUTE ON FUNCTION events.shout TO half@localhost");
    refused(&["GRANT TRIGGER ON `events`.*"]);
    sql(&service, "SET DEFAULT ROLE reader FOR half@localhost; GRANT SELECT, TRIGGER ON `eve%`.* TO half@localhost");
    let seen = rehearsal.back_up(&login, "half").unwrap();
    let all = rehearsal.back_up(&engine(&service, "events"), "all").unwrap();
    assert_eq!(seen.account, all.account);
    for part in ["database", "programs", "views"] {
        assert!(fs::read(seen.part(part).unwrap()).unwrap() == fs::read(all.part(part).unwrap()).unwrap(), "{part}");
    }
}

#[test]
fn a_database_without_a_table_comes_back_empty_and_keeps_no_other_from_being_backed_up() {
    needs_service!("mariadb");
    let (service, world) = (Service::start("mariadb"), World::new());
    fill(&service, "events");
    sql(&service, "CREATE DATABASE nothing CHARACTER SET latin1");
    let source = |name: &str| {
        let server = format!("kind = \"mariadb\"\nhost = \"127.0.0.1\"\nport = {}\n", service.port);
        format!("[[job.nightly.source]]\nname = \"{name}\"\n{server}database = \"{name}\"\n")
    };
    world.agent.configure(&(source("events") + &source("nothing")));
    let receipt = world.push("nightly");
    assert_eq!(receipt["state"], "good", "{receipt}");
    assert!(receipt["findings"].to_string().contains("backed up as an empty one"), "{receipt}");
    sql(&service, "DROP DATABASE events; CREATE TABLE nothing.later (n INT); CREATE VIEW nothing.named AS SELECT 1");
    let run = args!["restore", "latest", "--run", "--yes-destroy", "nightly", "--identity", &world.identity, "--json"];
    let receipt = world.run(run.clone()).ok().json();
    assert_eq!(receipt["members"][1]["proof"]["holds"], "nothing", "{receipt}");
    whole(&service, "events");
    assert_eq!(sql(&service, "SHOW TABLES IN nothing"), "");
    let charset = "SELECT default_character_set_name FROM information_schema.schemata WHERE schema_name = 'nothing'";
    assert_eq!(sql(&service, charset), "latin1");
    sql(&service, "DROP DATABASE nothing");
    world.run(run).ok();
    assert_eq!(sql(&service, charset), "latin1");

    // What held something is not empty all at once.
    sql(&service, "DROP DATABASE events; CREATE DATABASE events");
    world.run(args!["push", "nightly"]).exits(1).says("is it another server").says("--accept-size events");
    world.run(args!["push", "nightly", "--accept-size", "events"]).ok();
}

#[test]
fn what_an_account_shares_with_another_one_counts() {
    needs_service!("mariadb");
    let (service, rehearsal) = (Service::start("mariadb"), Rehearsal::new());
    fill(&service, "events_1");
    let login = |user: &str| MysqlConfig { user: user.into(), ..engine(&service, "events_1") };
    let all = rehearsal.back_up(&engine(&service, "events_1"), "all").unwrap();
    let whole = |user: &str| {
        let seen = rehearsal.back_up(&login(user), "seen").unwrap();
        assert_eq!(seen.account, all.account, "{user}");
        for part in ["database", "programs", "views"] {
            assert!(fs::read(seen.part(part).unwrap()).unwrap() == fs::read(all.part(part).unwrap()).unwrap(), "{part}");
        }
    };
    let give = |to: &str, on_database: &str| {
        sql(&service, &format!("GRANT {on_database} ON `events\\_%`.* TO {to}"));
        sql(&service, &format!("GRANT SELECT ON mysql.proc TO {to}; GRANT EXECUTE ON FUNCTION events_1.shout TO {to}"));
    };
    // One account for all hosts, and the same beside another one that has nothing.
    sql(&service, "CREATE USER backup@'%'");
    give("backup@'%'", "SELECT, LOCK TABLES, SHOW VIEW, TRIGGER, EVENT");
    whole("backup");
    sql(&service, "CREATE USER backup@localhost");
    assert_eq!(must(client_of(&service, "backup").args(["-e", "SHOW GRANTS"])).lines().count(), 1);
    whole("backup");
    for lacking in ["TRIGGER", "SHOW VIEW", "EVENT"] {
        sql(&service, &format!("REVOKE {lacking} ON `events\\_%`.* FROM backup@'%'"));
        let error = rehearsal.back_up(&login("backup"), "less").unwrap_err().to_string();
        assert!(error.contains(&format!("it lacks {lacking} on the whole database; give it")), "{error}");
        // All of it: what is granted to this account itself hides what the other one has.
        let grant = "GRANT SELECT, SHOW VIEW, TRIGGER, EVENT ON `events\\_1`.* TO 'backup'@'localhost';";
        assert!(error.contains(grant), "{error}");
        sql(&service, &format!("GRANT {lacking} ON `events\\_%`.* TO backup@'%'"));
    }
    sql(&service, "REVOKE SELECT ON mysql.proc FROM backup@'%'");
    let error = rehearsal.back_up(&login("backup"), "less").unwrap_err().to_string();
    assert!(error.contains("it lacks SELECT on mysql.proc (for routines); give it"), "{error}");
    assert_eq!(sql(&service, "SHOW TRIGGERS IN events_1").lines().count(), 1, "none was made");
    sql(&service, "GRANT SELECT ON mysql.proc TO backup@'%'");
    // Whoever keeps a question from being answered is not waited for: what is listed counts then.
    let mut holding = client(&service).args(["-e", "FLUSH TABLES WITH READ LOCK; DO SLEEP(1000)"]).spawn().unwrap();
    let holder = "SELECT id FROM information_schema.processlist WHERE info LIKE 'DO SLEEP%'";
    until("all tables are locked", || !sql(&service, holder).is_empty());
    let error = rehearsal.back_up(&login("backup"), "locked").unwrap_err().to_string();
    assert!(error.contains("it lacks TRIGGER on the whole database"), "{error}");
    sql(&service, &format!("KILL {}", sql(&service, holder)));
    holding.wait().unwrap();

    // What everybody has.
    sql(&service, "CREATE USER anybody@localhost");
    rehearsal.back_up(&login("anybody"), "none").unwrap_err();
    give("PUBLIC", "SELECT, LOCK TABLES, SHOW VIEW, TRIGGER, EVENT");
    whole("anybody");

    // Who has no account of that name is nobody, and what the name was given for other hosts does not count for him.
    sql(&service, "REVOKE ALL ON `events\\_%`.* FROM PUBLIC; REVOKE ALL ON mysql.proc FROM PUBLIC");
    sql(&service, "CREATE USER ''@localhost; CREATE USER remote@'%'; GRANT SELECT ON `events\\_%`.* TO ''@localhost");
    give("remote@'%'", "SELECT, LOCK TABLES, SHOW VIEW, TRIGGER, EVENT");
    let error = rehearsal.back_up(&login("remote"), "nobody").unwrap_err().to_string();
    assert!(error.contains("it lacks SHOW VIEW on") && error.contains("TO ''@'localhost'"), "{error}");
}

#[test]
fn events_whose_time_has_passed_are_a_word_and_no_difference() {
    needs_service!("mariadb");
    let (service, rehearsal) = (Service::start("mariadb"), Rehearsal::new());
    fill(&service, "events");
    let make = |name: &str, rest: &str| sql(&service, &format!("CREATE EVENT events.{name} ON SCHEDULE {rest} DO SELECT 1"));
    make("once", "AT now() + INTERVAL 1 SECOND");
    make("`od``d`", "EVERY 1 DAY STARTS now() ENDS now() + INTERVAL 1 SECOND");
    make("kept", "AT now() + INTERVAL 1 SECOND ON COMPLETION PRESERVE");
    make("later", "AT now() + INTERVAL 1 YEAR");
    // No scheduler runs here that would drop them: they are dumped, and the restore is too late for them.
    let passed = "SELECT COUNT(*) FROM information_schema.events WHERE coalesce(execute_at, ends) < now()";
    until("their time has passed", || sql(&service, passed) == "3");
    let engine = engine(&service, "events");
    let night = rehearsal.back_up(&engine, "night").unwrap();
    assert_eq!(night.account.proof["events"], "5");
    let now = rehearsal.bring_back(&engine, &night).unwrap();
    let differs = |now: &Account| {
        let is_other =
            |(name, value): &(&String, &String)| night.account.proof.get(*name).is_some_and(|then| then != *value);
        now.proof.iter().filter(is_other).map(|(name, value)| format!("{name}: {value}")).collect::<Vec<_>>()
    };
    assert_eq!(differs(&now), Vec::<String>::new());
    assert!(now.proof["event kept"] == "there" && !now.proof.contains_key("event once"), "{now:?}");
    let told = now.findings.iter().map(ToString::to_string).collect::<Vec<_>>();
    assert!(
        told.len() == 2 && told[0].contains("event od`d was to end at 20") && told[1].contains("event once was"),
        "{told:?}"
    );
    // What is missing for another reason is missing.
    sql(&service, "DROP EVENT events.later");
    let now = engine.prove(&night, &rehearsal.work("dropped")).unwrap();
    assert_eq!(differs(&now), ["event later: missing", "events: 2"]);
}

#[test]
fn a_backup_that_waits_for_a_lock_says_so() {
    needs_service!("mariadb");
    let (service, rehearsal) = (Service::start("mariadb"), Rehearsal::new());
    fill(&service, "events");
    let mut migrating = client(&service).args(["-D", "events"]).stdin(Stdio::piped()).spawn().unwrap();
    let mut statements = migrating.stdin.take().unwrap();
    writeln!(statements, "LOCK TABLES birth WRITE; DO SLEEP(0);").unwrap();
    statements.flush().unwrap();
    let locked = "SELECT COUNT(*) FROM information_schema.processlist WHERE db = 'events' AND command = 'Sleep'";
    until("the table is locked", || sql(&service, locked) == "1");
    let told = rehearsal.back_up_locked(&engine(&service, "events"), || drop(statements));
    assert!(told.starts_with("locked: mariadb has said nothing for"), "{told}");
    assert!(told.contains("Waiting for table metadata lock") && told.contains(" of root (Sleep for "), "{told}");
    migrating.wait().unwrap();
}

#[test]
fn tables_that_others_refer_to_and_counts_that_moved() {
    needs_service!("mariadb");
    let (service, rehearsal) = (Service::start("mariadb"), Rehearsal::new());
    fill(&service, "events");
    sql(&service, "CREATE TABLE events.old (n INT) ENGINE = MyISAM");
    let engine = engine(&service, "events");
    let work = rehearsal.work("busy");
    let mut backup = engine.open(&work).unwrap();
    while let Some(part) = backup.next(&work).unwrap() {
        let mut read = (part.open)(&work).unwrap();
        let mut buffer = vec![0; 65536];
        while read.read(&mut buffer).unwrap() > 0 {}
        read.finish().unwrap();
        sql(&service, "DELETE FROM events.birth WHERE id > 1000");
    }
    let account = backup.finish(&work).unwrap();
    assert!(!account.proof.contains_key("rows of birth"), "it moved: {account:?}");
    assert_eq!(account.proof["rows of Odd name"], "0");
    // What is there and not in the backup is named, what only moved is not.
    assert_eq!(engine.survey(&account, &work).unwrap().destroys.len(), 1);
    sql(&service, "CREATE TABLE events.later (n INT); CREATE VIEW events.newer AS SELECT 1; DROP VIEW events.named");
    sql(&service, "CREATE PROCEDURE events.shout () SELECT 1");
    let destroys = engine.survey(&account, &work).unwrap().destroys[1..].join("; ");
    for gone in ["table later, about 0 rows: not in", "view newer: not in", "procedure shout: not in"] {
        assert!(destroys.contains(gone), "{destroys}");
    }
    assert_eq!(destroys.matches("not in").count(), 3, "{destroys}");
    assert!(account.findings.iter().any(|finding| finding.subject.ends_with(" old")), "{account:?}");

    sql(&service, "CREATE DATABASE other; CREATE TABLE other.t (b INT, FOREIGN KEY (b) REFERENCES events.birth (id))");
    let refused = engine.survey(&account, &work).unwrap_err().to_string();
    assert!(refused.contains("the database other refer"), "{refused}");
}

#[test]
fn what_a_dump_does_not_hold_by_itself_comes_back() {
    needs_service!("mariadb");
    let (service, rehearsal) = (Service::start("mariadb"), Rehearsal::new());
    // A name that leaves no room for a suffix.
    let database = "portal_of_the_ministry_of_health_of_the_republic_of_somewhere";
    sql(&service, &format!("CREATE DATABASE {database}"));
    let filled = |text: &str| must(client(&service).args(["-D", database, "-e", text]));
    filled("CREATE TABLE plain (n INT); INSERT INTO plain VALUES (1)");
    filled(
        "CREATE TABLE dated (n INT PRIMARY KEY, what TEXT) WITH SYSTEM VERSIONING;
         INSERT INTO dated VALUES (1, 'a'), (2, 'b')",
    );
    filled("UPDATE dated SET what = 'c'; DELETE FROM dated WHERE n = 2");
    // More digits than a dump writes.
    filled("CREATE TABLE measured (n INT PRIMARY KEY, kg FLOAT, at TIMESTAMP, photo BLOB, twice DOUBLE AS (kg * 2) STORED)");
    filled("INSERT INTO measured (n, kg, photo) SELECT seq, seq / 7, UNHEX(MD5(seq)) FROM seq_1_to_100");
    filled("INSERT INTO measured (n) VALUES (0)");
    let past = || filled("SELECT *, ROW_START, ROW_END FROM dated FOR SYSTEM_TIME ALL ORDER BY n, ROW_START");
    let was = past();
    let engine = engine(&service, database);
    let night = rehearsal.back_up(&engine, "night").unwrap();
    assert_eq!((&night.account.proof["rows of dated"][..], &night.account.proof["history of dated"][..]), ("1", "3"));
    let told = night.account.findings.iter().map(ToString::to_string).collect::<Vec<_>>();
    assert_eq!(told, ["events measured: FLOAT (kg) is kept to the six digits that a dump writes; DOUBLE keeps all"]);
    filled("DELETE FROM plain; DROP TABLE dated; CREATE TABLE dated (n INT) WITH SYSTEM VERSIONING");
    rehearsal.bring_back_all(&engine, &night);
    filled("UPDATE measured SET kg = 14.2858 WHERE n = 100");
    let now = engine.prove(&night, &rehearsal.work("changed")).unwrap();
    assert_ne!(now.proof["hash of measured"], night.account.proof["hash of measured"]);
    // What an older version summed up with all digits cannot be compared.
    let mut older = night.clone();
    older.account.proof.remove("hash of measured");
    older.account.proof.insert("checksum of measured".into(), "1".into());
    rehearsal.bring_back(&engine, &older).unwrap();
    assert_eq!(sql(&service, "SHOW DATABASES LIKE 'portal%'"), database);
    assert_eq!(past(), was);

    // A row that is longer in a dump than the server takes it: told at the backup, and before anything is touched.
    filled("CREATE TABLE scans (n INT PRIMARY KEY, scan LONGBLOB); INSERT INTO scans VALUES (1, REPEAT('a', 12000000))");
    let large = rehearsal.back_up(&engine, "large").unwrap();
    let told = large.account.findings.iter().map(ToString::to_string).collect::<String>();
    assert!(told.contains("SET GLOBAL max_allowed_packet = 33554432;"), "{told}");
    let error = rehearsal.bring_back(&engine, &large).unwrap_err().to_string();
    assert!(error.contains("max_allowed_packet is 16") && error.contains("33554432"), "{error}");
    sql(&service, "SET GLOBAL max_allowed_packet = 33554432");
    rehearsal.bring_back_all(&engine, &large);

    // What no dump holds is told.
    let times = "BIGINT UNSIGNED GENERATED ALWAYS AS ROW";
    let by =
        format!("a {times} START, b {times} END, PERIOD FOR SYSTEM_TIME (a, b)) ENGINE = InnoDB WITH SYSTEM VERSIONING");
    filled(&format!("CREATE TABLE by_transaction (n INT, {by}; INSERT INTO by_transaction (n) VALUES (1)"));
    let without = rehearsal.back_up(&engine, "without").unwrap().account;
    let told = without.findings.iter().map(ToString::to_string).collect::<String>();
    assert!(told.contains("history of by_transaction, dated is not in the backup"), "{told}");
    let plan = engine.survey(&without, &rehearsal.work("plan")).unwrap().destroys.join("; ");
    assert!(plan.contains("the history of table dated: not in the backup"), "{plan}");
    filled("DROP TABLE by_transaction");
}
