//! The records that lie in one copy, by writer and number, from their names alone; and what is wrong with their chains.

use std::collections::{BTreeMap, BTreeSet};

use crate::format::record::Head;
use crate::ledger::{Checked, LedgerError, Standing};
use crate::model::finding::{Finding, FindingKind};
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

    /// What was once seen on this very store and lies there no more: it was set back, or someone removed records.
    #[must_use]
    /// Only writers for whom `counts` holds are looked at.
    pub fn rolled_back(&self, store: &str, seen: &Seen, counts: impl Fn(&WriterId) -> bool) -> Vec<LedgerError> {
        let Some(heads) = seen.stores.get(store) else { return Vec::new() };
        let missing = heads.iter().filter(|(writer, head)| counts(writer) && !self.has(writer, head));
        missing
            .map(|(writer, head)| LedgerError::RolledBack {
                what: format!("writer {}", writer.short()),
                seen: *head,
                found: match self.last_seq(writer) {
                    0 => "nothing".into(),
                    seq => format!("number {seq}"),
                },
            })
            .collect()
    }
}

/// What is wrong with the chains of checked records of one copy: gaps, forks, links that do not hold, heads that were seen
/// by others and are not there. Those that lie only on this machine, `local`, fill chains, and cite what lies elsewhere; what is
/// `unread` lies there and could not be read, which is told of elsewhere; of `retired` writers nothing is missed but what leads to
/// their last record.
#[must_use]
pub fn chain_findings(
    records: &[Checked],
    local: &[Checked],
    unread: &BTreeSet<ObjectName>,
    retired: &BTreeMap<WriterId, Head>,
) -> Vec<Finding> {
    let is_unread = |writer: &WriterId, number: u64| {
        unread.iter().any(|name| matches!(name, ObjectName::Record { writer: w, seq, .. } if w == writer && *seq == number))
    };
    let mut chains: BTreeMap<WriterId, BTreeMap<u64, Vec<&Checked>>> = BTreeMap::new();
    let counts = |record: &&Checked| !matches!(record.standing, Standing::Void(_));
    for record in records.iter().chain(local).filter(counts) {
        let here = chains.entry(record.statement.writer).or_default().entry(record.head.seq).or_default();
        if !here.iter().any(|other| other.head == record.head) {
            here.push(record);
        }
    }
    let mut findings = Vec::new();
    for (writer, chain) in &chains {
        let mut expected = 1;
        let mut before: Option<&Checked> = None;
        for (seq, here) in chain {
            let (mut first, mut last) = (expected, seq.saturating_sub(1));
            while first <= last && is_unread(writer, first) {
                first += 1;
            }
            while first <= last && is_unread(writer, last) {
                last -= 1;
            }
            if first <= last {
                findings.push(missing(writer, first, last));
            }
            if here.len() > 1 {
                let names: Vec<String> = here.iter().map(|r| r.name.to_string()).collect();
                let message = format!("writer {} signed {} different records with number {seq}", writer.short(), here.len());
                findings.push(Finding::new(FindingKind::Trust, names.join(" and "), message));
            }
            for record in here {
                let broken = before.is_some_and(|b| b.head.seq + 1 == *seq && record.statement.prev != Some(b.head.hash));
                if broken {
                    findings.push(Finding::new(FindingKind::Trust, &record.name, "does not follow the record before it"));
                }
            }
            before = here.first().copied();
            expected = seq + 1;
        }
    }
    let is_there = |name: &ObjectName| !unread.contains(name);
    findings.extend(
        withheld(records, &chains, retired).into_iter().filter(|(name, _)| is_there(name)).map(|(_, finding)| finding),
    );
    findings
}

fn missing(writer: &WriterId, first: u64, last: u64) -> Finding {
    let which = if first == last { format!("number {first}") } else { format!("numbers {first} to {last}") };
    Finding::new(
        FindingKind::Trust,
        format!("ledger/{writer}-{first}-*.rec"),
        format!("record removed: {which} of this writer is missing"),
    )
}

/// Heads that a trusted record has seen and that lie nowhere.
fn withheld(
    records: &[Checked],
    chains: &BTreeMap<WriterId, BTreeMap<u64, Vec<&Checked>>>,
    retired: &BTreeMap<WriterId, Head>,
) -> Vec<(ObjectName, Finding)> {
    let mut newest: BTreeMap<WriterId, (Head, &Checked)> = BTreeMap::new();
    for record in records.iter().filter(|r| r.standing == Standing::Trusted) {
        for (writer, head) in &record.statement.heads {
            let slot = newest.entry(*writer).or_insert((*head, record));
            if slot.0.seq < head.seq {
                *slot = (*head, record);
            }
        }
    }
    let absent = |writer: &WriterId, head: &Head| {
        let chain = chains.get(writer);
        match retired.get(writer) {
            // Somebody may have seen another branch, or more than counts now, which lies not in every copy.
            Some(last) => last.seq > 0 && !chain.is_some_and(|chain| chain.contains_key(&head.seq.min(last.seq))),
            None => !chain.and_then(|chain| chain.get(&head.seq)).is_some_and(|here| here.iter().any(|r| r.head == *head)),
        }
    };
    newest
        .iter()
        .filter(|(writer, (head, _))| absent(writer, head))
        .map(|(writer, (head, by))| {
            let name = ObjectName::Record { writer: *writer, seq: head.seq, statement: head.hash };
            let finding = Finding::new(FindingKind::Trust, &name, format!("record removed: {} had seen it", by.name));
            (name, finding)
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::format::record::{RecordKind, Statement};
    use crate::model::ids::VaultId;

    const WRITER: WriterId = WriterId([1; 16]);

    fn record(seq: u8) -> Checked {
        let head = |seq: u8| Head { seq: u64::from(seq), hash: ObjectHash([seq; 32]) };
        let statement = Statement {
            vault: VaultId([2; 16]),
            writer: WRITER,
            seq: u64::from(seq),
            prev: (seq > 1).then(|| head(seq - 1).hash),
            time: Timestamp(0),
            kind: RecordKind::Heartbeat,
            trust: None,
            heads: BTreeMap::new(),
            body: serde_json::Value::Null,
        };
        let name = ObjectName::Record { writer: WRITER, seq: u64::from(seq), statement: head(seq).hash };
        Checked { name, head: head(seq), statement, standing: Standing::Trusted, writer_name: "w".into() }
    }

    #[test]
    fn what_lies_there_and_cannot_be_read_was_not_removed() {
        let records: Vec<Checked> = [1, 2, 5, 6].map(record).into();
        let found = |unread: &[u8]| {
            let unread = unread.iter().map(|seq| record(*seq).name).collect();
            chain_findings(&records, &[], &unread, &BTreeMap::new())
                .into_iter()
                .map(|finding| finding.message)
                .collect::<Vec<_>>()
        };
        assert_eq!(found(&[]), ["record removed: numbers 3 to 4 of this writer is missing"]);
        assert_eq!(found(&[3]), ["record removed: number 4 of this writer is missing"]);
        assert_eq!(found(&[4]), ["record removed: number 3 of this writer is missing"]);
        assert!(found(&[3, 4]).is_empty());
    }
}
