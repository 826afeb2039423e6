//! A server that logs anybody in and then follows a script instead of the protocol.

use std::net::SocketAddr;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use farkeep::store::StoreError;
use farkeep::store::sftp::{SftpOptions, SftpStore};
use russh::keys::{Algorithm, HashAlg, PrivateKey};
use russh::server::{Auth, ChannelOpenHandle, Config, Handler, Msg, Session, VerifiedPublicKey};
use russh::{Channel, ChannelId};
use tempfile::TempDir;

use crate::raw::fields;
use crate::world::{KeyPair, location, options, scratch};

pub const INIT: u8 = 1;
pub const OPEN: u8 = 3;
pub const CLOSE: u8 = 4;
pub const READ: u8 = 5;
pub const WRITE: u8 = 6;
pub const LSTAT: u8 = 7;
pub const FSTAT: u8 = 8;
pub const OPENDIR: u8 = 11;
pub const READDIR: u8 = 12;
pub const EXTENDED: u8 = 200;

/// A request as the script sees it.
#[derive(Clone, Copy)]
pub struct Asked<'a> {
    pub kind: u8,
    pub id: u32,
    /// How many of this kind came before.
    pub number: usize,
    pub body: &'a [u8],
}

/// What the server does.
pub enum Act {
    /// These bytes, right or wrong.
    Say(Vec<u8>),
    /// The channel closes.
    Close,
    /// Bytes on the error channel, then what an honest server says.
    Mutter(Vec<u8>),
    /// After a while, these bytes.
    Late(Duration, Vec<u8>),
}

pub type Script = Arc<dyn Fn(Asked<'_>) -> Act + Send + Sync>;

/// A running liar.
pub struct Liar {
    runtime: Option<tokio::runtime::Runtime>,
    address: SocketAddr,
    host_key: String,
    dir: TempDir,
    key: KeyPair,
}

impl Liar {
    pub fn start(script: impl Fn(Asked<'_>) -> Act + Send + Sync + 'static) -> Self {
        Self::begin(script, None)
    }

    /// One that logs in and opens a channel, whose window is closed, and begins SFTP never.
    pub fn ending(end: End) -> Self {
        Self::begin(|asked| Act::Say(honest(asked)), Some(end))
    }

    fn begin(script: impl Fn(Asked<'_>) -> Act + Send + Sync + 'static, end: Option<End>) -> Self {
        let dir = scratch();
        let key = KeyPair::new(dir.path(), "key");
        let host_key = PrivateKey::random(&mut russh::keys::key::safe_rng(), Algorithm::Ed25519).unwrap();
        let print = host_key.public_key().fingerprint(HashAlg::Sha256).to_string();
        let mut config = Config { keys: vec![host_key], nodelay: true, ..Config::default() };
        if end.is_some() {
            config.window_size = 0;
        }
        let config = Arc::new(config);
        let script: Script = Arc::new(script);
        let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build().unwrap();
        let listener = runtime.block_on(tokio::net::TcpListener::bind("127.0.0.1:0")).unwrap();
        let address = listener.local_addr().unwrap();
        runtime.spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                let teller = Teller { script: script.clone(), unread: Vec::new(), counts: [0; 256], end };
                let config = config.clone();
                tokio::spawn(async move {
                    if let Ok(session) = russh::server::run_stream(config, stream, teller).await {
                        let _ = session.await;
                    }
                });
            }
        });
        Self { runtime: Some(runtime), address, host_key: print, dir, key }
    }

    pub fn connect(&self) -> Result<SftpStore, StoreError> {
        let mut options: SftpOptions = options(&self.key, &self.host_key);
        options.times.silence = Duration::from_secs(2);
        options.times.login = Duration::from_secs(4);
        options.times.retry_budget = Duration::from_millis(1);
        options.times.first_contact = Duration::from_millis(1);
        assert!(self.dir.path().exists());
        SftpStore::connect(&location(self.address.port(), "anybody", Path::new("/vault")), options)
    }
}

impl Drop for Liar {
    fn drop(&mut self) {
        if let Some(runtime) = self.runtime.take() {
            runtime.shutdown_background();
        }
    }
}

/// How a server ends before SFTP begins.
#[derive(Debug, Clone, Copy)]
pub enum End {
    /// It offers no SFTP.
    Refuse,
    /// The channel closes.
    Close,
    /// The whole connection does.
    HangUp,
    /// It sends and sends, and takes nothing.
    Flood,
}

struct Teller {
    script: Script,
    end: Option<End>,
    unread: Vec<u8>,
    counts: [usize; 256],
}

impl Handler for Teller {
    type Error = russh::Error;

    async fn auth_publickey(&mut self, _: &str, _: VerifiedPublicKey<'_>) -> Result<Auth, russh::Error> {
        Ok(Auth::Accept)
    }

    async fn channel_open_session(
        &mut self,
        _: Channel<Msg>,
        reply: ChannelOpenHandle,
        _: &mut Session,
    ) -> Result<(), russh::Error> {
        reply.accept().await;
        Ok(())
    }

    async fn subsystem_request(&mut self, channel: ChannelId, _: &str, session: &mut Session) -> Result<(), russh::Error> {
        match self.end {
            None => session.channel_success(channel),
            Some(End::Refuse) => session.channel_failure(channel),
            Some(End::Close) => session.close(channel),
            Some(End::HangUp) => Err(russh::Error::Disconnect),
            Some(End::Flood) => {
                session.channel_success(channel)?;
                let handle = session.handle();
                tokio::spawn(async move { while handle.data(channel, vec![0; 1 << 16]).await.is_ok() {} });
                Ok(())
            }
        }
    }

    async fn data(&mut self, channel: ChannelId, data: &[u8], session: &mut Session) -> Result<(), russh::Error> {
        self.unread.extend_from_slice(data);
        while let Some(length) = self.unread.first_chunk::<4>().map(|head| u32::from_be_bytes(*head) as usize)
            && self.unread.len() >= 4 + length
        {
            let packet: Vec<u8> = self.unread.drain(..4 + length).skip(4).collect();
            let (kind, id) = (packet[0], u32::from_be_bytes(packet[1..5].try_into().unwrap()));
            let asked = Asked { kind, id, number: self.counts[usize::from(kind)], body: &packet[5..] };
            self.counts[usize::from(kind)] += 1;
            match (self.script)(asked) {
                Act::Say(bytes) => session.data(channel, bytes)?,
                Act::Close => {
                    session.eof(channel)?;
                    session.close(channel)?;
                }
                Act::Mutter(bytes) => {
                    session.extended_data(channel, 1, bytes)?;
                    session.data(channel, honest(asked))?;
                }
                Act::Late(wait, bytes) => {
                    let handle = session.handle();
                    tokio::spawn(async move {
                        tokio::time::sleep(wait).await;
                        let _ = handle.data(channel, bytes).await;
                    });
                }
            }
        }
        Ok(())
    }
}

/// A packet of this kind for request `id`.
pub fn packet(kind: u8, id: u32, body: &[u8]) -> Vec<u8> {
    let mut packet = (body.len() as u32 + 5).to_be_bytes().to_vec();
    packet.push(kind);
    packet.extend(id.to_be_bytes());
    packet.extend(body);
    packet
}

pub fn status(id: u32, code: u32, words: &str) -> Vec<u8> {
    packet(101, id, &fields().u32(code).text(words).text("").into_vec())
}

pub fn data(id: u32, bytes: &[u8]) -> Vec<u8> {
    packet(103, id, &fields().bytes(bytes).into_vec())
}

/// Attributes of a regular file of so many bytes.
pub fn attrs(bytes: u64) -> Vec<u8> {
    fields().u32(1 | 4).u64(bytes).u32(0o100_440).into_vec()
}

/// A NAME reply with these names as regular files of one byte.
pub fn names<'a>(id: u32, names: impl Iterator<Item = &'a [u8]>) -> Vec<u8> {
    let (mut body, mut count) = (Vec::new(), 0);
    for name in names {
        body.extend(fields().bytes(name).text("").into_vec());
        body.extend(attrs(1));
        count += 1;
    }
    packet(104, id, &[fields().u32(count).into_vec(), body].concat())
}

/// What an honest server with one file of 1,000 bytes says.
pub fn honest(asked: Asked<'_>) -> Vec<u8> {
    let Asked { kind, id, body, .. } = asked;
    match kind {
        INIT => packet(2, 3, &fields().text("fsync@openssh.com").text("1").into_vec()),
        OPEN | OPENDIR => packet(102, id, &fields().text("h").into_vec()),
        FSTAT => packet(105, id, &attrs(1000)),
        READ => {
            let offset = u64::from_be_bytes(body[5..13].try_into().unwrap()) as usize;
            let bytes = u32::from_be_bytes(body[13..17].try_into().unwrap()) as usize;
            match 1000_usize.saturating_sub(offset).min(bytes) {
                0 => status(id, 1, "end"),
                count => data(id, &vec![7; count]),
            }
        }
        READDIR => status(id, 1, "end"),
        LSTAT => status(id, 2, "none"),
        EXTENDED if body.windows(6).any(|w| w == b"limits") => status(id, 8, "unknown"),
        _ => status(id, 0, "done"),
    }
}
