//! Stories of pruning with the real program.

use std::fs;
use std::io::Write;
use std::os::unix::fs::MetadataExt;
use std::os::unix::process::CommandExt;
use std::process::Command;

use super::history::{History, apply, plan};
use super::world::drive::Drive;
use super::world::tools::must;
use super::world::{Machine, Run, Tree, World, args, assert_same, bytes_below, files_below, flip, needs};

#[test]
fn the_last_one_is_kept_and_the_room_of_the_others_is_free_again() {
    let mut history = History::of(4);
    let world = &history.world;
    let before = bytes_below(&world.vault.join("packs"));
    let file = world.path("plan");
    let planned = world.run(args!["prune", "plan", "--keep-last", "1", "--out", &file, "--explain"]).ok();
    planned.says("3 snapshots to drop, 1 stay").says("one of the last 1").says("no rule keeps it");
    world.run(args!["prune", "apply", &file]).exits(75).says("waits until");
    assert_eq!(bytes_below(&world.vault.join("packs")), before, "nothing goes before its time");
    world.verify("opened");
    world.run(args!["prune", "apply", &file, "--now"]).ok().says("3 snapshots dropped");
    let after = bytes_below(&world.vault.join("packs"));
    assert!(after < before * 2 / 3, "{after} of {before} bytes left");

    world.verify("opened");
    history.assert_restores(3..4);
    assert_eq!(world.snapshots().len(), 1);
    world.run(args!["snapshots", "--dropped"]).ok().says(&history.id(0)[..8]).says("dropped");
    let gone = args!["restore", history.id(0), "--into", world.path("x"), "--identity", &world.identity];
    world.run(gone).exits(2).says("dropped");
    world.run(args!["ledger", "verify"]).ok();
    world.run(args!["ledger", "show"]).ok().says("drops 3 snapshots").says("removed");
    world.run(args!["status", "--check"]).ok();

    // A second time there is nothing to do, and the next push builds on what stayed.
    world.run(args!["prune", "apply", &file, "--now"]).ok();
    world.run(args!["prune", "plan", "--keep-last", "1"]).ok().says("nothing to prune");
    history.night(4);
    history.assert_restores(3..5);
    history.world.verify("opened");
}

#[test]
fn a_held_snapshot_stays_also_when_the_hold_comes_after_the_plan() {
    let history = History::of(3);
    let world = &history.world;
    let hold = args!["hold", history.id(0), "--until", "2099-01-01", "--reason", "audit"];
    world.run(hold).ok().says("held until 2099-01-01");
    let planned = plan(world, &["--keep-last", "1"]);
    world.run(args!["hold", history.id(1), "--until", "90d"]).ok();
    let applied = apply(world);
    assert_eq!((&planned["dropped"], &applied["dropped"]), (&1.into(), &0.into()));
    assert!(applied["spared"].as_u64().unwrap() > 0, "{applied}");
    history.assert_restores(0..3);
    world.verify("opened");
    for version in 0..2 {
        world.run(args!["hold", history.id(version), "--release"]).ok();
    }
    assert_eq!(plan(world, &["--keep-last", "1"])["dropped"], 2);
    apply(world);
    history.assert_restores(2..3);
    world.verify("opened");
}

#[test]
fn a_hold_is_neither_replaced_by_a_day_that_is_over_nor_let_go_where_there_is_none() {
    let history = History::of(2);
    let world = &history.world;
    let hold = |more: &[&str]| world.run([args!["hold", history.id(0)], more.iter().map(Into::into).collect()].concat());
    hold(&["--until", "2099-01-01"]).ok();
    hold(&["--until", "2020-01-01"]).exits(2).says("--until 2020-01-01").says("is over");
    hold(&["--until", "0s"]).exits(2).says("--until 0s");
    world.run(args!["hold", history.id(1), "--release"]).exits(2).says("not held").says(&history.id(1)[..8]);
    assert_eq!(plan(world, &["--keep-last", "1", "--dry-run"])["dropped"], 0);
    hold(&["--release"]).ok().says("is let go");
    hold(&["--release"]).exits(2).says("not held");
    assert_eq!(plan(world, &["--keep-last", "1", "--dry-run"])["dropped"], 1);
}

#[test]
fn each_job_has_its_rules_and_a_copy_may_have_its_own() {
    let world = World::with_stores(&["a", "b"]);
    let data = world.tree("data");
    let source = format!("name = \"files\"\nkind = \"files\"\npaths = [\"{}\"]", data.root.display());
    let keep = "keep = { last = 2, min_snapshots = 1 }";
    world.agent.configure(&format!("[job.nightly]\n{keep}\n[[job.nightly.source]]\n{source}"));
    for night in 0..4 {
        data.noise("x", 1000, night);
        world.push("nightly");
    }
    world.push(&data.root);
    let own = "[store.b]\nkeep = { last = 3, min_snapshots = 1 }\n";
    world.agent.reconfigure(|text| text.replace("[store.b]\n", own));
    assert_eq!(plan(&world, &["--store", "b", "--dry-run"])["dropped"], 1);
    let explained = world.run(args!["prune", "plan", "--store", "a", "--explain"]).ok();
    let drops = explained.out.lines().filter(|line| line.starts_with("drop")).count();
    assert_eq!(drops, 2, "{}", explained.out);
    explained.says("no rule for this series");
    world.run(args!["prune", "apply", "--store", "a", "--now"]).ok();

    // What one copy dropped the other still has, and neither push nor sync brings it back.
    let counts = || {
        let count = |store: &str| world.run(args!["snapshots", "--from", store, "--json"]).ok().json();
        ["a", "b"].map(|store| count(store)["snapshots"].as_array().unwrap().len())
    };
    assert_eq!(counts(), [3, 5]);
    data.noise("x", 1000, 9);
    world.push("nightly");
    assert_eq!(counts(), [4, 6]);
    let sync = |to: &str, from: &str| world.run(args!["sync", to, "--from", from, "--plain-directory"]).ok();
    sync("a", "b");
    sync("b", "a");
    assert_eq!(counts(), [4, 6]);
    for store in ["a", "b"] {
        world.run(args!["verify", "--from", store, "--depth", "opened", "--identity", &world.identity]).ok();
    }
    // A new copy gets what the one that it is made from holds.
    let third = world.path("third");
    world.run(args!["sync", &third, "--from", "a", "--plain-directory"]).ok();
    let held = world.run(args!["snapshots", "--from", &third, "--json"]).ok().json();
    assert_eq!(held["snapshots"].as_array().unwrap().len(), 4);
    world.run(args!["verify", "--from", &third, "--depth", "opened", "--identity", &world.identity]).ok();
}

#[test]
fn pruning_stops_while_a_verification_found_damage() {
    let history = History::of(3);
    let world = &history.world;
    let pack = &world.objects("packs")[0];
    let found = || world.run(args!["verify", "--depth", "sealed"]).exits(4);
    flip(pack, 200);
    found();
    world.run(args!["prune", "plan", "--keep-last", "1"]).exits(4).says("verification found");
    flip(pack, 200);
    world.verify("sealed");
    assert_eq!(plan(world, &["--keep-last", "1"])["dropped"], 2);
    // Found after the plan: it is not applied either.
    flip(pack, 200);
    found();
    world.run(args!["prune", "apply", "--now"]).exits(4);
    flip(pack, 200);
    history.assert_restores(0..3);
    // What is missing is seen without a verification.
    world.verify("sealed");
    fs::remove_file(pack).unwrap();
    world.run(args!["prune", "plan", "--keep-last", "1"]).exits(4).says("is missing").says("--despite-damage");
}

#[test]
fn whoever_has_no_key_that_the_root_trusts_plans_nothing() {
    let history = History::of(2);
    let world = &history.world;
    let keys = files_below(&world.agent.state.join("keys"));
    let custodian = keys.iter().find(|path| path.ends_with("custodian-writer")).unwrap();
    fs::remove_file(custodian).unwrap();
    world.run(args!["prune", "plan", "--keep-last", "1"]).exits(1).says("custodian");
    must(Command::new("ssh-keygen").args(["-q", "-t", "ed25519", "-N", "", "-f"]).arg(custodian));
    world.run(args!["prune", "plan", "--keep-last", "1"]).exits(1).says("does not trust");
    world.run(args!["hold", "latest", "--until", "1d"]).exits(1).says("does not trust");
    history.assert_restores(0..2);
}

#[test]
fn an_account_that_may_remove_prunes_over_sftp() {
    if !super::world::sshd::have_sshd() {
        return super::world::skipped("openssh-server is not installed");
    }
    let sshd = super::world::sshd::Sshd::start("");
    let world = World::bare();
    let url = sshd.location(&world.vault).to_string();
    let key = &sshd.user_key.private;
    world.init(&args!["--store", url, "--ssh-key", key, "--host-key", sshd.host_key.fingerprint()]);
    let history = History::in_world(world, 3);
    let file = history.world.path("plan");
    history.world.run(args!["prune", "plan", "--keep-last", "1", "--out", &file]).ok();
    history.world.run(args!["prune", "apply", &file, "--now"]).ok().says("2 snapshots dropped");
    assert_eq!(history.world.objects("manifests").len(), 1);
    assert_eq!(history.world.objects("trust").len(), 1, "what told the time is gone again");
    history.world.verify("opened");
    history.assert_restores(2..3);
}

#[test]
fn a_custodian_on_the_server_prunes_what_the_agent_may_only_add() {
    if let Some(why) = super::world::server::missing() {
        return super::world::skipped(&why);
    }
    let server = super::world::server::Server::start();
    let mut history = History::in_world(server.world(), 3);
    let world = &history.world;
    let planned = plan(world, &["--keep-last", "1"])["plan"]["hash"].as_str().unwrap().to_owned();
    world.run(args!["prune", "apply", "--now"]).exits(1).says("may not remove");
    // The same key on the server itself, where the vault is a directory.
    let there = Machine::new(server.chroot.path(), "there");
    must(Command::new("mkdir").arg("-p").arg(&there.state));
    must(Command::new("cp").arg("-a").arg(world.agent.state.join("keys")).arg(&there.state));
    let pin = fs::read_to_string(&world.agent.config).unwrap();
    let pin = pin.split("[store").next().unwrap().to_owned();
    there.configure(&format!("{pin}\n[store.here]\nurl = \"{}\"\n", server.vault().display()));
    // As the owner of the vault's directories: what it writes the agent's account can read.
    let owner = fs::metadata(server.vault()).unwrap();
    must(Command::new("chown").arg("-R").arg(format!("{}:{}", owner.uid(), owner.gid())).arg(&there.home));
    // There it has another address, so the plan must be named.
    let mut command = there.command(args!["prune", "apply", &planned[..12], "--now", "--json"]);
    let applied = Run::of(command.uid(owner.uid()).gid(owner.gid())).ok().json();
    assert_eq!(applied["dropped"], 2);
    world.verify("opened");
    history.assert_restores(2..3);
    history.night(3);
    history.assert_restores(2..4);
    history.world.verify("opened");
}

#[test]
fn a_pack_that_is_mostly_dead_is_left_behind_and_goes_with_its_last_snapshot() {
    const MIB: usize = 1024 * 1024;
    let world = World::new();
    let data = world.tree("data");
    for number in 0..6 {
        data.noise(&format!("file-{number}"), MIB, number);
    }
    let mut history = History { world, data, versions: Vec::new() };
    history.push();
    for number in 0..4 {
        history.data.remove(&format!("file-{number}"));
    }
    let sent = |receipt: serde_json::Value| receipt["new_bytes"].as_u64().unwrap() as usize;
    assert!(sent(history.push()) < MIB, "all is known");
    let moved = sent(history.push());
    assert!((2 * MIB..3 * MIB).contains(&moved), "{moved}: what lives moves to a new pack");
    assert!(sent(history.push()) < MIB, "and only once");
    plan(&history.world, &["--keep-last", "1"]);
    apply(&history.world);
    let left = bytes_below(&history.world.vault.join("packs"));
    assert!(left < 3 * MIB as u64, "{left} bytes left");
    history.world.verify("opened");
    history.assert_restores(3..4);
}

#[test]
fn recovery_without_farkeep_does_not_stumble_over_what_was_dropped() {
    needs!("age", "zstd", "b3sum", "python3", "ssh-keygen");
    let history = History::of(3);
    let world = &history.world;
    plan(world, &["--keep-last", "1"]);
    apply(world);
    let script = |more: &[&str]| {
        let mut command = Command::new("python3");
        command.arg(world.vault.join("recover.py")).args(more).current_dir(&world.vault);
        command.output().unwrap()
    };
    let listed = script(&["list", "--identity", world.identity.to_str().unwrap()]);
    assert!(listed.status.success(), "{}", String::from_utf8_lossy(&listed.stderr));
    let lines: Vec<String> = String::from_utf8_lossy(&listed.stdout).lines().map(str::to_owned).collect();
    let dropped: Vec<bool> = lines.iter().map(|line| line.contains(" DROPPED ")).collect();
    assert_eq!(dropped, [true, true, false], "{lines:#?}");
}

/// Nights on which all of many small files are others: of the chunk index three quarters are of packs that go.
fn replaced_each_night(data: &Tree, night: impl Fn()) {
    for number in 0..4 {
        for file in 0..4000 {
            data.file(format!("{file}"), format!("night {number}, file {file}"));
        }
        night();
    }
}

fn index_bytes(world: &World) -> u64 {
    let files = files_below(&world.agent.state.join("cache")).into_iter();
    let of_index = files.filter(|path| path.parent().unwrap().ends_with("index"));
    of_index.map(|path| fs::metadata(path).unwrap().len()).sum()
}

#[test]
fn what_prune_took_away_is_forgotten_here_as_well() {
    let world = World::new();
    let data = world.tree("data");
    replaced_each_night(&data, || drop(world.push(&data.root)));
    let before = index_bytes(&world);
    world.run(args!["prune", "plan", "--keep-last", "1"]).ok();
    world.run(args!["prune", "apply", "--now"]).ok();
    // What stays is still known by its place: nothing is read or stored again.
    let pushed = world.push(&data.root);
    assert_eq!(pushed["new_packs"], 0, "{pushed}");
    let after = index_bytes(&world);
    assert!(after < before / 2, "the index went from {before} to {after} bytes");
    data.file("1", "another");
    assert!(world.push(&data.root)["new_bytes"].as_u64().unwrap() < 200_000);
    world.verify("opened");
    let into = world.path("back");
    world.restore("latest", &into);
    assert_same(&data.root, &data.below(&into));
}

#[test]
fn nothing_is_forgotten_that_a_store_may_hold_which_was_not_looked_into() {
    let world = World::with_stores(&["a", "b"]);
    let data = world.tree("data");
    let source = format!("name = \"files\"\nkind = \"files\"\npaths = [\"{}\"]", data.root.display());
    world
        .agent
        .configure(&format!("[job.nightly]\nstores = [\"a\", \"b\"]\nsuspect = false\n[[job.nightly.source]]\n{source}"));
    replaced_each_night(&data, || drop(world.run(args!["push", "nightly"]).ok()));
    let before = index_bytes(&world);
    world.run(args!["prune", "plan", "--store", "a", "--keep-last", "1"]).ok();
    world.run(args!["prune", "apply", "--store", "a", "--now"]).ok();
    let (other, away) = (world.path("b"), world.path("away"));
    fs::rename(&other, &away).unwrap();
    world.run(args!["push", "nightly"]).exits(3);
    fs::rename(away, other).unwrap();
    world.run(args!["push", "nightly", "--to", "a"]).ok();
    assert!(index_bytes(&world) >= before, "b still holds it all");
    world.run(args!["push", "nightly"]).ok();
    assert!(index_bytes(&world) >= before, "b still holds it all");
    world.run(args!["prune", "plan", "--store", "b", "--keep-last", "1"]).ok();
    world.run(args!["prune", "apply", "--store", "b", "--now"]).ok();
    world.run(args!["push", "nightly"]).ok();
    let after = index_bytes(&world);
    assert!(after < before / 2, "the index went from {before} to {after} bytes");
}

#[test]
fn a_copy_without_a_free_byte_is_told_what_pruning_it_takes() {
    needs!(root);
    needs!("mkfs.ext4");
    let place = World::bare();
    let disk = Drive::new(place.dir.path(), "disk", 32);
    disk.plug_in();
    let mut world = World::bare();
    world.vault = disk.mount.join("vault");
    world.init(&args!["--store", &world.vault]);
    let history = History::in_world(world, 3);
    let world = &history.world;
    let other = disk.mount.join("other");
    // Blocks of a file that was removed are free again once the file system has committed that.
    let fill = || {
        let mut file = fs::File::options().create(true).append(true).open(&other).unwrap();
        let mut filled = None;
        while filled != Some(file.metadata().unwrap().len()) {
            filled = Some(file.metadata().unwrap().len());
            while file.write_all(&[0; 4096]).is_ok() {}
            // Blocks are smaller on a small disk.
            while file.write_all(&[0; 512]).is_ok() {}
            rustix::fs::syncfs(&file).unwrap();
        }
    };
    let full = |run: Run| {
        let told = run.exits(1).says("no room left").says("nothing goes before the plan").says("not the vault's");
        told.never_says("what arrived is not sent again");
    };
    fill();
    full(world.run(args!["prune", "plan", "--keep-last", "1"]));
    world.run(args!["push", &history.data.root]).exits(1).says("what arrived is not sent again");
    // What helps is what is said.
    fs::remove_file(&other).unwrap();
    plan(world, &["--keep-last", "1"]);
    fill();
    full(world.run(args!["prune", "apply", "--now"]));
    full(world.run(args!["custodian", &world.vault]));
    fs::File::options().write(true).open(&other).unwrap().set_len(other.metadata().unwrap().len() - (1 << 20)).unwrap();
    assert_eq!(apply(world)["dropped"], 2);
    history.assert_restores(2..3);
    world.verify("opened");
}
