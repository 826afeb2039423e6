//! This machine's own chain: taken over where a copy knows more of it, sent where a copy knows less.

use std::collections::{BTreeMap, BTreeSet};

use super::{Prepared, Side, drop_side};
use crate::format::record::RecordKind;
use crate::ledger::{Checked, LedgerError, Scribe, Trust};
use crate::model::finding::FindingKind;
use crate::model::name::ObjectName;
use crate::ops::OpError;
use crate::ops::context::Context;
use crate::ops::delivery::{Delivery, Snapshots};
use crate::store::StoreError;
use crate::store::deliver::RetryPolicy;
use crate::vault::VaultError;

/// Takes over own records that lie in a copy beyond the local chain. Two statements with one number stop the push.
pub fn adopt_own(scribe: &mut Scribe, prepared: &Prepared) -> Result<(), OpError> {
    let own: BTreeMap<u64, BTreeSet<ObjectName>> =
        prepared.sides.iter().flat_map(|side| &side.records.checked).filter(|r| r.statement.writer == scribe.writer()).fold(
            BTreeMap::new(),
            |mut own, record| {
                own.entry(record.head.seq).or_insert_with(BTreeSet::new).insert(record.name.clone());
                own
            },
        );
    let local: BTreeSet<ObjectName> = scribe.names()?.into_iter().collect();
    let local_head = scribe.head().map_or(0, |head| head.seq);
    for (seq, names) in &own {
        let mut names: Vec<&ObjectName> = names.iter().collect();
        if *seq <= local_head {
            names.extend(local.iter().filter(|name| matches!(name, ObjectName::Record { seq: s, .. } if s == seq)));
            names.dedup();
        }
        let distinct: BTreeSet<&ObjectName> = names.into_iter().collect();
        if distinct.len() > 1 {
            let mut two = distinct.iter().map(ToString::to_string);
            let (first, second) = (two.next().unwrap_or_default(), two.next().unwrap_or_default());
            return Err(LedgerError::Fork { writer: scribe.writer(), seq: *seq, first, second }.into());
        }
        if *seq > local_head
            && let Some(name) = distinct.first()
        {
            let side = prepared.sides.iter().find(|side| side.records.checked.iter().any(|r| r.name == **name));
            let Some(side) = side else { continue };
            let bytes = crate::vault::replicate::read_record(side.named.store.as_ref(), name)?;
            scribe.adopt(name, &bytes)?;
        }
    }
    Ok(())
}

/// Refuses to begin what the root would not let count.
pub fn check_enrolled(scribe: &Scribe, trust: &Trust) -> Result<(), OpError> {
    let allowed = trust
        .writer(&scribe.writer())
        .is_some_and(|(writer, _)| writer.until.is_none() && writer.kinds.contains(&RecordKind::Snapshot));
    if allowed {
        return Ok(());
    }
    let why = "the root does not trust this machine to make snapshots: its key is not enrolled, or was retired when another \
               became the agent; `farkeep init --adopt` makes this machine the agent again";
    Err(OpError::NotDone(why.into()))
}

/// Sends the records of this machine to copies that lack them, of a push that died between signing and sending and of
/// whatever was signed while it looked at another copy: the same bytes. A copy that does not take them is left out; the
/// others go on.
pub fn deliver_own(context: &Context, prepared: &mut Prepared) -> Result<(), OpError> {
    let mut number = 0;
    while let Some(side) = prepared.sides.get_mut(number) {
        match deliver_own_to(context, side) {
            Ok(sent) => {
                // What an upload that broke off has left of them is no alarm any more.
                prepared.findings.retain(|finding| {
                    !ObjectName::parse_stored(&finding.subject).is_ok_and(|(of, _)| {
                        sent.contains(&of) && matches!(finding.kind, FindingKind::Trust | FindingKind::Stranger)
                    })
                });
                number += 1;
            }
            Err(VaultError::Store(error)) if error != StoreError::Interrupted => drop_side(prepared, number, error),
            Err(error) => return Err(error.into()),
        }
    }
    Ok(())
}

fn deliver_own_to(context: &Context, side: &mut Side) -> Result<BTreeSet<ObjectName>, VaultError> {
    let held: BTreeSet<ObjectName> = side.records.checked.iter().map(|record| record.name.clone()).collect();
    // A copy that also lacks the objects gets them in `catch_up`; until then the record only says what should be.
    let sent = deliver_all(context, side, &|name| held.contains(name))?;
    sent.iter().for_each(|record| side.copy.book.add(&record.name.to_string()));
    let names = sent.iter().map(|record| record.name.clone()).collect();
    side.records.checked.extend(sent);
    Ok(names)
}

/// Sends a copy every record of this machine that is not `held` there, and what those cite.
pub fn deliver_all(context: &Context, side: &Side, held: &dyn Fn(&ObjectName) -> bool) -> Result<Vec<Checked>, VaultError> {
    let (trust, store) = (&side.copy.trust, side.named.store.as_ref());
    let delivery = Delivery { context, trust, store, policy: RetryPolicy::DEFAULT, snapshots: Snapshots::All };
    Ok(delivery.run(held)?.sent)
}
