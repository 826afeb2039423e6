//! Pushes under a wrong clock: they are no newer than what came after them, and they hide no lateness.

use std::process::Command;

use crate::world::clock::{at, missing_faketime};
use crate::world::tools::must;
use crate::world::{World, args, assert_same, needs, skipped};

#[test]
fn a_push_under_a_clock_of_the_future_is_neither_the_latest_for_ever_nor_in_time() {
    if let Some(why) = missing_faketime() {
        return skipped(&why);
    }
    needs!("python3");
    let world = World::new();
    let tree = world.tree("data");
    let source = format!("name = \"files\"\nkind = \"files\"\npaths = [\"{}\"]", tree.root.display());
    world.agent.configure(&format!("[job.nightly]\nevery = \"1d\"\n[[job.nightly.source]]\n{source}"));
    let night = |time: &str, version: u64| {
        tree.noise("file", 100_000, version);
        at(&world.agent, time, args!["push", "nightly"]).ok();
    };
    night("2026-11-10 02:00:00", 1);
    night("2031-01-01 02:00:00", 2);
    night("2026-11-12 02:00:00", 3);
    at(&world.agent, "2026-11-12 12:00:00", args!["status", "--check"]).ok();
    at(&world.agent, "2026-11-16 12:00:00", args!["status", "--check"]).exits(3).says("4 d 10 h old");
    let restored = world.path("restored");
    world.restore("latest", &restored);
    assert_same(&tree.root, &tree.below(&restored));
    // Whoever has no farkeep chooses the same one.
    let recovered = world.path("recovered");
    let mut script = Command::new("python3");
    script.current_dir(&world.vault).arg("recover.py").args(["restore", "--identity"]).arg(&world.identity);
    must(script.arg("--into").arg(&recovered));
    assert_same(&tree.root, &tree.below(&recovered));

    night("2031-01-02 02:00:00", 4);
    at(&world.agent, "2026-11-20 12:00:00", args!["status", "--check"]).exits(3).says("a clock is or was wrong");
}
