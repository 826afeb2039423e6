//! From an address to a logged-in SSH connection: TCP, jump hosts, host keys, keys.
//!
//! Guarantees: nothing but the key exchange is sent to a server before its host key was accepted, on every hop. Everything
//! has a time limit. A connection that is cut, or dropped, ends at once, whatever waits on it.
//!
//! Costs, against OpenSSH, eight or nine round trips: TCP, three for the key exchange (its second packet waits for the
//! acknowledgement of its first), three for the log-in.

use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use russh::client::{self, DisconnectReason, Handle, Msg};
use russh::keys::PublicKeyOrCertificate;
use russh::keys::ssh_key::Algorithm;
use russh::{Channel, Disconnect, Preferred, cipher, compression};
use tokio::io::{AsyncRead, AsyncWrite};

use super::habit::Habit;
use super::login::Keyring;
use super::options::Times;
use super::route::Hop;
use super::session::HANDLES_MAX;
use super::tcp::{self, Severed};
use super::trust::Trust;
use super::turns::Turns;
use crate::store::StoreError;

/// How much a server may send before we take note of it: above what 1 Gbit/s holds in 200 ms. Memory is bounded by what was
/// asked for.
const RECEIVE_WINDOW_BYTES: u32 = 32 * 1024 * 1024;
/// Packets of one channel that may wait to be read. Where they are more, the whole connection stands still until somebody
/// reads that channel; and a listing leaves the answers to its last CLOSEs unread, as many as it has handles, each perhaps in
/// a packet of its own, for whoever uses the channel next. Above `session::HANDLES_MAX`, then.
const UNREAD_MAX: usize = 4 * HANDLES_MAX;
/// How long a server may take to refuse a forwarded connection.
const FORWARD_TAKES: Duration = Duration::from_secs(5);
/// Keepalives without an answer before a connection counts as dead.
const KEEPALIVES_MAX: usize = 3;

/// A logged-in connection.
pub struct Connection {
    /// What its server does with handles of files.
    pub habit: Habit,
    /// Who sends first, of those that send much.
    pub uploads: Turns,
    /// And who receives first.
    pub downloads: Turns,
    handles: Vec<Handle<Gatekeeper>>,
    severed: Severed,
}

/// Why a connection was not made.
#[derive(Debug)]
enum Refusal {
    Ssh(russh::Error),
    HostKey { message: String, algorithm: Algorithm },
}

impl From<russh::Error> for Refusal {
    fn from(error: russh::Error) -> Self {
        Self::Ssh(error)
    }
}

/// What stands between the key exchange and everything else.
struct Gatekeeper {
    trust: Trust,
    parting_words: Arc<Mutex<Option<String>>>,
}

impl client::Handler for Gatekeeper {
    type Error = Refusal;

    async fn check_server_key(&mut self, offered: &PublicKeyOrCertificate) -> Result<bool, Refusal> {
        let algorithm = offered.public_key().algorithm();
        self.trust.check(offered).map(|()| true).map_err(|message| Refusal::HostKey { message, algorithm })
    }

    async fn disconnected(&mut self, reason: DisconnectReason<Refusal>) -> Result<(), Refusal> {
        match reason {
            DisconnectReason::ReceivedDisconnect(info) => {
                let words = crate::model::path::escape(info.message.as_bytes());
                *self.parting_words.lock().unwrap_or_else(PoisonError::into_inner) = Some(words);
                Ok(())
            }
            DisconnectReason::Error(e) => Err(e),
        }
    }
}

/// One attempt's outcome when a host key was refused: another family of keys may still be right.
enum Failure {
    WrongKey { hop: usize, message: String, algorithm: Algorithm },
    Other(StoreError),
}

/// Opens a connection over these hops.
///
/// # Errors
/// [`StoreError::HostKey`], [`StoreError::Login`], [`StoreError::Unreachable`] when it may work another time, and
/// [`StoreError::Protocol`] when the server cannot do what is needed.
pub async fn open(hops: &[Hop], keyring: &Keyring, times: &Times) -> Result<Connection, StoreError> {
    let mut refused: Vec<Vec<Algorithm>> = vec![Vec::new(); hops.len()];
    let mut first_message = None;
    loop {
        match attempt(hops, keyring, times, &refused).await {
            Ok(connection) => return Ok(connection),
            Err(Failure::WrongKey { hop, message, algorithm }) => {
                let message = first_message.get_or_insert(message).clone();
                refused[hop].push(algorithm);
                let trust = &hops[hop].trust;
                if !trust.may_be_of_another_family() || trust.algorithms(&refused[hop]).is_empty() {
                    return Err(if trust.is_blank() {
                        StoreError::UnknownHostKey(message)
                    } else {
                        StoreError::HostKey(message)
                    });
                }
            }
            Err(Failure::Other(error)) => {
                // The server has no key of another family: the first refusal stands.
                return Err(match (error, first_message) {
                    (StoreError::Protocol(_), Some(message)) => StoreError::HostKey(message),
                    (error, _) => error,
                });
            }
        }
    }
}

async fn attempt(hops: &[Hop], keyring: &Keyring, times: &Times, refused: &[Vec<Algorithm>]) -> Result<Connection, Failure> {
    let (first, rest) = hops.split_first().ok_or_else(|| Failure::Other(StoreError::Protocol("no server".into())))?;
    let (stream, severed) = tcp::connect(&first.host, first.port, times).await.map_err(Failure::Other)?;
    let mut handles = vec![enter(stream, 0, first, keyring, times, &refused[0]).await?];
    for (number, hop) in rest.iter().enumerate() {
        let before = &handles[number];
        let opening = before.channel_open_direct_tcpip(hop.host.clone(), u32::from(hop.port), "127.0.0.1", 0);
        let name = || format!("{} port {} through {}", hop.host, hop.port, hops[number].host);
        let stream = tokio::time::timeout(times.connect, opening)
            .await
            .map_err(|_| Failure::Other(StoreError::Unreachable(format!("{}: no answer", name()))))?
            .map_err(|e| Failure::Other(StoreError::Unreachable(format!("{}: {e}", name()))))?
            .into_stream();
        handles.push(enter(stream, number + 1, hop, keyring, times, &refused[number + 1]).await?);
    }
    Ok(Connection { habit: Habit::default(), uploads: Turns::default(), downloads: Turns::default(), handles, severed })
}

/// Key exchange and log-in on one hop.
async fn enter<S>(
    stream: S,
    number: usize,
    hop: &Hop,
    keyring: &Keyring,
    times: &Times,
    refused: &[Algorithm],
) -> Result<Handle<Gatekeeper>, Failure>
where
    S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
{
    let parting_words = Arc::new(Mutex::new(None));
    let gatekeeper = Gatekeeper { trust: hop.trust.clone(), parting_words: parting_words.clone() };
    let exchange = client::connect_stream(Arc::new(config(&hop.trust, refused, times)), stream, gatekeeper);
    let named = |why: String| Failure::Other(StoreError::Unreachable(format!("{} port {}: {why}", hop.host, hop.port)));
    let mut handle = match tokio::time::timeout(times.login, exchange).await {
        Err(_) => return Err(named(format!("no key exchange within {} s", times.login.as_secs_f32()))),
        Ok(Err(Refusal::HostKey { message, algorithm })) => {
            return Err(Failure::WrongKey { hop: number, message, algorithm });
        }
        Ok(Err(Refusal::Ssh(error))) => return Err(Failure::Other(explain(&error, hop))),
        Ok(Ok(handle)) => handle,
    };
    keyring.log_in(&mut handle, &hop.user, &hop.keys, times.login).await.map_err(|error| {
        let words = parting_words.lock().unwrap_or_else(PoisonError::into_inner).clone();
        Failure::Other(match (error, words) {
            // A server that says why it hangs up does not want us.
            (StoreError::Unreachable(_), Some(words)) => StoreError::Login(format!("{}: {words}", hop.host)),
            (StoreError::Login(why), _) => StoreError::Login(format!("{}: {why}", hop.host)),
            (StoreError::Unreachable(why), _) => StoreError::Unreachable(format!("{}: {why}", hop.host)),
            (error, _) => error,
        })
    })?;
    Ok(handle)
}

fn config(trust: &Trust, refused: &[Algorithm], times: &Times) -> client::Config {
    let preferred = Preferred {
        key: trust.algorithms(refused).into(),
        host_key_certificates: trust.certificate_algorithms().into(),
        // With the instructions that every server CPU has, GCM is half again as fast as ChaCha20 (facts in the commit).
        cipher: [cipher::AES_256_GCM, cipher::CHACHA20_POLY1305, cipher::AES_256_CTR, cipher::AES_128_CTR].to_vec().into(),
        // What is sent is ciphertext.
        compression: [compression::NONE].to_vec().into(),
        ..Preferred::DEFAULT
    };
    client::Config {
        preferred,
        window_size: RECEIVE_WINDOW_BYTES,
        keepalive_interval: Some(times.keepalive),
        keepalive_max: KEEPALIVES_MAX,
        channel_buffer_size: UNREAD_MAX,
        ..client::Config::default()
    }
}

fn explain(error: &russh::Error, hop: &Hop) -> StoreError {
    let message = format!("{} port {}: {error}", hop.host, hop.port);
    match error {
        russh::Error::NoCommonAlgo { .. }
        | russh::Error::Inconsistent
        | russh::Error::PacketSize(_)
        | russh::Error::StrictKeyExchangeViolation { .. } => StoreError::Protocol(message),
        russh::Error::WrongServerSig => StoreError::HostKey(format!("{message}: the server does not hold its host key")),
        _ => StoreError::Unreachable(message),
    }
}

impl Connection {
    /// A new channel on the last hop.
    ///
    /// # Errors
    /// [`StoreError::Login`] when the server opens none, [`StoreError::Unreachable`] when the connection broke.
    pub async fn open_channel(&self) -> Result<Channel<Msg>, StoreError> {
        let gone = || StoreError::Unreachable("connection closed".into());
        let last = self.handles.last().ok_or_else(gone)?;
        last.channel_open_session().await.map_err(|error| match error {
            russh::Error::ChannelOpenFailure(_) => StoreError::Login(format!("the server opens no session: {error}")),
            error => StoreError::Unreachable(format!("connection lost: {error}")),
        })
    }

    /// Whether the account may have the server connect to one of its own ports.
    pub async fn forwards_to_port(&self, port: u16) -> bool {
        let Some(last) = self.handles.last() else { return false };
        let opening = last.channel_open_direct_tcpip("127.0.0.1", u32::from(port), "127.0.0.1", 0);
        match tokio::time::timeout(FORWARD_TAKES, opening).await {
            // For want of a listener it was not made, but it was permitted.
            Ok(Err(russh::Error::ChannelOpenFailure(reason))) => reason == russh::ChannelOpenFailure::ConnectFailed,
            Ok(outcome) => outcome.is_ok(),
            Err(_) => false,
        }
    }

    /// Whether the account may have the server connect to one of its own sockets.
    pub async fn forwards_to_socket(&self, path: &str) -> bool {
        let Some(last) = self.handles.last() else { return false };
        // sshd gives the same reason whether it permits none or cannot connect, so only a connection tells.
        matches!(tokio::time::timeout(FORWARD_TAKES, last.channel_open_direct_streamlocal(path)).await, Ok(Ok(_)))
    }

    /// Whether it is known to have ended.
    pub fn is_closed(&self) -> bool {
        self.handles.iter().any(Handle::is_closed)
    }

    /// Ends it at once, for everybody who uses it.
    pub fn cut(&self) {
        self.severed.cut();
    }

    /// Says good-bye; the connection ends when it is dropped, answered or not.
    pub async fn part(&self) {
        if let Some(handle) = self.handles.last() {
            let _ = handle.disconnect(Disconnect::ByApplication, "done", "en").await;
        }
    }
}
