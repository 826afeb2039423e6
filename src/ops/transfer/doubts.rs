//! What of a target is read before it counts as being there.

use std::collections::BTreeSet;

use super::{Looking, Transfer};
use crate::format::inventory::Line;
use crate::ledger::Checked;
use crate::model::name::ObjectName;
use crate::ops::OpError;
use crate::ops::suspicion::spoken_against;
use crate::ops::verifications::Place;
use crate::vault::VaultError;
use crate::vault::copy::Copy;
use crate::vault::inventory::{PageCache, each_line};
use crate::vault::presence::Presence;
use crate::vault::snapshots::Records;

/// What of a target is not believed by its name and size.
pub struct Doubts {
    /// What is read first.
    pub to_read: Vec<Line>,
    /// Those of them that the source does not hold.
    pub own: BTreeSet<Line>,
    /// Something is amiss there: records are read too.
    pub everything: bool,
    /// What somebody has found against it.
    pub spoken_against: BTreeSet<ObjectName>,
}

impl Transfer<'_> {
    /// What of the target is to be read before it counts as being there.
    ///
    /// # Errors
    /// When the target is out of reach.
    pub(super) fn doubts(
        &self,
        wanted: &[Line],
        presence: &Presence,
        noted: &BTreeSet<ObjectName>,
        (copy, target): (Option<&Copy>, &Records),
        own: &[Checked],
        set_back: bool,
        pages: &PageCache,
    ) -> Result<Doubts, OpError> {
        // A record comes after its objects were read back: what its snapshot needs was right once.
        let mut sound: BTreeSet<ObjectName> = BTreeSet::new();
        for snapshot in target.snapshots().iter().filter(|snapshot| presence.has(&snapshot.body.inventory)) {
            // An inventory that cannot be read vouches for nothing.
            let _ = each_line(pages, self.from.store.as_ref(), &snapshot.body.inventory, &mut |line| {
                sound.insert(line.name.clone());
            });
        }
        let spoken_against = self.spoken_against(copy, target, own);
        let lost = wanted.iter().any(|line| sound.contains(&line.name) && !presence.has(&line.name));
        let everything = self.looking == Looking::All || set_back || lost || !spoken_against.is_empty();
        // What an earlier run sent and did not read back, and what a torn write left, can have the right size; what read back
        // wrong can be part of a snapshot that was right once.
        let doubtful = |line: &&Line| everything || !sound.contains(&line.name) || noted.contains(&line.name);
        let mut to_read: Vec<Line> =
            wanted.iter().filter(|line| presence.has(&line.name)).filter(doubtful).cloned().collect();
        let own = if everything { self.own_objects(wanted, target, presence, pages)? } else { BTreeSet::new() };
        to_read.extend(own.iter().cloned());
        Ok(Doubts { to_read, own, everything, spoken_against })
    }

    /// What only snapshots need that the source does not hold any more.
    fn own_objects(
        &self,
        wanted: &[Line],
        target: &Records,
        presence: &Presence,
        pages: &PageCache,
    ) -> Result<BTreeSet<Line>, OpError> {
        let wanted: BTreeSet<&ObjectName> = wanted.iter().map(|line| &line.name).collect();
        let mut own = BTreeSet::new();
        for snapshot in target.snapshots().iter().filter(|snapshot| !wanted.contains(&snapshot.body.inventory)) {
            let read = each_line(pages, self.to.store.as_ref(), &snapshot.body.inventory, &mut |line| {
                let is_record =
                    matches!(line.name, ObjectName::Trust { .. } | ObjectName::Record { .. } | ObjectName::Header);
                if !is_record && !wanted.contains(&line.name) && presence.has(&line.name) {
                    own.insert(line.clone());
                }
            });
            // An inventory that cannot be read is what a verification finds.
            if let Err(VaultError::Store(error)) = read
                && error.is_store_wide()
            {
                return Err(error.into());
            }
        }
        Ok(own)
    }

    /// Objects of the target that stand under suspicion, also where that word could not be left there.
    fn spoken_against(&self, copy: Option<&Copy>, target: &Records, own: &[Checked]) -> BTreeSet<ObjectName> {
        let name = self.to.store.location().to_string();
        // Whose word it is does not matter: it is only looked at again.
        let all = target.checked.iter().chain(&self.records.checked).chain(own);
        let here = copy.and_then(Place::known_to_all).or_else(|| Place::of_server(&name));
        let about = spoken_against(all, |_| true).into_iter().filter(|one| one.may_be_about(here.as_ref(), &name));
        about.flat_map(|one| one.objects).collect()
    }
}
