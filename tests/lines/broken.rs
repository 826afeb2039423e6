//! Lines that break and processes that are killed in the middle of a push: it completes, or the next one does, and sends
//! nothing again that had arrived.

use std::path::Path;

use farkeep::model::name::ObjectName;

use crate::proxy::{Harm, Proxy, Way};
use crate::served::{push_through, run_through, world};
use crate::world::background::until;
use crate::world::server::Server;
use crate::world::sshd::Served;
use crate::world::{Running, Tree, World, args, assert_same, bytes_below, files_below, needs};

/// The size of a full pack, nearly.
const PACK: u64 = 16 << 20;

/// Packs that lie whole below a vault.
fn whole_packs(vault: &Path) -> Vec<String> {
    let packs = files_below(&vault.join("packs")).into_iter().filter(|path| {
        let name = path.strip_prefix(vault).unwrap().display().to_string();
        ObjectName::parse_stored(&name).is_ok_and(|(name, _)| name.bytes() == Some(path.metadata().unwrap().len()))
    });
    packs.map(|path| path.file_name().unwrap().to_string_lossy().into_owned()).collect()
}

fn restored(world: &World, tree: &Path) {
    let back = world.path("back");
    world.restore("latest", &back);
    assert_same(tree, &back.join(tree.strip_prefix("/").unwrap()));
    world.run(args!["ledger", "verify"]).ok();
}

/// A push of four packs over one connection, of which two have arrived.
fn half_pushed(seed: u64) -> (Server, World, Tree, Running) {
    let server = Server::start();
    let world = server.world();
    world.agent.reconfigure(|text| text.replace("ssh_key", "connections = 1\nssh_key"));
    let tree = world.tree("data");
    tree.noise("large", 64 << 20, seed);
    let push = Running::start(&world.agent, args!["push", &tree.root, "--json"]);
    until("two packs have arrived", || whole_packs(&server.vault()).len() >= 2);
    (server, world, tree, push)
}

#[test]
fn killed_sessions_cost_the_packs_in_flight_and_no_more() {
    needs!(server);
    let (server, world, tree, push) = half_pushed(1);
    assert!(server.sshd.kill_sessions() > 0, "the push was too quick to be harmed");
    let done = push.wait().ok().json();
    // One connection has two channels, with a pack on each.
    let stored = bytes_below(&server.vault().join("packs"));
    assert!(stored < (64 << 20) + 3 * PACK, "{stored}: {done}");
    world.run(args!["verify", "--depth", "sealed"]).ok();
    restored(&world, &tree.root);
}

#[test]
fn a_killed_push_is_taken_up_by_the_next() {
    needs!(server);
    let (server, world, tree, push) = half_pushed(2);
    assert!(push.kill(), "the push was too quick to be killed");
    assert!(world.snapshots().is_empty());
    let arrived = whole_packs(&server.vault());
    let pushed = world.push(&tree.root);
    let stored = bytes_below(&server.vault().join("packs"));
    assert!(stored < (64 << 20) + 3 * PACK, "{stored}");
    let sent = pushed["stores"][0]["sent_bytes"].as_u64().unwrap();
    let spared = (arrived.len() as u64 - 1) * PACK;
    assert!(sent + spared < 65 << 20, "{sent} bytes were sent although {} packs had arrived", arrived.len());
    restored(&world, &tree.root);
}

#[test]
fn a_push_whose_line_is_cut_anywhere_completes() {
    let served = Served::start();
    let world = world(&served);
    let tree = world.tree("data");
    tree.noise("one", 200_000, 1);
    push_through(&world, &served, &Proxy::start(served.running.address(), |_| Harm::None)).ok();
    // What a push of this kind sends; the last connection has ended when its bytes are counted.
    let whole = Proxy::start(served.running.address(), |_| Harm::None);
    tree.noise("one", 200_000, 2);
    push_through(&world, &served, &whole).ok();
    until("the proxy has counted", || whole.passed_up() > 200_000);
    let total = whole.passed_up();
    // Over the log-in, the listings and the packs coarsely, over manifest, inventory and record packet by packet.
    let coarse = (1..total - 6000).step_by(total / 8);
    let fine = (total - 6000..total).step_by(500);
    for (number, at) in coarse.chain(fine).enumerate() {
        tree.noise("one", 200_000, 3 + number as u64);
        let proxy =
            Proxy::start(served.running.address(), move |n| if n == 0 { Harm::Cut(Way::Up, at) } else { Harm::None });
        push_through(&world, &served, &proxy).ok();
    }
    let snapshots = world.snapshots().len();
    assert!(snapshots > 18, "{snapshots}");
    let found = world.run(args!["verify", "--depth", "opened", "--identity", &world.identity, "--json"]).ok().json();
    assert_eq!(found["snapshots"].as_u64(), Some(snapshots as u64), "{found}");
    restored(&world, &tree.root);
}

#[test]
fn a_restore_and_a_check_outlast_a_connection_that_falls_silent() {
    let served = Served::start();
    let world = world(&served);
    let tree = world.tree("data");
    tree.noise("one", 3_000_000, 1);
    world.push(&tree.root);
    world.agent.reconfigure(|text| text.replace("url = ", "timeout = \"2s\"\nurl = "));
    let silent = || {
        let stall = |n| if n == 0 { Harm::Stall(Way::Down, 1_000_000) } else { Harm::None };
        Proxy::start(served.running.address(), stall)
    };
    let (first, second) = (silent(), silent());
    let restore = args!["restore", "latest", "--into", world.path("back"), "--identity", &world.identity];
    run_through(&world, &served, &first, restore).ok();
    assert_same(&tree.root, &tree.below(&world.path("back")));
    run_through(&world, &served, &second, args!["verify", "--depth", "sealed"]).ok();
    assert!(first.connections() > 1 && second.connections() > 1);
}

#[test]
fn a_record_that_was_cut_short_is_sent_again_and_no_alarm() {
    let served = Served::start();
    let world = world(&served);
    let tree = world.tree("data");
    tree.ordinary(5, 1);
    world.push(&tree.root);
    let vault = served.root.join("vault");
    let record = files_below(&vault.join("ledger")).remove(0);
    let whole = std::fs::read(&record).unwrap();
    // As if the agent had died in the middle of sending it: what a write-once account can never take back.
    std::fs::remove_file(&record).unwrap();
    std::fs::write(&record, &whole[..100]).unwrap();
    std::fs::remove_dir_all(world.agent.state.join("cache")).unwrap();
    world.run(args!["verify", "--depth", "list"]).exits(4);
    assert_eq!(world.push(&tree.root)["findings"], serde_json::json!([]));
    assert!(std::fs::read(record.with_extension("rec.1")).unwrap() == whole);
    world.run(args!["verify", "--depth", "list"]).ok().says("debris");
    world.run(args!["status", "--check"]).ok();
    assert_eq!(world.snapshots().len(), 2);
}

#[test]
fn a_server_that_is_away_stops_nobody_and_is_caught_up_later() {
    let served = Served::start();
    let world = World::bare();
    let (copy, port) = (world.path("copy"), served.running.address().port());
    let (key, host_key) = (served.writer.private.display(), served.running.host_fingerprint());
    world.agent.configure(&format!("[store.drive]\nurl = \"{}\"", copy.display()));
    world.agent.configure(&format!(
        "[store.server]\nurl = \"sftp://x@127.0.0.1:{port}/vault\"\nhost_key = \"{host_key}\"\nssh_key = \"{key}\"\ntimeout = \"1s\""
    ));
    world.init(&args![]);
    let tree = world.tree("data");
    tree.ordinary(30, 1);
    let here = format!(":{port}/");
    world.agent.reconfigure(|text| text.replace(&here, ":1/"));
    let pushed = world.run(args!["push", &tree.root, "--json"]).exits(3).json()["jobs"][0].clone();
    let committed: Vec<_> = pushed["stores"].as_array().unwrap().iter().map(|store| store["committed"].clone()).collect();
    assert_eq!(committed, [true, false], "{pushed}");
    world.agent.reconfigure(|text| text.replace(":1/", &here));
    let pushed = world.push(&tree.root);
    assert!(pushed["stores"][1]["caught_up_objects"].as_u64().unwrap() > 0, "{pushed}");
    for store in ["drive", "server"] {
        let found = world.run(args!["verify", "--depth", "sealed", "--from", store, "--json"]).ok().json();
        assert_eq!(found["snapshots"], 2, "{found}");
    }
    assert_eq!(whole_packs(&copy), whole_packs(&served.root.join("vault")));
}
