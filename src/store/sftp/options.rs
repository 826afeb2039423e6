//! What a caller may say about an SFTP store besides its address. Plain values: the configuration file and the command
//! line are read elsewhere.

use std::fmt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use super::watchdog::Patience;
use crate::crypto::identity::Passphrase;
use crate::store::StoreError;

/// Connections at once. OpenSSH's window is 2 MiB a channel and Linux's send buffer 4 MiB a connection, so one connection
/// carries 2 MiB per round trip: four carry 1 Gbit/s over 50 ms.
pub const CONNECTIONS_DEFAULT: usize = 4;
/// More connections than this are refused: OpenSSH drops unauthenticated ones at random from ten on (MaxStartups).
pub const CONNECTIONS_MAX: usize = 8;

/// Asks for the passphrase of a key file; none gives up on that key.
pub type AskPassphrase = Arc<dyn Fn(&Path) -> Option<Passphrase> + Send + Sync>;
/// Hears that the first contact failed, why, and for how long it is tried again.
pub type Waiting = Arc<dyn Fn(&StoreError, Duration) + Send + Sync>;
/// How fast bytes may move right now. Asked again and again, so that it may depend on the time of day.
pub type RateLimit = Arc<dyn Fn() -> Rate + Send + Sync>;

/// How fast bytes may move.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Rate {
    /// As fast as they can.
    Free,
    /// So many bytes a second.
    Limited(u64),
    /// No large object is begun. One that is under way is finished, at the rate before.
    Paused,
    /// The caller wants to stop: whoever waits gives up.
    Stopped,
}

/// How to reach an SFTP account and how hard to try.
#[derive(Clone)]
pub struct SftpOptions {
    /// Private keys in OpenSSH, PKCS#8 or PuTTY form. None: those of ~/.ssh/config, then the usual files in ~/.ssh.
    pub key_files: Vec<PathBuf>,
    /// Whether to ask the ssh-agent of SSH_AUTH_SOCK (or IdentityAgent of ~/.ssh/config) for signatures.
    pub use_agent: bool,
    /// Asked once per encrypted key file.
    pub passphrase: Option<AskPassphrase>,
    /// Accepted host keys as `SHA256:...`, as `ssh-keygen -l` prints them. One of them must be the server's; known_hosts
    /// files are then not read for the server itself. A second one serves a rotation.
    pub host_keys: Vec<String>,
    /// known_hosts files. None: those of ~/.ssh/config, then the usual ones.
    pub known_hosts: Option<Vec<PathBuf>>,
    /// The ssh configuration file: none reads none. The default is ~/.ssh/config.
    pub ssh_config: Option<PathBuf>,
    /// Connections at once, up to [`CONNECTIONS_MAX`].
    pub connections: usize,
    /// Limit of what is sent.
    pub upload_limit: Option<RateLimit>,
    /// Limit of what is received.
    pub download_limit: Option<RateLimit>,
    /// Told once when the first contact is tried again.
    pub waiting: Option<Waiting>,
    /// Every wait.
    pub times: Times,
}

/// Every wait of an SFTP store.
#[derive(Debug, Clone, Copy)]
pub struct Times {
    /// For one TCP connection.
    pub connect: Duration,
    /// For key exchange and log-in together, on one hop. sshd gives up after 120 s (LoginGraceTime).
    pub login: Duration,
    /// How long a connection that should answer may stay silent before it counts as broken.
    pub silence: Duration,
    /// How long sent bytes may stay unacknowledged (TCP_USER_TIMEOUT). SSH's own keepalive does not fire while the send
    /// buffer is full.
    pub unacknowledged: Duration,
    /// The interval of keepalives on a connection that is idle.
    pub keepalive: Duration,
    /// Bytes per second, on average over one operation, below which a link counts as broken.
    pub slowest_bytes_per_sec: u64,
    /// How long the first contact is tried again altogether: long enough for a server that drops one connection of many
    /// (sshd's MaxStartups), not so long that somebody who mistyped a port has to wait.
    pub first_contact: Duration,
    /// How long a read is tried again altogether, from its first transient failure on.
    pub retry_budget: Duration,
    /// The first wait between two tries; it doubles from there.
    pub retry_wait: Duration,
}

impl Default for Times {
    fn default() -> Self {
        Self {
            connect: Duration::from_secs(15),
            login: Duration::from_secs(60),
            silence: Duration::from_secs(60),
            unacknowledged: Duration::from_secs(45),
            keepalive: Duration::from_secs(15),
            slowest_bytes_per_sec: 1024,
            first_contact: Duration::from_secs(5),
            retry_budget: Duration::from_secs(60),
            retry_wait: Duration::from_millis(250),
        }
    }
}

impl Times {
    pub(super) const fn patience(&self) -> Patience {
        Patience { silence: self.silence, slowest_bytes_per_sec: self.slowest_bytes_per_sec }
    }
}

impl Default for SftpOptions {
    fn default() -> Self {
        Self {
            key_files: Vec::new(),
            use_agent: true,
            passphrase: None,
            host_keys: Vec::new(),
            known_hosts: None,
            ssh_config: std::env::home_dir().map(|home| home.join(".ssh/config")),
            connections: CONNECTIONS_DEFAULT,
            upload_limit: None,
            download_limit: None,
            waiting: None,
            times: Times::default(),
        }
    }
}

impl fmt::Debug for SftpOptions {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("SftpOptions")
            .field("key_files", &self.key_files)
            .field("use_agent", &self.use_agent)
            .field("host_keys", &self.host_keys)
            .field("known_hosts", &self.known_hosts)
            .field("ssh_config", &self.ssh_config)
            .field("connections", &self.connections)
            .field("times", &self.times)
            .finish_non_exhaustive()
    }
}
