//! Parity on a drive mends bad sectors without any key and without another copy.

use std::fs;
use std::os::unix::fs::{FileExt, PermissionsExt};
use std::path::{Path, PathBuf};

use crate::world::drive::{Drive, FileSystem};
use crate::world::{Random, World, args, files_below, skipped};

const SECTOR: usize = 4096;
/// What parity covers, and itself.
const AREAS: [&str; 6] = ["keys", "packs", "indexes", "manifests", "inventories", "parity"];

/// Turns `percent` of the sectors of a drive's objects into noise.
pub fn spoil(vault: &Path, percent: u64, seed: u64) -> usize {
    let mut random = Random::new(seed);
    let mut spoilt = 0;
    for path in AREAS.iter().flat_map(|area| files_below(&vault.join(area))) {
        fs::set_permissions(&path, fs::Permissions::from_mode(0o640)).unwrap();
        let file = fs::File::options().write(true).open(&path).unwrap();
        let bytes = file.metadata().unwrap().len() as usize;
        for at in (0..bytes).step_by(SECTOR) {
            if random.below(100) < percent {
                let noise = random.bytes(SECTOR.min(bytes - at));
                file.write_all_at(&noise, at as u64).unwrap();
                spoilt += 1;
            }
        }
    }
    spoilt
}

/// Every object of the server lies on the drive too, byte for byte, under its name or a suffix.
fn same_objects(world: &World, vault: &Path) {
    let on_drive: Vec<Vec<u8>> = files_below(vault).iter().map(|path| fs::read(path).unwrap()).collect();
    for area in &AREAS[..5] {
        for path in world.objects(area) {
            let bytes = fs::read(&path).unwrap();
            assert!(on_drive.contains(&bytes), "{}", path.display());
        }
    }
}

fn exported() -> (World, Drive) {
    let world = World::new();
    let tree = world.tree("data");
    tree.ordinary(100, 1).noise("noise", 12 << 20, 2);
    world.push(&tree.root);
    world.agent.configure("[drive.a]\nparity = \"5%\"\n");
    let drive = Drive::new(world.dir.path(), "drive-a", 96);
    drive.plug_in();
    crate::enrol(&world.agent, "a", &drive);
    world.run(args!["drive", "export", "a"]).ok().says("of parity made");
    (world, drive)
}

#[test]
fn five_percent_of_parity_mends_four_percent_of_random_damage() {
    if let Some(why) = FileSystem::Ext4.missing() {
        return skipped(&why);
    }
    let (world, drive) = exported();
    let parity = crate::world::bytes_below(&drive.vault().join("parity"));
    assert!((600_000..1_100_000).contains(&parity), "{parity} bytes of parity for 12 MiB");
    // The second week's objects get parity of their own, and the first week's is left as it is.
    let tree = world.tree("data");
    tree.noise("more", 1 << 20, 3);
    world.push(&tree.root);
    let made = world.run(args!["drive", "export", "a", "--json"]).ok().json()["parity"].clone();
    assert_eq!(made["made"], 1, "{made}");

    assert!(spoil(&drive.vault(), 4, 5) > 100);
    let stranger = world.machine("stranger");
    let verify = args!["verify", "--from", drive.vault(), "--trust", world.root_key()];
    stranger.run(verify.clone()).exits(4);
    let mut repair = verify.clone();
    repair.push("--repair".into());
    stranger.run(repair).exits(3).says("mended by parity").says("pieces of 4 KiB");
    stranger.run(verify).ok().says("2 snapshots");
    same_objects(&world, &drive.vault());
}

#[test]
fn more_damage_than_parity_can_mend_is_said_and_heals_from_the_server() {
    if let Some(why) = FileSystem::Ext4.missing() {
        return skipped(&why);
    }
    let (world, drive) = exported();
    spoil(&drive.vault(), 30, 6);
    let repair = args!["verify", "--from", drive.vault(), "--repair"];
    world.run(repair).exits(4).says("not mended");
    world.run(args!["sync", drive.vault(), "--from", &world.vault]).ok();
    world.run(args!["verify", "--from", drive.vault()]).ok();
    same_objects(&world, &drive.vault());
}

#[test]
fn parity_that_would_mend_nothing_is_found_and_the_next_export_makes_it_anew() {
    if let Some(why) = FileSystem::Ext4.missing() {
        return skipped(&why);
    }
    let (world, drive) = exported();
    let parity = files_below(&drive.vault().join("parity"));
    for path in &parity {
        fs::set_permissions(path, fs::Permissions::from_mode(0o640)).unwrap();
        fs::write(path, vec![0; fs::metadata(path).unwrap().len() as usize]).unwrap();
    }
    world.run(args!["verify", "--from", "a", "--depth", "list"]).ok();
    world.run(args!["verify", "--from", "a"]).exits(4).says("parity/").says("its BLAKE3 is not the one that its name says");
    world
        .run(args!["verify", "--from", "a", "--repair"])
        .exits(4)
        .says("the next `drive export` makes it anew")
        .says("nothing is left");
    let made = world.run(args!["drive", "export", "a", "--again", "--json"]).ok().json()["parity"].clone();
    assert_eq!(made["made"], parity.len(), "{made}");
    world.run(args!["verify", "--from", "a"]).ok();
    assert!(spoil(&drive.vault(), 2, 7) > 50);
    world.run(args!["verify", "--from", "a", "--repair"]).exits(3).says("made anew from what it covers");
    world.run(args!["verify", "--from", "a"]).ok();
}

#[test]
fn a_lost_sector_of_header_or_trust_costs_nothing() {
    if let Some(why) = FileSystem::Ext4.missing() {
        return skipped(&why);
    }
    let (world, drive) = exported();
    let stranger = world.machine("stranger");
    let restore = |into: &str| {
        let trust = world.root_key();
        let from = args!["restore", "latest", "--from", drive.vault(), "--trust", trust, "--identity", &world.identity];
        let mut all = from;
        all.extend(args!["--into", world.path(into)]);
        stranger.run(all).ok();
    };
    let trust = files_below(&drive.vault().join("trust"));
    let trust = trust.iter().find(|path| path.extension().is_some_and(|end| end == "rec")).unwrap();
    for (number, path) in [drive.vault().join("farkeep-vault.json"), trust.clone()].iter().enumerate() {
        fs::set_permissions(path, fs::Permissions::from_mode(0o640)).unwrap();
        fs::write(path, vec![0; fs::metadata(path).unwrap().len() as usize]).unwrap();
        restore(&format!("back-{number}"));
    }
    world.run(args!["drive", "export", "a", "--again"]).ok();
    world.run(args!["verify", "--from", "a"]).ok();
}

#[test]
fn a_copy_without_parity_says_so() {
    let world = crate::pushed();
    let packs: Vec<PathBuf> = world.objects("packs");
    crate::world::flip(&packs[0], 1000);
    world.run(args!["verify", "--repair"]).exits(4).says("no parity covers it");
    world.run(args!["verify", "--repair", "--depth", "list"]).exits(2);
}
