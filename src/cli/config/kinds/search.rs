//! `kind = "elasticsearch"` and `kind = "opensearch"`

use std::path::PathBuf;

use super::http;
use crate::cli::config::section::Section;
use crate::source::search::SearchConfig;

/// Snapshots that stay in the repository where nothing else is said: a week of nights.
const DEFAULT_KEEP: i64 = 7;

/// Reads the keys of either.
pub fn read(section: &Section<'_>, name: &str, kind: &'static str) -> Option<SearchConfig> {
    let http = http::read(section, "url");
    let repository = section.text("repository").unwrap_or_else(|| "farkeep".to_owned());
    let location = section.text("location").map(PathBuf::from);
    match &location {
        Some(path) if path.is_absolute() => {}
        Some(path) => section.wrong(format!("location: {} must be an absolute path", path.display())),
        None => section.wrong("location is missing: the repository's directory, which the server must know as path.repo"),
    }
    let indices = section.texts("indices");
    if indices.is_empty() || indices.iter().any(|name| name.is_empty() || name.starts_with('-') || name.contains(',')) {
        section.wrong("indices is missing or empty: a list of names and patterns such as [\"ocrvs-*\"]");
    }
    let keep = section.number("keep_in_repository", 1..=1000).unwrap_or(DEFAULT_KEEP);
    let keep = usize::try_from(keep).unwrap_or(usize::MAX);
    Some(SearchConfig { name: name.to_owned(), kind, http: http?, repository, location: location?, indices, keep })
}
