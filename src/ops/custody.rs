//! The record of a restore: an intent before the first byte of plaintext, an outcome after it.
//!
//! Both are durable on this machine before anything goes on; they go to the copy too, if it takes them, and are delivered by
//! the next `farkeep sync` if not.

use std::collections::{BTreeMap, BTreeSet};

use super::context::Context;
use super::delivery::deliver_further;
use super::reading::Opened;
use super::{Env, OpError};
use crate::crypto::seal::seal;
use crate::format::body::{RestoreDetail, RestoreIntentBody, RestoreOutcomeBody};
use crate::format::record::{Head, RecordKind};
use crate::format::wire::to_base64;
use crate::ledger::{LedgerError, Scribe, Signed};
use crate::model::finding::{Finding, FindingKind};
use crate::model::ids::SnapshotId;
use crate::model::name::ObjectName;
use crate::vault::VaultError;
use crate::vault::copy::Copy;
use crate::vault::snapshots::Records;

/// Paths in a sealed detail: more are counted, not listed.
const PATHS_KEPT: usize = 100;

/// Who restores what, and why.
#[derive(Debug, Clone, Default)]
pub struct Purpose {
    /// restore, cat, try.
    pub purpose: &'static str,
    /// Why, in the operator's words.
    pub reason: Option<String>,
    /// A case number.
    pub ticket: Option<String>,
    /// Paths and patterns as given.
    pub selection: Vec<String>,
    /// Where it is written to.
    pub target: String,
}

/// An open restore: its intent is on record, its outcome is not yet.
pub struct Custody<'a> {
    scribe: Scribe,
    intent: Head,
    copy: &'a Copy,
    context: &'a Context,
    records: &'a Records,
    /// Records that the copy was sent since it was read.
    sent: BTreeSet<ObjectName>,
    /// What could not be delivered.
    pub findings: Vec<Finding>,
}

/// How a restore ended.
#[derive(Debug, Clone, Default)]
pub struct Ending {
    /// done, findings, failed, interrupted.
    pub outcome: &'static str,
    /// Entries brought to the target.
    pub entries: u64,
    /// Bytes of content written.
    pub bytes: u64,
    /// How many findings were reported.
    pub findings: u64,
    /// The error, where one ended it.
    pub error: Option<String>,
    /// What was found at each restored system: kept sealed.
    pub report: Option<serde_json::Value>,
}

impl<'a> Custody<'a> {
    /// Signs the intent and makes it durable.
    ///
    /// # Errors
    /// When it cannot be made durable here: then there is no restore.
    pub fn begin(
        purpose: &Purpose,
        snapshot: SnapshotId,
        copy: &'a Copy,
        context: &'a Context,
        records: &'a Records,
        env: &Env<'_>,
    ) -> Result<Self, OpError> {
        let mut scribe = context.station(env, &copy.trust)?;
        let mut findings = Vec::new();
        match refuse_fork(&scribe, records).and_then(|()| adopt_own(&mut scribe, copy, records)) {
            // Whoever else has this machine's key keeps no restore from being made, and from being on record.
            Err(OpError::Vault(error @ VaultError::Ledger(_))) => {
                let message =
                    format!("{error}: somebody else signs with the key of this station; a new one signs from now on");
                findings.push(Finding::new(FindingKind::Trust, copy.name(), message));
                scribe = context.new_station(env, copy.vault())?;
            }
            outcome => outcome?,
        }
        let detail = RestoreDetail {
            selection: purpose.selection.iter().take(PATHS_KEPT).cloned().collect(),
            target: purpose.target.clone(),
        };
        let detail = serde_json::to_vec(&detail).map_err(VaultError::internal)?;
        let sealed = seal(&[&detail], &[copy.trust.recipient()?]).map_err(VaultError::internal)?;
        let body = RestoreIntentBody {
            snapshot,
            from: copy.name(),
            operator: format!("{}@{}", env.user, env.host),
            reason: purpose.reason.clone(),
            ticket: purpose.ticket.clone(),
            purpose: purpose.purpose.to_owned(),
            selected: purpose.selection.len() as u64,
            sealed_detail: to_base64(&sealed.bytes),
        };
        let signed = scribe.write(
            RecordKind::RestoreIntent,
            &body,
            context.record_context(env, copy.trust.head(), records.heads()),
        )?;
        let mut custody = Self { scribe, intent: signed.head, copy, context, records, sent: BTreeSet::new(), findings };
        custody.deliver(&signed);
        Ok(custody)
    }

    /// As [`begin`](Self::begin), with `look` beside it, which brings no plaintext anywhere: both wait for the line, and not for
    /// one another.
    ///
    /// # Errors
    /// As [`begin`](Self::begin).
    pub fn begin_beside<T: Send>(
        purpose: &Purpose,
        snapshot: SnapshotId,
        opened: &'a Opened,
        env: &Env<'_>,
        look: impl FnOnce() -> T + Send,
    ) -> Result<(Self, T), OpError> {
        let Opened { copy, context, records, .. } = opened;
        std::thread::scope(|scope| {
            let looking = scope.spawn(look);
            let custody = Self::begin(purpose, snapshot, copy, context, records, env);
            let seen = looking.join().map_err(|_| VaultError::internal("a thread failed"))?;
            Ok((custody?, seen))
        })
    }

    /// Signs the outcome.
    ///
    /// # Errors
    /// When it cannot be made durable here.
    pub fn end(mut self, ending: &Ending, env: &Env<'_>) -> Result<Vec<Finding>, OpError> {
        let sealed_report = match &ending.report {
            Some(report) => {
                let report = serde_json::to_vec(report).map_err(VaultError::internal)?;
                let sealed = seal(&[&report], &[self.copy.trust.recipient()?]).map_err(VaultError::internal)?;
                Some(to_base64(&sealed.bytes))
            }
            None => None,
        };
        let body = RestoreOutcomeBody {
            intent: self.intent,
            outcome: ending.outcome.to_owned(),
            entries: ending.entries,
            bytes: ending.bytes,
            findings: ending.findings,
            error: ending.error.clone(),
            sealed_report,
        };
        let record_context = self.context.record_context(env, self.copy.trust.head(), self.records.heads());
        let signed = self.scribe.write(RecordKind::RestoreOutcome, &body, record_context)?;
        self.deliver(&signed);
        Ok(self.findings)
    }

    /// Sends own records that the copy lacks, `signed` among them.
    fn deliver(&mut self, signed: &Signed) {
        let outcome = deliver_further(self.context, self.copy, &signed.name, &mut self.sent);
        if let Err(error) = outcome
            && !self.findings.iter().any(|finding| finding.kind == FindingKind::Notice)
        {
            let message = format!("the record of this restore stays here until the next `farkeep sync`: {error}");
            self.findings.push(Finding::new(FindingKind::Notice, self.copy.name(), message));
        }
    }
}

/// A record in the copy that has the number of one that this machine has signed, and is another one.
fn refuse_fork(scribe: &Scribe, records: &Records) -> Result<(), OpError> {
    let own: BTreeMap<u64, ObjectName> = scribe
        .names()
        .map_err(VaultError::from)?
        .into_iter()
        .filter_map(|name| if let ObjectName::Record { seq, .. } = name { Some((seq, name)) } else { None })
        .collect();
    let theirs = records.checked.iter().filter(|record| record.statement.writer == scribe.writer());
    match theirs
        .filter(|record| !record.is_void())
        .find(|record| own.get(&record.head.seq).is_some_and(|name| *name != record.name))
    {
        None => Ok(()),
        Some(record) => {
            let (writer, seq) = (scribe.writer(), record.head.seq);
            let (first, second) = (own[&seq].to_string(), record.name.to_string());
            Err(VaultError::from(LedgerError::Fork { writer, seq, first, second }).into())
        }
    }
}

/// Takes over own records that lie in the copy and not here: the state directory was lost or set back, the key was kept.
///
/// # Errors
/// When they do not follow the local chain.
pub(super) fn adopt_own(scribe: &mut Scribe, copy: &Copy, records: &Records) -> Result<(), OpError> {
    let local = scribe.head().map_or(0, |head| head.seq);
    let mut own: Vec<_> = records
        .checked
        .iter()
        .filter(|record| record.statement.writer == scribe.writer() && record.head.seq > local)
        .filter(|record| !record.is_void())
        .collect();
    own.sort_by_key(|record| record.head.seq);
    own.dedup_by_key(|record| record.head);
    for record in own {
        let bytes = crate::vault::replicate::read_record(copy.store.as_ref(), &record.name)?;
        scribe.adopt(&record.name, &bytes)?;
    }
    Ok(())
}
