//! Ten thousand snapshots and a million objects: decided and listed within seconds and 256 MiB.

use std::process::Command;
use std::sync::Mutex;

use farkeep::crypto::hash::hash;
use farkeep::format::body::SnapshotBody;
use farkeep::format::inventory::{Line, encode};
use farkeep::format::record::Head;
use farkeep::model::ids::{Token, WriterId};
use farkeep::model::name::{ObjectName, Sealed};
use farkeep::model::retention::{Candidate, Keep, Periods, decide};
use farkeep::model::snapshot::{SnapshotState, Tally};
use farkeep::model::time::Timestamp;
use farkeep::store::{Listed, Location, Store, StoreError};
use farkeep::vault::inventory::PageCache;
use farkeep::vault::snapshots::Snapshot;
use farkeep::vault::sweep::{Sweep, each_listed};

const SNAPSHOTS: u32 = 10_000;
/// A tenth of it where our own code is not optimised.
const OBJECTS: u32 = if cfg!(debug_assertions) { 100_000 } else { 1_000_000 };
const PAGE_LINES: u32 = 4_000;
/// Each snapshot needs so many of the newest pages.
const PAGES_EACH: u32 = if cfg!(debug_assertions) { 5 } else { 25 };
const MEMORY_MAX_KIB: u64 = 256 * 1024;

/// Objects that exist only in their names; pages are made when they are asked for.
struct Imagined {
    pages: Vec<Sealed>,
    roots: Mutex<std::collections::HashMap<String, (u32, u32)>>,
}

fn pack(number: u32) -> ObjectName {
    ObjectName::Pack(Sealed { hash: hash(&number.to_le_bytes()), bytes: 16_781_000 })
}

fn page(number: u32) -> Vec<u8> {
    let line = |n| Line { hash: hash(&u32::to_le_bytes(n)), name: pack(n) };
    encode(&mut (number * PAGE_LINES..(number + 1) * PAGE_LINES).map(line).collect::<Vec<_>>()).unwrap()
}

fn sealed(bytes: &[u8]) -> Sealed {
    Sealed { hash: hash(bytes), bytes: bytes.len() as u64 }
}

impl Imagined {
    fn new() -> Self {
        let pages = (0..OBJECTS / PAGE_LINES).map(|n| sealed(&page(n))).collect();
        Self { pages, roots: Mutex::default() }
    }

    fn root(&self, first: u32, last: u32) -> Vec<u8> {
        let line = |page: &Sealed| Line { hash: page.hash, name: ObjectName::Inventory(*page) };
        encode(&mut self.pages[first as usize..last as usize].iter().map(line).collect::<Vec<_>>()).unwrap()
    }

    /// A snapshot of each night; the window of what it needs moves on.
    fn snapshot(&self, number: u32) -> Snapshot {
        let first = number * (self.pages.len() as u32 - PAGES_EACH) / SNAPSHOTS;
        let root = sealed(&self.root(first, first + PAGES_EACH));
        self.roots.lock().unwrap().insert(ObjectName::Inventory(root).to_string(), (first, first + PAGES_EACH));
        let hash = hash(&number.to_be_bytes());
        let body = SnapshotBody {
            manifest: ObjectName::Manifest(Sealed { hash, bytes: 1 }),
            inventory: ObjectName::Inventory(root),
            epochs: vec![1],
            generation: 1,
            series: Token([1; 16]),
            tags: vec![],
            state: SnapshotState::Good,
            started: Timestamp(0),
            due: None,
            hold: None,
            tally: Tally::default(),
            new_packs: 0,
            new_bytes: 0,
            findings: 0,
            probes: Default::default(),
        };
        let head = Head { seq: u64::from(number) + 1, hash };
        Snapshot { id: hash, writer: WriterId([1; 16]), head, time: Timestamp(i64::from(number) * 86_400), body }
    }
}

impl Store for Imagined {
    fn location(&self) -> &Location {
        &Location::Memory
    }
    fn list(&self, _: &[String], each: &mut dyn FnMut(Listed)) -> Result<(), StoreError> {
        let mut tell = |name: ObjectName| {
            let (name, bytes) = (name.to_string(), name.bytes().unwrap());
            each(Listed { name, bytes, received: Some(Timestamp(0)) });
        };
        (0..OBJECTS).for_each(|n| tell(pack(n)));
        self.pages.iter().for_each(|page| tell(ObjectName::Inventory(*page)));
        Ok(())
    }
    fn stat(&self, _: &str) -> Result<Option<u64>, StoreError> {
        Ok(None)
    }
    fn get(&self, name: &str, _: u64, _: u64) -> Result<Vec<u8>, StoreError> {
        if let Some((first, last)) = self.roots.lock().unwrap().get(name) {
            return Ok(self.root(*first, *last));
        }
        let number = self.pages.iter().position(|page| ObjectName::Inventory(*page).to_string() == name);
        number.map(|n| page(n as u32)).ok_or_else(|| StoreError::NotFound(name.to_owned()))
    }
    fn room(&self) -> Result<Option<u64>, StoreError> {
        Ok(None)
    }
    fn parallel(&self) -> usize {
        1
    }
}

/// Runs in a process of its own, so that its memory is its own.
fn plan_a_million() {
    let store = Imagined::new();
    let dir = tempfile::tempdir().unwrap();
    let pages = PageCache::open(dir.path()).unwrap();
    let snapshots: Vec<Snapshot> = (0..SNAPSHOTS).map(|n| store.snapshot(n)).collect();
    let started = std::time::Instant::now();
    let candidates: Vec<Candidate> = snapshots
        .iter()
        .map(|snapshot| Candidate {
            id: snapshot.id,
            time: snapshot.time,
            state: SnapshotState::Good,
            whole: true,
            tags: vec![],
            held: None,
        })
        .collect();
    let periods = Periods { last: 3, daily: 30, weekly: 52, monthly: 120, yearly: 30 };
    let keep = Keep { periods, within_secs: None, tags: vec![], min_snapshots: 3, min_age_secs: 0 };
    let decided = decide(&candidates, Some(&keep), &jiff::tz::TimeZone::UTC);
    let mut sweep = Sweep::read(&store, Timestamp(0)).unwrap();
    let kept: Vec<&Snapshot> = snapshots.iter().zip(&decided).filter(|(_, d)| d.keeps()).map(|(s, _)| s).collect();
    each_listed(&pages, &store, &kept, &mut |name| sweep.need(name)).unwrap();
    let removable = sweep.removable().count();
    println!("{} kept, {removable} objects may go, {} s", kept.len(), started.elapsed().as_secs_f64());
    assert!((190..240).contains(&kept.len()), "{}", kept.len());
    let status = std::fs::read_to_string("/proc/self/status").unwrap();
    let peak = status.lines().find_map(|line| line.strip_prefix("VmHWM:")).unwrap();
    let kib: u64 = peak.trim().trim_end_matches(" kB").trim().parse().unwrap();
    println!("peak memory {} MiB", kib / 1024);
    assert!(kib < MEMORY_MAX_KIB, "{kib} KiB");
}

#[test]
fn a_million_objects_are_planned_within_256_mib() {
    const INNER: &str = "FARKEEP_TEST_SCALE";
    if std::env::var_os(INNER).is_some() {
        return plan_a_million();
    }
    let me = std::env::current_exe().unwrap();
    let name = "scale::a_million_objects_are_planned_within_256_mib";
    let run = Command::new(me).args(["--exact", name, "--nocapture"]).env(INNER, "1").output().unwrap();
    let said = String::from_utf8_lossy(&run.stdout).into_owned();
    assert!(run.status.success() && said.contains("peak memory"), "{said}\n{}", String::from_utf8_lossy(&run.stderr));
    println!("{said}");
}
