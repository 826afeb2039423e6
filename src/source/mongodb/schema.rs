//! What a database consists of: its collections and views with their options and indexes.

use bson::{Bson, Document, doc};

use super::archive::Collection;
use super::client::Deployment;
use super::load::must_not_be_half_restored;
use super::metadata::Metadata;
use crate::source::SourceError;

/// Reads it, in the order of names, so that two backups of the same database begin alike.
///
/// # Errors
/// When the server does not tell, or the database holds what cannot be backed up.
pub fn read(deployment: &Deployment) -> Result<Vec<Collection>, SourceError> {
    let database = deployment.database.name().to_owned();
    let mut collections = Vec::new();
    let all = list(deployment)?;
    must_not_be_half_restored(all.iter().map(|listed| listed.name.as_str())).map_err(|why| deployment.failed(why))?;
    for listed in all {
        if listed.kind == "timeseries" {
            let why = format!(
                "collection {:?} is a time series, which only mongodump can back up (kind = \"command\")",
                listed.name
            );
            return Err(deployment.failed(why));
        }
        let indexes = match listed.kind.as_str() {
            "view" => Vec::new(),
            _ => deployment.list(doc! { "listIndexes": listed.name.as_str() })?,
        };
        let indexes = indexes.into_iter().map(without_namespace).collect();
        let metadata = Metadata {
            options: listed.options,
            indexes,
            uuid: listed.uuid,
            name: listed.name.clone(),
            kind: listed.kind.clone(),
        };
        let metadata = metadata.to_json();
        collections.push(Collection { database: database.clone(), name: listed.name, kind: listed.kind, metadata });
    }
    Ok(collections)
}

/// A collection as the server lists it.
pub struct Listed {
    /// Its name.
    pub name: String,
    /// `collection`, `view` or `timeseries`.
    pub kind: String,
    options: Document,
    uuid: String,
}

/// Every collection and view but for the server's own, by name.
///
/// # Errors
/// When the server does not tell.
pub fn list(deployment: &Deployment) -> Result<Vec<Listed>, SourceError> {
    let mut all = Vec::new();
    for entry in deployment.list(doc! { "listCollections": 1 })? {
        let name = entry.get_str("name").unwrap_or_default().to_owned();
        // Views and buckets come back with what they belong to; stored functions are the user's.
        if name.is_empty() || (name.starts_with("system.") && name != "system.js") {
            continue;
        }
        let uuid = match entry.get_document("info").ok().and_then(|info| info.get("uuid")) {
            Some(Bson::Binary(uuid)) => uuid.bytes.iter().map(|byte| format!("{byte:02x}")).collect(),
            _ => String::new(),
        };
        let kind = entry.get_str("type").unwrap_or("collection").to_owned();
        let options = entry.get_document("options").cloned().unwrap_or_default();
        all.push(Listed { name, kind, options, uuid });
    }
    all.sort_by(|a, b| a.name.cmp(&b.name));
    Ok(all)
}

/// Servers before 4.4 repeat the namespace in each index, and later ones refuse it.
#[must_use]
pub fn without_namespace(mut index: Document) -> Document {
    index.remove("ns");
    index
}
