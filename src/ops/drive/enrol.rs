//! `drive enrol`: makes a mounted file system a drive of this vault, with a signed label.

use std::path::PathBuf;

use serde::Serialize;

use super::{DrivesPlan, Opened, Slot, VAULT_DIR, label};
use crate::format::drive::{DriveEvent, Enrolment};
use crate::model::drive::{DriveIdentity, DriveName};
use crate::model::finding::{Finding, FindingKind};
use crate::ops::context::Locking;
use crate::ops::{Env, Exit, OpError};
use crate::store::drive::features;
use crate::store::drive::superblock::{self, Content};
use crate::vault::VaultError;
use crate::vault::register::Drive;

/// What to enrol.
pub struct EnrolPlan {
    /// The vault.
    pub drives: DrivesPlan,
    /// What it shall be called.
    pub name: DriveName,
    /// Where it is mounted.
    pub path: PathBuf,
    /// How often it should take an export.
    pub every_secs: u64,
    /// Who may hold it.
    pub holders: Vec<String>,
    /// Where it is kept.
    pub location: Option<String>,
    /// It may lie on no dm-crypt device.
    pub allow_plain: bool,
}

/// What was enrolled.
#[derive(Debug, Clone, Serialize)]
pub struct EnrolReceipt {
    /// The drive.
    pub drive: DriveName,
    /// Where its copy goes.
    pub vault: PathBuf,
    /// What it is.
    pub enrolment: Enrolment,
    /// What is worth knowing.
    pub findings: Vec<Finding>,
}

impl EnrolReceipt {
    /// The exit code.
    #[must_use]
    pub fn exit(&self) -> Exit {
        Exit::of_findings(&self.findings)
    }
}

/// Enrols a drive.
///
/// # Errors
/// When nothing is mounted there, it is not encrypted, it carries a label already, or the name is taken.
pub fn enrol(plan: &EnrolPlan, env: &Env<'_>) -> Result<EnrolReceipt, OpError> {
    refuse_device(&plan.path)?;
    let source = plan.drives.from.store.location().directory();
    let slot = Slot::open(&plan.path, source, &plan.drives.system)?;
    let opened = plan.drives.open(env, Locking::Exclusive)?;
    let label = label::find(&slot.files()?, &opened.copy.trust, &slot.path)?;
    if let Some(label) = &label {
        let name = &label.body.drive;
        if opened.register.get(name).is_none() {
            let by = &label.by;
            return Err(OpError::Usage(format!(
                "{}: is enrolled already, as drive {name}, by a machine whose key nobody enrolled: `farkeep keys enrol station \
                 {by} --root FILE` makes what it signed count, and the drive is known again",
                slot.path.display()
            )));
        }
        return Err(OpError::Usage(format!(
            "{}: is enrolled already, as drive {name}; a drive that is made new has no label any more",
            slot.path.display()
        )));
    }
    if let Some(drive) = opened.register.get(&plan.name).filter(|drive| drive.retired.is_none()) {
        return take_up(drive, &opened, &slot);
    }
    if !slot.found.encrypted && !plan.allow_plain {
        return Err(OpError::Usage(format!(
            "{}: lies on no dm-crypt device: whoever finds the drive sees sizes, names and times of objects, though no \
             content; make it a LUKS volume, or say --allow-plain",
            slot.path.display()
        )));
    }
    env.step("looking at what the drive can do");
    let lacks = features::absent(&slot.root).map_err(|e| OpError::NotDone(format!("{}: {e}", slot.path.display())))?;
    let path = slot.path.to_str().ok_or_else(|| OpError::Usage("the mount point's path is not UTF-8".into()))?;
    let enrolment = Enrolment {
        identity: slot.found.identity.clone(),
        encrypted: slot.found.encrypted,
        fs_type: slot.found.fs_type.clone(),
        lacks,
        path: path.to_owned(),
        every_secs: plan.every_secs,
        holders: plan.holders.clone(),
        location: plan.location.clone(),
    };
    let (signed, mut findings) = opened.sign(&plan.name, DriveEvent::Enrol(enrolment.clone()), env)?;
    label::write(&slot.files()?, &signed.bytes)?;
    let subject = format!("drive {}", plan.name);
    findings.extend(slot.found.notes.iter().map(|note| Finding::new(FindingKind::Notice, &subject, note)));
    if !enrolment.lacks.is_empty() {
        let message = format!("its file system lacks {}; none of it is needed", enrolment.lacks.join(", "));
        findings.push(Finding::new(FindingKind::Notice, &subject, message));
    }
    Ok(EnrolReceipt { drive: plan.name.clone(), vault: slot.path.join(VAULT_DIR), enrolment, findings })
}

/// A device or an image instead of a mount point: says what lies in it.
fn refuse_device(path: &std::path::Path) -> Result<(), OpError> {
    if path.is_dir() || !path.exists() {
        return Ok(());
    }
    let shown = path.display();
    Err(OpError::Usage(match superblock::read(path) {
        Some(Content::Luks { version, uuid }) => format!(
            "{shown}: is a LUKS{version} container ({uuid}); open it (cryptsetup open {shown} NAME), mount it, and name the mount point"
        ),
        Some(Content::FileSystem(uuid)) => {
            format!("{shown}: holds a file system ({uuid}) without LUKS; mount it and name the mount point")
        }
        _ => format!("{shown}: is no directory; name the drive's mount point"),
    }))
}

/// The record was signed and the plug pulled before the label was written: the same record becomes the label now.
fn take_up(drive: &Drive, opened: &Opened, slot: &Slot) -> Result<EnrolReceipt, OpError> {
    let known: &DriveIdentity = &drive.enrolment.identity;
    if known.is_empty() || *known != slot.found.identity || drive.export.is_some() {
        return Err(OpError::Usage(format!(
            "drive {} is enrolled already, and this is another one; retire it first, or choose another name",
            drive.name
        )));
    }
    let bytes = match crate::vault::replicate::read_record(opened.copy.store.as_ref(), &drive.label_name) {
        Ok(bytes) => bytes,
        Err(error) => {
            let scribes = opened.context.scribes(opened.copy.vault())?;
            let own = scribes.iter().find_map(|scribe| scribe.read(&drive.label_name).ok());
            own.ok_or::<VaultError>(error)?
        }
    };
    label::write(&slot.files()?, &bytes)?;
    let enrolment = drive.enrolment.clone();
    Ok(EnrolReceipt { drive: drive.name.clone(), vault: slot.path.join(VAULT_DIR), enrolment, findings: Vec::new() })
}
