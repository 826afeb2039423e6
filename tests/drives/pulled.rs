//! The plug is pulled at some point of an export: what was exported before stays, and the next export goes on.

use std::fs;
use std::time::{Duration, Instant};

use crate::enrolled;
use crate::world::drive::FileSystem;
use crate::world::{args, files_below, needs, skipped};

/// Points at which the plug is pulled, as objects that lie on the drive by then.
const POINTS: [usize; 10] = [0, 1, 2, 3, 5, 8, 12, 16, 20, 23];

#[test]
fn a_drive_pulled_at_any_point_keeps_its_last_week_and_takes_up_the_next() {
    if let Some(why) = FileSystem::Ext4.missing() {
        return skipped(&why);
    }
    needs!("python3", "strace", "e2fsck");
    let (world, drive) = enrolled(FileSystem::Ext4);
    world.run(args!["drive", "export", "a"]).ok();
    let tree = world.tree("data");
    let objects = || if drive.vault().exists() { files_below(&drive.vault()).len() } else { 0 };
    for (week, point) in POINTS.into_iter().enumerate() {
        // Each week a push that makes some objects, so that there is something to be cut off.
        for part in 0..3 {
            tree.noise(&format!("week{week}-{part}"), 300_000, (week * 10 + part) as u64);
            world.push(&tree.root);
        }
        let before = objects();
        // Each fsync takes a little, so that there is a point to hit.
        let mut command = std::process::Command::new("strace");
        world.agent.dress(&mut command);
        command.args(["-f", "-qq", "-o", "/dev/null", "-e", "trace=fsync", "-e", "inject=fsync:delay_enter=20000"]);
        command.arg(crate::world::machine::FARKEEP).args(args!["drive", "export", "a"]);
        let mut export = command.stdout(std::process::Stdio::piped()).stderr(std::process::Stdio::piped()).spawn().unwrap();
        let deadline = Instant::now() + Duration::from_secs(60);
        while objects() < before + point && export.try_wait().unwrap().is_none() {
            assert!(Instant::now() < deadline, "point {point} never came");
            std::thread::sleep(Duration::from_millis(1));
        }
        drive.pull();
        let output = export.wait_with_output().unwrap();
        let said = String::from_utf8_lossy(&output.stdout).into_owned();
        assert_eq!(said.contains("safe to unplug"), output.status.success(), "{said}");
        drive.unplug();
        drive.plug_in();
        drive.unplug();
        drive.check();
        drive.plug_in();
        // Whatever the drive lists as a snapshot, it gives back whole.
        let verify = args!["verify", "--from", drive.vault(), "--json"];
        let whole = world.run(verify.clone()).ok().json()["snapshots"].as_u64().unwrap();
        assert!(whole > 3 * week as u64, "{whole} snapshots after week {week}");
        world.run(args!["drive", "export", "a"]).ok().says("safe to unplug");
        assert_eq!(world.run(verify).ok().json()["snapshots"], 1 + 3 * (week as u64 + 1));
    }
}

#[test]
fn a_failed_sync_of_a_file_is_never_reported_as_safe() {
    if let Some(why) = FileSystem::Ext4.missing() {
        return skipped(&why);
    }
    needs!("strace");
    let (world, drive) = enrolled(FileSystem::Ext4);
    // Counted for each thread.
    for when in 1..=6 {
        let mut command = std::process::Command::new("strace");
        world.agent.dress(&mut command);
        let inject = format!("inject=fsync:error=EIO:when={when}");
        command.args(["-f", "-qq", "-o", "/dev/null", "-e", "trace=fsync", "-e", &inject]);
        command.arg(crate::world::machine::FARKEEP).args(args!["drive", "export", "a"]);
        crate::world::Run::of(&mut command).exits(1).never_says("safe to unplug");
        let _ = fs::remove_dir_all(drive.vault());
    }
    world.run(args!["drive", "export", "a"]).ok();
}

#[test]
fn what_a_torn_write_left_with_the_right_size_is_not_believed() {
    if let Some(why) = FileSystem::Exfat.missing() {
        return skipped(&why);
    }
    // exFAT: objects are made at their final name, and a torn one can have its size before it has its bytes.
    let (world, drive) = enrolled(FileSystem::Exfat);
    let packs = world.objects("packs");
    let inside = |path: &std::path::Path| path.strip_prefix(&world.vault).unwrap().to_owned();
    for path in &packs {
        let torn = drive.vault().join(inside(path));
        fs::create_dir_all(torn.parent().unwrap()).unwrap();
        fs::write(&torn, vec![0; fs::metadata(path).unwrap().len() as usize]).unwrap();
    }
    let exported = world.run(args!["drive", "export", "--json"]).ok().json();
    assert_eq!(exported["suffixed"].as_array().unwrap().len(), packs.len(), "{exported}");
    world.run(args!["verify", "--from", drive.vault()]).ok();
}

#[test]
fn a_second_export_waits_for_its_turn() {
    if let Some(why) = FileSystem::Ext4.missing() {
        return skipped(&why);
    }
    let (world, _drive) = enrolled(FileSystem::Ext4);
    let lock = files_below(&world.agent.state)
        .into_iter()
        .find(|path| path.ends_with("lock") && path.to_string_lossy().contains("ratchet"));
    let held = fs::File::open(lock.unwrap()).unwrap();
    rustix::fs::flock(&held, rustix::fs::FlockOperation::LockExclusive).unwrap();
    world.run(args!["drive", "export", "a"]).exits(75).says("another farkeep is at work");
    drop(held);
    world.run(args!["drive", "export", "a"]).ok();
}
