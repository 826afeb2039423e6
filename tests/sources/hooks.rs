//! Hooks, and what undoes them.

use std::fs;
use std::time::{Duration, Instant};

use crate::world::background::until;
use crate::world::{Run, Running, World, args};
use crate::{job, snapshots, source};

/// A world with a journal that every hook writes its word to.
struct Hooked {
    world: World,
}

impl Hooked {
    fn new() -> Self {
        Self { world: World::new() }
    }

    /// A hook that writes a word, and then does this.
    fn hook(&self, word: &str, then: &str) -> String {
        let journal = self.world.path("journal");
        format!("['sh', '-c', 'echo {word} >> \"$0\"; {then}', '{}']", journal.display())
    }

    /// One job with one command between hooks of the job and of the source.
    fn configure(&self, command: &str, job_before: &str, source_before: &str) {
        let hook = |word: &str| self.hook(word, "");
        let after = |who: &str| {
            let (always, done, failed) = (format!("{who}-always"), format!("{who}-done"), format!("{who}-failed"));
            format!("{{ always = {}, on_success = {}, on_failure = {} }}", hook(&always), hook(&done), hook(&failed))
        };
        let of_job = format!("before = {job_before}\nafter = {}\n", after("job"));
        let of_source =
            format!("command = ['sh', '-c', '{command}']\nbefore = {source_before}\nafter = {}", after("source"));
        job(&self.world, &(of_job + &source("db", "command", &of_source)));
    }

    fn plain(&self, command: &str) {
        self.configure(command, &self.hook("job-before", ""), &self.hook("source-before", ""));
    }

    /// What was written since the last call.
    fn words(&self) -> Vec<String> {
        let path = self.world.path("journal");
        let text = fs::read_to_string(&path).unwrap_or_default();
        let _ = fs::remove_file(path);
        text.lines().map(str::to_owned).collect()
    }

    fn push(&self) -> Run {
        self.world.run(args!["push", "nightly"])
    }
}

#[test]
fn hooks_run_around_the_job_and_around_its_source() {
    let hooked = Hooked::new();
    hooked.plain("echo dump");
    hooked.push().ok();
    let inner = ["source-before", "source-done", "source-always"];
    assert_eq!(hooked.words(), [&["job-before"], &inner[..], &["job-always", "job-done"]].concat());

    hooked.plain("echo half; exit 1");
    hooked.push().exits(1);
    let inner = ["source-before", "source-failed", "source-always"];
    assert_eq!(hooked.words(), [&["job-before"], &inner[..], &["job-always", "job-failed"]].concat());
    assert_eq!(snapshots(&hooked.world), 1);
}

#[test]
fn a_hook_that_fails_keeps_the_backup_from_being_made_and_is_undone() {
    let hooked = Hooked::new();
    hooked.configure(
        "echo dump",
        &hooked.hook("job-before", ""),
        &hooked.hook("source-before", "echo no such unit >&2; exit 5"),
    );
    hooked.push().exits(1).says("no such unit").says("farkeep: source db: hook ");
    let inner = ["source-before", "source-failed", "source-always"];
    assert_eq!(hooked.words(), [&["job-before"], &inner[..], &["job-always", "job-failed"]].concat());
    assert_eq!(snapshots(&hooked.world), 0);
}

#[test]
fn exit_code_75_skips_the_job_softly() {
    let hooked = Hooked::new();
    hooked.configure("echo dump", &hooked.hook("job-before", "exit 75"), &hooked.hook("source-before", ""));
    hooked.push().exits(75).says("asks to skip");
    assert_eq!(hooked.words(), ["job-before", "job-always"]);
    assert_eq!(snapshots(&hooked.world), 0);
}

#[test]
fn an_after_hook_that_fails_is_a_warning_about_a_snapshot_that_is_there() {
    let hooked = Hooked::new();
    hooked.plain("echo dump");
    hooked.world.agent.reconfigure(|text| text.replace("echo source-always >> \"$0\"; ", "exit 4"));
    hooked.push().exits(3).says("after hook failed").says("exit status: 4");
    assert_eq!(snapshots(&hooked.world), 1);
    assert_eq!(hooked.world.snapshots()[0]["state"], "good");
}

#[test]
fn a_hook_that_hangs_is_killed_at_its_own_time_limit() {
    let hooked = Hooked::new();
    let begun = Instant::now();
    // A session of its own is no way out.
    for hangs in ["sleep 60", "exec setsid sleep 60"] {
        hooked.configure("echo dump", &hooked.hook("job-before", hangs), &hooked.hook("source-before", ""));
        hooked.world.agent.reconfigure(|text| text.replace("[job.nightly]", "[job.nightly]\nhook_timeout = \"1s\""));
        hooked.push().exits(1).says("time limit of 1 s");
    }
    assert!(begun.elapsed() < Duration::from_secs(50));
}

#[test]
fn a_service_that_was_stopped_is_started_by_the_next_run_when_farkeep_was_killed() {
    let hooked = Hooked::new();
    let at_work = hooked.world.path("at-work");
    hooked.plain(&format!("touch \"{}\"; sleep 30", at_work.display()));
    let running = Running::start(&hooked.world.agent, args!["push", "nightly"]);
    until("the dump is being made", || at_work.exists());
    assert!(running.kill());
    assert_eq!(hooked.words(), ["job-before", "source-before"]);

    // Another run while this one lives would leave it alone; it is dead, and what it began is undone, the last first.
    hooked.world.tree("files").file("a", "x");
    hooked.world.run(args!["push", hooked.world.path("files")]).ok().says("an earlier run ended before its after hooks");
    let undone = ["source-failed", "source-always", "job-failed", "job-always"];
    assert_eq!(hooked.words(), undone);
    hooked.world.run(args!["push", hooked.world.path("files")]).ok().never_says("earlier run");
    assert_eq!(hooked.words(), Vec::<String>::new());
}

#[test]
fn what_is_being_undone_goes_on_when_farkeep_is_killed() {
    let hooked = Hooked::new();
    let starting = hooked.world.path("starting");
    hooked.plain("echo dump");
    let slow = format!("touch {}; sleep 1; echo source-always", starting.display());
    hooked.world.agent.reconfigure(|text| text.replace("echo source-always", &slow));
    let running = Running::start(&hooked.world.agent, args!["push", "nightly"]);
    until("the service is being started", || starting.exists());
    assert!(running.kill());
    let log = |hooked: &Hooked| fs::read_to_string(hooked.world.path("journal")).unwrap_or_default();
    until("the service is started", || log(&hooked).contains("source-always"));
}

#[test]
fn an_interrupted_push_ends_a_dump_that_hangs_and_undoes_what_was_begun() {
    let hooked = Hooked::new();
    let at_work = hooked.world.path("at-work");
    hooked.plain(&format!("touch \"{}\"; sleep 1000", at_work.display()));
    let running = Running::start(&hooked.world.agent, args!["push", "nightly"]);
    until("the dump is being made", || at_work.exists());
    running.signal(rustix::process::Signal::INT);
    running.wait().exits(130);
    let inner = ["source-before", "source-failed", "source-always"];
    assert_eq!(hooked.words(), [&["job-before"], &inner[..], &["job-always", "job-failed"]].concat());
    assert_eq!(snapshots(&hooked.world), 0);
    hooked.plain("echo dump");
    hooked.push().ok().never_says("earlier run");
}
