//! Restoring where something lies already, or a part alone: nothing else changes, and what is not there is said.

use std::fs;
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::path::Path;
use std::process::Command;

use crate::world::machine::FARKEEP;
use crate::world::{Run, Tree, World, args, needs};

/// A world with one snapshot of a few files.
fn pushed() -> (World, Tree) {
    let world = World::new();
    let tree = world.tree("data");
    tree.file("a/file", "content").file("a/[id].js", "odd").file("a/other.log", "log");
    tree.hard_link("a/file", "b/further").link("a/link", "nowhere");
    fs::hard_link(tree.path("a/link"), tree.path("b/further-link")).unwrap();
    world.push(&tree.root);
    (world, tree)
}

fn restore(world: &World, more: &[std::ffi::OsString]) -> crate::world::Run {
    let mut all = args!["restore", "latest", "--identity", &world.identity];
    all.extend_from_slice(more);
    world.run(all)
}

fn mode(path: &Path) -> u32 {
    fs::metadata(path).unwrap().mode() & 0o7777
}

fn set_mode(path: &Path, mode: u32) {
    fs::set_permissions(path, fs::Permissions::from_mode(mode)).unwrap();
}

#[test]
fn directories_on_the_way_to_one_file_stay_as_they_are() {
    let (world, tree) = pushed();
    set_mode(&tree.path("a"), 0o700);
    fs::remove_file(tree.path("a/other.log")).unwrap();
    restore(&world, &args!["--in-place", tree.path("a/other.log")]).ok();
    assert_eq!((mode(&tree.path("a")), fs::read_to_string(tree.path("a/other.log")).unwrap().as_str()), (0o700, "log"));
    // Asked for by itself it gets what was backed up.
    restore(&world, &args!["--in-place", tree.path("a")]).ok();
    assert_eq!(mode(&tree.path("a")), 0o755);
}

#[test]
fn a_further_name_alone_is_restored_whatever_it_is() {
    let (world, tree) = pushed();
    let out = world.path("out");
    restore(&world, &args!["--into", &out, tree.path("b")]).ok();
    let below = tree.below(&out).join("b");
    assert_eq!(fs::read_to_string(below.join("further")).unwrap(), "content");
    assert_eq!(fs::read_link(below.join("further-link")).unwrap(), Path::new("nowhere"));
}

#[test]
fn what_matches_nothing_is_named_and_a_name_may_look_like_a_pattern() {
    let (world, tree) = pushed();
    let out = world.path("out");
    let run = restore(&world, &args!["--into", &out, tree.path("a/file"), tree.path("a/fiel"), "*.none"]).exits(3);
    run.says("a/fiel: nothing in this snapshot matches it").says("*.none: nothing").never_says("a/file: ");
    restore(&world, &args!["--into", &out, tree.path("a/[id].js")]).ok();
    assert_eq!(fs::read_to_string(tree.below(&out).join("a/[id].js")).unwrap(), "odd");
}

#[test]
fn a_deletion_spares_what_a_pattern_leaves_out() {
    let (world, tree) = pushed();
    let run = restore(&world, &args!["--in-place", "--delete", tree.root.join("*"), "!*.log"]);
    run.exits(2).says("cannot go with !*.log");
    assert!(tree.path("a/other.log").exists());
}

#[test]
fn metadata_reaches_no_other_name_of_an_equal_file() {
    let world = World::new();
    let tree = world.tree("data");
    tree.file("file", "content");
    world.push(&tree.root);
    let outside = world.path("outside");
    fs::hard_link(tree.path("file"), &outside).unwrap();
    set_mode(&outside, 0o600);
    restore(&world, &args!["--in-place"]).ok();
    assert_eq!((mode(&outside), mode(&tree.path("file"))), (0o600, 0o644));
}

#[test]
fn access_lists_of_the_place_are_not_inherited() {
    needs!("setfacl");
    let (world, tree) = pushed();
    let out = world.path("out");
    fs::create_dir(&out).unwrap();
    let acl = |arguments: &[&str], path: &Path| {
        assert!(Command::new("setfacl").args(arguments).arg(path).status().unwrap().success());
    };
    let has_acl = |path: &Path| {
        let mut names = vec![0; 4096];
        let length = rustix::fs::listxattr(path, names.as_mut_slice()).unwrap();
        String::from_utf8_lossy(&names[..length]).contains("posix_acl")
    };
    acl(&["-d", "-m", "u:65534:rwx"], &out);
    restore(&world, &args!["--into", &out]).ok();
    let back = tree.below(&out);
    assert!(has_acl(&out) && !has_acl(&back.join("a/file")) && !has_acl(&back.join("a")));
    // One that came since goes, too.
    acl(&["-m", "u:65534:rwx"], &back.join("a/file"));
    assert!(has_acl(&back.join("a/file")));
    restore(&world, &args!["--into", &out, "--on-conflict", "replace"]).ok();
    assert!(!has_acl(&back.join("a/file")));
    assert_eq!(mode(&back.join("a/file")), 0o644);
}

#[test]
fn without_proc_root_restores_all_the_same() {
    needs!(root);
    let (world, tree) = pushed();
    let out = world.path("out");
    // As in a chroot of a rescue system.
    let mut command = Command::new("unshare");
    world.agent.dress(&mut command);
    let without_proc = "mount -t tmpfs none /proc && exec \"$0\" \"$@\"";
    command.args(["-m", "sh", "-c", without_proc]).arg(FARKEEP);
    command.args(args!["restore", "latest", "--into", &out, "--identity", &world.identity]);
    Run::of(&mut command).ok();
    assert_eq!(fs::read_to_string(tree.below(&out).join("a/file")).unwrap(), "content");
}
