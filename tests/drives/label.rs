//! Is it there, and is it the one? Before that is known, not one byte is written.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use crate::world::drive::{Drive, FileSystem};
use crate::world::tools::must;
use crate::world::{args, files_below, needs, skipped};
use crate::{enrol, enrolled, pushed};

#[test]
fn a_missing_drive_is_75_names_the_one_that_is_due_and_its_mount_point_stays_empty() {
    if let Some(why) = FileSystem::Ext4.missing() {
        return skipped(&why);
    }
    let (world, drive) = enrolled(FileSystem::Ext4);
    drive.unplug();
    for command in [args!["drive", "export", "a"], args!["drive", "export"], args!["drive", "export", "a", "--again"]] {
        world.run(command).exits(75).says("due is drive a").says("not one byte was written");
    }
    assert_eq!(files_below(&drive.mount), Vec::<PathBuf>::new());
    // A directory of the same file system mounted over itself is still no drive.
    must(Command::new("mount").arg("--bind").arg(&drive.mount).arg(&drive.mount));
    world.run(args!["drive", "export", "a"]).exits(75);
    drive.unplug();
    assert_eq!(files_below(&drive.mount), Vec::<PathBuf>::new());
}

#[test]
fn only_a_mounted_and_encrypted_drive_is_enrolled_and_only_once() {
    if let Some(why) = FileSystem::Ext4.missing() {
        return skipped(&why);
    }
    let world = pushed();
    let drive = Drive::new(world.dir.path(), "drive-a", 64);
    let enrol = |name: &str, path: &Path| args!["drive", "enrol", name, path, "--allow-plain"];
    world.run(enrol("a", &drive.mount)).exits(75).says("nothing is mounted");
    world.run(enrol("a", Path::new("/"))).exits(75);
    drive.plug_in();
    fs::create_dir(drive.mount.join("deep")).unwrap();
    world.run(enrol("a", &drive.mount.join("deep"))).exits(2).says("no mount point");
    world.run(args!["drive", "enrol", "a", &drive.mount]).exits(2).says("--allow-plain").says("dm-crypt");
    assert!(!drive.mount.join("farkeep-drive.rec").exists());
    world.run(args!["drive", "enrol", "../a", &drive.mount]).exits(2);
    world.run(enrol("a", &drive.mount)).ok().says("NOT encrypted");
    world.run(enrol("b", &drive.mount)).exits(2).says("enrolled already, as drive a");
    let other = Drive::new(world.dir.path(), "drive-b", 64);
    other.plug_in();
    world.run(enrol("a", &other.mount)).exits(2).says("retire it first");
}

#[test]
fn a_plug_pulled_before_the_label_was_written_is_made_good_by_the_same_command() {
    if let Some(why) = FileSystem::Ext4.missing() {
        return skipped(&why);
    }
    let (world, drive) = enrolled(FileSystem::Ext4);
    let label = drive.mount.join("farkeep-drive.rec");
    let bytes = fs::read(&label).unwrap();
    fs::remove_file(&label).unwrap();
    world.run(args!["drive", "export", "a"]).exits(4).says("no label");
    enrol(&world.agent, "a", &drive);
    assert_eq!(fs::read(&label).unwrap(), bytes);
    fs::remove_file(&label).unwrap();
    fs::write(&label, &bytes[..100]).unwrap();
    world.run(args!["drive", "export", "a"]).exits(4).says("no label");
    enrol(&world.agent, "a", &drive);
    assert_eq!(fs::read(drive.mount.join("farkeep-drive.rec.1")).unwrap(), bytes);
    world.run(args!["drive", "export", "a"]).ok();
}

#[test]
fn foreign_and_swapped_drives_are_refused_and_stay_as_they_were() {
    if let Some(why) = FileSystem::Ext4.missing() {
        return skipped(&why);
    }
    let (world, a) = enrolled(FileSystem::Ext4);
    let (b, blank) = (Drive::new(world.dir.path(), "drive-b", 64), Drive::new(world.dir.path(), "blank", 64));
    b.plug_in();
    enrol(&world.agent, "b", &b);
    for drive in [&a, &b] {
        drive.unplug();
    }
    let refused = |drive: &Drive, why: &str| {
        drive.plug_in_at(&a.mount);
        let before = files_below(&a.mount);
        world.run(args!["drive", "export", "a"]).exits(4).says(why).says("nothing was written");
        assert_eq!(files_below(&a.mount), before);
        a.unplug();
    };
    refused(&b, "this is drive b, not a");
    refused(&blank, "no label");

    // A drive of somebody else's vault.
    let other = pushed();
    let foreign = Drive::new(other.dir.path(), "foreign", 64);
    foreign.plug_in();
    enrol(&other.agent, "a", &foreign);
    foreign.unplug();
    refused(&foreign, "another vault");

    // One that a stranger labelled for this vault.
    let stranger = world.machine("stranger");
    let forged = Drive::new(world.dir.path(), "forged", 64);
    forged.plug_in();
    let copy = world.path("copy");
    must(Command::new("cp").arg("-r").arg(&world.vault).arg(&copy));
    stranger
        .run(args!["drive", "enrol", "a", &forged.mount, "--allow-plain", "--from", &copy, "--trust", world.root_key()])
        .ok();
    forged.unplug();
    refused(&forged, "older one of drive a");
}

#[test]
fn a_clone_of_a_drive_is_refused() {
    if let Some(why) = FileSystem::Ext4.missing() {
        return skipped(&why);
    }
    needs!("tune2fs");
    let (world, drive) = enrolled(FileSystem::Ext4);
    world.run(args!["drive", "export", "a"]).ok();
    drive.unplug();
    let clone = drive.clone_as(world.dir.path(), "clone");

    // Bit for bit the same, and both are there.
    drive.plug_in();
    clone.plug_in();
    world.run(args!["drive", "export", "a"]).exits(4).says("clone");
    clone.unplug();
    world.run(args!["drive", "export", "a"]).ok();

    // In the place of the original, which has gone on since: it lacks what was seen.
    drive.unplug();
    clone.plug_in_at(&drive.mount);
    world.run(args!["drive", "export", "a"]).exits(4).says("rolled back").says("nothing was written");
    drive.unplug();

    // Its files on a file system of another UUID.
    // It wants a file system that was looked at.
    let _ = Command::new("e2fsck").args(["-f", "-y"]).arg(&clone.image).output();
    must(Command::new("tune2fs").args(["-U", "random"]).arg(&clone.image));
    clone.plug_in_at(&drive.mount);
    let before = files_below(&drive.mount);
    world.run(args!["drive", "export", "a"]).exits(4).says("a clone?").says("file system");
    assert_eq!(files_below(&drive.mount), before);
}

#[test]
fn a_locked_luks_container_is_recognised_by_its_header() {
    needs!("cryptsetup");
    let world = pushed();
    let image = world.path("luks.img");
    fs::File::create(&image).unwrap().set_len(32 << 20).unwrap();
    fs::write(world.path("pass"), "secret").unwrap();
    for version in ["luks1", "luks2"] {
        let quick = ["--batch-mode", "--type", version, "--pbkdf", "pbkdf2", "--pbkdf-force-iterations", "1000"];
        must(Command::new("cryptsetup").arg("luksFormat").args(quick).arg(&image).arg(world.path("pass")));
        let uuid = must(Command::new("cryptsetup").arg("luksUUID").arg(&image));
        let refused = world.run(args!["drive", "enrol", "a", &image]).exits(2);
        refused.says(&version.replace("luks", "LUKS")).says(uuid.trim()).says("cryptsetup open");
    }
}

#[test]
fn an_opened_luks_volume_is_enrolled_as_encrypted() {
    needs!(root);
    needs!("cryptsetup", "mkfs.ext4");
    // A kernel without it cannot open one; a recorded sysfs tree stands in for it in the unit tests.
    if !Path::new("/sys/class/misc/device-mapper").exists() {
        println!("this kernel has no device mapper, so no LUKS volume was opened");
        return;
    }
    let world = pushed();
    let (image, mount) = (world.path("luks.img"), world.path("luks"));
    fs::File::create(&image).unwrap().set_len(96 << 20).unwrap();
    fs::create_dir(&mount).unwrap();
    fs::write(world.path("pass"), "secret").unwrap();
    let name = format!("farkeep-test-{}", std::process::id());
    let key = ["--batch-mode", "--key-file"];
    must(Command::new("cryptsetup").arg("luksFormat").args(key).arg(world.path("pass")).arg(&image));
    must(Command::new("cryptsetup").arg("open").args(key).arg(world.path("pass")).arg(&image).arg(&name));
    let device = format!("/dev/mapper/{name}");
    must(Command::new("mkfs.ext4").arg("-q").arg(&device));
    must(Command::new("mount").arg(&device).arg(&mount));
    let enrolled = world.run(args!["drive", "enrol", "a", &mount, "--json"]);
    let exported = world.run(args!["drive", "export", "a", "--unmount"]);
    let _ = Command::new("umount").arg("-q").arg(&mount).output();
    must(Command::new("cryptsetup").arg("close").arg(&name));
    assert_eq!(enrolled.ok().json()["enrolment"]["encrypted"], true);
    exported.ok().says("safe to unplug");
}
