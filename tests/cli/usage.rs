//! Wrong use ends with 2, before anything was begun, in words that name the thing and the way out.

use std::ffi::OsString;

use crate::world::{World, args};

/// A world with one snapshot.
fn pushed() -> World {
    let world = World::new();
    world.tree("data").file("a", "one");
    world.push(world.path("data"));
    world
}

#[test]
fn command_lines_that_cannot_be_meant_are_refused() {
    let world = pushed();
    let out = world.path("out");
    let wrong: Vec<(Vec<OsString>, &[&str])> = vec![
        (args![], &["Usage"]),
        (args!["psh"], &["psh", "push"]),
        (args!["push", "--frce"], &["--frce"]),
        (args!["restore", "latest"], &["--into", "--in-place"]),
        (args!["restore", "latest", "--into", &out, "--in-place"], &["--into", "--in-place"]),
        (args!["restore", "latest", "--into", &out, "--delete"], &["--in-place"]),
        (args!["restore", "--into", &out], &["SNAP"]),
        (args!["verify", "--depth", "deep"], &["deep", "sealed"]),
        (args!["verify", "--sample", "0%"], &["--sample", "5%"]),
        (args!["verify", "--sample", "many"], &["--sample", "5%"]),
        (args!["verify", "--sample", "5%", "--within", "3d"], &["--sample", "--within"]),
        (args!["verify", "--within", "soon"], &["--within", "soon"]),
        (args!["verify", "--store", "elsewhere"], &["elsewhere", "main", "/"]),
        (args!["push"], &["no job", "path"]),
        (args!["push", "nightly", "/etc"], &["nightly", "/etc"]),
        (args!["push", "nightly"], &["nightly", "path"]),
        (args!["push", world.path("data"), "--accept-size", "hearht"], &["--accept-size hearht", "there are: files"]),
        (args!["push", "/etc", "--to", "elsewhere"], &["elsewhere"]),
        (args!["push", "/etc", "--exclude", "[z-a"], &["[z-a"]),
        (args!["sync", &world.vault, "--from", &world.vault], &["same place"]),
        (args!["sync", world.path("copy")], &["--from"]),
        (args!["init", "--identity-out", world.path("other")], &["names vault", "another configuration"]),
        (args!["init"], &["--identity-out"]),
        (args!["ls", "latest", "--identity", world.identity.with_extension("root")], &["identity.root", "root key", "FILE"]),
        (args!["cat", "latest", "a/../../b", "--identity", &world.identity], &["a/../../b"]),
        (args!["ls", "notasnapshot", "--identity", &world.identity], &["notasnapshot"]),
        (args!["ls", "1999-01-01", "--identity", &world.identity], &["1999-01-01"]),
        (args!["ls", "tag:none", "--identity", &world.identity], &["none"]),
        (args!["diff", "latest", "--identity", &world.identity], &["SNAP"]),
        (args!["serve", world.dir.path()], &["--authorized-keys"]),
        (args!["serve", world.dir.path(), "--authorized-keys", "/nowhere/keys"], &["/nowhere/keys"]),
        (args!["completions", "tcl"], &["tcl", "bash"]),
        (args!["man", "psh"], &["psh"]),
        (args!["ledger"], &["show", "verify"]),
        (args!["try", "/nowhere/at/all"], &["/nowhere/at/all"]),
    ];
    let before = crate::world::files_below(&world.vault);
    for (words, named) in wrong {
        let run = world.run(words.clone()).exits(2);
        assert!(run.out.is_empty(), "{words:?}: {}", run.out);
        for name in named {
            assert!(run.err.contains(name), "{words:?} does not name {name:?}: {}", run.err);
        }
    }
    assert_eq!(crate::world::files_below(&world.vault), before, "something was begun");
    assert!(!out.exists());
}

#[test]
fn what_is_wrong_is_named_and_not_what_is_beside_it() {
    let world = pushed();
    for wanted in [args![], args![world.path("data")]] {
        let into = args!["restore", "latest", "--into", world.path("out"), "--identity", &world.identity];
        let run = world.run([into, wanted, args!["--strip", "/wrong/prefix"]].concat()).exits(1);
        run.says("--strip /wrong/prefix: nothing that was asked for lies below it").never_says("matches");
    }
    let bare = World::bare();
    let nowhere = bare.path("nowhere");
    let init = args!["init", "--store", &bare.vault, "--identity-out", nowhere.join("operator"), "--no-passphrase", "--yes"];
    bare.run(init).exits(2).says(&format!("{}: there is no such directory", nowhere.display()));
    assert!(!bare.vault.join("farkeep-vault.json").exists(), "something was begun");
}

#[test]
fn several_series_make_latest_ambiguous() {
    let world = pushed();
    let source =
        format!("[[job.nightly.source]]\nname = \"a\"\nkind = \"files\"\npaths = [\"{}\"]\n", world.path("data").display());
    world.agent.configure(&source);
    world.push("nightly");
    let ls = |more: &[&str]| {
        let mut all = args!["ls", "latest", "--identity", &world.identity];
        all.extend(more.iter().map(OsString::from));
        world.run(all)
    };
    ls(&[]).exits(2).says("nightly").says("adhoc").says("--job");
    ls(&["--job", "nightly"]).ok();
    ls(&["--job", "weekly"]).exits(2).says("weekly");
    ls(&["--job", "nightly", "--host", "another"]).exits(2).says("another");
}

#[test]
fn a_copy_that_is_not_there_is_named() {
    let world = pushed();
    world.run(args!["snapshots", "--from", "/nowhere/at/all"]).exits(5).says("/nowhere/at/all");
    std::fs::create_dir(world.path("empty")).unwrap();
    world.run(args!["snapshots", "--from", world.path("empty")]).exits(1).says("empty").says("farkeep init");
    // Of several that are away, each is named.
    let both = world.machine("both");
    both.configure("[store.near]\nurl = \"/nowhere/near\"\n[store.far]\nurl = \"/nowhere/far\"\n");
    both.run(args!["snapshots", "--trust", world.root_key()]).exits(5).says("near: ").says("far: ");
}

#[test]
fn a_kind_of_record_that_does_not_exist_is_refused_with_those_that_do() {
    let world = pushed();
    world.run(args!["ledger", "show", "--kind", "restor"]).exits(2).says("restor:").says("restore-intent");
    world.run(args!["ledger", "show", "--kind", "snapshot"]).ok().says("snapshot");
    world.run(args!["ledger", "show", "--kind", "restore"]).ok();
}

#[test]
fn a_server_that_refuses_is_given_up_soon_and_named_once() {
    let world = pushed();
    crate::world::sshd::KeyPair::new(world.dir.path(), "key");
    let port = crate::world::sshd::free_port();
    let (key, host_key) = (world.path("key"), format!("SHA256:{}", "A".repeat(43)));
    let gone = |more: &str| {
        let (url, key) = (format!("sftp://x@127.0.0.1:{port}/vault"), key.display());
        format!("[store.gone]\nurl = \"{url}\"\nhost_key = \"{host_key}\"\nssh_key = \"{key}\"\n{more}\n")
    };
    world.agent.configure(&gone(""));
    let run = world.run(args!["ls", "latest", "--from", "gone", "--identity", &world.identity, "-v"]).exits(5);
    // The waits double from a quarter of a second: seconds hold four of them, a minute eight at least.
    let waits = run.err.matches("will try again").count();
    assert!((1..=4).contains(&waits), "{waits} waits: {}", run.err);
    let said = run.err.lines().last().unwrap();
    assert_eq!(said.matches("unreachable").count() + said.matches("127.0.0.1").count(), 2, "{said}");

    // A push that nobody watches waits longer, and says at once for what.
    world.agent.reconfigure(|text| text.replace(&gone(""), &gone("timeout = \"1s\"")));
    let push = world.run(args!["push", world.path("data"), "--to", "gone"]).exits(5).says("gone: store unreachable");
    assert_eq!(push.err.matches("trying again for").count(), 1, "{}", push.err);
    let said = push.err.lines().last().unwrap();
    assert_eq!(said.matches("unreachable").count(), 1, "{said}");
    let push = world.run(args!["push", world.path("data")]).exits(3).says("gone: MISSED\n");
    assert_eq!(push.out.matches("refused").count(), 1, "{}", push.out);
    let status = world.run(args!["status"]).ok().says("gone: NOT REACHED\n");
    assert_eq!(status.out.matches("refused").count(), 1, "{}", status.out);
}

#[test]
fn addresses_that_lead_nowhere_are_named() {
    let world = pushed();
    let wrong = [
        "sftp://",
        "sftp:///vault",
        "sftp://host:99999/vault",
        "sftp://host:x/vault",
        "http://host/vault",
        "file://host/vault",
        "sftp://user@/vault",
    ];
    for url in wrong {
        let run = world.run(args!["snapshots", "--from", url]).exits(2);
        assert!(run.err.contains(url), "{url}: {}", run.err);
    }
}

#[test]
fn a_machine_without_configuration_is_told_what_it_lacks() {
    let world = pushed();
    let bare = world.machine("bare");
    let config = bare.config.display().to_string();
    bare.run(args!["push", "/etc"]).exits(2).says(&config).says("farkeep init");
    bare.run(args!["status"]).exits(2).says(&config).says("farkeep init");
    bare.run(args!["snapshots", "--from", &world.vault]).exits(2).says("--trust");
    bare.run(args!["verify"]).exits(2).says("--trust");
    let restore = args!["restore", "latest", "--from", &world.vault, "--into", world.path("out")];
    bare.run(restore.clone()).exits(2).says("--trust");
    let trusting = |root: OsString| {
        let mut all = restore.clone();
        all.extend(args!["--trust", root]);
        bare.run(all)
    };
    trusting("SHA256:short".into()).exits(2).says("--trust").says(".root.pub");
    trusting(world.path("no such file").into()).exits(2).says("--trust").says("no such file");
    // With the right root it is the identity that is missing, and it is said which.
    trusting(world.root_key().into()).exits(2).says("--identity");
    assert!(!world.path("out").exists());
}

#[test]
fn a_configuration_that_was_named_must_be_there() {
    let world = pushed();
    let missing = world.path("typo.toml");
    for words in [args!["push", world.path("data")], args!["snapshots"], args!["verify"], args!["status"]] {
        let mut all = words.clone();
        all.extend(args!["--config", &missing]);
        let run = world.run(all).exits(2);
        assert!(run.err.contains("typo.toml"), "{words:?}: {}", run.err);
    }
}
