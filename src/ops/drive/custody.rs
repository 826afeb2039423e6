//! `drive handover` and `drive retire`: signed records of where a drive went, and of its end.

use serde::Serialize;

use super::DrivesPlan;
use crate::format::drive::{DriveEvent, Handover, Retirement};
use crate::model::drive::DriveName;
use crate::model::finding::{Finding, FindingKind};
use crate::ops::context::Locking;
use crate::ops::{Env, Exit, OpError};

/// What happened to a drive.
pub struct CustodyPlan {
    /// The vault.
    pub drives: DrivesPlan,
    /// The drive.
    pub name: DriveName,
    /// A handover (who held it is filled in) or a retirement.
    pub event: CustodyEvent,
}

/// What can be said of a drive that is not plugged in.
#[derive(Debug, Clone)]
pub enum CustodyEvent {
    /// It went to somebody.
    Handover {
        /// To whom.
        to: String,
        /// Where it is kept now.
        location: Option<String>,
        /// The number of its bag or seal.
        seal: Option<String>,
    },
    /// It takes part no more.
    Retire {
        /// Why.
        reason: Option<String>,
        /// How what lay on it was made unreadable.
        erased: String,
    },
}

/// What is on record.
#[derive(Debug, Clone, Serialize)]
pub struct CustodyReceipt {
    /// The drive.
    pub drive: DriveName,
    /// The record.
    pub record: String,
    /// What it says.
    pub event: DriveEvent,
    /// What is worth knowing.
    pub findings: Vec<Finding>,
}

impl CustodyReceipt {
    /// The exit code.
    #[must_use]
    pub fn exit(&self) -> Exit {
        Exit::of_findings(&self.findings)
    }
}

/// Puts it on record.
///
/// # Errors
/// When the drive is not enrolled, or the record cannot be made durable here.
pub fn custody(plan: &CustodyPlan, env: &Env<'_>) -> Result<CustodyReceipt, OpError> {
    let opened = plan.drives.open(env, Locking::Exclusive)?;
    let drive = opened.drive(&plan.name)?;
    let mut notes = Vec::new();
    let event = match &plan.event {
        CustodyEvent::Handover { to, location, seal } => {
            let holders = &drive.enrolment.holders;
            if !holders.is_empty() && !holders.contains(to) {
                let message = format!("{to} is not among its holders ({})", holders.join(", "));
                notes.push(Finding::new(FindingKind::Behind, format!("drive {}", plan.name), message));
            }
            let (from, to) = (drive.holder.clone(), to.clone());
            DriveEvent::Handover(Handover { from, to, location: location.clone(), seal: seal.clone() })
        }
        CustodyEvent::Retire { reason, erased } => {
            DriveEvent::Retire(Retirement { reason: reason.clone(), erased: erased.clone() })
        }
    };
    let (signed, findings) = opened.sign(&plan.name, event.clone(), env)?;
    notes.extend(findings);
    Ok(CustodyReceipt { drive: plan.name.clone(), record: signed.name.to_string(), event, findings: notes })
}
