//! MongoDB, one database a member, without the vendor's tools unless they are asked for: we write and read mongodump's
//! archive format ourselves.
//!
//! mongodump takes a misspelt database for an empty one and succeeds, waits for ever on some addresses, and prints the
//! password when a login fails; mongorestore compares checksums after it has written. Here a database that is missing or
//! empty is an error, every wait has an end, and an archive is looked through before anything at the target is touched.
//!
//! A collection is read by `_id` while others may write: each document is one that stood there, the collections together
//! are of no single moment. Where that matters, stop the writers with a hook. Users, roles and the oplog are not part of it: they
//! belong to the deployment, which mongodump takes as a whole ([`vendor::WholeConfig`]).

use std::collections::BTreeSet;
use std::fs::File;
use std::io::{BufReader, Read};
use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};

use bson::{RawDocumentBuf, doc};
use flate2::read::MultiGzDecoder;

use crate::source::SourceError;
use crate::source::engine::{Account, Backup, Engine, Fetched, Survey};
use crate::source::patience::patiently;
use crate::source::secret::Secret;
use crate::source::work::Work;

pub mod archive;
mod client;
pub mod crc64;
mod dump;
mod load;
mod metadata;
mod schema;
pub mod tally;
pub mod vendor;

use archive::Prelude;
use client::{Deployment, must_be_no_shard_if_reached};
use tally::{Tallies, Tally};
use vendor::{LOADER, Vendor, VendorDump};

/// What the server is called among the tools of a backup.
const SERVER: &str = "MongoDB server";
/// What the part is called.
const PART: &str = "archive";
/// The first bytes of a gzip stream (RFC 1952).
const GZIP_MAGIC: [u8; 2] = [0x1f, 0x8b];
/// Read at a time from a fetched archive.
const READ_BYTES: usize = 1024 * 1024;

/// A database of a MongoDB deployment.
#[derive(Debug, Clone)]
pub struct MongoConfig {
    /// The member's name.
    pub name: String,
    /// The connection string, several hosts of a replica set and a password in it.
    pub uri: Secret,
    /// Other hosts than those of the connection string: `rs0/mongo1:27017,mongo2:27017`, or without a replica set's name.
    pub hosts: Option<String>,
    /// The database.
    pub database: String,
    /// The program that makes the archive in our place.
    pub dumper: Option<Vendor>,
    /// The program that writes the documents of a restore in our place.
    pub loader: Option<Vendor>,
}

impl MongoConfig {
    /// What another kind adopted was never counted: there the archive itself says what must be.
    fn compare(&self, account: Account, fetched: &Fetched) -> Result<Account, SourceError> {
        if fetched.account.tools.contains_key(SERVER) {
            return Ok(account.or_missing(&fetched.account));
        }
        let wrong = |why: String| SourceError::Expectation { what: self.name.clone(), why };
        let (_, tallies) = tally::of_archive(open_archive(archive_of(fetched)?)?).map_err(|e| wrong(e.to_string()))?;
        match tally::account(&tallies).proof.into_iter().find(|(name, value)| account.proof.get(name) != Some(value)) {
            Some((name, value)) => Err(wrong(format!("{name}: {value} in the archive, and something else at the target"))),
            None => Ok(account),
        }
    }

    fn deployment(&self, work: &Work) -> Result<Deployment, SourceError> {
        Deployment::open(&self.uri.read()?, self.hosts.as_deref(), &self.database, work)
    }

    /// Everything under new names, by whichever program. Who changes the deployment holds `filling`, also when nobody waits for
    /// it any more.
    fn fill(
        &self,
        deployment: &Deployment,
        path: &Path,
        filling: &Arc<Mutex<()>>,
        work: &Work,
    ) -> Result<Vec<load::Described>, SourceError> {
        let Some(vendor) = &self.loader else { return step(load::fill, deployment, path, filling, work) };
        let asked = step(load::clear, deployment, path, filling, work)?;
        vendor.load(self, &asked, path, work)?;
        step(load::look_over, deployment, path, filling, work)
    }
}

fn step<T: Send + 'static>(
    act: fn(&Deployment, &Path, &AtomicBool) -> Result<T, SourceError>,
    deployment: &Deployment,
    path: &Path,
    filling: &Arc<Mutex<()>>,
    work: &Work,
) -> Result<T, SourceError> {
    let (deployment, path, filling) = (deployment.clone(), path.to_owned(), Arc::clone(filling));
    patiently(work, move |abandoned| {
        let _filling = filling.lock();
        act(&deployment, &path, abandoned)
    })
}

impl Engine for MongoConfig {
    fn name(&self) -> &str {
        &self.name
    }

    fn kind(&self) -> &'static str {
        "mongodb"
    }

    /// An archive that a script's mongodump left is brought back like one of ours.
    fn restores(&self, kind: &str) -> bool {
        [self.kind(), "spool", "command"].contains(&kind)
    }

    fn open(&self, work: &Work) -> Result<Box<dyn Backup>, SourceError> {
        if let Some(vendor) = &self.dumper {
            let dump = VendorDump::open(self, vendor, work)?;
            must_be_no_shard_if_reached(|asking| self.deployment(asking), work)?;
            return Ok(Box::new(dump));
        }
        let deployment = self.deployment(work)?;
        let asked = deployment.clone();
        let collections = patiently(work, move |_| {
            asked.must_be_no_shard()?;
            schema::read(&asked).map(|c| (c.len(), asked.databases()))
        })?;
        if let (0, databases) = collections {
            let there = if databases.is_empty() { String::new() } else { format!("; there are {}", databases.join(", ")) };
            let why = format!("the database is not there or holds nothing{there}");
            return Err(SourceError::Empty { what: deployment.title, why });
        }
        Ok(Box::new(dump::Dump::new(deployment)))
    }

    fn survey(&self, account: &Account, work: &Work) -> Result<Survey, SourceError> {
        let deployment = self.deployment(work)?;
        let target = deployment.title.clone();
        let (version, destroys) = patiently(work, move |_| {
            deployment.must_be_no_shard()?;
            let mut destroys = Vec::new();
            for listed in schema::list(&deployment)? {
                if listed.kind == "view" {
                    destroys.push(format!("view {}", listed.name));
                    continue;
                }
                let collection = deployment.database.collection::<RawDocumentBuf>(&listed.name);
                // What is to be replaced may be damaged.
                destroys.push(match collection.estimated_document_count().run() {
                    Ok(count) => format!("collection {}: {count} documents", listed.name),
                    Err(e) => format!("collection {}, which cannot be counted ({})", listed.name, deployment.error(&e)),
                });
            }
            Ok((deployment.version()?, destroys))
        })?;
        let mut survey = Survey { target, destroys, ..Survey::default() };
        if let Some(then) = account.tools.get(SERVER).filter(|then| major(then) != major(&version)) {
            survey.notes.push(format!("the backup is of a server {then}, the target is {version}"));
        }
        survey.tools.insert(SERVER.into(), version);
        if let Some(vendor) = &self.loader {
            survey.tools.insert(LOADER.into(), vendor.version(work)?);
        }
        Ok(survey)
    }

    fn check(&self, fetched: &Fetched, _: &Work) -> Result<(), SourceError> {
        let path = archive_of(fetched)?;
        let wrong = |why: String| SourceError::Expectation { what: self.name.clone(), why };
        let (prelude, tallies) = tally::of_archive(open_archive(path)?).map_err(|e| wrong(format!("the archive {e}")))?;
        if tallies.values().all(|tally| tally.documents == 0) {
            return Err(wrong("the archive holds no document".into()));
        }
        restorable(&prelude).map_err(wrong)?;
        let found = tally::account(&tallies);
        match found.proof.iter().find(|(name, value)| fetched.account.proof.get(*name).is_some_and(|then| then != *value)) {
            Some((name, value)) => {
                Err(wrong(format!("{name}: the archive has {value}, the backup recorded something else")))
            }
            None => Ok(()),
        }
    }

    fn replace(&self, fetched: &Fetched, work: &Work) -> Result<(), SourceError> {
        let (deployment, path) = (self.deployment(work)?, archive_of(fetched)?.to_owned());
        let (asked, filling) = (deployment.clone(), Arc::<Mutex<()>>::default());
        let is_first = patiently(work, move |_| load::is_begun(&asked).map(|is_begun| !is_begun))?;
        let described = self.fill(&deployment, &path, &filling, work).inspect_err(|_| {
            // Why it failed says more than what is left of it. What was begun ends first, or it would come back.
            let deployment = deployment.clone();
            let _ = patiently(&work.for_tidying(), move |abandoned| {
                let _ended = filling.lock();
                load::give_up(&deployment, is_first, abandoned)
            });
        })?;
        patiently(work, move |abandoned| load::swap(&deployment, &described, abandoned))
    }

    fn prove(&self, fetched: &Fetched, work: &Work) -> Result<Account, SourceError> {
        let deployment = self.deployment(work)?;
        patiently(work, move |abandoned| {
            let mut tallies = Tallies::new();
            for listed in schema::list(&deployment)?.into_iter().filter(|listed| listed.kind != "view") {
                let documents = deployment.database.collection::<RawDocumentBuf>(&listed.name);
                let mut tally = Tally::default();
                let failed = |e: mongodb::error::Error| deployment.error(&e);
                let mut cursor = documents.find(doc! {}).run().map_err(failed)?;
                while cursor.advance().map_err(failed)? {
                    tally.add(cursor.current().as_bytes());
                    if abandoned.load(Ordering::Relaxed) {
                        return Err(SourceError::Interrupted);
                    }
                }
                tallies.insert(listed.name, tally);
            }
            Ok(tally::account(&tallies).tool(SERVER, deployment.version()?))
        })
        .and_then(|account| self.compare(account, fetched))
    }
}

/// What must be the same for data files and dumps to be exchanged: the first two numbers of a version.
fn major(version: &str) -> Vec<&str> {
    version.split('.').take(2).collect()
}

/// The only part, whatever another kind that adopted it called it.
fn archive_of(fetched: &Fetched) -> Result<&Path, SourceError> {
    match fetched.parts.as_slice() {
        [part] => Ok(&part.path),
        _ => fetched.part(PART),
    }
}

/// Whether a restore can load an archive into one database and rename what it loaded; gives the database it was made of.
fn restorable(prelude: &Prelude) -> Result<&str, String> {
    let databases: BTreeSet<&str> = prelude.collections.iter().map(|c| c.database.as_str()).collect();
    let database = match databases.iter().copied().collect::<Vec<_>>().as_slice() {
        [] => return Err("the archive holds no collection".into()),
        [one] => *one,
        several => {
            // The oplog belongs to none.
            let named: Vec<&str> = several.iter().map(|name| if name.is_empty() { "the oplog" } else { name }).collect();
            return Err(format!("the archive holds several databases: {}", named.join(", ")));
        }
    };
    for collection in &prelude.collections {
        if collection.kind == "timeseries" {
            return Err(format!("{:?} is a time series, which cannot be brought back under another name", collection.name));
        }
        metadata::Metadata::from_json(&collection.metadata)
            .map_err(|e| format!("the description of {:?} cannot be read: {e}", collection.name))?;
    }
    Ok(database)
}

/// Opens an archive, gzipped or plain: the first bytes tell.
fn open_archive(path: &Path) -> Result<Box<dyn Read>, SourceError> {
    let file = File::open(path).map_err(|source| SourceError::Io { path: path.display().to_string(), source })?;
    Ok(if is_zipped(path)? {
        Box::new(BufReader::with_capacity(READ_BYTES, MultiGzDecoder::new(BufReader::with_capacity(READ_BYTES, file))))
    } else {
        Box::new(BufReader::with_capacity(READ_BYTES, file))
    })
}

fn is_zipped(path: &Path) -> Result<bool, SourceError> {
    let wrong = |source| SourceError::Io { path: path.display().to_string(), source };
    let mut magic = Vec::new();
    File::open(path).map_err(wrong)?.take(2).read_to_end(&mut magic).map_err(wrong)?;
    Ok(magic == GZIP_MAGIC)
}
