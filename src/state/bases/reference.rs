//! The reference of one stream: its regions, what each of them is made of, and its chunks in order.

use crate::crypto::hash::hash;
use crate::format::FormatError;
use crate::format::cursor::Cursor;
use crate::model::ids::ObjectHash;
use crate::model::name::Sealed;

const WHAT: &str = "base reference";
const MAGIC: &[u8; 8] = b"FKBASES2";

/// One block that a region is made of.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Layer {
    /// The pack that it lies in.
    pub pack: Sealed,
    /// Its number in that pack.
    pub block: u32,
    /// Length of its plaintext.
    pub raw_bytes: u32,
    /// Length of its frame.
    pub stored_bytes: u32,
    /// Stored bytes of all patches that were made right on it.
    pub spent: u64,
    /// Where its frame lies in the frame file.
    pub frame_at: u64,
    /// BLAKE3 of its frame.
    pub hash: ObjectHash,
    /// The layers below whose plaintext is its prefix: bit n for layer n.
    pub bases: u8,
}

/// A stretch of the stream, with the blocks that hold it: an ordinary one, and patches one on another.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Region {
    /// Where it began in the stream of the last push.
    pub start: u64,
    /// How long it was.
    pub bytes: u64,
    /// A layer is given up when the patches on it have cost this many tenths of itself; it differs from region to region, so
    /// that not all are rewritten in one night.
    pub stagger: u8,
    /// The blocks; the depth of each is its place.
    pub layers: Vec<Layer>,
}

/// A chunk of the stream: enough to find it again.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Anchor {
    /// First bytes of its id.
    pub id: u64,
    /// Its length.
    pub bytes: u32,
}

/// What the last push left of a stream.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Reference {
    /// Number of the frame file.
    pub generation: u32,
    /// How much of the frame file counts.
    pub frames_bytes: u64,
    /// In the order of the stream.
    pub regions: Vec<Region>,
    /// Every chunk in order.
    pub anchors: Vec<Anchor>,
}

impl Reference {
    /// All blocks.
    pub fn layers(&self) -> impl Iterator<Item = &Layer> {
        self.regions.iter().flat_map(|region| &region.layers)
    }

    /// As bytes, with a hash over all of them.
    #[must_use]
    pub fn encode(&self) -> Vec<u8> {
        let mut bytes = Vec::with_capacity(32 + self.regions.len() * 160 + self.anchors.len() * 12);
        bytes.extend_from_slice(MAGIC);
        bytes.extend_from_slice(&self.generation.to_le_bytes());
        bytes.extend_from_slice(&self.frames_bytes.to_le_bytes());
        bytes.extend_from_slice(&(self.regions.len() as u64).to_le_bytes());
        for region in &self.regions {
            bytes.extend_from_slice(&region.start.to_le_bytes());
            bytes.extend_from_slice(&region.bytes.to_le_bytes());
            // At most four layers are ever kept.
            bytes.extend_from_slice(&[region.stagger, region.layers.len() as u8]);
            for layer in &region.layers {
                bytes.extend_from_slice(&layer.pack.hash.0);
                bytes.extend_from_slice(&layer.pack.bytes.to_le_bytes());
                bytes.extend_from_slice(&layer.block.to_le_bytes());
                bytes.extend_from_slice(&layer.raw_bytes.to_le_bytes());
                bytes.extend_from_slice(&layer.stored_bytes.to_le_bytes());
                bytes.extend_from_slice(&layer.spent.to_le_bytes());
                bytes.extend_from_slice(&layer.frame_at.to_le_bytes());
                bytes.extend_from_slice(&layer.hash.0);
                bytes.push(layer.bases);
            }
        }
        bytes.extend_from_slice(&(self.anchors.len() as u64).to_le_bytes());
        for anchor in &self.anchors {
            bytes.extend_from_slice(&anchor.id.to_le_bytes());
            bytes.extend_from_slice(&anchor.bytes.to_le_bytes());
        }
        let sum = hash(&bytes);
        bytes.extend_from_slice(&sum.0);
        bytes
    }

    /// The inverse.
    ///
    /// # Errors
    /// When the bytes are anything but what [`encode`](Self::encode) gave.
    pub fn decode(bytes: &[u8]) -> Result<Self, FormatError> {
        let (body, sum) = bytes.split_last_chunk::<32>().ok_or(FormatError::Length { what: WHAT })?;
        if hash(body).0 != *sum {
            return Err(FormatError::invalid(WHAT, "damaged"));
        }
        let mut cursor = Cursor::new(body, WHAT);
        if cursor.array()? != *MAGIC {
            return Err(FormatError::invalid(WHAT, "of another version"));
        }
        let (generation, frames_bytes, count) = (cursor.u32()?, cursor.u64()?, cursor.u64()?);
        let mut regions = Vec::new();
        for _ in 0..count {
            let (start, bytes, stagger, layers) = (cursor.u64()?, cursor.u64()?, cursor.u8()?, cursor.u8()?);
            let layers = (0..layers).map(|_| decode_layer(&mut cursor)).collect::<Result<_, _>>()?;
            regions.push(Region { start, bytes, stagger, layers });
        }
        let count = cursor.u64()?;
        let mut anchors = Vec::new();
        for _ in 0..count {
            anchors.push(Anchor { id: cursor.u64()?, bytes: cursor.u32()? });
        }
        cursor.finish()?;
        Ok(Self { generation, frames_bytes, regions, anchors })
    }
}

fn decode_layer(cursor: &mut Cursor<'_>) -> Result<Layer, FormatError> {
    Ok(Layer {
        pack: Sealed { hash: ObjectHash(cursor.array()?), bytes: cursor.u64()? },
        block: cursor.u32()?,
        raw_bytes: cursor.u32()?,
        stored_bytes: cursor.u32()?,
        spent: cursor.u64()?,
        frame_at: cursor.u64()?,
        hash: ObjectHash(cursor.array()?),
        bases: cursor.u8()?,
    })
}
