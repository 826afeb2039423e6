//! The weekly drive: a copy of the server's copy, on a mounted file system, made without any key that opens it.

use std::fs;
use std::process::Command;

use crate::world::drive::Drive;
use crate::world::server::Server;
use crate::world::tools::must;
use crate::world::{World, args, assert_same, bytes_below, files_below, needs};

#[test]
fn a_drive_is_brought_up_to_date_from_the_server_without_any_identity_and_restores_alone() {
    needs!(root);
    needs!("mkfs.ext4", "rsync", "setfacl");
    needs!(server);
    let server = Server::start();
    let world = server.world();
    let tree = world.tree("data");
    tree.everything().ordinary(200, 1);
    world.push(&tree.root);
    let custodian = server.reader(&world);
    let drive = Drive::new(world.dir.path(), "drive", 400);
    drive.plug_in();
    let copy = drive.mount.join("vault");
    let first = custodian.run(args!["sync", &copy, "--from", "server"]).ok().says("safe to unplug");
    assert!(first.out.contains("1 snapshot"), "{}", first.out);

    // Next week: only what is new.
    tree.noise("new", 3_000_000, 7);
    world.push(&tree.root);
    let before = files_below(&copy.join("packs")).len();
    let second = custodian.run(args!["sync", &copy, "--from", "server", "--json"]).ok().json();
    assert!(second["bytes"].as_u64().unwrap() < 4_000_000, "{second}");
    assert_eq!((&second["snapshots"], &second["safe"]), (&2.into(), &true.into()));
    assert!(files_below(&copy.join("packs")).len() > before);
    let third = custodian.run(args!["sync", &copy, "--from", "server", "--json"]).ok().json();
    assert_eq!(third["objects"], 0);

    // The server and the agent are gone; the drive is enough.
    let (identity, root) = (world.identity.clone(), world.root_key());
    drop(server);
    drive.unplug();
    drive.check();
    drive.plug_in();
    let station = world.machine("station");
    station.run(args!["verify", "--depth", "sealed", "--from", &copy, "--trust", &root]).ok();
    let back = world.path("back");
    let restore =
        args!["restore", "latest", "--from", &copy, "--trust", &root, "--into", &back, "--identity", &identity, "--special"];
    station.run(restore).ok();
    assert_same(&tree.root, &tree.below(&back));
    drive.unplug();
}

#[test]
fn a_bare_mount_point_gets_not_one_byte() {
    needs!(root);
    needs!("mkfs.ext4");
    let world = World::new();
    let tree = world.tree("data");
    tree.ordinary(20, 1);
    world.push(&tree.root);
    let drive = Drive::new(world.dir.path(), "drive", 64);
    let copy = drive.mount.join("vault");
    for target in [&drive.mount, &copy] {
        world.run(args!["sync", target, "--from", &world.vault]).exits(75).says("not one byte");
        assert_eq!(files_below(&drive.mount).len() + fs::read_dir(&drive.mount).unwrap().count(), 0);
    }
    // As a store of the configuration it is refused alike.
    world.agent.configure(&format!("[store.drive]\nurl = \"{}\"", copy.display()));
    world.run(args!["sync", "drive", "--from", &world.vault]).exits(75);
    assert_eq!(fs::read_dir(&drive.mount).unwrap().count(), 0);

    drive.plug_in();
    world.run(args!["sync", "drive", "--from", &world.vault]).ok().says("safe to unplug");
    // A drive whose content lies deep in another one is no drive, and neither is the source's own file system.
    fs::create_dir_all(drive.mount.join("a/b")).unwrap();
    world.run(args!["sync", drive.mount.join("a/b/vault"), "--from", &world.vault]).exits(2).says("--plain-directory");
    world.run(args!["sync", drive.mount.join("other"), "--from", "drive"]).exits(2).says("same file system");
    drive.unplug();
    // The drive went home: what is there now is the mount point.
    world.run(args!["sync", "drive", "--from", &world.vault]).exits(75);
    assert_eq!(fs::read_dir(&drive.mount).unwrap().count(), 0);
}

#[test]
fn a_plain_directory_is_a_copy_when_that_was_asked_for() {
    needs!("rsync");
    let world = World::new();
    let tree = world.tree("data");
    tree.ordinary(20, 1);
    world.push(&tree.root);
    let copy = world.path("copy");
    world.run(args!["sync", &copy, "--from", &world.vault]).exits(75);
    assert!(!copy.exists());
    let copied = world.run(args!["sync", &copy, "--from", &world.vault, "--plain-directory"]).ok();
    copied.says("nothing to unplug").never_says("safe to unplug");
    world.agent.configure(&format!("[store.second]\nurl = \"{}\"\nplain_directory = true", world.path("second").display()));
    world.run(args!["sync", "second", "--from", &copy]).ok();
    let station = world.machine("station");
    for place in [copy, world.path("second")] {
        station.run(args!["verify", "--depth", "sealed", "--from", &place, "--trust", world.root_key()]).ok();
        let back = world.path("back");
        station.run(args!["restore", "latest", "--from", &place, "--into", &back, "--identity", &world.identity]).ok();
        assert_same(&tree.root, &tree.below(&back));
        fs::remove_dir_all(back).unwrap();
    }
}

#[test]
fn a_drive_that_is_full_keeps_what_it_had_and_goes_on_after_there_is_room() {
    needs!(root);
    needs!("mkfs.ext4");
    let world = World::new();
    let tree = world.tree("data");
    tree.noise("first", 8 << 20, 1);
    world.push(&tree.root);
    let drive = Drive::new(world.dir.path(), "drive", 64);
    drive.plug_in();
    let copy = drive.mount.join("vault");
    let sync = args!["sync", &copy, "--from", &world.vault];
    world.run(sync.clone()).ok();
    tree.noise("second", 24 << 20, 2);
    world.push(&tree.root);
    let taken = drive.mount.join("taken");
    must(Command::new("fallocate").args(["-l", "30M"]).arg(&taken));
    world.run(sync.clone()).exits(1).never_says("safe to unplug");
    let station = world.machine("station");
    let check = args!["verify", "--depth", "sealed", "--from", &copy, "--trust", world.root_key(), "--json"];
    assert_eq!(station.run(check.clone()).ok().json()["snapshots"], 1);
    fs::remove_file(&taken).unwrap();
    world.run(sync).ok().says("safe to unplug");
    assert_eq!(station.run(check).ok().json()["snapshots"], 2);
    assert!(bytes_below(&copy) > 32 << 20);
    drive.unplug();
}

#[test]
fn a_damaged_object_of_the_source_is_not_copied_and_the_drive_heals_the_source() {
    let world = World::new();
    let tree = world.tree("data");
    tree.noise("file", 1_000_000, 1);
    world.push(&tree.root);
    let (good, late) = (world.path("good"), world.path("late"));
    world.run(args!["sync", &good, "--from", &world.vault, "--plain-directory"]).ok();
    let pack = world.objects("packs")[0].clone();
    let name = pack.strip_prefix(&world.vault).unwrap().to_str().unwrap().to_owned();
    crate::world::flip(&pack, 1000);
    world
        .run(args!["sync", &late, "--from", &world.vault, "--plain-directory"])
        .exits(4)
        .says(&name)
        .never_says("safe to unplug");
    assert!(!late.join(&name).exists());
    // From the good copy comes what is damaged here, beside the debris, once verification has said that it is.
    world.run(args!["verify", "--depth", "sealed", "--from", &world.vault]).exits(4);
    world.run(args!["sync", &world.vault, "--from", &good, "--plain-directory"]).ok();
    world.run(args!["verify", "--depth", "sealed", "--from", &world.vault]).ok();
}

#[test]
fn a_strangers_word_about_a_drive_sends_nothing_again_and_that_of_its_custodian_does() {
    let world = World::new();
    let tree = world.tree("data");
    tree.noise("file", 100_000, 1);
    world.push(&tree.root);
    let copy = world.path("copy");
    let (custodian, stranger) = (world.machine("custodian"), world.machine("stranger"));
    let sync = || {
        let sync = args!["sync", &copy, "--from", &world.vault, "--plain-directory", "--trust", world.root_key(), "--json"];
        custodian.run(sync).ok().json()
    };
    assert!(sync()["objects"].as_u64().unwrap() > 5);
    let pack = files_below(&copy.join("packs")).remove(0);
    let verify = args!["verify", "--depth", "sealed", "--from", &copy, "--trust", world.root_key()];
    crate::world::flip(&pack, 500);
    stranger.run(verify.clone()).exits(4);
    crate::world::flip(&pack, 500);
    assert_eq!(sync()["objects"], 0);
    crate::world::flip(&pack, 500);
    custodian.run(verify.clone()).exits(4);
    assert_eq!(sync()["objects"], 1);
    custodian.run(verify).ok();
    assert_eq!(sync()["objects"], 0);
}
