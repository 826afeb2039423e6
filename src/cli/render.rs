//! Receipts as text for people.

use std::fmt::Write;

use crate::ledger::{LedgerError, ROOTS_CHAIN};
use crate::model::finding::{Finding, FindingKind};
pub use crate::model::size::count;
use crate::ops::OpError;
use crate::store::StoreError;
use crate::vault::VaultError;

/// Findings that are printed; the rest is counted.
const FINDINGS_SHOWN: usize = 20;

/// Adds findings, alarms first.
pub fn findings(text: &mut String, findings: &[Finding]) {
    let mut sorted: Vec<&Finding> = findings.iter().collect();
    sorted.sort_by_key(|finding| std::cmp::Reverse(finding.kind));
    for finding in sorted.iter().take(FINDINGS_SHOWN) {
        let _ = writeln!(text, "  {} {finding}", mark(finding.kind));
    }
    if sorted.len() > FINDINGS_SHOWN {
        let _ = writeln!(text, "  ... and {} more; --json lists all that were kept", sorted.len() - FINDINGS_SHOWN);
    }
}

const fn mark(kind: FindingKind) -> &'static str {
    match kind {
        FindingKind::Notice => "note:",
        FindingKind::Source | FindingKind::Target | FindingKind::Behind => "warning:",
        FindingKind::Suspect => "SUSPECT:",
        FindingKind::Mended => "mended:",
        FindingKind::Stranger | FindingKind::Damage | FindingKind::Trust => "ALARM:",
    }
}

/// What to do about an error of a command, where one can say.
#[must_use]
pub fn advice(command: &str, error: &OpError) -> Option<&'static str> {
    match error {
        OpError::Vault(VaultError::Store(error)) if error.is_host_key() => {
            Some("not one byte of data was sent; ask the server's administrator before you change the pinned key")
        }
        OpError::Vault(VaultError::Ledger(LedgerError::RolledBack { what, .. })) if what != ROOTS_CHAIN => Some(
            "stop and find out why before anything else is done with this vault. If its server was restored from an older image: \
             `farkeep sync STORE --from OTHER` brings it up to date from another copy; where there is none, `farkeep verify --from \
             STORE --accept-rollback` reads it, puts that on record and takes it as it is",
        ),
        OpError::Vault(VaultError::Ledger(_)) => Some("stop and find out why before anything else is done with this vault"),
        OpError::Vault(VaultError::Store(StoreError::Full { .. })) if matches!(command, "prune" | "custodian") => Some(
            "nothing goes before the plan, and then a record of what goes, lies there, and for that there is no room: remove \
             something there that is not the vault's, or raise the quota (1 MiB is enough, but for very long plans), and run it \
             again; what the plan removes makes room for pushes",
        ),
        OpError::Vault(VaultError::Store(StoreError::Full { .. })) => {
            Some("make room and run it again; what arrived is not sent again")
        }
        _ => None,
    }
}
