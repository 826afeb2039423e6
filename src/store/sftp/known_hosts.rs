//! known_hosts files (sshd(8), "SSH_KNOWN_HOSTS FILE FORMAT"): plain, `[host]:port`, hashed and wildcard names, `@revoked` and
//! `@cert-authority` lines.
//!
//! Only reads. A line that cannot be understood is skipped and logged, as OpenSSH does: it can only make fewer keys known.

use std::path::{Path, PathBuf};

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use hmac::{Hmac, KeyInit, Mac};
use russh::keys::ssh_key::PublicKey;
use sha1::Sha1;

use super::pattern;

/// A known_hosts file longer than this is not one.
const FILE_MAX_BYTES: u64 = 16 * 1024 * 1024;

/// What a line says about its key.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Says {
    /// It is the host's.
    Known,
    /// It signs the host's certificates.
    Authority,
    /// It must not be used any more.
    Revoked,
}

/// A line that is about a host.
#[derive(Debug, Clone)]
pub struct KnownKey {
    /// What it says.
    pub says: Says,
    /// The key.
    pub key: PublicKey,
    /// Where it stands.
    pub file: PathBuf,
    /// Its line, from 1.
    pub line: usize,
}

/// Every line of `files` that is about `host` at `port`. Where none is about that port, those that name the host alone, as
/// OpenSSH does. Files that do not exist say nothing.
pub fn look_up(files: &[PathBuf], host: &str, port: u16) -> Vec<KnownKey> {
    let host = host.to_ascii_lowercase();
    let contents: Vec<(&PathBuf, String)> = files.iter().filter_map(|file| Some((file, read(file)?))).collect();
    let about = |name: &str| -> Vec<KnownKey> {
        contents.iter().flat_map(|(file, content)| in_content(content, file, name)).collect()
    };
    if port == super::DEFAULT_PORT {
        return about(&host);
    }
    let with_port = about(&format!("[{host}]:{port}"));
    let says_nothing_of_the_key = with_port.iter().all(|known| known.says == Says::Revoked);
    if says_nothing_of_the_key { with_port.into_iter().chain(about(&host)).collect() } else { with_port }
}

fn read(file: &Path) -> Option<String> {
    match std::fs::metadata(file) {
        Ok(metadata) if metadata.len() > FILE_MAX_BYTES => {
            tracing::warn!(file = %file.display(), "known_hosts file is too long, ignored");
            return None;
        }
        _ => {}
    }
    match std::fs::read(file) {
        Ok(content) => Some(String::from_utf8_lossy(&content).into_owned()),
        Err(e) if e.kind() == std::io::ErrorKind::NotFound => None,
        Err(e) => {
            tracing::warn!(file = %file.display(), error = %e, "known_hosts file cannot be read");
            None
        }
    }
}

fn in_content(content: &str, file: &Path, name: &str) -> Vec<KnownKey> {
    let mut found = Vec::new();
    for (number, line) in content.lines().enumerate() {
        let line = line.trim();
        if line.is_empty() || line.starts_with('#') {
            continue;
        }
        match parse_line(line, name) {
            Ok(Some((says, key))) => found.push(KnownKey { says, key, file: file.to_owned(), line: number + 1 }),
            Ok(None) => {}
            Err(()) => tracing::debug!(file = %file.display(), line = number + 1, "known_hosts line not understood"),
        }
    }
    found
}

/// What one line says about `name`; none when it is about others.
fn parse_line(line: &str, name: &str) -> Result<Option<(Says, PublicKey)>, ()> {
    let mut fields = line.split_ascii_whitespace();
    let mut hosts = fields.next().ok_or(())?;
    let says = match hosts {
        "@revoked" => Says::Revoked,
        "@cert-authority" => Says::Authority,
        marker if marker.starts_with('@') => return Err(()),
        _ => Says::Known,
    };
    if says != Says::Known {
        hosts = fields.next().ok_or(())?;
    }
    if !names(hosts, name)? {
        return Ok(None);
    }
    let (kind, blob) = (fields.next().ok_or(())?, fields.next().ok_or(())?);
    let key = PublicKey::from_openssh(&format!("{kind} {blob}")).map_err(|_| ())?;
    Ok(Some((says, key)))
}

/// Whether the first field of a line names the host.
fn names(hosts: &str, name: &str) -> Result<bool, ()> {
    let Some(hashed) = hosts.strip_prefix("|1|") else {
        let lower = hosts.to_ascii_lowercase();
        return Ok(pattern::any_fits(lower.split(','), name));
    };
    let (salt, hash) = hashed.split_once('|').ok_or(())?;
    let (salt, hash) = (STANDARD.decode(salt).map_err(|_| ())?, STANDARD.decode(hash).map_err(|_| ())?);
    let mut mac = Hmac::<Sha1>::new_from_slice(&salt).map_err(|_| ())?;
    mac.update(name.as_bytes());
    Ok(mac.verify_slice(&hash).is_ok())
}

#[cfg(test)]
mod tests {
    use super::*;

    const KEY: &str = "ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIB9dG4kjRhQTtWTVzd2t27+t0DEHBPW7iOD23TUiYLio";
    /// `ssh-keygen -H` made this of `[backup.example.org]:2222`.
    const HASHED: &str = "|1|lAk1t19hbvJ0i2Q3KKeNn3EDYck=|gjV2lKigo8l3tWDxfls/f9nOT3g=";

    fn said(content: &str, host: &str, port: u16) -> Vec<Says> {
        let dir = tempfile::tempdir().unwrap_or_else(|e| panic!("{e}"));
        let file = dir.path().join("known_hosts");
        std::fs::write(&file, content).unwrap_or_else(|e| panic!("{e}"));
        look_up(&[file], host, port).into_iter().map(|known| known.says).collect()
    }

    #[test]
    fn plain_port_wildcard_and_excluded_names() {
        let content = format!("# comment\n\nbackup.example.org,10.0.0.1 {KEY} comment\n*.net,!bad.net\t{KEY}\nbroken\n");
        assert_eq!(said(&content, "Backup.Example.org", 22), [Says::Known]);
        assert_eq!(said(&content, "10.0.0.1", 22), [Says::Known]);
        assert_eq!(said(&content, "good.net", 22), [Says::Known]);
        assert!(said(&content, "bad.net", 22).is_empty());
        assert!(said(&content, "elsewhere.org", 22).is_empty());
        assert_eq!(said(&content, "10.0.0.1", 2222), [Says::Known], "without a line for the port, the host's counts");
        assert!(said(&format!("[h]:2222 {KEY}"), "h", 22).is_empty());
        assert_eq!(said(&format!("[h]:2222 {KEY}"), "h", 2222), [Says::Known]);
    }

    #[test]
    fn markers() {
        let content = format!("@cert-authority *.org {KEY}\n@revoked * {KEY}\n@other * {KEY}\n");
        assert_eq!(said(&content, "a.org", 22), [Says::Authority, Says::Revoked]);
        assert_eq!(said(&content, "a.net", 22), [Says::Revoked]);
    }

    #[test]
    fn hashed_names() {
        let content = format!("{HASHED} {KEY}");
        assert_eq!(said(&content, "backup.example.org", 2222), [Says::Known]);
        assert!(said(&content, "backup.example.org", 22).is_empty());
        assert!(said("|1|broken", "backup.example.org", 22).is_empty());
    }
}
