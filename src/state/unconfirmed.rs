//! What was handed to a store and never confirmed: noted before an object goes, crossed out when it has arrived.
//!
//! A push that died, or a store whose disk or line failed, can leave a file that has the size of its name and not the bytes:
//! an fsync that a full disk refused, a power cut on the server. So what stays noted here is read back before anything is
//! built on it. One file for each store, appended without fsync: that this machine loses its power as well can hide a
//! file of full size only where the server loses its own in the same push.

use std::collections::BTreeSet;
use std::fs::{File, OpenOptions};
use std::io::{self, BufRead, BufReader, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::PathBuf;
use std::sync::{Mutex, PoisonError};

use crate::crypto::hash::hash;
use crate::model::name::ObjectName;
use crate::state::{StateDir, StateError, write_durably};

/// The notes about one store.
#[derive(Debug)]
pub struct Unconfirmed {
    path: PathBuf,
    open: Mutex<Open>,
}

#[derive(Debug, Default)]
struct Open {
    file: Option<File>,
    /// Whether the last line may be there in part.
    torn: bool,
}

/// What the notes say.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Left {
    /// Went, and was not seen to arrive.
    pub sent: BTreeSet<ObjectName>,
    /// Was read back and is not what it should be; it has not arrived again since.
    pub wrong: BTreeSet<ObjectName>,
}

/// What a line says of the object that it names.
#[derive(Clone, Copy)]
enum Word {
    Sent,
    Arrived,
    Wrong,
}

impl Word {
    const ALL: [(Self, &'static str); 3] = [(Self::Sent, "sent"), (Self::Arrived, "arrived"), (Self::Wrong, "wrong")];

    fn line(self, name: &ObjectName) -> String {
        let text = Self::ALL[self as usize].1;
        format!("{text} {name}\n")
    }

    /// None for what a power cut tore.
    fn parse(line: &str) -> Option<(Self, ObjectName)> {
        let (word, name) = line.strip_suffix('\n')?.split_once(' ')?;
        let (word, _) = Self::ALL.into_iter().find(|(_, text)| *text == word)?;
        Some((word, name.parse().ok()?))
    }
}

impl Unconfirmed {
    /// The notes about the store of this identity.
    #[must_use]
    pub fn of(state: &StateDir, store: &str) -> Self {
        let name = hash(store.as_bytes()).to_string();
        Self { path: state.journal().join(format!("unconfirmed-{}", &name[..16])), open: Mutex::default() }
    }

    /// Notes that the object goes there now. One whose name promises no content is not noted: it is a plain file or a record,
    /// which every push holds against what the vault says of it.
    ///
    /// # Errors
    /// When that cannot be written: then it must not go.
    pub fn sent(&self, name: &ObjectName) -> Result<(), StateError> {
        self.append(Word::Sent, name)
    }

    /// Notes that the store refused it, or that it was read back and is not what it should be.
    ///
    /// # Errors
    /// When that cannot be written.
    pub fn wrong(&self, name: &ObjectName) -> Result<(), StateError> {
        self.append(Word::Wrong, name)
    }

    /// Notes that it lies there as it should, under whatever suffix.
    ///
    /// # Errors
    /// When that cannot be written.
    pub fn arrived(&self, name: &ObjectName) -> Result<(), StateError> {
        self.append(Word::Arrived, name)
    }

    fn append(&self, word: Word, name: &ObjectName) -> Result<(), StateError> {
        if name.content_hash().is_none() {
            return Ok(());
        }
        let mut open = self.open.lock().unwrap_or_else(PoisonError::into_inner);
        let mut file = match open.file.take() {
            Some(file) => file,
            None => {
                let opened = OpenOptions::new().create(true).append(true).mode(0o600).open(&self.path);
                opened.map_err(StateError::io(&self.path))?
            }
        };
        let line = if open.torn { format!("\n{}", word.line(name)) } else { word.line(name) };
        let written = file.write_all(line.as_bytes()).map_err(StateError::io(&self.path));
        *open = Open { file: Some(file), torn: written.is_err() };
        written
    }

    /// What earlier pushes left.
    ///
    /// # Errors
    /// When it cannot be read.
    pub fn left(&self) -> Result<Left, StateError> {
        let mut left = Left::default();
        let file = match File::open(&self.path) {
            Ok(file) => file,
            Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(left),
            Err(e) => return Err(StateError::io(&self.path)(e)),
        };
        let mut lines = BufReader::new(file);
        let mut line = Vec::new();
        loop {
            line.clear();
            if lines.read_until(b'\n', &mut line).map_err(StateError::io(&self.path))? == 0 {
                return Ok(left);
            }
            match std::str::from_utf8(&line).ok().and_then(Word::parse) {
                // What is wrong and is sent anew, under a suffix, stays wrong until that has arrived.
                Some((Word::Sent, name)) if left.wrong.contains(&name) => {}
                Some((Word::Sent, name)) => {
                    left.sent.insert(name);
                }
                Some((Word::Arrived, name)) => {
                    left.sent.remove(&name);
                    left.wrong.remove(&name);
                }
                Some((Word::Wrong, name)) => {
                    left.sent.remove(&name);
                    left.wrong.insert(name);
                }
                None => {}
            }
        }
    }

    /// Begins anew with what was found wrong.
    ///
    /// # Errors
    /// When it cannot be written.
    pub fn begin_anew(&self, wrong: &BTreeSet<ObjectName>) -> Result<(), StateError> {
        *self.open.lock().unwrap_or_else(PoisonError::into_inner) = Open::default();
        if wrong.is_empty() {
            return match std::fs::remove_file(&self.path) {
                Err(e) if e.kind() != io::ErrorKind::NotFound => Err(StateError::io(&self.path)(e)),
                _ => Ok(()),
            };
        }
        let lines: String = wrong.iter().map(|name| Word::Wrong.line(name)).collect();
        write_durably(&self.path, lines.as_bytes())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::ids::{ObjectHash, VaultId};
    use crate::model::name::Sealed;

    #[test]
    fn what_never_arrived_is_remembered_past_a_torn_line() {
        let dir = tempfile::tempdir().unwrap_or_else(|e| panic!("{e}"));
        let state = StateDir::open(dir.path(), VaultId([1; 16])).unwrap_or_else(|e| panic!("{e}"));
        let pack = |n: u8| ObjectName::Pack(Sealed { hash: ObjectHash([n; 32]), bytes: 5 });
        let notes = Unconfirmed::of(&state, "sftp://server/vault");
        let left = |notes: &Unconfirmed| notes.left().unwrap_or_else(|e| panic!("{e}"));
        assert_eq!(left(&notes), Left::default());
        for n in 1..=3 {
            notes.sent(&pack(n)).unwrap_or_else(|e| panic!("{e}"));
        }
        notes.arrived(&pack(2)).unwrap_or_else(|e| panic!("{e}"));
        notes.sent(&ObjectName::Header).unwrap_or_else(|e| panic!("{e}"));
        assert_eq!(left(&Unconfirmed::of(&state, "another")), Left::default());

        let mut torn = std::fs::read(&notes.path).unwrap_or_else(|e| panic!("{e}"));
        torn.extend_from_slice(&Word::Arrived.line(&pack(1)).as_bytes()[..40]);
        std::fs::write(&notes.path, torn).unwrap_or_else(|e| panic!("{e}"));
        let notes = Unconfirmed::of(&state, "sftp://server/vault");
        assert_eq!(left(&notes), Left { sent: [pack(1), pack(3)].into(), wrong: BTreeSet::new() });

        notes.begin_anew(&[pack(3)].into()).unwrap_or_else(|e| panic!("{e}"));
        assert_eq!(left(&notes), Left { sent: BTreeSet::new(), wrong: [pack(3)].into() });
        notes.sent(&pack(3)).unwrap_or_else(|e| panic!("{e}"));
        assert_eq!(left(&notes).wrong, [pack(3)].into());
        notes.arrived(&pack(3)).unwrap_or_else(|e| panic!("{e}"));
        assert_eq!(left(&notes), Left::default());
        notes.begin_anew(&BTreeSet::new()).unwrap_or_else(|e| panic!("{e}"));
        assert!(!notes.path.exists());
    }
}
