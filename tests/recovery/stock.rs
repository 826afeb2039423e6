//! Each kind of object by the one program that opens it.

use std::collections::BTreeSet;
use std::fs;
use std::process::Command;

use crate::world::tools::{must, ssh_keygen_verifies};
use crate::world::{Random, World, needs};
use crate::{busy, epoch, opened};

#[test]
fn age_and_zstd_open_every_data_and_catalogue_pack() {
    needs!("age", "zstd");
    let world = World::new();
    let tree = world.tree("data");
    tree.ordinary(200, 1).noise("large", 20 << 20, 2).file("zeros", vec![0; 3 << 20]).file("words", "needle in a pack");
    busy(&world);
    let epoch = epoch(&world);
    let packs = world.objects("packs");
    assert!(packs.len() > 3, "{packs:?}");
    let (mut catalogue, mut data) = (Vec::new(), Vec::new());
    for pack in &packs {
        let plain = opened(&epoch, pack);
        if plain.starts_with(b"{\"") { catalogue.extend(plain) } else { data.extend(plain) }
    }
    // Catalogue packs are one JSON object a line.
    let lines: Vec<serde_json::Value> = catalogue
        .split(|b| *b == b'\n')
        .filter(|line| !line.is_empty())
        .map(|line| serde_json::from_slice(line).unwrap())
        .collect();
    let paths: BTreeSet<&str> = lines.iter().filter_map(|line| line["path"].as_str()).collect();
    assert!(paths.len() >= 204, "{} paths", paths.len());
    let holds = |needle: &[u8]| data.windows(needle.len()).any(|window| window == needle);
    assert!(holds(b"needle in a pack") && holds(b"a second night"));
    let large = Random::new(2).bytes(20 << 20);
    let mut random = Random::new(3);
    for _ in 0..20 {
        let at = random.below((large.len() - 64) as u64) as usize;
        let piece = &large[at..at + 32];
        assert!(memory_find(&data, piece), "bytes {at} and on of the large file are in no pack");
    }
}

/// Whether `piece` stands in `data`; by its first bytes, since the data is large.
fn memory_find(data: &[u8], piece: &[u8]) -> bool {
    let first = piece[0];
    let mut rest = data;
    while let Some(at) = rest.iter().position(|byte| *byte == first) {
        if rest[at..].starts_with(piece) {
            return true;
        }
        rest = &rest[at + 1..];
    }
    false
}

#[test]
fn age_and_zstd_open_manifests_and_indexes() {
    needs!("age", "zstd");
    let world = World::new();
    world.tree("data").ordinary(20, 1);
    busy(&world);
    let epoch = epoch(&world);
    for manifest in world.objects("manifests") {
        let json: serde_json::Value = serde_json::from_slice(&opened(&epoch, &manifest)).unwrap();
        assert_eq!((&json["format"], &json["job"]), (&1.into(), &"adhoc".into()), "{json}");
    }
    for index in world.objects("indexes") {
        assert!(opened(&epoch, &index).starts_with(b"FKINDEX1"), "{}", index.display());
    }
}

#[test]
fn ssh_keygen_verifies_every_record() {
    needs!("ssh-keygen");
    let world = World::new();
    world.tree("data").ordinary(20, 1);
    busy(&world);
    let records: Vec<_> = ["ledger", "trust"].into_iter().flat_map(|area| world.objects(area)).collect();
    let mut kinds = BTreeSet::new();
    for record in records {
        let text = fs::read_to_string(&record).unwrap();
        let (line, armor) = text.split_at(text.find('\n').unwrap() + 1);
        let statement: serde_json::Value = serde_json::from_str(line).unwrap();
        let namespace = if statement["kind"] == "trust" { "farkeep-trust@v1" } else { "farkeep-record@v1" };
        assert!(verifies(&world, line, armor, namespace), "{}", record.display());
        // The same signature over anything else, or for another purpose, is none.
        assert!(!verifies(&world, &line.replace("\"seq\":", "\"seq\":1"), armor, namespace), "{}", record.display());
        assert!(!verifies(&world, line, armor, "file"), "{}", record.display());
        kinds.insert(statement["kind"].as_str().unwrap().to_owned());
    }
    let all: BTreeSet<String> =
        ["trust", "snapshot", "verify", "restore-intent", "restore-outcome"].map(str::to_owned).into();
    assert_eq!(kinds, all);
}

/// `ssh-keygen -Y verify` with the key that the signature names as the only one allowed.
fn verifies(world: &World, line: &str, armor: &str, namespace: &str) -> bool {
    let key = farkeep::crypto::sign::signer(armor).unwrap().to_openssh();
    ssh_keygen_verifies(world.dir.path(), &key, line, armor, namespace)
}

#[test]
fn b3sum_checks_every_inventory_page_from_the_root() {
    needs!("b3sum");
    let world = World::new();
    world.tree("data").ordinary(100, 1);
    busy(&world);
    let pages = world.objects("inventories");
    assert!(pages.len() > 2, "{pages:?}");
    let check =
        |page: &std::path::Path| Command::new("b3sum").arg("--check").arg(page).current_dir(&world.vault).output().unwrap();
    let mut listed = BTreeSet::new();
    for page in &pages {
        let output = check(page);
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        let text = fs::read_to_string(page).unwrap();
        listed.extend(text.lines().map(|line| line.split_once("  ").unwrap().1.to_owned()));
    }
    // Together they list everything but records and the roots themselves.
    let all = crate::world::files_below(&world.vault);
    let names = all.iter().map(|path| path.strip_prefix(&world.vault).unwrap().to_str().unwrap().to_owned());
    for name in names.filter(|name| !name.starts_with("ledger/") && !name.starts_with("inventories/")) {
        assert!(listed.contains(&name), "no page lists {name}");
    }
    // Within the age header: the smallest pack is hardly longer.
    crate::world::flip(&world.objects("packs")[0], 100);
    assert!(pages.iter().any(|page| !check(page).status.success()), "b3sum does not see a flipped bit");
}

#[test]
fn names_say_what_b3sum_says() {
    needs!("b3sum");
    let world = World::new();
    world.tree("data").ordinary(20, 1);
    busy(&world);
    for area in ["packs", "indexes", "manifests", "inventories", "keys"] {
        for path in world.objects(area) {
            let hash = must(Command::new("b3sum").arg("--no-names").arg(&path));
            let bytes = fs::metadata(&path).unwrap().len();
            let name = path.file_name().unwrap().to_str().unwrap();
            assert!(name.trim_end_matches(".age").ends_with(&format!("{}-{bytes}", hash.trim())), "{name}");
        }
    }
}
