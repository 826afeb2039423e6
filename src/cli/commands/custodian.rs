//! `farkeep custodian`

use std::fmt::Write as _;
use std::path::PathBuf;

use super::prune::{describe_apply, rules};
use crate::cli::wire::{configured_pin, open_prune_store, resolve};
use crate::cli::{Outcome, Session, render};
use crate::crypto::sign::SigningKey;
use crate::model::size::human_size;
use crate::model::time::{human_duration, parse_duration_secs};
use crate::ops::OpError;
use crate::ops::context::VaultPin;
use crate::ops::custodian::{CustodianPlan, CustodianReceipt, custodian};
use crate::ops::select::Names;
use crate::state::StateDir;
use crate::state::keys::{KeyDir, Role};

/// Arguments of `farkeep custodian`.
#[derive(Debug, clap::Args)]
pub struct Args {
    /// The copy: a directory, or a store of the configuration
    #[arg(value_name = "PATH")]
    store: String,
    #[command(flatten)]
    key: CustodianKey,
    /// Read so much of the stored bytes that, run regularly, every one is read within this time
    #[arg(long, value_name = "TIME", default_value = "30d")]
    within: String,
    /// How long a plan waits before it is applied
    #[arg(long, value_name = "TIME", default_value = "72h")]
    wait: String,
}

/// The key of a custodian, where it was made by hand.
#[derive(Debug, Clone, Default, clap::Args)]
pub struct CustodianKey {
    /// The custodian's key that signs here, in OpenSSH form and without a passphrase: `init --custodian` or `keys enrol` took its
    /// public half; it is kept in the state directory
    #[arg(long, value_name = "FILE")]
    key: Option<PathBuf>,
}

impl CustodianKey {
    /// Takes the key into the state directory, where the chain that it signs lies too, and says so. A `dry_run` only looks
    /// whether it could.
    pub fn keep(&self, session: &Session, pin: &VaultPin, dry_run: bool) -> Result<(), OpError> {
        let Some(path) = &self.key else { return Ok(()) };
        let wrong = |e: &dyn std::fmt::Display| OpError::Usage(format!("--key {}: {e}", path.display()));
        let vault = pin.vault.ok_or_else(|| wrong(&"the configuration does not name the vault's id"))?;
        let text = zeroize::Zeroizing::new(std::fs::read_to_string(path).map_err(|e| wrong(&e))?);
        let key = SigningKey::from_openssh(&text).map_err(|e| wrong(&e))?;
        let state = StateDir::open(&session.state_root, vault)?;
        let keys = KeyDir::of(&state);
        match keys.writer(Role::Custodian)? {
            Some(known) if known.verifier() == key.verifier() => Ok(()),
            Some(_) => Err(wrong(&format!(
                "another custodian's key lies here already: sign with that one by leaving out --key, name another state directory \
                 (FARKEEP_STATE_DIR), or, where that one was retired, move it away: {}",
                keys.path(Role::Custodian).display()
            ))),
            None if dry_run => Ok(()),
            None => {
                keys.keep_writer(Role::Custodian, &key)?;
                session.say(&format!(
                    "the custodian's key of {} is kept on this machine from now on, in {}",
                    path.display(),
                    state.keys().display()
                ));
                Ok(())
            }
        }
    }
}

/// Runs it.
pub fn run(args: &Args, session: &Session) -> Result<Outcome, OpError> {
    let pin = configured_pin(session)?;
    let secs = |flag: &str, text: &str| parse_duration_secs(text).map_err(|e| OpError::Usage(format!("{flag}: {e}")));
    args.key.keep(session, &pin, false)?;
    let (name, config) = resolve(session, &args.store)?;
    let plan = CustodianPlan {
        rules: rules(session, &name, &config, &Names::default())?,
        store: open_prune_store(&name, &config)?,
        name,
        pin,
        within_secs: secs("--within", &args.within)?,
        wait_secs: secs("--wait", &args.wait)?,
    };
    let receipt = custodian(&plan, &session.env())?;
    session.progress.clear();
    Ok(Outcome::new(receipt.exit(), describe(&receipt), &receipt))
}

fn describe(receipt: &CustodianReceipt) -> String {
    let mut text = String::new();
    let verified = &receipt.verified;
    let objects = render::count(verified.objects, "object");
    let _ = writeln!(text, "{}: {objects} read, {}", verified.store, human_size(verified.bytes));
    if let Some(applied) = &receipt.applied {
        text.push_str(&describe_apply(applied));
    }
    if let Some(planned) = receipt.planned.as_ref().filter(|planned| planned.plan.is_some()) {
        let dropped = render::count(planned.dropped, "snapshot");
        let objects = render::count(planned.objects, "object");
        let wait = human_duration(planned.wait_secs);
        let _ = writeln!(
            text,
            "{}: planned to drop {dropped} and remove {objects}, in {wait}, by {}",
            planned.store, planned.rules
        );
    }
    for series in &receipt.series {
        let age = human_duration(u64::try_from(series.age_secs).unwrap_or(0));
        let late = if series.late && series.due.is_some() { "  LATE" } else { "" };
        let count = render::count(series.count, "snapshot");
        let _ = writeln!(text, "  series {}  newest {}, {age} old, {count}{late}", &series.job, series.snapshot.short());
    }
    render::findings(&mut text, &receipt.findings);
    text
}
