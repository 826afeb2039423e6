//! The one place where concrete stores are chosen.

use std::io::Write;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use super::config::StoreConfig;
use super::passphrase::ask_for_key;
use super::{CANCEL, Session};
use crate::crypto::identity::IdentityFile;
use crate::ledger::RootPin;
use crate::model::drive::DriveName;
use crate::model::rate::Pace;
use crate::model::time::{Clock, SystemClock};
use crate::ops::OpError;
use crate::ops::context::{NamedStore, VaultPin};
use crate::ops::drive::VAULT_DIR;
use crate::store::directory::DirectoryStore;
use crate::store::drive::{System, labels};
use crate::store::sftp::{Rate, RateLimit, SftpOptions, SftpStore, Times};
use crate::store::{Location, PruneStore, StoreError, WriteOnceStore};
use crate::vault::VaultError;

/// Whether a store's directory may be made.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Opening {
    /// It must be there.
    Existing,
    /// It is made when it is missing.
    Create,
    /// It must be there, and a server that does not answer at first is waited for: for work that nobody watches.
    Awaited,
}

/// A store by its name in the configuration, or by its address.
pub fn resolve(session: &Session, text: &str) -> Result<(String, StoreConfig), OpError> {
    if let Some(config) = session.config.stores.get(text) {
        return Ok((text.to_owned(), config.clone()));
    }
    if !text.contains('/') {
        if let Some(location) = drive_location(session, text)? {
            return Ok((location.to_string(), StoreConfig { location: Some(location), ..StoreConfig::default() }));
        }
        let known: Vec<&str> = session.config.stores.keys().map(String::as_str).collect();
        let known = if known.is_empty() { "none".to_owned() } else { known.join(", ") };
        return Err(OpError::Usage(format!(
            "no store {text:?} in the configuration (there are: {known}), and no drive of that name is plugged in; an \
             address has a /"
        )));
    }
    let location: Location = text.parse().map_err(|e| OpError::Usage(format!("{e}")))?;
    // The same place may be configured under a name, with its keys.
    if let Some((name, config)) = session.config.stores.iter().find(|(_, s)| s.location.as_ref() == Some(&location)) {
        return Ok((name.clone(), config.clone()));
    }
    Ok((location.to_string(), StoreConfig { location: Some(location), ..StoreConfig::default() }))
}

/// Where the copy on a drive lies that is plugged in and called `text`; none when there is none.
fn drive_location(session: &Session, text: &str) -> Result<Option<Location>, OpError> {
    let Ok(name) = text.parse::<DriveName>() else { return Ok(None) };
    let mut points = labels::named(&name, session.config.vault, &System::default());
    match (points.pop(), points.pop()) {
        (Some(point), None) => Ok(Some(Location::Directory(point.join(VAULT_DIR)))),
        (Some(one), Some(other)) => Err(OpError::Mismatch(format!(
            "{} and {} both say that they are drive {name}: give the path of the one that is meant",
            other.display(),
            one.display()
        ))),
        (None, _) if session.config.drives.contains_key(&name) => Err(OpError::Vault(VaultError::Absent(format!(
            "drive {name} is not present: no mounted file system carries its label"
        )))),
        (None, _) => Ok(None),
    }
}

/// Opens a store.
pub fn open_store(name: &str, config: &StoreConfig, opening: Opening) -> Result<NamedStore, StoreError> {
    let store: Arc<dyn WriteOnceStore> = match &config.location {
        Some(Location::Directory(path)) => match opening {
            Opening::Existing | Opening::Awaited => Arc::new(DirectoryStore::open(path)?),
            Opening::Create => Arc::new(DirectoryStore::create(path)?),
        },
        Some(Location::Sftp(location)) => {
            let options = sftp_options(name, config);
            let options = if opening == Opening::Awaited { awaiting(name, options) } else { options };
            Arc::new(SftpStore::connect(location, options)?)
        }
        Some(Location::Memory) | None => return Err(StoreError::Unreachable(format!("store {name:?} has no url"))),
    };
    Ok(NamedStore { name: name.to_owned(), store })
}

/// Several stores, as far as they can be opened.
#[derive(Default)]
pub struct Opened {
    /// Those that can.
    pub stores: Vec<NamedStore>,
    /// The others by name, and why they cannot.
    pub missed: Vec<(String, StoreError)>,
}

/// Opens the stores of these names or addresses: one that cannot be had does not keep the others away.
///
/// # Errors
/// When one of them is unknown.
pub fn open_stores(wanted: &[String], opening: Opening, session: &Session) -> Result<Opened, OpError> {
    let mut opened = Opened::default();
    for text in wanted {
        let (name, config) = resolve(session, text)?;
        match open_store(&name, &config, opening) {
            Ok(store) => opened.stores.push(store),
            Err(error) => opened.missed.push((name, error)),
        }
    }
    Ok(opened)
}

/// Opens a store from which objects may be removed. Only prune does.
pub fn open_prune_store(name: &str, config: &StoreConfig) -> Result<Arc<dyn PruneStore>, StoreError> {
    match &config.location {
        Some(Location::Directory(path)) => Ok(Arc::new(DirectoryStore::open(path)?)),
        Some(Location::Sftp(location)) => Ok(Arc::new(SftpStore::connect(location, sftp_options(name, config))?)),
        Some(Location::Memory) | None => Err(StoreError::Unreachable(format!("store {name:?} has no url"))),
    }
}

/// How to reach an SFTP account, from its configuration.
fn sftp_options(name: &str, config: &StoreConfig) -> SftpOptions {
    let default = SftpOptions::default();
    let mut times = default.times;
    if let Some(secs) = config.timeout_secs {
        times.silence = Duration::from_secs(secs);
        times.unacknowledged = times.unacknowledged.min(times.silence);
        // Nobody who gives up on a silent server sooner wants to wait longer for one that is not there.
        times.connect = times.connect.min(times.silence);
        times.login = times.login.min(times.silence);
        times.first_contact = times.first_contact.min(times.silence);
        times.retry_budget = times.retry_budget.min(times.silence);
    }
    SftpOptions {
        key_files: config.ssh_key.iter().cloned().collect(),
        passphrase: Some(Arc::new(ask_for_key)),
        host_keys: config.host_keys.clone(),
        connections: config.connections.unwrap_or(default.connections),
        upload_limit: (!config.pace.is_free()).then(|| sending(name, config.pace.clone())),
        download_limit: (!config.pace.rules.is_empty()).then(|| receiving(config.pace.clone())),
        times,
        ..default
    }
}

/// The same for work that nobody watches: a server that is just starting, or a network that is not up yet, is waited for as
/// long as one that goes away later, and what is waited for is said at once.
fn awaiting(name: &str, options: SftpOptions) -> SftpOptions {
    let name = name.to_owned();
    let tell = move |error: &StoreError, most: Duration| {
        let _ = writeln!(std::io::stderr().lock(), "farkeep: {name}: {error}; trying again for {} s", most.as_secs());
    };
    let times = Times { first_contact: options.times.retry_budget, ..options.times };
    SftpOptions { waiting: Some(Arc::new(tell)), times, ..options }
}

/// How fast a store may be sent to right now. A pause is announced once, since nothing else tells it from a stuck line.
fn sending(name: &str, pace: Pace) -> RateLimit {
    let (name, announced) = (name.to_owned(), AtomicBool::new(false));
    Arc::new(move || {
        let now = SystemClock.now();
        if pace.is_open(now) {
            announced.store(false, Ordering::Relaxed);
            pace.limit(now).map_or(Rate::Free, Rate::Limited)
        } else if CANCEL.load(Ordering::Relaxed) {
            Rate::Stopped
        } else {
            if !announced.swap(true, Ordering::Relaxed) {
                let windows: Vec<String> = pace.windows.iter().map(ToString::to_string).collect();
                let _ = writeln!(std::io::stderr().lock(), "farkeep: {name}: waiting for its window {}", windows.join(", "));
            }
            Rate::Paused
        }
    })
}

/// The same for what comes from a store: a restore is never made to wait for the night.
fn receiving(pace: Pace) -> RateLimit {
    Arc::new(move || pace.limit(SystemClock.now()).map_or(Rate::Free, Rate::Limited))
}

/// The vault and root of the configuration.
pub fn configured_pin(session: &Session) -> Result<VaultPin, OpError> {
    match (&session.config.vault, &session.config.root) {
        (vault, Some(root)) => Ok(VaultPin { vault: *vault, root: root.clone() }),
        _ if !session.config_path.exists() => Err(OpError::Usage(format!(
            "{}: there is no such configuration; `farkeep init` writes one, --config or FARKEEP_CONFIG names another",
            session.config_path.display()
        ))),
        _ => Err(OpError::Usage(format!(
            "{}: no [vault] with id and root; `farkeep init` writes it",
            session.config_path.display()
        ))),
    }
}

/// Whom to trust: what was named, else the configuration, else what an identity file pins. A vault is never its own pin.
pub fn pin(session: &Session, trust: Option<&str>, identities: &[IdentityFile]) -> Result<VaultPin, OpError> {
    if let Some(text) = trust {
        let text = match std::fs::read_to_string(text) {
            Ok(content) => content,
            Err(_) => text.to_owned(),
        };
        let root = RootPin::parse(&text).map_err(|e| {
            OpError::Usage(format!("--trust {}: {e}: name a file .root.pub that is there, or a fingerprint", text.trim()))
        })?;
        return Ok(VaultPin { vault: None, root });
    }
    if session.config.root.is_some() {
        return configured_pin(session);
    }
    let pinned = identities.iter().find_map(|file| file.root.as_ref().map(|root| (root, file.vault.as_ref())));
    match pinned {
        Some((root, vault)) => {
            let root = RootPin::parse(root).map_err(|e| OpError::Usage(format!("root in the identity file: {e}")))?;
            Ok(VaultPin { vault: vault.and_then(|v| v.parse().ok()), root })
        }
        None => Err(OpError::Usage(format!(
            "no pinned root in {}: name it with --trust (a file .root.pub or its fingerprint); a vault is never its own pin",
            session.config_path.display()
        ))),
    }
}

/// The store to read from: what was named, else the only one, else the first that answers.
pub fn reading_store(session: &Session, named: Option<&str>) -> Result<NamedStore, OpError> {
    if let Some(text) = named {
        let (name, config) = resolve(session, text)?;
        return open_store(&name, &config, Opening::Existing).map_err(OpError::from);
    }
    let mut failed = Vec::new();
    for (name, config) in &session.config.stores {
        match open_store(name, config, Opening::Existing) {
            Ok(store) => return Ok(store),
            Err(error) => failed.push((name, error)),
        }
    }
    // A server that is another is graver than one that is away.
    failed.sort_by_key(|(_, error)| !error.is_host_key());
    match failed.as_slice() {
        [] => Err(OpError::Usage("no store: name one with --from, or in the configuration".into())),
        [_] => Err(failed.remove(0).1.into()),
        [(_, first), ..] if first.is_host_key() => Err(failed.remove(0).1.into()),
        several => {
            let each: Vec<String> = several.iter().map(|(name, error)| format!("{name}: {}", error.reason())).collect();
            Err(StoreError::Unreachable(each.join("; ")).into())
        }
    }
}
