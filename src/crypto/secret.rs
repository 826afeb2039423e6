//! The vault secret: it keys chunk ids and the tokens of plain records, and opens nothing.

use zeroize::{Zeroize, ZeroizeOnDrop};

use crate::crypto::hash::ChunkKey;
use crate::crypto::{CryptoError, random};
use crate::model::ids::{Token, from_hex, to_hex};

/// Context strings of BLAKE3's derive_key: part of the format.
const CHUNK_CONTEXT: &str = "farkeep v1 chunk id";
const SERIES_CONTEXT: &str = "farkeep v1 series token";
const TAG_CONTEXT: &str = "farkeep v1 tag token";

/// 32 random bytes of one generation.
#[derive(Clone, Zeroize, ZeroizeOnDrop)]
pub struct VaultSecret([u8; 32]);

impl VaultSecret {
    /// Draws a new secret.
    ///
    /// # Errors
    /// When the operating system gives no random bytes.
    pub fn generate() -> Result<Self, CryptoError> {
        Ok(Self(random()?))
    }

    /// Reads the stored form: 64 hex digits, with or without a newline.
    ///
    /// # Errors
    /// When the text is anything else.
    pub fn from_text(text: &str) -> Result<Self, CryptoError> {
        let wrong = || CryptoError::BadKey { what: "a vault secret", why: "expected 64 hex digits".into() };
        from_hex(text.trim_end()).map(Self).ok_or_else(wrong)
    }

    /// The stored form.
    #[must_use]
    pub fn to_text(&self) -> zeroize::Zeroizing<String> {
        zeroize::Zeroizing::new(to_hex(&self.0) + "\n")
    }

    /// The key that names chunks.
    #[must_use]
    pub fn chunk_key(&self) -> ChunkKey {
        ChunkKey::new(blake3::derive_key(CHUNK_CONTEXT, &self.0))
    }

    /// What the snapshots of `job` on `host` are called in plain records.
    #[must_use]
    pub fn series(&self, host: &str, job: &str) -> Token {
        self.token(SERIES_CONTEXT, &[host.as_bytes(), &[0], job.as_bytes()].concat())
    }

    /// What `tag` is called in plain records.
    #[must_use]
    pub fn tag(&self, tag: &str) -> Token {
        self.token(TAG_CONTEXT, tag.as_bytes())
    }

    fn token(&self, context: &str, text: &[u8]) -> Token {
        let mut key = blake3::derive_key(context, &self.0);
        let hash = blake3::keyed_hash(&key, text);
        key.zeroize();
        let mut token = [0; Token::BYTES];
        token.copy_from_slice(&hash.as_bytes()[..Token::BYTES]);
        Token(token)
    }
}

impl std::fmt::Debug for VaultSecret {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("VaultSecret(secret)")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn uses_of_one_secret_are_apart_and_stable() {
        let secret = VaultSecret::from_text(&"07".repeat(32)).unwrap_or_else(|e| panic!("{e}"));
        assert_eq!(secret.to_text().trim_end(), "07".repeat(32));
        assert_ne!(secret.series("a", "b"), secret.tag("a\0b"));
        assert_ne!(secret.series("ab", "c"), secret.series("a", "bc"));
        // Format: tokens and ids of vaults that exist.
        assert_eq!(secret.series("host", "nightly").to_string(), "5add4bcad9090077491c3fde3dbfb2ed");
        assert_eq!(secret.chunk_key().id(b"content").to_string(), "164f7a18ebf5d24f7be7578b5a300c73591605c6d0c9b734");
        assert_eq!(format!("{secret:?}"), "VaultSecret(secret)");
    }
}
