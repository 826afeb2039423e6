//! Identities: the private halves that open. They exist on restore stations, and on the agent for index objects alone.

use std::fmt;
use std::io::Read;

use age::secrecy::{ExposeSecret, SecretString};
use zeroize::Zeroizing;

use crate::crypto::CryptoError;
use crate::crypto::seal::Recipient;

/// The first bytes of a binary age file; an identity file that starts so is protected by a passphrase.
const AGE_FILE_START: &[u8] = b"age-encryption.org/v1\n";
const ARMOR_START: &[u8] = b"-----BEGIN AGE ENCRYPTED FILE-----";
/// How a key that signs begins, as no line of an identity file does.
const SSH_KEY_START: &str = "-----BEGIN OPENSSH ";
/// scrypt work that an identity file may ask for: 2^22 needs 4 GiB and some seconds; more is an attack.
const MAX_WORK_FACTOR: u8 = 22;

/// A private key that opens what was sealed to its recipient: age X25519.
#[derive(Clone)]
pub struct Identity(age::x25519::Identity);

impl Identity {
    /// Draws a new key.
    #[must_use]
    pub fn generate() -> Self {
        Self(age::x25519::Identity::generate())
    }

    /// Reads `AGE-SECRET-KEY-1...`.
    ///
    /// # Errors
    /// When the text is anything else.
    pub fn parse(text: &str) -> Result<Self, CryptoError> {
        text.trim()
            .parse()
            .map(Self)
            .map_err(|why: &str| CryptoError::BadKey { what: "an age X25519 identity", why: why.into() })
    }

    /// The public half.
    #[must_use]
    pub fn recipient(&self) -> Recipient {
        Recipient::from_age(self.0.to_public())
    }

    /// The key as text, for a file that is sealed or 0600.
    #[must_use]
    pub fn to_text(&self) -> Zeroizing<String> {
        Zeroizing::new(self.0.to_string().expose_secret().to_owned())
    }

    pub(super) fn as_age(&self) -> &dyn age::Identity {
        &self.0
    }
}

impl fmt::Debug for Identity {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Identity(of {})", self.recipient())
    }
}

/// A passphrase.
#[derive(Clone)]
pub struct Passphrase(SecretString);

impl Passphrase {
    /// Takes a passphrase.
    #[must_use]
    pub fn new(text: String) -> Self {
        Self(SecretString::from(text))
    }

    /// Whether it is empty.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.0.expose_secret().is_empty()
    }

    /// The text, for keys of other kinds that it protects.
    #[must_use]
    pub fn expose(&self) -> &str {
        self.0.expose_secret()
    }
}

impl PartialEq for Passphrase {
    fn eq(&self, other: &Self) -> bool {
        self.0.expose_secret() == other.0.expose_secret()
    }
}

impl fmt::Debug for Passphrase {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Passphrase(secret)")
    }
}

/// What an identity file holds.
#[derive(Debug)]
pub struct IdentityFile {
    /// The keys, in order.
    pub identities: Vec<Identity>,
    /// The vault that its comment names.
    pub vault: Option<String>,
    /// The root fingerprint that its comment pins.
    pub root: Option<String>,
}

/// Whether the content of an identity file is protected by a passphrase.
#[must_use]
pub fn is_protected(content: &[u8]) -> bool {
    content.starts_with(AGE_FILE_START) || content.starts_with(ARMOR_START)
}

/// Reads an identity file: lines of `AGE-SECRET-KEY-1...`, comments, or the same protected by a passphrase as `age -p` does.
///
/// # Errors
/// When it is protected and no passphrase or a wrong one was given, or holds no key.
pub fn read_identity_file(content: &[u8], passphrase: Option<&Passphrase>) -> Result<IdentityFile, CryptoError> {
    if is_protected(content) {
        let opened = open_with_passphrase(content, passphrase.ok_or(CryptoError::NeedsPassphrase)?)?;
        return parse_identity_text(&opened);
    }
    parse_identity_text(content)
}

fn parse_identity_text(content: &[u8]) -> Result<IdentityFile, CryptoError> {
    let bad = |why: &str| CryptoError::BadKey { what: "an identity file", why: why.into() };
    let text = std::str::from_utf8(content).map_err(|_| bad("not text"))?;
    if text.trim_start().starts_with(SSH_KEY_START) {
        return Err(bad(
            "this is a key that signs, such as the root key of FILE.root; what opens is the file FILE beside it",
        ));
    }
    let mut file = IdentityFile { identities: Vec::new(), vault: None, root: None };
    for line in text.lines().map(str::trim).filter(|l| !l.is_empty()) {
        if let Some(comment) = line.strip_prefix('#') {
            let value = |name: &str| comment.trim().strip_prefix(name).map(|v| v.trim().to_owned());
            file.vault = file.vault.or_else(|| value("vault:"));
            file.root = file.root.or_else(|| value("root:"));
        } else {
            file.identities.push(Identity::parse(line)?);
        }
    }
    if file.identities.is_empty() {
        return Err(bad("no AGE-SECRET-KEY line in it"));
    }
    Ok(file)
}

/// Seals `content` with a passphrase, as `age -p` does.
///
/// # Errors
/// When age fails.
pub fn seal_with_passphrase(content: &[u8], passphrase: &Passphrase) -> Result<Vec<u8>, CryptoError> {
    let recipient = age::scrypt::Recipient::new(passphrase.0.clone());
    age::encrypt(&recipient, content).map_err(|e| CryptoError::Seal(e.to_string()))
}

/// Opens what was sealed with a passphrase, binary or armored.
///
/// # Errors
/// When the passphrase is wrong or the content damaged.
pub fn open_with_passphrase(content: &[u8], passphrase: &Passphrase) -> Result<Zeroizing<Vec<u8>>, CryptoError> {
    let damaged = |e: &dyn fmt::Display| CryptoError::Damaged(e.to_string());
    let mut identity = age::scrypt::Identity::new(passphrase.0.clone());
    identity.set_max_work_factor(MAX_WORK_FACTOR);
    let decryptor = age::Decryptor::new(age::armor::ArmoredReader::new(content)).map_err(|e| damaged(&e))?;
    let mut reader = decryptor.decrypt(std::iter::once(&identity as &dyn age::Identity)).map_err(|e| match e {
        age::DecryptError::DecryptionFailed | age::DecryptError::KeyDecryptionFailed | age::DecryptError::NoMatchingKeys => {
            CryptoError::Passphrase
        }
        other => damaged(&other),
    })?;
    let mut opened = Zeroizing::new(Vec::new());
    reader.read_to_end(&mut opened).map_err(|e| damaged(&e))?;
    Ok(opened)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn identity_files_open_with_and_without_passphrase() {
        let identity = Identity::generate();
        let text = format!("# made by farkeep\n# vault: abc\n# root: SHA256:xyz\n{}\n", identity.to_text().as_str());
        let plain = read_identity_file(text.as_bytes(), None).unwrap_or_else(|e| panic!("{e}"));
        assert_eq!(plain.identities[0].recipient(), identity.recipient());
        assert_eq!((plain.vault.as_deref(), plain.root.as_deref()), (Some("abc"), Some("SHA256:xyz")));
        assert!(!format!("{plain:?}").contains("SECRET"));

        let passphrase = Passphrase::new("correct horse".into());
        let sealed = seal_with_passphrase(text.as_bytes(), &passphrase).unwrap_or_else(|e| panic!("{e}"));
        assert!(read_identity_file(&sealed, Some(&passphrase)).is_ok());
        assert_eq!(read_identity_file(&sealed, None).err(), Some(CryptoError::NeedsPassphrase));
        let wrong = Passphrase::new("wrong".into());
        assert_eq!(read_identity_file(&sealed, Some(&wrong)).err(), Some(CryptoError::Passphrase));
        assert!(read_identity_file(b"# nothing\n", None).is_err());
    }
}
