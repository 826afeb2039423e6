//! `farkeep sync`

use std::fmt::Write as _;

use crate::cli::wire::{Opening, open_store, pin, resolve};
use crate::cli::{Outcome, Session, render};
use crate::model::size::human_size;
use crate::ops::OpError;
use crate::ops::sync::{SyncPlan, SyncReceipt, sync};
use crate::ops::transfer::Looking;
use crate::store::drive::{DriveError, check_drive};
use crate::vault::VaultError;

/// Arguments of `farkeep sync`.
#[derive(Debug, clap::Args)]
pub struct Args {
    /// The copy to bring up to date: a store's name or address; a new one is made in an empty place
    #[arg(value_name = "STORE")]
    to: String,
    /// The copy to read
    #[arg(long, value_name = "STORE")]
    from: String,
    /// The root to trust: a file .root.pub or its fingerprint [default: the configuration]
    #[arg(long, value_name = "ROOTKEY")]
    trust: Option<String>,
    /// The target may be any directory, not only a mounted drive
    #[arg(long)]
    plain_directory: bool,
    /// Read everything in the target and replace what is damaged. Without it that happens when an object is missing that
    /// lay there, or a verification found damage
    #[arg(long)]
    heal: bool,
}

/// Runs it.
pub fn run(args: &Args, session: &Session) -> Result<Outcome, OpError> {
    let (to_name, to) = resolve(session, &args.to)?;
    let (from_name, from) = resolve(session, &args.from)?;
    if to.location == from.location {
        return Err(OpError::Usage(format!("{to_name} and {from_name} are the same place")));
    }
    let source_dir = from.location.as_ref().and_then(|location| location.directory());
    if let Some(dir) = to.location.as_ref().and_then(|location| location.directory())
        && !args.plain_directory
        && !to.plain_directory
    {
        check_drive(dir, source_dir).map_err(|error| match error {
            DriveError::NotMounted(_) => OpError::Vault(VaultError::Absent(format!(
                "{error}; --plain-directory copies into a directory that is no drive"
            ))),
            other => OpError::Usage(format!("{other}; --plain-directory copies there all the same")),
        })?;
    }
    let plan = SyncPlan {
        pin: pin(session, args.trust.as_deref(), &[])?,
        from: open_store(&from_name, &from, Opening::Existing)?,
        to: open_store(&to_name, &to, Opening::Create)?,
        looking: if args.heal { Looking::All } else { Looking::Doubtful },
    };
    let receipt = sync(&plan, &session.env())?;
    session.progress.clear();
    // Asked anew: where a plain directory is allowed, a drive is allowed as well.
    let target = to.location.as_ref().and_then(|location| location.directory());
    let promise = target.map(|dir| match check_drive(dir, source_dir) {
        Ok(()) => "safe to unplug",
        Err(_) => "durable, and read back: no drive, so there is nothing to unplug",
    });
    Ok(Outcome::new(receipt.exit(), describe(&receipt, promise), &receipt))
}

fn describe(receipt: &SyncReceipt, promise: Option<&str>) -> String {
    let mut text = String::new();
    let _ = writeln!(
        text,
        "{} is up to date with {}: {} ({}) and {} sent, {} read back, {}",
        receipt.to,
        receipt.from,
        render::count(receipt.sent.objects, "object"),
        human_size(receipt.sent.bytes),
        render::count(receipt.records, "record"),
        receipt.read_back,
        render::count(receipt.snapshots, "snapshot"),
    );
    if !receipt.healed.is_empty() {
        let _ = writeln!(text, "  {} damaged there and whole now", render::count(receipt.healed.len() as u64, "object"));
    }
    render::findings(&mut text, &receipt.findings);
    if let Some(promise) = promise.filter(|_| receipt.safe) {
        let _ = writeln!(text, "{promise}");
    }
    text
}
