//! Where a store is: `sftp://user@host:port/path`, `file:///path`, or a plain path.

use std::fmt;
use std::path::{Path, PathBuf};
use std::str::FromStr;

/// Text that names no store.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("not a store: {text:?}: {why} (write sftp://user@host[:port]/path, file:///path, or a path)")]
pub struct LocationError {
    text: String,
    why: &'static str,
}

/// The address of a store.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub enum Location {
    /// A directory of this machine.
    Directory(PathBuf),
    /// A directory reached over SFTP.
    Sftp(SftpLocation),
    /// Bytes in this process, for tests.
    Memory,
}

/// An SFTP account and a directory there.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct SftpLocation {
    /// The account; none asks ~/.ssh/config, then the local user name.
    pub user: Option<String>,
    /// A host name, an address, or an alias of ~/.ssh/config.
    pub host: String,
    /// The port; none asks ~/.ssh/config, then 22.
    pub port: Option<u16>,
    /// The directory, absolute within what the account sees.
    pub path: String,
}

impl Location {
    /// The directory, when the store is one of this machine.
    #[must_use]
    pub fn directory(&self) -> Option<&Path> {
        match self {
            Self::Directory(path) => Some(path),
            _ => None,
        }
    }
}

impl FromStr for Location {
    type Err = LocationError;

    fn from_str(text: &str) -> Result<Self, LocationError> {
        let wrong = |why| LocationError { text: text.to_owned(), why };
        if let Some(rest) = text.strip_prefix("sftp://") {
            return parse_sftp(rest).map(Self::Sftp).map_err(wrong);
        }
        if let Some(path) = text.strip_prefix("file://") {
            return if path.starts_with('/') {
                Ok(Self::Directory(path.into()))
            } else {
                Err(wrong("file:// needs an absolute path"))
            };
        }
        if text.contains("://") {
            return Err(wrong("unknown scheme"));
        }
        if text.is_empty() {
            return Err(wrong("empty"));
        }
        std::path::absolute(text).map(Self::Directory).map_err(|_| wrong("not a path"))
    }
}

fn parse_sftp(rest: &str) -> Result<SftpLocation, &'static str> {
    let (authority, path) = rest.split_once('/').ok_or("no path after the host")?;
    let (user, host_port) = match authority.rsplit_once('@') {
        Some((user, host)) => (Some(user), host),
        None => (None, authority),
    };
    let (host, port) = if let Some(rest) = host_port.strip_prefix('[') {
        let (host, after) = rest.split_once(']').ok_or("an IPv6 address without ]")?;
        match after {
            "" => (host, None),
            _ => (host, Some(after.strip_prefix(':').ok_or("text after ]")?)),
        }
    } else {
        match host_port.split_once(':') {
            Some((_, port)) if port.contains(':') => return Err("an IPv6 address stands in brackets"),
            Some((host, port)) => (host, Some(port)),
            None => (host_port, None),
        }
    };
    let port = port.map(str::parse::<u16>).transpose().map_err(|_| "not a port")?;
    if port == Some(0) {
        return Err("not a port");
    }
    if host.is_empty() || user.is_some_and(str::is_empty) {
        return Err("no host or user");
    }
    if user.is_some_and(|u| u.contains(':')) {
        return Err("a password does not belong into an address; use a key");
    }
    let bad = |c: char| c.is_control() || c == '\u{fffd}' || c.is_whitespace();
    if host.contains(bad) || user.is_some_and(|u| u.contains(bad)) || path.contains(|c: char| c.is_control()) {
        return Err("a control character or space");
    }
    let path = format!("/{}", path.trim_end_matches('/'));
    if path.split('/').any(|part| part == "..") {
        return Err("a path with ..");
    }
    Ok(SftpLocation { user: user.map(str::to_owned), host: host.to_owned(), port, path })
}

impl fmt::Display for Location {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Directory(path) => f.write_str(&crate::model::path::escape(path.as_os_str().as_encoded_bytes())),
            Self::Sftp(sftp) => write!(f, "{sftp}"),
            Self::Memory => f.write_str("memory"),
        }
    }
}

impl fmt::Display for SftpLocation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("sftp://")?;
        if let Some(user) = &self.user {
            write!(f, "{user}@")?;
        }
        if self.host.contains(':') {
            write!(f, "[{}]", self.host)?
        } else {
            f.write_str(&self.host)?
        }
        if let Some(port) = self.port {
            write!(f, ":{port}")?;
        }
        f.write_str(&self.path)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_parse_what_they_print() {
        for text in [
            "sftp://bk-host1@backup.example.org/vault",
            "sftp://u@backup:2222/srv/backup/vault",
            "sftp://u@[2001:db8::1]:2222/vault",
            "sftp://alias/vault",
            "/mnt/drive/vault",
        ] {
            assert_eq!(text.parse::<Location>().map(|l| l.to_string()).as_deref(), Ok(text));
        }
        assert_eq!("file:///srv/v".parse::<Location>(), Ok(Location::Directory("/srv/v".into())));
    }

    #[test]
    fn near_misses_are_refused_with_a_reason() {
        for text in [
            "",
            "sftp://host",
            "sftp://@host/x",
            "sftp://u@/x",
            "sftp://u@h:0/x",
            "sftp://u@h:99999/x",
            "sftp://u:pw@h/x",
            "sftp://2001:db8::1/x",
            "sftp://u@h/a/../b",
            "ftp://h/x",
            "file://relative",
        ] {
            assert!(text.parse::<Location>().is_err(), "{text}");
        }
    }
}
