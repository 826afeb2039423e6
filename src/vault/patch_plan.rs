//! How one block of a large stream is made: as an ordinary block that is kept for later, or as a patch on earlier blocks.

use std::sync::Arc;

use crate::codec::{CodecError, Compressor, Decompressor};
use crate::crypto::hash::hash;
use crate::model::limits::PATCH_PREFIX_MAX_BYTES;
use crate::model::name::Sealed;
use crate::state::bases::{FrameLog, Layer};
use crate::vault::packer::BlockSerial;

/// A patch must save at least three tenths of what an ordinary block costs: it makes a restore read its bases.
const WORTH_TENTHS: u64 = 7;
/// Content that compresses to more than three quarters does not change in small places; its blocks are not kept.
const KEEP_MAX_QUARTERS: u64 = 3;
/// Deeper blocks are no bases any more.
const KEEP_MAX_DEPTH: u8 = 3;

/// A block of one region of a stream; two blocks never share one.
pub struct BlockPlan {
    /// What the block is a patch on.
    pub patch: Option<Patch>,
    /// Where its frame is kept.
    pub frames: Arc<FrameLog>,
}

/// The blocks below a patch.
pub struct Patch {
    /// All blocks of the region that may be needed, the depth of each being its place.
    pub layers: Vec<Layer>,
    /// Those whose plaintext is the prefix, ascending; the last is the deepest.
    pub prefix: Vec<u8>,
}

/// A frame, and what it became.
pub struct Framed {
    /// The zstd frame.
    pub frame: Vec<u8>,
    /// Whether it is a patch.
    pub patch: bool,
}

impl Patch {
    /// The patch on the deepest of `layers`, and on those below it down to one that holds most of the region. None when there
    /// is none to build on.
    #[must_use]
    pub fn on(layers: &[Layer], region_bytes: u64) -> Option<Self> {
        let mut prefix = Vec::new();
        let mut bytes = 0;
        for (depth, layer) in layers.iter().enumerate().rev() {
            bytes += u64::from(layer.raw_bytes);
            if bytes > PATCH_PREFIX_MAX_BYTES {
                break;
            }
            prefix.push(u8::try_from(depth).ok()?);
            if u64::from(layer.raw_bytes) * 10 >= region_bytes * 9 {
                break;
            }
        }
        prefix.reverse();
        (!prefix.is_empty()).then(|| Self { layers: layers.to_vec(), prefix })
    }

    /// The depth of the block.
    #[must_use]
    pub fn depth(&self) -> u8 {
        self.prefix.last().map_or(0, |deepest| deepest + 1)
    }

    /// Where its bases lie.
    pub fn places(&self) -> impl Iterator<Item = (Sealed, u32)> {
        self.prefix.iter().map(|layer| &self.layers[usize::from(*layer)]).map(|layer| (layer.pack, layer.block))
    }

    /// What an ordinary block of `raw_bytes` would cost here, judged by the lowest layer.
    fn ordinary_bytes(&self, raw_bytes: u64) -> u64 {
        let lowest = &self.layers[0];
        raw_bytes * u64::from(lowest.stored_bytes) / u64::from(lowest.raw_bytes).max(1)
    }

    /// The plaintext of the bases, one after another.
    fn prefix_bytes(&self, frames: &FrameLog, opener: &mut Decompressor) -> Result<Vec<u8>, String> {
        let mut opened: Vec<Option<Vec<u8>>> = vec![None; self.layers.len()];
        let mut prefix = Vec::new();
        for layer in &self.prefix {
            self.open(usize::from(*layer), &mut opened, frames, opener)?;
        }
        for layer in &self.prefix {
            prefix.extend_from_slice(opened[usize::from(*layer)].as_deref().unwrap_or_default());
        }
        Ok(prefix)
    }

    fn open(
        &self,
        number: usize,
        opened: &mut Vec<Option<Vec<u8>>>,
        frames: &FrameLog,
        opener: &mut Decompressor,
    ) -> Result<(), String> {
        if opened[number].is_some() {
            return Ok(());
        }
        let layer = &self.layers[number];
        let frame = frames.read(layer.frame_at, layer.stored_bytes as usize).map_err(|e| e.to_string())?;
        // The vault holds this very frame; a patch on anything else could never be opened.
        if hash(&frame) != layer.hash {
            return Err("a kept block is not what was stored".into());
        }
        let mut prefix = Vec::new();
        for below in (0..number).filter(|below| layer.bases & (1 << below) != 0) {
            self.open(below, opened, frames, opener)?;
            prefix.extend_from_slice(opened[below].as_deref().unwrap_or_default());
        }
        let raw = u64::from(layer.raw_bytes);
        let plain =
            if prefix.is_empty() { opener.decompress(&frame, raw) } else { opener.decompress_patch(&frame, raw, &prefix) };
        opened[number] = Some(plain.map_err(|e| e.to_string())?);
        Ok(())
    }
}

impl BlockPlan {
    /// Makes the frame of a block: a patch where that is planned, possible and worth it.
    ///
    /// # Errors
    /// When zstd fails on an ordinary frame.
    pub fn frame(
        &self,
        serial: BlockSerial,
        plain: &[u8],
        level: i32,
        compressor: &mut Compressor,
        opener: &mut Decompressor,
    ) -> Result<Framed, CodecError> {
        let patched = self.patch.as_ref().and_then(|patch| match self.patched(patch, plain, level, compressor, opener) {
            Ok(frame) => frame,
            Err(why) => {
                tracing::debug!(why, "an ordinary block instead of a patch");
                None
            }
        });
        let depth = patched.as_ref().map_or(0, |_| self.patch.as_ref().map_or(0, Patch::depth));
        let patch = patched.is_some();
        let frame = match patched {
            Some(frame) => frame,
            None => compressor.compress(plain, level)?,
        };
        let compresses = frame.len() as u64 * 4 <= plain.len() as u64 * KEEP_MAX_QUARTERS;
        let keep = compresses && depth <= KEEP_MAX_DEPTH;
        let raw_bytes = u32::try_from(plain.len()).unwrap_or(u32::MAX);
        self.frames.add(serial, &frame, raw_bytes, depth, keep);
        Ok(Framed { frame, patch })
    }

    /// The patch frame, opened again and compared; none when it is not worth it.
    fn patched(
        &self,
        patch: &Patch,
        plain: &[u8],
        level: i32,
        compressor: &mut Compressor,
        opener: &mut Decompressor,
    ) -> Result<Option<Vec<u8>>, String> {
        let prefix = patch.prefix_bytes(&self.frames, opener)?;
        let frame = compressor.compress_patch(plain, &prefix, level).map_err(|e| e.to_string())?;
        if frame.len() as u64 * 10 > patch.ordinary_bytes(plain.len() as u64) * WORTH_TENTHS {
            return Ok(None);
        }
        let again = opener.decompress_patch(&frame, plain.len() as u64, &prefix).map_err(|e| e.to_string())?;
        if again == plain { Ok(Some(frame)) } else { Err("zstd made a patch that opens into something else".into()) }
    }
}
