//! What a snapshot says of itself, after its packs: index objects, manifest, inventory.

use std::collections::{BTreeMap, BTreeSet};

use super::SnapshotWriter;
use crate::codec::Compressor;
use crate::crypto::seal::seal;
use crate::format::frame::{padded_size, padding};
use crate::format::inventory::Line;
use crate::format::manifest::Manifest;
use crate::model::limits::{INDEX_OBJECTS_MAX, SEALED_MIN_BYTES};
use crate::model::name::{ObjectName, Sealed};
use crate::state::index::{ChunkIndex, PackNumber};
use crate::state::journal::Entry;
use crate::vault::VaultError;
use crate::vault::index_sync::{OBJECT_TARGET_BYTES, entry_bytes, seal_index};
use crate::vault::inventory::{Inventory, InventoryBuilder, Use};

/// zstd level of the manifest: it is small.
const MANIFEST_LEVEL: i32 = 9;

impl SnapshotWriter<'_> {
    /// Writes index objects for needed packs that no object in `usable` lists, and merges objects when they are many.
    /// Gives the objects that the snapshot needs.
    ///
    /// # Errors
    /// When sealing or sending fails.
    pub fn write_indexes(&mut self, usable: &dyn Fn(&Sealed) -> bool) -> Result<BTreeSet<Sealed>, VaultError> {
        let mut by_object: BTreeMap<Sealed, Vec<PackNumber>> = BTreeMap::new();
        let mut unlisted = Vec::new();
        for pack in self.core.needed_packs() {
            match self.core.index.object_of(pack)?.filter(|object| usable(object)) {
                Some(object) => by_object.entry(object).or_default().push(pack),
                None => unlisted.push(pack),
            }
        }
        let over = (by_object.len() + 1).saturating_sub(INDEX_OBJECTS_MAX);
        if over > 0 {
            // The smallest half gives way to one: so merges are rare, and large objects are seldom written again.
            let mut sizes: Vec<(u64, Sealed)> = Vec::new();
            for (object, packs) in &by_object {
                let bytes = packs.iter().map(|pack| entry_bytes(self.core.index, *pack)).sum::<Result<u64, _>>()?;
                sizes.push((bytes, *object));
            }
            sizes.sort();
            for (_, object) in sizes.iter().take(INDEX_OBJECTS_MAX / 2 + over) {
                unlisted.extend(by_object.remove(object).unwrap_or_default());
                self.core.index.retire_object(object);
            }
        }
        let mut objects: BTreeSet<Sealed> = by_object.into_keys().collect();
        for group in group_by_size(self.core.index, &unlisted)? {
            let sealed = seal_index(self.core.index, &group, &self.config.index_recipients)?;
            let name = ObjectName::Index(sealed.name);
            self.core.index.set_object(&sealed.name, &group)?;
            self.core.deliver(&name, sealed.bytes)?;
            self.core.journal.append(&Entry::Index(sealed.name))?;
            objects.insert(sealed.name);
        }
        self.core.index.flush()?;
        self.core.check_closed(&objects)?;
        Ok(objects)
    }

    /// Seals and sends the manifest.
    ///
    /// # Errors
    /// When it is too large, or sending fails.
    pub fn write_manifest(&mut self, manifest: &Manifest) -> Result<ObjectName, VaultError> {
        let json = manifest.encode().map_err(VaultError::internal)?;
        let frame = Compressor::new().compress(&json, MANIFEST_LEVEL).map_err(VaultError::internal)?;
        let length = frame.len() as u64;
        let fill = padding(length, padded_size(length, SEALED_MIN_BYTES)).map_err(VaultError::internal)?;
        let sealed = seal(&[&frame, &fill], &self.config.packer.recipients).map_err(VaultError::internal)?;
        let name = ObjectName::Manifest(sealed.name);
        self.core.deliver(&name, sealed.bytes)?;
        Ok(name)
    }

    /// Writes the inventory: every needed pack, and `others`.
    ///
    /// # Errors
    /// When a page of `base`, the pages of earlier inventories, cannot be had by `load`, or sending fails.
    pub fn write_inventory(
        &mut self,
        others: &BTreeSet<Line>,
        base: &[Sealed],
        load: &mut dyn FnMut(&Sealed) -> Result<Vec<Line>, VaultError>,
    ) -> Result<Inventory, VaultError> {
        let mut listed_packs = vec![false; self.core.needed.len()];
        let mut listed_others: BTreeSet<Line> = BTreeSet::new();
        let mut builder = InventoryBuilder::default();
        for page in base {
            let lines = load(page)?;
            let core = &self.core;
            builder.consider(
                *page,
                &lines,
                |line| match &line.name {
                    ObjectName::Pack(pack) => core.use_of(pack),
                    _ if others.contains(line) => Use::Needed,
                    _ => Use::Spare,
                },
                |line| match &line.name {
                    ObjectName::Pack(pack) => {
                        if let Some(number) = core.index.number_of(pack) {
                            listed_packs[number as usize] = true;
                        }
                    }
                    _ => {
                        listed_others.insert(line.clone());
                    }
                },
            );
        }
        // What a page lists counts as needed, and so does what it is built on.
        let mut rest = self.core.bases_of_listed(&listed_packs)?;
        rest.extend(self.core.needed_packs().filter(|number| !listed_packs[*number as usize]));
        let index = &*self.core.index;
        let mut failed = None;
        let packs = rest.into_iter().filter_map(|number| match index.pack(number) {
            Ok(info) => Some(Line { hash: info.pack.hash, name: ObjectName::Pack(info.pack) }),
            Err(error) => {
                failed = Some(error);
                None
            }
        });
        let others = others.difference(&listed_others).cloned();
        builder.add_rest(others.chain(packs))?;
        if let Some(error) = failed {
            return Err(error.into());
        }
        let inventory = builder.finish(load)?;
        for page in inventory.fresh.iter().chain([&inventory.root]) {
            self.core.deliver(&ObjectName::Inventory(page.name), page.bytes.clone())?;
        }
        Ok(inventory)
    }
}

/// Splits packs into groups whose tables fit into one index object.
fn group_by_size(index: &ChunkIndex, packs: &[PackNumber]) -> Result<Vec<Vec<PackNumber>>, VaultError> {
    let mut groups: Vec<Vec<PackNumber>> = Vec::new();
    let mut bytes = 0;
    for pack in packs {
        let more = entry_bytes(index, *pack)?;
        if groups.is_empty() || bytes + more > OBJECT_TARGET_BYTES {
            groups.push(Vec::new());
            bytes = 0;
        }
        bytes += more;
        if let Some(group) = groups.last_mut() {
            group.push(*pack);
        }
    }
    Ok(groups)
}
