//! `farkeep init --adopt`

use std::fmt::Write as _;
use std::path::Path;

use super::{Args, configuration};
use crate::cli::config::StoreConfig;
use crate::cli::passphrase::identities;
use crate::cli::wire::{Opening, open_store, pin};
use crate::cli::{Outcome, Session};
use crate::ledger::RootPin;
use crate::ops::context::VaultPin;
use crate::ops::keys::TrustPlan;
use crate::ops::keys::adopt::{AdoptReceipt, adopt};
use crate::ops::{Exit, OpError};
use crate::store::drive::LABEL_FILE;

/// Runs it.
pub fn run(args: &Args, root: &Path, session: &Session) -> Result<Outcome, OpError> {
    let files = args.identity.read()?;
    let root = args.identity.passphrase.signing_key(root, "--root")?;
    let is_pinned = session.config.root.is_some() || files.iter().any(|file| file.root.is_some());
    let pin = match is_pinned {
        true => pin(session, None, &files)?,
        // Whoever holds the key says which it is.
        false => VaultPin { vault: session.config.vault, root: RootPin::of(&root.verifier()) },
    };
    let stores = configuration::stores(args, session)?;
    let left_out = |name: &&String| !stores.iter().any(|(named, _)| named == *name);
    if let Some(name) = session.config.stores.keys().find(left_out) {
        return Err(OpError::Usage(format!(
            "store {name} of the configuration is not among those named: every copy must hear of the new agent. Leave --store \
             out; or take {name} out of the configuration, if that copy is gone for good"
        )));
    }
    let mut opened = Vec::new();
    for (name, config) in &stores {
        opened.push(open_store(name, config, Opening::Existing)?);
    }
    let receipt = adopt(&TrustPlan { pin, stores: opened, root }, &identities(&files), args.until.as_ref(), &session.env())?;
    let host = former_host(&receipt, session);
    // Every copy must hear of it, a drive too; but pushes do not go there.
    let (drives, stores): (Vec<_>, Vec<_>) = stores.into_iter().partition(|(_, config)| is_on_drive(config));
    configuration::write(session, &stores, &receipt.vault, &receipt.root, host.as_deref())?;
    session.progress.clear();
    let mut text = render(session, &receipt, host.as_deref());
    for location in drives.iter().filter_map(|(_, config)| config.location.as_ref()) {
        let _ = writeln!(text, "{location} is on a drive: it was not entered as a store, `farkeep drive export` goes there");
    }
    Ok(Outcome::new(Exit::of_findings(&receipt.findings), text, &receipt))
}

/// Whether a store lies on an enrolled drive: beside the vault is its label.
fn is_on_drive(config: &StoreConfig) -> bool {
    let root = config.location.as_ref().and_then(|location| location.directory()?.parent());
    root.is_some_and(|root| root.join(LABEL_FILE).exists())
}

/// What this machine must be called, so that its snapshots belong to the series of those before: where the configuration says
/// nothing, and all of them are of one machine that was called otherwise.
fn former_host(receipt: &AdoptReceipt, session: &Session) -> Option<String> {
    let host = &receipt.series.first()?.host;
    let is_one = receipt.series.iter().all(|series| series.host == *host);
    (session.config.host.is_none() && is_one && *host != session.host).then(|| host.clone())
}

fn render(session: &Session, receipt: &AdoptReceipt, host: Option<&str>) -> String {
    let mut text = format!("this machine is the agent of vault {} now: {}\n", receipt.vault, receipt.agent.fingerprint);
    for before in &receipt.before {
        let _ = match before.until {
            None | Some(0) => writeln!(text, "{} is retired: nothing that it has signed counts", before.name),
            Some(seq) => writeln!(text, "{} is retired: nothing after its record {seq} counts", before.name),
        };
    }
    let _ = writeln!(text, "trust record {} lies in {}", receipt.record, receipt.stores.join(", "));
    let packs = crate::cli::render::count(u64::from(receipt.packs), "pack");
    let _ = writeln!(text, "{packs} are known here and will not be sent again");
    if !receipt.series.is_empty() {
        text.push_str("\npushed before, newest:\n");
        for series in &receipt.series {
            let _ = writeln!(text, "  {}  job {} of {}", series.newest, series.job, series.host);
        }
        let here = host.unwrap_or(&session.host);
        let others: Vec<&str> =
            receipt.series.iter().map(|series| series.host.as_str()).filter(|host| *host != here).collect();
        let _ = writeln!(
            text,
            "this machine is called {here} in snapshots: its jobs go on with the series of that host and their name"
        );
        if let Some(other) = others.first() {
            let _ = writeln!(text, "with host = {other:?} at the top of the configuration they go on with those of {other}");
        }
    }
    if let Some(host) = host {
        let _ = writeln!(text, "(host = {host:?} was written into the configuration)");
    }
    for finding in &receipt.findings {
        let _ = writeln!(text, "{}: {}", finding.subject, finding.message);
    }
    if !receipt.others.is_empty() {
        text.push_str("\nalso trusted; retire what was on a machine that is lost (`farkeep keys retire`):\n");
        for writer in &receipt.others {
            let _ = writeln!(text, "  {}  {}  {}", writer.name, writer.fingerprint, writer.kinds.join(", "));
        }
    }
    text.push_str("\ntake root key and identity away from this machine again\n");
    let _ = writeln!(text, "the configuration is {}; next: farkeep push", session.config_path.display());
    text
}
