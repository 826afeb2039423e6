//! `kind = "files"`

use std::path::PathBuf;

use crate::cli::config::section::Section;
use crate::source::files::{ExcludeRules, FilesConfig};

/// Reads its keys.
pub fn read(section: &Section<'_>, name: &str) -> FilesConfig {
    let roots: Vec<PathBuf> = section.texts("paths").into_iter().map(PathBuf::from).collect();
    if roots.is_empty() {
        section.wrong("paths is missing or empty");
    }
    for root in &roots {
        if !root.is_absolute() || root.components().any(|c| c == std::path::Component::ParentDir) {
            section.wrong(format!("paths: {} must be an absolute path without ..", root.display()));
        }
    }
    let patterns = section.texts("exclude");
    let mut exclude = match ExcludeRules::with_patterns(&patterns) {
        Ok(rules) => rules,
        Err(error) => {
            section.wrong(error);
            ExcludeRules::default()
        }
    };
    exclude.caches = section.flag("exclude_caches").unwrap_or(false);
    exclude.markers = section.texts("exclude_if_present");
    exclude.one_file_system = section.flag("one_file_system").unwrap_or(false);
    exclude.max_file_bytes = section.size("max_file_size");
    if exclude.max_file_bytes == Some(0) {
        section.wrong_key(
            "max_file_size",
            "leaves out every file that holds anything; write such as \"1 GiB\", or leave the key out",
        );
    }
    if exclude.markers.iter().any(|marker| marker.contains('/') || marker == "." || marker == "..") {
        section.wrong_key("exclude_if_present", "marks a directory by the name of a file in it; write one without /");
    }
    FilesConfig { name: name.to_owned(), roots, exclude }
}
