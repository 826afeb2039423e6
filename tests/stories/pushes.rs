//! What a push takes and leaves out, and what it does when a source, a store or its own memory is not as it was.

use std::fs;
use std::path::Path;

use crate::world::machine::FARKEEP;
use crate::world::tools::must;
use crate::world::{Run, Running, Tree, World, args, assert_same, files_below, needs};

/// Adds a job with one source.
fn job(world: &World, name: &str, source: &str) {
    world.agent.configure(&format!("[job.{name}]\n[[job.{name}.source]]\nname = \"{name}\"\n{source}"));
}

/// The paths below `tree` in the newest snapshot of a job.
fn held(world: &World, job: &str, tree: &Tree) -> Vec<String> {
    let back = world.path(&format!("held-{job}"));
    let restore = args!["restore", "latest", "--job", job, "--into", &back, "--identity", &world.identity];
    world.run(restore).ok();
    let place = tree.below(&back);
    let mut names: Vec<String> =
        files_below(&place).iter().map(|path| path.strip_prefix(&place).unwrap().to_str().unwrap().to_owned()).collect();
    names.sort();
    fs::remove_dir_all(back).unwrap();
    names
}

#[test]
fn excludes_leave_out_what_they_name_and_nothing_else() {
    let world = World::new();
    let tree = world.tree("data");
    for name in ["a.tmp", "keep.tmp", "a.txt", "build/object", "src/build.rs", "src/deep/b.tmp", "trash/x", "src/trash/y"] {
        tree.file(name, name);
    }
    tree.file("cache/CACHEDIR.TAG", "Signature: 8a477f597d28d172789f06886806bc55\n").file("cache/blob", "x");
    tree.file("no cache/CACHEDIR.TAG", "not a tag").file("no cache/blob", "x");
    tree.file("marked/.nobackup", "").file("marked/deep/file", "x").noise("large", 200_000, 1);
    let root = tree.root.display();
    job(
        &world,
        "some",
        &format!(
            "kind = \"files\"\npaths = [\"{root}\"]\nexclude = [\"*.tmp\", \"!keep.tmp\", \"build/\", \"{root}/trash\"]\n\
             exclude_caches = true\nexclude_if_present = [\".nobackup\"]\nmax_file_size = \"100 KiB\""
        ),
    );
    world.run(args!["push", "some"]).ok().says("large");
    let expected = [
        "a.txt",
        "cache/CACHEDIR.TAG",
        "keep.tmp",
        "marked/.nobackup",
        "no cache/CACHEDIR.TAG",
        "no cache/blob",
        "src/build.rs",
        "src/trash/y",
    ];
    assert_eq!(held(&world, "some", &tree), expected);
    // The same from the command line.
    world.run(args!["push", &tree.root, "--exclude", "*.tmp", "--exclude", "large"]).ok();
    assert!(!held(&world, "adhoc", &tree).iter().any(|name| name.ends_with(".tmp") || name == "large"));
}

#[test]
fn one_file_system_keeps_the_mount_point_and_not_what_is_mounted() {
    needs!(root);
    let world = World::new();
    let tree = world.tree("data");
    tree.file("here", "x").dir("mounted");
    must(std::process::Command::new("mount").args(["-t", "tmpfs", "tmpfs"]).arg(tree.path("mounted")));
    tree.file("mounted/elsewhere", "x");
    let source = format!("kind = \"files\"\npaths = [\"{}\"]\n", tree.root.display());
    job(&world, "all", &source);
    job(&world, "one", &(source + "one_file_system = true"));
    let (root, mounted) = (tree.root.display(), tree.path("mounted"));
    let both = format!("kind = \"files\"\npaths = [\"{root}\", \"{}\"]\none_file_system = true", mounted.display());
    job(&world, "both", &both);
    let pushed = world.run(args!["push", "--json"]);
    must(std::process::Command::new("umount").arg(tree.path("mounted")));
    pushed.ok();
    assert_eq!(held(&world, "all", &tree), ["here", "mounted/elsewhere"]);
    assert_eq!(held(&world, "one", &tree), ["here"]);
    // What is named is meant, wherever it lies.
    assert_eq!(held(&world, "both", &tree), ["here", "mounted/elsewhere"]);
    // What was mounted is not in the second snapshot, which does not make it a thing to be removed.
    must(std::process::Command::new("mount").args(["-t", "tmpfs", "tmpfs"]).arg(tree.path("mounted")));
    tree.file("mounted/elsewhere", "x").file("added", "x");
    let in_place = args!["restore", "latest", "--job", "one", "--in-place", "--delete", "--identity", &world.identity];
    let restored = world.run(in_place);
    let left = tree.path("mounted/elsewhere").exists();
    must(std::process::Command::new("umount").arg(tree.path("mounted")));
    restored.exits(3).says("mounted here");
    assert!(left, "what was mounted has been removed");
    assert!(!tree.path("added").exists());
    let listed = args!["ls", "latest", &tree.root, "--job", "one", "--identity", &world.identity];
    world.run(listed).ok().says("mounted/");
}

#[test]
fn a_commands_output_is_kept_when_it_ended_well_and_only_then() {
    let world = World::new();
    let source = |command: &str, more: &str| {
        format!("kind = \"command\"\ncommand = [\"sh\", \"-c\", \"{command}\"]\nfilename = \"out\"\n{more}")
    };
    job(&world, "good", &source("seq 100000", "min_bytes = \"100 KiB\""));
    job(&world, "fails", &source("seq 100000; echo disk on fire >&2; exit 3", ""));
    job(&world, "empty", &source("true", ""));
    job(&world, "small", &source("seq 10", "min_bytes = \"100 KiB\""));
    job(&world, "hangs", &source("seq 10; sleep 1000 & sleep 1000", "timeout = \"1s\""));
    job(&world, "missing", "kind = \"command\"\ncommand = [\"/no/such/dump\"]\nfilename = \"out\"");
    world.run(args!["push", "good"]).ok();
    let cases = [
        ("fails", "disk on fire"),
        ("empty", "no output"),
        ("small", "at least"),
        ("hangs", "time limit"),
        ("missing", "started"),
    ];
    for (name, why) in cases {
        world.run(args!["push", name]).exits(1).says(why);
    }
    assert_eq!(world.snapshots().len(), 1, "a failed command has become a snapshot");
    let cat = args!["cat", "latest", "@good/out", "--job", "good", "--identity", &world.identity];
    assert_eq!(world.run(cat).ok().out, (1..=100_000).map(|n| format!("{n}\n")).collect::<String>());
    // One job that fails keeps none of the others from being backed up.
    world.run(args!["push"]).exits(1).says("disk on fire");
    assert_eq!(world.snapshots().len(), 2);
    world.verify("opened");
}

#[test]
fn a_missing_root_fails_and_makes_no_snapshot() {
    let world = World::new();
    let tree = world.tree("data");
    tree.file("file", "x");
    let missing = world.path("missing");
    job(&world, "two", &format!("kind = \"files\"\npaths = [\"{}\", \"{}\"]", tree.root.display(), missing.display()));
    world.run(args!["push", "two"]).exits(1).says("missing");
    world.run(args!["push", &missing]).exits(1).says("missing");
    assert_eq!(world.snapshots().len(), 0);
    fs::create_dir(&missing).unwrap();
    world.run(args!["push", "two"]).ok();
    // A path that vanishes later does not become an empty success either.
    fs::remove_dir(&missing).unwrap();
    world.run(args!["push", "two"]).exits(1);
    assert_eq!(world.snapshots().len(), 1);
}

#[test]
fn a_file_that_changes_while_it_is_read_is_kept_and_marked() {
    let world = World::new();
    let tree = world.tree("data");
    tree.noise("growing", 64 << 20, 1).file("quiet", "x");
    // It grows as long as the push runs, so that it changes during the second reading too.
    let growing = tree.path("growing");
    let done = std::sync::atomic::AtomicBool::new(false);
    let pushed = std::thread::scope(|scope| {
        scope.spawn(|| {
            let mut file = fs::File::options().append(true).open(&growing).unwrap();
            while !done.load(std::sync::atomic::Ordering::Relaxed) {
                std::io::Write::write_all(&mut file, b"more").unwrap();
                std::thread::yield_now();
            }
        });
        let pushed = world.run(args!["push", &tree.root, "--json"]);
        done.store(true, std::sync::atomic::Ordering::Relaxed);
        pushed
    });
    let receipt = pushed.exits(3).json()["jobs"][0].clone();
    let finding = receipt["findings"]
        .as_array()
        .unwrap()
        .iter()
        .find(|finding| finding["subject"].as_str().unwrap().ends_with("growing"));
    assert!(finding.unwrap()["message"].as_str().unwrap().contains("changed"), "{receipt}");
    let back = world.path("back");
    world.restore("latest", &back);
    assert!(fs::metadata(tree.below(&back).join("growing")).unwrap().len() >= 64 << 20);
    assert_eq!(fs::read(tree.below(&back).join("quiet")).unwrap(), b"x");
    world.verify("opened");
    // At rest again it is read anew and the mark is gone.
    assert_eq!(world.push(&tree.root)["findings"], serde_json::json!([]));
    let back = world.path("again");
    world.restore("latest", &back);
    assert!(fs::read(&growing).unwrap() == fs::read(tree.below(&back).join("growing")).unwrap());
}

#[test]
fn what_cannot_be_read_is_a_finding_and_the_rest_is_kept() {
    let world = World::new();
    let tree = world.tree("data");
    tree.file("file", "x").socket("socket").link("dangling", "nowhere");
    world.run(args!["push", &tree.root]).ok().says("socket");
    assert_eq!(held(&world, "adhoc", &tree), ["dangling", "file"]);
}

#[test]
fn a_link_that_is_named_as_a_path_is_a_finding_that_says_what_to_name() {
    let world = World::new();
    let tree = world.tree("data");
    tree.file("releases/7/file", "x").link("current", "releases/7").link("lost", "releases/8");
    let real = tree.path("releases/7");
    world.run(args!["push", tree.path("current")]).exits(3).says(&format!("name {} in its place", real.display()));
    world.run(args!["push", tree.path("lost")]).exits(3).says("what it points at is not backed up");
    world.push(&real);
    // Beneath a path that is named it is a link like any other.
    world.push(&tree.root);
}

#[test]
fn what_cannot_be_asked_for_without_proc_is_a_finding() {
    needs!(root);
    needs!("unshare", "rsync");
    let world = World::new();
    let tree = world.tree("data");
    tree.file("file", "x").xattr("file", "user.of-a-file", b"yes");
    tree.dir("dir").xattr("dir", "user.of-a-directory", b"yes").link("link", "file");
    // As in a chroot of a rescue system.
    let mut command = std::process::Command::new("unshare");
    world.agent.dress(&mut command);
    let without_proc = "mount -t tmpfs none /proc && exec \"$0\" \"$@\"";
    command.args(["-m", "sh", "-c", without_proc]).arg(FARKEEP).args(args!["push", &tree.root]);
    Run::of(&mut command).exits(3).says(&format!("{}: kept without its attributes", tree.path("dir").display()));
    assert_eq!(held(&world, "adhoc", &tree), ["file", "link"]);
    // The next push has them, and does not take those directories for unchanged.
    world.push(&tree.root);
    let back = world.path("back");
    world.restore("latest", &back);
    assert_same(&tree.root, &tree.below(&back));
}

#[test]
fn a_store_that_was_away_catches_up_with_the_next_push() {
    needs!("rsync");
    let world = World::with_stores(&["a", "b"]);
    let tree = world.tree("data");
    tree.ordinary(20, 1);
    world.push(&tree.root);
    let (b, away) = (world.path("b"), world.path("away"));
    fs::rename(&b, &away).unwrap();
    tree.noise("second", 2_000_000, 2);
    world.run(args!["push", &tree.root]).exits(3).says("MISSED");
    tree.noise("third", 2_000_000, 3);
    world.run(args!["push", &tree.root]).exits(3);
    fs::rename(&away, &b).unwrap();
    tree.noise("fourth", 1_000_000, 4);
    let receipt = world.push(&tree.root);
    let store = receipt["stores"].as_array().unwrap().iter().find(|store| store["store"] == "b").unwrap();
    assert!(store["caught_up_objects"].as_u64().unwrap() > 0, "{receipt}");
    for store in ["a", "b"] {
        let verified = world.run(args!["verify", "--depth", "sealed", "--from", store, "--json"]).ok().json();
        assert_eq!(verified["snapshots"], 4, "{verified}");
        let back = world.path(&format!("back-{store}"));
        world.run(args!["restore", "latest", "--from", store, "--into", &back, "--identity", &world.identity]).ok();
        assert_same(&tree.root, &tree.below(&back));
    }
    // All of them away is another matter.
    for store in ["a", "b"] {
        fs::rename(world.path(store), world.path(&format!("gone-{store}"))).unwrap();
    }
    world.run(args!["push", &tree.root]).exits(5);
}

#[test]
fn lost_caches_are_rebuilt_and_nothing_is_sent_twice() {
    let world = World::new();
    let tree = world.tree("data");
    tree.ordinary(50, 1).noise("large", 5_000_000, 2);
    world.push(&tree.root);
    let caches = |dir: &Path| must(std::process::Command::new("find").arg(dir).args(["-type", "d", "-name", "cache"]));
    let found = caches(&world.agent.state);
    assert!(!found.is_empty());
    for cache in found.lines() {
        fs::remove_dir_all(cache).unwrap();
    }
    let again = world.push(&tree.root);
    assert_eq!(again["new_packs"], 0, "{again}");
    // What it says of an object that the vault has lost is not believed.
    let pack = world.objects("packs").into_iter().max_by_key(|path| fs::metadata(path).unwrap().len()).unwrap();
    fs::remove_file(&pack).unwrap();
    let healed = world.push(&tree.root);
    assert!(healed["new_packs"].as_u64().unwrap() > 0, "{healed}");
    let back = world.path("back");
    world.restore("latest", &back);
    for cache in found.lines() {
        fs::remove_dir_all(cache).unwrap();
    }
    world.run(args!["restore", "latest", "--into", world.path("other"), "--identity", &world.identity]).ok();
}

#[test]
fn two_pushes_at_once_are_one_push_and_one_that_comes_later() {
    let world = World::new();
    let tree = world.tree("data");
    tree.noise("large", 100 << 20, 1);
    let running = Running::start(&world.agent, args!["push", &tree.root]);
    let packs = world.vault.join("packs");
    crate::world::background::until("the first pack is there", || !files_below(&packs).is_empty());
    world.run(args!["push", &tree.root]).exits(75);
    running.wait().ok();
    world.push(&tree.root);
    assert_eq!(world.snapshots().len(), 2);
}
