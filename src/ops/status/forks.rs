//! Whether anybody signed two records with one number, in whichever places they lie.

use std::collections::{BTreeMap, BTreeSet};

use crate::ledger::chain::OF_A_FORK;
use crate::ledger::{Checked, Standing};
use crate::model::finding::{Finding, FindingKind};
use crate::model::ids::WriterId;
use crate::model::name::ObjectName;

/// The records of trusted writers by number, with the places in which they were seen.
#[derive(Debug, Default)]
pub struct Signed {
    chains: BTreeMap<WriterId, BTreeMap<u64, BTreeMap<ObjectName, BTreeSet<String>>>>,
    /// Of these what counts is known, and what else they signed stops nobody.
    retired: BTreeSet<WriterId>,
}

impl Signed {
    /// Takes the records of one place.
    pub fn add<'a>(&mut self, place: &str, records: impl IntoIterator<Item = &'a Checked>) {
        for record in records.into_iter().filter(|record| record.standing == Standing::Trusted) {
            let chain = self.chains.entry(record.statement.writer).or_default();
            let here = chain.entry(record.head.seq).or_default();
            here.entry(record.name.clone()).or_default().insert(place.to_owned());
        }
    }

    /// Leaves a writer out.
    pub fn leave_out(&mut self, retired: WriterId) {
        self.retired.insert(retired);
    }

    /// Of each writer the first number that it used twice.
    pub fn forks(&self) -> Vec<Finding> {
        let chains = self.chains.iter().filter(|(writer, _)| !self.retired.contains(writer));
        let forked = chains.filter_map(|(writer, chain)| {
            let (seq, records) = chain.iter().find(|(_, records)| records.len() > 1)?;
            let lie = |(name, places): (&ObjectName, &BTreeSet<String>)| {
                format!("{name} ({})", places.iter().map(String::as_str).collect::<Vec<_>>().join(", "))
            };
            let message = format!(
                "fork: it signed {} different records with number {seq}, {}: {OF_A_FORK}",
                records.len(),
                records.iter().map(lie).collect::<Vec<_>>().join(" and ")
            );
            Some(Finding::new(FindingKind::Trust, format!("writer {}", writer.short()), message))
        });
        forked.collect()
    }
}
