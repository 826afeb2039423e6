//! A Debian root, pushed and restored as root, and compared by rsync.

use std::path::Path;
use std::process::Command;

use crate::world::tools::must;
use crate::world::{World, args, differences, needs};

/// What of this machine makes up a root of some hundred megabytes, and how much of each at most.
const PARTS: [(&str, u64); 7] = [
    ("/etc", 20),
    ("/usr/bin", 80),
    ("/usr/sbin", 20),
    ("/usr/lib/systemd", 30),
    ("/usr/share/zoneinfo", 10),
    ("/usr/lib/x86_64-linux-gnu", 60),
    ("/var/lib/dpkg", 40),
];

#[test]
fn a_debian_root_comes_back_as_it_was() {
    needs!(root);
    needs!("rsync", "setfacl", "setcap");
    let world = World::new();
    let tree = world.tree("root");
    for (part, mebibytes) in PARTS {
        if Path::new(part).is_dir() {
            copy_some(part, &tree.root, mebibytes << 20);
        }
    }
    // What a copy of running directories may lack.
    tree.devices().owners().sparse().file("etc/first name", "x").hard_link("etc/first name", "var/second name");
    tree.file("etc/acl", "x").dir("srv").mode("srv", 0o2775);
    must(Command::new("setfacl").args(["-m", "u:33:rw,g:4:r"]).arg(tree.path("etc/acl")));
    must(Command::new("setfacl").args(["-d", "-m", "g:4:rwx"]).arg(tree.path("srv")));
    for (name, kind) in [("dev/zero", "c 1 5"), ("dev/sda9", "b 8 9"), ("run/initctl", "p")] {
        let path = tree.path(name);
        std::fs::create_dir_all(path.parent().unwrap()).unwrap();
        must(Command::new("mknod").arg("-m").arg("640").arg(&path).args(kind.split(' ')));
    }
    let pushed = world.push(&tree.root);
    assert!(pushed["files"].as_u64().unwrap() > 1000 && pushed["source_bytes"].as_u64().unwrap() > 50 << 20, "{pushed}");
    let back = world.path("back");
    let restore = args!["restore", "latest", "--into", &back, "--identity", &world.identity, "--special", "--numeric-ids"];
    world.run(restore).ok();
    let found = differences(&tree.root, &tree.below(&back));
    assert!(found.is_empty(), "{} differences: {:#?}", found.len(), &found[..found.len().min(30)]);
}

/// Copies a directory of the machine until `limit` bytes are reached, with everything that rsync keeps.
fn copy_some(part: &str, root: &Path, limit: u64) {
    let list = must(Command::new("find").args([part, "-xdev", "-printf", "%s %P\\n"]));
    let (mut taken, mut names) = (0, String::new());
    for line in list.lines() {
        let Some((size, name)) = line.split_once(' ') else { continue };
        taken += size.parse::<u64>().unwrap_or(0);
        if taken > limit {
            break;
        }
        names = format!("{names}{name}\n");
    }
    let names_file = root.join(".names");
    std::fs::write(&names_file, names).unwrap();
    let into = root.join(part.trim_start_matches('/'));
    std::fs::create_dir_all(&into).unwrap();
    must(Command::new("rsync").args(["-aHAXS", "--files-from"]).arg(&names_file).arg(format!("{part}/")).arg(&into));
    std::fs::remove_file(&names_file).unwrap();
}
