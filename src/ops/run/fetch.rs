//! Fetching: every part on disk, with the right hash, before anything is destroyed.

use std::path::Path;

use super::Place;
use super::files::FilesTask;
use super::member::Task;
use crate::model::entry::EntryKind;
use crate::model::finding::{Finding, FindingKind};
use crate::model::path::EntryPath;
use crate::model::pattern::Selection;
use crate::ops::restore::{Into, OnConflict, Progressed, RestorePlan, write_out};
use crate::ops::{OpError, select::SnapshotQuery};
use crate::source::engine::FetchedPart;
use crate::state::make_private_dir;
use crate::vault::VaultError;

impl Place<'_> {
    /// Fetches the parts of a member below `dir`. What an earlier run has fetched whole is not fetched again.
    pub(super) fn fetch_parts(&self, task: &Task<'_>, dir: &Path) -> Result<(), OpError> {
        let parts = self.notes.parts();
        make_private_dir(&parts)?;
        let findings = self.write(task, Selection::all(), None, &parts)?;
        // Owner and mode of a part are its engine's to set; here it only has to be whole.
        let lost: Vec<&Finding> = findings.iter().filter(|f| f.kind != FindingKind::Target).collect();
        refuse(&task.member.name, &lost)?;
        for part in self.parts_of(task, dir)? {
            let length = std::fs::metadata(&part.path).map(|meta| meta.len());
            if length.as_ref().ok() != Some(&part.bytes) {
                let why = format!("{}: was not fetched whole; nothing has been destroyed", part.path.display());
                return Err(OpError::NotDone(why));
            }
        }
        Ok(())
    }

    /// Fetches each root of a member beside the place that it goes to.
    pub(super) fn fetch_files(&self, task: &Task<'_>, files: &FilesTask) -> Result<(), OpError> {
        for root in files.roots.iter().filter(|root| !root.is_begun()) {
            let stage = root.make_stage()?;
            let findings = self.write(task, Selection::of_path(root.entry.clone()), root.entry.parent(), &stage)?;
            refuse(&task.member.name, &findings.iter().collect::<Vec<_>>())?;
        }
        Ok(())
    }

    fn write(
        &self,
        task: &Task<'_>,
        selection: Selection,
        strip: Option<EntryPath>,
        into: &Path,
    ) -> Result<Vec<Finding>, OpError> {
        let plan = RestorePlan {
            read: self.plan.read.clone(),
            query: SnapshotQuery::default(),
            selection,
            members: vec![task.member.name.clone()],
            into: Into::Dir(into.to_owned()),
            strip,
            on_conflict: OnConflict::Replace,
            delete: false,
            dry_run: false,
            numeric_ids: false,
            special: true,
            reason: None,
            ticket: None,
            purpose: "run",
        };
        let (reader, from) = (self.reader, self.opened.copy.name());
        let receipt = write_out(&plan, reader, &from, self.snapshot, into, self.env, &mut Progressed::default())?;
        Ok(receipt.findings)
    }

    /// The parts of a member as the catalogue lists them.
    pub(super) fn parts_of(&self, task: &Task<'_>, dir: &Path) -> Result<Vec<FetchedPart>, OpError> {
        let prefix = EntryPath::from_bytes(format!("@{}", task.member.name)).map_err(VaultError::internal)?;
        let mut parts = Vec::new();
        self.reader.each_entry(task.member, &Selection::all(), |entry| {
            let (EntryKind::File(content), Some(below)) = (&entry.kind, entry.path.below(&prefix)) else { return Ok(()) };
            let name = String::from_utf8(below.as_bytes().to_vec()).map_err(VaultError::internal)?;
            parts.push(FetchedPart { path: dir.join(&name), name, bytes: content.size, meta: entry.meta.clone() });
            Ok(())
        })?;
        Ok(parts)
    }
}

fn refuse(member: &str, findings: &[&Finding]) -> Result<(), OpError> {
    let Some(first) = findings.first() else { return Ok(()) };
    let more = if findings.len() > 1 { format!(" (and {} more)", findings.len() - 1) } else { String::new() };
    let why = format!("member {member:?} cannot be brought back whole: {first}{more}; nothing has been destroyed");
    Err(if first.kind.is_alarm() {
        VaultError::damaged(format!("member {member:?}"), why).into()
    } else {
        OpError::NotDone(why)
    })
}
