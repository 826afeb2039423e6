//! Further names of files: each must point at an earlier entry of its member that holds the content.

use std::collections::HashMap;
use std::sync::atomic::{AtomicBool, Ordering};

use crate::format::manifest::Member;
use crate::model::entry::{Entry, EntryKind};
use crate::model::finding::{Finding, FindingKind};
use crate::model::path::EntryPath;
use crate::model::pattern::Selection;
use crate::vault::VaultError;
use crate::vault::catalogue_reader::SnapshotReader;

/// First names that are looked for at once; with more of them the catalogue is gone through again.
const FIRSTS_MAX: usize = 200_000;

/// The links of a member, gathered while its entries go by.
#[derive(Debug, Default)]
pub struct Links {
    /// By the first name: the earliest link to it.
    firsts: HashMap<EntryPath, EntryPath>,
    /// The link from which on there was no room.
    rest: Option<EntryPath>,
}

impl Links {
    /// Takes the next entry.
    pub fn note(&mut self, entry: &Entry) {
        let EntryKind::HardLink(first) = &entry.kind else { return };
        if self.rest.is_some() || self.firsts.contains_key(first) {
            return;
        }
        if self.firsts.len() < FIRSTS_MAX {
            self.firsts.insert(first.clone(), entry.path.clone());
        } else {
            self.rest = Some(entry.path.clone());
        }
    }

    /// After the last entry: goes through the catalogue again and hands over what it does not hold.
    ///
    /// # Errors
    /// When the catalogue cannot be read, or the first error of `found`.
    pub fn check(
        mut self,
        reader: &SnapshotReader,
        member: &Member,
        cancel: &AtomicBool,
        mut found: impl FnMut(Finding) -> Result<(), VaultError>,
    ) -> Result<(), VaultError> {
        let go_on = || if cancel.load(Ordering::Relaxed) { Err(VaultError::Interrupted) } else { Ok(()) };
        while !self.firsts.is_empty() {
            reader.each_entry(member, &Selection::all(), |entry| {
                self.cross_off(&entry);
                go_on()
            })?;
            for finding in self.dangling() {
                found(finding)?;
            }
            let Some(rest) = self.rest.take() else { break };
            reader.each_entry(member, &Selection::all(), |entry| {
                if entry.path >= rest {
                    self.note(&entry);
                }
                go_on()
            })?;
        }
        Ok(())
    }

    fn cross_off(&mut self, entry: &Entry) {
        let holds = !matches!(entry.kind, EntryKind::HardLink(_) | EntryKind::Directory);
        if holds && self.firsts.get(&entry.path).is_some_and(|link| entry.path < *link) {
            self.firsts.remove(&entry.path);
        }
    }

    fn dangling(&mut self) -> Vec<Finding> {
        let mut left: Vec<_> = self.firsts.drain().collect();
        left.sort();
        let tell = |(first, link)| {
            let why = format!("is another name of /{first}, and no file stands there before it: its content is missing");
            Finding::new(FindingKind::Damage, format!("/{link}"), why)
        };
        left.into_iter().map(tell).collect()
    }
}
