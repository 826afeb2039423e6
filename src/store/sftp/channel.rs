//! One SFTP session on one SSH channel: many requests in flight, replies in any order.
//!
//! Small requests are gathered and go out together, at the latest when somebody waits for a reply: each sent by itself would
//! be a TCP segment of its own, and a young connection may have ten of those under way.
//!
//! Guarantees: every wait is bounded by the watchdog; sending never deadlocks, because replies are taken in while the
//! peer's window is closed. After an error the session is of no more use. Deliberately unaware of files and of how the
//! channel came to be. It is owned by one operation at a time.

use std::time::{Duration, Instant};

use bytes::Bytes;
use russh::{ChannelWriteHalf, client};

use super::inbox::Inbox;
use super::watchdog::{Patience, Watchdog};
use super::wire::{Reply, Request, VERSION};
use crate::store::StoreError;

/// Requests that are gathered before they go out: what OpenSSH takes in one packet of SSH.
const GATHERED_MAX_BYTES: usize = 32 * 1024;

/// The client's end of an SFTP session.
pub struct Channel {
    write: ChannelWriteHalf<client::Msg>,
    /// Requests that have not gone out yet.
    gathered: Vec<u8>,
    inbox: Inbox,
    next_id: u32,
    dog: Watchdog,
    patience: Patience,
    /// The handle that was given back last.
    last_closed: Option<Vec<u8>>,
    /// When a request went out while no other was in flight.
    asked_alone: Option<Instant>,
    quickest_reply: Duration,
}

fn broken(error: russh::Error) -> StoreError {
    StoreError::Unreachable(format!("connection lost: {error}"))
}

impl Channel {
    /// Takes an open channel on which the SFTP subsystem was asked for.
    pub fn new(channel: russh::Channel<client::Msg>, patience: Patience) -> Self {
        let (read, write) = channel.split();
        Self {
            write,
            gathered: Vec::new(),
            inbox: Inbox::new(read),
            next_id: 0,
            dog: Watchdog::start(patience),
            patience,
            last_closed: None,
            asked_alone: None,
            quickest_reply: Duration::MAX,
        }
    }

    /// The handshake of the protocol. The question for the server's limits goes out in the same breath, so that both cost
    /// one round trip. Returns the names of the server's extensions, and its answer about limits.
    ///
    /// # Errors
    /// When the server does not speak version 3, or the session broke.
    pub async fn shake_hands(&mut self) -> Result<(Vec<String>, Reply), StoreError> {
        let limits = self.next_id;
        self.next_id += 1;
        self.inbox.expect(limits, &Request::Limits, true);
        let mut hello = Request::init(VERSION);
        hello.extend(Request::Limits.write(limits));
        self.put_through(hello.into()).await?;

        let packet = self.dog.wait(self.inbox.first_packet()).await??;
        let (version, extensions) =
            Reply::read_version(&packet).map_err(|_| StoreError::Protocol("its first packet is no SFTP version".into()))?;
        if version != VERSION {
            return Err(StoreError::Protocol(format!("it speaks SFTP version {version} where 3 was asked for")));
        }
        Ok((extensions, self.reply_to(limits).await?))
    }

    /// Starts the watchdog's account of a new operation.
    pub fn begin(&mut self) {
        self.dog = Watchdog::start(self.patience);
    }

    /// The running operation's account.
    pub const fn dog(&mut self) -> &mut Watchdog {
        &mut self.dog
    }

    /// Whether the running operation failed because the peer was silent, or slow, for too long.
    pub const fn waited_in_vain(&self) -> bool {
        self.dog.has_given_up()
    }

    /// Ends the session, whatever is in flight; the connection's other channels do not notice.
    pub async fn close(&self) {
        let _ = self.write.close().await;
    }

    /// The handle that was given back last.
    pub fn last_closed(&self) -> Option<&[u8]> {
        self.last_closed.as_deref()
    }

    /// The quickest reply to a request that was alone: a round trip and a little more.
    pub const fn quickest_reply(&self) -> Duration {
        self.quickest_reply
    }

    /// Requests whose replies matter and were not handed out yet.
    pub const fn in_flight(&self) -> usize {
        self.inbox.open()
    }

    /// Sends a request, now or with the next ones; its reply comes out of [`reply`](Self::reply) under the number that is
    /// returned.
    ///
    /// # Errors
    /// When the session broke or the peer misbehaves.
    pub async fn send(&mut self, request: Request<'_>) -> Result<u32, StoreError> {
        self.post(request, true).await
    }

    /// Sends a request whose reply nobody needs.
    ///
    /// # Errors
    /// As [`send`](Self::send).
    pub async fn send_unheard(&mut self, request: Request<'_>) -> Result<(), StoreError> {
        self.post(request, false).await.map(drop)
    }

    /// Sends one request and waits for its reply.
    ///
    /// # Errors
    /// As [`send`](Self::send).
    pub async fn ask(&mut self, request: Request<'_>) -> Result<Reply, StoreError> {
        let id = self.send(request).await?;
        self.reply_to(id).await
    }

    /// The next reply, whichever request it answers.
    ///
    /// # Errors
    /// As [`send`](Self::send).
    pub async fn reply(&mut self) -> Result<(u32, Reply), StoreError> {
        loop {
            if let Some(found) = self.inbox.pop() {
                return Ok(found);
            }
            self.fill().await?;
        }
    }

    /// The reply to one request; those to others wait.
    ///
    /// # Errors
    /// As [`send`](Self::send).
    pub async fn reply_to(&mut self, id: u32) -> Result<Reply, StoreError> {
        loop {
            if let Some(reply) = self.inbox.pop_reply_to(id) {
                return Ok(reply);
            }
            self.fill().await?;
        }
    }

    /// Sends what was gathered. Waiting for a reply does so by itself.
    ///
    /// # Errors
    /// As [`send`](Self::send).
    pub async fn flush(&mut self) -> Result<(), StoreError> {
        if self.gathered.is_empty() {
            return Ok(());
        }
        let gathered = Bytes::from(std::mem::take(&mut self.gathered));
        self.put_through(gathered).await
    }

    async fn fill(&mut self) -> Result<(), StoreError> {
        self.flush().await?;
        let bytes = self.dog.wait(self.inbox.fill()).await??;
        self.dog.moved(bytes);
        if let Some(asked) = self.asked_alone.take() {
            self.quickest_reply = self.quickest_reply.min(asked.elapsed());
        }
        Ok(())
    }

    async fn post(&mut self, request: Request<'_>, matters: bool) -> Result<u32, StoreError> {
        let id = self.next_id;
        self.next_id = self.next_id.wrapping_add(1);
        if matters && self.inbox.is_silent() {
            self.asked_alone = Some(Instant::now());
        }
        self.inbox.expect(id, &request, matters);
        if let Request::Close(handle) = request {
            self.last_closed = Some(handle.to_vec());
        }
        let packet = request.write(id);
        if self.gathered.len() + packet.len() > GATHERED_MAX_BYTES {
            self.flush().await?;
        }
        if packet.len() > GATHERED_MAX_BYTES {
            self.put_through(Bytes::from(packet)).await?;
        } else {
            self.gathered.extend_from_slice(&packet);
        }
        Ok(id)
    }

    async fn put_through(&mut self, packets: Bytes) -> Result<(), StoreError> {
        let bytes = packets.len();
        let sending = self.write.data_bytes(packets);
        tokio::pin!(sending);
        loop {
            let step = async {
                tokio::select! {
                    biased;
                    sent = &mut sending => Ok(sent),
                    filled = self.inbox.fill() => Err(filled),
                }
            };
            match self.dog.wait(step).await? {
                Ok(sent) => {
                    sent.map_err(broken)?;
                    self.dog.moved(bytes);
                    return Ok(());
                }
                Err(filled) => self.dog.moved(filled?),
            }
        }
    }
}
