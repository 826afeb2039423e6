//! What verifications have found against stored objects, and when such a word counts no more.
//!
//! A suspicion stands until somebody who knew of it has read everything, or that object, and did not find it wrong again. A look
//! at names and sizes, or one that found more than its record could name, takes no suspicion away.

use std::collections::{BTreeMap, BTreeSet};

use super::verifications::Verification;
use crate::ledger::Checked;
use crate::model::name::ObjectName;

/// By store, as its records call it, the objects that stand under suspicion.
pub type Suspects = BTreeMap<String, BTreeSet<ObjectName>>;

/// Reads the records of verifications. `counts` says whose word does.
pub fn suspects<'a>(records: impl Iterator<Item = &'a Checked>, counts: impl Fn(&Checked) -> bool) -> Suspects {
    let verified = Verification::all(records.filter(|record| counts(record)));
    let mut suspects = Suspects::new();
    for one in verified.iter().filter(|one| !one.body.objects_found.is_empty()) {
        if !verified.iter().any(|later| later.settles(one)) {
            let names = one.body.objects_found.iter().filter_map(|found| ObjectName::parse_stored(&found.object).ok());
            suspects.entry(one.body.store.clone()).or_default().extend(names.map(|(name, _)| name));
        }
    }
    suspects
}

/// Whether `later` was signed by somebody who had seen `record`. Clocks are not asked.
#[must_use]
pub fn knew(later: &Checked, record: &Checked) -> bool {
    let (writer, seq) = (record.statement.writer, record.head.seq);
    if later.statement.writer == writer {
        return later.head.seq > seq;
    }
    later.statement.heads.get(&writer).is_some_and(|head| head.seq >= seq)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::crypto::hash::hash;
    use crate::format::body::{FoundObject, VerifyBody};
    use crate::format::record::{Head, RecordKind, Statement};
    use crate::ledger::Standing;
    use crate::model::finding::FindingKind;
    use crate::model::ids::{VaultId, WriterId};
    use crate::model::name::Sealed;
    use crate::model::time::Timestamp;

    fn pack(n: u8) -> ObjectName {
        ObjectName::Pack(Sealed { hash: hash(&[n]), bytes: 1000 })
    }

    /// A record by one writer, with what it had seen of the other.
    fn verified(writer: u8, seq: u64, seen: u64, whole: bool, found: &[u8]) -> Checked {
        let object = |n: &u8| FoundObject { object: pack(*n).to_string(), kind: FindingKind::Damage };
        let body = VerifyBody {
            depth: "sealed".into(),
            store: format!("sftp://writer{writer}@server/vault"),
            started: Timestamp(1),
            snapshots: 1,
            objects: 1,
            bytes: 1,
            findings: found.len() as u64,
            objects_found: found.iter().map(object).collect(),
            whole,
            again: false,
            drive: None,
            label: None,
        };
        let head = |seq| Head { seq, hash: hash(&[seq as u8]) };
        let statement = Statement {
            vault: VaultId([1; 16]),
            writer: WriterId([writer; 16]),
            seq,
            prev: None,
            time: Timestamp(1),
            kind: RecordKind::Verify,
            trust: None,
            heads: (seen > 0).then(|| (WriterId([3 - writer; 16]), head(seen))).into_iter().collect(),
            body: serde_json::to_value(body).unwrap_or_else(|e| panic!("{e}")),
        };
        let name = ObjectName::Record { writer: statement.writer, seq, statement: head(seq).hash };
        Checked { name, head: head(seq), statement, standing: Standing::Trusted, writer_name: "w".into() }
    }

    fn of(records: &[Checked]) -> Vec<ObjectName> {
        suspects(records.iter(), |_| true).into_values().flatten().collect()
    }

    #[test]
    fn a_suspicion_stands_until_all_was_read_by_somebody_who_knew_of_it() {
        let found = verified(1, 1, 0, true, &[7]);
        let cases = [
            (verified(1, 2, 0, true, &[]), false),
            (verified(1, 2, 0, false, &[]), true),
            (verified(1, 2, 0, true, &[7]), true),
            (verified(2, 5, 0, true, &[]), true),
            (verified(2, 5, 1, true, &[]), false),
        ];
        for (later, stands) in cases {
            let shown = format!("{later:?}");
            assert_eq!(of(&[found.clone(), later]).contains(&pack(7)), stands, "{shown}");
        }
        let both = of(&[found, verified(1, 2, 0, false, &[8])]);
        assert!(both.contains(&pack(7)) && both.contains(&pack(8)));
    }
}
