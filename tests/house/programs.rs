//! `tests/run` installs every program that a test calls, so that a fresh machine passes all of them.

use crate::{Text, none, rust_files};

/// What every Debian has, being essential there, and what needs no line in `tests/run` therefore.
const EVERYWHERE: [&str; 15] = [
    "sh",
    "bash",
    "cp",
    "mkdir",
    "mknod",
    "touch",
    "chown",
    "date",
    "find",
    "id",
    "fallocate",
    "flock",
    "setpriv",
    "unshare",
    "gzip",
];

/// How a test names a program that it calls, or without which it cannot run.
const CALLS: [&str; 3] = [concat!("Command::", "new(\""), concat!("missing_", "tool(\""), concat!("needs", "!(\"")];

/// The programs in a text, with their places.
fn programs(text: &Text) -> Vec<(String, String)> {
    let mut found = Vec::new();
    for (number, line) in text.lines() {
        for call in CALLS {
            for (at, _) in line.match_indices(call) {
                let rest = &line[at + call.len() - 1..];
                let names = rest.split(')').next().unwrap().split('"').skip(1).step_by(2);
                found.extend(names.map(|name| (name.to_owned(), text.at(number))));
            }
        }
    }
    found
}

/// What `tests/run` looks for before it begins.
fn installed() -> Vec<String> {
    let script = Text::read("tests/run").content;
    let list = script.split("<<'LIST'\n").nth(1).unwrap().split("LIST\n").next().unwrap();
    list.lines().map(|line| line.split_whitespace().next().unwrap().to_owned()).collect()
}

#[test]
fn every_program_that_a_test_calls_is_installed_by_the_script_that_runs_them() {
    let installed = installed();
    let is_there = |name: &str| EVERYWHERE.contains(&name) || installed.iter().any(|program| program == name);
    let called: Vec<(String, String)> = rust_files("tests").iter().flat_map(programs).collect();
    assert!(called.len() > 100, "only {} calls were found", called.len());
    let missing: Vec<String> =
        called.iter().filter(|(name, _)| !is_there(name)).map(|(name, at)| format!("{at}: {name}")).collect();
    none("programs that tests/run does not install", &missing);
}
