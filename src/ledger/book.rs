//! The records that lie in one copy, by writer and number, from their names alone.

use std::collections::BTreeMap;

use crate::format::record::Head;
use crate::ledger::LedgerError;
use crate::model::ids::{ObjectHash, WriterId};
use crate::model::name::ObjectName;
use crate::model::time::Timestamp;
use crate::state::ratchet::Seen;

/// Where a record lies: the hash of its statement, and its stored name.
type Stored = (ObjectHash, String);

/// The names of the records of one copy.
#[derive(Debug, Clone, Default)]
pub struct Book {
    chains: BTreeMap<WriterId, BTreeMap<u64, Vec<Stored>>>,
    /// By stored name, what a listing said of it.
    listed: BTreeMap<String, Told>,
}

/// What a listing says of a file.
#[derive(Debug, Clone, Copy)]
struct Told {
    bytes: u64,
    received: Option<Timestamp>,
}

impl Book {
    /// Takes a stored name; one that is no record's is ignored.
    pub fn add(&mut self, stored_name: &str) {
        if let Ok((ObjectName::Record { writer, seq, statement }, _)) = ObjectName::parse_stored(stored_name) {
            let here = self.chains.entry(writer).or_default().entry(seq).or_default();
            here.push((statement, stored_name.to_owned()));
            here.sort();
        }
    }

    /// Takes a stored name as a listing gave it, with its size and the time at which the store received it.
    pub fn add_listed(&mut self, stored_name: &str, bytes: u64, received: Option<Timestamp>) {
        self.add(stored_name);
        self.listed.insert(stored_name.to_owned(), Told { bytes, received });
    }

    /// When the store received the file of this name, by its own clock, where it says.
    #[must_use]
    pub fn received(&self, stored_name: &str) -> Option<Timestamp> {
        self.listed.get(stored_name)?.received
    }

    /// How long the file of this name is, where a listing said so.
    #[must_use]
    pub fn listed_bytes(&self, stored_name: &str) -> Option<u64> {
        self.listed.get(stored_name).map(|told| told.bytes)
    }

    /// Takes a stored name out again: what lies there turned out not to be the record.
    pub fn forget(&mut self, stored_name: &str) {
        if let Ok((ObjectName::Record { writer, seq, .. }, _)) = ObjectName::parse_stored(stored_name)
            && let Some(chain) = self.chains.get_mut(&writer)
            && let Some(here) = chain.get_mut(&seq)
        {
            here.retain(|(_, name)| name != stored_name);
            if here.is_empty() {
                chain.remove(&seq);
            }
        }
    }

    /// The writers that have records here.
    pub fn writers(&self) -> impl Iterator<Item = WriterId> + '_ {
        self.chains.keys().copied()
    }

    /// The stored names of a writer's records from `first` on, in order, those of one number together.
    pub fn names_from(&self, writer: &WriterId, first: u64) -> impl Iterator<Item = (u64, &str)> {
        let chain = self.chains.get(writer);
        let numbered = chain.into_iter().flat_map(move |chain| chain.range(first..));
        numbered.flat_map(|(seq, stored)| stored.iter().map(|(_, name)| (*seq, name.as_str())))
    }

    /// All stored names.
    pub fn names(&self) -> impl Iterator<Item = &str> {
        self.chains.values().flat_map(|chain| chain.values().flatten().map(|(_, name)| name.as_str()))
    }

    /// How many records there are, suffix copies included.
    #[must_use]
    pub fn len(&self) -> usize {
        self.chains.values().flat_map(BTreeMap::values).map(Vec::len).sum()
    }

    /// Whether there are none.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.chains.is_empty()
    }

    /// Whether this very record lies here, by its name.
    #[must_use]
    pub fn has(&self, writer: &WriterId, head: &Head) -> bool {
        self.stored_name(writer, head).is_some()
    }

    /// The stored name of a record.
    #[must_use]
    pub fn stored_name(&self, writer: &WriterId, head: &Head) -> Option<&str> {
        let stored = self.chains.get(writer)?.get(&head.seq)?;
        stored.iter().find(|(hash, _)| *hash == head.hash).map(|(_, name)| name.as_str())
    }

    /// The highest number of a writer by name; whether the record is true is not known yet.
    #[must_use]
    pub fn last_seq(&self, writer: &WriterId) -> u64 {
        self.chains.get(writer).and_then(|chain| chain.keys().next_back().copied()).unwrap_or(0)
    }

    /// The newest records that were once seen on this very store and lie there no more: it was set back, or someone removed
    /// them.
    #[must_use]
    pub fn gone(&self, store: &str, seen: &Seen) -> BTreeMap<WriterId, Head> {
        let heads = seen.stores.get(store).into_iter().flatten();
        heads.filter(|(writer, head)| !self.has(writer, head)).map(|(writer, head)| (*writer, *head)).collect()
    }

    /// That a writer's record was seen and is gone.
    #[must_use]
    pub fn rolled_back(&self, writer: &WriterId, seen: Head) -> LedgerError {
        let found = match self.last_seq(writer) {
            0 => "nothing".into(),
            seq if seq >= seen.seq => format!("number {seq}, without it"),
            seq => format!("number {seq}"),
        };
        LedgerError::RolledBack { what: format!("writer {}", writer.short()), seen, found }
    }
}
