//! What this push may build on: packs that the index knows and every copy holds, pages of earlier inventories.

use std::collections::BTreeSet;
use std::sync::Arc;

use super::{Prepared, PushPlan};
use crate::crypto::CryptoError;
use crate::crypto::identity::Identity;
use crate::format::inventory::Line;
use crate::format::table::PackKind;
use crate::ledger::{Standing, Trust};
use crate::model::finding::{Finding, FindingKind};
use crate::model::name::{ObjectName, Sealed};
use crate::model::size::count;
use crate::ops::OpError;
use crate::ops::context::Context;
use crate::ops::push::change::forget_nights;
use crate::ops::suspicion::spoken_against;
use crate::ops::verifications::Verification;
use crate::state::StateError;
use crate::state::index::ChunkIndex;
use crate::state::journal::Entry;
use crate::vault::VaultError;
use crate::vault::index_sync::import;
use crate::vault::inventory::{PageCache, each_line, page_names};

impl Prepared {
    /// Whether a verification by anyone trusted speaks against anything in any copy.
    pub fn is_anything_found(&self) -> bool {
        let records = self.sides.iter().flat_map(|side| &side.records.checked);
        !spoken_against(records, |one| counts(one, self.trust())).is_empty()
    }

    /// Pages of the newest inventories of which every line lies in every copy, and nothing is found against it: only such can
    /// be used again. A page that cannot be read is made anew.
    pub fn sound_pages(&self, cache: &PageCache) -> Result<Vec<Sealed>, VaultError> {
        let store = self.sides[0].named.store.as_ref();
        let suspects = found_objects(self);
        let sound = |line: &Line| match &line.name {
            ObjectName::Pack(pack) => self.may_refer_to(&line.name) && !suspects.contains(pack),
            // They are remembered here and checked when a copy is opened.
            ObjectName::Trust { .. } => true,
            name => self.may_refer_to(name),
        };
        let mut pages = BTreeSet::new();
        for snapshot in self.newest_of_each_series() {
            match page_names(cache, store, &snapshot.body.inventory) {
                Ok(names) => pages.extend(names),
                Err(VaultError::Damaged { .. }) => {}
                Err(error) => return Err(error),
            }
        }
        let mut found = Vec::new();
        for page in pages.into_iter().filter(|page| self.may_refer_to(&ObjectName::Inventory(*page))) {
            match cache.read(store, &page) {
                Ok(lines) if lines.iter().all(sound) => found.push(page),
                Ok(_) | Err(VaultError::Damaged { .. }) => {}
                Err(error) => return Err(error),
            }
        }
        Ok(found)
    }
}

/// Imports the index objects of the newest snapshots, and the packs that a push which died had already sent; forgets what is
/// gone.
pub fn refresh_index(
    index: &mut ChunkIndex,
    plan: &PushPlan,
    context: &Context,
    prepared: &mut Prepared,
    pages: &PageCache,
    journal: &[Entry],
    identity: &Identity,
) -> Result<(), OpError> {
    let store = Arc::clone(&prepared.sides[0].named.store);
    let mut objects: BTreeSet<Sealed> = BTreeSet::new();
    for snapshot in prepared.newest_of_each_series() {
        each_line(pages, store.as_ref(), &snapshot.body.inventory, &mut |line| {
            if let ObjectName::Index(object) = &line.name {
                objects.insert(*object);
            }
        })?;
    }
    for entry in journal {
        match entry {
            Entry::Index(object) => {
                objects.insert(*object);
            }
            Entry::Pack(pack) if prepared.may_refer_to(&ObjectName::Pack(pack.pack)) => {
                index.add_pack(pack)?;
            }
            Entry::Pack(_) => {}
        }
    }
    objects.retain(|object| prepared.may_refer_to(&ObjectName::Index(*object)));
    let follows = prepared.trust().has_former_agents();
    let mut shut = 0_u64;
    for object in objects {
        match import(index, store.as_ref(), &object, std::slice::from_ref(identity)) {
            // Sealed for an agent before this one, and what was taken in when this machine took its place is not here any more.
            // Pages of inventories that are used again may list it long after.
            Err(VaultError::Crypto { source: CryptoError::NoIdentity, .. }) if follows => {
                index.set_object(&object, &[])?;
                shut += 1;
            }
            outcome => outcome?,
        }
    }
    if shut > 0 {
        forget_nights(&context.state)?;
        let message = format!(
            "{} for an agent before this one only: what no other lists is sent again (`farkeep init --adopt` takes it in)",
            count(shut, "index object")
        );
        prepared.findings.push(Finding::new(FindingKind::Notice, "chunk index", message));
    }
    index.flush()?;
    forget_gone(index, plan, prepared)
}

/// Lets the index forget packs that lie in no copy any more: where every store was looked into that any job pushes to.
fn forget_gone(index: &mut ChunkIndex, plan: &PushPlan, prepared: &Prepared) -> Result<(), OpError> {
    if !plan.to_all_stores || prepared.sides.len() < plan.stores.len() + plan.missed.len() {
        return Ok(());
    }
    let mut gone = vec![false; index.pack_count() as usize];
    index.each_pack(&mut |number, info| {
        gone[number as usize] = !prepared.sides.iter().any(|side| side.presence.has_pack(&info.pack));
    })?;
    if let Err(error) = index.forget(&gone) {
        if matches!(error, StateError::Rotten { .. }) {
            return Err(error.into());
        }
        // For want of room, perhaps: the index is as good as it was.
        tracing::warn!(%error, "the chunk index cannot be made smaller");
    }
    Ok(())
}

/// By pack number: present in every copy with its size, about to go from none, and nothing found against it.
pub fn live_packs(index: &ChunkIndex, prepared: &Prepared) -> Result<Vec<bool>, OpError> {
    let suspects = found_objects(prepared);
    let mut live = vec![false; index.pack_count() as usize];
    index.each_pack(&mut |number, info| {
        let present = prepared.sides.iter().all(|side| side.presence.has_pack(&info.pack));
        let goes = prepared.doomed.contains(&ObjectName::Pack(info.pack));
        live[number as usize] = present && !goes && !suspects.contains(&info.pack);
    })?;
    drop_what_lies_on_holes(index, &mut live)?;
    Ok(live)
}

/// A patch without its bases is no better than a pack that is gone.
fn drop_what_lies_on_holes(index: &ChunkIndex, live: &mut [bool]) -> Result<(), OpError> {
    let mut patches = Vec::new();
    index.each_pack(&mut |number, info| {
        if info.kind == PackKind::Patch && live[number as usize] {
            patches.push(number);
        }
    })?;
    loop {
        let before = patches.len();
        let mut standing = Vec::new();
        for number in patches {
            let table = index.table(number)?;
            let stands = |base| index.number_of(base).is_some_and(|base| live[base as usize]);
            live[number as usize] = table.base_packs.iter().all(stands);
            if live[number as usize] {
                standing.push(number);
            }
        }
        // What fell may have carried others; the depth is bounded, and so are the rounds.
        if standing.len() == before {
            return Ok(());
        }
        patches = standing;
    }
}

fn counts(one: &Verification<'_>, trust: &Trust) -> bool {
    one.record.standing == Standing::Trusted && !one.is_over(trust)
}

/// Packs of any copy that a verification by anyone trusted speaks against.
fn found_objects(prepared: &Prepared) -> BTreeSet<Sealed> {
    let records = prepared.sides.iter().flat_map(|side| &side.records.checked);
    let found = spoken_against(records, |one| counts(one, prepared.trust())).into_iter().flat_map(|one| one.objects);
    found.filter_map(|name| if let ObjectName::Pack(pack) = name { Some(pack) } else { None }).collect()
}
