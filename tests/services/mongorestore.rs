//! The vendor's mongorestore, through a stand-in whose documents this test writes into FerretDB.

use std::fs;
use std::io::Cursor;
use std::os::unix::fs::{PermissionsExt, symlink};
use std::path::Path;

use ::mongodb::bson::{Document, RawDocumentBuf, doc};
use ::mongodb::sync::Database;
use farkeep::source::engine::Fetched;
use farkeep::source::mongodb::MongoConfig;
use farkeep::source::mongodb::archive::{Item, Reader};
use farkeep::source::mongodb::vendor::{Vendor, WholeConfig};

use crate::mongod::{self, Play};
use crate::mongodb::{count, database, fill, uri};
use crate::rehearsal::Rehearsal;
use crate::service::{Service, needs_service};
use crate::world::background::until;
use crate::world::deployment::{archive, births, namespaces, oplog};
use crate::world::{Machine, Run, Running, World, args};

fn sample(name: &str) -> std::path::PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/samples/mongodump").join(name)
}

fn install(program: &Path, text: &str) {
    fs::write(program, text).unwrap();
    fs::set_permissions(program, fs::Permissions::from_mode(0o755)).unwrap();
}

/// A restore of `hearth-dev` into the database `copy` by the stand-in.
fn engine(rehearsal: &Rehearsal, service: &Service) -> MongoConfig {
    let program = rehearsal.path("mongorestore");
    install(&program, include_str!("stand-ins/mongorestore"));
    MongoConfig {
        name: "hearth".into(),
        uri: rehearsal.secret("uri", &uri(service)),
        hosts: None,
        database: "copy".into(),
        dumper: None,
        loader: Some(
            Vendor::new(program.display().to_string(), vec!["--numInsertionWorkersPerCollection=2".into()]).unwrap(),
        ),
    }
}

/// What the real tool would write: every document under the new name of its collection, except the last `left_out`.
fn write(database: &Database, archive: &[u8], left_out: usize) {
    let mut reader = Reader::open(Cursor::new(archive)).unwrap();
    let collections = reader.prelude().collections.clone();
    let new = |place: usize| format!("farkeep_new_{}", collections[place].name);
    let mut documents = Vec::new();
    while let Some(item) = reader.next_item().unwrap() {
        if let Item::Document(place, bytes) = item {
            documents.push((place, RawDocumentBuf::from_bytes(bytes.to_vec()).unwrap()));
        }
    }
    documents.truncate(documents.len() - left_out);
    for place in 0..collections.len() {
        database.create_collection(new(place)).run().unwrap();
        let own: Vec<&RawDocumentBuf> = documents.iter().filter(|(of, _)| *of == place).map(|(_, d)| d).collect();
        if !own.is_empty() {
            database.collection::<RawDocumentBuf>(&new(place)).insert_many(own).run().unwrap();
        }
    }
}

/// Restores; meanwhile writes what the stand-in was given, as the real tool would.
fn bring_back(
    rehearsal: &Rehearsal,
    engine: &MongoConfig,
    fetched: &Fetched,
    database: &Database,
    left_out: usize,
) -> Result<farkeep::source::engine::Account, farkeep::source::SourceError> {
    let path = |name: &str| rehearsal.path(name);
    let _ = fs::remove_file(path("loaded"));
    let _ = fs::remove_file(path("given"));
    std::thread::scope(|scope| {
        let restoring = scope.spawn(|| rehearsal.bring_back(engine, fetched));
        until("the stand-in has all it was given", || path("given").exists());
        write(database, &fs::read(path("stdin")).unwrap(), left_out);
        fs::write(path("loaded"), "").unwrap();
        restoring.join().unwrap()
    })
}

#[test]
fn what_mongorestore_loaded_under_new_names_takes_the_place_of_the_old() {
    needs_service!("ferretdb");
    let (service, rehearsal) = (Service::start("ferretdb"), Rehearsal::new());
    let (database, engine) = (database(&service, "copy"), engine(&rehearsal, &service));
    database.collection("later").insert_one(doc! { "_id": 1 }).run().unwrap();
    database.collection("Patient").insert_one(doc! { "_id": "old" }).run().unwrap();
    let archive = sample("hearth-dev.archive");
    let adopted = rehearsal.adopted("hearth", &archive);
    let now = bring_back(&rehearsal, &engine, &adopted, &database, 0).unwrap();
    assert_eq!(now.proof["documents of Patient"], "300");
    assert!(fs::read(rehearsal.path("stdin")).unwrap() == fs::read(&archive).unwrap());
    let mut names = database.list_collection_names().run().unwrap();
    names.sort();
    assert_eq!(names, ["Location", "Patient", "empty"]);

    let argv = fs::read_to_string(rehearsal.path("argv")).unwrap();
    let environment = fs::read_to_string(rehearsal.path("environment")).unwrap();
    assert!(!argv.contains("mongodb://") && !environment.contains("mongodb://"), "{argv}");
    let said: Vec<&str> = argv.lines().skip(2).collect();
    assert_eq!(
        said,
        [
            "--archive",
            "--drop",
            "--stopOnError",
            "--maintainInsertionOrder",
            "--noIndexRestore",
            "--nsInclude=hearth-dev.*",
            "--nsFrom=hearth-dev.$collection$",
            "--nsTo=copy.farkeep_new_$collection$",
            "--numInsertionWorkersPerCollection=2"
        ]
    );
    assert!(fs::read_to_string(rehearsal.path("config")).unwrap().starts_with("600\nuri: \"mongodb://127.0.0.1:"));
}

#[test]
fn indexes_come_when_what_mongorestore_loaded_was_counted() {
    needs_service!("ferretdb");
    let (service, rehearsal) = (Service::start("ferretdb"), Rehearsal::new());
    fill(&database(&service, "hearth-dev"));
    let engine = engine(&rehearsal, &service);
    let whole = MongoConfig { database: "hearth-dev".into(), loader: None, ..engine.clone() };
    let night = rehearsal.back_up(&whole, "night").unwrap();
    let copy = database(&service, "copy");
    bring_back(&rehearsal, &engine, &night, &copy, 0).unwrap();
    let indexes = copy.collection::<Document>("Patient").list_index_names().run().unwrap();
    assert!(indexes.iter().any(|name| name == "by_name"), "{indexes:?}");
}

#[test]
fn a_mongorestore_that_lost_a_document_and_ends_well_leaves_the_old_collections() {
    needs_service!("ferretdb");
    let (service, rehearsal) = (Service::start("ferretdb"), Rehearsal::new());
    let (database, engine) = (database(&service, "copy"), engine(&rehearsal, &service));
    database.collection("Patient").insert_one(doc! { "_id": "old" }).run().unwrap();
    let adopted = rehearsal.adopted("hearth", &sample("hearth-dev.archive"));
    let lost = bring_back(&rehearsal, &engine, &adopted, &database, 1).unwrap_err().to_string();
    assert!(lost.contains("what stood there still stands"), "{lost}");
    assert_eq!(count(&database, "Patient"), 1);
    assert_eq!(database.list_collection_names().run().unwrap(), ["Patient"]);

    // Nothing loaded at all, and a failure that says why, after what the first attempt left.
    fs::write(rehearsal.path("failing"), "").unwrap();
    let failed = rehearsal.bring_back(&engine, &adopted).unwrap_err().to_string();
    assert!(failed.contains("E11000"), "{failed}");
    assert_eq!(count(&database, "Patient"), 1);
    let left: Vec<Document> =
        database.collection("farkeep_new_Patient").find(doc! {}).run().unwrap().map(Result::unwrap).collect();
    assert!(left.is_empty(), "what an attempt left is taken away before the next");
}

#[test]
fn an_archive_of_mongodump_comes_back_through_the_vault_without_mongorestore() {
    needs_service!("ferretdb");
    let (service, world) = (Service::start("ferretdb"), World::new());
    let path = |name: &str| world.path(name);
    install(&path("mongodump"), include_str!("../sources/stand-ins/mongodump"));
    symlink(sample(""), path("samples")).unwrap();
    fs::write(path("mode"), "whole").unwrap();
    fs::write(path("uri"), uri(&service)).unwrap();
    fs::set_permissions(path("uri"), fs::Permissions::from_mode(0o600)).unwrap();
    world.agent.configure(&format!(
        "[job.nightly]\n[[job.nightly.source]]\nname = 'hearth'\nkind = 'mongodb'\nuri_file = '{}'\ntool = '{}'\n\
         database = 'hearth-dev'\ntimeout = '10m'\n",
        path("uri").display(),
        path("mongodump").display(),
    ));
    assert_eq!(world.push("nightly")["state"], "good");

    let database = database(&service, "hearth-dev");
    database.collection("Patient").insert_one(doc! { "_id": "damaged" }).run().unwrap();
    database.collection("later").insert_one(doc! { "_id": 1 }).run().unwrap();
    let run = args!["restore", "latest", "--run", "--yes-destroy", "nightly", "--identity", &world.identity, "--json"];
    let receipt = world.run(run).ok().json();
    let member = &receipt["members"][0];
    assert_eq!(member["outcome"], "restored", "{receipt}");
    assert_eq!(member["proof"]["documents of Patient"], "300", "{receipt}");
    assert_eq!((count(&database, "Patient"), count(&database, "Location"), count(&database, "later")), (300, 50, 0));
}

/// A machine that takes a whole deployment, and both programs.
fn deployment(service: &Service) -> World {
    let world = World::new();
    let path = |name: &str| world.path(name);
    install(&path("mongodump"), include_str!("../sources/stand-ins/mongodump"));
    install(&path("mongorestore"), include_str!("stand-ins/mongorestore"));
    fs::write(path("mode"), "whole").unwrap();
    fs::write(path("uri"), uri(service)).unwrap();
    fs::set_permissions(path("uri"), fs::Permissions::from_mode(0o600)).unwrap();
    let held: Vec<_> = namespaces().into_iter().chain([oplog()]).collect();
    fs::write(path("deployment-oplog.archive"), archive(&held)).unwrap();
    world.agent.configure(&format!(
        "[job.nightly]\n[[job.nightly.source]]\nname = 'all'\nkind = 'mongodb'\nuri_file = '{}'\ntimeout = '10m'\n\
         tool = '{}'\ntool_args = ['--oplog']\nrestore_tool = '{}'\n",
        path("uri").display(),
        path("mongodump").display(),
        path("mongorestore").display(),
    ));
    assert_eq!(world.push("nightly")["state"], "good");
    world
}

fn replace_all(world: &World) -> Vec<std::ffi::OsString> {
    args!["restore", "latest", "--run", "--yes-destroy", "nightly", "--identity", &world.identity, "--json"]
}

/// Restores; meanwhile writes what the real program would, all but the last `left_out` deaths.
fn restore_whole(world: &World, machine: &Machine, service: &Service, left_out: usize) -> Run {
    for name in ["loaded", "given"] {
        let _ = fs::remove_file(world.path(name));
    }
    let running = Running::start(machine, replace_all(world));
    until("the stand-in has all it was given", || world.path("given").exists());
    for namespace in namespaces().into_iter().filter(|namespace| namespace.database != "admin") {
        let mut documents = if namespace.name == "births" { births() } else { namespace.documents };
        if namespace.name == "deaths" {
            documents.truncate(documents.len() - left_out);
        }
        let collection = database(service, namespace.database).collection::<RawDocumentBuf>(namespace.name);
        collection.drop().run().unwrap();
        collection.insert_many(documents).run().unwrap();
    }
    fs::write(world.path("loaded"), "").unwrap();
    running.wait()
}

#[test]
fn a_whole_deployment_is_brought_back_in_place_and_its_oplog_replayed() {
    needs_service!("ferretdb");
    let service = Service::start("ferretdb");
    let world = deployment(&service);
    let later = |of: &str, name: &str| database(&service, of).collection(name).insert_one(doc! { "_id": 1 }).run().unwrap();
    later("crvs", "births");
    later("crvs", "later");
    later("stray", "anything");
    let plan = args!["restore", "latest", "--run", "--dry-run", "--identity", &world.identity];
    let plan = world.run(plan).ok().says("all databases").says("database crvs: 2 collections, 2 documents");
    plan.says("database stray").says("3 entries of the oplog are replayed").says("fills it in place");

    // It gives up in the middle: said so, and the same command does it again.
    fs::write(world.path("failing"), "").unwrap();
    world.run(replace_all(&world)).exits(1).says("E11000").says("holds a part of the backup now");
    let listed = |of: &str| database(&service, of).list_collection_names().run().unwrap();
    let is_half = |of: &str| listed(of).iter().any(|name| name == "farkeep_new_.unfinished");
    assert!(is_half("crvs") && is_half("users"), "no push takes it for a whole one");
    fs::remove_file(world.path("failing")).unwrap();
    let receipt = restore_whole(&world, &world.agent, &service, 0).ok().json();
    let member = &receipt["members"][0];
    assert_eq!(member["outcome"], "restored", "{receipt}");
    assert_eq!(member["proof"]["documents of crvs.deaths"], "20", "{receipt}");
    assert!(member["proof"]["documents of crvs.births"].is_null(), "the oplog has changed it: {receipt}");
    let count = |of: &str, name: &str| count(&database(&service, of), name);
    assert_eq!((count("crvs", "births"), count("crvs", "deaths"), count("users", "people")), (300, 20, 5));
    assert_eq!((count("crvs", "later"), count("stray", "anything")), (0, 0), "what came later is gone");
    assert!(!is_half("crvs") && !is_half("users"));
    let argv = fs::read_to_string(world.path("argv")).unwrap();
    let said: Vec<&str> = argv.lines().skip(2).collect();
    let asked = "--archive --drop --stopOnError --maintainInsertionOrder --bypassDocumentValidation --oplogReplay";
    assert_eq!(said, asked.split(' ').collect::<Vec<_>>());
    assert!(!argv.contains("mongodb://"), "{argv}");

    // A document is lost and the program ends well.
    let lost = restore_whole(&world, &world.agent, &service, 1).exits(4);
    lost.says("documents of crvs.deaths: 20 was backed up and 19 is there");
}

#[test]
fn an_account_that_sees_some_databases_backs_up_no_whole_deployment() {
    needs_service!("ferretdb");
    let (service, rehearsal) = (Service::start("ferretdb"), Rehearsal::new());
    database(&service, "crvs").collection("births").insert_one(doc! { "_id": 1 }).run().unwrap();
    let program = rehearsal.path("mongodump");
    install(
        &program,
        "#!/bin/sh\n[ \"$1\" != --version ] || echo mongodump version: 100.12.2\ncat \"$(dirname \"$0\")/archive\"\n",
    );
    fs::copy(sample("hearth-dev.archive"), rehearsal.path("archive")).unwrap();
    let engine = |uri: String, args: &[&str]| WholeConfig {
        name: "deployment".into(),
        uri: rehearsal.secret("uri", &uri),
        hosts: None,
        dumper: Vendor::new(program.display().to_string(), args.iter().map(|arg| (*arg).to_owned()).collect()).unwrap(),
        oplog: false,
        loader: None,
    };
    let login = |port: u16| format!("mongodb://backup:s3cret@127.0.0.1:{port}/?authMechanism=PLAIN");
    let restricted = mongod::start(service.port, Play::Restricted).0;
    let error = rehearsal.back_up(&engine(login(restricted), &[]), "part").unwrap_err().to_string();
    assert!(error.contains("may not list all databases"), "{error}");
    let night = rehearsal.back_up(&engine(uri(&service), &[]), "whole").unwrap();
    assert!(night.account.findings.is_empty(), "{night:?}");
    // Nobody can say: whoever has logged in there has no rights that it tells of, nothing answers, or the program alone logs in.
    let away = "mongodb://backup:s3cret@127.0.0.1:1/?serverSelectionTimeoutMS=300".to_owned();
    let certificate: &[&str] = &["--authenticationMechanism=MONGODB-X509"];
    let unsure = [(login(service.port), &[][..]), (away, &[]), (uri(&service), certificate)];
    for (uri, args) in unsure {
        let night = rehearsal.back_up(&engine(uri, args), "unasked").unwrap();
        assert!(night.account.findings[0].message.contains("could not be asked"), "{night:?}");
    }
}
