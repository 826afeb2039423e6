//! Signing and checking statements: Ed25519 keys in OpenSSH form, SSHSIG signatures that `ssh-keygen -Y verify` accepts.

use std::fmt;

use ssh_key::private::Ed25519Keypair;
use ssh_key::{HashAlg, LineEnding, PrivateKey, PublicKey, SshSig};
use zeroize::Zeroizing;

use crate::crypto::hash::hash;
use crate::crypto::{CryptoError, random};
use crate::model::ids::WriterId;

/// A private key that signs statements.
pub struct SigningKey(PrivateKey);

impl SigningKey {
    /// Draws a new key with a comment.
    ///
    /// # Errors
    /// When the operating system gives no random bytes.
    pub fn generate(comment: &str) -> Result<Self, CryptoError> {
        let seed = Zeroizing::new(random::<32>()?);
        let pair = Ed25519Keypair::from_seed(&seed);
        PrivateKey::new(pair.into(), comment).map(Self).map_err(|e| bad_key(&e))
    }

    /// Reads an unencrypted OpenSSH private key.
    ///
    /// # Errors
    /// When it is no Ed25519 key, or encrypted.
    pub fn from_openssh(text: &str) -> Result<Self, CryptoError> {
        let key = PrivateKey::from_openssh(text).map_err(|e| bad_key(&e))?;
        if key.is_encrypted() {
            return Err(CryptoError::NeedsPassphrase);
        }
        if key.algorithm() != ssh_key::Algorithm::Ed25519 {
            return Err(bad_key(&"not an Ed25519 key"));
        }
        Ok(Self(key))
    }

    /// The private key in OpenSSH form.
    ///
    /// # Errors
    /// Never in practice.
    pub fn to_openssh(&self) -> Result<Zeroizing<String>, CryptoError> {
        self.0.to_openssh(LineEnding::LF).map_err(|e| bad_key(&e))
    }

    /// The public half.
    #[must_use]
    pub fn verifier(&self) -> VerifyingKey {
        VerifyingKey(self.0.public_key().clone())
    }

    /// Signs `line` in `namespace`: the armored SSHSIG.
    ///
    /// # Errors
    /// Never in practice.
    pub fn sign(&self, namespace: &str, line: &str) -> Result<String, CryptoError> {
        let signature = self.0.sign(namespace, HashAlg::Sha512, line.as_bytes()).map_err(|e| bad_key(&e))?;
        signature.to_pem(LineEnding::LF).map_err(|e| bad_key(&e))
    }
}

impl fmt::Debug for SigningKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "SigningKey(of {})", self.verifier().fingerprint())
    }
}

/// A public key that checks signatures.
#[derive(Clone, PartialEq, Eq)]
pub struct VerifyingKey(PublicKey);

impl VerifyingKey {
    /// Reads `ssh-ed25519 AAAA... comment`.
    ///
    /// # Errors
    /// When it is no Ed25519 public key.
    pub fn from_openssh(text: &str) -> Result<Self, CryptoError> {
        let key = PublicKey::from_openssh(text.trim()).map_err(|e| bad_key(&e))?;
        if key.algorithm() != ssh_key::Algorithm::Ed25519 {
            return Err(bad_key(&"not an Ed25519 key"));
        }
        Ok(Self(key))
    }

    /// The key without its comment: `ssh-ed25519 AAAA...`.
    #[must_use]
    pub fn to_openssh(&self) -> String {
        PublicKey::new(self.0.key_data().clone(), "").to_openssh().unwrap_or_default().trim_end().to_owned()
    }

    /// `SHA256:...`, as `ssh-keygen -l` prints it.
    #[must_use]
    pub fn fingerprint(&self) -> String {
        self.0.fingerprint(HashAlg::Sha256).to_string()
    }

    /// The first 16 bytes of the BLAKE3 of the key in SSH's wire form (what the base64 of a `.pub` file spells).
    #[must_use]
    pub fn writer(&self) -> WriterId {
        let wire = self.0.to_bytes().unwrap_or_default();
        let mut id = [0; WriterId::BYTES];
        id.copy_from_slice(&hash(&wire).0[..WriterId::BYTES]);
        WriterId(id)
    }

    /// Checks that `armor` is this key's signature over `line` in `namespace`, in the one spelling that farkeep writes.
    ///
    /// # Errors
    /// When it is not.
    pub fn verify(&self, namespace: &str, line: &str, armor: &str) -> Result<(), CryptoError> {
        let signature = read_armor(armor)?;
        self.0.verify(namespace, line.as_bytes(), &signature).map_err(|e| CryptoError::Signature(e.to_string()))
    }
}

impl fmt::Debug for VerifyingKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "VerifyingKey({})", self.fingerprint())
    }
}

/// The key that an armored signature says it is by; whether it is trusted is another question.
///
/// # Errors
/// When the armor is not in canonical form, or the key is no Ed25519 key.
pub fn signer(armor: &str) -> Result<VerifyingKey, CryptoError> {
    let signature = read_armor(armor)?;
    let key = PublicKey::new(signature.public_key().clone(), "");
    if key.algorithm() != ssh_key::Algorithm::Ed25519 {
        return Err(CryptoError::Signature("not by an Ed25519 key".into()));
    }
    Ok(VerifyingKey(key))
}

/// Reads an armor and refuses every other spelling of the same signature, so that a record has one form.
fn read_armor(armor: &str) -> Result<SshSig, CryptoError> {
    let wrong = |e: &dyn fmt::Display| CryptoError::Signature(e.to_string());
    let signature = SshSig::from_pem(armor).map_err(|e| wrong(&e))?;
    if signature.to_pem(LineEnding::LF).map_err(|e| wrong(&e))? != armor {
        return Err(wrong(&"armor is not in canonical form"));
    }
    if signature.hash_alg() != HashAlg::Sha512 {
        return Err(wrong(&"hash is not SHA-512"));
    }
    Ok(signature)
}

fn bad_key(error: &dyn fmt::Display) -> CryptoError {
    CryptoError::BadKey { what: "an Ed25519 key in OpenSSH form", why: error.to_string() }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn signatures_hold_for_one_line_one_key_and_one_namespace() {
        let key = SigningKey::generate("agent").unwrap_or_else(|e| panic!("{e}"));
        let armor = key.sign("farkeep-record@v1", "{}\n").unwrap_or_else(|e| panic!("{e}"));
        let verifier = key.verifier();
        assert_eq!(verifier.verify("farkeep-record@v1", "{}\n", &armor), Ok(()));
        assert!(verifier.verify("farkeep-trust@v1", "{}\n", &armor).is_err());
        assert!(verifier.verify("farkeep-record@v1", "{}", &armor).is_err());
        let other = SigningKey::generate("x").unwrap_or_else(|e| panic!("{e}"));
        assert!(other.verifier().verify("farkeep-record@v1", "{}\n", &armor).is_err());
        assert_eq!(signer(&armor).map(|k| k.writer()), Ok(verifier.writer()));
    }

    #[test]
    fn keys_come_back_from_their_text_and_debug_shows_none() {
        let key = SigningKey::generate("agent").unwrap_or_else(|e| panic!("{e}"));
        let text = key.to_openssh().unwrap_or_else(|e| panic!("{e}"));
        let again = SigningKey::from_openssh(&text).unwrap_or_else(|e| panic!("{e}"));
        assert_eq!(again.verifier().to_openssh(), key.verifier().to_openssh());
        let public = VerifyingKey::from_openssh(&format!("{} me@there", key.verifier().to_openssh()));
        assert_eq!(public.map(|k| k.writer()), Ok(key.verifier().writer()));
        assert!(!format!("{key:?}").contains("PRIVATE"));
    }

    #[test]
    fn another_spelling_of_the_armor_is_refused() {
        let key = SigningKey::generate("agent").unwrap_or_else(|e| panic!("{e}"));
        let armor = key.sign("n@v1", "x\n").unwrap_or_else(|e| panic!("{e}"));
        for wrong in [armor.replace('\n', "\r\n"), format!("{armor}\n"), format!("\n{armor}")] {
            assert!(key.verifier().verify("n@v1", "x\n", &wrong).is_err());
        }
    }
}
