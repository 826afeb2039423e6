//! MongoDB's protocol, spoken by FerretDB (a stand-in: no replica set, no oplog), and archives that the real mongodump made.

use std::fs;
use std::path::Path;
use std::time::Instant;

use ::mongodb::bson::{Binary, Bson, DateTime, Document, doc, oid::ObjectId, spec::BinarySubtype};
use ::mongodb::sync::{Client, Database};
use farkeep::source::engine::Engine;
use farkeep::source::mongodb::MongoConfig;

use crate::rehearsal::Rehearsal;
use crate::service::{Service, needs_service};

pub fn uri(service: &Service) -> String {
    format!("mongodb://127.0.0.1:{}/", service.port)
}

fn engine(rehearsal: &Rehearsal, uri: &str, database: &str) -> MongoConfig {
    MongoConfig {
        name: database.into(),
        uri: rehearsal.secret("uri", uri),
        hosts: None,
        database: database.into(),
        dumper: None,
        loader: None,
    }
}

pub fn database(service: &Service, name: &str) -> Database {
    Client::with_uri_str(uri(service)).unwrap().database(name)
}

/// A registry in small: ids of several kinds, all the types that a dump must keep, an index, an empty collection.
pub fn fill(database: &Database) {
    let patient = |n: i32| {
        doc! {
            "_id": ObjectId::from_bytes(std::array::from_fn(|at| if at == 11 { n as u8 } else { (n >> 8) as u8 })),
            "name": format!("Änn {n}"), "weight": f64::from(n) / 7.0, "seen": i64::from(n) << 33, "born": DateTime::from_millis(i64::from(n) * 86_400_000),
            "photo": Binary { subtype: BinarySubtype::Generic, bytes: vec![n as u8; 20] }, "spouse": Bson::Null, "alive": n % 2 == 0,
            "address": { "lines": ["a", "b"], "district": { "code": n } },
        }
    };
    let patients: Vec<Document> = (0..2500).map(patient).collect();
    database.collection("Patient").insert_many(patients).run().unwrap();
    let places: Vec<Document> = (0..50).rev().map(|n| doc! { "_id": format!("loc-{n:03}"), "n": n }).collect();
    database.collection("Location").insert_many(places).run().unwrap();
    database.create_collection("empty").run().unwrap();
    database
        .run_command(
            doc! { "createIndexes": "Patient", "indexes": [{ "key": { "name": 1, "born": -1 }, "name": "by_name" }] },
        )
        .run()
        .unwrap();
}

pub fn count(database: &Database, collection: &str) -> u64 {
    database.collection::<Document>(collection).count_documents(doc! {}).run().unwrap()
}

fn sample(name: &str) -> std::path::PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/samples/mongodump").join(name)
}

#[test]
fn a_database_comes_back_as_it_was_and_what_came_later_is_gone() {
    needs_service!("ferretdb");
    let (service, rehearsal) = (Service::start("ferretdb"), Rehearsal::new());
    let (database, engine) = (database(&service, "hearth-dev"), engine(&rehearsal, &uri(&service), "hearth-dev"));
    fill(&database);
    let monday = rehearsal.back_up(&engine, "monday").unwrap();
    let tuesday = rehearsal.back_up(&engine, "tuesday").unwrap();
    let bytes = |fetched: &farkeep::source::engine::Fetched| fs::read(fetched.part("archive").unwrap()).unwrap();
    assert!(bytes(&monday) == bytes(&tuesday), "two nights of the same data are the same bytes");
    assert_eq!(monday.account.proof["documents of Patient"], "2500");

    database.collection::<Document>("Patient").drop().run().unwrap();
    database.collection::<Document>("Location").delete_many(doc! { "n": { "$lt": 20 } }).run().unwrap();
    database.collection("later").insert_one(doc! { "_id": 1 }).run().unwrap();
    let survey = engine.survey(&monday.account, &rehearsal.work("survey")).unwrap();
    assert!(survey.destroys.iter().any(|line| line == "collection Location: 30 documents"), "{survey:?}");

    rehearsal.bring_back_all(&engine, &monday);
    assert_eq!((count(&database, "Patient"), count(&database, "Location")), (2500, 50));
    let mut names = database.list_collection_names().run().unwrap();
    names.sort();
    assert_eq!(names, ["Location", "Patient", "empty"]);
    let indexes = database.collection::<Document>("Patient").list_index_names().run().unwrap();
    assert!(indexes.iter().any(|name| name == "by_name"), "{indexes:?}");
    // Once more, over what is whole already, as after a restore that broke off.
    rehearsal.bring_back_all(&engine, &monday);
    assert!(bytes(&rehearsal.back_up(&engine, "after").unwrap()).len() >= bytes(&monday).len() - 200);
}

#[test]
fn a_database_that_is_misspelt_or_empty_is_no_backup() {
    needs_service!("ferretdb");
    let (service, rehearsal) = (Service::start("ferretdb"), Rehearsal::new());
    database(&service, "events").create_collection("nothing").run().unwrap();
    let misspelt = rehearsal.back_up(&engine(&rehearsal, &uri(&service), "event"), "night").unwrap_err().to_string();
    assert!(misspelt.contains("not there") && misspelt.contains("events"), "{misspelt}");
    let empty = rehearsal.back_up(&engine(&rehearsal, &uri(&service), "events"), "night").unwrap_err().to_string();
    assert!(empty.contains("no document at all"), "{empty}");
}

#[test]
fn archives_of_the_real_mongodump_are_loaded_plain_and_gzipped() {
    needs_service!("ferretdb");
    let (service, rehearsal) = (Service::start("ferretdb"), Rehearsal::new());
    for name in ["hearth-dev.archive", "hearth-dev.archive.gz"] {
        let (database, engine) = (database(&service, "copy"), engine(&rehearsal, &uri(&service), "copy"));
        let adopted = rehearsal.adopted("hearth-dev", &sample(name));
        let now = rehearsal.bring_back(&engine, &adopted).unwrap();
        assert_eq!((count(&database, "Patient"), count(&database, "Location"), count(&database, "empty")), (300, 50, 0));
        let (_, tallies) =
            farkeep::source::mongodb::tally::of_archive(fs::File::open(sample("hearth-dev.archive")).unwrap()).unwrap();
        assert_eq!(now.proof["hash of Patient"], tallies["Patient"].hash());
        database.drop().run().unwrap();
    }
}

#[test]
fn a_damaged_archive_touches_nothing() {
    needs_service!("ferretdb");
    let (service, rehearsal) = (Service::start("ferretdb"), Rehearsal::new());
    let (database, engine) = (database(&service, "user-mgnt"), engine(&rehearsal, &uri(&service), "user-mgnt"));
    database.collection("User").insert_one(doc! { "_id": 1 }).run().unwrap();
    let whole = fs::read(sample("user-mgnt.archive")).unwrap();
    let mut flipped = whole.clone();
    flipped[20_000] ^= 1;
    let missing = fs::read(sample("missing-database.archive")).unwrap();
    let gzipped = fs::read(sample("hearth-dev.archive.gz")).unwrap();
    let cases: [(&str, &[u8]); 6] = [
        ("cut by one byte", &whole[..whole.len() - 1]),
        ("cut in half", &whole[..whole.len() / 2]),
        ("flipped", &flipped),
        ("of a misspelt database", &missing),
        ("empty", b""),
        ("gzip cut short", &gzipped[..gzipped.len() - 9]),
    ];
    for (what, bytes) in cases {
        let path = rehearsal.path("bad");
        fs::write(&path, bytes).unwrap();
        let outcome = rehearsal.bring_back(&engine, &rehearsal.adopted("user-mgnt", &path));
        assert!(outcome.is_err(), "{what}");
        assert_eq!(database.list_collection_names().run().unwrap(), ["User"], "{what}");
    }
}

#[test]
fn a_server_that_is_not_there_or_says_nothing_costs_seconds_not_the_night() {
    let rehearsal = Rehearsal::new();
    let silent = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let free = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
    for port in [silent.local_addr().unwrap().port(), free] {
        let uri = format!("mongodb://reader:s3cret-word@127.0.0.1:{port}/?serverSelectionTimeoutMS=300");
        let begun = Instant::now();
        let error = engine(&rehearsal, &uri, "events").open(&rehearsal.work("open")).err().unwrap().to_string();
        assert!(error.contains("127.0.0.1") && !error.contains("s3cret"), "{error}");
        assert!(begun.elapsed().as_secs() < 60, "it must not wait for ever");
    }
}

#[test]
fn a_refused_login_keeps_the_password_to_itself() {
    needs_service!("ferretdb");
    let (service, rehearsal) = (Service::start("ferretdb"), Rehearsal::new());
    let uri = format!("mongodb://reader:s3cret-word@127.0.0.1:{}/?authMechanism=SCRAM-SHA-256", service.port);
    let error = engine(&rehearsal, &uri, "events").open(&rehearsal.work("open")).err().unwrap().to_string();
    assert!(!error.contains("s3cret") && !error.contains("reader:"), "{error}");
}

#[test]
fn a_server_that_dies_in_the_middle_gives_no_backup() {
    needs_service!("ferretdb");
    let (service, rehearsal) = (Service::start("ferretdb"), Rehearsal::new());
    let (database, engine) = (database(&service, "events"), engine(&rehearsal, &uri(&service), "events"));
    let big: Vec<Document> = (0..3000).map(|n| doc! { "_id": n, "text": "x".repeat(8000) }).collect();
    database.collection("log").insert_many(big).run().unwrap();
    let work = rehearsal.work("dying");
    let mut backup = engine.open(&work).unwrap();
    let part = backup.next(&work).unwrap().unwrap();
    let mut read = (part.open)(&work).unwrap();
    let mut buffer = vec![0; 1000];
    assert!(read.read(&mut buffer).unwrap() > 0);
    service.stop();
    let error = loop {
        match read.read(&mut buffer) {
            Ok(0) => panic!("half a database was taken for a whole one"),
            Ok(_) => {}
            Err(error) => break error,
        }
    };
    assert!(error.to_string().contains("MongoDB"), "{error}");
    assert!(backup.finish(&work).is_err());
}
