//! Pruning cut off at every step: no snapshot that stays is hurt, and the next run ends what was begun.

use std::path::Path;
use std::process::Command;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicI64, Ordering};

use farkeep::cli::config::Config;
use farkeep::model::time::SystemClock;
use farkeep::ops::context::VaultPin;
use farkeep::ops::prune::apply::{ApplyReceipt, ApplyRequest, Waiting, apply};
use farkeep::ops::{Env, OpError, Silent};
use farkeep::store::directory::DirectoryStore;
use farkeep::store::{Durability, Listed, Location, PruneStore, Store, StoreError, WriteOnceStore};

use super::history::{History, plan};
use super::world::background::until;
use super::world::tools::must;
use super::world::{Running, World, args};

/// A directory that dies after so many changes: as a process that is killed, it changes nothing from then on.
struct Dying {
    inner: DirectoryStore,
    changes_left: AtomicI64,
}

impl Dying {
    fn change(&self) -> Result<(), StoreError> {
        if self.changes_left.fetch_sub(1, Ordering::SeqCst) > 0 {
            return Ok(());
        }
        Err(StoreError::Io { name: "the store".into(), why: "killed".into() })
    }
}

impl Store for Dying {
    fn location(&self) -> &Location {
        self.inner.location()
    }
    fn list(&self, dirs: &[String], each: &mut dyn FnMut(Listed)) -> Result<(), StoreError> {
        self.inner.list(dirs, each)
    }
    fn stat(&self, name: &str) -> Result<Option<u64>, StoreError> {
        self.inner.stat(name)
    }
    fn get(&self, name: &str, offset: u64, bytes: u64) -> Result<Vec<u8>, StoreError> {
        self.inner.get(name, offset, bytes)
    }
    fn room(&self) -> Result<Option<u64>, StoreError> {
        self.inner.room()
    }
    fn parallel(&self) -> usize {
        1
    }
    fn identity(&self) -> String {
        self.inner.identity()
    }
}

impl WriteOnceStore for Dying {
    fn make_dirs(&self, dirs: &[String]) -> Result<(), StoreError> {
        self.inner.make_dirs(dirs)
    }
    fn put(&self, name: &str, bytes: &[u8]) -> Result<Durability, StoreError> {
        self.change()?;
        self.inner.put(name, bytes)
    }
    fn sweep(&self, dirs: &[String]) -> Result<u64, StoreError> {
        self.inner.sweep(dirs)
    }
}

impl PruneStore for Dying {
    fn remove(&self, name: &str) -> Result<(), StoreError> {
        self.change()?;
        self.inner.remove(name)
    }
}

fn apply_with(world: &World, vault: &Path, changes: i64) -> Result<ApplyReceipt, OpError> {
    let config = Config::load(&world.agent.config).unwrap();
    let pin = VaultPin { vault: config.vault, root: config.root.unwrap() };
    let store = Dying { inner: DirectoryStore::open(vault).unwrap(), changes_left: AtomicI64::new(changes) };
    static CANCEL: AtomicBool = AtomicBool::new(false);
    let env = Env {
        clock: &SystemClock,
        observer: &Silent,
        cancel: &CANCEL,
        host: "test",
        user: "test",
        state_root: &world.agent.state,
    };
    let name = "vault".to_owned();
    let request = ApplyRequest { pin, name, store: Arc::new(store), plan: None, waiting: Waiting::Skip, rules: None };
    apply(&request, &env)
}

fn copy(from: &Path, to: &Path) {
    let _ = std::fs::remove_dir_all(to);
    must(Command::new("cp").arg("-a").arg(from).arg(to));
}

#[test]
fn cut_off_after_any_change_it_goes_on_where_it_stopped() {
    let history = History::of(4);
    let world = &history.world;
    plan(world, &["--keep-last", "2"]);
    let (vault, state) = (world.path("vault-before"), world.path("state-before"));
    copy(&world.vault, &vault);
    copy(&world.agent.state, &state);
    let mut changes = 0;
    loop {
        copy(&vault, &world.vault);
        copy(&state, &world.agent.state);
        let ended = apply_with(world, &world.vault, changes).is_ok();
        world.verify("opened");
        if !ended {
            let receipt = apply_with(world, &world.vault, i64::MAX).unwrap();
            assert!(receipt.plan.is_some() || changes > 3, "after {changes} changes: {receipt:?}");
            world.verify("opened");
        }
        assert_eq!(world.snapshots().len(), 2, "after {changes} changes");
        let left = plan(world, &["--keep-last", "2", "--dry-run"]);
        assert_eq!(left["dropped"], 0, "after {changes} changes");
        if ended {
            break;
        }
        changes += 1;
    }
    assert!(changes > 10, "{changes} changes are no pruning");
    history.assert_restores(2..4);
}

#[test]
fn killed_while_it_removes_it_leaves_every_kept_snapshot_whole() {
    let history = History::of(5);
    let world = &history.world;
    plan(world, &["--keep-last", "1"]);
    let before = world.objects("manifests").len();
    let running = Running::start(&world.agent, args!["prune", "apply", "--now"]);
    until("manifests go", || world.objects("manifests").len() < before);
    running.kill();
    world.verify("opened");
    history.assert_restores(4..5);
    world.run(args!["prune", "apply", "--now"]).ok();
    world.verify("opened");
    assert_eq!(world.objects("manifests").len(), 1);
    history.assert_restores(4..5);
}
