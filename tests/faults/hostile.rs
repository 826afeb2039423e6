//! Restores into hostile places and of hostile snapshots: nothing is written outside the root.

use std::fs;
use std::os::unix::fs::{FileTypeExt, MetadataExt, PermissionsExt, symlink};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use rustix::fs::{CWD, RenameFlags};
use serde_json::{Value, json};

use crate::forge::{Forge, entry, file};
use crate::rounds;
use crate::world::{Machine, Run, World, args, files_below, needs};

/// A place to restore into, with things around it that must stay as they are.
struct Place {
    into: PathBuf,
    outside: PathBuf,
    station: Machine,
}

impl Place {
    fn new(world: &World, name: &str) -> Self {
        let into = world.path(&format!("{name}/deep/into"));
        let outside = world.path(&format!("{name}/outside"));
        fs::create_dir_all(&into).unwrap();
        fs::create_dir_all(&outside).unwrap();
        fs::write(outside.join("victim"), "untouched").unwrap();
        Self { into, outside, station: world.machine(&format!("{name}-station")) }
    }

    fn restore(&self, world: &World, snapshot: &str, more: &[&str]) -> Run {
        let mut all =
            args!["restore", snapshot, "--from", &world.vault, "--into", &self.into, "--identity", &world.identity];
        all.extend(more.iter().map(std::ffi::OsString::from));
        self.station.run(all)
    }

    /// Nothing lies beside the root, and what lay there is as it was.
    #[track_caller]
    fn assert_outside_untouched(&self, what: &str) {
        let all = files_below(self.outside.parent().unwrap());
        let strangers: Vec<&PathBuf> = all.iter().filter(|path| !path.starts_with(&self.into)).collect();
        assert_eq!(strangers, [&self.outside.join("victim")], "{what}");
        assert_eq!(fs::read_to_string(self.outside.join("victim")).unwrap(), "untouched", "{what}");
        let meta = fs::metadata(self.outside.join("victim")).unwrap();
        assert_eq!((meta.nlink(), meta.permissions().mode() & 0o7777), (1, 0o644), "{what}");
    }
}

/// Names that no entry may have, and what they would do.
fn hostile_paths() -> Vec<Value> {
    let long = "x".repeat(256);
    let deep = "d/".repeat(40_000) + "e";
    let plain = [
        "../escape",
        "a/../../escape",
        "/tmp/escape",
        "..",
        ".",
        "",
        "a/..",
        "a/.",
        "./a",
        "a//b",
        "a/",
        "/",
        "//",
        "../",
        "a/../b",
        "deep/../../../../../../../../tmp/escape",
        long.as_str(),
        deep.as_str(),
        "nul\0byte",
    ];
    let mut all: Vec<Value> = plain.iter().map(|path| entry("dir", path)).collect();
    for bytes in ["Li4vZXNjYXBl", "L3RtcC9lc2NhcGU=", "YQBi", "Li4=", "", "not base64!"] {
        let mut line = entry("dir", "a");
        line.as_object_mut().unwrap().remove("path");
        line["path_b64"] = bytes.into();
        all.push(line);
    }
    let mut both = entry("dir", "a");
    both["path_b64"] = "Yg==".into();
    all.push(both);
    all
}

#[test]
fn hostile_names_are_refused() {
    let world = World::new();
    let forge = Forge::new(&world);
    let place = Place::new(&world, "names");
    for line in hostile_paths() {
        let shown: String = line.to_string().chars().take(120).collect();
        let id = forge.snapshot(std::slice::from_ref(&line), &[]);
        place.restore(&world, &id, &[]).exits(4);
        place.assert_outside_untouched(&shown);
        assert_eq!(fs::read_dir(&place.into).unwrap().count(), 0, "{shown}");
    }
}

#[test]
fn unknown_kinds_fields_and_orders_are_refused() {
    let world = World::new();
    let forge = Forge::new(&world);
    let place = Place::new(&world, "kinds");
    let with = |mut line: Value, field: &str, value: Value| {
        line[field] = value;
        line
    };
    let content = b"content".to_vec();
    let cases: Vec<Vec<Value>> = vec![
        vec![entry("door", "a")],
        vec![with(entry("dir", "a"), "mode", 0o170_755.into())],
        vec![with(entry("dir", "a"), "further", 1.into())],
        vec![with(file(&forge, "a", &content), "transform", "gzip".into())],
        vec![with(entry("symlink", "a"), "link", "".into())],
        vec![with(entry("symlink", "a"), "link", "nul\0byte".into())],
        vec![with(entry("hardlink", "a"), "link", "../outside/victim".into())],
        vec![with(entry("hardlink", "a"), "link", "/etc/passwd".into())],
        vec![entry("symlink", "a")],
        vec![entry("chardev", "a")],
        vec![entry("dir", "b"), entry("dir", "a")],
        vec![entry("dir", "a"), entry("dir", "a")],
    ];
    for lines in cases {
        let shown = format!("{lines:?}");
        let id = forge.snapshot(&lines, std::slice::from_ref(&content));
        let run = place.restore(&world, &id, &["--on-conflict", "replace"]);
        assert!([1, 3, 4].contains(&run.code), "{shown}: {} {}{}", run.code, run.out, run.err);
        place.assert_outside_untouched(&shown);
    }
}

#[test]
fn entries_below_a_restored_link_do_not_follow_it() {
    let world = World::new();
    let forge = Forge::new(&world);
    let content = b"planted".to_vec();
    for (round, kind) in ["file", "dir", "symlink", "hardlink", "fifo"].into_iter().enumerate() {
        let place = Place::new(&world, &format!("below{round}"));
        let mut link = entry("symlink", "way");
        link["link"] = place.outside.to_str().unwrap().into();
        let mut below = match kind {
            "file" => file(&forge, "way/victim", &content),
            "dir" => entry("dir", "way/new"),
            other => entry(other, "way/new"),
        };
        if kind == "symlink" {
            below["link"] = "elsewhere".into();
        }
        let mut lines = vec![link, below];
        if kind == "hardlink" {
            lines[1]["link"] = "first".into();
            lines.insert(0, file(&forge, "first", &content));
        }
        let id = forge.snapshot(&lines, std::slice::from_ref(&content));
        for more in [&[][..], &["--on-conflict", "replace"], &["--on-conflict", "skip"]] {
            let run = place.restore(&world, &id, more);
            // Who asks to leave out what is in the way gets that.
            assert!(run.code != 0 || more.contains(&"skip"), "{kind} {more:?}: {}", run.out);
            place.assert_outside_untouched(kind);
        }
    }
}

#[test]
fn a_hard_link_to_a_restored_link_or_device_takes_nothing_from_outside() {
    let world = World::new();
    let forge = Forge::new(&world);
    let place = Place::new(&world, "links");
    let mut link = entry("symlink", "a");
    link["link"] = place.outside.join("victim").to_str().unwrap().into();
    let mut hard = entry("hardlink", "b");
    hard["link"] = "a".into();
    hard["mode"] = 0o666.into();
    let id = forge.snapshot(&[link, hard], &[]);
    place.restore(&world, &id, &[]);
    place.assert_outside_untouched("a hard link to a link");
}

#[test]
fn a_further_name_of_nothing_is_found_when_the_snapshot_is_opened() {
    let link = |path: &str, first: &str| {
        let mut line = entry("hardlink", path);
        line["link"] = first.into();
        line
    };
    let verify = |world: &World| world.run(args!["verify", "--depth", "opened", "--identity", &world.identity]);
    let content = b"content".to_vec();
    let world = World::new();
    let forge = Forge::new(&world);
    let mut lines = vec![file(&forge, "a", &content), link("b", "a"), entry("fifo", "c"), link("d", "c"), link("e", "a")];
    forge.snapshot(&lines, std::slice::from_ref(&content));
    verify(&world).ok();
    // To nothing, to another link, to a directory, to what comes later, to itself.
    lines.extend([entry("dir", "f"), link("g", "0"), link("h", "b"), link("i", "f"), link("j", "z"), link("k", "k")]);
    lines.push(file(&forge, "z", &content));
    forge.snapshot(&lines, std::slice::from_ref(&content));
    let mut verified = verify(&world).exits(4);
    for (path, first) in [("g", "0"), ("h", "b"), ("i", "f"), ("j", "z"), ("k", "k")] {
        verified = verified.says(&format!("/{path}: is another name of /{first}, and no file stands there"));
    }
    verified.never_says("another name of /a").never_says("another name of /c");
}

#[test]
fn links_planted_at_each_component_are_not_followed() {
    let world = World::new();
    world.tree("data").file("a/b/c/file", "content").link("a/b/c/link", "file").hard_link("a/b/c/file", "a/b/second");
    world.push(world.path("data"));
    let path = world.path("data").join("a/b/c/file");
    let components: Vec<PathBuf> = path.ancestors().map(|above| above.strip_prefix("/").unwrap().to_owned()).collect();
    let planted: Vec<&PathBuf> = components.iter().filter(|path| path.components().count() > 0).collect();
    assert!(planted.len() > 5, "{planted:?}");
    for (round, component) in planted.into_iter().enumerate() {
        for (way, more) in [&[][..], &["--on-conflict", "replace"], &["--on-conflict", "skip"]].into_iter().enumerate() {
            let place = Place::new(&world, &format!("planted{round}-{way}"));
            let trap = place.into.join(component);
            fs::create_dir_all(trap.parent().unwrap()).unwrap();
            let is_file = round == 0;
            symlink(if is_file { place.outside.join("victim") } else { place.outside.clone() }, &trap).unwrap();
            place.restore(&world, "latest", more);
            place.assert_outside_untouched(&format!("{} {more:?}", component.display()));
        }
    }
}

#[test]
fn special_bits_and_devices_come_only_when_asked_for() {
    needs!(root);
    let world = World::new();
    let tree = world.tree("data");
    tree.devices().file("plain", "x");
    world.push(&tree.root);
    let place = Place::new(&world, "special");
    let run = place.restore(&world, "latest", &[]);
    assert!([0, 3].contains(&run.code), "{}", run.err);
    let below = tree.below(&place.into);
    for path in files_below(&below) {
        let meta = fs::symlink_metadata(&path).unwrap();
        let kind = meta.file_type();
        assert!(!kind.is_char_device() && !kind.is_block_device(), "{}", path.display());
        assert_eq!(meta.mode() & 0o6000, 0, "{}", path.display());
        let mut value = [0; 100];
        assert!(rustix::fs::lgetxattr(&path, "security.capability", &mut value[..]).is_err(), "{}", path.display());
    }
    let asked = Place::new(&world, "asked");
    asked.restore(&world, "latest", &["--special"]).ok();
    assert!(fs::metadata(tree.below(&asked.into).join("devices/null")).unwrap().file_type().is_char_device());
    assert_eq!(fs::metadata(tree.below(&asked.into).join("special/setuid")).unwrap().mode() & 0o7777, 0o4755);
}

#[test]
fn names_that_look_alike_stay_apart() {
    let world = World::new();
    let tree = world.tree("data");
    let names = [
        "README",
        "readme",
        "\u{e9}",
        "e\u{301}",
        "\u{212b}",
        "\u{c5}",
        "a",
        "a ",
        "a.",
        "file\u{200b}",
        "file",
        "\u{ff0e}\u{ff0e}",
    ];
    for name in names {
        tree.file(name, name).file(format!("dir {name}/file"), name);
    }
    world.push(&tree.root);
    let place = Place::new(&world, "alike");
    place.restore(&world, "latest", &[]).ok();
    for name in names {
        assert_eq!(fs::read_to_string(tree.below(&place.into).join(name)).unwrap(), name);
        assert_eq!(fs::read_to_string(tree.below(&place.into).join(format!("dir {name}/file"))).unwrap(), name);
    }
}

#[test]
fn a_racing_renamer_moves_nothing_outside() {
    let world = World::new();
    let tree = world.tree("data");
    for number in 0..300 {
        tree.file(format!("a/b/file{number:03}"), format!("{number}"));
    }
    world.push(&tree.root);
    let wanted = rounds(100_000);
    let swaps = AtomicU64::new(0);
    let mut round = 0;
    while swaps.load(Ordering::Relaxed) < wanted {
        let place = Place::new(&world, &format!("race{round}"));
        let directory = tree.below(&place.into).join("a");
        fs::create_dir_all(directory.join("b")).unwrap();
        // The trap changes places with the directory while files are written into it.
        let trap = directory.with_file_name("trap");
        symlink(&place.outside, &trap).unwrap();
        fs::create_dir(place.outside.join("b")).unwrap();
        let stop = AtomicBool::new(false);
        std::thread::scope(|scope| {
            scope.spawn(|| {
                while !stop.load(Ordering::Relaxed) {
                    if rustix::fs::renameat_with(CWD, &directory, CWD, &trap, RenameFlags::EXCHANGE).is_ok() {
                        swaps.fetch_add(1, Ordering::Relaxed);
                    }
                }
            });
            place.restore(&world, "latest", &["--on-conflict", "replace"]);
            stop.store(true, Ordering::Relaxed);
        });
        assert_no_more_than_victim(&place.outside);
        round += 1;
    }
}

fn assert_no_more_than_victim(outside: &Path) {
    assert_eq!(files_below(outside), [outside.join("victim")]);
    assert_eq!(fs::read_to_string(outside.join("victim")).unwrap(), "untouched");
}

#[test]
fn a_snapshot_whose_entries_all_lie_below_dots_says_so() {
    let world = World::new();
    let forge = Forge::new(&world);
    let id = forge.snapshot(&[json!({"path": "..", "kind": "dir"})], &[]);
    let place = Place::new(&world, "dots");
    place.restore(&world, &id, &[]).exits(4).says("catalogue");
    world.run(args!["ls", &id, "--identity", &world.identity]).exits(4);
    world.run(args!["verify", "--depth", "opened", "--identity", &world.identity]).exits(4).says(&id[..8]);
}

#[test]
fn a_plan_tells_what_the_restore_would_not_do() {
    let world = World::new();
    let forge = Forge::new(&world);
    let place = Place::new(&world, "plan");
    let content = b"content".to_vec();
    let mut vast = file(&forge, "a/vast", &content);
    vast["size"] = (1_u64 << 56).into();
    let mut torn = file(&forge, "a/torn", b"");
    torn["unreadable"] = "permission denied".into();
    torn["chunks"] = json!([]);
    // Holes take no room.
    let mut sparse = file(&forge, "a/sparse", &content);
    sparse["size"] = (1_u64 << 57).into();
    sparse["extents"] = json!([[0, content.len()]]);
    let lines = [entry("dir", "a"), sparse, torn, vast];
    let id = forge.snapshot(&lines, std::slice::from_ref(&content));
    for target in ["empty", "not empty"] {
        let planned = place.restore(&world, &id, &["--dry-run"]);
        assert_ne!(planned.code, 0, "{target}: {}{}", planned.out, planned.err);
        planned.says("64.0 PiB are needed").says("a/torn").says("could not be read when it was backed up");
        fs::write(place.into.join("other"), "").unwrap();
    }
    place.restore(&world, &id, &[]).exits(1).says("64.0 PiB are needed");
}

#[test]
fn a_further_name_is_never_made_of_something_else() {
    let world = World::new();
    let forge = Forge::new(&world);
    let place = Place::new(&world, "further");
    let content = b"content".to_vec();
    let link = |path: &str, first: &str| {
        let mut line = entry("hardlink", path);
        line["link"] = first.into();
        line
    };
    let mut torn = file(&forge, "a/torn", b"");
    torn["unreadable"] = "permission denied".into();
    torn["chunks"] = json!([]);
    let lines = [
        entry("dir", "a"),
        file(&forge, "a/sound", &content),
        torn,
        entry("dir", "b"),
        link("b/of-nothing", "a/missing"),
        link("b/of-torn", "a/torn"),
        link("b/sound", "a/sound"),
    ];
    let id = forge.snapshot(&lines, std::slice::from_ref(&content));
    // Something that has nothing to do with it lies where the first name would.
    fs::create_dir_all(place.into.join("a")).unwrap();
    fs::create_dir_all(place.into.join("b")).unwrap();
    for name in ["a/missing", "b/of-nothing", "b/of-torn"] {
        fs::write(place.into.join(name), name).unwrap();
    }
    for only in [&[][..], &["/b"][..]] {
        let run = place.restore(&world, &id, &[&["--on-conflict", "replace"], only].concat()).exits(4);
        run.says("b/of-nothing").says("b/of-torn");
        for name in ["a/missing", "b/of-nothing", "b/of-torn"] {
            assert_eq!(fs::read_to_string(place.into.join(name)).unwrap(), name, "{only:?}");
        }
        assert_eq!(fs::read_to_string(place.into.join("b/sound")).unwrap(), "content", "{only:?}");
    }
    for name in ["/b/of-nothing", "/b/of-torn"] {
        let run = world.run(args!["cat", &id, name, "--identity", &world.identity]);
        assert!(run.code != 0 && run.out.is_empty(), "{name}: {}", run.err);
    }
    place.assert_outside_untouched("further names");
}
