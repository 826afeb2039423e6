//! `ledger show` and `ledger verify`: what was recorded, by whom, and whether the chains are whole.
//!
//! The records of a copy and those that lie only on this machine are read together.

use std::collections::{BTreeMap, BTreeSet};

use serde::Serialize;

use super::reading::ReadPlan;
use super::{Env, Exit, OpError};
use crate::crypto::open::open;
use crate::format::body::{
    HeartbeatBody, HoldBody, PruneDoneBody, PrunePlanBody, RestoreDetail, RestoreIntentBody, RestoreOutcomeBody,
    SnapshotBody, VerifyBody,
};
use crate::format::drive::{DriveBody, DriveEvent, ExportBody};
use crate::format::record::{Head, RecordKind};
use crate::format::wire::from_base64;
use crate::ledger::{Checked, Standing, check};
use crate::model::finding::{Finding, FindingKind};
use crate::model::ids::{ObjectHash, WriterId};
use crate::model::limits::KIB;
use crate::model::name::ObjectName;
use crate::model::size::{count, human_size};
use crate::model::time::Timestamp;
use crate::vault::unlock::unlock;

/// What a sealed detail may hold.
const DETAIL_MAX_BYTES: u64 = 64 * KIB;

/// One record as it is shown.
#[derive(Debug, Clone, Serialize)]
pub struct ShownRecord {
    /// Its name in the vault.
    pub name: String,
    /// When its writer says it was made.
    pub time: Timestamp,
    /// What people call its writer.
    pub writer: String,
    /// Its writer.
    pub writer_id: WriterId,
    /// Its number in that writer's chain.
    pub seq: u64,
    /// Its kind.
    pub kind: String,
    /// trusted, not-enrolled, or why it does not count.
    pub standing: String,
    /// What it says, in one line.
    pub summary: String,
    /// What it says, whole.
    pub body: serde_json::Value,
    /// What it keeps sealed, when an identity opened it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub detail: Option<RestoreDetail>,
    /// Whether the copy holds it, or only this machine does.
    pub in_copy: bool,
}

/// The ledger of a copy.
#[derive(Debug, Clone, Serialize)]
pub struct Ledger {
    /// The copy.
    pub store: String,
    /// Its records, oldest first.
    pub records: Vec<ShownRecord>,
    /// What is wrong.
    pub findings: Vec<Finding>,
}

impl Ledger {
    /// The exit code of `ledger verify`.
    #[must_use]
    pub fn exit(&self) -> Exit {
        Exit::of_findings(&self.findings)
    }
}

/// Reads the ledger; what is wrong with it is among the findings.
///
/// # Errors
/// When the copy cannot be reached, or is not the pinned vault.
pub fn read(plan: &ReadPlan, env: &Env<'_>) -> Result<Ledger, OpError> {
    let (opened, gone) = plan.open_for_audit(env)?;
    let mut checked = opened.records.checked.clone();
    let mut findings = opened.records.findings.clone();
    let mut local: Vec<Checked> = Vec::new();
    for scribe in opened.context.scribes(opened.copy.vault())? {
        for name in scribe.names()? {
            let ObjectName::Record { writer, seq, statement } = &name else { continue };
            if opened.copy.book.has(writer, &Head { seq: *seq, hash: *statement }) {
                continue;
            }
            let delivered = opened.delivered(writer);
            let bytes = scribe.read(&name)?;
            match check(&opened.copy.trust, &name.to_string(), &bytes) {
                Ok(record) => {
                    if *seq <= delivered {
                        let message = "is missing in the copy, which held it: somebody removed it";
                        findings.push(Finding::new(FindingKind::Trust, &name, message));
                    }
                    local.push(record);
                }
                Err(error) => findings.push(Finding::new(FindingKind::Trust, &name, error)),
            }
        }
    }
    findings.extend(opened.records.chain_findings(&local));
    findings.extend(gone.iter().map(|(writer, seen)| {
        Finding::new(FindingKind::Trust, opened.copy.name(), opened.copy.book.rolled_back(writer, *seen))
    }));
    let (void, waiting): (Vec<&Checked>, Vec<&Checked>) = local.iter().partition(|record| record.is_void());
    for (records, why) in
        [(waiting, "the next `farkeep sync` delivers them"), (void, "their writer was retired, and they stay")]
    {
        if !records.is_empty() {
            let message = format!("{} records lie only on this machine; {why}", records.len());
            findings.push(Finding::new(FindingKind::Notice, "ledger", message));
        }
    }
    let only_here: BTreeSet<ObjectName> = local.iter().map(|record| record.name.clone()).collect();
    checked.extend(local);
    checked.sort_by_key(|record| (record.statement.time, record.statement.writer, record.head.seq));
    let epochs = if plan.identities.is_empty() { None } else { Some(unlock(&opened.copy, &plan.identities)?.epochs) };
    let restores: BTreeMap<ObjectHash, RestoreIntentBody> = checked
        .iter()
        .filter(|record| record.statement.kind == RecordKind::RestoreIntent)
        .filter_map(|record| Some((record.head.hash, record.statement.body_as().ok()?)))
        .collect();
    let records = checked
        .iter()
        .map(|record| {
            let detail = epochs.as_ref().and_then(|epochs| open_detail(record, epochs));
            shown(record, detail, &restores, !only_here.contains(&record.name))
        })
        .collect();
    Ok(Ledger { store: opened.copy.name(), records, findings })
}

fn open_detail(record: &Checked, epochs: &[crate::crypto::identity::Identity]) -> Option<RestoreDetail> {
    let body: RestoreIntentBody = record.statement.body_as().ok()?;
    let sealed = from_base64(&body.sealed_detail).ok()?;
    serde_json::from_slice(&open(&sealed, epochs, DETAIL_MAX_BYTES).ok()?).ok()
}

fn shown(
    record: &Checked,
    detail: Option<RestoreDetail>,
    restores: &BTreeMap<ObjectHash, RestoreIntentBody>,
    in_copy: bool,
) -> ShownRecord {
    ShownRecord {
        name: record.name.to_string(),
        time: record.statement.time,
        writer: record.writer_name.clone(),
        writer_id: record.statement.writer,
        seq: record.head.seq,
        kind: record.statement.kind.to_string(),
        standing: match &record.standing {
            Standing::Trusted => "trusted".into(),
            Standing::NotEnrolled => "not-enrolled".into(),
            Standing::Refused(why) | Standing::Void(why) => why.clone(),
        },
        summary: summary(record, detail.as_ref(), restores),
        body: record.statement.body.clone(),
        detail,
        in_copy,
    }
}

/// What a record says, in one line.
fn summary(record: &Checked, detail: Option<&RestoreDetail>, restores: &BTreeMap<ObjectHash, RestoreIntentBody>) -> String {
    let statement = &record.statement;
    let text = match &statement.kind {
        RecordKind::Snapshot => statement.body_as::<SnapshotBody>().map(|body| {
            let (files, new) = (body.tally.files, human_size(body.new_bytes));
            format!("snapshot {} of series {}: {files} files, {new} new", record.head.hash.short(), body.series.short())
        }),
        RecordKind::RestoreIntent => statement.body_as::<RestoreIntentBody>().map(|body| describe_intent(&body, detail)),
        RecordKind::RestoreOutcome => statement.body_as::<RestoreOutcomeBody>().map(|body| {
            let what = restores.get(&body.intent.hash).map_or_else(
                || format!("restore {}", body.intent.hash.short()),
                |intent| format!("{} of snapshot {} by {}", intent.purpose, intent.snapshot.short(), intent.operator),
            );
            let error = body.error.map(|error| format!(", {error}")).unwrap_or_default();
            format!("{what} ended: {}, {} entries, {}{error}", body.outcome, body.entries, human_size(body.bytes))
        }),
        RecordKind::Verify => statement.body_as::<VerifyBody>().map(|body| {
            let (objects, findings) = (count(body.objects, "object"), count(body.findings, "finding"));
            let from: Vec<String> =
                body.rolled_back.iter().map(|(writer, head)| format!("{} #{}", writer.short(), head.seq)).collect();
            let accepted = if from.is_empty() {
                String::new()
            } else {
                format!("; taken as it is after it was rolled back from {}", from.join(", "))
            };
            format!("verified {} ({}): {objects}, {findings}{accepted}", body.store, body.depth)
        }),
        RecordKind::Heartbeat => statement.body_as::<HeartbeatBody>().map(|body| {
            let last = body.last.map_or_else(|| "none".to_owned(), |time| time.to_string());
            let due = body.due.map(|time| format!(", the next is due at {time}")).unwrap_or_default();
            format!("saw {}: the last push was at {last}{due}", body.store)
        }),
        RecordKind::Hold => statement.body_as::<HoldBody>().map(|body| {
            let reason = body.reason.map(|reason| format!(", reason: {reason}")).unwrap_or_default();
            match body.until {
                _ if body.cleared => format!("clears snapshot {} of suspicion{reason}", body.snapshot.short()),
                Some(until) => format!("holds snapshot {} until {until}{reason}", body.snapshot.short()),
                None => format!("lets snapshot {} go{reason}", body.snapshot.short()),
            }
        }),
        RecordKind::PrunePlan => statement.body_as::<PrunePlanBody>().map(|body| {
            let size = human_size(body.bytes);
            let (snapshots, objects) = (count(body.snapshots, "snapshot"), count(body.objects, "object"));
            format!("plans to drop {snapshots} from {} ({objects}, {size})", body.store)
        }),
        RecordKind::PruneDone => statement.body_as::<PruneDoneBody>().map(|body| {
            let plan = body.plan.hash.short();
            if body.finished {
                let size = human_size(body.bytes);
                format!("removed {} ({size}) from {}, by plan {plan}", count(body.objects, "object"), body.store)
            } else {
                format!("drops {} from {}, by plan {plan}", count(body.snapshots, "snapshot"), body.store)
            }
        }),
        RecordKind::Export => statement.body_as::<ExportBody>().map(|body| {
            let sent = human_size(body.bytes);
            let snapshots = count(body.snapshots, "snapshot");
            format!("exported {snapshots} to drive {} from {}: {sent} sent", body.drive, body.from)
        }),
        RecordKind::Drive => statement.body_as::<DriveBody>().map(|body| describe_drive(&body)),
        other => Ok(other.to_string()),
    };
    text.unwrap_or_else(|error| format!("{} record that cannot be read: {error}", statement.kind))
}

fn describe_drive(body: &DriveBody) -> String {
    let (drive, by) = (&body.drive, &body.operator);
    match &body.event {
        DriveEvent::Enrol(_) => format!("{by} enrolled drive {drive}"),
        DriveEvent::Handover(handover) => {
            let seal = handover.seal.as_ref().map(|seal| format!(", seal {seal}")).unwrap_or_default();
            format!("{by}: drive {drive} went to {}{seal}", handover.to)
        }
        DriveEvent::Retire(retirement) => format!("{by} retired drive {drive}: {}", retirement.erased),
    }
}

fn describe_intent(body: &RestoreIntentBody, detail: Option<&RestoreDetail>) -> String {
    let what = match (detail, body.selected) {
        (Some(detail), _) if !detail.selection.is_empty() => format!(" ({})", detail.selection.join(", ")),
        (_, 0) => String::new(),
        (_, n) => format!(" ({n} paths, sealed)"),
    };
    let to = detail.map(|detail| format!(" into {}", detail.target)).unwrap_or_default();
    let reason = body.reason.as_ref().map(|reason| format!(", reason: {reason}")).unwrap_or_default();
    let ticket = body.ticket.as_ref().map(|ticket| format!(", ticket {ticket}")).unwrap_or_default();
    format!(
        "{} begins {} of snapshot {}{what} from {}{to}{reason}{ticket}",
        body.operator,
        body.purpose,
        body.snapshot.short(),
        body.from
    )
}
