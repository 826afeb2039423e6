//! Passwords and addresses that hold one: read from a file, a file descriptor or a systemd credential when they are needed.
//!
//! They never stand in a configuration, an argument or a log, and in a child's environment only where its tool offers
//! nothing else.

use std::fmt;
use std::io::Read;
use std::os::fd::RawFd;
use std::path::{Path, PathBuf};

use zeroize::Zeroizing;

use crate::source::SourceError;

/// More is no password.
const SECRET_MAX_BYTES: u64 = 64 * 1024;
/// systemd names the directory of a service's credentials here (systemd.exec(5), LoadCredential).
const CREDENTIALS_DIRECTORY: &str = "CREDENTIALS_DIRECTORY";

/// Where a secret is to be had.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Secret {
    /// The first line of a file.
    File(PathBuf),
    /// The first line that can be read from an inherited file descriptor. It can be read once, so it is kept in memory.
    Fd(RawFd),
    /// A systemd credential of this name.
    Credential(String),
}

/// A secret in memory: wiped when dropped, never shown.
#[derive(Clone)]
pub struct SecretText(Zeroizing<String>);

impl SecretText {
    /// Takes a text that is secret.
    #[must_use]
    pub fn new(text: String) -> Self {
        Self(Zeroizing::new(text))
    }

    /// The text itself.
    #[must_use]
    pub fn expose(&self) -> &str {
        &self.0
    }
}

impl fmt::Debug for SecretText {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("SecretText(..)")
    }
}

impl fmt::Display for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::File(path) => write!(f, "{}", path.display()),
            Self::Fd(fd) => write!(f, "file descriptor {fd}"),
            Self::Credential(name) => write!(f, "credential {name}"),
        }
    }
}

impl Secret {
    /// Reads it.
    ///
    /// # Errors
    /// When it cannot be had, is empty or is no text. A file that others may read is refused.
    pub fn read(&self) -> Result<SecretText, SourceError> {
        match self {
            Self::File(path) => read_file(path),
            Self::Fd(fd) => inherited::read(*fd),
            Self::Credential(name) => match std::env::var_os(CREDENTIALS_DIRECTORY) {
                Some(dir) => read_file(&Path::new(&dir).join(name)),
                None => Err(SourceError::Configuration(format!(
                    "credential {name:?}: {CREDENTIALS_DIRECTORY} is not set: it is there in a systemd service with LoadCredential="
                ))),
            },
        }
    }
}

fn read_file(path: &Path) -> Result<SecretText, SourceError> {
    use std::os::unix::fs::MetadataExt;
    let wrong = |why: String| SourceError::Configuration(format!("{}: {why}", path.display()));
    let file = std::fs::File::open(path).map_err(|e| wrong(e.to_string()))?;
    let meta = file.metadata().map_err(|e| wrong(e.to_string()))?;
    if meta.is_file() && meta.mode() & 0o007 != 0 {
        return Err(wrong(format!(
            "holds a secret and everybody may use it (mode {:04o}): chmod o= it",
            meta.mode() & 0o7777
        )));
    }
    first_line(file).map_err(wrong)
}

fn first_line(from: impl Read) -> Result<SecretText, String> {
    let mut text = Zeroizing::new(String::new());
    from.take(SECRET_MAX_BYTES).read_to_string(&mut text).map_err(|e| e.to_string())?;
    match text.lines().next() {
        Some(line) if !line.is_empty() => Ok(SecretText::new(line.to_owned())),
        _ => Err("holds no secret: its first line is empty".into()),
    }
}

/// Secrets of descriptors: each can be read once, and may be needed again for a restore's proof.
mod inherited {
    use std::collections::BTreeMap;
    use std::os::fd::RawFd;
    use std::sync::{Mutex, PoisonError};

    use super::{SecretText, SourceError, first_line};

    static READ: Mutex<BTreeMap<RawFd, SecretText>> = Mutex::new(BTreeMap::new());

    pub fn read(fd: RawFd) -> Result<SecretText, SourceError> {
        let mut known = READ.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(text) = known.get(&fd) {
            return Ok(text.clone());
        }
        let wrong = |why: String| SourceError::Configuration(format!("file descriptor {fd}: {why}"));
        // Opened by its name: a number cannot be turned into a descriptor safely.
        let file = std::fs::File::open(format!("/proc/self/fd/{fd}")).map_err(|e| wrong(e.to_string()))?;
        let text = first_line(file).map_err(wrong)?;
        known.insert(fd, text.clone());
        Ok(text)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::PermissionsExt;

    #[test]
    fn a_secret_is_a_first_line_that_others_cannot_read() {
        let dir = tempfile::tempdir().unwrap_or_else(|e| panic!("{e}"));
        let path = dir.path().join("password");
        std::fs::write(&path, "s3cret\nmore\n").unwrap_or_else(|e| panic!("{e}"));
        let mode = |mode| std::fs::set_permissions(&path, PermissionsExt::from_mode(mode)).unwrap_or_else(|e| panic!("{e}"));
        mode(0o640);
        let secret = Secret::File(path.clone()).read().unwrap_or_else(|e| panic!("{e}"));
        assert_eq!(secret.expose(), "s3cret");
        assert!(!format!("{secret:?}").contains("s3cret"));
        mode(0o644);
        assert!(Secret::File(path.clone()).read().is_err());
        mode(0o600);
        std::fs::write(&path, "\n").unwrap_or_else(|e| panic!("{e}"));
        assert!(Secret::File(path).read().is_err());
    }
}
