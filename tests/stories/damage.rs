//! One object of a copy is damaged, cut, taken away or exchanged: it is found without any key and named with the snapshots
//! that need it; the others restore, and of the damaged ones comes back what can.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use serde_json::Value;

use crate::world::tools::must;
use crate::world::{Machine, Random, Tree, World, args, assert_same, files_below, flip, needs};

/// A vault with four snapshots that share some objects, and what each snapshot must give back.
struct Vault {
    world: World,
    /// By short id: what was backed up, and where it lies in a restore.
    sources: BTreeMap<String, PathBuf>,
    /// By object: the short ids of the snapshots that need it, from the plain inventories.
    needs: BTreeMap<String, BTreeSet<String>>,
}

impl Vault {
    fn new() -> Self {
        let world = World::new();
        let tree = world.tree("data");
        tree.ordinary(40, 1).noise("one/large", 300_000, 1).noise("every/file", 100_000, 2);
        let mut sources = BTreeMap::new();
        for step in 0..4_u64 {
            match step {
                1 => tree.noise("two/large", 200_000, 3).noise("every/further", 5000, 4),
                2 => tree.remove("one").noise("three/large", 200_000, 5),
                3 => tree.remove("two").remove("three").noise("four/large", 200_000, 6),
                _ => &tree,
            };
            let id = world.push(&tree.root)["snapshot"].as_str().unwrap()[..8].to_owned();
            let kept = world.path(&format!("kept{step}"));
            must(Command::new("cp").arg("-a").arg(&tree.root).arg(&kept));
            sources.insert(id, kept);
        }
        let needs = needs_of(&world.vault);
        Self { world, sources, needs }
    }

    /// A copy of the vault to be damaged, and a machine that has the pinned root and has never seen it.
    fn copy(&self, name: &str) -> (PathBuf, Machine) {
        let copy = self.world.path(name);
        must(Command::new("cp").arg("-a").arg(&self.world.vault).arg(&copy));
        let machine = self.world.machine(&format!("auditor-{name}"));
        let agent = fs::read_to_string(&self.world.agent.config).unwrap();
        machine.configure(agent.split("[store").next().unwrap());
        machine.configure(&format!("[store.copy]\nurl = \"{}\"\n", copy.display()));
        (copy, machine)
    }

    fn all(&self) -> BTreeSet<String> {
        self.sources.keys().cloned().collect()
    }

    /// Those that do not need the object restore whole; the others give back what they can and say that it is not all, or
    /// they did not need that byte. Gives how many did not come back whole.
    fn check_restores(&self, machine: &Machine, name: &str, affected: &BTreeSet<String>) -> usize {
        let mut failed = 0;
        for (id, source) in &self.sources {
            let back = self.world.path(&format!("back-{name}-{id}"));
            let restored = machine.run(args!["restore", id, "--into", &back, "--identity", &self.world.identity]);
            let place = Tree::new(self.world.path("data")).below(&back);
            if affected.contains(id) && restored.code != 0 {
                assert!(matches!(restored.code, 1 | 4), "{name}: {restored:?}");
                assert_no_wrong_content(source, &place);
                failed += 1;
            } else {
                restored.ok();
                assert_same(source, &place);
            }
            let _ = fs::remove_dir_all(&back);
        }
        failed
    }
}

/// What each snapshot needs, read as any custodian could: from records and inventories, which are plain.
fn needs_of(vault: &Path) -> BTreeMap<String, BTreeSet<String>> {
    let mut needs: BTreeMap<String, BTreeSet<String>> = BTreeMap::new();
    let lines = |name: &str| -> Vec<String> {
        let text = fs::read_to_string(vault.join(name)).unwrap();
        text.lines().map(|line| line.split_once("  ").unwrap().1.to_owned()).collect()
    };
    for record in files_below(&vault.join("ledger")) {
        let text = fs::read_to_string(&record).unwrap();
        let statement: Value = serde_json::from_str(text.lines().next().unwrap()).unwrap();
        if statement["kind"] != "snapshot" {
            continue;
        }
        let name = record.file_stem().unwrap().to_str().unwrap().to_owned();
        let id = name.rsplit('-').next().unwrap()[..8].to_owned();
        let root = statement["body"]["inventory"].as_str().unwrap().to_owned();
        let mut all = vec![root.clone(), statement["body"]["manifest"].as_str().unwrap().to_owned()];
        for page in lines(&root) {
            // A page lists the manifests of others that it was made for: each snapshot needs its own.
            all.extend(lines(&page).into_iter().filter(|line| !line.starts_with("manifests/")));
            all.push(page);
        }
        for object in all {
            needs.entry(object).or_default().insert(id.clone());
        }
    }
    needs
}

/// Files that came back are what they were: damage never shows as wrong content.
fn assert_no_wrong_content(source: &Path, place: &Path) {
    if !place.exists() {
        return;
    }
    for path in files_below(place) {
        let original = source.join(path.strip_prefix(place).unwrap());
        assert!(fs::read(&path).unwrap() == fs::read(&original).unwrap(), "{} is not what it was", path.display());
    }
}

fn relative(copy: &Path, path: &Path) -> String {
    path.strip_prefix(copy).unwrap().to_str().unwrap().to_owned()
}

/// The objects of a finding that is an alarm, with its snapshots.
fn alarms(result: &Value) -> Vec<(String, BTreeSet<String>)> {
    let findings = result["findings"].as_array().unwrap().iter();
    let alarm = findings.filter(|finding| finding["kind"] == "damage" || finding["kind"] == "trust");
    alarm
        .map(|finding| {
            let named = finding["snapshots"].as_array().into_iter().flatten().map(|id| id.as_str().unwrap().to_owned());
            (finding["subject"].as_str().unwrap().to_owned(), named.collect())
        })
        .collect()
}

/// One object of every area that snapshots need, chosen by the seed; of the packs one of each kind of need.
fn chosen(vault: &Vault, random: &mut Random) -> Vec<String> {
    let mut by_kind: BTreeMap<(String, usize), Vec<&String>> = BTreeMap::new();
    for (object, needed) in &vault.needs {
        let area = object.split_once('/').map_or("plain", |(area, _)| area);
        if ["packs", "indexes", "manifests", "inventories"].contains(&area) {
            by_kind.entry((area.to_owned(), needed.len())).or_default().push(object);
        }
    }
    by_kind.values().map(|objects| (*random.pick(objects)).clone()).collect()
}

type Harm = fn(&Path, u64);

/// Turns one bit over, cuts, empties, takes away, appends.
const HARMS: [(&str, Harm); 5] = [
    ("flipped", |path, at| flip(path, at % fs::metadata(path).unwrap().len())),
    ("cut", |path, at| rewrite(path, |bytes| bytes.truncate((at % bytes.len() as u64) as usize))),
    ("emptied", |path, _| rewrite(path, Vec::clear)),
    ("removed", |path, _| fs::remove_file(path).unwrap()),
    ("extended", |path, _| rewrite(path, |bytes| bytes.push(0))),
];

fn rewrite(path: &Path, change: impl FnOnce(&mut Vec<u8>)) {
    let mut bytes = fs::read(path).unwrap();
    change(&mut bytes);
    fs::remove_file(path).unwrap();
    fs::write(path, bytes).unwrap();
}

#[test]
fn damage_to_an_object_is_named_with_its_snapshots_and_the_others_restore() {
    needs!("rsync");
    let mut random = Random::from_environment();
    let vault = Vault::new();
    let objects = chosen(&vault, &mut random);
    for area in ["packs", "indexes", "manifests", "inventories"] {
        assert!(objects.iter().any(|object| object.starts_with(area)), "{objects:?}");
    }
    let mut failed = 0;
    for (number, object) in objects.iter().enumerate() {
        // A flipped bit for each of them, and one of the other harms in turn.
        for (harm, name) in [(&HARMS[0], format!("{number}-flip")), (&HARMS[1 + number % 4], format!("{number}-other"))] {
            let (copy, machine) = vault.copy(&name);
            harm.1(&copy.join(object), random.next());
            let what = format!("{object} {}", harm.0);
            let found = machine.run(args!["verify", "--depth", "sealed", "--json"]).exits(4).json();
            let affected = &vault.needs[object];
            let named = alarms(&found).into_iter().filter(|(subject, _)| subject == object);
            let named: BTreeSet<String> = named.flat_map(|(_, snapshots)| snapshots).collect();
            assert_eq!(&named, affected, "{what}: {found}");
            let nothing = BTreeSet::new();
            // An inventory is for who holds a copy; a restore does without.
            let at_risk = if object.starts_with("inventories/") { &nothing } else { affected };
            failed += vault.check_restores(&machine, &name, at_risk);
        }
    }
    assert!(failed > objects.len() / 2, "only {failed} restores of damaged snapshots were not whole");
}

#[test]
fn two_exchanged_objects_are_both_named() {
    let vault = Vault::new();
    for area in ["packs", "manifests", "inventories", "indexes", "keys"] {
        let (copy, machine) = vault.copy(area);
        let mut objects = files_below(&copy.join(area));
        // Not a root and the page that it alone lists, which nobody could name then: the smallest are roots.
        objects.sort_by_key(|path| fs::metadata(path).unwrap().len());
        let (first, second) = (&objects[objects.len() - 2], &objects[objects.len() - 1]);
        fs::rename(first, copy.join("between")).unwrap();
        fs::rename(second, first).unwrap();
        fs::rename(copy.join("between"), second).unwrap();
        let found = machine.run(args!["verify", "--depth", "sealed", "--json"]).exits(4).json();
        let named: BTreeSet<String> = alarms(&found).into_iter().map(|(subject, _)| subject).collect();
        for object in [first, second] {
            assert!(named.contains(&relative(&copy, object)), "{}: {found}", object.display());
        }
    }
}

#[test]
fn plain_files_and_keys_that_were_changed_are_named() {
    let vault = Vault::new();
    let names = ["RECOVER.md", "recover.py"].map(str::to_owned).into_iter();
    let keys = files_below(&vault.world.vault.join("keys")).into_iter().map(|path| relative(&vault.world.vault, &path));
    for (number, object) in names.chain(keys).enumerate() {
        for (harm, name) in [(0, format!("{number}-flip")), (3, format!("{number}-gone"))] {
            let (copy, machine) = vault.copy(&name);
            HARMS[harm].1(&copy.join(&object), 70);
            let found = machine.run(args!["verify", "--depth", "sealed", "--json"]).exits(4).json();
            let named: Vec<_> = alarms(&found).into_iter().filter(|(subject, _)| *subject == object).collect();
            assert!(!named.is_empty(), "{object} {}: {found}", HARMS[harm].0);
            assert_eq!(named[0].1, vault.all(), "{object}: {found}");
        }
    }
    let (copy, machine) = vault.copy("header");
    flip(&copy.join("farkeep-vault.json"), 30);
    machine.run(args!["verify", "--depth", "sealed"]).exits(4).says("farkeep-vault.json");
}

#[test]
fn a_changed_record_is_named_and_its_snapshot_is_listed_no_more() {
    let vault = Vault::new();
    for (number, record) in files_below(&vault.world.vault.join("ledger")).into_iter().enumerate() {
        let (copy, machine) = vault.copy(&format!("record{number}"));
        let name = relative(&vault.world.vault, &record);
        let id = record.file_stem().unwrap().to_str().unwrap().rsplit('-').next().unwrap()[..8].to_owned();
        // A letter of the statement, one of the signature.
        let signature = fs::read_to_string(&record).unwrap().find("-----BEGIN").unwrap() as u64 + 200;
        flip(&copy.join(&name), if number % 2 == 0 { 40 } else { signature });
        machine.run(args!["verify", "--depth", "sealed"]).exits(4).says(&name);
        let listed = machine.run(args!["snapshots", "--json"]).json();
        let ids: Vec<&str> =
            listed["snapshots"].as_array().unwrap().iter().map(|s| &s["id"].as_str().unwrap()[..8]).collect();
        assert!(!ids.contains(&id.as_str()) && ids.len() == 3, "{listed}");
    }
    for record in files_below(&vault.world.vault.join("trust")) {
        let (copy, machine) = vault.copy("trust");
        let name = relative(&vault.world.vault, &record);
        flip(&copy.join(&name), 40);
        machine.run(args!["verify", "--depth", "sealed"]).exits(4).says("trust/");
    }
}

#[test]
fn the_push_after_a_verification_replaces_what_was_damaged() {
    needs!("rsync");
    let vault = Vault::new();
    let world = &vault.world;
    // A pack that the newest snapshot still needs.
    let newest = world.snapshots().last().unwrap()["id"].as_str().unwrap()[..8].to_owned();
    let needed = |object: &&String| object.starts_with("packs/") && vault.needs[*object].contains(&newest);
    let object = vault.needs.keys().find(needed).unwrap();
    flip(&world.vault.join(object), 700);
    world.run(args!["verify", "--depth", "sealed"]).exits(4).says(object);
    world.run(args!["push", world.path("data"), "--json"]);
    let back = world.path("back");
    world.run(args!["restore", "latest", "--into", &back, "--identity", &world.identity]).ok();
    assert_same(&world.path("data"), &Tree::new(world.path("data")).below(&back));
}

#[test]
fn a_further_name_keeps_its_own_file_when_the_first_one_is_not_restored() {
    let world = World::new();
    let tree = world.tree("data");
    tree.noise("first", 200_000, 1).hard_link("first", "second").file("whole", "x").hard_link("whole", "whole too");
    world.push(&tree.root);
    let damaged = world.objects("packs").into_iter().max_by_key(|pack| fs::metadata(pack).unwrap().len()).unwrap();
    flip(&damaged, fs::metadata(&damaged).unwrap().len() / 2);
    for name in ["first", "second", "whole too"] {
        tree.remove(name).file(name, format!("{name} as it is now"));
    }
    let restore = args!["restore", "latest", "--identity", &world.identity, "--in-place", "--on-conflict"];
    for on_conflict in ["replace", "skip"] {
        let run = world.run([restore.clone(), args![on_conflict]].concat());
        assert!([3, 4, 0].contains(&run.code), "{on_conflict}: {run:?}");
        for name in ["first", "second"] {
            assert_eq!(fs::read_to_string(tree.path(name)).unwrap(), format!("{name} as it is now"), "{on_conflict}");
        }
    }
    let run = world.run([restore, args!["replace"]].concat()).exits(4);
    run.says("second: not made another name of");
    // Nothing temporary is left behind.
    assert_eq!(fs::read_dir(&tree.root).unwrap().count(), 4);
}

#[test]
fn what_was_found_stands_until_everything_was_read_again() {
    needs!("rsync");
    let world = World::new();
    let tree = world.tree("data");
    tree.ordinary(10, 1).noise("large", 300_000, 1);
    world.push(&tree.root);
    let pack = world.objects("packs").into_iter().max_by_key(|path| fs::metadata(path).unwrap().len()).unwrap();
    let name = relative(&world.vault, &pack);
    let verify = |more: &[&str], code| world.run(["verify"].iter().chain(more).copied()).exits(code);
    // Whole again, and everything was read: it counts as there.
    flip(&pack, 700);
    verify(&["--depth", "sealed"], 4).says(&name);
    flip(&pack, 700);
    verify(&["--depth", "sealed"], 0);
    assert_eq!(world.push(&tree.root)["new_packs"], 0);

    flip(&pack, 700);
    verify(&["--depth", "sealed"], 4).says(&name);
    // A look at names that finds something else, and one at a part of the bytes: neither has seen that it is right.
    let writer = "f".repeat(32);
    let strange = world.vault.join(format!("ledger/{writer}-1-{}.rec", "0".repeat(64)));
    fs::write(&strange, "nothing").unwrap();
    verify(&["--depth", "list"], 4).says(&writer).never_says(&name);
    fs::remove_file(&strange).unwrap();
    let sample = world.run(args!["verify", "--depth", "sealed", "--sample", "0.001%"]);
    assert!([0, 4].contains(&sample.code), "{}", sample.err);
    assert_ne!(world.push(&tree.root)["new_packs"], 0);
    let back = world.path("back");
    world.restore("latest", &back);
    assert_same(&tree.root, &tree.below(&back));
}

#[test]
fn of_a_pack_that_was_cut_short_comes_back_what_lies_before_the_cut() {
    let world = World::new();
    let tree = world.tree("data");
    let names: Vec<String> = (0..7).map(|number| number.to_string()).collect();
    names.iter().zip(0..).for_each(|(name, seed)| _ = tree.noise(name, 512 << 10, seed));
    world.push(&tree.root);
    let size = |path: &PathBuf| fs::metadata(path).unwrap().len();
    let pack = world.objects("packs").into_iter().max_by_key(size).unwrap();
    // Two blocks, which one read asks for; the first ends before the cut.
    fs::File::options().write(true).open(&pack).unwrap().set_len(3 << 20).unwrap();
    let into = world.path("back");
    world.run(args!["restore", "latest", "--into", &into, "--identity", &world.identity]).exits(4);
    let back = tree.below(&into);
    let came = names.iter().filter(|name| fs::read(back.join(name)).is_ok_and(|c| c == fs::read(tree.path(name)).unwrap()));
    let came = came.count();
    assert!((3..7).contains(&came), "{came} of 7 files came back");
}
