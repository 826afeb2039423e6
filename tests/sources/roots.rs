//! The way back of plain files: what a root is, where it goes, and what must not be lost on the way.

use std::fs;
use std::path::Path;

use crate::world::{Run, World, needs};
use crate::{job, restore_run, source};

/// A job `nightly` with one member of files.
fn files(world: &World, paths: &[&Path], more: &str) {
    let paths: Vec<String> = paths.iter().map(|path| format!("'{}'", path.display())).collect();
    job(world, &source("files", "files", &format!("paths = [{}]\n{more}", paths.join(", "))));
}

fn restore(world: &World, more: &[&str]) -> Run {
    let mut all = vec!["--yes-destroy", "nightly"];
    all.extend(more);
    world.run(restore_run(world, "latest", &all))
}

fn read(path: &Path) -> String {
    fs::read_to_string(path).unwrap_or_else(|e| panic!("{}: {e}", path.display()))
}

#[test]
fn a_root_within_another_is_refused_before_anything_is_touched() {
    let world = World::new();
    let srv = world.tree("srv");
    srv.file("db/rows", "of the night").file("page", "of the night");
    let refused = |run: Run| {
        run.exits(1).says("lies within").says("--in-place");
        assert_eq!((read(&srv.path("db/rows")), read(&srv.path("page"))), ("of today".into(), "of today".into()));
    };
    files(&world, &[&srv.root, &srv.path("db")], "");
    world.push("nightly");
    srv.file("db/rows", "of today").file("page", "of today");
    refused(restore(&world, &[]));
    refused(world.run(restore_run(&world, "latest", &["--dry-run"])));

    // By another name, and of another member.
    let (other, member) =
        (world.tree("other"), |name: &str, path: &Path| source(name, "files", &format!("paths = ['{}']", path.display())));
    other.file("rows", "of the night");
    job(&world, &(member("pages", &srv.root) + &member("rows", &other.path("rows"))));
    world.push("nightly");
    fs::remove_dir_all(&other.root).unwrap();
    std::os::unix::fs::symlink(srv.path("db"), &other.root).unwrap();
    refused(restore(&world, &[]));
    restore(&world, &["--member", "rows"]).ok();
    assert_eq!((read(&srv.path("db/rows")), read(&srv.path("page"))), ("of the night".into(), "of today".into()));
}

#[test]
fn what_was_backed_up_from_the_root_of_the_machine_is_not_said_to_be_restored() {
    needs!(root);
    let world = World::new();
    let tree = world.tree("data");
    tree.file("page", "of the night");
    let alone = format!("exclude = ['/*/*', '!{}']", world.dir.path().display());
    let refused = |paths: &[&Path]| {
        files(&world, paths, &alone);
        world.push("nightly");
        restore(&world, &[]).exits(1).says("was backed up from /").says("--into DIR").never_says("restored");
    };
    refused(&[Path::new("/")]);
    refused(&[Path::new("/"), &tree.root]);
}

#[test]
fn files_go_to_the_paths_of_the_target_that_was_named_and_nowhere_else() {
    let world = World::new();
    let (prod, conf, staging) = (world.tree("prod"), world.tree("conf"), world.tree("staging"));
    prod.file("page", "of the night").file("deep/page", "of the night");
    conf.file("settings", "of the night");
    let target = |paths: &[&Path]| {
        let paths: Vec<String> = paths.iter().map(|path| format!("'{}'", path.display())).collect();
        let target = format!("\n[job.nightly.target.staging.source.files]\npaths = [{}]\n", paths.join(", "));
        files(&world, &[&prod.root, &conf.path("settings")], &target);
    };
    target(&[&staging.path("prod"), &staging.path("settings of staging")]);
    world.push("nightly");
    prod.file("page", "of today");
    conf.file("settings", "of today");
    staging.file("prod/page", "of staging").file("prod/other", "of staging");
    let into = |more: &[&str]| world.run(restore_run(&world, "latest", &[&["--into-target", "staging"], more].concat()));
    let untouched = || {
        assert_eq!((read(&prod.path("page")), read(&conf.path("settings"))), ("of today".into(), "of today".into()));
        assert_eq!(fs::read_dir(&prod.root).unwrap().count(), 2);
    };
    let plan = into(&["--dry-run"]).ok();
    let plan = plan.says(&format!("{} (was {})", staging.path("prod").display(), prod.root.display()));
    plan.says(&format!("DESTROYS {}: 2 files", staging.path("prod").display()));
    into(&["--yes-destroy", "nightly"]).exits(2).says("is not the target");
    assert_eq!(read(&staging.path("prod/page")), "of staging");
    into(&["--yes-destroy", "staging"]).ok();
    untouched();
    assert_eq!(read(&staging.path("prod/page")), "of the night");
    assert_eq!(read(&staging.path("prod/deep/page")), "of the night");
    assert_eq!(read(&staging.path("settings of staging")), "of the night");
    assert!(!staging.path("prod/other").exists());

    // One path too few; and paths that are no other place.
    target(&[&staging.path("prod")]);
    into(&["--yes-destroy", "staging"]).exits(2).says("has 2 roots in this snapshot").says("has 1 paths for it");
    for place in [prod.root.clone(), prod.path("deep"), world.dir.path().to_owned()] {
        target(&[&staging.path("prod"), &place]);
        into(&["--yes-destroy", "staging"]).exits(2).says("name other paths for this target");
    }
    files(&world, &[&prod.root, &conf.path("settings")], "\n[job.nightly.target.staging.source.files]\nservice = 'web'\n");
    into(&["--yes-destroy", "staging"]).exits(2).says("name other paths for this target");
    untouched();
}
