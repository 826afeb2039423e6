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
fn a_value_with_nothing_in_it_is_named_with_what_to_write() {
    let empty = "is empty; write what it should be, or leave the key out";
    refused("host = \"\"\n", &["line 1: host:", empty]);
    refused("host = \" \"\n", &["line 1: host:", empty]);
    let store = |more: &str| format!("[store.a]\nurl = \"sftp://h/v\"\n{more}\n");
    refused(&store("ssh_key = \"\""), &["line 3: store.a.ssh_key:", empty]);
    refused(&store("host_key = []"), &["line 3: store.a.host_key:", "known_hosts decides"]);
    refused(&store("window = []"), &["line 3: store.a.window:", "always open"]);
    refused(&store("timeout = \"0s\""), &["line 3: store.a.timeout:", "no time at all", "\"90s\""]);
    refused(&store("connections = 0"), &["line 3: store.a.connections:", "from 1 to 16"]);
    refused(&store("limit = \"0 Mbit/s\""), &["line 3: store.a.limit:", "8 kbit/s"]);
    refused("[store.\"\"]\nurl = \"/v\"\n", &["line 1", "has no name", "[store.NAME]"]);
    refused("[drive.d]\nevery = \"0d\"\nholders = [\"\"]\n", &["drive.d.every:", "drive.d.holders:"]);
    let job = |more: &str| {
        let source = "[[job.n.source]]\nname = \"a\"\nkind = \"files\"\npaths = [\"/a\"]";
        format!("[job.n]\n{more}\n{source}\n[store.a]\nurl = \"/v\"\n")
    };
    refused(&job("every = \"0h\""), &["line 2: job.n.every:", "no time at all", "\"24h\""]);
    refused(&job("stores = []"), &["line 2: job.n.stores:", "an empty list", "all stores"]);
    refused(&job("stores = [\"a\", \"a\"]"), &["line 2: job.n.stores:", "twice"]);
    refused(&job("tags = [\"\"]"), &["line 2: job.n.tags:", "one of its texts is empty"]);
    refused(&job("timezone = \"\""), &["line 2: job.n.timezone:", empty]);
    refused(&job("hook_timeout = \"0s\""), &["line 2: job.n.hook_timeout:", "no time at all"]);
    refused(&job("before = []"), &["line 2: job.n.before:", "names no program", "[\"program\", \"argument\"]"]);
    refused(&job("keep = {}"), &["line 2", "[job.n.keep]", "daily"]);
    refused(&job("keep = { within = \"0s\" }"), &["line 2: job.n.keep.within:", "no time at all"]);
    refused(&job("[job.n.target.t.source.b]\npaths = [\"/b\"]"), &["[job.n.target.t.source.b]", "no source \"b\""]);
}

#[test]
fn a_source_with_nothing_in_a_value_is_named_with_what_to_write() {
    let source = |kind: &str, more: &str| format!("[[job.n.source]]\nname = \"a\"\nkind = \"{kind}\"\n{more}\n");
    let files = |more: &str| source("files", &format!("paths = [\"/a\"]\n{more}"));
    for key in ["exclude", "exclude_if_present"] {
        refused(&files(&format!("{key} = [\"\"]")), &["line 5", key, "one of its texts is empty"]);
    }
    refused(&files("exclude_if_present = [\"a/b\"]"), &["line 5", "exclude_if_present", "without /"]);
    refused(&files("max_file_size = \"0\""), &["line 5", "max_file_size", "leaves out every file", "\"1 GiB\""]);
    refused(&files("timeout = \"0s\""), &["line 5", "timeout", "no time at all"]);
    refused(&files("service = \"\""), &["line 5", "service", "one of its texts is empty"]);
    refused(&files("magic = \"\""), &["line 5", "magic", "is empty; write the bytes"]);
    let command = |more: &str| source("command", &format!("command = [\"true\"]\n{more}"));
    for key in ["restore_command", "count"] {
        refused(&command(&format!("{key} = []")), &["line 5", key, "names no program"]);
        refused(&command(&format!("{key} = [\"\"]")), &["line 5", key, "names no program"]);
    }
    refused(&source("command", "command = []"), &["line 4", "command", "names no program"]);
    // Each of these would match every line of a log.
    let log = command("restore_command = [\"true\"]\nlog = \"/l\"\nsuccess = \"\"\nfailure = \"\"\nignore = [\"\"]");
    refused(&log, &["line 7", "success", "line 8", "failure", "line 9", "ignore"]);
    refused(&source("spool", "glob = \"/a/*\"\nmax_age = \"0s\""), &["line 5", "max_age", "no time at all"]);
    refused(&source("postgres", "database = \"\"\nhost = \"\""), &["line 4", "database", "line 5", "host", "is empty"]);
    refused(&source("sqlite", "path = \"\""), &["line 4", "path", "is empty"]);
}

#[test]
fn a_value_that_says_nothing_and_means_it_is_taken() {
    let (_world, machine) = with(
        "outbox = \"0\"\nbase_cache = false\n[store.a]\nurl = \"sftp://h/v\"\nlimit = []\n[drive.d]\nholders = []\n\
         [job.n]\ntags = []\nkeep = { daily = 7, weekly = 0, min_snapshots = 0, min_age = \"0s\" }\n\
         [job.n.var.x]\ndefault = \"none\"\nnone = \"\"\n\
         [[job.n.source]]\nname = \"a\"\nkind = \"spool\"\nglob = \"/a/*\"\nwait = \"0s\"\nquiet = \"0s\"\n\
         min_bytes = \"0\"\nmax_shrink = \"0%\"\nfooter = \"\\n\"\nservice = []\n\
         [[job.n.source]]\nname = \"b\"\nkind = \"files\"\npaths = [\"/b\"]\nexclude = []\n\
         [[job.n.source]]\nname = \"c\"\nkind = \"command\"\ncommand = [\"dump\", \"{x}\", \"\"]\n",
    );
    // It is read, and what comes next is that there is no vault.
    machine.run(args!["snapshots"]).exits(2).says("no pinned root").never_says("line ");
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
