//! Words that no file of the repository holds.

use crate::{Text, none, repository, texts};

/// Notes to oneself belong into the work, not into the text. Spelled in two halves, or this file would hold them.
const NOTES: [&str; 5] =
    [concat!("TO", "DO"), concat!("FIX", "ME"), concat!("XX", "X"), concat!("HA", "CK"), concat!("WI", "P:")];

fn lines_with(texts: &[Text], is_wrong: impl Fn(&Text, &str) -> bool) -> Vec<String> {
    let mut found = Vec::new();
    for text in texts {
        for (number, line) in text.lines().filter(|(_, line)| is_wrong(text, line)) {
            found.push(format!("{}: {}", text.at(number), line.trim()));
        }
    }
    found
}

/// Whether `line` holds `word` with nothing alphanumeric on either side.
fn holds_word(line: &str, word: &str) -> bool {
    let is_letter = |c: char| c.is_alphanumeric() || c == '_';
    line.match_indices(word)
        .any(|(at, _)| !line[..at].ends_with(is_letter) && !line[at + word.len()..].starts_with(is_letter))
}

#[test]
fn nothing_is_left_for_later_in_the_text() {
    let found = lines_with(&texts(), |_, line| NOTES.iter().any(|note| holds_word(line, note)));
    none("notes to oneself", &found);
}

#[test]
fn no_text_names_the_place_where_it_was_written() {
    // Where this checkout lies, the home of whoever tests it, and the homes of others but for the one of examples.
    let here = repository().to_str().unwrap().to_owned();
    let home = std::env::var("HOME").unwrap_or_default();
    let example = concat!("/ho", "me/me");
    let deep = |path: &str| path.matches('/').count() > 1;
    let places: Vec<String> =
        [here, home, concat!("/ho", "me/").into(), concat!("/Us", "ers/").into(), concat!("C:", "\\").into()]
            .into_iter()
            .filter(|place| deep(place) || place.ends_with(['/', '\\']) && place.len() > 1)
            .collect();
    let found = lines_with(&texts(), |_, line| {
        let line = line.replace(example, "");
        places.iter().any(|place| line.contains(place.as_str()))
    });
    none("local paths", &found);
}

#[test]
fn no_text_refers_to_a_numbered_note_that_the_reader_does_not_have() {
    let numbered = |line: &str, word: &str| {
        line.to_lowercase().match_indices(word).any(|(at, _)| {
            let rest = line[at + word.len()..].trim_start_matches([' ', '#', ':']);
            rest.len() < line.len() - at - word.len() && rest.starts_with(|c: char| c.is_ascii_digit())
        })
    };
    let words = [concat!("iss", "ue"), concat!("tick", "et no"), concat!("pull req", "uest"), concat!("merge req", "uest")];
    let found = lines_with(&texts(), |_, line| words.iter().any(|word| numbered(line, word)));
    none("numbers of notes", &found);
}

#[test]
fn every_dependency_comes_from_the_public_registry() {
    let lock = Text::read("Cargo.lock");
    let public = "source = \"registry+https://github.com/rust-lang/crates.io-index\"";
    let found = lines_with(&[lock], |_, line| line.starts_with("source = ") && line != public);
    none("other registries", &found);
}

#[test]
fn no_private_key_lies_in_the_repository() {
    let marks =
        [concat!("AGE-SECRET-", "KEY-1Q"), concat!("BEGIN OPENSSH ", "PRIVATE KEY"), concat!("BEGIN ", "PRIVATE KEY")];
    let found = lines_with(&texts(), |_, line| marks.iter().any(|mark| line.contains(mark)));
    none("private keys", &found);
}
