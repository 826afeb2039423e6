//! Plaintext canaries: what stands in the sources stands nowhere else but in a restore.

use std::fs;
use std::path::{Path, PathBuf};

use crate::world::{World, args, files_below};

const CONTENT: &str = "canary-content-4ef1a9";
const NAME: &str = "canary-name-77b0c2";
const ATTRIBUTE: &str = "canary-attribute-19d3e8";
const TARGET: &str = "canary-target-c04f55";
const JOB: &str = "canary-job-20aa31";
const TAG: &str = "canary-tag-8812ef";
const OUTPUT: &str = "canary-output-5f6f01";
const ALL: [&str; 7] = [CONTENT, NAME, ATTRIBUTE, TARGET, JOB, TAG, OUTPUT];

/// Files below `dir` that hold a canary in their content or path, with which.
fn found_below(dir: &Path, canaries: &[&str]) -> Vec<String> {
    let mut found = Vec::new();
    for path in files_below(dir) {
        let bytes = fs::read(&path).unwrap();
        let name = path.to_string_lossy().into_owned();
        for canary in canaries {
            let holds = bytes.windows(canary.len()).any(|window| window == canary.as_bytes());
            if holds || name.contains(canary) {
                found.push(format!("{canary} in {name}"));
            }
        }
    }
    found
}

/// A world whose every secret is a canary, pushed to two stores with the log wide open. Gives what was logged.
fn pushed() -> (World, String) {
    let world = World::with_stores(&["a", "b"]);
    let tree = world.tree("data");
    tree.file(NAME, format!("{CONTENT} ").repeat(3))
        .file("noise", [CONTENT.as_bytes(), &crate::world::Random::new(1).bytes(90_000)].concat());
    tree.xattr(NAME, "user.canary", ATTRIBUTE.as_bytes()).link("link", TARGET).file(format!("{NAME}.d/inside"), CONTENT);
    world.agent.configure(&format!(
        "[job.{JOB}]\ntags = [\"{TAG}\"]\n[[job.{JOB}.source]]\nname = \"files\"\nkind = \"files\"\npaths = [\"{}\"]\n\
         [[job.{JOB}.source]]\nname = \"command\"\nkind = \"command\"\ncommand = [\"echo\", \"{OUTPUT}\"]\nfilename = \"dump\"\n",
        tree.root.display()
    ));
    let first = world.run(args!["push", "-vv"]).ok();
    // The second store is away for a night: its objects wait in the outbox.
    let away = world.path("away");
    fs::rename(world.path("b"), &away).unwrap();
    tree.file("second", format!("second {CONTENT}"));
    let second = world.run(args!["push", "-vv"]).exits(3);
    (world, first.err + &second.err)
}

#[test]
fn canaries_never_leave_the_source() {
    let (world, logged) = pushed();
    let mut found = found_below(&world.path("a"), &ALL);
    found.extend(found_below(&world.path("away"), &ALL));
    // Of what waits here, and of what this machine remembers, the same holds: keys, ratchet, outbox, journal, caches. Only
    // the job's name stands there, as it does in the configuration.
    let names = |canary: &&str| **canary != *JOB;
    found.extend(found_below(&world.agent.state, &ALL.into_iter().filter(names).collect::<Vec<_>>()));
    assert!(found.is_empty(), "{found:#?}");
    for canary in [CONTENT, ATTRIBUTE, TARGET, OUTPUT] {
        assert!(!logged.contains(canary), "{canary} was logged:\n{logged}");
    }
}

#[test]
fn restoring_leaves_canaries_at_the_target_alone() {
    let (world, _) = pushed();
    fs::rename(world.path("away"), world.path("b")).unwrap();
    let station = world.machine("station");
    let into = world.path("into");
    let path = world.path("data").join(NAME);
    let temporary = world.path("tmp");
    fs::create_dir(&temporary).unwrap();
    let run = |more: Vec<std::ffi::OsString>| {
        let mut all = more;
        all.extend(args!["--from", world.path("a"), "--identity", &world.identity, "-vv"]);
        let output = station.command(all).env("TMPDIR", &temporary).output().unwrap();
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        String::from_utf8_lossy(&output.stderr).into_owned()
    };
    let mut logged = run(args!["restore", "latest", &path, "--into", &into]);
    logged += &run(args!["cat", "latest", &path]);
    logged += &run(args!["verify", "--depth", "opened"]);
    run(args!["ls", "latest", "--recursive"]);
    assert!(!found_below(&into, &[CONTENT]).is_empty(), "the search finds nothing at all");
    let mut found = found_below(&world.path("a"), &ALL);
    found.extend(found_below(&station.state, &ALL));
    found.extend(found_below(&temporary, &ALL));
    assert!(found.is_empty(), "{found:#?}");
    for canary in [CONTENT, ATTRIBUTE, TARGET, OUTPUT] {
        assert!(!logged.contains(canary), "{canary} was logged:\n{logged}");
    }
}

#[test]
fn secrets_stand_nowhere_but_in_their_own_files() {
    let (world, logged) = pushed();
    let secret = fs::read_to_string(&world.identity).unwrap();
    let secret = secret.lines().find(|line| line.starts_with("AGE-SECRET-KEY-1")).unwrap().to_owned();
    let root = fs::read_to_string(world.identity.with_extension("root")).unwrap();
    let root = root.lines().nth(3).unwrap().to_owned();
    for place in ["a", "away", "agent"] {
        assert_eq!(found_below(&world.path(place), &[&secret, &root]), Vec::<String>::new());
    }
    // What the agent keeps is its own alone.
    let keys: Vec<PathBuf> =
        files_below(&world.agent.state).into_iter().filter(|path| path.to_string_lossy().contains("/keys/")).collect();
    assert!(keys.len() >= 3, "{keys:?}");
    for key in &keys {
        use std::os::unix::fs::PermissionsExt;
        assert_eq!(fs::metadata(key).unwrap().permissions().mode() & 0o077, 0, "{}", key.display());
        for line in fs::read_to_string(key).unwrap().lines().filter(|line| line.len() > 40) {
            assert!(!logged.contains(line), "a key was logged");
        }
    }
}
