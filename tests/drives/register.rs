//! The register: turns, hands, and the end of a drive.

use crate::schema::Schema;
use crate::world::drive::{Drive, FileSystem};
use crate::world::{args, skipped};
use crate::{enrol, enrolled, pushed};

#[test]
fn one_drive_of_several_does_not_take_two_turns() {
    if let Some(why) = FileSystem::Ext4.missing() {
        return skipped(&why);
    }
    let world = pushed();
    let drives = ["a", "b"].map(|name| {
        let drive = Drive::new(world.dir.path(), name, 64);
        drive.plug_in();
        // A turn of no length at all: the next one has always come.
        world.run(args!["drive", "enrol", name, &drive.mount, "--allow-plain", "--every", "1s"]).ok();
        drive
    });
    world.run(args!["drive", "export", "a"]).ok();
    world.run(args!["drive", "export", "a"]).exits(75).says("took the last export too").says("drive b");
    // Without a name, the one whose turn it is.
    world.run(args!["drive", "export"]).ok().says("drive b is up to date");
    drives[1].unplug();
    world.run(args!["drive", "export", "b"]).exits(75).says("drive b is not present");
    world.run(args!["drive", "export", "a", "--again"]).ok();
    world.run(args!["drive", "retire", "b", "--erased", "LUKS header overwritten"]).ok();
    world.run(args!["drive", "export", "a"]).ok();
    world.run(args!["drive", "export", "b"]).exits(2).says("was retired");
}

#[test]
fn the_status_says_what_a_drive_lacks_and_where_it_is() {
    if let Some(why) = FileSystem::Ext4.missing() {
        return skipped(&why);
    }
    let world = pushed();
    world.agent.configure("[drive.a]\nevery = \"7d\"\nholders = [\"registrar\", \"deputy\"]\n");
    let drive = Drive::new(world.dir.path(), "drive-a", 64);
    drive.plug_in();
    enrol(&world.agent, "a", &drive);
    let status = |drive: usize| world.run(args!["drive", "status", "--json"]).ok().json()["drives"][drive].clone();
    let fresh = status(0);
    assert_eq!((&fresh["present"], &fresh["snapshots_behind"]), (&true.into(), &1.into()), "{fresh}");
    assert!(fresh["bytes_to_go"].as_u64().unwrap() > 3 << 20, "{fresh}");
    assert_eq!((&fresh["exported"], &fresh["verified"]), (&().into(), &().into()));

    world.run(args!["drive", "export", "a"]).ok();
    world.run(args!["verify", "--from", drive.vault()]).ok();
    let tree = world.tree("data");
    tree.noise("more", 1 << 20, 9);
    world.push(&tree.root);
    world.run(args!["drive", "handover", "a", "--to", "deputy", "--location", "bank", "--seal", "0042"]).ok();
    world.run(args!["drive", "handover", "a", "--to", "thief"]).exits(3).says("not among its holders");
    drive.unplug();
    let later = status(0);
    assert_eq!((&later["present"], &later["snapshots_behind"]), (&false.into(), &1.into()), "{later}");
    assert!((1 << 20..3 << 20).contains(&later["bytes_to_go"].as_u64().unwrap()), "{later}");
    assert_eq!((&later["holder"], &later["location"]), (&"thief".into(), &"bank".into()));
    assert!(later["verified"].is_i64() && later["room"] == true, "{later}");
    world.run(args!["ledger", "show", "--kind", "drive"]).ok().says("drive a went to deputy, seal 0042");
    world.run(args!["drive", "retire", "a", "--erased", "shredded", "--reason", "old"]).ok();
    world.run(args!["drive", "status"]).ok().says("retired").says("shredded").says("no drive is enrolled");
    world.run(args!["drive", "handover", "a", "--to", "deputy"]).exits(2).says("was retired");
}

#[test]
fn what_programs_read_is_as_documented() {
    if let Some(why) = FileSystem::Ext4.missing() {
        return skipped(&why);
    }
    let (world, schema) = (pushed(), Schema::read());
    let drive = Drive::new(world.dir.path(), "drive-a", 64);
    drive.plug_in();
    world.agent.configure("[drive.a]\nkeep = { last = 3 }\n");
    let enrol = args!["enrol", "a", &drive.mount, "--allow-plain", "--location", "safe"];
    for (table, rest) in [
        ("enrolled", enrol),
        ("exported", args!["export", "a"]),
        ("drives", args!["status"]),
        ("custody", args!["handover", "a", "--to", "deputy"]),
        ("custody", args!["retire", "a", "--erased", "shredded"]),
        ("drives", args!["status"]),
    ] {
        let command = [args!["drive"], rest, args!["--json"]].concat();
        let value = world.run(command).ok().value();
        schema.check("envelope", &value);
        schema.check(table, &value["result"]);
    }
    let tables =
        ["enrolled.", "enrolment.", "identity.", "exported.", "protected.", "retained.", "drives.", "drive.", "custody."];
    let ours = |field: &String| tables.iter().any(|table| field.starts_with(table));
    assert_eq!(schema.never_met().into_iter().filter(ours).collect::<Vec<_>>(), Vec::<String>::new());
}

#[test]
fn a_drive_that_was_enrolled_here_takes_exports_only_from_machines_that_trust_its_label() {
    if let Some(why) = FileSystem::Ext4.missing() {
        return skipped(&why);
    }
    let (world, drive) = enrolled(FileSystem::Ext4);
    let other = world.machine("other");
    let export = args!["drive", "export", "a", "--from", &world.vault, "--trust", world.root_key()];
    other.run(export).exits(2).says("no drive a is enrolled");
    assert!(!drive.vault().exists());
}

#[test]
fn a_drive_that_a_lost_machine_enrolled_is_known_again_once_its_key_is() {
    if let Some(why) = FileSystem::Ext4.missing() {
        return skipped(&why);
    }
    let (world, drive) = enrolled(FileSystem::Ext4);
    world.run(args!["drive", "export", "a"]).ok();
    let keys = crate::world::files_below(&world.agent.state.join("keys"));
    std::fs::remove_file(keys.iter().find(|path| path.ends_with("station-writer")).unwrap()).unwrap();
    let refused = world.run(args!["drive", "enrol", "a", &drive.mount, "--allow-plain"]).exits(2);
    let way_out = refused.err.split("`farkeep ").nth(1).and_then(|rest| rest.split(" --root").next()).unwrap();
    let mut enrol: Vec<std::ffi::OsString> = way_out.split(' ').map(Into::into).collect();
    enrol.extend(args!["--root", world.identity.with_extension("root")]);
    world.run(enrol).ok();
    world.run(args!["drive", "export", "a", "--again"]).ok().says("safe to unplug");
}

#[test]
fn a_drive_hears_of_a_new_agent_and_becomes_no_store_of_its_pushes() {
    if let Some(why) = FileSystem::Ext4.missing() {
        return skipped(&why);
    }
    let (world, drive) = enrolled(FileSystem::Ext4);
    world.run(args!["drive", "export", "a"]).ok();
    let new = world.machine("new");
    let root = world.identity.with_extension("root");
    let stores = args!["--store", &world.vault, "--store", drive.vault()];
    let mut adopt = args!["init", "--adopt", "--root", root, "--identity", &world.identity];
    adopt.extend(stores);
    new.run(adopt).ok().says("is on a drive: it was not entered as a store");
    let config = std::fs::read_to_string(&new.config).unwrap();
    assert_eq!(config.matches("[store.").count(), 1, "{config}");
    new.run(args!["push", world.path("data")]).ok();
}
