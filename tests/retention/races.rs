//! A push while something is pruned: whatever comes first, no snapshot is committed that lacks anything.

use std::fs;
use std::path::PathBuf;
use std::process::Command;

use super::history::{History, apply, plan};
use super::world::background::until;
use super::world::tools::must;
use super::world::{Machine, Running, World, args, files_below};

/// A vault whose job reads a file only when it is let go on.
struct Gate {
    world: World,
    go: PathBuf,
    waits: PathBuf,
    data: PathBuf,
}

impl Gate {
    fn new() -> Self {
        let world = World::new();
        let (go, waits, data) = (world.path("go"), world.path("waits"), world.path("data"));
        let script = world.path("source.sh");
        let (shown_go, shown_waits, shown) = (go.display(), waits.display(), data.display());
        fs::write(&script, format!("touch {shown_waits}; while [ ! -e {shown_go} ]; do sleep 0.02; done; cat {shown}\n"))
            .unwrap();
        world.agent.configure(&format!(
            "[job.dump]\n[[job.dump.source]]\nname = \"dump\"\nkind = \"command\"\ncommand = [\"sh\", \"{}\"]\n",
            script.display()
        ));
        fs::write(&go, "").unwrap();
        Self { world, go, waits, data }
    }

    fn dump(&self, seed: u64) -> Vec<u8> {
        let bytes = super::world::Random::new(seed).bytes(900_000);
        fs::write(&self.data, &bytes).unwrap();
        bytes
    }

    /// A push that has looked at the stores and now waits for its source.
    fn begin(&self) -> Running {
        fs::remove_file(&self.go).unwrap();
        fs::remove_file(&self.waits).unwrap();
        let push = Running::start(&self.world.agent, args!["push", "dump", "--json"]);
        until("the source is asked", || self.waits.exists());
        push
    }

    fn let_go(&self) {
        fs::write(&self.go, "").unwrap();
    }

    /// Another machine with the custodian's key and the directory.
    fn pruner(&self) -> Machine {
        let machine = self.world.machine("pruner");
        must(Command::new("cp").arg(&self.world.agent.config).arg(&machine.config));
        let keys = files_below(&self.world.agent.state.join("keys"));
        let key = keys.iter().find(|path| path.ends_with("custodian-writer")).unwrap();
        let to = machine.state.join(key.strip_prefix(&self.world.agent.state).unwrap());
        fs::create_dir_all(to.parent().unwrap()).unwrap();
        fs::copy(key, to).unwrap();
        machine
    }

    fn assert_newest_is(&self, content: &[u8]) {
        self.world.verify("opened");
        let cat = args!["cat", "latest", "@dump/stdout", "--identity", &self.world.identity];
        let mut command = self.world.agent.command(cat);
        assert_eq!(command.output().unwrap().stdout, content);
    }
}

/// Two nights, the second with other data, and a push of the first one's data that has begun: with what it will push, and
/// somebody who prunes meanwhile.
fn begun() -> (Gate, Vec<u8>, Machine, Running) {
    let gate = Gate::new();
    let first = gate.dump(1);
    gate.world.push("dump");
    gate.dump(2);
    gate.world.push("dump");
    let pruner = gate.pruner();
    fs::write(&gate.data, &first).unwrap();
    let push = gate.begin();
    (gate, first, pruner, push)
}

#[test]
fn what_a_pending_plan_names_is_packed_again() {
    let mut history = History::of_replaced(World::new());
    assert_eq!(plan(&history.world, &["--keep-last", "1"])["dropped"], 1);
    // The file of the snapshot that goes comes back.
    history.data.noise("again", 300_000, 1);
    let receipt = history.push();
    assert!(receipt["new_bytes"].as_u64().unwrap() > 300_000, "{receipt}");
    apply(&history.world);
    history.world.verify("opened");
    history.assert_restores(1..3);
    // The plan is done: what lies there now may be used.
    history.data.noise("once-more", 300_000, 1);
    let receipt = history.push();
    assert!(receipt["new_bytes"].as_u64().unwrap() < 200_000, "{receipt}");
}

#[test]
fn a_push_that_was_at_work_when_the_plan_came_begins_again() {
    let (gate, first, pruner, push) = begun();
    pruner.run(args!["prune", "plan", "--keep-last", "1"]).ok().says("1 snapshot to drop");
    gate.let_go();
    push.wait().ok();
    pruner.run(args!["prune", "apply", "--now"]).ok().says("1 snapshot dropped");
    gate.assert_newest_is(&first);
}

#[test]
fn a_push_under_whose_hands_objects_go_begins_again() {
    let (gate, first, pruner, push) = begun();
    pruner.run(args!["prune", "plan", "--keep-last", "1"]).ok();
    pruner.run(args!["prune", "apply", "--now"]).ok().says("1 snapshot dropped");
    gate.let_go();
    push.wait().ok();
    gate.assert_newest_is(&first);
}

#[test]
fn what_a_push_may_still_be_at_work_on_is_not_planned_away() {
    let gate = Gate::new();
    gate.dump(1);
    gate.world.push("dump");
    gate.dump(2);
    gate.world.push("dump");
    let left = gate.world.objects("packs").len();
    // An object that no record speaks of yet: of a push that is still at work, or that died.
    let objects = ["packs/aa", "indexes", "manifests"];
    let hash = "aa".repeat(32);
    let young = objects.map(|area| gate.world.vault.join(area).join(format!("{hash}-5")));
    let old = objects.map(|area| gate.world.vault.join(area).join(format!("{}-5", hash.replace("aaaa", "aabb"))));
    for path in young.iter().chain(&old) {
        fs::write(path, b"12345").unwrap();
    }
    for path in &old {
        must(Command::new("touch").args(["-d", "4 days ago"]).arg(path));
    }
    let pruner = gate.pruner();
    pruner.run(args!["prune", "plan", "--keep-last", "1"]).ok();
    pruner.run(args!["prune", "apply", "--now"]).ok();
    assert!(gate.world.objects("packs").len() < left + 2);
    assert!(young.iter().all(|path| path.exists()), "no push runs for so short a time that these could be leftovers");
    assert!(!old.iter().any(|path| path.exists()), "no push runs for so long");
    gate.world.verify("opened");
}
