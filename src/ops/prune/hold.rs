//! `hold`: a snapshot must stay, whatever the rules say, until a date or until whoever held it lets it go.

use serde::Serialize;

use super::check_enrolled;
use crate::format::body::HoldBody;
use crate::format::record::RecordKind;
use crate::model::ids::SnapshotId;
use crate::model::time::Timestamp;
use crate::ops::reading::ReadPlan;
use crate::ops::select::SnapshotQuery;
use crate::ops::{Env, OpError};
use crate::state::keys::Role;

/// What to hold.
pub struct HoldRequest {
    /// The copy.
    pub read: ReadPlan,
    /// The snapshot.
    pub snapshot: SnapshotQuery,
    /// Until when; none lets it go.
    pub until: Option<Timestamp>,
    /// Why.
    pub reason: Option<String>,
}

/// What is held.
#[derive(Debug, Clone, Serialize)]
pub struct HoldReceipt {
    /// The copy.
    pub store: String,
    /// The snapshot.
    pub snapshot: SnapshotId,
    /// Until when; none when it was let go.
    pub until: Option<Timestamp>,
}

/// Holds a snapshot, or lets it go. The record reaches other copies as every record does.
///
/// # Errors
/// When there is no such snapshot, this machine may not, or the copy does not take the record.
pub fn hold(request: &HoldRequest, env: &Env<'_>) -> Result<HoldReceipt, OpError> {
    let opened = request.read.open(env)?;
    let snapshot = request.read.select(&opened, &request.snapshot, env)?;
    let mut scribe = opened.context.scribe(Role::Custodian, env, opened.copy.vault())?;
    check_enrolled(&scribe, &opened.copy, &RecordKind::Hold)?;
    crate::ops::custody::adopt_own(&mut scribe, &opened.copy, &opened.records)?;
    let body = HoldBody { snapshot: snapshot.id, until: request.until, reason: request.reason.clone() };
    let context = opened.context.record_context(env, opened.copy.trust.head(), opened.records.heads());
    let signed = scribe.write(RecordKind::Hold, &body, context)?;
    crate::ops::delivery::deliver_missing(&opened.context, &opened.copy, &signed.name)?;
    Ok(HoldReceipt { store: opened.copy.name(), snapshot: snapshot.id, until: request.until })
}
