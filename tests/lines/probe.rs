//! `farkeep probe`: every kind of account gets the word that it deserves, and nothing of a vault is touched.

use std::process::Command;

use serde_json::{Value, json};

use crate::world::server::Server;
use crate::world::sshd::{KeyPair, scratch};
use crate::world::tools::must;
use crate::world::{Run, World, args, files_below, needs};

/// The account that the recipe makes, in the words of its block.
const RECIPE: &str =
    "-u 0237 -p open,close,read,write,lstat,fstat,stat,opendir,readdir,realpath,statvfs,fstatvfs,fsync,limits";

fn probe(world: &World, code: i32) -> Value {
    world.run(args!["probe", "--json"]).exits(code).json()["stores"][0].clone()
}

fn got_through(probe: &Value) -> Vec<&str> {
    probe["got_through"].as_array().unwrap().iter().map(|breach| breach["request"].as_str().unwrap()).collect()
}

/// A server whose agent's account differs from the recipe by its SFTP options.
fn account(options: &str) -> Server {
    Server::start_changed(|block| {
        assert!(block.contains(RECIPE), "{block}");
        block.replace(RECIPE, options)
    })
}

#[test]
fn the_recipe_is_write_once_and_everybody_is_told() {
    needs!(server);
    let server = Server::start();
    let world = server.world();
    let tree = world.tree("data");
    tree.ordinary(20, 1);
    world.push(&tree.root);
    world.run(args!["status"]).ok().says("was never tried");
    let before = files_below(&server.vault());

    let first = probe(&world, 0);
    assert_eq!((&first["verdict"], &first["got_through"]), (&json!("write-once"), &json!([])), "{first}");
    assert!(first["attacks"].as_u64().unwrap() >= 40, "{first}");
    world.run(args!["probe"]).ok().says("main: write-once").says("attacks refused");
    let left = files_below(&server.vault()).len() - before.len();
    assert_eq!(left, 3, "a marker, which serves again, and one more file for each probe");
    assert_eq!(probe(&world, 0)["before"]["verdict"], "write-once");

    // The files that stay are nobody's business, and the next record repeats the verdict.
    world.push(&tree.root);
    assert_eq!(world.verify("sealed")["findings"], json!([]));
    let record = world.run(args!["ledger", "show", "--kind", "snapshot", "--json"]).ok().out;
    assert!(record.contains(r#""probes":{"main":"write-once"}"#), "{record}");
    world.run(args!["status"]).ok().says("write-once");
}

#[test]
fn a_plain_account_is_mutable_and_is_left_as_it_was() {
    needs!(server);
    let server = account("");
    let world = server.world();
    let before = files_below(&server.vault());
    let found = probe(&world, 3);
    assert_eq!(found["verdict"], "mutable");
    for request in ["remove it", "rename it", "rename another file over it (posix-rename)", "set mode", "make a hard link"] {
        assert!(got_through(&found).contains(&request), "{request}: {found}");
    }
    assert_eq!(found["left"], json!([]));
    assert_eq!(files_below(&server.vault()), before);
    assert!(std::fs::read_dir(server.vault()).unwrap().all(|e| !e.unwrap().file_name().to_string_lossy().contains("probe")));
    world.run(args!["probe"]).exits(3).says("mutable").says("got through: remove it").says("farkeep sshd-config");
}

#[test]
fn a_black_list_without_the_umask_is_mutable() {
    needs!(server);
    // Owners may set the mode back unless that is refused; here it is, and what farkeep stores is safe by its own mode.
    let black = "-P remove,rename,posix-rename,setstat,fsetstat,lsetstat,rmdir,hardlink,symlink,copy-data,mkdir";
    let server = account(black);
    let found = probe(&server.world(), 3);
    assert_eq!(
        (&found["verdict"], got_through(&found)),
        (&json!("append-weak"), vec!["open a file of its own for writing"])
    );
    // One request short, it is not.
    let server = account(&black.replace("setstat,fsetstat,", "fsetstat,"));
    let found = probe(&server.world(), 3);
    assert_eq!(found["verdict"], "mutable");
    assert!(got_through(&found).contains(&"set mode"), "{found}");
}

#[test]
fn an_account_that_can_only_litter_is_append_weak() {
    needs!(server);
    let server = account("-u 0237 -P remove,rename,posix-rename,setstat,fsetstat,lsetstat,rmdir");
    let found = probe(&server.world(), 3);
    assert_eq!(found["verdict"], "append-weak", "{found}");
    assert_eq!(got_through(&found), ["make a hard link", "make a symbolic link", "make a directory"]);
}

#[test]
fn forwarded_ports_and_keys_that_can_be_added_are_found() {
    needs!(server);
    let server = Server::start_changed(|block| block.replace("AllowTcpForwarding no", "AllowTcpForwarding yes"));
    let world = server.world();
    let found = probe(&world, 3);
    assert_eq!((&found["verdict"], got_through(&found)), (&json!("append-weak"), vec!["forward a port"]));
    // The home of this account is /, as it sees it.
    let (uid, _) = server.accounts.ids();
    let ssh = server.chroot.path().join(".ssh");
    std::fs::create_dir(&ssh).unwrap();
    std::os::unix::fs::chown(&ssh, Some(uid), None).unwrap();
    let found = probe(&world, 3);
    assert_eq!(
        (&found["verdict"], got_through(&found)),
        (&json!("mutable"), vec!["make a file in ~/.ssh", "forward a port"])
    );
    world.run(args!["probe"]).exits(3).says("mutable: whoever").never_says("it was");
    std::fs::remove_dir_all(&ssh).unwrap();
    assert_eq!(probe(&world, 3)["before"]["verdict"], "mutable");
    std::fs::create_dir(&ssh).unwrap();
    std::os::unix::fs::chown(&ssh, Some(uid), None).unwrap();
    world.run(args!["probe"]).exits(3).says("it was append-weak");
}

#[test]
fn an_account_with_a_shell_is_mutable() {
    needs!(server);
    let confined =
        |line: &&str| !line.contains("ChrootDirectory") && !line.contains("ForceCommand") && !line.contains(" no");
    let server = Server::start_changed(|block| block.lines().filter(confined).map(|line| format!("{line}\n")).collect());
    must(Command::new("usermod").args(["-s", "/bin/sh", &server.accounts.writer]));
    let url = server.url().replace("/vault", &server.vault().display().to_string());
    let world = World::bare();
    world.agent.configure(&server.section("main", &url, &server.writer_key.private));
    let found = probe(&world, 3);
    assert_eq!(found["verdict"], "mutable", "{found}");
    for request in ["run a command", "start a shell", "start a shell on a terminal", "forward a port", "remove it"] {
        assert!(got_through(&found).contains(&request), "{request}: {found}");
    }
}

#[test]
fn the_embedded_server_is_write_once() {
    use farkeep::store::sftp::serve::{Layout, ServeOptions, Server};
    let dir = scratch();
    let key = KeyPair::new(dir.path(), "key");
    let root = dir.path().join("root");
    for name in std::iter::once(String::new()).chain(farkeep::model::name::Area::layout()) {
        std::fs::create_dir_all(root.join("vault").join(name)).unwrap();
    }
    let serve = |layout| {
        let (listen, authorized) = (([127, 0, 0, 1], 0).into(), vec![key.line()]);
        Server::start(ServeOptions { root: root.clone(), listen, host_key: None, authorized, readers: vec![], layout })
            .unwrap()
    };
    let run = |layout| -> Run {
        let running = serve(layout);
        let (port, host_key) = (running.address().port(), running.host_fingerprint());
        let world = World::bare();
        let (url, key) = (format!("sftp://x@127.0.0.1:{port}/vault"), key.private.display());
        world.agent.configure(&format!("[store.s]\nurl = \"{url}\"\nhost_key = \"{host_key}\"\nssh_key = \"{key}\""));
        world.run(args!["probe", "--json"])
    };
    let found = run(Layout::Fixed).ok().json()["stores"][0].clone();
    assert_eq!((&found["verdict"], got_through(&found)), (&json!("write-once"), vec![]), "{found}");
    let found = run(Layout::AllowMkdir).exits(3).json()["stores"][0].clone();
    assert!(got_through(&found).contains(&"make a directory"), "{found}");
    assert_eq!(found["verdict"], "append-weak");
}

#[test]
fn a_directory_is_said_to_be_one_and_a_reader_cannot_be_probed() {
    let world = World::new();
    let found = probe(&world, 0);
    assert_eq!((&found["verdict"], &found["attacks"]), (&Value::Null, &json!(0)));
    world.run(args!["probe"]).ok().says("a directory of this machine");
    world.run(args!["probe", "nowhere"]).exits(2);
    needs!(server);
    let server = Server::start();
    let world = server.world();
    let reader = server.reader(&world);
    reader.run(args!["probe"]).exits(1).says("not permitted");
    let gone = server.section("gone", "sftp://x@127.0.0.1:1/vault", &server.reader_key.private);
    reader.configure(&(gone + "timeout = \"1s\""));
    reader.run(args!["probe", "gone"]).exits(5).says("NOT PROBED");
}
