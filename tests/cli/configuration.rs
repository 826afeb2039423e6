//! Mistakes in the configuration: all of them at once, each with its line, and nothing begun.

use std::fs;

use crate::world::{Machine, Run, World, args};

/// A machine with this configuration.
fn with(text: &str) -> (World, Machine) {
    let world = World::bare();
    fs::write(&world.agent.config, text).unwrap();
    let machine = world.agent.clone();
    (world, machine)
}

/// Every command refuses this configuration with 2, names the file and says all of `said`.
#[track_caller]
fn refused(text: &str, said: &[&str]) {
    let (world, machine) = with(text);
    let commands = [
        args!["push"],
        args!["verify"],
        args!["snapshots"],
        args!["init", "--identity-out", &world.identity, "--no-passphrase"],
    ];
    for words in commands {
        let run: Run = machine.run(words).exits(2);
        for said in said.iter().chain([&machine.config.to_str().unwrap()]) {
            assert!(run.err.contains(said), "{said:?} is not said: {}", run.err);
        }
    }
    assert!(!world.identity.exists() && !machine.state.exists(), "something was begun");
}

#[test]
fn an_unknown_key_is_named_with_its_line_and_with_those_that_are_known() {
    refused("[store.a]\nurl = \"/tmp/x\"\nhostkey = \"SHA256:x\"\n", &["line 3", "hostkey", "host_key"]);
    refused("[stores.a]\nurl = \"/tmp/x\"\n", &["line 1", "stores", "store"]);
    refused("[job.n]\nkeep = 3\n[[job.n.source]]\nname = \"a\"\nkind = \"files\"\npaths = [\"/a\"]\n", &["line 2", "keep"]);
    refused("[[job.n.source]]\nname = \"a\"\nkind = \"tape\"\n", &["tape", "files", "command"]);
}

#[test]
fn a_value_of_the_wrong_type_is_named() {
    refused("[store.a]\nurl = 3\n", &["line 2", "url"]);
    refused("[store.a]\nurl = \"/tmp/x\"\nconnections = \"four\"\n", &["line 3", "connections"]);
    refused("[store.a]\nurl = \"/tmp/x\"\nplain_directory = 1\n", &["line 3", "plain_directory"]);
    refused("store = \"/tmp/x\"\n", &["line 1", "store"]);
    refused(
        "[job.n]\nstores = \"a\"\nevery = 24\n[[job.n.source]]\nname = \"a\"\nkind = \"files\"\npaths = [1]\n",
        &["line 3", "every", "line 7", "paths"],
    );
}

#[test]
fn a_value_out_of_bounds_is_named_with_its_bounds() {
    refused("[store.a]\nurl = \"/tmp/x\"\nconnections = 99\n", &["line 3", "connections", "16"]);
    refused("[store.a]\nurl = \"sftp://h/v\"\nlimit = \"1 B/s\"\n", &["line 3", "limit", "Mbit/s"]);
    refused("[store.a]\nurl = \"sftp://h/v\"\ntimeout = \"soon\"\n", &["line 3", "timeout"]);
    let source = "[[job.n.source]]\nname = \"a\"\nkind = \"files\"\npaths = [\"/a\"]\n";
    refused(&format!("[job.n]\ncompression = 40\n{source}"), &["line 2", "compression", "19"]);
    refused(&format!("[job.n]\ntimezone = \"Mars/Olympus\"\n{source}"), &["line 2", "Mars/Olympus"]);
    refused(&format!("{source}chunk_size = \"1 GiB\"\n"), &["chunk_size", "2 MiB"]);
    refused("[vault]\nid = \"12\"\nroot = \"me\"\n", &["line 2", "id", "line 3", "root"]);
}

#[test]
fn several_mistakes_are_told_at_once() {
    let text = "hots = \"x\"\n\n[store.a]\nurl = \"ftp://h/v\"\nlimit = \"fast\"\n\n[job.n]\nstores = [\"b\"]\n\
                [[job.n.source]]\nname = \"a\"\nkind = \"files\"\npaths = [\"relative\"]\nmax_file_size = \"big\"\n";
    refused(
        text,
        &["line 1", "hots", "line 4", "ftp://h/v", "line 5", "fast", "line 7", "[store.b]", "relative", "line 13", "big"],
    );
}

#[test]
fn what_is_no_toml_is_named_with_its_line() {
    refused("[store.a]\nurl = \"/tmp/x\n", &["line 2"]);
    refused("[store.a]\nurl = \"/tmp/x\"\nurl = \"/tmp/y\"\n", &["line 3", "duplicate"]);
    refused("=", &["line 1"]);
}

#[test]
fn a_url_that_leads_nowhere_is_named() {
    for url in ["sftp://", "sftp:///vault", "sftp://h:99999/v", "relative/path", "", "https://h/v"] {
        refused(&format!("[store.a]\nurl = \"{url}\"\n"), &["line 2", "url"]);
    }
    refused("[store.a]\nhost_key = \"SHA256:x\"\n", &["line 1", "url is missing"]);
    refused("[store.a]\nurl = \"sftp://h/v\"\nhost_key = \"md5:aa\"\n", &["md5:aa", "SHA256:"]);
}

#[test]
fn sources_that_cannot_be_backed_up_are_named() {
    refused("[job.n]\nevery = \"1d\"\n", &["[[source]]"]);
    refused("[[job.n.source]]\nname = \"a\"\nkind = \"files\"\n", &["paths"]);
    refused("[[job.n.source]]\nname = \"a\"\nkind = \"command\"\n", &["command"]);
    refused("[[job.n.source]]\nkind = \"files\"\npaths = [\"/a\"]\n", &["name"]);
    refused("[[job.n.source]]\nname = \"a b\"\nkind = \"files\"\npaths = [\"/a\"]\n", &["a b", "letters"]);
    refused("[[job.adhoc.source]]\nname = \"a\"\nkind = \"files\"\npaths = [\"/a\"]\n", &["command line"]);
    let twice = "[[job.n.source]]\nname = \"a\"\nkind = \"files\"\npaths = [\"/a\"]\n";
    refused(&format!("{twice}{twice}"), &["two sources", "\"a\""]);
}

#[test]
fn a_configuration_that_cannot_be_read_is_named() {
    let world = World::bare();
    fs::create_dir(&world.agent.config).unwrap();
    world.run(args!["snapshots"]).exits(2).says(world.agent.config.to_str().unwrap());
    let (_world, machine) = with("");
    fs::write(&machine.config, b"host = \"\xff\xfe\"\n").unwrap();
    machine.run(args!["snapshots"]).exits(2).says(machine.config.to_str().unwrap());
}

#[test]
fn help_and_completions_need_no_right_configuration() {
    let (_world, machine) = with("nonsense");
    machine.run(args!["--help"]).ok().says("Usage");
    machine.run(args!["completions", "bash"]).ok().says("complete");
    machine.run(args!["man"]).ok().says(".TH");
    machine.run(args!["--version"]).ok().says(env!("CARGO_PKG_VERSION"));
}

#[test]
fn init_leaves_what_stands_in_the_configuration() {
    let (world, machine) = with("# my own words\nhost = \"registry-1\"\n\n[store.a]\nurl = \"{}\" # the place\n");
    machine.reconfigure(|text| text.replace("{}", world.vault.to_str().unwrap()));
    let before = fs::read_to_string(&machine.config).unwrap();
    world.init(&args![]);
    let after = fs::read_to_string(&machine.config).unwrap();
    assert!(after.starts_with(&before), "{after}");
    assert!(after.contains("[vault]") && after.matches("[store.").count() == 1, "{after}");
}
