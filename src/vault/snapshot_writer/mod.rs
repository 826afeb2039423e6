//! Writes one snapshot: known chunks are referred to, new ones are packed, sealed and sent; then index, manifest, inventory.
//!
//! It counts what every pack is needed for, so that the inventory lists each needed object and nothing is deduplicated
//! against a hole: a chunk counts as known only when its pack is present in every copy that this push writes to.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::ops::Range;
use std::sync::Arc;

use crate::crypto::hash::ChunkKey;
use crate::crypto::seal::Recipient;
use crate::format::table::{PackKind, TableBlock};
use crate::model::ids::ChunkId;
use crate::model::name::{ObjectName, Sealed};
use crate::state::index::{ChunkIndex, PackNumber};
use crate::state::journal::{Entry, Journal};
use crate::vault::VaultError;
use crate::vault::courier::Courier;
use crate::vault::list_stream::ChunkSink;
use crate::vault::packer::{BlockSerial, PackSink, Packer, PackerConfig, SealedPack};
use crate::vault::patch_plan::BlockPlan;
use crate::vault::thin::is_thin;

mod closure;
mod objects;

/// Chunks of some packs that count as absent although they are there: by pack, the ordinals of each stretch of them.
pub type Absent = Vec<(PackNumber, Range<u32>)>;

/// Where a chunk of an entry lies.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ChunkRef {
    /// In a pack of an earlier push.
    Known(PackNumber),
    /// In a block of this push, whose pack is not known yet.
    New(BlockSerial),
}

/// What a snapshot is written with.
pub struct WriterConfig {
    /// How packs are made.
    pub packer: PackerConfig,
    /// The key that names chunks.
    pub key: ChunkKey,
    /// Who can open index objects: the epoch and the agent's index identity.
    pub index_recipients: Vec<Recipient>,
}

/// What a snapshot's writing has come to.
#[derive(Debug, Clone, Copy, Default)]
pub struct WriterStats {
    /// Chunks of content and catalogue.
    pub chunks: u64,
    /// Of them, those that the vault did not hold.
    pub new_chunks: u64,
    /// Bytes of new chunks before compression.
    pub new_raw_bytes: u64,
    /// Of these bytes, those that the vault does hold, in packs that may not be referred to.
    pub moved_raw_bytes: u64,
    /// Packs made.
    pub new_packs: u64,
    /// Stored bytes of all objects made.
    pub new_bytes: u64,
}

/// Writes a snapshot.
pub struct SnapshotWriter<'a> {
    packer: Packer,
    core: Core<'a>,
    config: WriterConfig,
}

struct Core<'a> {
    index: &'a mut ChunkIndex,
    journal: &'a mut Journal,
    courier: &'a Courier,
    /// By pack number: whether the pack is present in every copy and nothing speaks against it.
    live: Vec<bool>,
    /// By pack number: whether nothing new may refer to the pack or build on it, although what lies on it already stands.
    behind: Vec<bool>,
    /// By pack number: bytes, before compression, that this snapshot needs of it.
    needed: Vec<u64>,
    /// New chunks whose pack is not sealed yet.
    pending: HashMap<ChunkId, BlockSerial>,
    /// By block serial: the pack.
    placed: Vec<PackNumber>,
    /// By block serial: which block of that pack.
    block_numbers: Vec<u32>,
    /// Packs of a push that died: no snapshot refers to them yet.
    left: BTreeSet<PackNumber>,
    stats: WriterStats,
}

/// Stands in `placed` for a block whose pack is not sealed yet.
const NOT_PLACED: PackNumber = PackNumber::MAX;

impl<'a> SnapshotWriter<'a> {
    /// Begins a snapshot. `live` says for each pack of the index whether it may be referred to.
    #[must_use]
    pub fn start(
        config: WriterConfig,
        index: &'a mut ChunkIndex,
        live: Vec<bool>,
        journal: &'a mut Journal,
        courier: &'a Courier,
    ) -> Self {
        let packer = Packer::start(&config.packer, courier.budget());
        let needed = vec![0; live.len()];
        let (pending, placed, block_numbers, stats) = (HashMap::new(), Vec::new(), Vec::new(), WriterStats::default());
        let (left, behind) = (BTreeSet::new(), Vec::new());
        let core = Core { index, journal, courier, live, behind, needed, pending, placed, block_numbers, left, stats };
        Self { packer, core, config }
    }

    /// Notes which packs a push that died had sent.
    pub fn take_up(&mut self, journal: &[Entry]) {
        let number = |entry: &Entry| match entry {
            Entry::Pack(pack) => self.core.index.number_of(&pack.pack),
            Entry::Index(_) => None,
        };
        self.core.left = journal.iter().filter_map(number).collect();
    }

    /// Names packs of which so little is alive that this push leaves them behind.
    pub fn leave_behind(&mut self, thin: &BTreeSet<Sealed>) {
        let core = &mut self.core;
        core.behind = vec![false; core.live.len()];
        for number in thin.iter().filter_map(|pack| core.index.number_of(pack)) {
            if let Some(behind) = core.behind.get_mut(number as usize) {
                *behind = true;
            }
        }
    }

    /// Whether a push that died left this pack.
    #[must_use]
    pub fn was_left(&self, pack: PackNumber) -> bool {
        self.core.left.contains(&pack)
    }

    /// The key that names chunks.
    #[must_use]
    pub const fn key(&self) -> &ChunkKey {
        &self.config.key
    }

    /// The index that known chunks are found in.
    #[must_use]
    pub fn index_id(&self) -> String {
        self.core.index.id().to_owned()
    }

    /// What was written so far.
    #[must_use]
    pub const fn stats(&self) -> WriterStats {
        self.core.stats
    }

    /// Stores a chunk unless a live pack holds it.
    ///
    /// # Errors
    /// When packing or sending fails.
    pub fn store(&mut self, kind: PackKind, id: ChunkId, bytes: &[u8]) -> Result<ChunkRef, VaultError> {
        self.store_planned(kind, id, bytes, None, &Absent::new()).map(|(place, _)| place)
    }

    /// As [`store`](Self::store), into the block of this plan; says also whether the chunk went into it. What lies in a
    /// place that is `absent` is not referred to.
    ///
    /// # Errors
    /// As [`store`](Self::store).
    pub fn store_planned(
        &mut self,
        kind: PackKind,
        id: ChunkId,
        bytes: &[u8],
        plan: Option<&Arc<BlockPlan>>,
        absent: &Absent,
    ) -> Result<(ChunkRef, bool), VaultError> {
        let core = &mut self.core;
        core.stats.chunks += 1;
        if let Some(serial) = core.pending.get(&id) {
            return Ok((ChunkRef::New(*serial), false));
        }
        let (live, behind) = (&core.live, &core.behind);
        if let Some(place) = core.index.find(&id, |pack| may_refer(live, behind, pack))?
            && !absent.iter().any(|(pack, ordinals)| *pack == place.pack && ordinals.contains(&place.ordinal))
        {
            core.needed[place.pack as usize] += bytes.len() as u64;
            return Ok((ChunkRef::Known(place.pack), false));
        }
        if core.index.find(&id, |_| true)?.is_some() {
            core.stats.moved_raw_bytes += bytes.len() as u64;
        }
        core.stats.new_chunks += 1;
        core.stats.new_raw_bytes += bytes.len() as u64;
        let serial = self.packer.add(kind, id, bytes, plan, &mut self.core)?;
        // The pack may have been sealed within the call; then the index knows the chunk.
        if self.core.placed.get(serial as usize).is_none_or(|pack| *pack == NOT_PLACED) {
            self.core.pending.insert(id, serial);
        }
        Ok((ChunkRef::New(serial), true))
    }

    /// Notes that an unchanged entry needs `bytes` of a pack.
    ///
    /// # Errors
    /// When the pack may not be referred to, which the caller should have looked at.
    pub fn reuse(&mut self, pack: PackNumber, bytes: u64) -> Result<(), VaultError> {
        if !may_refer(&self.core.live, &self.core.behind, pack) {
            return Err(VaultError::internal(format!("pack {pack} may not be referred to")));
        }
        self.core.needed[pack as usize] += bytes;
        Ok(())
    }

    /// By pack number: whether it may be referred to.
    #[must_use]
    pub fn referable(&self) -> Vec<bool> {
        let core = &self.core;
        (0_u32..).take(core.live.len()).map(|number| may_refer(&core.live, &core.behind, number)).collect()
    }

    /// Seals and sends all that is open. After this every block serial has its pack, and every pack that is needed, those
    /// of patch bases included, is counted.
    ///
    /// # Errors
    /// When packing or sending fails.
    pub fn finish_packs(&mut self) -> Result<(), VaultError> {
        self.packer.finish(&mut self.core)?;
        self.core.need_bases()?;
        debug_assert!(self.core.pending.is_empty());
        Ok(())
    }

    /// By block serial, the pack that each block of this push lies in.
    #[must_use]
    pub fn placed(&self) -> &[PackNumber] {
        &self.core.placed
    }

    /// Packs of which this snapshot needs so little that the next one should leave them behind. `base_bytes` says how much of
    /// which packs its streams are built on. Streams that were not read are not among them: a pack that only such may be
    /// built on is not left behind. One that was left behind before stays so.
    ///
    /// # Errors
    /// When the local index cannot be read.
    pub fn thin_packs(&self, base_bytes: &BTreeMap<Sealed, u64>) -> Result<BTreeSet<Sealed>, VaultError> {
        let core = &self.core;
        let (mut thin, mut bases, mut left) = (BTreeSet::new(), BTreeSet::new(), BTreeSet::new());
        for number in core.needed_packs() {
            let (info, table) = (core.index.pack(number)?, core.index.table(number)?);
            bases.extend(table.base_packs.iter().filter(|base| !base_bytes.contains_key(base)).copied());
            let all = table.blocks.iter().map(|block| u64::from(block.raw_bytes)).sum();
            let live = core.needed[number as usize] + base_bytes.get(&info.pack).copied().unwrap_or(0);
            if is_thin(live, all) {
                let was_left = core.behind.get(number as usize).copied().unwrap_or(false);
                if was_left { &mut left } else { &mut thin }.insert(info.pack);
            }
        }
        left.extend(thin.difference(&bases).copied());
        Ok(left)
    }

    /// Where a block of this push lies, once its pack is sealed.
    ///
    /// # Errors
    /// When the index cannot be read.
    pub fn place_of(&self, serial: BlockSerial) -> Result<Option<(Sealed, u32)>, VaultError> {
        let place = serial as usize;
        match (self.core.placed.get(place), self.core.block_numbers.get(place)) {
            (Some(pack), Some(block)) if *pack != NOT_PLACED => Ok(Some((self.core.index.pack(*pack)?.pack, *block))),
            _ => Ok(None),
        }
    }

    /// What a block of this push lies among, and what `look` says of it, once its pack is sealed.
    ///
    /// # Errors
    /// When the index cannot be read.
    pub fn look_at<T>(
        &self,
        serial: BlockSerial,
        look: impl Fn(&TableBlock) -> T,
    ) -> Result<Option<(PackKind, T)>, VaultError> {
        let place = serial as usize;
        let (Some(pack), Some(block)) = (self.core.placed.get(place), self.core.block_numbers.get(place)) else {
            return Ok(None);
        };
        if *pack == NOT_PLACED {
            return Ok(None);
        }
        let kind = self.core.index.pack(*pack)?.kind;
        Ok(self.core.index.table(*pack)?.blocks.get(*block as usize).map(|block| (kind, look(block))))
    }

    /// The bytes of a pack's blocks before compression, and of those among them that `counts` accepts.
    ///
    /// # Errors
    /// When the index cannot be read.
    pub fn sum_blocks(&self, pack: PackNumber, counts: impl Fn(&TableBlock) -> bool) -> Result<(u64, u64), VaultError> {
        let table = self.core.index.table(pack)?;
        let bytes = |block: &TableBlock| u64::from(block.raw_bytes);
        let counted = table.blocks.iter().filter(|block| counts(block)).map(bytes).sum();
        Ok((table.blocks.iter().map(bytes).sum(), counted))
    }

    /// The number of a pack that may be referred to.
    #[must_use]
    pub fn live_pack(&self, pack: &Sealed) -> Option<PackNumber> {
        let number = self.core.index.number_of(pack)?;
        may_refer(&self.core.live, &self.core.behind, number).then_some(number)
    }

    /// The chunks of one block, as ordinals within its pack.
    ///
    /// # Errors
    /// When the index cannot be read.
    pub fn ordinals_of(&self, pack: PackNumber, block: u32) -> Result<Range<u32>, VaultError> {
        let table = self.core.index.table(pack)?;
        let counts = |blocks: &[TableBlock]| blocks.iter().map(|block| block.chunks.len()).sum::<usize>();
        let first = counts(table.blocks.get(..block as usize).unwrap_or_default());
        let count = table.blocks.get(block as usize).map_or(0, |block| block.chunks.len());
        let number = |n: usize| u32::try_from(n).map_err(VaultError::internal);
        Ok(number(first)?..number(first + count)?)
    }
}

/// Whether something new may refer to a pack. What this push makes is never behind.
fn may_refer(live: &[bool], behind: &[bool], pack: PackNumber) -> bool {
    let says = |flags: &[bool]| flags.get(pack as usize).copied().unwrap_or(false);
    says(live) && !says(behind)
}

impl ChunkSink for SnapshotWriter<'_> {
    fn put(&mut self, kind: PackKind, bytes: &[u8]) -> Result<ChunkId, VaultError> {
        let id = self.config.key.id(bytes);
        self.store(kind, id, bytes)?;
        Ok(id)
    }
}

impl Core<'_> {
    fn needed_packs(&self) -> impl Iterator<Item = PackNumber> + use<'_> {
        (0_u32..).zip(&self.needed).filter(|(_, bytes)| **bytes > 0).map(|(number, _)| number)
    }

    fn deliver(&mut self, name: &ObjectName, bytes: Vec<u8>) -> Result<(), VaultError> {
        self.stats.new_bytes += bytes.len() as u64;
        self.courier.send(name, &Arc::new(bytes), None)?;
        Ok(())
    }
}

impl PackSink for Core<'_> {
    fn take(&mut self, pack: SealedPack) -> Result<(), VaultError> {
        let SealedPack { indexed, serials, bytes, hold } = pack;
        self.stats.new_packs += 1;
        self.stats.new_bytes += bytes.len() as u64;
        let number = self.index.add_pack(&indexed)?;
        let place = number as usize;
        if self.live.len() <= place {
            self.live.resize(place + 1, false);
            self.needed.resize(place + 1, 0);
        }
        self.live[place] = true;
        for ((serial, block), block_number) in serials.iter().zip(&indexed.table.blocks).zip(0_u32..) {
            let slot = *serial as usize;
            if self.placed.len() <= slot {
                self.placed.resize(slot + 1, NOT_PLACED);
                self.block_numbers.resize(slot + 1, 0);
            }
            (self.placed[slot], self.block_numbers[slot]) = (number, block_number);
            self.needed[place] += u64::from(block.raw_bytes);
            for chunk in &block.chunks {
                self.pending.remove(&chunk.id);
            }
        }
        let name = ObjectName::Pack(indexed.pack);
        self.courier.send(&name, &bytes, Some(&hold))?;
        self.journal.append(&Entry::Pack(indexed))?;
        Ok(())
    }
}
