//! Who can do what with which key: the agent backs up and verifies with none that opens; an operator's identity opens.

use std::fs;
use std::process::{Command, Stdio};

use crate::world::tools::must;
use crate::world::{Machine, Run, World, args, assert_same, needs};

/// A world with one snapshot; the identity lies with the operator, not on the agent.
fn pushed() -> World {
    let world = World::new();
    world.tree("data").ordinary(30, 1);
    world.push(world.path("data"));
    world
}

/// The whole key of the identity's owner, which a message names.
fn recipient(world: &World) -> String {
    let text = fs::read_to_string(&world.identity).unwrap();
    let line = text.lines().find(|line| line.contains("age1")).unwrap();
    line[line.find("age1").unwrap()..].trim().to_owned()
}

#[test]
fn without_the_identity_the_machine_pushes_and_verifies_and_opens_nothing() {
    needs!("rsync");
    let world = pushed();
    let recipient = recipient(&world);
    let away = world.path("safe");
    fs::rename(world.path("operator"), &away).unwrap();

    world.tree("data").noise("further", 100_000, 9);
    world.push(world.path("data"));
    for depth in ["list", "sealed"] {
        world.run(args!["verify", "--depth", depth]).ok();
    }
    assert_eq!(world.snapshots().len(), 2);
    world.run(args!["ledger", "verify"]).ok();
    world.run(args!["status"]).ok();

    let into = world.path("back");
    let file = world.path("data/further");
    for command in [
        args!["restore", "latest", "--into", &into],
        args!["restore", "latest", "--in-place", "--dry-run"],
        args!["cat", "latest", &file],
        args!["ls", "latest"],
        args!["find", "*.txt"],
        args!["diff", "latest", "latest"],
        args!["verify", "--depth", "opened"],
    ] {
        world.run(command).exits(2).says("--identity").says(&recipient);
    }
    assert!(!into.exists(), "a restore without a key has made its directory");

    // What is on the machine opens nothing: not its own keys either.
    for key in crate::world::files_below(&world.agent.state) {
        let tried = world.run(args!["restore", "latest", "--into", &into, "--identity", &key]);
        assert!(matches!(tried.code, 1 | 2), "{}: {tried:?}", key.display());
    }
    assert!(!into.exists());

    let identity = away.join("identity");
    world.run(args!["restore", "latest", "--into", &into, "--identity", &identity]).ok();
    assert_same(&world.path("data"), &world.tree("data").below(&into));
}

#[test]
fn another_vaults_identity_is_refused_and_the_needed_one_is_named() {
    let (world, other) = (pushed(), World::new());
    let into = world.path("back");
    for command in ["restore", "cat"] {
        let mut arguments = args![command, "latest", "--identity", &other.identity];
        arguments.extend(if command == "restore" {
            args!["--into", &into]
        } else {
            args![world.path("data/dir000/file00001.txt")]
        });
        let refused = world.run(arguments);
        assert!(matches!(refused.code, 1 | 2), "{refused:?}");
        refused.says(&recipient(&world));
    }
    assert!(!into.exists());
    // Neither does what is no identity at all.
    let text = world.path("text");
    fs::write(&text, "not a key\n").unwrap();
    world.run(args!["ls", "latest", "--identity", &text]).exits(2).says("text");
    world.run(args!["ls", "latest", "--identity", world.path("nowhere")]).exits(2).says("nowhere");
}

#[test]
fn a_passphrase_comes_from_a_file_or_a_descriptor_and_never_from_an_argument() {
    let world = World::bare();
    let (right, wrong) = (world.path("right"), world.path("wrong"));
    fs::write(&right, "correct horse\n").unwrap();
    fs::write(&wrong, "battery staple\n").unwrap();
    let plain = args!["init", "--store", &world.vault, "--identity-out", &world.identity, "--yes"];
    // Nobody is there to be asked.
    world.run(plain.clone()).exits(2).says("--passphrase-fd").says("--no-passphrase");
    assert!(!world.identity.exists());
    world.run([plain, args!["--passphrase-file", &right]].concat()).ok();
    for (file, secret) in [("operator/identity", "AGE-SECRET-KEY"), ("operator/identity.root", "OPENSSH PRIVATE")] {
        assert!(!String::from_utf8_lossy(&fs::read(world.path(file)).unwrap()).contains(secret), "{file} is not sealed");
    }

    let tree = world.tree("data");
    tree.file("file", "content");
    world.push(&tree.root);
    let cat = args!["cat", "latest", tree.path("file"), "--identity", &world.identity];
    let with = |more: Vec<std::ffi::OsString>| world.run([cat.clone(), more].concat());
    assert_eq!(with(args!["--passphrase-file", &right]).ok().out, "content");
    with(args![]).exits(2).says("--passphrase-fd");
    with(args!["--passphrase-file", &wrong]).exits(1).says("wrong passphrase");
    with(args!["--passphrase-file", world.path("nowhere")]).exits(2);
    assert_eq!(from_descriptor(&world.agent, &cat, "correct horse\n").ok().out, "content");
    assert_eq!(from_descriptor(&world.agent, &cat, "correct horse").ok().out, "content");
    from_descriptor(&world.agent, &cat, "battery staple\n").exits(1).says("wrong passphrase");
    from_descriptor(&world.agent, &cat, "\n").exits(2).says("empty");
    // A pipe gives it once, and two files need it.
    let root = world.identity.with_extension("root");
    let adopt = args!["init", "--adopt", "--store", &world.vault, "--root", root, "--identity", &world.identity];
    from_descriptor(&world.machine("new"), &adopt, "correct horse\n").ok();
}

/// Runs a command with the passphrase on descriptor 3, as a service manager or a script hands it over.
fn from_descriptor(machine: &Machine, arguments: &[std::ffi::OsString], passphrase: &str) -> Run {
    let mut shell = Command::new("sh");
    machine.dress(&mut shell);
    shell.args(["-c", "exec \"$@\" --passphrase-fd 3 3<<EOF\n$PASSPHRASE\nEOF\n", "sh"]).arg(crate::world::machine::FARKEEP);
    // The shell ends it with a line end of its own; the text is the test's, not a secret.
    shell.args(arguments).env("PASSPHRASE", passphrase.trim_end_matches('\n')).stdin(Stdio::null());
    Run::of(&mut shell)
}

#[test]
fn a_machine_with_only_the_address_and_the_identity_restores() {
    needs!("rsync");
    let world = pushed();
    let station = world.machine("station");
    let into = world.path("back");
    let from = args!["restore", "latest", "--from", &world.vault, "--into", &into, "--identity", &world.identity];
    // A vault is never its own pin; the comment in the identity file is one, and so is the root's public key.
    let bare = world.path("bare");
    let text = fs::read_to_string(&world.identity).unwrap();
    fs::write(&bare, text.lines().filter(|line| !line.starts_with('#')).fold(String::new(), |all, line| all + line + "\n"))
        .unwrap();
    let unpinned = args!["restore", "latest", "--from", &world.vault, "--into", &into, "--identity", &bare];
    station.run(unpinned.clone()).exits(2).says("--trust");
    let other = World::new();
    station.run([unpinned.clone(), args!["--trust", other.root_key()]].concat()).exits(4);
    assert!(!into.exists());
    station.run([unpinned, args!["--trust", world.root_key()]].concat()).ok();
    assert_same(&world.path("data"), &world.tree("data").below(&into));
    fs::remove_dir_all(&into).unwrap();
    station.run(from).ok();
    assert_same(&world.path("data"), &world.tree("data").below(&into));
}

#[test]
fn a_second_operators_identity_opens_what_was_sealed_to_both() {
    let second = World::new();
    let world = World::bare();
    let recipients = world.agent.home.join("keys/recipients");
    fs::create_dir_all(&recipients).unwrap();
    fs::write(recipients.join("deputy.txt"), format!("# owner: the deputy\n{}\n", recipient(&second))).unwrap();
    world.init(&args!["--store", &world.vault]);
    let tree = world.tree("data");
    tree.file("file", "content");
    world.push(&tree.root);
    for identity in [&world.identity, &second.identity] {
        // The deputy's file pins another root: the configuration decides.
        assert_eq!(world.run(args!["cat", "latest", tree.path("file"), "--identity", identity]).ok().out, "content");
    }
}

/// Each file of the area of keys that belongs to an epoch.
fn identity_files(vault: &std::path::Path, epoch: u32) -> Vec<std::path::PathBuf> {
    let all = crate::world::files_below(&vault.join("keys"));
    all.into_iter()
        .filter(|path| path.file_name().unwrap().to_string_lossy().starts_with(&format!("identity-{epoch}-")))
        .collect()
}

#[test]
fn a_key_file_that_a_copy_lacks_shuts_only_what_needs_it() {
    let world = pushed();
    let older = world.path("older");
    must(Command::new("cp").arg("-a").arg(&world.vault).arg(&older));
    let root = world.identity.with_extension("root");
    world.run(args!["keys", "new-epoch", "--root", &root, "--identity", &world.identity]).ok();
    // A copy from before knows nothing of the epoch, and this machine does.
    let restore = |from: &std::path::Path, into: &str| {
        let into = world.path(into);
        world.run(args!["restore", "latest", "--from", from, "--into", &into, "--identity", &world.identity])
    };
    restore(&older, "from-older").ok();
    assert_same(&world.path("data"), &world.tree("data").below(&world.path("from-older")));
    let stranger = World::new();
    let refused =
        args!["restore", "latest", "--from", &older, "--into", world.path("not"), "--identity", &stranger.identity];
    world.run(refused).exits(1).says("this identity does not open");

    world.tree("data").noise("further", 100_000, 9);
    world.push(world.path("data"));
    // What is sealed to the new epoch alone needs no file of the old one.
    let fresh = World::new();
    let tree = fresh.tree("data");
    tree.ordinary(10, 1);
    let root = fresh.identity.with_extension("root");
    fresh.run(args!["keys", "new-epoch", "--root", &root, "--identity", &fresh.identity]).ok();
    fresh.push(&tree.root);
    let [first] = &identity_files(&fresh.vault, 1)[..] else { panic!("one file of the first epoch") };
    fs::remove_file(first).unwrap();
    let out = fresh.path("out");
    fresh.run(args!["restore", "latest", "--into", &out, "--identity", &fresh.identity]).ok();
    assert_same(&tree.root, &tree.below(&out));
    // The one that is needed is named.
    for file in identity_files(&fresh.vault, 2) {
        fs::remove_file(file).unwrap();
    }
    let run = fresh.run(args!["restore", "latest", "--into", fresh.path("not"), "--identity", &fresh.identity]);
    run.exits(4).says("keys/identity-2-").says("missing");
}
