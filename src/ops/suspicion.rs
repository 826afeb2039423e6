//! What verifications have found against stored objects, and when such a word counts no more.
//!
//! A suspicion stands until somebody who knew of it has read everything, or that object, and did not find it wrong again. A look
//! at names and sizes, or one that found more than its record could name, takes no suspicion away.

use std::collections::BTreeSet;

use super::verifications::{Place, Verification};
use crate::ledger::Checked;
use crate::model::name::ObjectName;

/// What a verification found in a copy, and nobody has found right since.
#[derive(Debug, Clone)]
pub struct SpokenAgainst {
    /// The copy.
    place: Place,
    /// Its address or directory, as whoever verified it named it.
    store: String,
    /// The objects.
    pub objects: BTreeSet<ObjectName>,
}

impl SpokenAgainst {
    /// Whether it may be about the copy that is `here`, and that whoever asks names `store`.
    #[must_use]
    pub fn may_be_about(&self, here: Option<&Place>, store: &str) -> bool {
        here == Some(&self.place) || self.store == store
    }
}

/// Reads the records of verifications. `counts` says which of them do.
pub fn spoken_against<'a>(
    records: impl IntoIterator<Item = &'a Checked>,
    counts: impl Fn(&Verification<'_>) -> bool,
) -> Vec<SpokenAgainst> {
    let mut verified = Verification::all(records);
    verified.retain(|one| counts(one));
    let stands =
        |one: &&Verification<'_>| !one.body.objects_found.is_empty() && !verified.iter().any(|later| later.settles(one));
    let speak = |one: &Verification<'_>| {
        let names = one.body.objects_found.iter().filter_map(|found| ObjectName::parse_stored(&found.object).ok());
        let objects = names.map(|(name, _)| name).collect();
        SpokenAgainst { place: one.place.clone(), store: one.body.store.clone(), objects }
    };
    verified.iter().filter(stands).map(speak).collect()
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
            rolled_back: std::collections::BTreeMap::new(),
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
        spoken_against(records, |_| true).into_iter().flat_map(|one| one.objects).collect()
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

    #[test]
    fn a_stranger_takes_back_nobodys_word() {
        let (found, mut later) = (verified(1, 1, 0, true, &[7]), verified(2, 1, 1, true, &[]));
        assert!(of(&[found.clone(), later.clone()]).is_empty());
        for standing in [Standing::NotEnrolled, Standing::Void("retired".into())] {
            later.standing = standing;
            assert_eq!(of(&[found.clone(), later.clone()]), [pack(7)]);
        }
    }
}
