//! The commit: the record goes to every store that has all that it speaks of, and is read back.

use super::prepare::{self, Prepared, Side};
use super::{PushPlan, StoreReceipt};
use crate::format::record::Head;
use crate::ledger::{Scribe, Signed};
use crate::ops::context::Context;
use crate::ops::{OpError, delivery};
use crate::store::StoreError;
use crate::store::deliver::{RetryPolicy, deliver};
use crate::vault::VaultError;
use crate::vault::courier::{Courier, LaneReport};
use crate::vault::snapshots::RecordReader;

/// Sends the record to every store that has all objects, and reads it back. Why a store did not take the snapshot
/// goes to the findings.
pub fn commit(
    plan: &PushPlan,
    context: &mut Context,
    prepared: &mut Prepared,
    courier: &Courier,
    scribe: &Scribe,
    signed: &Signed,
) -> Result<Vec<StoreReceipt>, OpError> {
    let (mut receipts, mut findings) = (Vec::new(), Vec::new());
    let mut last_error = None;
    for (side, report) in prepared.sides.iter().zip(courier.reports()) {
        let outcome = match &report.error {
            Some(error) => Err(error.clone()),
            None => send_cited(context, prepared, side, signed).and_then(|()| send_record(side, signed)),
        };
        if outcome.is_ok() {
            if let Ok(stored) = &outcome {
                RecordReader::new(Some(&context.state.cache())).keep(stored, &signed.bytes);
            }
            let heads = [(scribe.writer(), signed.head)].into();
            side.copy.advance_ratchet(&mut context.ratchet, &context.state, &heads)?;
        }
        receipts.push(receipt(side, &report, outcome.as_ref().err()));
        if let Err(error) = outcome {
            findings.push(prepare::missed(&side.named.name, &error));
            last_error.get_or_insert(error);
        }
    }
    let missed = plan.missed.iter().chain(&prepared.missed).map(|(name, error)| (name, error.to_string()));
    let unfit = prepared.unfit.iter().map(|(name, error)| (name, error.to_string()));
    for (name, error) in missed.chain(unfit) {
        receipts.push(StoreReceipt {
            store: name.clone(),
            committed: false,
            error: Some(error),
            sent_bytes: 0,
            sent_objects: 0,
            caught_up_objects: 0,
            not_confirmed: 0,
        });
    }
    prepared.findings.extend(findings);
    match last_error {
        Some(error) if receipts.iter().all(|receipt| !receipt.committed) => Err(error.into()),
        _ => Ok(receipts),
    }
}

/// What the record cites lies there first, also when the copy that had it went out of reach meanwhile, and so does the one
/// before it in its chain: a verification on this machine may have signed that while the push ran.
fn send_cited(context: &Context, prepared: &Prepared, side: &Side, signed: &Signed) -> Result<(), StoreError> {
    let statement = &signed.statement;
    let before = statement.prev.zip(statement.seq.checked_sub(1)).map(|(hash, seq)| (statement.writer, Head { seq, hash }));
    let mut cited = prepared.heads.iter().map(|(writer, head)| (*writer, *head)).chain(before);
    if cited.all(|(writer, head)| side.copy.book.has(&writer, &head)) {
        return Ok(());
    }
    match prepare::deliver_all(context, side, &|name| delivery::holds(&side.copy, name)) {
        Ok(_) => Ok(()),
        Err(VaultError::Store(error)) => Err(error),
        Err(error) => Err(StoreError::Protocol(error.to_string())),
    }
}

/// Gives the name under which it lies there.
fn send_record(side: &Side, signed: &Signed) -> Result<String, StoreError> {
    let store = side.named.store.as_ref();
    let delivered = deliver(store, &signed.name, &signed.bytes, RetryPolicy::DEFAULT)?;
    let stored = signed.name.with_suffix(delivered.suffix);
    if store.get(&stored, 0, signed.bytes.len() as u64 + 1)? == signed.bytes {
        Ok(stored)
    } else {
        Err(StoreError::Protocol(format!("{stored}: reads back other bytes than were sent")))
    }
}

fn receipt(side: &Side, report: &LaneReport, error: Option<&StoreError>) -> StoreReceipt {
    StoreReceipt {
        store: side.named.name.clone(),
        committed: error.is_none(),
        error: error.map(ToString::to_string),
        sent_bytes: report.sent_bytes,
        sent_objects: report.sent_objects + u64::from(error.is_none()),
        caught_up_objects: side.caught_up_objects,
        not_confirmed: report.not_confirmed,
    }
}
