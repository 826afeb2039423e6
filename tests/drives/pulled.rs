//! The plug is pulled at some point of an export: what was exported before stays, and the next export goes on.

use std::ffi::OsString;
use std::fs;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use crate::enrolled;
use crate::world::drive::{Drive, FileSystem};
use crate::world::machine::FARKEEP;
use crate::world::{Run, World, args, files_below, needs, skipped};

/// How often the plug is pulled, spread evenly over an export; `FARKEEP_PULLS` says otherwise, as in a full run of 100.
const PULLS: usize = 12;
/// What makes an export's work durable, here and on the drive: between any two of these calls the plug may be pulled.
const DURABLE: &str = "fsync,renameat2,syncfs";

/// Runs farkeep and pulls the plug once it has made so many of `calls`; none never does. Gives how many it made in all.
fn run_and_pull(world: &World, drive: &Drive, what: Vec<OsString>, calls: &str, after: Option<usize>) -> (usize, Run) {
    let log = world.path("calls");
    let _ = fs::remove_file(&log);
    let made = || fs::read(&log).map_or(0, |text| text.iter().filter(|byte| **byte == b'\n').count());
    let mut command = Command::new("strace");
    world.agent.dress(&mut command);
    // Each call takes a little, so that there is a moment to hit.
    let (trace, slow) = (format!("trace={calls}"), format!("inject={calls}:delay_enter=8000"));
    command.args(["-f", "-qq", "-e", &trace, "-e", &slow, "-o"]).arg(&log).arg(FARKEEP).args(what);
    let hand = after.map(|_| drive.hand());
    let mut running = command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
    let deadline = Instant::now() + Duration::from_secs(120);
    while after.is_none_or(|after| made() < after) && running.try_wait().unwrap().is_none() {
        assert!(Instant::now() < deadline, "call {after:?} never came");
        std::thread::sleep(Duration::from_millis(1));
    }
    if let Some(hand) = hand {
        hand.pull();
    }
    let run = Run::new(&running.wait_with_output().unwrap(), &command);
    (made(), run)
}

/// An export, pulled; gives how many durable calls it made, and whether it said that all is safe.
fn export_and_pull(world: &World, drive: &Drive, after: Option<usize>) -> (usize, bool) {
    let (calls, run) = run_and_pull(world, drive, args!["drive", "export", "a"], DURABLE, after);
    assert_eq!(run.out.contains("safe to unplug"), run.code == 0, "{run:?}");
    (calls, run.code == 0)
}

#[test]
fn a_drive_pulled_while_it_is_verified_is_out_of_reach_and_not_damaged() {
    if let Some(why) = FileSystem::Ext4.missing() {
        return skipped(&why);
    }
    needs!("python3", "strace");
    let (world, drive) = enrolled(FileSystem::Ext4);
    world.run(args!["drive", "export", "a"]).ok();
    let verify = args!["verify", "--from", drive.vault()];
    let (reads, _) = run_and_pull(&world, &drive, verify.clone(), "pread64", None);
    for after in [reads / 3, reads / 2] {
        let (_, run) = run_and_pull(&world, &drive, verify.clone(), "pread64", Some(after));
        run.exits(5).says("does not answer any more").never_says("DAMAGED");
        drive.unplug();
        drive.plug_in();
    }
    // Nothing was said against what lies there, so nothing is read again.
    assert_eq!(world.run(args!["drive", "export", "a", "--json"]).ok().json()["read_back"], 0);
    world.run(verify).ok();
}

#[test]
fn a_drive_pulled_at_any_point_keeps_its_last_week_and_takes_up_the_next() {
    if let Some(why) = FileSystem::Ext4.missing() {
        return skipped(&why);
    }
    needs!("python3", "strace", "e2fsck");
    let pulls = std::env::var("FARKEEP_PULLS").map_or(PULLS, |number| number.parse().unwrap());
    let world = crate::pushed();
    let drive = Drive::new(world.dir.path(), "drive-a", 64 + 2 * pulls as u64);
    drive.plug_in();
    crate::enrol(&world.agent, "a", &drive);
    world.run(args!["drive", "export", "a"]).ok();
    let tree = world.tree("data");
    // Each week two pushes, so that there is something to be cut off between them.
    let a_week = |week: usize| {
        for day in 0..2 {
            tree.noise(&format!("day{day}"), 300_000, (week * 2 + day) as u64);
            world.push(&tree.root);
        }
    };
    a_week(0);
    let (all, _) = export_and_pull(&world, &drive, None);
    let (mut on_drive, mut finished) = (3, 0);
    for pull in 0..pulls {
        a_week(pull + 1);
        // From before the first call to after the last one.
        let (_, safe) = export_and_pull(&world, &drive, Some(pull * (all + 1) / (pulls - 1)));
        finished += usize::from(safe);
        drive.unplug();
        drive.plug_in();
        drive.unplug();
        drive.check();
        drive.plug_in();
        // Whatever the drive lists as a snapshot, it gives back whole; and it lists what it listed before.
        let verify = args!["verify", "--from", drive.vault(), "--json"];
        let whole = world.run(verify).ok().json()["snapshots"].as_u64().unwrap();
        let expected = if safe { on_drive + 2..=on_drive + 2 } else { on_drive..=on_drive + 2 };
        assert!(expected.contains(&whole), "{whole} snapshots after pull {pull}, {on_drive} before");
        on_drive += 2;
        assert_eq!(world.run(args!["drive", "export", "a", "--json"]).ok().json()["snapshots"], on_drive);
    }
    println!("{pulls} pulls over {all} durable calls; {finished} came when all was safe already");
    assert!(finished < pulls.div_ceil(2), "{finished} of {pulls} exports were not hit");
    assert_eq!(world.run(args!["verify", "--from", drive.vault(), "--json"]).ok().json()["snapshots"], on_drive);
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
        let mut command = Command::new("strace");
        world.agent.dress(&mut command);
        let inject = format!("inject=fsync:error=EIO:when={when}");
        command.args(["-f", "-qq", "-o", "/dev/null", "-e", "trace=fsync", "-e", &inject]);
        command.arg(FARKEEP).args(args!["drive", "export", "a"]);
        Run::of(&mut command).exits(1).never_says("safe to unplug");
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
