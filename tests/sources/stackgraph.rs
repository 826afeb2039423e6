//! StackGraph, through a stand-in that keeps its contract.

use std::ffi::OsString;
use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::PathBuf;

use crate::world::background::until;
use crate::world::{Random, Run, World, args};
use crate::{job, member, restore_run, snapshots, source};

/// A machine with StackState and a systemd of one service.
struct Platform {
    world: World,
}

impl Platform {
    fn new() -> Self {
        let platform = Self { world: World::new() };
        fs::create_dir(platform.path("")).unwrap();
        script(&platform.path("sts-standalone.sh"), include_str!("stand-ins/sts-standalone.sh"));
        let systemctl = "#!/bin/sh\ncd \"$(dirname \"$0\")\"\necho \"$1\" >> systemctl.log\n\
                         case $1 in stop) rm -f running ;; start) touch running ;; esac\n";
        script(&platform.path("systemctl"), systemctl);
        fs::write(platform.path("graph"), platform.graph()).unwrap();
        fs::write(platform.path("running"), "").unwrap();
        platform.configure("");
        platform
    }

    fn path(&self, name: &str) -> PathBuf {
        self.world.path("stackstate").join(name)
    }

    fn graph(&self) -> Vec<u8> {
        Random::new(11).bytes(300_000)
    }

    fn configure(&self, more: &str) {
        let (program, log) = (self.path("sts-standalone.sh"), self.path("stackstate.log"));
        let keys = format!(
            "program = '{}'\nlog = '{}'\nsuccess = 'Import completed'\nlog_wait = '3s'\nservice = 'stackstate'\n{more}",
            program.display(),
            log.display()
        );
        job(&self.world, &source("stackgraph", "stackgraph", &keys));
    }

    fn run(&self, args: Vec<OsString>) -> Run {
        let path = std::env::var("PATH").unwrap();
        Run::of(self.world.agent.command(args).env("PATH", format!("{}:{path}", self.path("").display())))
    }

    fn push(&self) -> Run {
        self.run(args!["push", "nightly"])
    }

    fn restore(&self) -> Run {
        self.run(restore_run(&self.world, "latest", &["--yes-destroy", "nightly", "--json"]))
    }

    fn is_running(&self) -> bool {
        self.path("running").exists()
    }
}

fn script(path: &std::path::Path, text: &str) {
    fs::write(path, text).unwrap();
    fs::set_permissions(path, fs::Permissions::from_mode(0o755)).unwrap();
}

#[test]
fn an_export_is_made_while_the_service_is_stopped_and_comes_back_by_the_word_of_the_log() {
    let platform = Platform::new();
    platform.push().ok();
    assert!(platform.is_running());
    assert_eq!(fs::read_to_string(platform.path("systemctl.log")).unwrap(), "stop\nstart\n");

    // What is there is not empty: StackGraph refuses, with exit code 0.
    fs::write(platform.path("graph"), "another graph").unwrap();
    let refused = platform.restore().exits(1);
    let refused = refused.says("Restore isn't possible in a non empty database");
    assert_eq!(member(&refused.json(), "stackgraph")["outcome"], "failed");
    assert!(!platform.is_running(), "the service was started on a graph that is not restored");
    assert_eq!(fs::read_to_string(platform.path("graph")).unwrap(), "another graph");

    // Emptied by hand, as its documentation has it: the same command goes on.
    fs::remove_file(platform.path("graph")).unwrap();
    let done = platform.restore().ok().json();
    assert!(fs::read(platform.path("graph")).unwrap() == platform.graph());
    assert!(platform.is_running());
    let log = member(&done, "stackgraph")["log"].as_str().unwrap().to_owned();
    assert!(log.contains("Import completed") && !log.contains("WARNING"), "{log}");

    // Or by saying that it may be replaced.
    fs::write(platform.path("graph"), "another graph").unwrap();
    platform.configure("allow_non_empty = true");
    platform.restore().ok();
    assert!(fs::read(platform.path("graph")).unwrap() == platform.graph());
}

#[test]
fn exit_code_0_without_the_line_of_success_is_a_failure() {
    let platform = Platform::new();
    platform.push().ok();
    fs::remove_file(platform.path("graph")).unwrap();
    fs::write(platform.path("silent"), "").unwrap();
    platform.restore().exits(1).says("does not say that it was done");
    assert!(!platform.is_running());
}

#[test]
fn an_export_that_made_nothing_is_a_failure_and_the_service_runs_again() {
    let platform = Platform::new();
    // It does not stop: the export refuses, and ends with 0.
    script(
        &platform.path("systemctl"),
        "#!/bin/sh\ncd \"$(dirname \"$0\")\"\necho \"$1\" >> systemctl.log\ntouch running\n",
    );
    platform.push().exits(1).says("made no file");
    assert!(platform.is_running());
    assert_eq!(snapshots(&platform.world), 0);
    assert_eq!(fs::read_to_string(platform.path("systemctl.log")).unwrap(), "stop\nstart\n");
}

#[test]
fn the_service_is_started_again_after_farkeep_was_killed_in_mid_export() {
    let platform = Platform::new();
    script(&platform.path("sts-standalone.sh"), "#!/bin/sh\ntouch \"$(dirname \"$0\")/exporting\"\nsleep 30\n");
    let path = format!("{}:{}", platform.path("").display(), std::env::var("PATH").unwrap());
    let mut killed = platform.world.agent.command(args!["push", "nightly"]).env("PATH", path).spawn().unwrap();
    until("the export runs", || platform.path("exporting").exists());
    killed.kill().unwrap();
    killed.wait().unwrap();
    assert!(!platform.is_running());
    script(&platform.path("sts-standalone.sh"), include_str!("stand-ins/sts-standalone.sh"));
    platform.push().ok().says("an earlier run ended before its after hooks");
    assert!(platform.is_running());
}
