//! A snapshot into the cluster's own repository, and that repository's files as the member.

use std::collections::BTreeSet;
use std::path::PathBuf;

use serde_json::{Value, json};

use super::cluster::{Cluster, Counts, Snapshot, encode, must_be_no_stream};
use super::repository::{self, RepositoryFile};
use super::{INDICES, REPOSITORY, SNAPSHOT, SNAPSHOT_PREFIX, SearchConfig, documents_of};
use crate::source::SourceError;
use crate::source::engine::{Account, Backup, Part};
use crate::source::http::Http;
use crate::source::work::Work;

/// A setting that says who made the repository read-only; servers keep what they do not know.
const FROZEN_BY: &str = "frozen_by";

/// A backup of the indices that the configuration names.
pub struct Snapshotting {
    config: SearchConfig,
    http: Http,
    work: Work,
    made: Option<Made>,
    frozen: bool,
}

/// A snapshot that was made, and the repository as it is pushed.
struct Made {
    snapshot: Snapshot,
    counts: Counts,
    state: (Vec<RepositoryFile>, Vec<u8>),
    left: std::vec::IntoIter<RepositoryFile>,
}

impl Snapshotting {
    pub fn new(config: SearchConfig, http: Http, work: &Work) -> Self {
        Self { config, http, work: work.clone(), made: None, frozen: false }
    }

    fn make(&mut self) -> Result<Made, SourceError> {
        let (http, work, config) = (self.http.clone(), self.work.clone(), self.config.clone());
        let cluster = Cluster::new(&http, &work);
        must_not_be_half_restored(&cluster, &config)?;
        register(&cluster, &config, false)?;
        let wanted = wanted(&cluster, &config)?;
        let before = cluster.counts(&wanted)?;
        let snapshot = take(&cluster, &config, &wanted, &work)?;
        let after = cluster.counts(&snapshot.indices)?;
        prune(&cluster, &config)?;
        // From here on nobody writes to the repository: its files are of one moment.
        self.frozen = true;
        register(&cluster, &config, true)?;
        let state = repository::state(&config.location)?;
        if !state.0.iter().any(|file| file.name().starts_with("index-")) {
            let why = format!("{} holds no repository: is it the server's own directory?", config.location.display());
            return Err(cluster.failed(why));
        }
        if !state.0.iter().any(|file| file.name() == snapshot.file()) {
            let why =
                "lacks the snapshot that was just made: what is there is no longer, or not yet, the server's directory";
            return Err(cluster.failed(format!("{} {why}", config.location.display())));
        }
        // What was written meanwhile may or may not be in the snapshot: only a count that stood still describes it.
        let counts = after.into_iter().filter(|(name, count)| before.get(name) == Some(count)).collect();
        let left = state.0.clone().into_iter();
        Ok(Made { snapshot, counts, state, left })
    }

    fn thaw(&mut self) -> Result<(), SourceError> {
        if !std::mem::take(&mut self.frozen) {
            return Ok(());
        }
        // Also when the time is up, or somebody wants to stop: a repository that stays frozen stops the cluster's own snapshots.
        let work = self.work.for_tidying();
        register(&Cluster::new(&self.http, &work), &self.config, false)
    }
}

impl Backup for Snapshotting {
    fn next(&mut self, _: &Work) -> Result<Option<Part>, SourceError> {
        if self.made.is_none() {
            self.made = Some(self.make()?);
        }
        let Some(file) = self.made.as_mut().and_then(|made| made.left.next()) else { return Ok(None) };
        let path: PathBuf = self.config.location.join(file.name());
        Ok(Some(Part::file(format!("{REPOSITORY}/{}", file.name()), path)))
    }

    fn finish(&mut self, _: &Work) -> Result<Account, SourceError> {
        let Some(made) = self.made.take() else {
            return Err(self.http.failed("no snapshot was made"));
        };
        if repository::state(&self.config.location)? != made.state {
            let why = "the repository changed while it was read: does another program write to it?";
            return Err(self.http.failed(why));
        }
        self.thaw()?;
        let (server, version) = Cluster::new(&self.http, &self.work).version()?;
        let mut account = Account::default().tool(server, version);
        account = account.proof(SNAPSHOT, &made.snapshot.name).proof(INDICES, made.snapshot.indices.join(","));
        for (name, count) in made.counts {
            account = account.proof(documents_of(&name), count);
        }
        Ok(account)
    }
}

impl Drop for Snapshotting {
    fn drop(&mut self) {
        if let Err(error) = self.thaw() {
            tracing::warn!(%error, "the repository stays read-only until the next push");
        }
    }
}

/// Registers the repository as it should be now. One that somebody else made read-only is not ours to write to.
fn register(cluster: &Cluster<'_>, config: &SearchConfig, frozen: bool) -> Result<(), SourceError> {
    let location = config.location.display().to_string();
    if let Some(there) = cluster.repository(&config.repository)? {
        let settings = &there["settings"];
        let is_true = |value: &Value| value.as_bool() == Some(true) || value.as_str() == Some("true");
        if settings["location"].as_str() != Some(&location) {
            let elsewhere = settings["location"].as_str().unwrap_or("no directory at all");
            let why = format!("repository {:?} lies in {elsewhere}, not in {location}", config.repository);
            return Err(cluster.failed(why));
        }
        if is_true(&settings["readonly"]) && settings[FROZEN_BY].as_str() != Some("farkeep") {
            let why = format!("repository {:?} is read-only here: it belongs to another cluster", config.repository);
            return Err(cluster.failed(why));
        }
    }
    let mut settings = json!({ "location": location, "compress": true });
    if frozen {
        settings["readonly"] = json!(true);
        settings[FROZEN_BY] = json!("farkeep");
    }
    let body = json!({ "type": "fs", "settings": settings });
    cluster.put(&format!("/_snapshot/{}", encode(&config.repository)), &body).map(|_| ())
}

/// The open indices that the patterns name; each pattern must name one.
fn wanted(cluster: &Cluster<'_>, config: &SearchConfig) -> Result<Vec<String>, SourceError> {
    let mut names = BTreeSet::new();
    for pattern in &config.indices {
        let found = cluster.indices(pattern)?;
        if found.is_empty() {
            return Err(
                cluster.failed(format!("no index is called {pattern:?}: a pattern that names none is most often misspelt"))
            );
        }
        if let Some(closed) = found.iter().find(|index| !index.open) {
            return Err(cluster.failed(format!("index {:?} is closed, and would not be in the snapshot", closed.name)));
        }
        names.extend(found.into_iter().map(|index| index.name));
    }
    let names: Vec<String> = names.into_iter().collect();
    must_be_no_stream(cluster, &names)?;
    Ok(names)
}

/// What a restore that broke off has left is no whole set of indices.
fn must_not_be_half_restored(cluster: &Cluster<'_>, config: &SearchConfig) -> Result<(), SourceError> {
    let dir = config.location.join(repository::RESTORE_DIR);
    if dir.exists() {
        let dir = dir.display();
        let why = format!("a restore has not ended: repeat it, or remove {dir} if all indices are as they should be");
        return Err(cluster.failed(why));
    }
    Ok(())
}

/// By their names: a pattern leaves out what is hidden, and takes it for good when an index has gone.
fn take(cluster: &Cluster<'_>, config: &SearchConfig, wanted: &[String], work: &Work) -> Result<Snapshot, SourceError> {
    let name = format!("{SNAPSHOT_PREFIX}{}", work.now.0);
    let path = format!("/_snapshot/{}/{name}", encode(&config.repository));
    let body = json!({
        "indices": wanted,
        "include_global_state": false,
        "ignore_unavailable": false,
        "partial": false,
        "metadata": { "taken_by": "farkeep" },
    });
    cluster.put(&path, &body)?;
    let snapshot = cluster.finished(&config.repository, &name)?;
    if let Err(why) = snapshot.must_be_whole() {
        // It is no use to anybody, and must not be counted among those that are kept.
        let _ = cluster.delete(&path);
        return Err(cluster.failed(why));
    }
    match wanted.iter().find(|name| !snapshot.indices.contains(name)) {
        Some(gone) => Err(cluster.failed(format!("index {gone:?} is not in the snapshot: was it removed meanwhile?"))),
        None => Ok(snapshot),
    }
}

/// Keeps so many of our snapshots: later nights share their files.
fn prune(cluster: &Cluster<'_>, config: &SearchConfig) -> Result<(), SourceError> {
    let mut ours = cluster.snapshots(&config.repository)?;
    ours.retain(|snapshot| snapshot.name.starts_with(SNAPSHOT_PREFIX) && snapshot.state != "IN_PROGRESS");
    ours.sort_by_key(|snapshot| std::cmp::Reverse(snapshot.started_ms));
    for old in ours.iter().skip(config.keep) {
        cluster.delete(&format!("/_snapshot/{}/{}", encode(&config.repository), encode(&old.name)))?;
    }
    Ok(())
}
