//! An archive into a database: everything under new names first, then the names are changed. Until then the old
//! collections stand untouched; what the archive does not hold goes last.

use std::collections::BTreeSet;
use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};

use bson::{Document, RawDocumentBuf, doc};

use super::archive::{ArchiveError, Collection, Item, Prelude, Reader};
use super::client::Deployment;
use super::metadata::Metadata;
use super::{open_archive, restorable, schema, tally};
use crate::source::SourceError;

/// Before the name of a collection that is still being filled.
pub const NEW: &str = "farkeep_new_";
/// Documents of one insert: the driver splits what the server would refuse.
const BATCH_DOCUMENTS: usize = 2000;
/// Bytes of one insert.
const BATCH_BYTES: usize = 8 * 1024 * 1024;

/// Loads the archive at `path` and lets it take the place of all that the database holds.
pub fn load(deployment: &Deployment, path: &Path, abandoned: &AtomicBool) -> Result<(), SourceError> {
    let loader = Loader { deployment, abandoned };
    loader.remove_what_begins_with_new()?;
    let mut reader = Reader::open(open_archive(path)?).map_err(|e| of_archive(path, e))?;
    let described = described(path, reader.prelude())?;
    for (collection, metadata) in described.iter().filter(|(c, _)| c.kind != "view") {
        loader.create(&format!("{NEW}{}", collection.name), &metadata.options)?;
    }
    let collections = reader.prelude().collections.clone();
    let counts = loader.fill(&mut reader, path, &collections)?;
    for ((collection, metadata), count) in described.iter().zip(counts).filter(|((c, _), _)| c.kind != "view") {
        loader.index(&collection.name, metadata)?;
        loader.must_hold(&collection.name, count)?;
    }
    loader.swap(&described)
}

/// Makes room for another program that loads the archive at `path` under new names; gives the database it is of.
pub fn clear(deployment: &Deployment, path: &Path, abandoned: &AtomicBool) -> Result<String, SourceError> {
    Loader { deployment, abandoned }.remove_what_begins_with_new()?;
    let reader = Reader::open(open_archive(path)?).map_err(|e| of_archive(path, e))?;
    restorable(reader.prelude()).map(str::to_owned).map_err(|why| of_archive(path, ArchiveError::Damaged(why)))
}

/// Lets what another program loaded take the place of all that the database holds, when it is as the archive says.
pub fn take_over(deployment: &Deployment, path: &Path, abandoned: &AtomicBool) -> Result<(), SourceError> {
    let loader = Loader { deployment, abandoned };
    let (prelude, tallies) = tally::of_archive(open_archive(path)?).map_err(|e| of_archive(path, e))?;
    for (name, tally) in &tallies {
        loader.must_hold(name, tally.documents)?;
    }
    loader.swap(&described(path, &prelude)?)
}

fn described(path: &Path, prelude: &Prelude) -> Result<Vec<Described>, SourceError> {
    let read = |collection: &Collection| {
        let metadata = Metadata::from_json(&collection.metadata);
        metadata.map(|m| (collection.clone(), m)).map_err(|e| of_archive(path, ArchiveError::Damaged(e)))
    };
    prelude.collections.iter().map(read).collect()
}

fn of_archive(path: &Path, error: ArchiveError) -> SourceError {
    SourceError::Expectation { what: path.display().to_string(), why: error.to_string() }
}

/// A collection or view, and its description as it was read.
type Described = (Collection, Metadata);

struct Loader<'a> {
    deployment: &'a Deployment,
    abandoned: &'a AtomicBool,
}

impl Loader<'_> {
    fn go_on(&self) -> Result<(), SourceError> {
        if self.abandoned.load(Ordering::Acquire) { Err(SourceError::Interrupted) } else { Ok(()) }
    }

    /// Leftovers of a restore that broke off.
    fn remove_what_begins_with_new(&self) -> Result<(), SourceError> {
        for listed in schema::list(self.deployment)? {
            if listed.name.starts_with(NEW) {
                self.drop(&listed.name)?;
            }
        }
        Ok(())
    }

    fn drop(&self, name: &str) -> Result<(), SourceError> {
        self.go_on()?;
        self.deployment.command(doc! { "drop": name }).map(|_| ())
    }

    fn create(&self, name: &str, options: &Document) -> Result<(), SourceError> {
        self.go_on()?;
        let mut command = doc! { "create": name };
        // The server makes the index on _id by itself.
        command.extend(
            options.clone().into_iter().filter(|(key, _)| key != "uuid" && key != "autoIndexId" && key != "idIndex"),
        );
        self.deployment.command(command).map(|_| ())
    }

    /// Writes every document; gives how many each collection got.
    fn fill(
        &self,
        reader: &mut Reader<impl std::io::Read>,
        path: &Path,
        collections: &[Collection],
    ) -> Result<Vec<u64>, SourceError> {
        let mut counts = vec![0; collections.len()];
        let mut batch = Batch::default();
        loop {
            match reader.next_item().map_err(|e| of_archive(path, e))? {
                Some(Item::Document(place, bytes)) => {
                    if batch.place != place || batch.is_full() {
                        self.insert(&mut batch, collections)?;
                        batch.place = place;
                    }
                    let document = RawDocumentBuf::from_bytes(bytes.to_vec());
                    let document = document.map_err(|e| of_archive(path, ArchiveError::Damaged(e.to_string())))?;
                    batch.bytes += bytes.len();
                    batch.documents.push(document);
                    counts[place] += 1;
                }
                Some(Item::End(_)) => {}
                None => break,
            }
        }
        self.insert(&mut batch, collections)?;
        Ok(counts)
    }

    fn insert(&self, batch: &mut Batch, collections: &[Collection]) -> Result<(), SourceError> {
        self.go_on()?;
        let documents = std::mem::take(&mut batch.documents);
        batch.bytes = 0;
        if documents.is_empty() {
            return Ok(());
        }
        let name = format!("{NEW}{}", collections[batch.place].name);
        let inserted = self.deployment.database.collection::<RawDocumentBuf>(&name).insert_many(&documents).run();
        inserted.map(|_| ()).map_err(|e| self.deployment.error(&e))
    }

    fn index(&self, name: &str, metadata: &Metadata) -> Result<(), SourceError> {
        self.go_on()?;
        let is_own = |index: &&Document| index.get_str("name").ok() != Some("_id_");
        let indexes: Vec<Document> = metadata.indexes.iter().filter(is_own).map(as_asked_for).collect();
        if indexes.is_empty() {
            return Ok(());
        }
        self.deployment.command(doc! { "createIndexes": format!("{NEW}{name}"), "indexes": indexes }).map(|_| ())
    }

    fn must_hold(&self, name: &str, count: u64) -> Result<(), SourceError> {
        self.go_on()?;
        let collection = self.deployment.database.collection::<RawDocumentBuf>(&format!("{NEW}{name}"));
        let there = collection.count_documents(doc! {}).run().map_err(|e| self.deployment.error(&e))?;
        if there == count {
            return Ok(());
        }
        let why = format!("collection {name:?} took {there} of {count} documents; the old collections still stand");
        Err(self.deployment.failed(why))
    }

    /// The destructive part.
    fn swap(&self, all: &[Described]) -> Result<(), SourceError> {
        let kept: BTreeSet<&str> = all.iter().filter(|(c, _)| c.kind != "view").map(|(c, _)| c.name.as_str()).collect();
        let listed = schema::list(self.deployment)?;
        for old in listed.iter().filter(|old| old.kind == "view") {
            self.drop(&old.name)?;
        }
        for name in &kept {
            self.rename(name, listed.iter().any(|old| old.name == *name && old.kind != "view"))?;
        }
        for old in listed.iter().filter(|old| old.kind != "view" && !old.name.starts_with(NEW)) {
            if !kept.contains(old.name.as_str()) {
                self.drop(&old.name)?;
            }
        }
        for (view, metadata) in all.iter().filter(|(c, _)| c.kind == "view") {
            self.create(&view.name, &metadata.options)?;
        }
        Ok(())
    }

    fn rename(&self, name: &str, taken: bool) -> Result<(), SourceError> {
        self.go_on()?;
        let database = self.deployment.database.name();
        let command = |drop_target: bool| {
            let mut command = doc! {
                "renameCollection": format!("{database}.{NEW}{name}"), "to": format!("{database}.{name}"),
            };
            if drop_target {
                command.insert("dropTarget", true);
            }
            command
        };
        match self.deployment.admin_command(command(taken)) {
            // A server that cannot do both in one step.
            Err(_) if taken => {
                self.drop(name)?;
                self.deployment.admin_command(command(false)).map(|_| ())
            }
            outcome => outcome.map(|_| ()),
        }
    }
}

/// An index as a server wants to be asked for it: its namespace is the collection's, its version the server's own.
fn as_asked_for(index: &Document) -> Document {
    let mut index = schema::without_namespace(index.clone());
    index.remove("v");
    index
}

#[derive(Default)]
struct Batch {
    place: usize,
    documents: Vec<RawDocumentBuf>,
    bytes: usize,
}

impl Batch {
    fn is_full(&self) -> bool {
        self.documents.len() >= BATCH_DOCUMENTS || self.bytes >= BATCH_BYTES
    }
}
