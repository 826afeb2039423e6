//! A vault without farkeep: what lies in it is opened, checked and restored with Debian's `age`, `zstd`, `b3sum`, `ssh-keygen`
//! and `python3`, by the page that lies in every vault.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::print_stdout,
    clippy::print_stderr,
    missing_docs,
    reason = "tests"
)]

mod damage;
mod page;
mod script;
mod stock;
#[path = "../world/mod.rs"]
mod world;

use std::fs;
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};
use std::process::Command;

use world::tools::{find, must};
use world::{Run, World, args};

/// A machine that has only what RECOVER.md asks for: a search path with these programs and no others.
struct BareMachine {
    bin: PathBuf,
}

/// What RECOVER.md names for restoring.
const PROGRAMS: [&str; 4] = ["age", "zstd", "b3sum", "python3"];

impl BareMachine {
    fn new(world: &World, further: &[&str]) -> Self {
        let bin = world.path("bare bin");
        fs::create_dir(&bin).unwrap();
        for program in PROGRAMS.iter().chain(further) {
            // A wrapper would look for other programs: the one that it ends in.
            let place = match *program {
                "python3" => must(Command::new("python3").args(["-c", "import sys; print(sys.executable)"])).trim().into(),
                other => find(other).unwrap_or_else(|| panic!("{other} is not installed")),
            };
            symlink(place, bin.join(program)).unwrap();
        }
        Self { bin }
    }

    /// A command in the vault's root, with nothing in its environment but the search path.
    fn command(&self, vault: &Path, program: &str) -> Command {
        let mut command = Command::new(self.bin.join(program));
        command.env_clear().env("PATH", &self.bin).env("LC_ALL", "C.UTF-8").current_dir(vault);
        command
    }

    /// `python3 recover.py ...`
    fn recover(&self, vault: &Path, args: Vec<std::ffi::OsString>) -> Run {
        Run::of(self.command(vault, "python3").arg("recover.py").args(args))
    }
}

/// The epochs' identities, opened by Debian's age as RECOVER.md shows it.
fn epoch(world: &World) -> PathBuf {
    let key = world.objects("keys").into_iter().find(|path| path.to_string_lossy().contains("/identity-1-")).unwrap();
    let epoch = world.path("epoch");
    must(Command::new("age").arg("-d").arg("-i").arg(&world.identity).arg("-o").arg(&epoch).arg(key));
    epoch
}

/// The plaintext of a sealed object, by `age -d | zstd -d`.
fn opened(epoch: &Path, object: &Path) -> Vec<u8> {
    let pipe = "set -o pipefail; age -d -i \"$1\" \"$2\" | zstd -d -c";
    world::tools::must_bytes(Command::new("bash").args(["-c", pipe, "bash"]).arg(epoch).arg(object))
}

/// Adds records of all kinds that there are so far: a verification, a restore, a `cat` at a station, another push.
fn busy(world: &World) {
    world.push(world.path("data"));
    world.verify("sealed");
    world.restore("latest", &world.path("restored before"));
    world.tree("data").file("later", "a second night");
    world.push(world.path("data"));
    let station = world.machine("station");
    let cat = args!["cat", "latest", world.path("data/later"), "--from", &world.vault, "--identity", &world.identity];
    assert_eq!(station.run(cat).ok().out, "a second night");
}
