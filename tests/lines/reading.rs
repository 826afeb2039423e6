//! What is read over a line.

use crate::proxy::{Harm, Proxy};
use crate::served::{run_through, world};
use crate::world::background::until;
use crate::world::sshd::Served;
use crate::world::{Random, args, bytes_below};

/// A dump of records of which some carry the number of a later night.
fn dump(night: u64) -> Vec<u8> {
    let mut random = Random::new(1);
    let mut changed = Random::new(100 + night);
    let mut text = Vec::new();
    for number in 0..20_000 {
        let version = if changed.below(50) == 0 { night } else { 0 };
        text.extend(format!("{{\"id\":{number},\"version\":{version},\"hash\":\"").bytes());
        text.extend(random.bytes(120).iter().flat_map(|byte| format!("{byte:02x}").into_bytes()));
        text.extend(b"\"}\n");
    }
    text
}

/// Four nights of it, pushed.
fn pushed(served: &Served) -> crate::world::World {
    let world = world(served);
    let tree = world.tree("data");
    for night in 0..4 {
        tree.file("dump.json", dump(night));
        world.push(&tree.root);
    }
    world
}

#[test]
fn damage_is_found_over_a_line_as_in_a_directory() {
    let served = Served::start();
    let world = pushed(&served);
    let vault = served.root.join("vault");
    let found = |from: &std::path::Path| {
        let verify = args!["verify", "--depth", "opened", "--from", from, "--identity", &world.identity, "--json"];
        let findings = world.run(verify).exits(4).json()["findings"].clone();
        let mut findings: Vec<String> = findings.as_array().unwrap().iter().map(ToString::to_string).collect();
        findings.retain(|finding| !finding.contains("notice"));
        findings.sort();
        findings
    };
    let mut packs = crate::world::files_below(&vault.join("packs"));
    packs.sort_by_key(|pack| pack.metadata().unwrap().len());
    crate::world::flip(packs.last().unwrap(), 100_000);
    let over_the_line = found(std::path::Path::new("main"));
    assert!(over_the_line.iter().any(|finding| finding.contains("data/dump.json")), "{over_the_line:?}");
    assert_eq!(over_the_line, found(&vault));
}

#[test]
fn each_object_comes_over_the_line_once_although_every_night_is_opened() {
    let served = Served::start();
    let world = pushed(&served);
    let stored = bytes_below(&served.root.join("vault")) as usize;
    let proxy = Proxy::start(served.running.address(), |_| Harm::None);
    let verify = args!["verify", "--depth", "opened", "--identity", &world.identity, "--json"];
    let found = run_through(&world, &served, &proxy, verify).ok().json();
    assert!(found["bytes"].as_u64().unwrap() > 4 * 5_000_000, "{found}");
    until("the proxy has counted", || proxy.passed_down() > stored / 10 * 9);
    let came = proxy.passed_down();
    assert!(came < stored + stored / 10, "{came} bytes came of {stored} stored");
    // Nothing of it is left here.
    let state = bytes_below(&world.agent.state) as usize;
    assert!(state < 3 * stored, "{state}");
    let cache: Vec<_> =
        std::fs::read_dir(world.agent.state.join("cache")).unwrap().flatten().map(|e| e.file_name()).collect();
    assert!(!cache.iter().any(|name| name.to_string_lossy().starts_with(".tmp")), "{cache:?}");
}
