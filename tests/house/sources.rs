//! The shape of the sources: size, first line, direction of imports, who names which crate.

use crate::{Text, none, rust_files};

const FILE_MAX_LINES: usize = 600;
const FUNCTION_MAX_LINES: usize = 120;

#[test]
fn every_source_file_says_first_what_it_is_for() {
    let opens = |text: &Text| text.content.starts_with("//!") || text.content.starts_with("#![doc = include_str!");
    let silent = |text: Text| (!opens(&text)).then(|| text.at(1));
    let found: Vec<String> = ["src", "tests"].into_iter().flat_map(rust_files).filter_map(silent).collect();
    none("files that do not open with //!", &found);
}

#[test]
fn no_file_is_longer_than_a_reader_takes_in() {
    let long = |text: Text| {
        let lines = text.content.lines().count();
        (lines > FILE_MAX_LINES).then(|| format!("{}: {lines} lines", text.path.display()))
    };
    let found: Vec<String> = ["src", "tests"].into_iter().flat_map(rust_files).filter_map(long).collect();
    none("files of more than 600 lines", &found);
}

#[test]
fn no_function_is_longer_than_two_screens() {
    let mut found = Vec::new();
    let mut counted = 0;
    for text in ["src", "tests"].into_iter().flat_map(rust_files) {
        for (start, lines) in functions(&text) {
            counted += 1;
            if lines > FUNCTION_MAX_LINES {
                found.push(format!("{}: {lines} lines", text.at(start)));
            }
        }
    }
    assert!(counted > 1000, "only {counted} functions were found");
    none("functions of more than 120 lines", &found);
}

/// First line and number of lines of each function: rustfmt puts the last brace under the first word.
fn functions(text: &Text) -> Vec<(usize, usize)> {
    let lines: Vec<&str> = text.content.lines().collect();
    let indent = |line: &str| line.len() - line.trim_start().len();
    let mut found = Vec::new();
    for (index, line) in lines.iter().enumerate() {
        let words = line.trim_start();
        if words.starts_with("//") || !(words.starts_with("fn ") || words.contains(" fn ") && words.contains('(')) {
            continue;
        }
        let mut signature = (index..lines.len()).take_while(|n| *n == index || indent(lines[*n]) >= indent(line));
        let body = signature.find(|n| lines[*n].ends_with('{') || lines[*n].ends_with(';') || lines[*n].ends_with('}'));
        let Some(body) = body.filter(|n| lines[*n].ends_with('{')) else { continue };
        let ends = |n: &usize| lines[*n].trim_end() == format!("{}}}", " ".repeat(indent(line)));
        let last = (body + 1..lines.len()).find(ends).unwrap_or(lines.len() - 1);
        found.push((index + 1, last - index + 1));
    }
    found
}

/// The floors as `src/lib.rs` lists them.
pub fn floors() -> Vec<String> {
    let lib = Text::read("src/lib.rs");
    let name = |line: &str| line.strip_prefix("pub mod ")?.strip_suffix(';').map(str::to_owned);
    let floors: Vec<String> = lib.content.lines().filter_map(name).collect();
    assert!(floors.len() > 8 && floors[0] == "model", "{floors:?}");
    floors
}

#[test]
fn modules_import_only_downwards() {
    let floors = floors();
    let floor_of = |name: &str| floors.iter().position(|floor| floor == name);
    let mut found = Vec::new();
    let mut imports = 0;
    for text in rust_files("src") {
        let own = text.path.components().nth(1).unwrap().as_os_str().to_str().unwrap();
        // main.rs and lib.rs stand above all floors.
        let Some(own_floor) = floor_of(own) else { continue };
        for (number, line) in text.lines().filter(|(_, line)| !line.trim_start().starts_with("//")) {
            for rest in line.split("crate::").skip(1) {
                let name: String = rest.chars().take_while(|c| c.is_alphanumeric() || *c == '_').collect();
                imports += 1;
                match floor_of(&name) {
                    Some(floor) if floor <= own_floor => {}
                    Some(_) => found.push(format!("{}: {own} imports {name}, which lies above it", text.at(number))),
                    None => found.push(format!("{}: crate::{name} is no floor", text.at(number))),
                }
            }
        }
    }
    assert!(imports > 500, "only {imports} imports were found");
    none("imports that lead up", &found);
}

#[test]
fn foreign_crates_are_named_on_their_floor_only() {
    // A crate, and where it may be named.
    let owners: [(&str, &[&str]); 14] = [
        ("rusqlite", &["src/source/sqlite"]),
        ("reed_solomon_simd", &["src/codec"]),
        ("age", &["src/crypto"]),
        ("age_core", &["src/crypto"]),
        ("blake3", &["src/crypto"]),
        ("ssh_key", &["src/crypto", "src/store/sftp"]),
        ("russh", &["src/store/sftp"]),
        ("tokio", &["src/store/sftp"]),
        ("zstd", &["src/codec", "src/vault"]),
        ("mincdc", &["src/codec"]),
        ("bson", &["src/source/mongodb"]),
        ("ureq", &["src/source/http.rs"]),
        ("clap", &["src/cli"]),
        ("toml", &["src/cli"]),
    ];
    let mut found = Vec::new();
    for text in rust_files("src") {
        for (number, line) in text.lines().filter(|(_, line)| !line.trim_start().starts_with("//")) {
            for (name, folders) in owners {
                let named = line.match_indices(&format!("{name}::")).any(|(at, _)| {
                    let before = line[..at].chars().next_back();
                    !before.is_some_and(|c| c.is_alphanumeric() || c == '_' || c == ':')
                });
                if named && !folders.iter().any(|folder| text.path.starts_with(folder)) {
                    found.push(format!("{}: {name}", text.at(number)));
                }
            }
        }
    }
    none("crates named outside their floor", &found);
}

#[test]
fn tests_neither_wait_for_luck_nor_are_switched_off() {
    let mut found = Vec::new();
    for text in rust_files("tests").into_iter().chain(rust_files("src")) {
        for (number, line) in text.lines() {
            if line.trim_start().starts_with("#[ignore") {
                found.push(text.at(number));
            }
        }
    }
    none("tests that are switched off", &found);
}

#[test]
fn the_program_has_one_set_of_cryptographic_primitives_for_its_connections() {
    let lock = std::fs::read_to_string(concat!(env!("CARGO_MANIFEST_DIR"), "/Cargo.lock")).unwrap();
    assert!(lock.contains("name = \"ring\""), "SSH and TLS use ring");
    for other in ["aws-lc-rs", "aws-lc-sys", "openssl-sys"] {
        assert!(!lock.contains(&format!("name = \"{other}\"")), "{other} came in beside ring");
    }
}
