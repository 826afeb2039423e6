//! An SFTP session on a channel of a connection, and what its server can do.
//!
//! Costs three round trips against OpenSSH: one to open the channel, one to start the subsystem (before that its window is
//! closed), one for version and limits together.

use std::sync::Arc;

use super::channel::Channel;
use super::connection::Connection;
use super::options::Times;
use super::wire::{EXT_FSYNC, EXT_STATVFS, Limits, OVERHEAD_BYTES, PACKET_MAX_BYTES, Reply};
use crate::store::StoreError;

/// Reads and writes of a server that tells no limits: what every server must take (draft-ietf-secsh-filexfer-02, section 3).
const PLAIN_TRANSFER_BYTES: usize = 32 * 1024;
/// The largest read and write, whatever a server offers.
const TRANSFER_MAX_BYTES: usize = PACKET_MAX_BYTES - OVERHEAD_BYTES;
/// Open handles of a server that tells no limit.
const PLAIN_HANDLES: usize = 64;
/// Open handles, whatever a server offers.
pub const HANDLES_MAX: usize = 512;

/// What a server can do.
#[derive(Debug, Clone, Copy)]
pub struct Server {
    /// Whether it knows fsync@openssh.com.
    pub fsync: bool,
    /// Whether it knows statvfs@openssh.com.
    pub statvfs: bool,
    /// The largest READ.
    pub read_bytes: usize,
    /// The largest WRITE.
    pub write_bytes: usize,
    /// Handles that may be open at once.
    pub handles: usize,
}

/// An SFTP session.
pub struct Session {
    /// Its channel.
    pub channel: Channel,
    /// What the other end can do.
    pub server: Server,
    /// The connection that carries it.
    pub connection: Arc<Connection>,
}

impl Session {
    /// Begins a session on a new channel of this connection.
    ///
    /// # Errors
    /// [`StoreError::Login`] when the server permits none, [`StoreError::Protocol`] when it speaks no SFTP that we do, and
    /// [`StoreError::Unreachable`] when the connection broke.
    pub async fn open(connection: Arc<Connection>, times: &Times) -> Result<Self, StoreError> {
        let silent = |_| StoreError::Unreachable("no answer when SFTP was to begin".into());
        let starting = tokio::time::timeout(times.login, start(&connection, times));
        let (channel, server) = starting.await.map_err(silent)??;
        Ok(Self { channel, server, connection })
    }

    /// Whether its connection is known to have ended.
    pub fn is_closed(&self) -> bool {
        self.connection.is_closed()
    }
}

async fn start(connection: &Connection, times: &Times) -> Result<(Channel, Server), StoreError> {
    let opened = connection.open_channel().await?;
    let lost = |error: russh::Error| StoreError::Unreachable(format!("connection lost: {error}"));
    opened.request_subsystem(true, "sftp").await.map_err(lost)?;
    let mut channel = Channel::new(opened, times.patience());
    let (extensions, limits) = channel.shake_hands().await?;
    let knows = |name: &str| extensions.iter().any(|extension| extension == name);
    let mut server = Server {
        fsync: knows(EXT_FSYNC),
        statvfs: knows(EXT_STATVFS),
        read_bytes: PLAIN_TRANSFER_BYTES,
        write_bytes: PLAIN_TRANSFER_BYTES,
        handles: PLAIN_HANDLES,
    };
    if let Reply::Extended(content) = limits
        && let Ok(limits) = Limits::read(&content)
    {
        server.read_bytes = within(limits.read_bytes, TRANSFER_MAX_BYTES, PLAIN_TRANSFER_BYTES);
        server.write_bytes = within(limits.write_bytes, TRANSFER_MAX_BYTES, PLAIN_TRANSFER_BYTES);
        // Some stay free for what is being closed.
        server.handles = within(limits.handles / 2, HANDLES_MAX, 2);
    }
    tracing::debug!(?server, "SFTP session");
    Ok((channel, server))
}

/// A limit that a server told, zero for none, brought between `least` and `most`.
fn within(told: u64, most: usize, least: usize) -> usize {
    match usize::try_from(told) {
        Ok(0) | Err(_) => most,
        Ok(told) => told.clamp(least, most),
    }
}
