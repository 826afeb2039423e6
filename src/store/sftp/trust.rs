//! Whether a server is the one that was meant: its host key against pinned fingerprints, known_hosts files or a certificate
//! authority.
//!
//! Guarantees: an unknown key is never accepted, nor written anywhere. Pins win over files. A refusal says what was offered,
//! what was expected, and how to compare. Deliberately unaware of connections; asked before anything but the key exchange
//! is sent.

use std::path::PathBuf;
use std::time::{SystemTime, UNIX_EPOCH};

use russh::keys::PublicKeyOrCertificate;
use russh::keys::ssh_key::certificate::CertType;
use russh::keys::ssh_key::{Algorithm, Certificate, EcdsaCurve, HashAlg, PublicKey};

use super::known_hosts::{self, KnownKey, Says};
use super::pattern;

/// What is believed about one server.
#[derive(Debug, Clone)]
pub struct Trust {
    /// The name that known_hosts files and certificates know it by.
    host: String,
    port: u16,
    pins: Vec<String>,
    known: Vec<KnownKey>,
    files: Vec<PathBuf>,
}

/// Families of host keys, most wanted first. SHA-1 signatures are not accepted.
const FAMILIES: [&[Algorithm]; 3] = [
    &[Algorithm::Ed25519],
    &[
        Algorithm::Ecdsa { curve: EcdsaCurve::NistP256 },
        Algorithm::Ecdsa { curve: EcdsaCurve::NistP384 },
        Algorithm::Ecdsa { curve: EcdsaCurve::NistP521 },
    ],
    &[Algorithm::Rsa { hash: Some(HashAlg::Sha512) }, Algorithm::Rsa { hash: Some(HashAlg::Sha256) }],
];

impl Trust {
    /// Trusts only keys with these fingerprints.
    pub fn pinned(host: &str, port: u16, pins: &[String]) -> Self {
        let pins = pins.iter().map(|pin| pin.trim().trim_end_matches('=').to_owned()).collect();
        Self { host: host.to_owned(), port, pins, known: Vec::new(), files: Vec::new() }
    }

    /// Trusts what these files say.
    pub fn from_known_hosts(host: &str, port: u16, files: Vec<PathBuf>) -> Self {
        let known = known_hosts::look_up(&files, host, port);
        Self { host: host.to_owned(), port, pins: Vec::new(), known, files }
    }

    /// The algorithms to ask the server for, best first, without the family of a key that was already refused. A pin does
    /// not tell which of a server's keys it is of; known_hosts does, and those come first, as in OpenSSH.
    pub fn algorithms(&self, refused: &[Algorithm]) -> Vec<Algorithm> {
        let knows = |family: &[Algorithm]| {
            self.known.iter().any(|known| known.says == Says::Known && in_family(family, &known.key.algorithm()))
        };
        let mut families: Vec<&[Algorithm]> =
            FAMILIES.into_iter().filter(|family| !refused.iter().any(|r| in_family(family, r))).collect();
        families.sort_by_key(|family| !knows(family));
        families.concat()
    }

    /// The algorithms of host certificates to ask for: none where no authority is trusted.
    pub fn certificate_algorithms(&self) -> Vec<Algorithm> {
        if self.known.iter().any(|known| known.says == Says::Authority) { FAMILIES.concat() } else { Vec::new() }
    }

    /// Whether another key of the same server could be the right one.
    pub const fn may_be_of_another_family(&self) -> bool {
        !self.pins.is_empty()
    }

    /// Whether nothing at all is known of this host.
    pub const fn is_blank(&self) -> bool {
        self.pins.is_empty() && self.known.is_empty()
    }

    /// Judges what a server offers.
    ///
    /// # Errors
    /// With a whole message for people when it is not to be trusted.
    pub fn check(&self, offered: &PublicKeyOrCertificate) -> Result<(), String> {
        let key = offered.public_key();
        if !self.pins.is_empty() {
            let print = fingerprint(&key);
            return if self.pins.contains(&print) { Ok(()) } else { Err(self.mismatch(&key, &self.pins.join(" or "))) };
        }
        self.refuse_revoked(&key)?;
        if let Some(certificate) = offered.certificate()
            && self.trusts_authority_of(certificate)?
        {
            return self.check_certificate(certificate);
        }
        let plain: Vec<&KnownKey> = self.known.iter().filter(|known| known.says == Says::Known).collect();
        if plain.iter().any(|known| known.key.key_data() == key.key_data()) {
            return Ok(());
        }
        if plain.is_empty() {
            return Err(self.unknown(&key));
        }
        let expected: Vec<String> = plain
            .iter()
            .map(|k| format!("{} ({}, {} line {})", fingerprint(&k.key), short(&k.key), k.file.display(), k.line))
            .collect();
        Err(self.mismatch(&key, &expected.join(" or ")))
    }

    fn refuse_revoked(&self, key: &PublicKey) -> Result<(), String> {
        match self.known.iter().find(|known| known.says == Says::Revoked && known.key.key_data() == key.key_data()) {
            None => Ok(()),
            Some(known) => Err(format!(
                "the host key of {} is revoked: it offers {} ({}), which {} line {} forbids; nothing was sent",
                self.name(),
                fingerprint(key),
                short(key),
                known.file.display(),
                known.line
            )),
        }
    }

    fn trusts_authority_of(&self, certificate: &Certificate) -> Result<bool, String> {
        let authority = PublicKey::new(certificate.signature_key().clone(), "");
        self.refuse_revoked(&authority)?;
        let trusted = |known: &KnownKey| known.says == Says::Authority && known.key.key_data() == authority.key_data();
        Ok(self.known.iter().any(trusted))
    }

    /// The authority is trusted; is the certificate good for this host, now?
    fn check_certificate(&self, certificate: &Certificate) -> Result<(), String> {
        let wrong = |why: String| {
            format!(
                "the host certificate of {} is not valid: {why}; its authority is {} and its id {:?}; nothing was sent",
                self.name(),
                certificate.signature_key().fingerprint(HashAlg::Sha256),
                certificate.key_id()
            )
        };
        let now = SystemTime::now().duration_since(UNIX_EPOCH).map_err(|_| wrong("the clock is before 1970".into()))?;
        let authority = certificate.signature_key().fingerprint(HashAlg::Sha256);
        if certificate.cert_type() != CertType::Host {
            return Err(wrong("it is a user's".into()));
        }
        if !(certificate.valid_after()..certificate.valid_before()).contains(&now.as_secs()) {
            return Err(wrong("the present is outside its period of validity".into()));
        }
        certificate.validate_at(now.as_secs(), [&authority]).map_err(|_| wrong("its signature does not fit".into()))?;
        if let Some((option, _)) = certificate.critical_options().iter().next() {
            return Err(wrong(format!("it demands {option:?}, which is not known here")));
        }
        let host = self.host.to_ascii_lowercase();
        let principals = certificate.valid_principals();
        if !principals.iter().any(|principal| pattern::fits(&principal.to_ascii_lowercase(), &host)) {
            return Err(wrong(format!("it is for {principals:?}")));
        }
        Ok(())
    }

    fn name(&self) -> String {
        match self.port {
            super::DEFAULT_PORT => self.host.clone(),
            port => format!("[{}]:{port}", self.host),
        }
    }

    fn mismatch(&self, key: &PublicKey, expected: &str) -> String {
        format!(
            "the host key of {} is not the expected one: it offers {} ({}), expected {expected}; nothing was sent; the key was \
             changed or this is another machine: compare with {} on the server before trusting it",
            self.name(),
            fingerprint(key),
            short(key),
            how_to_compare(key),
        )
    }

    fn unknown(&self, key: &PublicKey) -> String {
        let files: Vec<String> = self.files.iter().map(|file| file.display().to_string()).collect();
        format!(
            "the host key of {} is not known: it offers {} ({}), and no line in {} names that host; nothing was sent; compare \
             with {} on the server, then pin the fingerprint or add the host to known_hosts",
            self.name(),
            fingerprint(key),
            short(key),
            if files.is_empty() { "known_hosts".to_owned() } else { files.join(", ") },
            how_to_compare(key),
        )
    }
}

fn in_family(family: &[Algorithm], algorithm: &Algorithm) -> bool {
    family.iter().any(|member| match (member, algorithm) {
        (Algorithm::Rsa { .. }, Algorithm::Rsa { .. }) => true,
        (member, algorithm) => member == algorithm,
    })
}

fn fingerprint(key: &PublicKey) -> String {
    key.fingerprint(HashAlg::Sha256).to_string()
}

/// The name that `ssh-keygen -l` and the files in /etc/ssh give to a kind of key.
fn short(key: &PublicKey) -> &'static str {
    match key.algorithm() {
        Algorithm::Ed25519 => "ED25519",
        Algorithm::Ecdsa { .. } => "ECDSA",
        Algorithm::Rsa { .. } => "RSA",
        _ => "other",
    }
}

fn how_to_compare(key: &PublicKey) -> String {
    format!("`ssh-keygen -lf /etc/ssh/ssh_host_{}_key.pub`", short(key).to_ascii_lowercase())
}

#[cfg(test)]
mod tests {
    use super::*;

    const KEY: &str = "ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIB9dG4kjRhQTtWTVzd2t27+t0DEHBPW7iOD23TUiYLio";
    const OTHER: &str = "ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIJdD7y3aLq454yWBdwLWbieU1ebz9/cu7/QEXn9OIeZJ";

    const ECDSA: &str = "ecdsa-sha2-nistp256 AAAAE2VjZHNhLXNoYTItbmlzdHAyNTYAAAAIbmlzdHAyNTYAAABBBB+1wAFNrS6xDvIzXBN4wVxc/intPBW0\
                         vWnWycPuKrWkGA09qeHF0qcBBSyPiNhgx2IRZrsNhlOXHEFIIGTHzG0=";

    fn key(text: &str) -> PublicKey {
        PublicKey::from_openssh(text).unwrap_or_else(|e| panic!("{e}"))
    }

    fn judge(trust: &Trust, text: &str) -> Result<(), String> {
        trust.check(&key(text).into())
    }

    fn with_lines(lines: &str) -> Trust {
        let dir = tempfile::tempdir().unwrap_or_else(|e| panic!("{e}"));
        let file = dir.path().join("known_hosts");
        std::fs::write(&file, lines).unwrap_or_else(|e| panic!("{e}"));
        Trust::from_known_hosts("h", 22, vec![file])
    }

    #[test]
    fn one_of_two_pins_is_enough_and_a_third_key_is_refused_with_both_sides() {
        let pins = [fingerprint(&key(OTHER)), format!(" {}= ", fingerprint(&key(KEY)))];
        assert_eq!(judge(&Trust::pinned("h", 22, &pins), KEY), Ok(()));
        let message = judge(&Trust::pinned("h", 2222, &pins[..1]), KEY).err().unwrap_or_default();
        for part in ["[h]:2222", &fingerprint(&key(KEY)), &pins[0], "ssh-keygen -lf", "ED25519", "nothing was sent"] {
            assert!(message.contains(part), "{part} in {message}");
        }
    }

    #[test]
    fn known_unknown_changed_and_revoked() {
        assert_eq!(judge(&with_lines(&format!("h {KEY}")), KEY), Ok(()));
        let refused = |lines: String| judge(&with_lines(&lines), KEY).err().unwrap_or_default();
        assert!(refused(String::new()).contains("not known"));
        assert!(refused(format!("other {KEY}")).contains("not known"));
        assert!(refused(format!("h {OTHER}")).contains("not the expected one"));
        assert!(refused(format!("h {KEY}\n@revoked * {KEY}")).contains("revoked"));
        assert_eq!(judge(&with_lines(&format!("h {OTHER}\nh {KEY}")), KEY), Ok(()), "any of several keys");
        assert!(refused(format!("@cert-authority * {KEY}")).contains("not known"), "an authority's own key is no host key");
    }

    #[test]
    fn known_kinds_of_keys_are_asked_for_first() {
        assert_eq!(with_lines("").algorithms(&[]).first(), Some(&Algorithm::Ed25519));
        let first = with_lines(&format!("h {ECDSA}")).algorithms(&[]).first().cloned();
        assert_eq!(first, Some(Algorithm::Ecdsa { curve: EcdsaCurve::NistP256 }));
        assert!(!with_lines("").algorithms(&[Algorithm::Ed25519]).contains(&Algorithm::Ed25519));
    }
}
