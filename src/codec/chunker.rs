//! Where a stream is cut: MinCDC (crate mincdc 0.1, `MinCdcHash4` with default parameters), pinned by golden vectors.
//!
//! Cut points follow content, so that an insertion moves only the cuts around it. They are part of the format in this
//! sense alone: other cuts would find nothing of what the vault already holds.

use mincdc::{Cdc, MinCdcHash4};

use crate::format::manifest::Chunker;
use crate::model::limits::CHUNK_MAX_BYTES;

/// What a manifest calls this algorithm.
pub const ALGORITHM: &str = "mincdc-hash4";

/// Finds the next cut in a stream that is handed over piece by piece.
#[derive(Debug, Clone, Copy)]
pub struct Cutter {
    min_bytes: usize,
    max_bytes: usize,
    cdc: MinCdcHash4,
}

impl Cutter {
    /// A cutter for chunks of about `average_bytes`: half of that at least, one and a half times at most.
    ///
    /// # Panics
    /// When the average is under 1 KiB or its chunks could pass the format's limit: both are configuration mistakes that
    /// the configuration refuses.
    #[must_use]
    pub fn with_average(average_bytes: usize) -> Self {
        let max_bytes = average_bytes + average_bytes / 2;
        assert!(average_bytes >= 1024 && max_bytes as u64 <= CHUNK_MAX_BYTES, "average chunk size out of range");
        Self { min_bytes: average_bytes / 2, max_bytes, cdc: MinCdcHash4::new() }
    }

    /// The longest chunk: as much of the stream as a cut needs to see.
    #[must_use]
    pub const fn max_bytes(&self) -> usize {
        self.max_bytes
    }

    /// As it stands in a manifest.
    #[must_use]
    pub fn describe(&self) -> Chunker {
        let bytes = |n: usize| u32::try_from(n).unwrap_or(u32::MAX);
        Chunker { algorithm: ALGORITHM.to_owned(), min_bytes: bytes(self.min_bytes), max_bytes: bytes(self.max_bytes) }
    }

    /// The length of the chunk that `bytes` begin with; none when more of the stream must be seen first. With `at_end` the
    /// stream ends with `bytes`, and only an empty rest gives none.
    #[must_use]
    pub fn next_cut(&self, bytes: &[u8], at_end: bool) -> Option<usize> {
        if bytes.is_empty() || (!at_end && bytes.len() < self.max_bytes) {
            return None;
        }
        if bytes.len() <= self.min_bytes {
            return Some(bytes.len());
        }
        let start = self.min_bytes.saturating_sub(self.cdc.window_size());
        let window = &bytes[start..self.max_bytes.min(bytes.len())];
        Some(start + self.cdc.best_splitpoint(window))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    /// Bytes that need no file: xorshift64* from a seed.
    fn noise(seed: u64, length: usize) -> Vec<u8> {
        let mut state = seed;
        (0..length)
            .map(|_| {
                state ^= state >> 12;
                state ^= state << 25;
                state ^= state >> 27;
                (state.wrapping_mul(0x2545_F491_4F6C_DD1D) >> 56) as u8
            })
            .collect()
    }

    fn cuts(cutter: Cutter, bytes: &[u8], step: usize) -> Vec<usize> {
        let (mut lengths, mut start, mut seen) = (Vec::new(), 0, 0);
        loop {
            let at_end = seen == bytes.len();
            match cutter.next_cut(&bytes[start..seen], at_end) {
                Some(length) => {
                    lengths.push(length);
                    start += length;
                }
                None if at_end => return lengths,
                None => seen = (seen + step).min(bytes.len()),
            }
        }
    }

    /// These lengths are format: should a new version of the crate change them, every vault would be sent again.
    #[test]
    fn golden_cuts() {
        let bytes = noise(0xFA2_4EE9, 400_000);
        assert_eq!(cuts(Cutter::with_average(65_536), &bytes, 1 << 20), GOLDEN);
        let zeros = vec![0; 100_000];
        assert_eq!(cuts(Cutter::with_average(65_536), &zeros, 1 << 20), [32_768, 32_768, 32_768, 1_696]);
    }

    const GOLDEN: [usize; 7] = [50_435, 94_585, 41_790, 77_463, 64_900, 47_681, 23_146];

    proptest! {
        #[test]
        fn cuts_do_not_depend_on_how_the_stream_arrives(seed in 1_u64.., length in 0..300_000_usize, step in 1..70_000_usize) {
            let bytes = noise(seed, length);
            let cutter = Cutter::with_average(16 * 1024);
            let whole = cuts(cutter, &bytes, usize::MAX / 2);
            prop_assert_eq!(&whole, &cuts(cutter, &bytes, step));
            prop_assert_eq!(whole.iter().sum::<usize>(), length);
            if let Some((last, rest)) = whole.split_last() {
                prop_assert!(rest.iter().all(|n| (8 * 1024..=24 * 1024).contains(n)));
                prop_assert!(*last <= 24 * 1024);
            }
        }
    }
}
