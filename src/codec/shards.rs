//! Reed-Solomon over GF(2^16) across shards of equal length: any as many shards as there were give all of them back.
//!
//! The code is Leopard's, as the crate reed-solomon-simd 3 implements it; it is part of the format (FORMAT.md, "Parity").

use std::collections::BTreeMap;

use reed_solomon_simd::{ReedSolomonDecoder, ReedSolomonEncoder};

use super::CodecError;

fn failed(error: reed_solomon_simd::Error) -> CodecError {
    CodecError::Parity(error.to_string())
}

/// Shards of which each can stand in for any lost one.
pub struct Protector {
    encoder: ReedSolomonEncoder,
}

impl Protector {
    /// For `originals` shards of `shard_bytes` bytes, which is even.
    ///
    /// # Errors
    /// When the numbers are beyond what the code can do: 2^16 shards in all.
    pub fn new(originals: usize, recoveries: usize, shard_bytes: usize) -> Result<Self, CodecError> {
        Ok(Self { encoder: ReedSolomonEncoder::new(originals, recoveries, shard_bytes).map_err(failed)? })
    }

    /// The next shard.
    ///
    /// # Errors
    /// When it is one too many, or of another length.
    pub fn add(&mut self, shard: &[u8]) -> Result<(), CodecError> {
        self.encoder.add_original_shard(shard).map_err(failed)
    }

    /// The recovery shards.
    ///
    /// # Errors
    /// When shards are missing.
    pub fn finish(mut self) -> Result<Vec<Vec<u8>>, CodecError> {
        let made = self.encoder.encode().map_err(failed)?;
        Ok(made.recovery_iter().map(<[u8]>::to_vec).collect())
    }
}

/// Brings lost shards back.
pub struct Mender {
    decoder: ReedSolomonDecoder,
    had: usize,
    originals: usize,
}

impl Mender {
    /// As [`Protector::new`].
    ///
    /// # Errors
    /// As there.
    pub fn new(originals: usize, recoveries: usize, shard_bytes: usize) -> Result<Self, CodecError> {
        let decoder = ReedSolomonDecoder::new(originals, recoveries, shard_bytes).map_err(failed)?;
        Ok(Self { decoder, had: 0, originals })
    }

    /// A shard that is right.
    ///
    /// # Errors
    /// When there is no such shard, or it came already.
    pub fn add(&mut self, index: usize, shard: &[u8]) -> Result<(), CodecError> {
        self.had += 1;
        self.decoder.add_original_shard(index, shard).map_err(failed)
    }

    /// A recovery shard that is right.
    ///
    /// # Errors
    /// As [`add`](Self::add).
    pub fn add_recovery(&mut self, index: usize, shard: &[u8]) -> Result<(), CodecError> {
        self.decoder.add_recovery_shard(index, shard).map_err(failed)
    }

    /// The shards that were not added, by index.
    ///
    /// # Errors
    /// When there are fewer shards than the originals were.
    pub fn finish(mut self) -> Result<BTreeMap<usize, Vec<u8>>, CodecError> {
        if self.had == self.originals {
            return Ok(BTreeMap::new());
        }
        let restored = self.decoder.decode().map_err(failed)?;
        Ok(restored.restored_original_iter().map(|(index, shard)| (index, shard.to_vec())).collect())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn shards(count: usize) -> Vec<Vec<u8>> {
        (0..count).map(|n| (0..64).map(|i| (n * 31 + i * i) as u8).collect()).collect()
    }

    fn protect(originals: &[Vec<u8>], recoveries: usize) -> Vec<Vec<u8>> {
        let mut protector = Protector::new(originals.len(), recoveries, 64).unwrap_or_else(|e| panic!("{e}"));
        originals.iter().for_each(|shard| protector.add(shard).unwrap_or_else(|e| panic!("{e}")));
        protector.finish().unwrap_or_else(|e| panic!("{e}"))
    }

    #[test]
    fn as_many_lost_shards_come_back_as_there_are_recovery_shards_and_no_more() {
        let originals = shards(1000);
        let recoveries = protect(&originals, 50);
        for lost in [0, 1, 50, 51] {
            let mut mender = Mender::new(1000, 50, 64).unwrap_or_else(|e| panic!("{e}"));
            for (index, shard) in originals.iter().enumerate().filter(|(index, _)| index % 19 != 0 || index / 19 >= lost) {
                mender.add(index, shard).unwrap_or_else(|e| panic!("{e}"));
            }
            for (index, shard) in recoveries.iter().enumerate() {
                mender.add_recovery(index, shard).unwrap_or_else(|e| panic!("{e}"));
            }
            match mender.finish() {
                Ok(restored) => {
                    assert!(lost <= 50);
                    assert_eq!(restored.len(), lost);
                    assert!(restored.iter().all(|(index, shard)| originals[*index] == *shard));
                }
                Err(_) => assert_eq!(lost, 51),
            }
        }
    }

    /// The bytes on drives depend on it: another code under the same name would mend nothing.
    #[test]
    fn the_code_is_the_one_of_the_format() {
        let made = protect(&shards(10), 3);
        let first: Vec<&[u8]> = made.iter().map(|shard| &shard[..8]).collect();
        let expected: [&[u8]; 3] = [
            &[249, 170, 188, 180, 237, 144, 146, 209],
            &[163, 146, 66, 244, 210, 208, 40, 132],
            &[8, 39, 253, 210, 37, 230, 114, 122],
        ];
        assert_eq!(first, expected);
    }
}
