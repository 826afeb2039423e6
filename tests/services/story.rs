//! A registry's night and its emergency, through the vault: dumps of several systems in one job, everything wiped, one
//! command that brings all of it back.

use std::fs;
use std::os::unix::fs::PermissionsExt;

use ureq::http::Method;

use crate::service::{Service, needs_service};
use crate::world::{World, args, files_below};
use crate::{influxdb, mongodb, search};

pub fn secret(world: &World, name: &str, text: &str) -> std::path::PathBuf {
    let path = world.path(name);
    fs::write(&path, text).unwrap();
    fs::set_permissions(&path, fs::Permissions::from_mode(0o600)).unwrap();
    path
}

#[test]
fn a_registry_of_three_systems_is_wiped_and_comes_back_by_one_command() {
    needs_service!("ferretdb", "influxdb", "elasticsearch");
    let (mongo, influx, elastic) = (Service::start("ferretdb"), Service::start("influxdb"), Service::start("elasticsearch"));
    let world = World::new();
    let uri = secret(&world, "mongo-uri", &mongodb::uri(&mongo));
    let repository = elastic.data("repo");
    world.agent.configure(&format!(
        r#"
[job.nightly]

[[job.nightly.source]]
name      = "hearth-dev"
kind      = "mongodb"
uri_file  = "{}"
database  = "hearth-dev"
min_bytes = "100 KiB"

[[job.nightly.source]]
name     = "search"
kind     = "elasticsearch"
url      = "http://127.0.0.1:{}"
location = "{}"
indices  = ["ocrvs-*"]

[[job.nightly.source]]
name           = "metrics"
kind           = "influxdb"
url            = "http://127.0.0.1:{}"
backup_address = "127.0.0.1:{}"
database       = "ocrvs"
"#,
        uri.display(),
        elastic.port,
        repository.display(),
        influx.port,
        influx.port + 1,
    ));
    let database = mongodb::database(&mongo, "hearth-dev");
    mongodb::fill(&database);
    search::index(&elastic, "ocrvs-births", 0, 400);
    influxdb::fill(&influx, "ocrvs", 300);
    let receipt = world.push("nightly");
    assert_eq!(receipt["state"], "good", "{receipt}");

    database.drop().run().unwrap();
    search::call(&elastic, Method::DELETE, "/ocrvs-births", "");
    fs::remove_dir_all(&repository).unwrap();
    fs::create_dir(&repository).unwrap();
    influxdb::query(&influx, "DROP DATABASE ocrvs");

    let mut run = args!["restore", "latest", "--run", "--yes-destroy", "nightly", "--identity", &world.identity, "--json"];
    run.extend(args!["--safety-copy", world.path("before")]);
    let receipt = world.run(run).ok().json();
    assert_eq!(mongodb::count(&database, "Patient"), 2500);
    assert_eq!(search::count(&elastic, "ocrvs-births"), 400);
    assert_eq!(influxdb::births(&influx, "ocrvs"), 300);
    for member in receipt["members"].as_array().unwrap() {
        assert_eq!(member["outcome"], "restored", "{receipt}");
        assert!(!member["proof"].as_object().unwrap().is_empty(), "{receipt}");
    }

    // A system that is down: no snapshot, and the one of the night before stays the newest.
    influx.stop();
    let snapshots = world.snapshots().len();
    world.run(args!["push", "nightly"]).exits(1).says("metrics");
    assert_eq!(world.snapshots().len(), snapshots);
}

#[test]
fn an_archive_that_a_script_left_is_pushed_as_it_is_and_restored_into_the_database() {
    needs_service!("ferretdb");
    let (mongo, world) = (Service::start("ferretdb"), World::new());
    let spool = world.tree("spool");
    let sample = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/samples/mongodump/hearth-dev.archive.gz");
    fs::copy(&sample, spool.root.join("hearth-dev-monday.gz")).unwrap();
    let source = |lines: &str| format!("[[job.nightly.source]]\nname = \"hearth-dev\"\n{lines}\n");
    let glob = spool.root.join("*.gz");
    let adopting = source(&format!("kind = \"spool\"\nglob = \"{}\"\nquiet = \"1s\"", glob.display()));
    world.agent.configure(&adopting);
    world.push("nightly");
    let uri = secret(&world, "mongo-uri", &mongodb::uri(&mongo));
    let restoring = source(&format!("kind = \"mongodb\"\nuri_file = \"{}\"\ndatabase = \"hearth-copy\"", uri.display()));
    world.agent.reconfigure(|text| text.replace(&adopting, &restoring));
    let run = args!["restore", "latest", "--run", "--yes-destroy", "nightly", "--identity", &world.identity];
    world.run(run.clone()).ok();
    assert_eq!(mongodb::count(&mongodb::database(&mongo, "hearth-copy"), "Patient"), 300);

    // Backed up as a program gave it, and no whole archive: what was fetched is of no use to any restore.
    let cut = source(&format!("kind = \"command\"\ncommand = [\"head\", \"-c\", \"3000\", \"{}\"]", sample.display()));
    world.agent.reconfigure(|text| text.replace(&restoring, &cut));
    world.push("nightly");
    world.agent.reconfigure(|text| text.replace(&cut, &restoring));
    world.run(run).exits(1).says("nothing can be made of what was fetched: it is removed");
    let left = files_below(&world.agent.state.join("scratch"));
    assert!(!left.iter().any(|path| path.to_string_lossy().contains("/parts/")), "{left:?}");
}
