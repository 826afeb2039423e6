//! Two who prune at once, and one that is killed: whatever is kept stays whole.

use std::fs;
use std::os::unix::fs::MetadataExt;
use std::path::PathBuf;
use std::process::Command;

use super::history::{History, plan};
use super::world::tools::must;
use super::world::{Machine, Run, Running, World, args, files_below, needs};

/// A machine that knows the vault and has a state of its own.
fn caretaker(world: &World, name: &str) -> Machine {
    let machine = world.machine(name);
    machine.configure(&fs::read_to_string(&world.agent.config).unwrap());
    machine
}

/// A custodian's key that the root has enrolled.
fn enrolled(world: &World, name: &str) -> PathBuf {
    let key = world.path(name);
    must(Command::new("ssh-keygen").args(["-q", "-t", "ed25519", "-N", "", "-f"]).arg(&key));
    let public = key.with_extension("pub");
    world
        .run(args!["keys", "enrol", "custodian", &public, "--name", name, "--root", world.identity.with_extension("root")])
        .ok();
    key
}

#[test]
fn two_that_prune_at_once_with_one_key_or_with_two_lose_nothing() {
    needs!("ssh-keygen");
    let mut history = History::of(3);
    let (one, two) = (enrolled(&history.world, "one"), enrolled(&history.world, "two"));
    let machines = ["first", "second", "third"].map(|name| caretaker(&history.world, name));
    let series = history.world.snapshots()[0]["series"].as_str().unwrap().to_owned();
    for machine in &machines {
        machine.configure(&format!("[series.{series}]\nkeep = {{ last = 2, min_snapshots = 1 }}\n"));
    }
    // Each on a machine of its own: with the same key, and with another.
    for (round, (left, right)) in [(0, 1), (0, 2), (1, 2), (0, 1)].into_iter().enumerate() {
        history.night(3 + round as u64);
        let world = &history.world;
        let keys = [&one, &one, &two];
        let start = |number: usize| {
            let care = args!["custodian", &world.vault, "--key", keys[number], "--wait", "0s"];
            Running::start(&machines[number], care)
        };
        // So often that each has planned and applied, whoever came first.
        for _ in 0..2 {
            let ended: Vec<Run> = [start(left), start(right)].into_iter().map(Running::wait).collect();
            assert!(ended.iter().any(|run| run.code == 0), "{ended:?}");
            for run in ended {
                assert!(run.code == 0 || run.code == 75 && run.err.contains("another farkeep"), "{run:?}");
            }
        }
        world.run(args!["ledger", "verify"]).ok();
        world.verify("opened");
        let newest = history.versions.len();
        history.assert_restores(newest - 2..newest);
    }
    let last = history.world.snapshots().len();
    assert!((2..=3).contains(&last), "{last} are left");
}

#[test]
fn one_key_on_two_servers_is_told_with_the_way_out() {
    needs!("ssh-keygen");
    let world = World::with_stores(&["a", "b"]);
    world.tree("data").file("one", "1");
    world.push(world.path("data"));
    let key = enrolled(&world, "one");
    let care =
        |machine: &Machine, copy: &str| machine.run(args!["custodian", world.path(copy), "--key", &key, "--wait", "0s"]);
    let (first, second) = (caretaker(&world, "first"), caretaker(&world, "second"));
    care(&first, "a").ok();
    care(&second, "b").ok();
    // A push brings to each what the other has.
    world.push(world.path("data"));
    for (machine, copy) in [(&first, "a"), (&second, "b")] {
        care(machine, copy).exits(4).says("two machines sign with one key").says("keys enrol").says("keys retire");
    }
    let root = world.identity.with_extension("root");
    let (third, fourth) = (enrolled(&world, "third"), enrolled(&world, "fourth"));
    // Which of both chains counts is for a person to say, who is told where they end.
    let retire = args!["keys", "retire", "one", "--root", root];
    let told = world.run(retire.clone()).exits(1).says("chains end in").err;
    let end = told.split("chains end in: ").nth(1).unwrap().split(' ').next().unwrap();
    world.run([retire, args!["--until", end]].concat()).ok();
    world.push(world.path("data"));
    for (name, key, copy) in [("new first", third, "a"), ("new second", fourth, "b")] {
        let machine = caretaker(&world, name);
        machine.run(args!["custodian", world.path(copy), "--key", key, "--wait", "0s"]).ok();
    }
    world.push(world.path("data"));
    world.run(args!["ledger", "verify"]).ok();
}

#[test]
fn a_copy_that_somebody_prunes_is_nobody_elses_meanwhile() {
    let history = History::of(3);
    let world = &history.world;
    plan(world, &["--keep-last", "1"]);
    let held = fs::File::open(&world.vault).unwrap();
    rustix::fs::flock(&held, rustix::fs::FlockOperation::LockExclusive).unwrap();
    for command in [args!["prune", "plan", "--keep-last", "2"], args!["prune", "apply", "--now"]] {
        world.run(command).exits(75).says("another farkeep prunes this copy");
    }
    // Pushes, restores and verifications do not wait for it.
    history.assert_restores(0..3);
    drop(held);
    world.run(args!["prune", "apply", "--now"]).ok().says("2 snapshots dropped");
}

#[test]
fn killed_at_ten_points_it_loses_nothing_and_the_next_run_ends_it() {
    needs!("strace");
    let history = History::of(4);
    let world = &history.world;
    plan(world, &["--keep-last", "2"]);
    let (vault, state) = (world.path("vault-before"), world.path("state-before"));
    let copy = |from: &PathBuf, to: &PathBuf| {
        let _ = fs::remove_dir_all(to);
        must(Command::new("cp").arg("-a").arg(from).arg(to));
    };
    copy(&world.vault, &vault);
    copy(&world.agent.state, &state);
    let mut killed = 0;
    // Before, between and after: each signature is a rename, each removal an unlink.
    for (call, when) in [("renameat2", 1), ("renameat2", 2), ("renameat2", 3), ("fsync", 3)]
        .into_iter()
        .chain([1, 2, 3, 4, 6, 9].map(|when| ("unlinkat", when)))
    {
        copy(&vault, &world.vault);
        copy(&state, &world.agent.state);
        let mut command = Command::new("strace");
        world.agent.dress(&mut command);
        let inject = format!("inject={call}:signal=SIGKILL:when={when}");
        command.args(["-f", "-qq", "-o", "/dev/null", "-e", &format!("trace={call}"), "-e", &inject]);
        command.arg(super::world::machine::FARKEEP).args(args!["prune", "apply", "--now"]);
        let run = Run::of(&mut command);
        killed += u32::from(run.code == 137);
        world.verify("opened");
        world.run(args!["prune", "apply", "--now"]).ok();
        world.verify("opened");
        assert_eq!(world.snapshots().len(), 2, "killed at {call} {when}");
        assert_eq!(world.objects("manifests").len(), 2, "killed at {call} {when}");
    }
    assert!(killed >= 8, "{killed} of 10 were killed: this tests little");
    history.assert_restores(2..4);
}

#[test]
fn what_root_writes_on_the_server_belongs_to_the_account_and_is_read_by_it() {
    needs!(server);
    let server = super::world::server::Server::start();
    let mut history = History::in_world(server.world(), 3);
    let world = &history.world;
    let there = Machine::new(server.chroot.path(), "there");
    must(Command::new("mkdir").arg("-p").arg(&there.state));
    must(Command::new("cp").arg("-a").arg(world.agent.state.join("keys")).arg(&there.state));
    let pin = fs::read_to_string(&world.agent.config).unwrap();
    let pin = pin.split("[store").next().unwrap().to_owned();
    there.configure(&format!("{pin}\n[store.here]\nurl = \"{}\"\n", server.vault().display()));
    // Root as many have it: what it makes is for itself alone.
    let as_root = |args: Vec<std::ffi::OsString>| {
        let mut command = Command::new("sh");
        there.dress(&mut command);
        command.args(["-c", "umask 077; exec \"$@\"", "sh"]).arg(super::world::machine::FARKEEP).args(args);
        Run::of(&mut command)
    };
    as_root(args!["hold", "latest", "--until", "1d"]).ok();
    as_root(args!["prune", "plan", "--keep-last", "1"]).ok().says("2 snapshots to drop");
    as_root(args!["prune", "apply", "--now"]).ok().says("2 snapshots dropped");
    as_root(args!["custodian", server.vault()]).ok();
    let owner = fs::metadata(server.vault()).unwrap();
    for path in files_below(&server.vault()) {
        let meta = fs::metadata(&path).unwrap();
        assert_eq!((meta.uid(), meta.gid()), (owner.uid(), owner.gid()), "{}", path.display());
        assert_eq!(meta.mode() & 0o777, 0o440, "{}", path.display());
    }
    // The account reads it all, and goes on.
    world.verify("opened");
    history.night(3);
    history.assert_restores(2..4);
    history.world.run(args!["status", "--check"]).ok();
}

#[test]
fn what_root_writes_does_not_follow_a_link_that_the_account_has_laid() {
    needs!(root);
    let history = History::of(2);
    let world = &history.world;
    let outside = world.path("outside");
    fs::create_dir(&outside).unwrap();
    must(Command::new("chown").args(["-R", "-h", "65534:65534"]).arg(&world.vault));
    fs::remove_dir_all(world.vault.join("ledger")).unwrap();
    std::os::unix::fs::symlink(&outside, world.vault.join("ledger")).unwrap();
    let run = world.run(args!["prune", "plan", "--keep-last", "1"]);
    assert_ne!(run.code, 0, "{run:?}");
    assert!(files_below(&outside).is_empty());
    assert_eq!(fs::metadata(&outside).unwrap().uid(), 0);
}
