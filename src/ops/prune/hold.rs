//! `hold`: a snapshot must stay, whatever the rules say, until a date or until whoever held it lets it go. And a suspect one
//! is cleared: somebody looked at it.

use serde::Serialize;

use super::check_enrolled;
use crate::format::body::HoldBody;
use crate::format::record::{RecordKind, Statement, split};
use crate::ledger::Scribe;
use crate::model::ids::SnapshotId;
use crate::model::snapshot::SnapshotState;
use crate::model::time::Timestamp;
use crate::ops::reading::ReadPlan;
use crate::ops::select::SnapshotQuery;
use crate::ops::{Env, OpError};
use crate::state::keys::Role;
use crate::vault::VaultError;
use crate::vault::pruned::{held_by, holds};
use crate::vault::snapshots::Records;
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

/// Only what this machine's own word holds can be let go; that word may not have reached this copy yet.
fn refuse_unless_held(id: &SnapshotId, scribe: &Scribe, records: &Records, env: &Env<'_>) -> Result<(), OpError> {
    let now = env.clock.now();
    let stands = |until: Option<Timestamp>| until.is_some_and(|until| until > now);
    if stands(held_by(records, &scribe.writer(), id)) || stands(own_word(scribe, id)?) {
        return Ok(());
    }
    let id_shown = id.short();
    let others = match holds(records).get(id) {
        Some(until) if *until > now => format!("; it stays until {until} by what others have said of it"),
        _ => String::new(),
    };
    Err(OpError::Usage(format!("snapshot {id_shown} is not held by this machine: there is nothing to let go{others}")))
}

/// Until when a snapshot is held by the newest word on it in this machine's own chain.
fn own_word(scribe: &Scribe, id: &SnapshotId) -> Result<Option<Timestamp>, OpError> {
    let mut newest = (0, None);
    for name in scribe.names()? {
        let bytes = scribe.read(&name)?;
        let statement = split(&bytes).and_then(|(line, _)| Statement::from_line(line)).map_err(VaultError::internal)?;
        if statement.kind != RecordKind::Hold || statement.seq < newest.0 {
            continue;
        }
        if let Ok(body) = statement.body_as::<HoldBody>()
            && body.snapshot == *id
        {
            newest = (statement.seq, body.until);
        }
    }
    Ok(newest.1)
}

/// Holds a snapshot, or lets it go. The record reaches other copies as every record does.
///
/// # Errors
/// When there is no such snapshot, it is not held or not suspect, this machine may not, or the copy does not take the record.
pub fn hold(request: &HoldRequest, env: &Env<'_>) -> Result<HoldReceipt, OpError> {
    super::be_alone(&request.read.from)?;
    let opened = request.read.open(env)?;
    let snapshot = request.read.select(&opened, &request.snapshot, env)?;
    let mut scribe = opened.context.scribe(Role::Custodian, env, opened.copy.vault())?;
    check_enrolled(&scribe, &opened.copy, &RecordKind::Hold)?;
    crate::ops::custody::adopt_own(&mut scribe, &opened.copy, &opened.records)?;
    let until = match request.word {
        Word::Hold(until) => Some(until),
        Word::Release => {
            refuse_unless_held(&snapshot.id, &scribe, &opened.records, env)?;
            None
        }
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
