//! All databases of a deployment as one member, by the vendor's programs, and with `--oplog` of the one moment at which the
//! dump ended: what was written while collections were read one after another stands in the oplog, and is replayed.
//!
//! mongorestore replays an oplog under the collections' own names alone. So this is the one restore that begins to replace
//! before all of it has come back: everything is looked through before, and when it breaks off, the same command does it
//! again from its start. What the oplog may have changed is counted by nobody; all other collections are.

use std::collections::{BTreeMap, BTreeSet};
use std::io::Read;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use bson::{RawDocumentBuf, doc};

use super::super::archive::{ArchiveError, Item, Prelude, Reader};
use super::super::client::{Deployment, must_be_no_shard_if_reached};
use super::super::load::{self, must_not_be_half_restored};
use super::super::tally::Tally;
use super::super::{PART, SERVER, archive_of, open_archive, schema};
use super::dump::Watched;
use super::oplog::Oplog;
use super::{DUMPER, LOADER, Vendor, privileges};
use crate::model::finding::{Finding, FindingKind};
use crate::source::SourceError;
use crate::source::engine::{Account, Backup, Engine, Fetched, Part, Survey};
use crate::source::patience::patiently;
use crate::source::secret::{Secret, SecretText};
use crate::source::work::Work;

/// Lines of proof: the databases, and the entries of the oplog.
const DATABASES: &str = "databases";
const ENTRIES: &str = "entries of the oplog";
/// Before the name of a collection, with its database, in a line of proof.
const DOCUMENTS: &str = "documents of ";
const HASH: &str = "hash of ";
/// What an archive calls the oplog: it has no database.
const OPLOG: (&str, &str) = ("", "oplog");
/// Databases that belong to the servers: mongorestore brings back what of them can be.
const OWN: [&str; 3] = ["admin", "config", "local"];

/// A whole MongoDB deployment.
#[derive(Debug, Clone)]
pub struct WholeConfig {
    /// The member's name.
    pub name: String,
    /// The connection string.
    pub uri: Secret,
    /// Other hosts than those of the connection string.
    pub hosts: Option<String>,
    /// The program that makes the archive.
    pub dumper: Vendor,
    /// Whether it takes the oplog along: only members of a replica set have one.
    pub oplog: bool,
    /// The program that brings it back.
    pub loader: Option<Vendor>,
}

/// What an archive of a deployment holds.
struct Held {
    prelude: Prelude,
    /// Its collections, named with their databases.
    tallies: BTreeMap<String, Tally>,
    oplog: Option<Oplog>,
}

/// Reads an archive from start to end.
fn read(from: impl Read) -> Result<Held, ArchiveError> {
    let mut reader = Reader::open(from)?;
    let prelude = reader.prelude().clone();
    let is_oplog =
        |place: usize| (prelude.collections[place].database.as_str(), prelude.collections[place].name.as_str()) == OPLOG;
    let mut tallies = vec![Tally::default(); prelude.collections.len()];
    let mut oplog = (0..tallies.len()).any(is_oplog).then(Oplog::default);
    while let Some(item) = reader.next_item()? {
        match (item, &mut oplog) {
            (Item::Document(place, entry), Some(oplog)) if is_oplog(place) => oplog.add(entry)?,
            (Item::Document(place, document), _) => tallies[place].add(document),
            (Item::End(_), _) => {}
        }
    }
    // A view holds nothing, and a time series comes back in other documents.
    let held = prelude.collections.iter().zip(tallies).filter(|(collection, _)| {
        collection.kind == "collection" && !collection.database.is_empty() && !OWN.contains(&collection.database.as_str())
    });
    let tallies = held.map(|(collection, tally)| (format!("{}.{}", collection.database, collection.name), tally)).collect();
    Ok(Held { prelude, tallies, oplog })
}

impl Held {
    fn databases(&self) -> BTreeSet<&str> {
        self.prelude.collections.iter().map(|c| c.database.as_str()).filter(|database| !database.is_empty()).collect()
    }

    /// Those that belong to no server.
    fn own_databases(&self) -> impl Iterator<Item = &str> {
        self.databases().into_iter().filter(|name| !OWN.contains(name))
    }

    fn may_have_changed(&self, namespace: &str) -> bool {
        self.oplog.as_ref().is_some_and(|oplog| oplog.may_have_changed(namespace))
    }

    fn account(&self) -> Account {
        let databases: Vec<&str> = self.databases().into_iter().collect();
        let mut account = Account::default().proof(DATABASES, databases.join(", "));
        if let Some(oplog) = &self.oplog {
            account = account.proof(ENTRIES, oplog.entries);
        }
        for (name, tally) in self.tallies.iter().filter(|(name, _)| !self.may_have_changed(name)) {
            account =
                account.proof(format!("{DOCUMENTS}{name}"), tally.documents).proof(format!("{HASH}{name}"), tally.hash());
        }
        account
    }
}

impl WholeConfig {
    fn wrong(&self, why: impl Into<String>) -> SourceError {
        SourceError::Expectation { what: self.name.clone(), why: why.into() }
    }

    fn deployment(&self, work: &Work) -> Result<Deployment, SourceError> {
        Deployment::open(&self.uri.read()?, self.hosts.as_deref(), "admin", work)
    }

    /// An account that sees some databases would have those dumped as all. Gives what to tell where nobody can say.
    fn must_see_all(&self, work: &Work) -> Result<Option<Finding>, SourceError> {
        let unsure = |why: &str| {
            let why = format!("whether the account sees all databases could not be asked ({why})");
            Ok(Some(Finding::new(FindingKind::Notice, &self.name, why)))
        };
        if self.dumper.logs_in_by_itself() {
            return unsure(&format!("{DUMPER} logs in by an option of its own"));
        }
        // Names of options are read in any case.
        let uri = SecretText::new(self.uri.read()?.expose().to_ascii_lowercase());
        if !["@", "authmechanism"].iter().any(|word| uri.expose().contains(word)) {
            return Ok(None);
        }
        let asked = self.deployment(work).and_then(|deployment| {
            patiently(work, move |_| deployment.admin_command(doc! { "connectionStatus": 1, "showPrivileges": true }))
        });
        match asked.map(|status| privileges::sees_all(&status)) {
            Ok(Some(true)) => Ok(None),
            Ok(Some(false)) => Err(self.wrong(format!(
                "the account may not list all databases, and {DUMPER} would leave out the others without a word: give it the role \
                 \"backup\", or name one with database = \"...\""
            ))),
            Ok(None) => unsure("the server does not tell its rights"),
            Err(error) => {
                work.check()?;
                unsure(&error.to_string())
            }
        }
    }

    fn loader(&self) -> Result<&Vendor, SourceError> {
        self.loader.as_ref().ok_or_else(|| {
            let name = &self.name;
            SourceError::Configuration(format!(
                "source {name:?} is a whole deployment, which {LOADER} alone brings back: add restore_tool = {LOADER:?}"
            ))
        })
    }

    fn held(&self, fetched: &Fetched) -> Result<Held, SourceError> {
        read(open_archive(archive_of(fetched)?)?).map_err(|e| self.wrong(format!("the archive {e}")))
    }
}

impl Engine for WholeConfig {
    fn name(&self) -> &str {
        &self.name
    }

    fn kind(&self) -> &'static str {
        "mongodb"
    }

    fn open(&self, work: &Work) -> Result<Box<dyn Backup>, SourceError> {
        let version = self.dumper.version(work)?;
        must_be_no_shard_if_reached(|asking| self.deployment(asking), work)?;
        let unsure = self.must_see_all(work)?;
        Ok(Box::new(WholeDump { config: self.clone(), version, unsure, given: false, held: Arc::default() }))
    }

    fn survey(&self, account: &Account, work: &Work) -> Result<Survey, SourceError> {
        let loader = self.loader()?.version(work)?;
        let deployment = self.deployment(work)?;
        let target = format!("{}, all databases", deployment.title.trim_end_matches("/admin"));
        let (version, destroys) = patiently(work, move |_| {
            deployment.must_be_no_shard()?;
            let mut destroys = Vec::new();
            for name in databases(&deployment)? {
                let database = deployment.of(&name);
                let counted = || {
                    let (mut collections, mut documents) = (0, 0);
                    for listed in schema::list(&database)?.iter().filter(|listed| listed.kind != "view") {
                        let collection = database.database.collection::<RawDocumentBuf>(&listed.name);
                        collections += 1;
                        documents += collection.estimated_document_count().run().map_err(|e| deployment.error(&e))?;
                    }
                    Ok::<_, SourceError>((collections, documents))
                };
                destroys.push(match counted() {
                    Ok((collections, documents)) => {
                        format!("database {name}: {collections} collections, {documents} documents")
                    }
                    // What is broken there does not keep it from being replaced.
                    Err(error) => format!("database {name}, which cannot be counted ({error})"),
                });
            }
            Ok((deployment.version()?, destroys))
        })?;
        let mut survey = Survey { target, destroys, ..Survey::default() };
        survey.tools.extend([(SERVER.to_owned(), version), (LOADER.to_owned(), loader)]);
        survey.notes.push("users and roles of the deployment are replaced as well".into());
        survey
            .notes
            .push(format!("{LOADER} fills it in place: broken off, it holds a part until the same command has ended"));
        if let Some(entries) = account.proof.get(ENTRIES) {
            survey
                .notes
                .push(format!("{entries} entries of the oplog are replayed; what they touch is not counted afterwards"));
        }
        Ok(survey)
    }

    fn check(&self, fetched: &Fetched, _: &Work) -> Result<(), SourceError> {
        let (held, then) = (self.held(fetched)?.account().proof, &fetched.account.proof);
        if !then.contains_key(DATABASES) {
            return Err(self.wrong("the backup is of one database; to bring it back: database = \"...\""));
        }
        let differs = then.iter().find(|(name, value)| held.get(*name) != Some(value)).map(|(name, _)| name);
        match differs.or_else(|| held.keys().find(|name| !then.contains_key(*name))) {
            Some(name) => Err(self.wrong(format!("{name}: the archive has something else than the backup recorded"))),
            None => Ok(()),
        }
    }

    fn replace(&self, fetched: &Fetched, work: &Work) -> Result<(), SourceError> {
        let (deployment, held) = (self.deployment(work)?, self.held(fetched)?);
        let loader = self.loader()?;
        let marked: Vec<Deployment> = held.own_databases().map(|name| deployment.of(name)).collect();
        let marking = marked.clone();
        patiently(work, move |abandoned| marking.iter().try_for_each(|database| load::mark(database, abandoned)))?;
        let outcome = loader.load_whole(self, archive_of(fetched)?, held.oplog.is_some(), work).and_then(|()| {
            let deployment = deployment.clone();
            patiently(work, move |abandoned| {
                remove_others(&deployment, &held, abandoned)?;
                marked.iter().try_for_each(|database| load::unmark(database, abandoned))
            })
        });
        outcome.map_err(|error| match error {
            SourceError::Interrupted => SourceError::Interrupted,
            error => deployment.failed(format!("holds a part of the backup now, which the same command completes: {error}")),
        })
    }

    fn prove(&self, fetched: &Fetched, work: &Work) -> Result<Account, SourceError> {
        let (deployment, then) = (self.deployment(work)?, fetched.account.proof.clone());
        patiently(work, move |abandoned| {
            let mut account = Account::default().tool(SERVER, deployment.version()?);
            for name in then.keys().filter_map(|line| line.strip_prefix(DOCUMENTS)) {
                let tally = count(&deployment, name, abandoned)?;
                account = account
                    .proof(format!("{DOCUMENTS}{name}"), tally.documents)
                    .proof(format!("{HASH}{name}"), tally.hash());
            }
            Ok(account)
        })
    }
}

fn databases(deployment: &Deployment) -> Result<Vec<String>, SourceError> {
    let names = deployment.all_databases()?;
    Ok(names.into_iter().filter(|name| !OWN.contains(&name.as_str())).collect())
}

fn count(deployment: &Deployment, name: &str, abandoned: &AtomicBool) -> Result<Tally, SourceError> {
    let (database, collection) = name.split_once('.').unwrap_or((name, ""));
    let failed = |e: mongodb::error::Error| deployment.error(&e);
    let documents = deployment.of(database).database.collection::<RawDocumentBuf>(collection);
    let mut tally = Tally::default();
    let mut cursor = documents.find(doc! {}).run().map_err(failed)?;
    while cursor.advance().map_err(failed)? {
        go_on(abandoned)?;
        tally.add(cursor.current().as_bytes());
    }
    Ok(tally)
}

fn go_on(abandoned: &AtomicBool) -> Result<(), SourceError> {
    if abandoned.load(Ordering::Relaxed) { Err(SourceError::Interrupted) } else { Ok(()) }
}

/// `--drop` drops what the archive holds. What came later goes here, unless the oplog made it.
fn remove_others(deployment: &Deployment, held: &Held, abandoned: &AtomicBool) -> Result<(), SourceError> {
    let kept: BTreeSet<(&str, &str)> =
        held.prelude.collections.iter().map(|c| (c.database.as_str(), c.name.as_str())).collect();
    let of_archive = held.databases();
    for name in databases(deployment)? {
        go_on(abandoned)?;
        let database = deployment.of(&name);
        if !of_archive.contains(name.as_str()) && !held.oplog.as_ref().is_some_and(|oplog| oplog.names(&name)) {
            database.command(doc! { "dropDatabase": 1 })?;
            continue;
        }
        for listed in schema::list(&database)? {
            // The sign that this has not ended goes last.
            let is_kept = kept.contains(&(name.as_str(), listed.name.as_str())) || listed.name == load::UNFINISHED;
            if !is_kept && !held.may_have_changed(&format!("{name}.{}", listed.name)) {
                database.command(doc! { "drop": listed.name })?;
            }
        }
    }
    Ok(())
}

/// A backup of a deployment by mongodump.
struct WholeDump {
    config: WholeConfig,
    version: String,
    unsure: Option<Finding>,
    given: bool,
    held: Arc<Mutex<Option<Held>>>,
}

impl Backup for WholeDump {
    fn next(&mut self, _: &Work) -> Result<Option<Part>, SourceError> {
        if std::mem::replace(&mut self.given, true) {
            return Ok(None);
        }
        let (config, held) = (self.config.clone(), Arc::clone(&self.held));
        Ok(Some(Part::new(PART, move |work| {
            Ok(Watched::new(config.name.clone(), config.dumper.dumping_whole(&config, work)?.stream(work)?, read, held))
        })))
    }

    fn finish(&mut self, _: &Work) -> Result<Account, SourceError> {
        let config = &self.config;
        let held = self.held.lock().unwrap_or_else(PoisonError::into_inner).take();
        let held = held.ok_or_else(|| config.wrong("the dump did not end"))?;
        if held.tallies.values().all(|tally| tally.documents == 0) {
            let why = format!("no database of the deployment holds a document, although {DUMPER} ended well");
            return Err(SourceError::Empty { what: config.name.clone(), why });
        }
        let names = held.prelude.collections.iter().map(|collection| collection.name.as_str());
        must_not_be_half_restored(names).map_err(|why| config.wrong(why))?;
        match &held.oplog {
            // The entry at which the dump began is always there.
            Some(oplog) if config.oplog && oplog.entries == 0 => {
                return Err(config.wrong("the oplog in the archive is empty"));
            }
            None if config.oplog => return Err(config.wrong("the archive holds no oplog, although it was asked for")),
            _ => {}
        }
        let account = held.account().tool(DUMPER, &self.version).tool(SERVER, &held.prelude.server_version);
        Ok(Account { findings: self.unsure.take().into_iter().collect(), ..account })
    }
}
