//! Another machine takes an agent's place, and something fails on the way or was not as it should be.

use std::ffi::OsString;
use std::fs;

use farkeep::cli::config::Config;
use farkeep::crypto::identity::read_identity_file;
use farkeep::crypto::sign::SigningKey;
use farkeep::ops::OpError;
use farkeep::ops::context::{NamedStore, VaultPin};
use farkeep::ops::keys::TrustPlan;
use farkeep::ops::keys::adopt::{AdoptReceipt, adopt};

use crate::refusing::{NOTHING, TRUST, refusing};
use crate::world::inside::env;
use crate::world::{Machine, Tree, World, args};

/// So many nights, each with a file of its own that does not compress.
pub fn nights(world: &World, machine: &Machine, nights: std::ops::Range<u64>) -> Tree {
    let tree = world.tree("data");
    for night in nights {
        tree.noise(&format!("night{night}"), 100_000, night);
        machine.run(args!["push", &tree.root]).ok();
    }
    tree
}

pub fn adopting(world: &World) -> Vec<OsString> {
    let root = world.identity.with_extension("root");
    args!["init", "--adopt", "--store", &world.vault, "--root", root, "--identity", &world.identity]
}

/// The same with stores of any kind, on the agent itself.
fn adopt_with(world: &World, stores: Vec<NamedStore>) -> Result<AdoptReceipt, OpError> {
    let config = Config::load(&world.agent.config).unwrap();
    let pin = VaultPin { vault: config.vault, root: config.root.unwrap() };
    let root = fs::read_to_string(world.identity.with_extension("root")).unwrap();
    let identities = read_identity_file(&fs::read(&world.identity).unwrap(), None).unwrap().identities;
    adopt(
        &TrustPlan { pin, stores, root: SigningKey::from_openssh(&root).unwrap() },
        &identities,
        None,
        &env(&world.agent.state),
    )
}

#[test]
fn index_objects_of_an_agent_before_it_stop_no_push() {
    let world = World::new();
    // So many packs that a page of the inventory is used again.
    world.tree("data").noise("large", 210_000_000, 1);
    nights(&world, &world.agent, 0..1);
    let new = world.machine("new");
    new.run(adopting(&world)).ok();
    nights(&world, &new, 1..2);
    // What the new agent made still lists, by such a page, what the old one alone can open.
    for night in 2..4 {
        fs::remove_dir_all(new.state.join("cache")).unwrap();
        nights(&world, &new, night..night + 1);
    }
    new.run(args!["verify", "--depth", "opened", "--identity", &world.identity]).ok();
}

#[test]
fn a_copy_that_was_not_told_leaves_the_way_to_go_on() {
    let world = World::with_stores(&["a", "b"]);
    let tree = nights(&world, &world.agent, 0..2);
    let both = |refuses| vec![refusing("a", &world.path("a"), NOTHING), refusing("b", &world.path("b"), refuses)];
    let error = adopt_with(&world, both(TRUST)).unwrap_err().to_string();
    assert!(error.contains("disk on fire") && error.contains("give the same command again"), "{error}");
    world.run(args!["push", &tree.root]).exits(1).says("--adopt");
    let done = adopt_with(&world, both(NOTHING)).unwrap();
    assert_eq!((done.stores.len(), done.before.len()), (2, 1));
    nights(&world, &world.agent, 2..3);
    world.verify("opened");
}

#[test]
fn nothing_is_pruned_where_the_record_that_enrols_the_agent_is_missing() {
    let world = World::new();
    nights(&world, &world.agent, 0..2);
    let new = world.machine("new");
    new.run(adopting(&world)).ok();
    let tree = nights(&world, &new, 2..3);
    fs::remove_file(world.objects("trust").pop().unwrap()).unwrap();
    // The machine before has a custodian's key, and has never seen that record: what the new one signs is a stranger's there.
    let plan = args!["prune", "plan", "--keep-last", "1"];
    world.run(plan.clone()).exits(4).says("in doubt").says("a trust record that is not here");
    new.run(args!["push", &tree.root]).exits(3).says("mended");
    world.run(plan).ok();
}

#[test]
fn keys_that_cannot_be_kept_are_not_told_of() {
    let world = World::new();
    let tree = nights(&world, &world.agent, 0..2);
    let trust = world.objects("trust");
    let keys = world.agent.state.join("keys").join(Config::load(&world.agent.config).unwrap().vault.unwrap().to_string());
    fs::create_dir(keys.join("agent-writer.next")).unwrap();
    world.run(adopting(&world)).exits(1).says("agent-writer.next");
    assert_eq!(world.objects("trust"), trust);
    world.run(args!["push", &tree.root]).ok();
    fs::remove_dir(keys.join("agent-writer.next")).unwrap();
    world.run(adopting(&world)).ok();
    world.run(args!["push", &tree.root]).ok();
}

#[test]
fn every_copy_of_the_configuration_must_hear_and_what_was_seen_elsewhere_counts() {
    let world = World::with_stores(&["a", "b"]);
    nights(&world, &world.agent, 0..1);
    let (a, away) = (world.path("a"), world.path("away"));
    let away_while = |work: &dyn Fn()| {
        fs::rename(&a, &away).unwrap();
        work();
        fs::rename(&away, &a).unwrap();
    };
    let push = |night: u64, code| {
        let tree = world.tree("data");
        tree.noise(&format!("night{night}"), 100_000, night);
        world.run(args!["push", &tree.root]).exits(code);
    };
    // The second night lies in one copy alone.
    away_while(&|| push(1, 3));
    world.run(adopting(&world)).exits(2).says("store b of the configuration is not among those named");
    let told: String = fs::read_to_string(&world.agent.config).unwrap();
    let line = format!("[store.b]\nurl = \"{}\"", world.path("b").display());
    assert!(told.contains(&line), "{told}");
    world.agent.reconfigure(|text| text.replace(&line, ""));
    // This machine has seen that night, wherever it lies.
    world.run(adopting(&world)).exits(1).says("was seen, and does not lie on the chain");
    world.agent.configure(&line);
    let root = world.identity.with_extension("root");
    let everywhere = args!["init", "--adopt", "--root", root, "--identity", &world.identity, "--json"];
    assert_eq!(world.run(everywhere).ok().json()["before"][0]["until"], 2);
    push(2, 0);
    assert_eq!(world.snapshots().len(), 3);
    world.verify("opened");
}

#[test]
fn what_a_retired_agent_never_sent_stays_with_it() {
    let world = World::new();
    let tree = nights(&world, &world.agent, 0..2);
    // Its third record is signed and reaches nobody, and it has not seen it arrive.
    let (ratchet, kept) = (world.agent.state.join("ratchet"), world.path("ratchet"));
    assert!(std::process::Command::new("cp").arg("-a").args([&ratchet, &kept]).status().unwrap().success());
    let before = world.objects("ledger");
    world.run(args!["push", &tree.root]).ok();
    for record in world.objects("ledger").iter().filter(|record| !before.contains(record)) {
        fs::remove_file(record).unwrap();
    }
    fs::remove_dir_all(&ratchet).unwrap();
    fs::rename(&kept, &ratchet).unwrap();

    let new = world.machine("new");
    new.run(adopting(&world)).ok();
    let into = world.path("back");
    world.run(args!["restore", "latest", "--into", &into, "--identity", &world.identity]).ok();
    new.run(args!["snapshots"]).ok();
    new.run(args!["push", &tree.root]).ok();
    new.run(args!["ledger", "verify"]).ok();
}

#[test]
fn where_a_retired_key_ends_can_be_moved_along_its_chain() {
    let world = World::with_stores(&["a", "b"]);
    nights(&world, &world.agent, 0..1);
    let (a, b, away) = (world.path("a"), world.path("b"), world.path("away"));
    fs::rename(&a, &away).unwrap();
    let tree = world.tree("data");
    tree.noise("night1", 100_000, 1);
    world.run(args!["push", &tree.root]).exits(3);
    fs::rename(&away, &a).unwrap();
    // The new machine hears nothing of the second copy, in which alone the second night lies.
    let new = world.machine("new");
    new.run(adopting(&world)).ok();
    nights(&world, &new, 2..3);
    new.configure(&format!("[store.b]\nurl = \"{}\"", b.display()));
    let count = |wanted: usize| {
        let listed = new.run(args!["snapshots", "--from", &b, "--json"]).ok().json();
        assert_eq!(listed["snapshots"].as_array().unwrap().len(), wanted, "{listed}");
        listed
    };
    tree.noise("night3", 100_000, 3);
    new.run(args!["push", &tree.root]).exits(3).says("is there again");
    count(3);
    let known = new.run(args!["keys", "print", "--json"]).ok().json();
    let retired = known["writers"].as_array().unwrap().iter().find(|writer| writer["until"] == 1).unwrap();
    let name = retired["fingerprint"].as_str().unwrap();
    let root = world.identity.with_extension("root");
    let until = |number: &str| new.run(args!["keys", "retire", name, "--until", number, "--root", &root]);
    until("7").exits(1).says("no such record");
    until("2").ok();
    let second = count(4)["snapshots"][1]["id"].as_str().unwrap().to_owned();
    let into = world.path("back");
    new.run(args!["restore", second, "--from", &b, "--into", &into, "--identity", &world.identity]).ok();
    nights(&world, &new, 4..5);
    until("1").ok();
    count(4);
    until("0").ok();
    count(3);
    until("1").ok();
    new.run(args!["ledger", "verify", "--from", &b]).ok();
}

#[test]
fn a_push_that_is_overtaken_commits_nothing() {
    let world = World::new();
    let new = world.machine("new");
    let (config, state, program) = (new.config.display(), new.state.display(), crate::world::machine::FARKEEP);
    let mut command = format!("FARKEEP_CONFIG={config} FARKEEP_STATE_DIR={state} {program}");
    adopting(&world).iter().for_each(|word| command += &format!(" {}", word.to_str().unwrap()));
    let source = format!("command = [\"sh\", \"-c\", \"{command} > /dev/null && echo rows\"]\nfilename = \"rows\"");
    let job = format!("[job.nightly]\n[[job.nightly.source]]\nname = \"db\"\nkind = \"command\"\n{source}");
    world.agent.configure(&job);
    world.run(args!["push", "nightly"]).exits(1).says("another machine became the agent while this push ran");
    assert!(new.run(args!["snapshots", "--json"]).ok().json()["snapshots"].as_array().unwrap().is_empty());
    nights(&world, &new, 0..1);
}

#[test]
fn what_is_sent_again_for_want_of_an_index_is_not_suspect() {
    let world = World::new();
    let tree = world.tree("data");
    tree.noise("large", 2_000_000, 7);
    nights(&world, &world.agent, 0..7);
    world.run(adopting(&world)).ok();
    fs::remove_dir_all(world.agent.state.join("cache")).unwrap();
    let pushed = world.push(&tree.root);
    assert_eq!(pushed["state"], "good");
    assert!(pushed["new_bytes"].as_u64().unwrap() > 2_000_000, "{pushed}");
    nights(&world, &world.agent, 7..8);
}

#[test]
fn all_that_the_vault_holds_is_known_after_a_night_that_lost_it() {
    let world = World::new();
    let tree = world.tree("data");
    tree.noise("large", 2_000_000, 7);
    nights(&world, &world.agent, 0..2);
    tree.noise("large", 2_000_000, 8);
    world.run(args!["push", &tree.root]);
    tree.noise("large", 2_000_000, 7);
    let new = world.machine("new");
    new.run(adopting(&world)).ok();
    let pushed = new.run(args!["push", &tree.root, "--json"]).ok().json()["jobs"][0].clone();
    assert!(pushed["new_bytes"].as_u64().unwrap() < 200_000, "{pushed}");
}

#[test]
fn a_copy_that_is_made_after_the_line_was_drawn_earlier_is_whole() {
    let world = World::new();
    nights(&world, &world.agent, 0..3);
    let new = world.machine("new");
    new.run(adopting(&world)).ok();
    nights(&world, &new, 3..4);
    let root = world.identity.with_extension("root");
    let printed = new.run(args!["keys", "print", "--json"]).ok().json();
    let retired = printed["writers"].as_array().unwrap().iter().find(|writer| writer["until"] == 3).unwrap();
    new.run(args!["keys", "retire", retired["fingerprint"].as_str().unwrap(), "--until", "2", "--root", root]).ok();
    let copy = world.path("copy");
    new.run(args!["sync", &copy, "--from", &world.vault, "--plain-directory"]).ok();
    for from in [&copy, &world.vault] {
        new.run(args!["ledger", "verify", "--from", from]).ok();
        new.run(args!["verify", "--from", from, "--depth", "opened", "--identity", &world.identity]).ok();
        assert_eq!(
            new.run(args!["snapshots", "--from", from, "--json"]).ok().json()["snapshots"].as_array().unwrap().len(),
            3
        );
    }
}

#[test]
fn restores_on_a_station_that_was_retired_are_on_record_all_the_same() {
    let world = World::new();
    nights(&world, &world.agent, 0..1);
    let root = world.identity.with_extension("root");
    let station = world.machine("station");
    let restore = |into: &str| {
        let into = world.path(into);
        let trust = args!["--trust", world.root_key()];
        let all = args!["restore", "latest", "--from", &world.vault, "--into", into, "--identity", &world.identity];
        station.run([all, trust].concat()).ok();
    };
    restore("one");
    let keys = |what: Vec<OsString>| {
        let common = args!["--root", &root, "--store", &world.vault, "--trust", world.root_key()];
        station.run([args!["keys"], what, common].concat()).ok();
    };
    keys(args!["enrol", "station", "--name", "desk"]);
    keys(args!["retire", "desk"]);
    let before = world.objects("ledger").len();
    restore("two");
    assert_eq!(world.objects("ledger").len(), before + 2, "intent and outcome");
    world.run(args!["ledger", "verify"]).ok();
}

#[test]
fn no_job_is_suspect_for_want_of_an_index() {
    let world = World::new();
    for job in ["one", "two"] {
        let tree = world.tree(job);
        tree.noise("large", 2_000_000, 7);
        let source = format!("name = \"files\"\nkind = \"files\"\npaths = [\"{}\"]", tree.root.display());
        world.agent.configure(&format!("[job.{job}]\n[[job.{job}.source]]\n{source}"));
    }
    for night in 0..8 {
        world.tree("one").noise("small", 50_000, night);
        world.tree("two").noise("small", 50_000, night);
        world.run(args!["push"]).ok();
    }
    world.run(adopting(&world)).ok();
    fs::remove_dir_all(world.agent.state.join("cache")).unwrap();
    world.run(args!["push"]).ok().says("agent before this one");
    world.run(args!["push"]).ok();
}

#[test]
fn a_copy_that_lags_behind_an_epoch_may_be_named_first() {
    let world = World::with_stores(&["a", "b"]);
    nights(&world, &world.agent, 0..1);
    let root = world.identity.with_extension("root");
    let line = format!("[store.b]\nurl = \"{}\"", world.path("b").display());
    world.agent.reconfigure(|text| text.replace(&line, ""));
    world.run(args!["keys", "new-epoch", "--root", &root, "--identity", &world.identity]).ok();
    nights(&world, &world.agent, 1..2);
    let new = world.machine("new");
    let stores = args!["--store", world.path("b"), "--store", world.path("a")];
    let adopt = args!["init", "--adopt", "--root", &root, "--identity", &world.identity];
    new.run([adopt, stores].concat()).ok();
    let tree = world.tree("data");
    new.run(args!["push", &tree.root]);
    new.run(args!["push", &tree.root]).ok();
}

#[test]
fn a_record_that_is_damaged_is_not_taken_for_none() {
    let world = World::new();
    nights(&world, &world.agent, 0..3);
    let newest = world.objects("ledger").into_iter().find(|path| path.to_str().unwrap().contains("-3-")).unwrap();
    crate::world::flip(&newest, 20);
    let new = world.machine("new");
    new.run(adopting(&world)).exits(1).says("calls itself its record 3").says("go on without it");
    new.run([adopting(&world), args!["--until", "2"]].concat()).ok();
    crate::world::flip(&newest, 20);
    nights(&world, &new, 3..4);
    let root = world.identity.with_extension("root");
    let printed = new.run(args!["keys", "print", "--json"]).ok().json();
    let retired = printed["writers"].as_array().unwrap().iter().find(|writer| writer["until"] == 2).unwrap();
    new.run(args!["keys", "retire", retired["fingerprint"].as_str().unwrap(), "--until", "3", "--root", root]).ok();
    assert_eq!(new.run(args!["snapshots", "--json"]).ok().json()["snapshots"].as_array().unwrap().len(), 4);
}
