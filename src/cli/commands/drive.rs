//! `farkeep drive`

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::path::PathBuf;

use super::known_names;
use super::prune::{rules_of, sections};
use super::restore::CopyArgs;
use crate::cli::config::{DEFAULT_EXPORT_SECS, DriveConfig};
use crate::cli::wire::{pin, reading_store};
use crate::cli::{Outcome, Session, render};
use crate::format::drive::DriveEvent;
use crate::model::drive::DriveName;
use crate::model::size::human_size;
use crate::model::time::parse_duration_secs;
use crate::ops::drive::{
    CustodyEvent, CustodyPlan, CustodyReceipt, DriveStatus, DrivesPlan, DrivesReceipt, EnrolPlan, EnrolReceipt, ExportPlan,
    ExportReceipt, ExportSettings, custody, enrol, export, status,
};
use crate::ops::{Exit, OpError};
use crate::store::drive::System;

/// What to do with drives.
#[derive(Debug, clap::Subcommand)]
pub enum Args {
    /// Make a mounted drive one of this vault's, with a signed label
    Enrol(EnrolArgs),
    /// Bring the copy on a drive up to date, without any key, and say when it is safe to unplug
    Export(ExportArgs),
    /// Show where each drive is, what it holds and lacks, and which one is due
    Status(StatusArgs),
    /// Put on record who holds a drive from now on, and where
    Handover(HandoverArgs),
    /// Put on record that a drive takes part no more, and how it was erased
    Retire(RetireArgs),
}

/// Arguments of `farkeep drive enrol`.
#[derive(Debug, clap::Args)]
pub struct EnrolArgs {
    /// What the drive shall be called
    #[arg(value_name = "NAME")]
    name: DriveName,
    /// Where it is mounted
    #[arg(value_name = "PATH")]
    path: PathBuf,
    /// Who may hold it; repeat it for several [default: holders of [drive.NAME]]
    #[arg(long = "holder", value_name = "WHO")]
    holders: Vec<String>,
    /// Where it is kept
    #[arg(long, value_name = "PLACE")]
    location: Option<String>,
    /// How often it takes an export [default: every of [drive.NAME], else 7d]
    #[arg(long, value_name = "TIME")]
    every: Option<String>,
    /// Enrol a drive that is not encrypted
    #[arg(long)]
    allow_plain: bool,
    #[command(flatten)]
    copy: CopyArgs,
}

/// Arguments of `farkeep drive export`.
#[derive(Debug, clap::Args)]
pub struct ExportArgs {
    /// The drive [default: the enrolled one that is plugged in]
    #[arg(value_name = "NAME")]
    name: Option<DriveName>,
    #[command(flatten)]
    copy: CopyArgs,
    /// Export although this drive of several took the last export too
    #[arg(long)]
    again: bool,
    /// Unmount it at the end
    #[arg(long)]
    unmount: bool,
    /// Put this program beside the vault
    #[arg(long)]
    with_binary: bool,
}

/// Arguments of `farkeep drive status`.
#[derive(Debug, clap::Args)]
pub struct StatusArgs {
    /// End with 3 when an export is late or has no room
    #[arg(long)]
    check: bool,
    #[command(flatten)]
    copy: CopyArgs,
}

/// Arguments of `farkeep drive handover`.
#[derive(Debug, clap::Args)]
pub struct HandoverArgs {
    /// The drive
    #[arg(value_name = "NAME")]
    name: DriveName,
    /// Who holds it from now on
    #[arg(long, value_name = "WHO")]
    to: String,
    /// Where it is kept from now on
    #[arg(long, value_name = "PLACE")]
    location: Option<String>,
    /// The number of the bag or seal that it travels in
    #[arg(long, value_name = "NUMBER")]
    seal: Option<String>,
    #[command(flatten)]
    copy: CopyArgs,
}

/// Arguments of `farkeep drive retire`.
#[derive(Debug, clap::Args)]
pub struct RetireArgs {
    /// The drive
    #[arg(value_name = "NAME")]
    name: DriveName,
    /// How what lay on it was made unreadable: "LUKS header overwritten", "shredded by ..."
    #[arg(long, value_name = "HOW")]
    erased: String,
    /// Why
    #[arg(long, value_name = "TEXT")]
    reason: Option<String>,
    #[command(flatten)]
    copy: CopyArgs,
}

/// Runs it.
pub fn run(args: &Args, session: &Session) -> Result<Outcome, OpError> {
    let env = session.env();
    let outcome = match args {
        Args::Enrol(args) => enrol(&enrol_plan(args, session)?, &env)
            .map(|receipt| Outcome::new(receipt.exit(), describe_enrolment(&receipt), &receipt)),
        Args::Export(args) => export(&export_plan(args, session)?, &env)
            .map(|receipt| Outcome::new(receipt.exit(), describe_export(&receipt), &receipt)),
        Args::Status(args) => status(&drives_plan(&args.copy, session)?, &env).map(|receipt| {
            let exit = if args.check { receipt.exit() } else { Exit::Done };
            Outcome::new(exit, describe_status(&receipt), &receipt)
        }),
        Args::Handover(args) => {
            let (to, location, seal) = (args.to.clone(), args.location.clone(), args.seal.clone());
            run_custody(&args.name, CustodyEvent::Handover { to, location, seal }, &args.copy, session)
        }
        Args::Retire(args) => {
            let event = CustodyEvent::Retire { reason: args.reason.clone(), erased: args.erased.clone() };
            run_custody(&args.name, event, &args.copy, session)
        }
    };
    session.progress.clear();
    outcome
}

fn drives_plan(copy: &CopyArgs, session: &Session) -> Result<DrivesPlan, OpError> {
    let paths: BTreeMap<DriveName, PathBuf> =
        session.config.drives.iter().filter_map(|(name, drive)| Some((name.clone(), drive.path.clone()?))).collect();
    Ok(DrivesPlan {
        pin: pin(session, copy.trust.as_deref(), &[])?,
        from: reading_store(session, copy.from.as_deref())?,
        system: System::default(),
        paths,
        sections: sections(session),
    })
}

fn enrol_plan(args: &EnrolArgs, session: &Session) -> Result<EnrolPlan, OpError> {
    let config = session.config.drives.get(&args.name).cloned().unwrap_or_default();
    let every = args.every.as_deref().map(parse_duration_secs).transpose();
    let every = every.map_err(|e| OpError::Usage(format!("--every: {e}")))?;
    Ok(EnrolPlan {
        drives: drives_plan(&args.copy, session)?,
        name: args.name.clone(),
        path: args.path.clone(),
        every_secs: every.or(config.every_secs).unwrap_or(DEFAULT_EXPORT_SECS),
        holders: if args.holders.is_empty() { config.holders } else { args.holders.clone() },
        location: args.location.clone(),
        allow_plain: args.allow_plain,
    })
}

fn export_plan(args: &ExportArgs, session: &Session) -> Result<ExportPlan, OpError> {
    let drives = drives_plan(&args.copy, session)?;
    let names = known_names(session, &drives.pin);
    let settings = |(name, drive): (&DriveName, &DriveConfig)| {
        let whose = format!("the keep of drive {name}");
        let keep = drive.keep.as_ref().map(|keep| rules_of(session, Some(keep), whose, &names)).transpose()?;
        let (unmount, parity_permille) = (drive.unmount, drive.parity_permille);
        Ok((name.clone(), ExportSettings { unmount, parity_permille, keep }))
    };
    let own = || std::env::current_exe().map_err(|e| OpError::NotDone(format!("this program cannot be found: {e}")));
    Ok(ExportPlan {
        drives,
        name: args.name.clone(),
        again: args.again,
        unmount: args.unmount,
        settings: session.config.drives.iter().map(settings).collect::<Result<_, OpError>>()?,
        binary: if args.with_binary { Some(own()?) } else { None },
    })
}

fn run_custody(name: &DriveName, event: CustodyEvent, copy: &CopyArgs, session: &Session) -> Result<Outcome, OpError> {
    let plan = CustodyPlan { drives: drives_plan(copy, session)?, name: name.clone(), event };
    let receipt = custody(&plan, &session.env())?;
    Ok(Outcome::new(receipt.exit(), describe_custody(&receipt), &receipt))
}

fn describe_enrolment(receipt: &EnrolReceipt) -> String {
    let enrolment = &receipt.enrolment;
    let known = &enrolment.identity;
    let kind = if enrolment.encrypted { "encrypted" } else { "NOT encrypted" };
    let mut text = format!("drive {} is enrolled: {}, {kind}\n", receipt.drive, enrolment.fs_type);
    for (what, value) in [
        ("file system", &known.fs_uuid),
        ("LUKS", &known.luks_uuid),
        ("model", &known.model),
        ("serial", &known.serial),
        ("location", &enrolment.location),
    ] {
        if let Some(value) = value {
            let _ = writeln!(text, "  {what:<12}{value}");
        }
    }
    if !enrolment.holders.is_empty() {
        let _ = writeln!(text, "  {:<12}{}", "holders", enrolment.holders.join(", "));
    }
    render::findings(&mut text, &receipt.findings);
    let _ = writeln!(text, "next: farkeep drive export {}", receipt.drive);
    text
}

fn describe_export(receipt: &ExportReceipt) -> String {
    let mut text = format!(
        "drive {} is up to date with {}: {} ({}) and {} sent, {} read back{}, {}\n",
        receipt.drive,
        receipt.from,
        render::count(receipt.sent.objects, "object"),
        human_size(receipt.sent.bytes),
        render::count(receipt.records, "record"),
        receipt.read_back,
        if receipt.past_cache { "" } else { " (perhaps from this machine's cache: the drive reads in no other way)" },
        render::count(receipt.snapshots, "snapshot"),
    );
    if !receipt.healed.is_empty() {
        let _ = writeln!(text, "  {} damaged there and whole now", render::count(receipt.healed.len() as u64, "object"));
    }
    if receipt.parity.made > 0 {
        let (bytes, objects) = (human_size(receipt.parity.bytes), render::count(receipt.parity.objects, "object"));
        let _ = writeln!(text, "  {bytes} of parity made for {objects}");
    }
    if let Some(retained) = &receipt.retained {
        let (dropped, kept) = (render::count(retained.dropped, "snapshot"), retained.kept);
        let (objects, bytes) = (render::count(retained.objects, "object"), human_size(retained.bytes));
        let _ = writeln!(text, "  its keep: {dropped} dropped, {kept} stay; {objects} removed, {bytes} freed");
    }
    if let Some(free) = receipt.free_bytes {
        let _ = writeln!(text, "  {} free; {}", human_size(free), receipt.next);
    }
    render::findings(&mut text, &receipt.findings);
    text += match (receipt.safe, receipt.unmounted) {
        (true, true) => "unmounted; safe to unplug\n",
        (true, false) => "safe to unplug\n",
        (false, _) => "NOT DONE: see above; the export before this one is as it was\n",
    };
    text
}

fn describe_status(receipt: &DrivesReceipt) -> String {
    let mut text = String::new();
    for drive in &receipt.drives {
        describe_drive(&mut text, drive);
    }
    let _ = writeln!(text, "{}", receipt.due);
    render::findings(&mut text, &receipt.findings);
    text
}

fn describe_drive(text: &mut String, drive: &DriveStatus) {
    if let Some((time, erased)) = &drive.retired {
        let _ = writeln!(text, "drive {}: retired {time}, {erased}", drive.drive);
        return;
    }
    let there = if drive.present { "plugged in at" } else { "not present at" };
    let _ = writeln!(text, "drive {}: {there} {}", drive.drive, drive.path);
    let time = |time: Option<crate::model::time::Timestamp>| time.map_or_else(|| "never".to_owned(), |t| t.to_string());
    let room = match (drive.free_bytes, drive.room) {
        (Some(free), Some(true)) => format!("{} free: enough", human_size(free)),
        (Some(free), _) => format!("{} free: NOT ENOUGH", human_size(free)),
        (None, _) => "room unknown".into(),
    };
    let _ = writeln!(text, "  last export  {}", time(drive.exported));
    let (behind, to_go) = (render::count(drive.snapshots_behind, "snapshot"), human_size(drive.bytes_to_go));
    let _ = writeln!(text, "  behind       {behind}, {to_go} to go, {room}");
    let _ = writeln!(text, "  fully read   {}", time(drive.verified));
    let holder = drive.holder.clone().unwrap_or_else(|| "nobody on record".into());
    let place = drive.location.as_ref().map(|place| format!(", {place}")).unwrap_or_default();
    let _ = writeln!(text, "  held by      {holder}{place}");
}

fn describe_custody(receipt: &CustodyReceipt) -> String {
    let mut text = match &receipt.event {
        DriveEvent::Handover(handover) => {
            let from = handover.from.as_ref().map(|from| format!(" from {from}")).unwrap_or_default();
            format!("drive {} went{from} to {}", receipt.drive, handover.to)
        }
        _ => format!("drive {} is retired", receipt.drive),
    };
    let _ = writeln!(text, ": on record as {}", receipt.record);
    render::findings(&mut text, &receipt.findings);
    text
}
