//! Opening sealed objects, whole or a stretch at a time.

use std::fmt;
use std::io::{self, Read, Seek, SeekFrom};
use std::sync::Mutex;

use age_core::format::{FileKey, Stanza};

use crate::crypto::CryptoError;
use crate::crypto::identity::Identity;
use crate::crypto::seal::{KnownKey, copy_key};
use crate::format::age_header::{STEP_BYTES, TAG_BYTES, header_bytes, payload_range};

/// Opens a whole sealed object that holds at most `limit` bytes.
///
/// # Errors
/// When no identity fits, the object is damaged, or it holds more.
pub fn open(sealed: &[u8], identities: &[Identity], limit: u64) -> Result<Vec<u8>, CryptoError> {
    let mut plain = Vec::with_capacity(sealed.len());
    let mut reader = open_reader(sealed, identities)?.take(limit + 1);
    reader.read_to_end(&mut plain).map_err(|e| damaged(&e))?;
    if plain.len() as u64 > limit {
        return Err(CryptoError::Damaged(format!("holds more than {limit} bytes")));
    }
    Ok(plain)
}

/// Opens a whole sealed object as a reader; every 64 KiB are authenticated before they come out.
///
/// # Errors
/// When no identity fits, or the header is damaged.
pub fn open_reader<'a>(sealed: &'a [u8], identities: &[Identity]) -> Result<impl Read + use<'a>, CryptoError> {
    header_bytes(sealed).map_err(|e| damaged(&e))?;
    let decryptor = age::Decryptor::new_buffered(sealed).map_err(|e| damaged(&e))?;
    decryptor.decrypt(identities.iter().map(Identity::as_age)).map_err(open_error)
}

/// A sealed object whose header has been opened, so that stretches of it can be.
pub struct Opener {
    header: Vec<u8>,
    file_key: FileKey,
    payload_bytes: u64,
}

impl Opener {
    /// Opens the header, nonce included, of a sealed object of `stored_bytes`.
    ///
    /// # Errors
    /// When no identity fits, or the header is damaged.
    pub fn new(header: &[u8], stored_bytes: u64, identities: &[Identity]) -> Result<Self, CryptoError> {
        let length = header_bytes(header).map_err(|e| damaged(&e))?;
        if length != header.len() || (stored_bytes as usize) < length {
            return Err(CryptoError::Damaged("header is not as long as the index says".into()));
        }
        let capturing = CapturingIdentity { identities, file_key: Mutex::new(None) };
        let decryptor = age::Decryptor::new_buffered(header).map_err(|e| damaged(&e))?;
        decryptor.decrypt(std::iter::once(&capturing as &dyn age::Identity)).map_err(open_error)?;
        let file_key = capturing.file_key.into_inner().ok().flatten().ok_or(CryptoError::NoIdentity)?;
        Ok(Self { header: header.to_vec(), file_key, payload_bytes: stored_bytes - length as u64 })
    }

    /// Length of the header.
    #[must_use]
    pub fn header_bytes(&self) -> u64 {
        self.header.len() as u64
    }

    /// Which stored bytes, as (offset, length) from the object's start, hold the plaintext `start..start + length`.
    #[must_use]
    pub fn stored_range(&self, start: u64, length: u64) -> (u64, u64) {
        Self::stored_range_of(self.header_bytes(), self.header_bytes() + self.payload_bytes, start, length)
    }

    /// As [`stored_range`](Self::stored_range), for an object whose header is still to be read.
    #[must_use]
    pub fn stored_range_of(header_bytes: u64, stored_bytes: u64, start: u64, length: u64) -> (u64, u64) {
        // age's reader looks at the end of the file when it is asked to seek to a whole step; one byte earlier it does not.
        let (start, length) =
            if start > 0 && start.is_multiple_of(STEP_BYTES) { (start - 1, length + 1) } else { (start, length) };
        let (offset, bytes) = payload_range(start, length);
        let end = (offset + bytes).min(stored_bytes.saturating_sub(header_bytes));
        (header_bytes + offset, end.saturating_sub(offset))
    }

    /// Opens the plaintext `start..start + length` from `stored`, the bytes that [`stored_range`](Self::stored_range) named.
    ///
    /// # Errors
    /// When the bytes are damaged or too few.
    pub fn open_range(&self, stored: &[u8], start: u64, length: u64) -> Result<Vec<u8>, CryptoError> {
        let (offset, bytes) = self.stored_range(start, length);
        if stored.len() as u64 != bytes {
            return Err(CryptoError::Damaged("stretch is not as long as asked for".into()));
        }
        let window = Window {
            header: &self.header,
            payload: stored,
            payload_at: offset,
            end: self.header_bytes() + self.payload_bytes,
            position: 0,
        };
        let known = KnownKey(copy_key(&self.file_key));
        // Unbuffered, so that age stands exactly at the payload when it first seeks.
        let decryptor = age::Decryptor::new(window).map_err(|e| damaged(&e))?;
        let mut reader = decryptor.decrypt(std::iter::once(&known as &dyn age::Identity)).map_err(open_error)?;
        let mut plain = vec![0; usize::try_from(length).map_err(|e| damaged(&e))?];
        let mut step = || -> io::Result<()> {
            if start > 0 && start.is_multiple_of(STEP_BYTES) {
                reader.seek(SeekFrom::Start(start - 1))?;
                reader.read_exact(&mut [0])?;
            } else if start > 0 {
                reader.seek(SeekFrom::Start(start))?;
            }
            reader.read_exact(&mut plain)
        };
        step().map_err(|e| damaged(&e))?;
        Ok(plain)
    }
}

impl fmt::Debug for Opener {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Opener({} payload bytes)", self.payload_bytes)
    }
}

/// The length of the plaintext in an age file whose payload has `payload_bytes`.
#[must_use]
pub const fn plaintext_bytes(payload_bytes: u64) -> u64 {
    let steps = payload_bytes.div_ceil(STEP_BYTES + TAG_BYTES);
    payload_bytes.saturating_sub(steps * TAG_BYTES)
}

fn damaged(error: &dyn fmt::Display) -> CryptoError {
    CryptoError::Damaged(error.to_string())
}

fn open_error(error: age::DecryptError) -> CryptoError {
    match error {
        age::DecryptError::NoMatchingKeys => CryptoError::NoIdentity,
        other => damaged(&other),
    }
}

/// Tries the real identities and keeps the file key that one of them found.
struct CapturingIdentity<'a> {
    identities: &'a [Identity],
    file_key: Mutex<Option<FileKey>>,
}

impl age::Identity for CapturingIdentity<'_> {
    fn unwrap_stanza(&self, stanza: &Stanza) -> Option<Result<FileKey, age::DecryptError>> {
        let found = self.identities.iter().find_map(|identity| identity.as_age().unwrap_stanza(stanza))?;
        if let (Ok(key), Ok(mut slot)) = (&found, self.file_key.lock()) {
            *slot = Some(copy_key(key));
        }
        Some(found)
    }
}

/// The header and one stretch of a file, as if it were the whole: reads elsewhere are errors.
struct Window<'a> {
    header: &'a [u8],
    payload: &'a [u8],
    payload_at: u64,
    end: u64,
    position: u64,
}

impl Read for Window<'_> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let available = if self.position < self.header.len() as u64 {
            &self.header[self.position as usize..]
        } else if self.position >= self.end {
            &[]
        } else {
            let start = self.position.checked_sub(self.payload_at).and_then(|n| usize::try_from(n).ok());
            let rest = start.and_then(|n| self.payload.get(n..)).filter(|rest| !rest.is_empty());
            rest.ok_or_else(|| io::Error::other("outside the stretch that was fetched"))?
        };
        let count = available.len().min(buffer.len());
        buffer[..count].copy_from_slice(&available[..count]);
        self.position += count as u64;
        Ok(count)
    }
}

impl Seek for Window<'_> {
    fn seek(&mut self, to: SeekFrom) -> io::Result<u64> {
        let position = match to {
            SeekFrom::Start(n) => Some(n),
            SeekFrom::Current(n) => self.position.checked_add_signed(n),
            SeekFrom::End(n) => self.end.checked_add_signed(n),
        };
        self.position = position.ok_or_else(|| io::Error::other("seek out of range"))?;
        Ok(self.position)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::crypto::seal::seal;

    fn content(length: usize) -> Vec<u8> {
        (0..length).map(|n| (n * 31 % 251) as u8).collect()
    }

    #[test]
    fn what_was_sealed_opens_whole_and_in_stretches() {
        let (identity, other) = (Identity::generate(), Identity::generate());
        let recipients = [other.recipient(), identity.recipient()];
        let identities = [identity];
        for length in [0, 1, 65_535, 65_536, 65_537, 131_072, 300_000] {
            let plain = content(length);
            let (left, right) = plain.split_at(length / 3);
            let sealed = seal(&[left, right], &recipients).unwrap_or_else(|e| panic!("{e}"));
            assert_eq!(open(&sealed.bytes, &identities, length as u64), Ok(plain.clone()));
            let header = &sealed.bytes[..sealed.header_bytes as usize];
            let opener = Opener::new(header, sealed.name.bytes, &identities).unwrap_or_else(|e| panic!("{e}"));
            assert_eq!(plaintext_bytes(sealed.name.bytes - opener.header_bytes()), length as u64);
            let starts = [0, 1, 65_535, 65_536, 65_537, 131_071, 131_072, length.saturating_sub(1)];
            for (start, span) in starts.iter().flat_map(|s| [(*s, 1), (*s, 70_000), (*s, 65_536)]) {
                let Some(expected) = plain.get(start..start + span) else { continue };
                let (at, bytes) = opener.stored_range(start as u64, span as u64);
                let stored = &sealed.bytes[at as usize..(at + bytes) as usize];
                let opened = opener.open_range(stored, start as u64, span as u64);
                assert_eq!(opened.as_deref(), Ok(expected), "{length} {start} {span}");
                let mut damaged = stored.to_vec();
                damaged[0] ^= 1;
                assert!(opener.open_range(&damaged, start as u64, span as u64).is_err());
            }
        }
    }

    #[test]
    fn a_stranger_and_a_greedy_object_are_refused() {
        let identity = Identity::generate();
        let sealed = seal(&[&content(1000)], &[identity.recipient()]).unwrap_or_else(|e| panic!("{e}"));
        assert_eq!(open(&sealed.bytes, &[Identity::generate()], 1000), Err(CryptoError::NoIdentity));
        assert!(open(&sealed.bytes, &[identity], 999).is_err());
        assert!(seal(&[b"x"], &[]).is_err());
    }
}
