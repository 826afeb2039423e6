//! `hold`: a snapshot must stay, whatever the rules say, until a date or until whoever held it lets it go. And a suspect one
//! is cleared: somebody looked at it.

use serde::Serialize;

use super::check_enrolled;
use crate::format::body::HoldBody;
use crate::format::record::RecordKind;
use crate::model::ids::SnapshotId;
use crate::model::snapshot::SnapshotState;
use crate::model::time::Timestamp;
use crate::ops::reading::ReadPlan;
use crate::ops::select::SnapshotQuery;
use crate::ops::{Env, OpError};
use crate::state::keys::Role;
use crate::vault::pruned::held_by;
use crate::vault::suspects::Suspects;

/// What to hold.
pub struct HoldRequest {
    /// The copy.
    pub read: ReadPlan,
    /// The snapshot.
    pub snapshot: SnapshotQuery,
    /// What is said of it.
    pub word: Word,
    /// Why.
    pub reason: Option<String>,
}

/// What can be said of a snapshot.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Word {
    /// It stays until then.
    Hold(Timestamp),
    /// It need not stay, as far as this machine held it.
    Release,
    /// It was suspect, and a person found that it is good. Whether it is held stays as it is.
    Clear,
}

/// What is held.
#[derive(Debug, Clone, Serialize)]
pub struct HoldReceipt {
    /// The copy.
    pub store: String,
    /// The snapshot.
    pub snapshot: SnapshotId,
    /// Until when, by this machine's word; none when it is not held.
    pub until: Option<Timestamp>,
    /// Whether it was cleared of suspicion.
    pub cleared: bool,
}

/// Holds a snapshot, or lets it go. The record reaches other copies as every record does.
///
/// # Errors
/// When there is no such snapshot, this machine may not, or the copy does not take the record.
pub fn hold(request: &HoldRequest, env: &Env<'_>) -> Result<HoldReceipt, OpError> {
    super::be_alone(&request.read.from)?;
    let opened = request.read.open(env)?;
    let snapshot = request.read.select(&opened, &request.snapshot, env)?;
    let mut scribe = opened.context.scribe(Role::Custodian, env, opened.copy.vault())?;
    check_enrolled(&scribe, &opened.copy, &RecordKind::Hold)?;
    crate::ops::custody::adopt_own(&mut scribe, &opened.copy, &opened.records)?;
    let until = match request.word {
        Word::Hold(until) => Some(until),
        Word::Release => None,
        Word::Clear if Suspects::read(&opened.records).state_of(&snapshot) == SnapshotState::Suspect => {
            held_by(&opened.records, &scribe.writer(), &snapshot.id)
        }
        Word::Clear => {
            let id = snapshot.id.short();
            return Err(OpError::Usage(format!("snapshot {id} is not suspect, or was cleared: there is nothing to clear")));
        }
    };
    let cleared = request.word == Word::Clear;
    let body = HoldBody { snapshot: snapshot.id, until, reason: request.reason.clone(), cleared };
    let context = opened.context.record_context(env, opened.copy.trust.head(), opened.records.heads());
    let signed = scribe.write(RecordKind::Hold, &body, context)?;
    crate::ops::delivery::deliver_missing(&opened.context, &opened.copy, &signed.name)?;
    Ok(HoldReceipt { store: opened.copy.name(), snapshot: snapshot.id, until, cleared })
}
