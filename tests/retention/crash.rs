//! Pruning cut off at every step: no snapshot that stays is hurt, and the next run ends what was begun.

use std::path::Path;
use std::process::Command;
use std::sync::Arc;
use std::sync::atomic::{AtomicI64, Ordering};

use farkeep::cli::config::Config;
use farkeep::ops::OpError;
use farkeep::ops::context::VaultPin;
use farkeep::ops::prune::apply::{ApplyReceipt, ApplyRequest, Waiting, apply};
use farkeep::store::StoreError;
use farkeep::store::directory::DirectoryStore;

use super::history::{History, plan};
use super::world::background::until;
use super::world::inside::{Meddled, env};
use super::world::tools::must;
use super::world::{Running, World, args};

/// A directory that dies after so many changes: as a process that is killed, it changes nothing from then on.
fn dying(vault: &Path, changes: i64) -> Meddled {
    let changes_left = AtomicI64::new(changes);
    Meddled::new(DirectoryStore::open(vault).unwrap(), move |_| {
        if changes_left.fetch_sub(1, Ordering::SeqCst) > 0 {
            return Ok(());
        }
        Err(StoreError::Io { name: "the store".into(), why: "killed".into() })
    })
}

fn apply_with(world: &World, vault: &Path, changes: i64) -> Result<ApplyReceipt, OpError> {
    let config = Config::load(&world.agent.config).unwrap();
    let pin = VaultPin { vault: config.vault, root: config.root.unwrap() };
    let store = dying(vault, changes);
    let name = "vault".to_owned();
    let request = ApplyRequest { pin, name, store: Arc::new(store), plan: None, waiting: Waiting::Skip, rules: None };
    apply(&request, &env(&world.agent.state))
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
