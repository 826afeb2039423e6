//! An export on each kind of file system, and restores from the drive alone.

use std::fs;
use std::os::unix::fs::FileExt;
use std::path::PathBuf;
use std::process::Command;

use crate::world::drive::{Drive, FileSystem};
use crate::world::tools::must;
use crate::world::{args, assert_same, files_below, skipped};
use crate::{enrol, enrolled, enrolled_of};

/// Two weeks on a drive, and then a machine that has never seen the vault.
fn two_weeks(kind: FileSystem, lacks: &[&str]) {
    if let Some(why) = kind.missing() {
        return skipped(&why);
    }
    let (world, drive) = enrolled(kind);
    let enrolment = world.run(args!["ledger", "show", "--kind", "drive", "--json"]).ok().json();
    let said = &enrolment["records"][0]["body"]["event"]["enrol"];
    let absent: Vec<&str> = said["lacks"].as_array().unwrap().iter().map(|one| one.as_str().unwrap()).collect();
    // The kernel's FAT has one more than that of FUSE, and a device to be known by.
    let fat = kind == FileSystem::Fat32;
    assert!(absent == lacks || fat && lacks[..2].iter().all(|one| absent.contains(one)), "{said}");
    assert!(fat || said["identity"]["fs_uuid"].is_string(), "{said}");

    let first = world.run(args!["drive", "export", "a", "--json"]).ok().json();
    assert_eq!((&first["safe"], &first["snapshots"]), (&true.into(), &1.into()), "{first}");
    assert_eq!(first["read_back"], first["objects"]);
    let tree = world.tree("data");
    tree.noise("more", 1 << 20, 3);
    world.push(&tree.root);
    let second = world.run(args!["drive", "export"]).ok().says("safe to unplug").says("2 snapshots");
    assert!(second.out.ends_with("safe to unplug\n"), "{}", second.out);
    let third = world.run(args!["drive", "export", "a", "--unmount", "--json"]).ok().json();
    assert_eq!((&third["objects"], &third["unmounted"]), (&0.into(), &true.into()), "{third}");
    assert_eq!(files_below(&drive.mount), Vec::<std::path::PathBuf>::new(), "it is still mounted");

    drive.plug_in();
    let stranger = world.machine("stranger");
    let back = world.path("back");
    let restore = args!["restore", "latest", "--from", drive.vault(), "--into", &back, "--identity", &world.identity];
    stranger.run(restore).ok();
    assert_same(&tree.root, &tree.below(&back));
    stranger.run(args!["verify", "--from", drive.vault(), "--trust", world.root_key()]).ok().says("all right");
}

#[test]
fn two_weeks_on_ext4() {
    two_weeks(FileSystem::Ext4, &[]);
}

#[test]
fn two_weeks_on_exfat() {
    two_weeks(FileSystem::Exfat, &["chmod", "hard-link", "symlink", "rename-no-replace"]);
}

#[test]
fn two_weeks_on_ntfs() {
    two_weeks(FileSystem::Ntfs, &["chmod", "rename-no-replace"]);
}

#[test]
fn two_weeks_on_fat32() {
    two_weeks(FileSystem::Fat32, &["hard-link", "symlink", "chmod", "rename-no-replace"]);
}

#[test]
fn a_restore_from_a_drive_that_cannot_be_written_works_and_its_record_stays_here() {
    if let Some(why) = FileSystem::Ext4.missing() {
        return skipped(&why);
    }
    // One built without optimisation has over 100 MiB.
    let (world, drive) = enrolled_of(FileSystem::Ext4, 192);
    // A program that does not fit is told before anything is sent.
    let filler = drive.mount.join("filler");
    fs::write(&filler, vec![1; 150 << 20]).unwrap();
    world.run(args!["drive", "export", "--with-binary"]).exits(1).says("nothing was sent");
    fs::remove_file(&filler).unwrap();
    world.run(args!["drive", "export", "--with-binary"]).ok();
    must(Command::new("mount").args(["-o", "remount,ro"]).arg(&drive.mount));
    let (stranger, back, tree) = (world.machine("stranger"), world.path("back"), world.tree("data"));
    let restore = args!["restore", "latest", "--from", drive.vault(), "--into", &back, "--identity", &world.identity];
    // With the program that the drive carries.
    let mut command = Command::new(drive.mount.join("farkeep"));
    stranger.dress(&mut command);
    must(command.args(restore));
    assert_same(&tree.root, &tree.below(&back));
    let verify = args!["ledger", "show", "--from", drive.vault(), "--trust", world.root_key()];
    stranger.run(verify).ok().says("[only here]");
}

#[test]
fn a_drive_without_room_is_told_before_a_byte_is_sent() {
    if let Some(why) = FileSystem::Ext4.missing() {
        return skipped(&why);
    }
    let (world, drive) = enrolled(FileSystem::Ext4);
    world.run(args!["drive", "export"]).ok();
    let tree = world.tree("data");
    tree.noise("large", 100 << 20, 4);
    world.push(&tree.root);
    let before = files_below(&drive.mount);
    world.run(args!["drive", "export"]).exits(1).says("are needed").says("nothing was sent").never_says("safe to unplug");
    assert_eq!(files_below(&drive.mount), before);
    world.run(args!["drive", "status", "--check"]).exits(3).says("NOT ENOUGH");
    assert_eq!(world.run(args!["verify", "--from", drive.vault(), "--json"]).ok().json()["snapshots"], 1);
}

/// As a drive does that has less room than it says, or that writes where it should not: what went there is something else
/// when it is read back.
#[test]
fn what_reads_back_wrong_is_on_no_record_and_is_sent_anew() {
    if let Some(why) = FileSystem::Ext4.missing() {
        return skipped(&why);
    }
    let (world, drive) = enrolled_of(FileSystem::Ext4, 400);
    world.run(args!["drive", "export"]).ok();
    let tree = world.tree("data");
    tree.noise("large", 150 << 20, 4);
    world.push(&tree.root);
    let packs = drive.vault().join("packs");
    let (before, ledger) = (files_below(&packs), files_below(&drive.vault().join("ledger")));
    std::thread::scope(|scope| {
        scope.spawn(|| {
            let arrived = |path: &PathBuf| !before.contains(path) && !path.to_str().unwrap().contains("/tmp-");
            let first = loop {
                if let Some(path) = files_below(&packs).into_iter().find(arrived) {
                    break path;
                }
            };
            let file = fs::OpenOptions::new().write(true).open(first).unwrap();
            file.write_all_at(b"something else", 5 << 20).unwrap();
            file.sync_all().unwrap();
        });
        let export = world.run(args!["drive", "export"]).exits(4);
        export.says("reads back wrong").never_says("safe to unplug");
    });
    assert_eq!(files_below(&drive.vault().join("ledger")), ledger, "no record of what is not there");
    world.run(args!["drive", "export"]).ok().says("safe to unplug");
    world.run(args!["verify", "--from", drive.vault()]).ok().says("2 snapshots");
}

#[test]
fn a_drive_is_brought_up_to_date_from_another_drive() {
    if let Some(why) = FileSystem::Ext4.missing() {
        return skipped(&why);
    }
    let (world, first) = enrolled(FileSystem::Ext4);
    world.run(args!["drive", "export", "a"]).ok();
    let second = Drive::new(world.dir.path(), "drive-b", 96);
    second.plug_in();
    enrol(&world.agent, "b", &second);
    fs::remove_dir_all(&world.vault).unwrap();
    // The record that enrolled b went with the server; this machine still has it.
    world.run(args!["drive", "export", "b", "--from", first.vault()]).ok().says("safe to unplug");
    world.run(args!["verify", "--from", second.vault()]).ok().says("1 snapshot");
}

#[test]
fn a_record_from_elsewhere_reaches_server_and_drive() {
    if let Some(why) = FileSystem::Ext4.missing() {
        return skipped(&why);
    }
    let (world, drive) = enrolled(FileSystem::Ext4);
    world.run(args!["drive", "export"]).ok();
    for copy in [&world.vault, &drive.vault()] {
        let shown = world.run(args!["ledger", "show", "--from", copy]).ok();
        shown.says("enrolled drive a").says("exported 1 snapshot to drive a").never_says("[only here]");
        world.run(args!["ledger", "verify", "--from", copy]).ok();
    }
    // Anybody can check it with stock tools.
    let label = fs::read_to_string(drive.mount.join("farkeep-drive.rec")).unwrap();
    let (line, armor) = label.split_once('\n').unwrap();
    assert!(line.contains("\"kind\":\"drive\""), "{line}");
    let signature = world.path("label.sig");
    fs::write(&signature, armor).unwrap();
    let statement = world.path("label.line");
    fs::write(&statement, format!("{line}\n")).unwrap();
    let check = format!(
        "ssh-keygen -Y check-novalidate -n farkeep-record@v1 -s '{}' < '{}'",
        signature.display(),
        statement.display()
    );
    must(Command::new("sh").args(["-c", &check]));
}
