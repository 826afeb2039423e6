//! `farkeep probe`

use std::fmt::Write as _;

use crate::cli::wire::{Opened, Opening, open_stores};
use crate::cli::{Outcome, Session, render};
use crate::ops::OpError;
use crate::ops::probe::{ProbePlan, ProbeReceipt, StoreProbe, probe};
use crate::store::probe::Verdict;

/// Arguments of `farkeep probe`.
#[derive(Debug, clap::Args)]
pub struct Args {
    /// Stores of the configuration, or addresses [default: all stores of the configuration]
    #[arg(value_name = "STORE")]
    stores: Vec<String>,
}

/// Runs it.
pub fn run(args: &Args, session: &Session) -> Result<Outcome, OpError> {
    let wanted = match args.stores.as_slice() {
        [] => session.config.stores.keys().cloned().collect(),
        named => named.to_vec(),
    };
    if wanted.is_empty() {
        return Err(OpError::Usage("no store: name one, or write [store.NAME] into the configuration".into()));
    }
    let Opened { stores, missed } = open_stores(&wanted, Opening::Existing, session)?;
    let plan = ProbePlan { vault: session.config.vault, stores, missed };
    let receipt = probe(&plan, &session.env())?;
    session.progress.clear();
    Ok(Outcome::new(receipt.exit(), describe(&receipt), &receipt))
}

fn describe(receipt: &ProbeReceipt) -> String {
    let mut text = String::new();
    for store in &receipt.stores {
        describe_store(&mut text, store);
    }
    text
}

fn describe_store(text: &mut String, store: &StoreProbe) {
    let name = &store.store;
    let verdict = match (&store.error, store.verdict) {
        (Some(error), _) => {
            let _ = writeln!(text, "{name}: NOT PROBED: {error}");
            return;
        }
        (None, None) => {
            let _ = writeln!(
                text,
                "{name}: a directory of this machine, which is not attacked: whoever may write there can change what lies \
                 there. What protects such a copy is that the drive is unplugged, and that verification finds every change"
            );
            return;
        }
        (None, Some(verdict)) => verdict,
    };
    let meaning = match verdict {
        Verdict::WriteOnce => "this account adds files, and changes nothing that it has stored",
        Verdict::AppendWeak => "stored bytes stay, but this account can do more than add files",
        Verdict::Mutable => "whoever holds this key can change or remove what was stored",
    };
    let refused = store.attacks - store.attacks.min(store.got_through.len() as u64);
    let _ = writeln!(text, "{name}: {verdict}: {meaning}");
    let _ = writeln!(text, "  {} of {} refused", refused, render::count(store.attacks, "attack"));
    for breach in &store.got_through {
        let _ = writeln!(text, "  got through: {} ({}): {}", breach.request, breach.verdict, breach.effect);
    }
    if let Some(before) = &store.before
        && before.verdict.parse::<Verdict>().is_ok_and(|before| before < verdict)
    {
        let _ = writeln!(text, "  it was {} at {}", before.verdict, before.time);
    }
    if !store.left.is_empty() {
        let _ = writeln!(
            text,
            "  left behind, since the account cannot remove: {}",
            render::count(store.left.len() as u64, "small file")
        );
    }
    if verdict != Verdict::WriteOnce {
        let _ = writeln!(text, "  farkeep sshd-config prints an account that permits none of it");
    }
}
