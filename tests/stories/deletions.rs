//! `restore --delete` removes what the snapshot does not hold, and never what the push did not look at.

use std::fs;

use crate::world::{Run, Tree, World, args, needs};

/// `farkeep restore latest --in-place --delete` with these further arguments.
fn restore(world: &World, more: &[std::ffi::OsString]) -> Run {
    let mut all = args!["restore", "latest", "--identity", &world.identity, "--in-place", "--delete"];
    all.extend_from_slice(more);
    world.run(all)
}

fn assert_there(tree: &Tree, names: &[&str]) {
    for name in names {
        assert!(tree.path(name).symlink_metadata().is_ok(), "{name} was removed");
    }
}

#[test]
fn what_a_push_left_out_stays_and_is_told() {
    let world = World::new();
    let tree = world.tree("data");
    tree.file("some/kept", "x").file("some/session.tmp", "x").file("clean/kept", "x").noise("large/blob", 200_000, 1);
    tree.file("cache/CACHEDIR.TAG", "Signature: 8a477f597d28d172789f06886806bc55").file("cache/deep/blob", "x");
    tree.file("marked/.nobackup", "")
        .file("marked/data", "x")
        .file("above/build/out", "x")
        .dir("with")
        .socket("with/socket");
    world.agent.configure(&format!(
        "[[job.some.source]]\nname = \"files\"\nkind = \"files\"\npaths = [\"{}\"]\nexclude = [\"*.tmp\", \"build/\"]\n\
         exclude_caches = true\nexclude_if_present = [\".nobackup\"]\nmax_file_size = \"100 KiB\"\n",
        tree.root.display()
    ));
    let left_out = ["some/session.tmp", "large/blob", "cache/deep/blob", "marked/data", "above/build/out", "with/socket"];
    // The second push finds everything as the first one left it.
    for _ in 0..2 {
        world.run(args!["push", "some"]).ok();
        tree.remove("some/kept").file("clean/added", "x").file("clean/deep/added", "x");
        let planned = restore(&world, &args!["--dry-run", "--json"]).ok().json();
        let deletions: Vec<&str> = planned["plan"]["actions"]
            .as_array()
            .unwrap()
            .iter()
            .filter(|action| action["action"] == "delete")
            .map(|action| action["path"].as_str().unwrap().rsplit("/data/").next().unwrap())
            .collect();
        assert_eq!(deletions.len(), 2, "{deletions:?}");
        assert!(deletions.iter().all(|path| path.starts_with("clean/")), "{deletions:?}");
        let mut run = restore(&world, &[]).ok();
        assert_there(&tree, &left_out);
        assert_there(&tree, &["some/kept", "clean/kept"]);
        assert_eq!(fs::read_dir(tree.path("clean")).unwrap().count(), 1);
        for name in ["some", "large", "cache", "marked", "above"] {
            let path = tree.path(name).to_str().unwrap()[1..].to_owned();
            run = run.says(&format!("{path}: the backup left something out here"));
        }
    }
}

#[test]
fn a_directory_that_could_not_be_read_is_not_cleared() {
    needs!("setpriv");
    let world = World::new();
    let tree = world.tree("data");
    tree.file("open/kept", "x").file("closed/file", "x").file("closed/deep/file", "x").mode("closed", 0o000);
    let mut push = world.agent.command_without_power(args!["push", &tree.root]);
    Run::of(&mut push).exits(3).says("cannot be read");
    tree.mode("closed", 0o700).file("open/added", "x");
    let run = restore(&world, &[]).exits(3);
    run.says("closed: it could not be read when it was backed up");
    tree.mode("closed", 0o700);
    assert_there(&tree, &["closed/file", "closed/deep/file", "open/kept"]);
    assert!(!tree.path("open/added").exists());
}
