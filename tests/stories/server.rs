//! The main job, over Debian's OpenSSH and the accounts of recipe A.

use std::fs;
use std::process::Command;

use crate::world::server::Server;
use crate::world::tools::must;
use crate::world::{World, args, assert_same, bytes_below, files_below, needs};

#[test]
fn a_whole_tree_goes_to_the_server_and_comes_back() {
    needs!(root);
    needs!("rsync", "setfacl", "setcap");
    needs!(server);
    let server = Server::start();
    let world = server.world();
    let tree = world.tree("data");
    tree.everything().ordinary(2000, 1).noise("large/noise", 400 << 20, 2);
    for number in 0..6_u64 {
        let image = crate::world::Random::new(number).disk_image(100 << 20);
        tree.file(format!("large/image{number}"), image);
    }
    let pushed = world.push(&tree.root);
    assert_eq!((pushed["state"].as_str(), &pushed["findings"]), (Some("good"), &serde_json::json!([])));
    assert!(pushed["source_bytes"].as_u64().unwrap() > 1 << 30, "{pushed}");

    // From the reader's account, on a machine without any key that opens or signs.
    let reader = server.reader(&world);
    let sealed = reader.run(args!["verify", "--depth", "sealed", "--json"]).ok().json();
    assert_eq!(sealed["snapshots"], 1);
    assert!(sealed["bytes"].as_u64().unwrap() > 400 << 20, "{sealed}");
    reader.run(args!["verify", "--depth", "opened", "--identity", &world.identity]).ok();

    let back = world.path("back");
    let restore = args!["restore", "latest", "--into", &back, "--identity", &world.identity, "--special"];
    reader.run(restore).ok();
    assert_same(&tree.root, &tree.below(&back));

    // The reader could write nothing, so what it recorded lies with it alone.
    reader.run(args!["ledger", "show"]).ok().says("[only here]");

    let before = files_below(&server.vault().join("packs"));
    let again = world.push(&tree.root);
    assert_eq!(again["new_packs"], 0);
    assert_eq!(files_below(&server.vault().join("packs")), before);
    assert!(again["stores"][0]["sent_bytes"].as_u64().unwrap() < 100_000, "{again}");
}

#[test]
fn what_arrived_on_the_server_is_read_only_from_birth() {
    needs!(server);
    let server = Server::start();
    let world = server.world();
    let tree = world.tree("data");
    tree.ordinary(50, 1);
    world.push(&tree.root);
    let modes = must(Command::new("find").arg(server.vault()).args(["-type", "f", "-printf", "%m\n"]));
    assert!(modes.lines().all(|mode| mode == "440"), "{modes}");
}

#[test]
fn with_a_wrong_host_key_nothing_is_sent() {
    needs!(server);
    let server = Server::start();
    let world = server.world();
    let tree = world.tree("data");
    tree.ordinary(20, 1);
    world.push(&tree.root);
    let (right, wrong) = (server.host_key(), "SHA256:AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA");
    let before = bytes_below(&server.vault());
    let logins = server.sshd.log().matches("Accepted publickey").count();
    world.agent.reconfigure(|text| text.replace(&right, wrong));
    for command in [args!["push", &tree.root], args!["verify", "--depth", "sealed"], args!["ls", "latest"]] {
        // The message shows both, so that somebody can compare them with what the server's administrator says.
        world.run(command).exits(4).says(&right).says(wrong);
    }
    assert_eq!(bytes_below(&server.vault()), before);
    assert_eq!(server.sshd.log().matches("Accepted publickey").count(), logins, "{}", server.sshd.log());

    // Without a pin and without known_hosts there is nothing to compare with: it is not accepted either.
    world.agent.reconfigure(|text| {
        text.lines().filter(|line| !line.starts_with("host_key")).fold(String::new(), |all, line| all + line + "\n")
    });
    world.run(args!["push", &tree.root]).exits(4).says(&right);
    assert_eq!(bytes_below(&server.vault()), before);
    fs::remove_file(&world.agent.config).unwrap();
    let fresh = World::bare();
    let init = args![
        "init",
        "--store",
        server.url(),
        "--ssh-key",
        &server.writer_key.private,
        "--identity-out",
        &fresh.identity,
        "--no-passphrase",
        "--yes"
    ];
    fresh.run(init).exits(2).says("--host-key").says(&right);
}

#[test]
fn a_server_that_does_not_answer_is_5() {
    let world = World::bare();
    let port = crate::world::sshd::free_port();
    let init = args![
        "init",
        "--store",
        format!("sftp://a@127.0.0.1:{port}/v"),
        "--host-key",
        "SHA256:x",
        "--identity-out",
        &world.identity,
        "--no-passphrase",
        "--yes"
    ];
    world.run(init).exits(5);
    assert!(!world.identity.exists(), "keys of a vault that was never made are left behind");
}
