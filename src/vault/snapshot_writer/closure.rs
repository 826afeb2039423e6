//! A patch is worth nothing without what it is built on: whatever needs or lists it takes its bases along, and so on down.

use std::collections::BTreeSet;

use super::Core;
use crate::format::table::PackKind;
use crate::model::name::Sealed;
use crate::state::index::PackNumber;
use crate::vault::VaultError;
use crate::vault::inventory::Use;

impl Core<'_> {
    /// Counts as needed every pack that a needed patch is built on, and so on down.
    ///
    /// # Errors
    /// When the index cannot be read or knows a base no more.
    pub fn need_bases(&mut self) -> Result<(), VaultError> {
        let mut open: Vec<PackNumber> = self.needed_packs().collect();
        while let Some(number) = open.pop() {
            if self.index.pack(number)?.kind != PackKind::Patch {
                continue;
            }
            for base in &self.index.table(number)?.base_packs {
                let base = self.index.number_of(base).filter(|base| self.live[*base as usize]);
                let base =
                    base.ok_or_else(|| self.index.contradiction("a pack is in use whose patch bases are not there"))?;
                if self.needed[base as usize] == 0 {
                    self.needed[base as usize] = 1;
                    open.push(base);
                }
            }
        }
        Ok(())
    }

    /// The last look at the snapshot's packs before anything names them. Whoever restores knows these index objects and
    /// nothing else: each needed pack must stand in one of them, and so must what it is built on. What the objects list is
    /// taken from the local index, which took it from the objects as they were read or written and keeps it under a checksum;
    /// to read them again would cost as much each night as the whole index weighs.
    ///
    /// # Errors
    /// When something is left out.
    pub fn check_closed(&self, objects: &BTreeSet<Sealed>) -> Result<(), VaultError> {
        for number in self.needed_packs() {
            if !self.index.object_of(number)?.is_some_and(|object| objects.contains(&object)) {
                return Err(self.index.contradiction("a needed pack is in no index object of the snapshot").into());
            }
            if self.index.pack(number)?.kind != PackKind::Patch {
                continue;
            }
            let needed = |base: &Sealed| self.index.number_of(base).is_some_and(|base| self.needed[base as usize] > 0);
            if !self.index.table(number)?.base_packs.iter().all(needed) {
                return Err(self.index.contradiction("a needed patch is built on a pack that is not needed").into());
            }
        }
        Ok(())
    }

    /// What a pack of an earlier page is to this snapshot. A patch that is listed brings its bases with it, so they must be
    /// known and there.
    pub fn use_of(&self, pack: &Sealed) -> Use {
        let Some(number) = self.index.number_of(pack) else { return Use::Unfit };
        if self.needed[number as usize] > 0 {
            return Use::Needed;
        }
        match self.index.pack(number) {
            Ok(info) if info.kind != PackKind::Patch || self.live[number as usize] => Use::Spare,
            _ => Use::Unfit,
        }
    }

    /// The packs, themselves not listed, that listed patches are built on, and so on down.
    pub fn bases_of_listed(&self, listed: &[bool]) -> Result<BTreeSet<PackNumber>, VaultError> {
        let mut open: Vec<PackNumber> = (0..).zip(listed).filter(|(_, listed)| **listed).map(|(number, _)| number).collect();
        let mut bases = BTreeSet::new();
        while let Some(number) = open.pop() {
            if self.index.pack(number)?.kind != PackKind::Patch {
                continue;
            }
            for base in &self.index.table(number)?.base_packs {
                let base = self.index.number_of(base);
                let base = base.ok_or_else(|| self.index.contradiction("a page lists a patch whose bases are not known"))?;
                if !listed[base as usize] && bases.insert(base) {
                    open.push(base);
                }
            }
        }
        Ok(bases)
    }
}
