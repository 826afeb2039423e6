//! A small SFTP server over one directory: write-once by construction, for trials and tests.
//!
//! Guarantees: a file can be written only through the handle that made it, and never opened for writing again; there is no
//! rename, remove, truncation, change of attributes or link; readers write nothing at all; no path leads out of the
//! directory, and no link is followed. What it does not guarantee: to stand on the open internet for years. For that there
//! is OpenSSH with a write-once account.
//!
//! Public keys only. Whoever holds an authorized key may log in under any account name.

use std::collections::HashMap;
use std::io;
use std::net::{Shutdown, SocketAddr};
use std::os::fd::AsFd;
use std::path::PathBuf;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use russh::keys::ssh_key::{HashAlg, PrivateKey, PublicKey};
use russh::keys::{Algorithm, key};
use russh::server::Config;
use russh::{MethodKind, MethodSet, Preferred, cipher, compression};
use tokio::net::TcpListener;
use tokio::runtime::Runtime;
use tokio::sync::Semaphore;

mod dialogue;
mod gate;
mod listing;
mod root;

use gate::Gate;
use root::Root;

/// Connections at once.
const CONNECTIONS_MAX: usize = 64;
/// A refused key takes so long, so that guessing is slow.
const REFUSAL_TAKES: Duration = Duration::from_millis(300);
/// A client that says nothing for so long is gone; ours sends keepalives.
const INACTIVITY: Duration = Duration::from_secs(600);
/// Sessions whose connection was cut get so long to notice.
const STOP_PATIENCE: Duration = Duration::from_secs(2);
/// Threads of the server: one to encrypt and one to read and write.
const THREADS: usize = 2;

/// Whether clients may make directories.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Layout {
    /// The directories are there.
    Fixed,
    /// Clients may make directories: for a trial that begins with an empty one.
    AllowMkdir,
}

/// What to serve, where, and to whom.
#[derive(Debug, Clone)]
pub struct ServeOptions {
    /// The directory that clients see as `/`.
    pub root: PathBuf,
    /// The address to listen on; port 0 picks one.
    pub listen: SocketAddr,
    /// The host key as an OpenSSH private key; none makes one for this run.
    pub host_key: Option<String>,
    /// Public keys that may read and make files, as lines of authorized_keys without options.
    pub authorized: Vec<String>,
    /// Public keys that may only read.
    pub readers: Vec<String>,
    /// Whether clients may make directories.
    pub layout: Layout,
}

/// Why a server cannot start.
#[derive(Debug, thiserror::Error)]
pub enum ServeError {
    /// The directory cannot be opened.
    #[error("{}: {why}", root.display())]
    Root {
        /// The directory.
        root: PathBuf,
        /// What the system said.
        why: io::Error,
    },
    /// The address cannot be listened on.
    #[error("{listen}: {why}")]
    Listen {
        /// The address.
        listen: SocketAddr,
        /// What the system said.
        why: io::Error,
    },
    /// A key that is none.
    #[error("not {what}: {why}")]
    Key {
        /// What it should be.
        what: &'static str,
        /// What is wrong.
        why: String,
    },
}

/// Whom a server lets in, and to what.
struct House {
    root: Root,
    authorized: Vec<PublicKey>,
    readers: Vec<PublicKey>,
    layout: Layout,
}

/// The server, before it runs.
#[derive(Debug)]
pub struct Server;

/// A server that runs until it is stopped or dropped.
#[derive(Debug)]
pub struct Running {
    address: SocketAddr,
    host_key: PublicKey,
    runtime: Option<Runtime>,
    sockets: Arc<Sockets>,
}

/// The open connections: to cut them, so that their sessions end before the runtime does.
#[derive(Debug, Default)]
struct Sockets(Mutex<HashMap<u64, std::net::TcpStream>>);

impl Sockets {
    fn open(&self) -> MutexGuard<'_, HashMap<u64, std::net::TcpStream>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn cut(&self) {
        for socket in self.open().values() {
            // One that is closed already is as good.
            let _ = socket.shutdown(Shutdown::Both);
        }
    }
}

impl Server {
    /// Starts a server on threads of its own.
    ///
    /// # Errors
    /// When the directory, the address or a key is not usable.
    pub fn start(options: ServeOptions) -> Result<Running, ServeError> {
        let ServeOptions { root, listen, host_key, authorized, readers, layout } = options;
        let open = Root::open(&root).map_err(|why| ServeError::Root { root, why })?;
        let house = House { root: open, authorized: public_keys(&authorized)?, readers: public_keys(&readers)?, layout };
        let host_key = private_key(host_key.as_deref())?;
        let public = host_key.public_key().clone();

        let failed = |why| ServeError::Listen { listen, why };
        let runtime = tokio::runtime::Builder::new_multi_thread()
            .worker_threads(THREADS)
            .thread_name("serve")
            .enable_all()
            .build()
            .map_err(failed)?;
        let listener = runtime.block_on(TcpListener::bind(listen)).map_err(failed)?;
        let address = listener.local_addr().map_err(failed)?;
        let sockets = Arc::new(Sockets::default());
        runtime.spawn(accept(listener, Arc::new(config(host_key)), Arc::new(house), Arc::clone(&sockets)));
        tracing::info!(%address, "serving");
        Ok(Running { address, host_key: public, runtime: Some(runtime), sockets })
    }
}

impl Running {
    /// Where it listens.
    #[must_use]
    pub const fn address(&self) -> SocketAddr {
        self.address
    }

    /// Its host key, as a client pins it: `SHA256:...`.
    #[must_use]
    pub fn host_fingerprint(&self) -> String {
        self.host_key.fingerprint(HashAlg::Sha256).to_string()
    }

    /// Its host key, as a known_hosts file has it.
    #[must_use]
    pub const fn host_key(&self) -> &PublicKey {
        &self.host_key
    }

    /// Stops at once; connections are cut.
    pub fn stop(mut self) {
        self.cut();
    }

    fn cut(&mut self) {
        let Some(runtime) = self.runtime.take() else { return };
        // A session that outlives the runtime's timers would panic: all of them see their connection end first.
        let patience = Instant::now() + STOP_PATIENCE;
        while !self.sockets.open().is_empty() && Instant::now() < patience {
            self.sockets.cut();
            std::thread::sleep(Duration::from_millis(2));
        }
        runtime.shutdown_background();
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        self.cut();
    }
}

async fn accept(listener: TcpListener, config: Arc<Config>, house: Arc<House>, sockets: Arc<Sockets>) {
    let free = Arc::new(Semaphore::new(CONNECTIONS_MAX));
    for number in 0.. {
        let Ok(place) = free.clone().acquire_owned().await else { return };
        let (stream, peer) = match listener.accept().await {
            Ok(accepted) => accepted,
            Err(error) => {
                tracing::warn!(%error, "cannot accept a connection");
                tokio::time::sleep(Duration::from_millis(100)).await;
                continue;
            }
        };
        let _ = stream.set_nodelay(true);
        let Ok(socket) = stream.as_fd().try_clone_to_owned() else { continue };
        sockets.open().insert(number, socket.into());
        let (config, gate, sockets) = (config.clone(), Gate::new(house.clone(), peer), Arc::clone(&sockets));
        tokio::spawn(async move {
            let outcome = match russh::server::run_stream(config, stream, gate).await {
                Ok(session) => session.await,
                Err(error) => Err(error),
            };
            if let Err(error) = outcome {
                tracing::debug!(%peer, %error, "connection ended");
            }
            sockets.open().remove(&number);
            drop(place);
        });
    }
}

fn config(host_key: PrivateKey) -> Config {
    Config {
        methods: MethodSet::from(&[MethodKind::PublicKey][..]),
        auth_rejection_time: REFUSAL_TAKES,
        auth_rejection_time_initial: Some(Duration::ZERO),
        keys: vec![host_key],
        inactivity_timeout: Some(INACTIVITY),
        preferred: Preferred {
            cipher: [cipher::AES_256_GCM, cipher::CHACHA20_POLY1305, cipher::AES_256_CTR].to_vec().into(),
            compression: [compression::NONE].to_vec().into(),
            ..Preferred::DEFAULT
        },
        nodelay: true,
        ..Config::default()
    }
}

fn public_keys(lines: &[String]) -> Result<Vec<PublicKey>, ServeError> {
    let parse = |line: &String| {
        PublicKey::from_openssh(line.trim()).map_err(|e| ServeError::Key { what: "a public key", why: e.to_string() })
    };
    lines.iter().map(parse).collect()
}

fn private_key(text: Option<&str>) -> Result<PrivateKey, ServeError> {
    let wrong = |e: russh::keys::ssh_key::Error| ServeError::Key { what: "an OpenSSH private key", why: e.to_string() };
    match text {
        Some(text) => PrivateKey::from_openssh(text).map_err(wrong),
        None => PrivateKey::random(&mut key::safe_rng(), Algorithm::Ed25519).map_err(wrong),
    }
}
