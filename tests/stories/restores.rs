//! Getting data back: whole and in part, beside and in place of what is there, and looking without restoring.

use std::fs;
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::path::Path;

use crate::world::{Tree, World, args, assert_same, files_below, needs};

/// A world with one snapshot of `everything` and some ordinary files.
fn pushed() -> (World, Tree) {
    let world = World::new();
    let tree = world.tree("data");
    tree.everything().ordinary(60, 1);
    let pushed = world.run(args!["push", &tree.root, "--json"]).ok().json();
    assert_eq!(pushed["jobs"][0]["findings"], serde_json::json!([]));
    (world, tree)
}

/// `farkeep restore latest` with the operator's identity and these further arguments.
fn restore(world: &World, more: &[std::ffi::OsString]) -> crate::world::Run {
    let mut all = args!["restore", "latest", "--identity", &world.identity, "--json"];
    all.extend_from_slice(more);
    world.run(all)
}

fn names(dir: &Path) -> Vec<String> {
    let mut names: Vec<String> =
        files_below(dir).iter().map(|path| path.strip_prefix(dir).unwrap().to_string_lossy().into_owned()).collect();
    names.sort();
    names
}

#[test]
fn everything_that_a_file_system_holds_comes_back() {
    needs!("rsync", "setfacl", "setcap");
    let (world, tree) = pushed();
    let back = world.path("back");
    restore(&world, &args!["--into", &back, "--special"]).ok();
    assert_same(&tree.root, &tree.below(&back));
    // A second time there is nothing to do.
    let again = restore(&world, &args!["--into", &back, "--special"]).ok().json();
    assert_eq!((&again["files_written"], &again["bytes_written"]), (&0.into(), &0.into()));
    assert_same(&tree.root, &tree.below(&back));
    // Without the prefix it lies at the top.
    let stripped = world.path("stripped");
    restore(&world, &args!["--into", &stripped, "--special", "--strip", &tree.root]).ok();
    for name in ["names", "sizes", "sparse", "links", "times", "attributes"] {
        assert_same(&tree.path(name), &stripped.join(name));
    }
}

#[test]
fn special_bits_and_devices_come_only_when_they_are_asked_for() {
    needs!(root);
    needs!("setcap");
    let world = World::new();
    let tree = world.tree("data");
    tree.devices().file("plain", "x");
    world.push(&tree.root);
    let (plain, special) = (world.path("plain"), world.path("special"));
    let found = restore(&world, &args!["--into", &plain]).exits(3).json();
    let text = found["findings"].to_string();
    for name in ["devices/null", "special/setuid", "special/setgid", "special/capable"] {
        assert!(text.contains(name), "{name} is not told of: {text}");
    }
    let mode = |dir: &Path, name: &str| fs::symlink_metadata(tree.below(dir).join(name)).map(|meta| meta.mode());
    assert!(mode(&plain, "devices/null").is_err());
    assert_eq!(mode(&plain, "special/setuid").unwrap() & 0o7777, 0o755);
    restore(&world, &args!["--into", &special, "--special"]).ok();
    assert_eq!(mode(&special, "special/setuid").unwrap() & 0o7777, 0o4755);
    assert!(mode(&special, "devices/null").is_ok());
}

#[test]
fn paths_and_patterns_select() {
    let world = World::new();
    let tree = world.tree("data");
    tree.file("a/one.txt", "1").file("a/two.conf", "2").file("b/three.conf", "3").file("b/deep/four.txt", "4");
    tree.file("links/first", "5").hard_link("links/first", "links/second");
    world.push(&tree.root);
    let cases: [(Vec<std::ffi::OsString>, &[&str]); 5] = [
        (args![tree.path("a")], &["a/one.txt", "a/two.conf"]),
        (args!["*.conf"], &["a/two.conf", "b/three.conf"]),
        (args![tree.path("a/one.txt"), tree.path("b/deep")], &["a/one.txt", "b/deep/four.txt"]),
        (args!["deep*"], &["b/deep/four.txt"]),
        // A further name brings the content along when the first one is not wanted.
        (args![tree.path("links/second")], &["links/second"]),
    ];
    for (number, (selection, expected)) in cases.iter().enumerate() {
        let back = world.path(&format!("back{number}"));
        restore(&world, &[args!["--into", &back], selection.clone()].concat()).ok();
        assert_eq!(names(&tree.below(&back)), *expected);
        for name in *expected {
            assert_eq!(fs::read(tree.below(&back).join(name)).unwrap(), fs::read(tree.path(name)).unwrap());
        }
    }
    restore(&world, &args!["--into", world.path("none"), tree.path("nowhere")])
        .exits(1)
        .says("nothing in this snapshot matches");
    restore(&world, &args!["--into", world.path("none"), "../climbs"]).exits(2);
}

#[test]
fn what_is_in_the_way_is_refused_before_the_first_write_left_or_replaced() {
    needs!("rsync");
    let world = World::new();
    let tree = world.tree("data");
    tree.file("equal", "same").file("other", "from the snapshot").file("new", "new").link("link", "target");
    world.push(&tree.root);
    let target = |name: &str| {
        let back = Tree::new(world.path(name));
        let place = Tree::new(tree.below(&back.root));
        place.file("equal", "same").file("other", "from before").link("link", "elsewhere").file("beside", "not ours");
        (back.root, place)
    };
    let (back, place) = target("refused");
    restore(&world, &args!["--into", &back]).exits(1).says("other").says("--on-conflict").says("nothing was written");
    assert_eq!(names(&place.root), ["beside", "equal", "link", "other"]);
    assert_eq!(fs::read(place.path("other")).unwrap(), b"from before");

    let (back, place) = target("skipped");
    let receipt = restore(&world, &args!["--into", &back, "--on-conflict", "skip"]).ok().json();
    assert_eq!(receipt["skipped"], 2);
    assert_eq!(fs::read(place.path("other")).unwrap(), b"from before");
    assert_eq!(fs::read(place.path("new")).unwrap(), b"new");

    let (back, place) = target("replaced");
    let kept = fs::metadata(place.path("equal")).unwrap().ino();
    restore(&world, &args!["--into", &back, "--on-conflict", "replace"]).ok();
    assert_eq!(fs::read(place.path("other")).unwrap(), b"from the snapshot");
    assert_eq!(fs::read(place.path("beside")).unwrap(), b"not ours");
    assert_eq!(fs::metadata(place.path("equal")).unwrap().ino(), kept, "what was right already was written again");
    place.remove("beside");
    tree.time(".", 1_000_000_000, 0);
    place.time(".", 1_000_000_000, 0);
    assert_same(&tree.root, &place.root);

    // A directory where a file belongs is not replaced.
    let (back, place) = target("blocked");
    place.remove("other").file("other/inside", "x");
    restore(&world, &args!["--into", &back, "--on-conflict", "replace"]).exits(3).says("other");
    assert_eq!(fs::read(place.path("other/inside")).unwrap(), b"x");
}

#[test]
fn in_place_brings_back_what_was_changed_and_removes_what_was_not_there() {
    needs!("rsync");
    let world = World::new();
    let tree = world.tree("data");
    tree.everything().ordinary(30, 1);
    world.push(&tree.root);
    let before = world.path("before");
    crate::world::tools::must(std::process::Command::new("cp").arg("-a").arg(&tree.root).arg(&before));
    tree.remove("dir000/file00003.txt").file("dir000/file00004.txt", "changed").file("dir000/added", "x");
    tree.file("added directory/deep/file", "x").mode("dir000", 0o700).remove("links/first").remove("attributes");

    let in_place = args!["--in-place", "--delete", "--special"];
    let whole = [in_place.clone(), args!["--dry-run"]].concat();
    let planned = restore(&world, &whole).ok().json();
    let actions: Vec<(String, String)> = planned["plan"]["actions"]
        .as_array()
        .unwrap()
        .iter()
        .map(|action| (action["action"].as_str().unwrap().to_owned(), action["path"].as_str().unwrap().to_owned()))
        .collect();
    let has = |action: &str, name: &str| actions.iter().any(|(a, path)| a == action && path.ends_with(name));
    assert!(has("write", "dir000/file00003.txt") && has("replace", "dir000/file00004.txt"), "{actions:?}");
    assert!(has("delete", "dir000/added") && has("delete", "added directory"), "{actions:?}");
    assert!(tree.path("dir000/added").exists() && !tree.path("dir000/file00003.txt").exists(), "a plan has acted");

    let done = restore(&world, &in_place).ok().json();
    assert!(done["deleted"].as_u64().unwrap() >= 2, "{done}");
    assert_same(&before, &tree.root);
}

#[test]
fn snapshots_are_looked_at_without_restoring() {
    let world = World::new();
    let tree = world.tree("data");
    tree.file("dir/kept", "kept")
        .file("dir/changed", "before")
        .file("gone.conf", "x")
        .link("link", "dir/kept")
        .file("touched", "x");
    world.push(&tree.root);
    tree.file("dir/changed", "after that").file("added.conf", "y").remove("gone.conf").mode("touched", 0o600);
    let latest = world.push(&tree.root)["snapshot"].as_str().unwrap().to_owned();
    let first = world.snapshots()[0]["id"].as_str().unwrap().to_owned();
    let with =
        |arguments: Vec<std::ffi::OsString>| world.run([arguments, args!["--identity", &world.identity, "--json"]].concat());
    let path = |name: &str| tree.path(name).to_str().unwrap().to_owned();
    let listed = |arguments| {
        let json = with(arguments).ok().json();
        let paths = json["entries"].as_array().unwrap().iter().map(|entry| entry["path"].as_str().unwrap().to_owned());
        paths.collect::<Vec<_>>()
    };
    assert_eq!(listed(args!["ls", &latest, &tree.root]), ["added.conf", "dir", "link", "touched"].map(path));
    assert_eq!(listed(args!["ls", &first, path("dir"), "--recursive"]), ["dir", "dir/changed", "dir/kept"].map(path));
    assert_eq!(listed(args!["find", "*.conf"]), ["added.conf", "gone.conf"].map(path));
    assert_eq!(listed(args!["find", "*.conf", "--snapshot", &first]), [path("gone.conf")]);
    with(args!["find", "*.nothing"]).exits(1);
    with(args!["ls", &first, path("nowhere")]).exits(1);

    let differences = with(args!["diff", &first, &latest]).ok().json();
    let found: Vec<(String, String)> = differences["differences"]
        .as_array()
        .unwrap()
        .iter()
        .map(|d| (d["change"].as_str().unwrap().to_owned(), d["path"].as_str().unwrap().to_owned()))
        .filter(|(_, path)| path != tree.root.to_str().unwrap())
        .collect();
    let expected = [("added", "added.conf"), ("content", "dir/changed"), ("removed", "gone.conf"), ("metadata", "touched")];
    assert_eq!(found, expected.map(|(change, name)| (change.to_owned(), path(name))));

    let cat = |snapshot: &str, name: &str| world.run(args!["cat", snapshot, path(name), "--identity", &world.identity]);
    assert_eq!(cat(&first, "dir/changed").ok().out, "before");
    assert_eq!(cat(&latest[..8], "dir/changed").ok().out, "after that");
    cat("latest", "dir").exits(1);
    cat("latest", "nowhere").exits(1);
}

#[test]
fn each_snapshot_gives_back_its_own_day() {
    needs!("rsync");
    let world = World::new();
    let tree = world.tree("data");
    let mut kept = Vec::new();
    for day in 0..4_u64 {
        tree.ordinary(20, day).file("day", day.to_string());
        let id = world.push(&tree.root)["snapshot"].as_str().unwrap().to_owned();
        let copy = world.path(&format!("day{day}"));
        crate::world::tools::must(std::process::Command::new("cp").arg("-a").arg(&tree.root).arg(&copy));
        kept.push((id, copy));
    }
    for (id, copy) in &kept {
        let back = world.path("back");
        world.restore(&id[..10], &back);
        assert_same(copy, &tree.below(&back));
        fs::remove_dir_all(&back).unwrap();
    }
    world.run(args!["restore", "ffffffff", "--into", world.path("back"), "--identity", &world.identity]).exits(2);
}

#[test]
fn a_target_that_may_not_be_written_or_is_too_small_is_1_and_nothing_is_left_half() {
    needs!(root);
    let world = World::new();
    let tree = world.tree("data");
    tree.noise("large", 8 << 20, 1).noise("large too", 8 << 20, 2);
    world.push(&tree.root);
    let small = world.path("small");
    fs::create_dir(&small).unwrap();
    crate::world::tools::must(
        std::process::Command::new("mount").args(["-t", "tmpfs", "-o", "size=12m", "tmpfs"]).arg(&small),
    );
    let refused = restore(&world, &args!["--into", small.join("back")]);
    let left = if small.join("back").exists() { files_below(&small.join("back")) } else { Vec::new() };
    crate::world::tools::must(std::process::Command::new("umount").arg(&small));
    refused.exits(1).says("needed");
    assert!(left.is_empty(), "{left:?}");
    let file = world.path("a file");
    fs::write(&file, "x").unwrap();
    restore(&world, &args!["--into", &file]).exits(1);
    assert_eq!(fs::metadata(&file).unwrap().permissions().mode() & 0o777, 0o644);
}
