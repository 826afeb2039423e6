//! What lies in a copy, by name and size alone.

use std::collections::{BTreeMap, BTreeSet};

use crate::model::name::{Area, ObjectName, PROBE_PREFIX, Sealed};
use crate::store::{Store, StoreError};

/// Debris that is listed by name; the rest is counted.
const DEBRIS_KEPT: usize = 1000;

/// The objects of a copy whose size fits their name.
#[derive(Debug, Default)]
pub struct Presence {
    /// Packs with their suffix, sorted: 400,000 of them take 18 MiB.
    packs: Vec<(Sealed, u8)>,
    /// All else, with the suffix and size it lies under.
    others: BTreeMap<ObjectName, (u32, u64)>,
    /// Stored names that are no object, or whose size does not fit.
    debris: Vec<String>,
    debris_count: u64,
    bytes: u64,
}

impl Presence {
    /// Lists `areas` of a copy.
    ///
    /// # Errors
    /// When the store cannot be listed.
    pub fn read(store: &dyn Store, areas: &[Area]) -> Result<Self, StoreError> {
        let dirs: Vec<String> = areas.iter().flat_map(|area| area.leaf_dirs()).collect();
        let mut presence = Self::default();
        store.list(&dirs, &mut |listed| presence.add(&listed.name, listed.bytes))?;
        presence.packs.sort_unstable();
        presence.packs.dedup_by_key(|(pack, _)| *pack);
        Ok(presence)
    }

    /// Asks for these objects alone, under their plain names: cheaper than a listing when they are few.
    ///
    /// # Errors
    /// When the store cannot be asked.
    pub fn of(store: &dyn Store, names: &[ObjectName]) -> Result<Self, StoreError> {
        let stored: Vec<String> = names.iter().map(|name| name.with_suffix(0)).collect();
        let mut presence = Self::default();
        for (name, bytes) in stored.iter().zip(store.sizes(&stored)?) {
            if let Some(bytes) = bytes {
                presence.add(name, bytes);
            }
        }
        presence.packs.sort_unstable();
        presence.packs.dedup_by_key(|(pack, _)| *pack);
        Ok(presence)
    }

    fn add(&mut self, stored: &str, bytes: u64) {
        self.bytes += bytes;
        match ObjectName::parse_stored(stored) {
            Ok((name, suffix)) if name.bytes().is_none_or(|expected| expected == bytes) => match name {
                ObjectName::Pack(pack) => self.packs.push((pack, suffix as u8)),
                name => {
                    let slot = self.others.entry(name).or_insert((suffix, bytes));
                    *slot = (*slot).min((suffix, bytes));
                }
            },
            _ if stored.starts_with(PROBE_PREFIX) => {}
            _ => {
                self.debris_count += 1;
                if self.debris.len() < DEBRIS_KEPT {
                    self.debris.push(stored.to_owned());
                }
            }
        }
    }

    /// Whether an object of this name and size is there.
    #[must_use]
    pub fn has(&self, name: &ObjectName) -> bool {
        match name {
            ObjectName::Pack(pack) => self.has_pack(pack),
            name => self.others.contains_key(name),
        }
    }

    /// Whether a pack of this size is there.
    #[must_use]
    pub fn has_pack(&self, pack: &Sealed) -> bool {
        self.packs.binary_search_by(|(found, _)| found.cmp(pack)).is_ok()
    }

    /// The stored name of an object.
    #[must_use]
    pub fn stored_name(&self, name: &ObjectName) -> Option<String> {
        match name {
            ObjectName::Pack(pack) => {
                let place = self.packs.binary_search_by(|(found, _)| found.cmp(pack)).ok()?;
                Some(name.with_suffix(u32::from(self.packs[place].1)))
            }
            name => self.others.get(name).map(|(suffix, _)| name.with_suffix(*suffix)),
        }
    }

    /// The packs.
    pub fn packs(&self) -> impl Iterator<Item = Sealed> + '_ {
        self.packs.iter().map(|(pack, _)| *pack)
    }

    /// All but packs, with their sizes.
    pub fn others(&self) -> impl Iterator<Item = (&ObjectName, u64)> {
        self.others.iter().map(|(name, (_, bytes))| (name, *bytes))
    }

    /// Every object.
    pub fn names(&self) -> impl Iterator<Item = ObjectName> + '_ {
        self.others.keys().cloned().chain(self.packs().map(ObjectName::Pack))
    }

    /// Names that are no object or whose size does not fit, the first thousand, and how many there are.
    #[must_use]
    pub fn debris(&self) -> (&[String], u64) {
        (&self.debris, self.debris_count)
    }

    /// Bytes of all that is listed.
    #[must_use]
    pub const fn bytes(&self) -> u64 {
        self.bytes
    }

    /// Takes out objects that are not what their names say.
    pub fn forget(&mut self, names: &BTreeSet<ObjectName>) {
        self.packs.retain(|(pack, _)| !names.contains(&ObjectName::Pack(*pack)));
        self.others.retain(|name, _| !names.contains(name));
    }

    /// Adds objects that were just delivered.
    pub fn add_all(&mut self, names: &[ObjectName]) {
        for name in names {
            match name {
                ObjectName::Pack(pack) => self.packs.push((*pack, 0)),
                name => {
                    self.others.entry(name.clone()).or_insert((0, name.bytes().unwrap_or(0)));
                }
            }
        }
        self.packs.sort_unstable();
        self.packs.dedup_by_key(|(pack, _)| *pack);
    }
}
