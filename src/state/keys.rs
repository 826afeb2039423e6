//! The private keys of this machine, one text file each, readable by their owner alone.
//!
//! An agent holds the vault secret of each generation, the index identity and its writer key; a station holds a writer key.
//! One machine may be both: then it has two writer keys, since a restore is no business of the agent's.

use std::path::{Path, PathBuf};

use crate::crypto::CryptoError;
use crate::crypto::hash::checksum;
use crate::crypto::identity::Identity;
use crate::crypto::secret::VaultSecret;
use crate::crypto::sign::SigningKey;
use crate::model::ids::to_hex;
use crate::state::{StateDir, StateError, read_if_there, write_durably};

const AGENT_FILE: &str = "agent-writer";
const STATION_FILE: &str = "station-writer";
const FORMER_STATION: &str = "station-writer.former-";
const CUSTODIAN_FILE: &str = "custodian-writer";
const INDEX_FILE: &str = "index-identity";
/// No key file comes near this.
const KEY_MAX_BYTES: u64 = 16 * 1024;

/// In whose name this machine signs.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Role {
    /// The producing machine: snapshots and what it verifies.
    Agent,
    /// A machine that restores or verifies.
    Station,
    /// Whoever may plan what is pruned, and hold snapshots.
    Custodian,
}

impl Role {
    const fn file(self) -> &'static str {
        match self {
            Self::Agent => AGENT_FILE,
            Self::Station => STATION_FILE,
            Self::Custodian => CUSTODIAN_FILE,
        }
    }
}

/// The key files of one vault on this machine.
#[derive(Debug, Clone)]
pub struct KeyDir {
    dir: PathBuf,
}

impl KeyDir {
    /// The key files in `state`.
    #[must_use]
    pub fn of(state: &StateDir) -> Self {
        Self { dir: state.keys() }
    }

    fn read(&self, name: &str) -> Result<Option<(PathBuf, String)>, StateError> {
        let path = self.dir.join(name);
        let Some(bytes) = read_if_there(&path, KEY_MAX_BYTES)? else { return Ok(None) };
        let text = String::from_utf8(bytes).map_err(|_| StateError::invalid(&path, "not text"))?;
        Ok(Some((path, text)))
    }

    /// The key that signs this machine's records in a role.
    ///
    /// # Errors
    /// When the file cannot be read or holds no key.
    pub fn writer(&self, role: Role) -> Result<Option<SigningKey>, StateError> {
        let Some((path, text)) = self.read(role.file())? else { return Ok(None) };
        let way_out = match role {
            Role::Agent => {
                "put it back from a copy of the state directory, or take new keys (`farkeep init --adopt`); without it this \
                 machine cannot push to this vault"
            }
            Role::Station => "put it back from a copy, or move it away: a new one is made, and enrolled like the first",
            Role::Custodian => {
                "put it back from a copy, or move it away and have another enrolled (`farkeep keys enrol custodian`)"
            }
        };
        let rotten = |error| StateError::invalid(&path, format!("{error}; {way_out}"));
        SigningKey::from_openssh(&text).map(Some).map_err(rotten)
    }

    /// Where the key of a role lies.
    #[must_use]
    pub fn path(&self, role: Role) -> PathBuf {
        self.dir.join(role.file())
    }

    /// Keeps the key that signs this machine's records in a role.
    ///
    /// # Errors
    /// When the file cannot be written.
    pub fn keep_writer(&self, role: Role, key: &SigningKey) -> Result<(), StateError> {
        let path = self.path(role);
        let text = key.to_openssh().map_err(|e| bad(&path, &e))?;
        write_durably(&path, text.as_bytes())
    }

    /// Puts the station's key aside: it signs nothing more, and what it has signed is still to be delivered.
    ///
    /// # Errors
    /// When the file cannot be renamed.
    pub fn put_station_aside(&self) -> Result<(), StateError> {
        let path = self.dir.join(STATION_FILE);
        let free = |number: &u32| self.dir.join(format!("{FORMER_STATION}{number}")).symlink_metadata().is_err();
        let number = (1..).find(free).unwrap_or(u32::MAX);
        std::fs::rename(&path, self.dir.join(format!("{FORMER_STATION}{number}"))).map_err(StateError::io(&path))
    }

    /// The keys that signed as this machine's station before. One that cannot be read is left out: it signs nothing any more,
    /// and nothing may wait for it.
    ///
    /// # Errors
    /// When the directory cannot be read.
    pub fn former_stations(&self) -> Result<Vec<SigningKey>, StateError> {
        let entries = match std::fs::read_dir(&self.dir) {
            Ok(entries) => entries,
            Err(e) if e.kind() == std::io::ErrorKind::NotFound => return Ok(Vec::new()),
            Err(e) => return Err(StateError::io(&self.dir)(e)),
        };
        let names = entries.flatten().filter_map(|entry| entry.file_name().into_string().ok());
        let mut names: Vec<String> = names.filter(|name| name.starts_with(FORMER_STATION)).collect();
        names.sort();
        let read = |name: &String| {
            let text = self.read(name).map_err(|error| error.to_string());
            let key = text.and_then(|text| match text {
                Some((_, text)) => SigningKey::from_openssh(&text).map_err(|error| error.to_string()),
                None => Err("went away".into()),
            });
            key.inspect_err(|error| tracing::warn!(file = %name, %error, "what this key signed is not delivered any more"))
                .ok()
        };
        Ok(names.iter().filter_map(read).collect())
    }

    /// Makes ready what a new agent has, beside the keys of the one before, which stay until
    /// [`take_next_agent`](Self::take_next_agent).
    ///
    /// # Errors
    /// When the files cannot be written.
    pub fn keep_next_agent(&self, key: &SigningKey, index: &Identity) -> Result<(), StateError> {
        let path = self.dir.join(next(AGENT_FILE));
        let text = key.to_openssh().map_err(|e| bad(&path, &e))?;
        write_durably(&path, text.as_bytes())?;
        write_durably(&self.dir.join(next(INDEX_FILE)), index.to_text().as_bytes())
    }

    /// Puts the keys that were made ready in their place.
    ///
    /// # Errors
    /// When the files cannot be renamed.
    pub fn take_next_agent(&self) -> Result<(), StateError> {
        for name in [INDEX_FILE, AGENT_FILE] {
            let path = self.dir.join(name);
            std::fs::rename(self.dir.join(next(name)), &path).map_err(StateError::io(&path))?;
        }
        std::fs::File::open(&self.dir).and_then(|dir| dir.sync_all()).map_err(StateError::io(&self.dir))
    }

    /// The identity that opens index objects and nothing else.
    ///
    /// # Errors
    /// When the file cannot be read or holds no identity.
    pub fn index_identity(&self) -> Result<Option<Identity>, StateError> {
        let Some((path, text)) = self.read(INDEX_FILE)? else { return Ok(None) };
        Identity::parse(&text).map(Some).map_err(|e| bad(&path, &e))
    }

    /// Keeps the index identity.
    ///
    /// # Errors
    /// When the file cannot be written.
    pub fn keep_index_identity(&self, identity: &Identity) -> Result<(), StateError> {
        write_durably(&self.dir.join(INDEX_FILE), identity.to_text().as_bytes())
    }

    /// The vault secret of a generation.
    ///
    /// # Errors
    /// When the file cannot be read or holds no secret.
    pub fn secret(&self, generation: u32) -> Result<Option<VaultSecret>, StateError> {
        let Some((path, text)) = self.read(&format!("secret-{generation}"))? else { return Ok(None) };
        // Any 64 digits are a secret. One that is wrong in a digit would name every chunk so that no reader finds it right.
        let (secret, sum) = text.split_once('\n').unwrap_or((&text, ""));
        if !sum.is_empty() && sum.trim_end() != to_hex(&checksum(secret.as_bytes())) {
            let why = "damaged: nothing is pushed with it, since nobody could restore that; bring it back from a copy of this \
                       directory";
            return Err(StateError::invalid(&path, why));
        }
        VaultSecret::from_text(secret).map(Some).map_err(|e| bad(&path, &e))
    }

    /// Keeps the vault secret of a generation, with a checksum beneath it.
    ///
    /// # Errors
    /// When the file cannot be written.
    pub fn keep_secret(&self, generation: u32, secret: &VaultSecret) -> Result<(), StateError> {
        let mut text = secret.to_text();
        let sum = to_hex(&checksum(text.trim_end().as_bytes()));
        text.push_str(&format!("{sum}\n"));
        write_durably(&self.dir.join(format!("secret-{generation}")), text.as_bytes())
    }
}

fn next(name: &str) -> String {
    format!("{name}.next")
}

fn bad(path: &Path, error: &CryptoError) -> StateError {
    StateError::invalid(path, error)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::ids::VaultId;

    #[test]
    fn a_secret_that_rotted_is_none() {
        let dir = tempfile::tempdir().unwrap();
        let keys = KeyDir::of(&StateDir::open(dir.path(), VaultId([1; 16])).unwrap());
        let secret = VaultSecret::from_text(&"07".repeat(32)).unwrap();
        keys.keep_secret(1, &secret).unwrap();
        assert_eq!(keys.secret(1).unwrap().unwrap().to_text(), secret.to_text());
        let path = keys.dir.join("secret-1");
        let bytes = std::fs::read(&path).unwrap();
        for at in 0..bytes.len() - 1 {
            let mut rotten = bytes.clone();
            rotten[at] ^= 1;
            std::fs::write(&path, rotten).unwrap();
            assert!(keys.secret(1).is_err(), "byte {at}");
        }
        // As it was written before there were checksums.
        std::fs::write(&path, &bytes[..65]).unwrap();
        assert!(keys.secret(1).unwrap().is_some());
    }
}
