//! `kind = "command"`

use crate::cli::config::section::Section;
use crate::source::command::CommandConfig;

/// Reads its keys.
pub fn read(section: &Section<'_>, name: &str) -> Option<CommandConfig> {
    let argv = section.texts("command");
    if argv.is_empty() {
        section.wrong("command is missing: a list of program and arguments");
    }
    let filename = section.text("filename").unwrap_or_else(|| "stdout".to_owned());
    if filename.is_empty() || filename.contains('/') || filename.starts_with('.') {
        section.wrong(format!("filename {filename:?}: a plain name without /"));
    }
    Some(CommandConfig { name: name.to_owned(), argv, filename })
}
