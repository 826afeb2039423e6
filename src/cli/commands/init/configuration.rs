//! What `init` reads from the configuration and writes into it.

use std::fmt::Write as _;
use std::path::Path;

use super::Args;
use crate::cli::Session;
use crate::cli::config::StoreConfig;
use crate::cli::wire::resolve;
use crate::ops::OpError;

/// The stores that were named, else those of the configuration, with what else was said of them.
pub fn stores(args: &Args, session: &Session) -> Result<Vec<(String, StoreConfig)>, OpError> {
    let mut stores = Vec::new();
    for text in &args.store {
        let (name, mut config) = resolve(session, text)?;
        if let Some(key) = &args.ssh_key {
            config.ssh_key = Some(std::path::absolute(key).map_err(|e| OpError::Usage(format!("{}: {e}", key.display())))?);
        }
        config.host_keys.extend(args.host_key.iter().cloned());
        let named = session.config.stores.contains_key(&name);
        stores.push((if named { name } else { new_name(&stores) }, config));
    }
    if stores.is_empty() {
        stores.extend(session.config.stores.iter().map(|(name, config)| (name.clone(), config.clone())));
    }
    if stores.is_empty() {
        return Err(OpError::Usage(
            "no store: name one with --store URL, or write [store.NAME] into the configuration".into(),
        ));
    }
    Ok(stores)
}

fn new_name(taken: &[(String, StoreConfig)]) -> String {
    match taken.len() {
        0 => "main".to_owned(),
        n => format!("store{}", n + 1),
    }
}

/// Adds the vault, where it is not named yet, and stores that are new, at the end of the configuration, and what the machine
/// was called before at its beginning; what stands there stays as it is.
pub fn write(
    session: &Session,
    stores: &[(String, StoreConfig)],
    vault: &str,
    root: &str,
    host: Option<&str>,
) -> Result<(), OpError> {
    let path = &session.config_path;
    let mut text = std::fs::read_to_string(path).unwrap_or_default();
    if !text.is_empty() && !text.ends_with('\n') {
        text.push('\n');
    }
    if !text.is_empty() {
        text.push('\n');
    }
    if let Some(host) = host {
        text = format!("host = {}\n\n{text}", quoted(host));
    }
    if session.config.vault.is_none() {
        let _ = writeln!(text, "[vault]\nid   = \"{vault}\"\nroot = \"{root}\"");
    }
    for (name, config) in stores.iter().filter(|(name, _)| !session.config.stores.contains_key(name)) {
        let Some(location) = &config.location else { continue };
        let _ = writeln!(text, "\n[store.{name}]\nurl = {}", quoted(&location.to_string()));
        if !config.host_keys.is_empty() {
            let keys: Vec<String> = config.host_keys.iter().map(|key| quoted(key)).collect();
            let _ = writeln!(text, "host_key = [{}]", keys.join(", "));
        }
        if let Some(key) = &config.ssh_key {
            let _ = writeln!(text, "ssh_key = {}", quoted(&key.display().to_string()));
        }
    }
    if let Some(dir) = path.parent().filter(|dir| !dir.as_os_str().is_empty()) {
        std::fs::create_dir_all(dir).map_err(|e| OpError::NotDone(format!("{}: {e}", dir.display())))?;
    }
    write_whole(path, &text).map_err(|e| OpError::NotDone(format!("{}: {e}", path.display())))
}

/// A text as a TOML string.
fn quoted(text: &str) -> String {
    toml::Value::String(text.to_owned()).to_string()
}

/// Writes a file whole or not at all.
pub fn write_whole(path: &Path, text: &str) -> std::io::Result<()> {
    // What is linked to is written, and the link stays.
    let path = &std::fs::canonicalize(path).unwrap_or_else(|_| path.to_owned());
    let mut name = path.as_os_str().to_owned();
    name.push(".new");
    std::fs::write(&name, text)?;
    std::fs::File::open(&name)?.sync_all()?;
    std::fs::rename(&name, path)
}
