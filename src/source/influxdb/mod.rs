//! InfluxDB 1.x, one database a member: `influxd backup -portable`, its shards stored unpacked.
//!
//! `influxd backup` leaves files that look whole for a database that does not exist, and tries a server that is down for four
//! minutes; `influxd restore` takes a missing shard for success. So the list of shards is compared with what is there, before
//! a backup counts and again before a restore; a restore goes into a database of another name first, and points are counted.

use std::fs::File;
use std::io::{self, BufReader, Read, Write};
use std::net::{TcpStream, ToSocketAddrs};
use std::path::{Path, PathBuf};
use std::time::Duration;

use flate2::Compression;
use flate2::bufread::GzDecoder;
use flate2::write::GzEncoder;

use crate::source::SourceError;
use crate::source::engine::{Account, Backup, Engine, Fetched, Part, PartRead, Survey};
use crate::source::http::{Http, HttpConfig};
use crate::source::tool::Tool;
use crate::source::work::Work;

mod manifest;
mod query;

use manifest::{Expected, MANIFEST_MAX_BYTES, Manifest, ShardFile};
use query::{Points, Policies, Query};

/// How long the backup port may take to accept: influxd itself would try for four minutes.
const PROBE_TIMEOUT: Duration = Duration::from_secs(5);
/// So often restored points are counted while they are not as they were, and after so long a time again; seen: less than a
/// second.
const COUNTING_ATTEMPTS: u32 = 10;
const COUNTING_PAUSE: Duration = Duration::from_millis(500);
/// The part that names the others.
const MANIFEST: &str = "manifest";
/// The part that holds the metastore.
const META: &str = "meta";
/// Before the name of a retention policy.
const POLICY: &str = "retention policy ";
/// After the name of a database that is only tried.
const TRIAL_SUFFIX: &str = "_farkeep_trial";

/// A database of an InfluxDB 1.x server.
#[derive(Debug, Clone)]
pub struct InfluxConfig {
    /// The member's name.
    pub name: String,
    /// The server's query interface.
    pub http: HttpConfig,
    /// The server's backup interface: `host:port`. It asks for no password.
    pub backup_address: String,
    /// The database.
    pub database: String,
    /// The program.
    pub influxd: String,
}

impl InfluxConfig {
    fn failed(&self, why: impl Into<String>) -> SourceError {
        SourceError::System { system: format!("InfluxDB {}/{}", self.backup_address, self.database), why: why.into() }
    }

    fn probe(&self) -> Result<(), SourceError> {
        let address = &self.backup_address;
        let found = address.to_socket_addrs().map_err(|e| self.failed(format!("{address}: {e}")))?.next();
        let found = found.ok_or_else(|| self.failed(format!("{address} is no address")))?;
        let wrong = |e: io::Error| self.failed(format!("the backup port does not answer ({e}): is bind-address set?"));
        TcpStream::connect_timeout(&found, PROBE_TIMEOUT).map(|_| ()).map_err(wrong)
    }

    /// Runs influxd and gives what it said.
    fn influxd(&self, words: &[&str], dir: &Path, work: &Work) -> Result<(), SourceError> {
        let tool = Tool::new(&self.influxd).args(words).arg(dir);
        tool.succeed(work).map(|_| ())
    }

    fn restore(&self, into: Option<&str>, dir: &Path, work: &Work) -> Result<(), SourceError> {
        let mut words = vec!["restore", "-portable", "-host", &self.backup_address, "-db", &self.database];
        if let Some(name) = into {
            words.extend(["-newdb", name]);
        }
        self.influxd(&words, dir, work)
    }
}

fn points_of(measurement: &str) -> String {
    format!("points of {measurement}")
}

fn io_error(path: &Path) -> impl FnOnce(io::Error) -> SourceError {
    let path = path.display().to_string();
    move |source| SourceError::Io { path, source }
}

impl Engine for InfluxConfig {
    fn name(&self) -> &str {
        &self.name
    }

    fn kind(&self) -> &'static str {
        "influxdb"
    }

    fn open(&self, work: &Work) -> Result<Box<dyn Backup>, SourceError> {
        self.probe()?;
        let http = Http::new(&self.http)?;
        let databases = Query::new(&http, work).databases()?;
        if !databases.contains(&self.database) {
            return Err(self.failed(format!("there is no such database; there are {}", databases.join(", "))));
        }
        Ok(Box::new(PortableBackup { config: self.clone(), http, taken: None }))
    }

    fn survey(&self, _: &Account, work: &Work) -> Result<Survey, SourceError> {
        self.probe()?;
        let http = Http::new(&self.http)?;
        let query = Query::new(&http, work);
        let mut survey = Survey { target: format!("InfluxDB {}/{}", http.url(), self.database), ..Survey::default() };
        if query.databases()?.contains(&self.database) {
            // What is to be replaced may be damaged.
            match query.points(&self.database) {
                Ok(points) => {
                    survey.destroys.push(format!("database {}: {} measurements", self.database, points.len()));
                    survey.destroys.extend(points.iter().map(|(name, count)| format!("measurement {name}: {count}")));
                }
                Err(error) => {
                    survey.destroys.push(format!("database {}, which cannot be counted ({error})", self.database));
                }
            }
            // In the plan as well: should the restore break off behind the removal, nobody else would know them.
            survey
                .notes
                .extend(query.attached(&self.database)?.into_iter().map(|what| format!("made again afterwards: {what}")));
        }
        survey.tools.insert("InfluxDB".into(), query.version()?);
        survey.notes.push("the database is first restored under another name: so much room must be free".into());
        Ok(survey)
    }

    fn check(&self, fetched: &Fetched, _: &Work) -> Result<(), SourceError> {
        let wrong = |why: String| SourceError::Expectation { what: self.name.clone(), why };
        let manifest = read_manifest(fetched, &self.database)?;
        fetched.part(META)?;
        for shard in manifest.shards() {
            let part = fetched.parts.iter().find(|part| part.name == shard.part());
            let bytes = part.map(|part| part.bytes).ok_or_else(|| wrong(format!("shard {} is missing", shard.shard)))?;
            if bytes != shard.size {
                return Err(wrong(format!("shard {} has {bytes} bytes instead of {}", shard.shard, shard.size)));
            }
        }
        Ok(())
    }

    fn replace(&self, fetched: &Fetched, work: &Work) -> Result<(), SourceError> {
        self.probe()?;
        let http = Http::new(&self.http)?;
        let query = Query::new(&http, work);
        let dir = work.scratch.join("influxdb");
        unpack(fetched, &self.database, &dir, work)?;
        let trial = format!("{}{TRIAL_SUFFIX}", self.database);
        query.drop_database(&trial)?;
        let restore = |into: Option<&str>| {
            // influxd restores no database without a shard.
            if fetched.account.holds_nothing() {
                return query.create_database(into.unwrap_or(&self.database), &policies_in(&fetched.account));
            }
            self.restore(into, &dir, work)
        };
        let tried = restore(Some(&trial)).and_then(|()| counted(&query, &trial, fetched, work));
        let tidied = query.drop_database(&trial);
        let tried = tried.map_err(|error| self.failed(format!("cannot be restored, and nothing was removed: {error}")))?;
        tidied?;
        if let Some((name, then)) = fetched.account.proof.iter().find(|(name, then)| tried.proof.get(*name) != Some(then)) {
            let now = tried.proof.get(name).cloned().unwrap_or_default();
            return Err(self.failed(format!("{name}: {then} was backed up, {now} comes back; nothing was removed")));
        }
        // They go with the database, and no backup holds them.
        let attached = query.attached(&self.database)?;
        query.drop_database(&self.database)?;
        let lost = |statements: &[String]| format!("make these again once it is restored: {}", statements.join("; "));
        if let Err(error) = restore(None) {
            let also = if attached.is_empty() { String::new() } else { format!("; {}", lost(&attached)) };
            return Err(self.failed(format!("was removed and is not restored: {error}{also}")));
        }
        let refused = query.attach(&attached);
        if !refused.is_empty() {
            return Err(self.failed(format!("the points are restored; {}", lost(&refused))));
        }
        std::fs::remove_dir_all(&dir).map_err(io_error(&dir))
    }

    fn prove(&self, fetched: &Fetched, work: &Work) -> Result<Account, SourceError> {
        let http = Http::new(&self.http)?;
        let query = Query::new(&http, work);
        let version = query.version()?;
        Ok(counted(&query, &self.database, fetched, work)?.tool("InfluxDB", version))
    }
}

/// What was restored as `database`: a measurement that is missing from it altogether counts as well. A shard that was just
/// restored has no points for a moment, so a count that is not what was backed up is asked for again.
fn counted(query: &Query<'_>, database: &str, fetched: &Fetched, work: &Work) -> Result<Account, SourceError> {
    let mut tried = 1;
    loop {
        let empty = fetched.account.holds_nothing() && query.shards(database)? == 0;
        let now = if empty { nothing_in(query, database)? } else { Account::default() };
        let now = with_points(now, query.points(database)?).or_missing(&fetched.account);
        let as_it_was = fetched.account.proof.iter().all(|(name, then)| now.proof.get(name) == Some(then));
        if as_it_was || tried == COUNTING_ATTEMPTS {
            return Ok(now);
        }
        work.check()?;
        std::thread::sleep(COUNTING_PAUSE);
        tried += 1;
    }
}

/// A database without a shard: no more than its retention policies.
fn nothing_in(query: &Query<'_>, database: &str) -> Result<Account, SourceError> {
    let mut account = Account::default().holding_nothing();
    for (name, is) in query.policies(database)? {
        account = account.proof(format!("{POLICY}{name}"), is);
    }
    Ok(account)
}

fn policies_in(account: &Account) -> Policies {
    let policy = |(line, is): (&String, &String)| Some((line.strip_prefix(POLICY)?.to_owned(), is.clone()));
    account.proof.iter().filter_map(policy).collect()
}

fn with_points(mut account: Account, points: Points) -> Account {
    for (measurement, count) in points {
        account = account.proof(points_of(&measurement), count);
    }
    account
}

fn read_manifest(fetched: &Fetched, database: &str) -> Result<Manifest, SourceError> {
    let path = fetched.part(MANIFEST)?;
    let mut bytes = Vec::new();
    let file = File::open(path).map_err(io_error(path))?;
    file.take(MANIFEST_MAX_BYTES).read_to_end(&mut bytes).map_err(io_error(path))?;
    let expected = if fetched.account.holds_nothing() { Expected::NoShard } else { Expected::Shards };
    Manifest::parse(&bytes, database, expected).map_err(|why| SourceError::Expectation { what: database.to_owned(), why })
}

/// Makes again what influxd left: files under their own names, shards gzipped.
fn unpack(fetched: &Fetched, database: &str, dir: &Path, work: &Work) -> Result<(), SourceError> {
    let manifest = read_manifest(fetched, database)?;
    match std::fs::remove_dir_all(dir) {
        Err(e) if e.kind() != io::ErrorKind::NotFound => return Err(io_error(dir)(e)),
        _ => std::fs::create_dir_all(dir).map_err(io_error(dir))?,
    }
    let meta = &manifest.meta.file_name;
    let stamp = meta.strip_suffix(".meta").unwrap_or(meta);
    for (part, name) in [(META, meta.clone()), (MANIFEST, format!("{stamp}.manifest"))] {
        let to = dir.join(name);
        std::fs::copy(fetched.part(part)?, &to).map_err(io_error(&to))?;
    }
    for shard in manifest.shards() {
        work.check()?;
        let (from, to) = (fetched.part(&shard.part())?, dir.join(&shard.file_name));
        let mut gzip = GzEncoder::new(File::create(&to).map_err(io_error(&to))?, Compression::fast());
        io::copy(&mut File::open(from).map_err(io_error(from))?, &mut gzip).map_err(io_error(&to))?;
        gzip.finish().and_then(|mut file| file.flush()).map_err(io_error(&to))?;
    }
    Ok(())
}

/// A backup, made when the first part is asked for.
struct PortableBackup {
    config: InfluxConfig,
    http: Http,
    taken: Option<Taken>,
}

struct Taken {
    points: Points,
    holds_nothing: bool,
    parts: std::vec::IntoIter<(String, PathBuf, Option<ShardFile>)>,
}

impl PortableBackup {
    fn take(&self, work: &Work) -> Result<Taken, SourceError> {
        let (config, query) = (&self.config, Query::new(&self.http, work));
        let dir = work.scratch.join("influxdb");
        std::fs::create_dir_all(&dir).map_err(io_error(&dir))?;
        let (before, holds_nothing) = (query.points(&config.database)?, query.shards(&config.database)? == 0);
        let words = ["backup", "-portable", "-host", &config.backup_address, "-db", &config.database];
        config.influxd(&words, &dir, work)?;
        let after = query.points(&config.database)?;
        let (name, bytes) = manifest::find(&dir)?;
        let expected = if holds_nothing { Expected::NoShard } else { Expected::Shards };
        let manifest = Manifest::parse(&bytes, &config.database, expected).map_err(|why| config.failed(why))?;
        let mut parts =
            vec![(MANIFEST.to_owned(), dir.join(name), None), (META.to_owned(), dir.join(&manifest.meta.file_name), None)];
        let mut shards = manifest.shards().to_vec();
        shards.sort_by_key(|shard| shard.shard);
        parts.extend(shards.into_iter().map(|shard| (shard.part(), dir.join(&shard.file_name), Some(shard))));
        if let Some((_, missing, _)) = parts.iter().find(|(_, path, _)| !path.is_file()) {
            return Err(config.failed(format!("influxd left no {}, which its manifest names", missing.display())));
        }
        // What was written meanwhile may or may not be in it: only a count that stood still describes it.
        let points = after.into_iter().filter(|(name, count)| before.get(name) == Some(count)).collect();
        Ok(Taken { points, parts: parts.into_iter(), holds_nothing })
    }
}

impl Backup for PortableBackup {
    fn next(&mut self, work: &Work) -> Result<Option<Part>, SourceError> {
        if self.taken.is_none() {
            self.taken = Some(self.take(work)?);
        }
        let next = self.taken.as_mut().and_then(|taken| taken.parts.next());
        Ok(next.map(|(name, path, shard)| match shard {
            Some(shard) => Part::new(name, move |_| Unpacked::open(path, shard)),
            None => Part::file(name, path),
        }))
    }

    fn finish(&mut self, work: &Work) -> Result<Account, SourceError> {
        let taken = self.taken.take().ok_or_else(|| self.config.failed("no backup was made"))?;
        let query = Query::new(&self.http, work);
        let version = query.version()?;
        let account = if taken.holds_nothing { nothing_in(&query, &self.config.database)? } else { Account::default() };
        let mut account = with_points(account.tool("InfluxDB", version), taken.points);
        account.tell_if_empty(&self.config.name);
        Ok(account)
    }
}

/// A shard's tar. Unchanged shards are the same tar every night, and never the same gzip.
struct Unpacked {
    from: GzDecoder<BufReader<File>>,
    path: PathBuf,
    shard: ShardFile,
    bytes: u64,
}

impl Unpacked {
    fn open(path: PathBuf, shard: ShardFile) -> Result<Self, SourceError> {
        let file = File::open(&path).map_err(io_error(&path))?;
        Ok(Self { from: GzDecoder::new(BufReader::new(file)), path, shard, bytes: 0 })
    }
}

impl PartRead for Unpacked {
    fn read(&mut self, buffer: &mut [u8]) -> Result<usize, SourceError> {
        let count = self.from.read(buffer).map_err(io_error(&self.path))?;
        self.bytes += count as u64;
        Ok(count)
    }

    fn finish(&mut self) -> Result<(), SourceError> {
        let what = self.path.display().to_string();
        if self.bytes == self.shard.size {
            return Ok(());
        }
        let why = format!("holds {} bytes, and influxd's manifest says {}", self.bytes, self.shard.size);
        Err(SourceError::Expectation { what, why })
    }
}
