//! Presets: commented jobs for systems that many people run. They become part of the configuration, to be read and adapted.

use crate::cli::commands::init::write_whole;
use crate::cli::config::Config;
use crate::cli::{Outcome, Session};
use crate::ops::{Exit, OpError};

/// Their names.
pub const NAMES: [&str; 3] = ["opencrvs", "opencrvs-direct", "stackstate"];

/// The text of a preset.
fn text(name: &str) -> Option<&'static str> {
    match name {
        "opencrvs" => Some(include_str!("opencrvs.toml")),
        "opencrvs-direct" => Some(include_str!("opencrvs-direct.toml")),
        "stackstate" => Some(include_str!("stackstate.toml")),
        _ => None,
    }
}

/// Adds a preset at the end of the configuration; what stands there stays as it is.
///
/// # Errors
/// When there is a job of its name, or the file cannot be written.
pub fn add(name: &str, session: &Session) -> Result<Outcome, OpError> {
    let preset = text(name).ok_or_else(|| OpError::Usage(format!("there is no preset {name:?}")))?;
    let path = &session.config_path;
    if session.config.jobs.contains_key(name) {
        return Err(OpError::Usage(format!("{}: there is a [job.{name}] already", path.display())));
    }
    let before = std::fs::read_to_string(path).unwrap_or_default();
    let gap = if before.is_empty() { "" } else { "\n" };
    let whole = format!("{}{gap}{preset}", if before.is_empty() || before.ends_with('\n') { before } else { before + "\n" });
    // What cannot be read must not replace what can.
    Config::parse(&whole).map_err(|problems| OpError::NotDone(format!("{}: {}", path.display(), problems.join("; "))))?;
    let failed = |e: std::io::Error| OpError::NotDone(format!("{}: {e}", path.display()));
    if let Some(dir) = path.parent().filter(|dir| !dir.as_os_str().is_empty()) {
        std::fs::create_dir_all(dir).map_err(failed)?;
    }
    write_whole(path, &whole).map_err(failed)?;
    let shown = path.display();
    let text = format!("job {name} was added to {shown}: read it, adapt it, and try it with: farkeep push {name}\n");
    let value = serde_json::json!({ "preset": name, "config": path });
    Ok(Outcome::new(Exit::Done, text, &value))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_preset_is_a_configuration_without_a_mistake() {
        for name in NAMES {
            let config = Config::parse(text(name).unwrap_or_default()).unwrap_or_else(|e| panic!("{name}: {e:#?}"));
            assert!(config.jobs.contains_key(name), "{name}");
            // Each says how long its nights stay and when it runs.
            for line in ["\nkeep     = { daily = 7, weekly = 8, min_snapshots = 3 }\n", "# cron: ", "# systemd: OnCalendar="]
            {
                assert!(text(name).is_some_and(|text| text.contains(line)), "{name}: {line}");
            }
        }
    }
}
