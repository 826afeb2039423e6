//! What a server sends on an SFTP channel, cut into packets and matched to the requests that await them.
//!
//! Guarantees: bytes are held only for a request that awaits them, and only up to the length that its kind of reply can
//! have. A reply that nobody awaits ends the session. Deliberately unaware of time: the caller bounds every wait.

use std::collections::{HashMap, VecDeque};

use bytes::{Buf, Bytes, BytesMut};
use russh::{ChannelMsg, ChannelReadHalf};

use super::wire::{LENGTH_BYTES, OVERHEAD_BYTES, PACKET_MAX_BYTES, Reply, Request};
use crate::store::StoreError;

/// The longest reply that is a status, a handle or attributes: OpenSSH's are below 400 bytes; others send whole sentences.
const SHORT_REPLY_MAX_BYTES: usize = 8 * 1024;
/// What is held before the first packet was taken: it and the answer about limits, which may come together.
const BEFORE_GREETING_MAX_BYTES: usize = 2 * (LENGTH_BYTES + SHORT_REPLY_MAX_BYTES);

/// What a request in flight may be answered with.
#[derive(Debug, Clone, Copy)]
struct Awaited {
    max_bytes: usize,
    /// Whether anybody will look at it.
    matters: bool,
}

/// The receiving half of a session.
pub struct Inbox {
    read: ChannelReadHalf,
    awaited: HashMap<u32, Awaited>,
    /// Replies that matter and were not handed out yet, arrived or not.
    open: usize,
    arrived: VecDeque<(u32, Reply)>,
    partial: BytesMut,
    /// Whether the first packet was taken, the only one without a number.
    greeted: bool,
}

fn no_sftp() -> StoreError {
    StoreError::Protocol("what it sends is not SFTP (does the account's shell print something at log-in?)".into())
}

fn closed() -> StoreError {
    StoreError::Unreachable("connection closed by the server".into())
}

impl Inbox {
    pub fn new(read: ChannelReadHalf) -> Self {
        Self { read, awaited: HashMap::new(), open: 0, arrived: VecDeque::new(), partial: BytesMut::new(), greeted: false }
    }

    /// Announces that request `id` is being sent.
    pub fn expect(&mut self, id: u32, request: &Request<'_>, matters: bool) {
        let max_bytes = match request {
            Request::Read { bytes, .. } => (*bytes as usize).min(PACKET_MAX_BYTES) + OVERHEAD_BYTES,
            Request::ReadDir(_) => PACKET_MAX_BYTES + OVERHEAD_BYTES,
            _ => SHORT_REPLY_MAX_BYTES,
        };
        self.awaited.insert(id, Awaited { max_bytes, matters });
        self.open += usize::from(matters);
    }

    pub const fn open(&self) -> usize {
        self.open
    }

    /// Whether no request is in flight, not even one whose reply nobody needs.
    pub fn is_silent(&self) -> bool {
        self.awaited.is_empty()
    }

    /// The oldest reply that has arrived.
    pub fn pop(&mut self) -> Option<(u32, Reply)> {
        let found = self.arrived.pop_front()?;
        self.open -= 1;
        Some(found)
    }

    /// The reply to one request, when it has arrived.
    pub fn pop_reply_to(&mut self, id: u32) -> Option<Reply> {
        let at = self.arrived.iter().position(|(found, _)| *found == id)?;
        let (_, reply) = self.arrived.remove(at)?;
        self.open -= 1;
        Some(reply)
    }

    /// Waits until the channel delivers something; returns how many bytes. May be dropped and called again.
    pub async fn fill(&mut self) -> Result<usize, StoreError> {
        match self.read.wait().await {
            None | Some(ChannelMsg::Eof | ChannelMsg::Close) => Err(closed()),
            Some(ChannelMsg::Data { data }) => {
                self.partial.extend_from_slice(&data);
                if self.greeted {
                    self.take_packets()?;
                } else if self.partial.len() > BEFORE_GREETING_MAX_BYTES {
                    return Err(no_sftp());
                }
                Ok(data.len())
            }
            Some(ChannelMsg::Failure) => Err(StoreError::Login("the account offers no SFTP".into())),
            // What the server prints on its error channel, or the end of its process.
            Some(_) => Ok(0),
        }
    }

    /// Waits for the server's first packet.
    pub async fn first_packet(&mut self) -> Result<Bytes, StoreError> {
        loop {
            if let Some(head) = self.partial.first_chunk::<LENGTH_BYTES>() {
                let length = u32::from_be_bytes(*head) as usize;
                if length > SHORT_REPLY_MAX_BYTES {
                    return Err(no_sftp());
                }
                if self.partial.len() >= LENGTH_BYTES + length {
                    self.partial.advance(LENGTH_BYTES);
                    let packet = self.partial.split_to(length).freeze();
                    self.greeted = true;
                    self.take_packets()?;
                    return Ok(packet);
                }
            }
            self.fill().await?;
        }
    }

    fn take_packets(&mut self) -> Result<(), StoreError> {
        while let Some(packet) = self.next_packet()? {
            let (id, reply) = Reply::read(&packet).map_err(|e| StoreError::Protocol(e.to_string()))?;
            if self.awaited.remove(&id).is_some_and(|awaited| awaited.matters) {
                self.arrived.push_back((id, reply));
            }
        }
        Ok(())
    }

    /// Cuts the next whole packet off, or none. Its length is judged by the request that it answers before it is held.
    fn next_packet(&mut self) -> Result<Option<Bytes>, StoreError> {
        const HEAD_BYTES: usize = LENGTH_BYTES + 5;
        let Some(head) = self.partial.first_chunk::<HEAD_BYTES>() else { return Ok(None) };
        let [l0, l1, l2, l3, _kind, i0, i1, i2, i3] = *head;
        let length = u32::from_be_bytes([l0, l1, l2, l3]) as usize;
        match self.awaited.get(&u32::from_be_bytes([i0, i1, i2, i3])) {
            None => return Err(StoreError::Protocol("it answers a request that was not made".into())),
            Some(awaited) if length > awaited.max_bytes => {
                return Err(StoreError::Protocol(format!("a reply of {length} bytes")));
            }
            Some(_) => {}
        }
        if self.partial.len() < LENGTH_BYTES + length {
            self.partial.reserve(LENGTH_BYTES + length - self.partial.len());
            return Ok(None);
        }
        self.partial.advance(LENGTH_BYTES);
        Ok(Some(self.partial.split_to(length).freeze()))
    }
}
