//! `--json`: one line, and exactly the fields that OUTPUT.md documents.

use std::io::Read;
use std::process::Stdio;

use serde_json::Value;

use crate::schema::Schema;
use crate::world::{Run, World, args, flip};

/// A command that has ended with `exit`: its envelope is checked, and its result against a table. Gives the result.
#[track_caller]
fn result(schema: &Schema, run: Run, exit: i32, command: &str, table: &str) -> Value {
    let run = run.exits(exit);
    let value = run.value();
    schema.check("envelope", &value);
    assert!(run.out.ends_with('\n'), "the line is not ended");
    assert_eq!((&value["command"], &value["exit"], &value["schema"]), (&command.into(), &exit.into(), &1.into()));
    schema.check(table, &value["result"]);
    value["result"].clone()
}

/// A command that was not done: an envelope with the error that people read too.
#[track_caller]
fn error(schema: &Schema, run: Run, exit: i32, command: &str) {
    let run = run.exits(exit);
    let value = run.value();
    schema.check("envelope", &value);
    assert_eq!((&value["command"], &value["exit"]), (&command.into(), &exit.into()));
    assert!(value.get("result").is_none(), "{value}");
    assert!(run.err.contains(value["error"].as_str().unwrap()), "{value}\n{}", run.err);
}

#[test]
fn every_command_prints_what_is_documented() {
    let schema = Schema::read();
    let world = World::bare();
    let tree = world.tree("data");
    tree.file("a", "one").file("dir/b", "two").link("link", "a").hard_link("a", "second").socket("socket");
    push_and_look(&schema, &world);
    tree.file("a", "changed").remove("dir/b").file("new", "three").mode("dir", 0o700);
    world.run(args!["push", &tree.root]).ok();
    read_back(&schema, &world);
    keep_in_order(&schema, &world);
    let_go(&schema, &world);
    trust(&schema, &world);
    by_themselves(&schema, &world);
    a_server(&schema, &world);
    fail(&schema, &world);
    damage(&schema, &world);
    bring_back(&schema);
    limit_archives(&schema);
    // Drives need to be mounted: their own tests have those.
    let tables = ["enrolled", "enrolment", "identity", "exported", "retained", "protected", "drives", "drive", "custody"];
    let elsewhere = |field: &String| field.split_once('.').is_some_and(|(table, _)| tables.contains(&table));
    let never: Vec<String> = schema.never_met().into_iter().filter(|field| !elsewhere(field)).collect();
    assert!(never.is_empty(), "documented and never printed: {never:?}");
}

/// An archive of another script, and how many of such may stay.
fn limit_archives(schema: &Schema) {
    let world = World::new();
    let tree = world.tree("archives");
    tree.file("one", "documents");
    world.agent.configure(&format!(
        "[job.nightly]\n[[job.nightly.source]]\nname = \"spool\"\nkind = \"spool\"\nglob = \"{}/*\"\nquiet = \"1s\"\n\
         keep_local = {{ files = 1, bytes = \"1 GiB\", age = \"30d\" }}\n",
        tree.root.display()
    ));
    let pushed = result(schema, world.run(args!["push", "--json"]), 0, "push", "push");
    assert_eq!(pushed["jobs"][0]["local"][0]["files"], 1);
}

fn push_and_look(schema: &Schema, world: &World) {
    let tree = world.path("data");
    let job = format!(
        "[job.nightly]\nevery = \"24h\"\n[[job.nightly.source]]\nname = \"files\"\nkind = \"files\"\npaths = [\"{}\"]\n",
        tree.display()
    );
    world.agent.configure(&job);
    let init =
        args!["init", "--store", &world.vault, "--identity-out", &world.identity, "--no-passphrase", "--yes", "--json"];
    let made = result(schema, world.run(init), 0, "init", "init");
    assert_eq!(made["series"][0][0], "nightly");
    std::fs::create_dir(world.path("laid out")).unwrap();
    let laid = result(schema, world.run(args!["init", "--layout", world.path("laid out"), "--json"]), 0, "init", "layout");
    assert_eq!(laid["made"], 263);

    let pushed = result(schema, world.run(args!["push", "--json"]), 0, "push", "push");
    assert_eq!(pushed["jobs"][0]["job"], "nightly");
    let listed = result(schema, world.run(args!["snapshots", "--json"]), 0, "snapshots", "snapshots");
    assert_eq!(listed["snapshots"][0]["id"], pushed["jobs"][0]["snapshot"]);
    let whole = args!["status", "--check", "--json"];
    result(schema, world.run(whole), 0, "status", "status");
}

fn read_back(schema: &Schema, world: &World) {
    let identity = &world.identity;
    let ls = args!["ls", "latest", "--job", "adhoc", "--recursive", "--identity", identity, "--json"];
    let listed = result(schema, world.run(ls), 0, "ls", "ls");
    assert!(listed["entries"].as_array().unwrap().len() > 4, "{listed}");
    let find = args!["find", "a", "--identity", identity, "--json"];
    result(schema, world.run(find), 0, "find", "find");
    let nothing = args!["find", "no such name", "--identity", identity, "--json"];
    assert_eq!(result(schema, world.run(nothing), 1, "find", "find"), serde_json::json!({"entries": []}));

    let ids: Vec<String> = world.snapshots().iter().map(|snapshot| snapshot["id"].as_str().unwrap().to_owned()).collect();
    let diff = args!["diff", &ids[0], &ids[1], "--identity", identity, "--json"];
    let differences = result(schema, world.run(diff), 0, "diff", "diff");
    let of = |change: &str| {
        let list = differences["differences"].as_array().unwrap();
        list.iter().filter(|difference| difference["change"] == change).count()
    };
    assert!(of("added") == 1 && of("removed") == 1 && of("content") >= 1 && of("metadata") >= 1, "{differences}");

    let out = world.path("out");
    let restore = |more: &[&str]| {
        let mut all = args!["restore", &ids[1], "--into", &out, "--identity", identity, "--json"];
        all.extend(more.iter().map(std::ffi::OsString::from));
        world.run(all)
    };
    let planned = result(schema, restore(&["--dry-run"]), 0, "restore", "restore");
    assert!(planned["plan"]["entries"].as_u64().unwrap() > 4, "{planned}");
    let restored = result(schema, restore(&[]), 0, "restore", "restore");
    assert_eq!((&restored["dry_run"], restored.get("plan")), (&false.into(), None));
    error(schema, world.run(args!["cat", &ids[1], "/x", "--identity", identity, "--json"]), 2, "cat");
}

/// A job into the system that it came from.
fn bring_back(schema: &Schema) {
    let world = World::new();
    let added = result(schema, world.run(args!["init", "--preset", "stackstate", "--json"]), 0, "init", "preset");
    assert_eq!(added["preset"], "stackstate");
    let log = world.path("log");
    let job = format!(
        "[job.small.var.replicas]\ndefault = '1'\n'1' = 'one'\n\
         [[job.small.source]]\nname = 'db'\nkind = 'command'\ncommand = ['echo', 'rows']\n\
         restore_command = ['sh', '-c', 'cat; echo done >> \"$0\"', '{0}']\ncount = ['echo', 'rows: 1']\n\
         log = '{0}'\nsuccess = 'done'\nfailure = 'ERROR'\n",
        log.display()
    );
    world.agent.configure(&job);
    world.run(args!["push", "small"]).ok();
    let run = |more: &[&str]| {
        let mut all = args!["restore", "latest", "--run", "--identity", &world.identity, "--json"];
        all.extend(more.iter().map(std::ffi::OsString::from));
        world.run(all)
    };
    let planned = result(schema, run(&["--dry-run"]), 0, "restore", "run");
    assert_eq!(planned["sheet"]["vars"]["replicas"], "one");
    let restored = result(schema, run(&["--yes-destroy", "small"]), 0, "restore", "run");
    assert_eq!(restored["members"][0]["proof"]["rows"], "1");
    error(schema, run(&["--yes-destroy", "large"]), 2, "restore");
}

fn keep_in_order(schema: &Schema, world: &World) {
    for depth in ["list", "sealed", "opened"] {
        let verify = args!["verify", "--depth", depth, "--identity", &world.identity, "--json"];
        assert_eq!(result(schema, world.run(verify), 0, "verify", "verify")["depth"], depth);
    }
    let sync = args!["sync", world.path("copy"), "--from", &world.vault, "--plain-directory", "--json"];
    result(schema, world.run(sync), 0, "sync", "sync");
    // A copy that is no store of the configuration: status lists it apart.
    world.run(args!["verify", "--from", world.path("copy"), "--depth", "sealed"]).ok();
    let show = args!["ledger", "show", "--identity", &world.identity, "--json"];
    let shown = result(schema, world.run(show), 0, "ledger", "ledger");
    let kinds: Vec<&Value> = shown["records"].as_array().unwrap().iter().map(|record| &record["kind"]).collect();
    assert!(kinds.contains(&&Value::from("restore-intent")), "{kinds:?}");
    result(schema, world.run(args!["ledger", "verify", "--json"]), 0, "ledger", "ledger");
    result(schema, world.run(args!["probe", "--json"]), 0, "probe", "probe");
    let status = result(schema, world.run(args!["status", "--json"]), 0, "status", "status");
    assert_eq!(status["stores"][0]["verified"][1], "opened");
}

fn let_go(schema: &Schema, world: &World) {
    world.run(args!["push", world.path("data")]).ok();
    let newest = world.snapshots().pop().unwrap()["id"].as_str().unwrap().to_owned();
    for end in [&["--until", "1d"][..], &["--release"]] {
        let mut hold = args!["hold", &newest, "--json"];
        hold.extend(end.iter().map(std::ffi::OsString::from));
        result(schema, world.run(hold), 0, "hold", "hold");
    }
    let plan = args!["prune", "plan", "--keep-last", "1", "--json"];
    let planned = result(schema, world.run(plan), 0, "prune", "pruneplan");
    let dropped = planned["dropped"].as_u64().unwrap() as usize;
    assert!(dropped > 0, "{planned}");
    result(schema, world.run(args!["prune", "apply", "--json"]), 75, "prune", "pruneapply");
    result(schema, world.run(args!["prune", "apply", "--now", "--json"]), 0, "prune", "pruneapply");
    let left = result(schema, world.run(args!["snapshots", "--json"]), 0, "snapshots", "snapshots");
    assert_eq!(left["dropped"].as_array().unwrap().len(), dropped);
    result(schema, world.run(args!["custodian", &world.vault, "--json"]), 0, "custodian", "custodian");
}

fn trust(schema: &Schema, world: &World) {
    let root = world.identity.with_extension("root");
    let change = |what: Vec<std::ffi::OsString>| {
        let run = world.run([args!["keys", "--json"], what, args!["--root", &root]].concat());
        result(schema, run, 0, "keys", "trusted")
    };
    change(args!["enrol", "station", "--name", "desk"]);
    assert_eq!(change(args!["retire", "desk"])["seq"], 3);
    assert_eq!(change(args!["new-epoch"])["epoch"]["n"], 2);
    let printed = result(schema, world.run(args!["keys", "print", "--json"]), 0, "keys", "keys");
    assert_eq!(printed["epochs"].as_array().unwrap().len(), 2);
    world.run(args!["push", world.path("data")]).ok();
    let adopt = args!["init", "--adopt", "--root", &root, "--identity", &world.identity, "--json"];
    let adopted = result(schema, world.run(adopt), 0, "init", "adopted");
    assert_eq!(adopted["others"].as_array().unwrap().len(), 1);
    world.run(args!["push", world.path("data")]).ok();
}

fn by_themselves(schema: &Schema, world: &World) {
    result(schema, world.run(args!["try", world.path("data"), "--json"]), 0, "try", "try");
    result(schema, world.run(args!["completions", "bash", "--json"]), 0, "completions", "printed");
    result(schema, world.run(args!["man", "--json"]), 0, "man", "printed");

    let key = crate::world::sshd::KeyPair::new(world.dir.path(), "client");
    let serve = args!["serve", world.dir.path(), "--authorized-keys", &key.public, "--listen", "127.0.0.1:0", "--json"];
    let mut child = world.agent.command(serve).stdout(Stdio::piped()).spawn().unwrap();
    let pid = rustix::process::Pid::from_child(&child);
    // Its handler of signals is there when it listens.
    crate::world::background::until("the server listens", || listens(child.id()));
    rustix::process::kill_process(pid, rustix::process::Signal::TERM).unwrap();
    let mut out = String::new();
    child.stdout.take().unwrap().read_to_string(&mut out).unwrap();
    assert!(child.wait().unwrap().success());
    let value: Value = serde_json::from_str(&out).unwrap();
    schema.check("envelope", &value);
    assert_eq!((out.lines().count(), &value["result"]), (1, &Value::Null));
}

fn a_server(schema: &Schema, world: &World) {
    result(schema, world.run(args!["sshd-config", "--json"]), 0, "sshd-config", "sshd-config");
    let served = crate::world::sshd::Served::start();
    std::fs::create_dir(served.root.join("vault")).unwrap();
    // The verdict belongs to the vault of the configuration, wherever the store is.
    let prober = world.machine("prober");
    let agent = std::fs::read_to_string(&world.agent.config).unwrap();
    let vault = agent.split("[vault]").nth(1).unwrap().split("\n[").next().unwrap();
    let (port, host_key, key) =
        (served.running.address().port(), served.running.host_fingerprint(), served.writer.private.display());
    prober.configure(&format!(
        "[vault]{vault}\n[store.s]\nurl = \"sftp://x@127.0.0.1:{port}/vault\"\nhost_key = \"{host_key}\"\nssh_key = \"{key}\""
    ));
    let first = result(schema, prober.run(args!["probe", "--json"]), 3, "probe", "probe");
    assert_eq!((&first["stores"][0]["verdict"], &first["stores"][0]["before"]), (&"append-weak".into(), &Value::Null));
    let second = result(schema, prober.run(args!["probe", "--json"]), 3, "probe", "probe");
    assert_eq!(second["stores"][0]["before"]["verdict"], "append-weak");
}

/// Whether a process has a listening TCP socket.
fn listens(pid: u32) -> bool {
    let tcp = std::fs::read_to_string(format!("/proc/{pid}/net/tcp")).unwrap_or_default();
    let waiting: Vec<&str> = tcp
        .lines()
        .map(|line| line.split_whitespace().collect::<Vec<_>>())
        .filter(|words| words.get(3) == Some(&"0A"))
        .filter_map(|words| words.get(9).copied())
        .collect();
    let links = std::fs::read_dir(format!("/proc/{pid}/fd")).into_iter().flatten().flatten();
    let own = links.filter_map(|entry| std::fs::read_link(entry.path()).ok()).map(|link| link.display().to_string());
    own.into_iter().any(|link| waiting.iter().any(|inode| link == format!("socket:[{inode}]")))
}

fn fail(schema: &Schema, world: &World) {
    error(schema, world.run(args!["push", world.path("missing"), "--json"]), 1, "push");
    error(schema, world.run(args!["push", "no-such-job", "--json"]), 2, "push");
    error(schema, world.run(args!["snapshots", "--from", "/nowhere/at/all", "--json"]), 5, "snapshots");
    world.agent.configure(
        "[job.broken]\n[[job.broken.source]]\nname = \"out\"\nkind = \"command\"\ncommand = [\"false\"]\nfilename = \"x\"\n",
    );
    let pushed = result(schema, world.run(args!["push", "--json"]), 1, "push", "push");
    let jobs = pushed["jobs"].as_array().unwrap();
    assert_eq!((jobs.len(), &jobs[0]["job"], &jobs[0]["exit"]), (2, &"broken".into(), &1.into()), "{pushed}");
    assert_eq!(jobs[1]["state"], "good", "one job that fails does not keep the others from being backed up");
}

fn damage(schema: &Schema, world: &World) {
    flip(&world.objects("packs")[0], 100);
    let found = result(schema, world.run(args!["verify", "--json"]), 4, "verify", "verify");
    let damage: Vec<&Value> =
        found["findings"].as_array().unwrap().iter().filter(|finding| finding["kind"] == "damage").collect();
    assert!(damage.len() == 1 && !damage[0]["snapshots"].as_array().unwrap().is_empty(), "{found}");
}
