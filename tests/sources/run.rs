//! Restores into the systems: nothing is destroyed before everything is there and right.

use std::fs;
use std::path::PathBuf;

use crate::contract::is_at_work;
use crate::world::background::until;
use crate::world::{Run, Running, World, args, assert_same, files_below, flip};
use crate::{job, member, restore_run, source, station};

/// A registry of two databases, each a file of lines, and a directory of attachments. Each line is a row.
struct Registry {
    world: World,
}

impl Registry {
    /// Pushed once.
    fn new() -> Self {
        let registry = Self { world: World::new() };
        fs::create_dir(registry.world.path("live")).unwrap();
        for name in ["births", "deaths"] {
            fs::write(registry.db(name), (0..5000).map(|n| format!("{name} {n}\n")).collect::<String>()).unwrap();
        }
        registry.world.tree("live/attachments").ordinary(40, 1).file("only-then", "scan");
        registry.configure("");
        registry.world.push("nightly");
        registry
    }

    fn db(&self, name: &str) -> PathBuf {
        self.world.path("live").join(name)
    }

    fn configure(&self, of_job: &str) {
        let load = "echo loading $1 >> \"$0\"; [ ! -e \"$2\".broken ] || exit 9; cat > \"$2\"";
        let journal = self.world.path("journal");
        let database = |name: &str| {
            let file = self.db(name);
            let keys = format!(
                "command = ['cat', '{0}']\nrestore_command = ['sh', '-c', '{load}', '{journal}', '{name}', '{0}']\n\
                 count = ['sh', '-c', 'echo rows: $(wc -l < \"$0\" 2>/dev/null || echo none)', '{0}']",
                file.display(),
                journal = journal.display()
            );
            source(name, "command", &keys)
        };
        let attachments = format!("paths = ['{}']", self.db("attachments").display());
        let sources = database("births") + &database("deaths") + &source("attachments", "files", &attachments);
        job(&self.world, &(of_job.to_owned() + &sources));
    }

    /// Something happens to all of it.
    fn disaster(&self) {
        fs::write(self.db("births"), "births 1\n").unwrap();
        fs::write(self.db("deaths"), "all gone\nor not\n").unwrap();
        fs::write(self.db("attachments/later"), "a file that came later").unwrap();
        fs::remove_file(self.db("attachments/only-then")).unwrap();
    }

    fn run(&self, more: &[&str]) -> Run {
        self.world.run(restore_run(&self.world, "latest", more))
    }

    /// Which databases were loaded since the last call, in order.
    fn loaded(&self) -> Vec<String> {
        let path = self.world.path("journal");
        let text = fs::read_to_string(&path).unwrap_or_default();
        let _ = fs::remove_file(path);
        text.lines().map(|line| line.trim_start_matches("loading ").to_owned()).collect()
    }

    fn is_whole(&self) -> bool {
        let rows = |name: &str| fs::read_to_string(self.db(name)).map_or(0, |text| text.lines().count());
        rows("births") == 5000
            && rows("deaths") == 5000
            && self.db("attachments/only-then").exists()
            && !self.db("attachments/later").exists()
    }
}

#[test]
fn the_plan_shows_what_is_destroyed_and_nothing_happens_without_the_targets_name() {
    let registry = Registry::new();
    registry.disaster();
    let plan = registry.run(&["--dry-run"]).ok();
    let plan =
        plan.says("of job nightly").says("DESTROYS rows: 1\n").says("DESTROYS rows: 2\n").says("attachments: 41 files");
    plan.says("keeps no copy").says("nothing was done");
    registry.run(&[]).exits(2).says("--yes-destroy nightly");
    registry.run(&["--yes-destroy", "daily"]).exits(2).says("is not the target of this restore");
    assert_eq!(registry.loaded(), Vec::<String>::new());
    assert_eq!(fs::read_to_string(registry.db("births")).unwrap(), "births 1\n");

    let done = registry.run(&["--yes-destroy", "nightly", "--json"]).ok().json();
    assert!(registry.is_whole());
    assert_eq!(member(&done, "births")["proof"]["rows"], "5000");
    assert_eq!(member(&done["sheet"], "deaths")["destroys"][0], "rows: 2");
    // Nothing lies about afterwards, and it is on record.
    assert!(
        !fs::read_dir(registry.world.path("live")).unwrap().any(|e| e
            .unwrap()
            .file_name()
            .to_string_lossy()
            .starts_with('.'))
    );
    registry.world.run(args!["ledger", "show"]).ok().says("run");
}

#[test]
fn another_machine_brings_back_all_of_it() {
    let registry = Registry::new();
    registry.world.tree("kept").file("x", "y");
    let kept = registry.world.path("kept/attachments");
    crate::world::tools::must(std::process::Command::new("cp").arg("-a").arg(registry.db("attachments")).arg(&kept));
    fs::remove_dir_all(registry.world.path("live")).unwrap();
    fs::create_dir(registry.world.path("live")).unwrap();
    let station = station(&registry.world, "station");
    station.run(restore_run(&registry.world, "latest", &["--yes-destroy", "nightly"])).ok().says("restored snapshot");
    assert!(registry.is_whole());
    assert_same(&kept, &registry.db("attachments"));
}

#[test]
fn nothing_is_destroyed_when_one_member_cannot_be_fetched_whole() {
    let registry = Registry::new();
    registry.disaster();
    // Whatever it holds, it is needed: the snapshot has one pack of data and one of catalogues.
    for pack in registry.world.objects("packs") {
        flip(&pack, fs::metadata(&pack).unwrap().len() / 2);
    }
    registry.run(&["--yes-destroy", "nightly"]).exits(4);
    assert_eq!(registry.loaded(), Vec::<String>::new());
    // Files that were fetched until then are told of: here the catalogues, in the smaller pack, are whole again.
    let length = |pack: &PathBuf| fs::metadata(pack).unwrap().len();
    let smaller = registry.world.objects("packs").into_iter().min_by_key(length).unwrap();
    flip(&smaller, length(&smaller) / 2);
    let files = registry.run(&["--member", "attachments", "--yes-destroy", "nightly"]).exits(4);
    files.says("attachments/.farkeep-restore-").says("lies there unencrypted");
    assert_eq!(fs::read_to_string(registry.db("births")).unwrap(), "births 1\n");
    assert!(registry.db("attachments/later").exists());
}

#[test]
fn a_restore_that_broke_off_goes_on_with_what_is_not_done() {
    let registry = Registry::new();
    registry.disaster();
    let broken = registry.world.path("live/deaths.broken");
    fs::write(&broken, "").unwrap();
    let copy = registry.world.path("copy");
    let run = ["--yes-destroy", "nightly", "--safety-copy", copy.to_str().unwrap()];
    let failed = registry.run(&[&run[..], &["--json"]].concat()).exits(1).json();
    assert_eq!(member(&failed, "births")["outcome"], "restored");
    assert_eq!(member(&failed, "deaths")["outcome"], "failed");
    assert_eq!(member(&failed, "attachments")["outcome"], "not begun");
    assert_eq!(registry.loaded(), ["births", "deaths"]);
    assert!(registry.db("attachments/later").exists());

    fs::remove_file(&broken).unwrap();
    registry.run(&["--dry-run"]).ok().says("was brought back at");
    registry.run(&run).ok().says("births: was restored").says("deaths: restored");
    // What is kept is what was there before the first attempt.
    assert_eq!(fs::read_to_string(copy.join("births/stdout")).unwrap(), "births 1\n");
    assert_eq!(fs::read_to_string(copy.join("deaths/stdout")).unwrap(), "all gone\nor not\n");
    assert_eq!(registry.loaded(), ["deaths"]);
    assert!(registry.is_whole());
    // It is done: the same command again is another restore.
    registry.disaster();
    registry.run(&["--yes-destroy", "nightly"]).ok();
    assert_eq!(registry.loaded(), ["births", "deaths"]);
    assert!(registry.is_whole());
}

#[test]
fn a_target_that_holds_something_else_afterwards_is_an_alarm() {
    let registry = Registry::new();
    registry.disaster();
    registry.world.agent.reconfigure(|text| text.replace("cat > \"$2\"", "head -n 4990 > \"$2\""));
    let run = registry.run(&["--member", "births", "--yes-destroy", "nightly"]).exits(4);
    run.says("births: mismatch").says("rows: 5000 was backed up and 4990 is there after the restore");
}

#[test]
fn some_members_can_be_brought_back_and_the_rest_stays() {
    let registry = Registry::new();
    registry.disaster();
    registry.run(&["--member", "deaths", "--yes-destroy", "nightly"]).ok().says("deaths: restored");
    assert_eq!(registry.loaded(), ["deaths"]);
    assert_eq!(fs::read_to_string(registry.db("births")).unwrap(), "births 1\n");
    registry.run(&["--member", "marriages", "--dry-run"]).exits(2).says("there are births, deaths, attachments");
}

#[test]
fn what_was_there_is_kept_first_when_that_is_asked_for() {
    let registry = Registry::new();
    registry.disaster();
    let copy = registry.world.path("copy");
    let text = copy.to_str().unwrap().to_owned();
    registry.run(&["--yes-destroy", "nightly", "--safety-copy", &text]).ok().says("keeps what is there now in");
    assert!(registry.is_whole());
    assert_eq!(fs::read_to_string(copy.join("births/stdout")).unwrap(), "births 1\n");
    assert_eq!(fs::read_to_string(copy.join("deaths/stdout")).unwrap(), "all gone\nor not\n");
    assert_eq!(fs::read_to_string(copy.join("attachments/attachments/later")).unwrap(), "a file that came later");
}

#[test]
fn a_restore_into_another_target_never_touches_the_place_it_came_from() {
    let registry = Registry::new();
    let staging = registry.world.path("staging");
    fs::create_dir(&staging).unwrap();
    let target = format!(
        "[job.nightly.var.replicas]\ndefault = '1'\n'1' = 'one'\n'3' = 'one,two,three'\n\
         [job.nightly.target.staging.source.births]\n\
         restore_command = ['sh', '-c', 'echo {{replicas}} > \"$0\"/hosts; cat > \"$0\"/births', '{0}']\n\
         count = ['sh', '-c', 'echo rows: $(cat \"$0\"/births 2>/dev/null | wc -l)', '{0}']\n",
        staging.display()
    );
    registry.configure(&target);
    let into = |more: &[&str]| {
        let mut all = vec!["--into-target", "staging"];
        all.extend(more);
        registry.run(&all)
    };
    into(&["--yes-destroy", "staging"]).exits(2).says("member \"deaths\" would go where it came from");
    into(&["--member", "births", "--yes-destroy", "nightly"]).exits(2).says("is not the target");
    into(&["--member", "births", "--var", "replicas=2", "--dry-run"]).exits(2).says("there are 1, 3");
    into(&["--member", "births", "--var", "replica=3", "--dry-run"]).exits(2).says("no job has such a variable");
    let before = fs::metadata(registry.db("births")).unwrap().modified().unwrap();
    into(&["--member", "births", "--var", "replicas=3", "--yes-destroy", "staging"]).ok().says("replicas = one,two,three");
    assert_eq!(fs::read_to_string(staging.join("births")).unwrap().lines().count(), 5000);
    assert_eq!(fs::read_to_string(staging.join("hosts")).unwrap(), "one,two,three\n");
    assert_eq!(fs::metadata(registry.db("births")).unwrap().modified().unwrap(), before);
    registry.run(&["--into-target", "moon", "--dry-run"]).exits(2).says("there are: staging");
}

#[test]
fn hooks_run_around_a_restore_and_the_service_starts_only_when_it_is_done() {
    let registry = Registry::new();
    registry.disaster();
    let journal = registry.world.path("hooks");
    let hook = |word: &str| format!("['sh', '-c', 'echo {word} >> \"$0\"', '{}']", journal.display());
    let hooks = format!(
        "restore = {{ before = {}, after = {{ on_success = [{}, {}], on_failure = {} }} }}\n",
        hook("stop"),
        hook("migrate"),
        hook("start"),
        hook("failed")
    );
    registry.configure(&hooks);
    let words = || {
        let text = fs::read_to_string(&journal).unwrap_or_default();
        let _ = fs::remove_file(&journal);
        text.lines().map(str::to_owned).collect::<Vec<_>>()
    };
    fs::write(registry.world.path("live/deaths.broken"), "").unwrap();
    registry.run(&["--yes-destroy", "nightly"]).exits(1);
    assert_eq!(words(), ["stop", "failed"]);
    fs::remove_file(registry.world.path("live/deaths.broken")).unwrap();
    registry.run(&["--yes-destroy", "nightly"]).ok();
    assert_eq!(words(), ["stop", "migrate", "start"]);
    assert!(registry.is_whole());
}

#[test]
fn a_machine_of_another_release_restores_what_the_snapshot_holds_and_leaves_the_rest() {
    let registry = Registry::new();
    registry.disaster();
    // This one has a database that the backed-up machine did not have yet.
    let marriages = registry.db("marriages");
    fs::write(&marriages, "marriages 1\n").unwrap();
    let keys = format!("command = ['cat', '{0}']\nrestore_command = ['rm', '{0}']", marriages.display());
    registry.world.agent.reconfigure(|text| text.to_owned() + &source("marriages", "command", &keys));
    registry.run(&["--dry-run"]).ok().says("untouched: marriages: not in this snapshot");
    registry.run(&["--yes-destroy", "nightly"]).ok();
    assert!(registry.is_whole() && marriages.exists());
    // That one knows nothing of a database that was backed up: it says so before it begins.
    registry.disaster();
    registry.loaded();
    registry.world.agent.reconfigure(|text| text.replace("name = \"deaths\"", "name = \"burials\""));
    let missing = "member \"deaths\" is in the snapshot and not in [job.nightly] here";
    registry.run(&["--yes-destroy", "nightly"]).exits(2).says(missing);
    assert_eq!(registry.loaded(), Vec::<String>::new());
    assert_eq!(fs::read_to_string(registry.db("births")).unwrap(), "births 1\n");
}

#[test]
fn what_cannot_even_be_counted_any_more_is_restored_all_the_same() {
    let registry = Registry::new();
    registry.disaster();
    let counting = "wc -l < \"$0\" 2>/dev/null || echo none";
    let failing = "wc -l < \"$0\" || kill $$";
    registry.world.agent.reconfigure(|text| text.replace(counting, failing));
    fs::remove_file(registry.db("births")).unwrap();
    registry.run(&["--dry-run"]).ok().says("which cannot be counted");
    registry.run(&["--yes-destroy", "nightly"]).ok();
    assert!(registry.is_whole());
}

#[test]
fn a_restore_does_not_begin_while_a_backup_is_running() {
    let registry = Registry::new();
    registry.disaster();
    let (hangs, begun) = (registry.world.path("hangs"), registry.world.path("begun"));
    fs::write(&hangs, "").unwrap();
    let wait = format!(
        "\nbefore = ['sh', '-c', 'touch \"$1\"; while [ -e \"$0\" ]; do sleep 0.1; done', '{}', '{}']\n",
        hangs.display(),
        begun.display()
    );
    registry.configure(&wait);
    let push = Running::start(&registry.world.agent, args!["push", "nightly"]);
    until("the backup is running", || begun.exists());
    registry.run(&["--yes-destroy", "nightly"]).exits(75).says("another farkeep is at work");
    assert_eq!(registry.loaded(), Vec::<String>::new());
    assert_eq!(fs::read_to_string(registry.db("births")).unwrap(), "births 1\n");
    fs::remove_file(&hangs).unwrap();
    push.wait().ok();
}

#[test]
fn a_restore_that_was_killed_does_not_go_on_behind_the_back() {
    let registry = Registry::new();
    registry.disaster();
    let pid = registry.world.path("pid");
    let slow = format!("echo $$ > {0}.new; mv {0}.new {0}; sleep 1000; [ ! -e", pid.display());
    registry.world.agent.reconfigure(|text| text.replace("[ ! -e", &slow));
    let running =
        Running::start(&registry.world.agent, restore_run(&registry.world, "latest", &["--yes-destroy", "nightly"]));
    until("the first database is being loaded", || pid.exists());
    let pid = fs::read_to_string(pid).unwrap();
    assert!(is_at_work(pid.trim()));
    assert!(running.kill());
    until("the load has ended", || !is_at_work(pid.trim()));
    assert_eq!(fs::read_to_string(registry.db("births")).unwrap(), "births 1\n");
}

#[test]
fn what_an_unfinished_restore_has_fetched_lies_there_with_a_word_and_until_another_one_begins() {
    let registry = Registry::new();
    registry.disaster();
    let scratch = registry.world.agent.state.join("scratch");
    let fetched = || files_below(&scratch).into_iter().filter(|path| path.ends_with("@births/stdout")).collect::<Vec<_>>();
    let broken = registry.world.path("live/deaths.broken");
    fs::write(&broken, "").unwrap();
    let run = ["--yes-destroy", "nightly"];
    registry.run(&run).exits(1).says("lies unencrypted in").says("parts").says("attachments/.farkeep-restore-");
    let [of_first]: [PathBuf; 1] = fetched().try_into().unwrap();
    // The plan of another restore leaves it alone; the restore itself takes its place.
    registry.world.push("nightly");
    registry.run(&["--dry-run"]).ok();
    assert_eq!(fetched(), std::slice::from_ref(&of_first));
    registry.run(&run).exits(1);
    let [of_second]: [PathBuf; 1] = fetched().try_into().unwrap();
    assert_ne!(of_first, of_second);
    assert_eq!(registry.loaded(), ["births", "deaths", "births", "deaths"]);
    // What the first one had brought back is not there any more: it begins anew.
    fs::remove_file(&broken).unwrap();
    let first = registry.world.snapshots()[0]["id"].as_str().unwrap().to_owned();
    registry.world.run(restore_run(&registry.world, &first, &run)).ok().says("births: restored").never_says("unencrypted");
    assert_eq!(registry.loaded(), ["births", "deaths"]);
    assert_eq!(fetched(), Vec::<PathBuf>::new());
    assert!(registry.is_whole());
}

#[test]
fn another_restore_takes_nothing_from_an_unfinished_one_but_what_it_replaces() {
    let registry = Registry::new();
    registry.disaster();
    let first = registry.world.snapshots()[0]["id"].as_str().unwrap().to_owned();
    let (broken, copies) = (registry.world.path("live/deaths.broken"), registry.world.path("copies"));
    fs::write(&broken, "").unwrap();
    fs::create_dir(&copies).unwrap();
    let run = |snapshot: &str, copy: &str, more: &[&str]| {
        let copy = copies.join(copy);
        let keeping = ["--yes-destroy", "nightly", "--safety-copy", copy.to_str().unwrap()];
        registry.world.run(restore_run(&registry.world, snapshot, &[&keeping[..], more].concat()))
    };
    run(&first, "first", &[]).exits(1).says("births: restored");
    // One of another member, and one that cannot be fetched.
    let known = registry.world.objects("packs");
    fs::write(registry.db("births"), "births of another night\n".repeat(5000)).unwrap();
    registry.world.push("nightly");
    run("latest", "second", &["--member", "attachments"]).ok();
    for pack in registry.world.objects("packs").into_iter().filter(|pack| !known.contains(pack)) {
        flip(&pack, fs::metadata(&pack).unwrap().len() / 2);
    }
    run("latest", "third", &["--member", "births"]).exits(4);
    registry.loaded();
    // A file in the way of what is tidied up is told, and in nobody's way.
    let scratch = registry.world.agent.state.join("scratch");
    let of_vault = fs::read_dir(scratch).unwrap().map(|dir| dir.unwrap().path()).next().unwrap();
    fs::create_dir(of_vault.join("restore/0-elsewhere")).unwrap();
    fs::write(of_vault.join("restore/0-elsewhere/parts"), "").unwrap();
    fs::remove_file(&broken).unwrap();
    let again = run(&first, "fourth", &[]).exits(3).says("births: was restored").says("deaths: restored");
    again.says("copies/first/deaths").says("cannot be removed");
    assert_eq!(registry.loaded(), ["deaths"]);
}
