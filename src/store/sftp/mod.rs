//! An SFTP account as a store, and a small SFTP server to try it with.
//!
//! [`SftpStore`] needs nothing of a server but what a write-once account permits (design: OPEN, CLOSE, READ, WRITE, STAT,
//! FSTAT, LSTAT, OPENDIR, READDIR, and where offered fsync, statvfs and limits). It speaks SFTP version 3 itself, over
//! channels of the russh library: bounded queues, no timers per request and few copies need it.
//!
//! The async runtime stays in here: every method blocks, and may be called from several threads at once.
//!
//! How the parts lie on one another: `serve` (the server) and the store stand beside each other and share only `wire`.
//! Store: this file, over `upload`, `fetch`, `listing`, `query`, `probe` (the operations), over `pool` and `retry`, over `session`
//! (`channel`, `inbox`, `wire`), over `connection` (`route`, `trust`, `login`, `tcp`).

use std::sync::Arc;
use std::time::Instant;

use tokio::runtime::Runtime;

mod channel;
mod connection;
mod fetch;
mod growth;
mod habit;
mod inbox;
mod job;
mod known_hosts;
mod listing;
mod login;
mod options;
mod pattern;
mod pool;
mod probe;
mod query;
mod refusal;
mod retry;
mod route;
pub mod serve;
mod session;
mod ssh_config;
mod tcp;
mod throttle;
mod trust;
mod turns;
mod upload;
mod watchdog;
mod wire;

pub use options::{AskPassphrase, CONNECTIONS_DEFAULT, CONNECTIONS_MAX, Rate, RateLimit, SftpOptions, Times, Waiting};

use job::Job;
use listing::Listing;
use login::Keyring;
use pool::{LANES, Open, Pool};
use retry::Budget;
use route::Hop;
use session::Session;
use throttle::Throttle;

use crate::model::limits::RECORD_MAX_BYTES;
use crate::store::location::SftpLocation;
use crate::store::probe::ProbeReport;
use crate::store::{Durability, Listed, Location, PruneStore, Store, StoreError, WriteOnceStore};

/// SSH's port (RFC 4250, section 7).
const DEFAULT_PORT: u16 = 22;
/// One READ: OpenSSH's largest.
const DOWNLOAD_PIECE_BYTES: usize = 255 * 1024;
/// Threads that encrypt and decrypt; each connection keeps one busy at most.
const THREADS_MAX: usize = 4;
/// What is no larger than a record goes at any time: a restore is not made to wait for the night to be put on record, and
/// a window is there for the bulk.
const SMALL_BYTES: u64 = RECORD_MAX_BYTES;
/// How long a store that is dropped waits to say good-bye.
const PARTING: std::time::Duration = std::time::Duration::from_millis(200);

/// An SFTP account as a store.
pub struct SftpStore {
    location: Location,
    path: String,
    hops: Arc<[Hop]>,
    options: SftpOptions,
    keyring: Arc<Keyring>,
    pool: Arc<Pool>,
    upload: Throttle,
    download: Throttle,
    runtime: Option<Runtime>,
}

impl SftpStore {
    /// Connects and logs in once, so that a wrong address, key or host key shows at once.
    ///
    /// # Errors
    /// [`StoreError::HostKey`], [`StoreError::Login`], and [`StoreError::Unreachable`] when no connection could be had.
    pub fn connect(location: &SftpLocation, options: SftpOptions) -> Result<Self, StoreError> {
        let hops = route::to(location, &options)?.into();
        let threads = std::thread::available_parallelism().map_or(1, usize::from).min(THREADS_MAX);
        let runtime = tokio::runtime::Builder::new_multi_thread()
            .worker_threads(threads)
            .thread_name("sftp")
            .enable_all()
            .build()
            .map_err(|e| StoreError::Io { name: location.to_string(), why: e.to_string() })?;
        let store = Self {
            location: Location::Sftp(location.clone()),
            path: location.path.trim_end_matches('/').to_owned(),
            hops,
            keyring: Arc::new(Keyring::new(options.passphrase.clone())),
            pool: Arc::new(Pool::new(options.connections.clamp(1, CONNECTIONS_MAX))),
            upload: Throttle::new(options.upload_limit.clone()),
            download: Throttle::new(options.download_limit.clone()),
            options,
            runtime: Some(runtime),
        };
        Budget::of_first_contact(&store.options).spend(|| store.with_session(async |_| Ok(())))?;
        Ok(store)
    }

    /// The path on the server of a name in the store; empty for the root.
    fn remote(&self, name: &str) -> String {
        match (self.path.as_str(), name) {
            ("", "") => "/".to_owned(),
            (root, "") => root.to_owned(),
            (root, name) => format!("{root}/{name}"),
        }
    }

    /// Runs one operation on a channel of its own. A channel that failed it is not used again; nor is its connection, when the
    /// server fell silent.
    fn with_session<T>(&self, work: impl AsyncFnOnce(&mut Session) -> Result<T, StoreError>) -> Result<T, StoreError> {
        let gone = || StoreError::Unreachable("the store was closed".into());
        let runtime = self.runtime.as_ref().ok_or_else(gone)?;
        let open = || runtime.block_on(self.open_first());
        let start = |wanted: Open| {
            let (pool, hops, keyring, times) =
                (Arc::clone(&self.pool), Arc::clone(&self.hops), Arc::clone(&self.keyring), self.options.times);
            runtime.spawn(async move {
                let began = Instant::now();
                let outcome = self::open(&wanted, &hops, &keyring, &times).await;
                pool.opened(&wanted, began.elapsed(), outcome);
            });
        };
        let (mut session, place) = self.pool.borrow(open, start)?;
        let (outcome, usable) = runtime.block_on(async {
            session.channel.begin();
            let outcome = work(&mut session).await;
            let broken = matches!(&outcome, Err(StoreError::Unreachable(_) | StoreError::Protocol(_)));
            // A CLOSE may be left that nobody waits for.
            let usable = !broken && session.channel.flush().await.is_ok();
            (outcome, usable)
        });
        if usable {
            place.give_back(session);
        } else if session.channel.waited_in_vain() {
            // What others wait for on this connection does not come either.
            session.connection.cut();
        } else {
            // Where the connection itself is sound, what others send on it goes on.
            runtime.spawn(async move { session.channel.close().await });
        }
        outcome
    }

    /// The first connection. Its second channel comes up beside the first: there is hardly a command that does not want
    /// both, and one after the other they would cost three round trips more.
    async fn open_first(&self) -> Result<Session, StoreError> {
        let times = self.options.times;
        let connection = Arc::new(connection::open(&self.hops, &self.keyring, &times).await?);
        let (pool, lane) = (Arc::clone(&self.pool), Open::Lane(Arc::clone(&connection), 1));
        let (second, began) = (Arc::clone(&connection), Instant::now());
        let second = tokio::spawn(async move { (Session::open(second, &times).await, began.elapsed()) });
        match Session::open(connection, &times).await {
            Ok(session) => {
                tokio::spawn(async move {
                    if let Ok((outcome, took)) = second.await {
                        pool.came_up(&lane, took, outcome);
                    }
                });
                Ok(session)
            }
            // Which of both a server takes that permits one is up to it.
            Err(refused @ StoreError::Login(_)) => match second.await {
                Ok((Ok(session), took)) => {
                    pool.came_up(&lane, took, Err(refused));
                    Ok(session)
                }
                _ => Err(refused),
            },
            Err(error) => Err(error),
        }
    }

    /// Runs an operation that changes nothing, again and again within the budget.
    fn reading<T>(&self, mut work: impl AsyncFnMut(&mut Session) -> Result<T, StoreError>) -> Result<T, StoreError> {
        Budget::new(&self.options.times).spend(|| self.with_session(&mut work))
    }

    fn fetch(&self, jobs: &mut [Job<'_>]) -> Result<(), StoreError> {
        let moved = |bytes| self.pool.received(bytes);
        self.reading(async |session| fetch::run(session, jobs, &self.download, moved).await)
    }
}

/// Opens a connection, or one more channel on a connection that is there.
async fn open(wanted: &Open, hops: &[Hop], keyring: &Keyring, times: &Times) -> Result<Session, StoreError> {
    let connection = match wanted {
        Open::Lane(connection, _) => Arc::clone(connection),
        Open::Connection => Arc::new(connection::open(hops, keyring, times).await?),
    };
    Session::open(connection, times).await
}

impl Store for SftpStore {
    fn location(&self) -> &Location {
        &self.location
    }

    fn list(&self, dirs: &[String], each: &mut dyn FnMut(Listed)) -> Result<(), StoreError> {
        let mut listing = Listing::new(dirs.iter().map(|dir| (dir.as_str(), self.remote(dir))));
        self.reading(async |session| listing.run(session, each).await)
    }

    fn stat(&self, name: &str) -> Result<Option<u64>, StoreError> {
        let path = self.remote(name);
        self.reading(async |session| query::size(session, name, &path).await)
    }

    fn sizes(&self, names: &[String]) -> Result<Vec<Option<u64>>, StoreError> {
        let paths: Vec<String> = names.iter().map(|name| self.remote(name)).collect();
        self.reading(async |session| query::sizes(session, names, &paths).await)
    }

    fn get(&self, name: &str, offset: u64, bytes: u64) -> Result<Vec<u8>, StoreError> {
        Ok(self.get_ranges(name, &[(offset, bytes)])?.pop().unwrap_or_default())
    }

    fn get_ranges(&self, name: &str, ranges: &[(u64, u64)]) -> Result<Vec<Vec<u8>>, StoreError> {
        let mut jobs = [Job::new(name, self.remote(name), ranges)];
        self.fetch(&mut jobs)?;
        let [job] = jobs;
        job.into_result()
    }

    fn get_many(&self, names: &[(String, u64)]) -> Vec<Result<Vec<u8>, StoreError>> {
        let mut jobs: Vec<Job<'_>> =
            names.iter().map(|(name, limit)| Job::new(name, self.remote(name), &[(0, limit.saturating_add(1))])).collect();
        let failed = self.fetch(&mut jobs).err();
        jobs.into_iter()
            .map(|job| match &failed {
                Some(error) if !job.is_done() => Err(error.clone()),
                _ => job.into_result().map(|mut stretches| stretches.pop().unwrap_or_default()),
            })
            .collect()
    }

    fn room(&self) -> Result<Option<u64>, StoreError> {
        let path = self.remote("");
        self.reading(async |session| Ok(refusal::stat_vfs(session, &path).await?.map(|vfs| vfs.free_bytes())))
    }

    fn parallel(&self) -> usize {
        self.options.connections.clamp(1, CONNECTIONS_MAX) * LANES
    }
}

impl WriteOnceStore for SftpStore {
    fn make_dirs(&self, dirs: &[String]) -> Result<(), StoreError> {
        let mut wanted: Vec<(String, String)> = Vec::new();
        // The root itself may have to be made, with its parents.
        for (end, _) in self.path.match_indices('/').skip(1).chain([(self.path.len(), "")]) {
            wanted.push((self.path[..end].to_owned(), self.path[..end].to_owned()));
        }
        wanted.retain(|(path, _)| !path.is_empty());
        wanted.extend(dirs.iter().filter(|dir| !dir.is_empty()).map(|dir| (self.remote(dir), dir.clone())));
        // To make a directory that exists changes nothing, so it may be tried again like a read.
        self.reading(async |session| query::make_dirs(session, &wanted).await)
    }

    fn put(&self, name: &str, bytes: &[u8]) -> Result<Durability, StoreError> {
        let (path, dir) = (self.remote(name), self.remote(name.rsplit_once('/').map_or("", |(dir, _)| dir)));
        let target = upload::Target { name, path: &path, dir: &dir };
        let moved = |bytes| self.pool.sent(bytes);
        if bytes.len() as u64 > SMALL_BYTES {
            self.upload.wait_for_window()?;
        }
        self.with_session(async |session| upload::put(session, target, bytes, &self.upload, moved).await)
    }

    fn sweep(&self, _: &[String]) -> Result<u64, StoreError> {
        Ok(0)
    }

    fn probe(&self) -> Result<Option<ProbeReport>, StoreError> {
        let root = self.remote("");
        let port = self.hops.last().map_or(DEFAULT_PORT, |hop| hop.port);
        self.with_session(async |session| probe::run(session, &root, port).await).map(Some)
    }
}

impl PruneStore for SftpStore {
    fn remove(&self, name: &str) -> Result<(), StoreError> {
        let path = self.remote(name);
        // What is gone is gone: to ask twice changes nothing.
        self.reading(async |session| query::remove(session, name, &path).await)
    }
}

impl Drop for SftpStore {
    fn drop(&mut self) {
        let Some(runtime) = self.runtime.take() else { return };
        let idle = self.pool.drain();
        let parting = async {
            for session in &idle {
                session.connection.part().await;
            }
            tokio::task::yield_now().await;
        };
        let _ = runtime.block_on(async { tokio::time::timeout(PARTING, parting).await });
        drop(idle);
        runtime.shutdown_background();
    }
}

impl std::fmt::Debug for SftpStore {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("SftpStore").field("location", &self.location).field("options", &self.options).finish_non_exhaustive()
    }
}
