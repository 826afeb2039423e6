//! What `influxd backup -portable` leaves: a list in JSON, the metastore, and one gzipped tar a shard.

use std::collections::BTreeSet;
use std::path::Path;

use serde::Deserialize;

use crate::source::SourceError;

/// The list is read up to here: a thousand shards are some 200 KiB.
pub const MANIFEST_MAX_BYTES: u64 = 64 * 1024 * 1024;

/// The list of what belongs to a backup.
#[derive(Debug, Clone, Deserialize)]
pub struct Manifest {
    /// The metastore.
    pub meta: MetaFile,
    /// The shards; null where there is none.
    #[serde(default)]
    files: Option<Vec<ShardFile>>,
}

/// The metastore's file.
#[derive(Debug, Clone, Deserialize)]
pub struct MetaFile {
    /// Its name.
    #[serde(rename = "fileName")]
    pub file_name: String,
}

/// A shard's file.
#[derive(Debug, Clone, Deserialize)]
pub struct ShardFile {
    /// The database.
    pub database: String,
    /// Its number.
    #[serde(rename = "shardID")]
    pub shard: u64,
    /// Its name.
    #[serde(rename = "fileName")]
    pub file_name: String,
    /// The length of the tar within.
    pub size: u64,
}

impl ShardFile {
    /// What its part is called: the file's own name begins with a time stamp, so that every night would seem new.
    pub fn part(&self) -> String {
        format!("shards/{:012}.tar", self.shard)
    }
}

/// What a backup must hold.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Expected {
    Shards,
    /// The server itself knows of no shard.
    NoShard,
}

impl Manifest {
    /// Reads and judges it: it must hold shards, each once, of one database, under plain names; or none where none are.
    pub fn parse(bytes: &[u8], database: &str, expected: Expected) -> Result<Self, String> {
        let manifest: Self = serde_json::from_slice(bytes).map_err(|e| format!("the manifest cannot be read: {e}"))?;
        let mut seen = BTreeSet::new();
        let mut names = BTreeSet::from([manifest.meta.file_name.as_str()]);
        must_be_plain(&manifest.meta.file_name)?;
        for file in manifest.shards() {
            must_be_plain(&file.file_name)?;
            if file.database != database {
                return Err(format!("the backup holds database {:?} and not {database:?}", file.database));
            }
            if !seen.insert(file.shard) || !names.insert(&file.file_name) {
                return Err(format!("the manifest names shard {} twice", file.shard));
            }
        }
        match (seen.is_empty(), expected) {
            (true, Expected::Shards) => Err("the backup holds no shard, and the database does".into()),
            (false, Expected::NoShard) => Err("the backup holds shards of a database without any".into()),
            _ => Ok(manifest),
        }
    }

    /// The shards.
    pub fn shards(&self) -> &[ShardFile] {
        self.files.as_deref().unwrap_or_default()
    }
}

/// Names become paths.
fn must_be_plain(name: &str) -> Result<(), String> {
    let plain =
        !name.is_empty() && !name.starts_with('.') && name.bytes().all(|b| b.is_ascii_alphanumeric() || b".-_".contains(&b));
    if plain { Ok(()) } else { Err(format!("the manifest names a file {name:?}")) }
}

/// The one manifest of a backup's directory.
pub fn find(dir: &Path) -> Result<(String, Vec<u8>), SourceError> {
    let wrong = |why: String| SourceError::Expectation { what: dir.display().to_string(), why };
    let io = |source| SourceError::Io { path: dir.display().to_string(), source };
    let mut found = Vec::new();
    for entry in std::fs::read_dir(dir).map_err(io)? {
        let name = entry.map_err(io)?.file_name().to_string_lossy().into_owned();
        if name.ends_with(".manifest") {
            found.push(name);
        }
    }
    match found.as_slice() {
        [name] => Ok((name.clone(), std::fs::read(dir.join(name)).map_err(io)?)),
        [] => Err(wrong("influxd left no manifest".into())),
        _ => Err(wrong("influxd left several manifests".into())),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(files: &str) -> Result<usize, String> {
        let text = format!(r#"{{"meta":{{"fileName":"20200101T000000Z.meta","size":5}},"limited":false,"files":{files}}}"#);
        let parsed = Manifest::parse(text.as_bytes(), "ocrvs", Expected::Shards);
        let of_nothing = Manifest::parse(text.as_bytes(), "ocrvs", Expected::NoShard);
        assert_eq!(of_nothing.is_ok(), files == "null" || files == "[]", "{files}");
        parsed.map(|m| m.shards().len())
    }

    #[test]
    fn a_manifest_without_whole_shards_is_no_backup() {
        let shard = r#"{"database":"ocrvs","policy":"autogen","shardID":7,"fileName":"20200101T000000Z.s7.tar.gz","size":9,"lastModified":0}"#;
        assert_eq!(parse(&format!("[{shard}]")), Ok(1));
        for bad in [
            "null".into(),
            "[]".into(),
            format!("[{shard},{shard}]"),
            shard.replace("ocrvs", "other"),
            format!("[{}]", shard.replace("ocrvs", "x")),
        ] {
            assert!(parse(&bad).is_err(), "{bad}");
        }
        for name in ["../../etc/passwd", "", ".x", "a/b", "a b"] {
            assert!(parse(&format!("[{}]", shard.replace("20200101T000000Z.s7.tar.gz", name))).is_err(), "{name}");
        }
        assert!(Manifest::parse(b"{", "ocrvs", Expected::Shards).is_err());
    }
}
