//! What every test stands on: scratch deployments, the real binary, real servers, trees of files, and a comparison.
//!
//! A test is a story of a few lines; its setting-up lives here. [`World`] is a vault with the machine that pushes into it;
//! [`Machine`] is one machine: a configuration and a state directory of its own. Everything lies beneath a scratch directory
//! that goes away with it, and nothing reads the configuration of whoever runs the tests.

#![allow(dead_code, unused_imports, unused_macros, clippy::useless_vec, reason = "each test binary takes what it needs")]

pub mod background;
pub mod clock;
pub mod compare;
pub mod deployment;
pub mod drive;
pub mod inside;
pub mod machine;
pub mod random;
pub mod server;
#[path = "../stores/world.rs"]
pub mod sshd;
pub mod tools;
pub mod tree;

use std::fs;
use std::path::{Path, PathBuf};

use serde_json::Value;
use tempfile::TempDir;

pub use background::Running;
pub use compare::{assert_same, differences};
pub use machine::{Machine, Run};
pub use random::Random;
pub use tools::{is_root, missing_tool, skipped};
pub use tree::Tree;

/// The arguments of a command line, of whatever kind each of them is.
macro_rules! args {
    ($($arg:expr),* $(,)?) => {{
        let args: Vec<std::ffi::OsString> = vec![$(std::ffi::OsString::from($arg)),*];
        args
    }};
}
pub(crate) use args;

/// Ends the test with a line that begins with `SKIPPED:` unless it can run here.
macro_rules! needs {
    (root) => {
        if !$crate::world::is_root() {
            return $crate::world::skipped("root is needed");
        }
    };
    (server) => {
        if let Some(why) = $crate::world::server::missing() {
            return $crate::world::skipped(&why);
        }
    };
    ($($tool:literal),+) => {
        $(if let Some(why) = $crate::world::missing_tool($tool) {
            return $crate::world::skipped(&why);
        })+
    };
}
pub(crate) use needs;

/// A vault, the machine that pushes into it, and what its operator carried away.
pub struct World {
    /// Everything lies in it.
    pub dir: TempDir,
    /// The machine that pushes.
    pub agent: Machine,
    /// The operator's identity, apart from the agent.
    pub identity: PathBuf,
    /// The copy in a directory, where there is one.
    pub vault: PathBuf,
}

impl World {
    /// A vault in one directory, with an identity that no passphrase protects.
    pub fn new() -> Self {
        let world = Self::bare();
        let store = world.vault.clone();
        world.init(&args!["--store", &store]);
        world
    }

    /// No vault yet.
    pub fn bare() -> Self {
        let dir = sshd::scratch();
        let agent = Machine::new(dir.path(), "agent");
        fs::create_dir(dir.path().join("operator")).unwrap();
        let (identity, vault) = (dir.path().join("operator/identity"), dir.path().join("vault"));
        Self { dir, agent, identity, vault }
    }

    /// A vault in one directory with one snapshot of a tree of so many ordinary files.
    pub fn pushed(files: usize) -> (Self, Tree) {
        let world = Self::new();
        let tree = world.tree("data");
        tree.ordinary(files, 1);
        world.push(&tree.root);
        (world, tree)
    }

    /// Several directories as stores `a`, `b`, ... of one vault.
    pub fn with_stores(names: &[&str]) -> Self {
        let mut world = Self::bare();
        for name in names {
            world.agent.configure(&format!("[store.{name}]\nurl = \"{}\"\n", world.path(name).display()));
        }
        world.init(&args![]);
        world.vault = world.path(names[0]);
        world
    }

    /// `farkeep init` with these further arguments.
    pub fn init(&self, more: &[std::ffi::OsString]) -> Value {
        let mut all = args!["init", "--identity-out", &self.identity, "--no-passphrase", "--yes", "--json"];
        all.extend_from_slice(more);
        self.agent.run(all).ok().json()
    }

    /// A path in the scratch directory.
    pub fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    /// A directory in the scratch directory to put files into.
    pub fn tree(&self, name: &str) -> Tree {
        Tree::new(self.path(name))
    }

    /// The fingerprint file of the root.
    pub fn root_key(&self) -> PathBuf {
        self.identity.with_extension("root.pub")
    }

    /// Another machine, which knows nothing of the vault.
    pub fn machine(&self, name: &str) -> Machine {
        Machine::new(self.dir.path(), name)
    }

    /// Runs the agent's farkeep.
    pub fn run<I: IntoIterator<Item = S>, S: Into<std::ffi::OsString>>(&self, args: I) -> Run {
        self.agent.run(args)
    }

    /// Pushes paths or a job; it must be done without a finding. Gives the job's receipt.
    pub fn push(&self, what: impl Into<std::ffi::OsString>) -> Value {
        let what = what.into();
        self.run(args!["push", what, "--json"]).ok().json()["jobs"][0].clone()
    }

    /// Restores a whole snapshot with the operator's identity; it must be done without a finding.
    pub fn restore(&self, snapshot: &str, into: &Path) -> Value {
        self.run(args!["restore", snapshot, "--into", into, "--identity", &self.identity, "--json"]).ok().json()
    }

    /// Verifies on the agent; it must find nothing.
    pub fn verify(&self, depth: &str) -> Value {
        self.run(args!["verify", "--depth", depth, "--identity", &self.identity, "--json"]).ok().json()
    }

    /// The snapshots as `farkeep snapshots --json` lists them, oldest first.
    pub fn snapshots(&self) -> Vec<Value> {
        self.run(args!["snapshots", "--json"]).ok().json()["snapshots"].as_array().unwrap().clone()
    }

    /// Paths of the files in one area of the directory copy, sorted.
    pub fn objects(&self, area: &str) -> Vec<PathBuf> {
        files_below(&self.vault.join(area))
    }
}

/// Every file below a directory, sorted.
pub fn files_below(dir: &Path) -> Vec<PathBuf> {
    let mut found = Vec::new();
    let mut open = vec![dir.to_owned()];
    while let Some(dir) = open.pop() {
        for entry in fs::read_dir(&dir).unwrap_or_else(|e| panic!("{}: {e}", dir.display())) {
            let entry = entry.unwrap();
            if entry.file_type().unwrap().is_dir() { open.push(entry.path()) } else { found.push(entry.path()) }
        }
    }
    found.sort();
    found
}

/// Bytes of all files below a directory.
pub fn bytes_below(dir: &Path) -> u64 {
    files_below(dir).iter().map(|path| fs::metadata(path).map_or(0, |meta| meta.len())).sum()
}

/// Turns one bit of a file over, which may be write-protected.
pub fn flip(path: &Path, at: u64) {
    use std::os::unix::fs::{FileExt, PermissionsExt};
    let mode = fs::metadata(path).unwrap().permissions().mode();
    fs::set_permissions(path, fs::Permissions::from_mode(mode | 0o200)).unwrap();
    let file = fs::File::options().read(true).write(true).open(path).unwrap();
    let mut byte = [0];
    file.read_exact_at(&mut byte, at).unwrap();
    file.write_all_at(&[byte[0] ^ 0x10], at).unwrap();
    fs::set_permissions(path, fs::Permissions::from_mode(mode)).unwrap();
}
