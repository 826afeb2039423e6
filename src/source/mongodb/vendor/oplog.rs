//! The oplog of an archive: what was written while its collections were read, and so which of them it may have changed.

use std::collections::BTreeSet;

use bson::{RawBsonRef, RawDocument};

use crate::source::mongodb::archive::ArchiveError;

/// A transaction is a command that holds operations; deeper than this nothing holds any.
const DEPTH_MAX: usize = 4;

/// What the entries of an oplog touch.
#[derive(Debug, Default)]
pub struct Oplog {
    /// How many there are.
    pub entries: u64,
    collections: BTreeSet<String>,
    databases: BTreeSet<String>,
}

impl Oplog {
    /// Takes in one entry.
    ///
    /// # Errors
    /// When it does not say what it is about.
    pub fn add(&mut self, entry: &[u8]) -> Result<(), ArchiveError> {
        self.entries += 1;
        let entry = RawDocument::from_bytes(entry).map_err(|_| damaged())?;
        self.touch(entry, DEPTH_MAX)
    }

    fn touch(&mut self, entry: &RawDocument, depth: usize) -> Result<(), ArchiveError> {
        let text = |key: &str| entry.get_str(key).map_err(|_| damaged());
        let (kind, namespace) = (text("op")?, text("ns")?);
        match kind {
            "n" => {}
            "i" | "u" | "d" => _ = self.collections.insert(namespace.to_owned()),
            _ => match entry.get_document("o").ok().and_then(|o| o.get_array("applyOps").ok()).filter(|_| depth > 0) {
                Some(operations) => {
                    for operation in operations {
                        match operation {
                            Ok(RawBsonRef::Document(operation)) => self.touch(operation, depth - 1)?,
                            _ => return Err(damaged()),
                        }
                    }
                }
                // Any command may create, empty or rename what it names.
                None => _ = self.databases.insert(database_of(namespace).to_owned()),
            },
        }
        Ok(())
    }

    /// Whether a collection, named with its database, may hold other documents once the oplog is replayed.
    pub fn may_have_changed(&self, namespace: &str) -> bool {
        self.collections.contains(namespace) || self.databases.contains(database_of(namespace))
    }

    /// Whether it may have made this database.
    pub fn names(&self, database: &str) -> bool {
        self.databases.contains(database) || self.collections.iter().any(|namespace| database_of(namespace) == database)
    }
}

fn database_of(namespace: &str) -> &str {
    namespace.split_once('.').map_or(namespace, |(database, _)| database)
}

fn damaged() -> ArchiveError {
    ArchiveError::Damaged("an entry of its oplog does not say what it is about".into())
}

#[cfg(test)]
mod tests {
    use super::*;
    use bson::rawdoc;

    #[test]
    fn writes_touch_their_collection_and_commands_their_whole_database() {
        let mut oplog = Oplog::default();
        let insert = rawdoc! { "op": "i", "ns": "crvs.births", "o": { "_id": 1 } };
        let nothing = rawdoc! { "op": "n", "ns": "", "o": { "msg": "periodic noop" } };
        let created = rawdoc! { "op": "c", "ns": "users.$cmd", "o": { "create": "later" } };
        let transaction = rawdoc! {
            "op": "c", "ns": "admin.$cmd",
            "o": { "applyOps": [{ "op": "u", "ns": "crvs.deaths.2026", "o": {} }, { "op": "d", "ns": "crvs.queue", "o": {} }] },
        };
        for entry in [&insert, &nothing, &created, &transaction] {
            assert!(oplog.add(entry.as_bytes()).is_ok());
        }
        assert_eq!(oplog.entries, 4);
        for touched in ["crvs.births", "crvs.deaths.2026", "crvs.queue", "users.any"] {
            assert!(oplog.may_have_changed(touched), "{touched}");
        }
        for other in ["crvs.deaths", "crvs.birth", "admin.system.users"] {
            assert!(!oplog.may_have_changed(other), "{other}");
        }
        assert!(oplog.names("crvs") && oplog.names("users") && !oplog.names("other"));
        assert!(oplog.add(rawdoc! { "ns": "crvs.births" }.as_bytes()).is_err());
        assert!(oplog.add(b"no document").is_err());
    }
}
