//! The write-once account on a real sshd (recipe A): the agent works, and whoever stole its key changes nothing.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

use farkeep::store::sftp::SftpStore;
use farkeep::store::{Durability, Store, StoreError, WriteOnceStore};

use crate::raw::{self, Answer, FLAG_APPEND, FLAG_CREATE, FLAG_EXCL, FLAG_READ, FLAG_TRUNC, FLAG_WRITE, Raw, fields};
use crate::world::server::Server;
use crate::world::sshd::{KeyPair, location, noise, options};
use crate::world::{args, assert_same, needs};

const VICTIM: &str = "/vault/packs/00/victim";

fn store(server: &Server, user: &str, key: &KeyPair) -> SftpStore {
    let location = location(server.sshd.port, user, Path::new("/vault"));
    SftpStore::connect(&location, options(key, &server.host_key())).unwrap_or_else(|e| panic!("{e}\n{}", server.sshd.log()))
}

fn writer(server: &Server) -> SftpStore {
    store(server, &server.accounts.writer, &server.writer_key)
}

fn raw(server: &Server) -> Raw {
    Raw::connect(server.sshd.port, &server.accounts.writer, &server.writer_key.private)
}

#[test]
fn the_agent_and_the_reader_work() {
    needs!(server);
    let server = Server::start();
    let store = writer(&server);
    store.make_dirs(&["packs".into(), "packs/00".into()]).unwrap_or_else(|e| panic!("what is there needs no mkdir: {e}"));
    let refused = store.make_dirs(&["new".into()]);
    assert!(matches!(&refused, Err(StoreError::Denied { name, .. }) if name == "new"), "{refused:?}");

    let content = noise(3_000_000, 5);
    assert_eq!(store.put("packs/00/object", &content).unwrap(), Durability::Confirmed);
    assert_eq!(store.put("packs/00/object", b"x"), Err(StoreError::Exists("packs/00/object".into())));
    assert!(store.put("nowhere/object", b"x").unwrap_err().to_string().contains("missing from the vault"));
    assert!(store.room().unwrap().is_some());
    let mode = fs::metadata(server.vault().join("packs/00/object")).unwrap().permissions().mode();
    assert_eq!(mode & 0o7777, 0o440, "{mode:o}");

    let reader = self::store(&server, &server.accounts.reader, &server.reader_key);
    for store in [&store, &reader] {
        assert!(store.get("packs/00/object", 0, u64::MAX).unwrap() == content);
        let mut names = Vec::new();
        store.list(&["packs/00".into(), "ledger".into()], &mut |listed| names.push(listed.name)).unwrap();
        assert_eq!(names, ["packs/00/object"]);
    }
    assert!(matches!(reader.put("packs/00/new", b"x"), Err(StoreError::Denied { .. })));
    assert!(matches!(reader.make_dirs(&["new".into()]), Err(StoreError::Denied { .. })));
}

#[test]
fn a_push_that_cannot_leave_an_older_record_in_its_only_store_says_so() {
    needs!(server);
    let server = Server::start();
    let world = server.world();
    let data = world.tree("data");
    data.ordinary(5, 1);
    world.push(&data.root);
    let ledger = server.vault().join("ledger");
    let before = fs::metadata(&ledger).unwrap().permissions();
    fs::set_permissions(&ledger, fs::Permissions::from_mode(0o555)).unwrap();
    // Its record stays on this machine.
    world.run(args!["restore", "latest", "--into", world.path("back"), "--identity", &world.identity]);
    world.run(args!["push", &data.root]).exits(5).says("main").says("not permitted");
    fs::set_permissions(&ledger, before).unwrap();
    world.push(&data.root);
    world.verify("list");
}

#[test]
fn a_thief_of_the_key_changes_nothing() {
    needs!(server);
    let server = Server::start();
    let content = noise(100_000, 9);
    writer(&server).put("packs/00/victim", &content).unwrap();
    let mut raw = self::raw(&server);
    let Answer::Handle(own) = raw.open("/vault/packs/00/own", FLAG_WRITE | FLAG_CREATE | FLAG_EXCL) else {
        panic!("an agent makes new files")
    };
    let Answer::Handle(reading) = raw.open(VICTIM, FLAG_READ) else { panic!("an agent reads") };

    for (what, kind, packet) in attacks(VICTIM, &own, &reading) {
        let answer = raw.ask(kind, packet);
        let refused = matches!(answer, Answer::Status(code) if code != 0);
        assert!(refused, "{what}: {answer:?}");
        assert!(fs::read(server.vault().join("packs/00/victim")).unwrap() == content, "{what}: changed");
    }
    raw.tell(raw::LINK, fields().text(VICTIM).text("/vault/packs/01/elsewhere"));
    // From another session, while the first one still holds its handle open for writing.
    let mut second = self::raw(&server);
    for flags in [FLAG_WRITE, FLAG_WRITE | FLAG_APPEND, FLAG_WRITE | FLAG_TRUNC] {
        assert_eq!(second.open("/vault/packs/00/own", flags), Answer::Status(3), "its own file, once made, is closed to it");
    }
    assert_eq!(raw.ask(raw::CLOSE, fields().bytes(&own)), Answer::Status(0));
    assert_eq!(raw.ask(raw::WRITE, fields().bytes(&own).u64(0).text("x")), Answer::Status(4), "a closed handle");
    let names: Vec<_> = fs::read_dir(server.vault().join("packs/00")).unwrap().map(|e| e.unwrap().file_name()).collect();
    assert_eq!(names.len(), 2, "{names:?}");
    let mode = fs::metadata(server.vault().join("packs/00/victim")).unwrap().permissions().mode();
    assert_eq!(mode & 0o7777, 0o440);
    no_way_out(&server);
}

#[test]
fn a_vault_under_attack_goes_on_working() {
    needs!(server);
    let server = Server::start();
    let world = server.world();
    let tree = world.tree("data");
    tree.ordinary(100, 7);
    world.push(&tree.root);
    let victims: Vec<PathBuf> = ["packs", "ledger", "trust", "keys"].map(|area| world.objects(area).remove(0)).to_vec();
    let mut raw = self::raw(&server);
    let Answer::Handle(own) = raw.open("/vault/packs/00/own", FLAG_WRITE | FLAG_CREATE | FLAG_EXCL) else {
        panic!("an agent makes new files")
    };
    let mut refused = 0;
    for victim in &victims {
        let content = fs::read(victim).unwrap();
        let path = format!("/{}", victim.strip_prefix(server.chroot.path()).unwrap().display());
        let Answer::Handle(reading) = raw.open(&path, FLAG_READ) else { panic!("an agent reads") };
        for (what, kind, packet) in attacks(&path, &own, &reading) {
            let answer = raw.ask(kind, packet);
            assert!(matches!(answer, Answer::Status(code) if code != 0), "{what} {path}: {answer:?}");
            assert!(fs::read(victim).unwrap() == content, "{what} {path}: changed");
            refused += 1;
        }
    }
    assert!(refused >= 4 * 30, "{refused}");
    drop(raw);

    // Everything that farkeep does works with the same rights.
    tree.ordinary(120, 8);
    world.push(&tree.root);
    assert!(
        world.verify("opened")["findings"].to_string().contains("packs/00/own"),
        "the thief's file is debris, and no more"
    );
    let back = world.path("back");
    world.restore("latest", &back);
    assert_same(&tree.root, &tree.below(&back));
    let copy = world.path("copy");
    world.agent.configure(&format!("[store.copy]\nurl = \"{}\"\nplain_directory = true", copy.display()));
    world.run(args!["sync", "copy", "--from", "main"]).ok();
    world.run(args!["sync", "main", "--from", "copy"]).ok();
    world
        .run(args!["restore", "latest", "--from", &copy, "--into", world.path("again"), "--identity", &world.identity])
        .ok();
    assert_same(&tree.root, &tree.below(&world.path("again")));
}

/// A shell, a command, a forwarded port.
fn no_way_out(server: &Server) {
    let ssh = || raw::ssh(server.sshd.port, &server.accounts.writer, &server.writer_key.private);
    let shell = ssh().args(["127.0.0.1", "id"]).stdin(std::process::Stdio::null()).output().unwrap();
    assert!(!String::from_utf8_lossy(&shell.stdout).contains("uid="), "{shell:?}");
    let forward = format!("127.0.0.1:{}", server.sshd.port);
    let through = ssh().args(["-W", &forward, "127.0.0.1"]).stdin(std::process::Stdio::null()).output().unwrap();
    assert!(!String::from_utf8_lossy(&through.stdout).contains("SSH-2.0"), "{through:?}");
}

/// Every way to change, empty, move, hide or replace a file, or to leave the directory.
fn attacks(victim: &str, own: &[u8], reading: &[u8]) -> Vec<(&'static str, u8, raw::Fields)> {
    const SIZE: u32 = 1;
    const OWNER: u32 = 2;
    const MODE: u32 = 4;
    const TIMES: u32 = 8;
    let open = |flags| fields().text(victim).u32(flags).u32(0);
    let extended = |name: &str| fields().text(name);
    let elsewhere = "/vault/packs/01/elsewhere";
    let mut attacks = vec![
        ("open for writing", raw::OPEN, open(FLAG_WRITE)),
        ("open to truncate", raw::OPEN, open(FLAG_WRITE | FLAG_TRUNC)),
        ("open or create", raw::OPEN, open(FLAG_WRITE | FLAG_CREATE)),
        ("open, create and truncate", raw::OPEN, open(FLAG_WRITE | FLAG_CREATE | FLAG_TRUNC)),
        ("open to append", raw::OPEN, open(FLAG_WRITE | FLAG_APPEND)),
        ("open to append or create", raw::OPEN, open(FLAG_WRITE | FLAG_APPEND | FLAG_CREATE)),
        ("open for reading and writing", raw::OPEN, open(FLAG_READ | FLAG_WRITE)),
        ("open for reading and writing, truncate", raw::OPEN, open(FLAG_READ | FLAG_WRITE | FLAG_TRUNC)),
        ("create what exists", raw::OPEN, open(FLAG_WRITE | FLAG_CREATE | FLAG_EXCL)),
        ("create what exists, truncate", raw::OPEN, open(FLAG_WRITE | FLAG_CREATE | FLAG_EXCL | FLAG_TRUNC)),
        ("write through a reading handle", raw::WRITE, fields().bytes(reading).u64(0).text("x")),
        ("setstat size", raw::SETSTAT, fields().text(victim).u32(SIZE).u64(0)),
        ("setstat mode", raw::SETSTAT, fields().text(victim).u32(MODE).u32(0o666)),
        ("setstat times", raw::SETSTAT, fields().text(victim).u32(TIMES).u32(1).u32(1)),
        ("setstat owner", raw::SETSTAT, fields().text(victim).u32(OWNER).u32(0).u32(0)),
        ("setstat mode of the directory", raw::SETSTAT, fields().text("/vault/packs/00").u32(MODE).u32(0o777)),
        ("fsetstat size, reading", raw::FSETSTAT, fields().bytes(reading).u32(SIZE).u64(0)),
        ("fsetstat mode, reading", raw::FSETSTAT, fields().bytes(reading).u32(MODE).u32(0o666)),
        ("fsetstat mode, own", raw::FSETSTAT, fields().bytes(own).u32(MODE).u32(0o666)),
        ("lsetstat", raw::EXTENDED, extended("lsetstat@openssh.com").text(victim).u32(MODE).u32(0o666)),
        ("remove", raw::REMOVE, fields().text(victim)),
        ("rename away", raw::RENAME, fields().text(victim).text(elsewhere)),
        ("rename over", raw::RENAME, fields().text("/vault/packs/00/own").text(victim)),
        ("rename the directory", raw::RENAME, fields().text("/vault/packs").text("/vault/other")),
        ("posix-rename away", raw::EXTENDED, extended("posix-rename@openssh.com").text(victim).text(elsewhere)),
        ("posix-rename over", raw::EXTENDED, extended("posix-rename@openssh.com").text("/vault/packs/00/own").text(victim)),
        ("hard link", raw::EXTENDED, extended("hardlink@openssh.com").text(victim).text(elsewhere)),
        ("symbolic link to it", raw::SYMLINK, fields().text(victim).text(elsewhere)),
        ("symbolic link in its place", raw::SYMLINK, fields().text("/etc/passwd").text(victim)),
        ("read a link", raw::READLINK, fields().text(victim)),
        ("make a directory", raw::MKDIR, fields().text("/vault/packs/02").u32(0)),
        ("remove a directory", raw::RMDIR, fields().text("/vault/packs/01")),
        ("expand a path", raw::EXTENDED, extended("expand-path@openssh.com").text("~")),
        ("an unknown extension", raw::EXTENDED, extended("truncate@example.org").text(victim)),
        ("leave by dots", raw::OPEN, fields().text("/../../../etc/passwd").u32(FLAG_READ).u32(0)),
        ("make a file outside the vault", raw::OPEN, fields().text("/x").u32(FLAG_WRITE | FLAG_CREATE).u32(0)),
        ("read past the end", raw::READ, fields().bytes(reading).u64(u64::MAX / 4).u32(10)),
    ];
    let copy = extended("copy-data").bytes(own).u64(0).u64(0).bytes(reading).u64(0);
    attacks.push(("copy-data onto it", raw::EXTENDED, copy));
    attacks
}
