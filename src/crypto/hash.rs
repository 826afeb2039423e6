//! BLAKE3 in its uses: naming stored bytes, naming content with a key, checking whole files, and finding rot in local ones.

use std::io::{self, Read};

use crate::model::ids::{ChunkId, ObjectHash};

/// The BLAKE3 of stored bytes.
#[must_use]
pub fn hash(bytes: &[u8]) -> ObjectHash {
    ObjectHash(*blake3::hash(bytes).as_bytes())
}

/// Length of a [`checksum`].
pub const CHECKSUM_BYTES: usize = 8;

/// The first bytes of the BLAKE3 of local bytes: tells what rotted from what was written, and is no defence against anybody
/// who may write there.
#[must_use]
pub fn checksum(bytes: &[u8]) -> [u8; CHECKSUM_BYTES] {
    let mut sum = [0; CHECKSUM_BYTES];
    sum.copy_from_slice(&blake3::hash(bytes).as_bytes()[..CHECKSUM_BYTES]);
    sum
}

/// Hashes a stream as it passes.
#[derive(Debug, Clone, Default)]
pub struct StreamHasher(blake3::Hasher);

impl StreamHasher {
    /// Starts a hash.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// Takes the next bytes.
    pub fn update(&mut self, bytes: &[u8]) {
        self.0.update(bytes);
    }

    /// Takes `count` zeros: a hole.
    pub fn update_zeros(&mut self, mut count: u64) {
        const ZEROS: &[u8; 64 * 1024] = &[0; 64 * 1024];
        while count > 0 {
            let step = count.min(ZEROS.len() as u64);
            self.0.update(&ZEROS[..step as usize]);
            count -= step;
        }
    }

    /// The hash of all that was taken.
    #[must_use]
    pub fn finish(&self) -> ObjectHash {
        ObjectHash(*self.0.finalize().as_bytes())
    }
}

/// Hashes all that a reader gives.
///
/// # Errors
/// When reading fails.
pub fn hash_reader(reader: &mut impl Read) -> io::Result<ObjectHash> {
    let mut hasher = StreamHasher::new();
    let mut buffer = vec![0; 256 * 1024];
    loop {
        match reader.read(&mut buffer) {
            Ok(0) => return Ok(hasher.finish()),
            Ok(n) => hasher.update(&buffer[..n]),
            Err(e) if e.kind() == io::ErrorKind::Interrupted => {}
            Err(e) => return Err(e),
        }
    }
}

/// The key that names chunks: without it an id confirms nothing.
#[derive(Clone)]
pub struct ChunkKey([u8; 32]);

impl ChunkKey {
    pub(super) const fn new(key: [u8; 32]) -> Self {
        Self(key)
    }

    /// The id of a chunk: the first 24 bytes of its keyed BLAKE3.
    #[must_use]
    pub fn id(&self, chunk: &[u8]) -> ChunkId {
        let hash = blake3::keyed_hash(&self.0, chunk);
        let mut id = [0; ChunkId::BYTES];
        id.copy_from_slice(&hash.as_bytes()[..ChunkId::BYTES]);
        ChunkId(id)
    }
}

impl std::fmt::Debug for ChunkKey {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("ChunkKey(secret)")
    }
}

impl Drop for ChunkKey {
    fn drop(&mut self) {
        zeroize::Zeroize::zeroize(&mut self.0);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn zeros_hash_like_zeros() {
        let mut holes = StreamHasher::new();
        holes.update(b"x");
        holes.update_zeros(200_000);
        let mut bytes = vec![0; 200_001];
        bytes[0] = b'x';
        assert_eq!(holes.finish(), hash(&bytes));
        assert_eq!(hash_reader(&mut bytes.as_slice()).ok(), Some(hash(&bytes)));
    }
}
