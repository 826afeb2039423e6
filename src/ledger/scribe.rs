//! Whoever signs records on this machine: one key, one chain, every record durable here before it goes anywhere.

use std::collections::BTreeMap;
use std::path::PathBuf;

use serde::Serialize;

use crate::crypto::hash::hash;
use crate::crypto::sign::SigningKey;
use crate::format::record::{Head, RECORD_NAMESPACE, RecordKind, Statement, join, split};
use crate::ledger::LedgerError;
use crate::model::ids::{VaultId, WriterId};
use crate::model::limits::{HEADS_MAX, RECORD_MAX_BYTES};
use crate::model::name::ObjectName;
use crate::model::time::Timestamp;
use crate::state::{StateDir, StateError, read_if_there, write_durably};

/// A signed record, ready to be stored.
#[derive(Debug, Clone)]
pub struct Signed {
    /// Its name.
    pub name: ObjectName,
    /// Its bytes; a retry sends the same.
    pub bytes: Vec<u8>,
    /// Its place in the chain.
    pub head: Head,
    /// What it says.
    pub statement: Statement,
}

/// What each record carries beside its body.
#[derive(Debug, Clone)]
pub struct Context {
    /// The present.
    pub time: Timestamp,
    /// The newest trust record that is known.
    pub trust: Head,
    /// The newest records of other writers.
    pub heads: BTreeMap<WriterId, Head>,
}

/// Why a record could not be written.
#[derive(Debug, thiserror::Error)]
pub enum ScribeError {
    /// The state directory failed.
    #[error(transparent)]
    State(#[from] StateError),
    /// The record could not be made, or the chain is not whole.
    #[error(transparent)]
    Ledger(#[from] LedgerError),
}

/// The writer of this machine.
#[derive(Debug)]
pub struct Scribe {
    key: SigningKey,
    writer: WriterId,
    vault: VaultId,
    dir: PathBuf,
    head: Option<Head>,
}

impl Scribe {
    /// Opens the chain of `key` in the state directory.
    ///
    /// # Errors
    /// When the directory cannot be read, or holds two records of one number.
    pub fn open(state: &StateDir, vault: VaultId, key: SigningKey) -> Result<Self, ScribeError> {
        let writer = key.verifier().writer();
        let mut scribe = Self { key, writer, vault, dir: state.ledger(), head: None };
        scribe.head = scribe.newest()?;
        Ok(scribe)
    }

    /// Who this is.
    #[must_use]
    pub const fn writer(&self) -> WriterId {
        self.writer
    }

    /// The newest record of the chain.
    #[must_use]
    pub const fn head(&self) -> Option<Head> {
        self.head
    }

    /// The names of all records of this writer that lie here, in order.
    ///
    /// # Errors
    /// When the directory cannot be read.
    pub fn names(&self) -> Result<Vec<ObjectName>, ScribeError> {
        let mut names: Vec<ObjectName> = self.files()?.into_iter().map(|(name, _)| name).collect();
        names.sort_by_key(|name| if let ObjectName::Record { seq, .. } = name { *seq } else { 0 });
        Ok(names)
    }

    fn files(&self) -> Result<Vec<(ObjectName, PathBuf)>, ScribeError> {
        let mut found = Vec::new();
        for entry in std::fs::read_dir(&self.dir).map_err(StateError::io(&self.dir))? {
            let entry = entry.map_err(StateError::io(&self.dir))?;
            let parsed = entry.file_name().to_str().and_then(|file| format!("ledger/{file}").parse().ok());
            if let Some(name @ ObjectName::Record { writer, .. }) = parsed
                && writer == self.writer
            {
                found.push((name, entry.path()));
            }
        }
        Ok(found)
    }

    fn newest(&self) -> Result<Option<Head>, ScribeError> {
        let mut newest: Option<Head> = None;
        for name in self.names()? {
            let ObjectName::Record { seq, statement, .. } = name else { continue };
            if let Some(before) = newest
                && before.seq == seq
            {
                let (first, second) = (before.hash.to_string(), statement.to_string());
                return Err(LedgerError::Fork { writer: self.writer, seq, first, second }.into());
            }
            newest = Some(Head { seq, hash: statement });
        }
        Ok(newest)
    }

    /// The stored bytes of one of this writer's records.
    ///
    /// # Errors
    /// When it does not lie here.
    pub fn read(&self, name: &ObjectName) -> Result<Vec<u8>, ScribeError> {
        let path = self.path(name);
        let bytes = read_if_there(&path, RECORD_MAX_BYTES)?;
        bytes.ok_or_else(|| StateError::invalid(&path, "not there").into())
    }

    fn lock(&self) -> Result<std::fs::File, StateError> {
        let path = self.dir.join("lock");
        let file = std::fs::OpenOptions::new().create(true).truncate(false).write(true).open(&path);
        let file = file.map_err(StateError::io(&path))?;
        rustix::fs::flock(&file, rustix::fs::FlockOperation::LockExclusive)
            .map_err(|e| StateError::Io { path, source: e.into() })?;
        Ok(file)
    }

    fn path(&self, name: &ObjectName) -> PathBuf {
        let text = name.to_string();
        self.dir.join(text.strip_prefix("ledger/").unwrap_or(&text))
    }

    /// Signs the next record of the chain and makes it durable here. Only then may it go anywhere.
    ///
    /// # Errors
    /// When it is too large, or the state directory fails.
    pub fn write(&mut self, kind: RecordKind, body: &impl Serialize, context: Context) -> Result<Signed, ScribeError> {
        // Another process of this machine may write with the same key: one number, one statement.
        let _lock = self.lock()?;
        self.head = self.newest()?;
        let seq = self.head.map_or(1, |head| head.seq + 1);
        let label = || format!("{kind} record {seq}");
        let format = |source| LedgerError::Format { name: label(), source };
        let body = serde_json::to_value(body).map_err(|e| LedgerError::Misplaced { name: label(), why: e.to_string() })?;
        let mut heads = context.heads;
        heads.remove(&self.writer);
        let heads = heads.into_iter().take(HEADS_MAX).collect();
        let statement = Statement {
            vault: self.vault,
            writer: self.writer,
            seq,
            prev: self.head.map(|head| head.hash),
            time: context.time,
            kind: kind.clone(),
            trust: Some(context.trust),
            heads,
            body,
        };
        let line = statement.to_line().map_err(format)?;
        let armor =
            self.key.sign(RECORD_NAMESPACE, &line).map_err(|source| LedgerError::Crypto { name: label(), source })?;
        let head = Head { seq, hash: hash(line.as_bytes()) };
        let name = ObjectName::Record { writer: self.writer, seq, statement: head.hash };
        let signed = Signed { name, bytes: join(&line, &armor), head, statement };
        write_durably(&self.path(&signed.name), &signed.bytes)?;
        self.head = Some(head);
        Ok(signed)
    }

    /// Takes over one of this writer's own records that lies in a copy beyond the local chain: the state directory was older
    /// than the copy. The caller has checked it.
    ///
    /// # Errors
    /// When it does not follow the local chain: then someone else signs with this key.
    pub fn adopt(&mut self, name: &ObjectName, bytes: &[u8]) -> Result<(), ScribeError> {
        let label = name.to_string();
        let format = |source| LedgerError::Format { name: label.clone(), source };
        let statement = Statement::from_line(split(bytes).map_err(format)?.0).map_err(format)?;
        let expected = self.head.map_or(1, |head| head.seq + 1);
        if statement.seq != expected || statement.prev != self.head.map(|head| head.hash) {
            let first = self.head.map_or_else(String::new, |head| head.hash.to_string());
            return Err(LedgerError::Fork { writer: self.writer, seq: statement.seq, first, second: label }.into());
        }
        write_durably(&self.path(name), bytes)?;
        let ObjectName::Record { seq, statement, .. } = name else { return Ok(()) };
        self.head = Some(Head { seq: *seq, hash: *statement });
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::ids::ObjectHash;

    const VAULT: VaultId = VaultId([4; 16]);

    fn context() -> Context {
        let trust = Head { seq: 1, hash: ObjectHash([1; 32]) };
        Context { time: Timestamp(7), trust, heads: BTreeMap::new() }
    }

    #[test]
    fn a_chain_goes_on_after_a_restart_and_refuses_a_fork() {
        let dir = tempfile::tempdir().unwrap_or_else(|e| panic!("{e}"));
        let state = StateDir::open(dir.path(), VAULT).unwrap_or_else(|e| panic!("{e}"));
        let key = SigningKey::generate("k").unwrap_or_else(|e| panic!("{e}"));
        let text = key.to_openssh().unwrap_or_else(|e| panic!("{e}"));
        let open = |state: &StateDir| {
            let key = SigningKey::from_openssh(&text).unwrap_or_else(|e| panic!("{e}"));
            Scribe::open(state, VAULT, key).unwrap_or_else(|e| panic!("{e}"))
        };
        let write = |scribe: &mut Scribe, n: u32| {
            scribe.write(RecordKind::Verify, &serde_json::json!({ "n": n }), context()).unwrap_or_else(|e| panic!("{e}"))
        };
        let first = write(&mut open(&state), 1);
        let second = write(&mut open(&state), 2);
        assert_eq!((second.head.seq, second.statement.prev), (2, Some(first.head.hash)));
        assert_eq!(open(&state).names().map(|n| n.len()).ok(), Some(2));

        let older = tempfile::tempdir().unwrap_or_else(|e| panic!("{e}"));
        let older = StateDir::open(older.path(), VAULT).unwrap_or_else(|e| panic!("{e}"));
        let mut behind = open(&older);
        assert!(behind.adopt(&second.name, &second.bytes).is_err(), "not before the first");
        behind.adopt(&first.name, &first.bytes).unwrap_or_else(|e| panic!("{e}"));
        let forked = write(&mut behind, 9);
        assert_ne!(forked.head.hash, second.head.hash);
        assert!(matches!(behind.adopt(&second.name, &second.bytes), Err(ScribeError::Ledger(LedgerError::Fork { .. }))));
    }
}
