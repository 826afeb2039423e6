//! The machine's local memory: what makes the next push quick, what a crash leaves to be finished, and what was seen before.
//!
//! `keys/` and `ratchet/`, which also holds the trust records and sealed key files that were seen, must be kept; `ledger/`,
//! `outbox/` and `journal/` are kept until shipped; `cache/` may be deleted at any time. Losing any of it costs time or a step
//! of `init --adopt`, never data: the vault is never judged by what lies here.

use std::fs::{self, File, OpenOptions};
use std::io::{self, Write};
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::time::Duration;

use rustix::fs::FlockOperation;

use crate::crypto::hash::{CHECKSUM_BYTES, checksum};
use crate::model::ids::VaultId;

pub mod bases;
pub mod file_cache;
pub mod index;
pub mod journal;
pub mod keys;
pub mod probes;
pub mod ratchet;
pub mod shipped;
pub mod unconfirmed;

/// What was not finished for so long never will be.
const ABANDONED_AFTER: Duration = Duration::from_secs(24 * 3600);

/// What went wrong with a file of the state directory.
#[derive(Debug, thiserror::Error)]
pub enum StateError {
    /// Another process holds the lock.
    #[error("{0}: another farkeep is at work with this state directory")]
    Busy(PathBuf),
    /// A file could not be read or written.
    #[error("{path}: {source}")]
    Io {
        /// The file.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// A file holds what it should not.
    #[error("{path}: {why}")]
    Invalid {
        /// The file.
        path: PathBuf,
        /// What was wrong.
        why: String,
    },
    /// A file of a cache is not as it was written. It was put aside: the next attempt makes it anew.
    #[error("{path}: {why}; this machine's cache rotted, not the vault: the same command again makes it anew")]
    Rotten {
        /// The file.
        path: PathBuf,
        /// What was wrong.
        why: String,
    },
}

impl StateError {
    pub(crate) fn io(path: &Path) -> impl FnOnce(io::Error) -> Self {
        let path = path.to_owned();
        move |source| Self::Io { path, source }
    }

    pub(crate) fn invalid(path: &Path, why: impl std::fmt::Display) -> Self {
        Self::Invalid { path: path.to_owned(), why: why.to_string() }
    }
}

/// Reads what [`write_summed`] wrote; none when it is not there, rotted, or is something else. For notes that may be lost.
///
/// # Errors
/// When the file is there and cannot be read.
pub fn read_summed<T: serde::de::DeserializeOwned>(path: &Path, max_bytes: u64) -> Result<Option<T>, StateError> {
    let bytes = read_if_there(path, max_bytes)?.unwrap_or_default();
    let whole = bytes.split_last_chunk::<CHECKSUM_BYTES>().filter(|(json, sum)| checksum(json) == **sum);
    Ok(whole.and_then(|(json, _)| serde_json::from_slice(json).ok()))
}

/// Writes a value as JSON with its checksum behind it.
///
/// # Errors
/// When it cannot be written.
pub fn write_summed(path: &Path, value: &impl serde::Serialize) -> Result<(), StateError> {
    let mut bytes = serde_json::to_vec(value).map_err(|e| StateError::invalid(path, e))?;
    bytes.extend_from_slice(&checksum(&bytes));
    write_durably(path, &bytes)
}

/// The state directory of one vault on one machine.
#[derive(Debug, Clone)]
pub struct StateDir {
    root: PathBuf,
    vault: VaultId,
}

/// The directories of the state, each with one of each vault in it.
const PARTS: [&str; 8] = ["keys", "ratchet", "ledger", "journal", "outbox", "hooks", "scratch", "cache"];

impl StateDir {
    /// The part of the state directory `root` that belongs to `vault`; made when it is not there.
    ///
    /// # Errors
    /// When it cannot be made.
    pub fn open(root: &Path, vault: VaultId) -> Result<Self, StateError> {
        let state = Self { root: root.to_owned(), vault };
        for dir in [state.keys(), state.ratchet(), state.ledger(), state.journal(), state.outbox(), state.cache()] {
            make_private_dir(&dir)?;
        }
        Ok(state)
    }

    fn part(&self, name: &str) -> PathBuf {
        self.root.join(name).join(self.vault.to_string())
    }

    /// Private keys: 0700, kept.
    #[must_use]
    pub fn keys(&self) -> PathBuf {
        self.part("keys")
    }

    /// The newest records ever seen: kept.
    #[must_use]
    pub fn ratchet(&self) -> PathBuf {
        self.part("ratchet")
    }

    /// This machine's own records: kept.
    #[must_use]
    pub fn ledger(&self) -> PathBuf {
        self.part("ledger")
    }

    /// What a push has sealed and not yet committed.
    #[must_use]
    pub fn journal(&self) -> PathBuf {
        self.part("journal")
    }

    /// Sealed objects that a store still misses.
    #[must_use]
    pub fn outbox(&self) -> PathBuf {
        self.part("outbox")
    }

    /// What is still to be undone of hooks that ran: kept.
    #[must_use]
    pub fn hooks(&self) -> PathBuf {
        self.part("hooks")
    }

    /// Plaintext that a run works with: emptied before and after it.
    #[must_use]
    pub fn scratch(&self) -> PathBuf {
        self.part("scratch")
    }

    /// Index, file cache, base cache: may go at any time.
    #[must_use]
    pub fn cache(&self) -> PathBuf {
        self.part("cache")
    }

    /// Removes all that belongs to this vault: for one that never came to be.
    pub fn remove(&self) {
        for part in PARTS {
            let _ = fs::remove_dir_all(self.part(part));
        }
    }

    /// Takes the lock that one push, sync or restore of this vault on this machine holds.
    ///
    /// # Errors
    /// [`StateError::Busy`] when another process has it.
    pub fn lock(&self) -> Result<StateLock, StateError> {
        let path = self.ratchet().join("lock");
        let file = OpenOptions::new().create(true).truncate(false).write(true).mode(0o600).open(&path);
        let file = file.map_err(StateError::io(&path))?;
        match rustix::fs::flock(&file, FlockOperation::NonBlockingLockExclusive) {
            Ok(()) => Ok(StateLock { _file: file }),
            Err(rustix::io::Errno::WOULDBLOCK) => Err(StateError::Busy(path)),
            Err(e) => Err(StateError::Io { path, source: e.into() }),
        }
    }
}

/// Held while a command works with the state; the kernel gives it back when the process ends, however it ends.
#[derive(Debug)]
pub struct StateLock {
    _file: File,
}

/// Makes a directory, with its parents, that only its owner may enter.
///
/// # Errors
/// When it cannot be made.
pub fn make_private_dir(path: &Path) -> Result<(), StateError> {
    fs::DirBuilder::new().recursive(true).mode(0o700).create(path).map_err(StateError::io(path))
}

/// Writes a file whole and durable, in place of what was there: temporary, fsync, rename, fsync of the directory.
///
/// # Errors
/// When any step fails; what was there then stays.
pub fn write_durably(path: &Path, bytes: &[u8]) -> Result<(), StateError> {
    let dir = path.parent().unwrap_or(Path::new("."));
    let mut name = path.file_name().unwrap_or_default().to_owned();
    name.push(format!(".{}.tmp", std::process::id()));
    let temporary = dir.join(name);
    let write = || -> io::Result<()> {
        let mut file = OpenOptions::new().create(true).truncate(true).write(true).mode(0o600).open(&temporary)?;
        file.write_all(bytes)?;
        file.sync_all()?;
        fs::rename(&temporary, path)?;
        File::open(dir)?.sync_all()
    };
    write().map_err(|source| {
        let _ = fs::remove_file(&temporary);
        StateError::Io { path: path.to_owned(), source }
    })
}

/// Writes a file of a cache whole, in place of what was there. A power cut may lose it, which costs time alone.
pub fn write_cached(path: &Path, bytes: &[u8]) {
    let mut temporary = path.as_os_str().to_owned();
    temporary.push(format!(".{}.tmp", std::process::id()));
    let temporary = PathBuf::from(temporary);
    let write = || -> io::Result<()> {
        OpenOptions::new().create(true).truncate(true).write(true).mode(0o600).open(&temporary)?.write_all(bytes)?;
        fs::rename(&temporary, path)
    };
    if let Err(error) = write() {
        tracing::debug!(path = %path.display(), %error, "not cached");
        let _ = fs::remove_file(&temporary);
    }
}

/// Removes what runs that were killed left half written in the cache `dir`. What is younger than a day may be somebody's who
/// is at work.
pub fn remove_abandoned(dir: &Path) {
    let is_old = |entry: &fs::DirEntry| {
        let age = entry.metadata().ok().and_then(|meta| meta.modified().ok()?.elapsed().ok());
        age.is_some_and(|age| age >= ABANDONED_AFTER)
    };
    for entry in fs::read_dir(dir).into_iter().flatten().flatten() {
        if entry.path().extension().is_some_and(|end| end == "tmp") && is_old(&entry) {
            let _ = fs::remove_file(entry.path());
        }
    }
}

/// Reads a whole file of at most `limit` bytes; none when it is not there.
///
/// # Errors
/// When it cannot be read or is larger.
pub fn read_if_there(path: &Path, limit: u64) -> Result<Option<Vec<u8>>, StateError> {
    let file = match File::open(path) {
        Ok(file) => file,
        Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(None),
        Err(e) => return Err(StateError::io(path)(e)),
    };
    let mut bytes = Vec::new();
    io::Read::read_to_end(&mut io::Read::take(file, limit + 1), &mut bytes).map_err(StateError::io(path))?;
    if bytes.len() as u64 > limit {
        return Err(StateError::invalid(path, format!("over {limit} bytes")));
    }
    Ok(Some(bytes))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_a_killed_run_left_goes_after_a_day() {
        let dir = tempfile::tempdir().unwrap_or_else(|e| panic!("{e}"));
        let long_ago = std::time::SystemTime::now() - ABANDONED_AFTER * 2;
        for (name, is_old) in [("files-a.1.tmp", true), ("files-b.2.tmp", false), ("files-a", true)] {
            let file = File::create(dir.path().join(name)).unwrap_or_else(|e| panic!("{e}"));
            if is_old {
                file.set_modified(long_ago).unwrap_or_else(|e| panic!("{e}"));
            }
        }
        remove_abandoned(dir.path());
        let exists = |name: &str| dir.path().join(name).exists();
        assert!(!exists("files-a.1.tmp") && exists("files-b.2.tmp") && exists("files-a"));
    }

    #[test]
    fn one_state_directory_serves_one_process_at_a_time() {
        let dir = tempfile::tempdir().unwrap_or_else(|e| panic!("{e}"));
        let state = StateDir::open(dir.path(), VaultId([1; 16])).unwrap_or_else(|e| panic!("{e}"));
        let lock = state.lock().unwrap_or_else(|e| panic!("{e}"));
        assert!(matches!(state.lock(), Err(StateError::Busy(_))));
        drop(lock);
        assert!(state.lock().is_ok());
    }

    #[test]
    fn a_durable_write_replaces_the_whole_file() {
        let dir = tempfile::tempdir().unwrap_or_else(|e| panic!("{e}"));
        let path = dir.path().join("x");
        assert_eq!(read_if_there(&path, 10).ok(), Some(None));
        for text in ["first", "2nd"] {
            write_durably(&path, text.as_bytes()).unwrap_or_else(|e| panic!("{e}"));
            assert_eq!(read_if_there(&path, 10).ok().flatten().as_deref(), Some(text.as_bytes()));
        }
        assert!(read_if_there(&path, 2).is_err());
        assert_eq!(fs::read_dir(dir.path()).map(Iterator::count).ok(), Some(1));
    }
}
