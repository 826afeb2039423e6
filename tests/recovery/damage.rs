//! Objects that were altered: recover.py refuses them, names them, and restores the rest.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use crate::BareMachine;
use crate::world::tools::must;
use crate::world::{Random, Run, World, args, files_below, flip, needs};

/// What is done to an object.
const HARMS: [&str; 5] = ["flip", "truncate", "extend", "remove", "swap"];

struct Scene {
    world: World,
    machine: BareMachine,
    source: Vec<(PathBuf, Vec<u8>)>,
}

impl Scene {
    fn new() -> Self {
        let world = World::new();
        let tree = world.tree("data");
        tree.ordinary(6, 1).noise("noise", 300_000, 2);
        world.push(&tree.root);
        tree.noise("more", 100_000, 3);
        world.push(&tree.root);
        let source = files_below(&tree.root).into_iter().map(|path| (path.clone(), fs::read(path).unwrap())).collect();
        let machine = BareMachine::new(&world, &[]);
        Self { world, machine, source }
    }

    /// A copy of the vault that can be harmed.
    fn copy(&self, name: &str) -> PathBuf {
        let copy = self.world.path(name);
        must(Command::new("cp").arg("-a").arg(&self.world.vault).arg(&copy));
        copy
    }

    /// Restores from `vault`; what was written must be right. Gives the run, and how many files are there.
    fn restore(&self, vault: &Path, into: &Path) -> (Run, usize) {
        let run = self.machine.recover(vault, args!["restore", "--identity", &self.world.identity, "--into", into]);
        let mut right = 0;
        for (path, content) in &self.source {
            match fs::read(into.join(path.strip_prefix("/").unwrap())) {
                Ok(found) => {
                    assert!(found == *content, "{} was restored with other content\n{}", path.display(), run.err);
                    right += 1;
                }
                Err(_) => assert_ne!(run.code, 0, "{} is missing and nothing is said", path.display()),
            }
        }
        (run, right)
    }
}

#[test]
fn altered_objects_are_refused_and_named() {
    needs!("age", "zstd", "b3sum", "python3");
    let scene = Scene::new();
    let (whole, files) = scene.restore(&scene.world.vault, &scene.world.path("whole"));
    assert_eq!((whole.code, files), (0, scene.source.len()));
    let mut random = Random::new(17);
    let areas = ["packs", "indexes", "manifests", "keys", "ledger"];
    for (round, area) in areas.into_iter().cycle().take(15).enumerate() {
        let vault = scene.copy(&format!("vault{round}"));
        let objects = files_below(&vault.join(area));
        let (object, harm) = (random.pick(&objects).clone(), HARMS[(round / areas.len() + round) % HARMS.len()]);
        do_harm(harm, &object, &objects, &mut random);
        let name = object.file_name().unwrap().to_str().unwrap().to_owned();
        let (run, _) = scene.restore(&vault, &scene.world.path(&format!("out{round}")));
        // The newest snapshot may not need it; then it is restored whole.
        if run.code == 0 {
            assert!(run.out.contains("0 problems"), "{harm} {name}: {}", run.out);
        } else if harm != "remove" || !["ledger", "keys"].contains(&area) {
            // Of two that were swapped the one that was needed.
            let named = |path: &PathBuf| run.err.contains(&path.file_name().unwrap().to_str().unwrap()[..60]);
            let is_named = if harm == "swap" { objects.iter().any(named) } else { named(&object) };
            assert!(is_named, "round {round}: {harm} {area}/{name}: {}{}", run.out, run.err);
            assert!(!run.err.contains("Traceback"), "{harm} {name}: {}", run.err);
        }
        fs::remove_dir_all(&vault).unwrap();
    }
}

fn do_harm(harm: &str, object: &Path, all: &[PathBuf], random: &mut Random) {
    let bytes = fs::metadata(object).unwrap().len();
    match harm {
        "flip" => flip(object, random.below(bytes)),
        "truncate" => fs::File::options().write(true).open(object).unwrap().set_len(random.below(bytes)).unwrap(),
        "extend" => fs::File::options().write(true).open(object).unwrap().set_len(bytes + 1 + random.below(100)).unwrap(),
        "remove" => fs::remove_file(object).unwrap(),
        _ => {
            let other = all.iter().find(|path| *path != object).unwrap();
            let (mine, theirs) = (fs::read(object).unwrap(), fs::read(other).unwrap());
            fs::write(object, theirs).unwrap();
            fs::write(other, mine).unwrap();
        }
    }
}

#[test]
fn what_one_damaged_pack_does_not_hold_is_restored() {
    needs!("age", "zstd", "b3sum", "python3");
    let world = World::new();
    let tree = world.tree("data");
    // Two data packs: the second night's holds only what was new.
    tree.file("first", "one");
    world.push(&tree.root);
    let before = world.objects("packs");
    tree.noise("second", 200_000, 1);
    world.push(&tree.root);
    let epoch = crate::epoch(&world);
    let fresh: Vec<PathBuf> = world.objects("packs").into_iter().filter(|pack| !before.contains(pack)).collect();
    let data = fresh.iter().find(|pack| !crate::opened(&epoch, pack).starts_with(b"{\"")).unwrap();
    flip(data, fs::metadata(data).unwrap().len() / 2);
    let machine = BareMachine::new(&world, &[]);
    let back = world.path("back");
    let run = machine.recover(&world.vault, args!["restore", "--identity", &world.identity, "--into", &back]).exits(4);
    let below = tree.below(&back);
    assert_eq!(fs::read_to_string(below.join("first")).unwrap(), "one");
    assert!(!below.join("second").exists(), "a damaged file has its name");
    assert!(run.err.contains("second") && run.err.contains(data.file_name().unwrap().to_str().unwrap()), "{}", run.err);
    let left: Vec<_> = files_below(&back).into_iter().filter(|path| path.to_string_lossy().contains("/.recover-")).collect();
    assert!(left.is_empty(), "{left:?}");
}

#[test]
fn a_record_that_was_torn_and_sent_again_is_no_damage() {
    needs!("age", "zstd", "b3sum", "python3");
    let world = World::new();
    world.tree("data").file("a", "one");
    world.push(world.path("data"));
    let record = world.objects("ledger").remove(0);
    let whole = fs::read(&record).unwrap();
    fs::write(record.with_extension("rec.1"), &whole).unwrap();
    fs::remove_file(&record).unwrap();
    fs::write(&record, &whole[..100]).unwrap();
    let machine = BareMachine::new(&world, &[]);
    let list = || machine.recover(&world.vault, args!["list", "--identity", &world.identity]);
    list().exits(0);
    fs::remove_file(record.with_extension("rec.1")).unwrap();
    list().exits(4).says("its statement was changed");
}

#[test]
fn what_one_damaged_catalogue_pack_does_not_list_is_restored() {
    needs!("age", "zstd", "b3sum", "python3");
    let world = World::new();
    let tree = world.tree("data");
    // Enough entries for many chunks of catalogue; the second night adds its own.
    for number in 0..6000 {
        tree.file(format!("dir{:02}/a file with a rather long name {number:05}", number / 100), []);
    }
    world.push(&tree.root);
    let before = world.objects("packs");
    tree.file("dir30/new", "of the second night");
    world.push(&tree.root);
    let epoch = crate::epoch(&world);
    let fresh: Vec<PathBuf> = world.objects("packs").into_iter().filter(|pack| !before.contains(pack)).collect();
    let catalogue = fresh.iter().find(|pack| crate::opened(&epoch, pack).starts_with(b"{\"")).unwrap();
    flip(catalogue, fs::metadata(catalogue).unwrap().len() / 2);
    let machine = BareMachine::new(&world, &[]);
    let back = world.path("back");
    let run = machine.recover(&world.vault, args!["restore", "--identity", &world.identity, "--into", &back]).exits(4);
    assert!(run.err.contains("a part of the catalogue"), "{}", run.err);
    let restored = files_below(&back).len();
    assert!((3000..6000).contains(&restored), "{restored} files");
}

#[test]
fn a_torn_upload_beside_the_whole_object_does_not_matter() {
    needs!("age", "zstd", "b3sum", "python3");
    let scene = Scene::new();
    let vault = scene.copy("torn");
    for area in ["packs", "indexes", "manifests", "keys"] {
        for object in files_below(&vault.join(area)) {
            let whole = PathBuf::from(format!("{}.1", object.display()));
            fs::copy(&object, &whole).unwrap();
            let bytes = fs::metadata(&object).unwrap().len();
            fs::File::options().write(true).open(&object).unwrap().set_len(bytes / 3).unwrap();
        }
    }
    let (run, files) = scene.restore(&vault, &scene.world.path("from torn"));
    assert_eq!((run.code, files), (0, scene.source.len()), "{}", run.err);
}

#[test]
fn what_a_killed_push_left_in_the_ledger_is_passed_over() {
    needs!("age", "zstd", "b3sum", "python3");
    let scene = Scene::new();
    let copy = scene.copy("debris");
    for name in ["tmp-4711-0", "tmp-record.rec", "notes\n.txt"] {
        fs::write(copy.join("ledger").join(name), "cut sh").unwrap();
    }
    let (run, right) = scene.restore(&copy, &scene.world.path("back"));
    assert_eq!((run.ok().err.as_str(), right), ("", scene.source.len()));
}
