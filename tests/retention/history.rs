//! A vault with a few nights in it, and what the files were each night.

use std::ffi::OsString;
use std::ops::Range;
use std::process::Command;

use serde_json::Value;

use super::world::tools::must;
use super::world::{Tree, World, args, assert_same};

/// A world with a tree that was pushed in several versions, each with a copy to compare with.
pub struct History {
    pub world: World,
    pub data: Tree,
    /// Ids and copies of the tree, oldest first.
    pub versions: Vec<(String, Tree)>,
}

impl History {
    /// So many nights in a vault in a directory.
    pub fn of(nights: u64) -> Self {
        Self::in_world(World::new(), nights)
    }

    pub fn in_world(world: World, nights: u64) -> Self {
        let data = world.tree("data");
        data.noise("always", 400_000, 7);
        let mut history = Self { world, data, versions: Vec::new() };
        for night in 0..nights {
            history.night(night);
        }
        history
    }

    /// Two versions: a file, and another one in its place.
    pub fn of_replaced(world: World) -> Self {
        let data = world.tree("data");
        data.noise("first", 300_000, 1);
        let mut history = Self { world, data, versions: Vec::new() };
        history.push();
        history.data.remove("first").noise("second", 300_000, 2);
        history.push();
        history
    }

    /// One file comes, one goes, one changes; then a push.
    pub fn night(&mut self, night: u64) -> Value {
        self.data.noise(&format!("night-{night}"), 300_000, night);
        self.data.noise("changes", 200_000, 1000 + night);
        if night > 0 {
            self.data.remove(&format!("night-{}", night - 1));
        }
        self.push()
    }

    /// Pushes what is there.
    pub fn push(&mut self) -> Value {
        let receipt = self.world.push(&self.data.root);
        self.remember(receipt["snapshot"].as_str().unwrap());
        receipt
    }

    /// Remembers the tree as it is as that of a snapshot.
    pub fn remember(&mut self, id: &str) {
        let version = self.world.path(&format!("version-{}", self.versions.len()));
        must(Command::new("cp").arg("-a").arg(&self.data.root).arg(&version));
        self.versions.push((id[..12].to_owned(), Tree { root: version }));
    }

    /// The beginning of the id of a version.
    pub fn id(&self, version: usize) -> &str {
        &self.versions[version].0
    }

    /// Restores these versions and compares them, whole.
    #[track_caller]
    pub fn assert_restores(&self, versions: Range<usize>) {
        for (id, version) in &self.versions[versions] {
            let into = tempfile::tempdir_in(self.world.dir.path()).unwrap();
            self.world.restore(id, into.path());
            assert_same(&version.root, &self.data.below(into.path()));
        }
    }
}

/// `prune plan` with these rules.
pub fn plan(world: &World, more: &[&str]) -> Value {
    let mut all = args!["prune", "plan", "--json"];
    all.extend(more.iter().map(OsString::from));
    world.run(all).ok().json()
}

/// `prune apply --now`.
pub fn apply(world: &World) -> Value {
    world.run(args!["prune", "apply", "--now", "--json"]).ok().json()
}
