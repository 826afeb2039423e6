//! zstd frames of the format: made with declared size and checksum, opened into exactly as many bytes as a table promises.
//!
//! Ordinary frames stand alone. Patch frames have the plaintext of other blocks as prefix, as `zstd --patch-from` does; they
//! are made with long-distance matching, without which only the tail of a long prefix would be found.

use zstd::zstd_safe::{self, CCtx, CParameter, DCtx, DParameter, ResetDirective};

use crate::format::FormatError;
use crate::format::frame::declared_size;
use crate::model::limits::{BLOCK_RAW_MAX_BYTES, PATCH_PREFIX_MAX_BYTES, ZSTD_WINDOW_LOG_MAX};

/// A prefix that begins so would be taken for a dictionary.
const DICTIONARY_MAGIC: [u8; 4] = [0x37, 0xA4, 0x30, 0xEC];

/// The level that is never gone below by itself: one lower stores a tenth more of a dump.
pub const LEVEL_MIN: i32 = 3;
/// Frames of at least so much content are made at the lowest level with a larger table and longer matches than zstd would
/// take: dumps, which most nights consist of, become a percent and a half smaller in the same time, program text a percent and
/// executables two percent larger.
const LARGE_MIN_BYTES: usize = 1024 * 1024;
/// Places that the table for long matches holds, as a power of two.
const LARGE_HASH_LOG: u32 = 18;
/// Bytes of the shortest match that is looked for.
const LARGE_MIN_MATCH: u32 = 6;
/// The level that is never passed by itself: what lies above costs more time than any line is worth.
const LEVEL_MAX: i32 = 9;
/// Above this share of waiting the next pack is compressed harder.
const HARDER_FROM_PERCENT: u64 = 75;
/// Below this share of waiting the next pack is compressed less hard.
const EASIER_BELOW_PERCENT: u64 = 40;

/// How hard to compress.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Compression {
    /// This zstd level.
    Level(i32),
    /// From level 3 upwards, as far as the stores are slower than the processor.
    Auto,
}

impl Compression {
    /// The level to begin with.
    #[must_use]
    pub const fn first_level(self) -> i32 {
        match self {
            Self::Level(level) => level,
            Self::Auto => LEVEL_MIN,
        }
    }

    /// The level after a pack, of whose time so many percent were spent waiting for the stores. A level more makes hardly two
    /// percent less to send and may take half as long again: only a processor that stands still for most of the time can
    /// give that, and never so much that it becomes what is waited for.
    #[must_use]
    pub fn next_level(self, level: i32, waited_percent: u64) -> i32 {
        match self {
            Self::Level(level) => level,
            Self::Auto if waited_percent >= HARDER_FROM_PERCENT => (level + 1).min(LEVEL_MAX),
            Self::Auto if waited_percent < EASIER_BELOW_PERCENT => (level - 1).max(LEVEL_MIN),
            Self::Auto => level,
        }
    }
}

/// Why a block could not be compressed or decompressed.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum CodecError {
    /// The frame is outside the format.
    #[error(transparent)]
    Format(#[from] FormatError),
    /// zstd refused it: damaged content, wrong base, wrong checksum.
    #[error("zstd: {0}")]
    Zstd(String),
    /// Shards that do not fit together, or too few of them.
    #[error("parity: {0}")]
    Parity(String),
}

fn zstd_error(code: usize) -> CodecError {
    CodecError::Zstd(zstd_safe::get_error_name(code).to_owned())
}

/// Kinds of frames, as far as they need parameters of their own.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Kind {
    Small,
    Large,
    Patch,
}

/// Makes frames; one for each worker, since it holds zstd's tables.
pub struct Compressor {
    context: CCtx<'static>,
    scratch: Vec<u8>,
    prepared: Option<(i32, Kind)>,
}

impl Default for Compressor {
    fn default() -> Self {
        Self::new()
    }
}

impl Compressor {
    /// A compressor without a level yet.
    #[must_use]
    pub fn new() -> Self {
        Self { context: CCtx::create(), scratch: Vec::new(), prepared: None }
    }

    /// Compresses `plain` into one frame of its own.
    ///
    /// # Errors
    /// When zstd fails, which means that memory ran out.
    pub fn compress(&mut self, plain: &[u8], level: i32) -> Result<Vec<u8>, CodecError> {
        let kind = if plain.len() < LARGE_MIN_BYTES { Kind::Small } else { Kind::Large };
        if self.prepared != Some((level, kind)) {
            self.context.reset(ResetDirective::SessionAndParameters).map_err(zstd_error)?;
            set_parameters(&mut self.context, level, kind)?;
            self.prepared = Some((level, kind));
        }
        self.scratch.clear();
        self.scratch.reserve(zstd_safe::compress_bound(plain.len()));
        self.context.compress2(&mut self.scratch, plain).map_err(zstd_error)?;
        Ok(self.scratch.as_slice().to_vec())
    }

    /// Compresses `plain` into a patch frame against `prefix`.
    ///
    /// # Errors
    /// When the prefix is over its limit or begins like a dictionary, or zstd fails.
    pub fn compress_patch(&mut self, plain: &[u8], prefix: &[u8], level: i32) -> Result<Vec<u8>, CodecError> {
        check_prefix(prefix)?;
        // The prefix counts for the next frame only. The context outlives the borrow, so a context of its own is made from
        // the same parameters: `ref_prefix` ties prefix and context together.
        let mut context = CCtx::create();
        set_parameters(&mut context, level, Kind::Patch)?;
        context.ref_prefix(prefix).map_err(zstd_error)?;
        let bound = zstd_safe::compress_bound(plain.len());
        self.scratch.clear();
        self.scratch.reserve(bound);
        context.compress2(&mut self.scratch, plain).map_err(zstd_error)?;
        Ok(self.scratch.as_slice().to_vec())
    }
}

fn set_parameters(context: &mut CCtx<'_>, level: i32, kind: Kind) -> Result<(), CodecError> {
    let mut set = |parameter| context.set_parameter(parameter).map(drop).map_err(zstd_error);
    set(CParameter::CompressionLevel(level))?;
    set(CParameter::ContentSizeFlag(true))?;
    set(CParameter::ChecksumFlag(true))?;
    set(CParameter::DictIdFlag(false))?;
    match kind {
        Kind::Large if level == LEVEL_MIN => {
            set(CParameter::HashLog(LARGE_HASH_LOG))?;
            set(CParameter::MinMatch(LARGE_MIN_MATCH))?;
        }
        Kind::Small | Kind::Large => {}
        Kind::Patch => {
            set(CParameter::EnableLongDistanceMatching(true))?;
            set(CParameter::WindowLog(ZSTD_WINDOW_LOG_MAX))?;
        }
    }
    Ok(())
}

fn check_prefix(prefix: &[u8]) -> Result<(), CodecError> {
    if prefix.len() as u64 > PATCH_PREFIX_MAX_BYTES {
        return Err(FormatError::Limit { what: "patch prefix", limit: PATCH_PREFIX_MAX_BYTES }.into());
    }
    if prefix.starts_with(&DICTIONARY_MAGIC) {
        return Err(FormatError::invalid("patch prefix", "begins like a zstd dictionary").into());
    }
    Ok(())
}

/// Whether a base block with this plaintext may stand first in a prefix.
#[must_use]
pub fn may_start_prefix(plain: &[u8]) -> bool {
    !plain.starts_with(&DICTIONARY_MAGIC)
}

/// Opens frames; one for each worker.
pub struct Decompressor {
    context: DCtx<'static>,
}

impl Default for Decompressor {
    fn default() -> Self {
        Self::new()
    }
}

impl Decompressor {
    /// A decompressor that takes windows up to 8 MiB.
    #[must_use]
    pub fn new() -> Self {
        let mut context = DCtx::create();
        // The bound is within what the library knows, so this cannot fail; the header is checked before each frame anyway.
        let _ = context.set_parameter(DParameter::WindowLogMax(ZSTD_WINDOW_LOG_MAX));
        Self { context }
    }

    /// Opens the one ordinary frame that `frame` is, which must hold exactly `raw_bytes`.
    ///
    /// # Errors
    /// When the frame breaks the format's rules or zstd finds it damaged. Nothing is decoded before its header was checked.
    pub fn decompress(&mut self, frame: &[u8], raw_bytes: u64) -> Result<Vec<u8>, CodecError> {
        check_frame(frame, raw_bytes, BLOCK_RAW_MAX_BYTES)?;
        run(&mut self.context, frame, raw_bytes)
    }

    /// As [`decompress`](Self::decompress), with a bound of the caller's own.
    ///
    /// # Errors
    /// As [`decompress`](Self::decompress).
    pub fn decompress_up_to(&mut self, frame: &[u8], limit: u64) -> Result<Vec<u8>, CodecError> {
        let raw_bytes = declared_size(frame)?;
        check_frame(frame, raw_bytes, limit)?;
        run(&mut self.context, frame, raw_bytes)
    }

    /// Opens a patch frame against the plaintext of its bases.
    ///
    /// # Errors
    /// As [`decompress`](Self::decompress); a wrong prefix shows in the frame's checksum.
    pub fn decompress_patch(&mut self, frame: &[u8], raw_bytes: u64, prefix: &[u8]) -> Result<Vec<u8>, CodecError> {
        check_prefix(prefix)?;
        check_frame(frame, raw_bytes, BLOCK_RAW_MAX_BYTES)?;
        let mut context = DCtx::create();
        context.set_parameter(DParameter::WindowLogMax(ZSTD_WINDOW_LOG_MAX)).map_err(zstd_error)?;
        context.ref_prefix(prefix).map_err(zstd_error)?;
        run(&mut context, frame, raw_bytes)
    }
}

fn check_frame(frame: &[u8], raw_bytes: u64, limit: u64) -> Result<(), CodecError> {
    let declared = declared_size(frame)?;
    if declared != raw_bytes {
        let why = format!("declares {declared} bytes where {raw_bytes} belong");
        return Err(FormatError::invalid("zstd frame", why).into());
    }
    if raw_bytes > limit {
        return Err(FormatError::Limit { what: "zstd frame", limit }.into());
    }
    if zstd_safe::find_frame_compressed_size(frame).map_err(zstd_error)? != frame.len() {
        return Err(FormatError::Length { what: "zstd frame" }.into());
    }
    Ok(())
}

fn run(context: &mut DCtx<'_>, frame: &[u8], raw_bytes: u64) -> Result<Vec<u8>, CodecError> {
    let room = usize::try_from(raw_bytes).map_err(|_| FormatError::Length { what: "zstd frame" })?;
    let mut plain = Vec::with_capacity(room);
    let written = context.decompress(&mut plain, frame).map_err(zstd_error)?;
    if written as u64 == raw_bytes { Ok(plain) } else { Err(FormatError::Length { what: "zstd frame" }.into()) }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn text(records: usize, changed: usize) -> Vec<u8> {
        let record = |n: usize| {
            let status = if n % 50 == changed { "amended" } else { "valid" };
            format!("{{\"id\":{n},\"name\":\"person-{:08x}\",\"status\":\"{status}\"}}\n", n.wrapping_mul(0x9E37_79B9))
        };
        (0..records).map(record).collect::<String>().into_bytes()
    }

    #[test]
    fn the_level_follows_the_line_within_bounds() {
        let mut level = Compression::Auto.first_level();
        for waited in [90; 20] {
            level = Compression::Auto.next_level(level, waited);
        }
        assert_eq!(level, LEVEL_MAX);
        assert_eq!(Compression::Auto.next_level(7, 60), 7, "neither the line nor the processor is waited for too long");
        for waited in [10; 20] {
            level = Compression::Auto.next_level(level, waited);
        }
        assert_eq!(level, LEVEL_MIN);
        assert_eq!(Compression::Level(1).next_level(1, 100), 1);
    }

    #[test]
    fn frames_open_into_what_they_were_made_of() {
        let plain = text(30_000, 60);
        assert!(plain.len() > LARGE_MIN_BYTES);
        for level in [1, 3, 9] {
            let frame = Compressor::new().compress(&plain, level).unwrap_or_else(|e| panic!("{e}"));
            assert!(frame.len() < plain.len() / 2);
            assert_eq!(Decompressor::new().decompress(&frame, plain.len() as u64), Ok(plain.clone()));
        }
    }

    #[test]
    fn incompressible_content_is_a_frame_too() {
        let mut plain = vec![0; 1 << 20];
        getrandom::fill(&mut plain).unwrap_or_else(|e| panic!("{e}"));
        let frame = Compressor::new().compress(&plain, 3).unwrap_or_else(|e| panic!("{e}"));
        assert!(frame.len() < plain.len() + 100);
        assert_eq!(Decompressor::new().decompress(&frame, plain.len() as u64), Ok(plain));
    }

    #[test]
    fn a_patch_is_as_small_as_the_change_and_needs_its_base() {
        let (base, plain) = (text(16_000, 60), text(16_000, 7));
        let patch = Compressor::new().compress_patch(&plain, &base, 3).unwrap_or_else(|e| panic!("{e}"));
        let full = Compressor::new().compress(&plain, 3).unwrap_or_else(|e| panic!("{e}"));
        assert!(patch.len() * 5 < full.len(), "{} against {}", patch.len(), full.len());
        let raw = plain.len() as u64;
        assert_eq!(Decompressor::new().decompress_patch(&patch, raw, &base), Ok(plain));
        assert!(Decompressor::new().decompress_patch(&patch, raw, &text(16_000, 8)).is_err());
        assert!(Decompressor::new().decompress(&patch, raw).is_err());
    }

    #[test]
    fn a_base_that_looks_like_a_dictionary_is_refused() {
        let base = [&DICTIONARY_MAGIC[..], &[0; 100]].concat();
        assert!(Compressor::new().compress_patch(b"x", &base, 3).is_err());
        assert!(!may_start_prefix(&base));
    }

    #[test]
    fn damage_appended_bytes_and_bombs_are_refused() {
        let plain = text(1000, 60);
        let raw = plain.len() as u64;
        let frame = Compressor::new().compress(&plain, 3).unwrap_or_else(|e| panic!("{e}"));
        let mut opener = Decompressor::new();
        assert!(opener.decompress(&frame, raw - 1).is_err());
        assert!(opener.decompress(&[&frame[..], &frame[..]].concat(), raw).is_err());
        for position in 0..frame.len() {
            let mut damaged = frame.clone();
            damaged[position] ^= 0x10;
            // A few bits of a frame have no meaning; what must never come out is other content.
            assert!(opener.decompress(&damaged, raw).map_or(true, |opened| opened == plain), "byte {position}");
        }
        let bomb = Compressor::new().compress(&vec![0; 9 << 20], 3).unwrap_or_else(|e| panic!("{e}"));
        assert!(matches!(opener.decompress(&bomb, 9 << 20), Err(CodecError::Format(FormatError::Limit { .. }))));
        assert!(opener.decompress(&frame, raw).is_ok(), "a refusal leaves the decompressor usable");
    }
}
