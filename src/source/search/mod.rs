//! Elasticsearch and OpenSearch: a snapshot into the cluster's own file repository, whose files are the member.
//!
//! The repository keeps some snapshots, so that a night's files are mostly those of the night before. It is made read-only
//! while its files are read, and writable again in any case; a crash in between is mended by the next push. Only a snapshot
//! with the state SUCCESS and no failed shard counts.
//!
//! A server calls a restore a success that has lost a shard, and a repository whole that has lost a file. So the vault's own
//! hashes come first, then a restore under other names, then the one that replaces; the documents are counted by a search.

use std::path::{Path, PathBuf};

use crate::model::finding::{Finding, FindingKind};
use crate::source::SourceError;
use crate::source::engine::{Account, Backup, Engine, Fetched, Survey, keep};
use crate::source::http::{Http, HttpConfig};
use crate::source::work::Work;

mod backup;
mod cluster;
mod repository;
mod restore;

use cluster::Cluster;
use restore::Restoring;

/// Before the name of each part.
const REPOSITORY: &str = "repository";
/// Before the name of each snapshot that we take.
const SNAPSHOT_PREFIX: &str = "farkeep-";
/// Line of proof: the snapshot's name within the repository.
const SNAPSHOT: &str = "snapshot";
/// Line of proof: its indices.
const INDICES: &str = "indices";

/// Indices of a cluster.
#[derive(Debug, Clone)]
pub struct SearchConfig {
    /// The member's name.
    pub name: String,
    /// `elasticsearch` or `opensearch`: they are spoken to alike.
    pub kind: &'static str,
    /// The cluster.
    pub http: HttpConfig,
    /// The repository's name in the cluster.
    pub repository: String,
    /// Its directory, as the server and this machine see it.
    pub location: PathBuf,
    /// Names and patterns of indices.
    pub indices: Vec<String>,
    /// How many snapshots stay in the repository.
    pub keep: usize,
}

fn documents_of(index: &str) -> String {
    format!("documents of {index}")
}

impl Engine for SearchConfig {
    fn name(&self) -> &str {
        &self.name
    }

    fn kind(&self) -> &'static str {
        self.kind
    }

    fn open(&self, work: &Work) -> Result<Box<dyn Backup>, SourceError> {
        let http = Http::new(&self.http)?;
        Cluster::new(&http, work).version()?;
        Ok(Box::new(backup::Snapshotting::new(self.clone(), http, work)))
    }

    fn survey(&self, account: &Account, work: &Work) -> Result<Survey, SourceError> {
        let http = Http::new(&self.http)?;
        let restoring = Restoring::new(self, Cluster::new(&http, work), account)?;
        let mut survey = Survey { target: http.url().to_owned(), ..Survey::default() };
        for index in restoring.in_the_way()? {
            let line = if index.open {
                // What is to be replaced may be damaged.
                match restoring.cluster.counts([&index.name]) {
                    Ok(counts) => format!("index {}: {} documents", index.name, counts.values().sum::<u64>()),
                    Err(error) => format!("index {}, which cannot be counted ({error})", index.name),
                }
            } else {
                format!("index {}: closed, nobody knows how many documents", index.name)
            };
            survey.destroys.push(line);
        }
        let (server, version) = restoring.cluster.version()?;
        match account.tools.get(&server) {
            Some(then) if *then == version => {}
            Some(then) => survey.notes.push(format!("the backup is of {server} {then}, the target is {version}")),
            None => {
                let then: Vec<String> = account.tools.iter().map(|(name, version)| format!("{name} {version}")).collect();
                return Err(restoring.cluster.failed(format!("is {server}, and the backup is of {}", then.join(", "))));
            }
        }
        survey
            .notes
            .push("every index is first restored under another name: so much room must be free on the cluster".into());
        survey.tools.insert(server, version);
        Ok(survey)
    }

    fn check(&self, fetched: &Fetched, _: &Work) -> Result<(), SourceError> {
        let wrong = |why: &str| SourceError::Expectation { what: self.name.clone(), why: why.into() };
        let names: Vec<&str> = fetched.parts.iter().filter_map(|part| part.name.strip_prefix("repository/")).collect();
        if !names.iter().any(|name| name.starts_with("index-")) {
            return Err(wrong("these files are no repository of snapshots: there is no index-N"));
        }
        if !names.iter().any(|name| name.starts_with("snap-")) || !names.iter().any(|name| name.starts_with("indices/")) {
            return Err(wrong("the repository holds no snapshot"));
        }
        Ok(())
    }

    /// What is in the way, whatever the configuration names: patterns that name nothing any more stop a backup.
    fn keep(&self, fetched: &Fetched, dir: &Path, work: &Work) -> Result<Vec<Finding>, SourceError> {
        let http = Http::new(&self.http)?;
        let found = Restoring::new(self, Cluster::new(&http, work), &fetched.account)?.in_the_way()?;
        let (open, closed): (Vec<_>, Vec<_>) = found.into_iter().partition(|index| index.open);
        let unkept = closed.iter().map(|index| {
            let why = format!("index {:?} is closed: no copy of it is kept", index.name);
            Finding::new(FindingKind::Notice, &self.name, why)
        });
        let there = Self { indices: open.into_iter().map(|index| index.name).collect(), ..self.clone() };
        let kept =
            if there.indices.is_empty() { Ok(Vec::new()) } else { keep::parts(&self.name, there.open(work), dir, work) };
        Ok(kept?.into_iter().chain(unkept).collect())
    }

    fn replace(&self, fetched: &Fetched, work: &Work) -> Result<(), SourceError> {
        let http = Http::new(&self.http)?;
        Restoring::new(self, Cluster::new(&http, work), &fetched.account)?.run(fetched)
    }

    fn prove(&self, fetched: &Fetched, work: &Work) -> Result<Account, SourceError> {
        let http = Http::new(&self.http)?;
        let restoring = Restoring::new(self, Cluster::new(&http, work), &fetched.account)?;
        let (server, version) = restoring.cluster.version()?;
        let counts = restoring.cluster.counts(&restoring.indices)?;
        let names: Vec<&str> = counts.keys().map(String::as_str).collect();
        let mut account = Account::default().tool(server, version).proof(INDICES, names.join(","));
        account = account.proof(SNAPSHOT, &restoring.snapshot);
        for (name, count) in counts {
            account = account.proof(documents_of(&name), count);
        }
        Ok(account)
    }
}
