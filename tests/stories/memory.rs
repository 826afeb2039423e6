//! Memory stays within its bounds whatever is backed up: a file of 4 GiB, and 300,000 small ones.

use std::fs;
use std::io::Write;
use std::path::Path;

use crate::world::{Machine, Random, Running, World, args};

const MIB: u64 = 1 << 20;
/// The promise of the design: section 9.
const PUSH_MAX: u64 = 192 * MIB;
const RESTORE_MAX: u64 = 256 * MIB;

/// Runs a command that must be done, and gives the most memory that it held at once.
fn peak_of(machine: &Machine, arguments: Vec<std::ffi::OsString>) -> u64 {
    let mut running = Running::start(machine, arguments);
    let mut peak = 0;
    while !running.has_ended() {
        peak = running.peak_bytes().map_or(peak, |bytes| bytes.max(peak));
        std::thread::sleep(std::time::Duration::from_millis(5));
    }
    running.wait().ok();
    assert!(peak > MIB, "nothing was measured");
    peak
}

/// Pushes and restores what lies at `source`, and holds the peaks against their bounds.
fn measure(world: &World, source: &Path) {
    let pushed = peak_of(&world.agent, args!["push", source]);
    println!("push: {} MiB", pushed / MIB);
    assert!(pushed <= PUSH_MAX, "the push held {} MiB at once", pushed / MIB);
    let again = peak_of(&world.agent, args!["push", source]);
    println!("push of the same: {} MiB", again / MIB);
    assert!(again <= PUSH_MAX, "the push of the same held {} MiB at once", again / MIB);
    let back = world.path("back");
    let restored = peak_of(&world.agent, args!["restore", "latest", "--into", &back, "--identity", &world.identity]);
    println!("restore: {} MiB", restored / MIB);
    assert!(restored <= RESTORE_MAX, "the restore held {} MiB at once", restored / MIB);
    fs::remove_dir_all(back).unwrap();
}

#[test]
fn a_file_of_4_gib_passes_through_in_bounded_memory() {
    let world = World::new();
    let tree = world.tree("data");
    let mut file = fs::File::create(tree.path("large")).unwrap();
    // Half random, half like the disk of a virtual machine; the latter in parts that differ in every page.
    let mut random = Random::new(1);
    let mut image = Random::new(2).disk_image((16 * MIB) as usize);
    for round in 0..128_u64 {
        file.write_all(&random.bytes((16 * MIB) as usize)).unwrap();
        for page in image.chunks_mut(4096).filter(|page| page.iter().any(|byte| *byte != 0)) {
            page[..8].copy_from_slice(&random.next().to_le_bytes());
        }
        image.rotate_left(4096 * (round as usize % 7));
        file.write_all(&image).unwrap();
    }
    drop(file);
    assert_eq!(fs::metadata(tree.path("large")).unwrap().len(), 4096 * MIB);
    measure(&world, &tree.root);
}

#[test]
fn a_tree_of_300000_small_files_passes_through_in_bounded_memory() {
    let world = World::new();
    let tree = world.tree("data");
    for dir in 0..300 {
        let name = format!("directory{dir:03}");
        tree.dir(&name);
        for number in 0..1000 {
            let path = tree.root.join(&name).join(format!("a file with a name of usual length {number:04}.txt"));
            fs::write(path, format!("file {number} of directory {dir}\n")).unwrap();
        }
    }
    measure(&world, &tree.root);
}
