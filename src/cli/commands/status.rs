//! `farkeep status`

use std::fmt::Write as _;

use crate::cli::wire::{Opened, Opening, configured_pin, open_stores};
use crate::cli::{Outcome, Session, commands, render};
use crate::model::snapshot::SnapshotState;
use crate::ops::status::{StatusPlan, StatusReceipt, age, status};
use crate::ops::{Exit, OpError};

/// Arguments of `farkeep status`.
#[derive(Debug, clap::Args)]
pub struct Args {
    /// End with 0 when all is well, 3 when something is late or missed, 4 at an alarm, 5 when no store answers
    #[arg(long)]
    check: bool,
}

/// Runs it.
pub fn run(args: &Args, session: &Session) -> Result<Outcome, OpError> {
    let pin = configured_pin(session)?;
    let vault = pin.vault.ok_or_else(|| OpError::Usage("the configuration does not name the vault's id".into()))?;
    let all: Vec<String> = session.config.stores.keys().cloned().collect();
    let Opened { stores, missed } = open_stores(&all, Opening::Existing, session)?;
    let names = commands::known_names(session, &pin);
    let jobs = session.config.jobs.keys().cloned().collect();
    let receipt = status(&StatusPlan { vault, pin, stores, missed, names, jobs }, &session.env())?;
    session.progress.clear();
    let exit = if args.check { receipt.exit() } else { Exit::Done };
    Ok(Outcome::new(exit, describe(&receipt), &receipt))
}

fn describe(receipt: &StatusReceipt) -> String {
    let mut text = String::new();
    for store in &receipt.stores {
        match &store.error {
            // Why is among the findings.
            Some(_) => {
                let _ = writeln!(text, "{}: NOT REACHED", store.store);
                continue;
            }
            None => {
                let _ = writeln!(text, "{}:", store.store);
            }
        }
        for series in &store.series {
            let late = if series.late { "  LATE" } else { "" };
            let state = match series.state {
                SnapshotState::Good => "",
                SnapshotState::Suspect => "  SUSPECT",
                SnapshotState::Partial => "  partial",
            };
            let _ = writeln!(
                text,
                "  {:24} {}  {} old, {}{late}{state}",
                series.job,
                series.snapshot.short(),
                age(series.age_secs),
                render::count(series.count, "snapshot"),
            );
        }
        match &store.verified {
            Some((time, depth, findings)) => {
                let _ = writeln!(text, "  verified {depth} at {time}: {}", render::count(*findings, "finding"));
            }
            None => {
                let _ = writeln!(text, "  stored bytes were never verified from here; farkeep verify does it");
            }
        }
        match &store.probed {
            Some(probed) => {
                let _ = writeln!(text, "  probed at {}: {}", probed.time, probed.verdict);
            }
            None if store.can_be_probed => {
                let _ =
                    writeln!(text, "  whether the account can change what it stored was never tried; farkeep probe does it");
            }
            None => {}
        }
    }
    for one in &receipt.elsewhere {
        let found = render::count(one.findings, "finding");
        let _ = writeln!(text, "{}: verified {} at {} by {}: {found}", one.copy, one.depth, one.time, one.by);
    }
    render::findings(&mut text, &receipt.findings);
    text
}
