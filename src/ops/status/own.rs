//! What this machine has signed, as it lies here. What is wrong with it is told once, and says nothing of any store.

use std::collections::{BTreeMap, BTreeSet};

use crate::crypto::sign::SigningKey;
use crate::format::record::Head;
use crate::ledger::scribe::ScribeError;
use crate::ledger::{Checked, LedgerError, Scribe, check};
use crate::model::finding::{Finding, FindingKind};
use crate::model::ids::{VaultId, WriterId};
use crate::model::name::ObjectName;
use crate::ops::context::Context;
use crate::vault::copy::Copy;
use crate::vault::snapshots::Records;

/// The writers of this machine and their records.
#[derive(Default)]
pub struct Own {
    /// Who signs here, or did as its station.
    pub writers: BTreeSet<WriterId>,
    /// By name: the bytes, or why they cannot be read.
    records: BTreeMap<ObjectName, Result<Vec<u8>, String>>,
    /// What is no record, and why.
    damaged: BTreeMap<ObjectName, String>,
    /// Stores that hold a record whole.
    holders: BTreeMap<ObjectName, Vec<String>>,
    /// Where they lie.
    dir: String,
}

impl Own {
    /// Reads them, and says what keeps any of them from being read.
    pub fn read(context: &Context, vault: VaultId) -> (Self, Vec<Finding>) {
        let mut own = Self { dir: context.state.ledger().display().to_string(), ..Self::default() };
        let keys = match context.signers() {
            Ok(keys) => keys,
            Err(error) => {
                let keys = context.state.keys().display().to_string();
                return (own, vec![Finding::new(FindingKind::Damage, keys, error)]);
            }
        };
        let mut findings = Vec::new();
        for key in keys {
            own.writers.insert(key.verifier().writer());
            if let Err(error) = own.read_chain(context, vault, key) {
                let is_fork = matches!(error, ScribeError::Ledger(LedgerError::Fork { .. }));
                let kind = if is_fork { FindingKind::Trust } else { FindingKind::Damage };
                findings.push(Finding::new(kind, &own.dir, error));
            }
        }
        (own, findings)
    }

    fn read_chain(&mut self, context: &Context, vault: VaultId, key: SigningKey) -> Result<(), ScribeError> {
        let scribe = Scribe::open(&context.state, vault, key)?;
        for name in scribe.names()? {
            let bytes = scribe.read(&name).map_err(|error| error.to_string());
            self.records.insert(name, bytes);
        }
        Ok(())
    }

    /// Those that are whole, as a copy's trust has it; notes which are not, and what the copy holds.
    pub fn checked(&mut self, store: &str, copy: &Copy, records: &Records) -> Vec<Checked> {
        let mut whole = Vec::new();
        for (name, bytes) in &self.records {
            let stored = name.to_string();
            let checked = bytes.as_ref().map_err(Clone::clone).and_then(|bytes| {
                check(&copy.trust, &stored, bytes).map_err(|error| error.to_string().replace(&format!("{stored}: "), ""))
            });
            match checked {
                Ok(record) => whole.push(record),
                Err(why) => drop(self.damaged.insert(name.clone(), why)),
            }
        }
        for record in records.checked.iter().filter(|record| self.records.contains_key(&record.name)) {
            let holders = self.holders.entry(record.name.clone()).or_default();
            if !holders.iter().any(|holder| holder == store) {
                holders.push(store.to_owned());
            }
        }
        whole
    }

    /// How many of them a copy lacks.
    pub fn undelivered(&self, copy: &Copy) -> u64 {
        let lacks = |name: &&ObjectName| {
            let ObjectName::Record { writer, seq, statement } = name else { return false };
            // What was signed after its key was retired stays here.
            let until = copy.trust.writer(writer).and_then(|(writer, _)| writer.until);
            until.is_none_or(|until| *seq <= until.seq) && !copy.book.has(writer, &Head { seq: *seq, hash: *statement })
        };
        self.records.keys().filter(lacks).count() as u64
    }

    /// What is damaged here, and which stores hold it whole.
    pub fn findings(&self) -> Vec<Finding> {
        let told = |(name, why): (&ObjectName, &String)| {
            let help = match self.holders.get(name) {
                Some(holders) => format!("put the file back from a store that holds it whole ({})", holders.join(", ")),
                None => "no store that was looked at holds it whole".to_owned(),
            };
            let file = name.to_string();
            let path = format!("{}/{}", self.dir, file.strip_prefix("ledger/").unwrap_or(&file));
            Finding::new(FindingKind::Damage, path, format!("damaged on this machine, which signed it: {why}; {help}"))
        };
        self.damaged.iter().map(told).collect()
    }
}
