//! Chains of checked records: what leads to one, and what is wrong with those of a copy.

use std::collections::{BTreeMap, BTreeSet};

use crate::format::record::Head;
use crate::ledger::{Checked, Standing};
use crate::model::finding::{Finding, FindingKind};
use crate::model::ids::{ObjectHash, WriterId};
use crate::model::name::ObjectName;

/// What two records of one writer with one number mean, and what to do about it.
pub const OF_A_FORK: &str = "two machines sign with one key, or the state of one was set back; each needs a key of its own \
                             (`farkeep keys enrol`; an agent: `init --adopt`), and this one is to be retired (`farkeep keys \
                             retire`)";

/// The records of a writer that lead to `end`, itself among them: each is the one that the next one's `prev` names, and has the
/// number before. They end where one is missing, else with the first.
#[must_use]
pub fn leading_to<'a>(records: impl IntoIterator<Item = &'a Checked>, writer: &WriterId, end: Head) -> BTreeSet<ObjectHash> {
    let own = records.into_iter().filter(|record| record.statement.writer == *writer);
    let links: BTreeMap<ObjectHash, (u64, Option<ObjectHash>)> =
        own.map(|record| (record.head.hash, (record.head.seq, record.statement.prev))).collect();
    let (mut way, mut next) = (BTreeSet::new(), Some(end));
    while let Some(head) = next
        && let Some((_, prev)) = links.get(&head.hash).filter(|(seq, _)| *seq == head.seq)
    {
        way.insert(head.hash);
        next = prev.zip(head.seq.checked_sub(1)).map(|(hash, seq)| Head { seq, hash });
    }
    way
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
    for record in records.iter().chain(local).filter(|record| !record.is_void()) {
        let here = chains.entry(record.statement.writer).or_default().entry(record.head.seq).or_default();
        if !here.iter().any(|other| other.head == record.head) {
            here.push(record);
        }
    }
    let mut findings = Vec::new();
    for (writer, chain) in &chains {
        // Where nobody enrolled the writer, anybody could have made its chain, with whatever is wrong in it.
        let is_stranger = chain.values().flatten().all(|record| record.standing == Standing::NotEnrolled);
        let kind = if is_stranger { FindingKind::Stranger } else { FindingKind::Trust };
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
                findings.push(missing(kind, writer, first, last));
            }
            if here.len() > 1 {
                let names: Vec<String> = here.iter().map(|r| r.name.to_string()).collect();
                let message = format!(
                    "writer {} ({}) signed {} different records with number {seq}: {OF_A_FORK}",
                    writer.short(),
                    here[0].writer_name,
                    here.len()
                );
                findings.push(Finding::new(kind, names.join(" and "), message));
            }
            for record in here {
                let broken = before.is_some_and(|b| b.head.seq + 1 == *seq && record.statement.prev != Some(b.head.hash));
                if broken {
                    findings.push(Finding::new(kind, &record.name, "does not follow the record before it"));
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

fn missing(kind: FindingKind, writer: &WriterId, first: u64, last: u64) -> Finding {
    let which = if first == last { format!("number {first}") } else { format!("numbers {first} to {last}") };
    Finding::new(
        kind,
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
    use crate::model::time::Timestamp;

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
