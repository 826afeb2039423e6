//! Key files that are wrong, missing, protected or somebody else's.

use std::fs;
use std::os::unix::fs::PermissionsExt;

use crate::world::sshd::{KeyPair, Sshd, have_sshd};
use crate::world::{Run, World, args, needs, skipped};

#[test]
fn identity_files_that_do_not_open_are_named() {
    let world = World::new();
    world.tree("data").file("a", "one");
    world.push(world.path("data"));
    let other = World::new();
    let write = |name: &str, content: &str| {
        fs::write(world.path(name), content).unwrap();
        world.path(name)
    };
    let ls = |identity: &std::path::Path| world.run(args!["ls", "latest", "--identity", identity]);
    let missing = world.path("no such identity");
    ls(&missing).exits(2).says("no such identity");
    ls(&write("empty", "")).exits(2).says("empty");
    ls(&write("words", "not a key\n")).exits(2).says("words");
    ls(&write("public", &fs::read_to_string(world.root_key()).unwrap())).exits(2).says("public");
    ls(&world.dir.path().join("operator")).exits(2).says("operator");
    // A key of another vault is a key, but not this one's: it is said which is needed.
    let said = ls(&other.identity).err;
    let recipient = fs::read_to_string(&world.identity)
        .unwrap()
        .lines()
        .find_map(|line| line.split("age1").nth(1).map(|rest| format!("age1{rest}")))
        .unwrap();
    assert!(said.contains(&recipient), "{recipient} is not named: {said}");
    // Without any: which one.
    world.run(args!["ls", "latest"]).exits(2).says("--identity").says(&recipient);
}

#[test]
fn a_protected_identity_asks_for_its_passphrase_and_never_hangs() {
    let world = World::bare();
    let secret = world.path("passphrase");
    fs::write(&secret, "correct horse battery staple\n").unwrap();
    let init =
        args!["init", "--store", &world.vault, "--identity-out", &world.identity, "--passphrase-file", &secret, "--yes"];
    world.run(init).ok().never_says("correct horse");
    let identity = fs::read_to_string(&world.identity);
    assert!(!identity.is_ok_and(|text| text.contains("AGE-SECRET")), "the identity is not protected");
    world.tree("data").file("a", "one");
    world.push(world.path("data"));
    let ls = |more: &[std::ffi::OsString]| {
        let mut all = args!["ls", "latest", "--identity", &world.identity];
        all.extend_from_slice(more);
        world.run(all)
    };
    ls(&[]).exits(2).says("--passphrase-file").says("--passphrase-fd");
    ls(&args!["--passphrase-file", &secret]).ok();
    ls(&args!["--passphrase-fd", "999"]).exits(2).says("999");
    ls(&args!["--passphrase-file", world.path("missing")]).exits(2).says("missing");
    ls(&args!["--passphrase-file", &secret, "--passphrase-fd", "0"]).exits(2);
    fs::write(world.path("wrong"), "incorrect\n").unwrap();
    ls(&args!["--passphrase-file", world.path("wrong")]).exits(1).says("wrong passphrase").never_says("incorrect");
    fs::write(world.path("blank"), "\n").unwrap();
    ls(&args!["--passphrase-file", world.path("blank")]).exits(2).says("empty");
}

#[test]
fn init_without_an_answer_about_the_passphrase_is_refused() {
    let world = World::bare();
    let init = args!["init", "--store", &world.vault, "--identity-out", &world.identity, "--yes"];
    world.run(init).exits(2).says("--no-passphrase").says("--passphrase-fd").says("--passphrase-file");
    assert!(!world.identity.exists() && !world.vault.exists(), "something was begun");
}

#[test]
fn more_recipients_than_a_key_file_has_room_for_are_refused_before_anything_is_made() {
    let world = World::bare();
    let recipients = world.agent.config.with_file_name("keys").join("recipients");
    fs::create_dir_all(&recipients).unwrap();
    let recipient = |number: u32| {
        let recipient = farkeep::crypto::identity::Identity::generate().recipient();
        fs::write(recipients.join(format!("{number}.txt")), format!("{recipient}\n")).unwrap();
    };
    (0..12).for_each(recipient);
    let init = args!["init", "--store", &world.vault, "--identity-out", &world.identity, "--no-passphrase", "--yes"];
    world.run(init.clone()).exits(2).says("13 are to open the vault, and 12 at most can");
    assert!(!world.identity.exists() && !world.vault.join("farkeep-vault.json").exists(), "something was begun");
    fs::remove_file(recipients.join("11.txt")).unwrap();
    world.run(init).ok();
    // The operator of the vault has a file there now.
    recipient(11);
    let root = world.identity.with_extension("root");
    world.run(args!["keys", "new-epoch", "--root", root, "--identity", &world.identity]).exits(2).says("13 are to open");
}

#[test]
fn init_says_who_can_open_the_vault() {
    let world = World::bare();
    let recipients = world.agent.config.with_file_name("keys").join("recipients");
    fs::create_dir_all(&recipients).unwrap();
    let deputy = farkeep::crypto::identity::Identity::generate().recipient().to_string();
    fs::write(recipients.join("deputy.txt"), format!("# owner: the deputy\n{deputy}\n")).unwrap();
    let init = args!["init", "--store", &world.vault, "--identity-out", &world.identity, "--no-passphrase", "--yes"];
    let told = world.run(init).ok().says("who can open the vault").says(&deputy);
    let told = told.says(&recipients.join("deputy.txt").display().to_string());
    // The operator's own file comes with the vault.
    let mut files = fs::read_dir(&recipients).unwrap().map(|entry| fs::read_to_string(entry.unwrap().path()).unwrap());
    let own = files.find(|text| !text.contains(&deputy)).unwrap();
    told.says(own.lines().last().unwrap());
}

#[test]
fn a_vault_that_this_account_may_not_read_is_not_called_damaged() {
    needs!("setpriv");
    let world = World::new();
    let header = world.vault.join("farkeep-vault.json");
    fs::set_permissions(&header, fs::Permissions::from_mode(0o000)).unwrap();
    let mut verify = world.agent.command_without_power(args!["verify"]);
    Run::of(&mut verify).exits(1).says("farkeep-vault.json: not permitted");
}

#[test]
fn keys_are_private_and_never_overwritten() {
    let world = World::new();
    for name in ["identity", "identity.root"] {
        let mode = fs::metadata(world.identity.with_file_name(name)).unwrap().permissions().mode();
        assert_eq!(mode & 0o077, 0, "{name}: {mode:o}");
    }
    let before = fs::read(&world.identity).unwrap();
    let other = world.machine("other");
    let init = args!["init", "--store", world.path("second"), "--identity-out", &world.identity, "--no-passphrase", "--yes"];
    let run = other.run(init);
    assert!(run.code != 0 && run.err.contains("identity"), "{}: {}", run.code, run.err);
    assert_eq!(fs::read(&world.identity).unwrap(), before);
}

#[test]
fn an_ssh_key_that_cannot_be_used_is_named() {
    if !have_sshd() {
        return skipped("openssh-server is not installed");
    }
    let sshd = Sshd::start("");
    let world = World::bare();
    let host_key = sshd.host_key.fingerprint();
    let url = format!("sftp://{}@127.0.0.1:{}/vault", crate::world::sshd::me(), sshd.port);
    let init = |key: &std::path::Path| {
        let all = args![
            "init",
            "--store",
            &url,
            "--host-key",
            &host_key,
            "--ssh-key",
            key,
            "--identity-out",
            &world.identity,
            "--no-passphrase",
            "--yes"
        ];
        world.run(all)
    };
    fs::write(world.path("no key"), "nonsense").unwrap();
    let protected = KeyPair::with_passphrase(world.dir.path(), "protected", "a secret");
    for (path, word) in
        [(world.path("missing"), "missing"), (world.path("no key"), "no key"), (protected.private.clone(), "protected")]
    {
        let run = init(&path);
        assert!([2, 5].contains(&run.code) && run.err.contains(word), "{}: {}", run.code, run.err);
    }
    assert!(!world.identity.exists());
}

#[test]
fn an_unknown_host_key_is_never_accepted() {
    if !have_sshd() {
        return skipped("openssh-server is not installed");
    }
    let sshd = Sshd::start("");
    let world = World::bare();
    let url = format!("sftp://{}@127.0.0.1:{}/vault", crate::world::sshd::me(), sshd.port);
    let init = args![
        "init",
        "--store",
        &url,
        "--ssh-key",
        &sshd.user_key.private,
        "--identity-out",
        &world.identity,
        "--no-passphrase",
        "--yes"
    ];
    world.run(init).exits(2).says("--host-key").says(&sshd.host_key.fingerprint());
}
