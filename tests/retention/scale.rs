//! Ten thousand snapshots and a million objects: read, decided and listed by `prune plan` within 256 MiB.

use std::collections::{BTreeMap, HashMap, HashSet};
use std::process::Command;
use std::sync::Arc;

use farkeep::cli::config::Config;
use farkeep::crypto::hash::hash;
use farkeep::crypto::sign::SigningKey;
use farkeep::format::body::SnapshotBody;
use farkeep::format::inventory::{Line, encode};
use farkeep::format::record::{Head, RECORD_NAMESPACE, RecordKind, Statement, join, split};
use farkeep::model::name::{ObjectName, Sealed};
use farkeep::model::retention::{Keep, Periods};
use farkeep::model::time::Timestamp;
use farkeep::ops::context::{NamedStore, VaultPin};
use farkeep::ops::prune::plan::{Damage, PlanRequest, Rule, Rules, plan};
use farkeep::ops::select::Names;
use farkeep::state::StateDir;
use farkeep::state::keys::{KeyDir, Role};
use farkeep::store::directory::DirectoryStore;
use farkeep::store::{Durability, Listed, Location, Store, StoreError, WriteOnceStore};

use super::world::World;
use super::world::inside::env;

/// A tenth of it where our own code is not optimised.
const TENTH: u32 = if cfg!(debug_assertions) { 10 } else { 1 };
const SNAPSHOTS: u32 = 10_000 / TENTH;
const OBJECTS: u32 = 1_000_000 / TENTH;
const PAGE_LINES: u32 = 4_000;
/// Each snapshot needs so many of the newest pages.
const PAGES_EACH: u32 = 25 / TENTH + 2;
const MEMORY_MAX_KIB: u64 = 256 * 1024;

/// A vault in a directory, and beside what lies in it objects that exist only in their names; pages and records are made when
/// they are asked for.
struct Imagined {
    real: DirectoryStore,
    pages: Vec<Sealed>,
    page_numbers: HashMap<String, u32>,
    /// By the name of an inventory's root, which pages it lists.
    roots: HashMap<String, (u32, u32)>,
    manifests: Vec<ObjectName>,
    /// By name, with the time at which it was received.
    records: BTreeMap<String, (Vec<u8>, Timestamp)>,
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
    fn root(&self, first: u32, last: u32) -> Vec<u8> {
        let line = |page: &Sealed| Line { hash: page.hash, name: ObjectName::Inventory(*page) };
        encode(&mut self.pages[first as usize..last as usize].iter().map(line).collect::<Vec<_>>()).unwrap()
    }

    /// Goes on where the one snapshot of the real vault stops: one a day, and the window of what it needs moves on.
    fn of(real: DirectoryStore, first: &Statement, key: &SigningKey) -> Self {
        let pages: Vec<Sealed> = (0..OBJECTS / PAGE_LINES).map(|n| sealed(&page(n))).collect();
        let page_numbers = (0..).zip(&pages).map(|(n, page)| (ObjectName::Inventory(*page).to_string(), n)).collect();
        let (roots, manifests, records) = (HashMap::new(), Vec::new(), BTreeMap::new());
        let mut all = Self { real, pages, page_numbers, roots, manifests, records };
        let body: SnapshotBody = first.body_as().unwrap();
        let mut prev = hash(first.to_line().unwrap().as_bytes());
        for number in 0..SNAPSHOTS {
            let from = number * (all.pages.len() as u32 - PAGES_EACH) / SNAPSHOTS;
            let root = ObjectName::Inventory(sealed(&all.root(from, from + PAGES_EACH)));
            all.roots.insert(root.to_string(), (from, from + PAGES_EACH));
            let manifest = ObjectName::Manifest(Sealed { hash: hash(&number.to_be_bytes()), bytes: 20_000 });
            all.manifests.push(manifest.clone());
            let body = SnapshotBody { manifest, inventory: root, ..body.clone() };
            let statement = Statement {
                seq: first.seq + 1 + u64::from(number),
                prev: Some(prev),
                time: first.time.plus_secs(i64::from(number) * 86_400),
                kind: RecordKind::Snapshot,
                body: serde_json::to_value(body).unwrap(),
                ..first.clone()
            };
            let line = statement.to_line().unwrap();
            let head = Head { seq: statement.seq, hash: hash(line.as_bytes()) };
            let name = ObjectName::Record { writer: statement.writer, seq: head.seq, statement: head.hash };
            let bytes = join(&line, &key.sign(RECORD_NAMESPACE, &line).unwrap());
            all.records.insert(name.to_string(), (bytes, statement.time));
            prev = head.hash;
        }
        all
    }
}

impl Store for Imagined {
    fn location(&self) -> &Location {
        self.real.location()
    }
    fn list(&self, dirs: &[String], each: &mut dyn FnMut(Listed)) -> Result<(), StoreError> {
        self.real.list(dirs, each)?;
        let wanted: HashSet<&str> = dirs.iter().map(String::as_str).collect();
        let mut tell = |name: &str, bytes: u64, received: Timestamp| {
            if wanted.contains(name.rsplit_once('/').unwrap().0) {
                each(Listed { name: name.to_owned(), bytes, received: Some(received) });
            }
        };
        for object in (0..OBJECTS).map(pack).chain(self.manifests.iter().cloned()) {
            tell(&object.to_string(), object.bytes().unwrap(), Timestamp(0));
        }
        for name in self.page_numbers.keys().chain(self.roots.keys()) {
            tell(name, ObjectName::parse_stored(name).unwrap().0.bytes().unwrap(), Timestamp(0));
        }
        self.records.iter().for_each(|(name, (bytes, time))| tell(name, bytes.len() as u64, *time));
        Ok(())
    }
    fn stat(&self, name: &str) -> Result<Option<u64>, StoreError> {
        self.real.stat(name)
    }
    fn get(&self, name: &str, offset: u64, bytes: u64) -> Result<Vec<u8>, StoreError> {
        let whole = match (self.records.get(name), self.roots.get(name), self.page_numbers.get(name)) {
            (Some((record, _)), _, _) => record.clone(),
            (_, Some((first, last)), _) => self.root(*first, *last),
            (_, _, Some(number)) => page(*number),
            _ => return self.real.get(name, offset, bytes),
        };
        Ok(whole.into_iter().skip(offset as usize).take(bytes as usize).collect())
    }
    fn room(&self) -> Result<Option<u64>, StoreError> {
        Ok(None)
    }
    fn parallel(&self) -> usize {
        1
    }
}

impl WriteOnceStore for Imagined {
    fn make_dirs(&self, dirs: &[String]) -> Result<(), StoreError> {
        self.real.make_dirs(dirs)
    }
    fn put(&self, name: &str, bytes: &[u8]) -> Result<Durability, StoreError> {
        self.real.put(name, bytes)
    }
    fn sweep(&self, dirs: &[String]) -> Result<u64, StoreError> {
        self.real.sweep(dirs)
    }
}

/// Runs in a process of its own, so that its memory is its own.
fn plan_a_million() {
    let (world, _) = World::pushed(3);
    let config = Config::load(&world.agent.config).unwrap();
    let state = StateDir::open(&world.agent.state, config.vault.unwrap()).unwrap();
    let key = KeyDir::of(&state).writer(Role::Agent).unwrap().unwrap();
    let first = std::fs::read(&world.objects("ledger")[0]).unwrap();
    let first = Statement::from_line(split(&first).unwrap().0).unwrap();
    let store: Arc<dyn WriteOnceStore> = Arc::new(Imagined::of(DirectoryStore::open(&world.vault).unwrap(), &first, &key));
    let periods = Periods { last: 3, daily: 30, weekly: 52, monthly: 12, yearly: 0 };
    let keep = Keep { periods, within_secs: None, tags: vec![], min_snapshots: 3, min_age_secs: 0 };
    let rules =
        Rules { series: BTreeMap::new(), others: Some(Rule { keep, zone: jiff::tz::TimeZone::UTC }), ..Rules::default() };
    let request = PlanRequest {
        pin: VaultPin { vault: config.vault, root: config.root.unwrap() },
        store: NamedStore { name: "vault".into(), store },
        rules,
        names: Names::default(),
        wait_secs: 0,
        damage: Damage::Refuse,
        dry_run: true,
    };
    let started = std::time::Instant::now();
    let receipt = plan(&request, &env(&world.agent.state)).unwrap();
    println!(
        "{} snapshots, {} kept, {} objects to remove, planned in {:.1} s",
        receipt.snapshots.len(),
        receipt.kept,
        receipt.objects,
        started.elapsed().as_secs_f64()
    );
    assert_eq!(receipt.snapshots.len() as u32, SNAPSHOTS + 1);
    assert!(receipt.kept < 250 && receipt.dropped > u64::from(SNAPSHOTS) / 2, "{} kept", receipt.kept);
    assert!(receipt.objects > u64::from(OBJECTS) / 4, "{} objects", receipt.objects);
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
