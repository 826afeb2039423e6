//! Keys, hashes, sealing, opening, signing: the only folder that names age, blake3 and ssh-key.
//!
//! `seal` and `open` are apart: what runs on the producing machine needs no identity to do its work.

pub mod hash;
pub mod identity;
pub mod open;
pub mod seal;
pub mod secret;
pub mod sign;

/// What can go wrong with keys. No variant ever carries key material or plaintext.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum CryptoError {
    /// None of the identities at hand opens the object.
    #[error("no identity at hand opens it")]
    NoIdentity,
    /// The passphrase does not open the identity file.
    #[error("wrong passphrase")]
    Passphrase,
    /// An identity file is sealed and no passphrase was given.
    #[error("the identity file is protected by a passphrase")]
    NeedsPassphrase,
    /// Sealed bytes that are damaged or not an age file.
    #[error("sealed content is damaged: {0}")]
    Damaged(String),
    /// Text that is no key of the expected kind.
    #[error("not {what}: {why}")]
    BadKey {
        /// What it should have been.
        what: &'static str,
        /// What was wrong.
        why: String,
    },
    /// A signature that does not belong to the text, the key or the namespace.
    #[error("signature is not valid: {0}")]
    Signature(String),
    /// Sealing failed, or what was sealed did not open into what went in.
    #[error("sealing failed: {0}")]
    Seal(String),
    /// The operating system gave no random bytes.
    #[error("no random bytes: {0}")]
    Random(String),
}

/// `N` random bytes from the operating system.
///
/// # Errors
/// When it gives none.
pub fn random<const N: usize>() -> Result<[u8; N], CryptoError> {
    let mut bytes = [0; N];
    getrandom::fill(&mut bytes).map_err(|e| CryptoError::Random(e.to_string()))?;
    Ok(bytes)
}
