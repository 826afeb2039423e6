//! Drives: enrolled once with a signed label, brought up to date week by week, watched over until they are retired.
//!
//! A drive is known by its label, which is the record that enrolled it, and by what its hardware says. Before both were
//! looked at, not one byte goes to what is mounted at its path; and what is written goes through a descriptor of the very
//! file system that was looked at, so that a mount that goes away in between cannot let it fall onto the one beneath.

use std::collections::BTreeSet;
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use super::context::{Context, Locking, NamedStore, VaultPin, open_pinned};
use super::custody::adopt_own;
use super::delivery::deliver_missing;
use super::sections::Sections;
use super::{Env, OpError};
use crate::format::drive::{DriveBody, DriveEvent};
use crate::format::record::{Head, RecordKind};
use crate::ledger::{Checked, Signed, check};
use crate::model::drive::DriveName;
use crate::model::finding::{Finding, FindingKind};
use crate::model::ids::WriterId;
use crate::model::name::ObjectName;
use crate::store::directory::DirectoryStore;
use crate::store::drive::{DriveError, Found, System, check_drive, look};
use crate::vault::VaultError;
use crate::vault::copy::Copy;
use crate::vault::register::{Drive, Due, Register};
use crate::vault::snapshots::Records;

mod binary;
mod custody;
mod enrol;
mod export;
mod label;
mod retention;
mod status;

pub use custody::{CustodyEvent, CustodyPlan, CustodyReceipt, custody};
pub use enrol::{EnrolPlan, EnrolReceipt, enrol};
pub use export::{ExportPlan, ExportReceipt, ExportSettings, export};
pub use retention::Retained;
pub use status::{DriveStatus, DrivesReceipt, status};

/// The vault's directory on a drive.
pub const VAULT_DIR: &str = "vault";

/// What every command about drives begins with.
pub struct DrivesPlan {
    /// Whom to trust.
    pub pin: VaultPin,
    /// The copy whose ledger is read, and that is exported.
    pub from: NamedStore,
    /// Where the kernel tells of its devices.
    pub system: System,
    /// Where the configuration says that drives are mounted; else their labels do.
    pub paths: std::collections::BTreeMap<DriveName, PathBuf>,
    /// The sections of the configuration.
    pub sections: Sections,
}

/// A vault with its register of drives.
struct Opened {
    context: Context,
    copy: Copy,
    records: Records,
    /// Its records, and those of this machine that it lacks.
    all: Vec<Checked>,
    /// Who writes on this machine.
    own: BTreeSet<WriterId>,
    register: Register,
}

impl DrivesPlan {
    fn open(&self, env: &Env<'_>, locking: Locking) -> Result<Opened, OpError> {
        env.step(format!("opening {}", self.from.name));
        let vault = match self.pin.vault {
            Some(vault) => vault,
            None => open_pinned(Arc::clone(&self.from.store), &self.pin, None)?.vault(),
        };
        let mut context = Context::open(env, vault, locking)?;
        let mut copy = context.open_copy(Arc::clone(&self.from.store), &self.pin)?;
        let records = context.read_records(&mut copy)?;
        let (all, own) = with_own(&context, &copy, &records)?;
        Ok(Opened { context, copy, records, register: Register::read(&all, &own), all, own })
    }

    /// Where a drive is mounted when it is plugged in.
    fn path_of(&self, drive: &Drive) -> PathBuf {
        self.paths.get(&drive.name).cloned().unwrap_or_else(|| PathBuf::from(&drive.enrolment.path))
    }
}

/// The drives that the records of a copy, and those of this machine, tell of.
///
/// # Errors
/// When this machine's own records cannot be read.
pub fn register_of(context: &Context, copy: &Copy, records: &Records) -> Result<Register, OpError> {
    let (all, own) = with_own(context, copy, records)?;
    Ok(Register::read(&all, &own))
}

/// The records of a copy and those of this machine that it lacks; and who writes here.
fn with_own(context: &Context, copy: &Copy, records: &Records) -> Result<(Vec<Checked>, BTreeSet<WriterId>), OpError> {
    let mut all = records.checked.clone();
    let mut own = BTreeSet::new();
    for scribe in context.scribes(copy.vault())? {
        own.insert(scribe.writer());
        for name in scribe.names()? {
            let ObjectName::Record { writer, seq, statement } = &name else { continue };
            if !copy.book.has(writer, &Head { seq: *seq, hash: *statement }) {
                all.push(check(&copy.trust, &name.to_string(), &scribe.read(&name)?)?);
            }
        }
    }
    Ok((all, own))
}

impl Opened {
    fn drive(&self, name: &DriveName) -> Result<&Drive, OpError> {
        let drive = self.register.get(name).ok_or_else(|| {
            let known: Vec<&str> = self.register.all().map(|drive| drive.name.as_str()).collect();
            let known = if known.is_empty() { "none".to_owned() } else { known.join(", ") };
            OpError::Usage(format!(
                "no drive {name} is enrolled (there are: {known}); `farkeep drive enrol` makes its label"
            ))
        })?;
        match &drive.retired {
            None => Ok(drive),
            Some((time, _)) => Err(OpError::Usage(format!("drive {name} was retired on {time}"))),
        }
    }

    /// Signs a drive record: durable here, and on the copy if it takes it.
    fn sign(&self, drive: &DriveName, event: DriveEvent, env: &Env<'_>) -> Result<(Signed, Vec<Finding>), OpError> {
        let body = DriveBody { drive: drive.clone(), operator: operator(env), event };
        let signed = self.write(RecordKind::Drive, &body, env)?;
        let findings = self.deliver(&signed);
        Ok((signed, findings))
    }

    fn write(&self, kind: RecordKind, body: &impl serde::Serialize, env: &Env<'_>) -> Result<Signed, OpError> {
        let mut scribe = self.context.station(env, &self.copy.trust)?;
        adopt_own(&mut scribe, &self.copy, &self.records)?;
        let context = self.context.record_context(env, self.copy.trust.head(), self.records.heads());
        Ok(scribe.write(kind, body, context)?)
    }

    /// Sends own records that the copy lacks; what it does not take stays here until the next sync or export.
    fn deliver(&self, signed: &Signed) -> Vec<Finding> {
        let sent = deliver_missing(&self.context, &self.copy, &signed.name);
        let notice = |error: OpError| {
            let message = format!("the record stays here until the next `farkeep sync`: {error}");
            Finding::new(FindingKind::Notice, self.copy.name(), message)
        };
        sent.err().map(notice).into_iter().collect()
    }
}

/// The enrolled drive that a copy lies on, as the label beside it and its hardware say: its files on another one, or in a
/// directory of this machine, are not that drive.
#[must_use]
pub fn drive_of(copy: &Copy) -> Option<(DriveName, Head)> {
    let root = copy.store.location().directory()?.parent()?.canonicalize().ok()?;
    let label = label::find(&DirectoryStore::open(&root).ok()?, &copy.trust, &root).ok()??;
    let DriveEvent::Enrol(was) = &label.body.event else { return None };
    let now = look(&root, &System::default()).ok().filter(|found| found.mount == root)?;
    was.identity.differences(&now.identity).is_empty().then_some((label.body.drive, label.head))
}

fn operator(env: &Env<'_>) -> String {
    format!("{}@{}", env.user, env.host)
}

/// A mounted file system, opened before anything is decided about it.
struct Slot {
    path: PathBuf,
    root: OwnedFd,
    found: Found,
}

impl Slot {
    /// Opens what is mounted at `path`, which must be a mount point of its own, apart from `/` and from `source`.
    fn open(path: &Path, source: Option<&Path>, system: &System) -> Result<Self, OpError> {
        check_drive(path, source).map_err(refusal)?;
        let path = path.canonicalize().map_err(|e| OpError::NotDone(format!("{}: {e}", path.display())))?;
        let found = look(&path, system).map_err(refusal)?;
        if found.mount != path {
            return Err(OpError::Usage(format!(
                "{}: is no mount point; the drive is mounted at {}",
                path.display(),
                found.mount.display()
            )));
        }
        let flags = rustix::fs::OFlags::RDONLY | rustix::fs::OFlags::DIRECTORY | rustix::fs::OFlags::CLOEXEC;
        let io = |e: rustix::io::Errno| OpError::NotDone(format!("{}: {e}", path.display()));
        let root = rustix::fs::open(&path, flags, rustix::fs::Mode::empty()).map_err(io)?;
        let below = rustix::fs::stat("/").map_err(io)?.st_dev;
        let parent = path.parent().map(rustix::fs::stat).transpose().map_err(io)?;
        let device = rustix::fs::fstat(&root).map_err(io)?.st_dev;
        if device == below || parent.is_some_and(|parent| parent.st_dev == device) {
            return Err(refusal(DriveError::Changed(path)));
        }
        Ok(Self { path, root, found })
    }

    /// The drive's root as a store of few files: its label.
    fn files(&self) -> Result<DirectoryStore, OpError> {
        let root = self.root.try_clone().map_err(|e| OpError::NotDone(format!("{}: {e}", self.path.display())))?;
        Ok(DirectoryStore::of_open(root, &self.path))
    }

    /// Makes all that was written to it durable.
    fn sync(&self) -> Result<(), OpError> {
        rustix::fs::syncfs(&self.root).map_err(|e| OpError::NotDone(format!("{}: {e}", self.path.display())))
    }

    /// The copy on the drive.
    fn vault(&self, create: bool) -> Result<DirectoryStore, OpError> {
        DirectoryStore::beneath(&self.root, &self.path, VAULT_DIR, create).map_err(|e| VaultError::from(e).into())
    }
}

fn refusal(error: DriveError) -> OpError {
    match error {
        DriveError::NotMounted(_) | DriveError::Changed(_) => OpError::Vault(VaultError::Absent(error.to_string())),
        other => OpError::Usage(other.to_string()),
    }
}

/// Opens the mounted drive at `path` and makes sure that it is `drive`: by its label, and by its hardware.
fn recognise(
    drive: &Drive,
    path: &Path,
    opened: &Opened,
    source: Option<&Path>,
    system: &System,
) -> Result<(Slot, Vec<Finding>), OpError> {
    let slot = Slot::open(path, source, system)?;
    let shown = slot.path.display();
    let Some(label) = label::find(&slot.files()?, &opened.copy.trust, &slot.path)? else {
        return Err(OpError::Mismatch(format!(
            "{shown}: what is mounted here carries no label of an enrolled drive; drive {} is expected; nothing was written",
            drive.name
        )));
    };
    if label.head != drive.label {
        let says = label.body.drive;
        let why = match opened.register.get(&says) {
            Some(other) if other.label == label.head && other.retired.is_some() => format!("this is drive {says}, retired"),
            Some(other) if other.label == label.head => format!("this is drive {says}, not {}", drive.name),
            Some(_) => format!("its label is an older one of drive {says}: the drive was enrolled anew since"),
            None => format!("its label names drive {says}, which nobody whom this machine trusts has enrolled"),
        };
        return Err(OpError::Mismatch(format!("{shown}: {why}; nothing was written")));
    }
    let was = &drive.enrolment;
    if let Some((what, before, now)) = was.identity.differences(&slot.found.identity).first() {
        return Err(OpError::Mismatch(format!(
            "{shown}: carries the label of drive {} and is another one: its {what} is {now}, enrolled was {before}: a clone? \
             nothing was written",
            drive.name
        )));
    }
    if was.encrypted && !slot.found.encrypted {
        return Err(OpError::Mismatch(format!(
            "{shown}: drive {} was enrolled encrypted and now lies on no dm-crypt device; nothing was written",
            drive.name
        )));
    }
    label::refuse_twin(&slot, &label.bytes, system)?;
    let unknown = |what: &str, was: &Option<String>, now: &Option<String>| {
        (was.is_some() && now.is_none()).then(|| {
            let message = format!("its {what} cannot be read on this machine, and was not compared");
            Finding::new(FindingKind::Notice, format!("drive {}", drive.name), message)
        })
    };
    let now = &slot.found.identity;
    let notes = [
        unknown("file system's UUID", &was.identity.fs_uuid, &now.fs_uuid),
        unknown("LUKS UUID", &was.identity.luks_uuid, &now.luks_uuid),
        unknown("serial number", &was.identity.serial, &now.serial),
    ];
    Ok((slot, notes.into_iter().flatten().collect()))
}

/// Which drive is due, in words.
fn due_text(due: Option<&Due>, now: crate::model::time::Timestamp) -> String {
    match due {
        None => "no drive is enrolled".into(),
        Some(due) if due.at <= now => format!("due is drive {}, since {}", due.name, due.at),
        Some(due) => format!("due next is drive {}, on {}", due.name, due.at),
    }
}
