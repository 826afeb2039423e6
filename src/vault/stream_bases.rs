//! Large streams against what the last push left of them: which region a chunk belongs to, what its block is built on, and
//! what the next push will find.
//!
//! A stream is a row of *regions* of about one block. A region's first block is ordinary; the nights after lay patches on it,
//! each on the deepest block that is not too deep. When the patches on a block have cost about as much as the block itself,
//! it and what lies on it are given up, and the region's content is written again one layer lower: so patches stay small, and
//! what a restore must read stays bounded.

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;

use crate::format::table::PackKind;
use crate::model::ids::ChunkId;
use crate::model::limits::BLOCK_TARGET_BYTES;
use crate::model::name::Sealed;
use crate::state::bases::{Anchor, BaseCache, Layer, Reference, Region, StreamBases};
use crate::vault::VaultError;
use crate::vault::packer::{BlockSerial, block_target};
use crate::vault::patch_plan::{BlockPlan, Patch};
use crate::vault::snapshot_writer::{Absent, ChunkRef, SnapshotWriter};

/// Smaller streams are not looked after.
pub const STREAM_MIN_BYTES: u64 = 1024 * 1024;
/// Chunks of a stream that is looked after: 64 GiB with chunks of 64 KiB.
const ANCHORS_MAX: usize = 1 << 20;
/// Old chunks ahead of the present place that are looked for.
const WINDOW_CHUNKS: usize = 2048;
/// An old chunk further away than this counts only together with its successor.
const JUMP_BYTES: u64 = 32 * 1024 * 1024;
/// More new content than this in one region makes further regions.
const REGION_BLOCK_MAX: usize = 2 * BLOCK_TARGET_BYTES;
/// Layers of a region that later patches may be built on.
const LAYERS_MAX: usize = 4;

/// One stream while it is captured.
pub struct BasedStream {
    bases: StreamBases,
    old: Vec<OldRegion>,
    alignment: Alignment,
    /// Where the next chunk begins.
    at: u64,
    anchors: Vec<Anchor>,
    /// What the chunks since the last change of region lie in.
    current: Option<Current>,
    tonight: Vec<Tonight>,
    too_long: bool,
}

/// A region of the last push, as far as its blocks may still be used.
struct OldRegion {
    region: Region,
    /// Blocks that were given up: what lies in them is stored again.
    absent: Absent,
    /// Whether this push has a block for it.
    used: bool,
}

/// A region of this push.
struct Tonight {
    start: u64,
    end: u64,
    stagger: u8,
    /// Kept from before.
    layers: Vec<Layer>,
    /// The block of this push: it lies on `layers`, or is the region's first.
    block: Option<(BlockSerial, Arc<BlockPlan>)>,
}

struct Current {
    /// The region of the last push that it continues.
    old: Option<usize>,
    /// Its place in `tonight`.
    place: usize,
    plan: Arc<BlockPlan>,
    block_bytes: usize,
}

/// Streams that were captured, until their push is committed.
#[derive(Default)]
pub struct CapturedStreams(Vec<(StreamBases, Reference)>);

impl BasedStream {
    /// Begins a stream with this keyed name.
    ///
    /// # Errors
    /// When the index cannot be read.
    pub fn begin(cache: &BaseCache, id: &ChunkId, writer: &SnapshotWriter<'_>) -> Result<Self, VaultError> {
        let mut bases = cache.stream(id);
        let (mut old, mut anchors) = (Vec::new(), Vec::new());
        if let Some(reference) = &mut bases.old {
            anchors = std::mem::take(&mut reference.anchors);
            for region in std::mem::take(&mut reference.regions) {
                old.push(usable(region, writer)?);
            }
        }
        let alignment = Alignment::new(anchors);
        let (anchors, tonight) = (Vec::new(), Vec::new());
        Ok(Self { bases, old, alignment, at: 0, anchors, current: None, tonight, too_long: false })
    }

    /// Stores the next chunk.
    ///
    /// # Errors
    /// When packing or sending fails.
    pub fn chunk(&mut self, id: ChunkId, bytes: &[u8], writer: &mut SnapshotWriter<'_>) -> Result<ChunkRef, VaultError> {
        let (start, end) = (self.at, self.at + bytes.len() as u64);
        self.at = end;
        if self.anchors.len() >= ANCHORS_MAX {
            self.too_long = true;
            return writer.store(PackKind::Data, id, bytes);
        }
        let anchor = Anchor { id: first_bytes(&id), bytes: u32::try_from(bytes.len()).map_err(VaultError::internal)? };
        self.anchors.push(anchor);
        let before = self.alignment.follow(anchor, start);
        self.turn_to(before.and_then(|at| self.region_at(at)), start, bytes.len());
        let Some(current) = &mut self.current else { return writer.store(PackKind::Data, id, bytes) };
        let none = Absent::new();
        let absent = current.old.map_or(&none, |old| &self.old[old].absent);
        let (place, added) = writer.store_planned(PackKind::Data, id, bytes, Some(&current.plan), absent)?;
        let region = &mut self.tonight[current.place];
        region.end = end;
        if let (ChunkRef::New(serial), true) = (place, added) {
            current.block_bytes += bytes.len();
            region.block = Some((serial, Arc::clone(&current.plan)));
        }
        Ok(place)
    }

    /// The stream is read from its beginning again.
    pub fn again(&mut self) {
        self.alignment.restart();
        (self.at, self.current) = (0, None);
        self.anchors.clear();
        self.tonight.clear();
    }

    /// Ends the stream.
    pub fn finish(self, done: &mut Vec<FinishedStream>) {
        if !self.too_long {
            done.push(FinishedStream { bases: self.bases, regions: self.tonight, anchors: self.anchors });
        }
    }

    /// The region of the last push that a place in the old stream lies in; never one before the present one.
    fn region_at(&self, at: u64) -> Option<usize> {
        let after = self.old.partition_point(|old| old.region.start <= at);
        let place = after.checked_sub(1)?;
        let region = &self.old[place].region;
        (at < region.start + region.bytes).then_some(place)
    }

    /// Sees to it that the next chunk goes where it belongs.
    fn turn_to(&mut self, wanted: Option<usize>, start: u64, bytes: usize) {
        if let Some(current) = &self.current {
            let full = match current.old {
                Some(_) => current.block_bytes > 0 && current.block_bytes + bytes > REGION_BLOCK_MAX,
                None => current.block_bytes >= block_target(self.tonight.len() as BlockSerial),
            };
            let stays = match (current.old, wanted) {
                (Some(old), Some(wanted)) => wanted <= old,
                (None, wanted) => wanted.is_none_or(|wanted| self.old[wanted].used),
                (Some(_), None) => false,
            };
            if stays && !full {
                return;
            }
        }
        // A region takes one block a push; what else belongs there begins a region of its own.
        let old = wanted.filter(|wanted| !self.old[*wanted].used);
        let (layers, stagger, patch) = match old {
            Some(old) => {
                self.old[old].used = true;
                let region = &self.old[old].region;
                (region.layers.clone(), region.stagger, Patch::on(&region.layers, region.bytes))
            }
            None => (Vec::new(), self.draw(start), None),
        };
        let plan = Arc::new(BlockPlan { patch, frames: Arc::clone(&self.bases.frames) });
        self.current = Some(Current { old, place: self.tonight.len(), plan, block_bytes: 0 });
        self.tonight.push(Tonight { start, end: start, stagger, layers, block: None });
    }

    /// 6 to 14, different from region to region and from stream to stream.
    fn draw(&self, start: u64) -> u8 {
        let seed = self.anchors.last().map_or(0, |anchor| anchor.id) ^ start;
        6 + (seed.wrapping_mul(0x9E37_79B9_7F4A_7C15) >> 60) as u8 * 9 / 16
    }
}

/// Leaves out what may no longer be built on: blocks whose packs are gone, and blocks whose patches have cost enough.
fn usable(mut region: Region, writer: &SnapshotWriter<'_>) -> Result<OldRegion, VaultError> {
    let packs: Vec<_> = region.layers.iter().map(|layer| writer.live_pack(&layer.pack)).collect();
    let alive = packs.iter().take_while(|pack| pack.is_some()).count();
    let spent = region.layers.iter().position(|layer| {
        let limit = u64::from(layer.stored_bytes) * u64::from(region.stagger) / 10;
        layer.spent >= limit
    });
    let kept = alive.min(spent.unwrap_or(alive));
    let mut absent = Absent::new();
    for (layer, pack) in region.layers.iter().zip(&packs).skip(kept) {
        if let Some(pack) = pack {
            absent.push((*pack, writer.ordinals_of(*pack, layer.block)?));
        }
    }
    region.layers.truncate(kept);
    Ok(OldRegion { region, absent, used: false })
}

/// A stream that was read to its end, whose blocks are not all placed yet.
pub struct FinishedStream {
    bases: StreamBases,
    regions: Vec<Tonight>,
    anchors: Vec<Anchor>,
}

impl CapturedStreams {
    /// Works out what the next push will find, now that every block has its place.
    ///
    /// # Errors
    /// When the index cannot be read.
    pub fn new(finished: Vec<FinishedStream>, writer: &SnapshotWriter<'_>) -> Result<Self, VaultError> {
        let mut streams = Vec::with_capacity(finished.len());
        for stream in finished {
            let mut regions = Vec::with_capacity(stream.regions.len());
            for region in stream.regions {
                regions.extend(next_region(region, &stream.bases, writer)?);
            }
            streams.push((stream.bases, Reference { regions, anchors: stream.anchors, ..Reference::default() }));
        }
        Ok(Self(streams))
    }

    /// How many bytes, before compression, of which packs these streams are built on: the blocks below the uppermost of each
    /// region, which is needed for what it holds.
    #[must_use]
    pub fn base_bytes(&self) -> BTreeMap<Sealed, u64> {
        let mut bytes = BTreeMap::new();
        for region in self.0.iter().flat_map(|(_, reference)| &reference.regions) {
            for layer in region.layers.iter().rev().skip(1) {
                *bytes.entry(layer.pack).or_insert(0) += u64::from(layer.raw_bytes);
            }
        }
        bytes
    }

    /// Puts the references in place: the push is committed.
    ///
    /// # Errors
    /// When the cache's directory cannot be read.
    pub fn save(self, cache: &BaseCache) -> Result<(), VaultError> {
        for (bases, reference) in self.0 {
            cache.save(&bases, reference);
        }
        Ok(cache.trim()?)
    }
}

/// A region as it is after this push; none when nothing of it can be built on.
fn next_region(mut region: Tonight, bases: &StreamBases, writer: &SnapshotWriter<'_>) -> Result<Option<Region>, VaultError> {
    if let Some((serial, plan)) = &region.block
        && let Some(frame) = bases.frames.frame(*serial)
        && let Some((pack, block)) = writer.place_of(*serial)?
    {
        let patch = plan.patch.as_ref().filter(|_| frame.depth > 0);
        match (patch, region.layers.last_mut()) {
            (Some(_), Some(base)) => base.spent += u64::from(frame.stored_bytes),
            // It became an ordinary block: the region begins anew with it.
            _ => region.layers.clear(),
        }
        if let Some(frame_at) = frame.at.filter(|_| region.layers.len() < LAYERS_MAX) {
            region.layers.push(Layer {
                pack,
                block,
                raw_bytes: frame.raw_bytes,
                stored_bytes: frame.stored_bytes,
                spent: 0,
                frame_at,
                hash: frame.hash,
                bases: patch.map_or(0, |patch| patch.prefix.iter().fold(0, |bits, layer| bits | 1 << layer)),
            });
        }
    }
    let Tonight { start, end, stagger, layers, .. } = region;
    Ok((!layers.is_empty()).then_some(Region { start, bytes: end - start, stagger, layers }))
}

fn first_bytes(id: &ChunkId) -> u64 {
    let mut bytes = [0; 8];
    bytes.copy_from_slice(&id.0[..8]);
    u64::from_le_bytes(bytes)
}

/// Follows the old stream while the new one is read: where did the chunk at this place stand before?
struct Alignment {
    old: Vec<Anchor>,
    /// The next old chunk, and where it begins.
    next: usize,
    next_at: u64,
    /// Old chunks within the window, by their first bytes: place and beginning.
    window: HashMap<u64, (usize, u64)>,
    window_end: usize,
    window_end_at: u64,
    /// Old place minus new place, since the last chunk that was found.
    shift: i128,
    /// The successor of a chunk that was found too far away to be believed.
    doubtful: Option<usize>,
    ends_at: u64,
}

impl Alignment {
    fn new(old: Vec<Anchor>) -> Self {
        let ends_at = old.iter().map(|anchor| u64::from(anchor.bytes)).sum();
        Self {
            old,
            next: 0,
            next_at: 0,
            window: HashMap::new(),
            window_end: 0,
            window_end_at: 0,
            shift: 0,
            doubtful: None,
            ends_at,
        }
    }

    fn restart(&mut self) {
        *self = Self::new(std::mem::take(&mut self.old));
    }

    /// Where the chunk at `start` stood in the old stream, as far as one can tell; none past its end.
    fn follow(&mut self, chunk: Anchor, start: u64) -> Option<u64> {
        let expected = i128::from(start) + self.shift;
        // What lies far behind is not waited for any more.
        while let Some(old) = self.old.get(self.next)
            && i128::from(self.next_at + u64::from(old.bytes) + JUMP_BYTES) < expected
        {
            self.advance_to(self.next + 1);
        }
        self.widen();
        if let Some((place, at)) = self.window.get(&chunk.id).copied()
            && self.old[place].bytes == chunk.bytes
            && place >= self.next
        {
            let near = (i128::from(at) - expected).unsigned_abs() <= u128::from(JUMP_BYTES);
            if near || self.doubtful == Some(place) {
                self.shift = i128::from(at) - i128::from(start);
                self.advance_to(place + 1);
                self.doubtful = None;
                return Some(at);
            }
            self.doubtful = Some(place + 1);
        }
        u64::try_from(expected).ok().filter(|at| *at < self.ends_at)
    }

    fn widen(&mut self) {
        while self.window_end < self.old.len() && self.window_end < self.next + WINDOW_CHUNKS {
            let anchor = self.old[self.window_end];
            self.window.entry(anchor.id).or_insert((self.window_end, self.window_end_at));
            self.window_end += 1;
            self.window_end_at += u64::from(anchor.bytes);
        }
    }

    fn advance_to(&mut self, place: usize) {
        while self.next < place {
            let anchor = self.old[self.next];
            if self.window.get(&anchor.id).is_some_and(|(found, _)| *found == self.next) {
                self.window.remove(&anchor.id);
            }
            self.next += 1;
            self.next_at += u64::from(anchor.bytes);
        }
    }
}
