//! Sections of the configuration that speak of nothing which a copy knows: most often a typing error in a name.

use std::collections::BTreeSet;

use super::OpError;
use super::context::Context;
use super::drive::register_of;
use crate::model::drive::DriveName;
use crate::model::finding::{Finding, FindingKind};
use crate::model::ids::Token;
use crate::vault::copy::Copy;
use crate::vault::snapshots::Records;

/// The drives and series that have a section of their own.
#[derive(Debug, Clone, Default)]
pub struct Sections {
    /// Of `[drive.NAME]`.
    pub drives: BTreeSet<DriveName>,
    /// Of `[series.TOKEN]`.
    pub series: BTreeSet<Token>,
}

impl Sections {
    /// Whether there is none.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.drives.is_empty() && self.series.is_empty()
    }

    /// A note on each whose drive no record enrols, or of whose series the copy has no snapshot.
    ///
    /// # Errors
    /// When this machine's own records cannot be read.
    pub fn unknown(&self, context: &Context, copy: &Copy, records: &Records) -> Result<Vec<Finding>, OpError> {
        if self.is_empty() {
            return Ok(Vec::new());
        }
        let register = register_of(context, copy, records)?;
        let known: BTreeSet<Token> = records.snapshots().iter().map(|snapshot| snapshot.body.series).collect();
        let drives = self.drives.iter().filter(|name| register.get(name).is_none()).map(|name| {
            let message = format!("no drive of this name is enrolled; `farkeep drive enrol {name} PATH` enrols one");
            Finding::new(FindingKind::Notice, format!("[drive.{name}]"), message)
        });
        let series = self.series.difference(&known).map(|token| {
            let message = "no snapshot is of this series, so its rules keep nothing: is the token right?";
            Finding::new(FindingKind::Notice, format!("[series.{token}]"), message)
        });
        Ok(drives.chain(series).collect())
    }
}
