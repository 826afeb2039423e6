//! A server whose disk is full: said so, no torn record, and the next push goes on with what arrived.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

use crate::world::drive::Drive;
use crate::world::server::{Server, missing};
use crate::world::{World, args, assert_same, files_below, missing_tool, skipped};

#[test]
fn a_full_server_is_named_and_the_next_push_goes_on() {
    if let Some(why) = missing().or_else(|| missing_tool("mkfs.ext4")) {
        return skipped(&why);
    }
    let server = Server::start();
    let disk = Drive::new(server.chroot.path(), "disk", 128);
    disk.plug_in();
    fs::set_permissions(&disk.mount, fs::Permissions::from_mode(0o755)).unwrap();
    let vault = server.lay_out("disk/vault");
    let world = World::bare();
    let url = server.url().replace("/vault", "/disk/vault");
    world.init(&args!["--store", url, "--ssh-key", &server.writer_key.private, "--host-key", server.host_key()]);
    let tree = world.tree("data");
    tree.ordinary(20, 1);
    world.push(&tree.root);
    let records = files_below(&vault.join("ledger"));
    // Something else on that disk leaves room for two packs of three.
    let other = disk.mount.join("other");
    fill(&other, 44 << 20);

    // In the middle of a push.
    tree.noise("large", 56 << 20, 2);
    world.run(args!["push", &tree.root]).exits(1).says("no room left").says("make room and run it again");
    assert_eq!(files_below(&vault.join("ledger")), records, "no record is begun");
    let is_whole = |pack: &PathBuf| pack.metadata().unwrap().len() == bytes_of(pack);
    let arrived: Vec<PathBuf> = files_below(&vault.join("packs")).into_iter().filter(is_whole).collect();
    let large = arrived.iter().filter(|pack| bytes_of(pack) > 16 << 20).count();
    assert!(large >= 2, "{arrived:?}");

    // What is known to be full is not written to, not even debris.
    let before = files_below(&vault);
    fill(&vault.join("filled"), 0);
    world.run(args!["push", &tree.root]).exits(1).says("no room left");
    fs::remove_file(vault.join("filled")).unwrap();
    assert_eq!(files_below(&vault), before);
    world.run(args!["verify", "--depth", "list"]).ok();

    // With room again, only what had not arrived is sent.
    fs::remove_file(other).unwrap();
    let pushed = world.push(&tree.root);
    let sent = pushed["stores"][0]["sent_bytes"].as_u64().unwrap();
    let missing = (57 << 20) - arrived.iter().map(|pack| bytes_of(pack)).sum::<u64>();
    assert!(sent < missing, "{sent} of {missing} although {} packs had arrived", arrived.len());
    let back = world.path("back");
    world.restore("latest", &back);
    assert_same(&tree.root, &tree.below(&back));
}

/// The size that a pack's name promises.
fn bytes_of(pack: &Path) -> u64 {
    pack.file_name().unwrap().to_string_lossy().rsplit('-').next().unwrap().parse().unwrap_or(0)
}

/// Takes all the room but so many bytes.
fn fill(path: &Path, left: u64) {
    let mut file = fs::File::create(path).unwrap();
    let piece = vec![0; 4 << 10];
    while std::io::Write::write_all(&mut file, &piece).is_ok() {}
    let bytes = file.metadata().unwrap().len();
    file.set_len(bytes.checked_sub(left).unwrap()).unwrap();
}
