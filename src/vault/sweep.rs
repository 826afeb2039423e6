//! What lies in a copy and what the snapshots that stay need of it: the rest may go.
//!
//! It works from a listing and from inventories, so it needs no key. Memory is one row an object: 1,000,000 of them take some
//! 100 MiB, inventories come a page at a time.

use std::collections::BTreeSet;

use crate::model::name::{Area, ObjectName, Sealed};
use crate::model::time::Timestamp;
use crate::store::{Store, StoreError};
use crate::vault::VaultError;
use crate::vault::inventory::{PageCache, page_names};
use crate::vault::snapshots::Snapshot;

/// Where prune removes, in the order in which it removes: a snapshot whose inventory is gone is gone, and packs go when
/// nothing speaks of them any more.
pub const SWEPT: [Area; 4] = [Area::Inventories, Area::Manifests, Area::Indexes, Area::Packs];
/// Missing objects that are named; the rest is counted.
const MISSING_NAMED: usize = 100;

/// One object of a copy.
#[derive(Debug, Clone)]
struct Row {
    name: ObjectName,
    bytes: u64,
    old: bool,
    needed: bool,
    listed: bool,
}

/// What lies in the swept areas of a copy.
#[derive(Debug, Default)]
pub struct Sweep {
    rows: Vec<Row>,
    /// Objects that somebody needs and that are not there, the first of them.
    pub missing: BTreeSet<ObjectName>,
    /// Nobody can say of what nobody lists that it is not needed.
    spares_unlisted: bool,
}

impl Sweep {
    /// Lists a copy. What it received at or before `old_until` counts as old; what it cannot date does not.
    ///
    /// # Errors
    /// When it cannot be listed.
    pub fn read(store: &dyn Store, old_until: Timestamp) -> Result<Self, StoreError> {
        let dirs: Vec<String> = SWEPT.iter().flat_map(|area| area.leaf_dirs()).collect();
        let mut rows = Vec::new();
        store.list(&dirs, &mut |listed| {
            let old = listed.received.is_some_and(|received| received <= old_until);
            if let Ok((name, _)) = ObjectName::parse_stored(&listed.name)
                && name.bytes() == Some(listed.bytes)
                && SWEPT.contains(&name.area())
            {
                rows.push(Row { name, bytes: listed.bytes, old, needed: false, listed: false });
            }
        })?;
        rows.sort_unstable_by(|a, b| a.name.cmp(&b.name));
        rows.dedup_by(|again, first| {
            let same = again.name == first.name;
            first.old &= !same || again.old;
            same
        });
        Ok(Self { rows, ..Self::default() })
    }

    fn find(&mut self, name: &ObjectName) -> Option<&mut Row> {
        let place = self.rows.binary_search_by(|row| row.name.cmp(name)).ok()?;
        self.rows.get_mut(place)
    }

    /// Whether an object lies there.
    #[must_use]
    pub fn has(&self, name: &ObjectName) -> bool {
        self.rows.binary_search_by(|row| row.name.cmp(name)).is_ok()
    }

    /// Notes that an object stays. One that is not there is missing.
    pub fn need(&mut self, name: &ObjectName) {
        if let Some(row) = self.find(name) {
            row.needed = true;
        } else if SWEPT.contains(&name.area()) && self.missing.len() < MISSING_NAMED {
            self.missing.insert(name.clone());
        }
    }

    /// Notes that a snapshot that goes lists an object: it goes too, however young it is, unless it is needed.
    pub fn release(&mut self, name: &ObjectName) {
        if let Some(row) = self.find(name) {
            row.listed = true;
        }
    }

    /// From now on nothing goes but what a snapshot that goes lists: there are snapshots of which nobody knows what they need.
    pub const fn spare_unlisted(&mut self) {
        self.spares_unlisted = true;
    }

    /// What may go: not needed, and either listed by a snapshot that goes, or so old that no push is still at work on it.
    pub fn removable(&self) -> impl Iterator<Item = (&ObjectName, u64)> {
        let goes = |row: &&Row| !row.needed && (row.listed || row.old && !self.spares_unlisted);
        self.rows.iter().filter(goes).map(|row| (&row.name, row.bytes))
    }
}

/// Hands every object of the inventories of `snapshots` to `each`, inventories and manifests included, each page once.
///
/// # Errors
/// When an inventory is missing or damaged: then nobody can say what is needed.
pub fn each_listed(
    pages: &PageCache,
    store: &dyn Store,
    snapshots: &[&Snapshot],
    each: &mut dyn FnMut(&ObjectName),
) -> Result<(), VaultError> {
    let mut all: BTreeSet<Sealed> = BTreeSet::new();
    pages.read_ahead(store, snapshots.iter().map(|snapshot| &snapshot.body.inventory));
    for snapshot in snapshots {
        each(&snapshot.body.inventory);
        each(&snapshot.body.manifest);
        all.extend(page_names(pages, store, &snapshot.body.inventory)?);
    }
    for page in all {
        each(&ObjectName::Inventory(page));
        pages.read(store, &page)?.iter().for_each(|line| each(&line.name));
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use proptest::collection::{btree_set, vec};
    use proptest::prelude::*;

    use super::*;
    use crate::crypto::hash::hash;
    use crate::store::WriteOnceStore;
    use crate::store::memory::MemoryStore;

    fn pack(n: u8) -> ObjectName {
        ObjectName::Pack(Sealed { hash: hash(&[n]), bytes: 1 })
    }

    #[test]
    fn what_is_needed_stays_and_what_nobody_dates_stays_too() {
        let store = MemoryStore::new();
        for n in 0..4 {
            store.put(&pack(n).to_string(), &[n]).unwrap_or_else(|e| panic!("{e}"));
        }
        store.put(&pack(9).to_string(), b"cut short").unwrap_or_else(|e| panic!("{e}"));
        let mut sweep = Sweep::read(&store, Timestamp(100)).unwrap_or_else(|e| panic!("{e}"));
        for n in [0, 1] {
            sweep.release(&pack(n));
        }
        sweep.need(&pack(1));
        sweep.need(&pack(9));
        let gone: Vec<_> = sweep.removable().map(|(name, _)| name.clone()).collect();
        assert_eq!(gone, [pack(0)], "a snapshot that goes lists it and none that stays; of the others nobody knows the age");
        assert_eq!(sweep.missing.iter().cloned().collect::<Vec<_>>(), [pack(9)]);
    }

    proptest! {
        /// Nights share objects as they like, and after each some snapshots are dropped, whichever the rules may choose.
        #[test]
        fn what_stays_keeps_all_that_it_needs_and_what_nobody_needs_goes(
            nights in vec((btree_set(0_u8..40, 1..12), vec(any::<bool>(), 0..20)), 1..20),
        ) {
            let mut lying: BTreeSet<u8> = BTreeSet::new();
            let mut kept: Vec<BTreeSet<u8>> = Vec::new();
            for (objects, drops) in nights {
                lying.extend(&objects);
                kept.push(objects);
                let store = MemoryStore::new();
                lying.iter().for_each(|n| drop(store.put(&pack(*n).to_string(), &[*n])));
                let mut sweep = Sweep::read(&store, Timestamp(100)).unwrap_or_else(|e| panic!("{e}"));
                let mut choice = drops.into_iter();
                let (go, stay): (Vec<_>, Vec<_>) = kept.into_iter().partition(|_| choice.next().unwrap_or(false));
                stay.iter().flatten().for_each(|n| sweep.need(&pack(*n)));
                go.iter().flatten().for_each(|n| sweep.release(&pack(*n)));
                let gone: BTreeSet<ObjectName> = sweep.removable().map(|(name, _)| name.clone()).collect();
                prop_assert!(sweep.missing.is_empty());
                lying.retain(|n| !gone.contains(&pack(*n)));
                prop_assert!(stay.iter().flatten().all(|n| lying.contains(n)), "something that stays has lost an object");
                prop_assert!(lying.iter().all(|n| stay.iter().any(|of| of.contains(n))), "something that nobody needs stays");
                kept = stay;
            }
        }
    }
}
