//! `drive export`: brings the copy on a drive up to date without any decryption key, proves it, and signs that.

use std::collections::{BTreeMap, BTreeSet};
use std::path::PathBuf;
use std::process::Command;
use std::sync::Arc;

use serde::Serialize;

use super::retention::{Retained, left_undone, retain};
use super::{DrivesPlan, Opened, Slot, binary, due_text, operator, recognise};
use crate::format::drive::ExportBody;
use crate::format::inventory::Line;
use crate::format::record::RecordKind;
use crate::model::drive::DriveName;
use crate::model::finding::{Finding, FindingKind};
use crate::model::ids::WriterId;
use crate::model::name::ObjectName;
use crate::model::time::Timestamp;
use crate::ops::context::{Locking, NamedStore, open_pinned};
use crate::ops::delivery::deliver_missing;
use crate::ops::prune::plan::Rules;
use crate::ops::transfer::{Looking, Transfer, Transferred};
use crate::ops::{Env, Event, Exit, OpError};
use crate::store::directory::DirectoryStore;
use crate::store::{PruneStore, Store, StoreError, WriteOnceStore};
use crate::vault::VaultError;
use crate::vault::copy::Copy;
use crate::vault::parity::{self, Protected};
use crate::vault::presence::Presence;
use crate::vault::register::Drive;
use crate::vault::replicate::{Replicated, read_record};
use crate::vault::sweep::SWEPT;

/// What to export.
pub struct ExportPlan {
    /// The vault, and the copy that is read.
    pub drives: DrivesPlan,
    /// Which drive; without a name, the one that is plugged in.
    pub name: Option<DriveName>,
    /// The drive took the last export too, and shall all the same.
    pub again: bool,
    /// Unmount it at the end.
    pub unmount: bool,
    /// What the configuration says of each drive.
    pub settings: BTreeMap<DriveName, ExportSettings>,
    /// The program to put beside the vault.
    pub binary: Option<PathBuf>,
}

/// What the configuration says of a drive.
#[derive(Debug, Clone, Default)]
pub struct ExportSettings {
    /// Unmount it at the end.
    pub unmount: bool,
    /// Parity, in thousandths of what it protects; 0 makes none.
    pub parity_permille: u32,
    /// What stays on it; without rules everything does.
    pub keep: Option<Rules>,
}

/// What was exported.
#[derive(Debug, Clone, Serialize)]
pub struct ExportReceipt {
    /// The drive.
    pub drive: DriveName,
    /// Where its copy lies.
    pub to: String,
    /// The copy that was read.
    pub from: String,
    /// What was sent.
    #[serde(flatten)]
    pub sent: Replicated,
    /// Objects that were damaged on the drive and lie there whole now.
    pub healed: Vec<String>,
    /// Records that were sent.
    pub records: u64,
    /// Snapshots that the drive holds now.
    pub snapshots: u64,
    /// Objects that were read back.
    pub read_back: u64,
    /// Whether all of them were read past the machine's cache.
    pub past_cache: bool,
    /// Parity that was made.
    pub parity: Protected,
    /// What its own retention did, where it has rules and they could be applied.
    pub retained: Option<Retained>,
    /// Free bytes on the drive.
    pub free_bytes: Option<u64>,
    /// When the drive's next turn is, or another's.
    pub next: String,
    /// Whether it was unmounted.
    pub unmounted: bool,
    /// Whether all is durable, read back and signed.
    pub safe: bool,
    /// What was found.
    pub findings: Vec<Finding>,
}

impl ExportReceipt {
    /// The exit code.
    #[must_use]
    pub fn exit(&self) -> Exit {
        Exit::of_findings(&self.findings)
    }
}

impl ExportPlan {
    fn settings_of(&self, drive: &DriveName) -> ExportSettings {
        self.settings.get(drive).cloned().unwrap_or_default()
    }
}

/// Exports to a drive.
///
/// # Errors
/// When it is not present, not the one that it should be, or full; or either copy fails. The export before stays whole.
pub fn export(plan: &ExportPlan, env: &Env<'_>) -> Result<ExportReceipt, OpError> {
    let started = env.clock.now();
    let opened = plan.drives.open(env, Locking::Exclusive)?;
    let (drive, slot, notes) = choose(plan, &opened, env)?;
    if let Some(due) = opened.register.out_of_turn(&drive.name, started).filter(|_| !plan.again) {
        return Err(OpError::Vault(VaultError::Absent(format!(
            "drive {} took the last export too; {}; nothing was written (--again exports to it all the same)",
            drive.name,
            due_text(Some(&due), started)
        ))));
    }
    refuse_set_back(plan, &opened, &drive, &slot)?;
    let path = slot.path.clone();
    let mut exported = bring_up_to_date(plan, opened, &drive, slot, notes, started, env)?;
    if exported.receipt.safe {
        apply_keep(plan, &drive, &mut exported, env)?;
    }
    // Every descriptor of the drive is closed by this.
    let mut receipt = exported.close();
    if (plan.unmount || plan.settings_of(&drive.name).unmount) && receipt.safe {
        match unmount(&path) {
            Ok(()) => receipt.unmounted = true,
            Err(why) => {
                let message = format!("is not unmounted: {why}; all is durable on it nevertheless");
                receipt.findings.push(Finding::new(FindingKind::Behind, path.display(), message));
            }
        }
    }
    Ok(receipt)
}

/// The drive that is meant, opened and recognised.
fn choose(plan: &ExportPlan, opened: &Opened, env: &Env<'_>) -> Result<(Drive, Slot, Vec<Finding>), OpError> {
    let due = opened.register.due(env.clock.now());
    let source = opened.copy.store.location().directory();
    let try_one = |drive: &Drive| {
        let path = plan.drives.path_of(drive);
        recognise(drive, &path, opened, source, &plan.drives.system).map(|(slot, notes)| (drive.clone(), slot, notes))
    };
    let absent = |what: String| {
        let due = due_text(due.as_ref(), env.clock.now());
        OpError::Vault(VaultError::Absent(format!("{what}; {due}")))
    };
    if let Some(name) = &plan.name {
        return try_one(opened.drive(name)?).map_err(|error| match error {
            OpError::Vault(VaultError::Absent(why)) => absent(format!("drive {name} is not present: {why}")),
            other => other,
        });
    }
    let mut candidates: Vec<&Drive> = opened.register.active().collect();
    if candidates.is_empty() {
        return Err(OpError::Usage("no drive is enrolled; `farkeep drive enrol NAME PATH` enrols one".into()));
    }
    candidates.sort_by_key(|drive| due.as_ref().is_none_or(|due| due.name != drive.name));
    let mut refused = None;
    for drive in candidates {
        match try_one(drive) {
            Err(OpError::Vault(VaultError::Absent(_))) => {}
            // Several drives share one mount point: the label that lies there names one of them.
            Err(error @ OpError::Mismatch(_)) => refused = refused.or(Some(error)),
            other => return other,
        }
    }
    Err(refused.unwrap_or_else(|| absent("no enrolled drive is present; not one byte was written".into())))
}

/// A drive that lacks records that were seen on it is an older clone of it, or somebody has set it back.
fn refuse_set_back(plan: &ExportPlan, opened: &Opened, drive: &Drive, slot: &Slot) -> Result<(), OpError> {
    let Ok(store) = slot.vault(false) else { return Ok(()) };
    let Ok(copy) = open_pinned(Arc::new(store), &plan.drives.pin, Some(&opened.context.state)) else { return Ok(()) };
    let ratchet = &opened.context.ratchet;
    copy.check_trust(ratchet).map_err(VaultError::from)?;
    let counts = |writer: &WriterId| copy.trust.writer(writer).is_some() || opened.own.contains(writer);
    let gone = copy.book.gone(&copy.store.identity(), ratchet.seen());
    let Some((writer, seen)) = gone.into_iter().find(|(writer, _)| counts(writer)) else { return Ok(()) };
    Err(OpError::Mismatch(format!(
        "drive {}: {}: a clone of it, or set back; nothing was written (`farkeep sync {} --from ...` brings it up to date all the \
         same)",
        drive.name,
        copy.book.rolled_back(&writer, seen),
        copy.name()
    )))
}

/// A drive that was exported to, still open.
struct Exported {
    receipt: ExportReceipt,
    slot: Slot,
    store: Arc<DirectoryStore>,
    /// What its snapshots need.
    wanted: Vec<Line>,
}

impl Exported {
    fn close(self) -> ExportReceipt {
        self.receipt
    }
}

fn bring_up_to_date(
    plan: &ExportPlan,
    mut opened: Opened,
    drive: &Drive,
    slot: Slot,
    notes: Vec<Finding>,
    started: Timestamp,
    env: &Env<'_>,
) -> Result<Exported, OpError> {
    let store = Arc::new(slot.vault(true)?);
    store.sweep(&crate::model::name::Area::layout()).map_err(VaultError::from)?;
    let permille = plan.settings_of(&drive.name).parity_permille;
    let to = NamedStore { name: format!("drive {}", drive.name), store: Arc::clone(&store) as Arc<dyn WriteOnceStore> };
    let program_bytes = plan.binary.as_ref().map_or(0, |path| binary::room_bytes(&slot.root, path));
    let transfer = Transfer {
        pin: &plan.drives.pin,
        from: &opened.copy,
        records: &opened.records,
        to: &to,
        looking: Looking::Doubtful,
        more_room: &|bytes| program_bytes + if permille > 0 { parity::room_bytes(bytes, permille) } else { 0 },
    };
    let mut done = transfer.run(&mut opened.context, env)?;
    done.findings.extend(notes);
    let mut protected = Protected::default();
    if done.is_safe() {
        match make_parity(store.as_ref(), &done.wanted, permille, &done.doubted, env)? {
            Ok(made) => protected = made,
            Err(finding) => done.findings.push(finding),
        }
        write_twice(store.as_ref(), &opened.copy)?;
    }
    let left_damaged = std::mem::take(&mut done.left_damaged);
    let binary = match &plan.binary {
        Some(path) => {
            env.step("copying the program");
            let (hashed, note) = binary::carry(&slot.root, path)?;
            done.findings.extend(note);
            Some(hashed)
        }
        None => None,
    };
    let wanted = std::mem::take(&mut done.wanted);
    let mut receipt = receipt_of(&opened, drive, done, protected, store.as_ref());
    if receipt.safe {
        let body = body_of(&receipt, drive, binary, started, &opened, env);
        receipt.findings.extend(sign(plan, &mut opened, &to, &body, env)?);
        slot.sync()?;
        let next = opened.register.after_export(&drive.name, env.clock.now());
        receipt.next = due_text(next.as_ref(), env.clock.now());
    }
    receipt.findings.extend(left_damaged);
    Ok(Exported { receipt, slot, store, wanted })
}

/// Brings parity up to date. Where that cannot be, for want of room perhaps, it is a finding: all that the snapshots need is
/// there without it, and the export is signed.
fn make_parity(
    store: &dyn PruneStore,
    wanted: &[Line],
    permille: u32,
    doubted: &BTreeSet<ObjectName>,
    env: &Env<'_>,
) -> Result<Result<Protected, Finding>, OpError> {
    env.step("making parity");
    let told = |bytes| env.observer.event(Event::Advance { items: 1, bytes });
    let made = match permille {
        0 => parity::drop_damaged(store, doubted).map(|()| Protected::default()),
        _ => parity::protect(store, wanted, permille, doubted, env.cancel, &told),
    };
    match made {
        Err(error @ VaultError::Interrupted) => Err(error.into()),
        Err(VaultError::Store(error)) if error.is_store_wide() => Err(error.into()),
        made => Ok(made.map_err(|error| Finding::new(FindingKind::Behind, "parity", format!("is not up to date: {error}")))),
    }
}

/// Header and trust records, a second time, under a suffix: readers take whichever is right. Without them nothing on the drive
/// can be opened, so that one lost sector would cost all of it, and no parity can be found before they are read.
fn write_twice(store: &DirectoryStore, from: &Copy) -> Result<(), OpError> {
    let header = (ObjectName::Header, from.header_bytes().to_vec());
    for (name, bytes) in from.trust_records().iter().chain([&header]) {
        match store.put(&name.with_suffix(1), bytes) {
            Ok(_) | Err(StoreError::Exists(_)) => {}
            Err(error) if error.is_store_wide() => return Err(error.into()),
            // All is there once.
            Err(error) => tracing::warn!(object = %name, %error, "is not written twice"),
        }
    }
    Ok(())
}

/// Drops from the drive what its own rules let go. The export is signed by now and stands, whatever becomes of this.
fn apply_keep(plan: &ExportPlan, drive: &Drive, exported: &mut Exported, env: &Env<'_>) -> Result<(), OpError> {
    let settings = plan.settings_of(&drive.name);
    let Some(rules) = &settings.keep else { return Ok(()) };
    let Exported { receipt, slot, store, wanted } = exported;
    match retain(rules, &plan.drives.pin, store, env) {
        Ok(retained) => {
            receipt.findings.extend(retained.findings.iter().cloned());
            receipt.snapshots = retained.kept;
            let removed = retained.objects;
            receipt.retained = Some(retained);
            if removed > 0 && settings.parity_permille > 0 {
                let presence = Presence::read(store.as_ref(), &SWEPT).map_err(VaultError::from)?;
                wanted.retain(|line| !SWEPT.contains(&line.name.area()) || presence.has(&line.name));
                let made = make_parity(store.as_ref(), wanted, settings.parity_permille, &BTreeSet::new(), env)?;
                receipt.findings.extend(made.err());
            }
        }
        Err(error @ OpError::Vault(VaultError::Interrupted)) => return Err(error),
        Err(error) => receipt.findings.push(left_undone(drive.name.as_str(), &error)),
    }
    slot.sync()?;
    receipt.free_bytes = store.room().ok().flatten();
    Ok(())
}

fn receipt_of(opened: &Opened, drive: &Drive, done: Transferred, parity: Protected, store: &dyn Store) -> ExportReceipt {
    ExportReceipt {
        drive: drive.name.clone(),
        to: store.location().to_string(),
        from: opened.copy.name(),
        safe: done.is_safe(),
        sent: done.sent,
        healed: done.healed,
        records: done.records,
        snapshots: done.snapshots.len() as u64,
        read_back: done.read_back,
        past_cache: done.past_cache,
        parity,
        retained: None,
        free_bytes: store.room().ok().flatten(),
        next: String::new(),
        unmounted: false,
        findings: done.findings,
    }
}

fn body_of(
    receipt: &ExportReceipt,
    drive: &Drive,
    binary: Option<crate::model::ids::ObjectHash>,
    started: Timestamp,
    opened: &Opened,
    env: &Env<'_>,
) -> ExportBody {
    ExportBody {
        drive: drive.name.clone(),
        label: drive.label,
        from: receipt.from.clone(),
        operator: operator(env),
        started,
        snapshots: receipt.snapshots,
        newest: opened.records.snapshots().last().map(|snapshot| snapshot.id),
        objects: receipt.sent.objects,
        bytes: receipt.sent.bytes,
        read_back: receipt.read_back,
        past_cache: receipt.past_cache,
        free_bytes: receipt.free_bytes,
        binary,
        findings: receipt.findings.iter().filter(|finding| finding.kind != FindingKind::Notice).count() as u64,
    }
}

/// Signs the export, on the drive first, where it is read back, then on the copy that was read if it takes it.
fn sign(
    plan: &ExportPlan,
    opened: &mut Opened,
    to: &NamedStore,
    body: &ExportBody,
    env: &Env<'_>,
) -> Result<Vec<Finding>, OpError> {
    let signed = opened.write(RecordKind::Export, body, env)?;
    let after = open_pinned(Arc::clone(&to.store), &plan.drives.pin, Some(&opened.context.state))?;
    deliver_missing(&opened.context, &after, &signed.name)?;
    read_record(to.store.as_ref(), &signed.name)?;
    // From now on a drive without this record is not this drive as it is.
    let mut after = open_pinned(Arc::clone(&to.store), &plan.drives.pin, Some(&opened.context.state))?;
    opened.context.read_records(&mut after)?;
    Ok(opened.deliver(&signed))
}

/// Unmounts as whoever runs this may: the program of the system knows user mounts and FUSE.
fn unmount(path: &std::path::Path) -> Result<(), String> {
    let output = Command::new("umount").arg(path).output().map_err(|e| e.to_string())?;
    if output.status.success() { Ok(()) } else { Err(String::from_utf8_lossy(&output.stderr).trim().to_owned()) }
}
