//! Making a vault, broken off: until the header lies somewhere there is none, and no key stays that would open nothing.

use std::path::Path;

use farkeep::ops::OpError;
use farkeep::ops::init::{InitPlan, InitReceipt, init};

use crate::refusing::{NOTHING, Refuses, TRUST, refusing};
use crate::world::inside::env;
use crate::world::{World, args, files_below};

/// What each of the two stores of a vault does not take.
fn init_into(world: &World, refuses: [Refuses; 2]) -> Result<InitReceipt, OpError> {
    let store = |name: &str, refuses| refusing(name, &world.path(name), refuses);
    let plan = InitPlan {
        stores: vec![store("a", refuses[0]), store("b", refuses[1])],
        identity_out: world.identity.clone(),
        passphrase: None,
        recipients: Vec::new(),
        custodian: None,
    };
    init(&plan, &[], &env(&world.agent.state))
}

const HEADER: Refuses = |name| name == "farkeep-vault.json";

fn files(dir: &Path) -> usize {
    if dir.exists() { files_below(dir).len() } else { 0 }
}

#[test]
fn what_fails_before_the_header_leaves_no_keys_and_may_be_tried_again() {
    let world = World::bare();
    for refuses in [[TRUST, NOTHING], [NOTHING, TRUST]] {
        let error = init_into(&world, refuses).unwrap_err().to_string();
        assert!(error.contains("disk on fire"), "{error}");
        assert_eq!((files(&world.path("operator")), files(&world.agent.state)), (0, 0));
    }
    // A file that is in the way is not taken for one of its own.
    std::fs::write(world.identity.with_extension("root"), "another vault's").unwrap();
    assert!(init_into(&world, [NOTHING; 2]).is_err());
    assert_eq!(files(&world.path("operator")), 1);
    std::fs::remove_file(world.identity.with_extension("root")).unwrap();
    assert!(init_into(&world, [NOTHING; 2]).unwrap().missed.is_empty());
}

#[test]
fn a_store_that_does_not_take_the_header_holds_no_copy_until_it_is_synced() {
    let world = World::bare();
    let made = init_into(&world, [NOTHING, HEADER]).unwrap();
    assert_eq!((made.stores.len(), made.missed[0].0.as_str()), (1, "b"));
    let (a, b) = (world.path("a"), world.path("b"));
    world.agent.configure(&format!(
        "[vault]\nid = \"{}\"\nroot = \"{}\"\n[store.a]\nurl = \"{}\"\n[store.b]\nurl = \"{}\"\n",
        made.vault,
        made.root,
        a.display(),
        b.display()
    ));
    world.tree("data").file("file", "content");
    world.run(args!["push", world.path("data")]).exits(3).says("farkeep sync b --from");
    world.run(args!["sync", "b", "--from", "a", "--plain-directory"]).ok();
    world.run(args!["push", world.path("data")]).ok();
    world.run(args!["verify", "--from", "b", "--depth", "opened", "--identity", &world.identity]).ok();
}

#[test]
fn where_no_header_was_confirmed_the_keys_stay_and_the_way_out_is_named() {
    let world = World::bare();
    let error = init_into(&world, [HEADER, HEADER]).unwrap_err().to_string();
    for word in ["not known", "farkeep-vault.json", "[vault]", "disk on fire"] {
        assert!(error.contains(word), "{error}");
    }
    assert_eq!(files(&world.path("operator")), 3);
    assert!(files(&world.agent.state) > 0);
}
