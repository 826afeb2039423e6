//! The way back of plain files: what a root is, where it goes, and what must not be lost on the way.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use crate::world::machine::FARKEEP;
use crate::world::tools::must;
use crate::world::{Run, Tree, World, assert_same, needs};
use crate::{job, member, restore_run, source};

/// A job `nightly` with one member of files.
fn files(world: &World, paths: &[&Path], more: &str) {
    let paths: Vec<String> = paths.iter().map(|path| format!("'{}'", path.display())).collect();
    job(world, &source("files", "files", &format!("paths = [{}]\n{more}", paths.join(", "))));
}

fn restore(world: &World, more: &[&str]) -> Run {
    let mut all = vec!["--yes-destroy", "nightly"];
    all.extend(more);
    world.run(restore_run(world, "latest", &all))
}

fn read(path: &Path) -> String {
    fs::read_to_string(path).unwrap_or_else(|e| panic!("{}: {e}", path.display()))
}

#[test]
fn a_root_within_another_is_refused_before_anything_is_touched() {
    let world = World::new();
    let srv = world.tree("srv");
    srv.file("db/rows", "of the night").file("page", "of the night");
    let refused = |run: Run| {
        run.exits(1).says("lies within").says("--in-place");
        assert_eq!((read(&srv.path("db/rows")), read(&srv.path("page"))), ("of today".into(), "of today".into()));
    };
    files(&world, &[&srv.root, &srv.path("db")], "");
    world.push("nightly");
    srv.file("db/rows", "of today").file("page", "of today");
    refused(restore(&world, &[]));
    refused(world.run(restore_run(&world, "latest", &["--dry-run"])));

    // By another name, and of another member.
    let (other, member) =
        (world.tree("other"), |name: &str, path: &Path| source(name, "files", &format!("paths = ['{}']", path.display())));
    other.file("rows", "of the night");
    job(&world, &(member("pages", &srv.root) + &member("rows", &other.path("rows"))));
    world.push("nightly");
    fs::remove_dir_all(&other.root).unwrap();
    std::os::unix::fs::symlink(srv.path("db"), &other.root).unwrap();
    refused(restore(&world, &[]));
    restore(&world, &["--member", "rows"]).ok();
    assert_eq!((read(&srv.path("db/rows")), read(&srv.path("page"))), ("of the night".into(), "of today".into()));
}

#[test]
fn what_was_backed_up_from_the_root_of_the_machine_is_not_said_to_be_restored() {
    needs!(root);
    let world = World::new();
    let tree = world.tree("data");
    tree.file("page", "of the night");
    let alone = format!("exclude = ['/*/*', '!{}']", world.dir.path().display());
    let refused = |paths: &[&Path]| {
        files(&world, paths, &alone);
        world.push("nightly");
        restore(&world, &[]).exits(1).says("was backed up from /").says("--into DIR").never_says("restored");
    };
    refused(&[Path::new("/")]);
    refused(&[Path::new("/"), &tree.root]);
}

#[test]
fn files_go_to_the_paths_of_the_target_that_was_named_and_nowhere_else() {
    let world = World::new();
    let (prod, conf, staging) = (world.tree("prod"), world.tree("conf"), world.tree("staging"));
    prod.file("page", "of the night").file("deep/page", "of the night");
    conf.file("settings", "of the night");
    let target = |paths: &[&Path]| {
        let paths: Vec<String> = paths.iter().map(|path| format!("'{}'", path.display())).collect();
        let target = format!("\n[job.nightly.target.staging.source.files]\npaths = [{}]\n", paths.join(", "));
        files(&world, &[&prod.root, &conf.path("settings")], &target);
    };
    target(&[&staging.path("prod"), &staging.path("settings of staging")]);
    world.push("nightly");
    prod.file("page", "of today");
    conf.file("settings", "of today");
    staging.file("prod/page", "of staging").file("prod/other", "of staging");
    let into = |more: &[&str]| world.run(restore_run(&world, "latest", &[&["--into-target", "staging"], more].concat()));
    let untouched = || {
        assert_eq!((read(&prod.path("page")), read(&conf.path("settings"))), ("of today".into(), "of today".into()));
        assert_eq!(fs::read_dir(&prod.root).unwrap().count(), 2);
    };
    let plan = into(&["--dry-run"]).ok();
    let plan = plan.says(&format!("{} (was {})", staging.path("prod").display(), prod.root.display()));
    plan.says(&format!("DESTROYS {}: 2 files", staging.path("prod").display()));
    into(&["--yes-destroy", "nightly"]).exits(2).says("is not the target");
    assert_eq!(read(&staging.path("prod/page")), "of staging");
    into(&["--yes-destroy", "staging"]).ok();
    untouched();
    assert_eq!(read(&staging.path("prod/page")), "of the night");
    assert_eq!(read(&staging.path("prod/deep/page")), "of the night");
    assert_eq!(read(&staging.path("settings of staging")), "of the night");
    assert!(!staging.path("prod/other").exists());

    // One path too few; and paths that are no other place.
    target(&[&staging.path("prod")]);
    into(&["--yes-destroy", "staging"]).exits(2).says("has 2 roots in this snapshot").says("has 1 paths for it");
    for place in [prod.root.clone(), prod.path("deep"), world.dir.path().to_owned()] {
        target(&[&staging.path("prod"), &place]);
        into(&["--yes-destroy", "staging"]).exits(2).says("name other paths for this target");
    }
    files(&world, &[&prod.root, &conf.path("settings")], "\n[job.nightly.target.staging.source.files]\nservice = 'web'\n");
    into(&["--yes-destroy", "staging"]).exits(2).says("name other paths for this target");
    untouched();
}

/// Two members: three files of one directory, and a directory.
fn pages(world: &World) -> (Tree, Tree) {
    let (etc, srv) = (world.tree("etc"), world.tree("srv"));
    let paths = |paths: &[PathBuf]| {
        let paths: Vec<String> = paths.iter().map(|path| format!("'{}'", path.display())).collect();
        format!("paths = [{}]", paths.join(", "))
    };
    let two = source("two", "files", &paths(&[etc.path("hosts"), etc.path("passwd")]));
    let one = paths(&[etc.path("group"), srv.root.clone()]) + "\nexclude = ['*.tmp']";
    let one = source("one", "files", &one);
    job(world, &(two + &one));
    write_pages(&etc, &srv, "of the night");
    srv.file("deep/session.tmp", "never backed up").file("deep/further.tmp", "never backed up");
    world.push("nightly");
    write_pages(&etc, &srv, "of today");
    srv.file("later", "of today");
    (etc, srv)
}

fn write_pages(etc: &Tree, srv: &Tree, when: &str) {
    for name in ["hosts", "passwd", "group"] {
        etc.file(name, format!("{name} {when}"));
    }
    srv.file("page", format!("page {when}")).file("deep/page", format!("deep page {when}"));
}

#[track_caller]
fn assert_pages(etc: &Tree, srv: &Tree) {
    for name in ["hosts", "passwd", "group"] {
        assert_eq!(read(&etc.path(name)), format!("{name} of the night"));
    }
    assert_eq!(read(&srv.path("page")), "page of the night");
    assert_eq!(read(&srv.path("deep/page")), "deep page of the night");
    for name in ["session.tmp", "further.tmp"] {
        assert_eq!(read(&srv.path("deep").join(name)), "never backed up");
    }
    assert!(!srv.path("later").exists());
    assert_eq!((fs::read_dir(&etc.root).unwrap().count(), fs::read_dir(&srv.root).unwrap().count()), (3, 2));
}

#[test]
fn of_several_files_in_one_directory_each_is_restored() {
    let world = World::new();
    let (etc, srv) = pages(&world);
    let done = restore(&world, &["--json"]).ok().json();
    assert_pages(&etc, &srv);
    assert_eq!(member(&done, "two")["proof"]["entries"], "2");
    // The file, and of the directory itself, two pages and a directory.
    assert_eq!(member(&done, "one")["proof"]["entries"], "5");
}

#[test]
fn a_restore_of_files_that_was_killed_at_any_rename_goes_on() {
    needs!("strace");
    let world = World::new();
    let (etc, srv) = pages(&world);
    // That of the swap and of the notes, and that of what is written and of what the backup left out.
    for (call, least) in [("rename", 10), ("renameat", 2)] {
        let mut killed = 0;
        loop {
            write_pages(&etc, &srv, "of today");
            srv.file("later", "of today");
            let mut command = Command::new("strace");
            world.agent.dress(&mut command);
            let inject = format!("inject={call}:signal=SIGKILL:when={}", killed + 1);
            command.args(["-f", "-qq", "-o", "/dev/null", "-e", &format!("trace={call}"), "-e", &inject]);
            command.arg(FARKEEP).args(restore_run(&world, "latest", &["--yes-destroy", "nightly"]));
            let ended = Run::of(&mut command).code != 137;
            if !ended {
                restore(&world, &[]).ok();
            }
            assert_pages(&etc, &srv);
            if ended {
                break;
            }
            killed += 1;
        }
        assert!(killed >= least, "{killed} were killed at {call}: this tests little");
    }
}

#[test]
fn what_does_not_lie_where_it_belongs_is_an_alarm_and_the_same_command_begins_anew() {
    let world = World::new();
    let srv = world.tree("srv");
    srv.file("gone", "of the night").file("short", "of the night").file("other", "of the night");
    files(&world, &[&srv.root], "");
    world.push("nightly");
    srv.file("gone", "of today").file("later", "of today");
    // Between the fetch and the swap somebody is in the way.
    let script = "cd \"$0\"/.farkeep-restore-*/new/srv; rm gone; : > short; rm other; mkdir other";
    files(&world, &[&srv.root], &format!("restore = {{ before = ['sh', '-c', '{script}', '{}'] }}", srv.root.display()));
    let said = restore(&world, &[]).exits(4).says("files: mismatch").says("gone: is not there after the restore");
    let said =
        said.says("short: 12 bytes were backed up and 0 are there").says("other: a file was backed up, and something");
    said.says("what was there before this restore lies in");

    files(&world, &[&srv.root], "");
    world.run(restore_run(&world, "latest", &["--dry-run"])).ok().says("was left by another restore");
    restore(&world, &[]).ok().says("files: restored");
    for name in ["gone", "short", "other"] {
        assert_eq!(read(&srv.path(name)), "of the night");
    }
    assert!(!srv.path("later").exists());
    // Nobody has said that it may go.
    let stages: Vec<_> = fs::read_dir(&srv.root).unwrap().map(|entry| entry.unwrap().path()).collect();
    let stage = stages.iter().find(|path| path.file_name().unwrap().to_string_lossy().starts_with('.')).unwrap();
    assert_eq!((stages.len(), read(&stage.join("replaced/later"))), (4, "of today".into()));
}

/// Something mounted, for as long as this lives.
struct Mounted(PathBuf);

impl Mounted {
    fn new(args: &[&str], at: &Path) -> Self {
        fs::create_dir_all(at).unwrap();
        must(Command::new("mount").args(args).arg(at));
        Self(at.to_owned())
    }
}

impl Drop for Mounted {
    fn drop(&mut self) {
        let _ = Command::new("umount").arg(&self.0).status();
    }
}

#[test]
fn what_is_mounted_below_a_root_is_never_emptied() {
    needs!(root);
    let world = World::new();
    let (srv, elsewhere) = (world.tree("srv"), world.tree("elsewhere"));
    srv.file("page", "of the night").dir("deep/with space");
    elsewhere.file("precious", "never backed up");
    files(&world, &[&srv.root], "one_file_system = true");
    world.push("nightly");
    srv.file("page", "of today");
    for args in [&["-t", "tmpfs", "tmpfs"][..], &["--bind", elsewhere.root.to_str().unwrap()]] {
        let mounted = Mounted::new(args, &srv.path("deep/with space"));
        fs::write(mounted.0.join("precious"), "never backed up").unwrap();
        let refused = |run: Run| {
            run.exits(1).says("deep/with space: another file system begins there").says("--in-place");
            assert_eq!(read(&srv.path("page")), "of today");
            assert_eq!(read(&mounted.0.join("precious")), "never backed up");
        };
        refused(world.run(restore_run(&world, "latest", &["--dry-run"])));
        refused(restore(&world, &[]));
    }
    restore(&world, &[]).ok();
    assert_eq!(read(&srv.path("page")), "of the night");
    assert_eq!(read(&elsewhere.path("precious")), "never backed up");
}

#[test]
fn what_was_mounted_while_the_restore_ran_is_not_removed_with_what_was_replaced() {
    needs!(root);
    let world = World::new();
    let srv = world.tree("srv");
    srv.file("page", "of the night").dir("deep/mounted");
    // A hook that mounts: seen before anything steps aside.
    let script = "cd \"$0\"/deep/mounted; mount -t tmpfs tmpfs . && cd \"$PWD\" && echo x > precious";
    files(&world, &[&srv.root], &format!("restore = {{ before = ['sh', '-c', '{script}', '{}'] }}", srv.root.display()));
    world.push("nightly");
    srv.file("page", "of today");
    restore(&world, &[]).exits(1).says("another file system begins there");
    let mounted = Mounted(srv.path("deep/mounted"));
    assert_eq!((read(&srv.path("page")), read(&mounted.0.join("precious"))), ("of today".into(), "x\n".into()));
    drop(mounted);
    // One that mounts where what was replaced lies: that stays, and a finding says so.
    let replaced = ".farkeep-restore-*/replaced/deep/mounted";
    let script = format!("cd \"$0\"; cd {replaced}; mount -t tmpfs tmpfs . && cd \"$PWD\" && echo x > precious");
    let hook = format!("restore = {{ after = {{ on_success = ['sh', '-c', '{script}', '{}'] }} }}", srv.root.display());
    files(&world, &[&srv.root], &hook);
    restore(&world, &[]).exits(3).says("was not removed").says("another file system begins there");
    assert_eq!(read(&srv.path("page")), "of the night");
    let stages = fs::read_dir(&srv.root).unwrap().map(|entry| entry.unwrap().path());
    let stage = stages.into_iter().find(|path| path.join("replaced").exists()).unwrap();
    let mounted = Mounted(stage.join("replaced/deep/mounted"));
    assert_eq!(read(&mounted.0.join("precious")), "x\n");
}

#[test]
fn what_the_backup_left_out_stays_where_it_lies() {
    needs!("rsync");
    let world = World::new();
    let srv = world.tree("srv");
    srv.file("page", "of the night").file("some/page", "of the night").file("whole/page", "of the night");
    srv.file("cache/CACHEDIR.TAG", "Signature: 8a477f597d28d172789f06886806bc55").file("marked/.nobackup", "");
    let rules =
        "exclude = ['*.tmp', 'build/']\nexclude_caches = true\nexclude_if_present = ['.nobackup']\nmax_file_size = '1 KiB'";
    files(&world, &[&srv.root], rules);
    // In the root, deep down, below what was not entered.
    let left_out =
        ["session.tmp", "some/session.tmp", "some/large", "some/build/deep/out", "cache/deep/blob", "marked/data"];
    for name in left_out {
        srv.noise(name, 2000, name.len() as u64);
    }
    for dir in ["some", "cache", "marked", "whole", "."] {
        srv.time(dir, 1_234_567_890, 42);
    }
    world.push("nightly");
    let before = world.path("before");
    must(Command::new("cp").arg("-a").arg(&srv.root).arg(&before));
    srv.file("page", "of today").remove("some/page").file("whole/later", "of today");
    // A file where the directory was: what lay below it is gone, and nothing goes astray.
    srv.remove("marked").file("marked", "of today");
    fs::remove_dir_all(before.join("marked")).unwrap();

    let plan = world.run(restore_run(&world, "latest", &["--dry-run"])).ok();
    plan.says("the backup left something out in").says(&srv.path("some").display().to_string());
    restore(&world, &[]).ok();
    assert_eq!(fs::read_dir(srv.path("marked")).unwrap().count(), 1);
    fs::create_dir(before.join("marked")).unwrap();
    must(Command::new("cp").arg("-a").arg("-T").arg(srv.path("marked")).arg(before.join("marked")));
    Tree::new(before.clone()).time(".", 1_234_567_890, 42);
    assert_same(&before, &srv.root);
}

#[test]
fn what_comes_in_is_on_the_disk_before_what_was_there_steps_aside() {
    needs!("strace");
    let world = World::new();
    let srv = world.tree("srv");
    srv.file("page", "of the night");
    files(&world, &[&srv.root], "");
    world.push("nightly");
    let (trace, mut command) = (world.path("trace"), Command::new("strace"));
    world.agent.dress(&mut command);
    command.args(["-f", "-qq", "-e", "trace=linkat,syncfs,rename,unlinkat", "-o"]).arg(&trace);
    command.arg(FARKEEP).args(restore_run(&world, "latest", &["--yes-destroy", "nightly"]));
    Run::of(&mut command).ok();
    let calls = read(&trace);
    let at = |what: &[&str]| {
        calls
            .lines()
            .position(|line| what.iter().all(|what| line.contains(what)))
            .unwrap_or_else(|| panic!("{what:?}: {calls}"))
    };
    let syncs: Vec<usize> = (0..).zip(calls.lines()).filter(|(_, line)| line.contains("syncfs(")).map(|(n, _)| n).collect();
    let place = srv.root.display();
    let (aside, back) = (
        at(&[&format!("\"{place}/page\", "), "/replaced/page\""]),
        at(&["/new/srv/page\", ", &format!("\"{place}/page\")")]),
    );
    let removed =
        calls.lines().skip(back).position(|line| line.contains("unlinkat") && line.contains("\"page\"")).unwrap() + back;
    let written = at(&["linkat(", "\"page\""]);
    assert!(written < syncs[0] && syncs[0] < aside && aside < syncs[1] && syncs[1] < back, "{calls}");
    assert!(back < syncs[2] && syncs[2] < removed, "{calls}");
}

#[test]
fn holes_of_files_need_no_room() {
    let world = World::new();
    let srv = world.tree("srv");
    srv.file("disk", "x".repeat(4096));
    fs::File::options().write(true).open(srv.path("disk")).unwrap().set_len(1 << 30).unwrap();
    files(&world, &[&srv.root], "");
    world.push("nightly");
    let plan = world.run(restore_run(&world, "latest", &["--dry-run", "--json"])).ok().json();
    let needed = plan["sheet"]["needed_bytes"].as_u64().unwrap();
    assert!((1..1 << 20).contains(&needed), "{needed}");
}

#[test]
fn room_is_needed_where_files_go_and_nowhere_else() {
    needs!(root);
    let world = World::new();
    let (small, staging) = (world.path("small"), world.path("staging"));
    let _small = Mounted::new(&["-t", "tmpfs", "-o", "size=5M", "tmpfs"], &small);
    let _staging = Mounted::new(&["-t", "tmpfs", "-o", "size=1M", "tmpfs"], &staging);
    let (srv, tight) = (world.tree("srv"), world.tree("small/srv"));
    let staged = |more: &[&str]| {
        let all = [&["--staging", staging.to_str().unwrap()], more].concat();
        world.run(restore_run(&world, "latest", &all))
    };
    srv.noise("blob", 3 << 20, 1);
    files(&world, &[&srv.root], "");
    world.push("nightly");
    srv.file("blob", "of today");
    staged(&["--dry-run"]).ok().says(&format!("free to {}, beside what it replaces", srv.root.display()));
    staged(&["--yes-destroy", "nightly"]).ok();
    assert_eq!(fs::metadata(srv.path("blob")).unwrap().len(), 3 << 20);

    tight.noise("blob", 3 << 20, 1).file("page", "of the night");
    files(&world, &[&tight.root], "");
    world.push("nightly");
    tight.file("page", "of today");
    staged(&["--yes-destroy", "nightly"]).exits(1).says("beside what they replace").says("nothing has been destroyed");
    assert_eq!(read(&tight.path("page")), "of today");
    // Nothing was begun.
    assert_eq!(fs::read_dir(&tight.root).unwrap().count(), 2);
}
