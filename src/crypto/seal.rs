//! Sealing: age encryption to recipients, checked by opening it again before anything is sent.

use std::collections::HashSet;
use std::fmt;
use std::io::{self, Read, Write};
use std::str::FromStr;
use std::sync::Mutex;

use age::secrecy::ExposeSecret;
use age_core::format::{FileKey, Stanza};

use crate::crypto::CryptoError;
use crate::crypto::hash::{StreamHasher, hash, hash_reader};
use crate::format::age_header::{STEP_BYTES, TAG_BYTES, header_bytes};
use crate::model::ids::ObjectHash;
use crate::model::limits::RECIPIENTS_MAX;
use crate::model::name::Sealed;

/// A public key that can seal: age X25519, `age1...`.
#[derive(Clone, PartialEq, Eq)]
pub struct Recipient(age::x25519::Recipient);

impl Recipient {
    pub(super) const fn from_age(inner: age::x25519::Recipient) -> Self {
        Self(inner)
    }
}

impl FromStr for Recipient {
    type Err = CryptoError;

    fn from_str(text: &str) -> Result<Self, CryptoError> {
        text.trim()
            .parse()
            .map(Self)
            .map_err(|why: &str| CryptoError::BadKey { what: "an age X25519 recipient", why: why.into() })
    }
}

impl fmt::Display for Recipient {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.0)
    }
}

impl fmt::Debug for Recipient {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Recipient({})", self.0)
    }
}

/// Bytes sealed, with what an index needs to know of them.
#[derive(Debug)]
pub struct SealedBytes {
    /// The age file.
    pub bytes: Vec<u8>,
    /// Its hash and size: its name.
    pub name: Sealed,
    /// Length of its header, nonce included.
    pub header_bytes: u32,
    /// BLAKE3 of that header.
    pub header_hash: ObjectHash,
}

/// Seals the concatenation of `pieces` to `recipients`, and opens it again in steps of 64 KiB to compare it: what leaves
/// this function can be opened.
///
/// # Errors
/// When there is no recipient or more than twelve, or what was sealed does not open into what went in.
pub fn seal(pieces: &[&[u8]], recipients: &[Recipient]) -> Result<SealedBytes, CryptoError> {
    seal_into(Vec::new(), pieces, recipients)
}

/// As [`seal`], into a buffer that is used again.
///
/// # Errors
/// As [`seal`].
pub fn seal_into(mut buffer: Vec<u8>, pieces: &[&[u8]], recipients: &[Recipient]) -> Result<SealedBytes, CryptoError> {
    if recipients.len() > RECIPIENTS_MAX {
        return Err(CryptoError::Seal(format!("{} recipients, at most {RECIPIENTS_MAX} are possible", recipients.len())));
    }
    let length: u64 = pieces.iter().map(|p| p.len() as u64).sum();
    let room = length + (length / STEP_BYTES + 1) * TAG_BYTES + 200 + 100 * recipients.len() as u64;
    buffer.clear();
    buffer.reserve(usize::try_from(room).map_err(|_| CryptoError::Seal("too long".into()))?);

    let capturing = Capturing { recipients, file_key: Mutex::new(None) };
    let encryptor = age::Encryptor::with_recipients(std::iter::once(&capturing as &dyn age::Recipient))
        .map_err(|e| CryptoError::Seal(e.to_string()))?;
    let failed = |e: io::Error| CryptoError::Seal(e.to_string());
    let mut writer = encryptor.wrap_output(buffer).map_err(failed)?;
    for piece in pieces {
        writer.write_all(piece).map_err(failed)?;
    }
    let bytes = writer.finish().map_err(failed)?;

    let file_key = capturing.file_key.into_inner().ok().flatten().ok_or_else(|| CryptoError::Seal("no file key".into()))?;
    check(&bytes, pieces, file_key)?;
    describe(bytes)
}

/// Seals what `write` writes, in memory of the sealed form alone, and opens it again to compare its hash.
///
/// # Errors
/// When writing or sealing fails, or what was sealed does not open into what went in.
pub fn seal_stream(
    recipients: &[Recipient],
    write: &mut dyn FnMut(&mut dyn Write) -> io::Result<()>,
) -> Result<SealedBytes, CryptoError> {
    let failed = |e: io::Error| CryptoError::Seal(e.to_string());
    let capturing = Capturing { recipients, file_key: Mutex::new(None) };
    let encryptor = age::Encryptor::with_recipients(std::iter::once(&capturing as &dyn age::Recipient))
        .map_err(|e| CryptoError::Seal(e.to_string()))?;
    let mut output = Hashing { inner: encryptor.wrap_output(Vec::new()).map_err(failed)?, hasher: StreamHasher::new() };
    write(&mut output).map_err(failed)?;
    let expected = output.hasher.finish();
    let bytes = output.inner.finish().map_err(failed)?;
    let file_key = capturing.file_key.into_inner().ok().flatten().ok_or_else(|| CryptoError::Seal("no file key".into()))?;
    let known = KnownKey(file_key);
    let opened = age::Decryptor::new_buffered(&bytes[..])
        .and_then(|decryptor| decryptor.decrypt(std::iter::once(&known as &dyn age::Identity)))
        .map_err(|e| CryptoError::Seal(e.to_string()))
        .and_then(|mut reader| hash_reader(&mut reader).map_err(failed))?;
    if opened != expected {
        return Err(CryptoError::Seal("self-check: what was sealed does not open into what went in".into()));
    }
    describe(bytes)
}

struct Hashing<W> {
    inner: W,
    hasher: StreamHasher,
}

impl<W: Write> Write for Hashing<W> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let count = self.inner.write(bytes)?;
        self.hasher.update(&bytes[..count]);
        Ok(count)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.inner.flush()
    }
}

fn describe(bytes: Vec<u8>) -> Result<SealedBytes, CryptoError> {
    let header = header_bytes(&bytes).map_err(|e| CryptoError::Seal(e.to_string()))?;
    let name = Sealed { hash: hash(&bytes), bytes: bytes.len() as u64 };
    let header_hash = hash(&bytes[..header]);
    let header_bytes = u32::try_from(header).map_err(|_| CryptoError::Seal("header too long".into()))?;
    Ok(SealedBytes { bytes, name, header_bytes, header_hash })
}

/// Opens what was just sealed with the captured file key and compares it with what went in.
fn check(bytes: &[u8], pieces: &[&[u8]], file_key: FileKey) -> Result<(), CryptoError> {
    let mismatch = || CryptoError::Seal("self-check: what was sealed does not open into what went in".into());
    let known = KnownKey(file_key);
    let decryptor = age::Decryptor::new_buffered(bytes).map_err(|_| mismatch())?;
    let mut reader = decryptor.decrypt(std::iter::once(&known as &dyn age::Identity)).map_err(|_| mismatch())?;
    let mut step = vec![0; STEP_BYTES as usize];
    for piece in pieces {
        for expected in piece.chunks(step.len()) {
            let opened = &mut step[..expected.len()];
            reader.read_exact(opened).map_err(|_| mismatch())?;
            if opened != expected {
                return Err(mismatch());
            }
        }
    }
    match reader.read(&mut step) {
        Ok(0) => Ok(()),
        _ => Err(mismatch()),
    }
}

/// A recipient that passes the file key on to the real ones and keeps it for the self-check.
struct Capturing<'a> {
    recipients: &'a [Recipient],
    file_key: Mutex<Option<FileKey>>,
}

impl age::Recipient for Capturing<'_> {
    fn wrap_file_key(&self, file_key: &FileKey) -> Result<(Vec<Stanza>, HashSet<String>), age::EncryptError> {
        if self.recipients.is_empty() {
            return Err(age::EncryptError::MissingRecipients);
        }
        let mut stanzas = Vec::new();
        for recipient in self.recipients {
            stanzas.extend(recipient.0.wrap_file_key(file_key)?.0);
        }
        if let Ok(mut slot) = self.file_key.lock() {
            *slot = Some(copy_key(file_key));
        }
        Ok((stanzas, HashSet::new()))
    }
}

/// A copy of a file key; age keeps them in memory that is wiped when they go.
pub(super) fn copy_key(file_key: &FileKey) -> FileKey {
    FileKey::init_with_mut(|bytes| bytes.copy_from_slice(file_key.expose_secret()))
}

/// An identity that already knows the file key.
pub(super) struct KnownKey(pub FileKey);

impl age::Identity for KnownKey {
    fn unwrap_stanza(&self, _: &Stanza) -> Option<Result<FileKey, age::DecryptError>> {
        Some(Ok(copy_key(&self.0)))
    }
}
