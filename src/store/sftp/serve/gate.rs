//! The SSH side of the server: who may log in, and the one thing that can be opened, the SFTP subsystem.
//!
//! Requests are carried out in the order in which they arrive, and none while the client's window is closed: so neither
//! side can make the other hold more than a window.

use std::collections::HashMap;
use std::net::SocketAddr;
use std::sync::Arc;

use russh::keys::ssh_key::PublicKey;
use russh::server::{Auth, ChannelOpenHandle, Handler, Msg, PublicKeyOffer, Session, VerifiedPublicKey};
use russh::{Channel, ChannelId, ChannelOpenFailure};

use super::House;
use super::dialogue::{Dialogue, Misbehaviour, Role};

/// Channels of one connection, as in OpenSSH (MaxSessions).
const CHANNELS_MAX: usize = 10;
/// Replies that are sent together: some, so that small ones share packets.
const BATCH_BYTES: usize = 64 * 1024;

/// One connection.
pub struct Gate {
    house: Arc<House>,
    peer: SocketAddr,
    role: Option<Role>,
    /// Open channels, with the SFTP session where one was begun.
    channels: HashMap<ChannelId, Option<Dialogue>>,
}

/// Why a connection ends.
#[derive(Debug, thiserror::Error)]
pub enum Ended {
    /// The SSH library's reason.
    #[error(transparent)]
    Ssh(#[from] russh::Error),
    /// The client's fault.
    #[error(transparent)]
    Misbehaviour(#[from] Misbehaviour),
}

impl Gate {
    pub fn new(house: Arc<House>, peer: SocketAddr) -> Self {
        Self { house, peer, role: None, channels: HashMap::new() }
    }

    fn role_of(&self, key: &PublicKey) -> Option<Role> {
        let among = |keys: &[PublicKey]| keys.iter().any(|known| known.key_data() == key.key_data());
        if among(&self.house.authorized) {
            Some(Role::Writer)
        } else if among(&self.house.readers) {
            Some(Role::Reader)
        } else {
            None
        }
    }

    /// Answers what has arrived, as far as the client's window permits.
    fn go_on(&mut self, channel: ChannelId, session: &mut Session) -> Result<(), Ended> {
        let Some(Some(dialogue)) = self.channels.get_mut(&channel) else { return Ok(()) };
        while !session.has_pending_data(channel) {
            let mut batch = Vec::new();
            while batch.len() < BATCH_BYTES
                && let Some(reply) = tokio::task::block_in_place(|| dialogue.answer())?
            {
                batch.extend(reply);
            }
            if batch.is_empty() {
                break;
            }
            session.data(channel, batch)?;
        }
        Ok(())
    }
}

impl Handler for Gate {
    type Error = Ended;

    async fn auth_publickey_offered(&mut self, _: &str, offer: PublicKeyOffer<'_>) -> Result<Auth, Ended> {
        Ok(if self.role_of(offer.public_key).is_some() { Auth::Accept } else { Auth::reject() })
    }

    async fn auth_publickey(&mut self, user: &str, key: VerifiedPublicKey<'_>) -> Result<Auth, Ended> {
        self.role = self.role_of(key.public_key);
        let Some(role) = self.role else { return Ok(Auth::reject()) };
        tracing::info!(peer = %self.peer, user = %crate::model::path::escape(user.as_bytes()), ?role, "logged in");
        Ok(Auth::Accept)
    }

    async fn channel_open_session(
        &mut self,
        channel: Channel<Msg>,
        reply: ChannelOpenHandle,
        _: &mut Session,
    ) -> Result<(), Ended> {
        if self.channels.len() >= CHANNELS_MAX {
            reply.reject(ChannelOpenFailure::ResourceShortage).await;
        } else {
            self.channels.insert(channel.id(), None);
            reply.accept().await;
        }
        Ok(())
    }

    async fn subsystem_request(&mut self, channel: ChannelId, name: &str, session: &mut Session) -> Result<(), Ended> {
        match (self.channels.get_mut(&channel), self.role) {
            (Some(slot @ None), Some(role)) if name == "sftp" => {
                *slot = Some(Dialogue::new(self.house.clone(), role));
                session.channel_success(channel)?;
            }
            _ => session.channel_failure(channel)?,
        }
        Ok(())
    }

    async fn shell_request(&mut self, channel: ChannelId, session: &mut Session) -> Result<(), Ended> {
        Ok(session.channel_failure(channel)?)
    }

    async fn exec_request(&mut self, channel: ChannelId, _: &[u8], session: &mut Session) -> Result<(), Ended> {
        Ok(session.channel_failure(channel)?)
    }

    async fn data(&mut self, channel: ChannelId, data: &[u8], session: &mut Session) -> Result<(), Ended> {
        if let Some(Some(dialogue)) = self.channels.get_mut(&channel) {
            dialogue.feed(data)?;
            self.go_on(channel, session)?;
        }
        Ok(())
    }

    async fn window_adjusted(&mut self, channel: ChannelId, _: u32, session: &mut Session) -> Result<(), Ended> {
        self.go_on(channel, session)
    }

    async fn channel_eof(&mut self, channel: ChannelId, session: &mut Session) -> Result<(), Ended> {
        if self.channels.remove(&channel).is_some() {
            // OpenSSH's clients wait for the end of the server's process.
            session.exit_status_request(channel, 0)?;
            session.eof(channel)?;
            session.close(channel)?;
        }
        Ok(())
    }

    async fn channel_close(&mut self, channel: ChannelId, _: &mut Session) -> Result<(), Ended> {
        self.channels.remove(&channel);
        Ok(())
    }
}
