//! zstd frames as the format allows them (RFC 8878): declared size, checksum, small window, no dictionary.
//!
//! A frame is looked at before it is decoded, so that a hostile one costs nothing. Skippable frames carry tables and
//! padding, so that stock `zstd -d` passes over both.

use crate::format::FormatError;
use crate::format::cursor::Cursor;
use crate::model::limits::ZSTD_WINDOW_LOG_MAX;

const WHAT: &str = "zstd frame";
/// A zstd frame's magic number.
const ZSTD_MAGIC: u32 = 0xFD2F_B528;
/// Magic of the skippable frame that holds a pack's table.
pub const TABLE_MAGIC: u32 = 0x184D_2A50;
/// Magic of the skippable frame that is padding.
pub const PADDING_MAGIC: u32 = 0x184D_2A5F;
/// Magic number and length of a skippable frame.
pub const SKIPPABLE_HEADER_BYTES: usize = 8;
/// The longest frame header.
pub const FRAME_HEADER_MAX_BYTES: usize = 18;

/// Checks the header of the frame that `bytes` begin with and gives the content size that it declares.
///
/// # Errors
/// When the frame has no content size or checksum, names a dictionary, or wants a window over 8 MiB.
pub fn declared_size(bytes: &[u8]) -> Result<u64, FormatError> {
    let mut cursor = Cursor::new(bytes, WHAT);
    if cursor.u32()? != ZSTD_MAGIC {
        return Err(FormatError::invalid(WHAT, "not a zstd frame"));
    }
    let descriptor = cursor.u8()?;
    let single_segment = descriptor & 0x20 != 0;
    if descriptor & 0x18 != 0 {
        return Err(FormatError::invalid(WHAT, "a bit is set that has no meaning"));
    }
    if descriptor & 0x04 == 0 {
        return Err(FormatError::invalid(WHAT, "no checksum"));
    }
    if descriptor & 0x03 != 0 {
        return Err(FormatError::invalid(WHAT, "names a dictionary"));
    }
    let window = if single_segment {
        None
    } else {
        let byte = u64::from(cursor.u8()?);
        let base = 1_u64 << (10 + (byte >> 3));
        Some(base + base / 8 * (byte & 7))
    };
    let size = match (descriptor >> 6, single_segment) {
        (0, true) => u64::from(cursor.u8()?),
        (0, false) => return Err(FormatError::invalid(WHAT, "no content size")),
        (1, _) => u64::from(cursor.u16()?) + 256,
        (2, _) => u64::from(cursor.u32()?),
        _ => cursor.u64()?,
    };
    // A single segment's window is its content size, which the caller holds against the block limit.
    if window.is_some_and(|bytes| bytes > 1 << ZSTD_WINDOW_LOG_MAX) {
        return Err(FormatError::Limit { what: "zstd window", limit: 1 << ZSTD_WINDOW_LOG_MAX });
    }
    Ok(size)
}

/// The eight bytes before the payload of a skippable frame.
///
/// # Panics
/// Never: payloads are bounded far below 4 GiB by their own limits.
#[must_use]
pub fn skippable_header(magic: u32, payload_bytes: usize) -> [u8; SKIPPABLE_HEADER_BYTES] {
    let mut header = [0; SKIPPABLE_HEADER_BYTES];
    header[..4].copy_from_slice(&magic.to_le_bytes());
    let length = u32::try_from(payload_bytes).unwrap_or(u32::MAX);
    debug_assert_eq!(length as usize, payload_bytes);
    header[4..].copy_from_slice(&length.to_le_bytes());
    header
}

/// Reads the header of a skippable frame with `magic` and gives the length of its payload.
///
/// # Errors
/// When `bytes` begin with anything else.
pub fn skippable_length(bytes: &[u8], magic: u32) -> Result<usize, FormatError> {
    let mut cursor = Cursor::new(bytes, "skippable frame");
    if cursor.u32()? != magic {
        return Err(FormatError::invalid("skippable frame", "not the expected kind"));
    }
    Ok(cursor.u32()? as usize)
}

/// What fills an age plaintext of `length` bytes up to `padded`: nothing, or a skippable frame of zeros.
///
/// # Errors
/// When the gap is 1 to 7 bytes, which no frame fits.
pub fn padding(length: u64, padded: u64) -> Result<Vec<u8>, FormatError> {
    let gap = padded.checked_sub(length).ok_or(FormatError::Length { what: "padding" })?;
    let gap = usize::try_from(gap).map_err(|_| FormatError::Length { what: "padding" })?;
    match gap {
        0 => Ok(Vec::new()),
        1..SKIPPABLE_HEADER_BYTES => Err(FormatError::Length { what: "padding" }),
        _ => {
            let mut bytes = skippable_header(PADDING_MAGIC, gap - SKIPPABLE_HEADER_BYTES).to_vec();
            bytes.resize(gap, 0);
            Ok(bytes)
        }
    }
}

/// Checks that `bytes`, which follow the last real frame, are nothing or one padding frame of zeros.
///
/// # Errors
/// When anything else stands there.
pub fn check_padding(bytes: &[u8]) -> Result<(), FormatError> {
    if bytes.is_empty() {
        return Ok(());
    }
    let length = skippable_length(bytes, PADDING_MAGIC)?;
    let payload = &bytes[SKIPPABLE_HEADER_BYTES..];
    if payload.len() != length || payload.iter().any(|b| *b != 0) {
        return Err(FormatError::invalid("padding", "not zeros of the declared length"));
    }
    Ok(())
}

/// The padded size of a tail pack, a manifest or an index whose age plaintext has `length` bytes: the next Padmé size, at
/// least `minimum`, with a gap that a frame fits.
#[must_use]
pub fn padded_size(length: u64, minimum: u64) -> u64 {
    let mut padded = crate::model::size::padme(length.max(minimum));
    while padded != length && padded - length < SKIPPABLE_HEADER_BYTES as u64 {
        padded = crate::model::size::padme(padded + 1);
    }
    padded
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn padding_fills_every_gap_that_a_size_leaves() {
        for length in (0..70_000_u64).step_by(7).chain(16_000_000..16_000_100) {
            let padded = padded_size(length, 0);
            let fill = padding(length, padded).unwrap_or_else(|e| panic!("{length}: {e}"));
            assert_eq!(length + fill.len() as u64, padded);
            assert_eq!(check_padding(&fill), Ok(()));
        }
        assert!(padding(100, 105).is_err());
        assert!(padding(105, 100).is_err());
    }

    #[test]
    fn damaged_padding_is_seen() {
        let mut fill = padding(0, 64).unwrap_or_else(|e| panic!("{e}"));
        fill[20] = 1;
        assert!(check_padding(&fill).is_err());
        fill[20] = 0;
        fill[4] ^= 1;
        assert!(check_padding(&fill).is_err());
    }

    #[test]
    fn frames_outside_the_rules_are_refused_by_their_header() {
        let frame = |descriptor: u8, rest: &[u8]| [&ZSTD_MAGIC.to_le_bytes()[..], &[descriptor], rest].concat();
        assert_eq!(declared_size(&frame(0x24, &[200])), Ok(200));
        assert_eq!(declared_size(&frame(0x64, &[0, 1])), Ok(512));
        for (bytes, why) in [
            (frame(0x20, &[200]), "no checksum"),
            (frame(0x25, &[1, 200]), "dictionary"),
            (frame(0x04, &[0x58]), "no size"),
            (frame(0x84, &[0x78, 0, 0, 0, 1]), "window of 32 MiB"),
            (frame(0x2c, &[200]), "reserved"),
            (vec![0; 20], "no frame"),
            (frame(0x64, &[0]), "cut"),
        ] {
            assert!(declared_size(&bytes).is_err(), "{why}");
        }
    }
}
