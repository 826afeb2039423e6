//! `drive status`: where each drive is, what it holds, what it lacks, whether that has room, and which one is due.
//!
//! Read from the ledger alone, so the drives need not be there; one that is plugged in is asked for its free room.

use serde::Serialize;

use super::{DrivesPlan, Opened, due_text, recognise};
use crate::format::body::{PruneDoneBody, VerifyBody};
use crate::format::record::RecordKind;
use crate::ledger::{Checked, Standing};
use crate::model::drive::{DriveIdentity, DriveName};
use crate::model::finding::{Finding, FindingKind};
use crate::model::time::{Timestamp, human_duration};
use crate::ops::context::Locking;
use crate::ops::transfer::SPARE_BYTES;
use crate::ops::{Env, Exit, OpError};
use crate::store::Store;
use crate::vault::pruned::Pruned;
use crate::vault::register::Drive;
use crate::vault::snapshots::Snapshot;

/// An export may be late by so many parts of its interval before that is a finding.
const GRACE_PARTS: i64 = 4;

/// One drive.
#[derive(Debug, Clone, Serialize)]
pub struct DriveStatus {
    /// The drive.
    pub drive: DriveName,
    /// Where it is mounted when it is plugged in.
    pub path: String,
    /// Whether it is plugged in.
    pub present: bool,
    /// By what it is known.
    pub identity: DriveIdentity,
    /// Whether it lay on dm-crypt when it was enrolled.
    pub encrypted: bool,
    /// When it was enrolled.
    pub enrolled: Timestamp,
    /// Who holds it.
    pub holder: Option<String>,
    /// Who may.
    pub holders: Vec<String>,
    /// Where it is kept.
    pub location: Option<String>,
    /// When its last export ended.
    pub exported: Option<Timestamp>,
    /// Snapshots that were made since.
    pub snapshots_behind: u64,
    /// Stored bytes of what they added.
    pub bytes_to_go: u64,
    /// Free bytes, as far as is known.
    pub free_bytes: Option<u64>,
    /// Whether what is to go has room.
    pub room: Option<bool>,
    /// When all of it was last read.
    pub verified: Option<Timestamp>,
    /// When and how it ended.
    pub retired: Option<(Timestamp, String)>,
}

/// All drives.
#[derive(Debug, Clone, Serialize)]
pub struct DrivesReceipt {
    /// The drives, by name.
    pub drives: Vec<DriveStatus>,
    /// Which one is due.
    pub due: String,
    /// What is not as it should be.
    pub findings: Vec<Finding>,
}

impl DrivesReceipt {
    /// The exit code of `drive status --check`.
    #[must_use]
    pub fn exit(&self) -> Exit {
        Exit::of_findings(&self.findings)
    }
}

/// Looks at every drive.
///
/// # Errors
/// When the copy whose ledger is read cannot be reached.
pub fn status(plan: &DrivesPlan, env: &Env<'_>) -> Result<DrivesReceipt, OpError> {
    let opened = plan.open(env, Locking::Shared)?;
    let now = env.clock.now();
    let mut snapshots = opened.records.snapshots();
    Pruned::read(&opened.records, opened.copy.store.as_ref())?.take_dropped(&mut snapshots);
    let mut findings = plan.sections.unknown(&opened.context, &opened.copy, &opened.records)?;
    let mut drives = Vec::new();
    for drive in opened.register.all() {
        let status = one(drive, plan, &opened, &snapshots);
        let takes_part = drive.retired.is_none();
        if takes_part && status.room == Some(false) {
            let message = "has no room for what is to go to it";
            findings.push(Finding::new(FindingKind::Behind, format!("drive {}", drive.name), message));
        }
        if takes_part && drive.export.is_some() && drive.exported(now).is_none() {
            let message =
                "its last export claims a time that has not come yet: a clock was wrong, and it counts as long ago";
            findings.push(Finding::new(FindingKind::Behind, format!("drive {}", drive.name), message));
        }
        drives.push(status);
    }
    let due = opened.register.due(now);
    if let Some(due) = &due
        && let Some(drive) = opened.register.get(&due.name)
    {
        let grace = i64::try_from(drive.enrolment.every_secs).unwrap_or(i64::MAX) / GRACE_PARTS;
        let late = now.secs_since(due.at);
        if late > grace {
            let message = format!("its export is {} late", human_duration(late.unsigned_abs()));
            findings.push(Finding::new(FindingKind::Behind, format!("drive {}", due.name), message));
        }
    }
    Ok(DrivesReceipt { drives, due: due_text(due.as_ref(), now), findings })
}

fn one(drive: &Drive, plan: &DrivesPlan, opened: &Opened, snapshots: &[Snapshot]) -> DriveStatus {
    let path = plan.path_of(drive);
    let slot = if drive.retired.is_none() { recognise(drive, &path, opened, None, &plan.system).ok() } else { None };
    let room_now = slot.as_ref().and_then(|(slot, _)| slot.files().ok()?.room().ok().flatten());
    let free_bytes = room_now.or_else(|| room_left(drive, opened));
    let missing: Vec<&Snapshot> = snapshots.iter().filter(|snapshot| !holds(drive, snapshot)).collect();
    let bytes_to_go = missing.iter().map(|snapshot| snapshot.body.new_bytes).sum();
    DriveStatus {
        drive: drive.name.clone(),
        path: path.display().to_string(),
        present: slot.is_some(),
        identity: drive.enrolment.identity.clone(),
        encrypted: drive.enrolment.encrypted,
        enrolled: drive.enrolled,
        holder: drive.holder.clone(),
        holders: drive.enrolment.holders.clone(),
        location: drive.location.clone(),
        exported: drive.export.as_ref().map(|export| export.time),
        snapshots_behind: missing.len() as u64,
        bytes_to_go,
        free_bytes,
        room: free_bytes.map(|free| free >= bytes_to_go + SPARE_BYTES),
        verified: last_read(drive, opened),
        retired: drive.retired.as_ref().map(|(time, retirement)| (*time, retirement.erased.clone())),
    }
}

/// Whether the drive's last export had seen the snapshot.
fn holds(drive: &Drive, snapshot: &Snapshot) -> bool {
    let heads = drive.export.as_ref().map(|export| &export.heads);
    heads.and_then(|heads| heads.get(&snapshot.writer)).is_some_and(|head| head.seq >= snapshot.head.seq)
}

/// Free bytes of a drive that is elsewhere: after its last export, and after what was pruned from it since.
fn room_left(drive: &Drive, opened: &Opened) -> Option<u64> {
    let export = drive.export.as_ref()?;
    let since = counted(opened, RecordKind::PruneDone).filter(|record| record.statement.time >= export.time);
    let bodies = since.filter_map(|record| record.statement.body_as::<PruneDoneBody>().ok());
    let freed: u64 = bodies.filter(|body| body.drive.as_ref() == Some(&drive.name)).map(|body| body.bytes).sum();
    Some(export.body.free_bytes? + freed)
}

/// The newest verification that read all of the drive, by somebody whose word counts.
fn last_read(drive: &Drive, opened: &Opened) -> Option<Timestamp> {
    let of_drive = |record: &&Checked| {
        let body = record.statement.body_as::<VerifyBody>();
        body.is_ok_and(|body| body.whole && body.drive.as_ref() == Some(&drive.name) && body.label == Some(drive.label))
    };
    counted(opened, RecordKind::Verify).filter(of_drive).map(|record| record.statement.time).max()
}

/// The records of a kind that trust allows, or that this machine signed.
fn counted(opened: &Opened, kind: RecordKind) -> impl Iterator<Item = &Checked> {
    let counts = |record: &&Checked| record.standing == Standing::Trusted || opened.own.contains(&record.statement.writer);
    opened.all.iter().filter(move |record| record.statement.kind == kind).filter(counts)
}
