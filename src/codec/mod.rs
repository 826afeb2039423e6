//! Turning streams into chunks and chunks into frames, and back within bounds.

pub mod chunker;
pub mod compress;
pub mod shards;

pub use chunker::Cutter;
pub use compress::{CodecError, Compression, Compressor, Decompressor};
