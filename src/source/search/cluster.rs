//! What is asked of a cluster: versions, indices, counts, repositories, snapshots.

use std::collections::BTreeMap;
use std::time::Duration;

use serde_json::{Value, json};

use crate::source::SourceError;
use crate::source::http::{Http, Method, reason};
use crate::source::work::Work;

/// How often a running snapshot is asked after.
const POLL_INTERVAL: Duration = Duration::from_millis(500);
/// Index names of one request, so that its address stays below what servers take (4 KiB).
const NAMES_PER_REQUEST: usize = 12;

/// How long an index that is to be counted may take to have a first copy of each shard.
const SHARDS_WAIT: &str = "5s";

/// Documents of each index, by name.
pub type Counts = BTreeMap<String, u64>;

/// A cluster within one piece of work.
pub struct Cluster<'a> {
    http: &'a Http,
    work: &'a Work,
}

impl<'a> Cluster<'a> {
    pub const fn new(http: &'a Http, work: &'a Work) -> Self {
        Self { http, work }
    }

    /// Undoes something, also when the time is up or somebody wants to stop.
    pub fn tidy<T>(&self, act: impl FnOnce(&Cluster<'_>) -> Result<T, SourceError>) -> Result<T, SourceError> {
        act(&Cluster::new(self.http, &self.work.for_tidying()))
    }

    pub fn failed(&self, why: impl Into<String>) -> SourceError {
        self.http.failed(why)
    }

    pub fn get(&self, path: &str) -> Result<Value, SourceError> {
        self.http.must(Method::GET, path, None, self.work)
    }

    pub fn put(&self, path: &str, body: &Value) -> Result<Value, SourceError> {
        self.http.must(Method::PUT, path, Some(body), self.work)
    }

    pub fn post(&self, path: &str, body: &Value) -> Result<Value, SourceError> {
        self.http.must(Method::POST, path, Some(body), self.work)
    }

    /// Removes what `path` names; that it is not there is as good.
    pub fn delete(&self, path: &str) -> Result<(), SourceError> {
        let answer = self.http.ask(Method::DELETE, path, None, self.work)?;
        match answer.status {
            200..300 | 404 => Ok(()),
            status => Err(self.failed(format!("DELETE {path}: status {status}{}", reason(&answer.body)))),
        }
    }

    /// Name and version of the server.
    pub fn version(&self) -> Result<(String, String), SourceError> {
        let about = self.get("/")?;
        let version = &about["version"];
        let name = match version["distribution"].as_str() {
            Some("opensearch") => "OpenSearch",
            _ => "Elasticsearch",
        };
        let number =
            version["number"].as_str().ok_or_else(|| self.failed("does not tell its version: is this the right port?"))?;
        Ok((name.to_owned(), number.to_owned()))
    }

    /// Every index that a pattern names, closed and hidden ones too; but of data streams that the server hides, such as those that
    /// it keeps for itself, only what a pattern without a star names, or one that means hidden names.
    pub fn indices(&self, pattern: &str) -> Result<Vec<Index>, SourceError> {
        let mut named = self.listed(pattern, "all")?;
        if pattern.contains('*') && named.iter().any(|index| is_of_stream(&index.name)) {
            let meant = self.listed(pattern, "open,closed")?;
            named.retain(|index| !is_of_stream(&index.name) || meant.iter().any(|meant| meant.name == index.name));
        }
        Ok(named)
    }

    fn listed(&self, pattern: &str, states: &str) -> Result<Vec<Index>, SourceError> {
        let path = format!("/_cat/indices/{}?format=json&h=index,status&expand_wildcards={states}&s=index", encode(pattern));
        let answer = self.http.ask(Method::GET, &path, None, self.work)?;
        if answer.status == 404 {
            return Ok(Vec::new());
        }
        if answer.status != 200 {
            return Err(self.failed(format!("GET {path}: status {}{}", answer.status, reason(&answer.body))));
        }
        let listed = answer.body.as_array().cloned().unwrap_or_default();
        let index = |entry: &Value| Index {
            name: entry["index"].as_str().unwrap_or_default().to_owned(),
            open: entry["status"].as_str() != Some("close"),
        };
        Ok(listed.iter().map(index).collect())
    }

    /// Counts by a search that reads every shard; one that fails is an error.
    pub fn counts(&self, indices: impl IntoIterator<Item = impl AsRef<str>>) -> Result<Counts, SourceError> {
        let mut counts = Counts::new();
        for name in indices {
            let name = name.as_ref();
            let path = encode(name);
            // A refresh would wait a minute for a shard that no node has.
            let health = format!("/_cluster/health/{path}?wait_for_status=yellow&timeout={SHARDS_WAIT}");
            if self.http.ask(Method::GET, &health, None, self.work)?.body["status"] == "red" {
                return Err(self.failed(format!("index {name:?} is red: shards of it are on no node")));
            }
            self.post(&format!("/{path}/_refresh"), &json!({}))?;
            let body = json!({ "size": 1, "track_total_hits": true, "query": { "match_all": {} } });
            let found = self.post(&format!("/{path}/_search?allow_partial_search_results=false"), &body)?;
            let failed = found["_shards"]["failed"].as_u64();
            let total = found["hits"]["total"]["value"].as_u64().or(found["hits"]["total"].as_u64());
            match (failed, total) {
                (Some(0), Some(total)) => _ = counts.insert(name.to_owned(), total),
                _ => return Err(self.failed(format!("index {name:?} cannot be searched as a whole"))),
            }
        }
        Ok(counts)
    }

    /// The settings of a repository; none when it is not registered.
    pub fn repository(&self, name: &str) -> Result<Option<Value>, SourceError> {
        let path = format!("/_snapshot/{}", encode(name));
        let answer = self.http.ask(Method::GET, &path, None, self.work)?;
        match answer.status {
            200 => Ok(Some(answer.body[name].clone())),
            404 => Ok(None),
            status => Err(self.failed(format!("GET {path}: status {status}{}", reason(&answer.body)))),
        }
    }

    /// What a snapshot is; none when the repository has none of this name.
    pub fn snapshot(&self, repository: &str, name: &str) -> Result<Option<Snapshot>, SourceError> {
        let path = format!("/_snapshot/{}/{}", encode(repository), encode(name));
        let answer = self.http.ask(Method::GET, &path, None, self.work)?;
        match answer.status {
            200 => Ok(answer.body["snapshots"].as_array().and_then(|all| all.first()).map(Snapshot::of)),
            404 => Ok(None),
            status => Err(self.failed(format!("GET {path}: status {status}{}", reason(&answer.body)))),
        }
    }

    /// Names of all snapshots of a repository.
    pub fn snapshots(&self, repository: &str) -> Result<Vec<Snapshot>, SourceError> {
        let all = self.get(&format!("/_snapshot/{}/_all", encode(repository)))?;
        Ok(all["snapshots"].as_array().into_iter().flatten().map(Snapshot::of).collect())
    }

    /// Waits until a snapshot is no longer being made.
    pub fn finished(&self, repository: &str, name: &str) -> Result<Snapshot, SourceError> {
        loop {
            match self.snapshot(repository, name)? {
                Some(snapshot) if snapshot.state == "IN_PROGRESS" => {
                    self.work.check()?;
                    std::thread::sleep(POLL_INTERVAL);
                }
                Some(snapshot) => return Ok(snapshot),
                None => return Err(self.failed(format!("snapshot {name} vanished while it was made"))),
            }
        }
    }

    /// Removes indices, each by its name: clusters may refuse wildcards.
    pub fn delete_indices(&self, names: &[String]) -> Result<(), SourceError> {
        for some in names.chunks(NAMES_PER_REQUEST) {
            let path: Vec<String> = some.iter().map(|name| encode(name)).collect();
            self.delete(&format!("/{}?ignore_unavailable=true", path.join(",")))?;
        }
        Ok(())
    }
}

/// Indices that belong to a data stream cannot be removed or renamed one by one.
const STREAM_PREFIX: &str = ".ds-";

fn is_of_stream(index: &str) -> bool {
    index.starts_with(STREAM_PREFIX)
}

/// Refuses what belongs to a data stream.
pub fn must_be_no_stream(cluster: &Cluster<'_>, indices: &[String]) -> Result<(), SourceError> {
    match indices.iter().find(|name| is_of_stream(name)) {
        Some(name) => {
            let why = format!(
                "{name:?} belongs to a data stream, which only the server's own tools back up and restore: name narrower patterns in \
                 `indices`"
            );
            Err(cluster.failed(why))
        }
        None => Ok(()),
    }
}

/// An index as the cluster lists it.
#[derive(Debug, Clone)]
pub struct Index {
    pub name: String,
    pub open: bool,
}

/// A snapshot in a repository.
#[derive(Debug, Clone)]
pub struct Snapshot {
    pub name: String,
    /// What its own file in the repository is called by.
    uuid: String,
    pub state: String,
    pub indices: Vec<String>,
    pub started_ms: u64,
    shards: (Option<u64>, Option<u64>, Option<u64>),
    reason: String,
}

impl Snapshot {
    fn of(value: &Value) -> Self {
        let text = |key: &str| value[key].as_str().unwrap_or_default().to_owned();
        let shards = &value["shards"];
        let mut indices: Vec<String> =
            value["indices"].as_array().into_iter().flatten().filter_map(|name| name.as_str().map(str::to_owned)).collect();
        indices.sort();
        Self {
            name: text("snapshot"),
            uuid: text("uuid"),
            state: text("state"),
            indices,
            started_ms: value["start_time_in_millis"].as_u64().unwrap_or(0),
            shards: (shards["total"].as_u64(), shards["failed"].as_u64(), shards["successful"].as_u64()),
            reason: text("reason"),
        }
    }

    /// The file that describes it, at the top of the repository.
    pub fn file(&self) -> String {
        format!("snap-{}.dat", self.uuid)
    }

    /// Whether it holds all that it should: the only one that counts.
    pub fn must_be_whole(&self) -> Result<(), String> {
        let name = &self.name;
        match self.shards {
            _ if self.state != "SUCCESS" => Err(format!("snapshot {name} is {}: {}", self.state, self.reason)),
            (Some(total), Some(0), Some(successful)) if total > 0 && total == successful && !self.indices.is_empty() => {
                Ok(())
            }
            (total, failed, _) => {
                let shown = |n: Option<u64>| n.map_or("an unknown number of".into(), |n| n.to_string());
                Err(format!("snapshot {name}: {} of {} shards failed", shown(failed), shown(total)))
            }
        }
    }
}

/// A name within an address: patterns keep their stars and commas.
pub fn encode(text: &str) -> String {
    let mut out = String::new();
    for byte in text.bytes() {
        match byte {
            b'a'..=b'z' | b'A'..=b'Z' | b'0'..=b'9' | b'-' | b'_' | b'.' | b'*' | b',' => out.push(char::from(byte)),
            _ => out.push_str(&format!("%{byte:02X}")),
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    fn snapshot(state: &str, total: u64, failed: u64, indices: &[&str]) -> Snapshot {
        let shards = json!({ "total": total, "failed": failed, "successful": total - failed });
        Snapshot::of(&json!({ "snapshot": "s", "state": state, "shards": shards, "indices": indices }))
    }

    #[test]
    fn only_a_whole_snapshot_counts() {
        assert!(snapshot("SUCCESS", 4, 0, &["a"]).must_be_whole().is_ok());
        assert!(snapshot("PARTIAL", 4, 1, &["a"]).must_be_whole().is_err());
        assert!(snapshot("SUCCESS", 4, 1, &["a"]).must_be_whole().is_err());
        assert!(snapshot("SUCCESS", 0, 0, &[]).must_be_whole().is_err());
        assert!(Snapshot::of(&json!({ "state": "SUCCESS" })).must_be_whole().is_err());
    }

    #[test]
    fn names_cannot_leave_their_place_in_an_address() {
        assert_eq!(encode("ocrvs-*,events_1"), "ocrvs-*,events_1");
        assert_eq!(encode("a/../b?x=#"), "a%2F..%2Fb%3Fx%3D%23");
    }
}
