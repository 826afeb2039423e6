//! A repository from the vault, and its snapshot into the cluster: first under other names, to see that the server itself can
//! read all of it; then in place of what is there.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};

use serde_json::{Value, json};

use super::cluster::{Cluster, Index, encode, must_be_no_stream};
use super::repository;
use super::{INDICES, REPOSITORY, SNAPSHOT, SearchConfig, documents_of};
use crate::source::SourceError;
use crate::source::engine::{Account, Fetched};

/// Before the names of indices that are only tried.
const TRIAL_PREFIX: &str = "farkeep-trial-";

/// The restore of one snapshot.
pub struct Restoring<'a> {
    pub config: &'a SearchConfig,
    pub cluster: Cluster<'a>,
    /// The snapshot's name.
    pub snapshot: String,
    /// Its indices.
    pub indices: Vec<String>,
}

impl<'a> Restoring<'a> {
    pub fn new(config: &'a SearchConfig, cluster: Cluster<'a>, account: &Account) -> Result<Self, SourceError> {
        let recorded = |name: &str| {
            let what = config.name.clone();
            let why = || format!("the snapshot does not tell its {name}: was it made by this kind of source?");
            account.proof.get(name).cloned().ok_or_else(|| SourceError::Expectation { what, why: why() })
        };
        let (snapshot, indices) = (recorded(SNAPSHOT)?, recorded(INDICES)?);
        let indices: Vec<String> = indices.split(',').map(str::to_owned).collect();
        must_be_no_stream(&cluster, &indices)?;
        Ok(Self { config, cluster, snapshot, indices })
    }

    /// What stands at the target under the names of the snapshot, or under those that the configuration names.
    pub fn in_the_way(&self) -> Result<Vec<Index>, SourceError> {
        let mut seen = BTreeSet::new();
        let mut found = Vec::new();
        for pattern in self.config.indices.iter().chain(&self.indices) {
            let listed = self.cluster.indices(pattern)?;
            found.extend(listed.into_iter().filter(|index| seen.insert(index.name.clone())));
        }
        found.sort_by(|a, b| a.name.cmp(&b.name));
        let names: Vec<String> = found.iter().map(|index| index.name.clone()).collect();
        must_be_no_stream(&self.cluster, &names)?;
        Ok(found)
    }

    pub fn run(&self, fetched: &Fetched) -> Result<(), SourceError> {
        let at = self.restore_dir();
        // It may be all that tells a half restored cluster: then what fails now must not take it away.
        let is_first = !at.exists();
        let repository = self.repository();
        let path = format!("/_snapshot/{}", encode(&repository));
        self.cluster.delete(&path)?;
        let settings = json!({ "location": at.display().to_string(), "readonly": true });
        let tried = self
            .place(fetched, &at)
            .and_then(|()| self.cluster.put(&path, &json!({ "type": "fs", "settings": settings })))
            .and_then(|_| self.try_out(&repository, &fetched.account))
            .and_then(|()| self.in_the_way());
        let tried = match tried {
            // Broken off here, the directory stays, and no backup takes what is left for the whole.
            Ok(in_the_way) => {
                self.swap(in_the_way, &repository)?;
                Ok(())
            }
            Err(error) => Err(error),
        };
        // The files are in the vault: here they are in the way.
        let unregistered = self.cluster.tidy(|cluster| cluster.delete(&path));
        let keeps_sign = tried.is_err() && !is_first;
        let removed = if keeps_sign { repository::empty_restore_dir(&at) } else { repository::remove_restore_dir(&at) };
        tried.and(unregistered).and(removed)
    }

    fn repository(&self) -> String {
        format!("{}-farkeep-restore", self.config.repository)
    }

    fn restore_dir(&self) -> PathBuf {
        self.config.location.join(repository::RESTORE_DIR)
    }

    fn place(&self, fetched: &Fetched, at: &Path) -> Result<(), SourceError> {
        repository::make_restore_dir(&self.config.location, at)?;
        for part in &fetched.parts {
            let name = part.name.strip_prefix(REPOSITORY).and_then(|name| name.strip_prefix('/'));
            if let Some(name) = name {
                repository::put(&self.config.location, at, name, &part.path)?;
            }
        }
        Ok(())
    }

    /// The destructive part.
    fn swap(&self, in_the_way: Vec<Index>, repository: &str) -> Result<(), SourceError> {
        let names: Vec<String> = in_the_way.into_iter().map(|index| index.name).collect();
        let swapped = self.cluster.delete_indices(&names).and_then(|()| self.restore(repository, None));
        swapped.map_err(|error| {
            self.cluster.failed(format!("holds a part of the backup now, which the same command completes: {error}"))
        })
    }

    /// All of it under other names: an index that cannot be read shows before anything is removed.
    fn try_out(&self, repository: &str, account: &Account) -> Result<(), SourceError> {
        let snapshot = self.cluster.snapshot(repository, &self.snapshot)?;
        let snapshot =
            snapshot.ok_or_else(|| self.cluster.failed(format!("the repository has no snapshot {}", self.snapshot)))?;
        snapshot.must_be_whole().map_err(|why| self.cluster.failed(why))?;
        let trials: Vec<String> = self.indices.iter().map(|name| format!("{TRIAL_PREFIX}{name}")).collect();
        self.cluster.delete_indices(&trials)?;
        let tried = self.restore(repository, Some(TRIAL_PREFIX)).and_then(|()| self.cluster.counts(&trials));
        let tidied = self.cluster.tidy(|cluster| cluster.delete_indices(&trials));
        let counts = tried.map_err(|error| {
            self.cluster.failed(format!("the snapshot cannot be restored, and nothing was removed: {error}"))
        })?;
        tidied?;
        for (name, trial) in self.indices.iter().zip(&trials) {
            let (then, now) = (account.proof.get(&documents_of(name)), counts.get(trial).map(u64::to_string));
            if then.is_some() && then != now.as_ref() {
                let (then, now) = (then.cloned().unwrap_or_default(), now.unwrap_or_default());
                let why = format!("index {name:?} comes back with {now} of {then} documents; nothing was removed");
                return Err(self.cluster.failed(why));
            }
        }
        Ok(())
    }

    fn restore(&self, repository: &str, prefix: Option<&str>) -> Result<(), SourceError> {
        let mut body = json!({
            "indices": self.indices.join(","),
            "include_global_state": false,
            "ignore_unavailable": false,
            "partial": false,
        });
        if let Some(prefix) = prefix {
            body["rename_pattern"] = json!("(.+)");
            body["rename_replacement"] = json!(format!("{prefix}$1"));
            body["include_aliases"] = json!(false);
            body["index_settings"] = json!({ "index.number_of_replicas": 0 });
        }
        let path = format!("/_snapshot/{}/{}/_restore?wait_for_completion=true", encode(repository), encode(&self.snapshot));
        let answer = self.cluster.post(&path, &body)?;
        must_be_complete(&answer).map_err(|why| self.cluster.failed(why))
    }
}

/// A status of 200 says nothing: shards that failed are told in the body alone.
fn must_be_complete(answer: &Value) -> Result<(), String> {
    let shards = &answer["snapshot"]["shards"];
    match (shards["total"].as_u64(), shards["failed"].as_u64()) {
        (Some(1..), Some(0)) => Ok(()),
        (Some(total), Some(failed)) => Err(format!("{failed} of {total} shards were not restored")),
        _ => Err("the server does not tell how many shards it restored".into()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_restore_with_a_failed_shard_is_none() {
        let answer = |total: u64, failed: u64| json!({ "snapshot": { "shards": { "total": total, "failed": failed } } });
        assert!(must_be_complete(&answer(4, 0)).is_ok());
        assert!(must_be_complete(&answer(4, 1)).is_err());
        assert!(must_be_complete(&answer(0, 0)).is_err());
        assert!(must_be_complete(&json!({ "accepted": true })).is_err());
    }
}
