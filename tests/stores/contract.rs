//! The contract of `store/mod.rs`, as one list of cases, run against every store.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicUsize, Ordering};

use farkeep::store::directory::DirectoryStore;
use farkeep::store::memory::MemoryStore;
use farkeep::store::{Durability, Listed, Store, StoreError, WriteOnceStore};

use crate::world::{Served, Sshd, have_sshd, noise, scratch, skipped};

const KIB: usize = 1024;
const SIZES: [usize; 7] = [0, 1, 64 * KIB - 1, 64 * KIB, 64 * KIB + 1, 300 * KIB, 17 * 1024 * KIB];

fn listed(store: &dyn Store, dirs: &[&str]) -> BTreeMap<String, Listed> {
    let dirs: Vec<String> = dirs.iter().map(|dir| (*dir).to_owned()).collect();
    let mut found = BTreeMap::new();
    store
        .list(&dirs, &mut |listed| {
            let before = found.insert(listed.name.clone(), listed);
            assert_eq!(before, None, "listed twice");
        })
        .unwrap();
    found
}

/// Runs every case on an empty store.
pub fn check(store: &dyn WriteOnceStore) {
    let dirs: Vec<String> = ["packs", "packs/00", "packs/ff", "ledger", "many"].map(str::to_owned).to_vec();
    store.make_dirs(&dirs).unwrap();
    store.make_dirs(&dirs).unwrap_or_else(|e| panic!("what exists is fine: {e}"));
    assert!(listed(store, &["", "packs/00", "ledger", "not-there", "not/there"]).is_empty());

    round_trips(store);
    what_exists_stays(store);
    ranges(store);
    missing_things(store);
    many_small_ones(store);
    many_threads(store);
    assert_eq!(store.sweep(&dirs).unwrap(), 0);
    assert!(store.room().unwrap().is_none_or(|bytes| bytes > 0));
    assert!(store.parallel() >= 1);
}

fn round_trips(store: &dyn WriteOnceStore) {
    for (number, bytes) in SIZES.into_iter().enumerate() {
        let name = format!("packs/00/{number}-{bytes}");
        let content = noise(bytes, number as u64);
        let durability = store.put(&name, &content).unwrap();
        assert_eq!(durability, Durability::Confirmed, "{name}");
        assert_eq!(store.stat(&name).unwrap(), Some(bytes as u64));
        assert!(store.get(&name, 0, bytes as u64).unwrap() == content, "{name}");
        assert!(store.get(&name, 0, bytes as u64 + 1).unwrap() == content, "{name}: one more than there is");
    }
    store.put("top", b"in the root").unwrap();
    assert_eq!(store.get("top", 0, 100).unwrap(), b"in the root");
    let found = listed(store, &["packs/00", "packs/ff", "", "packs"]);
    assert_eq!(found.len(), SIZES.len() + 1);
    for (number, bytes) in SIZES.into_iter().enumerate() {
        assert_eq!(found[&format!("packs/00/{number}-{bytes}")].bytes, bytes as u64);
    }
    assert_eq!(found["top"].bytes, 11);
}

fn what_exists_stays(store: &dyn WriteOnceStore) {
    store.put("packs/ff/once", b"first").unwrap();
    for content in [&b"second"[..], b"", b"first"] {
        let refused = store.put("packs/ff/once", content);
        assert_eq!(refused, Err(StoreError::Exists("packs/ff/once".into())));
    }
    assert_eq!(store.get("packs/ff/once", 0, 100).unwrap(), b"first");
    assert_eq!(listed(store, &["packs/ff"]).len(), 1, "no debris");
}

fn ranges(store: &dyn WriteOnceStore) {
    let content = noise(1024 * KIB, 7);
    store.put("ledger/ranges", &content).unwrap();
    let size = content.len() as u64;
    let wanted =
        [(0, 10), (5, 0), (100_000, 300_000), (size - 3, 3), (size - 3, 100), (size, 5), (size + 9, 5), (7, u64::MAX)];
    let got = store.get_ranges("ledger/ranges", &wanted).unwrap();
    assert_eq!(got.len(), wanted.len());
    for ((offset, bytes), got) in wanted.into_iter().zip(&got) {
        let start = offset.min(size) as usize;
        let end = start.saturating_add(usize::try_from(bytes).unwrap()).min(content.len());
        assert!(*got == content[start..end], "{bytes} bytes from {offset}: got {}", got.len());
        assert!(store.get("ledger/ranges", offset, bytes).unwrap() == *got);
    }
    assert_eq!(store.get_ranges("ledger/ranges", &[]).unwrap(), Vec::<Vec<u8>>::new());
}

fn missing_things(store: &dyn WriteOnceStore) {
    for name in ["packs/00/none", "none", "not/there"] {
        assert_eq!(store.stat(name).unwrap(), None);
        assert_eq!(store.get(name, 0, 10), Err(StoreError::NotFound(name.into())));
        assert_eq!(store.get_ranges(name, &[(0, 1)]), Err(StoreError::NotFound(name.into())));
    }
}

fn many_small_ones(store: &dyn WriteOnceStore) {
    let content = |number: usize| noise(number * 97 % 5000, number as u64);
    let numbers: Vec<usize> = (0..300).collect();
    let next = AtomicUsize::new(0);
    std::thread::scope(|scope| {
        for _ in 0..4 {
            scope.spawn(|| {
                while let Some(number) = numbers.get(next.fetch_add(1, Ordering::Relaxed)) {
                    store.put(&format!("many/{number}"), &content(*number)).unwrap();
                }
            });
        }
    });
    assert_eq!(listed(store, &["many"]).len(), numbers.len());
    let mut wanted: Vec<(String, u64)> = numbers.iter().map(|n| (format!("many/{n}"), 10_000)).collect();
    wanted.push(("many/none".into(), 10));
    wanted.push(("ledger/ranges".into(), 1000));
    let got = store.get_many(&wanted);
    assert_eq!(got.len(), wanted.len());
    for number in numbers {
        assert!(got[number] == Ok(content(number)), "{number}");
    }
    assert_eq!(got[300], Err(StoreError::NotFound("many/none".into())));
    assert_eq!(got[301].as_ref().map(Vec::len), Ok(1001), "one over its limit shows as one byte more");
    assert!(store.get_many(&[]).is_empty());
}

fn many_threads(store: &dyn WriteOnceStore) {
    let winners = AtomicUsize::new(0);
    std::thread::scope(|scope| {
        for thread in 0..8_u64 {
            let winners = &winners;
            scope.spawn(move || {
                let content = noise(200 * KIB + thread as usize, thread);
                for round in 0..3 {
                    let name = format!("packs/ff/t{thread}-{round}");
                    store.put(&name, &content).unwrap();
                    assert!(store.get(&name, 0, u64::MAX).unwrap() == content);
                    assert_eq!(store.stat(&name).unwrap(), Some(content.len() as u64));
                }
                match store.put("packs/ff/race", &content) {
                    Ok(_) => drop(winners.fetch_add(1, Ordering::Relaxed)),
                    Err(e) => assert_eq!(e, StoreError::Exists("packs/ff/race".into())),
                }
            });
        }
    });
    assert_eq!(winners.into_inner(), 1, "one of many makes the name");
}

#[test]
fn memory() {
    check(&MemoryStore::new());
}

#[test]
fn directory() {
    let dir = scratch();
    check(&DirectoryStore::create(&dir.path().join("vault")).unwrap());
}

#[test]
fn embedded_server() {
    let served = Served::start();
    let store = served.connect(&served.writer).unwrap();
    check(&store);
    let reader = served.connect(&served.reader).unwrap();
    assert_eq!(reader.get("packs/ff/once", 0, 10).unwrap(), b"first");
    assert!(matches!(reader.put("packs/ff/new", b"x"), Err(StoreError::Denied { .. })));
    assert!(matches!(reader.make_dirs(&["new".to_owned()]), Err(StoreError::Denied { .. })));
}

#[test]
fn openssh() {
    if !have_sshd() {
        return skipped("contract on openssh", "no sshd");
    }
    let sshd = Sshd::start("");
    check(&sshd.store(&sshd.path("deep/down/vault")));
}
