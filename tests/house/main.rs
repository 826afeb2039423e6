//! House rules that a reader relies on, held to by reading the repository's own text: shape of the sources, direction of
//! imports, and documents that say what is so.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::print_stdout,
    clippy::print_stderr,
    missing_docs,
    reason = "tests"
)]

mod documents;
mod programs;
mod schedules;
mod sources;
mod words;
#[path = "../world/mod.rs"]
mod world;

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

/// The repository.
fn repository() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

/// One text file of the repository.
struct Text {
    /// Its path from the repository's root.
    path: PathBuf,
    content: String,
}

impl Text {
    fn read(path: impl AsRef<Path>) -> Self {
        let path = path.as_ref().to_owned();
        let content = fs::read_to_string(repository().join(&path)).unwrap_or_else(|e| panic!("{}: {e}", path.display()));
        Self { path, content }
    }

    /// A place in it, as compilers print it.
    fn at(&self, line: usize) -> String {
        format!("{}:{line}", self.path.display())
    }

    /// Its lines with their numbers, from 1.
    fn lines(&self) -> impl Iterator<Item = (usize, &str)> {
        self.content.lines().enumerate().map(|(index, line)| (index + 1, line))
    }
}

/// Every text file that belongs to the repository: what git knows, and without git all but what is built.
fn texts() -> Vec<Text> {
    let git = Command::new("git")
        .arg("-C")
        .arg(repository())
        .args(["ls-files", "-z", "--cached", "--others", "--exclude-standard"])
        .output();
    let names: Vec<PathBuf> = match git {
        Ok(output) if output.status.success() => {
            String::from_utf8(output.stdout).unwrap().split_terminator('\0').map(PathBuf::from).collect()
        }
        _ => walk(repository()),
    };
    let read = |path: PathBuf| fs::read_to_string(repository().join(&path)).ok().map(|content| Text { path, content });
    let texts: Vec<Text> = names.into_iter().filter_map(read).collect();
    assert!(texts.len() > 100, "only {} texts were found", texts.len());
    texts
}

fn walk(root: &Path) -> Vec<PathBuf> {
    let hidden = |path: &Path| path.file_name().is_some_and(|name| name == "target" || name == ".git");
    let (mut found, mut open) = (Vec::new(), vec![root.to_owned()]);
    while let Some(dir) = open.pop() {
        for entry in fs::read_dir(&dir).unwrap() {
            let path = entry.unwrap().path();
            if path.is_dir() && !hidden(&path) {
                open.push(path);
            } else if path.is_file() {
                found.push(path.strip_prefix(root).unwrap().to_owned());
            }
        }
    }
    found
}

/// The Rust files below one of the folders.
fn rust_files(folder: &str) -> Vec<Text> {
    let is_rust = |text: &Text| text.path.starts_with(folder) && text.path.extension().is_some_and(|e| e == "rs");
    let files: Vec<Text> = texts().into_iter().filter(is_rust).collect();
    assert!(!files.is_empty(), "no file in {folder}");
    files
}

/// Fails with all of `found`, when there is any.
#[track_caller]
fn none(what: &str, found: &[String]) {
    assert!(found.is_empty(), "{what}:\n  {}", found.join("\n  "));
}
