//! recover.py, on a machine that has nothing but what it needs.

use std::fs;
use std::io::Write;
use std::path::Path;
use std::process::{Command, Stdio};

use crate::world::tools::{is_root, must};
use crate::world::{Run, World, args, assert_same, differences, needs};
use crate::{BareMachine, busy};

#[test]
fn a_whole_tree_is_restored_without_farkeep() {
    needs!("age", "zstd", "b3sum", "python3", "rsync");
    let world = World::new();
    let tree = world.tree("data");
    tree.everything().ordinary(60, 1);
    // Long lists: attributes, extents and chunks that do not fit a line.
    tree.noise("large", 12 << 20, 5);
    // What an earlier recovery left, or somebody called so.
    tree.file(".recover-tmp", "not temporary").file("a/.recover-tmp", "nor this");
    world.push(&tree.root);
    let machine = BareMachine::new(&world, &[]);
    let back = world.path("back");
    let mut all = args!["restore", "--identity", &world.identity, "--into", &back, "--xattrs"];
    if is_root() {
        all.extend(args!["--owners"]);
    }
    let run = machine.recover(&world.vault, all).ok();
    assert!(run.out.contains("0 problems") && run.err.is_empty(), "{}{}", run.out, run.err);
    assert_same(&tree.root, &tree.below(&back));
}

#[test]
fn any_snapshot_and_any_part_of_it_is_restored() {
    needs!("age", "zstd", "b3sum", "python3", "rsync");
    let world = World::new();
    let tree = world.tree("data");
    tree.ordinary(20, 1).file("part/a", "first night").hard_link("part/a", "part/b").hard_link("part/a", "apart");
    busy(&world);
    let machine = BareMachine::new(&world, &[]);
    let listed = machine.recover(&world.vault, args!["list", "--identity", &world.identity]).ok().out;
    let ids: Vec<&str> = listed.lines().map(|line| line.split_whitespace().next().unwrap()).collect();
    let ours: Vec<String> = world.snapshots().iter().map(|s| s["id"].as_str().unwrap()[..16].to_owned()).collect();
    assert_eq!(ids, ours);
    let starts = |text: &str| -> Vec<String> {
        let lines = text.lines().map(|line| line.split_whitespace().take(2).collect::<Vec<_>>());
        lines.map(|words| format!("{:.8} {}", words[0], words[1])).collect()
    };
    let shown = world.run(args!["snapshots"]).ok().out;
    assert_eq!(starts(&listed), starts(&shown)[..ours.len()], "ids and times as `farkeep snapshots` shows them");
    let restore = |into: &Path, more: Vec<std::ffi::OsString>| {
        let mut all = args!["restore", "--identity", &world.identity, "--into", into];
        all.extend(more);
        machine.recover(&world.vault, all).ok()
    };
    let (first, part) = (world.path("first"), world.path("part"));
    restore(&first, args![ids[0]]);
    assert!(!tree.below(&first).join("later").exists(), "the first night did not have it");
    tree.remove("later");
    assert_eq!(
        differences(&tree.root, &tree.below(&first)).into_iter().filter(|line| !line.contains(" ./")).collect::<Vec<_>>(),
        Vec::<String>::new()
    );
    // A hard link whose first name was not wanted still has its content.
    restore(&part, args![ids[1], tree.path("part")]);
    let below = tree.below(&part);
    assert_eq!(fs::read_dir(&below).unwrap().count(), 1);
    for name in ["part/a", "part/b"] {
        assert_eq!(fs::read_to_string(below.join(name)).unwrap(), "first night", "{name}");
    }
}

#[test]
fn a_path_at_which_nothing_lies_is_named() {
    needs!("age", "zstd", "b3sum", "python3");
    let world = World::new();
    let tree = world.tree("data");
    tree.file("there", "one");
    world.push(&tree.root);
    let machine = BareMachine::new(&world, &[]);
    let listed = machine.recover(&world.vault, args!["list", "--identity", &world.identity]).ok().out;
    let id = listed.split_whitespace().next().unwrap().to_owned();
    let (none, some) = (world.path("none"), world.path("some"));
    let restore = |into: &Path, paths: Vec<std::ffi::OsString>| {
        let all = args!["restore", "--identity", &world.identity, "--into", into, &id];
        machine.recover(&world.vault, [all, paths].concat())
    };
    let run = restore(&none, args!["/typing/error"]).exits(1).says("0 entries restored");
    assert!(run.err.contains("nothing") && run.err.contains("'/typing/error'"), "{}", run.err);
    // What does lie there is restored all the same.
    restore(&some, args![tree.path("there"), "/typing/error"]).exits(1).says("'/typing/error'").never_says("there'");
    assert_eq!(fs::read_to_string(tree.below(&some).join("there")).unwrap(), "one");
}

#[test]
fn several_members_and_commands_are_restored() {
    needs!("age", "zstd", "b3sum", "python3");
    let world = World::new();
    world.tree("data").file("a", "one");
    world.agent.configure(&format!(
        "[[job.n.source]]\nname = \"files\"\nkind = \"files\"\npaths = [\"{}\"]\n\
         [[job.n.source]]\nname = \"db\"\nkind = \"command\"\ncommand = [\"seq\", \"100000\"]\nfilename = \"db.dump\"\n",
        world.path("data").display()
    ));
    world.push("n");
    let machine = BareMachine::new(&world, &[]);
    let back = world.path("back");
    machine.recover(&world.vault, args!["restore", "--identity", &world.identity, "--into", &back]).ok();
    let dump = fs::read_to_string(back.join("@db/db.dump")).unwrap();
    assert_eq!((dump.lines().count(), dump.lines().last()), (100_000, Some("100000")));
    assert_eq!(fs::read_to_string(world.tree("data").below(&back).join("a")).unwrap(), "one");
}

#[test]
fn a_copy_on_a_read_only_drive_is_restored() {
    needs!(root);
    needs!("age", "zstd", "b3sum", "python3", "mkfs.ext4");
    let world = World::new();
    world.tree("data").ordinary(20, 1);
    world.push(world.path("data"));
    let drive = crate::world::drive::Drive::new(world.dir.path(), "drive", 64);
    drive.plug_in();
    world.run(args!["sync", drive.mount.join("vault"), "--from", &world.vault]).ok();
    must(Command::new("mount").args(["-o", "remount,ro"]).arg(&drive.mount));
    let machine = BareMachine::new(&world, &[]);
    let back = world.path("back");
    machine.recover(&drive.mount.join("vault"), args!["restore", "--identity", &world.identity, "--into", &back]).ok();
    assert_same(&world.path("data"), &world.tree("data").below(&back));
}

#[test]
fn somebody_elses_identity_opens_nothing() {
    needs!("age", "zstd", "b3sum", "python3");
    let (world, other) = (World::new(), World::new());
    world.tree("data").file("a", "one");
    world.push(world.path("data"));
    let machine = BareMachine::new(&world, &[]);
    let back = world.path("back");
    let run = machine.recover(&world.vault, args!["restore", "--identity", &other.identity, "--into", &back]).exits(1);
    assert!(run.err.contains("right file"), "{}", run.err);
    assert!(!back.exists());
}

#[test]
fn nothing_that_is_there_is_overwritten() {
    needs!("age", "zstd", "b3sum", "python3");
    let world = World::new();
    world.tree("data").file("a", "from the backup").file("b", "also");
    world.push(world.path("data"));
    let machine = BareMachine::new(&world, &[]);
    let back = world.path("back");
    let there = world.tree("data").below(&back);
    fs::create_dir_all(&there).unwrap();
    fs::write(there.join("a"), "mine").unwrap();
    let run = machine.recover(&world.vault, args!["restore", "--identity", &world.identity, "--into", &back]).exits(4);
    assert!(run.err.contains("already there"), "{}", run.err);
    assert_eq!(fs::read_to_string(there.join("a")).unwrap(), "mine");
    assert_eq!(fs::read_to_string(there.join("b")).unwrap(), "also");
    // A link in the way leads nowhere.
    let outside = world.path("outside");
    fs::create_dir(&outside).unwrap();
    let trap = world.path("trap");
    let parent = world.tree("data").below(&trap);
    fs::create_dir_all(parent.parent().unwrap()).unwrap();
    std::os::unix::fs::symlink(&outside, &parent).unwrap();
    machine.recover(&world.vault, args!["restore", "--identity", &world.identity, "--into", &trap]).exits(4);
    assert_eq!(fs::read_dir(&outside).unwrap().count(), 0, "something was written through a link");
}

#[test]
fn an_identity_with_a_passphrase_asks_for_it_at_the_terminal() {
    needs!("age", "zstd", "b3sum", "python3");
    let world = World::bare();
    let secret = world.path("passphrase");
    fs::write(&secret, "correct horse\n").unwrap();
    let init =
        args!["init", "--store", &world.vault, "--identity-out", &world.identity, "--passphrase-file", &secret, "--yes"];
    world.run(init).ok();
    world.tree("data").file("a", "one");
    world.push(world.path("data"));
    // A terminal of its own, in which somebody answers when asked.
    let typist = "import os, pty, sys\n\
        pid, fd = pty.fork()\n\
        if pid == 0:\n    os.execvp(sys.argv[1], sys.argv[1:])\n\
        seen, answered = b'', False\n\
        while True:\n    \
            try:\n        piece = os.read(fd, 1000)\n    except OSError:\n        break\n    \
            if not piece:\n        break\n    \
            seen += piece\n    \
            if b'assphrase' in seen and not answered:\n        os.write(fd, b'correct horse\\n')\n        answered = True\n\
        sys.stdout.buffer.write(seen)\n\
        sys.exit(os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]))\n";
    let machine = BareMachine::new(&world, &[]);
    let back = world.path("back");
    let mut child = machine
        .command(&world.vault, "python3")
        .arg("-")
        .args(["python3", "recover.py", "restore", "--identity"])
        .arg(&world.identity)
        .arg("--into")
        .arg(&back)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    child.stdin.take().unwrap().write_all(typist.as_bytes()).unwrap();
    let output = child.wait_with_output().unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stdout));
    assert_eq!(fs::read_to_string(world.tree("data").below(&back).join("a")).unwrap(), "one");
}

/// Puts a statement into the ledger under the name that fits it, signed by nobody.
fn plant(world: &World, writer: &str, seq: u64, line: &str) {
    let name = format!("{writer}-{seq}-{}.rec", farkeep::crypto::hash::hash(format!("{line}\n").as_bytes()));
    fs::write(world.vault.join("ledger").join(name), format!("{line}\nno signature\n")).unwrap();
}

/// The one snapshot's record: its statement.
fn statement(world: &World) -> serde_json::Value {
    let text = fs::read_to_string(&world.objects("ledger")[0]).unwrap();
    serde_json::from_str(text.lines().next().unwrap()).unwrap()
}

#[test]
fn what_is_no_record_is_named_and_the_rest_is_restored() {
    needs!("age", "zstd", "b3sum", "python3");
    let world = World::new();
    world.tree("data").file("a", "one");
    world.push(world.path("data"));
    let honest = statement(&world);
    let changed = |change: &dyn Fn(&mut serde_json::Value)| {
        let mut statement = honest.clone();
        statement["writer"] = "1".repeat(32).into();
        statement["seq"] = 1.into();
        change(&mut statement);
        statement.to_string()
    };
    let lines = [
        "{}".to_owned(),
        "[1, 2]".to_owned(),
        "null".to_owned(),
        "\u{e9}{".to_owned(),
        "[".repeat(60_000),
        format!("{}1{}", "{\"a\":".repeat(9_000), "}".repeat(9_000)),
        changed(&|s| s["body"] = serde_json::json!([])),
        changed(&|s| s["body"]["tally"] = serde_json::json!(null)),
        changed(&|s| s["body"]["tally"]["files"] = serde_json::json!(1.5)),
        changed(&|s| s["body"]["state"] = "\u{1b}[2J".into()),
        changed(&|s| s["body"]["manifest"] = "../../etc/passwd".into()),
        changed(&|s| s["time"] = "now".into()),
        changed(&|s| s["seq"] = 9.into()),
        changed(&|s| s["kind"] = serde_json::json!({})).replace("\"kind\":{},", ""),
    ];
    for line in &lines {
        plant(&world, &"1".repeat(32), 1, line);
    }
    fs::create_dir(world.vault.join("ledger").join(format!("{}-2-{}.rec", "1".repeat(32), "2".repeat(64)))).unwrap();
    let machine = BareMachine::new(&world, &[]);
    let run = machine.recover(&world.vault, args!["list", "--identity", &world.identity]).exits(4);
    assert_eq!(run.out.lines().count(), 1, "{}", run.out);
    assert_eq!(
        run.err.lines().filter(|line| line.starts_with("DAMAGED: ledger/1111")).count(),
        lines.len() + 1,
        "{}",
        run.err
    );
    let back = world.path("back");
    let run = machine.recover(&world.vault, args!["restore", "--identity", &world.identity, "--into", &back]).exits(4);
    assert!(!run.err.contains("Traceback"), "{}", run.err);
    assert_eq!(fs::read_to_string(world.tree("data").below(&back).join("a")).unwrap(), "one");
}

#[test]
fn any_number_of_trust_records_that_somebody_planted_is_passed_by() {
    needs!("age", "zstd", "b3sum", "python3");
    let world = World::new();
    world.tree("data").file("a", "one");
    world.push(world.path("data"));
    let machine = BareMachine::new(&world, &[]);
    let list = args!["list", "--identity", &world.identity];
    let shown = machine.recover(&world.vault, list.clone()).ok().out;
    let trust = world.vault.join("trust");
    // Writers that nobody has heard of, more than memory would hold, and one line without an end.
    let writers: Vec<String> = (0..1500).map(|n| format!("\"{n:032x}\":{{}}")).collect();
    let line = format!("{{\"body\":{{\"writers\":{{{}}}}}}}\n", writers.join(","));
    let planted = world.path("planted");
    fs::write(&planted, line).unwrap();
    for n in 0..10_000 {
        fs::hard_link(&planted, trust.join(format!("1-{n:064x}.rec"))).unwrap();
    }
    let endless = fs::File::create(trust.join(format!("1-{}.rec", "f".repeat(64)))).unwrap();
    endless.set_len(8 << 30).unwrap();
    let line = format!("ulimit -v 2000000; exec python3 recover.py list --identity '{}'", world.identity.display());
    let run = Run::of(machine.command(&world.vault, "/bin/bash").args(["-c", &line])).ok();
    assert_eq!((run.out, run.err), (shown, String::new()));
}

#[test]
fn a_snapshot_that_somebody_else_planted_is_not_taken_for_the_newest() {
    needs!("age", "zstd", "b3sum", "python3");
    let world = World::new();
    world.tree("data").file("a", "one");
    world.push(world.path("data"));
    let machine = BareMachine::new(&world, &[]);
    let honest = statement(&world);
    let (writer, id) = (honest["writer"].as_str().unwrap(), world.snapshots()[0]["id"].as_str().unwrap().to_owned());
    for (round, field) in ["writer", "series"].into_iter().enumerate() {
        let mut forged = honest.clone();
        forged["time"] = 4_000_000_000_u64.into();
        let signer = if field == "writer" { "1".repeat(32) } else { writer.to_owned() };
        forged["writer"] = signer.as_str().into();
        if field == "series" {
            forged["body"]["series"] = "2".repeat(32).into();
        }
        plant(&world, &signer, forged["seq"].as_u64().unwrap(), &forged.to_string());
        let into = world.path(&format!("into{round}"));
        let restore = args!["restore", "--identity", &world.identity, "--into", &into];
        let run = machine.recover(&world.vault, restore.clone()).exits(1);
        assert!(run.err.contains("SNAP") && !into.exists(), "{}{}", run.out, run.err);
        assert!(
            run.out.contains(&format!("writer {writer}")) && run.out.contains(&format!("writer {signer}")),
            "{}",
            run.out
        );
        let run = machine.recover(&world.vault, [restore, args![&id[..16]]].concat()).ok();
        assert!(run.out.contains(&format!("of writer {writer}")), "{}", run.out);
        assert_eq!(fs::read_to_string(world.tree("data").below(&into).join("a")).unwrap(), "one");
        for forged in world.objects("ledger").into_iter().filter(|path| !path.to_string_lossy().contains(&id)) {
            fs::remove_file(forged).unwrap();
        }
    }
}
