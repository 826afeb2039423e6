//! Help, pages and completions; `--quiet`; what goes where.

use std::io::Write;
use std::process::{Command, Stdio};

use crate::world::{World, args, flip, needs};

const COMMANDS: [&str; 17] = [
    "try",
    "init",
    "push",
    "restore",
    "verify",
    "sync",
    "snapshots",
    "ls",
    "find",
    "cat",
    "diff",
    "ledger",
    "status",
    "serve",
    "probe",
    "completions",
    "man",
];

#[test]
fn help_and_manual_know_every_command() {
    let world = World::bare();
    let help = world.run(args!["--help"]).ok().out;
    let page = world.run(args!["man"]).ok().out;
    for command in COMMANDS {
        assert!(help.lines().any(|line| line.trim_start().starts_with(&format!("{command} "))), "{command}: {help}");
        assert!(page.contains(&format!("farkeep\\-{command}(1)")), "{command}: {page}");
        world.run(args![command, "--help"]).ok().says("Usage");
        let one = world.run(args!["man", command]).ok().out;
        assert!(one.contains(".TH") && one.contains("SYNOPSIS"), "{one}");
    }
    // Every option says what it does.
    for command in COMMANDS {
        let help = world.run(args![command, "--help"]).ok().out;
        let lines: Vec<&str> = help.lines().collect();
        for (number, line) in lines.iter().enumerate().filter(|(_, line)| line.trim_start().starts_with("--")) {
            let described =
                line.trim_start().contains("  ") || lines.get(number + 1).is_some_and(|next| next.starts_with("          "));
            assert!(described, "{command}: {line}");
        }
    }
}

#[test]
fn pages_are_what_man_formats() {
    needs!("man");
    let world = World::bare();
    for words in [args!["man"], args!["man", "push"]] {
        let page = world.run(words).ok().out;
        let mut child = Command::new("man")
            .args(["-l", "--warnings", "-E", "UTF-8", "-"])
            .env("MANWIDTH", "80")
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        child.stdin.take().unwrap().write_all(page.as_bytes()).unwrap();
        let output = child.wait_with_output().unwrap();
        let said = String::from_utf8_lossy(&output.stderr);
        assert!(output.status.success() && said.is_empty(), "{said}");
        assert!(String::from_utf8_lossy(&output.stdout).contains("NAME"));
    }
}

#[test]
fn completions_are_scripts_of_their_shell() {
    let world = World::bare();
    for shell in ["bash", "zsh", "fish", "elvish", "powershell"] {
        let script = world.run(args!["completions", shell]).ok().out;
        for command in COMMANDS {
            assert!(script.contains(command), "{shell}: {command}");
        }
    }
    let script = world.path("completions");
    std::fs::write(&script, world.run(args!["completions", "bash"]).ok().out).unwrap();
    let asked = ". \"$1\"; COMP_WORDS=(farkeep pu); COMP_CWORD=1; _farkeep farkeep pu farkeep; echo \"${COMPREPLY[@]}\"";
    let replied = crate::world::tools::must(Command::new("bash").args(["-c", asked, "bash"]).arg(&script));
    assert_eq!(replied.trim(), "push");
}

#[test]
fn quiet_prints_nothing_but_errors() {
    let world = World::new();
    world.tree("data").file("a", "one");
    let data = world.path("data");
    let silent = [
        args!["push", &data, "--quiet"],
        args!["verify", "--quiet"],
        args!["snapshots", "--quiet"],
        args!["status", "-q"],
        args!["sync", world.path("copy"), "--from", &world.vault, "--plain-directory", "--quiet"],
        args!["restore", "latest", "--into", world.path("out"), "--identity", &world.identity, "--quiet"],
        args!["try", &data, "--quiet"],
    ];
    for words in silent {
        let run = world.run(words.clone()).ok();
        assert_eq!((run.out.as_str(), run.err.as_str()), ("", ""), "{words:?}");
    }
    // The content of a file is not talk.
    let cat = args!["cat", "latest", data.join("a"), "--identity", &world.identity, "--quiet"];
    assert_eq!(world.run(cat).ok().out, "one");
    let failed = world.run(args!["push", world.path("missing"), "--quiet"]).exits(1);
    assert!(failed.out.is_empty() && failed.err.contains("missing"), "{}", failed.err);
    // What was found at exit code 4 shows even so: a nightly timer that is quiet must not hide it.
    flip(&world.objects("packs")[0], 50);
    let alarm = world.run(args!["verify", "--quiet"]).exits(4);
    let pack = world.objects("packs")[0].file_name().unwrap().to_string_lossy().into_owned();
    assert!(alarm.out.is_empty() && alarm.err.contains(&pack), "out {:?} err {:?}", alarm.out, alarm.err);
}

#[test]
fn nothing_for_terminals_goes_into_a_pipe() {
    let world = World::new();
    world.tree("data").odd_names();
    let data = world.path("data");
    let all = [
        args!["push", &data],
        args!["ls", "latest", "--recursive", "--identity", &world.identity],
        args!["ls", "latest", "--recursive", "--long", "--identity", &world.identity],
        args!["find", "*", "--identity", &world.identity],
        args!["verify", "--depth", "opened", "--identity", &world.identity],
        args!["restore", "latest", "--into", world.path("out"), "--dry-run", "--identity", &world.identity],
        args!["ledger", "show", "--identity", &world.identity],
    ];
    for words in all {
        let run = world.run(words.clone()).ok();
        let escapes = |text: &str| text.chars().any(|c| c.is_control() && c != '\n');
        assert!(!escapes(&run.out) && !escapes(&run.err), "{words:?}\n{:?}\n{:?}", run.out, run.err);
    }
}

#[test]
fn verbose_says_what_happens_on_standard_error() {
    let world = World::new();
    world.tree("data").file("a", "one");
    let run = world.run(args!["push", world.path("data"), "--json", "-v"]).ok();
    assert_eq!(run.out.lines().count(), 1, "{}", run.out);
}
