//! `kind = "command"` and `kind = "stackgraph"`

use std::path::PathBuf;

use regex::Regex;

use crate::cli::config::section::Section;
use crate::source::command::{CommandConfig, CommandRestore, LogRule};

/// How long a log may be behind the program's end.
const LOG_WAIT_SECS: u64 = 60;
/// Where StackState's packages put the program and its log.
const STACKGRAPH_PROGRAM: &str = "/opt/stackstate/bin/sts-standalone.sh";
const STACKGRAPH_LOG: &str = "/opt/stackstate/var/log/stackstate.log";
/// What its import logs when it did not work; the second is its refusal to import into a graph that holds something.
const STACKGRAPH_FAILURE: &str = r"\bERROR\b|Restore isn't possible in a non empty";
/// Its documentation tells to ignore these.
const STACKGRAPH_NOISE: &str = r"\bWARNING:";

/// Reads the keys of a command.
pub fn read(section: &Section<'_>, name: &str) -> Option<CommandConfig> {
    let argv = section.argv("command");
    if section.value("command").is_none() {
        section.wrong("command is missing: a list of program and arguments");
    }
    let filename = section.text("filename").unwrap_or_else(|| "stdout".to_owned());
    if filename.is_empty() || filename.contains('/') || filename.starts_with('.') {
        section.wrong(format!("filename {filename:?}: a plain name without /"));
    }
    let restore = section.argv("restore_command");
    let log = log_rule(section, None, None, &[]);
    if restore.is_empty() && log.is_some() {
        section.wrong("log judges the restore_command, and there is none");
    }
    let restore = (!restore.is_empty()).then_some(CommandRestore { argv: restore, log });
    Some(common(section, name, "command", argv, filename, restore))
}

/// Reads the keys of a StackGraph export.
pub fn read_stackgraph(section: &Section<'_>, name: &str) -> Option<CommandConfig> {
    let program = section.text("program").unwrap_or_else(|| STACKGRAPH_PROGRAM.to_owned());
    let graph = section.text("graph").unwrap_or_else(|| "default".to_owned());
    let argv = |verb: &str, file: &str| -> Vec<String> {
        [&program, verb, "--file", file, "--graph", &graph].into_iter().map(str::to_owned).collect()
    };
    let mut import = argv("import", "{in}");
    if section.flag("allow_non_empty").unwrap_or(false) {
        import.push("-force".to_owned());
    }
    if section.value("success").is_none() {
        section.wrong("success is missing: what the log says when an import was done; its exit code does not tell");
    }
    let log = log_rule(section, Some(STACKGRAPH_LOG), Some(STACKGRAPH_FAILURE), &[STACKGRAPH_NOISE]);
    let restore = Some(CommandRestore { argv: import, log });
    Some(common(section, name, "stackgraph", argv("export", "{out}"), "export.graph".to_owned(), restore))
}

fn common(
    section: &Section<'_>,
    name: &str,
    kind: &'static str,
    argv: Vec<String>,
    filename: String,
    restore: Option<CommandRestore>,
) -> CommandConfig {
    let (user, staging) = (section.text("run_as"), section.text("staging").map(PathBuf::from));
    if user.is_some() && staging.is_none() {
        section.wrong("run_as needs staging: a directory that this user can enter, where its files lie meanwhile");
    }
    let count = section.argv("count");
    CommandConfig { name: name.to_owned(), kind, argv, filename, user, staging, count, restore }
}

/// `log = "/path"` with `success`, `failure`, `ignore` and `log_wait`.
fn log_rule(section: &Section<'_>, path: Option<&str>, failure: Option<&str>, ignore: &[&str]) -> Option<LogRule> {
    let path = section.text("log").or_else(|| path.map(str::to_owned));
    let success = section.parsed("success", Regex::new);
    let failure = section.parsed("failure", Regex::new).or_else(|| failure.and_then(|text| Regex::new(text).ok()));
    let mut ignored = section.texts("ignore");
    if ignored.is_empty() {
        ignored = ignore.iter().map(|text| (*text).to_owned()).collect();
    }
    let wait_secs = section.duration_secs("log_wait").unwrap_or(LOG_WAIT_SECS);
    let mut patterns = Vec::new();
    for text in &ignored {
        match Regex::new(text) {
            Ok(pattern) => patterns.push(pattern),
            Err(error) => section.wrong(format!("ignore: {error}")),
        }
    }
    let path = path?;
    match (success, failure) {
        (Some(success), Some(failure)) => Some(LogRule { path: path.into(), success, failure, ignore: patterns, wait_secs }),
        _ => {
            section.wrong("log needs success and failure: patterns of the lines that tell");
            None
        }
    }
}
