//! Archives of another script.

use std::fs;
use std::io::Write;
use std::os::unix::fs::{PermissionsExt, symlink};
use std::path::PathBuf;
use std::time::Duration;

use crate::world::{Random, Run, Running, World, args, bytes_below, needs, skipped};
use crate::{at, gunzip, gzip, job, missing_faketime, push_at, restore_run, snapshots, source, today, written_at};

const QUICK: &str = "quiet = \"1s\"\nwait = \"1s\"";

fn spool(world: &World) -> PathBuf {
    world.path("backups/mongo")
}

fn configure(world: &World, glob: &str, more: &str) {
    let glob = spool(world).join(glob);
    job(world, &source("mongo", "spool", &format!("glob = \"{}\"\n{QUICK}\n{more}", glob.display())));
}

fn archive(world: &World, name: &str) -> PathBuf {
    spool(world).join(format!("{name}-{}.gz", today()))
}

/// Documents of a database: most of them as they were the night before.
fn documents(seed: u64, changed: std::ops::Range<usize>) -> Vec<u8> {
    let mut lines = Vec::new();
    for number in 0..20_000_usize {
        let night = if changed.contains(&number) { 1 } else { 0 };
        let noise = Random::new(seed * 1_000_000 + number as u64 * 2 + night).bytes(24);
        writeln!(lines, "{number} {noise:02x?}").unwrap();
    }
    lines
}

#[test]
fn archives_are_stored_unpacked_so_that_a_second_night_costs_what_changed() {
    let world = World::new();
    configure(&world, "*-{date}.gz", "");
    gzip(&archive(&world, "hearth-dev"), &documents(1, 0..0), None);
    world.push("nightly");
    let first = bytes_below(&world.vault.join("packs"));
    // One record in two hundred changed, near the beginning: the packed file differs from there to its end.
    gzip(&archive(&world, "hearth-dev"), &documents(1, 100..200), None);
    world.push("nightly");
    let second = bytes_below(&world.vault.join("packs")) - first;
    assert!(second * 4 < first, "the second night cost {second} bytes, the first {first}");
}

#[test]
fn archives_come_back_where_they_were_with_the_same_content() {
    let world = World::new();
    configure(&world, "**", "");
    let (packed, plain) = (archive(&world, "hearth-dev"), spool(&world).join("deep/metrics.tar"));
    gzip(&packed, &documents(1, 0..0), None);
    fs::create_dir_all(plain.parent().unwrap()).unwrap();
    fs::write(&plain, Random::new(7).bytes(100_000)).unwrap();
    written_at(&plain, "1 minute ago");
    let before = fs::read(&plain).unwrap();
    world.push("nightly");

    // Anyone can have the content without a spool.
    let back = world.path("back");
    world.restore("latest", &back);
    let inner = packed.file_stem().unwrap();
    assert_eq!(fs::read(back.join("@mongo").join(inner)).unwrap(), documents(1, 0..0));

    fs::remove_dir_all(spool(&world).join("deep")).unwrap();
    fs::write(&packed, "overwritten").unwrap();
    let plan = world.run(restore_run(&world, "latest", &["--dry-run"])).ok();
    plan.says("DESTROYS").says(packed.to_str().unwrap()).says("packed anew").says("nothing was done");
    assert_eq!(fs::read_to_string(&packed).unwrap(), "overwritten");
    let done = world.run(restore_run(&world, "latest", &["--yes-destroy", "nightly", "--json"])).ok().json();
    assert_eq!(done["members"][0]["outcome"], "restored");
    assert_eq!(done["members"][0]["proof"].as_object().unwrap().len(), 2, "{done}");
    assert_eq!(gunzip(&packed), documents(1, 0..0));
    assert_eq!(fs::read(&plain).unwrap(), before);
    assert!(
        !world.agent.state.join("scratch").read_dir().unwrap().any(|d| d
            .unwrap()
            .path()
            .join("restore")
            .read_dir()
            .is_ok_and(|mut r| r.next().is_some()))
    );
    // The time of an old archive keeps it from being taken for tonight's.
    let age = fs::metadata(&packed).unwrap().modified().unwrap().elapsed().unwrap();
    assert!(age > Duration::from_secs(50), "{age:?}");
}

#[test]
fn an_archive_that_is_there_by_a_link_alone_is_not_left_out_unsaid() {
    let world = World::new();
    configure(&world, "**", "");
    let (first, elsewhere) = (archive(&world, "hearth-dev"), world.path("other-disk"));
    gzip(&first, &documents(1, 0..0), None);
    gzip(&elsewhere.join("events.gz"), &documents(2, 0..0), None);
    // Those that lead to what is taken anyway are in nobody's way, nor is a circle.
    symlink(&first, spool(&world).join("latest.gz")).unwrap();
    symlink(spool(&world), spool(&world).join("circle")).unwrap();
    world.push("nightly");
    let none = "leads to no archive of this spool";
    for (target, why) in [
        (elsewhere.join("events.gz"), none),
        (elsewhere.clone(), none),
        (world.path("nowhere"), "is a link that leads nowhere"),
    ] {
        let link = spool(&world).join("events");
        symlink(&target, &link).unwrap();
        world.run(args!["push", "nightly"]).exits(1).says(why).says("events");
        fs::remove_file(&link).unwrap();
    }
    world.push("nightly");
    assert_eq!(snapshots(&world), 2);
    // A directory with two names, of which one fits.
    configure(&world, "**/[hm]*/*.gz", "");
    gzip(&spool(&world).join("deep/hearth/dev.gz"), &documents(1, 0..0), None);
    symlink(&elsewhere, spool(&world).join("early")).unwrap();
    world.push("nightly");
    symlink(&elsewhere, spool(&world).join("deep/mongo")).unwrap();
    world.run(args!["push", "nightly"]).exits(1).says(none).says("deep/mongo/events.gz");
}

#[test]
fn a_directory_in_which_no_archive_of_the_spool_can_lie_is_in_nobodys_way() {
    needs!("setpriv");
    let world = World::new();
    configure(&world, "*/hearth-*.gz", "");
    gzip(&spool(&world).join("daily/hearth-dev.gz"), &documents(1, 0..0), None);
    let closed = world.tree("postgres");
    closed.file("base/1", "x").mode("base", 0o000);
    for link in ["daily/base", "base"] {
        symlink(closed.path("base"), spool(&world).join(link)).unwrap();
    }
    // The whole machine, and a place of this spool that cannot be read.
    symlink("/", spool(&world).join("daily/machine")).unwrap();
    Run::of(&mut world.agent.command_without_power(args!["push", "nightly"])).ok();
    fs::create_dir(spool(&world).join("monthly")).unwrap();
    fs::set_permissions(spool(&world).join("monthly"), fs::Permissions::from_mode(0o000)).unwrap();
    Run::of(&mut world.agent.command_without_power(args!["push", "nightly"])).exits(1).says("monthly");
    fs::set_permissions(spool(&world).join("monthly"), fs::Permissions::from_mode(0o700)).unwrap();
    closed.mode("base", 0o700);
}

#[test]
fn exact_keeps_the_bytes() {
    let world = World::new();
    configure(&world, "*-{date}.gz", "exact = true");
    let path = archive(&world, "hearth-dev");
    gzip(&path, &documents(1, 0..0), None);
    let before = fs::read(&path).unwrap();
    world.push("nightly");
    fs::remove_file(&path).unwrap();
    world.run(restore_run(&world, "latest", &["--yes-destroy", "nightly"])).ok();
    assert_eq!(fs::read(&path).unwrap(), before);
}

#[test]
fn an_archive_that_is_missing_truncated_damaged_or_of_last_week_makes_no_snapshot() {
    let world = World::new();
    let path = archive(&world, "hearth-dev");
    configure(&world, "hearth-dev-{date}.gz", "");
    fs::create_dir_all(spool(&world)).unwrap();
    let push = || world.run(args!["push", "nightly"]);
    push().exits(1).says("0 archives of the day are there");
    // A pipe whose writer has died is no archive, and nobody waits for it.
    rustix::fs::mknodat(rustix::fs::CWD, &path, rustix::fs::FileType::Fifo, rustix::fs::Mode::RUSR, 0).unwrap();
    push().exits(1).says("0 archives of the day are there");
    fs::remove_file(&path).unwrap();
    gzip(&path, &documents(1, 0..0), None);
    let whole = fs::read(&path).unwrap();

    fs::write(&path, &whole[..whole.len() / 2]).unwrap();
    written_at(&path, "1 minute ago");
    push().exits(1).says("is no whole gzip file");
    // One bit of the content: only gzip's own CRC can tell.
    let mut damaged = whole.clone();
    let crc = damaged.len() - 6;
    damaged[crc] ^= 1;
    fs::write(&path, &damaged).unwrap();
    written_at(&path, "1 minute ago");
    push().exits(1).says("is no whole gzip file");
    fs::write(&path, "").unwrap();
    push().exits(1).says("is empty");
    fs::write(&path, &whole).unwrap();
    written_at(&path, "7 days ago");
    push().exits(1).says("it is of an earlier run");
    assert_eq!(snapshots(&world), 0);

    written_at(&path, "1 minute ago");
    world.push("nightly");
    configure(&world, "*-{date}.gz", "min_files = 2");
    push().exits(1).says("1 archives of the day are there, at least 2 are expected");
    assert_eq!(snapshots(&world), 1);
}

#[test]
fn an_archive_that_still_grows_is_waited_for() {
    let world = World::new();
    configure(&world, "*-{date}.gz", "exact = true");
    world
        .agent
        .reconfigure(|text| text.replace("wait = \"1s\"", "wait = \"60s\"").replace("quiet = \"1s\"", "quiet = \"3s\""));
    let path = archive(&world, "hearth-dev");
    fs::create_dir_all(path.parent().unwrap()).unwrap();
    fs::write(&path, "first half ").unwrap();
    let mut running = Running::start(&world.agent, args!["push", "nightly", "--json"]);
    let mut file = fs::File::options().append(true).open(&path).unwrap();
    for _ in 0..4 {
        std::thread::sleep(Duration::from_secs(1));
        assert!(!running.has_ended(), "it did not wait");
        file.write_all(b"and more ").unwrap();
    }
    running.wait().ok();
    let shown = world.run(args!["restore", "latest", "--into", world.path("back"), "--identity", &world.identity]);
    shown.ok();
    let back = world.path("back/@mongo").join(path.file_name().unwrap());
    assert_eq!(fs::read(back).unwrap(), fs::read(&path).unwrap());
}

#[test]
fn archives_that_are_named_by_the_weekday_are_taken_on_that_day_alone() {
    if let Some(why) = missing_faketime() {
        return skipped(&why);
    }
    let world = World::new();
    configure(&world, "hearth-dev-{weekday}.gz", "");
    let path = |day: &str| spool(&world).join(format!("hearth-dev-{day}.gz"));
    gzip(&path("tue"), b"tuesday's documents", Some("2026-11-17 02:00"));
    push_at(&world.agent, "2026-11-17 02:30:00").ok();
    // Wednesday's was not written: last week's has its name.
    gzip(&path("wed"), b"wednesday's documents", Some("2026-11-11 02:00"));
    push_at(&world.agent, "2026-11-18 02:30:00").exits(1).says("it is of an earlier run");
    assert_eq!(snapshots(&world), 1);

    fs::remove_dir_all(spool(&world)).unwrap();
    let restore =
        |snapshot: &str, more: &[&str]| at(&world.agent, "2026-11-19 10:00:00", restore_run(&world, snapshot, more));
    restore("wednesday", &["--yes-destroy", "nightly"]).exits(2).says("there is no such snapshot");
    restore("tuesday", &["--dry-run"]).ok().says("Tuesday 2026-11-17 02:30 (UTC), 2 d");
    assert!(!spool(&world).exists());
    restore("tuesday", &["--yes-destroy", "nightly"]).ok();
    assert_eq!(gunzip(&path("tue")), b"tuesday's documents");
    // A week and a day later there is no Tuesday within seven days.
    at(&world.agent, "2026-11-25 10:00:00", restore_run(&world, "tuesday", &["--dry-run"])).exits(2);
}
