//! A look at an age header before any library parses it: where it ends, and that it is small.
//!
//! The header here is all that stands before the encrypted payload: the text of <https://age-encryption.org/v1> and the
//! 16-byte nonce after it.

use crate::format::FormatError;
use crate::model::limits::{AGE_HEADER_MAX_BYTES, AGE_STANZAS_MAX};

const WHAT: &str = "age header";
const VERSION_LINE: &[u8] = b"age-encryption.org/v1\n";
/// The nonce between header text and payload.
pub const NONCE_BYTES: usize = 16;
/// Plaintext bytes of one step of age's STREAM.
pub const STEP_BYTES: u64 = 64 * 1024;
/// What encryption adds to each step.
pub const TAG_BYTES: u64 = 16;

/// The length of the header that `bytes` begin with, nonce included. `bytes` may go on after it, and need hold no more than
/// the first 16 KiB of the file.
///
/// # Errors
/// When this is no age v1 header, or it is over 16 KiB or 16 stanzas.
pub fn header_bytes(bytes: &[u8]) -> Result<usize, FormatError> {
    if !bytes.starts_with(VERSION_LINE) {
        return Err(FormatError::invalid(WHAT, "not an age file of version 1"));
    }
    let limit = bytes.len().min(AGE_HEADER_MAX_BYTES as usize);
    let mut position = VERSION_LINE.len();
    let mut stanzas = 0;
    while position < limit {
        let line_end = bytes[position..limit].iter().position(|b| *b == b'\n').map(|n| position + n);
        let Some(line_end) = line_end else { break };
        let line = &bytes[position..line_end];
        position = line_end + 1;
        if line.starts_with(b"-> ") {
            stanzas += 1;
            if stanzas > AGE_STANZAS_MAX {
                return Err(FormatError::Limit { what: "stanzas of an age header", limit: AGE_STANZAS_MAX as u64 });
            }
        } else if line.starts_with(b"--- ") {
            let end = position + NONCE_BYTES;
            return if end <= bytes.len() { Ok(end) } else { Err(FormatError::Length { what: WHAT }) };
        }
    }
    if bytes.len() as u64 >= AGE_HEADER_MAX_BYTES {
        Err(FormatError::Limit { what: WHAT, limit: AGE_HEADER_MAX_BYTES })
    } else {
        Err(FormatError::Length { what: WHAT })
    }
}

/// The stretch of the encrypted payload, as (offset, length) after the header, that holds the plaintext bytes
/// `start..start + length`: whole steps, since each is authenticated as a whole. `length` must be over 0.
#[must_use]
pub const fn payload_range(start: u64, length: u64) -> (u64, u64) {
    let first = start / STEP_BYTES;
    let last = (start + length - 1) / STEP_BYTES;
    let step = STEP_BYTES + TAG_BYTES;
    (first * step, (last + 1 - first) * step)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn header(stanzas: usize) -> Vec<u8> {
        let mut bytes = VERSION_LINE.to_vec();
        for _ in 0..stanzas {
            bytes.extend_from_slice(b"-> X25519 abc\nbody\n");
        }
        bytes.extend_from_slice(b"--- mac\n0123456789abcdefPAYLOAD");
        bytes
    }

    #[test]
    fn the_header_ends_after_the_nonce() {
        let bytes = header(2);
        assert_eq!(header_bytes(&bytes), Ok(bytes.len() - b"PAYLOAD".len()));
    }

    #[test]
    fn many_stanzas_long_headers_and_other_files_are_refused() {
        assert!(header_bytes(&header(16)).is_ok());
        assert!(header_bytes(&header(17)).is_err());
        let long = [VERSION_LINE, b"-> X ", &vec![b'a'; 300 * 1024]].concat();
        assert!(matches!(header_bytes(&long), Err(FormatError::Limit { .. })));
        assert!(header_bytes(b"age-encryption.org/v2\n--- x\n").is_err());
        assert!(header_bytes(&header(1)[..40]).is_err());
    }

    #[test]
    fn ranges_are_whole_steps() {
        assert_eq!(payload_range(0, 1), (0, 65_552));
        assert_eq!(payload_range(65_535, 2), (0, 131_104));
        assert_eq!(payload_range(65_536, 65_536), (65_552, 65_552));
    }
}
