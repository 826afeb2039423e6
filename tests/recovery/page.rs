//! RECOVER.md, line by line: every command of the page is run as it stands there.

use std::fs;

use crate::world::{Run, World, assert_same, needs};
use crate::{BareMachine, busy};

/// The commands of the page: its indented lines, without what is said behind them.
fn commands(page: &str) -> Vec<String> {
    let line = |line: &str| line.strip_prefix("    ").map(|line| line.split("   #").next().unwrap().trim_end().to_owned());
    page.lines().filter_map(line).collect()
}

#[test]
fn every_command_of_the_page_works_as_it_stands_there() {
    needs!("age", "zstd", "b3sum", "python3", "ssh-keygen");
    let world = World::new();
    let tree = world.tree("data");
    tree.ordinary(30, 1).file("wanted/file", "this one");
    busy(&world);
    let page = fs::read_to_string(world.vault.join("RECOVER.md")).unwrap();
    assert_eq!(page, farkeep::vault::create::RECOVER_PAGE);
    let commands = commands(&page);
    assert!(commands.len() >= 14, "{commands:#?}");
    let machine = BareMachine::new(&world, &["bash", "grep", "head", "tail", "sed", "ssh-keygen"]);
    let name = |area: &str| world.objects(area)[0].strip_prefix(&world.vault).unwrap().to_str().unwrap().to_owned();
    let newest = world.snapshots()[1]["id"].as_str().unwrap().to_owned();
    let identity = fs::read_to_string(&world.identity).unwrap();
    let root = identity.lines().find_map(|line| line.strip_prefix("# root: ")).unwrap();
    // What somebody put there who could write.
    let (newest_trust, junk) = (name("trust"), world.vault.join(format!("trust/1-{}.rec", "0".repeat(64))));
    fs::write(junk.with_extension("0"), "junk\n").unwrap();
    fs::write(&junk, fs::read(&world.objects("ledger")[0]).unwrap()).unwrap();
    let mut said = String::new();
    for (number, command) in commands.iter().enumerate() {
        let into = world.path(&format!("into{number}"));
        let line = command
            .replace("/tmp/", &format!("{}/", world.dir.path().display()))
            .replace("SNAP", &newest[..12])
            .replace("PATH...", tree.path("wanted").to_str().unwrap())
            .replace("TRUST", &newest_trust)
            .replace("ROOT", root)
            .replace(" FILE", &format!(" {}", world.identity.display()))
            .replace(" DIR", &format!(" {}", into.display()))
            .replace("manifests/NAME", &name("manifests"))
            .replace("packs/XX/NAME", &name("packs"));
        let mut bash = machine.command(&world.vault, "bash");
        let run = Run::of(bash.args(["-o", "pipefail", "-c", &line])).ok();
        if command.contains("restore") {
            let whole = !command.contains("PATH");
            let below = tree.below(&into);
            assert_eq!(fs::read_to_string(below.join("wanted/file")).unwrap(), "this one", "{line}");
            assert_eq!(below.join("dir000").exists(), whole, "{line}");
            if whole {
                assert_same(&tree.root, &below);
            }
        }
        said = format!("{said}{}{}", run.out, run.err);
    }
    assert!(said.contains("Good \"farkeep-record@v1\" signature for writer"), "{said}");
    // The root that the page has compared is the one on paper, and what it did not sign is not named.
    assert_eq!(said.matches(&format!("{newest_trust}\n")).count(), 1, "{said}");
    assert!(!said.contains("trust/1-000"), "{said}");
    assert!(said.contains(&format!("Good \"farkeep-trust@v1\" signature with ED25519 key {root}")), "{said}");
    // It is checked before anything is restored.
    let place = |what: &str| commands.iter().position(|command| command.contains(what)).unwrap();
    assert!(place("ssh-keygen -Y verify") < place("recover.py restore"), "{commands:#?}");
}

#[test]
fn the_script_has_the_hash_that_init_prints_and_trust_vouches_for() {
    needs!("b3sum");
    let world = World::bare();
    let made = world.init(&crate::args!["--store", &world.vault]);
    let paper = made["recover_script"].as_str().unwrap().to_owned();
    let sum = crate::must(std::process::Command::new("b3sum").arg("--no-names").arg(world.vault.join("recover.py")));
    assert_eq!(sum.trim(), paper);
    let trust = fs::read_to_string(&world.objects("trust")[0]).unwrap();
    assert!(trust.contains(&format!("\"recover.py\":\"{paper}\"")), "{trust}");
    assert_eq!(fs::read_to_string(world.vault.join("recover.py")).unwrap(), farkeep::vault::create::RECOVER_SCRIPT);
}

#[test]
fn a_script_that_was_changed_is_found_without_a_key() {
    let world = World::new();
    world.tree("data").file("a", "one");
    world.push(world.path("data"));
    for name in ["recover.py", "RECOVER.md"] {
        crate::world::flip(&world.vault.join(name), 300);
        world.run(crate::args!["verify", "--depth", "sealed"]).exits(4).says(name);
        crate::world::flip(&world.vault.join(name), 300);
    }
    world.verify("sealed");
}
