//! Records that are old, forked, forged, moved or somebody else's: refused and reported, and no snapshot among them exists.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use farkeep::crypto::hash::hash;
use farkeep::crypto::sign::SigningKey;
use farkeep::format::record::{RECORD_NAMESPACE, Statement, join, split};
use farkeep::model::name::ObjectName;
use serde_json::Value;

use crate::world::tools::must;
use crate::world::{World, args, files_below};

pub fn copy(from: &Path, to: &Path) {
    let _ = fs::remove_dir_all(to);
    must(Command::new("cp").arg("-a").arg(from).arg(to));
}

/// A world of some nights, with a copy of the vault as it was after each.
pub fn nights(count: usize) -> World {
    let world = World::new();
    let tree = world.tree("data");
    for night in 0..count {
        tree.file(format!("night{night}"), format!("{night}"));
        world.push(&tree.root);
        copy(&world.vault, &world.path(&format!("vault after {night}")));
    }
    world
}

#[test]
fn a_single_record_that_is_held_back_is_missed() {
    let world = nights(3);
    let of_seq = |seq: usize| {
        let records = world.objects("ledger");
        records.into_iter().find(|path| path.to_string_lossy().contains(&format!("-{seq}-"))).unwrap()
    };
    for seq in [1, 2, 3] {
        let (path, aside) = (of_seq(seq), world.path("aside"));
        fs::rename(&path, &aside).unwrap();
        // Somebody who comes for the first time sees the gap, but for the last record, which the agent knows.
        let fresh = world.machine(&format!("fresh{seq}"));
        let run = fresh.run(args!["ledger", "verify", "--from", &world.vault, "--trust", world.root_key()]);
        assert_eq!(run.code, if seq == 3 { 0 } else { 4 }, "{seq}: {}{}", run.out, run.err);
        world.run(args!["ledger", "verify"]).exits(4).says(&format!("{seq}"));
        fs::rename(&aside, &path).unwrap();
    }
    world.run(args!["ledger", "verify"]).ok();
}

#[test]
fn two_statements_with_one_number_are_a_fork() {
    let world = nights(1);
    let (vault, state) = (world.path("twin vault"), world.path("twin state"));
    copy(&world.vault, &vault);
    copy(&world.agent.state, &state);
    world.tree("data").file("here", "1");
    world.push(world.path("data"));
    // The twin: the same keys, the same past, another night.
    let mut twin = world.agent.clone();
    twin.state = state;
    twin.config = world.path("twin.toml");
    fs::write(
        &twin.config,
        fs::read_to_string(&world.agent.config).unwrap().replace(world.vault.to_str().unwrap(), vault.to_str().unwrap()),
    )
    .unwrap();
    world.tree("data").file("there", "2");
    twin.run(args!["push", world.path("data")]).ok();
    // Each copy by itself is well, and so is the state of each machine.
    world.run(args!["status", "--check"]).ok();
    twin.run(args!["status", "--check"]).ok();
    world.agent.configure(&format!("[store.twin]\nurl = \"{}\"", vault.display()));
    let told = world.run(args!["status", "--check"]).exits(4).says("fork: it signed 2 different records with number 2");
    told.says("(twin)").says("this machine)");
    world.agent.reconfigure(|config| config.split("[store.twin]").next().unwrap().to_owned());
    for path in files_below(&vault.join("ledger")) {
        let place = world.vault.join("ledger").join(path.file_name().unwrap());
        if !place.exists() {
            fs::copy(&path, place).unwrap();
        }
    }
    world.run(args!["status", "--check"]).exits(4).says("fork: it signed 2 different records with number 2");
    world.run(args!["push", world.path("data")]).exits(4).says("number 2");
    world.run(args!["ledger", "verify"]).exits(4).says("number 2");
    world.run(args!["verify", "--depth", "list"]).exits(4).says("number 2");
}

#[test]
fn another_vault_in_its_place_is_refused() {
    let world = nights(2);
    let other = nights(1);
    let right = world.path("right");
    copy(&world.vault, &right);
    copy(&other.vault, &world.vault);
    for words in [
        args!["push", world.path("data")],
        args!["verify"],
        args!["snapshots"],
        args!["ls", "latest", "--identity", &world.identity],
    ] {
        let run = world.run(words.clone());
        assert!([1, 4].contains(&run.code), "{words:?}: {} {}", run.code, run.err);
    }
    // Its records among ours mean nothing, and are named.
    copy(&right, &world.vault);
    let stranger = other.objects("ledger")[0].clone();
    let name = stranger.file_name().unwrap().to_str().unwrap().to_owned();
    fs::copy(&stranger, world.vault.join("ledger").join(&name)).unwrap();
    world.run(args!["ledger", "verify"]).exits(4).says(&name[..40]);
    assert_eq!(world.run(args!["snapshots", "--json"]).json()["snapshots"].as_array().unwrap().len(), 2);
}

/// A record of the world's ledger, taken apart.
fn statement(world: &World) -> (Statement, String) {
    let bytes = fs::read(&world.objects("ledger")[0]).unwrap();
    let (line, armor) = split(&bytes).unwrap();
    (Statement::from_line(line).unwrap(), armor.to_owned())
}

#[test]
fn records_made_of_public_data_are_invisible_and_reported() {
    let world = nights(1);
    let (honest, armor) = statement(&world);
    let stranger = SigningKey::generate("stranger").unwrap();
    let sign = |statement: &Statement| {
        let line = statement.to_line().unwrap();
        (line.clone(), stranger.sign(RECORD_NAMESPACE, &line).unwrap())
    };
    let changed = |change: &dyn Fn(&mut Statement)| {
        let mut statement = honest.clone();
        change(&mut statement);
        statement
    };
    let next = changed(&|s| (s.seq, s.prev) = (2, Some(hash(honest.to_line().unwrap().as_bytes()))));
    let own = changed(&|s| s.writer = stranger.verifier().writer());
    let mut forged: Vec<(&str, Statement, String)> = Vec::new();
    let mut signed = |what, statement: Statement| {
        let armor = sign(&statement).1;
        forged.push((what, statement, armor));
    };
    signed("the agent's next record, signed by a stranger", next.clone());
    signed("the agent's first record, signed by a stranger", honest.clone());
    signed("a stranger's own snapshot", own.clone());
    signed("a stranger's own, number 2^53 - 1", Statement { seq: (1 << 53) - 1, prev: Some(hash(b"x")), ..own.clone() });
    signed("the agent's, number 2^53 - 1", Statement { seq: (1 << 53) - 1, prev: Some(hash(b"x")), ..honest.clone() });
    signed("a stranger's trust record in the ledger", Statement { kind: "trust".into(), ..own.clone() });
    signed("a stranger's prune", Statement { kind: "prune-done".into(), ..own.clone() });
    // The true signature over something else.
    forged.push(("another number", next, armor.clone()));
    forged.push(("another time", changed(&|s| s.time.0 += 1), armor.clone()));
    forged.push(("another kind", changed(&|s| s.kind = "verify".into()), armor.clone()));
    forged.push(("another body", changed(&|s| s.body["findings"] = 1.into()), armor.clone()));
    forged.push(("another vault", changed(&|s| s.vault.0[0] ^= 1), armor.clone()));
    forged.push(("another trust", changed(&|s| s.trust = None), armor));
    let before = world.run(args!["snapshots", "--json"]).ok().json()["snapshots"].clone();
    let state = world.path("state before");
    copy(&world.agent.state, &state);
    for (what, statement, armor) in forged {
        let line = statement.to_line().unwrap();
        let name = ObjectName::Record { writer: statement.writer, seq: statement.seq, statement: hash(line.as_bytes()) };
        let path = world.vault.join(name.to_string());
        let kept = fs::read(&path).ok();
        fs::write(&path, join(&line, &armor)).unwrap();
        let listed = world.run(args!["snapshots", "--json"]);
        assert!([0, 4].contains(&listed.code), "{what}: {}", listed.err);
        if kept.is_none() {
            assert_eq!(listed.json()["snapshots"], before, "{what}: a snapshot more or less");
        }
        world.run(args!["ledger", "verify"]).exits(4).says(&statement.writer.to_string());
        match kept {
            Some(bytes) => fs::write(&path, bytes).unwrap(),
            None => fs::remove_file(&path).unwrap(),
        }
        // What was seen is missed from then on, whoever put it there; that stops nobody from working.
        let listed = world.run(args!["snapshots", "--json"]).ok();
        assert_eq!(listed.json()["snapshots"], before, "{what}");
        copy(&state, &world.agent.state);
    }
    world.run(args!["ledger", "verify"]).ok();
}

#[test]
fn records_under_other_names_are_refused() {
    let world = nights(2);
    let records = world.objects("ledger");
    let (first, second) = (&records[0], &records[1]);
    let name = |path: &Path| path.file_name().unwrap().to_str().unwrap().to_owned();
    let places = [
        name(first).replace("-1-", "-2-"),
        name(first).replace("-1-", "-7-"),
        name(first).replacen(&name(first)[..32], &"0".repeat(32), 1),
        name(second),
    ];
    for place in places {
        let path = first.with_file_name(&place);
        let kept = fs::read(&path).ok();
        fs::write(&path, fs::read(first).unwrap()).unwrap();
        world.run(args!["ledger", "verify"]).exits(4).says(&place[..40]);
        match kept {
            Some(bytes) => fs::write(&path, bytes).unwrap(),
            None => fs::remove_file(&path).unwrap(),
        }
    }
    world.run(args!["ledger", "verify"]).ok();
}

#[test]
fn a_station_cannot_make_snapshots() {
    let world = nights(1);
    let station = world.machine("station");
    station
        .run(args!["cat", "latest", world.path("data/night0"), "--from", &world.vault, "--identity", &world.identity])
        .ok();
    let key = files_below(&station.state).into_iter().find_map(|path| {
        let text = fs::read_to_string(path).ok()?;
        text.contains("OPENSSH").then(|| SigningKey::from_openssh(&text).ok()).flatten()
    });
    let key = key.unwrap();
    let (honest, _) = statement(&world);
    let own = Statement { writer: key.verifier().writer(), seq: 3, prev: Some(hash(b"x")), ..honest };
    let line = own.to_line().unwrap();
    let name = ObjectName::Record { writer: own.writer, seq: 3, statement: hash(line.as_bytes()) };
    fs::write(world.vault.join(name.to_string()), join(&line, &key.sign(RECORD_NAMESPACE, &line).unwrap())).unwrap();
    let listed: Value = world.run(args!["snapshots", "--json"]).json();
    assert_eq!(listed["snapshots"].as_array().unwrap().len(), 1, "{listed}");
    world.run(args!["ledger", "verify"]).exits(4).says("not enrolled");
}

/// One record each of stations that nobody enrolled, and where it lies; by their writers.
pub fn strangers(world: &World, count: usize) -> BTreeMap<PathBuf, Vec<u8>> {
    let (honest, _) = statement(world);
    let stranger = |_| {
        let key = SigningKey::generate("stranger").unwrap();
        let own = Statement { writer: key.verifier().writer(), kind: "restore-intent".into(), ..honest.clone() };
        let line = own.to_line().unwrap();
        let name = ObjectName::Record { writer: own.writer, seq: 1, statement: hash(line.as_bytes()) };
        (world.vault.join(name.to_string()), join(&line, &key.sign(RECORD_NAMESPACE, &line).unwrap()))
    };
    (0..count).map(stranger).collect()
}

#[test]
fn stations_that_nobody_enrolled_take_no_room_in_records() {
    let world = nights(1);
    // More than the heads of one record would hold.
    strangers(&world, 550).into_iter().for_each(|(path, bytes)| fs::write(path, bytes).unwrap());
    let station = world.machine("station");
    let from = args!["--from", &world.vault, "--identity", &world.identity];
    station.run([args!["cat", "latest", world.path("data/night0")], from].concat()).ok();
    world.push(world.path("data"));
    let shown = world.run(args!["ledger", "show", "--kind", "snapshot", "--json"]).ok().json();
    let newest = shown["records"].as_array().unwrap().last().unwrap()["name"].as_str().unwrap().to_owned();
    let stored = fs::read(world.vault.join(newest)).unwrap();
    let newest = Statement::from_line(split(&stored).unwrap().0).unwrap();
    assert!(newest.seq == 2 && newest.heads.is_empty(), "{newest:?}");
    // This machine remembers some of them, and not any number.
    for state in [&world.agent.state, &station.state] {
        let seen = files_below(state).into_iter().find(|path| path.ends_with("seen.json")).unwrap();
        assert!(fs::metadata(&seen).unwrap().len() < 120_000, "{}", seen.display());
    }
}

#[test]
fn any_number_of_junk_names_in_trust_shuts_nobody_out() {
    let world = nights(1);
    let trust = world.vault.join("trust");
    let name =
        |number: u64, n: u64| trust.join(format!("{number}-{:016x}{n:048x}.rec", n.wrapping_mul(0x9E37_79B9_7F4A_7C15)));
    // Put there before the root's own: a listing may give these first.
    let genuine: Vec<_> = world.objects("trust").into_iter().map(|path| (fs::read(&path).unwrap(), path)).collect();
    genuine.iter().for_each(|(_, path)| fs::remove_file(path).unwrap());
    let planted = world.path("planted");
    fs::write(&planted, "no record\n").unwrap();
    for n in 0..24_000 {
        fs::hard_link(&planted, name(1 + n % 3, n)).unwrap();
    }
    fs::write(name(2, 1 << 32), vec![b'x'; 1 << 20]).unwrap();
    genuine.iter().for_each(|(bytes, path)| fs::write(path, bytes).unwrap());
    let station = world.machine("station");
    let first_contact = args!["verify", "--depth", "list", "--from", &world.vault, "--trust", world.root_key()];
    let told = station.run(first_contact).ok();
    told.says("24001 files are here not of the root's chain").says("ignored");
    station.run(args!["ls", "latest", "--from", &world.vault, "--identity", &world.identity]).ok();
    world.push(world.path("data"));
    world.restore("latest", &world.path("back"));
}
